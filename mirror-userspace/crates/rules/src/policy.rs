//! What may come in, and what of it is worth a worker's time: admission and filter rules as values, before
//! they are compiled for the XDP program.
//!
//! The rules have the semantics of AWS mirror filters: in ascending number, the first that matches
//! decides, and what none matches is rejected. [`Policy::decide`] says so rule by rule; it is what
//! `mirror-xdp filter test` explains and what the compiled tables are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_xdp_common::Vni;
pub use mirror_xdp_common::inner::has_ports;

/// A hardware address.
pub type MacAddress = [u8; 6];

/// Everything that the program decides by. The default admits and captures everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Outer sources that frames are taken from; `None` is any.
    pub sources: Option<Vec<IpNet>>,
    /// What becomes of frames whose VNI is not known.
    pub unknown_vnis: UnknownVnis,
    /// Known VNIs, in ascending order without overlaps. Those of [`Policy::bindings`] are known besides.
    pub vnis: Vec<RangeInclusive<u32>>,
    /// Hardware addresses of the mirrored interfaces, by which the direction of a packet is known.
    pub macs: BTreeSet<MacAddress>,
    /// The rule sets.
    pub sets: Vec<RuleSet>,
    /// Index of the set for VNIs that are bound to none; without one, all of their frames are accepted.
    pub default_set: Option<usize>,
    /// Index of the set that a VNI is bound to.
    pub bindings: BTreeMap<Vni, usize>,
}

/// What becomes of frames whose VNI is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownVnis {
    /// They are taken, and the VNI is known from then on.
    #[default]
    Learn,
    /// They are dropped.
    Drop,
}

/// Rules that are tried one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Its name.
    pub name: String,
    /// In the order in which they are tried: by number, and of one number the ingress rule first.
    pub rules: Vec<Rule>,
}

/// A rule. What is absent matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its number, unique in its set and direction.
    pub number: u32,
    /// The packets that it is about.
    pub direction: RuleDirection,
    /// What becomes of the packets that match.
    pub action: Action,
    /// IANA protocol number. Of IPv6 the one that the extension headers end with.
    pub protocol: Option<u8>,
    /// Source addresses; matches packets of its family alone.
    pub source: Option<IpNet>,
    /// Destination addresses; of the same family as `source`.
    pub destination: Option<IpNet>,
    /// Source ports, for protocols that have some. Matches no packet whose ports are not there, such as a
    /// later fragment.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Destination ports, likewise.
    pub destination_ports: Option<RangeInclusive<u16>>,
}

/// The packets that a rule is about, as seen from the mirrored interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleDirection {
    /// Those that come in by the interface.
    Ingress,
    /// Those that leave by it.
    Egress,
    /// All.
    #[default]
    Both,
}

/// What becomes of the packets that match a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Captured.
    Accept,
    /// Dropped.
    Reject,
    /// Captured, as one of so many flows: all packets of it, or none.
    Sample(u32),
    /// Captured, but of each inner frame no more than so many bytes.
    Truncate(u32),
    /// Counted and dropped.
    Shunt,
}

/// The direction of a packet, as seen from the mirrored interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It came in: its hardware destination is a mirrored interface.
    Ingress,
    /// It left: its hardware source is a mirrored interface.
    Egress,
    /// Neither address is that of a mirrored interface that is known.
    #[default]
    Unknown,
}

/// What rules look at in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The VNI that it came by.
    pub vni: Vni,
    /// Its direction.
    pub direction: Direction,
    /// Source and destination address; `None` of what is not an IP packet.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IANA protocol number; means nothing without addresses.
    pub protocol: u8,
    /// Source and destination port; `None` where there are none, or they are not in the packet.
    pub ports: Option<(u16, u16)>,
}

/// Which rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The VNI is not known, and such frames are dropped.
    UnknownVni,
    /// The VNI is bound to no set, and there is no default: accepted.
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
    /// Whether frames of this VNI are known before any came.
    #[must_use]
    pub fn knows(&self, vni: Vni) -> bool {
        self.bindings.contains_key(&vni) || self.vnis.iter().any(|range| range.contains(&vni.get()))
    }

    /// Whether frames from this outer source are taken.
    #[must_use]
    pub fn admits(&self, outer_source: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|net| net.contains(&outer_source)))
    }

    /// The direction of a frame, by its hardware addresses. Between two mirrored interfaces the frame is
    /// taken for the sender's.
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

    /// Which rule decides on a packet: the plain way, one after the other.
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
    /// Whether the rule is about this packet. Where a packet's direction is not known, the rules of both
    /// directions are.
    #[must_use]
    pub fn matches(&self, packet: &Facts) -> bool {
        self.mismatch(packet).is_none()
    }

    /// The first thing in a packet that the rule is not about; `None` where it matches.
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

/// What in a packet a rule is not about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Its direction.
    Direction,
    /// Its protocol, or that it is not IP.
    Protocol,
    /// Its source address, or that it is not IP.
    Source,
    /// Its destination address, or that it is not IP.
    Destination,
    /// Its source port, or that there is none.
    SourcePort,
    /// Its destination port, or that there is none.
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
    /// As it is written in configuration files.
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
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Unknown => "unknown",
        }
    }
}
