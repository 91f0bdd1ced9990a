//! Verifies candidates: header, conditions, state, and content in this order. What matched changes state and raises an
//! alert.

use std::time::Instant;

use mirror_packet::Direction;

use super::conditions::{self, About};
use super::memory::Parts;
use super::{Alert, Details, FlowState, Work};
use crate::buffer::{Buffer, Unit};
use crate::compile::Signature;
use crate::engine::{AlertPayload, Engine, verify_list};
use crate::explain::{Attempt, Explanations, Failure};
use crate::facts::{Facts, PacketView};
use crate::inspect::{Values, Verdict, verify};
use crate::limits;
use crate::plan::{Change, Kind, Plan, Scope, Test};
use crate::profile::SAMPLE;
use crate::recorded;
use crate::rule::{Action, BitOperation, BufferMatches, IntOperation, Match, Rule, State};
use crate::threshold::{Event, Judgement};
use crate::transform::Transform;

/// The traffic with which rules are verified.
#[derive(Clone, Copy)]
pub(super) struct Traffic<'a> {
    facts: &'a Facts,
    direction: Direction,
    /// The scopes of a packet or stream, a bit each; none for a transaction.
    scopes: u8,
    packet: Option<&'a PacketView<'a>>,
    transaction: Option<u64>,
    parts: Option<&'a Parts>,
    /// The body so far.
    pub(super) body: Option<&'a [u8]>,
    /// The payload of the packet, or the data of the stream.
    pub(super) payload: Option<&'a [u8]>,
    /// True if more of the body can come.
    pub(super) is_open: bool,
    /// Rules that have matched in the transaction, or in the chunk before and this one.
    pub(super) matched: &'a [u32],
    /// The payload is that of two chunks: only rules whose contents can be anywhere are verified.
    pub(super) is_astride: bool,
}

impl<'a> Traffic<'a> {
    const fn new(facts: &'a Facts, direction: Direction) -> Self {
        Self {
            facts,
            direction,
            scopes: 0,
            packet: None,
            transaction: None,
            parts: None,
            body: None,
            payload: None,
            is_open: false,
            matched: &[],
            is_astride: false,
        }
    }

    pub(super) const fn of_packet(facts: &'a Facts, packet: &'a PacketView<'a>) -> Self {
        let payload = Some(packet.payload);
        let loose = if packet.in_stream { 0 } else { 1 << Scope::Loose as u8 };
        let scopes = 1 << Scope::of_packet(facts.transport) as u8 | loose;
        Self { scopes, packet: Some(packet), payload, ..Self::new(facts, packet.direction) }
    }

    pub(super) const fn of_stream(facts: &'a Facts, direction: Direction, data: &'a [u8]) -> Self {
        Self { scopes: 1 << Scope::Stream as u8, payload: Some(data), ..Self::new(facts, direction) }
    }

    pub(super) const fn of_transaction(
        facts: &'a Facts,
        direction: Direction,
        id: u64,
        parts: &'a Parts,
    ) -> Self {
        Self { transaction: Some(id), parts: Some(parts), ..Self::new(facts, direction) }
    }

    /// Returns true if a rule is verified with this unit of traffic.
    fn is_of(&self, plan: &Plan) -> bool {
        match plan.kind {
            Kind::Flow => self.packet.is_some(),
            Kind::Payload(scopes) => scopes & self.scopes != 0,
            Kind::Transaction => self.transaction.is_some(),
        }
    }

    /// Verifies the requirements of one buffer.
    fn verify(&self, list: &BufferMatches, values: &mut Values, has_variables: bool) -> Verdict {
        let one = |bytes: Option<&'a [u8]>| bytes.filter(|bytes| !bytes.is_empty());
        let single = match list.buffer.description().unit {
            Unit::Transaction => {
                let contents = self.parts.into_iter().flat_map(Parts::all);
                let contents = contents.filter(|(buffer, _)| *buffer == list.buffer).map(|(_, bytes)| bytes);
                return verify_list(list, contents, values, has_variables);
            }
            Unit::Payload => one(self.payload),
            Unit::Body => one(self.body),
            Unit::Packet => {
                let mut address = [0; 16];
                let address = self.address(list.buffer, &mut address);
                if address.is_some() {
                    return verify_list(list, address, values, has_variables);
                }
                self.header(list.buffer)
            }
        };
        verify_list(list, single, values, has_variables)
    }

