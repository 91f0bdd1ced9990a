//! In-order data of TCP connections.
//!
//! A segment behind a hole is buffered until the hole is filled. A hole becomes a gap if the other side has
//! acknowledged it and it is not filled soon, or if more data follows it than may be buffered; the stream
//! continues behind it. Mirrors also reorder the two directions of a connection: data that acknowledges bytes
//! of the other side that were not seen yet waits for them, as long as a hole would. Data that an analyzer
//! cannot use yet is buffered until more comes. All this is bounded, for each direction of a connection and in
//! total; most segments pass through without a copy. Connections reuse the buffers.
//!
//! Hosts share the memory of all buffers (`fair`). When it is used up, the buffer of another stream is taken.
//! That stream sees a gap and continues behind it.

mod waiting;

use std::collections::VecDeque;
use std::num::NonZeroU32;

use mirror_packet::fair::Shares;
use mirror_packet::{Direction, FlowKey, FlowKeyHasher, SECOND};
pub use mirror_protocols::protocol::{Consumed, Event};

use self::waiting::Waiting;
use crate::meta::{FlowIndex, FlowMeta};
use crate::sequence::before;

/// Bytes that one direction may buffer for its analyzer: a DNS message with its length.
const MAX_PENDING: usize = 2 + 65_535;
/// Bytes of one direction that may wait: for a hole to be filled, or for the other direction.
const MAX_EARLY: usize = 1 << 20;
/// Segments of one direction that may wait.
const MAX_EARLY_SEGMENTS: usize = 1024;
/// Minimum number of bytes charged for a buffer. This limits the number of buffers.
const MIN_COST: usize = 4096;
/// Bytes of memory that unused buffers hold for the next streams, in total. Without this bound, each would
/// grow to the most that any stream ever buffered.
const MAX_SPARE: usize = 1 << 20;
/// Nanoseconds within which bytes that the other side has acknowledged may still come.
const GRACE: u64 = SECOND / 4;
/// Bytes of a direction that may come in the meantime.
const GRACE_BYTES: u32 = 256 * 1024;
/// Nanoseconds within which a hole may be filled if the other side is not seen.
const GRACE_UNHEARD: u64 = SECOND;
/// Bytes that a side may have acknowledged before they are seen. More was never sent.
const MAX_UNSEEN: u32 = 1 << 20;
/// Bytes that a stream may lack in front of data that is not acknowledged. More is not skipped: any host can
/// send such a segment, and the stream would never return.
const MAX_SKIP: u32 = 16 << 20;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    state: State,
    /// The buffer holds bytes that no analyzer has used.
    unfinished: bool,
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

    /// Returns the sequence number of the next byte of a stream that is followed. `first` is that of its
    /// first byte.
    #[must_use]
    pub const fn position(&self, first: Option<u32>) -> Option<u32> {
        match self.state {
            State::New => first,
            State::Open => Some(self.next),
            State::Closed => None,
        }
    }
}

/// Returns true if a side that was seen up to `seen` may have sent bytes before `acknowledged` that were not
/// seen yet.
#[must_use]
pub const fn is_unseen(seen: u32, acknowledged: u32) -> bool {
    let ahead = acknowledged.wrapping_sub(seen);
    0 < ahead && ahead <= MAX_UNSEEN
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

/// The time of an event, and its place in the two streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Sequence number behind the event's bytes, or behind its gap.
    pub end: u32,
    /// The acknowledgement number that came with the bytes: the sender had received all earlier bytes of the
    /// other side.
    pub acknowledged: u32,
}

impl Mark {
    /// The mark of an event that is not in a stream.
    pub const NONE: Self = Self { time: 0, end: 0, acknowledged: 0 };
}

