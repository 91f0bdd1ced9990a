//! Compiles a policy into the lookup tables of the XDP program: see [`mirror_xdp_common::filter`].

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use mirror_xdp_common::Vni;
use mirror_xdp_common::filter::{
    Addresses, Compiled, MAX_CLASSES, PortClasses, Row, RuleEntry, SetEntry, Tables, WITHOUT_PORTS, action,
    direction, vni,
};
use zerocopy::FromZeros as _;

use super::limits::{MACS, RULES, SETS, SOURCES, VNIS};
use super::policy::{Action, MacAddress, Policy, Rule, RuleDirection, UnknownVnis};

/// The reasons why a policy does not fit into the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Too many rules.
    #[error("{0} rules over all sets; at most {RULES} are possible")]
    Rules(usize),
    /// Too many sets.
    #[error("{0} rule sets; at most {SETS} are possible")]
    Sets(usize),
    /// Too many hardware addresses.
    #[error("{0} hardware addresses of mirrored interfaces; at most {MACS} are possible")]
    Macs(usize),
    /// Too many prefixes.
    #[error("{0} prefixes of outer sources; at most {SOURCES} are possible")]
    Sources(usize),
    /// Too many VNIs.
    #[error("more than {VNIS} VNIs were named since the capture began")]
    Vnis,
}

/// Assigns rules and VNIs their places in the counters.
pub trait Places {
    /// Returns the slot of a VNI that the configuration names.
    fn vni(&mut self, vni: Vni) -> Result<u32, CompileError>;
    /// Returns the identifier of a rule of the set with this name, or of the set itself for `None`.
    fn rule(&mut self, set: &str, rule: Option<&Rule>) -> u16;
}

/// A compiled policy.
pub struct CompiledPolicy {
    /// The tables.
    pub tables: Box<Tables>,
    /// The rows of the classes, by class number.
    pub rows: Vec<Row>,
}

impl Compiled for CompiledPolicy {
    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn row(&self, class: u16) -> Option<&Row> {
        self.rows.get(usize::from(class))
    }
}

/// A row without any rule.
const EMPTY: Row = Row { summary: 0, words: [0; mirror_xdp_common::filter::WORDS] };

/// Sets or clears the bit of a rule.
fn set(row: &mut Row, rule: usize, to: bool) {
    let word = &mut row.words[rule / 64];
    let bit = 1 << (rule % 64);
    *word = if to { *word | bit } else { *word & !bit };
    let bit = 1 << (rule / 64);
    row.summary = if *word != 0 { row.summary | bit } else { row.summary & !bit };
}

/// The distinct classes, in the order of their numbers.
#[derive(Default)]
struct Classes {
    rows: Vec<Row>,
    numbers: HashMap<Row, u16>,
}

impl Classes {
    fn number(&mut self, row: &Row) -> u16 {
        let next = self.rows.len();
        debug_assert!(next < MAX_CLASSES, "there are fewer values than classes for any number of rules");
        *self.numbers.entry(*row).or_insert_with(|| {
            self.rows.push(*row);
            next as u16
        })
    }
}

/// The values from `first` to `last`, which satisfy a rule.
struct Span {
    first: u128,
    last: u128,
    rule: usize,
}

