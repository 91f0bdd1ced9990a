//! Google's QUIC, versions up to Q050: the hello of the client, which consists of tags with values and, up
//! to Q046, is not encrypted, and the public headers of versions up to Q043.
//! ([Handshake](https://docs.google.com/document/d/1g5nIXAIkN_Y-7XJW5K45IblHd_L2f5LTaDUDwvZ5L6g),
//! [headers](https://docs.google.com/document/d/1WJvyZflAO2pq77yOLbp9NsGjC1CHetAXV8I0fQe-B_U).)

use super::version::Version;
use crate::reader::Reader;

/// The hello of a client: what it begins with.
const CLIENT_HELLO: &[u8; 4] = b"CHLO";

/// What authenticates an unprotected packet, in front of its frames.
pub(super) const HASH: usize = 12;

/// A public header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicHeader {
    /// Clients name it until they have heard of the server.
    pub(super) version: Option<Version>,
    /// Bytes of the header, the number of the packet included.
    pub(super) len: usize,
}

/// Reads the public header that a datagram begins with; `None` where it can be none.
pub(super) fn public_header(datagram: &[u8]) -> Option<PublicHeader> {
    const HAS_VERSION: u8 = 1;
    const HAS_NONCE: u8 = 4;
    const HAS_CONNECTION_ID: u8 = 8;
    const NONCE: usize = 32;
    let mut reader = Reader::new(datagram);
    let flags = reader.u8().filter(|flags| flags & 0xc0 == 0)?;
    match flags & (HAS_CONNECTION_ID | HAS_NONCE) {
        0 => {}
        // Servers need not name the connection, and clients set the same bit without a nonce.
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

/// The hello of the client in the frames of an unprotected packet, from its tag on.
pub(super) fn client_hello(frames: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(frames);
    loop {
        let kind = reader.u8()?;
        if kind & 0x80 == 0 {
            // Only padding may come in front.
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

/// The hello of the client in the frames of a packet of Q050.
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

/// The value of a tag in a client hello.
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
