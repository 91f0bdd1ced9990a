//! The compiled policy: tables that determine whether a frame is admitted and which rule decides on it, and
//! the code of the look-up. The XDP program and user space run the same code on the same tables.
//!
//! Each field that rules look at (source and destination address, source and destination port, and the
//! *context* of protocol and direction) is looked up in a table of its own, which gives a *class*: all values
//! that satisfy the same rules are of one class. A class has a [`Row`], a vector with a bit for each rule
//! that is satisfied. The rows of a packet's five classes and of its rule set are intersected; the lowest
//! remaining bit is the rule that decides. A row begins with a summary, a bit for each word that is not zero,
//! so that usually one of 64 words is read, however many rules there are (Baboescu and Varghese, "Scalable
//! packet classification", SIGCOMM 2001).
//!
//! Addresses are looked up by binary search among the intervals into which the prefixes cut the address
//! space. The search always takes as many steps as the longest table needs, each without a branch. The cost
//! therefore does not depend on the rules, and unlike the kernel's longest-prefix tries it involves neither a
//! call nor a chain of pointers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;
use crate::inner::{InnerHeaders, Network};
use crate::wire::MacAddresses;

/// The most rules over all sets.
pub const MAX_RULES: usize = 4096;
/// The most rule sets.
pub const MAX_SETS: usize = 256;
/// The most distinct classes over all tables: more than any [`MAX_RULES`] rules can make.
pub const MAX_CLASSES: usize = 1 << 15;
/// The most intervals of one table of addresses: more than [`MAX_RULES`] prefixes can make.
pub const MAX_INTERVALS: usize = 1 << 14;
/// The most hardware addresses of mirrored interfaces.
pub const MAX_MACS: usize = 1 << 12;
/// Length of [`Tables::macs`].
const MAC_PLACES: usize = 2 * MAX_MACS;
/// The most VNIs that the configuration can name. Their counters are in slots 1 to this number.
pub const MAX_VNIS: usize = 1 << 14;
/// The most VNIs that can be learned in addition, in the slots that follow. Slot 0 is for all others.
pub const MAX_LEARNED_VNIS: usize = 1 << 14;
/// The number of VNI slots.
pub const VNI_SLOTS: usize = 1 + MAX_VNIS + MAX_LEARNED_VNIS;
/// The number of rule identifiers, of which 0 stands for none: more than twice the number of rules and sets
/// together, so that the identifiers of two generations can be distinguished.
pub const MAX_RULE_IDS: usize = 1 << 14;

/// The number of words of a [`Row`].
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
    /// Captured for one of `parameter` flows.
    pub const SAMPLE: u8 = 2;
    /// Captured, with at most `parameter` bytes of the inner frame.
    pub const TRUNCATE: u8 = 3;
    /// Counted and dropped.
    pub const SHUNT: u8 = 4;
    /// Not the action of a rule: the outer source is not admitted.
    pub const SOURCE_NOT_ADMITTED: u8 = 5;
    /// Not the action of a rule: the VNI is not known.
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

/// The intervals of IPv4 addresses, and the class of each.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Intervals4 {
    /// The first address of each interval, ascending from 0.0.0.0, in host order; unused places hold
    /// [`u32::MAX`].
    pub starts: [u32; MAX_INTERVALS],
    /// The class of each interval; unused places hold that of the last.
    pub classes: [u16; MAX_INTERVALS],
}

/// The intervals of IPv6 addresses, and the class of each.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Intervals6 {
    /// As in [`Intervals4`]: the high and low word of each address.
    pub starts: [[u64; 2]; MAX_INTERVALS],
    /// As in [`Intervals4`].
    pub classes: [u16; MAX_INTERVALS],
}

/// The classes of addresses.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Addresses {
    /// Classes of IPv4 addresses.
    pub v4: Intervals4,
    /// Classes of IPv6 addresses.
    pub v6: Intervals6,
    /// The class of packets without an address.
    pub without: u64,
}

/// A rule set.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetEntry {
    /// The class of all rules of the set.
    pub class: u16,
    /// The identifier of the counters, like a rule's, for packets that match no rule.
    pub no_match: u16,
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RuleEntry {
    /// Identifier: the index of the rule's counters, and the rule in the capture header; never 0.
    pub id: u16,
    /// See [`action`].
    pub action: u8,
    /// 0.
    pub reserved: u8,
    /// The parameter of the action, such as a number of bytes.
    pub parameter: u32,
}

/// The class of each port, and of packets without ports. The number of places is a power of two, so that a
/// mask suffices to convince the verifier.
pub type PortClasses = [u16; PORT_PLACES];
const PORT_PLACES: usize = 1 << 17;
/// The first index of the class of packets without ports in [`PortClasses`].
pub const WITHOUT_PORTS: usize = 1 << 16;

