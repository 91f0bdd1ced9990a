//! DNS: each message becomes an event.

use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::dns::{self, Message, MessageEvent, NameBuffer, Transactions};
use mirror_signatures::buffer::Buffer;
use mirror_signatures::facts::TransactionFact;

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::credit::{self, Credit};
use crate::analyzer::{Analyzer, Consumed, Context, Event};
use crate::indicators::Indicators;
use crate::inspection::Progress;

/// Emits events of DNS messages over UDP and TCP.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    watch: Watch,
}

/// Queries of a flow that may wait for their responses. One more query replaces the oldest.
const MAX_OPEN: usize = 4;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    transactions: Transactions,
    /// Identifiers of queries, and their times; 0 if unused.
    open: [(u16, u64); MAX_OPEN],
    next: u8,
    /// Bytes of a direction are missing: the next may be in the middle of a message.
    lost: [bool; 2],
    /// The remaining credit for events of a stream's messages, and for alerts.
    credit: Credit,
}

impl Analyzer for Dns {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        let lost = flow.lost[direction as usize];
        match event {
            Event::Data { bytes, .. } if !context.is_stream() => {
                flow.credit.earn(bytes.len());
                self.message(flow, bytes, context);
                Consumed::Used(bytes.len())
            }
            Event::Data { bytes, .. } if lost && !dns::probe_tcp(bytes) => Consumed::Used(bytes.len()),
            Event::Data { bytes, new } => {
                flow.lost[direction as usize] = false;
                flow.credit.earn(bytes.len().saturating_sub(new));
                Consumed::Used(self.messages(flow, bytes, context))
            }
            Event::Gap { .. } => {
                flow.lost[direction as usize] = true;
                Consumed::Used(0)
            }
            Event::End { .. } => Consumed::Done,
        }
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch.set(indicators);
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        flow.credit.end::<MessageEvent<'_>>(context);
    }
}

impl Dns {
    /// Processes the messages of a stream, each preceded by its length (RFC 1035, section 4.2.2). Returns the
    /// number of bytes that were whole messages.
    fn messages(&self, flow: &mut Flow, bytes: &[u8], context: &mut Context<'_>) -> usize {
        let mut rest = bytes;
        while let Some((len, body)) = rest.split_first_chunk()
            && let Some((whole, behind)) = body.split_at_checked(usize::from(u16::from_be_bytes(*len)))
        {
            self.message(flow, whole, context);
            rest = behind;
        }
        bytes.len() - rest.len()
    }

    fn message(&self, flow: &mut Flow, bytes: &[u8], context: &mut Context<'_>) {
        let Ok(message) = Message::parse(bytes) else { return };
        let header = message.header();
        let latency = if header.is_response() {
            // In a stream, an answer that was mirrored before its query has the earlier time.
            flow.answer(header.id).and_then(|asked| context.time().checked_sub(asked))
        } else {
            flow.ask(header.id, context.time());
            None
        };
        let number = flow.transactions.number();
        // A response repeats its question. It is checked only if the query was not seen.
        if self.watch.is_on() && latency.is_none() {
            let mut name = NameBuffer::new();
            for question in message.questions() {
                let name = question.name.read(&mut name);
                self.watch.one_of_names(Cause::Query, name, &mut flow.credit.alerts, context);
            }
        }
        if context.is_inspected() {
            hand_over(&message, u64::from(number), context);
        }
        // A datagram has the headers of a packet in front, a message in a stream has not.
        if context.is_stream()
            && !flow.credit.events.spend(credit::EVENT + context.relay_cost() + 2 * message.names())
        {
            return;
        }
        context.record(&MessageEvent { number, latency, message });
    }
}

/// Hands over a message to the rules.
#[cold]
fn hand_over(message: &Message<'_>, number: u64, context: &mut Context<'_>) {
    let header = message.header();
    let direction = if header.is_response() { Direction::ToClient } else { Direction::ToServer };
    let mut name = NameBuffer::new();
    context.fact(TransactionFact::DnsOpcode(header.opcode()));
    context.fact(TransactionFact::DnsRcode(header.rcode().into()));
    for question in message.questions() {
        let name = question.name.read(&mut name);
        if direction == Direction::ToServer {
            context.buffer(Buffer::DnsQuery, name);
        }
        if context.wants(Buffer::DnsQueryName) {
            context.buffer(Buffer::DnsQueryName, name);
        }
        context.fact(TransactionFact::DnsType(question.rrtype));
    }
    if context.wants(Buffer::DnsAnswerName) {
        for answer in message.answers() {
            context.buffer(Buffer::DnsAnswerName, answer.name.read(&mut name));
        }
    }
    context.transaction(number, direction, Progress::Done);
}

impl Flow {
    fn ask(&mut self, id: u16, time: u64) {
        // A retransmitted query counts from its first transmission.
        if self.open.iter().any(|&(open, since)| open == id && since > 0) {
            return;
        }
        self.open[usize::from(self.next)] = (id, time);
        self.next = (self.next + 1) % MAX_OPEN as u8;
    }

    /// Returns the time of the query with this identifier, and removes the query.
    fn answer(&mut self, id: u16) -> Option<u64> {
        let query = self.open.iter_mut().find(|(open, since)| *open == id && *since > 0)?;
        Some(std::mem::take(&mut query.1))
    }
}
