//! Copies of frames on their way from a worker to another thread.
//!
//! A [`Copier`] is the worker's end. It applies the filter and copies matching frames into a ring of bytes,
//! each behind a [`Head`]. When the ring is full, or more frames match than the rate allows, it drops and
//! counts the copy; the worker never waits. A [`Copies`] is the other end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mirror_engine::hooks::Observer;
use mirror_packet::{FrameInfo, MirrorSession};
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::{Address, Vni};
use rtrb::{Consumer, Producer, RingBuffer};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::expression::Expression;

/// Stands for the VNI of a frame without one.
const NO_VNI: u32 = u32::MAX;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The header in front of each copied frame. It is also sent to `mirror-xdp tail`, which runs on the same
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// The time when the frame was seen, in nanoseconds since the epoch.
    pub time: u64,
    endpoint: u64,
    outer_source: [u64; 2],
    outer_destination: [u64; 2],
    vni: u32,
    flow_hash: u32,
    /// Bytes that the frame had on the wire.
    pub original_len: u32,
    /// Bytes of the copy that follows.
    pub len: u32,
}

impl Head {
    /// The size of a head in bytes.
    pub const LEN: usize = size_of::<Self>();

    fn new(info: &FrameInfo, len: usize) -> Self {
        let words = |address: Address| [address.high, address.low];
        Self {
            time: info.time,
            endpoint: info.mirror.map_or(0, |mirror| mirror.endpoint),
            outer_source: info.mirror.map_or([0; 2], |mirror| words(mirror.outer_source)),
            outer_destination: info.mirror.map_or([0; 2], |mirror| words(mirror.outer_destination)),
            vni: info.mirror.map_or(NO_VNI, |mirror| mirror.vni.get()),
            flow_hash: info.flow_hash.0,
            original_len: info.original_len,
            len: len as u32,
        }
    }

    /// Reads the head at the beginning of `bytes`; `None` if they are too short.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(head, _)| head)
    }

    /// Returns the metadata of the frame.
    #[must_use]
    pub fn info(&self) -> FrameInfo {
        let address = |[high, low]: [u64; 2]| Address::from_words(high, low);
        FrameInfo {
            time: self.time,
            original_len: self.original_len,
            flow_hash: FlowHash(self.flow_hash),
            // No filter needs it.
            side: None,
            mirror: Vni::new(self.vni).map(|vni| MirrorSession {
                vni,
                outer_source: address(self.outer_source),
                outer_destination: address(self.outer_destination),
                endpoint: self.endpoint,
            }),
        }
    }
}

/// The counters of an observer. `matched = copied + lost + limited`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCounts {
    /// Frames that matched the filter.
    pub matched: u64,
    /// Matching frames that were copied.
    pub copied: u64,
    /// Matching frames that did not fit into the ring: the reader is too slow.
    pub lost: u64,
    /// Matching frames beyond the requested rate.
    pub limited: u64,
}

impl std::iter::Sum for CopyCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, counts| Self {
            matched: sum.matched + counts.matched,
            copied: sum.copied + counts.copied,
            lost: sum.lost + counts.lost,
            limited: sum.limited + counts.limited,
        })
    }
}

/// The counters as the other thread sees them. Only the worker writes them.
#[derive(Debug, Default)]
struct Shared {
    matched: AtomicU64,
    copied: AtomicU64,
    lost: AtomicU64,
    limited: AtomicU64,
}

impl Shared {
    fn add(counter: &AtomicU64) {
        // No other thread writes, so no locked instruction is needed.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn counts(&self) -> CopyCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // `matched` is read last, so the others never exceed it.
        let (copied, lost, limited) = (get(&self.copied), get(&self.lost), get(&self.limited));
        CopyCounts { matched: get(&self.matched), copied, lost, limited }
    }
}

/// Selects the frames to copy.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Only frames that match; `None` for all frames.
    pub filter: Option<Arc<Expression>>,
    /// The maximum number of bytes copied of each frame; `None` for all bytes.
    pub snaplen: Option<usize>,
    /// The maximum number of frames a second; `None` for any number.
    pub rate: Option<u32>,
}

/// The worker's end of the ring.
pub struct Copier {
    wanted: Wanted,
    ring: Producer<u8>,
    shared: Arc<Shared>,
    /// The time when the current second of the rate limit began.
    second: u64,
    in_second: u32,
}

impl fmt::Debug for Copier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copier").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// The reader's end of the ring: the copies of one worker's frames.
#[derive(Debug)]
pub struct Copies {
    ring: Consumer<u8>,
    shared: Arc<Shared>,
}

/// Creates both ends of a ring with room for `room` bytes.
#[must_use]
pub fn pair(wanted: Wanted, room: usize) -> (Copier, Copies) {
    let (producer, consumer) = RingBuffer::new(room);
    let shared = Arc::new(Shared::default());
    let copier = Copier { wanted, ring: producer, shared: Arc::clone(&shared), second: 0, in_second: 0 };
    (copier, Copies { ring: consumer, shared })
}

impl Copier {
    /// Counts a frame, and returns true if the rate allows to copy it in this second.
    const fn is_within_rate(&mut self, time: u64) -> bool {
        let Some(rate) = self.wanted.rate else { return true };
        if time.wrapping_sub(self.second) >= SECOND {
            self.second = time;
            self.in_second = 0;
        }
        self.in_second += 1;
        self.in_second <= rate
    }
}

