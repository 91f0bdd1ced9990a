//! The compiled policy: tables that say of a frame whether it is admitted and which rule decides on it,
//! and the code that asks them. The XDP program and user space run the same code on the same tables.
//!
//! Each thing that rules look at (source and destination address, source and destination port, and the
//! *context* of protocol and direction) is looked up in a table of its own, which gives a *class*: all
//! values that satisfy the same rules are of one class. A class has a [`Row`], a vector with a bit for each
//! rule that is satisfied. The rows of a packet's five classes and of its rule set are intersected; the
//! lowest bit that is left is the rule that decides. A row begins with a summary, a bit
//! for each word that is not zero, so that of 64 words usually one is looked at, however many rules there
//! are (Baboescu and Varghese, "Scalable packet classification", SIGCOMM 2001).
//!
//! Addresses are looked up by binary search among the intervals that the prefixes cut the address space
//! into. It always takes as many steps as the longest table needs, each without a branch: so the cost does
//! not depend on the rules, and unlike with the kernel's longest-prefix tries there is neither a call nor
//! a chain of pointers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;
use crate::inner::{InnerHeaders, Network};
use crate::wire::MacAddresses;

/// Rules over all sets.
pub const MAX_RULES: usize = 4096;
/// Rule sets.
pub const MAX_SETS: usize = 256;
/// Distinct classes over all tables: more than any [`MAX_RULES`] rules can make.
pub const MAX_CLASSES: usize = 1 << 15;
/// Intervals of one table of addresses: more than [`MAX_RULES`] prefixes can make.
pub const MAX_INTERVALS: usize = 1 << 14;
/// Hardware addresses of mirrored interfaces.
pub const MAX_MACS: usize = 1 << 12;
/// Length of [`Tables::macs`].
const MAC_PLACES: usize = 2 * MAX_MACS;
/// VNIs that the configuration can name. They are counted in slots 1 to this.
pub const MAX_VNIS: usize = 1 << 14;
/// VNIs that can be learned besides, in the slots that follow. Slot 0 is for all others.
pub const MAX_LEARNED_VNIS: usize = 1 << 14;
/// Slots of VNIs.
pub const VNI_SLOTS: usize = 1 + MAX_VNIS + MAX_LEARNED_VNIS;
/// Identifiers of rules, 0 for none: twice as many as there are rules, and sets without a matching rule,
/// so that those of two generations can be told apart.
pub const MAX_RULE_IDS: usize = 1 << 14;

/// Words of a [`Row`].
pub const WORDS: usize = MAX_RULES / 64;

/// Bits of [`Tables::vnis`].
pub mod vni {
    /// The VNI is known from the configuration.
    pub const KNOWN: u16 = 1 << 15;
    /// Index of its set plus one; 0 for none.
    pub const SET: u16 = KNOWN - 1;
}

/// Values of [`RuleEntry::action`].
pub mod action {
    /// Captured.
    pub const ACCEPT: u8 = 0;
    /// Dropped.
    pub const REJECT: u8 = 1;
    /// Captured, as one of `parameter` flows.
    pub const SAMPLE: u8 = 2;
    /// Captured, but no more than `parameter` bytes of the inner frame.
    pub const TRUNCATE: u8 = 3;
    /// Counted and dropped.
    pub const SHUNT: u8 = 4;
    /// Not a rule's: the outer source is not admitted.
    pub const SOURCE_NOT_ADMITTED: u8 = 5;
    /// Not a rule's: the VNI is not known.
    pub const VNI_NOT_ADMITTED: u8 = 6;
}

/// Values of a packet's direction.
pub mod direction {
    /// Neither hardware address is that of a mirrored interface.
    pub const UNKNOWN: u8 = 0;
    /// Into the mirrored interface.
    pub const INGRESS: u8 = 1;
    /// Out of it.
    pub const EGRESS: u8 = 2;
}

