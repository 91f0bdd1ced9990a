//! Flows that user space no longer wants to see. The program counts their packets and drops them; only
//! what ends a TCP connection still comes up.
//!
//! Each worker decides on a part of the table of its own, without locks: [`Shunter`]. The table is bounded;
//! where it is full, the flow goes that had no packet for the longest, and is seen again.
//!
//! Counts are exact. A flow's counters are read for the last time when no program can be running any more
//! that found the flow in the table: [`COOLING`] after it was taken out. Until then nobody else gets them.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::AsFd as _;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use mirror_engine::hooks::{Offload, ShuntId, Shunted};
use mirror_xdp_common::filter::{ShuntCounters, ShuntKey, shunt_group};
use mirror_xdp_common::hash::FlowHash;

use super::program::Error;

/// So long after a flow was taken out its counters are read, in nanoseconds. A program takes microseconds,
/// and nothing but the machine's own standstill interrupts it.
pub const COOLING: u64 = 1_000_000_000;

/// The kernel's maps, from which each worker gets its part.
pub(super) struct ShuntMaps {
    table: MapData,
    counters: MapData,
    generations: MapData,
    max: u32,
}

impl ShuntMaps {
    /// Takes the maps of a loaded object, which have room for `max` flows.
    pub(super) fn take(ebpf: &mut aya::Ebpf, max: u32) -> Result<Self, Error> {
        let mut map = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let (Map::HashMap(table), Map::Array(counters), Map::Array(generations)) =
            (map("SHUNTS")?, map("SHUNT_COUNTERS")?, map("SHUNT_GENERATIONS")?)
        else {
            return Err(Error::Missing("SHUNTS"));
        };
        Ok(Self { table, counters, generations, max })
    }

    /// The part of worker number `worker` of `workers`.
    pub(super) fn part(&self, worker: u32, workers: u32) -> Result<Shunter, Error> {
        let share = self.max / workers.max(1);
        let first = share * worker;
        Ok(Shunter {
            table: HashMap::try_from(Map::HashMap(again(&self.table)?))?,
            counters: Array::try_from(Map::Array(again(&self.counters)?))?,
            generations: Array::try_from(Map::Array(again(&self.generations)?))?,
            first,
            entries: (0..share).map(|_| None).collect(),
            free: (0..share).rev().collect(),
            reserve: share / 8,
            by_use: BTreeSet::new(),
            cooling: VecDeque::new(),
            // Different from what any other worker writes.
            stamp: (worker % 255 + 1) << 24,
            ahead: 0,
        })
    }
}

/// A second handle of a map.
fn again(map: &MapData) -> Result<MapData, MapError> {
    MapData::from_fd(map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?)
}

#[derive(Debug)]
struct Entry {
    keys: [ShuntKey; 2],
    group: u32,
    /// When the flow was known to be in use.
    used: u64,
}

/// One worker's part of the table. Times are nanoseconds of the worker's clock.
pub struct Shunter {
    table: HashMap<MapData, ShuntKey, u32>,
    counters: Array<MapData, ShuntCounters>,
    generations: Array<MapData, u32>,
    /// Place of this part in the kernel's counters, in flows.
    first: u32,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// How many places are kept free while flows that were taken out cool down.
    reserve: u32,
    /// The flows in the table, the least recently used first; a flow may have been used since.
    by_use: BTreeSet<(u64, ShuntId)>,
    /// Flows that were taken out, and when they have cooled down.
    cooling: VecDeque<(u64, ShuntId)>,
    stamp: u32,
    /// How far the worker's clock is ahead of the program's, `CLOCK_MONOTONIC`.
    ahead: u64,
}

