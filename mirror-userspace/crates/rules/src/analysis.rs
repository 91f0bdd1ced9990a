//! Finds mistakes in a policy: rules that can never match, rules that contradict each other, sets that are
//! not in use.
//!
//! A rule matches the packets of a few boxes. A box is a product of ranges of direction, protocol, addresses
//! and ports, one box for each class of packets. The boxes of earlier rules are subtracted from those of a
//! rule; if nothing is left, the rule never matches. The result is exact, but the remainder can fall into
//! very many pieces. The work is therefore bounded, and beyond the bound the answer is "not determined".

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_xdp_common::wire::protocol;

use super::policy::{Policy, Rule, RuleDirection, RuleSet, UnknownVnis};

/// The findings in a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Analysis {
    /// Rules that no packet reaches.
    pub unreachable: Vec<Unreachable>,
    /// Rules that exceeded the bound on the work, so that it is unknown whether packets reach them, as set
    /// and rule.
    pub undetermined: Vec<(usize, usize)>,
    /// Pairs of rules that overlap in part and differ in their action, at most [`Analysis::PAIRS`].
    pub conflicts: Vec<Overlap>,
    /// The number of conflicts, listed or not.
    pub conflicts_total: usize,
    /// Pairs in which the earlier rule lies within the later one and differs in its action, which is likely
    /// intended; at most [`Analysis::PAIRS`].
    pub exceptions: Vec<Overlap>,
    /// The number of exceptions, listed or not.
    pub exceptions_total: usize,
    /// Other findings, as text.
    pub notes: Vec<String>,
}

/// A rule that no packet reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Index of its set.
    pub set: usize,
    /// Its index in the set.
    pub rule: usize,
    /// Indices of the earlier rules that together match all of its packets.
    pub covered_by: Vec<usize>,
}

/// Two rules with different actions that match some of the same packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Index of their set.
    pub set: usize,
    /// Index of the earlier rule, which decides.
    pub earlier: usize,
    /// Index of the later rule.
    pub later: usize,
    /// The packets that both match; number and action are those of the earlier rule.
    pub both: Rule,
}

impl Analysis {
    /// The most pairs of each kind that are listed.
    pub const PAIRS: usize = 100;

    /// Analyses a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let mut analysis = Self { notes: notes(policy), ..Self::default() };
        let mut budget = Budget { total: Budget::TOTAL };
        for (index, set) in policy.sets.iter().enumerate() {
            analysis.set(index, set, !policy.macs.is_empty(), &mut budget);
        }
        analysis
    }

    /// Analyses a set; `directed` is set if packets have a known direction at all.
    fn set(&mut self, index: usize, set: &RuleSet, directed: bool, budget: &mut Budget) {
        let regions: Vec<Region> = set.rules.iter().map(|rule| Region::of(rule, directed)).collect();
        for (later, region) in regions.iter().enumerate() {
            let earlier = &regions[..later];
            let reachable = match region.cover(earlier, budget) {
                Some(Cover::Whole(covered_by)) => {
                    self.unreachable.push(Unreachable { set: index, rule: later, covered_by });
                    false
                }
                Some(Cover::Part) => true,
                None => {
                    self.undetermined.push((index, later));
                    true
                }
            };
            if reachable {
                self.overlaps(index, set, &regions, later, directed);
            }
        }
    }

    fn overlaps(&mut self, index: usize, set: &RuleSet, regions: &[Region], later: usize, directed: bool) {
        let rule = &set.rules[later];
        for (earlier, other) in set.rules[..later].iter().enumerate() {
            if other.action == rule.action || !regions[earlier].overlaps(&regions[later]) {
                continue;
            }
            // If directions are known, rules of opposite directions rarely match the same packets.
            let apart = rule.direction != other.direction
                && rule.direction != RuleDirection::Both
                && other.direction != RuleDirection::Both;
            if apart && directed {
                continue;
            }
            let (list, total) = if regions[later].contains(&regions[earlier]) {
                (&mut self.exceptions, &mut self.exceptions_total)
            } else {
                (&mut self.conflicts, &mut self.conflicts_total)
            };
            *total += 1;
            if list.len() < Self::PAIRS {
                list.push(Overlap { set: index, earlier, later, both: both(other, rule) });
            }
        }
    }
}

