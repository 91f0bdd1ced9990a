//! What tells flows apart.

use mirror_xdp_common::hash::{FlowHash, flow_hash};
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, Vni};

use crate::packet::{Cause, Packet, Transport};
use crate::record::Vlans;
use crate::worker::Mirror;

/// The mirror session that a frame came by: the same inner addresses in two sessions are two flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// The mirrored interface; zero for plain frames.
    pub outer_source: Address,
    /// The session's VNI; `None` for plain frames.
    pub vni: Option<Vni>,
    /// Identifier of the Gateway Load Balancer endpoint; 0 for none.
    pub endpoint: u64,
}

impl From<Option<Mirror>> for Session {
    fn from(mirror: Option<Mirror>) -> Self {
        mirror.map_or_else(Self::default, |mirror| Self {
            outer_source: mirror.outer_source,
            vni: Some(mirror.vni),
            endpoint: mirror.endpoint,
        })
    }
}

/// Session and 5-tuple, the endpoints ordered so that both directions have the same key. Protocols
/// without ports have in their place what else tells their flows apart: the types of ICMP request and
/// answer, the index of ESP.
#[derive(Clone, Copy, Debug, Eq)]
pub struct FlowKey {
    /// The mirror session.
    pub session: Session,
    /// The addresses of the lower and the higher endpoint.
    addresses: [Address; 2],
    /// What is small, in one word.
    small: Small,
    /// VLAN tags.
    pub vlans: Vlans,
}

/// From the lowest bit on: the lower endpoint's port, that of the higher (16 bits each), the transport protocol,
/// how many packets the flow's packets are in (8 bits each), and whether the addresses are of IPv6.
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
    /// Without a branch for each field: a key that is looked for is nearly always the one that is found.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let address = |a: Address, b: Address| (a.high ^ b.high) | (a.low ^ b.low);
        let vni = |key: &Self| key.session.vni.map_or(u64::MAX, |vni| vni.get().into());
        let differ = address(self.addresses[0], other.addresses[0])
            | address(self.addresses[1], other.addresses[1])
            | address(self.session.outer_source, other.session.outer_source)
            | (self.session.endpoint ^ other.session.endpoint)
            | (vni(self) ^ vni(other))
            | (self.small.0 ^ other.small.0)
            | (self.vlans.word() ^ other.vlans.word());
        differ == 0
    }
}

impl FlowKey {
    /// The lower endpoint.
    #[must_use]
    pub const fn low(&self) -> (Address, u16) {
        (self.addresses[0], self.small.0 as u16)
    }

    /// The higher endpoint.
    #[must_use]
    pub const fn high(&self) -> (Address, u16) {
        (self.addresses[1], (self.small.0 >> 16) as u16)
    }

    /// Transport protocol (IANA).
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        (self.small.0 >> 32) as u8
    }

    /// How many packets the flow's packets are in.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        (self.small.0 >> 40) as u8
    }

    /// Whether the addresses are of IPv6.
    #[must_use]
    pub const fn ipv6(&self) -> bool {
        self.small.0 >> 48 & 1 == 1
    }

    /// The key that the flow would have in another session.
    #[must_use]
    pub const fn in_session(self, session: Session) -> Self {
        Self { session, ..self }
    }

    /// The key of a packet's flow, and whether the packet goes from the lower to the higher endpoint.
    // Inlined wherever it is called: a key that is written here word by word and moved there in greater pieces
    // costs as much as finding it.
    #[inline(always)]
    #[must_use]
    pub fn of_packet(packet: &Packet<'_>, session: Session) -> (Self, bool) {
        let (source_port, destination_port) = match packet.transport {
            Transport::Icmp { kind: (kind, code), .. } if packet.ipv6 => {
                // Suricata tells ICMPv6 flows apart by the code too.
                (u16::from(kind) | u16::from(code) << 8, u16::from(icmpv6_counterpart(kind).unwrap_or(0)))
            }
            Transport::Icmp { kind: (kind, _), .. } => {
                (u16::from(kind), u16::from(icmp_counterpart(kind).unwrap_or(0)))
            }
            _ => (packet.source_port, packet.destination_port),
        };
        let forward = (packet.source, source_port) <= (packet.destination, destination_port);
        // Without a branch: nobody can foretell which way a packet goes.
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

    /// The key of the flow that an ICMP error is about.
    #[must_use]
    pub fn of_cause(cause: &Cause, packet: &Packet<'_>, session: Session) -> Self {
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

    /// The symmetric flow hash, as the XDP program computes it.
    #[must_use]
    pub const fn flow_hash(&self, seed: u64) -> FlowHash {
        let ((low, low_port), (high, high_port)) = (self.low(), self.high());
        match self.protocol() {
            protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP) => {
                flow_hash(seed, low, low_port, high, high_port, protocol)
            }
            protocol => flow_hash(seed, low, 0, high, 0, protocol),
        }
    }

    /// Security parameters index of an ESP flow.
    #[must_use]
    pub const fn spi(&self) -> u32 {
        (self.low().1 as u32) << 16 | self.high().1 as u32
    }
}

/// The type of the answer to an ICMP message, and the other way round.
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

/// The type of the answer to an `ICMPv6` message, and the other way round.
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
