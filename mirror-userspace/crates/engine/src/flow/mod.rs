//! Flows: the state of one ([`Flow`]), its application data ([`data`]), and the bounded table that holds them
//! ([`table`]). The rules are Suricata's, so that records compare.

pub mod data;
pub mod table;

use mirror_packet::{
    Direction, FlowKey, FlowScope, MirrorSession, Packet, Segment, SessionKey, Source, Sources, TcpHeader,
    Transport, tcp_flags,
};
use mirror_protocols::dns;
use mirror_records::{EndReason, FlowRecord, FlowState, IcmpSummary};
use mirror_signatures::facts::Facts;
use mirror_xdp_common::filter::{ShuntKey, tuple_word};
use mirror_xdp_common::inner::has_ports;
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, Vni};

use crate::analyzer::{Analyzers, Cause, Context};
use crate::hooks::{ShuntId, Shunted};
use crate::meta::FlowMeta;
use crate::stream::Until;
use crate::tcp::Connection;
use data::Data;
pub use data::FlowContext;
pub use table::{FlowTable, Missing, Timeouts};

/// One flow and its state.
#[derive(Clone, Debug)]
pub struct Flow {
    head: FlowMeta,
    last: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    /// Bits of `Flow::…`.
    marks: u8,
    state: FlowState,
    icmp: [Option<(u8, u8)>; 2],
    /// The connection, from its first SYN on.
    connection: Option<Connection>,
    data: Data,
    /// Set while the driver counts the flow, and until its counts have been added.
    shunt: Option<ShuntId>,
}

impl Flow {
    /// Packets of this direction were seen, other than ICMP errors.
    const HEARD: [u8; 2] = [1, 2];
    const BOTH_HEARD: u8 = Self::HEARD[0] | Self::HEARD[1];
    /// The driver counts the flow, or did so before.
    const SHUNTED: u8 = 4;
    /// No other session has a flow of the same conversation.
    const UNITED: u8 = 8;
    /// The flow has raised an alert.
    const ALERTED: u8 = 16;
    /// At some time, no analyzer wanted more of the flow.
    const SETTLED: u8 = 32;
    /// Another session has a flow of the same conversation that began in the other direction.
    const HALF: u8 = 64;

    /// Creates the flow that begins with `packet`, which is not counted yet. `forward` is true if the packet
    /// goes from the key's lower to its higher endpoint.
    #[must_use]
    pub fn new(
        key: FlowKey,
        forward: bool,
        packet: &Packet<'_>,
        mirror: Option<MirrorSession>,
        now: u64,
    ) -> Self {
        let answer = match packet.transport {
            Transport::Udp { payload, missing } => is_dns_answer(packet, payload, missing > 0),
            Transport::Tcp(Segment { header, .. }) => mirror.is_some() && is_from_server(packet, header),
            _ => false,
        };
        // A mirror session may contain nothing else: sessions mirror one direction only if so configured, and
        // connections may be older than the capture. The sender of the response is then the server.
        let reversed = answer && mirror.is_some();
        let head = FlowMeta {
            key,
            client_is_low: forward != reversed,
            outer_destination: mirror.map_or(Address::default(), |mirror| mirror.outer_destination),
            sources: [None; 2],
            start: now,
        };
        let mut data = Data::default();
        if answer && !reversed {
            data.refuse();
        }
        Self {
            head,
            last: now,
            packets: [0; 2],
            bytes: [0; 2],
            marks: 0,
            state: FlowState::New,
            icmp: [None; 2],
            connection: None,
            data,
            shunt: None,
        }
    }

    /// Assigns the analyzers that want the flow from its first packet on.
    pub fn followed_by(&mut self, analyzers: &Analyzers, sources: &Sources, inspected: bool) {
        let mut following = analyzers.begin(|| self.head.conversation(sources));
        if inspected {
            following.begin_inspection(self.head.is_stream());
        }
        self.data.follow(following);
    }

    /// Turns a flow around whose first packet comes from the server, as far as that can be seen: its connection may be
    /// older than the capture. Only for flows of plain frames; those of mirror sessions are in any case.
    pub fn pick_up(&mut self, packet: &Packet<'_>) {
        if let Transport::Tcp(Segment { header, .. }) = packet.transport
            && is_from_server(packet, header)
        {
            self.head.client_is_low = !self.head.client_is_low;
        }
    }

