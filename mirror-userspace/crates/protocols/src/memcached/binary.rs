//! The protocol of binary messages (`protocol_binary.txt` of memcached): a header of 24 bytes, then extras, key and
//! value.

use crate::Direction::{self, ToClient, ToServer};
use crate::reader::Reader;
use crate::service::{Dialect, Frame, Message, Request, Requests, Status};

/// Bytes of a header.
const HEADER: usize = 24;
/// The longest body.
const MAX_BODY: u32 = 128 << 20;
/// The operation with several answers, the last of which is empty.
const STAT: u8 = 0x10;

/// Returns the first byte of messages.
pub(super) const fn magic(direction: Direction) -> u8 {
    match direction {
        ToServer => 0x80,
        ToClient => 0x81,
    }
}

/// A header.
struct Header {
    operation: u8,
    key: u16,
    extras: u8,
    status: u16,
    body: u32,
    opaque: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let [_, operation] = reader.array()?;
        let key = reader.u16()?;
        let [extras, _] = reader.array()?;
        let status = reader.u16()?;
        Some(Self { operation, key, extras, status, body: reader.u32()?, opaque: reader.u32()? })
    }

    /// Returns the identifier of a request.
    fn id(&self) -> u64 {
        u64::from(self.opaque) << 8 | u64::from(self.operation)
    }
}

/// Finds the end of a message.
pub(super) fn frame(bytes: &[u8]) -> Frame {
    match Header::parse(bytes) {
        Some(header)
            if header.body > MAX_BODY || header.body < u32::from(header.key) + u32::from(header.extras) =>
        {
            Frame::No
        }
        Some(header) => Frame::Message(HEADER as u64 + u64::from(header.body)),
        None => Frame::More,
    }
}

/// Matches a header with lengths that fit each other.
pub(super) fn is_header(bytes: &[u8], direction: Direction) -> bool {
    let [first, operation, _, _, extras, 0, ..] = *bytes else { return false };
    first == magic(direction)
        && operation <= 0x48
        && matches!(extras, 0 | 4 | 8 | 12 | 16 | 20)
        && bytes.len() >= HEADER
        && matches!(frame(bytes), Frame::Message(_))
}

/// Returns the name of an operation.
const fn name(operation: u8) -> &'static str {
    match operation {
        0x00 => "Get",
        0x01 => "Set",
        0x02 => "Add",
        0x03 => "Replace",
        0x04 => "Delete",
        0x05 => "Increment",
        0x06 => "Decrement",
        0x07 => "Quit",
        0x08 => "Flush",
        0x09 => "Get Quiet",
        0x0a => "NOOP",
        0x0b => "Version",
        0x0c => "Get Key",
        0x0d => "Get Key Quiet",
        0x0e => "Append",
        0x0f => "Prepend",
        STAT => "Statistics",
        0x11 => "Set Quiet",
        0x12 => "Add Quiet",
        0x13 => "Replace Quiet",
        0x14 => "Delete Quiet",
        0x15 => "Increment Quiet",
        0x16 => "Decrement Quiet",
        0x17 => "Quit Quiet",
        0x18 => "Flush Quiet",
        0x19 => "Append Quiet",
        0x1a => "Prepend Quiet",
        0x1c => "Touch",
        0x1d => "Get and Touch",
        0x20 => "List Mechanisms",
        0x21 => "Authentication",
        0x22 => "Authentication Step",
        _ => "Unknown",
    }
}

/// Returns true if the server answers only an error, or a value that it has.
const fn is_quiet(operation: u8) -> bool {
    matches!(operation, 0x09 | 0x0d | 0x11..=0x1a | 0x1e | 0x24)
}

/// Processes a request.
pub(super) fn request(message: Message<'_>, requests: &mut Requests) {
    let Some(header) = Header::parse(message.bytes) else { return };
    let start = HEADER + usize::from(header.extras);
    let is_secret = matches!(header.operation, 0x20..=0x22);
    let key = message.bytes.get(start..).unwrap_or_default();
    let key = key.get(..usize::from(header.key)).unwrap_or(key);
    requests.push(Request {
        id: header.id(),
        kind: header.operation,
        operation: name(header.operation).as_bytes(),
        object: if is_secret { &[] } else { key },
        statement: key,
        dialect: if is_secret { Dialect::Secret } else { Dialect::Key },
        silent: is_quiet(header.operation),
    });
}

/// Processes a response. Its identifier tells whose it is, since quiet requests have none.
pub(super) fn response(message: Message<'_>, requests: &mut Requests) {
    let Some(header) = Header::parse(message.bytes) else { return };
    let Some(open) = requests.answer_to(header.id(), message.len) else { return };
    if header.status == 0 {
        open.status = Status::Ok;
    } else {
        open.fail(itoa::Buffer::new().format(header.status).as_bytes());
    }
    if open.kind == STAT && header.key > 0 && header.status == 0 {
        open.rows = Some(open.rows.unwrap_or(0) + 1);
    } else {
        open.finish();
    }
}