impl fmt::Debug for Shunter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shunter")
            .field("first", &self.first)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Shunter {
    /// Sets how far the worker's clock is ahead of `CLOCK_MONOTONIC`, in nanoseconds.
    pub fn set_clock(&mut self, ahead: u64) {
        self.ahead = ahead;
    }

    /// Shunts a flow, whose two directions have these keys. `None` where there is no room, since many were
    /// taken out just now.
    pub fn shunt(
        &mut self,
        keys: [ShuntKey; 2],
        hash: FlowHash,
        now: u64,
    ) -> Result<Option<ShuntId>, MapError> {
        if self.free.len() <= self.reserve as usize {
            self.evict(now)?;
        }
        let Some(place) = self.free.pop() else { return Ok(None) };
        let id = ShuntId::at(place as usize);
        let group = shunt_group(hash);
        for (index, key) in self.places(id).into_iter().zip(&keys) {
            self.counters.set(index, [0, 0, now.wrapping_sub(self.ahead)], 0)?;
            self.table.insert(key, index, 0)?;
        }
        self.entries[place as usize] = Some(Entry { keys, group, used: now });
        self.by_use.insert((now, id));
        self.announce(group)?;
        Ok(Some(id))
    }

    /// What was counted so far, of each direction.
    pub fn counted(&self, id: ShuntId) -> Result<[Shunted; 2], MapError> {
        let [first, second] = self.places(id);
        let counted = |[packets, bytes, last]: ShuntCounters| Shunted {
            packets,
            bytes,
            last: last.wrapping_add(self.ahead),
        };
        Ok([counted(self.counters.get(&first, 0)?), counted(self.counters.get(&second, 0)?)])
    }

    /// Takes a flow out, if it is in the table still; its packets come up again. What was counted is told
    /// by [`Shunter::cooled`].
    pub fn release(&mut self, id: ShuntId, now: u64) -> Result<(), MapError> {
        let Some(entry) = self.entries.get_mut(id.place()).and_then(Option::take) else { return Ok(()) };
        self.by_use.remove(&(entry.used, id));
        for key in &entry.keys {
            match self.table.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.announce(entry.group)?;
        self.cooling.push_back((now.saturating_add(COOLING), id));
        Ok(())
    }

    /// A flow that was taken out long enough ago, with its final counts; also one that had to make room.
    pub fn cooled(&mut self, now: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, MapError> {
        let Some(&(_, id)) = self.cooling.front().filter(|(ready, _)| *ready <= now) else {
            return Ok(None);
        };
        self.cooling.pop_front();
        let counted = self.counted(id)?;
        self.free.push(id.place() as u32);
        Ok(Some((id, counted)))
    }

    /// How many flows are in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_use.len()
    }

    /// Whether no flow is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_use.is_empty()
    }

    /// Takes out the flow that had no packet for the longest.
    fn evict(&mut self, now: u64) -> Result<(), MapError> {
        while let Some(&(noted, id)) = self.by_use.first() {
            let used = self.counted(id)?.iter().map(|way| way.last).fold(noted, u64::max);
            if used == noted {
                return self.release(id, now);
            }
            // It was used since that was noted: its turn comes later.
            self.by_use.remove(&(noted, id));
            self.by_use.insert((used, id));
            if let Some(entry) = &mut self.entries[id.place()] {
                entry.used = used;
            }
        }
        Ok(())
    }

    /// Has the program forget what it remembers of the flows of a group.
    fn announce(&mut self, group: u32) -> Result<(), MapError> {
        let counter = self.stamp.wrapping_add(1) & 0x00ff_ffff;
        self.stamp = self.stamp & 0xff00_0000 | counter;
        self.generations.set(group, self.stamp, 0)
    }

    /// The places of a flow's two directions in the kernel's counters.
    const fn places(&self, id: ShuntId) -> [u32; 2] {
        let first = 2 * (self.first + id.place() as u32);
        [first, first + 1]
    }
}
impl Offload for Shunter {
    type Error = MapError;

    fn set_clock(&mut self, ahead: u64) {
        self.set_clock(ahead);
    }

    fn active(&self) -> usize {
        self.len()
    }

    fn shunt(&mut self, keys: [ShuntKey; 2], hash: FlowHash, now: u64) -> Result<Option<ShuntId>, MapError> {
        self.shunt(keys, hash, now)
    }

    fn counted(&self, id: ShuntId) -> Result<[Shunted; 2], MapError> {
        self.counted(id)
    }

    fn release(&mut self, id: ShuntId, now: u64) -> Result<(), MapError> {
        self.release(id, now)
    }

    fn cooled(&mut self, now: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, MapError> {
        self.cooled(now)
    }
}
