//! Random policies, packets near the borders of their rules, and a matcher that decides on them in the
//! simplest way. Tests compare other matchers with it.
//!
//! The types are plain data. [`Policy::decide`] follows what AWS documents for traffic mirror filters: a list
//! of rules for each direction, in ascending number; the first match decides; a packet without a match is
//! rejected. A test converts a policy into the form under test by [`Policy::to_toml`], or field by field.
//!
//! ```
//! use mirror_xdp_tests::rules::{Packet, Policy, Rng, Size};
//!
//! let mut rng = Rng::new(1);
//! let policy = Policy::random(&mut rng, Size { rules: 100, sets: 3 });
//! let packet = Packet::near(&policy, &mut rng);
//! let decision = policy.decide(&packet);
//! assert_eq!(decision, policy.decide(&packet));
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

use crate::frames::{APPLIANCE_V4, APPLIANCE_V6, mirrored};

/// A deterministic pseudo-random number generator (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which must not be 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Returns true once in `times` on average.
    pub const fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Returns one of `items`, which must not be empty.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// The size of a policy.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The number of rules in all sets.
    pub rules: usize,
    /// The number of sets.
    pub sets: usize,
}

/// Admission and filter rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Outer sources that are admitted; `None` admits any.
    pub sources: Option<Vec<Net>>,
    /// True if frames of unknown VNIs are dropped.
    pub strict: bool,
    /// Known VNIs besides those of the sets, as first and last of ranges.
    pub vnis: Vec<(u32, u32)>,
    /// Hardware addresses of the mirrored interfaces.
    pub macs: Vec<[u8; 6]>,
    /// The rule sets; their names are `set0` and so on.
    pub sets: Vec<Set>,
    /// Index of the set for VNIs that are bound to no set.
    pub default: Option<usize>,
}

/// A rule set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// VNIs that are bound to it, as first and last of ranges.
    pub vnis: Vec<(u32, u32)>,
    /// The rules, in no particular order.
    pub rules: Vec<Rule>,
}

/// A rule. An absent condition matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub number: u32,
    /// The direction that it applies to; `None` is both.
    pub direction: Option<Direction>,
    /// The action on matching packets.
    pub action: Action,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// Source network.
    pub source: Option<Net>,
    /// Destination network.
    pub destination: Option<Net>,
    /// First and last source port.
    pub source_ports: Option<(u16, u16)>,
    /// First and last destination port.
    pub destination_ports: Option<(u16, u16)>,
}

/// A direction, as seen from the mirrored interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the interface.
    Ingress,
    /// From the interface.
    Egress,
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Captured.
    Accept,
    /// Dropped.
    Reject,
    /// One of so many flows is captured.
    Sample(u32),
    /// At most this many bytes of a packet are captured.
    Truncate(u32),
    /// Counted and dropped.
    Shunt,
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Its first address.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
}

/// The parts of a packet that rules match, and those that determine its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Outer source.
    pub outer_source: IpAddr,
    /// The VNI.
    pub vni: u32,
    /// Hardware source.
    pub source_mac: [u8; 6],
    /// Hardware destination.
    pub destination_mac: [u8; 6],
    /// Source and destination address; `None` if the packet is not IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IANA protocol number; 0 if the packet is not IP.
    pub protocol: u8,
    /// Source and destination port. `None` for TCP, UDP and SCTP means a later fragment.
    pub ports: Option<(u16, u16)>,
}

/// The part of the policy that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The outer source is not admitted.
    NotAdmitted,
    /// The VNI is unknown, and such frames are dropped.
    UnknownVni,
    /// The VNI has no set: the packet is accepted.
    NoSet,
    /// No rule of this set matches: the packet is rejected.
    NoRule {
        /// Its index.
        set: usize,
    },
    /// A rule matches.
    Rule {
        /// Index of its set.
        set: usize,
        /// Index of the rule in the set, in the order of the policy.
        rule: usize,
    },
}

