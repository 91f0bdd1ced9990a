//! Flows: which packets belong together ([`key`]), the bounded table that holds them ([`table`]), and
//! what is followed of a TCP connection ([`tcp`], [`performance`]). The rules are Suricata's, so that records compare.

pub mod data;
pub mod key;
pub mod performance;
pub mod stream;
pub mod table;
pub mod tcp;

pub use data::Tools;
pub use key::{FlowKey, FlowKeyHasher, KeyHash, Session};
pub use table::{FlowIndex, FlowTable, Missing, Timeouts};

use mirror_xdp_common::Address;
use mirror_xdp_common::filter::{ShuntKey, tuple_word};
use mirror_xdp_common::inner::has_ports;
use mirror_xdp_common::wire::protocol;

use crate::analyzer::{Analyzers, Cause, Context};
use crate::datapath::shunt::{ShuntId, Shunted};
use crate::packet::{Packet, Segment, TcpHeader, Transport, tcp_flags};
pub use crate::protocol::Direction;
use crate::protocol::detect::Endpoints;
use crate::protocol::dns;
use crate::record::{Conversation, EndReason, FlowRecord, FlowState, IcmpSummary};
use crate::worker::Mirror;
use data::Data;
use tcp::Connection;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Whose flow it is: what does not change with its packets.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    key: FlowKey,
    /// Whether the client is the key's lower endpoint.
    client_is_low: bool,
    outer_destination: Address,
    /// Time of the first packet, in nanoseconds since the epoch.
    start: u64,
}

impl Head {
    const fn client(&self) -> (Address, u16) {
        if self.client_is_low { self.key.low() } else { self.key.high() }
    }

    const fn server(&self) -> (Address, u16) {
        if self.client_is_low { self.key.high() } else { self.key.low() }
    }

    /// Whether the flow is one of TCP.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.key.protocol() == protocol::TCP
    }

    /// Whose bytes a direction of the flow at `flow` in the table has.
    pub(crate) const fn owner(&self, flow: FlowIndex, direction: Direction) -> stream::Owner<'_> {
        let low_sends = matches!(direction, Direction::ToServer) == self.client_is_low;
        stream::Owner { flow, direction, key: &self.key, low_sends }
    }

    fn endpoints(&self) -> Endpoints {
        data::endpoints(self.key.protocol(), self.client().1, self.server().1)
    }

    /// What all records of this flow share.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        let (source, mut source_port) = self.client();
        let (destination, mut destination_port) = self.server();
        match self.key.protocol() {
            // What Suricata hashes into the Community ID.
            protocol::ESP => (source_port, destination_port) = (self.key.spi() as u16, 0),
            // The key of ICMPv6 has the code in the high byte.
            protocol::ICMP | protocol::ICMPV6 => {
                (source_port, destination_port) = (source_port & 0xff, destination_port & 0xff);
            }
            _ => {}
        }
        Conversation {
            flow_id: flow_id(&self.key, self.start),
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.key.protocol(),
            ipv6: self.key.ipv6(),
            vlans: self.key.vlans,
            mirror: self.key.session.vni().map(|vni| Mirror {
                vni,
                outer_source: self.key.session.outer_source,
                outer_destination: self.outer_destination,
                endpoint: self.key.session.endpoint,
            }),
        }
    }
}

/// What is known of one flow.
#[derive(Clone, Debug)]
pub struct Flow {
    head: Head,
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
    /// The driver counts the flow, or did so and has not told yet what.
    shunt: Option<ShuntId>,
}

impl Flow {
    /// A direction was heard, ICMP errors left aside.
    const HEARD: [u8; 2] = [1, 2];
    const BOTH_HEARD: u8 = Self::HEARD[0] | Self::HEARD[1];
    /// The driver counts the flow, or did.
    const SHUNTED: u8 = 4;
    /// No other session has a flow of the same conversation.
    const UNITED: u8 = 8;
    /// It has raised an alert.
    const ALERTED: u8 = 16;
    /// Nobody wanted more of it, at some time.
    const SETTLED: u8 = 32;