/// Returns findings about the policy as a whole.
fn notes(policy: &Policy) -> Vec<String> {
    let mut notes = Vec::new();
    if policy.unknown_vnis == UnknownVnis::Drop && policy.vnis.is_empty() && policy.bindings.is_empty() {
        notes.push("no VNI is known and unknown ones are dropped: nothing is captured".to_owned());
    }
    for (index, set) in policy.sets.iter().enumerate() {
        let name = &set.name;
        if policy.default_set != Some(index) && !policy.bindings.values().any(|bound| *bound == index) {
            notes.push(format!("set {name} is bound to no VNI and is not the default: nothing uses it"));
        }
        if set.rules.is_empty() {
            notes.push(format!("set {name} has no rules: it rejects everything"));
        }
        if policy.macs.is_empty() && set.rules.iter().any(|rule| rule.direction != RuleDirection::Both) {
            notes.push(format!(
                "set {name} has rules for one direction, but filter.macs is empty: no packet's direction is known, \
                 so the rules of both directions are tried"
            ));
        }
    }
    notes
}

/// Returns the packets that both of two overlapping rules match, with number and action of the first.
fn both(a: &Rule, b: &Rule) -> Rule {
    let net = |a: Option<IpNet>, b: Option<IpNet>| match (a, b) {
        (Some(a), Some(b)) => Some(if a.prefix_len() >= b.prefix_len() { a } else { b }),
        (one, other) => one.or(other),
    };
    let ports = |a: &Option<RangeInclusive<u16>>, b: &Option<RangeInclusive<u16>>| match (a, b) {
        (Some(a), Some(b)) => Some(*a.start().max(b.start())..=*a.end().min(b.end())),
        (one, other) => one.clone().or(other.clone()),
    };
    Rule {
        number: a.number,
        direction: if b.direction == RuleDirection::Both { a.direction } else { b.direction },
        action: a.action,
        protocol: a.protocol.or(b.protocol),
        source: net(a.source, b.source),
        destination: net(a.destination, b.destination),
        source_ports: ports(&a.source_ports, &b.source_ports),
        destination_ports: ports(&a.destination_ports, &b.destination_ports),
    }
}

/// A class of packets with the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    NotIp,
    V4,
    V4WithPorts,
    V6,
    V6WithPorts,
}

/// The protocols with ports. In boxes of packets with ports, a protocol is its index here.
const WITH_PORTS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// First and last value of a range.
type Side = (u128, u128);

/// Returns whether the first range contains the second.
const fn spans(a: Side, b: Side) -> bool {
    a.0 <= b.0 && b.1 <= a.1
}

/// A product of ranges: direction, protocol, source, destination, source port, destination port. Fields that
/// the class does not have are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cube {
    class: Class,
    sides: [Side; 6],
}

impl Cube {
    fn overlaps(&self, other: &Self) -> bool {
        self.class == other.class
            && self.sides.iter().zip(&other.sides).all(|(a, b)| a.0 <= b.1 && b.0 <= a.1)
    }

    fn contains(&self, other: &Self) -> bool {
        self.class == other.class && self.sides.iter().zip(&other.sides).all(|(a, b)| spans(*a, *b))
    }

    /// Returns whether this cube contains a packet that no earlier region contains; `None` if the budget
    /// `left` is used up before. Adds the regions that have cut something away to `covered_by`.
    ///
    /// The search is depth first, since one remaining packet answers the question.
    fn has_more_than(
        &self,
        earlier: &[Region],
        left: &mut u32,
        covered_by: &mut BTreeSet<usize>,
    ) -> Option<bool> {
        let mut cuts: Vec<(usize, &Self)> = Vec::new();
        for (index, region) in earlier.iter().enumerate() {
            cuts.extend(region.cubes.iter().filter(|cut| cut.overlaps(self)).map(|cut| (index, cut)));
        }
        // Large cuts first: they leave few pieces.
        cuts.sort_by_key(|(_, cut)| {
            // The size of the cut relative to this cube, as a power of two.
            let bits = |side: Side| 128 - (side.1 - side.0).leading_zeros();
            let common = |(a, b): (&Side, &Side)| bits(*a) - bits((a.0.max(b.0), a.1.min(b.1)));
            self.sides.iter().zip(&cut.sides).map(common).sum::<u32>()
        });
        let mut pieces = vec![(*self, 0)];
        while let Some((piece, from)) = pieces.pop() {
            let next = cuts[from..].iter().position(|(_, cut)| cut.overlaps(&piece));
            let looked_at = next.unwrap_or(cuts.len() - from) + 1;
            *left = left.checked_sub(u32::try_from(looked_at).ok()?)?;
            let Some(next) = next else { return Some(true) };
            let (index, cut) = cuts[from + next];
            covered_by.insert(index);
            piece.without(cut, |rest| pieces.push((rest, from + next + 1)));
        }
        Some(false)
    }

