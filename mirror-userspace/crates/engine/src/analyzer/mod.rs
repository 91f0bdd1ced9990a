//! Analyzers: they turn the data of flows into events.
//!
//! An [`Analyzer`] selects flows by a [`Filter`], receives their packets, their data in order and their ends,
//! stores a state for each flow that it follows, and emits events. Each worker has analyzers of its own
//! ([`Analyzers`]), so none of them needs a lock. The built-in analyzers use nothing that others cannot use;
//! they are known by type, so that calls to them are direct. Every
//! [`Protocol`] is an analyzer.

mod alert;
mod builtin;
mod credit;
mod enabled;
mod filter;
mod held;
mod registry;
mod signature_alert;
mod transaction;
pub(crate) use self::transaction::inspect_lone;

use std::cell::Cell;
use std::sync::Arc;

pub use mirror_packet::Direction;
use mirror_packet::Packet;
use mirror_protocols::Protocol;
use mirror_protocols::detect::AppProto;
use mirror_protocols::eve::EveEvent;
use mirror_protocols::protocol::Output;
use mirror_records::sink::Producer;
use mirror_records::{Conversation, EventType};
use mirror_signatures::buffer::Buffer;

use crate::FlowMeta;
use crate::indicators::Indicators;
use crate::inspection::Inspection;
pub use crate::inspection::Progress;
use crate::stream::Mark;
pub use crate::stream::{Consumed, Event};
use alert::AlertEvent;
pub(crate) use alert::Cause;
pub use builtin::{Dns, Http, Quic, StartTls, Tls};
pub use enabled::Enabled;
pub use filter::Filter;
pub use held::AnalyzerMemory;
pub use registry::{Analyzers, Following, Register, TooMany, register_everywhere};

/// Turns flows into events.
///
/// An analyzer must not block, and should not allocate once there was some traffic: it can store the memory
/// that it needs for a flow in itself and reuse it.
pub trait Analyzer: Send + 'static {
    /// The state of a flow, created at the first of its events.
    type Flow: Default + Send + 'static;

    /// Processes a packet of a flow, if the filter asked for packets ([`Filter::packets`]).
    fn packet(
        &mut self,
        _flow: &mut Self::Flow,
        _direction: Direction,
        _packet: &Packet<'_>,
        _context: &mut Context<'_>,
    ) -> Interest {
        Interest::More
    }

    /// Processes an event in a flow: a datagram, the next bytes of a stream, or a gap in it.
    fn data(
        &mut self,
        _flow: &mut Self::Flow,
        _direction: Direction,
        _event: Event<'_>,
        _context: &mut Context<'_>,
    ) -> Consumed {
        Consumed::Done
    }

    /// Processes the end of a flow that has a state. The state is dropped afterwards.
    fn end(&mut self, _flow: &mut Self::Flow, _context: &mut Context<'_>) {}

    /// Returns the bytes of memory that a flow's state holds besides itself. What the states of all flows of a worker
    /// hold has one bound for all analyzers. Beyond that, [`forget`] is called for a flow of the host that holds
    /// most of it, or else for the oldest.
    ///
    /// [`forget`]: Analyzer::forget
    fn held(_flow: &Self::Flow) -> usize {
        0
    }

    /// Sets the indicators of alerts, before the first flow and after each change.
    fn watch_for(&mut self, _indicators: &Arc<Indicators>) {}

    /// Releases the memory that a flow's state holds, without reserving it for others. The flow continues, so
    /// its next data may begin in the middle of a message.
    fn forget(&mut self, flow: &mut Self::Flow) {
        *flow = Self::Flow::default();
    }
}

/// Every protocol is an analyzer.
impl<P: Protocol> Analyzer for P {
    type Flow = P::Flow;

    fn data(
        &mut self,
        flow: &mut P::Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        Protocol::data(self, flow, direction, event, context)
    }

    fn end(&mut self, flow: &mut P::Flow, context: &mut Context<'_>) {
        Protocol::end(self, flow, context);
    }

    fn held(flow: &P::Flow) -> usize {
        <P as Protocol>::held(flow)
    }
}

/// An analyzer's interest in the rest of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It wants more.
    More,
    /// It wants no more of this flow. Once no analyzer wants more, the kernel can count the rest of the flow.
    Done,
}