/// The number of places of a direction in [`Tables::contexts`]: a power of two, as for ports.
const CONTEXTS: usize = 512;
/// The place of packets that are not IP.
const NOT_IP: usize = 256;

/// The compiled policy without the rows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tables {
    /// The number of the policy among those of a program, from 1.
    pub generation: u32,
    /// Non-zero if frames of unknown VNIs are dropped.
    pub only_known_vnis: u32,
    /// Non-zero if any outer source is admitted.
    pub any_source: u32,
    /// Non-zero if `macs` has any addresses.
    pub any_mac: u32,
    /// Class 1 marks the admitted outer sources.
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
    /// Hardware addresses of mirrored interfaces, ascending from 0, which is no address; unused places hold
    /// [`i64::MAX`].
    pub macs: [u64; MAC_PLACES],
    /// The entry of each VNI slot: see [`vni`].
    pub vnis: [u16; VNI_SLOTS + 3],
    /// The sets.
    pub sets: [SetEntry; MAX_SETS],
    /// The rules of all sets, one set after the other, each in the order in which its rules are tried.
    pub rules: [RuleEntry; MAX_RULES],
}

/// The rules that the values of a class satisfy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Row {
    /// One bit for each of `words` that is not 0.
    pub summary: u64,
    /// One bit for each rule of [`Tables::rules`].
    pub words: [u64; WORDS],
}

/// A compiled policy in any memory.
pub trait Compiled {
    /// Returns the tables.
    fn tables(&self) -> &Tables;
    /// Returns the row of a class; `None` beyond the last.
    fn row(&self, class: u16) -> Option<&Row>;

    /// Returns the index of the lowest set bit of a non-zero word. It must be evident to the verifier that
    /// the result is less than 64.
    #[inline(always)]
    #[must_use]
    fn lowest_bit(word: u64) -> usize {
        word.trailing_zeros() as usize % 64
    }

    /// Returns the number unchanged, but hides its value from the compiler. The verifier follows both paths
    /// of each branch, and the paths of branches in a loop multiply. Comparisons in loops are therefore
    /// computed arithmetically, and the compiler must not turn them back into branches.
    #[inline(always)]
    #[must_use]
    fn opaque(number: u64) -> u64 {
        number
    }
}

/// The decision on a frame, which applies to all frames that rules cannot distinguish from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Identifier of the rule, or of the set if none of its rules matches; 0 = none.
    pub rule: u16,
    /// See [`action`].
    pub action: u8,
    /// See [`direction`].
    pub direction: u8,
    /// The parameter of the action.
    pub parameter: u32,
}

impl Judgement {
    const fn of(action: u8, direction: u8) -> Self {
        Self { rule: 0, action, direction, parameter: 0 }
    }
}

/// Returns whether frames from this outer source are admitted.
#[inline(always)]
pub fn admits<C: Compiled>(policy: &C, sender: Address) -> bool {
    let tables = policy.tables();
    tables.any_source != 0 || tables.admitted.class::<C>(network_of(sender) as u64, sender) == 1
}

/// The numbers of [`Network`]'s variants.
const IPV4: u64 = Network::Ipv4 as u64;
const IPV6: u64 = Network::Ipv6 as u64;

/// Returns the address family of an outer address, which always has one.
#[inline(always)]
const fn network_of(address: Address) -> Network {
    if address.as_v4().is_some() { Network::Ipv4 } else { Network::Ipv6 }
}

/// The fields of a packet that rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The network protocol, as the number of [`Network`]'s variant.
    pub network: u64,
    /// Source address; meaningless for [`Network::Other`].
    pub source: Address,
    /// Destination address; meaningless for [`Network::Other`].
    pub destination: Address,
    /// Transport protocol (IANA); meaningless for [`Network::Other`].
    pub protocol: u8,
    /// 1 if there are ports, else 0.
    pub has_ports: u64,
    /// Source port; 0 if there is none.
    pub source_port: u16,
    /// Destination port; 0 if there is none.
    pub destination_port: u16,
    /// Hardware source, in the low 48 bits.
    pub source_mac: u64,
    /// Hardware destination, in the low 48 bits.
    pub destination_mac: u64,
}