impl Observer for Copier {
    fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        if self.wanted.filter.as_ref().is_some_and(|filter| !filter.matches(info, frame)) {
            return;
        }
        Shared::add(&self.shared.matched);
        if !self.is_within_rate(info.time) {
            return Shared::add(&self.shared.limited);
        }
        let wanted = self.wanted.snaplen.and_then(|snaplen| frame.get(..snaplen)).unwrap_or(frame);
        if self.ring.slots() < Head::LEN + wanted.len() {
            return Shared::add(&self.shared.lost);
        }
        let head = Head::new(info, wanted.len());
        // One chunk for both, so the other end sees either head and frame or neither.
        let Ok(mut chunk) = self.ring.write_chunk(Head::LEN + wanted.len()) else {
            return Shared::add(&self.shared.lost);
        };
        let (first, second) = chunk.as_mut_slices();
        put(first, second, 0, head.as_bytes());
        put(first, second, Head::LEN, wanted);
        chunk.commit_all();
        Shared::add(&self.shared.copied);
    }
}

/// Writes `bytes` at the offset `at` into two slices that are treated as one.
fn put(first: &mut [u8], second: &mut [u8], at: usize, bytes: &[u8]) {
    let room = first.len().saturating_sub(at).min(bytes.len());
    let (head, rest) = bytes.split_at(room);
    if !head.is_empty() {
        first[at..at + room].copy_from_slice(head);
    }
    if !rest.is_empty() {
        let at = (at + room) - first.len();
        second[at..at + rest.len()].copy_from_slice(rest);
    }
}

impl Copies {
    /// Appends everything in the ring to `buffer`: whole frames, each behind its head.
    pub fn take(&mut self, buffer: &mut Vec<u8>) {
        let Ok(chunk) = self.ring.read_chunk(self.ring.slots()) else { return };
        let (first, second) = chunk.as_slices();
        buffer.extend_from_slice(first);
        buffer.extend_from_slice(second);
        chunk.commit_all();
    }

    /// Returns true if nothing more comes: the worker has dropped its end, and all bytes were taken.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // In this order, bytes written before the end are seen after it.
        self.ring.is_abandoned() && self.ring.is_empty()
    }

    /// Returns the counters so far.
    #[must_use]
    pub fn counts(&self) -> CopyCounts {
        self.shared.counts()
    }
}

/// Iterates over the frames in a buffer of copies.
pub fn frames(buffer: &[u8]) -> impl Iterator<Item = (Head, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let head = Head::read(rest)?;
        let end = Head::LEN.checked_add(head.len as usize)?;
        let frame = rest.get(Head::LEN..end)?;
        rest = &rest[end..];
        Some((head, frame))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(time: u64) -> FrameInfo {
        FrameInfo {
            time,
            original_len: 1500,
            flow_hash: FlowHash(9),
            mirror: Some(MirrorSession {
                vni: Vni::new(7).unwrap(),
                outer_source: Address::from_v4(0x0a00_0001),
                outer_destination: Address::from_words(1, 2),
                endpoint: 3,
            }),
            side: None,
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in_or_is_counted(
            lengths in prop::collection::vec((0_usize..200, any::<bool>()), 1..60),
            room in 100_usize..600,
        ) {
            let (mut end, mut copies) = pair(Wanted::default(), room);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for (number, (length, take)) in lengths.iter().enumerate() {
                let frame = vec![number as u8; *length];
                let before = copies.counts().copied;
                end.frame(&info(number as u64), &frame);
                if copies.counts().copied > before {
                    sent.push((number as u64, frame));
                }
                if *take {
                    copies.take(&mut received);
                }
            }
            copies.take(&mut received);
            let got: Vec<_> = frames(&received).map(|(head, frame)| (head.time, frame.to_vec())).collect();
            prop_assert_eq!(got, sent);
            let counts = copies.counts();
            prop_assert_eq!(counts.matched, lengths.len() as u64);
            prop_assert_eq!(counts.matched, counts.copied + counts.lost + counts.limited);
        }
    }

    #[test]
    fn what_is_known_of_a_frame_comes_along() {
        for info in [info(5), FrameInfo { mirror: None, ..info(6) }] {
            let (mut end, mut copies) = pair(Wanted { snaplen: Some(2), ..Wanted::default() }, 1000);
            end.frame(&info, b"abc");
            let mut buffer = Vec::new();
            copies.take(&mut buffer);
            let all: Vec<_> = frames(&buffer).collect();
            assert_eq!((all[0].0.info(), all[0].1), (info, &b"ab"[..]));
        }
    }

    #[test]
    fn the_rate_is_kept_second_by_second() {
        let (mut end, copies) = pair(Wanted { rate: Some(2), ..Wanted::default() }, 1000);
        for time in [SECOND, SECOND + 1, SECOND + 2, 2 * SECOND + 1] {
            end.frame(&info(time), b"");
        }
        assert_eq!((copies.counts().copied, copies.counts().limited), (3, 1));
        drop(end);
        assert!(!copies.has_ended(), "not all was taken");
    }
}