/// The context of an event: its flow, its time and the destination of records.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) head: &'a FlowMeta,
    pub(crate) time: u64,
    /// The event's place in the streams of a connection.
    pub(crate) mark: Mark,
    pub(crate) original: Option<AppProto>,
    /// The recognised protocol, while data is passed on.
    pub(crate) application: Option<AppProto>,
    pub(crate) records: &'a mut Producer,
    /// Set if the flow has raised an alert.
    pub(crate) alerted: &'a Cell<bool>,
    /// The analyzer is switched off: its events are discarded.
    pub(crate) muted: bool,
    /// No segment of the server was seen.
    pub(crate) one_sided: bool,
    /// The rest of the datagram was not captured.
    pub(crate) is_cut: bool,
    /// The rules that raise alerts, if there are any.
    pub(crate) inspection: Option<&'a mut Inspection>,
}

impl<'a> Context<'a> {
    pub(crate) const fn new(
        head: &'a FlowMeta,
        time: u64,
        original: Option<AppProto>,
        records: &'a mut Producer,
        alerted: &'a Cell<bool>,
    ) -> Self {
        Self {
            head,
            time,
            mark: Mark::NONE,
            original,
            application: None,
            records,
            alerted,
            muted: false,
            one_sided: false,
            is_cut: false,
            inspection: None,
        }
    }
}

impl Context<'_> {
    /// Returns the time of the packet, or of the flow's end, in nanoseconds since the epoch.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// Returns the application protocol that the flow had before: STARTTLS, CONNECT.
    #[must_use]
    pub const fn original(&self) -> Option<AppProto> {
        self.original
    }

    /// Returns the fields that all records of the flow share.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        self.head.conversation(&self.records.sources)
    }

    /// Returns true if the server's direction of a connection may not be mirrored: nothing of it was seen.
    #[must_use]
    pub const fn is_one_sided(&self) -> bool {
        self.one_sided
    }

    /// Returns true for a datagram of which the mirror, or the capture, has cut off the rest.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the bytes that are charged for the preambles in a record. A byte of a name takes six at most.
    pub(crate) fn relay_cost(&self) -> usize {
        if self.records.has_relays() { 6 * self.records.relay_len(self.head.flow_id()) } else { 0 }
    }

    /// Returns true for a TCP stream.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.head.is_stream()
    }

    /// Emits a typed event.
    pub fn record<E: EveEvent>(&mut self, event: &E) {
        if !self.muted {
            self.records.push_typed(self.time, self.conversation(), event);
        }
    }

    /// Emits a record. The event type's render function gets the concatenation of `parts` (see
    /// [`EventType::new`]).
    pub fn emit(&mut self, event_type: &'static EventType, parts: &[&[u8]]) {
        if !self.muted {
            self.records.push_event(self.time, self.conversation(), event_type, parts);
        }
    }

    /// Raises an alert: an `alert` event with this signature. With a packet store, all later packets of the
    /// flow are stored, even if the driver would otherwise only count them. If the store keeps only alerts
    /// (`keep = "alerts"`), it also stores the flow's earlier packets that are still in memory.
    pub fn keep(&mut self, signature: &str) {
        self.alert(Cause::Analyzer, signature.as_bytes());
    }

    pub(crate) fn alert(&mut self, cause: Cause, about: &[u8]) {
        self.alerted.set(true);
        self.record(&AlertEvent { cause: cause as u8, about });
    }
}

impl Output for Context<'_> {
    fn wants(&self, buffer: &'static str) -> bool {
        self.inspection.is_some() && Buffer::from_name(buffer).is_some_and(|buffer| self.wants(buffer))
    }

    fn buffer(&mut self, buffer: &'static str, bytes: &[u8]) {
        if self.inspection.is_some()
            && let Some(buffer) = Buffer::from_name(buffer)
        {
            self.buffer(buffer, bytes);
        }
    }

    fn transaction(&mut self, id: u64, direction: Direction) {
        self.transaction(id, direction, Progress::Done);
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn is_stream(&self) -> bool {
        self.head.is_stream()
    }

    fn record<E: EveEvent>(&mut self, event: &E) {
        self.record(event);
    }
}
