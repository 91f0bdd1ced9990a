//! Limits on alerts: `threshold` and `detection_filter` of rules, and `suppress`, `threshold` and `rate_filter` of
//! `threshold.config`.
//!
//! [`Thresholds`] joins both for each rule; it never changes. [`Counts`] holds how often rules matched, apart by
//! address, flow and VNI, in a table of fixed size that the workers share without locks. A rule that matches asks
//! [`Thresholds::judge`]. Time is an argument.

mod counts;

use std::collections::HashMap;
use std::sync::Arc;

use mirror_xdp_common::Address;

pub use self::counts::Counts;
use self::counts::{Key, Window};
use crate::config::threshold::{Entry, Hosts, Limit, SuppressedSide};
use crate::diagnostic::Refusal;
use crate::rule::{Action, Rule, Threshold, ThresholdKind, Track};
use crate::sets::AddressSet;
use crate::variables::Resolver;

/// A rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The time of its packet, in nanoseconds since the epoch.
    pub time: u64,
    /// The source of its packet.
    pub source: Address,
    /// The destination of its packet.
    pub destination: Address,
    /// The VNI of its mirror session. Equal addresses in different VNIs are different hosts.
    pub vni: Option<u32>,
    /// The identifier of its flow; 0 without.
    pub flow: u64,
}

/// The effect of limits on a rule that matched. State such as `flowbits` changes in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It raises an alert, with another action than the rule's if a `rate_filter` says so.
    Alert(Option<Action>),
    /// It raises none.
    Silent,
}

/// The limits of rules, by the index of the rule.
#[derive(Debug, Default)]
pub struct Thresholds {
    /// The index into `limits`, plus 1; 0 for a rule without limits.
    of_rule: Box<[u32]>,
    limits: Box<[RuleLimits]>,
}

/// The limits of one rule.
#[derive(Debug)]
struct RuleLimits {
    gid: u32,
    sid: u32,
    suppressed: Suppressed,
    /// `threshold` of the file, or else of the rule.
    threshold: Option<Threshold>,
    /// `detection_filter`.
    filter: Option<Threshold>,
    rate: Option<Rate>,
}

/// The hosts of whose packets a rule raises no alerts.
#[derive(Clone, Debug, Default)]
struct Suppressed {
    all: bool,
    hosts: Vec<(SuppressedSide, Arc<AddressSet>)>,
}

/// `rate_filter`.
#[derive(Clone, Copy, Debug)]
struct Rate {
    track: Track,
    count: u32,
    seconds: u32,
    action: Action,
    timeout: u32,
}

/// The entries of `threshold.config` for one rule, one group, or all.
#[derive(Clone, Debug, Default)]
struct Entries {
    suppressed: Suppressed,
    threshold: Option<Threshold>,
    rate: Option<Rate>,
}

impl Thresholds {
    /// Joins the limits of rules, in the order of their indexes, with the entries of `threshold.config`. Names the
    /// entries whose addresses cannot be resolved.
    ///
    /// An entry for a rule overrides one for its group, and that one for all groups. A `threshold` overrides that of the
    /// rule, but not its `detection_filter`. Of several for the same rule, the last counts; `suppress` adds up.
    pub fn new<'r>(
        rules: impl IntoIterator<Item = &'r Rule>,
        entries: &[Entry],
        resolver: &mut Resolver<'_>,
    ) -> (Self, Vec<Refusal>) {
        let (entries, refused) = by_rule(entries, resolver);
        let mut limits = Vec::new();
        let of_rule = rules.into_iter().map(|rule| {
            let of_this = RuleLimits::of(rule, &entries);
            of_this.map_or(0, |of_this| {
                limits.push(of_this);
                u32::try_from(limits.len()).unwrap_or(0)
            })
        });
        let of_rule = of_rule.collect();
        (Self { of_rule, limits: limits.into() }, refused)
    }

    /// Returns true if no rule has limits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Counts a match of a rule, and returns whether it raises an alert.
    ///
    /// ```
    /// use mirror_signatures::parse::parse;
    /// use mirror_signatures::threshold::{Counts, Event, Judgement, Thresholds};
    /// use mirror_signatures::variables::{Resolver, Variables};
    /// use mirror_xdp_common::Address;
    ///
    /// let rules = parse(b"alert tcp any any -> any 22 (flags:S; threshold:type limit,track by_src,count 1,seconds 60; sid:1;)");
    /// let variables = Variables::default();
    /// let (thresholds, _) = Thresholds::new(&rules.rules, &[], &mut Resolver::new(&variables));
    /// let counts = Counts::new(1024, 7);
    /// let (source, destination) = (Address::from_v4(0x0a00_0001), Address::from_v4(0x0a00_0002));
    /// let mut at = |second: u64| {
    ///     let event = Event { time: second * 1_000_000_000, source, destination, vni: None, flow: 1 };
    ///     thresholds.judge(0, &event, &counts) == Judgement::Alert(None)
    /// };
    /// assert_eq!([at(100), at(101), at(160)], [true, false, true]);
    /// ```
    pub fn judge(&self, rule: u32, event: &Event, counts: &Counts) -> Judgement {
        let index = self.of_rule.get(rule as usize).copied().unwrap_or(0);
        let limits = (index as usize).checked_sub(1).and_then(|index| self.limits.get(index));
        limits.map_or(Judgement::Alert(None), |limits| limits.judge(event, counts))
    }
}

