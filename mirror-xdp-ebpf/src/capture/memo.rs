//! The decisions on the last packets: a table by flow hash, one per CPU, so that further packets of a flow
//! cost one look-up instead of a whole judgement.
//!
//! An entry holds everything that the judgement depends on, and all of it is compared, so a frame is never
//! judged by the entry of another. An entry is void once the policy or the list of shunted flows has changed:
//! both have generations, which it stores. A flow whose place was taken by another is judged anew.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mirror_xdp_common::Address;
use mirror_xdp_common::filter::{Judgement, Question, ShuntKey, tuple_word};
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::inner::{Fragment, InnerHeaders};
use mirror_xdp_common::outer::Mirrored;
use mirror_xdp_common::wire::MacAddresses;

/// The number of places of one CPU, as a power of two; user space sets it before loading.
#[unsafe(no_mangle)]
static MEMO_BITS: Global<u32> = Global::new(0);

/// The size is replaced by the number of all places when the program is loaded. Mappable memory begins at a
/// page boundary, so that each entry takes two cache lines and not three.
#[map]
static MEMOS: Array<Memo> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Everything that a judgement depends on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Key {
    sender: [u64; 2],
    pub(crate) shunt: ShuntKey,
    /// The address; the kind of packet is in the bits above its 48 bits.
    source_mac: u64,
    destination_mac: u64,
}

/// The position of the bits for the kind of packet, and their values.
mod kind {
    pub(super) const SHIFT: u32 = 48;
    pub(super) const NETWORK: u64 = 3;
    pub(super) const FRAGMENT: u32 = 2;
    pub(super) const HAS_PORTS: u32 = 4;
    pub(super) const VLAN: u32 = 5;
}

impl Key {
    #[inline(always)]
    pub(crate) fn new(mirrored: &Mirrored, inner: &InnerHeaders, macs: MacAddresses) -> Self {
        let kind = inner.network as u64
            | (inner.fragment as u64) << kind::FRAGMENT
            | u64::from(inner.has_ports) << kind::HAS_PORTS
            | u64::from(inner.has_vlan()) << kind::VLAN;
        let (source, destination) = (inner.source, inner.destination);
        Self {
            sender: [mirrored.sender.high, mirrored.sender.low],
            shunt: [
                mirrored.source.high,
                mirrored.source.low,
                mirrored.gateway.endpoint,
                source.high,
                source.low,
                destination.high,
                destination.low,
                tuple_word(mirrored.vni, inner.protocol, inner.source_port, inner.destination_port),
            ],
            source_mac: macs.source() | kind << kind::SHIFT,
            destination_mac: macs.destination(),
        }
    }

    /// Returns the fields of the packet that rules look at.
    #[inline(always)]
    pub(crate) fn question(&self) -> Question {
        let kind = self.source_mac >> kind::SHIFT;
        let tuple = self.shunt[7];
        let [.., source_high, source_low, destination_high, destination_low, _] = self.shunt;
        Question {
            network: kind & kind::NETWORK,
            source: Address::from_words(source_high, source_low),
            destination: Address::from_words(destination_high, destination_low),
            protocol: (tuple >> 32) as u8,
            has_ports: kind >> kind::HAS_PORTS & 1,
            source_port: (tuple >> 16) as u16,
            destination_port: tuple as u16,
            source_mac: self.source_mac & ((1 << kind::SHIFT) - 1),
            destination_mac: self.destination_mac,
        }
    }

    /// Returns whether the driver may count the packet for a shunted flow. The key of such a flow does not
    /// cover VLANs and fragments, which are left to user space.
    #[inline(always)]
    pub(crate) fn may_be_shunted(&self) -> bool {
        let kind = self.source_mac >> kind::SHIFT;
        kind >> kind::VLAN == 0 && kind >> kind::FRAGMENT & 3 == Fragment::Whole as u64
    }

    /// Returns the direction of the packet between its two addresses.
    #[inline(always)]
    fn way(&self) -> u32 {
        u32::from(self.shunt[4] < self.shunt[6])
    }

    /// Returns whether the two are equal, without a branch for each word.
    #[inline(always)]
    fn equals(&self, other: &Self) -> bool {
        let mut different = self.source_mac ^ other.source_mac;
        different |= self.destination_mac ^ other.destination_mac;
        different |= self.sender[0] ^ other.sender[0];
        different |= self.sender[1] ^ other.sender[1];
        let mut word = 0;
        while word < self.shunt.len() {
            different |= self.shunt[word] ^ other.shunt[word];
            word += 1;
        }
        different == 0
    }
}

/// The decision.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Decided {
    /// The generation of the policy.
    pub(crate) generation: u32,
    /// The generation of the list of shunted flows.
    pub(crate) shunt_generation: u32,
    /// The slot of the VNI's counters.
    pub(crate) vni_slot: u32,
    /// The place of a shunted flow's counters.
    pub(crate) shunt: u32,
    pub(crate) parameter: u32,
    pub(crate) rule: u16,
    pub(crate) action: u8,
    pub(crate) direction: u8,
}

impl Decided {
    #[inline(always)]
    pub(crate) fn new(
        generation: u32,
        shunt_generation: u32,
        vni_slot: u32,
        shunt: u32,
        judgement: Judgement,
    ) -> Self {
        let Judgement { rule, action, direction, parameter } = judgement;
        Self { generation, shunt_generation, vni_slot, shunt, parameter, rule, action, direction }
    }
}

#[repr(C)]
pub(crate) struct Memo {
    key: Key,
    decided: Decided,
    reserved: u64,
}

const _: () = assert!(size_of::<Memo>() == 128);

/// The place of one direction of a flow.
pub(crate) struct Place(*mut Memo);

impl Place {
    #[inline(always)]
    pub(crate) fn of(hash: FlowHash, key: &Key) -> Option<Self> {
        let bits = MEMO_BITS.load() & 31;
        // The two directions of a flow have the same hash, and need different places.
        let within = hash.0.wrapping_add(key.way().wrapping_mul(0x9e37_79b9)) & ((1 << bits) - 1);
        // SAFETY: the helper takes no arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        MEMOS.get_ptr_mut(cpu << bits | within).map(Self)
    }

    /// Returns the decision on the same kind of packet under the same conditions.
    #[inline(always)]
    pub(crate) fn recall(&self, key: &Key, generation: u32, shunt_generation: u32) -> Option<Decided> {
        // SAFETY: the entry belongs to this CPU, and no other program on it interrupts this one.
        let memo = unsafe { &*self.0 };
        let decided = &memo.decided;
        let current = decided.generation == generation && decided.shunt_generation == shunt_generation;
        (current && memo.key.equals(key)).then_some(*decided)
    }

    #[inline(always)]
    pub(crate) fn remember(&self, key: &Key, decided: &Decided) {
        // SAFETY: as above.
        unsafe {
            (*self.0).key = *key;
            (*self.0).decided = *decided;
        }
    }
}
