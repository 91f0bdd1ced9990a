//! QUIC (RFC 9000, version 2 of RFC 9369, drafts from the 23rd on): the hellos in Initial packets, whose
//! protection (RFC 9001) everybody can remove who sees the client's first. Of Google's versions before, the
//! hellos of the client.
//!
//! A worker pushes the datagrams of both directions into the flow's [`Connection`], which gives out each
//! [`Hello`] as soon as all of its CRYPTO frames have come, in whatever order and packets; a datagram may
//! hold several packets. The worker copies the hello's body into a batch, and whoever writes the record
//! makes an [`Event`] of it. Nothing is kept or decrypted of other packets: 0-RTT, Handshake and 1-RTT
//! have keys that only the two sides know.
//!
//! A hello that a client sends once more since the server asked for that by a Retry is given out again.

mod connection;
mod eve;
mod frames;
mod google;
mod keys;
mod packet;
#[cfg(test)]
mod tests;
mod version;

pub use connection::{Connection, Hello};
pub use eve::Event;
pub use frames::MAX_CRYPTO;
pub use packet::{probe, probe_version};
pub use version::Version;
