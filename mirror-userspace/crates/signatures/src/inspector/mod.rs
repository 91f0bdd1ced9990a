//! Inspects traffic: finds the rules that a flow's packets, data and transactions may match, verifies them, and
//! raises their alerts.
//!
//! A worker has one [`Inspector`], which owns all memory that inspection needs from call to call, and a [`FlowState`]
//! for each flow. The caller sets the [`Facts`] about the flow and hands over what comes, in this order for a packet:
//! the data of its stream ([`Inspector::stream`]), the buffers of the transactions in it ([`Inspector::buffer`] and
//! [`Inspector::transaction`]), the end of the data ([`Inspector::turn`]), then the packet itself
//! ([`Inspector::packet`]). Alerts collect, and [`Inspector::next_alert`] takes them.
//!
//! Rules about payload see a stream in chunks: what one side sends until the other side sends something, until a
//! transaction ends, or until [`limits::CHUNK`] bytes are there.

mod conditions;
mod flow;
mod hosts;
mod memory;
mod suspects;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;

use mirror_packet::Direction;

use self::conditions::About;
use self::flow::Open;
use self::hosts::HostBits;
use self::memory::{Memory, Parts};
use self::suspects::Suspects;
use self::verify::Traffic;
use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::facts::{Facts, PacketView, TransactionFact};
use crate::limits;
use crate::plan::Scope;
use crate::profile::Profile;
use crate::rule::{Action, Condition};
use crate::search::Candidates;
use crate::threshold::Counts;

pub use self::flow::FlowState;

/// A rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The index of the rule in [`Engine::signatures`].
    pub rule: u32,
    /// The direction of the packet or data that matched.
    pub direction: Direction,
    /// The number of the transaction, if the rule matched in one.
    pub transaction: Option<u64>,
    /// The action in place of the rule's, if a `rate_filter` says so.
    pub action: Option<Action>,
    /// True if the rule matched the ordered data of a connection.
    pub in_stream: bool,
    details: Details,
}

/// The places of what an alert has of the traffic, see [`Inspector::details`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Details {
    fields: (u32, u32),
    payload: (u32, u32),
    packet: (u32, u32),
}

/// Whether a transaction can get more buffers in a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A body follows, which [`Inspector::body`] takes.
    Body,
    /// The direction of the transaction is complete.
    Done,
}

/// The fate of data that was inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It stays, for the transaction that it is part of.
    Stay,
    /// Its end stays, since the sender's turn goes on.
    GoOn,
    /// It is forgotten.
    Forget,
}

/// The inspections that were left out, because a bound was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Rules that were not verified, because a packet, chunk or transaction had too many.
    pub candidates: u64,
    /// Verifications that were given up, because they took too many steps.
    pub steps: u64,
    /// Verifications that were left out, because their rule was isolated: many before took too many steps.
    pub isolated: u64,
    /// Buffers of transactions that were too long or too many.
    pub buffers: u64,
    /// Transactions that were given up, because a flow had too many whose bodies were on their way.
    pub transactions: u64,
    /// Data and transactions that were given up for lack of memory.
    pub memory: u64,
    /// Alerts that were not raised, because a packet, chunk or transaction had too many.
    pub alerts: u64,
}

/// Inspects the flows of a worker.
#[derive(Debug)]
pub struct Inspector {
    engine: Arc<Engine>,
    /// Grows with each set of rules.
    generation: u32,
    work: Work,
}

/// The memory of an inspector.
#[derive(Debug)]
struct Work {
    /// How often rules matched, for their thresholds.
    counts: Arc<Counts>,
    candidates: Candidates,
    /// The transaction in the making.
    parts: Parts,
    /// The datagram whose transactions come next.
    datagram: Vec<u8>,
    memory: Memory,
    hosts: HostBits,
    alerts: VecDeque<Alert>,
    /// The parts of the traffic that alerts contain, until all of them are taken.
    details: Vec<u8>,
    /// The counters of the cost of rules.
    profile: Arc<Profile>,
    /// Verifications until the next one whose time is measured.
    until_sample: u32,
    /// Rules that wait for the body of the transaction that was verified last, and rules that matched in it.
    pending: Vec<u32>,
    matched: Vec<u32>,
    /// Rules whose verification is given up again and again.
    suspects: Suspects,
    losses: Losses,
}