impl CompiledPolicy {
    /// Compiles a policy; `places` assigns the places in the counters.
    pub fn new(policy: &Policy, generation: u32, places: &mut impl Places) -> Result<Self, CompileError> {
        let count: usize = policy.sets.iter().map(|set| set.rules.len()).sum();
        if count > RULES {
            return Err(CompileError::Rules(count));
        }
        if policy.sets.len() > SETS {
            return Err(CompileError::Sets(policy.sets.len()));
        }
        if policy.macs.len() > MACS {
            return Err(CompileError::Macs(policy.macs.len()));
        }
        let sources = policy.sources.as_deref().unwrap_or_default();
        if sources.len() > SOURCES {
            return Err(CompileError::Sources(sources.len()));
        }
        let mut tables = Tables::new_box_zeroed().map_err(|_| CompileError::Rules(count))?;
        tables.generation = generation;
        tables.only_known_vnis = (policy.unknown_vnis == UnknownVnis::Drop).into();
        tables.any_source = policy.sources.is_none().into();
        admitted(&mut tables.admitted, sources);
        macs(&mut tables, policy.macs.iter().copied());
        vnis(&mut tables, policy, places)?;

        let rules: Vec<&Rule> = policy.sets.iter().flat_map(|set| &set.rules).collect();
        let mut classes = Classes::default();
        let mut first = 0;
        for (entry, set) in tables.sets.iter_mut().zip(&policy.sets) {
            let mut row = EMPTY;
            for (index, rule) in (first..).zip(&set.rules) {
                self::set(&mut row, index, true);
                tables.rules[index] = entry_of(rule, places.rule(&set.name, Some(rule)));
            }
            *entry = SetEntry { class: classes.number(&row), no_match: places.rule(&set.name, None) };
            first += set.rules.len();
        }
        addresses(&mut tables.sources, &rules, &mut classes, |rule| rule.source);
        addresses(&mut tables.destinations, &rules, &mut classes, |rule| rule.destination);
        ports(&mut tables.source_ports, &rules, &mut classes, |rule| rule.source_ports.clone());
        ports(&mut tables.destination_ports, &rules, &mut classes, |rule| rule.destination_ports.clone());
        contexts(&mut tables, &rules, &mut classes);
        Ok(Self { tables, rows: classes.rows })
    }
}

fn entry_of(rule: &Rule, id: u16) -> RuleEntry {
    let (action, parameter) = match rule.action {
        Action::Accept => (action::ACCEPT, 0),
        Action::Reject => (action::REJECT, 0),
        Action::Sample(n) => (action::SAMPLE, n),
        Action::Truncate(bytes) => (action::TRUNCATE, bytes),
        Action::Shunt => (action::SHUNT, 0),
    };
    RuleEntry { id, action, reserved: 0, parameter }
}

/// Returns the first and last address of a prefix, in host byte order.
fn bounds(net: IpNet) -> (u128, u128) {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (number(net.network()), number(net.broadcast()))
}

/// Cuts the whole range of values into intervals at the bounds of the spans. Each interval has its first
/// value and the class of the rules whose spans contain it, together with the rules of `base`.
fn intervals(spans: &[Span], base: &Row, classes: &mut Classes) -> Vec<(u128, u16)> {
    let mut changes: Vec<(u128, usize, bool)> = Vec::with_capacity(2 * spans.len());
    for span in spans {
        changes.push((span.first, span.rule, true));
        if let Some(behind) = span.last.checked_add(1) {
            changes.push((behind, span.rule, false));
        }
    }
    changes.sort_unstable();
    let mut row = *base;
    let mut intervals = Vec::new();
    let mut at = 0;
    let mut changes = changes.into_iter().peekable();
    loop {
        while let Some((_, rule, to)) = changes.next_if(|&(value, ..)| value == at) {
            set(&mut row, rule, to);
        }
        let class = classes.number(&row);
        if intervals.last().is_none_or(|&(_, last)| last != class) {
            intervals.push((at, class));
        }
        match changes.peek() {
            Some(&(value, ..)) => at = value,
            None => return intervals,
        }
    }
}

/// Enters intervals of IPv4 addresses. An interval that starts after the last IPv4 address, as one does after
/// a prefix that ends with it, is left out.
fn enter_v4(table: &mut Addresses, intervals: &[(u128, u16)]) {
    let starts = || intervals.iter().filter_map(|&(start, class)| Some((u32::try_from(start).ok()?, class)));
    table.v4.starts.fill(u32::MAX);
    table.v4.classes.fill(starts().next_back().map_or(0, |(_, class)| class));
    for (place, (start, class)) in starts().enumerate() {
        table.v4.starts[place] = start;
        table.v4.classes[place] = class;
    }
}

fn enter_v6(table: &mut Addresses, intervals: &[(u128, u16)]) {
    table.v6.starts.fill([u64::MAX; 2]);
    table.v6.classes.fill(intervals.last().map_or(0, |&(_, class)| class));
    for (place, &(start, class)) in intervals.iter().enumerate() {
        table.v6.starts[place] = [(start >> 64) as u64, start as u64];
        table.v6.classes[place] = class;
    }
}