impl Net {
    /// Returns whether the address is in the network, comparing bit by bit.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: &[u8], other: &[u8]| {
            let bit = |octets: &[u8], index: usize| octets[index / 8] & (0x80 >> (index % 8));
            (0..self.length.into()).all(|index| bit(own, index) == bit(other, index))
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(&own.octets(), &other.octets()),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(&own.octets(), &other.octets()),
            _ => false,
        }
    }
}

impl Policy {
    /// Returns the part of the policy that decides on a packet.
    #[must_use]
    pub fn decide(&self, packet: &Packet) -> Decision {
        if let Some(sources) = &self.sources
            && !sources.iter().any(|net| net.contains(packet.outer_source))
        {
            return Decision::NotAdmitted;
        }
        let among = |ranges: &[(u32, u32)]| ranges.iter().any(|(a, b)| (*a..=*b).contains(&packet.vni));
        let bound = self.sets.iter().position(|set| among(&set.vnis));
        if self.strict && bound.is_none() && !among(&self.vnis) {
            return Decision::UnknownVni;
        }
        let Some(set) = bound.or(self.default) else { return Decision::NoSet };
        // The list of the packet's direction. If that is unknown, both lists are merged by number; of two
        // rules with the same number, the one for ingress comes first.
        let direction = self.direction(packet);
        let rules = &self.sets[set].rules;
        let mut list: Vec<usize> = (0..rules.len())
            .filter(|index| match (rules[*index].direction, direction) {
                (Some(rule), Some(packet)) => rule == packet,
                _ => true,
            })
            .collect();
        list.sort_by_key(|index| (rules[*index].number, rules[*index].direction == Some(Direction::Egress)));
        match list.into_iter().find(|index| rules[*index].describes(packet)) {
            Some(rule) => Decision::Rule { set, rule },
            None => Decision::NoRule { set },
        }
    }

    /// Returns the direction of a packet, if one of its hardware addresses is that of a mirrored interface.
    #[must_use]
    pub fn direction(&self, packet: &Packet) -> Option<Direction> {
        if self.macs.contains(&packet.source_mac) {
            Some(Direction::Egress)
        } else if self.macs.contains(&packet.destination_mac) {
            Some(Direction::Ingress)
        } else {
            None
        }
    }

    /// Returns policies that lack one more part of this one: the candidates when shrinking a policy that
    /// shows a difference.
    pub fn smaller(&self) -> impl Iterator<Item = Self> {
        let without_rules = self.sets.iter().enumerate().flat_map(move |(set, rules)| {
            // Large parts come first, so that few steps suffice.
            let parts = [2, 4, 8, 16].into_iter().chain([rules.rules.len().max(1)]);
            parts.filter(|parts| *parts <= rules.rules.len()).flat_map(move |parts| {
                let length = rules.rules.len().div_ceil(parts);
                (0..parts).map(move |part| {
                    let mut smaller = self.clone();
                    let end = ((part + 1) * length).min(rules.rules.len());
                    smaller.sets[set].rules.drain((part * length).min(end)..end);
                    smaller
                })
            })
        });
        let fields = self.sets.iter().enumerate().flat_map(move |(set, rules)| {
            (0..rules.rules.len()).flat_map(move |index| {
                (0..5).map(move |field| {
                    let mut smaller = self.clone();
                    let rule = &mut smaller.sets[set].rules[index];
                    match field {
                        0 => rule.source = None,
                        1 => rule.destination = None,
                        2 => rule.source_ports = None,
                        3 => rule.destination_ports = None,
                        _ => rule.direction = None,
                    }
                    smaller
                })
            })
        });
        let admission = Self { sources: None, strict: false, vnis: Vec::new(), ..self.clone() };
        without_rules
            .chain(fields)
            .chain([admission])
            .filter(move |smaller| smaller != self && smaller.is_valid())
    }

