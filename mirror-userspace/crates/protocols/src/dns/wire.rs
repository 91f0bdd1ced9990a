//! Reading of the integers of a message.

use thiserror::Error;

/// The reason why bytes are not a message that can be reported.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer than the 12 bytes of a header, or fewer bytes than the header's counts require.
    #[error("the header is cut off or counts more records than the message could hold")]
    Header,
    /// The message ends inside a question or record.
    #[error("the message ends inside a question or record")]
    Truncated,
    /// A name has a reserved label type, a pointer out of the message, or no end.
    #[error("a name has a reserved label type, a wrong pointer or no end")]
    Name,
    /// The data of a record is shorter than its type requires.
    #[error("the data of a record does not match its type")]
    Data,
    /// Compression expands the message to many times its size: an attack on its readers.
    #[error("compression expands the message to many times its size")]
    Expansion,
}

pub(super) fn byte_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}