    /// Notes the interface that mirrored a packet, if it is the first of its direction. Only for flows whose key
    /// names no interface.
    #[inline]
    pub fn came_by(&mut self, direction: Direction, mirror: Option<MirrorSession>, sources: &mut Sources) {
        let source = &mut self.head.sources[direction as usize];
        if source.is_none()
            && let Some(mirror) = mirror
        {
            *source = sources.number(Source::from(&mirror));
        }
    }

    /// Returns true if packets of this session and direction are those that the driver counts, once it counts the
    /// flow.
    #[must_use]
    pub(crate) fn is_counted_by(
        &self,
        direction: Direction,
        mirror: Option<MirrorSession>,
        sources: &Sources,
    ) -> bool {
        let session = SessionKey::from(mirror);
        match self.head.sources[direction as usize] {
            None => session == self.head.key.session,
            Some(number) => {
                session.vni() == self.head.key.session.vni()
                    && sources.get(number) == mirror.as_ref().map(Source::from)
            }
        }
    }

    /// Returns true if the two are halves of a conversation: `other`, of another session with the same VNI, has seen
    /// packets of one direction only, and this one begins with a packet of the other direction. `forward` as for
    /// [`Flow::new`].
    #[must_use]
    pub(crate) fn is_other_half_of(&self, other: &Self, forward: bool) -> bool {
        let (key, other_key) = (&self.head.key, &other.head.key);
        let anywhere = |key: &FlowKey| key.in_session(key.session.of_any_interface());
        let low_sends = |direction| (direction == Direction::ToServer) == other.head.client_is_low;
        let heard = |direction: Direction| other.marks & Self::HEARD[direction as usize] != 0;
        let opposite = match (heard(Direction::ToServer), heard(Direction::ToClient)) {
            (true, false) => low_sends(Direction::ToServer) != forward,
            (false, true) => low_sends(Direction::ToClient) != forward,
            _ => false,
        };
        opposite && key.session != other_key.session && anywhere(key) == anywhere(other_key)
    }

    /// Records that another session has a flow with the other direction of the conversation.
    pub(crate) const fn set_half(&mut self) {
        self.marks |= Self::HALF;
    }

    /// Returns the VNI of a flow that is half of a conversation of which another session has the other half.
    #[must_use]
    pub(crate) const fn half(&self) -> Option<Vni> {
        if self.marks & Self::HALF == 0 || self.are_both_heard() || self.is_united() {
            return None;
        }
        self.head.key.session.vni()
    }

    /// Returns the direction of a packet that matched the flow's key, `forward` as for [`Flow::new`].
    #[must_use]
    pub const fn direction(&self, forward: bool) -> Direction {
        if forward == self.head.client_is_low { Direction::ToServer } else { Direction::ToClient }
    }

    /// Returns the direction of an ICMP error about this flow.
    #[must_use]
    pub fn direction_of_error(&self, source: Address) -> Direction {
        if source == self.head.client().0 { Direction::ToServer } else { Direction::ToClient }
    }

    /// Counts a packet.
    pub fn count(&mut self, direction: Direction, packet: &Packet<'_>, now: u64) {
        self.last = self.last.max(now);
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += packet.len as u64;
        match packet.transport {
            Transport::Icmp { error: true, .. } => return,
            Transport::Icmp { kind, .. } => {
                self.icmp[direction as usize].get_or_insert(kind);
            }
            _ => {}
        }
        self.marks |= Self::HEARD[direction as usize];
        if !self.head.is_stream() && self.are_both_heard() {
            self.state = FlowState::Established;
        }
    }

    const fn are_both_heard(&self) -> bool {
        self.marks & Self::BOTH_HEARD == Self::BOTH_HEARD
    }

    /// Tracks the connection and the data of a packet that is already counted.
    #[inline]
    pub fn follow(&mut self, direction: Direction, packet: &Packet<'_>, tools: &mut FlowContext<'_>) {
        if tools.inspection.is_some() {
            return self.follow_inspected(direction, packet, tools);
        }
        self.follow_data(direction, packet, tools);
    }

    /// Does the same where there are rules.
    #[cold]
    #[inline(never)]
    fn follow_inspected(&mut self, direction: Direction, packet: &Packet<'_>, tools: &mut FlowContext<'_>) {
        self.turn_inspection(tools);
        self.follow_data(direction, packet, tools);
        self.inspect(direction, packet, tools);
    }