impl Work {
    fn new(profile: Arc<Profile>, counts: Arc<Counts>) -> Self {
        Self {
            counts,
            profile,
            until_sample: 0,
            details: Vec::new(),
            candidates: Candidates::default(),
            parts: Parts::default(),
            datagram: Vec::new(),
            memory: Memory::default(),
            hosts: HostBits::default(),
            alerts: VecDeque::new(),
            pending: Vec::new(),
            matched: Vec::new(),
            suspects: Suspects::default(),
            losses: Losses::default(),
        }
    }

    /// Takes the datagram, or the data of a stream that waits, if rules of transactions look at it.
    fn take_payload(&mut self, engine: &Engine, flow: &FlowState, direction: Direction) -> Option<Vec<u8>> {
        if !engine.has_mixed() {
            return None;
        }
        let Some(slot) = flow.raw[direction as usize].slot else {
            return Some(std::mem::take(&mut self.datagram));
        };
        self.memory.get(slot).map(|item| std::mem::take(&mut item.body))
    }

    /// Gives it back.
    fn give_payload(&mut self, flow: &FlowState, direction: Direction, payload: Option<Vec<u8>>) {
        let Some(payload) = payload else { return };
        match flow.raw[direction as usize].slot {
            Some(slot) => {
                if let Some(item) = self.memory.get(slot) {
                    item.body = payload;
                }
            }
            None => self.datagram = payload,
        }
    }
}

impl Inspector {
    /// Makes an inspector with these rules.
    #[must_use]
    pub fn new(engine: Arc<Engine>, counts: Arc<Counts>) -> Self {
        let work = Work::new(engine.profiles().join(), counts);
        Self { engine, generation: 1, work }
    }

    /// Returns the rules.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Replaces the rules. Flows keep what does not depend on rules: bits, numbers, and transactions whose bodies are on
    /// their way, which the new rules inspect.
    pub fn replace(&mut self, engine: Arc<Engine>, counts: Arc<Counts>) {
        self.work.profile = engine.profiles().join();
        self.engine = engine;
        self.work.counts = counts;
        self.work.suspects.clear();
        self.generation += 1;
    }

    /// Returns what was not inspected, because a bound was reached.
    #[must_use]
    pub const fn losses(&self) -> Losses {
        Losses { memory: self.work.memory.lost(), ..self.work.losses }
    }

    /// Returns true if a rule inspects the buffer.
    #[inline]
    #[must_use]
    pub fn wants(&self, buffer: Buffer) -> bool {
        self.engine.wants(buffer)
    }

    /// Inspects a packet, after the data that it brought.
    pub fn packet(&mut self, flow: &mut FlowState, facts: &Facts, packet: &PacketView<'_>) {
        let Self { engine, work, .. } = self;
        let direction = packet.direction;
        work.datagram.clear();
        if flow.is_passed {
            return;
        }
        let (sender, receiver) = (facts.sender(direction), facts.sender(direction.reverse()));
        work.candidates.clear();
        if flow.begun & 1 << direction as u8 == 0 {
            flow.begun |= 1 << direction as u8;
            engine.address_candidates(direction, [sender.0, receiver.0], &mut work.candidates);
        }
        let scope = Scope::of_packet(facts.transport);
        let about = About { facts, packet: Some(packet), parts: None };
        let holds = |condition: &Condition| conditions::holds(condition, &about);
        let has_payload = !packet.payload.is_empty();
        if engine.has_scope(scope, direction) {
            if has_payload {
                engine.payload_candidates(scope, direction, packet.payload, &mut work.candidates);
            }
            engine.port_candidates(scope, facts, direction, has_payload, holds, &mut work.candidates);
        }
        if !packet.in_stream && has_payload && engine.has_scope(Scope::Stream, direction) {
            engine.payload_candidates(Scope::Stream, direction, packet.payload, &mut work.candidates);
            engine.port_candidates(Scope::Stream, facts, direction, true, holds, &mut work.candidates);
        }
        if !work.candidates.rules().is_empty() {
            let traffic = Traffic::of_packet(facts, packet);
            work.verify_candidates(engine, flow, &traffic);
        }
    }

    /// Inspects a packet that belongs to no flow. Rules that ask for a flow do not match it.
    pub fn lone_packet(&mut self, facts: &Facts, packet: &PacketView<'_>) {
        self.packet(&mut FlowState::default(), facts, packet);
    }

