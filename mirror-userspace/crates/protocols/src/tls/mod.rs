//! TLS 1.0 to 1.3 (RFC 8446 and its predecessors), SSL 3.0, and the hello of SSL 2.0 that asks for them: the
//! unencrypted part of the handshake, and its EVE records.
//!
//! A worker pushes the bytes of each direction into the connection's [`Handshake`]. It parses the record
//! layer and stores the hellos and the first certificate of each side, whatever records and segments they are
//! split into. When the handshake is [complete](Progress::Complete), or the connection ends, the worker
//! copies the [parts](Messages::parts) of the [`Messages`] into a batch, with their [`Outline`]. The sink
//! turns them into an [`Event`]: parsing certificates, hashing fingerprints and rendering names are too slow
//! for the packet path.
//!
//! The project's own code parses hellos. Of 151 hellos of real captures that it accepts, tls-parser 0.12
//! rejected 3, since it parses server hellos only of the versions that it knows, not of drafts and
//! experiments. It took 503 ns per hello, as it decodes and copies everything, while finding the extensions
//! takes 12 ns here: a worker needs no more than the version. x509-parser
//! parses certificates, as in Suricata.

mod certificate;
mod eve;
mod event;
mod fingerprint;
mod handshake;
mod hello;
mod names;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, alternative_names};
pub use eve::Event;
pub use event::HandshakeEvent;
pub use fingerprint::write_ja4;
pub use fingerprint::{Carrier, Ja3, ja4};
pub(super) use fingerprint::{kinds, meant};
pub use handshake::{Alert, Handshake, MAX_CERTIFICATE, MAX_HELLO, Malformed, Messages, Outline, Progress};
pub(super) use hello::extension;
pub use hello::{ClientHello, ExtensionIter, Extensions, ServerHello, Version};
pub(super) use names::version as version_name;
