//! Flow keys, and the keyed hash that finds them in the flow table.

use mirror_xdp_common::hash::{FlowHash, FlowHashKey, expand, flow_hash};
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, Vni};

use crate::{Cause, MirrorSession, Packet, Transport, Vlans};

/// The mirror session that a frame came from. The same inner addresses in two sessions are two flows, unless the
/// scope of flows is a VNI ([`crate::FlowScope`]): then the key names no interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The mirrored interface; zero for plain frames.
    pub outer_source: Address,
    /// The session's VNI, or [`Session::NO_VNI`]: a word, as keys are compared and hashed by words.
    vni: u64,
    /// Identifier of the Gateway Load Balancer endpoint; 0 for none.
    pub endpoint: u64,
}

impl SessionKey {
    /// Stands for the VNI of the session of plain frames.
    const NO_VNI: u64 = u64::MAX;

    /// Returns the session's VNI; `None` for plain frames.
    #[must_use]
    pub const fn vni(&self) -> Option<Vni> {
        if self.is_mirrored() { Vni::new(self.vni as u32) } else { None }
    }

    /// Returns true for a session of mirrored frames, false for that of plain ones.
    #[must_use]
    pub const fn is_mirrored(&self) -> bool {
        self.vni != Self::NO_VNI
    }

    /// Returns the key of all sessions with this VNI.
    #[inline]
    #[must_use]
    pub const fn of_any_interface(self) -> Self {
        Self { outer_source: Address { high: 0, low: 0 }, vni: self.vni, endpoint: 0 }
    }
}

impl Default for SessionKey {
    /// The session of plain frames.
    fn default() -> Self {
        Self { outer_source: Address::default(), vni: Self::NO_VNI, endpoint: 0 }
    }
}

impl From<Option<MirrorSession>> for SessionKey {
    fn from(mirror: Option<MirrorSession>) -> Self {
        mirror.map_or_else(Self::default, |mirror| Self {
            outer_source: mirror.outer_source,
            vni: mirror.vni.get().into(),
            endpoint: mirror.endpoint,
        })
    }
}

/// Session and 5-tuple, with the endpoints ordered so that both directions have the same key. For protocols
/// without ports, the port fields hold other values that distinguish their flows: the types of ICMP request
/// and reply, the security parameters index of ESP.
#[derive(Clone, Copy, Debug, Eq)]
pub struct FlowKey {
    /// The mirror session.
    pub session: SessionKey,
    /// The addresses of the lower and the higher endpoint.
    addresses: [Address; 2],
    /// The small fields, packed into one word.
    small: Small,
    /// VLAN tags.
    pub vlans: Vlans,
}

/// Bit fields, from the lowest bit on: the ports of the lower and the higher endpoint (16 bits each), the
/// transport protocol and the nesting depth of the flow's packets (8 bits each), and one bit that is set for
/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Small(u64);

impl Small {
    #[inline(always)]
    const fn new([low, high]: [u16; 2], protocol: u8, depth: u8, ipv6: bool) -> Self {
        Self(
            low as u64
                | (high as u64) << 16
                | (protocol as u64) << 32
                | (depth as u64) << 40
                | (ipv6 as u64) << 48,
        )
    }
}

impl PartialEq for FlowKey {
    /// Compares first the words in which nearly all different keys differ, then all others, without a branch for
    /// each word.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let [(low, other_low), (high, other_high)] =
            [0, 1].map(|end| (self.addresses[end], other.addresses[end]));
        let usual = (self.small.0 ^ other.small.0) | (low.low ^ other_low.low) | (high.low ^ other_high.low);
        if usual != 0 {
            return false;
        }
        let (session, other_session) = (&self.session, &other.session);
        let rest = (low.high ^ other_low.high)
            | (high.high ^ other_high.high)
            | (session.outer_source.high ^ other_session.outer_source.high)
            | (session.outer_source.low ^ other_session.outer_source.low)
            | (session.vni ^ other_session.vni)
            | (session.endpoint ^ other_session.endpoint)
            | (self.vlans.word() ^ other.vlans.word());
        rest == 0
    }
}