    /// Takes the next bytes of a stream. They are inspected by [`Inspector::turn`] or at the end of a transaction.
    /// Returns false if no rule wants more of the direction.
    pub fn stream(
        &mut self,
        flow: &mut FlowState,
        facts: &Facts,
        direction: Direction,
        bytes: &[u8],
    ) -> bool {
        let Self { engine, work, .. } = self;
        let raw = &mut flow.raw[direction as usize];
        if raw.is_closed
            || flow.is_passed
            || !engine.has_scope(Scope::Stream, direction) && !engine.has_mixed()
        {
            raw.is_closed = true;
            return false;
        }
        let bytes = bytes.get(..limits::STREAM - raw.taken).unwrap_or(bytes);
        raw.taken += bytes.len();
        let kept = raw.slot.filter(|slot| work.memory.get(*slot).is_some());
        let slot = kept.unwrap_or_else(|| work.memory.enter(facts.sender(direction).0));
        raw.slot = Some(slot);
        if let Some(item) = work.memory.get(slot) {
            item.body.extend_from_slice(bytes);
        }
        work.memory.charge(slot);
        true
    }

    /// Notes the datagram whose transactions come next, before [`Inspector::packet`] inspects it.
    pub fn datagram(&mut self, payload: &[u8]) {
        if self.engine.has_mixed() {
            self.work.datagram.clear();
            self.work.datagram.extend_from_slice(payload);
        }
    }

    /// Notes that bytes of a stream are missing: what is there is inspected without them.
    pub fn gap(&mut self, flow: &mut FlowState, facts: &Facts, direction: Direction) {
        self.chunk(flow, facts, direction, 1, After::Forget);
    }

    /// Inspects the data of the other side, whose turn has ended, and that of this one if there is enough of it.
    pub fn turn(&mut self, flow: &mut FlowState, facts: &Facts, direction: Direction) {
        self.chunk(flow, facts, direction.reverse(), 1, After::Forget);
        self.chunk(flow, facts, direction, limits::CHUNK, After::GoOn);
        let raw = &mut flow.raw[direction as usize];
        if raw.taken >= limits::STREAM {
            self.close(flow, facts, direction);
        }
    }

    /// Ends the inspection of payload in a direction: what follows is encrypted, or beyond the bound.
    pub fn close(&mut self, flow: &mut FlowState, facts: &Facts, direction: Direction) {
        self.chunk(flow, facts, direction, 1, After::Forget);
        let raw = &mut flow.raw[direction as usize];
        raw.is_closed = true;
        if let Some(slot) = raw.slot.take() {
            self.work.memory.leave(slot);
        }
    }

    /// Inspects the data of a direction that waits, if it has at least this many new bytes.
    ///
    /// The end of the chunk before is in front of the new bytes if the sender's turn goes on. Rules see the new bytes
    /// alone first. Those that match in neither chunk then see both, for contents that lie astride.
    fn chunk(
        &mut self,
        flow: &mut FlowState,
        facts: &Facts,
        direction: Direction,
        least: usize,
        after: After,
    ) {
        let Self { engine, work, generation } = self;
        let Some(slot) = flow.raw[direction as usize].slot else { return };
        let Some(item) = work.memory.get(slot) else { return };
        let tail = item.tail;
        if item.body.len() - tail < least {
            if after == After::Forget {
                work.memory.leave(slot);
                flow.raw[direction as usize].slot = None;
            }
            return;
        }
        let data = std::mem::take(&mut item.body);
        let searched = std::mem::replace(&mut item.searched, data.len());
        let (mut matched, mut pending) =
            (std::mem::take(&mut item.matched), std::mem::take(&mut item.pending));
        if item.generation != *generation {
            matched.clear();
            pending.clear();
        }
        // Data that a transaction has inspected is not inspected again.
        if searched < data.len() && !flow.is_passed {
            work.candidates.clear();
            let overlap = tail.saturating_sub(limits::OVERLAP);
            let searched = data.get(overlap..).unwrap_or_default();
            engine.payload_candidates(Scope::Stream, direction, searched, &mut work.candidates);
            let about = About { facts, packet: None, parts: None };
            let holds = |condition: &Condition| conditions::holds(condition, &about);
            engine.port_candidates(Scope::Stream, facts, direction, true, holds, &mut work.candidates);
            let mut traffic = Traffic::of_stream(facts, direction, data.get(tail..).unwrap_or_default());
            work.verify_candidates(engine, flow, &traffic);
            let before = matched.len();
            matched.append(&mut work.matched);
            if tail > 0 && !flow.is_passed {
                for rule in pending.drain(..) {
                    work.candidates.add(rule);
                }
                traffic.payload = Some(&data);
                traffic.matched = &matched;
                traffic.is_astride = true;
                work.verify_candidates(engine, flow, &traffic);
                matched.append(&mut work.matched);
            }
            matched.drain(..before);
            pending.clear();
            let unmatched = work.candidates.rules().iter().filter(|rule| {
                engine.rule(**rule).is_some_and(|(_, plan)| plan.is_anywhere) && !matched.contains(rule)
            });
            pending.extend(unmatched.take(limits::PENDING));
        }
        let Some(item) = work.memory.get(slot) else { return };
        (item.body, item.matched, item.pending) = (data, matched, pending);
        item.generation = *generation;
        match after {
            After::Stay => {}
            After::GoOn => {
                item.body.drain(..item.body.len().saturating_sub(limits::TAIL));
                (item.tail, item.searched) = (item.body.len(), item.body.len());
                work.memory.charge(slot);
            }
            // A stream that is silent now keeps no memory.
            After::Forget => {
                work.memory.leave(slot);
                flow.raw[direction as usize].slot = None;
            }
        }
    }