    /// Returns whether each number is used at most once in each direction of a set.
    fn is_valid(&self) -> bool {
        self.sets.iter().all(|set| {
            let mut used: Vec<_> = set
                .rules
                .iter()
                .flat_map(|rule| match rule.direction {
                    Some(direction) => vec![(rule.number, direction)],
                    None => vec![(rule.number, Direction::Ingress), (rule.number, Direction::Egress)],
                })
                .collect();
            let total = used.len();
            used.sort_unstable();
            used.dedup();
            used.len() == total
        })
    }

    /// Removes parts of a policy as long as `fails` returns true, and returns the rest.
    #[must_use]
    pub fn shrink(mut self, fails: impl Fn(&Self) -> bool) -> Self {
        loop {
            let smaller = self.smaller().find(&fails);
            match smaller {
                Some(smaller) => self = smaller,
                None => return self,
            }
        }
    }

    /// Returns the policy as a configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let ranges = |ranges: &[(u32, u32)]| {
            let texts: Vec<_> = ranges.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
            texts.join(", ")
        };
        let mut text = String::from("[admission]\n");
        let _ = writeln!(text, "mode = \"{}\"", if self.strict { "strict" } else { "learn" });
        let _ = writeln!(text, "vnis = [{}]", ranges(&self.vnis));
        if let Some(sources) = &self.sources {
            let nets: Vec<_> =
                sources.iter().map(|net| format!("\"{}/{}\"", net.address, net.length)).collect();
            let _ = writeln!(text, "sources = [{}]", nets.join(", "));
        }
        text.push_str("[filter]\n");
        if let Some(default) = self.default {
            let _ = writeln!(text, "default = \"set{default}\"");
        }
        let macs: Vec<_> = self
            .macs
            .iter()
            .map(|mac| format!("\"{}\"", mac.map(|byte| format!("{byte:02x}")).join(":")))
            .collect();
        let _ = writeln!(text, "macs = [{}]", macs.join(", "));
        for (index, set) in self.sets.iter().enumerate() {
            let _ = writeln!(text, "[[filter.sets]]\nname = \"set{index}\"\nvnis = [{}]", ranges(&set.vnis));
            for rule in &set.rules {
                rule.write_toml(&mut text);
            }
        }
        text
    }
}

impl Rule {
    /// Returns whether the packet meets the rule's conditions, apart from the direction.
    fn describes(&self, packet: &Packet) -> bool {
        if let Some(protocol) = self.protocol
            && (packet.addresses.is_none() || packet.protocol != protocol)
        {
            return false;
        }
        if let Some(net) = self.source {
            let Some((source, _)) = packet.addresses else { return false };
            if !net.contains(source) {
                return false;
            }
        }
        if let Some(net) = self.destination {
            let Some((_, destination)) = packet.addresses else { return false };
            if !net.contains(destination) {
                return false;
            }
        }
        if let Some((first, last)) = self.source_ports {
            let Some((source, _)) = packet.ports else { return false };
            if source < first || source > last {
                return false;
            }
        }
        if let Some((first, last)) = self.destination_ports {
            let Some((_, destination)) = packet.ports else { return false };
            if destination < first || destination > last {
                return false;
            }
        }
        true
    }

    fn write_toml(&self, text: &mut String) {
        let _ = writeln!(text, "[[filter.sets.rules]]\nnumber = {}", self.number);
        if let Some(direction) = self.direction {
            let name = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            let _ = writeln!(text, "direction = \"{name}\"");
        }
        let action = match self.action {
            Action::Accept => "accept".to_owned(),
            Action::Reject => "reject".to_owned(),
            Action::Shunt => "shunt".to_owned(),
            Action::Sample(flows) => format!("sample 1/{flows}"),
            Action::Truncate(bytes) => format!("truncate {bytes}"),
        };
        let _ = writeln!(text, "action = \"{action}\"");
        if let Some(protocol) = self.protocol {
            let _ = writeln!(text, "protocol = {protocol}");
        }
        for (key, net) in [("source", self.source), ("destination", self.destination)] {
            if let Some(net) = net {
                let _ = writeln!(text, "{key} = \"{}/{}\"", net.address, net.length);
            }
        }
        for (key, ports) in
            [("source_ports", self.source_ports), ("destination_ports", self.destination_ports)]
        {
            if let Some((first, last)) = ports {
                let _ = writeln!(text, "{key} = \"{first}-{last}\"");
            }
        }
    }
}

