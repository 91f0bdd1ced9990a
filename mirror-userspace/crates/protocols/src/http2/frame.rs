//! Frames (RFC 9113, section 4.1).

use crate::Direction;

/// The bytes with which a client begins (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const HEAD: usize = 9;

/// The types of frames.
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of RFC 9113, section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// The flags of frames.
pub mod flag {
    /// The last frame of a stream's direction.
    pub const END_STREAM: u8 = 0x1;
    /// A SETTINGS or PING frame that acknowledges another one.
    pub const ACK: u8 = 0x1;
    /// The last frame of a block of fields.
    pub const END_HEADERS: u8 = 0x4;
    /// There is padding.
    pub const PADDED: u8 = 0x8;
    /// There is a priority.
    pub const PRIORITY: u8 = 0x20;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload, which follows.
    pub len: u32,
    /// The [type](kind).
    pub kind: u8,
    /// The [flags](flag).
    pub flags: u8,
    /// The stream; 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// Reads the head of a frame. Returns `None` if there are too few bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[high, middle, low, kind, flags, ref stream @ ..] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            len: u32::from_be_bytes([0, high, middle, low]),
            kind,
            flags,
            stream: u32::from_be_bytes(*stream) & 0x7fff_ffff,
        })
    }

    /// Returns true if a flag is set.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns false if no correct peer sends such a frame: its length or its stream contradicts its type.
    #[must_use]
    pub const fn is_correct(&self) -> bool {
        let of_stream = self.stream != 0;
        match self.kind {
            kind::DATA | kind::CONTINUATION => of_stream,
            kind::HEADERS => of_stream && (!self.has(flag::PRIORITY) || self.len >= 5),
            kind::PRIORITY => of_stream && self.len == 5,
            kind::RST_STREAM => of_stream && self.len == 4,
            kind::SETTINGS => {
                !of_stream && self.len.is_multiple_of(6) && (!self.has(flag::ACK) || self.len == 0)
            }
            kind::PUSH_PROMISE => of_stream && self.len >= 4,
            kind::PING => !of_stream && self.len == 8,
            kind::GOAWAY => !of_stream && self.len >= 8,
            kind::WINDOW_UPDATE => self.len == 4,
            _ => true,
        }
    }

    /// Returns true if this is very likely a head, for bytes that may be anything: it is correct, of a known type, with
    /// flags that the type has and no reserved bit, of the length that peers use by default.
    fn is_likely(&self, bytes: &[u8]) -> bool {
        const DEFAULT_MAX_LEN: u32 = 16_384;
        let flags = match self.kind {
            kind::DATA => flag::END_STREAM | flag::PADDED,
            kind::HEADERS => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            kind::SETTINGS | kind::PING => flag::ACK,
            kind::PUSH_PROMISE => flag::END_HEADERS | flag::PADDED,
            kind::CONTINUATION => flag::END_HEADERS,
            kind::PRIORITY | kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => 0,
            _ => return false,
        };
        let is_reserved = bytes.get(5).is_some_and(|byte| byte & 0x80 != 0);
        self.is_correct() && self.flags & !flags == 0 && self.len <= DEFAULT_MAX_LEN && !is_reserved
    }
}

/// Returns true if frames seem to begin here: bytes that follow missing ones, at the beginning of a segment. `None` if
/// more bytes are needed.
#[must_use]
pub fn begins(direction: Direction, bytes: &[u8]) -> Option<bool> {
    let preface = bytes.len().min(PREFACE.len());
    if direction == Direction::ToServer && preface > 0 && bytes.get(..preface) == PREFACE.get(..preface) {
        return (preface == PREFACE.len()).then_some(true);
    }
    let head = Head::read(bytes)?;
    if !head.is_likely(bytes) {
        return Some(false);
    }
    // The next one is looked at, too, as far as it is there.
    let behind = bytes.get(HEAD + head.len as usize..).unwrap_or_default();
    Some(Head::read(behind).is_none_or(|next| next.is_likely(behind)))
}

/// Returns true if a connection without its beginning is recognised here: at least two frames follow each other, the
/// first of which has fields or is a control frame. `None` if more bytes are needed.
#[must_use]
pub fn resumes(bytes: &[u8]) -> Option<bool> {
    let Some(head) = Head::read(bytes) else { return Some(false) };
    let behind = bytes.get(HEAD + head.len as usize..).unwrap_or_default();
    let is_first = match head.kind {
        kind::HEADERS => head.has(flag::END_HEADERS) && head.len > 0,
        kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE | kind::RST_STREAM => true,
        _ => false,
    };
    if !is_first || !head.is_likely(bytes) {
        return Some(false);
    }
    Head::read(behind).map(|next| next.is_likely(behind))
}

/// Returns a payload without its padding, which the flag PADDED announces.
#[must_use]
pub fn unpadded(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

/// Returns a number at the beginning of a payload.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Returns the identifiers and values of a SETTINGS frame.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let (settings, _) = payload.as_chunks::<6>();
    settings.iter().map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
}
