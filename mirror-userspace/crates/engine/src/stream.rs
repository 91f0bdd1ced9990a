//! In-order data of TCP connections.
//!
//! A segment behind a hole is buffered until the hole is filled, or is acknowledged without having been seen.
//! Data that an analyzer cannot use yet is buffered until more comes. Both are bounded, for each direction of
//! a connection and in total; most segments pass through without a copy. Connections reuse the buffers.
//!
//! Hosts share the memory of all buffers (`fair`). When it is used up, the buffer of another stream is taken.
//! That stream sees a gap and continues behind it.

use std::num::NonZeroU32;

use mirror_packet::fair::Shares;
use mirror_packet::{Direction, FlowKey, FlowKeyHasher};
pub use mirror_protocols::protocol::{Consumed, Event};

use crate::meta::{FlowIndex, FlowMeta};
use crate::sequence::before;

/// Bytes that one direction may buffer for its analyzer: a DNS message with its length.
const MAX_PENDING: usize = 2 + 65_535;
/// Bytes of one direction that may wait for a hole to be filled.
const MAX_EARLY: usize = 32 * 1024;
/// Segments of one direction that may wait for a hole to be filled.
const MAX_EARLY_SEGMENTS: usize = 64;
/// Bytes of memory that the buffers of streams hold, in total.
const MAX_HELD: usize = 32 << 20;
/// Minimum number of bytes charged for a buffer. This limits the number of buffers to 8192.
const MIN_COST: usize = 4096;
/// Bytes of memory that unused buffers hold for the next streams, in total. Without this bound, each would
/// grow to the most that any stream ever buffered.
const MAX_SPARE: usize = 1 << 20;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    state: State,
    /// Sequence number of the next byte.
    next: u32,
    /// The buffer that holds bytes of this stream.
    buffer: Option<BufferIndex>,
}

/// A buffer's index plus one, so that `None` needs no extra space.
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
    /// No analyzer wants more data.
    Closed,
}

impl Stream {
    /// Returns true if no analyzer wants more of the stream.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Returns true if the stream has a buffer.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.buffer.is_some()
    }
}

/// The owner of a stream's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'k> {
    /// The flow.
    pub flow: FlowIndex,
    /// The direction within the flow.
    pub direction: Direction,
    /// The flow's key.
    pub key: &'k FlowKey,
    /// True if the key's lower endpoint sends the bytes.
    pub low_sends: bool,
}

impl Owner<'_> {
    /// Returns an identifier that is unique among the current streams.
    const fn id(&self) -> u64 {
        (self.flow.get() as u64) << 1 | self.direction as u64
    }

    /// Returns the hash of the host that sends the bytes.
    pub(crate) fn host(&self, hasher: &FlowKeyHasher) -> u16 {
        let (address, _) = if self.low_sends { self.key.low() } else { self.key.high() };
        hasher.host(&self.key.session, address)
    }
}

/// The reason why data of streams was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamLoss {
    /// The memory for all streams was used up, and another stream got this one's buffer.
    BufferTaken,
    /// More data came behind a hole than may be buffered.
    Hole,
    /// An analyzer wanted more bytes at once than may be buffered.
    Unfinished,
}

impl StreamLoss {
    /// The number of reasons.
    pub const COUNT: usize = 3;
    /// All reasons.
    pub const ALL: [Self; Self::COUNT] = [Self::BufferTaken, Self::Hole, Self::Unfinished];

    /// Returns the name of the reason's counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BufferTaken => "stream_memory",
            Self::Hole => "stream_hole",
            Self::Unfinished => "stream_unfinished",
        }
    }
}

#[derive(Debug, Default)]
struct Buffer {
    /// The stream that uses the buffer, see [`Owner::id`].
    owner: Option<u64>,
    pending: Vec<u8>,
    /// Sequence number of each early segment, with its position and length in `early_bytes`.
    early: Vec<(u32, usize, usize)>,
    early_bytes: Vec<u8>,
    /// The buffer's part in [`Streams::spare`].
    spare: usize,
}

impl Buffer {
    /// Returns the bytes of memory that the buffer holds.
    const fn room(&self) -> usize {
        self.pending.capacity()
            + self.early_bytes.capacity()
            + self.early.capacity() * size_of::<(u32, usize, usize)>()
    }

