//! How often rules matched: a table of fixed size, which workers share without locks.
//!
//! A cell holds the number of matches within a window, and the window's end. A key has its cell in one bucket; without a
//! free cell there, it takes the one whose window ends first. Two workers that count the same key at the same moment
//! may lose one of the two counts to a cell that is being taken, and nothing else.

use std::hash::{BuildHasher as _, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::FixedState;
use mirror_xdp_common::Address;

/// Cells of a bucket: one line of the CPU's cache.
const BUCKET: usize = 4;
/// Bits of the number of matches in a cell; the others are the end of the window in milliseconds, until the year 2109.
const COUNT_BITS: u32 = 22;
/// How often a worker tries to count while others count in the same cell.
const ATTEMPTS: usize = 16;
const NANOSECONDS: u64 = 1_000_000;

/// The matches that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) gid: u32,
    pub(super) sid: u32,
    /// A rule may have several limits, each with counts of its own.
    pub(super) kind: u8,
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) flow: u64,
    pub(super) vni: Option<u32>,
}

/// How matches are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The length from the first match on.
    pub(super) seconds: u32,
    /// The number of matches that is compared.
    pub(super) count: u32,
    /// Once there are more than `count`, the window ends so many seconds after that match; 0 for never.
    pub(super) hold: Option<u32>,
}

/// How often rules matched.
#[derive(Debug)]
pub struct Counts {
    buckets: Box<[[Cell; BUCKET]]>,
    hasher: FixedState,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Cell {
    /// The hash of the key; 0 for a free cell.
    tag: AtomicU64,
    /// The end of the window in milliseconds, and the number of matches.
    state: AtomicU64,
}

impl Counts {
    /// The largest number of matches that is counted.
    pub(super) const MAX: u32 = (1 << COUNT_BITS) - 2;

    /// Makes a table for at least so many keys, 16 bytes each. A secret seed keeps hosts from choosing addresses that
    /// share a bucket.
    #[must_use]
    pub fn new(keys: usize, seed: u64) -> Self {
        let buckets = keys.div_ceil(BUCKET).clamp(1, 1 << 24).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Default::default()).collect(),
            hasher: FixedState::with_seed(seed),
            evicted: AtomicU64::new(0),
        }
    }

    /// Returns the number of keys whose counts were given up for those of others, before their window had ended.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Returns the memory that the table takes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// Counts a match at a time in nanoseconds. Returns its number in its window.
    pub(super) fn count(&self, key: &Key, window: Window, time: u64) -> u32 {
        let now = time / NANOSECONDS;
        let hash = self.hasher.hash_one(key);
        let index = (hash >> 32) as usize & (self.buckets.len() - 1);
        let Some(bucket) = self.buckets.get(index) else { return 1 };
        let cell = self.cell(bucket, hash | 1, now);
        for _ in 0..ATTEMPTS {
            let old = cell.state.load(Ordering::Relaxed);
            let (new, number) = counted(old, window, now);
            if cell.state.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return number;
            }
        }
        counted(cell.state.load(Ordering::Relaxed), window, now).1
    }

    /// Returns the cell of a key, or takes one for it.
    fn cell<'b>(&self, bucket: &'b [Cell; BUCKET], tag: u64, now: u64) -> &'b Cell {
        let [first, ..] = bucket;
        let mut oldest = first;
        let mut end = u64::MAX;
        for cell in bucket {
            let known = cell.tag.load(Ordering::Relaxed);
            if known == tag {
                return cell;
            }
            let cell_end = if known == 0 { 0 } else { cell.state.load(Ordering::Relaxed) >> COUNT_BITS };
            if cell_end < end {
                (oldest, end) = (cell, cell_end);
            }
        }
        if end > now {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        oldest.state.store(0, Ordering::Relaxed);
        oldest.tag.store(tag, Ordering::Relaxed);
        oldest
    }
}

/// Counts a match in a cell. Returns the new state, and the number of the match in its window.
fn counted(state: u64, window: Window, now: u64) -> (u64, u32) {
    let (end, count) = (state >> COUNT_BITS, (state & ((1 << COUNT_BITS) - 1)) as u32);
    let after = |seconds: u32| (now + u64::from(seconds) * 1000).min(u64::MAX >> COUNT_BITS);
    if now >= end {
        return (after(window.seconds) << COUNT_BITS | 1, 1);
    }
    let number = (count + 1).min(Counts::MAX + 1);
    let end = match window.hold {
        Some(0) if number > window.count => u64::MAX >> COUNT_BITS,
        // Only the match that exceeds the count begins the hold.
        Some(seconds) if number == window.count + 1 => after(seconds),
        _ => end,
    };
    (end << COUNT_BITS | u64::from(number), number)
}