    /// The flow that begins with `packet`, which is not counted yet. `forward` says that the packet goes
    /// from the key's lower to its higher endpoint.
    #[must_use]
    pub fn new(key: FlowKey, forward: bool, packet: &Packet<'_>, mirror: Option<Mirror>, now: u64) -> Self {
        let answer = match packet.transport {
            Transport::Udp { payload } => is_dns_answer(packet, payload),
            Transport::Tcp(Segment { header, .. }) => mirror.is_some() && is_from_server(packet, header),
            _ => false,
        };
        // Of a mirror session that is all there may be: sessions mirror one direction only where they are
        // told to, and connections are older than captures. Then the server is who answers.
        let reversed = answer && mirror.is_some();
        let head = Head {
            key,
            client_is_low: forward != reversed,
            outer_destination: mirror.map_or(Address::default(), |mirror| mirror.outer_destination),
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

    /// Lets those of the analyzers follow the flow that want it from its first packet on.
    pub fn followed_by(&mut self, analyzers: &Analyzers) {
        self.data.follow(analyzers.begin(|| self.head.conversation()));
    }

    /// The direction of a packet that matched the flow's key, forward or not.
    #[must_use]
    pub const fn direction(&self, forward: bool) -> Direction {
        if forward == self.head.client_is_low { Direction::ToServer } else { Direction::ToClient }
    }

    /// The direction of an ICMP error about this flow.
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

    /// Follows the connection and the data of a packet that was counted.
    pub fn follow(&mut self, direction: Direction, packet: &Packet<'_>, tools: &mut Tools<'_>) {
        let Self { head, data, connection, marks, .. } = self;
        data.packet(head, direction, packet, tools);
        match &packet.transport {
            Transport::Udp { payload } => data.datagram(head, direction, payload, tools),
            Transport::Tcp(segment) => {
                match connection {
                    Some(connection) => {
                        if *marks & Self::SHUNTED != 0 {
                            connection.resume(direction, segment);
                        }
                        connection.follow(direction, segment, tools.time);
                    }
                    None => *connection = Connection::begin(segment, tools.time),
                }
                // Without a mirror, Suricata's default: connections that are older than the capture are not
                // followed.
                if connection.is_none() && head.key.session.is_mirrored() {
                    *connection = Connection::pick_up(direction, segment, tools.time);
                }
                if let Some(connection) = connection {
                    // Without a mirror, Suricata's rule: whom nobody answers has no connection.
                    if connection.is_answered() || head.key.session.is_mirrored() {
                        data.segment(head, connection, direction, segment, tools);
                    }
                    self.state = connection.flow_state();
                }
            }
            _ => {}
        }
    }

    /// Whether nobody wants more of the flow than that its packets are counted.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.data.is_settled(self.head.is_stream())
    }

    /// Whether this is the first time that nobody wants more.
    pub(crate) fn settles(&mut self) -> bool {
        let settles = self.marks & Self::SETTLED == 0 && self.is_settled();
        if settles {
            self.marks |= Self::SETTLED;
        }
        settles
    }

    /// Whether the driver may count the rest of the flow: nobody wants more of it, it has had so many
    /// bytes, and it is one that the driver can tell from others.
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

    /// What the driver knows the flow's two directions by; `None` of a flow that was not mirrored.
    #[must_use]
    pub(crate) fn shunt_keys(&self) -> Option<[ShuntKey; 2]> {
        let session = &self.head.key.session;
        let vni = session.vni()?;
        let (client, server) = (self.head.client(), self.head.server());
        Some([(client, server), (server, client)].map(|(source, destination)| {
            [
                session.outer_source.high,
                session.outer_source.low,
                session.endpoint,
                source.0.high,
                source.0.low,
                destination.0.high,
                destination.0.low,
                tuple_word(vni, self.head.key.protocol(), source.1, destination.1),
            ]
        }))
    }

    /// Raises an alert about the flow.
    pub(crate) fn alert(&self, cause: Cause, about: &[u8], tools: &mut Tools<'_>) {
        let Tools { records, time, alerted, .. } = tools;
        Context::new(&self.head, *time, None, records, alerted).alert(cause, about);
    }

    /// Notes that the flow has raised an alert.
    pub(crate) const fn set_alerted(&mut self) {
        self.marks |= Self::ALERTED;
    }

    /// What tells the flow from others.
    pub(crate) const fn key(&self) -> &FlowKey {
        &self.head.key
    }

    /// Notes that the driver counts the flow from now on.
    pub(crate) const fn set_shunted(&mut self, id: ShuntId) {
        self.shunt = Some(id);
        self.marks |= Self::SHUNTED;
    }

    /// The flow's number in the driver, as long as its counts are not all here.
    #[must_use]
    pub(crate) const fn shunted(&self) -> Option<ShuntId> {
        self.shunt
    }

    /// Notes that the flow had a packet at this time, if that is news.
    pub(crate) const fn seen_until(&mut self, time: u64) -> bool {
        let news = time > self.last;
        if news {
            self.last = time;
        }
        news
    }

    /// Adds what the driver counted of the two directions.
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

    /// The mirror session whose flow it is.
    #[must_use]
    pub(crate) const fn session(&self) -> Session {
        self.head.key.session
    }

    /// Whether it is known that no other session has a flow of the same conversation.
    #[must_use]
    pub(crate) const fn is_united(&self) -> bool {
        self.marks & Self::UNITED != 0
    }

    /// Notes that no other session has a flow of the same conversation.
    pub(crate) const fn set_united(&mut self) {
        self.marks |= Self::UNITED;
    }

    /// Whether the driver counts, or counted, packets of the flow.
    #[must_use]
    pub(crate) const fn was_shunted(&self) -> bool {
        self.marks & Self::SHUNTED != 0
    }

    /// By what the better of two flows of one conversation is found: packets, then age.
    #[must_use]
    pub(crate) fn weight(&self) -> impl Ord + use<> {
        (self.packets[0] + self.packets[1], std::cmp::Reverse(self.head.start))
    }

    /// Adds what another flow has seen of the same conversation.
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

    /// Tells the analyzers that the flow ended, and gives back what it holds of the worker's buffers.
    pub fn end(&mut self, tools: &mut Tools<'_>) {
        self.data.end(&self.head, self.connection.as_mut(), tools);
    }

    /// Whether a SYN begins a new connection between the same endpoints.
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

    /// The record of the flow's end.
    #[must_use]
    pub fn record(&self, reason: EndReason, now: u64) -> FlowRecord {
        let conversation = self.head.conversation();
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
        }
    }
}

/// Whether the first segment that was seen of a connection comes from its server: it answers a SYN, or
/// comes from one of the ports that are kept for servers.
const fn is_from_server(packet: &Packet<'_>, header: &TcpHeader) -> bool {
    const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
    const SERVERS: u16 = 1024;
    match header.flags() & SYN_ACK {
        SYN_ACK => true,
        tcp_flags::SYN => false,
        _ => packet.source_port < SERVERS && packet.destination_port >= SERVERS,
    }
}

/// Whether a datagram is the answer of a DNS server to somebody who is none.
fn is_dns_answer(packet: &Packet<'_>, payload: &[u8]) -> bool {
    const DNS_PORT: u16 = 53;
    packet.source_port == DNS_PORT
        && packet.destination_port != DNS_PORT
        && dns::Message::parse(payload).is_ok_and(|message| message.header().is_response())
}

/// An identifier of 51 bits: the same for the same flow in every run.
fn flow_id(key: &FlowKey, start: u64) -> u64 {
    const HASHER: FlowKeyHasher = FlowKeyHasher::new(0);
    HASHER.identifier(key, start) & ((1 << 51) - 1)
}