    /// Returns the contents of a buffer.
    fn contents(&self, buffer: Buffer) -> Vec<Vec<u8>> {
        let one = |bytes: Option<&[u8]>| bytes.filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec);
        match buffer.description().unit {
            Unit::Transaction => {
                let all = self.parts.into_iter().flat_map(Parts::all);
                all.filter(|(other, _)| *other == buffer).map(|(_, bytes)| bytes.to_vec()).collect()
            }
            Unit::Payload => one(self.payload).into_iter().collect(),
            Unit::Body => one(self.body).into_iter().collect(),
            Unit::Packet => {
                let mut address = [0; 16];
                let address = self.address(buffer, &mut address).map(<[u8]>::to_vec);
                address.or_else(|| one(self.header(buffer))).into_iter().collect()
            }
        }
    }

    /// Returns the content of a buffer that is a header.
    fn header(&self, buffer: Buffer) -> Option<&'a [u8]> {
        use mirror_xdp_common::wire::protocol::{ICMP, ICMPV6, TCP, UDP};

        let packet = self.packet?;
        let (transport, ipv6) = (self.facts.transport, self.facts.ipv6);
        let header = || packet.network.get(..packet.network.len().checked_sub(packet.transport.len())?);
        match buffer {
            Buffer::Ipv4Header if !ipv6 => header(),
            Buffer::Ipv6Header if ipv6 => header(),
            Buffer::TcpHeader if transport == TCP => {
                let len = usize::from(packet.transport.get(12)? >> 4) * 4;
                packet.transport.get(..len)
            }
            Buffer::UdpHeader if transport == UDP => packet.transport.get(..8),
            Buffer::Icmpv4Header if transport == ICMP => Some(packet.transport),
            Buffer::Icmpv6Header if transport == ICMPV6 => Some(packet.transport),
            _ => None,
        }
    }

    /// Writes an address, for data sets.
    fn address<'s>(&self, buffer: Buffer, space: &'s mut [u8; 16]) -> Option<&'s [u8]> {
        let side = match buffer {
            Buffer::IpSource => self.direction,
            Buffer::IpDestination => self.direction.reverse(),
            _ => return None,
        };
        let address = self.facts.sender(side).0;
        *space = (u128::from(address.high) << 64 | u128::from(address.low)).to_be_bytes();
        if self.facts.ipv6 { Some(space) } else { space.get(12..) }
    }
}

/// Returns how many requirements of a buffer hold from the first on, where the last content among them ends, and the
/// bytes that they were compared with.
fn held(list: &BufferMatches, content: &[u8], values: &Values) -> (usize, usize, Vec<u8>) {
    let bytes = Transform::apply_all(&list.transforms, content).into_owned();
    let holds = |count: &usize| {
        let first = list.matches.get(..*count).unwrap_or_default();
        verify(first, &bytes, &mut values.clone()) == Verdict::Match
    };
    let count = (1..=list.matches.len()).take_while(holds).last().unwrap_or(0);
    let requirements = list.matches.iter().take(count).rev();
    let mut contents = requirements.filter_map(|requirement| match requirement {
        Match::Content(content) if !content.negated => Some(content),
        _ => None,
    });
    // About: the search may have gone on behind the first place.
    let offset = contents.next().and_then(|content| {
        let lower = if content.nocase { bytes.to_ascii_lowercase() } else { bytes.clone() };
        memchr::memmem::find(&lower, &content.pattern).map(|at| at + content.pattern.len())
    });
    (count, offset.unwrap_or(0), bytes)
}

/// The result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Match,
    NoMatch,
    /// The bound of steps was reached, so the rule does not match.
    GivenUp,
    /// Header, conditions or state do not match; the content was not verified.
    OtherTraffic,
    /// All that is there matches. More of the body may decide.
    Later,
}

impl Work {
    /// Verifies the candidates, in their order. Rules that match raise alerts, and collect with rules that wait for a
    /// body.
    pub(super) fn verify_candidates(&mut self, engine: &Engine, flow: &mut FlowState, traffic: &Traffic<'_>) {
        self.pending.clear();
        self.matched.clear();
        if let Some(explanations) = engine.explanations() {
            self.candidates.add(explanations.rule);
            self.explain(engine, explanations, flow, traffic);
        }
        self.candidates.sort();
        let candidates = std::mem::take(&mut self.candidates);
        let rules = candidates.rules();
        let rules = if rules.len() > limits::CANDIDATES {
            self.losses.candidates += (rules.len() - limits::CANDIDATES) as u64;
            rules.get(..limits::CANDIDATES).unwrap_or_default()
        } else {
            rules
        };
        let mut alerts = 0;
        for rule in rules {
            let Some((signature, plan)) = engine.rule(*rule) else { continue };
            if !traffic.is_of(plan)
                || traffic.matched.contains(rule)
                || traffic.is_astride && !plan.is_anywhere
            {
                continue;
            }
            if self.suspects.is_isolated(*rule, traffic.facts.time) {
                self.losses.isolated += 1;
                continue;
            }
            let started = self.begin_profile(*rule);
            let outcome = if engine.is_in_force(signature, traffic.facts, traffic.direction) {
                self.check(&signature.rule, plan, flow, traffic)
            } else {
                Outcome::OtherTraffic
            };
            self.end_profile(*rule, started, outcome);
            match outcome {
                Outcome::NoMatch | Outcome::OtherTraffic => {}
                Outcome::GivenUp => {
                    self.losses.steps += 1;
                    if self.suspects.note(*rule, traffic.facts.time) {
                        self.profile.isolated(*rule);
                    }
                }
                Outcome::Later => self.pending.push(*rule),
                Outcome::Match => {
                    self.matched.push(*rule);
                    self.change(plan, flow, traffic);
                    if plan.is_pass {
                        flow.is_passed |= traffic.packet.is_none();
                        break;
                    }
                    flow.is_passed |= signature.rule.bypasses;
                    if signature.rule.is_silent {
                        continue;
                    }
                    let Judgement::Alert(action) = self.judge(engine, *rule, traffic) else { continue };
                    alerts += 1;
                    if alerts > limits::ALERTS {
                        self.losses.alerts += 1;
                        continue;
                    }
                    self.raise(*rule, action, engine.payload_of_alerts(), traffic);
                }
            }
        }
        self.candidates = candidates;
    }