/// Protocols with ports.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// Returns a network in one of a few neighbourhoods, so that rules overlap. The neighbourhoods are twelve
/// networks with a prefix of 16 bits in IPv4 and of 64 bits in IPv6.
fn random_net(rng: &mut Rng, v6: bool, length: usize) -> Net {
    // Half of the networks are close together within their neighbourhood.
    let crowded = rng.one_in(2);
    if v6 {
        let near = 0xfd00u128 << 112 | (rng.below(3) as u128) << 80 | (rng.below(4) as u128) << 64;
        let address = near | (rng.wide() & if crowded { 0xff } else { u128::from(u64::MAX) });
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        Net { address: Ipv6Addr::from_bits(address & mask).into(), length: length as u8 }
    } else {
        let near = 0x0a00_0000u32 | (rng.below(3) as u32) << 22 | (rng.below(4) as u32) << 16;
        let address = near | (rng.next() as u32 & if crowded { 0xff } else { 0xffff });
        let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
        Net { address: Ipv4Addr::from_bits(address & mask).into(), length: length as u8 }
    }
}

/// Returns a prefix length of any value, often a common one.
fn any_length(rng: &mut Rng, v6: bool) -> usize {
    match (v6, rng.below(4)) {
        (_, 0) => 8 * (1 + rng.below(4)),
        (false, 1) => 32,
        (true, 1) => 128,
        (false, _) => rng.below(33),
        (true, _) => rng.below(129),
    }
}

/// Returns a prefix length within a neighbourhood.
fn narrow_length(rng: &mut Rng, v6: bool, alone: bool) -> usize {
    // An IPv4 neighbourhood leaves 16 bits, an IPv6 neighbourhood 64: four bits for each one.
    let scaled = |bits: usize| if v6 { 64 + (bits - 16) * 4 } else { bits };
    let (least, span) = match (alone, rng.below(8)) {
        (true, _) => (28, 5),
        (false, 0) => (16, 1),
        (false, _) => (20, 13),
    };
    let length = scaled(least + rng.below(span));
    if v6 && span > 1 { (length + rng.below(4)).min(128) } else { length }
}

/// Returns the source and destination networks of a rule. Narrow ones leave most packets to other rules.
fn random_nets(rng: &mut Rng, v6: bool, narrow: bool) -> (Option<Net>, Option<Net>) {
    let (mut source, mut destination) = (!rng.one_in(4), !rng.one_in(4));
    if narrow && !source && !destination {
        (source, destination) = (true, true);
    }
    let alone = source != destination;
    let net = |rng: &mut Rng, present: bool| {
        present.then(|| {
            let length = if narrow { narrow_length(rng, v6, alone) } else { any_length(rng, v6) };
            random_net(rng, v6, length)
        })
    };
    (net(rng, source), net(rng, destination))
}

fn random_ports(rng: &mut Rng) -> (u16, u16) {
    const USUAL: [u16; 8] = [0, 22, 53, 80, 443, 1024, 49_152, u16::MAX];
    let a = if rng.one_in(2) { *rng.choose(&USUAL) } else { rng.next() as u16 };
    let b = match rng.below(3) {
        0 => a,
        1 => a.saturating_add(rng.below(100) as u16),
        _ => *rng.choose(&USUAL),
    };
    (a.min(b), a.max(b))
}

