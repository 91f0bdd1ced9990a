//! DNS over TCP: each message follows its length in two bytes (RFC 1035, 4.2.2).

use super::message::{probe_begin, u16_at};

/// Whether the first bytes of a TCP stream look like a DNS message with its length.
#[must_use]
pub fn probe_tcp(bytes: &[u8]) -> bool {
    match (u16_at(bytes, 0), bytes.get(2..)) {
        (Some(len), Some(begin)) => probe_begin(begin, usize::from(len)),
        _ => false,
    }
}

/// Where one direction of a stream stands between messages. Keeps no bytes: a message is given out
/// where one segment holds all of it, as small ones are sent; others are stepped over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A length comes next.
    #[default]
    Length,
    /// The second byte of a length comes next; this was the first.
    HalfLength(u8),
    /// A whole message of this length comes next: many a resolver sends the length by itself.
    Body(u16),
    /// So many bytes of a message come next whose begin is gone.
    Rest(u16),
}

impl Framing {
    /// Takes the next bytes of the direction and gives the messages that lie whole in them.
    pub fn segment<'s, 'a>(&'s mut self, bytes: &'a [u8]) -> Messages<'s, 'a> {
        Messages { framing: self, bytes }
    }

    /// Takes note that `len` bytes of the direction were not seen.
    pub fn gap(&mut self, len: u64) {
        self.state = match self.state {
            State::Body(left) | State::Rest(left) if len < u64::from(left) => State::Rest(left - len as u16),
            State::Body(left) | State::Rest(left) if len == u64::from(left) => State::Length,
            // What follows may as well begin with a message: stacks send one a segment.
            _ => State::Length,
        };
    }
}

/// Iterates over the messages that lie whole in a segment, without their lengths.
#[derive(Debug)]
pub struct Messages<'s, 'a> {
    framing: &'s mut Framing,
    bytes: &'a [u8],
}

impl<'a> Iterator for Messages<'_, 'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let state = &mut self.framing.state;
        while let Some((first, rest)) = self.bytes.split_first() {
            match *state {
                State::Length => {
                    *state = State::HalfLength(*first);
                    self.bytes = rest;
                }
                State::HalfLength(high) => {
                    let len = u16::from_be_bytes([high, *first]);
                    *state = if len == 0 { State::Length } else { State::Body(len) };
                    self.bytes = rest;
                }
                State::Body(len) => {
                    if let Some((message, rest)) = self.bytes.split_at_checked(usize::from(len)) {
                        *state = State::Length;
                        self.bytes = rest;
                        return Some(message);
                    }
                    *state = State::Rest(len);
                }
                State::Rest(len) => {
                    if let Some((_, rest)) = self.bytes.split_at_checked(usize::from(len)) {
                        *state = State::Length;
                        self.bytes = rest;
                    } else {
                        *state = State::Rest(len - self.bytes.len() as u16);
                        self.bytes = &[];
                    }
                }
            }
        }
        None
    }
}