    /// Adds a buffer to the transaction that the next [`Inspector::transaction`] inspects. The bytes are copied.
    pub fn buffer(&mut self, buffer: Buffer, bytes: &[u8]) {
        let Work { parts, losses, .. } = &mut self.work;
        let (size, count) = parts.size();
        if size + bytes.len() > limits::PARTS || count >= limits::BUFFERS {
            losses.buffers += 1;
        } else {
            parts.add(buffer, bytes);
        }
    }

    /// Adds a fact to that transaction.
    pub fn fact(&mut self, fact: TransactionFact) {
        let facts = &mut self.work.parts.facts;
        if facts.len() < limits::BUFFERS {
            facts.push(fact);
        }
    }

    /// Inspects one direction of a transaction with the buffers that were added since the last call: all that it has
    /// in this direction but bodies.
    pub fn transaction(
        &mut self,
        flow: &mut FlowState,
        facts: &Facts,
        id: u64,
        direction: Direction,
        progress: Progress,
    ) {
        if flow.is_passed {
            return self.work.parts.clear();
        }
        let is_done = progress == Progress::Done;
        if is_done {
            self.chunk(flow, facts, direction, 1, After::Stay);
        }
        let Self { engine, work, .. } = self;
        work.candidates.clear();
        for (buffer, bytes) in work.parts.all() {
            engine.candidates(buffer, bytes, &mut work.candidates);
        }
        let parts = std::mem::take(&mut work.parts);
        let about = About { facts, packet: None, parts: Some(&parts) };
        let holds = |condition: &Condition| conditions::holds(condition, &about);
        engine.header_candidates(facts, direction, holds, &mut work.candidates);
        let payload = work.take_payload(engine, flow, direction);
        let mut traffic = Traffic::of_transaction(facts, direction, id, &parts);
        traffic.payload = payload.as_deref();
        traffic.is_open = !is_done;
        work.verify_candidates(engine, flow, &traffic);
        work.give_payload(flow, direction, payload);
        work.parts = parts;
        if !is_done && engine.wants_body(direction) {
            self.open(flow, facts, id, direction);
        } else if is_done {
            self.chunk(flow, facts, direction, 1, After::Forget);
        }
        self.work.parts.clear();
    }

    /// Keeps a transaction until its body is there.
    fn open(&mut self, flow: &mut FlowState, facts: &Facts, id: u64, direction: Direction) {
        let Work { memory, parts, losses, pending, matched, .. } = &mut self.work;
        if flow.open.len() >= limits::OPEN {
            losses.transactions += 1;
            memory.leave(flow.open.remove(0).slot);
        }
        let slot = memory.enter(facts.sender(direction).0);
        if let Some(item) = memory.get(slot) {
            std::mem::swap(&mut item.parts, parts);
            std::mem::swap(&mut item.pending, pending);
            std::mem::swap(&mut item.matched, matched);
        }
        memory.charge(slot);
        flow.generation = self.generation;
        flow.open.push(Open { id, direction, slot });
    }

