//! The application data of a flow: recognised by its first bytes, then given to the analyzer of its
//! protocol.

use mirror_xdp_common::wire::protocol;

use super::Direction;
use super::stream::{Event, Stream, Streams, Use};
use super::tcp::{Connection, Segment};
use crate::packet::tcp_flags;
use crate::protocol::detect::{AppProto, Detection, Detector, Endpoints, Transport};
use crate::protocol::dns::{self, Transactions};
use crate::record::Application;

/// A DNS message that was found in a flow, and its number there.
pub type DnsSink<'a> = dyn FnMut(&[u8], u32) + 'a;

/// What is followed of a flow's data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    detector: Detector,
    transactions: Transactions,
    streams: [Stream; 2],
    /// Bytes are missing: the next may be in the middle of a message.
    lost: [bool; 2],
    /// The flow began with an answer of DNS and is not looked at, see [`Data::refuse`].
    unasked: bool,
}

impl Data {
    /// Looks at no data: the flow counts as not recognised. So Suricata does where the first datagram of
    /// a flow comes from the port of DNS, since it is told to expect servers on that port only.
    pub const fn refuse(&mut self) {
        self.unasked = true;
    }

    /// Takes the payload of a UDP datagram.
    pub fn datagram(
        &mut self,
        endpoints: Endpoints,
        direction: Direction,
        payload: &[u8],
        sink: &mut DnsSink<'_>,
    ) {
        if payload.is_empty() {
            return;
        }
        if self.unasked {
            return;
        }
        self.detector.feed(endpoints, direction, payload);
        if self.detector.flow() == Detection::Found(AppProto::Dns) {
            message(&mut self.transactions, payload, sink);
        }
    }

    /// Takes a TCP segment of a connection that was seen to begin.
    pub fn segment(
        &mut self,
        streams: &mut Streams,
        connection: &mut Connection,
        endpoints: Endpoints,
        direction: Direction,
        segment: &Segment<'_>,
        sink: &mut DnsSink<'_>,
    ) {
        let Self { detector, transactions, streams: [client, server], lost, .. } = self;
        let (this, other) = match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        };
        let flags = segment.header.flags;
        if flags & tcp_flags::ACK != 0 {
            let from = match direction {
                Direction::ToServer => Direction::ToClient,
                Direction::ToClient => Direction::ToServer,
            };
            let mut analyze = |event: Event<'_>| {
                analyze(detector, transactions, &mut lost[from as usize], endpoints, from, event, sink)
            };
            if streams.acknowledge(other, segment.header.acknowledgement, &mut analyze) {
                connection.set_gap(from);
            }
        }
        // A SYN takes the number in front of its data.
        let sequence = segment.header.sequence.wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let mut analyze = |event: Event<'_>| {
            analyze(detector, transactions, &mut lost[direction as usize], endpoints, direction, event, sink)
        };
        let first = connection.first_byte(direction);
        if streams.segment(this, first, sequence, segment.payload, &mut analyze) {
            connection.set_gap(direction);
        }
    }

    /// Gives back what the flow holds.
    pub fn close(&mut self, streams: &mut Streams) {
        for stream in &mut self.streams {
            streams.close(stream);
        }
    }

    /// What the flow's record says of its application.
    #[must_use]
    pub fn application(&self) -> Application {
        let flow = if self.unasked { Detection::Failed } else { self.detector.flow() };
        let other = |direction| match self.detector.direction(direction) {
            Detection::Unknown => None,
            found => found.name().filter(|_| found != flow),
        };
        Application {
            protocol: flow.name(),
            to_server: other(Direction::ToServer),
            to_client: other(Direction::ToClient),
        }
    }
}

/// What is known of a flow's ports.
pub(super) fn endpoints(protocol: u8, client_port: u16, server_port: u16) -> Endpoints {
    let transport = if protocol == protocol::TCP { Transport::Tcp } else { Transport::Udp };
    Endpoints { transport, client_port, server_port }
}

/// Takes the next bytes of a direction, first to recognise it and then to analyze it.
fn analyze(
    detector: &mut Detector,
    transactions: &mut Transactions,
    lost: &mut bool,
    endpoints: Endpoints,
    direction: Direction,
    event: Event<'_>,
    sink: &mut DnsSink<'_>,
) -> Use {
    let (bytes, new) = match event {
        Event::Data { bytes, new } => (bytes, new),
        Event::Gap => {
            *lost = true;
            // Only the first bytes tell what a stream is.
            let told = detector.direction(direction) != Detection::Unknown;
            return if told { Use::Used(0) } else { Use::Close };
        }
    };
    match detector.feed(endpoints, direction, bytes.get(new..).unwrap_or_default()) {
        Detection::Unknown => Use::Used(0),
        Detection::Found(AppProto::Dns) => {
            if *lost && !dns::probe_tcp(bytes) {
                return Use::Used(bytes.len());
            }
            *lost = false;
            Use::Used(messages(transactions, bytes, sink))
        }
        Detection::Found(_) | Detection::Failed => Use::Close,
    }
}

/// Takes the DNS messages of a stream, each behind its length (RFC 1035, section 4.2.2); answers how many
/// bytes were whole messages.
fn messages(transactions: &mut Transactions, bytes: &[u8], sink: &mut DnsSink<'_>) -> usize {
    let mut rest = bytes;
    while let Some((len, body)) = rest.split_first_chunk()
        && let Some((whole, behind)) = body.split_at_checked(usize::from(u16::from_be_bytes(*len)))
    {
        message(transactions, whole, sink);
        rest = behind;
    }
    bytes.len() - rest.len()
}

fn message(transactions: &mut Transactions, bytes: &[u8], sink: &mut DnsSink<'_>) {
    if dns::Message::parse(bytes).is_ok() {
        sink(bytes, transactions.number());
    }
}
