//! Fingerprints of hellos: JA3 and JA3S (salesforce/ja3) and JA4 of the client (`FoxIO`, the part under the
//! BSD licence), in Suricata's forms.

use std::fmt::{self, Write};

use md5::Md5;
use mirror_packet::text::{Text, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::hello::{ClientHello, Extensions, ServerHello, extension};

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

    /// Returns the fingerprint of a client.
    #[must_use]
    pub fn client(hello: &ClientHello<'_>) -> Self {
        let mut string = String::with_capacity(JA3_LEN);
        // Writing to a string cannot fail.
        let _ = write_ja3(&mut string, hello);
        Self::new(string)
    }

    /// Returns the hash of [`Ja3::client`] alone. Does not allocate.
    #[must_use]
    pub fn client_digest(hello: &ClientHello<'_>) -> [u8; 16] {
        let mut digest = Hashing::<Md5>::new();
        // Hashing cannot fail either.
        let _ = write_ja3(&mut digest, hello);
        digest.finish().into()
    }

    /// Returns the fingerprint of a server.
    #[must_use]
    pub fn server(hello: &ServerHello<'_>) -> Self {
        let mut string = String::new();
        for value in [hello.version, hello.cipher] {
            let _ = write_number(&mut string, value);
            string.push(',');
        }
        let _ = write_joined(&mut string, kinds(hello.extensions));
        Self::new(string)
    }
}

/// Writes the text whose hash is a client's JA3.
fn write_ja3(out: &mut impl Write, hello: &ClientHello<'_>) -> fmt::Result {
    let extensions = hello.extensions;
    write_number(out, hello.version)?;
    out.write_char(',')?;
    write_joined(out, meant(hello.ciphers()))?;
    out.write_char(',')?;
    write_joined(out, kinds(extensions))?;
    out.write_char(',')?;
    write_joined(out, meant(extensions.groups()))?;
    out.write_char(',')?;
    write_joined(out, extensions.point_formats().iter().copied().map(u16::from))
}

/// A writer that hashes its text. Texts of a few bytes are collected, since each call of a digest costs more than
/// their hash.
struct Hashing<D> {
    digest: D,
    text: [u8; 256],
    len: usize,
}

impl<D: Digest> Hashing<D> {
    fn new() -> Self {
        Self { digest: D::new(), text: [0; 256], len: 0 }
    }

    fn flush(&mut self) {
        self.digest.update(self.text.get(..self.len).unwrap_or_default());
        self.len = 0;
    }

    fn finish(mut self) -> sha2::digest::Output<D> {
        self.flush();
        self.digest.finalize()
    }
}

impl<D: Digest> Write for Hashing<D> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.len + text.len() > self.text.len() {
            self.flush();
        }
        match self.text.get_mut(self.len..self.len + text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                self.len += text.len();
            }
            None => self.digest.update(text),
        }
        Ok(())
    }
}

/// The carrier of a client hello; the first letter of its JA4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A TCP connection.
    Tcp,
    /// QUIC.
    Quic,
}

/// Usual length of a JA3's text, in characters.
const JA3_LEN: usize = 256;
/// Usual length of a JA4, in characters.
const JA4_LEN: usize = 36;

/// Returns the JA4 of a client.
#[must_use]
pub fn ja4(hello: &ClientHello<'_>, carrier: Carrier) -> String {
    let mut text = String::with_capacity(JA4_LEN);
    // Writing to a string cannot fail.
    let _ = write_ja4(&mut text, &mut Vec::with_capacity(32), hello, carrier);
    text
}