    /// Calls `rest` for each piece of this cube that is not in the other, overlapping one: at most two pieces
    /// a side.
    fn without(mut self, other: &Self, mut rest: impl FnMut(Self)) {
        for (index, cut) in other.sides.iter().enumerate() {
            let side = self.sides[index];
            if side.0 < cut.0 {
                let mut piece = self;
                piece.sides[index] = (side.0, cut.0 - 1);
                rest(piece);
                self.sides[index].0 = cut.0;
            }
            if side.1 > cut.1 {
                let mut piece = self;
                piece.sides[index] = (cut.1 + 1, side.1);
                rest(piece);
                self.sides[index].1 = cut.1;
            }
        }
    }
}

/// The remaining budget of work.
struct Budget {
    total: u32,
}

impl Budget {
    /// Comparisons of two boxes for a policy: they take seconds.
    const TOTAL: u32 = 200_000_000;
    /// Comparisons of two boxes for a rule.
    const RULE: u32 = 10_000_000;
}

/// The coverage of a rule by earlier rules.
enum Cover {
    /// These rules together match all of its packets.
    Whole(Vec<usize>),
    /// Some packets are left.
    Part,
}

/// All packets that a rule matches.
struct Region {
    cubes: Vec<Cube>,
}

impl Region {
    /// Makes the region of a rule. If no direction is known, only packets of unknown direction are
    /// considered.
    fn of(rule: &Rule, directed: bool) -> Self {
        // An unknown direction lies between the other two, because rules of both directions are tried on it.
        let direction = match rule.direction {
            _ if !directed => (1, 1),
            RuleDirection::Ingress => (0, 1),
            RuleDirection::Egress => (1, 2),
            RuleDirection::Both => (0, 2),
        };
        let named_ports = rule.source_ports.is_some() || rule.destination_ports.is_some();
        let mut cubes = Vec::new();
        if rule.protocol.is_none() && rule.source.is_none() && rule.destination.is_none() && !named_ports {
            cubes.push(Cube {
                class: Class::NotIp,
                sides: [direction, (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)],
            });
        }
        for (plain, with_ports, bits) in
            [(Class::V4, Class::V4WithPorts, 32), (Class::V6, Class::V6WithPorts, 128)]
        {
            let (Some(source), Some(destination)) = (side(rule.source, bits), side(rule.destination, bits))
            else {
                continue;
            };
            if !named_ports {
                let protocol = rule.protocol.map_or((0, 255), |number| (number.into(), number.into()));
                let sides = [direction, protocol, source, destination, (0, 0), (0, 0)];
                cubes.push(Cube { class: plain, sides });
            }
            let index = rule.protocol.map(|number| WITH_PORTS.iter().position(|known| *known == number));
            let protocol = match index {
                None => (0, WITH_PORTS.len() as u128 - 1),
                Some(Some(index)) => (index as u128, index as u128),
                Some(None) => continue,
            };
            let ports = |range: &Option<RangeInclusive<u16>>| {
                range.as_ref().map_or((0, 65_535), |range| ((*range.start()).into(), (*range.end()).into()))
            };
            let ports = [ports(&rule.source_ports), ports(&rule.destination_ports)];
            let sides = [direction, protocol, source, destination, ports[0], ports[1]];
            cubes.push(Cube { class: with_ports, sides });
        }
        Self { cubes }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.cubes.iter().any(|cube| other.cubes.iter().any(|other| cube.overlaps(other)))
    }

    fn contains(&self, other: &Self) -> bool {
        other.cubes.iter().all(|cube| self.cubes.iter().any(|own| own.contains(cube)))
    }

    /// Returns the coverage of this region by earlier ones; `None` if the budget is used up before.
    fn cover(&self, earlier: &[Self], budget: &mut Budget) -> Option<Cover> {
        if let Some(index) = earlier.iter().position(|other| other.contains(self)) {
            return Some(Cover::Whole(vec![index]));
        }
        let mut left = Budget::RULE.min(budget.total);
        let start = left;
        let mut covered_by = BTreeSet::new();
        let mut uncovered = Some(false);
        for cube in &self.cubes {
            uncovered = cube.has_more_than(earlier, &mut left, &mut covered_by);
            if uncovered != Some(false) {
                break;
            }
        }
        budget.total -= start - left;
        uncovered.map(|rest| if rest { Cover::Part } else { Cover::Whole(covered_by.into_iter().collect()) })
    }
}

/// Returns the range of a network's addresses of this many bits; `None` if it is of the other family.
fn side(net: Option<IpNet>, bits: u32) -> Option<Side> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    match net {
        None => Some((0, u128::MAX >> (128 - bits))),
        Some(net) if net.addr().is_ipv4() != (bits == 32) => None,
        Some(net) => Some((number(net.network()), number(net.broadcast()))),
    }
}

