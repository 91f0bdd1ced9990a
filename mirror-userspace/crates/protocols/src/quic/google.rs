//! Google's QUIC, versions up to Q050: the client hello, which consists of tags with values and is not
//! encrypted up to Q046, and the public headers of versions up to Q043.
//! ([Handshake](https://docs.google.com/document/d/1g5nIXAIkN_Y-7XJW5K45IblHd_L2f5LTaDUDwvZ5L6g),
//! [headers](https://docs.google.com/document/d/1WJvyZflAO2pq77yOLbp9NsGjC1CHetAXV8I0fQe-B_U).)

use super::version::Version;
use crate::reader::Reader;

/// The first bytes of a client hello.
const CLIENT_HELLO: &[u8; 4] = b"CHLO";

/// Length of the hash that authenticates an unprotected packet, in front of its frames.
pub(super) const HASH: usize = 12;

/// A public header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicHeader {
    /// The version, which clients send until they have received a packet of the server.
    pub(super) version: Option<Version>,
    /// Length of the header with the packet number, in bytes.
    pub(super) len: usize,
}

/// Parses the public header at the beginning of a datagram. Returns `None` if there is none.
pub(super) fn public_header(datagram: &[u8]) -> Option<PublicHeader> {
    const HAS_VERSION: u8 = 1;
    const HAS_NONCE: u8 = 4;
    const HAS_CONNECTION_ID: u8 = 8;
    const NONCE: usize = 32;
    let mut reader = Reader::new(datagram);
    let flags = reader.u8().filter(|flags| flags & 0xc0 == 0)?;
    match flags & (HAS_CONNECTION_ID | HAS_NONCE) {
        0 => {}
        // Servers may omit the connection ID, and clients set the same bit without a nonce.
        HAS_NONCE => _ = reader.bytes(NONCE)?,
        _ => _ = reader.bytes(8)?,
    }
    let version = if flags & HAS_VERSION == 0 { None } else { Some(Version(reader.u32()?)) };
    let number: [usize; 4] = [1, 2, 4, 6];
    reader.bytes(*number.get(usize::from(flags >> 4))?)?;
    let len = datagram.len() - reader.rest().len();
    if flags & HAS_CONNECTION_ID != 0 {
        reader.bytes(HASH)?;
    }
    Some(PublicHeader { version, len })
}

/// Finds the client hello in the frames of an unprotected packet, from its tag on.
pub(super) fn client_hello(frames: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(frames);
    loop {
        let kind = reader.u8()?;
        if kind & 0x80 == 0 {
            // Only padding may precede the hello.
            if kind == 0 {
                continue;
            }
            return None;
        }
        // STREAM: 1 fin length offset*3 stream*2.
        reader.bytes(usize::from(kind & 3) + 1)?;
        let offset = usize::from(kind >> 2 & 7);
        reader.bytes(if offset == 0 { 0 } else { offset + 1 })?;
        let data = if kind & 0x20 == 0 { reader.bytes(reader.rest().len())? } else { reader.vector16()? };
        if data.starts_with(CLIENT_HELLO) {
            return Some(data);
        }
    }
}

/// Finds the client hello in the frames of a Q050 packet.
pub(super) fn protected_client_hello(frames: &[u8]) -> Option<&[u8]> {
    const CRYPTO: u8 = 8;
    let mut reader = Reader::new(frames);
    loop {
        match reader.u8()? {
            // Padding.
            0 => {}
            CRYPTO => {
                reader.varint()?;
                let len = reader.varint()?;
                let data = reader.bytes(usize::try_from(len).ok()?)?;
                return Some(data).filter(|data| data.starts_with(CLIENT_HELLO));
            }
            _ => return None,
        }
    }
}

/// Returns the value of a tag in a client hello.
pub(super) fn value(hello: &[u8], tag: [u8; 4]) -> Option<&[u8]> {
    let mut reader = Reader::new(hello.strip_prefix(CLIENT_HELLO)?);
    let count = u16::from_le_bytes(reader.array()?);
    reader.bytes(2)?;
    let mut index = Reader::new(reader.bytes(8 * usize::from(count))?);
    let values = reader.rest();
    let mut start = 0;
    for _ in 0..count {
        let found: [u8; 4] = index.array()?;
        let end = u32::from_le_bytes(index.array()?) as usize;
        if found == tag {
            return values.get(start..end);
        }
        start = end;
    }
    None
}