    const fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.early.is_empty()
    }

    /// Removes an early segment that is in order now, and replaces `new` by its bytes from number `next` on.
    /// Returns true if there was one.
    fn take_early(&mut self, next: u32, new: &mut Vec<u8>) -> bool {
        let in_order = self.early.iter().position(|&(sequence, ..)| !before(next, sequence));
        let Some(at) = in_order else { return false };
        let (sequence, start, len) = self.early.swap_remove(at);
        let known = (next.wrapping_sub(sequence) as usize).min(len);
        new.clear();
        new.extend_from_slice(self.early_bytes.get(start + known..start + len).unwrap_or_default());
        if self.early.is_empty() {
            self.early_bytes.clear();
        }
        true
    }
}

/// The buffers of all streams of a worker.
#[derive(Debug)]
pub struct Streams {
    hasher: FlowKeyHasher,
    buffers: Vec<Buffer>,
    /// The shares of the buffers in use.
    shares: Shares,
    /// Number of losses, by [`StreamLoss`].
    lost: [u64; StreamLoss::COUNT],
    /// Unused buffers that hold memory, and unused buffers that hold none (`empty`).
    free: Vec<BufferIndex>,
    empty: Vec<BufferIndex>,
    /// Bytes of memory that the buffers in `free` hold.
    spare: usize,
    /// An early segment while it is delivered.
    in_order: Vec<u8>,
}