/// Where IPv4 addresses are cut into intervals, and the class of each.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Intervals4 {
    /// The first address of each interval, ascending from 0.0.0.0, in host order; what is not in use is
    /// [`u32::MAX`].
    pub starts: [u32; MAX_INTERVALS],
    /// The class of each interval; what is not in use has that of the last.
    pub classes: [u16; MAX_INTERVALS],
}

/// Where IPv6 addresses are cut into intervals, and the class of each.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Intervals6 {
    /// As in [`Intervals4`]: high and low word of each address.
    pub starts: [[u64; 2]; MAX_INTERVALS],
    /// As in [`Intervals4`].
    pub classes: [u16; MAX_INTERVALS],
}

/// The classes of addresses.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Addresses {
    /// Of IPv4.
    pub v4: Intervals4,
    /// Of IPv6.
    pub v6: Intervals6,
    /// The class of what has no address.
    pub without: u64,
}

/// A rule set.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetEntry {
    /// The class of all rules of the set.
    pub class: u16,
    /// What is counted where none matches: an identifier like a rule's.
    pub no_match: u16,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RuleEntry {
    /// Identifier: index of the rule's counters, and what the capture header says; not 0.
    pub id: u16,
    /// See [`action`].
    pub action: u8,
    /// 0.
    pub reserved: u8,
    /// Means what the action says.
    pub parameter: u32,
}

/// The class of a port, or of a packet without ports: a power of two of places, so that a mask is all that
/// the verifier needs to see.
pub type PortClasses = [u16; PORT_PLACES];
const PORT_PLACES: usize = 1 << 17;
/// Index from which on [`PortClasses`] has the class of packets without ports.
pub const WITHOUT_PORTS: usize = 1 << 16;

/// Places that a direction has in [`Tables::contexts`]: a power of two, as for ports.
const CONTEXTS: usize = 512;
/// The place of what is not an IP packet.
const NOT_IP: usize = 256;

/// The compiled policy, but for the rows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tables {
    /// Counts the policies of a program, from 1.
    pub generation: u32,
    /// Not 0 where frames of VNIs that are not known are dropped.
    pub only_known_vnis: u32,
    /// Not 0 where any outer source is admitted.
    pub any_source: u32,
    /// Not 0 where there are any `macs`.
    pub any_mac: u32,
    /// Class 1 are the outer sources that are admitted.
    pub admitted: Addresses,
    /// Classes of source addresses.
    pub sources: Addresses,
    /// Classes of destination addresses.
    pub destinations: Addresses,
    /// Classes of source ports.
    pub source_ports: PortClasses,
    /// Classes of destination ports.
    pub destination_ports: PortClasses,
    /// Classes of protocols, for each direction.
    pub contexts: [[u16; CONTEXTS]; 4],
    /// Hardware addresses of mirrored interfaces, ascending from 0, which is none; what is not in use is
    /// [`i64::MAX`].
    pub macs: [u64; MAC_PLACES],
    /// By the slot of a VNI: see [`vni`].
    pub vnis: [u16; VNI_SLOTS + 3],
    /// The sets.
    pub sets: [SetEntry; MAX_SETS],
    /// The rules of all sets, one set after the other, each in the order in which they are tried.
    pub rules: [RuleEntry; MAX_RULES],
}

/// The rules that a class satisfies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Row {
    /// A bit for each of `words` that is not 0.
    pub summary: u64,
    /// A bit for each rule of [`Tables::rules`].
    pub words: [u64; WORDS],
}

/// A compiled policy, wherever it is.
pub trait Compiled {
    /// The tables.
    fn tables(&self) -> &Tables;
    /// The row of a class; `None` beyond the last.
    fn row(&self, class: u16) -> Option<&Row>;

    /// The place of the lowest bit of a word that is not 0: less than 64, in a way that whoever checks the
    /// code can see.
    #[inline(always)]
    #[must_use]
    fn lowest_bit(word: u64) -> usize {
        word.trailing_zeros() as usize % 64
    }