/// The data of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The captured bytes.
    pub payload: &'a [u8],
    /// Number of bytes behind them that were not captured.
    pub missing: usize,
    /// The acknowledgement number that came with them.
    pub acknowledged: u32,
    /// Time of arrival, in nanoseconds since the epoch.
    pub time: u64,
    /// Bytes of the other side that this one has received were not seen yet, and come first.
    pub waits: bool,
    /// The other side was seen, so it will acknowledge the bytes.
    pub heard: bool,
}

impl Incoming<'_> {
    const fn mark(&self, end: u32) -> Mark {
        Mark { time: self.time, end, acknowledged: self.acknowledged }
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

/// A segment that waits. Its bytes are in [`Buffer::early_bytes`].
#[derive(Clone, Copy, Debug)]
struct Early {
    sequence: u32,
    start: usize,
    len: usize,
    /// Bytes behind them that were not captured.
    missing: usize,
    acknowledged: u32,
    /// It waits for bytes of the other side, see [`Incoming::waits`].
    waits: bool,
    /// Time of arrival, and [`Buffer::received`] at that time.
    time: u64,
    received: u32,
    /// The same for the acknowledgement of the bytes in front of it; no time if there was none.
    passed: Option<(u64, u32)>,
}

impl Early {
    /// Returns the sequence number behind the segment.
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add((self.len + self.missing) as u32)
    }
}

/// The wait of the first early segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// There is a hole in front of it. Otherwise it waits for bytes of the other side that it acknowledges.
    pub is_hole: bool,
    /// The segment's time and acknowledgement, and its first sequence number.
    pub mark: Mark,
    /// The bytes that it waits for will not come any more.
    pub over: bool,
}

/// The time at which a wait is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The time of a packet, in nanoseconds since the epoch.
    Now(u64),
    /// The end of the flow.
    End,
}

#[derive(Debug, Default)]
struct Buffer {
    /// The stream that uses the buffer, see [`Owner::id`].
    owner: Option<u64>,
    pending: Vec<u8>,
    /// Early segments by sequence number. They may overlap.
    early: VecDeque<Early>,
    early_bytes: Vec<u8>,
    /// Number of those bytes that belong to early segments. The others are left over.
    early_used: usize,
    /// Early bytes that have come in total, modulo 2³².
    received: u32,
    /// The highest acknowledgement number that came since there are early segments.
    passed: Option<u32>,
    /// The buffer's part in [`Streams::spare`].
    spare: usize,
}

impl Buffer {
    /// Returns the bytes of memory that the buffer holds.
    fn room(&self) -> usize {
        self.pending.capacity() + self.early_bytes.capacity() + self.early.capacity() * size_of::<Early>()
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.early.is_empty()
    }

    /// Removes all early segments.
    fn clear_early(&mut self) {
        self.early.clear();
        self.early_bytes.clear();
        self.early_used = 0;
        self.passed = None;
    }

    /// Returns true if another early segment of that length may be buffered.
    fn has_room_for(&self, len: usize) -> bool {
        self.early.len() < MAX_EARLY_SEGMENTS && self.early_used + len <= MAX_EARLY
    }

    /// Adds an early segment. `next` is the sequence number of the stream's next byte.
    fn put_early(&mut self, next: u32, incoming: &Incoming<'_>) {
        let Incoming { sequence, payload, missing, acknowledged, time, waits, .. } = *incoming;
        let known = if before(sequence, next) { next.wrapping_sub(sequence) as usize } else { 0 };
        let mut at = known;
        let rank = |sequence: u32| sequence.wrapping_sub(next).cast_signed();
        let sequence = sequence.wrapping_add(known as u32);
        let place = self.early.partition_point(|early| rank(early.sequence) <= rank(sequence));
        // Of bytes that came before, the first copy stays.
        if let Some(last) = place.checked_sub(1).and_then(|last| self.early.get(last))
            && before(sequence, last.end())
        {
            at += last.end().wrapping_sub(sequence) as usize;
        }
        let total = payload.len() + missing;
        if at >= total {
            return;
        }
        let sequence = incoming.sequence.wrapping_add(at as u32);
        let place = self.early.partition_point(|early| rank(early.sequence) <= rank(sequence));
        let new = payload.get(at..).unwrap_or_default();
        if self.early_bytes.len() - self.early_used > MAX_EARLY / 2 {
            self.compact();
        }
        let start = self.early_bytes.len();
        self.early_bytes.extend_from_slice(new);
        self.early_used += new.len();
        self.received = self.received.wrapping_add(new.len() as u32);
        let passed = self.passed.filter(|&passed| !before(passed, sequence));
        self.early.insert(
            place,
            Early {
                sequence,
                start,
                len: new.len(),
                missing: total - at - new.len(),
                acknowledged,
                waits,
                time,
                received: self.received,
                passed: passed.map(|_| (time, self.received)),
            },
        );
    }

