//! The part of a file that is in memory.

use std::io::{self, Read};

/// Initial size in bytes; the buffer grows to the size of the longest record.
pub(super) const INITIAL: usize = 256 * 1024;

/// A window of the input, which moves forward as bytes are consumed.
pub(super) struct Buffer {
    input: Box<dyn Read + Send>,
    bytes: Vec<u8>,
    /// The bytes that are not consumed yet.
    start: usize,
    end: usize,
    consumed: usize,
    exhausted: bool,
    /// The error with which reading failed. The input ends there.
    failure: Option<io::Error>,
}

impl Buffer {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self {
            input,
            bytes: vec![0; INITIAL],
            start: 0,
            end: 0,
            consumed: 0,
            exhausted: false,
            failure: None,
        }
    }

    /// Returns the bytes that are in memory and not consumed.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Consumes bytes of [`data`](Self::data). They stay where they are until the buffer is filled again.
    pub(super) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.consumed += len;
    }

    /// Returns the number of bytes that were consumed so far.
    pub(super) const fn consumed(&self) -> usize {
        self.consumed
    }

    /// Returns true if nothing follows the bytes in memory.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Returns the error that ended the input, once.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Reads until the buffer is full, or the input ends. The buffer has room for `needed` bytes from then on.
    pub(super) fn fill(&mut self, needed: usize) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if needed > self.bytes.len() {
            self.bytes.reserve_exact(needed - self.bytes.len());
            self.bytes.resize(needed, 0);
        }
        while let Some(rest) = self.bytes.get_mut(self.end..).filter(|rest| !rest.is_empty()) {
            if self.exhausted {
                break;
            }
            match self.input.read(rest) {
                Ok(0) => self.exhausted = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.exhausted = true;
                    self.failure = Some(error);
                }
            }
        }
    }
}