    /// Raises the alert of a rule.
    fn raise(&mut self, rule: u32, action: Option<Action>, wanted: AlertPayload, traffic: &Traffic<'_>) {
        let Traffic { direction, transaction, packet, parts, payload, .. } = *traffic;
        if self.alerts.is_empty() {
            self.details.clear();
        }
        let details = &mut self.details;
        let mut place = |add: &mut dyn FnMut(&mut Vec<u8>)| {
            let start = details.len();
            if start < limits::DETAILS {
                add(details);
            }
            (start as u32, details.len() as u32)
        };
        let fields = place(&mut |out| {
            if let Some(parts) = parts {
                recorded::pack(out, parts.all());
            }
        });
        let mut copy = |bytes: Option<&[u8]>, is_wanted: bool| {
            let bytes = bytes.filter(|_| is_wanted).unwrap_or_default();
            place(&mut |out| out.extend_from_slice(bytes.get(..limits::ALERT_PAYLOAD).unwrap_or(bytes)))
        };
        let payload = copy(payload, wanted.encoded || wanted.printable);
        let packet = copy(packet.map(|packet| packet.network), wanted.packet);
        let details = Details { fields, payload, packet };
        let in_stream = traffic.packet.is_none() && transaction.is_none();
        self.alerts.push_back(Alert { rule, direction, transaction, action, in_stream, details });
    }

    /// Notes why the rule that is explained does or does not match.
    #[cold]
    fn explain(&self, engine: &Engine, explanations: &Explanations, flow: &FlowState, traffic: &Traffic<'_>) {
        let Some((signature, plan)) = engine.rule(explanations.rule) else { return };
        if !traffic.is_of(plan) {
            return;
        }
        let Traffic { facts, direction, .. } = *traffic;
        let (rank, failed) = self.first_failure(engine, signature, plan, flow, traffic);
        let unit = match (traffic.transaction, traffic.packet) {
            (Some(id), _) => format!("transaction {id}"),
            (None, None) => "data of the stream".to_owned(),
            (None, Some(_)) => "a packet".to_owned(),
        };
        explanations.note(facts, Attempt { rank, direction, unit, failed });
    }

    /// Returns the first requirement of a rule that fails, and how many held before.
    fn first_failure(
        &self,
        engine: &Engine,
        signature: &Signature,
        plan: &Plan,
        flow: &FlowState,
        traffic: &Traffic<'_>,
    ) -> (u32, Option<Failure>) {
        /// The number of requirements of one kind that ranks tell apart.
        const KIND: u32 = 1000;
        let Traffic { facts, direction, packet, parts, .. } = *traffic;
        let rule = &signature.rule;
        if let Some(part) = plan.unfit(facts, direction) {
            return (u32::from(plan.has_direction(direction)), Some(Failure::of(part)));
        }
        if !engine.is_in_force(signature, facts, direction) {
            return (2, Some(Failure::of("the rule is not in force for this VNI")));
        }
        let about = About { facts, packet, parts };
        let mut rank = KIND;
        for condition in &rule.conditions {
            if !conditions::holds(condition, &about) {
                return (rank, Some(Failure::of(format!("{condition:?}"))));
            }
            rank += 1;
        }
        let is_test = |state: &&State| match state {
            State::FlowBit { operation, .. } | State::HostBit { operation, .. } => {
                matches!(operation, BitOperation::IsSet | BitOperation::IsNotSet)
            }
            State::FlowInt { operation, .. } => {
                matches!(operation, IntOperation::IsSet | IntOperation::IsNotSet | IntOperation::Compare(..))
            }
        };
        for (test, state) in plan.tests.iter().zip(rule.states.iter().filter(is_test)) {
            if !self.holds(test, flow, traffic) {
                return (rank, Some(Failure::of(format!("{state:?}"))));
            }
            rank += 1;
        }
        let mut values = Values::default();
        for list in &rule.buffers {
            rank = rank.next_multiple_of(KIND) + KIND;
            if traffic.verify(list, &mut values, true) == Verdict::Match {
                continue;
            }
            let name = list.buffer.name();
            let contents = traffic.contents(list.buffer);
            let farthest =
                contents.iter().map(|content| held(list, content, &values)).max_by_key(|held| held.0);
            let Some((count, offset, bytes)) = farthest else { return (rank, Some(Failure::absent(name))) };
            let failed = list.matches.get(count).map(|failed| Failure::within(name, failed, &bytes, offset));
            return (rank + count as u32 + 1, failed.or_else(|| Some(Failure::of(name))));
        }
        (u32::MAX, None)
    }