impl FlowKey {
    /// Returns the lower endpoint.
    #[must_use]
    pub const fn low(&self) -> (Address, u16) {
        (self.addresses[0], self.small.0 as u16)
    }

    /// Returns the higher endpoint.
    #[must_use]
    pub const fn high(&self) -> (Address, u16) {
        (self.addresses[1], (self.small.0 >> 16) as u16)
    }

    /// Returns the transport protocol (IANA).
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        (self.small.0 >> 32) as u8
    }

    /// Returns the nesting depth of the flow's packets.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        (self.small.0 >> 40) as u8
    }

    /// Returns true if the addresses are IPv6.
    #[must_use]
    pub const fn ipv6(&self) -> bool {
        self.small.0 >> 48 & 1 == 1
    }

    /// Returns the key that the flow would have in another session.
    #[must_use]
    pub const fn in_session(self, session: SessionKey) -> Self {
        Self { session, ..self }
    }

    /// Returns the key of a packet's flow, and true if the packet goes from the lower to the higher endpoint.
    // Always inlined: a key that is written word by word in a callee and moved to the caller in larger pieces
    // costs as much as finding it.
    #[inline(always)]
    #[must_use]
    pub fn of_packet(packet: &Packet<'_>, session: SessionKey) -> (Self, bool) {
        let (source_port, destination_port) = match packet.transport {
            Transport::Icmp { kind: (kind, code), .. } if packet.ipv6 => {
                // Suricata distinguishes ICMPv6 flows by the code too.
                (u16::from(kind) | u16::from(code) << 8, u16::from(icmpv6_counterpart(kind).unwrap_or(0)))
            }
            Transport::Icmp { kind: (kind, _), .. } => {
                (u16::from(kind), u16::from(icmp_counterpart(kind).unwrap_or(0)))
            }
            _ => (packet.source_port, packet.destination_port),
        };
        let forward = (packet.source, source_port) <= (packet.destination, destination_port);
        // Without a branch, since the direction of a packet is unpredictable.
        let way = u64::from(forward).wrapping_sub(1);
        let swap = |a: u64, b: u64| {
            let change = (a ^ b) & way;
            [a ^ change, b ^ change]
        };
        let [low_low, high_low] = swap(packet.source.low, packet.destination.low);
        let [low_high, high_high] = swap(packet.source.high, packet.destination.high);
        let mut ports = swap(source_port.into(), destination_port.into()).map(|port| port as u16);
        let address = |high, low| Address { high, low };
        let addresses = [address(low_high, low_low), address(high_high, high_low)];
        if let Transport::Esp { spi } = packet.transport {
            ports = [(spi >> 16) as u16, spi as u16];
        }
        let key = Self {
            session,
            addresses,
            small: Small::new(ports, packet.protocol, packet.depth, packet.ipv6),
            vlans: packet.vlans,
        };
        (key, forward)
    }

    /// Returns the key of the flow that an ICMP error is about.
    #[must_use]
    pub fn of_cause(cause: &Cause, packet: &Packet<'_>, session: SessionKey) -> Self {
        let source = (cause.source, cause.source_port);
        let destination = (cause.destination, cause.destination_port);
        let (low, high) = (source.min(destination), source.max(destination));
        Self {
            session,
            addresses: [low.0, high.0],
            small: Small::new([low.1, high.1], cause.protocol, packet.depth, false),
            vlans: packet.vlans,
        }
    }

    /// Returns the symmetric flow hash, as the XDP program computes it.
    #[must_use]
    pub fn flow_hash(&self, secret: &FlowHashKey) -> FlowHash {
        let ((low, low_port), (high, high_port)) = (self.low(), self.high());
        match self.protocol() {
            protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP) => {
                flow_hash(secret, low, low_port, high, high_port, protocol)
            }
            protocol => flow_hash(secret, low, 0, high, 0, protocol),
        }
    }

    /// Returns the security parameters index of an ESP flow.
    #[must_use]
    pub const fn spi(&self) -> u32 {
        (self.low().1 as u32) << 16 | self.high().1 as u32
    }
}

