//! Rules of the crate `signatures` over the flows of a worker: the states of its flows, and the facts about the flow in
//! hand.
//!
//! It stands beside the analyzers, since it takes what they find: an analyzer hands over the buffers of a transaction
//! through its [`Context`](crate::analyzer::Context). Without rules there is no [`Inspection`], and a packet costs a
//! few comparisons.

use std::fmt;
use std::sync::Arc;

use mirror_packet::{Direction, LonePacket, MirrorSession, Packet, Segment, Transport};
use mirror_protocols::detect::AppProto;
use mirror_signatures::buffer::{Application, Buffer};
use mirror_signatures::engine::Engine;
use mirror_signatures::facts::{Facts, PacketView, TransactionFact};
pub use mirror_signatures::inspector::{Alert, Progress};
use mirror_signatures::inspector::{FlowState, Inspector, Losses};
use mirror_signatures::threshold::Counts;
use mirror_xdp_common::wire::protocol;

use crate::FlowIndex;

/// Bytes of the table of counts divided by 16: hosts and rules whose matches are counted at a time.
const COUNTED: usize = 1 << 16;

/// Rules, with the counts of their matches. Workers of a capture share both.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The rules.
    pub engine: Arc<Engine>,
    /// How often rules matched, for their thresholds.
    pub counts: Arc<Counts>,
}

impl Rules {
    /// Returns these rules with counts of their own.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, counts: Arc::new(Counts::new(COUNTED, 0)) }
    }
}

/// The rules at work in a worker.
pub struct Inspection {
    inspector: Inspector,
    /// The facts about the flow in hand.
    facts: Facts,
    index: FlowIndex,
    /// For each flow of the table, its index in `states` plus one; 0 if it has none.
    places: Vec<u32>,
    states: Vec<FlowState>,
    free: Vec<u32>,
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Returns the protocol of rules that a recognised one is.
#[must_use]
pub fn application(protocol: AppProto) -> Option<Application> {
    match protocol {
        AppProto::Http => Some(Application::Http1),
        AppProto::Dns => Some(Application::Dns),
        AppProto::Tls => Some(Application::Tls),
        AppProto::Quic => Some(Application::Quic),
        AppProto::Ssh => Some(Application::Ssh),
        other => Application::from_name(other.name().as_bytes()),
    }
}

impl Inspection {
    /// Starts inspection with these rules. Memory for the states of `max_flows` flows is touched as flows come.
    #[must_use]
    pub fn new(rules: Rules, max_flows: usize) -> Self {
        let mut inspection = Self {
            inspector: Inspector::new(rules.engine, rules.counts),
            facts: Facts::default(),
            index: FlowIndex(0),
            places: Vec::new(),
            states: Vec::new(),
            free: Vec::new(),
        };
        inspection.places.reserve_exact(max_flows);
        inspection.states.reserve_exact(max_flows);
        inspection.free.reserve_exact(max_flows);
        inspection
    }

    /// Replaces the rules.
    pub fn replace(&mut self, rules: Rules) {
        self.inspector.replace(rules.engine, rules.counts);
    }

    /// Returns the rules.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        self.inspector.engine()
    }

    /// Returns what was not inspected, because a bound was reached.
    pub(crate) const fn losses(&self) -> Losses {
        self.inspector.losses()
    }

    /// Turns to a flow. Everything that follows is about it.
    pub(crate) const fn turn_to(&mut self, index: FlowIndex, facts: Facts) {
        self.index = index;
        self.facts = facts;
    }

    /// Sets the state of the connection in hand, which the segment in hand has changed.
    pub(crate) const fn connect(&mut self, is_established: bool, sent: [u64; 2]) {
        self.facts.is_established = is_established;
        self.facts.sent = sent;
    }

    /// Sets the protocols of the flow in hand, which its data may have changed.
    pub(crate) fn recognise(
        &mut self,
        protocol: Option<AppProto>,
        original: Option<AppProto>,
        is_unknown: bool,
    ) {
        self.facts.application = protocol.and_then(application);
        // A connection of HTTP/2 that began as HTTP/1 is none of HTTP/1 any more.
        let is_upgraded = protocol == Some(AppProto::Http2) && original == Some(AppProto::Http);
        self.facts.original = original.filter(|_| !is_upgraded).and_then(application);
        self.facts.is_unknown = is_unknown;
    }

    fn parts(&mut self) -> Option<(&mut Inspector, &mut FlowState, &Facts)> {
        let at = self.index.get();
        if self.places.len() <= at {
            self.places.resize(at + 1, 0);
        }
        let place = self.places.get_mut(at)?;
        if *place == 0 {
            *place = self.free.pop().unwrap_or_else(|| {
                self.states.push(FlowState::default());
                self.states.len() as u32
            });
        }
        let state = self.states.get_mut(*place as usize - 1)?;
        Some((&mut self.inspector, state, &self.facts))
    }

