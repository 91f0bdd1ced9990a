//! Flows: which packets belong together ([`key`]), the bounded table that holds them ([`table`]), and
//! what is followed of a TCP connection ([`tcp`]). The rules are Suricata's, so that records compare.

pub mod key;
pub mod table;
pub mod tcp;

pub use key::{FlowKey, Session};
pub use table::{FlowTable, Insert};

use mirror_xdp_common::Address;
use mirror_xdp_common::hash::flow_hash;
use mirror_xdp_common::wire::protocol;

use crate::packet::{Packet, Transport};
use crate::record::{Application, Conversation, EndReason, FlowRecord, FlowState, IcmpSummary};
use crate::worker::Mirror;
use tcp::Connection;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Which side of a flow a packet comes from. The client is who sent the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Direction {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// What is known of one flow.
#[derive(Clone, Debug)]
pub struct Flow {
    key: FlowKey,
    /// Whether the client is the key's lower endpoint.
    client_is_low: bool,
    outer_destination: Address,
    id: u64,
    start: u64,
    last: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    /// Directions that were heard, ICMP errors left aside.
    heard: [bool; 2],
    state: FlowState,
    icmp: [Option<(u8, u8)>; 2],
    /// The connection, from its first SYN on.
    pub connection: Option<Connection>,
}

impl Flow {
    /// The flow that begins with `packet`; nothing is counted yet.
    #[must_use]
    pub fn new(key: FlowKey, forward: bool, packet: &Packet<'_>, mirror: Option<Mirror>, now: u64) -> Self {
        Self {
            key,
            client_is_low: forward,
            outer_destination: mirror.map_or(Address::default(), |mirror| mirror.outer_destination),
            id: flow_id(&key, now),
            start: now,
            last: now,
            packets: [0; 2],
            bytes: [0; 2],
            heard: [false; 2],
            state: FlowState::New,
            icmp: [
                match packet.transport {
                    Transport::Icmp { kind, .. } => Some(kind),
                    _ => None,
                },
                None,
            ],
            connection: None,
        }
    }

    /// The direction of a packet that matched the flow's key, forward or not.
    #[must_use]
    pub const fn direction(&self, forward: bool) -> Direction {
        if forward == self.client_is_low { Direction::ToServer } else { Direction::ToClient }
    }

    /// The direction of an ICMP error about this flow.
    #[must_use]
    pub fn direction_of_error(&self, source: Address) -> Direction {
        if source == self.client().0 { Direction::ToServer } else { Direction::ToClient }
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
        self.heard[direction as usize] = true;
        if self.connection.is_none() && self.key.protocol != protocol::TCP && self.heard == [true; 2] {
            self.state = FlowState::Established;
        }
    }

    /// Follows a TCP segment: the connection begins with a SYN.
    pub fn follow(&mut self, direction: Direction, segment: &tcp::Segment<'_>) {
        match &mut self.connection {
            Some(connection) => connection.follow(direction, segment),
            None => self.connection = Connection::begin(segment),
        }
        if let Some(connection) = &self.connection {
            self.state = connection.flow_state();
        }
    }

    /// Whether a segment begins a new connection between the same endpoints.
    #[must_use]
    pub fn is_reused_by(&self, direction: Direction, segment: &tcp::Segment<'_>) -> bool {
        segment.begins_connection()
            && self.connection.as_ref().is_none_or(|connection| connection.is_reused_by(direction, segment))
    }

    const fn class(&self) -> table::Class {
        match (self.key.protocol, self.state) {
            (protocol::TCP, FlowState::New) => table::Class::TcpNew,
            (protocol::TCP, FlowState::Established) => table::Class::TcpEstablished,
            (_, FlowState::Closed) => table::Class::TcpClosed,
            (_, FlowState::New) => table::Class::New,
            (_, FlowState::Established) => table::Class::Established,
        }
    }

    const fn client(&self) -> (Address, u16) {
        if self.client_is_low { self.key.low } else { self.key.high }
    }

    const fn server(&self) -> (Address, u16) {
        if self.client_is_low { self.key.high } else { self.key.low }
    }

    /// What all records of this flow share.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        let (source, source_port) = self.client();
        let (destination, destination_port) = self.server();
        Conversation {
            flow_id: self.id,
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.key.protocol,
            ipv6: self.key.ipv6,
            vlans: self.key.vlans,
            mirror: self.key.session.vni.map(|vni| Mirror {
                vni,
                outer_source: self.key.session.outer_source,
                outer_destination: self.outer_destination,
            }),
        }
    }

    /// The record of the flow's end.
    #[must_use]
    pub fn record(&self, reason: EndReason, now: u64) -> FlowRecord {
        let mut conversation = self.conversation();
        let icmp = self.icmp[0].map(|request| IcmpSummary { request, response: self.icmp[1] });
        if self.key.protocol == protocol::ICMP || self.key.protocol == protocol::ICMPV6 {
            (conversation.source_port, conversation.destination_port) =
                (conversation.source_port & 0xff, conversation.destination_port & 0xff);
        }
        FlowRecord {
            time: now,
            conversation,
            application: Application::default(),
            packets: self.packets,
            bytes: self.bytes,
            start: self.start,
            end: self.last,
            state: self.state,
            reason,
            icmp,
            spi: (self.key.protocol == protocol::ESP).then(|| self.key.spi()),
            tcp: (self.key.protocol == protocol::TCP)
                .then(|| self.connection.as_ref().map(Connection::summary).unwrap_or_default()),
        }
    }
}

/// An identifier of 51 bits: the same for the same flow in every run.
fn flow_id(key: &FlowKey, start: u64) -> u64 {
    let (low, high) = (key.low, key.high);
    let session = u64::from(key.session.vni.map_or(u32::MAX, mirror_xdp_common::Vni::get)) << 32
        ^ key.session.outer_source.low
        ^ key.vlans.as_slice().iter().fold(0, |state, &id| state << 12 | u64::from(id));
    let hash = |seed| u64::from(flow_hash(seed, low.0, low.1, high.0, high.1, key.protocol).0);
    (hash(start) << 32 | hash(!start ^ session)) & ((1 << 51) - 1)
}
