//! VNIs: the slots of their counters, the learning of VNIs that the configuration does not name, and
//! counting.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use mirror_xdp_common::Vni;
use mirror_xdp_common::filter::{MAX_LEARNED_VNIS, MAX_VNIS, Tables, VNI_SLOTS, VniCounters, vni_counter};

use crate::atomic;

/// The slot of each VNI that has one.
#[map]
static VNIS: HashMap<u32, u32> = HashMap::with_max_entries(VNI_SLOTS as u32, 0);

/// The number of slots of learned VNIs in use.
#[map]
static LEARNED: Array<u64> = Array::with_max_entries(1, 0);

/// The counters by slot.
#[map]
static VNI_COUNTERS: PerCpuArray<VniCounters> = PerCpuArray::with_max_entries(VNI_SLOTS as u32, 0);

const BPF_NOEXIST: u64 = 1;

/// Returns the slot of a VNI. A VNI without one is learned, if the policy permits it. Slot 0 is that of all
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
    // SAFETY: the entry exists and is aligned; it is only ever added to.
    let learned = unsafe {
        // The number is read first, so that it does not grow without end if there are more VNIs.
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
    /// Counts a received frame.
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

    /// Counts its fate.
    #[inline(always)]
    pub(crate) fn add(&self, counter: usize) {
        // SAFETY: as above.
        unsafe { (*self.0)[counter] += 1 };
    }
}