    /// Drops the bytes that are left over.
    fn compact(&mut self) {
        let mut packed = Vec::with_capacity(2 * self.early_used);
        for early in &mut self.early {
            let start = packed.len();
            let bytes = self.early_bytes.get(early.start..early.start + early.len);
            packed.extend_from_slice(bytes.unwrap_or_default());
            early.start = start;
        }
        self.early_bytes = packed;
    }

    /// Removes the first early segment, and replaces `new` by its bytes from number `next` on. Returns it with
    /// those bytes left out that came before.
    fn take_early(&mut self, next: u32, new: &mut Vec<u8>) -> Option<Early> {
        let early = self.early.pop_front()?;
        self.early_used -= early.len;
        let known = next.wrapping_sub(early.sequence) as usize;
        let of_bytes = known.min(early.len);
        new.clear();
        let bytes = self.early_bytes.get(early.start + of_bytes..early.start + early.len);
        new.extend_from_slice(bytes.unwrap_or_default());
        if self.early.is_empty() {
            self.clear_early();
        }
        let missing = early.missing - (known - of_bytes).min(early.missing);
        Some(Early { sequence: next, len: early.len - of_bytes, missing, ..early })
    }

    /// Returns the wait of the first early segment, if there is one.
    fn wait(&self, next: u32, heard: bool, until: Until) -> Option<Wait> {
        let front = self.early.front()?;
        let is_over = |(since, received): (u64, u32), grace: u64| match until {
            Until::Now(now) => {
                now.saturating_sub(since) >= grace || self.received.wrapping_sub(received) >= GRACE_BYTES
            }
            Until::End => true,
        };
        let is_hole = before(next, front.sequence);
        let over = match front.passed {
            _ if !is_hole => is_over((front.time, front.received), GRACE),
            Some(passed) => is_over(passed, GRACE),
            // Without acknowledgements, only the time tells that a hole will not be filled.
            None => !heard && is_over((front.time, self.received), GRACE_UNHEARD),
        };
        let mark = Mark { time: front.time, end: front.sequence, acknowledged: front.acknowledged };
        Some(Wait { is_hole, mark, over })
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
    /// Bytes of memory that the buffers in `free` hold, and their bound.
    spare: usize,
    max_spare: usize,
    /// Buffers that have early segments, or had some, and the times at which they are looked at.
    waiting: Waiting,
    /// The latest time seen, in nanoseconds since the epoch.
    now: u64,
    /// An early segment while it is delivered.
    in_order: Vec<u8>,
}

impl Streams {
    /// Creates the set without buffers, which hold at most `most` bytes. The seed keys the hash of hosts.
    #[must_use]
    pub fn new(seed: u64, most: usize) -> Self {
        Self {
            hasher: FlowKeyHasher::new(seed),
            buffers: Vec::new(),
            shares: Shares::new(most),
            lost: [0; StreamLoss::COUNT],
            free: Vec::new(),
            empty: Vec::new(),
            spare: 0,
            max_spare: MAX_SPARE.min(most / 4),
            waiting: Waiting::new(),
            now: 0,
            in_order: Vec::new(),
        }
    }

