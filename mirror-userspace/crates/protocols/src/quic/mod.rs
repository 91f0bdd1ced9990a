//! QUIC (RFC 9000, version 2 of RFC 9369, drafts from the 22nd on): the hellos in Initial packets. Every
//! observer of the client's first packet can remove their protection (RFC 9001). Of Google's earlier
//! versions, only the client hellos are read.
//!
//! A worker pushes the datagrams of both directions into the flow's [`Connection`]. It returns each [`Hello`]
//! as soon as all of its CRYPTO frames have come, in any order and in any packets; a datagram may hold
//! several packets. The worker copies the hello's body into a batch, and the sink turns it into an [`Event`].
//! Other packets are neither stored nor decrypted: only the two sides have the keys of 0-RTT, Handshake and
//! 1-RTT packets.
//!
//! If a client repeats its hello because of a Retry, that hello is returned again.

mod connection;
mod eve;
mod event;
mod frames;
mod google;
mod hkdf;
mod keys;
mod packet;
#[cfg(test)]
mod tests;
mod version;

pub use connection::{Buffer, Connection, Hello};
pub use eve::Event;
pub use event::HelloEvent;
pub use frames::MAX_CRYPTO;
pub use packet::{probe, probe_initial, probe_version};
pub use version::Version;