fn random_rule(rng: &mut Rng, number: u32, direction: Option<Direction>, narrow: bool) -> Rule {
    const OTHERS: [u8; 5] = [1, 58, 47, 50, 0];
    let v6 = rng.one_in(3);
    let action = match rng.below(8) {
        0 => Action::Sample(1 + rng.below(100) as u32),
        1 => Action::Truncate(14 + rng.below(200) as u32),
        2 => Action::Shunt,
        3 | 4 => Action::Reject,
        _ => Action::Accept,
    };
    let protocol = match rng.below(8) {
        0 => None,
        1 => Some(*rng.choose(&OTHERS)),
        2 => Some(rng.next() as u8),
        _ => Some(*rng.choose(&WITH_PORTS)),
    };
    let (source, destination) = random_nets(rng, v6, narrow);
    let has_ports = protocol.is_some_and(|number| WITH_PORTS.contains(&number));
    let ports = |rng: &mut Rng| (has_ports && rng.one_in(2)).then(|| random_ports(rng));
    let (source_ports, destination_ports) = (ports(rng), ports(rng));
    Rule { number, direction, action, protocol, source, destination, source_ports, destination_ports }
}

/// Returns rules in no particular order, with numbers that ascend in gaps; some numbers are used in both
/// directions.
///
/// If there are many rules, few are wide, or later ones would match nothing.
fn random_rules(rng: &mut Rng, count: usize) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut number = 0;
    while rules.len() < count {
        number += 1 + rng.below(10) as u32;
        let narrow = !rng.one_in(1 + count / 8);
        let mut rule = |rng: &mut Rng, direction| rules.push(random_rule(rng, number, direction, narrow));
        match rng.below(4) {
            0 => {
                rule(rng, Some(Direction::Ingress));
                rule(rng, Some(Direction::Egress));
            }
            1 => {
                let direction = *rng.choose(&[Direction::Ingress, Direction::Egress]);
                rule(rng, Some(direction));
            }
            _ => rule(rng, None),
        }
    }
    rules.truncate(count);
    for index in (1..rules.len()).rev() {
        rules.swap(index, rng.below(index + 1));
    }
    rules
}

impl Policy {
    /// Returns a valid policy of this size, at most 4,096 rules and 256 sets.
    ///
    /// Its rules overlap, because their addresses and ports come from a few neighbourhoods. Every action,
    /// protocol, direction and family occurs, and so do both treatments of unknown VNIs.
    #[must_use]
    pub fn random(rng: &mut Rng, size: Size) -> Self {
        let mut sets = vec![Set::default(); size.sets];
        // Adjacent ranges of VNIs, with gaps between most; some sets have none.
        let mut next = rng.below(3) as u32;
        for _ in 0..size.sets * 2 {
            let last = next + rng.below(4) as u32;
            let set = rng.below(size.sets);
            if !rng.one_in(4) {
                sets[set].vnis.push((next, last));
            }
            next = last + 1 + rng.below(3) as u32;
        }
        if size.sets > 0 {
            if rng.one_in(4) {
                sets[0].vnis.push((0x00ff_ffff, 0x00ff_ffff));
            }
            // Few sets have most of the rules.
            let mut left = size.rules;
            for index in 0..size.sets {
                let share = if index + 1 == size.sets { left } else { rng.below(left + 1) };
                left -= share;
                sets[index].rules = random_rules(rng, share);
            }
        }
        let macs = (0..rng.below(4)).map(|host| [2, 0, 0, 0, 0, host as u8 + 1]).collect();
        let mut sources: Option<Vec<Net>> = None;
        if rng.one_in(3) {
            let mut source = |v6| {
                let length = any_length(rng, v6);
                random_net(rng, v6, length)
            };
            sources = Some([false, true, false, true].map(&mut source)[..=rng.below(4)].to_vec());
        }
        let vnis = (0..rng.below(3) as u32).map(|index| (next + index * 5, next + index * 5 + 1)).collect();
        let default = (size.sets > 0 && rng.one_in(2)).then(|| rng.below(size.sets));
        Self { sources, strict: rng.one_in(2), vnis, macs, sets, default }
    }
}

