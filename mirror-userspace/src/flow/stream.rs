//! The data of TCP connections in order: what comes too early is kept until the hole before it is filled
//! or acknowledged without having been seen, and what an analyzer cannot use yet is kept until more
//! comes. Both are bounded, in each direction of a connection and altogether; most segments pass through
//! without being copied. The buffers go from connection to connection.

use std::num::NonZeroU32;

use super::tcp::before;

/// Bytes that one direction may keep for its analyzer: a DNS message with its length.
const MAX_PENDING: usize = 2 + 65_535;
/// Bytes of one direction that may wait for a hole to be filled.
const MAX_EARLY: usize = 32 * 1024;
/// Segments of one direction that may wait for a hole to be filled.
const MAX_EARLY_SEGMENTS: usize = 64;
/// Directions that may keep bytes at one time.
const MAX_BUFFERS: usize = 1024;
/// Bytes of memory that buffers without a stream hold for the next ones, altogether. Each would come to have
/// room for the most that any stream ever kept.
const MAX_SPARE: usize = 1 << 20;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    state: State,
    /// Sequence number of the next byte.
    next: u32,
    /// The buffer that keeps bytes of this stream.
    buffer: Option<BufferIndex>,
}

/// A buffer's place, plus one, so that none takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BufferIndex(NonZeroU32);

impl BufferIndex {
    const fn new(index: usize) -> Option<Self> {
        match NonZeroU32::new(index as u32 + 1) {
            Some(plus_one) => Some(Self(plus_one)),
            None => None,
        }
    }

    const fn get(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No data yet.
    #[default]
    New,
    /// Data is followed.
    Open,
    /// Nobody wants more data.
    Closed,
}

impl Stream {
    /// Whether nobody wants more of it.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether bytes of it are kept.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.buffer.is_some()
    }
}

/// What comes in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// New bytes came: the next of a stream, or a datagram.
    Data {
        /// All bytes of the stream that were not used yet, with the new ones at the end.
        bytes: &'a [u8],
        /// Where the new ones begin.
        new: usize,
    },
    /// Bytes are missing between those before and those to come.
    Gap {
        /// The bytes in front of them that were not used. They are not given again.
        bytes: &'a [u8],
        /// How many are missing.
        len: usize,
    },
    /// The flow ends here, with bytes of the stream that were not used.
    End {
        /// These.
        bytes: &'a [u8],
        /// Whether the other side has acknowledged some of the stream. If not, nobody may have got it.
        acknowledged: bool,
    },
}

/// What an analyzer did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// So many bytes are done with; the rest is to be seen again with the next.
    Used(usize),
    /// No more of this direction is needed.
    Close,
    /// No more of this flow is needed.
    Done,
    /// So many bytes are done with, and what follows in either direction is of another protocol: it is to
    /// be recognised anew.
    Restart(usize),
}

#[derive(Debug, Default)]
struct Buffer {
    pending: Vec<u8>,
    /// Sequence number, position and length in `early_bytes` of each segment that came too early.
    early: Vec<(u32, usize, usize)>,
    early_bytes: Vec<u8>,
    /// Its part in [`Streams::spare`].
    spare: usize,
}

impl Buffer {
    /// Bytes of memory that it holds.
    const fn room(&self) -> usize {
        self.pending.capacity()
            + self.early_bytes.capacity()
            + self.early.capacity() * size_of::<(u32, usize, usize)>()
    }

    const fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.early.is_empty()
    }
}

/// The buffers of all streams of a worker.
#[derive(Debug, Default)]
pub struct Streams {
    buffers: Vec<Buffer>,
    /// Buffers without a stream that hold memory, and such that hold none.
    free: Vec<BufferIndex>,
    empty: Vec<BufferIndex>,
    /// Bytes of memory that the former hold.
    spare: usize,
    /// A segment that came early while it is handed on.
    in_order: Vec<u8>,
}