    /// Inspects a packet that belongs to no flow.
    pub(crate) fn lone_packet(&mut self, packet: &LonePacket<'_>, time: u64, mirror: Option<MirrorSession>) {
        self.facts = Facts {
            time,
            start: time,
            transport: packet.protocol,
            ipv6: packet.ipv6,
            ends: [(packet.source, 0), (packet.destination, 0)],
            is_lone: true,
            vni: mirror.map(|mirror| mirror.vni.get()),
            session: mirror.map(|mirror| mirror.outer_source),
            packets: [1, 0],
            bytes: [packet.network.len() as u64, 0],
            ..Facts::default()
        };
        let is_icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
        let payload = packet.transport.get(if is_icmp { 8 } else { 0 }..).unwrap_or_default();
        let view = PacketView {
            direction: Direction::ToServer,
            network: packet.network,
            transport: packet.transport,
            payload,
            payload_len: payload.len(),
            in_stream: true,
        };
        self.inspector.lone_packet(&self.facts, &view);
    }

    /// Inspects a packet of the flow in hand.
    pub(crate) fn packet(&mut self, direction: Direction, packet: &Packet<'_>, in_stream: bool) {
        let transport = packet.network.get(usize::from(packet.header_len)..).unwrap_or_default();
        let (payload, payload_len) = match packet.transport {
            Transport::Tcp(Segment { payload, missing, .. }) | Transport::Udp { payload, missing } => {
                (payload, payload.len() + missing)
            }
            Transport::Icmp { .. } => {
                // Type, code, checksum, and four bytes that depend on the type.
                let payload = transport.get(8..).unwrap_or_default();
                (payload, payload.len())
            }
            Transport::Sctp | Transport::Esp { .. } | Transport::Ip => (transport, transport.len()),
        };
        let view =
            PacketView { direction, network: packet.network, transport, payload, payload_len, in_stream };
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.packet(flow, facts, &view);
        }
    }

    /// Takes the next bytes of a stream of the flow in hand; `end` is the sequence number behind them.
    pub(crate) fn stream(&mut self, direction: Direction, bytes: &[u8], end: u32) {
        if let Some((inspector, flow, facts)) = self.parts() {
            let new = flow.new_bytes(direction, bytes, end);
            if !new.is_empty() {
                inspector.stream(flow, facts, direction, new);
            }
        }
    }

    /// Notes the datagram whose transactions come next.
    pub(crate) fn datagram(&mut self, payload: &[u8]) {
        self.inspector.datagram(payload);
    }

    /// Notes that bytes of a stream before the sequence number `end` are missing.
    pub(crate) fn gap(&mut self, direction: Direction, end: u32) {
        if let Some((inspector, flow, facts)) = self.parts() {
            flow.new_bytes(direction, &[], end);
            inspector.gap(flow, facts, direction);
        }
    }

    /// Inspects the data that need not wait for more, after an event of this direction.
    pub(crate) fn turn(&mut self, direction: Direction) {
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.turn(flow, facts, direction);
        }
    }

    /// Ends the inspection of the payload of the flow in hand: what follows is encrypted.
    pub(crate) fn close(&mut self) {
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.close(flow, facts, Direction::ToServer);
            inspector.close(flow, facts, Direction::ToClient);
        }
    }

    /// Returns true if no rule wants more of a stream of the flow in hand.
    pub(crate) fn is_closed(&mut self, direction: Direction) -> bool {
        self.parts().is_none_or(|(_, flow, _)| flow.is_closed(direction))
    }

    /// Returns true if a rule inspects the buffer.
    #[inline]
    pub(crate) fn wants(&self, buffer: Buffer) -> bool {
        self.inspector.wants(buffer)
    }

    /// Returns true if a rule asks for facts about frames of HTTP/2.
    #[inline]
    pub(crate) fn wants_frames(&self) -> bool {
        self.inspector.engine().wants_frames()
    }

    pub(crate) fn buffer(&mut self, buffer: Buffer, bytes: &[u8]) {
        self.inspector.buffer(buffer, bytes);
    }

    pub(crate) fn fact(&mut self, fact: TransactionFact) {
        self.inspector.fact(fact);
    }

    pub(crate) fn transaction(&mut self, id: u64, direction: Direction, progress: Progress) {
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.transaction(flow, facts, id, direction, progress);
        }
    }

    pub(crate) fn body(&mut self, id: u64, direction: Direction, bytes: &[u8], is_end: bool) {
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.body(flow, facts, id, direction, bytes, is_end);
        }
    }

    /// Inspects what waits for more data in the flow in hand, before the flow ends.
    pub(crate) fn flush(&mut self) {
        if let Some((inspector, flow, facts)) = self.parts() {
            inspector.end(flow, facts);
        }
    }

    /// Forgets the flow in hand.
    pub(crate) fn end(&mut self) {
        let Some(place) =
            self.places.get_mut(self.index.get()).map(std::mem::take).filter(|place| *place > 0)
        else {
            return;
        };
        if let Some(state) = self.states.get_mut(place as usize - 1) {
            *state = FlowState::default();
        }
        self.free.push(place);
    }

    /// Returns the facts about the flow in hand.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns what an alert that was taken last has of the traffic.
    pub(crate) fn details(&self, alert: &Alert) -> [&[u8]; 3] {
        self.inspector.details(alert)
    }

    /// Takes an alert of the flow in hand.
    pub(crate) fn next_alert(&mut self) -> Option<Alert> {
        self.inspector.next_alert()
    }
}