    /// The number, which the compiler then knows nothing about. The verifier follows both ways of each
    /// branch, and the ways of branches in a loop multiply; so comparisons in loops are calculated, and
    /// the compiler must not make branches of them again.
    #[inline(always)]
    #[must_use]
    fn opaque(number: u64) -> u64 {
        number
    }
}

/// What is decided on a frame, and goes for all frames that rules cannot tell from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Identifier of the rule, or of the set without a matching one; 0 = none.
    pub rule: u16,
    /// See [`action`].
    pub action: u8,
    /// See [`direction`].
    pub direction: u8,
    /// Means what the action says.
    pub parameter: u32,
}

impl Judgement {
    const fn of(action: u8, direction: u8) -> Self {
        Self { rule: 0, action, direction, parameter: 0 }
    }
}

/// Whether frames from this outer source are admitted.
#[inline(always)]
pub fn admits<C: Compiled>(policy: &C, sender: Address) -> bool {
    let tables = policy.tables();
    tables.any_source != 0 || tables.admitted.class::<C>(network_of(sender) as u64, sender) == 1
}

/// Numbers of [`Network`]'s variants.
const IPV4: u64 = Network::Ipv4 as u64;
const IPV6: u64 = Network::Ipv6 as u64;

/// The family of an outer address, which has one for sure.
#[inline(always)]
const fn network_of(address: Address) -> Network {
    if address.as_v4().is_some() { Network::Ipv4 } else { Network::Ipv6 }
}

/// What rules ask of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The network protocol, as the number of [`Network`]'s variant.
    pub network: u64,
    /// Source address; means nothing of [`Network::Other`].
    pub source: Address,
    /// Destination address; likewise.
    pub destination: Address,
    /// Transport protocol (IANA); likewise.
    pub protocol: u8,
    /// 1 where there are ports, else 0.
    pub has_ports: u64,
    /// Source port; 0 where there is none.
    pub source_port: u16,
    /// Destination port; 0 where there is none.
    pub destination_port: u16,
    /// Hardware source, in the low 48 bits.
    pub source_mac: u64,
    /// Hardware destination, in the low 48 bits.
    pub destination_mac: u64,
}

impl Question {
    /// What rules ask of an inner frame with these headers.
    #[must_use]
    pub fn new(inner: &InnerHeaders, macs: MacAddresses) -> Self {
        Self {
            network: inner.network as u64,
            source: inner.source,
            destination: inner.destination,
            protocol: inner.protocol,
            has_ports: inner.has_ports.into(),
            source_port: inner.source_port,
            destination_port: inner.destination_port,
            source_mac: macs.source(),
            destination_mac: macs.destination(),
        }
    }
}

/// Judges a frame of an admitted source: which rule of its VNI's set decides, and what. `slot` is the
/// VNI's.
#[inline(always)]
pub fn judge<C: Compiled>(policy: &C, slot: u32, packet: &Question) -> Judgement {
    let tables = policy.tables();
    let Some(&entry) = tables.vnis.get(slot as usize) else { return Judgement::default() };
    if tables.only_known_vnis != 0 && entry & vni::KNOWN == 0 {
        return Judgement::of(action::VNI_NOT_ADMITTED, direction::UNKNOWN);
    }
    let way = if tables.any_mac == 0 {
        direction::UNKNOWN
    } else {
        let egress = tables.has_mac::<C>(packet.source_mac);
        let ingress = tables.has_mac::<C>(packet.destination_mac) & !egress;
        (u64::from(direction::EGRESS) & egress | u64::from(direction::INGRESS) & ingress) as u8
    };
    let set = (entry & vni::SET) as usize;
    if set == 0 {
        return Judgement::of(action::ACCEPT, way);
    }
    let set = &tables.sets[C::opaque(set as u64 - 1) as usize % MAX_SETS];
    match first_match(policy, set, way, packet) {
        Some(index) => {
            let rule = &tables.rules[C::opaque(index as u64) as usize % MAX_RULES];
            Judgement { rule: rule.id, action: rule.action, direction: way, parameter: rule.parameter }
        }
        None => Judgement { rule: set.no_match, ..Judgement::of(action::REJECT, way) },
    }
}

