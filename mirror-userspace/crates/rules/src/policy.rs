//! Admission and filter rules as values, before they are compiled for the XDP program.
//!
//! The rules have the semantics of AWS traffic mirror filters: they are tried in ascending order of their
//! numbers, the first match decides, and a packet that no rule matches is rejected. [`Policy::decide`] tries
//! the rules one by one; `mirror-xdp filter test` explains its result, and tests compare the compiled tables
//! with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_xdp_common::Vni;
pub use mirror_xdp_common::inner::has_ports;

/// A hardware address.
pub type MacAddress = [u8; 6];

/// Everything by which the program decides. The default admits and captures everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Outer source addresses that are admitted; `None` admits any.
    pub sources: Option<Vec<IpNet>>,
    /// The treatment of frames with an unknown VNI.
    pub unknown_vnis: UnknownVnis,
    /// Known VNIs, in ascending order without overlaps. The VNIs of [`Policy::bindings`] are known as well.
    pub vnis: Vec<RangeInclusive<u32>>,
    /// Hardware addresses of the mirrored interfaces, which determine the direction of a packet.
    pub macs: BTreeSet<MacAddress>,
    /// The rule sets.
    pub sets: Vec<RuleSet>,
    /// Index of the set for VNIs that are bound to no set; without a default set, all of their frames are
    /// accepted.
    pub default_set: Option<usize>,
    /// Index of the set to which a VNI is bound.
    pub bindings: BTreeMap<Vni, usize>,
}

/// The treatment of frames with an unknown VNI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownVnis {
    /// They are admitted, and the VNI is known from then on.
    #[default]
    Learn,
    /// They are dropped.
    Drop,
}

/// A list of rules that are tried one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Its name.
    pub name: String,
    /// The rules in the order in which they are tried: by number, and of two with one number the ingress rule
    /// first.
    pub rules: Vec<Rule>,
}

/// A filter rule. An absent condition matches every packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its number, unique in its set and direction.
    pub number: u32,
    /// The direction of the packets that it matches.
    pub direction: RuleDirection,
    /// The action on the packets that match.
    pub action: Action,
    /// IANA protocol number; for IPv6, the one in the last extension header.
    pub protocol: Option<u8>,
    /// Source network; matches only packets of its address family.
    pub source: Option<IpNet>,
    /// Destination network; of the same address family as `source`.
    pub destination: Option<IpNet>,
    /// Source ports, for protocols that have ports. Does not match a packet without ports, such as a later
    /// fragment.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Destination ports, with the same restrictions.
    pub destination_ports: Option<RangeInclusive<u16>>,
}

/// The packets that a rule matches, by direction as seen from the mirrored interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleDirection {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
    /// All packets.
    #[default]
    Both,
}

/// The action on the packets that match a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Captured.
    Accept,
    /// Dropped.
    Reject,
    /// Captured for one of N flows: all packets of a flow, or none.
    Sample(u32),
    /// Captured, with at most this many bytes of each inner frame.
    Truncate(u32),
    /// Counted and dropped.
    Shunt,
}

/// The direction of a packet, as seen from the mirrored interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received: the hardware destination is a mirrored interface.
    Ingress,
    /// Sent: the hardware source is a mirrored interface.
    Egress,
    /// Neither address is that of a known mirrored interface.
    #[default]
    Unknown,
}

/// The fields of a packet that rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The VNI of the mirrored frame.
    pub vni: Vni,
    /// Its direction.
    pub direction: Direction,
    /// Source and destination address; `None` for a packet that is not IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IANA protocol number; meaningless without addresses.
    pub protocol: u8,
    /// Source and destination port; `None` if the protocol has no ports, or they are not in the packet.
    pub ports: Option<(u16, u16)>,
}

/// The rule that decides on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The VNI is not known, and frames with unknown VNIs are dropped.
    UnknownVni,
    /// The VNI is bound to no set, and there is no default set: accepted.
    NoSet,
    /// The rule with this index in the set with this index.
    Rule {
        /// Index in [`Policy::sets`].
        set: usize,
        /// Index in [`RuleSet::rules`].
        rule: usize,
    },
    /// No rule of the set with this index matches: rejected.
    NoRule {
        /// Index in [`Policy::sets`].
        set: usize,
    },
}

