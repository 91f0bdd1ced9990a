//! Domain names: labels and compression pointers (RFC 1035, section 4.1.4).

use std::fmt;

use super::wire::{Malformed, byte_at, u16_at};

/// Labels and pointers followed in one name. RFC 1035 allows 127 labels; more are an attack on the reader.
/// The exact limit is arbitrary (Suricata and dnsmasq use the same).
const MAX_STEPS: u32 = 255;

/// Bytes of a name in text form; the rest is cut off.
const MAX_LEN: usize = 1025;

/// Pointers of one name that lead on, to themselves or in a circle, and not to a prior occurrence of a name as RFC 1035
/// has it. Each writer of names leads back: with more of them, nothing honest is left to read.
const MAX_CIRCLES: u32 = 8;

/// The longest label.
const MAX_LABEL: usize = 63;

/// The result of reading a name.
pub(super) struct Walk {
    /// Position behind the name.
    pub(super) next: usize,
    /// The name is longer than the part that was read.
    pub(super) truncated: bool,
    /// Length in text form.
    len: usize,
    /// Labels and pointers.
    steps: u32,
}

impl Walk {
    /// Returns the cost of reading the name, in bytes copied or examined.
    pub(super) fn cost(&self) -> usize {
        self.len + self.steps as usize
    }
}

/// Reads the name at `start`, whose part before the first pointer ends before `limit`, and passes each label
/// to `label`.
///
/// A name that the end of the bytes cuts off between two labels ends there. A name that is endless or too
/// long is an error only if no pointer was followed. Otherwise the position behind it is known, and the part
/// that was read is useful.
pub(super) fn walk<'a>(
    message: &'a [u8],
    start: usize,
    limit: usize,
    mut label: impl FnMut(&'a [u8]),
) -> Result<Walk, Malformed> {
    let mut piece = message.get(..limit).ok_or(Malformed::Truncated)?;
    let mut at = start;
    let mut after_pointer = None;
    let mut lowest = start;
    let mut circles = 0;
    let mut walk = Walk { next: start, truncated: false, len: 0, steps: 0 };

    while let Some(len) = byte_at(piece, at) {
        match len {
            0 => {
                at += 1;
                break;
            }
            1..=0x3f => {
                let end = at + 1 + usize::from(len);
                let bytes = piece.get(at + 1..end).ok_or(Malformed::Truncated)?;
                if !walk.truncated {
                    walk.len += bytes.len() + usize::from(walk.len > 0);
                    label(bytes);
                }
                at = end;
            }
            0xc0.. => {
                let target = usize::from(u16_at(piece, at).ok_or(Malformed::Truncated)? & 0x3fff);
                if target > message.len() {
                    return Err(Malformed::Name);
                }
                if target == at {
                    if after_pointer.is_none() {
                        return Err(Malformed::Name);
                    }
                    break;
                }
                after_pointer.get_or_insert(at + 2);
                circles += u32::from(target >= lowest);
                if circles > MAX_CIRCLES {
                    walk.truncated = true;
                    break;
                }
                lowest = lowest.min(target);
                piece = message;
                at = target;
            }
            // 01 and 10 in the first bits are reserved (RFC 6891 gave up the former).
            0x40..0xc0 => return Err(Malformed::Name),
        }
        walk.steps += 1;
        if walk.steps > MAX_STEPS {
            if after_pointer.is_none() {
                return Err(Malformed::Name);
            }
            walk.truncated = true;
            break;
        }
        if walk.len > MAX_LEN {
            walk.truncated = true;
            if after_pointer.is_some() {
                break;
            }
        }
    }
    walk.next = after_pointer.unwrap_or(at);
    Ok(walk)
}

/// A domain name inside a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    message: &'a [u8],
    start: usize,
    limit: usize,
}

impl<'a> Name<'a> {
    pub(super) fn new(message: &'a [u8], start: usize, limit: usize) -> Self {
        Self { message, start, limit }
    }

    /// Writes the name into `buffer`: labels separated by dots, without the last dot, with letter case and
    /// all other bytes as in the message.
    pub fn read<'b>(&self, buffer: &'b mut NameBuffer) -> &'b [u8] {
        buffer.len = 0;
        buffer.truncated = false;
        // A name is returned only after it was read once, so this cannot fail. If it did, the labels read so
        // far would be the name.
        if let Ok(walk) = walk(self.message, self.start, self.limit, |label| buffer.push(label)) {
            buffer.truncated = walk.truncated;
        }
        buffer.len = buffer.len.min(MAX_LEN);
        buffer.as_bytes()
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = NameBuffer::new();
        write!(f, "\"{}\"", self.read(&mut buffer).escape_ascii())
    }
}

/// Room for one name in text form.
pub struct NameBuffer {
    /// The length is checked after each label, so the last one may exceed it.
    bytes: [u8; MAX_LEN + 1 + MAX_LABEL],
    len: usize,
    truncated: bool,
}

impl NameBuffer {
    /// Creates an empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_LEN + 1 + MAX_LABEL], len: 0, truncated: false }
    }

    /// Returns the name read last.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Returns true if the name read last is longer than the part that was read.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    fn push(&mut self, label: &[u8]) {
        if self.len > 0
            && let Some(dot) = self.bytes.get_mut(self.len)
        {
            *dot = b'.';
            self.len += 1;
        }
        if let Some(room) = self.bytes.get_mut(self.len..self.len + label.len()) {
            room.copy_from_slice(label);
            self.len += label.len();
        }
    }
}

impl Default for NameBuffer {
    fn default() -> Self {
        Self::new()
    }
}