/// Index of the first rule of a set that matches.
#[inline(always)]
fn first_match<C: Compiled>(policy: &C, set: &SetEntry, way: u8, packet: &Question) -> Option<usize> {
    let tables = policy.tables();
    let not_ip = zero(packet.network);
    let context = u64::from(packet.protocol) & !not_ip | NOT_IP as u64 & not_ip;
    let without = WITHOUT_PORTS as u64 & zero(packet.has_ports);
    let place = |port: u16| C::opaque(u64::from(port) | without) as usize % PORT_PLACES;
    let sources = policy.row(tables.sources.class::<C>(packet.network, packet.source))?;
    let destinations = policy.row(tables.destinations.class::<C>(packet.network, packet.destination))?;
    let source_ports = policy.row(tables.source_ports[place(packet.source_port)])?;
    let destination_ports = policy.row(tables.destination_ports[place(packet.destination_port)])?;
    let contexts = policy.row(tables.contexts[(way & 3) as usize][C::opaque(context) as usize % CONTEXTS])?;

    let of_set = policy.row(set.class)?;

    let mut left = of_set.summary
        & sources.summary
        & destinations.summary
        & source_ports.summary
        & destination_ports.summary
        & contexts.summary;
    let mut looked_at = 0;
    while looked_at < WORDS && left != 0 {
        let at = C::lowest_bit(left);
        let word = of_set.words[at]
            & sources.words[at]
            & destinations.words[at]
            & source_ports.words[at]
            & destination_ports.words[at]
            & contexts.words[at];
        if word != 0 {
            return Some(at * 64 + C::lowest_bit(word));
        }
        left &= left - 1;
        looked_at += 1;
    }
    None
}

impl Addresses {
    /// The class of an address.
    #[inline(always)]
    fn class<C: Compiled>(&self, network: u64, address: Address) -> u16 {
        match network {
            IPV4 => {
                let value = u64::from(address.low as u32);
                let at = search::<C>(MAX_INTERVALS, |at| {
                    let start = u64::from(self.v4.starts[at]);
                    // Of numbers below 2³² the difference is negative where the first is smaller.
                    !C::opaque(sign(C::opaque(value.wrapping_sub(start))))
                });
                self.v4.classes[at]
            }
            IPV6 => {
                let at = search::<C>(MAX_INTERVALS, |at| {
                    let [high, low] = self.v6.starts[at];
                    let below =
                        borrow(address.high, high) | equal(address.high, high) & borrow(address.low, low);
                    !C::opaque(sign(C::opaque(below)))
                });
                self.v6.classes[at]
            }
            _ => self.without as u16,
        }
    }
}

/// The last of so many places, a power of two, that is reached; the first is, and none behind the last.
/// `reached` says so by all bits or none.
#[inline(always)]
fn search<C: Compiled>(places: usize, reached: impl Fn(usize) -> u64) -> usize {
    // The compiler knows that no place is beyond the last, and would leave out what shows it: verifiers
    // before Linux 6.10 do not follow the bits through the instructions that are left.
    let within = |at: usize| C::opaque(at as u64) as usize % places;
    let mut at = 0;
    let mut step = places / 2;
    while step != 0 {
        let next = at + step;
        at += step & reached(within(next)) as usize;
        step /= 2;
    }
    within(at)
}

/// All bits where the number is 0, else none; the number is less than 2⁶³.
#[inline(always)]
const fn zero(number: u64) -> u64 {
    sign(number.wrapping_sub(1))
}

/// All bits where the number is negative, else none.
#[inline(always)]
const fn sign(number: u64) -> u64 {
    (number.cast_signed() >> 63).cast_unsigned()
}

/// The top bit where `a` is less than `b`; the others mean nothing.
#[inline(always)]
const fn borrow(a: u64, b: u64) -> u64 {
    !a & b | (!a | b) & a.wrapping_sub(b)
}