impl Policy {
    /// Returns whether this VNI is known before its first frame arrives.
    #[must_use]
    pub fn knows(&self, vni: Vni) -> bool {
        self.bindings.contains_key(&vni) || self.vnis.iter().any(|range| range.contains(&vni.get()))
    }

    /// Returns whether frames from this outer source are admitted.
    #[must_use]
    pub fn admits(&self, outer_source: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|net| net.contains(&outer_source)))
    }

    /// Returns the direction of a frame, by its hardware addresses. A frame between two mirrored interfaces
    /// counts as sent.
    #[must_use]
    pub fn direction(&self, source: MacAddress, destination: MacAddress) -> Direction {
        if self.macs.contains(&source) {
            Direction::Egress
        } else if self.macs.contains(&destination) {
            Direction::Ingress
        } else {
            Direction::Unknown
        }
    }

    /// Finds the rule that decides on a packet by trying all rules in order.
    #[must_use]
    pub fn decide(&self, packet: &Facts) -> Decision {
        if self.unknown_vnis == UnknownVnis::Drop && !self.knows(packet.vni) {
            return Decision::UnknownVni;
        }
        let Some(set) = self.bindings.get(&packet.vni).copied().or(self.default_set) else {
            return Decision::NoSet;
        };
        match self.sets[set].rules.iter().position(|rule| rule.matches(packet)) {
            Some(rule) => Decision::Rule { set, rule },
            None => Decision::NoRule { set },
        }
    }
}

impl Rule {
    /// Returns whether the rule matches this packet. If the direction of a packet is unknown, the rules of
    /// both directions match it.
    #[must_use]
    pub fn matches(&self, packet: &Facts) -> bool {
        self.mismatch(packet).is_none()
    }

    /// Returns the first condition that the packet does not meet; `None` if the rule matches.
    #[must_use]
    pub fn mismatch(&self, packet: &Facts) -> Option<Mismatch> {
        let direction = matches!(
            (self.direction, packet.direction),
            (RuleDirection::Both, _)
                | (_, Direction::Unknown)
                | (RuleDirection::Ingress, Direction::Ingress)
                | (RuleDirection::Egress, Direction::Egress)
        );
        let protocol =
            self.protocol.is_none_or(|number| packet.addresses.is_some() && packet.protocol == number);
        let address = |net: &Option<IpNet>, of: fn((IpAddr, IpAddr)) -> IpAddr| {
            net.is_none_or(|net| packet.addresses.is_some_and(|both| net.contains(&of(both))))
        };
        let port = |ports: &Option<RangeInclusive<u16>>, of: fn((u16, u16)) -> u16| {
            ports.as_ref().is_none_or(|ports| packet.ports.is_some_and(|both| ports.contains(&of(both))))
        };
        [
            (direction, Mismatch::Direction),
            (protocol, Mismatch::Protocol),
            (address(&self.source, |both| both.0), Mismatch::Source),
            (address(&self.destination, |both| both.1), Mismatch::Destination),
            (port(&self.source_ports, |both| both.0), Mismatch::SourcePort),
            (port(&self.destination_ports, |both| both.1), Mismatch::DestinationPort),
        ]
        .into_iter()
        .find_map(|(matches, mismatch)| (!matches).then_some(mismatch))
    }
}

/// The condition of a rule that a packet does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The direction differs.
    Direction,
    /// The protocol differs, or the packet is not IP.
    Protocol,
    /// The source address differs, or the packet is not IP.
    Source,
    /// The destination address differs, or the packet is not IP.
    Destination,
    /// The source port differs, or there is none.
    SourcePort,
    /// The destination port differs, or there is none.
    DestinationPort,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Reject => f.write_str("reject"),
            Self::Sample(n) => write!(f, "sample 1/{n}"),
            Self::Truncate(bytes) => write!(f, "truncate {bytes}"),
            Self::Shunt => f.write_str("shunt"),
        }
    }
}

impl RuleDirection {
    /// Returns the word for it in configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Both => "both",
        }
    }
}

impl Direction {
    /// Returns the word for it in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Unknown => "unknown",
        }
    }
}
