//! Flows that user space no longer needs. The program counts their packets and drops them; only packets that
//! end a TCP connection still reach user space.
//!
//! Each worker manages its own part of the table without locks: [`Shunter`]. The table is bounded; if it is
//! full, the flow that has been idle the longest is removed, and user space sees it again.
//!
//! Counts are exact. A flow's counters are read for the last time when no program that found the flow in the
//! table can still be running: [`COOLING`] after its removal. Until then, the counters are not reused.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::AsFd as _;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use mirror_engine::hooks::{Offload, ShuntId, Shunted};
use mirror_xdp_common::filter::{ShuntCounters, ShuntKey, shunt_group};
use mirror_xdp_common::hash::FlowHash;

use super::error::Error;

/// The time from the removal of a flow until its counters are read, in nanoseconds. A program takes
/// microseconds, and only a standstill of the whole machine interrupts it.
pub const COOLING: u64 = 1_000_000_000;

/// The kernel's maps, of which each worker gets its part.
pub(super) struct ShuntMaps {
    table: MapData,
    counters: MapData,
    generations: MapData,
    max: u32,
}

impl ShuntMaps {
    /// Takes the maps of a loaded object, which hold at most `max` flows.
    pub(super) fn take(ebpf: &mut aya::Ebpf, max: u32) -> Result<Self, Error> {
        let mut map = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let (Map::HashMap(table), Map::Array(counters), Map::Array(generations)) =
            (map("SHUNTS")?, map("SHUNT_COUNTERS")?, map("SHUNT_GENERATIONS")?)
        else {
            return Err(Error::Missing("SHUNTS"));
        };
        Ok(Self { table, counters, generations, max })
    }

    /// Returns the part of worker `worker` of `workers`.
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
            // Differs from the stamps of all other workers.
            stamp: (worker % 255 + 1) << 24,
            ahead: 0,
        })
    }
}

/// Duplicates the handle of a map.
fn again(map: &MapData) -> Result<MapData, MapError> {
    MapData::from_fd(map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?)
}

#[derive(Debug)]
struct Entry {
    keys: [ShuntKey; 2],
    group: u32,
    /// The last known time at which the flow was in use.
    used: u64,
}

/// One worker's part of the table. Times are in nanoseconds of the worker's clock.
pub struct Shunter {
    table: HashMap<MapData, ShuntKey, u32>,
    counters: Array<MapData, ShuntCounters>,
    generations: Array<MapData, u32>,
    /// The place of this part in the kernel's counters, in flows.
    first: u32,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// The number of places that are kept free for removed flows that cool down.
    reserve: u32,
    /// The flows in the table, the least recently used first; a flow may have been used since.
    by_use: BTreeSet<(u64, ShuntId)>,
    /// Removed flows, with the times at which they have cooled down.
    cooling: VecDeque<(u64, ShuntId)>,
    stamp: u32,
    /// Nanoseconds by which the worker's clock is ahead of the program's, `CLOCK_MONOTONIC`.
    ahead: u64,
}

impl fmt::Debug for Shunter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shunter")
            .field("first", &self.first)
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

impl Offload for Shunter {
    type Error = MapError;

    /// Sets the nanoseconds by which the worker's clock is ahead of `CLOCK_MONOTONIC`.
    fn set_clock(&mut self, ahead: u64) {
        self.ahead = ahead;
    }

    /// Shunts a flow, whose two directions have these keys. Returns `None` if there is no room because many
    /// flows were removed just now.
    fn shunt(&mut self, keys: [ShuntKey; 2], hash: FlowHash, now: u64) -> Result<Option<ShuntId>, MapError> {
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

    /// Returns the counters so far, of each direction.
    fn counted(&self, id: ShuntId) -> Result<[Shunted; 2], MapError> {
        let [first, second] = self.places(id);
        let counted = |[packets, bytes, last]: ShuntCounters| Shunted {
            packets,
            bytes,
            last: last.wrapping_add(self.ahead),
        };
        Ok([counted(self.counters.get(&first, 0)?), counted(self.counters.get(&second, 0)?)])
    }

    /// Removes a flow, if it is still in the table; user space sees its packets again. [`Offload::cooled`]
    /// returns the final counters.
    fn release(&mut self, id: ShuntId, now: u64) -> Result<(), MapError> {
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

    /// Returns a removed flow that has cooled down, with its final counters. Flows that were removed to make
    /// room are included.
    fn cooled(&mut self, now: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, MapError> {
        let Some(&(_, id)) = self.cooling.front().filter(|(ready, _)| *ready <= now) else {
            return Ok(None);
        };
        self.cooling.pop_front();
        let counted = self.counted(id)?;
        self.free.push(id.place() as u32);
        Ok(Some((id, counted)))
    }

    fn active(&self) -> usize {
        self.by_use.len()
    }
}

impl Shunter {
    /// Removes the flow that has been idle the longest.
    fn evict(&mut self, now: u64) -> Result<(), MapError> {
        while let Some(&(noted, id)) = self.by_use.first() {
            let used = self.counted(id)?.iter().map(|way| way.last).fold(noted, u64::max);
            if used == noted {
                return self.release(id, now);
            }
            // It was used since it was entered here, so its turn comes later.
            self.by_use.remove(&(noted, id));
            self.by_use.insert((used, id));
            if let Some(entry) = &mut self.entries[id.place()] {
                entry.used = used;
            }
        }
        Ok(())
    }

    /// Makes the program forget its decisions on the flows of a group.
    fn announce(&mut self, group: u32) -> Result<(), MapError> {
        let counter = self.stamp.wrapping_add(1) & 0x00ff_ffff;
        self.stamp = self.stamp & 0xff00_0000 | counter;
        self.generations.set(group, self.stamp, 0)
    }

    /// Returns the places of a flow's two directions in the kernel's counters.
    const fn places(&self, id: ShuntId) -> [u32; 2] {
        let first = 2 * (self.first + id.place() as u32);
        [first, first + 1]
    }
}
