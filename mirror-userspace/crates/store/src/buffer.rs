//! A buffer with the alignment that direct I/O requires. It never grows, so that writing into it does not
//! allocate.

/// Alignment of offsets, lengths and memory for direct I/O. Devices require 512 or 4096 bytes.
pub(super) const ALIGNMENT: usize = 4096;
/// Maximum size of a chunk in bytes. Larger writes are not faster.
pub(super) const CHUNK: usize = 1 << 20;

/// A fixed amount of memory, filled from its aligned beginning on.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Includes the bytes in front of the aligned beginning. It never grows beyond its capacity, so its
    /// address does not change.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl Buffer {
    pub(super) fn new(capacity: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        // The memory is written once, so that the first packets do not incur the page faults.
        memory.resize(start + capacity, 0);
        memory.truncate(start);
        Self { memory, start, capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    pub(super) fn room(&self) -> usize {
        self.capacity - self.len()
    }

    pub(super) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }

    /// Appends bytes. There must be room for them.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "callers look for room first");
        self.memory.extend_from_slice(bytes);
    }

    /// Appends zeros. There must be room for them.
    pub(super) fn push_zeros(&mut self, count: usize) {
        assert!(count <= self.room(), "callers look for room first");
        self.memory.resize(self.memory.len() + count, 0);
    }

    /// Shortens the contents to `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.memory.truncate(self.start + len);
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_aligned_and_stays_where_it_is() {
        let mut buffer = Buffer::new(10_000);
        let place = buffer.as_slice().as_ptr();
        assert_eq!(place.align_offset(ALIGNMENT), 0);
        buffer.push(&[1; 9_000]);
        buffer.push_zeros(1_000);
        assert_eq!((buffer.len(), buffer.room()), (10_000, 0));
        assert_eq!(buffer.as_slice().as_ptr(), place);
        buffer.clear();
        assert_eq!(buffer.room(), 10_000);
    }
}