/// Writes the JA4 of a client, as its
/// [specification](https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md) says. `values` is memory for
/// sorting.
pub fn write_ja4(
    out: &mut impl Write,
    values: &mut Vec<u16>,
    hello: &ClientHello<'_>,
    carrier: Carrier,
) -> fmt::Result {
    const MOST: usize = 99;
    let extensions = hello.extensions;
    let named = kinds(extensions).any(|kind| kind == extension::SERVER_NAME);
    let newest = meant(extensions.supported_versions()).max().unwrap_or(hello.version);
    let mut text = Text::<11>::new();
    text.byte(match carrier {
        Carrier::Tcp => b't',
        Carrier::Quic => b'q',
    });
    text.bytes(match newest {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        _ => b"00",
    });
    text.byte(if named { b'd' } else { b'i' });
    text.digits(meant(hello.ciphers()).count().min(MOST) as u32, 2);
    text.digits(kinds(extensions).count().min(MOST) as u32, 2);
    text.bytes(&ends(extensions));
    text.byte(b'_');
    out.write_str(text.as_str())?;
    let mut hash = Hashing::<Sha256>::new();
    if write_sorted(&mut hash, values, meant(hello.ciphers()))? {
        write_short(out, hash)?;
    } else {
        out.write_str(NONE)?;
    }
    out.write_char('_')?;
    let mut hash = Hashing::<Sha256>::new();
    let others = kinds(extensions).filter(|kind| !matches!(*kind, extension::SERVER_NAME | extension::ALPN));
    if !write_sorted(&mut hash, values, others)? {
        return out.write_str(NONE);
    }
    let mut algorithms = meant(extensions.signature_algorithms()).peekable();
    if algorithms.peek().is_some() {
        hash.write_char('_')?;
        write_hex_list(&mut hash, algorithms)?;
    }
    write_short(out, hash)
}

/// Stands for the hash of an empty list in JA4.
const NONE: &str = "000000000000";

/// Returns the ends of the first application protocol that is not reserved, for JA4: the first and the last byte if
/// they are letters or digits, else the first and the last hexadecimal digit.
fn ends(extensions: Extensions<'_>) -> [u8; 2] {
    let is_reserved = |name: &[u8]| matches!(*name, [a, b] if !is_meant(u16::from_be_bytes([a, b])));
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    match extensions.application_protocols().find(|name| !is_reserved(name)) {
        Some(name @ [first, ..]) => {
            let last = name.last().unwrap_or(first);
            if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
                [*first, *last]
            } else {
                [digit(first >> 4), digit(last & 0xf)]
            }
        }
        Some([]) | None => *b"00",
    }
}

/// Returns true if a value is not reserved (GREASE, RFC 8701). Reserved values are chosen anew for each
/// connection, so fingerprints leave them out.
const fn is_meant(value: u16) -> bool {
    !(value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff)
}

/// Returns the values that are [not reserved](is_meant).
pub(crate) fn meant(values: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    values.filter(|&value| is_meant(value))
}

/// Returns the types of the extensions, without reserved ones.
pub(crate) fn kinds(extensions: Extensions<'_>) -> impl Iterator<Item = u16> {
    meant(extensions.into_iter().map(|(kind, _)| kind))
}

/// Writes a value in decimal.
fn write_number(out: &mut impl Write, value: u16) -> fmt::Result {
    out.write_str(itoa::Buffer::new().format(value))
}

/// Writes values in decimal, separated by hyphens.
fn write_joined(out: &mut impl Write, values: impl Iterator<Item = u16>) -> fmt::Result {
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.write_char('-')?;
        }
        write_number(out, value)?;
    }
    Ok(())
}

/// Writes values in ascending order, as [`write_hex_list`] does. Returns false if there are none.
fn write_sorted(
    out: &mut impl Write,
    memory: &mut Vec<u16>,
    values: impl Iterator<Item = u16>,
) -> Result<bool, fmt::Error> {
    memory.clear();
    memory.extend(values);
    memory.sort_unstable();
    write_hex_list(out, memory.iter().copied())?;
    Ok(!memory.is_empty())
}

/// Writes values in four hexadecimal digits each, separated by commas.
fn write_hex_list(out: &mut impl Write, values: impl Iterator<Item = u16>) -> fmt::Result {
    for (index, value) in values.enumerate() {
        let mut text = Text::<5>::new();
        if index > 0 {
            text.byte(b',');
        }
        value.to_be_bytes().into_iter().for_each(|byte| text.hex(byte));
        out.write_str(text.as_str())?;
    }
    Ok(())
}

/// Writes the first twelve digits of a SHA-256.
fn write_short(out: &mut impl Write, hash: Hashing<Sha256>) -> fmt::Result {
    let mut text = Text::<12>::new();
    hash.finish().into_iter().take(6).for_each(|byte| text.hex(byte));
    out.write_str(text.as_str())
}