    /// Advances the time from which data waits.
    #[inline]
    pub(crate) const fn advance(&mut self, now: u64) {
        if now > self.now {
            self.now = now;
        }
    }

    /// Returns the number of losses, by [`StreamLoss`].
    #[must_use]
    pub const fn lost(&self) -> [u64; StreamLoss::COUNT] {
        self.lost
    }

    /// Reports a gap if unused bytes were in a buffer that was taken from the stream. Returns true if so.
    pub fn miss(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        mark: Mark,
        mut each: impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        if !stream.keeps() || self.held(stream, owner).is_some() {
            return false;
        }
        stream.buffer = None;
        // Early bytes that are gone are a hole again.
        if !std::mem::take(&mut stream.unfinished) {
            return false;
        }
        let mark = Mark { end: stream.next, ..mark };
        if !matches!(each(Event::Gap { bytes: &[], len: 0 }, mark), Consumed::Used(_)) {
            self.close(stream, owner);
        }
        true
    }

    /// Processes a segment's data. `first` is the number of the stream's first byte; a stream whose beginning
    /// is unknown is not followed. Returns true if bytes are missing.
    pub fn segment(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        first: Option<u32>,
        incoming: &Incoming<'_>,
        mut each: impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        if let (State::New, Some(first)) = (stream.state, first) {
            (stream.state, stream.next) = (State::Open, first);
        }
        if stream.state != State::Open {
            return false;
        }
        if before(stream.next, incoming.sequence) || incoming.waits {
            return self.keep_early(stream, owner, incoming, &mut each);
        }
        self.in_order(stream, owner, incoming, &mut each)
    }

    /// Delivers a segment that is in order.
    #[inline]
    fn in_order(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        incoming: &Incoming<'_>,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        let Incoming { sequence, payload, missing, .. } = *incoming;
        let known = stream.next.wrapping_sub(sequence) as usize;
        let mut gap = false;
        if let Some(new) = payload.get(known..).filter(|new| !new.is_empty()) {
            let mark = incoming.mark(stream.next.wrapping_add(new.len() as u32));
            gap = self.deliver(stream, owner, new, mark, each);
        }
        if missing > 0 {
            let mark = incoming.mark(sequence.wrapping_add((payload.len() + missing) as u32));
            gap |= self.skip(stream, owner, mark, each);
        }
        gap
    }

    /// Processes an acknowledgement of all bytes before `acknowledged` that came at `time`. Holes among them
    /// are not filled any more, or soon.
    pub fn acknowledge(&mut self, stream: &Stream, owner: Owner<'_>, acknowledged: u32, time: u64) {
        let next = stream.next;
        let Some(buffer) = self.held(stream, owner) else { return };
        // Nobody can have received bytes that were not sent.
        let Some(sent) = buffer.early.back().map(Early::end) else { return };
        let passed = buffer.passed.unwrap_or(next);
        if !before(passed, acknowledged) || before(sent.wrapping_add(MAX_UNSEEN), acknowledged) {
            return;
        }
        let from = buffer.early.partition_point(|early| !before(passed, early.sequence));
        buffer.passed = Some(acknowledged);
        let passed = Some((time, buffer.received));
        for early in buffer.early.range_mut(from..) {
            if before(acknowledged, early.sequence) {
                break;
            }
            early.passed = early.passed.or(passed);
        }
    }

    /// Delivers the early segments that need not wait any more. The other side was seen up to `seen`. `time`
    /// is set if a hole was filled then; otherwise the segments have their own times. Returns true if
    /// bytes are missing.
    pub fn release(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        seen: Option<u32>,
        time: Option<u64>,
        mut each: impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        let mut gap = false;
        loop {
            let next = stream.next;
            let Some(buffer) = self.held(stream, owner) else { break };
            let Some(front) = buffer.early.front() else { break };
            let waits = front.waits && seen.is_some_and(|seen| before(seen, front.acknowledged));
            let is_old = !before(next, front.end());
            if before(next, front.sequence) || waits && !is_old {
                break;
            }
            gap |= self.take(stream, owner, time, &mut each);
        }
        gap
    }

