//! The open streams of a connection.

use mirror_protocols::http2::Stream;

use super::super::inspected::InspectedBody;

/// Streams that are open at the same time. With one more, the one with the lowest identifier, which is the oldest of
/// its side, ends.
pub(super) const MAX_OPEN: usize = 256;
/// A buffer with more capacity than this is not held for reuse.
const MAX_SPARE: usize = 2048;

/// A stream whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) stream: Stream,
    /// The fields of both sides, packed.
    pub(super) packed: Vec<u8>,
    /// Bytes that they take in its event.
    pub(super) cost: usize,
    /// The request was seen, and the final response.
    pub(super) seen: [bool; 2],
    /// Client and server have ended the stream.
    pub(super) ended: [bool; 2],
    /// Time of the request's last byte so far.
    pub(super) asked: Option<u64>,
    /// It is a call of gRPC.
    pub(super) is_call: bool,
    /// The bodies that rules inspect.
    pub(super) inspected: [Option<Box<InspectedBody>>; 2],
}

/// The streams by their identifiers.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Identifiers, in ascending order, and places in `slots`.
    order: Vec<(u32, u16)>,
    slots: Vec<Open>,
    free: Vec<u16>,
    /// Bytes that the fields of all streams hold.
    packed: usize,
}

impl Streams {
    fn find(&self, id: u32) -> Result<usize, usize> {
        // Most frames are of the newest stream.
        match self.order.last() {
            Some((last, _)) if *last < id => Err(self.order.len()),
            Some((last, _)) if *last == id => Ok(self.order.len() - 1),
            _ => self.order.binary_search_by_key(&id, |(of, _)| *of),
        }
    }

    /// Returns an open stream.
    pub(super) fn get(&mut self, id: u32) -> Option<&mut Open> {
        let (_, slot) = self.order.get(self.find(id).ok()?)?;
        self.slots.get_mut(usize::from(*slot))
    }

    pub(super) const fn is_full(&self) -> bool {
        self.order.len() >= MAX_OPEN
    }

    /// Returns the lowest identifier.
    pub(super) fn first(&self) -> Option<u32> {
        self.order.first().map(|(id, _)| *id)
    }

    /// Opens a stream that is not open. There must be room.
    pub(super) fn open(&mut self, id: u32, number: u32) {
        let Err(at) = self.find(id) else { return };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Open::default());
            self.slots.len() as u16 - 1
        });
        self.order.insert(at, (id, slot));
        if let Some(open) = self.slots.get_mut(usize::from(slot)) {
            open.stream = Stream { number, id, ..Stream::default() };
            (open.seen, open.ended) = ([false; 2], [false; 2]);
            (open.asked, open.is_call, open.cost) = (None, false, 0);
        }
    }

    /// Closes a stream: passes it to `last`, and holds its memory for another one.
    pub(super) fn close(&mut self, id: u32, last: impl FnOnce(&mut Open)) {
        let Ok(at) = self.find(id) else { return };
        let (_, slot) = self.order.remove(at);
        if let Some(open) = self.slots.get_mut(usize::from(slot)) {
            last(open);
            open.inspected = [None, None];
            open.packed.clear();
            if open.packed.capacity() > MAX_SPARE {
                self.packed -= open.packed.capacity();
                open.packed = Vec::new();
            }
        }
        self.free.push(slot);
    }

    /// Notes that the buffer of a stream grew by this many bytes.
    pub(super) const fn grew(&mut self, bytes: usize) {
        self.packed += bytes;
    }

    /// Returns the bytes of memory that are held, without bodies.
    pub(super) const fn room(&self) -> usize {
        self.packed
            + self.slots.capacity() * size_of::<Open>()
            + self.order.capacity() * size_of::<(u32, u16)>()
    }
}
