//! VNIs: which slot their counters are in, learning those that nobody has named, and counting.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use mirror_xdp_common::Vni;
use mirror_xdp_common::filter::{MAX_LEARNED_VNIS, MAX_VNIS, Tables, VNI_SLOTS, VniCounters, vni_counter};

use crate::atomic;

/// The slot of each VNI that has one.
#[map]
static VNIS: HashMap<u32, u32> = HashMap::with_max_entries(VNI_SLOTS as u32, 0);

/// How many slots of learned VNIs are taken.
#[map]
static LEARNED: Array<u64> = Array::with_max_entries(1, 0);

/// By slot.
#[map]
static VNI_COUNTERS: PerCpuArray<VniCounters> = PerCpuArray::with_max_entries(VNI_SLOTS as u32, 0);

const BPF_NOEXIST: u64 = 1;

/// The slot of a VNI, which is learned where it has none and the policy lets it. 0 is that of all the
/// VNIs without one.
#[inline(always)]
pub(crate) fn slot(vni: Vni, tables: &Tables) -> u32 {
    let vni = vni.get();
    if let Some(slot) = known(vni) {
        return slot;
    }
    if tables.only_known_vnis != 0 {
        return 0;
    }
    let Some(learned) = LEARNED.get_ptr_mut(0) else { return 0 };
    // SAFETY: the entry is there, and aligned; it is only ever added to.
    let learned = unsafe {
        // Looked at first, so that it does not grow without end when there are more.
        if learned.read_volatile() >= MAX_LEARNED_VNIS as u64 {
            return 0;
        }
        atomic::fetch_add(learned, 1)
    };
    if learned >= MAX_LEARNED_VNIS as u64 {
        return 0;
    }
    let slot = 1 + MAX_VNIS as u32 + learned as u32;
    if VNIS.insert(vni, slot, BPF_NOEXIST).is_ok() {
        return slot;
    }
    // Another CPU was faster; the slot stays unused.
    known(vni).unwrap_or(0)
}

#[inline(always)]
fn known(vni: u32) -> Option<u32> {
    // SAFETY: entries are never removed.
    unsafe { VNIS.get(vni) }.copied()
}

/// The counters of one VNI on this CPU.
pub(crate) struct Counted(*mut VniCounters);

impl Counted {
    /// Counts a frame that came.
    #[inline(always)]
    pub(crate) fn frame(slot: u32, bytes: usize, now: u64) -> Option<Self> {
        let counters = VNI_COUNTERS.get_ptr_mut(slot)?;
        // SAFETY: the counters belong to this CPU, and no other program on it interrupts this one.
        unsafe {
            (*counters)[vni_counter::PACKETS] += 1;
            (*counters)[vni_counter::BYTES] += bytes as u64;
            (*counters)[vni_counter::LAST_SEEN] = now;
        }
        Some(Self(counters))
    }

    /// Counts what became of it.
    #[inline(always)]
    pub(crate) fn add(&self, counter: usize) {
        // SAFETY: as above.
        unsafe { (*self.0)[counter] += 1 };
    }
}
