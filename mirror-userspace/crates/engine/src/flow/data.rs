//! The application data of a flow: recognised by its first bytes, and given to the analyzers that want it.

use std::cell::Cell;

use mirror_packet::{Direction, Packet, Segment, tcp_flags};
use mirror_protocols::detect::{AppProto, Detection, Detector};
use mirror_records::Application;
use mirror_records::sink::Producer;

use crate::analyzer::{Analyzers, Context, Following};
use crate::meta::{FlowIndex, Head};
use crate::stream::{Event, Stream, Streams, Use};
use crate::tcp::Connection;

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
    /// Set where the flow raises an alert.
    pub alerted: &'a Cell<bool>,
}

/// What is followed of a flow's data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    detector: Detector,
    following: Following,
    streams: [Stream; 2],
    /// What the analyzers were told.
    known: Known,
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
            let original = self.known.original;
            let Tools { time, ref mut records, alerted, .. } = *tools;
            let mut context = Context::new(head, time, original, records, alerted);
            tools.analyzers.packet(&mut self.following, tools.index, direction, packet, &mut context);
        }
    }

    /// Takes the payload of a UDP datagram.
    pub fn datagram(&mut self, head: &Head, direction: Direction, payload: &[u8], tools: &mut Tools<'_>) {
        if payload.is_empty() || self.unasked {
            return;
        }
        let Self { detector, following, known, .. } = self;
        // Nobody wants it, and it tells nothing new.
        if detector.is_over(direction) && !following.wants_data(direction) {
            return;
        }
        let Tools { analyzers, records, index, time, alerted, .. } = tools;
        let now = Now { head, time: *time, index: *index, alerted, midstream: false };
        let mut side = Side { detector, following, known, analyzers, records, now, direction, wait: false };
        side.take(Event::Data { bytes: payload, new: 0 });
    }

    /// Takes a TCP segment of a connection that was seen to begin.
    #[inline]
    pub fn segment(
        &mut self,
        head: &Head,
        connection: &mut Connection,
        direction: Direction,
        segment: &Segment<'_>,
        tools: &mut Tools<'_>,
    ) {
        let from = direction.reverse();
        let (this, other) = (&self.streams[direction as usize], &self.streams[from as usize]);
        // Most segments have nothing that anybody wants, and acknowledge nothing that is kept.
        if !segment.payload.is_empty() && !this.is_closed() || other.keeps() {
            self.bytes(head, connection, direction, segment, tools);
        }
        // An analyzer may have had enough of the other direction, too, by packets or by data.
        let other = &mut self.streams[from as usize];
        if !other.is_closed() && self.detector.is_done() && !self.following.wants_data(from) {
            tools.streams.close(other, head.owner(tools.index, from));
        }
    }

    /// Takes a TCP segment with data, or one that acknowledges some.
    fn bytes(
        &mut self,
        head: &Head,
        connection: &mut Connection,
        direction: Direction,
        segment: &Segment<'_>,
        tools: &mut Tools<'_>,
    ) {
        let Self { detector, following, known, streams: [client, server], .. } = self;
        let Tools { streams, analyzers, records, index, time, alerted } = tools;
        let (this, other) = match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        };
        let from = direction.reverse();
        let now = Now { head, time: *time, index: *index, alerted, midstream: connection.is_midstream() };
        let mut side =
            Side { detector, following, known, analyzers, records, now, direction: from, wait: false };
        let flags = segment.header.flags();
        let (own, others) = (head.owner(*index, direction), head.owner(*index, from));
        if other.keeps() {
            let missed = streams.miss(other, others, |event| side.take(event));
            let acknowledgement = segment.header.acknowledgement();
            if flags & tcp_flags::ACK != 0
                && streams.acknowledge(other, others, acknowledgement, |event| side.take(event))
                || missed
            {
                connection.set_gap(from);
            }
        }
        // A SYN takes the number in front of its data.
        let sequence = segment.header.sequence().wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let first = connection.first_byte(direction);
        side.direction = direction;
        let missed = streams.miss(this, own, |event| side.take(event));
        // Only data waits for what the other side said before.
        side.wait = other.keeps() && streams.has_unused(other, others);
        if streams.segment(this, own, first, sequence, segment.payload, |event| side.take(event)) || missed {
            connection.set_gap(direction);
        }
        if side.wait && matches!(side.detector.flow(), Detection::Found(_)) {
            // What the other side said before is of use now, and first.
            side.wait = false;
            for (stream, owner, direction) in [(&mut *other, others, from), (this, own, direction)] {
                side.direction = direction;
                streams.again(stream, owner, |event| side.take(event));
            }
        }
    }

    /// Whether nobody wants more of the flow: neither its packets nor its data, and nothing more is to be
    /// found out about its application.
    #[must_use]
    pub fn is_settled(&self, stream: bool) -> bool {
        let over = if stream {
            self.streams.iter().all(Stream::is_closed)
        } else {
            self.detector.flow() != Detection::Unknown
                && !self.following.wants_data(Direction::ToServer)
                && !self.following.wants_data(Direction::ToClient)
        };
        over && !self.following.wants_packets()
    }

    /// Tells the analyzers of the flow's end, and gives back what the flow holds.
    pub fn end(&mut self, head: &Head, mut connection: Option<&mut Connection>, tools: &mut Tools<'_>) {
        let Tools { streams, analyzers, records, index, time, alerted } = tools;
        let original = self.known.original;
        let mut context = Context::new(head, *time, original, records, alerted);
        for (stream, direction) in self.streams.iter_mut().zip([Direction::ToServer, Direction::ToClient]) {
            let owner = head.owner(*index, direction);
            let mut each = |event: Event<'_>| {
                analyzers.data(&mut self.following, *index, direction, event, false, &mut context)
            };
            if streams.miss(stream, owner, &mut each)
                && let Some(connection) = connection.as_deref_mut()
            {
                connection.set_gap(direction);
            }
            let acknowledged =
                connection.as_deref().is_none_or(|connection| connection.is_acknowledged(direction));
            streams.end(stream, owner, acknowledged, each);
        }
        analyzers.end(&mut self.following, *index, &mut context);
    }

    /// What the flow's record says of its application.
    #[must_use]
    pub fn application(&self) -> Application {
        let flow = if self.unasked { Detection::Failed } else { self.detector.flow() };
        if let (Some(original), Detection::Unknown | Detection::Failed) = (self.known.original, flow) {
            // Nothing was recognised in it: it is known by what led to it.
            return Application { protocol: Some(original.name()), ..Application::default() };
        }
        let other = |direction| match self.detector.direction(direction) {
            Detection::Unknown => None,
            found => found.name().filter(|_| found != flow),
        };
        Application {
            protocol: flow.name(),
            original: self
                .known
                .original
                .map(AppProto::name)
                .filter(|&original| Some(original) != flow.name()),
            to_server: other(Direction::ToServer),
            to_client: other(Direction::ToClient),
        }
    }
}