    /// Takes the next bytes of a body. `is_end` ends it, and the direction of the transaction.
    pub fn body(
        &mut self,
        flow: &mut FlowState,
        facts: &Facts,
        id: u64,
        direction: Direction,
        bytes: &[u8],
        is_end: bool,
    ) {
        let open = flow.open.iter().find(|open| open.id == id && open.direction == direction).copied();
        if let Some(open) = open {
            self.grow(flow, facts, open, bytes, is_end);
            if is_end {
                flow.open.retain(|other| other.slot != open.slot);
                self.work.memory.leave(open.slot);
            }
        }
        if is_end {
            self.chunk(flow, facts, direction, 1, After::Forget);
        }
    }

    /// Adds bytes to a body, and inspects it if there is enough of it.
    fn grow(&mut self, flow: &mut FlowState, facts: &Facts, open: Open, bytes: &[u8], is_end: bool) {
        let is_outdated = flow.generation != self.generation;
        let Self { engine, work, .. } = self;
        let Open { id, direction, slot } = open;
        let Some(item) = work.memory.get(slot) else { return };
        let room = limits::BODY.saturating_sub(item.body.len());
        item.body.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let first = match direction {
            Direction::ToServer => limits::REQUEST_BODY_FIRST,
            Direction::ToClient => limits::RESPONSE_BODY_FIRST,
        };
        let next = if item.searched == 0 { first } else { item.searched + limits::BODY_NEXT };
        let len = item.body.len();
        let is_more = len > item.searched && (len >= next || len == limits::BODY);
        if !is_more && !is_end || flow.is_passed {
            return work.memory.charge(slot);
        }
        let (parts, body) = (std::mem::take(&mut item.parts), std::mem::take(&mut item.body));
        let (before, matched) = (std::mem::take(&mut item.pending), std::mem::take(&mut item.matched));
        work.candidates.clear();
        if is_outdated {
            let about = About { facts, packet: None, parts: Some(&parts) };
            let holds = |condition: &Condition| conditions::holds(condition, &about);
            engine.header_candidates(facts, direction, holds, &mut work.candidates);
        } else {
            for rule in &before {
                work.candidates.add(*rule);
            }
        }
        let new = body.get(item.searched.saturating_sub(limits::OVERLAP)..).unwrap_or_default();
        item.searched = len;
        if !new.is_empty() {
            for buffer in Buffer::of_body(direction) {
                engine.candidates(buffer, new, &mut work.candidates);
            }
        }
        let payload = work.take_payload(engine, flow, direction);
        let mut traffic = Traffic::of_transaction(facts, direction, id, &parts);
        traffic.payload = payload.as_deref();
        traffic.body = Some(&body);
        traffic.is_open = !is_end;
        traffic.matched = if is_outdated { &[] } else { &matched };
        work.verify_candidates(engine, flow, &traffic);
        work.give_payload(flow, direction, payload);
        let Work { memory, pending, matched: new, .. } = work;
        if let Some(item) = memory.get(slot) {
            (item.parts, item.body, item.pending, item.matched) = (parts, body, before, matched);
            item.matched.append(new);
            std::mem::swap(&mut item.pending, pending);
        }
        memory.charge(slot);
    }

    /// Ends a flow: what waits for more data is inspected as it is.
    pub fn end(&mut self, flow: &mut FlowState, facts: &Facts) {
        while let Some(open) = flow.open.first().copied() {
            self.body(flow, facts, open.id, open.direction, &[], true);
            flow.open.retain(|other| other.slot != open.slot);
        }
        for direction in [Direction::ToServer, Direction::ToClient] {
            self.close(flow, facts, direction);
        }
    }

    /// Returns what an alert that was taken last has of the traffic: buffers ([`crate::recorded`]), the payload, and the
    /// packet.
    #[must_use]
    pub fn details(&self, alert: &Alert) -> [&[u8]; 3] {
        let Details { fields, payload, packet } = alert.details;
        let part = |(start, end): (u32, u32)| self.work.details.get(start as usize..end as usize);
        [fields, payload, packet].map(|place| part(place).unwrap_or_default())
    }

    /// Takes the oldest alert that was raised.
    pub fn next_alert(&mut self) -> Option<Alert> {
        self.work.alerts.pop_front()
    }
}

#[cfg(test)]
mod tests;