impl Streams {
    /// Takes a segment's data, whose first byte has number `sequence`. `first` is the number of the
    /// stream's first byte; data of a stream whose beginning is not known is not followed.
    /// Answers whether data was lost: the stream would have kept too much and was given up.
    pub fn segment(
        &mut self,
        stream: &mut Stream,
        first: Option<u32>,
        sequence: u32,
        payload: &[u8],
        mut each: impl FnMut(Event<'_>) -> Use,
    ) -> bool {
        if payload.is_empty() {
            return false;
        }
        if let (State::New, Some(first)) = (stream.state, first) {
            (stream.state, stream.next) = (State::Open, first);
        }
        if stream.state != State::Open {
            return false;
        }
        if before(stream.next, sequence) {
            return !self.keep_early(stream, sequence, payload);
        }
        let known = stream.next.wrapping_sub(sequence) as usize;
        let Some(new) = payload.get(known..).filter(|new| !new.is_empty()) else { return false };
        self.deliver(stream, new, &mut each) || stream.keeps() && self.deliver_early(stream, &mut each)
    }

    /// Takes note that the other side has all bytes in front of `acknowledged`: those that were not seen
    /// by now will not come. Answers whether there are such bytes.
    pub fn acknowledge(
        &mut self,
        stream: &mut Stream,
        acknowledged: u32,
        mut each: impl FnMut(Event<'_>) -> Use,
    ) -> bool {
        let Some(buffer) = self.held(stream) else { return false };
        let next = stream.next;
        let early = buffer.early.iter().map(|&(sequence, ..)| sequence);
        let nearest = early.min_by_key(|&sequence| sequence.wrapping_sub(next));
        let Some(nearest) = nearest.filter(|&nearest| !before(acknowledged, nearest)) else { return false };
        let len = nearest.wrapping_sub(next) as usize;
        let outcome = each(Event::Gap { bytes: &buffer.pending, len });
        buffer.pending.clear();
        stream.next = nearest;
        match outcome {
            Use::Used(_) => {
                self.deliver_early(stream, &mut each);
            }
            _ => self.close(stream),
        }
        true
    }

    /// Whether bytes of the stream are kept that were not used yet.
    #[must_use]
    pub fn has_unused(&self, stream: &Stream) -> bool {
        let buffer = stream.buffer.and_then(|index| self.buffers.get(index.get()));
        buffer.is_some_and(|buffer| !buffer.pending.is_empty())
    }

    /// Hands those bytes on once more, and none besides.
    pub fn again(&mut self, stream: &mut Stream, mut each: impl FnMut(Event<'_>) -> Use) {
        let Some(pending) = self.held(stream).map(|buffer| &mut buffer.pending) else { return };
        if pending.is_empty() {
            return;
        }
        match each(Event::Data { bytes: pending, new: 0 }) {
            Use::Used(used) => {
                pending.drain(..used.min(pending.len()));
                self.give_back_if_empty(stream);
            }
            _ => self.close(stream),
        }
    }

    /// Says that the flow ends, and gives the stream's buffer back.
    pub fn end(&mut self, stream: &mut Stream, acknowledged: bool, mut each: impl FnMut(Event<'_>) -> Use) {
        if stream.state == State::Open {
            let bytes = self.held(stream).map(|buffer| buffer.pending.as_slice()).unwrap_or_default();
            each(Event::End { bytes, acknowledged });
        }
        self.close(stream);
    }

    /// Gives the stream's buffer back and follows it no further.
    pub fn close(&mut self, stream: &mut Stream) {
        stream.state = State::Closed;
        self.give_back(stream);
    }

    fn give_back(&mut self, stream: &mut Stream) {
        if let Some(index) = stream.buffer.take()
            && let Some(buffer) = self.buffers.get_mut(index.get())
        {
            buffer.pending.clear();
            buffer.early.clear();
            buffer.early_bytes.clear();
            if self.spare + buffer.room() > MAX_SPARE {
                *buffer = Buffer::default();
                self.empty.push(index);
            } else {
                buffer.spare = buffer.room();
                self.spare += buffer.spare;
                self.free.push(index);
            }
        }
    }

    /// The buffer that the stream has.
    fn held(&mut self, stream: &Stream) -> Option<&mut Buffer> {
        self.buffers.get_mut(stream.buffer?.get())
    }

    /// The stream's buffer, a new one where it has none; `None` where there are too many.
    fn buffer(&mut self, stream: &mut Stream) -> Option<&mut Buffer> {
        if stream.buffer.is_none() {
            stream.buffer = self.free.pop().or_else(|| self.empty.pop());
            if let Some(buffer) = stream.buffer.and_then(|index| self.buffers.get_mut(index.get())) {
                self.spare -= std::mem::take(&mut buffer.spare);
            }
        }
        if stream.buffer.is_none() && self.buffers.len() < MAX_BUFFERS {
            stream.buffer = BufferIndex::new(self.buffers.len());
            self.buffers.push(Buffer::default());
        }
        self.held(stream)
    }

    fn keep_early(&mut self, stream: &mut Stream, sequence: u32, payload: &[u8]) -> bool {
        let kept = self.buffer(stream).is_some_and(|buffer| {
            if buffer.early.iter().any(|&(first, _, len)| first == sequence && len >= payload.len()) {
                return true;
            }
            let fits = buffer.early.len() < MAX_EARLY_SEGMENTS
                && buffer.early_bytes.len() + payload.len() <= MAX_EARLY;
            if fits {
                buffer.early.push((sequence, buffer.early_bytes.len(), payload.len()));
                buffer.early_bytes.extend_from_slice(payload);
            }
            fits
        });
        if !kept {
            self.close(stream);
        }
        kept
    }

    /// Hands new bytes on; `true` where the stream had to be given up.
    fn deliver(&mut self, stream: &mut Stream, new: &[u8], each: &mut impl FnMut(Event<'_>) -> Use) -> bool {
        stream.next = stream.next.wrapping_add(new.len() as u32);
        if stream.keeps() && self.has_unused(stream) {
            return self.deliver_behind(stream, new, each);
        }
        let Use::Used(used) = each(Event::Data { bytes: new, new: 0 }) else {
            self.close(stream);
            return false;
        };
        let rest = new.get(used..).unwrap_or_default();
        if rest.is_empty() {
            self.give_back_if_empty(stream);
            return false;
        }
        let buffer = if rest.len() <= MAX_PENDING { self.buffer(stream) } else { None };
        let kept = buffer.map(|buffer| buffer.pending.extend_from_slice(rest)).is_some();
        if !kept {
            self.close(stream);
        }
        !kept
    }

    /// The same behind bytes that are kept.
    fn deliver_behind(
        &mut self,
        stream: &mut Stream,
        new: &[u8],
        each: &mut impl FnMut(Event<'_>) -> Use,
    ) -> bool {
        let Some(pending) = self.held(stream).map(|buffer| &mut buffer.pending) else { return false };
        let old = pending.len();
        pending.extend_from_slice(new);
        let Use::Used(used) = each(Event::Data { bytes: pending, new: old }) else {
            self.close(stream);
            return false;
        };
        pending.drain(..used.min(pending.len()));
        let kept = pending.len() <= MAX_PENDING;
        if kept {
            self.give_back_if_empty(stream);
        } else {
            self.close(stream);
        }
        !kept
    }

    /// Gives the stream's buffer back where there is nothing in it.
    #[inline]
    fn give_back_if_empty(&mut self, stream: &mut Stream) {
        if self.held(stream).is_some_and(|buffer| buffer.is_empty()) {
            self.give_back(stream);
        }
    }

    /// Hands on what came early and is in order now; `true` where the stream had to be given up.
    fn deliver_early(&mut self, stream: &mut Stream, each: &mut impl FnMut(Event<'_>) -> Use) -> bool {
        while let Some(index) = stream.buffer
            && let Some(buffer) = self.buffers.get_mut(index.get())
        {
            let next = stream.next;
            let in_order = buffer.early.iter().position(|&(sequence, ..)| !before(next, sequence));
            let Some(at) = in_order else { return false };
            let (sequence, start, len) = buffer.early.swap_remove(at);
            let known = (next.wrapping_sub(sequence) as usize).min(len);
            // Handing them on may change the buffer.
            let mut new = std::mem::take(&mut self.in_order);
            new.clear();
            new.extend_from_slice(buffer.early_bytes.get(start + known..start + len).unwrap_or_default());
            if buffer.early.is_empty() {
                buffer.early_bytes.clear();
            }
            let given_up = !new.is_empty() && self.deliver(stream, &new, each);
            self.in_order = new;
            if given_up {
                return true;
            }
            self.give_back_if_empty(stream);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has streams keep `len` bytes each in front of a hole, fills the holes, and says what is kept then.
    fn fill_holes(streams: &mut Streams, count: usize, len: usize) -> usize {
        let segment = vec![0; len];
        let mut open = vec![Stream::default(); count];
        for stream in &mut open {
            assert!(!streams.segment(stream, Some(1), 2, &segment, |_| Use::Used(0)));
        }
        let mut delivered = 0;
        for stream in &mut open {
            streams.segment(stream, Some(1), 1, &[1], |event| match event {
                Event::Data { bytes, .. } => {
                    delivered += bytes.len();
                    Use::Used(bytes.len())
                }
                _ => Use::Used(0),
            });
        }
        assert_eq!(delivered, count * (1 + len), "each byte once");
        streams.buffers.iter().map(Buffer::room).sum()
    }

    #[test]
    fn what_a_burst_needed_is_not_kept_for_ever() {
        let mut streams = Streams::default();
        let kept = fill_holes(&mut streams, MAX_BUFFERS, MAX_EARLY);
        assert!(kept <= MAX_SPARE, "{kept} bytes");
        assert_eq!(streams.spare, kept);
        assert_eq!(streams.free.len() + streams.empty.len(), MAX_BUFFERS);
    }

    #[test]
    fn few_streams_go_on_with_the_memory_of_others() {
        let mut streams = Streams::default();
        fill_holes(&mut streams, MAX_BUFFERS, MAX_EARLY);
        for _ in 0..100 {
            let held: Vec<_> = streams.buffers.iter().map(Buffer::room).collect();
            fill_holes(&mut streams, 8, MAX_EARLY);
            assert_eq!(held, streams.buffers.iter().map(Buffer::room).collect::<Vec<_>>());
        }
    }
}