/// Returns an address at or next to an edge of the network, or anywhere within it.
fn address_near(rng: &mut Rng, net: Net) -> IpAddr {
    let at = rng.below(12);
    let random = rng.wide();
    match net.address {
        IpAddr::V4(v4) => {
            let first = v4.to_bits();
            let last = first | u32::MAX.checked_shr(net.length.into()).unwrap_or(0);
            Ipv4Addr::from_bits(match at {
                0 => first,
                1 => last,
                2 => first.wrapping_sub(1),
                3 => last.wrapping_add(1),
                _ => first + (random % (u128::from(last - first) + 1)) as u32,
            })
            .into()
        }
        IpAddr::V6(v6) => {
            let first = v6.to_bits();
            let last = first | u128::MAX.checked_shr(net.length.into()).unwrap_or(0);
            let within = (last - first).checked_add(1).map_or(random, |count| first + random % count);
            let address = Ipv6Addr::from_bits(match at {
                0 => first,
                1 => last,
                2 => first.wrapping_sub(1),
                3 => last.wrapping_add(1),
                _ => within,
            });
            // IPv4-mapped addresses do not occur in packets.
            if address.to_ipv4_mapped().is_some() { v6.into() } else { address.into() }
        }
    }
}

fn port_near(rng: &mut Rng, ports: Option<(u16, u16)>) -> u16 {
    let (first, last) = ports.unwrap_or((0, u16::MAX));
    match rng.below(12) {
        0 => first,
        1 => last,
        2 => first.wrapping_sub(1),
        3 => last.wrapping_add(1),
        _ => first + (rng.next() % (u64::from(last - first) + 1)) as u16,
    }
}

impl Packet {
    /// Returns a packet at or next to the borders of one of the policy's rules, occasionally any other
    /// packet.
    #[must_use]
    pub fn near(policy: &Policy, rng: &mut Rng) -> Self {
        let set = (!policy.sets.is_empty()).then(|| rng.below(policy.sets.len()));
        let rules = set.map_or(&[][..], |set| &policy.sets[set].rules);
        let any = random_rule(rng, 1, None, false);
        let rule = if rules.is_empty() || rng.one_in(20) { &any } else { rng.choose(rules) };
        let v6 = match rule.source.or(rule.destination) {
            Some(net) => net.address.is_ipv6(),
            None => rng.one_in(2),
        };
        let mut side = |net: Option<Net>| {
            // If the rule has no network, an address that other rules are likely to name.
            let net = net.unwrap_or_else(|| random_net(rng, v6, if v6 { 128 } else { 32 }));
            address_near(rng, net)
        };
        let addresses = (side(rule.source), side(rule.destination));
        let protocol = match rule.protocol {
            Some(number) if !rng.one_in(8) => number,
            _ if rng.one_in(4) => rng.next() as u8,
            _ => *rng.choose(&WITH_PORTS),
        };
        let [source_mac, destination_mac] = macs(policy, rule.direction, rng);
        let mut packet = Self {
            outer_source: outer_source(policy, rng),
            vni: vni(policy, set, rng),
            source_mac,
            destination_mac,
            addresses: Some(addresses),
            protocol,
            ports: None,
        };
        // Later fragments have no ports.
        if WITH_PORTS.contains(&protocol) && !rng.one_in(8) {
            packet.ports = Some((port_near(rng, rule.source_ports), port_near(rng, rule.destination_ports)));
        }
        if rng.one_in(32) {
            packet = Self { addresses: None, protocol: 0, ports: None, ..packet };
        }
        packet
    }
}