    /// Delivers the first early segment, which is in order.
    fn take(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        time: Option<u64>,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        // The delivery may change the buffer.
        let mut new = std::mem::take(&mut self.in_order);
        let next = stream.next;
        let taken = self.held(stream, owner).and_then(|buffer| buffer.take_early(next, &mut new));
        let mut gap = false;
        if let Some(early) = taken {
            let time = time.unwrap_or(early.time);
            let mark =
                Mark { time, end: next.wrapping_add(early.len as u32), acknowledged: early.acknowledged };
            if !new.is_empty() {
                gap = self.deliver(stream, owner, &new, mark, each);
            }
            if early.missing > 0 {
                gap |= self.skip(stream, owner, Mark { end: early.end(), ..mark }, each);
            }
        }
        self.in_order = new;
        self.give_back_if_empty(stream, owner);
        gap
    }

    /// Returns the wait of the first early segment, if there is one. `heard` is true if the other side was
    /// seen.
    #[must_use]
    pub fn wait(&mut self, stream: &Stream, owner: Owner<'_>, heard: bool, until: Until) -> Option<Wait> {
        let next = stream.next;
        self.held(stream, owner)?.wait(next, heard, until)
    }

    /// Lets the first early segment no longer wait for the other side.
    pub fn stop_waiting(&mut self, stream: &Stream, owner: Owner<'_>) {
        if let Some(front) = self.held(stream, owner).and_then(|buffer| buffer.early.front_mut()) {
            front.waits = false;
        }
    }

    /// Drops the early segments.
    pub fn drop_early(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        if let Some(buffer) = self.held(stream, owner) {
            buffer.clear_early();
        }
        self.give_back_if_empty(stream, owner);
    }

    /// Reports that the bytes before `mark.end` are missing. Returns true if there are such bytes.
    pub fn skip(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        mark: Mark,
        mut each: impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        if stream.state != State::Open || !before(stream.next, mark.end) {
            return false;
        }
        let len = mark.end.wrapping_sub(stream.next) as usize;
        stream.next = mark.end;
        stream.unfinished = false;
        let outcome = match self.held(stream, owner) {
            Some(buffer) => {
                let outcome = each(Event::Gap { bytes: &buffer.pending, len }, mark);
                buffer.pending.clear();
                outcome
            }
            None => each(Event::Gap { bytes: &[], len }, mark),
        };
        match outcome {
            Consumed::Used(_) => self.give_back_if_empty(stream, owner),
            _ => self.close(stream, owner),
        }
        true
    }

