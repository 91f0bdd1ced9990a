//! TLS 1.0 to 1.3 (RFC 8446 and those before), SSL 3.0, and the hello of SSL 2.0 that asks for them: the
//! part of the handshake that is not encrypted, and what EVE records say of it.
//!
//! A worker pushes the bytes of each direction into the connection's [`Handshake`], which goes through the
//! record layer and keeps the hellos and the first certificate of each side, whatever records and segments
//! they are cut into. When the handshake is [complete](Progress::Complete), or the connection ends, it
//! copies the [parts](Messages::parts) of the [`Messages`] into a batch and remembers their [`Outline`].
//! Whoever writes the record makes an [`Event`] of them: parsing certificates, hashing fingerprints and
//! rendering names is nothing for the packet path.
//!
//! Hellos are read by the project's own code. Of 151 hellos of real captures that it reads, tls-parser 0.12
//! refused 3, for it reads server hellos of the versions that it knows, and not of drafts and experiments. It
//! took 503 ns a hello, as it decodes and copies everything, while finding the extensions takes 12 ns here:
//! a worker wants to know no more than the version. Cipher suites have their names from it; certificates are
//! x509-parser's work, as they are in Suricata.

mod certificate;
mod eve;
mod fingerprint;
mod handshake;
mod hello;
#[cfg(test)]
mod tests;

pub use certificate::Certificate;
pub use eve::Event;
pub use fingerprint::write_ja4;
pub use fingerprint::{Carrier, Ja3, ja4};
pub(super) use fingerprint::{kinds, meant};
pub use handshake::{Handshake, MAX_CERTIFICATE, MAX_HELLO, Malformed, Messages, Outline, Progress};
pub(super) use hello::extension;
pub use hello::{ClientHello, ExtensionIter, Extensions, ServerHello, Version};

/// Whether bytes begin with a record that begins with a client hello. What a flow of another protocol
/// goes on with after it agreed on TLS (STARTTLS, CONNECT) can be told by that; other protocols do not
/// begin so by chance.
#[must_use]
pub fn begins_with_client_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, 0..=4, high, low, 1, 0, _, _, 3, ..] if (*high, *low) > (0, 4))
}
