//! Fingerprints of hellos: JA3 and JA3S (salesforce/ja3) and JA4 of the client (`FoxIO`, its part that is
//! under the BSD licence), in the forms that Suricata gives them.

use std::fmt::Write as _;

use md5::Md5;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::hello::{ClientHello, Extensions, ServerHello, Version, extension};

/// JA3 or JA3S: the string and its MD5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ja3 {
    /// MD5 of the string, in hexadecimal.
    pub hash: String,
    /// Numbers in decimal: fields separated by commas, values by hyphens.
    pub string: String,
}

impl Ja3 {
    fn new(string: String) -> Self {
        Self { hash: hex(&Md5::digest(&string)), string }
    }

    /// The fingerprint of a client.
    #[must_use]
    pub fn client(hello: &ClientHello<'_>) -> Self {
        let extensions = hello.extensions;
        let formats = extensions.point_formats().iter().copied().map(u16::from);
        Self::new(format!(
            "{},{},{},{},{}",
            hello.version,
            joined(meant(hello.ciphers())),
            joined(kinds(extensions)),
            joined(meant(extensions.groups())),
            joined(formats),
        ))
    }

    /// The fingerprint of a server.
    #[must_use]
    pub fn server(hello: &ServerHello<'_>) -> Self {
        Self::new(format!("{},{},{}", hello.version, hello.cipher, joined(kinds(hello.extensions))))
    }
}

/// What a client hello came in; the first letter of its JA4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A TCP connection.
    Tcp,
    /// QUIC.
    Quic,
}

/// The JA4 of a client.
#[must_use]
pub fn ja4(hello: &ClientHello<'_>, carrier: Carrier) -> String {
    const MOST: usize = 99;
    let extensions = hello.extensions;
    let mut ciphers: Vec<_> = meant(hello.ciphers()).collect();
    ciphers.sort_unstable();
    let mut kinds: Vec<_> = kinds(extensions).collect();
    let count = kinds.len();
    let named = kinds.contains(&extension::SERVER_NAME);
    kinds.retain(|kind| !matches!(*kind, extension::SERVER_NAME | extension::ALPN));
    kinds.sort_unstable();
    let known = extensions.supported_versions().filter(|&version| Version(version).is_known());
    let newest = known.fold(hello.version, u16::max);
    let [first, last] = match extensions.application_protocols().next() {
        Some([a, b]) if !is_meant(u16::from_be_bytes([*a, *b])) => ['0', '0'],
        Some([first, .., last]) => [first, last].map(|byte| char::from(*byte)),
        _ => ['0', '0'],
    };
    let algorithms = meant(extensions.signature_algorithms());
    format!(
        "{}{}{}{:02}{:02}{first}{last}_{}_{}",
        match carrier {
            Carrier::Tcp => 't',
            Carrier::Quic => 'q',
        },
        match newest {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            _ => "00",
        },
        if named { 'd' } else { 'i' },
        ciphers.len().min(MOST),
        count.min(MOST),
        short_hash(&hex_list(ciphers)),
        short_hash(&format!("{}_{}", hex_list(kinds), hex_list(algorithms))),
    )
}

/// Whether a value means something. Those that are reserved do not (GREASE, RFC 8701): they are drawn anew
/// for each connection, so fingerprints leave them out.
const fn is_meant(value: u16) -> bool {
    !(value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff)
}

/// The values that [mean something](is_meant).
pub(in crate::protocol) fn meant(values: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    values.filter(|&value| is_meant(value))
}

/// The types of the extensions, those without a meaning left out.
pub(in crate::protocol) fn kinds(extensions: Extensions<'_>) -> impl Iterator<Item = u16> {
    meant(extensions.into_iter().map(|(kind, _)| kind))
}

/// Values in decimal, separated by hyphens.
fn joined(values: impl Iterator<Item = u16>) -> String {
    let mut text = String::new();
    for value in values {
        let hyphen = if text.is_empty() { "" } else { "-" };
        let _ = write!(text, "{hyphen}{value}");
    }
    text
}

/// Values in four hexadecimal digits each, separated by commas.
fn hex_list(values: impl IntoIterator<Item = u16>) -> String {
    let mut text = String::new();
    for value in values {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{value:04x}");
    }
    text
}

/// The first twelve digits of the SHA-256.
fn short_hash(text: &str) -> String {
    let mut hash = hex(&Sha256::digest(text));
    hash.truncate(12);
    hash
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
