//! Records: a worker's typed output about the traffic. A record is plain data of fixed size, so that a worker
//! can write it into a recycled batch. The sink thread renders it as text ([`eve`]), hashes its Community ID,
//! measures services ([`apm`]), adds the names of sessions and hosts ([`names`]), and writes the lines ([`sink`]).
//!
//! This crate uses `mirror-packet`, `mirror-protocols` and `mirror-base`. It knows no flow table and no analyzer.
//!
//! ```
//! use mirror_records::sink::{Overflow, Sink};
//!
//! # let directory = tempfile::tempdir()?;
//! let sink = Sink::open(directory.path())?;
//! let mut producer = sink.producer(Overflow::Wait);
//! // A worker pushes records here.
//! producer.flush();
//! drop(producer);
//! sink.finish();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod apm;
pub mod eve;
mod json;
pub mod names;
pub mod sink;
mod timestamp;

pub use mirror_packet::Conversation;
use mirror_packet::Direction;
use mirror_protocols::eve::{EveEvent, Unpacker};

use apm::Measured;

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
    pub performance: Option<PerformanceSummary>,
    /// Position and length of the packed preambles in the batch, which the producer appends.
    pub relay: (u32, u32),
}

/// The measured performance of a connection. Times are in microseconds; arrays hold client and server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerformanceSummary {
    /// Retransmitted segments with data.
    pub retransmissions: [u32; 2],
    /// Segments that arrived after later ones.
    pub out_of_order: [u32; 2],
    /// Acknowledgements that repeat the previous one while data is outstanding.
    pub duplicate_acks: [u32; 2],
    /// Number of times that a side closed its receive window.
    pub zero_windows: [u32; 2],
    /// Bytes that a side sent and that arrived, but were not seen here: the mirror lost them.
    pub gap_bytes: [u32; 2],
    /// Time that each side took to answer in the handshake.
    pub handshake: [Option<u32>; 2],
    /// Minimum time that each side took to acknowledge data.
    pub rtt_min: [Option<u32>; 2],
    /// Moving average of the time that each side took to acknowledge data.
    pub rtt_average: [Option<u32>; 2],
    /// Time from the client's first data to the server's.
    pub time_to_first_byte: Option<u32>,
    /// The side that reset the connection.
    pub reset_by: Option<Direction>,
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
    /// Position and length of the packed preambles of the flow in the batch.
    pub relay: (u32, u32),
}

/// Returns the bytes at this position and of this length.
fn place(bytes: &[u8], (start, len): (u32, u32)) -> &[u8] {
    let (start, len) = (start as usize, len as usize);
    bytes.get(start..start + len).unwrap_or_default()
}

impl EventRecord {
    /// Returns the event's measurement of a request. `bytes` are those of the record's batch.
    #[must_use]
    pub fn measured(&self, bytes: &[u8]) -> Option<Measured> {
        (self.event_type.measure?)(self.packed(bytes))
    }

    /// Returns the requested operation, if the service is measured by operation. `bytes` are those of the record's
    /// batch.
    #[must_use]
    pub fn operation<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        (self.event_type.operation?)(self.packed(bytes))
    }

    /// Returns the packed bytes, out of those of the record's batch.
    #[must_use]
    pub fn packed<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        place(bytes, self.bytes)
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
    operation: Option<OperationOf>,
}

/// A function that writes the events of packed bytes.
pub type Render = fn(&[u8], &mut eve::Lines<'_>) -> serde_json::Result<()>;

/// A function that returns what packed bytes mean for the requested service; `None` if they are about no
/// request.
pub type Measure = fn(&[u8]) -> Option<Measured>;

/// A function that returns the requested operation out of packed bytes.
type OperationOf = for<'a> fn(&'a [u8]) -> Option<&'a [u8]>;

impl EventType {
    /// Creates a type of events with this name, written by `render`.
    #[must_use]
    pub const fn new(name: &'static str, render: Render) -> Self {
        Self { name, render, measure: None, operation: None }
    }

    /// Returns the type of a typed event.
    #[must_use]
    pub const fn of<E: EveEvent>() -> Self {
        Self {
            name: E::TYPE,
            render: render::<E>,
            measure: Some(measure::<E>),
            operation: Some(operation::<E>),
        }
    }

    /// Counts the events in the `metrics` of services, as measured by `measure`.
    #[must_use]
    pub const fn measured(self, measure: Measure) -> Self {
        Self { measure: Some(measure), ..self }
    }
}

fn render<E: EveEvent>(bytes: &[u8], lines: &mut eve::Lines<'_>) -> serde_json::Result<()> {
    E::unpack(&mut Unpacker::new(bytes)).map_or(Ok(()), |event| event.write(lines))
}

fn measure<E: EveEvent>(bytes: &[u8]) -> Option<Measured> {
    E::unpack(&mut Unpacker::new(bytes))?.measured()
}

fn operation<E: EveEvent>(bytes: &[u8]) -> Option<&[u8]> {
    E::operation(&mut Unpacker::new(bytes))
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
/// The `event_type` of alerts.
pub const ALERT: &str = "alert";
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
