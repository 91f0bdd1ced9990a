//! Records: what a worker has to say about the traffic, typed. A record is plain data of fixed size, so
//! that a worker can write it into a recycled batch; turning it into text ([`eve`]) and hashing its
//! Community ID ([`community_id`]) are the sink thread's work.

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

/// VLAN identifiers of a packet, outermost first: 16 bits each from the lowest on, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlans(u64);

impl Vlans {
    /// How many tags are looked at; Suricata knows as many.
    pub const MAX: usize = 3;
    const COUNT: u32 = 48;

    /// No tags.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the identifier of a further tag; `false` where there are [`Vlans::MAX`] already.
    pub const fn push(&mut self, id: u16) -> bool {
        let there = self.len();
        if there == Self::MAX {
            return false;
        }
        self.0 += 1 << Self::COUNT | (id as u64) << (16 * there);
        true
    }

    /// How many tags there are.
    #[must_use]
    pub const fn len(self) -> usize {
        (self.0 >> Self::COUNT) as usize
    }

    /// Whether there are no tags.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All that tells them from others, as one number.
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// The tags that a number from [`Vlans::word`] stands for.
    #[cfg(test)]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The identifiers, outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> {
        (0..self.len()).map(move |index| (self.0 >> (16 * index)) as u16)
    }
}

/// Who talks to whom: what all records of one flow share. Source is the client as far as known.
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
    /// Server port; for ICMP the type of the answer.
    pub destination_port: u16,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// Whether the addresses are of IPv6; an IPv4-mapped IPv6 address is not IPv4.
    pub ipv6: bool,
    /// VLAN tags of the frames.
    pub vlans: Vlans,
    /// The mirror session; `None` for plain frames of a capture file.
    pub mirror: Option<Mirror>,
}

/// Where a flow stood in its life when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// Only one side was heard; TCP: the handshake was not finished.
    #[default]
    New,
    /// Both sides were heard; TCP: the handshake was finished.
    Established,
    /// TCP only: both sides closed, or one reset.
    Closed,
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// No packet came for as long as the flow's state allows.
    Timeout,
    /// The table was full and this flow was idle the longest.
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

/// What a TCP connection came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSummary {
    /// Flags of both sides, or-ed; the low byte of the header's flag field.
    pub flags: u8,
    /// Flags that the client sent.
    pub flags_to_server: u8,
    /// Flags that the server sent.
    pub flags_to_client: u8,
    /// State name as in RFC 9293, lower case; `None` where no connection was seen to begin.
    pub state: Option<&'static str>,
    /// Data from the client is missing.
    pub gap_to_server: bool,
    /// Data from the server is missing.
    pub gap_to_client: bool,
}

/// The application protocols of a flow, by Suricata's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// The flow's protocol: the first that was recognised in either direction; `failed` where data was
    /// looked at and not recognised.
    pub protocol: Option<&'static str>,
    /// What was spoken before that, where the two sides agreed to go on with something else.
    pub original: Option<&'static str>,
    /// What the client's data said, where that differs.
    pub to_server: Option<&'static str>,
    /// What the server's data said, where that differs.
    pub to_client: Option<&'static str>,
}

/// A flow that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// When it was ended, in nanoseconds since the epoch.
    pub time: u64,
    /// Whose flow it is.
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
    /// Why it ended.
    pub reason: EndReason,
    /// Whether it raised an alert.
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

/// What an analyzer has to say about a flow: packed bytes that become one or more events.
#[derive(Clone, Copy, Debug)]
pub struct EventRecord {
    /// When it was seen, in nanoseconds since the epoch.
    pub time: u64,
    /// Whose flow it is about.
    pub conversation: Conversation,
    /// What kind of event it becomes.
    pub event_type: &'static EventType,
    /// Where the batch has the packed bytes: position and length.
    pub bytes: (u32, u32),
}

impl EventRecord {
    /// What the event says of a request; `bytes` are those of the record's batch.
    #[must_use]
    pub fn measured(&self, bytes: &[u8]) -> Option<Measured> {
        (self.event_type.measure?)(self.packed(bytes))
    }

    /// The packed bytes, of those of the record's batch.
    #[must_use]
    pub fn packed<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let (start, len) = (self.bytes.0 as usize, self.bytes.1 as usize);
        bytes.get(start..start + len).unwrap_or_default()
    }
}

/// A kind of event that an analyzer emits. The analyzer packs what it knows into bytes, which costs the
/// packet path little; text is made of them on the sink's thread.
#[derive(Debug)]
pub struct EventType {
    /// The value of `event_type`, and the name of the object that has what is particular to the event.
    pub name: &'static str,
    render: Render,
    measure: Option<Measure>,
}

/// Writes the events that packed bytes stand for.
pub type Render = fn(&[u8], &mut eve::Lines<'_>) -> serde_json::Result<()>;

/// Says what packed bytes mean for the service that was asked; `None` where they are about no request.
pub type Measure = fn(&[u8]) -> Option<Measured>;

impl EventType {
    /// Events of this name, written by `render`.
    #[must_use]
    pub const fn new(name: &'static str, render: Render) -> Self {
        Self { name, render, measure: None }
    }

    /// Counts the events for the `metrics` of services, as `measure` says.
    #[must_use]
    pub const fn measured(self, measure: Measure) -> Self {
        Self { measure: Some(measure), ..self }
    }
}

/// Anything that a worker hands to the sinks.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "written in place into a batch that goes round")]
pub enum Record {
    /// A flow that ended.
    Flow(FlowRecord),
    /// What an analyzer emitted.
    Event(EventRecord),
}

/// The `event_type` of ended flows.
pub const FLOW: &str = "flow";
/// The `event_type` of counters.
pub const STATS: &str = "stats";

impl Record {
    /// When what it says was so, in nanoseconds since the epoch.
    #[must_use]
    pub const fn time(&self) -> u64 {
        match self {
            Self::Flow(flow) => flow.time,
            Self::Event(event) => event.time,
        }
    }

    /// The `event_type` of what the record becomes.
    #[must_use]
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Flow(_) => FLOW,
            Self::Event(event) => event.event_type.name,
        }
    }
}