    /// Counts a candidate that is verified. Returns the time for one in [`SAMPLE`].
    #[inline]
    fn begin_profile(&mut self, rule: u32) -> Option<Instant> {
        self.profile.candidate(rule);
        let is_sample = self.until_sample == 0;
        self.until_sample = if is_sample { SAMPLE - 1 } else { self.until_sample - 1 };
        is_sample.then(Instant::now)
    }

    #[inline]
    fn end_profile(&self, rule: u32, started: Option<Instant>, outcome: Outcome) {
        let profile = &self.profile;
        match outcome {
            Outcome::OtherTraffic => {}
            Outcome::Match => {
                profile.verified(rule);
                profile.matched(rule);
            }
            Outcome::NoMatch | Outcome::GivenUp | Outcome::Later => profile.verified(rule),
        }
        if let Some(started) = started {
            profile.sampled(rule, started);
        }
    }

    /// Returns whether a match raises an alert, as far as thresholds go.
    fn judge(&self, engine: &Engine, rule: u32, traffic: &Traffic<'_>) -> Judgement {
        let Traffic { facts, direction, .. } = *traffic;
        let event = Event {
            time: facts.time,
            source: facts.sender(direction).0,
            destination: facts.sender(direction.reverse()).0,
            vni: facts.vni,
            flow: facts.flow,
        };
        engine.thresholds().judge(rule, &event, &self.counts)
    }

    fn check(&mut self, rule: &Rule, plan: &Plan, flow: &FlowState, traffic: &Traffic<'_>) -> Outcome {
        let Traffic { facts, direction, packet, parts, .. } = *traffic;
        if !plan.fits(facts, direction) {
            return Outcome::OtherTraffic;
        }
        let about = About { facts, packet, parts };
        if !rule.conditions.iter().all(|condition| conditions::holds(condition, &about))
            || !plan.tests.iter().all(|test| self.holds(test, flow, traffic))
        {
            return Outcome::OtherTraffic;
        }
        let mut values = Values::default();
        let mut outcome = Outcome::Match;
        for list in &rule.buffers {
            match traffic.verify(list, &mut values, plan.has_variables) {
                Verdict::Match => {}
                // The payload behind a head is that of its body.
                Verdict::NoMatch
                    if traffic.is_open
                        && matches!(list.buffer.description().unit, Unit::Body | Unit::Payload) =>
                {
                    outcome = Outcome::Later;
                }
                Verdict::NoMatch => return Outcome::NoMatch,
                Verdict::LimitReached => return Outcome::GivenUp,
            }
        }
        outcome
    }

    fn holds(&self, test: &Test, flow: &FlowState, traffic: &Traffic<'_>) -> bool {
        match test {
            Test::FlowBit { bits, is_set } => bits.iter().any(|bit| flow.has_bit(*bit)) == *is_set,
            Test::HostBit { bit, track, is_set } => {
                self.hosts.is_set(*bit, *track, traffic.facts, traffic.direction) == *is_set
            }
            Test::FlowInt { name, operation } => flow.test_number(*name, operation),
        }
    }

    /// Makes the changes of state of a rule that has matched.
    fn change(&mut self, plan: &Plan, flow: &mut FlowState, traffic: &Traffic<'_>) {
        for change in &plan.changes {
            match change {
                Change::FlowBit { bits, operation } => {
                    bits.iter().for_each(|bit| flow.change_bit(*bit, *operation));
                }
                Change::HostBit { bit, track, operation, expire } => {
                    let Traffic { facts, direction, .. } = *traffic;
                    self.hosts.change(*bit, *track, *operation, *expire, facts, direction);
                }
                Change::FlowInt { name, operation } => flow.change_number(*name, operation),
            }
        }
    }
}