#[cfg(test)]
mod tests {
    use mirror_xdp_common::Vni;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Action, Decision, Direction, Facts};

    fn rule(number: u32, action: Action) -> Rule {
        Rule {
            number,
            direction: RuleDirection::Both,
            action,
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
        }
    }

    fn tcp(number: u32, action: Action, source: &str, port: RangeInclusive<u16>) -> Rule {
        Rule {
            protocol: Some(protocol::TCP),
            source: Some(source.parse().unwrap()),
            destination_ports: Some(port),
            ..rule(number, action)
        }
    }

    fn policy(rules: Vec<Rule>) -> Policy {
        let sets = vec![RuleSet { name: "a".to_owned(), rules }];
        Policy { sets, default_set: Some(0), macs: [[2, 0, 0, 0, 0, 1]].into(), ..Policy::default() }
    }

    #[test]
    fn a_rule_within_an_earlier_one_never_matches() {
        let analysis = Analysis::of(&policy(vec![
            tcp(10, Action::Reject, "10.0.0.0/8", 0..=1023),
            tcp(20, Action::Accept, "10.1.0.0/16", 443..=443),
        ]));
        assert_eq!(analysis.unreachable, [Unreachable { set: 0, rule: 1, covered_by: vec![0] }]);
        assert_eq!(analysis.conflicts_total + analysis.exceptions_total, 0);
    }

    #[test]
    fn a_rule_within_several_earlier_ones_together_never_matches() {
        let analysis = Analysis::of(&policy(vec![
            tcp(10, Action::Accept, "10.0.0.0/9", 0..=600),
            tcp(20, Action::Accept, "10.128.0.0/9", 300..=1023),
            tcp(30, Action::Accept, "192.168.0.0/16", 0..=1023),
            tcp(40, Action::Accept, "10.0.0.0/8", 400..=500),
            tcp(50, Action::Accept, "10.0.0.0/8", 400..=601),
        ]));
        assert_eq!(analysis.unreachable, [Unreachable { set: 0, rule: 3, covered_by: vec![0, 1] }]);
        assert!(analysis.undetermined.is_empty());
    }

    #[test]
    fn both_directions_together_are_all_packets() {
        let one = |number, direction| Rule { direction, ..rule(number, Action::Accept) };
        let rules =
            vec![one(10, RuleDirection::Ingress), one(20, RuleDirection::Egress), rule(30, Action::Reject)];
        let mut policy = policy(rules);
        let unreached = |policy: &Policy| {
            Analysis::of(policy).unreachable.iter().map(|found| found.rule).collect::<Vec<_>>()
        };
        assert_eq!(unreached(&policy), [2]);
        // Without a known direction, the first rule matches all packets.
        policy.macs.clear();
        assert_eq!(unreached(&policy), [1, 2]);
    }

    #[test]
    fn overlaps_with_different_actions_are_told_once() {
        let analysis = Analysis::of(&policy(vec![
            tcp(10, Action::Reject, "10.1.0.0/16", 0..=600),
            tcp(20, Action::Accept, "10.0.0.0/8", 443..=1023),
            tcp(30, Action::Accept, "10.0.0.0/8", 0..=1023),
        ]));
        let [conflict] = &analysis.conflicts[..] else { panic!("{:?}", analysis.conflicts) };
        assert_eq!((conflict.earlier, conflict.later), (0, 1));
        assert_eq!(conflict.both, tcp(10, Action::Reject, "10.1.0.0/16", 443..=600));
        let [exception] = &analysis.exceptions[..] else { panic!("{:?}", analysis.exceptions) };
        assert_eq!((exception.earlier, exception.later), (0, 2));
    }

    #[test]
    fn sets_that_do_nothing_are_told() {
        let mut policy = policy(Vec::new());
        policy.default_set = None;
        policy.unknown_vnis = UnknownVnis::Drop;
        let notes = Analysis::of(&policy).notes.join("\n");
        for words in ["nothing is captured", "nothing uses it", "rejects everything"] {
            assert!(notes.contains(words), "{notes}");
        }
    }

    /// Rules over few values, so that few packets represent all.
    fn small_rule() -> impl Strategy<Value = Rule> {
        let net = prop::option::of(prop::sample::select(vec![
            "0.0.0.0/0",
            "10.0.0.0/30",
            "10.0.0.0/31",
            "10.0.0.2/31",
            "10.0.0.1/32",
        ]));
        let ports = || prop::option::of((0u16..4, 0u16..4).prop_map(|(a, b)| a.min(b)..=a.max(b)));
        let direction =
            prop::sample::select(vec![RuleDirection::Ingress, RuleDirection::Egress, RuleDirection::Both]);
        let protocol =
            prop::option::of(prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::ICMP]));
        (direction, protocol, net.clone(), net, ports(), ports()).prop_map(
            |(direction, protocol, source, destination, source_ports, destination_ports)| Rule {
                direction,
                protocol,
                source: source.map(|net| net.parse().unwrap()),
                destination: destination.map(|net| net.parse().unwrap()),
                source_ports,
                destination_ports,
                ..rule(0, Action::Accept)
            },
        )
    }

    fn small_packets(directions: &[Direction]) -> Vec<Facts> {
        let vni = Vni::default();
        let mut packets = Vec::new();
        let addresses =
            ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "11.0.0.0"].map(|a| a.parse().unwrap());
        for &direction in directions {
            packets.push(Facts { vni, direction, addresses: None, protocol: 0, ports: None });
            let v6 = "fd00::1".parse().unwrap();
            let mut pairs = vec![(v6, v6)];
            pairs.extend(addresses.iter().flat_map(|a| addresses.iter().map(|b| (*a, *b))));
            for pair in pairs {
                for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, 99] {
                    let facts = Facts { vni, direction, addresses: Some(pair), protocol, ports: None };
                    packets.push(facts);
                    if WITH_PORTS.contains(&protocol) {
                        let ports = (0..5).flat_map(|a| (0..5).map(move |b| Some((a, b))));
                        packets.extend(ports.map(|ports| Facts { ports, ..facts }));
                    }
                }
            }
        }
        packets
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_rule_is_found_unreachable_exactly_where_no_packet_gets_to_it(
            rules in prop::collection::vec(small_rule(), 1..10),
            directed: bool,
        ) {
            let mut policy = policy(rules);
            if !directed {
                policy.macs.clear();
            }
            let analysis = Analysis::of(&policy);
            prop_assert!(analysis.undetermined.is_empty());
            let all = [Direction::Unknown, Direction::Ingress, Direction::Egress];
            let mut reached = BTreeSet::new();
            for packet in small_packets(if directed { &all } else { &all[..1] }) {
                if let Decision::Rule { rule, .. } = policy.decide(&packet) {
                    reached.insert(rule);
                }
            }
            let found: Vec<_> = analysis.unreachable.iter().map(|found| found.rule).collect();
            let expected: Vec<_> = (0..policy.sets[0].rules.len()).filter(|rule| !reached.contains(rule)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn many_small_rules_before_a_wide_one_hide_nothing() {
        // Each rule cuts a plane out of the wide one, in one of four dimensions.
        let planes = (0..1000u16).map(|index| {
            let port = index * 3 + 1;
            let one = tcp(u32::from(index) + 1, Action::Accept, "0.0.0.0/0", 0..=65_535);
            let net = || Some(format!("10.{}.{}.0/24", index / 256, index % 256).parse().unwrap());
            match index % 4 {
                0 => Rule { destination_ports: Some(port..=port), ..one },
                1 => Rule { source_ports: Some(port..=port), ..one },
                2 => Rule { source: net(), ..one },
                _ => Rule { destination: net(), ..one },
            }
        });
        let wide = |number, ports| tcp(number, Action::Reject, "0.0.0.0/0", ports);
        let rules: Vec<_> = planes
            .chain([wide(2000, 0..=9999), wide(2001, 10_000..=65_535), wide(2002, 0..=65_535)])
            .collect();
        let analysis = Analysis::of(&policy(rules));
        assert_eq!(analysis.undetermined, []);
        assert_eq!(analysis.unreachable, [Unreachable { set: 0, rule: 1002, covered_by: vec![1000, 1001] }]);
    }

    #[test]
    fn too_much_work_is_said_instead_of_done() {
        let rules = vec![
            tcp(10, Action::Accept, "10.0.0.0/8", 0..=600),
            tcp(20, Action::Accept, "10.0.0.0/8", 500..=1023),
            tcp(30, Action::Accept, "10.0.0.0/8", 0..=1023),
        ];
        let policy = policy(rules);
        let of = |total| {
            let mut analysis = Analysis::default();
            analysis.set(0, &policy.sets[0], true, &mut Budget { total });
            (analysis.unreachable.len(), analysis.undetermined)
        };
        assert_eq!(of(1000), (1, vec![]));
        assert_eq!(of(1), (0, vec![(0, 1), (0, 2)]));
    }
}
