//! Records: a worker's typed output about the traffic. A record is plain data of fixed size, so that a worker
//! can write it into a recycled batch. The sink thread renders it as text ([`eve`]) and hashes its Community
//! ID ([`community_id`]).

pub mod community_id;
pub mod eve;
mod json;
pub mod pack;
pub(crate) mod text;

pub use community_id::{CommunityId, NoCommunityId};

use mirror_xdp_common::Address;

use crate::apm::Measured;
use crate::flow::performance;
use crate::worker::Mirror;

/// VLAN identifiers of a packet, outermost first: 16 bits each from the lowest on, followed by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlans(u64);

impl Vlans {
    /// Maximum number of tags, the same as in Suricata.
    pub const MAX: usize = 3;
    const COUNT: u32 = 48;

    /// Returns no tags.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the identifier of a further tag. Returns `false` if there are [`Vlans::MAX`] already.
    pub const fn push(&mut self, id: u16) -> bool {
        let there = self.len();
        if there == Self::MAX {
            return false;
        }
        self.0 += 1 << Self::COUNT | (id as u64) << (16 * there);
        true
    }

    /// Returns the number of tags.
    #[must_use]
    pub const fn len(self) -> usize {
        (self.0 >> Self::COUNT) as usize
    }

    /// Returns true if there are no tags.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the tags as one number, different for different tags.
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// Returns the tags for a number from [`Vlans::word`].
    #[cfg(test)]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Returns the identifiers, outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> {
        (0..self.len()).map(move |index| (self.0 >> (16 * index)) as u16)
    }
}

/// The endpoints of a flow and its other fields that all its records share. Source is the client as far as
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Identifies the flow in all its records; below 2⁵¹, so that JSON readers keep it exact.
    pub flow_id: u64,
    /// Client address.
    pub source: Address,
    /// Server address.
    pub destination: Address,
    /// Client port; for ICMP the type of the first message.
    pub source_port: u16,
    /// Server port; for ICMP the type of the reply.
    pub destination_port: u16,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// True if the addresses are IPv6. An IPv4-mapped IPv6 address is not IPv4.
    pub ipv6: bool,
    /// VLAN tags of the frames.
    pub vlans: Vlans,
    /// The mirror session; `None` for plain frames of a capture file.
    pub mirror: Option<Mirror>,
}

/// The state of a flow at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// Only one side was seen; TCP: the handshake was not finished.
    #[default]
    New,
    /// Both sides were seen; TCP: the handshake was finished.
    Established,
    /// TCP only: both sides closed, or one reset.
    Closed,
}

/// The reason for a flow's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// No packet came for the timeout of the flow's state.
    Timeout,
    /// The table was full and this flow was idle for the longest.
    Forced,
    /// The capture ended.
    Shutdown,
}

/// Type and code of ICMP messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpSummary {
    /// Type and code of the first message.
    pub request: (u8, u8),
    /// Type and code of the first message of the other side.
    pub response: Option<(u8, u8)>,
}

/// The summary of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSummary {
    /// Flags of both sides, OR-ed; the low byte of the header's flag field.
    pub flags: u8,
    /// Flags that the client sent.
    pub flags_to_server: u8,
    /// Flags that the server sent.
    pub flags_to_client: u8,
    /// State name as in RFC 9293, lower case; `None` if no connection was tracked.
    pub state: Option<&'static str>,
    /// Data from the client is missing.
    pub gap_to_server: bool,
    /// Data from the server is missing.
    pub gap_to_client: bool,
}

/// The application protocols of a flow, by Suricata's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// The flow's protocol: the first that was recognised in either direction; `failed` if detection failed.
    pub protocol: Option<&'static str>,
    /// The protocol before the two sides switched to another one.
    pub original: Option<&'static str>,
    /// The protocol of the client's data, if that differs.
    pub to_server: Option<&'static str>,
    /// The protocol of the server's data, if that differs.
    pub to_client: Option<&'static str>,
}

