//! Google's QUIC, versions Q044 to Q046: the hello of the client, which is not encrypted and consists of
//! tags with values. ([Document](https://docs.google.com/document/d/1g5nIXAIkN_Y-7XJW5K45IblHd_L2f5LTaDUDwvZ5L6g).)

use crate::protocol::reader::Reader;

/// The hello of a client: what it begins with.
const CLIENT_HELLO: &[u8; 4] = b"CHLO";

/// The hello of the client in the packet, from its tag on.
pub(super) fn client_hello(unprotected: &[u8]) -> Option<&[u8]> {
    const NUMBER: usize = 4;
    const HASH: usize = 12;
    let mut reader = Reader::new(unprotected.get(NUMBER + HASH..)?);
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