    fn follow_data(&mut self, direction: Direction, packet: &Packet<'_>, tools: &mut FlowContext<'_>) {
        let is_loose = self.head.key.session.is_mirrored() || tools.midstream;
        let Self { head, data, connection, marks, .. } = self;
        data.packet(head, direction, packet, tools);
        match &packet.transport {
            Transport::Udp { payload, missing } => {
                data.datagram(head, direction, payload, *missing > 0, tools);
            }
            Transport::Tcp(segment) => {
                match connection {
                    Some(connection) => {
                        if *marks & Self::SHUNTED != 0 {
                            connection.resume(direction, segment);
                        }
                        let is_opening = !connection.is_answered();
                        if is_opening && is_loose {
                            connection.catch_up(direction, segment);
                        }
                        connection.follow(direction, segment, tools.time);
                        if is_opening && connection.is_answered() {
                            data.answered(head, connection, segment, tools);
                        }
                    }
                    None => *connection = Connection::begin(segment, tools.time),
                }
                // Without a mirror session, Suricata's default applies: connections that began before the
                // capture are not tracked.
                if connection.is_none() && is_loose {
                    *connection = Connection::pick_up(direction, segment, tools.time);
                }
                if let Some(connection) = connection {
                    if is_analysed(head, connection, tools.midstream) {
                        data.segment(head, connection, direction, segment, tools);
                    } else if direction == Direction::ToServer {
                        data.hold(head, connection, segment, tools);
                    }
                    self.state = connection.flow_state();
                }
            }
            _ => {}
        }
    }

    /// Turns the rules to this flow, before its data.
    #[cold]
    fn turn_inspection(&self, tools: &mut FlowContext<'_>) {
        let facts = self.facts(tools.time);
        if let Some(inspection) = tools.inspection {
            inspection.turn_to(tools.index, facts);
            let (found, original, is_unknown) = self.data.detected();
            inspection.recognise(found, original, is_unknown);
        }
    }

    /// Inspects a packet by the rules, after its data.
    #[cold]
    fn inspect(&self, direction: Direction, packet: &Packet<'_>, tools: &mut FlowContext<'_>) {
        self.turn_inspection(tools);
        let is_loose = self.head.key.session.is_mirrored() || tools.midstream;
        let in_stream = match &packet.transport {
            Transport::Tcp(segment) => {
                !segment.has(tcp_flags::SYN)
                    && self.connection.as_ref().is_some_and(|connection| connection.is_answered() || is_loose)
            }
            _ => true,
        };
        // Such packets are inspected as those of no flow, where the frame is decoded.
        if packet.ipv6 && packet.transport == Transport::Ip {
            return;
        }
        let is_mirrored = self.head.key.session.is_mirrored();
        let FlowContext { inspection, records, time, alerted, .. } = tools;
        let Some(inspection) = inspection.as_deref_mut() else { return };
        // As in Suricata, a connection that is older than the capture is established behind its first packet.
        let is_first = self.packets.iter().sum::<u64>() == 1;
        if is_first && !is_mirrored && self.connection.as_ref().is_some_and(Connection::is_midstream) {
            let sent = inspection.facts().sent;
            inspection.connect(false, sent);
        }
        inspection.packet(direction, packet, in_stream);
        let (_, original, _) = self.data.detected();
        let mut context = Context::new(&self.head, *time, original, records, alerted);
        context.inspection = Some(inspection);
        context.raise();
    }

    /// Returns the facts about the flow that rules ask for.
    fn facts(&self, time: u64) -> Facts {
        let session = &self.head.key.session;
        let sent = |direction| self.connection.as_ref().map_or(0, |connection| connection.used(direction));
        Facts {
            time,
            flow: self.head.flow_id(),
            start: self.head.start,
            transport: self.head.key.protocol(),
            ipv6: self.head.key.ipv6(),
            ends: [self.head.client(), self.head.server()],
            is_established: self
                .connection
                .as_ref()
                .map_or_else(|| !self.head.is_stream() && self.are_both_heard(), Connection::is_established),
            vni: session.vni().map(Vni::get),
            session: session.vni().map(|_| session.outer_source),
            packets: self.packets,
            bytes: self.bytes,
            sent: [sent(Direction::ToServer), sent(Direction::ToClient)],
            ..Facts::default()
        }
    }

    /// Delivers the data that has waited long enough for what is missing.
    #[cold]
    pub(crate) fn settle(&mut self, tools: &mut FlowContext<'_>) {
        if tools.inspection.is_some() {
            self.turn_inspection(tools);
        }
        let Self { head, data, connection, .. } = self;
        if let Some(connection) = connection
            && is_analysed(head, connection, tools.midstream)
        {
            data.settle(head, connection, Until::Now(tools.time), tools);
        }
    }