/// The keyed hash of whole [`FlowKey`]s.
///
/// Mirrored hosts, and every host that can send to the mirror port, choose all fields of a key. The hash
/// therefore covers every word of the key. The words are combined by *NH* (Black, Halevi, Krawczyk, Krovetz
/// and Rogaway, "UMAC: Fast and Secure Message Authentication", CRYPTO '99, section 4): the sum, modulo 2¹²⁸,
/// of the products of pairs of words, each with a secret word added. Any two keys, whichever bits they differ
/// in, have the same sum for at most one choice of the secret words in 2⁶⁴. The last step adds a secret word
/// to each half of the sum, multiplies the halves and combines the halves of their product, so that all bits
/// of the sum affect all bits of the hash.
#[derive(Clone, Copy, Debug)]
pub struct FlowKeyHasher {
    /// The secret words of the products, and those of the last step.
    secret: [[u64; 2]; 6],
}

/// The hashes of a key: its place in the flow table, and that of its two hosts among all pairs of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash {
    /// Hash of the whole key.
    pub flow: u32,
    /// Hash of mirror session and addresses alone.
    pub hosts: u16,
}

impl FlowKeyHasher {
    /// Creates a hasher whose secret words are expanded from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // The words must differ from those of the driver's hash, which has the same seed.
        const FLOW_TABLE: u64 = 0x666c_6f77_2074_626c;
        let words: [u64; 12] = expand(seed ^ FLOW_TABLE);
        let mut secret = [[0; 2]; 6];
        let mut at = 0;
        while at < words.len() {
            secret[at / 2][at % 2] = words[at];
            at += 1;
        }
        Self { secret }
    }

    /// Hashes a key.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> KeyHash {
        let hosts = self.hosts(key);
        let [.., last] = self.secret;
        KeyHash {
            flow: fold(hosts.wrapping_add(self.rest(key)), last) as u32,
            hosts: fold(hosts, last) as u16,
        }
    }

    /// Hashes a host of a mirror session.
    #[must_use]
    pub fn host(&self, session: &SessionKey, address: Address) -> u16 {
        let [of_address, .., of_source, of_session, _, last] = self.secret;
        let sum = product([address.low, address.high], of_address)
            .wrapping_add(product([session.outer_source.low, session.outer_source.high], of_source))
            .wrapping_add(product([session.vni, session.endpoint], of_session));
        fold(sum, last) as u16
    }

    /// Returns a 64-bit identifier of the flow with this key that began at `start`.
    #[must_use]
    pub fn identifier(&self, key: &FlowKey, start: u64) -> u64 {
        fold(self.hosts(key).wrapping_add(self.rest(key)), [start, !start])
    }

    /// Returns the part of the sum that covers session and addresses.
    #[inline(always)]
    fn hosts(&self, key: &FlowKey) -> u128 {
        let FlowKey { session: SessionKey { outer_source, vni, endpoint }, addresses: [low, high], .. } = key;
        let [of_low, of_high, of_source, of_session, ..] = self.secret;
        product([low.low, high.low], of_low)
            .wrapping_add(product([low.high, high.high], of_high))
            .wrapping_add(product([outer_source.low, outer_source.high], of_source))
            .wrapping_add(product([*vni, *endpoint], of_session))
    }

    /// Returns the part of the sum that covers ports, protocol and VLAN tags.
    #[inline(always)]
    const fn rest(&self, key: &FlowKey) -> u128 {
        let [.., of_rest, _] = self.secret;
        product([key.small.0, key.vlans.word()], of_rest)
    }
}

/// Returns one product of NH: of two words, each with a secret word added.
#[inline(always)]
const fn product(words: [u64; 2], secret: [u64; 2]) -> u128 {
    words[0].wrapping_add(secret[0]) as u128 * words[1].wrapping_add(secret[1]) as u128
}

/// Reduces a sum of NH.
#[inline(always)]
const fn fold(sum: u128, secret: [u64; 2]) -> u64 {
    let product = product([sum as u64, (sum >> 64) as u64], secret);
    product as u64 ^ (product >> 64) as u64
}

/// Returns the ICMP reply type for a request type, and vice versa.
const fn icmp_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        // Echo.
        8 => 0,
        0 => 8,
        // Router solicitation and advertisement.
        10 => 9,
        9 => 10,
        // Timestamp.
        13 => 14,
        14 => 13,
        // Information.
        15 => 16,
        16 => 15,
        // Address mask.
        17 => 18,
        18 => 17,
        _ => return None,
    })
}