impl Streams {
    /// Creates the set without buffers. The seed keys the hash of hosts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FlowKeyHasher::new(seed),
            buffers: Vec::new(),
            shares: Shares::new(MAX_HELD),
            lost: [0; StreamLoss::COUNT],
            free: Vec::new(),
            empty: Vec::new(),
            spare: 0,
            in_order: Vec::new(),
        }
    }

    /// Returns the number of losses, by [`StreamLoss`].
    #[must_use]
    pub const fn lost(&self) -> [u64; StreamLoss::COUNT] {
        self.lost
    }

    /// Reports a gap if the stream's buffer was taken from it. Returns true if it was.
    pub fn miss(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        mut each: impl FnMut(Event<'_>) -> Consumed,
    ) -> bool {
        if !stream.keeps() || self.held(stream, owner).is_some() {
            return false;
        }
        stream.buffer = None;
        if !matches!(each(Event::Gap { bytes: &[], len: 0 }), Consumed::Used(_)) {
            self.close(stream, owner);
        }
        true
    }

    /// Processes a segment's data, whose first byte has number `sequence`. `first` is the number of the
    /// stream's first byte; a stream whose beginning is unknown is not followed. Returns true if data was
    /// lost: the stream would have buffered too much and was given up.
    pub fn segment(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        first: Option<u32>,
        sequence: u32,
        payload: &[u8],
        mut each: impl FnMut(Event<'_>) -> Consumed,
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
            return !self.keep_early(stream, owner, sequence, payload);
        }
        let known = stream.next.wrapping_sub(sequence) as usize;
        let Some(new) = payload.get(known..).filter(|new| !new.is_empty()) else { return false };
        self.deliver(stream, owner, new, &mut each)
            || stream.keeps() && self.deliver_early(stream, owner, &mut each)
    }

    /// Processes an acknowledgement of all bytes before `acknowledged`. Bytes among them that were not seen
    /// yet will not come. Returns true if there are such bytes.
    pub fn acknowledge(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        acknowledged: u32,
        mut each: impl FnMut(Event<'_>) -> Consumed,
    ) -> bool {
        let Some(buffer) = self.held(stream, owner) else { return false };
        let next = stream.next;
        let early = buffer.early.iter().map(|&(sequence, ..)| sequence);
        let nearest = early.min_by_key(|&sequence| sequence.wrapping_sub(next));
        let Some(nearest) = nearest.filter(|&nearest| !before(acknowledged, nearest)) else { return false };
        let len = nearest.wrapping_sub(next) as usize;
        let outcome = each(Event::Gap { bytes: &buffer.pending, len });
        buffer.pending.clear();
        stream.next = nearest;
        match outcome {
            Consumed::Used(_) => {
                self.deliver_early(stream, owner, &mut each);
            }
            _ => self.close(stream, owner),
        }
        true
    }

    /// Returns true if the buffer holds bytes that were not used yet.
    #[must_use]
    pub fn has_unused(&mut self, stream: &Stream, owner: Owner<'_>) -> bool {
        self.held(stream, owner).is_some_and(|buffer| !buffer.pending.is_empty())
    }

    /// Delivers the unused bytes again, and no others.
    pub fn again(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        mut each: impl FnMut(Event<'_>) -> Consumed,
    ) {
        let Some(pending) = self.held(stream, owner).map(|buffer| &mut buffer.pending) else { return };
        if pending.is_empty() {
            return;
        }
        match each(Event::Data { bytes: pending, new: 0 }) {
            Consumed::Used(used) => {
                pending.drain(..used.min(pending.len()));
                self.give_back_if_empty(stream, owner);
            }
            _ => self.close(stream, owner),
        }
    }

    /// Reports the end of the flow, and releases the stream's buffer.
    pub fn end(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        acknowledged: bool,
        mut each: impl FnMut(Event<'_>) -> Consumed,
    ) {
        if stream.state == State::Open {
            let bytes = self.held(stream, owner).map(|buffer| buffer.pending.as_slice()).unwrap_or_default();
            each(Event::End { bytes, acknowledged });
        }
        self.close(stream, owner);
    }

    /// Stops following the stream, and releases its buffer.
    pub fn close(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        stream.state = State::Closed;
        self.give_back(stream, owner);
    }

    /// Stops following the stream, and counts the reason.
    fn give_up(&mut self, stream: &mut Stream, owner: Owner<'_>, why: StreamLoss) {
        self.lost[why as usize] += 1;
        self.close(stream, owner);
    }

    fn give_back(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        let is_held = self.held(stream, owner).is_some();
        if let Some(index) = stream.buffer.take()
            && is_held
        {
            self.release(index);
        }
    }

    /// Releases a buffer for the next stream.
    fn release(&mut self, index: BufferIndex) {
        self.shares.leave(index.get());
        let Some(buffer) = self.buffers.get_mut(index.get()) else { return };
        buffer.owner = None;
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

    /// Returns the stream's buffer, unless it was taken from the stream.
    #[inline]
    fn held(&mut self, stream: &Stream, owner: Owner<'_>) -> Option<&mut Buffer> {
        self.buffers.get_mut(stream.buffer?.get()).filter(|buffer| buffer.owner == Some(owner.id()))
    }

    /// Returns the stream's buffer. A stream that has none gets one.
    fn buffer(&mut self, stream: &mut Stream, owner: Owner<'_>) -> Option<&mut Buffer> {
        if self.held(stream, owner).is_none() {
            let index = self.free.pop().or_else(|| self.empty.pop()).or_else(|| {
                self.buffers.push(Buffer::default());
                BufferIndex::new(self.buffers.len() - 1)
            })?;
            stream.buffer = Some(index);
            let host = owner.host(&self.hasher);
            let buffer = self.buffers.get_mut(index.get())?;
            self.spare -= std::mem::take(&mut buffer.spare);
            buffer.owner = Some(owner.id());
            self.shares.enter(index.get(), host);
        }
        self.held(stream, owner)
    }

    /// Charges for a buffer that may have grown, and takes the buffers of others if the memory is used up.
    fn grown(&mut self, stream: &Stream) {
        let Some(index) = stream.buffer else { return };
        let Some(buffer) = self.buffers.get(index.get()) else { return };
        self.shares.charge(index.get(), buffer.room().max(MIN_COST));
        while let Some(taken) = self.shares.to_give_back(index.get()).and_then(BufferIndex::new) {
            self.release(taken);
            self.lost[StreamLoss::BufferTaken as usize] += 1;
        }
    }

    fn keep_early(&mut self, stream: &mut Stream, owner: Owner<'_>, sequence: u32, payload: &[u8]) -> bool {
        let kept = self.buffer(stream, owner).is_some_and(|buffer| {
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
        if kept {
            self.grown(stream);
        } else {
            self.give_up(stream, owner, StreamLoss::Hole);
        }
        kept
    }

    /// Delivers new bytes. Returns `true` if the stream was given up.
    fn deliver(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        new: &[u8],
        each: &mut impl FnMut(Event<'_>) -> Consumed,
    ) -> bool {
        stream.next = stream.next.wrapping_add(new.len() as u32);
        if stream.keeps() && self.has_unused(stream, owner) {
            return self.deliver_behind(stream, owner, new, each);
        }
        let Consumed::Used(used) = each(Event::Data { bytes: new, new: 0 }) else {
            self.close(stream, owner);
            return false;
        };
        let rest = new.get(used..).unwrap_or_default();
        if rest.is_empty() {
            self.give_back_if_empty(stream, owner);
            return false;
        }
        let buffer = if rest.len() <= MAX_PENDING { self.buffer(stream, owner) } else { None };
        let kept = buffer.map(|buffer| buffer.pending.extend_from_slice(rest)).is_some();
        self.goes_on(stream, owner, kept)
    }

    /// Does the same behind bytes that are buffered.
    fn deliver_behind(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        new: &[u8],
        each: &mut impl FnMut(Event<'_>) -> Consumed,
    ) -> bool {
        let Some(pending) = self.held(stream, owner).map(|buffer| &mut buffer.pending) else { return false };
        let old = pending.len();
        pending.extend_from_slice(new);
        let Consumed::Used(used) = each(Event::Data { bytes: pending, new: old }) else {
            self.close(stream, owner);
            return false;
        };
        pending.drain(..used.min(pending.len()));
        let kept = pending.len() <= MAX_PENDING;
        if kept {
            self.give_back_if_empty(stream, owner);
        }
        self.goes_on(stream, owner, kept)
    }

    /// Takes note of what is kept of an unfinished message; where it could not be `kept`, the stream is given up.
    /// Returns whether it was.
    fn goes_on(&mut self, stream: &mut Stream, owner: Owner<'_>, kept: bool) -> bool {
        if kept {
            self.grown(stream);
        } else {
            self.give_up(stream, owner, StreamLoss::Unfinished);
        }
        !kept
    }

    /// Releases the stream's buffer if it is empty.
    #[inline]
    fn give_back_if_empty(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        if self.held(stream, owner).is_some_and(|buffer| buffer.is_empty()) {
            self.give_back(stream, owner);
        }
    }

    /// Delivers early segments that are in order now. Returns `true` if the stream was given up.
    fn deliver_early(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        each: &mut impl FnMut(Event<'_>) -> Consumed,
    ) -> bool {
        loop {
            // The delivery may change the buffer.
            let mut new = std::mem::take(&mut self.in_order);
            let next = stream.next;
            let found = self.held(stream, owner).is_some_and(|buffer| buffer.take_early(next, &mut new));
            let given_up = found && !new.is_empty() && self.deliver(stream, owner, &new, each);
            self.in_order = new;
            if given_up || !found {
                return given_up;
            }
            self.give_back_if_empty(stream, owner);
        }
    }
}

impl FlowMeta {
    /// Returns the owner of the bytes of one direction. `flow` is the flow's place in the table.
    pub(crate) const fn owner(&self, flow: FlowIndex, direction: Direction) -> Owner<'_> {
        let low_sends = matches!(direction, Direction::ToServer) == self.client_is_low;
        Owner { flow, direction, key: &self.key, low_sends }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mirror_packet::{Packet, SessionKey, Transport, Vlans};
    use mirror_xdp_common::Address;

    use super::*;

    /// Returns the key of a connection from a host to 10.0.0.1.
    fn key(client: u32) -> FlowKey {
        let packet = Packet {
            source: Address::from_v4(client),
            destination: Address::from_v4(Ipv4Addr::new(10, 0, 0, 1).to_bits()),
            ipv6: false,
            protocol: 6,
            source_port: 4000,
            destination_port: 80,
            vlans: Vlans::new(),
            depth: 0,
            direct: true,
            overlong: false,
            len: 60,
            transport: Transport::Ip,
            tunnelled: None,
        };
        FlowKey::of_packet(&packet, SessionKey::default()).0
    }

    /// A stream and its owner.
    struct Sender {
        stream: Stream,
        flow: u32,
        key: FlowKey,
    }

    impl Sender {
        /// Creates the client of flow number `flow`, at 10.1.0.0 plus `host`.
        fn new(flow: usize, host: u32) -> Self {
            let key = key(Ipv4Addr::new(10, 1, 0, 0).to_bits() + host);
            Self { stream: Stream::default(), flow: flow as u32, key }
        }

        /// Sends a segment. Returns true if the stream was given up.
        fn send(
            &mut self,
            streams: &mut Streams,
            sequence: u32,
            payload: &[u8],
            each: impl FnMut(Event<'_>) -> Consumed,
        ) -> bool {
            let owner = Owner {
                flow: FlowIndex::of(self.flow),
                direction: Direction::ToServer,
                key: &self.key,
                low_sends: false,
            };
            let mut each = each;
            streams.miss(&mut self.stream, owner, &mut each)
                | streams.segment(&mut self.stream, owner, Some(1), sequence, payload, each)
        }
    }

    /// Has streams buffer `len` bytes each behind a hole, fills the holes, and returns the bytes of memory
    /// still held.
    fn fill_holes(streams: &mut Streams, count: usize, len: usize) -> usize {
        let segment = vec![0; len];
        let mut open: Vec<_> = (0..count).map(|flow| Sender::new(flow, flow as u32)).collect();
        for sender in &mut open {
            assert!(!sender.send(streams, 2, &segment, |_| Consumed::Used(0)));
        }
        let mut delivered = 0;
        for sender in &mut open {
            sender.send(streams, 1, &[1], |event| match event {
                Event::Data { bytes, .. } => {
                    delivered += bytes.len();
                    Consumed::Used(bytes.len())
                }
                _ => Consumed::Used(0),
            });
        }
        assert_eq!(delivered, count * (1 + len), "each byte once");
        assert_eq!(streams.shares.cost(), 0);
        assert_eq!(streams.shares.oldest(), None);
        streams.buffers.iter().map(Buffer::room).sum()
    }

    const MANY: usize = 512;

    #[test]
    fn what_a_burst_needed_is_not_kept_for_ever() {
        let mut streams = Streams::new(1);
        let kept = fill_holes(&mut streams, MANY, MAX_EARLY);
        assert!(kept <= MAX_SPARE, "{kept} bytes");
        assert_eq!(streams.spare, kept);
        assert_eq!(streams.free.len() + streams.empty.len(), MANY);
        assert_eq!(streams.lost(), [0; StreamLoss::COUNT]);
    }

    #[test]
    fn few_streams_go_on_with_the_memory_of_others() {
        let mut streams = Streams::new(1);
        fill_holes(&mut streams, MANY, MAX_EARLY);
        for _ in 0..100 {
            let held: Vec<_> = streams.buffers.iter().map(Buffer::room).collect();
            fill_holes(&mut streams, 8, MAX_EARLY);
            assert_eq!(held, streams.buffers.iter().map(Buffer::room).collect::<Vec<_>>());
        }
    }

    /// Begins a message that never ends.
    fn hold(streams: &mut Streams, flow: usize, host: u32) -> Sender {
        let mut sender = Sender::new(flow, host);
        assert!(!sender.send(streams, 1, b"GET / HTTP/1.1\r\n", |_| Consumed::Used(0)));
        sender
    }

    /// Sends a message in two segments. Returns true if it arrives as a whole.
    fn in_two(streams: &mut Streams, flow: usize, host: u32) -> bool {
        let mut sender = hold(streams, flow, host);
        let mut whole = false;
        sender.send(streams, 17, b"\r\n", |event| {
            if let Event::Data { bytes, .. } = event {
                whole = bytes == b"GET / HTTP/1.1\r\n\r\n";
                return Consumed::Used(bytes.len());
            }
            Consumed::Used(0)
        });
        whole
    }

    #[test]
    fn hostile_open_messages_of_one_host_take_nothing_from_others() {
        let mut streams = Streams::new(1);
        let mut other = hold(&mut streams, 0, 1);
        for flow in 1..100_000 {
            hold(&mut streams, flow, 2);
            if flow.is_multiple_of(1000) {
                assert!(in_two(&mut streams, 200_000 + flow, 3));
            }
        }
        assert!(streams.shares.cost() <= MAX_HELD);
        // The message that another host began before them is still there.
        let mut seen = 0;
        other.send(&mut streams, 17, b"\r\n", |event| {
            if let Event::Data { bytes, .. } = event {
                seen = bytes.len();
            }
            Consumed::Used(0)
        });
        assert_eq!(seen, 18);
        let taken = streams.lost()[StreamLoss::BufferTaken as usize];
        assert!(taken > 90_000, "{taken}");
    }

    #[test]
    fn hostile_open_messages_of_many_hosts_leave_room_for_what_ends_soon() {
        let mut streams = Streams::new(1);
        let mut first = hold(&mut streams, 0, 0);
        for flow in 1..50_000 {
            hold(&mut streams, flow, flow as u32);
            if flow.is_multiple_of(1000) {
                assert!(in_two(&mut streams, 200_000 + flow, 7));
            }
        }
        assert!(streams.shares.cost() <= MAX_HELD);
        // The oldest stream has lost its buffer, and is informed with its next bytes.
        let mut events = Vec::new();
        first.send(&mut streams, 17, b"\r\n", |event| {
            events.push(match event {
                Event::Gap { bytes, len } => (bytes.len(), len),
                Event::Data { bytes, .. } => (bytes.len(), usize::MAX),
                Event::End { .. } => unreachable!("the flow goes on"),
            });
            Consumed::Used(2)
        });
        assert_eq!(events, [(0, 0), (2, usize::MAX)]);
    }

    #[test]
    fn memory_of_streams_stays_below_its_bound_whatever_they_keep() {
        let mut streams = Streams::new(1);
        for flow in 0..4_000 {
            let mut sender = Sender::new(flow, flow as u32 % 100);
            sender.send(&mut streams, 2, &vec![0; MAX_EARLY], |_| Consumed::Used(0));
            let held: usize = streams.buffers.iter().map(Buffer::room).sum();
            assert!(held <= MAX_HELD + MAX_SPARE + 2 * MAX_EARLY, "{held}");
        }
    }
}