    /// Returns true if the flow's packets need only be counted.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.data.is_settled(self.head.is_stream())
    }

    /// Returns true the first time that no analyzer wants more of the flow.
    pub(crate) fn settles(&mut self) -> bool {
        let settles = self.marks & Self::SETTLED == 0 && self.is_settled();
        if settles {
            self.marks |= Self::SETTLED;
        }
        settles
    }

    /// Returns true if the driver may count the rest of the flow: no analyzer wants more of it, it has had
    /// `after` bytes, and the driver can distinguish it from other flows.
    #[must_use]
    pub(crate) fn may_be_shunted(&self, after: u64) -> bool {
        let key = &self.head.key;
        !self.was_shunted()
            && self.bytes[0] + self.bytes[1] >= after
            && self.state == FlowState::Established
            && key.depth() == 0
            && key.vlans.is_empty()
            && has_ports(key.protocol())
            && self.is_settled()
    }

    /// Returns the driver's keys of the flow's two directions, or `None` if the flow was not mirrored.
    #[must_use]
    pub(crate) fn shunt_keys(&self, scope: FlowScope, sources: &Sources) -> Option<[ShuntKey; 2]> {
        let session = &self.head.key.session;
        let vni = session.vni()?;
        let (client, server) = (self.head.client(), self.head.server());
        let [of_client, of_server] = match scope {
            FlowScope::Interface => [Source { address: session.outer_source, endpoint: session.endpoint }; 2],
            FlowScope::Vni => {
                let [of_client, of_server] = self.head.sources.map(|number| sources.get(number?));
                [of_client?, of_server?]
            }
        };
        let ways = [(of_client, client, server), (of_server, server, client)];
        Some(ways.map(|(mirror, source, destination)| {
            [
                mirror.address.high,
                mirror.address.low,
                mirror.endpoint,
                source.0.high,
                source.0.low,
                destination.0.high,
                destination.0.low,
                tuple_word(vni, self.head.key.protocol(), source.1, destination.1),
            ]
        }))
    }

    /// Raises an alert about the flow.
    pub(crate) fn alert(&self, cause: Cause, about: &[u8], tools: &mut FlowContext<'_>) {
        let FlowContext { records, time, alerted, .. } = tools;
        Context::new(&self.head, *time, None, records, alerted).alert(cause, about);
    }

    /// Records that the flow has raised an alert.
    pub(crate) const fn set_alerted(&mut self) {
        self.marks |= Self::ALERTED;
    }

    /// Returns the flow's identifier in records.
    pub(crate) fn id(&self) -> u64 {
        self.head.flow_id()
    }

    /// Returns the flow's place among those that a tick ends together: by age.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.head.start, self.id())
    }

    /// Returns the flow's key.
    pub(crate) const fn key(&self) -> &FlowKey {
        &self.head.key
    }

    /// Records that the driver counts the flow from now on.
    pub(crate) const fn set_shunted(&mut self, id: ShuntId) {
        self.shunt = Some(id);
        self.marks |= Self::SHUNTED;
    }

    /// Returns the flow's identifier in the driver until all its counts have been added.
    #[must_use]
    pub(crate) const fn shunted(&self) -> Option<ShuntId> {
        self.shunt
    }

    /// Extends the flow's end to `time`. Returns true if that is later than before.
    pub(crate) const fn seen_until(&mut self, time: u64) -> bool {
        let news = time > self.last;
        if news {
            self.last = time;
        }
        news
    }

    /// Adds the driver's counts of the two directions.
    pub(crate) fn add_shunted(&mut self, counted: [Shunted; 2]) {
        self.shunt = None;
        for (way, counted) in counted.into_iter().enumerate() {
            self.packets[way] += counted.packets;
            self.bytes[way] += counted.bytes;
            if counted.packets > 0 {
                self.seen_until(counted.last);
            }
        }
    }

    /// Returns the flow's mirror session.
    #[must_use]
    pub(crate) const fn session(&self) -> SessionKey {
        self.head.key.session
    }

    /// Returns true if it is known that no other session has a flow of the same conversation.
    #[must_use]
    pub(crate) const fn is_united(&self) -> bool {
        self.marks & Self::UNITED != 0
    }

    /// Records that no other session has a flow of the same conversation.
    pub(crate) const fn set_united(&mut self) {
        self.marks |= Self::UNITED;
    }

    /// Returns true if the driver counts, or counted, packets of the flow.
    #[must_use]
    pub(crate) const fn was_shunted(&self) -> bool {
        self.marks & Self::SHUNTED != 0
    }

    /// Returns the rank of a flow among those of one conversation: by packets, then by age.
    #[must_use]
    pub(crate) fn weight(&self) -> impl Ord + use<> {
        (self.packets[0] + self.packets[1], std::cmp::Reverse(self.head.start))
    }

    /// Adds the counts of another flow of the same conversation.
    pub(crate) fn add_part(&mut self, part: &Self) {
        let same = self.head.client_is_low == part.head.client_is_low;
        for (way, other) in [0, 1].into_iter().zip(if same { [0, 1] } else { [1, 0] }) {
            self.packets[way] += part.packets[other];
            self.bytes[way] += part.bytes[other];
            self.marks |= part.marks & Self::ALERTED;
            if part.marks & Self::HEARD[other] != 0 {
                self.marks |= Self::HEARD[way];
            }
            self.icmp[way] = self.icmp[way].or(part.icmp[other]);
            self.head.sources[way] = self.head.sources[way].or(part.head.sources[other]);
        }
        self.last = self.last.max(part.last);
        if !self.head.is_stream() {
            if self.are_both_heard() {
                self.state = FlowState::Established;
            }
        } else if self.connection.is_none() && same {
            self.connection = part.connection;
            self.state = part.state;
        }
    }

    /// Ends the flow for its analyzers, and releases the buffers of the worker that it holds.
    pub fn end(&mut self, tools: &mut FlowContext<'_>) {
        if tools.inspection.is_some() {
            self.turn_inspection(tools);
        }
        let Self { head, data, connection, .. } = self;
        if connection.as_ref().is_some_and(|connection| !is_analysed(head, connection, tools.midstream)) {
            data.drop_held(head, tools);
        }
        data.end(head, connection.as_mut(), tools);
    }

    /// Returns true if a SYN begins a new connection between the same endpoints.
    #[must_use]
    pub fn is_reused_by(&self, direction: Direction, segment: &Segment<'_>) -> bool {
        segment.header.begins_connection()
            && self.connection.as_ref().is_none_or(|connection| connection.is_reused_by(direction, segment))
    }

    const fn class(&self) -> table::Class {
        match (self.head.key.protocol(), self.state) {
            (protocol::TCP, FlowState::New) => table::Class::TcpNew,
            (protocol::TCP, FlowState::Established) => table::Class::TcpEstablished,
            (_, FlowState::Closed) => table::Class::TcpClosed,
            (_, FlowState::New) => table::Class::New,
            (_, FlowState::Established) => table::Class::Established,
        }
    }

    /// Returns the record of the flow's end.
    #[must_use]
    pub fn record(&self, reason: EndReason, now: u64, sources: &Sources) -> FlowRecord {
        let conversation = self.head.conversation(sources);
        let protocol = conversation.protocol;
        FlowRecord {
            time: now,
            conversation,
            application: self.data.application(),
            packets: self.packets,
            bytes: self.bytes,
            start: self.head.start,
            end: self.last,
            state: self.state,
            reason,
            alerted: self.marks & Self::ALERTED != 0,
            icmp: self.icmp[0].map(|request| IcmpSummary { request, response: self.icmp[1] }),
            spi: (protocol == protocol::ESP).then(|| self.head.key.spi()),
            tcp: (protocol == protocol::TCP)
                .then(|| self.connection.as_ref().map(Connection::summary).unwrap_or_default()),
            performance: self.connection.as_ref().and_then(Connection::performance),
            relay: (0, 0),
        }
    }
}

/// Returns true if the data of a connection is analysed. Without a mirror session, Suricata's rule applies: without an
/// answer there is no connection.
fn is_analysed(head: &FlowMeta, connection: &Connection, midstream: bool) -> bool {
    connection.is_answered() || midstream || head.key.session.is_mirrored()
}

/// Returns true if the first observed segment of a connection comes from its server: it answers a SYN, or
/// comes from a well-known port.
const fn is_from_server(packet: &Packet<'_>, header: &TcpHeader) -> bool {
    const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
    const SERVERS: u16 = 1024;
    match header.flags() & SYN_ACK {
        SYN_ACK => true,
        tcp_flags::SYN => false,
        _ => packet.source_port < SERVERS && packet.destination_port >= SERVERS,
    }
}

/// Returns true if a datagram is a DNS server's response to a client port. The rest of it may be cut off.
fn is_dns_answer(packet: &Packet<'_>, payload: &[u8], is_cut: bool) -> bool {
    const DNS_PORT: u16 = 53;
    packet.source_port == DNS_PORT
        && packet.destination_port != DNS_PORT
        && dns::Message::parse_captured(payload, is_cut).is_ok_and(|message| message.header().is_response())
}