/// Returns the `ICMPv6` reply type for a request type, and vice versa.
const fn icmpv6_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        // Echo.
        128 => 129,
        129 => 128,
        // Multicast listener query and report.
        130 => 131,
        131 => 130,
        // Router solicitation and advertisement.
        133 => 134,
        134 => 133,
        // Neighbour solicitation and advertisement.
        135 => 136,
        136 => 135,
        // Node information.
        139 => 140,
        140 => 139,
        // Home agent address discovery.
        144 => 145,
        145 => 144,
        // Mobile prefix solicitation and advertisement.
        146 => 147,
        147 => 146,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key as the words that are hashed, in the order of the fields.
    #[derive(Clone, Copy)]
    struct Input([u64; 10]);

    impl Input {
        /// Number of bits in each word in which keys can differ.
        const BITS: [u32; 10] = [64, 64, 64, 64, 64, 64, 24, 64, 49, 50];

        fn key(self) -> FlowKey {
            let Self(words) = self;
            let [.., vni, endpoint, small, vlans] = words;
            FlowKey {
                session: SessionKey { outer_source: Address::from_words(words[0], words[1]), vni, endpoint },
                addresses: [Address::from_words(words[2], words[3]), Address::from_words(words[4], words[5])],
                small: Small(small),
                vlans: Vlans::from_word(vlans),
            }
        }

        fn turned(mut self, mut bit: u32) -> Self {
            for (word, bits) in self.0.iter_mut().zip(Self::BITS) {
                if bit < bits {
                    *word ^= 1 << bit;
                    break;
                }
                bit -= bits;
            }
            self
        }
    }

    /// As for the driver's hash: keys that differ in any bits share a byte of their hashes as often as random
    /// numbers do.
    #[test]
    fn hostile_differences_in_any_bits_of_a_key_meet_no_more_often_than_by_chance() {
        const SEEDS: usize = 256;
        // A mean of once in 256 cases, so one here. A Poisson distribution with this mean exceeds 13 once in
        // 10¹¹ cases.
        const BOUND: u32 = 13;
        let hashers: [FlowKeyHasher; SEEDS] = std::array::from_fn(|seed| FlowKeyHasher::new(seed as u64));
        let all: u32 = Input::BITS.iter().sum();
        let base = Input([0, 0xffff_0a00_0001, 1 << 63, 3, 1 << 62, 4, 7, 0, 0x0006_01bb_03e8, 0]);
        let first_hashes = hashers.map(|hasher| hasher.hash(&base.key()));
        for first in 0..all {
            for second in first..all {
                let other = base.turned(first);
                let other = if second == first { other } else { other.turned(second) };
                let mut shared = [0_u32; 2];
                for (hasher, hash) in hashers.iter().zip(first_hashes) {
                    let difference = hash.flow ^ hasher.hash(&other.key()).flow;
                    shared[0] += u32::from(difference.trailing_zeros() >= 8);
                    shared[1] += u32::from(difference.leading_zeros() >= 8);
                }
                assert!(
                    shared.iter().all(|&n| n <= BOUND),
                    "bits {first} and {second}: {shared:?} of {SEEDS}"
                );
            }
        }
    }

    #[test]
    fn flows_of_two_hosts_share_their_place_among_hosts_and_others_do_not() {
        let hasher = FlowKeyHasher::new(1);
        let base = Input([0, 0xffff_0a00_0001, 1 << 63, 3, 1 << 62, 4, 7, 0, 0x0006_01bb_03e8, 0]);
        let hosts = |input: Input| hasher.hash(&input.key()).hosts;
        let of_ports: u32 = Input::BITS[..8].iter().sum();
        let all: u32 = Input::BITS.iter().sum();
        assert!((of_ports..all).all(|bit| hosts(base.turned(bit)) == hosts(base)));
        let meet = (0..of_ports).filter(|&bit| hosts(base.turned(bit)) == hosts(base)).count();
        assert_eq!(meet, 0, "of {of_ports} by chance one in 65,536 each");
    }
}