/// What analyzers know of a flow's application.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Those of the application have been told.
    told: bool,
    /// What was spoken before something else.
    original: Option<AppProto>,
    /// Directions of a connection older than the capture of which data came before anything was
    /// recognised: bits by [`Direction`]. It may be the middle of something.
    missed: u8,
}

/// Bytes of one direction that are kept while only the other can still tell what they are.
const MAX_HELD: usize = 4096;

/// What does not change while a packet is followed.
#[derive(Clone, Copy)]
struct Now<'a> {
    head: &'a Head,
    time: u64,
    index: FlowIndex,
    alerted: &'a Cell<bool>,
    /// The connection is older than the capture.
    midstream: bool,
}

/// One direction of a flow's data.
struct Side<'a> {
    detector: &'a mut Detector,
    following: &'a mut Following,
    known: &'a mut Known,
    analyzers: &'a mut Analyzers,
    records: &'a mut Producer,
    now: Now<'a>,
    direction: Direction,
    /// Bytes of the other direction come first, where the application turns out to be known.
    wait: bool,
}

impl Side<'_> {
    /// Takes what comes next, first to recognise it and then for the analyzers.
    fn take(&mut self, event: Event<'_>) -> Use {
        match self.step(event) {
            Use::Restart(used) => self.restart(event, used),
            outcome => outcome,
        }
    }

    /// Takes what is behind the first `used` bytes, which is of another protocol.
    #[cold]
    fn restart(&mut self, event: Event<'_>, used: usize) -> Use {
        self.known.original = match self.detector.flow() {
            Detection::Found(application) => Some(application),
            Detection::Unknown | Detection::Failed => None,
        };
        self.known.told = false;
        *self.detector = Detector::default();
        let rest = match event {
            Event::Data { bytes, .. } => bytes.get(used..).unwrap_or_default(),
            Event::Gap { .. } | Event::End { .. } => &[],
        };
        if rest.is_empty() {
            return Use::Used(used);
        }
        match self.step(Event::Data { bytes: rest, new: 0 }) {
            Use::Used(more) | Use::Restart(more) => Use::Used(used + more),
            other => other,
        }
    }

    fn step(&mut self, event: Event<'_>) -> Use {
        let direction = self.direction;
        let len = match event {
            Event::Data { bytes, new } => {
                if self.detector.direction(direction) == Detection::Unknown {
                    let new = bytes.get(new..).unwrap_or_default();
                    self.detector.feed(self.now.head.endpoints(), direction, new);
                }
                bytes.len()
            }
            // Only the first bytes tell what a stream is.
            Event::Gap { .. } => {
                self.detector.give_up(direction);
                0
            }
            Event::End { .. } => 0,
        };
        let flow = self.detector.flow();
        let missed = 1 << direction as u8;
        if let Detection::Found(application) = flow {
            if self.wait {
                return Use::Used(0);
            }
            if !std::mem::replace(&mut self.known.told, true) {
                let head = self.now.head;
                self.analyzers.recognised(self.following, application, || head.conversation());
            }
            if self.known.missed & missed != 0 {
                self.known.missed &= !missed;
                let recognised = matches!(self.detector.direction(direction), Detection::Found(_));
                if !recognised && len > 0 {
                    // What can be understood of this direction comes later.
                    let outcome = self.analyse(Event::Gap { bytes: &[], len }, false);
                    return if matches!(outcome, Use::Used(_)) { Use::Used(len) } else { outcome };
                }
            }
        }
        // The bytes are kept for those that the application may turn out to be of interest to.
        let hold = match (flow, self.detector.direction(direction)) {
            (Detection::Found(_) | Detection::Failed, _) => false,
            (Detection::Unknown, Detection::Unknown) => true,
            (Detection::Unknown, _) => len < MAX_HELD,
        };
        if self.now.midstream && len > 0 && flow == Detection::Unknown {
            self.known.missed |= missed;
            if !hold {
                // The other direction can still tell what comes next.
                return Use::Used(len);
            }
        }
        self.analyse(event, hold)
    }

    /// Hands on what was recognised.
    #[inline]
    fn analyse(&mut self, event: Event<'_>, hold: bool) -> Use {
        let Now { head, time, index, alerted, .. } = self.now;
        let mut context = Context::new(head, time, self.known.original, self.records, alerted);
        self.analyzers.data(self.following, index, self.direction, event, hold, &mut context)
    }
}