/// The top bit where `a` equals `b`; the others mean nothing.
#[inline(always)]
const fn equal(a: u64, b: u64) -> u64 {
    let different = a ^ b;
    !(different | different.wrapping_neg())
}

impl Tables {
    /// All bits where a mirrored interface has this hardware address, else none.
    #[inline(always)]
    fn has_mac<C: Compiled>(&self, mac: u64) -> u64 {
        let at = search::<C>(MAC_PLACES, |at| {
            // Places that are not in use are larger than any address, also where the top bit is a sign.
            !C::opaque(sign(C::opaque(mac.wrapping_sub(self.macs[at]))))
        });
        // The first place holds 0, which is nobody's address.
        C::opaque(sign(equal(self.macs[at], mac))) & !zero(mac)
    }

    /// The place of a protocol and direction in [`Tables::contexts`]: the second index; the first is the
    /// direction. `None` is what is not an IP packet.
    #[must_use]
    pub fn context(protocol: Option<u8>) -> usize {
        protocol.map_or(NOT_IP, usize::from)
    }
}

/// What a flow's packets of one direction have in common, as user space and the program name a flow that
/// is to be shunted: outer source, gateway endpoint, source, destination, and VNI with protocol and ports.
///
/// Packed into words, since a BPF hash table compares bytes.
pub type ShuntKey = [u64; 8];

/// The last word of a [`ShuntKey`]: 24 bits of VNI, 8 of protocol, twice 16 of ports.
#[inline(always)]
#[must_use]
pub const fn tuple_word(vni: crate::Vni, protocol: u8, source_port: u16, destination_port: u16) -> u64 {
    (vni.get() as u64) << 40 | (protocol as u64) << 32 | (source_port as u64) << 16 | destination_port as u64
}

/// What a sample of one flow in `n` is chosen by: the flows for which it is a multiple of `n`. Not the hash
/// itself, so that sampling does not go together with the choice of sockets.
#[inline(always)]
#[must_use]
pub const fn sample_value(hash: crate::hash::FlowHash) -> u32 {
    hash.0.wrapping_mul(0x9e37_79b1).rotate_left(16)
}

/// How many groups flows are in, by their hash, of which the program remembers whether the list of
/// shunted flows has changed.
pub const SHUNT_GROUPS: u32 = 4096;

/// The group of a flow.
#[inline(always)]
#[must_use]
pub const fn shunt_group(hash: crate::hash::FlowHash) -> u32 {
    hash.0 % SHUNT_GROUPS
}

/// What is counted of a rule, a CPU: packets and bytes of the inner frames.
pub type RuleCounters = [u64; 2];

/// Names of what is counted of a VNI, in the order of [`VniCounters`]. All but the last add up over CPUs;
/// that is the latest.
pub mod vni_counter {
    /// Frames that came.
    pub const PACKETS: usize = 0;
    /// Bytes of their inner frames.
    pub const BYTES: usize = 1;
    /// Frames that the filter rejected.
    pub const REJECTED: usize = 2;
    /// Frames of flows that a sample does not include.
    pub const SAMPLED_OUT: usize = 3;
    /// Frames that were counted and dropped.
    pub const SHUNTED: usize = 4;
    /// Frames dropped because the VNI is not admitted.
    pub const NOT_ADMITTED: usize = 5;
    /// Frames that no socket was there for, or whose capture header had no room.
    pub const UNDELIVERED: usize = 6;
    /// When the last frame came: `CLOCK_MONOTONIC`, nanoseconds.
    pub const LAST_SEEN: usize = 7;
}

/// What is counted of a VNI, a CPU: see [`vni_counter`].
pub type VniCounters = [u64; 8];

/// What is counted of one direction of a shunted flow, a CPU: packets, bytes as they were on the wire, and
/// when the last came (`CLOCK_MONOTONIC`, nanoseconds).
pub type ShuntCounters = [u64; 3];