impl Packet {
    /// Returns the packet as an inner frame; `None` if it cannot exist, because IPv6 uses the protocol number
    /// for an extension header.
    #[must_use]
    pub fn inner_frame(&self) -> Option<Vec<u8>> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        let Some((source, destination)) = self.addresses else {
            frame.extend(EtherType::ARP.0.to_be_bytes());
            frame.extend([0; 28]);
            return Some(frame);
        };
        let mut payload = Vec::new();
        if let Some((source, destination)) = self.ports {
            payload.extend(source.to_be_bytes());
            payload.extend(destination.to_be_bytes());
        }
        payload.resize(32, 0);
        let later_fragment = self.ports.is_none() && WITH_PORTS.contains(&self.protocol);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let protocol = IpNumber(self.protocol);
                let length = payload.len() as u16;
                let mut header =
                    Ipv4Header::new(length, 64, protocol, source.octets(), destination.octets()).ok()?;
                if later_fragment {
                    header.fragment_offset = IpFragOffset::try_new(100).ok()?;
                }
                header.header_checksum = header.calc_header_checksum();
                frame.extend(EtherType::IPV4.0.to_be_bytes());
                frame.extend(header.to_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                if IpNumber(self.protocol).is_ipv6_ext_header_value() {
                    return None;
                }
                let mut next_header = IpNumber(self.protocol);
                if later_fragment {
                    let offset = IpFragOffset::try_new(100).ok()?;
                    let fragment = Ipv6FragmentHeader::new(next_header, offset, false, 7);
                    payload.splice(..0, fragment.to_bytes());
                    next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                }
                let header = Ipv6Header {
                    payload_length: payload.len() as u16,
                    next_header,
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                frame.extend(EtherType::IPV6.0.to_be_bytes());
                frame.extend(header.to_bytes());
            }
            _ => return None,
        }
        frame.extend(payload);
        Some(frame)
    }

    /// Returns the packet as a mirror session sends it, if it can exist.
    #[must_use]
    pub fn mirrored_frame(&self) -> Option<Vec<u8>> {
        let target = match self.outer_source {
            IpAddr::V4(_) => APPLIANCE_V4.into(),
            IpAddr::V6(_) => APPLIANCE_V6.into(),
        };
        Some(mirrored(self.vni).between(self.outer_source, target).carrying(&self.inner_frame()?))
    }
}

fn outer_source(policy: &Policy, rng: &mut Rng) -> IpAddr {
    match &policy.sources {
        Some(sources) if !sources.is_empty() && !rng.one_in(8) => {
            let net = *rng.choose(sources);
            address_near(rng, net)
        }
        _ => {
            let v6 = rng.one_in(4);
            random_net(rng, v6, if v6 { 128 } else { 32 }).address
        }
    }
}

/// Returns source and destination hardware addresses, mostly those of `direction`, if there is one.
fn macs(policy: &Policy, direction: Option<Direction>, rng: &mut Rng) -> [[u8; 6]; 2] {
    let any = [(); 2].map(|()| [2, 0, 0, 0, 0, rng.below(7) as u8]);
    if policy.macs.is_empty() || rng.one_in(4) {
        return any;
    }
    let other = [2, 0, 0, 0, 1, 0];
    match direction {
        Some(Direction::Ingress) => [other, *rng.choose(&policy.macs)],
        Some(Direction::Egress) => [*rng.choose(&policy.macs), other],
        None => any,
    }
}

