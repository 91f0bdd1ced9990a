//! Verifies candidates: header, conditions, state, and content in this order. What matched changes state and raises an
//! alert.

use mirror_packet::Direction;

use super::conditions::{self, About};
use super::memory::Parts;
use super::{Alert, FlowState, Work};
use crate::buffer::{Buffer, Unit};
use crate::engine::{Engine, verify_list};
use crate::facts::{Facts, PacketView};
use crate::inspect::{Values, Verdict};
use crate::limits;
use crate::plan::{Change, Kind, Plan, Scope, Test};
use crate::rule::{BufferMatches, Rule};
use crate::threshold::{Event, Judgement};

/// What rules are verified with.
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
    /// Rules that have matched in the transaction.
    pub(super) matched: &'a [u32],
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

/// The result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Match,
    NoMatch,
    /// All that is there matches. More of the body may decide.
    Later,
}

impl Work {
    /// Verifies the candidates, in their order. Rules that match raise alerts, and collect with rules that wait for a
    /// body.
    pub(super) fn verify_candidates(&mut self, engine: &Engine, flow: &mut FlowState, traffic: &Traffic<'_>) {
        self.pending.clear();
        self.matched.clear();
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
            if !traffic.is_of(plan) || traffic.matched.contains(rule) {
                continue;
            }
            match self.check(&signature.rule, plan, flow, traffic) {
                Outcome::NoMatch => {}
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
                    let Traffic { direction, transaction, .. } = *traffic;
                    self.alerts.push_back(Alert { rule: *rule, direction, transaction, action });
                }
            }
        }
        self.candidates = candidates;
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
            return Outcome::NoMatch;
        }
        let about = About { facts, packet, parts };
        if !rule.conditions.iter().all(|condition| conditions::holds(condition, &about))
            || !plan.tests.iter().all(|test| self.holds(test, flow, traffic))
        {
            return Outcome::NoMatch;
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
                Verdict::LimitReached => {
                    self.losses.steps += 1;
                    return Outcome::NoMatch;
                }
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
