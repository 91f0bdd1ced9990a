//! Flows that user space no longer needs: their packets are counted here and dropped.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use mirror_xdp_common::filter::{SHUNT_GROUPS, ShuntCounters, ShuntKey, shunt_group};
use mirror_xdp_common::hash::FlowHash;

use crate::atomic;

/// Replaced by the number of flow directions when the program is loaded.
const CAPACITY: u32 = 1;

const BPF_F_NO_PREALLOC: u32 = 1;

/// The place of the counters of each direction of a shunted flow.
#[map]
static SHUNTS: HashMap<ShuntKey, u32> = HashMap::with_max_entries(CAPACITY, BPF_F_NO_PREALLOC);

/// The counters by place.
#[map]
static SHUNT_COUNTERS: Array<ShuntCounters> = Array::with_max_entries(CAPACITY, 0);

/// Changes whenever a flow of the group is added to or removed from [`SHUNTS`]; 0 if there never was one.
#[map]
static SHUNT_GENERATIONS: Array<u32> = Array::with_max_entries(SHUNT_GROUPS, 0);

/// Marks a flow that is not shunted.
pub(crate) const NOT_SHUNTED: u32 = u32::MAX;

/// Returns the state of [`SHUNTS`] as far as flows of this hash are concerned.
#[inline(always)]
pub(crate) fn generation(hash: FlowHash) -> u32 {
    // SAFETY: the entry exists and is aligned; user space writes it whole.
    SHUNT_GENERATIONS.get_ptr(shunt_group(hash)).map_or(0, |generation| unsafe { generation.read_volatile() })
}

/// Returns the place of a flow direction's counters, or [`NOT_SHUNTED`].
#[inline(always)]
pub(crate) fn place(key: &ShuntKey) -> u32 {
    // SAFETY: the map allocates its elements one by one, so an element that is removed is not reused before
    // this program has ended.
    unsafe { SHUNTS.get(key) }.copied().unwrap_or(NOT_SHUNTED)
}

/// Counts a frame of a shunted flow.
#[inline(always)]
pub(crate) fn count(place: u32, bytes: usize, now: u64) {
    let Some(counters) = SHUNT_COUNTERS.get_ptr_mut(place) else { return };
    let counters = counters.cast::<u64>();
    // SAFETY: the entry exists and is aligned. Other CPUs add to it at the same time; any of the times that
    // they write is valid.
    unsafe {
        atomic::add(counters, 1);
        atomic::add(counters.add(1), bytes as u64);
        counters.add(2).write_volatile(now);
    }
}