/// Returns a VNI of the set, one next to a known range, or any.
fn vni(policy: &Policy, set: Option<usize>, rng: &mut Rng) -> u32 {
    const MOST: u32 = 0x00ff_ffff;
    let bound = set.map_or(&[][..], |set| &policy.sets[set].vnis);
    let ranges = if bound.is_empty() { &policy.vnis } else { bound };
    if bound.is_empty() && set == policy.default && !policy.strict {
        // A VNI beyond those bound.
        return MOST / 2 + rng.below(1000) as u32;
    }
    if ranges.is_empty() || rng.one_in(8) {
        return rng.next() as u32 & if rng.one_in(2) { 31 } else { MOST };
    }
    let (first, last) = *rng.choose(ranges);
    match rng.below(10) {
        0 => first.wrapping_sub(1) & MOST,
        1 => (last + 1) & MOST,
        _ => first + (rng.next() % (u64::from(last - first) + 1)) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_rule_of_the_packets_direction_decides() {
        let rule = |number, direction, action| Rule {
            number,
            direction,
            action,
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
        };
        let rules = vec![
            rule(20, None, Action::Shunt),
            rule(10, Some(Direction::Egress), Action::Accept),
            rule(10, Some(Direction::Ingress), Action::Reject),
        ];
        let policy = Policy {
            sources: None,
            strict: false,
            vnis: Vec::new(),
            macs: vec![[2, 0, 0, 0, 0, 1]],
            sets: vec![Set { vnis: vec![(7, 7)], rules }],
            default: None,
        };
        let packet = |vni, source, destination| Packet {
            outer_source: Ipv4Addr::LOCALHOST.into(),
            vni,
            source_mac: [2, 0, 0, 0, 0, source],
            destination_mac: [2, 0, 0, 0, 0, destination],
            addresses: None,
            protocol: 0,
            ports: None,
        };
        let decided = |packet| policy.decide(&packet);
        assert_eq!(decided(packet(7, 1, 9)), Decision::Rule { set: 0, rule: 1 });
        assert_eq!(decided(packet(7, 9, 1)), Decision::Rule { set: 0, rule: 2 });
        assert_eq!(decided(packet(7, 9, 9)), Decision::Rule { set: 0, rule: 2 });
        assert_eq!(decided(packet(8, 1, 9)), Decision::NoSet);
    }

    #[test]
    fn what_is_generated_is_worth_comparing() {
        let mut rng = Rng::new(7);
        let mut kinds = [0; 5];
        for _ in 0..40 {
            let policy = Policy::random(&mut rng, Size { rules: 50, sets: 3 });
            assert!(policy.is_valid());
            for _ in 0..50 {
                let kind = match policy.decide(&Packet::near(&policy, &mut rng)) {
                    Decision::NotAdmitted => 0,
                    Decision::UnknownVni => 1,
                    Decision::NoSet => 2,
                    Decision::NoRule { .. } => 3,
                    Decision::Rule { .. } => 4,
                };
                kinds[kind] += 1;
            }
        }
        assert!(kinds.iter().all(|count| *count >= 20), "{kinds:?}");
        assert!(kinds[4] >= 600, "{kinds:?}");
    }

    #[test]
    fn late_rules_of_large_policies_decide_as_well() {
        let mut rng = Rng::new(11);
        let policy = Policy::random(&mut rng, Size { rules: 4096, sets: 1 });
        let policy = Policy { strict: false, sources: None, default: Some(0), ..policy };
        let mut numbers: Vec<_> = policy.sets[0].rules.iter().map(|rule| rule.number).collect();
        numbers.sort_unstable();
        let late = numbers[3072];
        let decided_late = |packet: &Packet| match policy.decide(packet) {
            Decision::Rule { set, rule } => policy.sets[set].rules[rule].number >= late,
            _ => false,
        };
        let count = (0..500).filter(|_| decided_late(&Packet::near(&policy, &mut rng))).count();
        assert!(count >= 50, "{count}");
    }

    #[test]
    fn a_policy_shrinks_to_what_fails() {
        let policy = Policy::random(&mut Rng::new(3), Size { rules: 200, sets: 2 });
        let fails = |policy: &Policy| {
            policy.sets.iter().flat_map(|set| &set.rules).any(|rule| rule.protocol == Some(6))
        };
        assert!(fails(&policy));
        let shrunk = policy.shrink(fails);
        assert_eq!(shrunk.sets.iter().map(|set| set.rules.len()).sum::<usize>(), 1);
    }
}