/// A flow that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Time of the record, in nanoseconds since the epoch.
    pub time: u64,
    /// The flow's shared fields.
    pub conversation: Conversation,
    /// Application protocols.
    pub application: Application,
    /// Packets from client and server.
    pub packets: [u64; 2],
    /// Bytes from client and server, frame headers included.
    pub bytes: [u64; 2],
    /// Time of the first packet, nanoseconds since the epoch.
    pub start: u64,
    /// Time of the last packet, nanoseconds since the epoch.
    pub end: u64,
    /// State at the end.
    pub state: FlowState,
    /// Reason for the end.
    pub reason: EndReason,
    /// True if the flow raised an alert.
    pub alerted: bool,
    /// ICMP and `ICMPv6` only.
    pub icmp: Option<IcmpSummary>,
    /// ESP only: the security parameters index.
    pub spi: Option<u32>,
    /// TCP only.
    pub tcp: Option<TcpSummary>,
    /// TCP connections whose handshake was seen.
    pub performance: Option<performance::Summary>,
}

/// An analyzer's output about a flow: packed bytes that become one or more events.
#[derive(Clone, Copy, Debug)]
pub struct EventRecord {
    /// Time of the event, in nanoseconds since the epoch.
    pub time: u64,
    /// The shared fields of the event's flow.
    pub conversation: Conversation,
    /// The type of the events.
    pub event_type: &'static EventType,
    /// Position and length of the packed bytes in the batch.
    pub bytes: (u32, u32),
}

impl EventRecord {
    /// Returns the event's measurement of a request. `bytes` are those of the record's batch.
    #[must_use]
    pub fn measured(&self, bytes: &[u8]) -> Option<Measured> {
        (self.event_type.measure?)(self.packed(bytes))
    }

    /// Returns the packed bytes, out of those of the record's batch.
    #[must_use]
    pub fn packed<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let (start, len) = (self.bytes.0 as usize, self.bytes.1 as usize);
        bytes.get(start..start + len).unwrap_or_default()
    }
}

/// A type of event that an analyzer emits. The analyzer packs its values into bytes, which costs the packet
/// path little. The sink's thread renders them as text.
#[derive(Debug)]
pub struct EventType {
    /// The value of `event_type`, and the name of the object with the event's details.
    pub name: &'static str,
    render: Render,
    measure: Option<Measure>,
}

/// A function that writes the events of packed bytes.
pub type Render = fn(&[u8], &mut eve::Lines<'_>) -> serde_json::Result<()>;

/// A function that returns what packed bytes mean for the requested service; `None` if they are about no
/// request.
pub type Measure = fn(&[u8]) -> Option<Measured>;

impl EventType {
    /// Creates a type of events with this name, written by `render`.
    #[must_use]
    pub const fn new(name: &'static str, render: Render) -> Self {
        Self { name, render, measure: None }
    }

    /// Counts the events in the `metrics` of services, as measured by `measure`.
    #[must_use]
    pub const fn measured(self, measure: Measure) -> Self {
        Self { measure: Some(measure), ..self }
    }
}

/// A record that a worker hands to the sinks.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "written in place into a batch that goes round")]
pub enum Record {
    /// A flow that ended.
    Flow(FlowRecord),
    /// An event that an analyzer emitted.
    Event(EventRecord),
}

/// The `event_type` of ended flows.
pub const FLOW: &str = "flow";
/// The `event_type` of counters.
pub const STATS: &str = "stats";

impl Record {
    /// Returns the time of the record, in nanoseconds since the epoch.
    #[must_use]
    pub const fn time(&self) -> u64 {
        match self {
            Self::Flow(flow) => flow.time,
            Self::Event(event) => event.time,
        }
    }

    /// Returns the `event_type` of the record's events.
    #[must_use]
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Flow(_) => FLOW,
            Self::Event(event) => event.event_type.name,
        }
    }
}