impl Question {
    /// Takes the fields that rules look at from the headers of an inner frame.
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

/// Judges a frame of an admitted source: finds the rule of its VNI's set that decides, and its action. `slot`
/// is that of the VNI.
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

/// Returns the index of the first rule of a set that matches.
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
    /// Returns the class of an address.
    #[inline(always)]
    fn class<C: Compiled>(&self, network: u64, address: Address) -> u16 {
        match network {
            IPV4 => {
                let value = u64::from(address.low as u32);
                let at = search::<C>(MAX_INTERVALS, |at| {
                    let start = u64::from(self.v4.starts[at]);
                    // For numbers below 2³², the difference is negative if the first is smaller.
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

/// Returns the last of `places` places, a power of two, that is reached. The first place always is, and no
/// place beyond the last. `reached` answers with all bits or none.
#[inline(always)]
fn search<C: Compiled>(places: usize, reached: impl Fn(usize) -> u64) -> usize {
    // The compiler knows that no place is beyond the last, and would omit the instructions that prove it:
    // verifiers before Linux 6.10 do not follow the bits through the instructions that remain.
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

/// Returns all bits if the number is 0, else none; the number is less than 2⁶³.
#[inline(always)]
const fn zero(number: u64) -> u64 {
    sign(number.wrapping_sub(1))
}

/// Returns all bits if the number is negative, else none.
#[inline(always)]
const fn sign(number: u64) -> u64 {
    (number.cast_signed() >> 63).cast_unsigned()
}

/// Returns the top bit set if `a` is less than `b`; the other bits are meaningless.
#[inline(always)]
const fn borrow(a: u64, b: u64) -> u64 {
    !a & b | (!a | b) & a.wrapping_sub(b)
}

/// Returns the top bit set if `a` equals `b`; the other bits are meaningless.
#[inline(always)]
const fn equal(a: u64, b: u64) -> u64 {
    let different = a ^ b;
    !(different | different.wrapping_neg())
}

impl Tables {
    /// Returns all bits if a mirrored interface has this hardware address, else none.
    #[inline(always)]
    fn has_mac<C: Compiled>(&self, mac: u64) -> u64 {
        let at = search::<C>(MAC_PLACES, |at| {
            // Unused places are larger than any address, even if the top bit is taken as a sign.
            !C::opaque(sign(C::opaque(mac.wrapping_sub(self.macs[at]))))
        });
        // The first place holds 0, which is no address.
        C::opaque(sign(equal(self.macs[at], mac))) & !zero(mac)
    }

    /// Returns the place of a protocol in [`Tables::contexts`], which is the second index; the first is the
    /// direction. `None` stands for a packet that is not IP.
    #[must_use]
    pub fn context(protocol: Option<u8>) -> usize {
        protocol.map_or(NOT_IP, usize::from)
    }
}

/// The key by which user space and the program identify one direction of a flow that is to be shunted: outer
/// source, gateway endpoint, source, destination, and VNI with protocol and ports.
///
/// Packed into words without padding, since a BPF hash table compares bytes.
pub type ShuntKey = [u64; 8];

/// Returns the last word of a [`ShuntKey`]: 24 bits of VNI, 8 of protocol, twice 16 of ports.
#[inline(always)]
#[must_use]
pub const fn tuple_word(vni: crate::Vni, protocol: u8, source_port: u16, destination_port: u16) -> u64 {
    (vni.get() as u64) << 40 | (protocol as u64) << 32 | (source_port as u64) << 16 | destination_port as u64
}

/// Returns the value by which flows are sampled: a sample of one flow in `n` contains the flows for which it
/// is a multiple of `n`. It differs from the hash itself, so that sampling is independent of the choice of
/// sockets.
#[inline(always)]
#[must_use]
pub const fn sample_value(hash: crate::hash::FlowHash) -> u32 {
    hash.0.wrapping_mul(0x9e37_79b1).rotate_left(16)
}

/// The number of groups of flows, by their hash. For each group, the program remembers whether the list of
/// shunted flows has changed.
pub const SHUNT_GROUPS: u32 = 4096;

/// Returns the group of a flow.
#[inline(always)]
#[must_use]
pub const fn shunt_group(hash: crate::hash::FlowHash) -> u32 {
    hash.0 % SHUNT_GROUPS
}

/// The counters of a rule on one CPU: packets and bytes of the inner frames.
pub type RuleCounters = [u64; 2];

/// Indices of [`VniCounters`]. All but the last are summed over CPUs; of the last, the latest counts.
pub mod vni_counter {
    /// Frames received.
    pub const PACKETS: usize = 0;
    /// Bytes of their inner frames.
    pub const BYTES: usize = 1;
    /// Frames that the filter rejected.
    pub const REJECTED: usize = 2;
    /// Frames of flows outside the sample.
    pub const SAMPLED_OUT: usize = 3;
    /// Frames that were counted and dropped.
    pub const SHUNTED: usize = 4;
    /// Frames dropped because the VNI is not admitted.
    pub const NOT_ADMITTED: usize = 5;
    /// Frames without a socket, or without room for the capture header.
    pub const UNDELIVERED: usize = 6;
    /// The time of the last frame: `CLOCK_MONOTONIC`, nanoseconds.
    pub const LAST_SEEN: usize = 7;
}

/// The counters of a VNI on one CPU: see [`vni_counter`].
pub type VniCounters = [u64; 8];

/// The counters of one direction of a shunted flow: packets, bytes on the wire, and the time of the last
/// packet (`CLOCK_MONOTONIC`, nanoseconds).
pub type ShuntCounters = [u64; 3];
