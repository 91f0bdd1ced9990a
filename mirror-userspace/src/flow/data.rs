//! The application data of a flow: recognised by its first bytes, and given to the analyzers that want it.

use mirror_xdp_common::wire::protocol;

use super::stream::{Event, Stream, Streams, Use};
use super::tcp::{Connection, Segment};
use super::{Direction, FlowIndex, Head};
use crate::analyzer::{Analyzers, Context, Following};
use crate::packet::{Packet, tcp_flags};
use crate::protocol::detect::{Detection, Detector, Endpoints, Transport};
use crate::record::Application;
use crate::sink::Producer;

/// What following a packet takes besides the flow: parts of the worker, and where the flow stands.
#[derive(Debug)]
pub struct Tools<'a> {
    /// The buffers of all streams.
    pub streams: &'a mut Streams,
    /// The analyzers.
    pub analyzers: &'a mut Analyzers,
    /// Where records go.
    pub records: &'a mut Producer,
    /// The flow's place in the table.
    pub index: FlowIndex,
    /// When the packet came, in nanoseconds since the epoch.
    pub time: u64,
}

/// What is followed of a flow's data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    detector: Detector,
    following: Following,
    streams: [Stream; 2],
    /// The analyzers of the application have been told.
    recognised: bool,
    /// The flow began with an answer of DNS and is not looked at, see [`Data::refuse`].
    unasked: bool,
}

impl Data {
    /// Lets analyzers follow the flow.
    pub const fn follow(&mut self, following: Following) {
        self.following = following;
    }

    /// Looks at no data: the flow counts as not recognised. So Suricata does where the first datagram of
    /// a flow comes from the port of DNS, since it is told to expect servers on that port only.
    pub const fn refuse(&mut self) {
        self.unasked = true;
    }

    /// Hands a packet to the analyzers that want packets.
    pub fn packet(&mut self, head: &Head, direction: Direction, packet: &Packet<'_>, tools: &mut Tools<'_>) {
        if self.following.wants_packets() {
            let mut context = Context { head, time: tools.time, records: tools.records };
            tools.analyzers.packet(&mut self.following, tools.index, direction, packet, &mut context);
        }
    }

    /// Takes the payload of a UDP datagram.
    pub fn datagram(&mut self, head: &Head, direction: Direction, payload: &[u8], tools: &mut Tools<'_>) {
        if payload.is_empty() || self.unasked {
            return;
        }
        let Self { detector, following, recognised, .. } = self;
        let mut side = Side { detector, following, recognised, head, direction };
        let context = Context { head, time: tools.time, records: tools.records };
        side.take(Event::Data { bytes: payload, new: 0 }, tools.analyzers, tools.index, context);
    }

    /// Takes a TCP segment of a connection that was seen to begin.
    pub fn segment(
        &mut self,
        head: &Head,
        connection: &mut Connection,
        direction: Direction,
        segment: &Segment<'_>,
        tools: &mut Tools<'_>,
    ) {
        let Self { detector, following, recognised, streams: [client, server], .. } = self;
        let Tools { streams, analyzers, records, index, time } = tools;
        let (this, other) = match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        };
        let mut side = Side { detector, following, recognised, head, direction: direction.reverse() };
        let flags = segment.header.flags;
        if flags & tcp_flags::ACK != 0 {
            let mut take = |event: Event<'_>| {
                side.take(event, analyzers, *index, Context { head, time: *time, records })
            };
            if streams.acknowledge(other, segment.header.acknowledgement, &mut take) {
                connection.set_gap(direction.reverse());
            }
        }
        // A SYN takes the number in front of its data.
        let sequence = segment.header.sequence.wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let first = connection.first_byte(direction);
        side.direction = direction;
        let mut take =
            |event: Event<'_>| side.take(event, analyzers, *index, Context { head, time: *time, records });
        if streams.segment(this, first, sequence, segment.payload, &mut take) {
            connection.set_gap(direction);
        }
        // An analyzer may have had enough of the other direction, too.
        if detector.is_done() && !following.wants_data(direction.reverse()) {
            streams.close(other);
        }
    }

    /// Whether nobody wants more of the flow: neither its packets nor its data, and nothing more is to be
    /// found out about its application.
    #[must_use]
    pub fn is_settled(&self, stream: bool) -> bool {
        let over = if stream {
            self.streams.iter().all(Streams::is_closed)
        } else {
            self.detector.flow() != Detection::Unknown
                && !self.following.wants_data(Direction::ToServer)
                && !self.following.wants_data(Direction::ToClient)
        };
        over && !self.following.wants_packets()
    }

    /// Tells the analyzers of the flow's end, and gives back what the flow holds.
    pub fn end(&mut self, head: &Head, tools: &mut Tools<'_>) {
        let mut context = Context { head, time: tools.time, records: tools.records };
        tools.analyzers.end(&mut self.following, tools.index, &mut context);
        for stream in &mut self.streams {
            tools.streams.close(stream);
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

/// One direction of a flow's data.
struct Side<'a> {
    detector: &'a mut Detector,
    following: &'a mut Following,
    recognised: &'a mut bool,
    head: &'a Head,
    direction: Direction,
}

impl Side<'_> {
    /// Takes what comes next, first to recognise it and then for the analyzers.
    fn take(
        &mut self,
        event: Event<'_>,
        analyzers: &mut Analyzers,
        index: FlowIndex,
        mut context: Context<'_>,
    ) -> Use {
        match event {
            Event::Data { bytes, new } => {
                let new = bytes.get(new..).unwrap_or_default();
                self.detector.feed(self.head.endpoints(), self.direction, new);
            }
            // Only the first bytes tell what a stream is.
            Event::Gap { .. } => self.detector.give_up(self.direction),
        }
        let flow = self.detector.flow();
        if let Detection::Found(application) = flow
            && !std::mem::replace(self.recognised, true)
        {
            analyzers.recognised(self.following, application, || self.head.conversation());
        }
        // The bytes are kept for those that the application may turn out to be of interest to.
        let undecided = !matches!(flow, Detection::Found(_))
            && self.detector.direction(self.direction) == Detection::Unknown;
        analyzers.data(self.following, index, self.direction, event, undecided, &mut context)
    }
}