impl RuleLimits {
    /// Returns the limits of a rule, if it has any.
    fn of(rule: &Rule, entries: &HashMap<(u32, u32), Entries>) -> Option<Self> {
        let (gid, sid) = (rule.id.gid, rule.id.sid);
        let is_filter = |own: &Threshold| own.kind == ThresholdKind::DetectionFilter;
        let mut limits = Self {
            gid,
            sid,
            suppressed: Suppressed::default(),
            threshold: rule.threshold.filter(|own| !is_filter(own)),
            filter: rule.threshold.filter(is_filter),
            rate: None,
        };
        for key in [(0, 0), (gid, 0), (gid, sid)] {
            let Some(found) = entries.get(&key) else { continue };
            limits.suppressed.all |= found.suppressed.all;
            limits.suppressed.hosts.extend(found.suppressed.hosts.iter().cloned());
            limits.threshold = found.threshold.or(limits.threshold);
            limits.rate = found.rate.or(limits.rate);
        }
        let any = limits.suppressed.all
            || !limits.suppressed.hosts.is_empty()
            || limits.threshold.is_some()
            || limits.filter.is_some()
            || limits.rate.is_some();
        any.then_some(limits)
    }

    fn judge(&self, event: &Event, counts: &Counts) -> Judgement {
        if self.suppressed.contains(event) {
            return Judgement::Silent;
        }
        let action = self.rate.and_then(|rate| self.rated(rate, event, counts));
        let limits = [self.filter, self.threshold];
        let alerts = limits.into_iter().flatten().all(|limit| self.exceeds(limit, event, counts));
        match action {
            Some(Action::Pass) => Judgement::Silent,
            action if alerts => Judgement::Alert(action),
            _ => Judgement::Silent,
        }
    }

    /// Counts a match. Returns true if it raises an alert as far as this threshold goes.
    fn exceeds(&self, threshold: Threshold, event: &Event, counts: &Counts) -> bool {
        let Threshold { kind, track, count, seconds } = threshold;
        let window = Window { seconds, count: Counts::MAX.min(count), hold: None };
        let number = counts.count(&self.key(kind as u8, track, event), window, event.time);
        let count = window.count;
        match kind {
            ThresholdKind::Limit => number <= count,
            ThresholdKind::Threshold => number.is_multiple_of(count),
            ThresholdKind::Both => number == count,
            ThresholdKind::DetectionFilter => number > count,
        }
    }

    /// Counts a match. Returns the action that takes the place of the rule's.
    fn rated(&self, rate: Rate, event: &Event, counts: &Counts) -> Option<Action> {
        const KIND: u8 = u8::MAX;
        let Rate { track, count, seconds, action, timeout } = rate;
        let window = Window { seconds, count: Counts::MAX.min(count), hold: Some(timeout) };
        let number = counts.count(&self.key(KIND, track, event), window, event.time);
        (number > window.count).then_some(action)
    }

    fn key(&self, kind: u8, track: Track, event: &Event) -> Key {
        let none = Address::default();
        let (source, destination, flow) = match track {
            Track::Source => (event.source, none, 0),
            Track::Destination => (none, event.destination, 0),
            // The same two hosts are the same pair in either direction.
            Track::Both => (event.source.min(event.destination), event.source.max(event.destination), 0),
            Track::Rule => (none, none, 0),
            Track::Flow => (none, none, event.flow),
        };
        Key { gid: self.gid, sid: self.sid, kind, source, destination, flow, vni: event.vni }
    }
}

impl Suppressed {
    fn contains(&self, event: &Event) -> bool {
        self.all
            || self.hosts.iter().any(|(side, set)| match side {
                SuppressedSide::Source => set.contains_address(event.source),
                SuppressedSide::Destination => set.contains_address(event.destination),
                SuppressedSide::Either => {
                    set.contains_address(event.source) || set.contains_address(event.destination)
                }
            })
    }
}

/// Collects entries by the rules that they are for: group and number, of which 0 stands for all.
fn by_rule(entries: &[Entry], resolver: &mut Resolver<'_>) -> (HashMap<(u32, u32), Entries>, Vec<Refusal>) {
    let mut of: HashMap<(u32, u32), Entries> = HashMap::new();
    let mut refused = Vec::new();
    for entry in entries {
        let known = of.entry((entry.gid, entry.sid)).or_default();
        match &entry.limit {
            Limit::Suppress(None) => known.suppressed.all = true,
            Limit::Suppress(Some(Hosts { side, addresses })) => match resolver.addresses(addresses) {
                Ok(set) => known.suppressed.hosts.push((*side, set)),
                Err(reason) => refused.push(Refusal {
                    line: entry.at.line,
                    column: entry.at.column,
                    sid: Some(entry.sid),
                    keyword: "suppress".to_owned(),
                    reason,
                }),
            },
            Limit::Threshold(threshold) => known.threshold = Some(*threshold),
            Limit::Rate { track, count, seconds, action, timeout } => {
                known.rate = Some(Rate {
                    track: *track,
                    count: *count,
                    seconds: *seconds,
                    action: *action,
                    timeout: *timeout,
                });
            }
        }
    }
    (of, refused)
}

#[cfg(test)]
mod tests;