fn addresses(
    table: &mut Addresses,
    rules: &[&Rule],
    classes: &mut Classes,
    net: impl Fn(&Rule) -> Option<IpNet>,
) {
    let mut base = EMPTY;
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (rule, value) in rules.iter().enumerate() {
        match net(value) {
            None => set(&mut base, rule, true),
            Some(net) => {
                let (first, last) = bounds(net);
                if net.addr().is_ipv4() { &mut v4 } else { &mut v6 }.push(Span { first, last, rule });
            }
        }
    }
    enter_v4(table, &intervals(&v4, &base, classes));
    enter_v6(table, &intervals(&v6, &base, classes));
    table.without = classes.number(&base).into();
}

/// Enters class 1 for addresses within a prefix, and class 0 for all others.
fn admitted(table: &mut Addresses, prefixes: &[IpNet]) {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = prefixes.iter().partition(|net| net.addr().is_ipv4());
    let disjoint = |nets: &[IpNet]| {
        let mut intervals = vec![(0, 0)];
        for net in IpNet::aggregate(&nets.to_vec()) {
            let (first, last) = bounds(net);
            // A prefix that follows the previous one without a gap replaces the interval that begins at its
            // start.
            if intervals.last().is_some_and(|&(start, class)| start == first && class == 0) {
                intervals.pop();
            }
            intervals.push((first, 1));
            if let Some(behind) = last.checked_add(1) {
                intervals.push((behind, 0));
            }
        }
        intervals
    };
    enter_v4(table, &disjoint(&v4));
    enter_v6(table, &disjoint(&v6));
}

fn ports(
    table: &mut PortClasses,
    rules: &[&Rule],
    classes: &mut Classes,
    range: impl Fn(&Rule) -> Option<std::ops::RangeInclusive<u16>>,
) {
    let mut base = EMPTY;
    let mut spans = Vec::new();
    for (rule, value) in rules.iter().enumerate() {
        match range(value) {
            None => set(&mut base, rule, true),
            Some(range) => {
                spans.push(Span { first: (*range.start()).into(), last: (*range.end()).into(), rule });
            }
        }
    }
    let intervals = intervals(&spans, &base, classes);
    let ends = intervals.iter().skip(1).map(|&(start, _)| start as usize).chain([WITHOUT_PORTS]);
    for (&(start, class), end) in intervals.iter().zip(ends) {
        // The last interval may begin at the end of the ports, and is then empty.
        table[start as usize..end].fill(class);
    }
    table[WITHOUT_PORTS..].fill(classes.number(&base));
}

fn contexts(tables: &mut Tables, rules: &[&Rule], classes: &mut Classes) {
    let ways = [
        (direction::UNKNOWN, None),
        (direction::INGRESS, Some(RuleDirection::Ingress)),
        (direction::EGRESS, Some(RuleDirection::Egress)),
    ];
    for (way, only) in ways {
        let mut any_protocol = EMPTY;
        let mut by_protocol: HashMap<u8, Vec<usize>> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            if only.is_some_and(|only| rule.direction != only && rule.direction != RuleDirection::Both) {
                continue;
            }
            match rule.protocol {
                None => set(&mut any_protocol, index, true),
                Some(protocol) => by_protocol.entry(protocol).or_default().push(index),
            }
        }
        let places = &mut tables.contexts[usize::from(way)];
        places.fill(classes.number(&any_protocol));
        for (protocol, rules) in by_protocol {
            let mut row = any_protocol;
            for rule in rules {
                set(&mut row, rule, true);
            }
            places[Tables::context(Some(protocol))] = classes.number(&row);
        }
    }
}

fn macs(tables: &mut Tables, macs: impl ExactSizeIterator<Item = MacAddress>) {
    tables.any_mac = (macs.len() != 0).into();
    tables.macs[1..].fill(i64::MAX as u64);
    // The addresses come in ascending order, from a set.
    for (place, [a, b, c, d, e, f]) in tables.macs[1..].iter_mut().zip(macs) {
        *place = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    }
}

fn vnis(tables: &mut Tables, policy: &Policy, places: &mut impl Places) -> Result<(), CompileError> {
    let number = |set: Option<usize>| set.map_or(0, |set| set as u16 + 1);
    tables.vnis.fill(number(policy.default_set));
    let listed = policy.vnis.iter().cloned().flatten().filter_map(Vni::new);
    for named in listed.chain(policy.bindings.keys().copied()) {
        let slot = places.vni(named)?;
        let set = policy.bindings.get(&named).copied().or(policy.default_set);
        if let Some(entry) = tables.vnis.get_mut(slot as usize) {
            *entry = vni::KNOWN | number(set);
        }
    }
    Ok(())
}