    /// Returns true if segments of the stream wait.
    #[must_use]
    pub fn has_early(&mut self, stream: &Stream, owner: Owner<'_>) -> bool {
        stream.keeps() && self.held(stream, owner).is_some_and(|buffer| !buffer.early.is_empty())
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
        mark: Mark,
        mut each: impl FnMut(Event<'_>, Mark) -> Consumed,
    ) {
        let mark = Mark { end: stream.next, ..mark };
        let Some(pending) = self.held(stream, owner).map(|buffer| &mut buffer.pending) else { return };
        if pending.is_empty() {
            return;
        }
        match each(Event::Data { bytes: pending, new: 0 }, mark) {
            Consumed::Used(used) => {
                pending.drain(..used.min(pending.len()));
                stream.unfinished = !pending.is_empty();
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
        stream.unfinished = false;
        self.give_back(stream, owner);
    }

    fn give_back(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        let is_held = self.held(stream, owner).is_some();
        if let Some(index) = stream.buffer.take()
            && is_held
        {
            self.give_up(index);
        }
    }

    /// Gives a buffer to the next stream.
    fn give_up(&mut self, index: BufferIndex) {
        self.shares.leave(index.get());
        self.waiting.remove(index);
        let Some(buffer) = self.buffers.get_mut(index.get()) else { return };
        buffer.owner = None;
        buffer.pending.clear();
        buffer.clear_early();
        if self.spare + buffer.room() > self.max_spare {
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
            self.give_up(taken);
            self.lost[StreamLoss::BufferTaken as usize] += 1;
        }
    }

    /// Has the stream's buffer looked at when its early segments have waited long enough.
    fn look_later(&mut self, stream: &Stream, now: u64) {
        self.advance(now);
        if let Some(index) = stream.buffer {
            self.waiting.add(index, self.now.saturating_add(GRACE));
        }
    }

    /// Returns a flow whose early segments may have waited long enough at this time. It is returned again
    /// later if they still wait.
    pub fn due(&mut self, now: u64) -> Option<FlowIndex> {
        self.advance(now);
        loop {
            let index = self.waiting.take_due(now)?;
            let Some(buffer) = self.buffers.get(index.get()) else { continue };
            if let Some(id) = buffer.owner
                && !buffer.early.is_empty()
            {
                self.waiting.add(index, self.now.saturating_add(GRACE));
                return Some(FlowIndex((id >> 1) as u32));
            }
        }
    }

    /// Buffers a segment that has to wait. Returns true if bytes are missing: there were too many.
    #[cold]
    fn keep_early(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        incoming: &Incoming<'_>,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        // No frame of a live capture is longer than the bound. The rest of a longer one counts as not captured.
        let payload = incoming.payload.get(..MAX_EARLY).unwrap_or(incoming.payload);
        let missing = incoming.missing + (incoming.payload.len() - payload.len());
        let incoming = &Incoming { payload, missing, ..*incoming };
        let len = payload.len();
        let mut gap = false;
        let is_full = |buffer: &mut Buffer| !buffer.early.is_empty() && !buffer.has_room_for(len);
        while self.held(stream, owner).is_some_and(is_full) {
            gap |= self.make_room(stream, owner, incoming.heard, each);
        }
        if stream.state != State::Open {
            return gap;
        }
        if gap && !before(stream.next, incoming.sequence) {
            return self.in_order(stream, owner, incoming, each) || gap;
        }
        let next = stream.next;
        if let Some(buffer) = self.buffer(stream, owner) {
            buffer.put_early(next, incoming);
        }
        self.look_later(stream, incoming.time);
        self.grown(stream);
        self.give_back_if_empty(stream, owner);
        gap
    }

    /// Delivers the first early segments, whatever they wait for. Returns true if bytes are missing.
    fn make_room(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        heard: bool,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        let next = stream.next;
        let Some(front) = self.held(stream, owner).and_then(|buffer| buffer.early.front().copied()) else {
            return false;
        };
        let mut gap = false;
        if before(next, front.sequence) {
            self.lost[StreamLoss::Hole as usize] += 1;
            let is_sent = front.passed.is_some() || !heard || front.sequence.wrapping_sub(next) <= MAX_SKIP;
            if !is_sent {
                self.drop_early(stream, owner);
                return false;
            }
            let mark = Mark { time: front.time, end: front.sequence, acknowledged: front.acknowledged };
            gap = self.skip(stream, owner, mark, &mut *each);
        }
        // One, since the others may still have to wait.
        gap | self.take(stream, owner, None, each)
    }

    /// Delivers new bytes. Returns true if bytes are missing: the analyzer wanted too many at once.
    fn deliver(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        new: &[u8],
        mark: Mark,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        stream.next = stream.next.wrapping_add(new.len() as u32);
        if stream.keeps() && self.has_unused(stream, owner) {
            return self.deliver_behind(stream, owner, new, mark, each);
        }
        let Consumed::Used(used) = each(Event::Data { bytes: new, new: 0 }, mark) else {
            self.close(stream, owner);
            return false;
        };
        let rest = new.get(used..).unwrap_or_default();
        if rest.is_empty() {
            stream.unfinished = false;
            self.give_back_if_empty(stream, owner);
            return false;
        }
        stream.unfinished = true;
        if let Some(buffer) = self.buffer(stream, owner) {
            buffer.pending.extend_from_slice(rest);
        }
        self.goes_on(stream, owner, mark, each)
    }

    /// Does the same behind bytes that are buffered.
    fn deliver_behind(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        new: &[u8],
        mark: Mark,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        let Some(pending) = self.held(stream, owner).map(|buffer| &mut buffer.pending) else { return false };
        let old = pending.len();
        pending.extend_from_slice(new);
        let Consumed::Used(used) = each(Event::Data { bytes: pending, new: old }, mark) else {
            self.close(stream, owner);
            return false;
        };
        pending.drain(..used.min(pending.len()));
        stream.unfinished = !pending.is_empty();
        self.goes_on(stream, owner, mark, each)
    }

    /// Accounts for the bytes that an analyzer has not used. If there are too many, they are a gap. Returns
    /// true if so.
    fn goes_on(
        &mut self,
        stream: &mut Stream,
        owner: Owner<'_>,
        mark: Mark,
        each: &mut impl FnMut(Event<'_>, Mark) -> Consumed,
    ) -> bool {
        let Some(buffer) = self.held(stream, owner) else { return false };
        if buffer.pending.len() <= MAX_PENDING {
            self.grown(stream);
            self.give_back_if_empty(stream, owner);
            return false;
        }
        let outcome = each(Event::Gap { bytes: &buffer.pending, len: 0 }, mark);
        buffer.pending.clear();
        stream.unfinished = false;
        self.lost[StreamLoss::Unfinished as usize] += 1;
        match outcome {
            Consumed::Used(_) => self.give_back_if_empty(stream, owner),
            _ => self.close(stream, owner),
        }
        true
    }

    /// Releases the stream's buffer if it is empty.
    #[inline]
    fn give_back_if_empty(&mut self, stream: &mut Stream, owner: Owner<'_>) {
        if self.held(stream, owner).is_some_and(|buffer| buffer.is_empty()) {
            self.give_back(stream, owner);
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
    use proptest::prelude::*;

    use super::*;

    const MAX_HELD: usize = 32 << 20;

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
            network: &[],
            header_len: 0,
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
            let mark = Mark::default();
            let incoming = Incoming {
                sequence,
                payload,
                missing: 0,
                acknowledged: 0,
                time: 0,
                waits: false,
                heard: true,
            };
            let missed = streams.miss(&mut self.stream, owner, mark, |event, _| each(event));
            let gap = streams.segment(&mut self.stream, owner, Some(1), &incoming, |event, _| each(event));
            missed | gap | streams.release(&mut self.stream, owner, None, None, |event, _| each(event))
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
    /// Bytes that each of them has behind a hole.
    const WAITING: usize = 32 * 1024;

    /// A capture file may have segments that no network carries.
    #[test]
    fn hostile_segments_longer_than_all_that_may_wait_end() {
        let mut streams = Streams::new(1, MAX_HELD);
        let mut sender = Sender::new(0, 0);
        sender.send(&mut streams, 1, b"x", |_| Consumed::Used(0));
        sender.send(&mut streams, 100, &vec![0; MAX_EARLY + 1], |_| Consumed::Used(0));
        assert!(streams.buffers.iter().map(Buffer::room).sum::<usize>() < 3 * MAX_EARLY);
    }

    #[test]
    fn what_a_burst_needed_is_not_kept_for_ever() {
        let mut streams = Streams::new(1, MAX_HELD);
        let kept = fill_holes(&mut streams, MANY, WAITING);
        assert!(kept <= MAX_SPARE, "{kept} bytes");
        assert_eq!(streams.spare, kept);
        assert_eq!(streams.free.len() + streams.empty.len(), MANY);
        assert_eq!(streams.lost(), [0; StreamLoss::COUNT]);
    }

    #[test]
    fn few_streams_go_on_with_the_memory_of_others() {
        let mut streams = Streams::new(1, MAX_HELD);
        fill_holes(&mut streams, MANY, WAITING);
        for _ in 0..100 {
            let held: Vec<_> = streams.buffers.iter().map(Buffer::room).collect();
            fill_holes(&mut streams, 8, WAITING);
            assert_eq!(held, streams.buffers.iter().map(Buffer::room).collect::<Vec<_>>());
        }
    }

    proptest! {
        /// Segments in any order, with any overlap and any cut, give each byte of the stream at its place, or
        /// a gap; and nothing twice.
        #[test]
        fn what_is_delivered_is_the_stream_with_gaps(
            first in any::<u32>(),
            segments in prop::collection::vec((0_u32..200, 0_usize..40, 0_usize..3, any::<bool>()), 1..60),
        ) {
            let byte = |offset: u32| (offset % 251) as u8;
            let mut streams = Streams::new(1, MAX_HELD);
            let mut stream = Stream::default();
            let key = key(1);
            let owner =
                Owner { flow: FlowIndex::of(0), direction: Direction::ToServer, key: &key, low_sends: false };
            let (mut at, mut gaps, mut covered) = (0_u32, 0, [false; 256]);
            let mut each = |event: Event<'_>, mark: Mark| {
                let len = match event {
                    Event::Data { bytes, .. } => {
                        for (index, &found) in bytes.iter().enumerate() {
                            assert_eq!(found, byte(at + index as u32));
                        }
                        bytes.len()
                    }
                    Event::Gap { len, .. } => {
                        gaps += len;
                        len
                    }
                    Event::End { .. } => unreachable!("the flow goes on"),
                };
                at += len as u32;
                assert_eq!(mark.end, first.wrapping_add(at));
                Consumed::Used(len)
            };
            let mut sent = 0;
            for (start, len, missing, waits) in segments {
                let payload: Vec<_> = (start..start + len as u32).map(byte).collect();
                covered[start as usize..start as usize + len].fill(true);
                if len + missing > 0 {
                    sent = sent.max(start + (len + missing) as u32);
                }
                let incoming = Incoming {
                    sequence: first.wrapping_add(start),
                    payload: &payload,
                    missing,
                    acknowledged: 1,
                    time: 0,
                    waits,
                    heard: true,
                };
                streams.segment(&mut stream, owner, Some(first), &incoming, &mut each);
                streams.release(&mut stream, owner, Some(1), None, &mut each);
            }
            while let Some(wait) = streams.wait(&stream, owner, true, Until::End) {
                streams.skip(&mut stream, owner, wait.mark, &mut each);
                streams.release(&mut stream, owner, None, None, &mut each);
            }
            prop_assert_eq!(at, sent);
            let holes = covered[..sent as usize].iter().filter(|&&covered| !covered).count();
            prop_assert!(gaps >= holes, "{} bytes of {}", gaps, holes);
            prop_assert_eq!(streams.shares.cost(), 0);
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
        let mut streams = Streams::new(1, MAX_HELD);
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
        let mut streams = Streams::new(1, MAX_HELD);
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
        let mut streams = Streams::new(1, MAX_HELD);
        for flow in 0..4_000 {
            let mut sender = Sender::new(flow, flow as u32 % 100);
            for segment in 0..flow as u32 % 20 {
                sender.send(&mut streams, 2 + (segment << 16), &vec![0; 1 << 16], |_| Consumed::Used(0));
            }
            let held: usize = streams.buffers.iter().map(Buffer::room).sum();
            assert!(held <= MAX_HELD + MAX_SPARE + 2 * MAX_EARLY, "{held}");
        }
    }
}
