//! The application data of a flow. Its first bytes identify the protocol; the analyzers that want the data
//! get it.

use std::cell::Cell;

use mirror_packet::{Direction, Packet, Segment, tcp_flags};
use mirror_protocols::detect::{AppProto, Detection, Detector};
use mirror_protocols::preamble::{Preamble, TlsBegin, Verdict, tls_begins};
use mirror_records::Application;
use mirror_records::sink::Producer;

use crate::analyzer::{Analyzers, Context, Following};
use crate::inspection::Inspection;
use crate::meta::{FlowIndex, FlowMeta};
use crate::sequence;
use crate::stream::{Consumed, Event, Incoming, Mark, Stream, Streams, Until, Wait, is_unseen};
use crate::tcp::Connection;

/// The context for following a packet: parts of the worker, and the flow's place.
#[derive(Debug)]
pub struct FlowContext<'a> {
    /// The buffers of all streams.
    pub streams: &'a mut Streams,
    /// The analyzers.
    pub analyzers: &'a mut Analyzers,
    /// The destination of records.
    pub records: &'a mut Producer,
    /// The flow's place in the table.
    pub index: FlowIndex,
    /// Arrival time of the packet, in nanoseconds since the epoch.
    pub time: u64,
    /// Set if the flow raises an alert.
    pub alerted: &'a Cell<bool>,
    /// The rules that raise alerts, if there are any.
    pub inspection: &'a mut Option<Box<Inspection>>,
    /// Connections that are older than the capture are followed in plain frames, too.
    pub midstream: bool,
}

/// The state of a flow's application data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    detector: Detector,
    following: Following,
    streams: [Stream; 2],
    /// The application as the analyzers know it.
    known: Known,
    preamble: Preamble,
}

impl Data {
    /// Assigns the analyzers that follow the flow.
    pub const fn follow(&mut self, following: Following) {
        self.following = following;
    }

    /// Ignores all data, so that the flow counts as not recognised. Suricata does this if the first datagram
    /// of a flow comes from the DNS port, since it is configured to expect servers on that port only.
    pub const fn refuse(&mut self) {
        self.known.marks |= Known::UNASKED;
    }

    /// Passes a packet to the analyzers that want packets.
    pub fn packet(
        &mut self,
        head: &FlowMeta,
        direction: Direction,
        packet: &Packet<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        if self.following.wants_packets() {
            let original = self.known.original;
            let FlowContext { time, ref mut records, alerted, ref mut inspection, .. } = *tools;
            let mut context = Context::new(head, time, original, records, alerted);
            context.inspection = inspection.as_deref_mut();
            tools.analyzers.packet(&mut self.following, tools.index, direction, packet, &mut context);
        }
    }

    /// Returns the two streams, the buffers of all streams, and the rest of the data as the side of one direction, which
    /// processes events.
    #[inline(always)]
    fn split<'a>(
        &'a mut self,
        tools: &'a mut FlowContext<'_>,
        now: PacketContext<'a>,
        direction: Direction,
    ) -> (&'a mut [Stream; 2], &'a mut Streams, Side<'a>) {
        let Self { detector, following, known, preamble, streams } = self;
        let side = Side {
            detector,
            following,
            known,
            preamble,
            analyzers: tools.analyzers,
            records: tools.records,
            inspection: tools.inspection.as_deref_mut(),
            now,
            mark: Mark::default(),
            direction,
            wait: false,
            tls: None,
        };
        (streams, tools.streams, side)
    }

    /// Processes the payload of a UDP datagram. The rest of it may be cut off.
    pub fn datagram(
        &mut self,
        head: &FlowMeta,
        direction: Direction,
        payload: &[u8],
        is_cut: bool,
        tools: &mut FlowContext<'_>,
    ) {
        if payload.is_empty() || self.known.has(Known::UNASKED) {
            return;
        }
        // No analyzer wants the data, and detection is over.
        if self.detector.is_over(direction) && !self.following.wants_data(direction) {
            return;
        }
        let time = tools.time;
        let now = PacketContext { is_cut, ..PacketContext::new(head, tools.index, tools.alerted) };
        if let Some(inspection) = tools.inspection {
            inspection.datagram(payload);
        }
        // Datagrams have no preambles.
        let mut preamble = Preamble::OVER;
        let (.., mut side) = self.split(tools, now, direction);
        side.preamble = &mut preamble;
        side.take(Event::Data { bytes: payload, new: 0 }, Mark { time, ..Mark::default() });
    }

    /// Processes a TCP segment of a tracked connection.
    #[inline]
    pub fn segment(
        &mut self,
        head: &FlowMeta,
        connection: &mut Connection,
        direction: Direction,
        segment: &Segment<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        let from = direction.reverse();
        let (this, other) = (&self.streams[direction as usize], &self.streams[from as usize]);
        // Most segments carry nothing that an analyzer wants, and acknowledge nothing that is buffered.
        let has_data = !segment.payload.is_empty() || segment.missing > 0;
        if has_data && !this.is_closed() || other.keeps() || this.keeps() {
            self.bytes(head, connection, direction, segment, tools);
        }
        // The analyzers may have finished with the other direction too, by packets or by data.
        let other = &mut self.streams[from as usize];
        if !other.is_closed() && self.detector.is_done() && !self.following.wants_data(from) {
            tools.streams.close(other, head.owner(tools.index, from));
        }
    }

    /// Holds the data of a SYN (TCP Fast Open) until the server accepts it.
    #[inline]
    pub fn hold(
        &mut self,
        head: &FlowMeta,
        connection: &Connection,
        segment: &Segment<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        if !segment.payload.is_empty() || self.streams[Direction::ToServer as usize].keeps() {
            self.hold_data(head, connection, segment, tools);
        }
    }

    #[cold]
    fn hold_data(
        &mut self,
        head: &FlowMeta,
        connection: &Connection,
        segment: &Segment<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        let direction = Direction::ToServer;
        let first = connection.first_byte(direction);
        // The SYN before had another sequence number.
        if self.streams[direction as usize].position(first) != first {
            self.drop_held(head, tools);
        }
        let incoming = Incoming {
            sequence: segment.header.sequence().wrapping_add(1),
            payload: segment.payload,
            missing: segment.missing,
            acknowledged: 0,
            time: tools.time,
            waits: true,
            heard: false,
        };
        if segment.header.flags() & tcp_flags::SYN != 0 && !segment.payload.is_empty() {
            let (stream, owner) = (&mut self.streams[direction as usize], head.owner(tools.index, direction));
            tools.streams.segment(stream, owner, first, &incoming, |_, _| Consumed::Used(0));
            // It waits for the answer, and not for data of the server.
            tools.streams.stop_waiting(stream, owner);
        }
    }

    /// Processes the answer to a SYN. If it does not accept the SYN's data, the client sends that again; behind a
    /// reset, it does not.
    #[inline]
    pub fn answered(
        &mut self,
        head: &FlowMeta,
        connection: &Connection,
        segment: &Segment<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        if self.streams[Direction::ToServer as usize].keeps() && !head.key.session.is_mirrored() {
            let accepts = segment.header.flags() & tcp_flags::SYN != 0
                && connection.first_byte(Direction::ToServer) != Some(segment.header.acknowledgement());
            if !accepts {
                self.drop_held(head, tools);
            }
        }
    }

    /// Drops the data of a SYN that was not accepted.
    #[cold]
    pub fn drop_held(&mut self, head: &FlowMeta, tools: &mut FlowContext<'_>) {
        let stream = &mut self.streams[Direction::ToServer as usize];
        tools.streams.close(stream, head.owner(tools.index, Direction::ToServer));
        *stream = Stream::default();
    }

    /// Processes a TCP segment that has data or that acknowledges some.
    fn bytes(
        &mut self,
        head: &FlowMeta,
        connection: &mut Connection,
        direction: Direction,
        segment: &Segment<'_>,
        tools: &mut FlowContext<'_>,
    ) {
        let FlowContext { index, time, .. } = *tools;
        let now = PacketContext::of_connection(head, connection, tools);
        if let Some(inspection) = tools.inspection {
            let sent = [Direction::ToServer, Direction::ToClient].map(|of| connection.used(of));
            // The data of a SYN counts as soon as the server has answered.
            inspection.connect(connection.is_answered(), sent);
        }
        let from = direction.reverse();
        let (followed, streams, mut side) = self.split(tools, now, from);
        let flags = segment.header.flags();
        // A SYN takes the sequence number in front of its data.
        let sequence = segment.header.sequence().wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let acknowledged = segment.header.acknowledgement();
        let is_acknowledgement = flags & tcp_flags::ACK != 0;
        let (own, others) = (head.owner(index, direction), head.owner(index, from));
        let mark = Mark { time, end: 0, acknowledged };
        let other_mark = Mark { acknowledged: connection.acknowledged(from), ..mark };
        let [client, server] = &mut *followed;
        let (this, other) = match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        };
        if other.keeps() {
            if streams.miss(other, others, other_mark, |event, mark| side.take(event, mark)) {
                connection.set_gap(from);
            }
            if is_acknowledgement {
                streams.acknowledge(other, others, acknowledged, time);
            }
        }
        let first = connection.first_byte(direction);
        side.direction = direction;
        let missed = streams.miss(this, own, mark, |event, mark| side.take(event, mark));
        // Only data waits for earlier data of the other side.
        let in_preamble = side.preamble.is_open(from);
        let is_behind = !in_preamble && other.keeps() && streams.has_unused(other, others);
        side.wait = is_behind;
        let len = segment.payload.len() + segment.missing;
        let is_heard = connection.is_heard(from);
        let (mut gap, mut waits) = (false, false);
        if len > 0 {
            let seen = other.position(connection.first_byte(from));
            let fin = u32::from(connection.is_closing(from));
            waits = is_acknowledgement
                && is_heard
                && seen.is_some_and(|seen| is_unseen(seen.wrapping_add(fin), acknowledged));
            let incoming = Incoming {
                sequence,
                payload: segment.payload,
                missing: segment.missing,
                acknowledged,
                time,
                waits,
                heard: is_heard,
            };
            gap = streams.segment(this, own, first, &incoming, |event, mark| side.take(event, mark));
        }
        if gap || missed {
            connection.set_gap(direction);
        }
        if side.tls.is_some() {
            drop_plain(followed, streams, &mut side);
        }
        let other = &mut followed[from as usize];
        if in_preamble && side.preamble.is_rejected(from) && streams.has_unused(other, others) {
            // It is known now that the other side's bytes are no preamble.
            side.direction = from;
            streams.again(other, others, other_mark, |event, mark| side.take(event, mark));
        }
        if is_behind && matches!(side.detector.flow(), Detection::Found(_)) {
            // The earlier data of the other side can be used now, and comes first.
            side.wait = false;
            for (owner, direction, mark) in [(others, from, other_mark), (own, direction, mark)] {
                side.direction = direction;
                let stream = &mut followed[direction as usize];
                streams.again(stream, owner, mark, |event, mark| side.take(event, mark));
            }
        }
        side.wait = false;
        if side.tls.is_some() {
            drop_plain(followed, streams, &mut side);
        }
        if streams.has_early(&followed[direction as usize], own)
            || streams.has_early(&followed[from as usize], others)
        {
            let until = Until::Now(time);
            // The data that waited behind this segment was received with it.
            let filled = (!waits).then_some((direction, time));
            settle(followed, streams, &mut side, connection, until, filled);
        }
    }

    /// Delivers the data that has waited long enough.
    pub fn settle(
        &mut self,
        head: &FlowMeta,
        connection: &mut Connection,
        until: Until,
        tools: &mut FlowContext<'_>,
    ) {
        let now = PacketContext::of_connection(head, connection, tools);
        let (followed, streams, mut side) = self.split(tools, now, Direction::ToServer);
        settle(followed, streams, &mut side, connection, until, None);
    }

    /// Returns true if no analyzer wants more of the flow, neither packets nor data, and detection of its
    /// application is over.
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

    /// Ends the flow for its analyzers, and releases the buffers that it holds.
    pub fn end(
        &mut self,
        head: &FlowMeta,
        mut connection: Option<&mut Connection>,
        tools: &mut FlowContext<'_>,
    ) {
        if let Some(connection) = connection.as_deref_mut()
            && self.streams.iter().any(Stream::keeps)
        {
            self.settle(head, connection, Until::End, tools);
        }
        self.end_preambles(head, tools);
        let FlowContext { streams, analyzers, records, index, time, alerted, inspection, .. } = tools;
        let original = self.known.original;
        let mut context = Context::new(head, *time, original, records, alerted);
        context.inspection = inspection.as_deref_mut();
        context.one_sided = connection.as_deref().is_some_and(Connection::is_one_sided);
        for (stream, direction) in self.streams.iter_mut().zip([Direction::ToServer, Direction::ToClient]) {
            let owner = head.owner(*index, direction);
            let sent = |direction| connection.as_deref().map_or(0, |connection| connection.sent(direction));
            let (end, acknowledged) = (sent(direction), sent(direction.reverse()));
            let mark = Mark { time: *time, end, acknowledged };
            context.mark = mark;
            let mut each = |event: Event<'_>| {
                analyzers.data(&mut self.following, *index, direction, event, false, &mut context)
            };
            if streams.miss(stream, owner, mark, |event, _| each(event))
                && let Some(connection) = connection.as_deref_mut()
            {
                connection.set_gap(direction);
            }
            let acknowledged =
                connection.as_deref().is_none_or(|connection| connection.is_acknowledged(direction));
            streams.end(stream, owner, acknowledged, each);
        }
        analyzers.end(&mut self.following, *index, &mut context);
        context.end_inspection();
    }

    /// Returns the protocol of the flow, the one before it, and true if recognition failed.
    #[must_use]
    pub(crate) fn detected(&self) -> (Option<AppProto>, Option<AppProto>, bool) {
        let flow = self.detector.flow();
        let found = match flow {
            Detection::Found(protocol) => Some(protocol),
            Detection::Unknown | Detection::Failed => None,
        };
        (found, self.known.original, flow == Detection::Failed)
    }

    /// Passes on bytes that waited for the rest of a preamble, which will not come.
    #[inline]
    fn end_preambles(&mut self, head: &FlowMeta, tools: &mut FlowContext<'_>) {
        let open = |direction| self.preamble.is_open(direction) && self.streams[direction as usize].keeps();
        if open(Direction::ToServer) || open(Direction::ToClient) {
            self.reject_preambles(head, tools);
        }
    }

    #[cold]
    fn reject_preambles(&mut self, head: &FlowMeta, tools: &mut FlowContext<'_>) {
        let FlowContext { index, time, .. } = *tools;
        let now = PacketContext::new(head, index, tools.alerted);
        let (own, streams, mut side) = self.split(tools, now, Direction::ToServer);
        let mark = Mark { time, ..Mark::default() };
        for (stream, direction) in own.iter_mut().zip([Direction::ToServer, Direction::ToClient]) {
            if side.preamble.is_open(direction) {
                side.preamble.close(direction);
                side.direction = direction;
                let owner = head.owner(index, direction);
                streams.again(stream, owner, mark, |event, mark| side.take(event, mark));
            }
        }
    }

    /// Returns the application fields of the flow's record.
    #[must_use]
    pub fn application(&self) -> Application {
        if self.known.original == Some(AppProto::Rdp) {
            // As in Suricata, a part of this protocol is TLS.
            return Application { protocol: Some(AppProto::Rdp.name()), ..Application::default() };
        }
        let flow = if self.known.has(Known::UNASKED) { Detection::Failed } else { self.detector.flow() };
        if let (Some(original), Detection::Unknown | Detection::Failed) = (self.known.original, flow) {
            // Detection failed. The protocol that led to this data identifies the flow.
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

/// Delivers the data of both directions that need not wait any more. `filled` is set if a segment of that
/// direction came in order at that time: it may have filled a hole.
#[cold]
fn settle(
    followed: &mut [Stream; 2],
    streams: &mut Streams,
    side: &mut Side<'_>,
    connection: &mut Connection,
    until: Until,
    filled: Option<(Direction, u64)>,
) {
    let PacketContext { head, index, .. } = side.now;
    let mut filled = filled;
    loop {
        let before = followed.map(|stream| stream.position(None));
        for direction in [Direction::ToServer, Direction::ToClient] {
            let from = direction.reverse();
            let seen = followed[from as usize].position(connection.first_byte(from));
            let seen = seen.map(|seen| seen.wrapping_add(u32::from(connection.is_closing(from))));
            let time = filled.filter(|&(of, _)| of == direction).map(|(_, time)| time);
            let stream = &mut followed[direction as usize];
            side.direction = direction;
            let owner = head.owner(index, direction);
            if streams.release(stream, owner, seen, time, |event, mark| side.take(event, mark)) {
                connection.set_gap(direction);
            }
            pass_on(followed, streams, side, connection);
        }
        filled = None;
        if followed.map(|stream| stream.position(None)) != before {
            // The one direction may have waited for the other.
            continue;
        }
        let waits = [Direction::ToServer, Direction::ToClient].map(|direction| {
            let heard = connection.is_heard(direction.reverse());
            streams.wait(&followed[direction as usize], head.owner(index, direction), heard, until)
        });
        let Some((direction, step)) = Step::choose(waits, until) else { break };
        let stream = &mut followed[direction as usize];
        let owner = head.owner(index, direction);
        match step {
            Step::Skip(mark) => {
                side.direction = direction;
                if streams.skip(stream, owner, mark, |event, mark| side.take(event, mark)) {
                    connection.set_gap(direction);
                }
                pass_on(followed, streams, side, connection);
            }
            Step::Release => streams.stop_waiting(stream, owner),
            Step::Drop => streams.drop_early(stream, owner),
        }
    }
}

/// Drops what one side sent in plain text before the other began TLS.
#[cold]
fn drop_plain(followed: &mut [Stream; 2], streams: &mut Streams, side: &mut Side<'_>) {
    let Some(begun) = side.tls.take() else { return };
    let sender = begun.reverse();
    let owner = side.now.head.owner(side.now.index, sender);
    streams.again(&mut followed[sender as usize], owner, side.mark, |event, _| {
        Consumed::Used(plain_len(sender, event))
    });
}

/// Does for the other side what follows from data that had waited: its plain text in front of TLS is dropped, and bytes
/// of the client that are known now to be no preamble are passed on.
fn pass_on(followed: &mut [Stream; 2], streams: &mut Streams, side: &mut Side<'_>, connection: &Connection) {
    drop_plain(followed, streams, side);
    let direction = Direction::ToServer;
    let stream = &mut followed[direction as usize];
    if side.preamble.is_open(direction) && side.preamble.is_rejected(direction) && stream.keeps() {
        let owner = side.now.head.owner(side.now.index, direction);
        let mark = Mark { acknowledged: connection.acknowledged(direction), ..side.mark };
        side.direction = direction;
        streams.again(stream, owner, mark, |event, mark| side.take(event, mark));
        drop_plain(followed, streams, side);
    }
}

/// The way out of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The stream continues behind its hole.
    Skip(Mark),
    /// The data does not wait for the other direction any more.
    Release,
    /// The receiver never got the data behind the hole.
    Drop,
}

impl Step {
    /// Returns the next step of the two directions, if one of them need not wait any more.
    fn choose(waits: [Option<Wait>; 2], until: Until) -> Option<(Direction, Self)> {
        let [client, server] = waits;
        for (direction, wait, other) in
            [(Direction::ToServer, client, server), (Direction::ToClient, server, client)]
        {
            match (wait, other) {
                (Some(wait), _) if wait.over && wait.is_hole => {
                    return Some((direction, Self::Skip(wait.mark)));
                }
                // It waits for what the other direction lacks.
                (Some(wait), Some(other))
                    if wait.over
                        && other.is_hole
                        && !sequence::before(wait.mark.acknowledged, other.mark.end) =>
                {
                    return Some((direction.reverse(), Self::Skip(other.mark)));
                }
                (Some(wait), _) if wait.over => return Some((direction, Self::Release)),
                (Some(wait), _) if wait.is_hole && until == Until::End => {
                    return Some((direction, Self::Drop));
                }
                _ => {}
            }
        }
        // Data that was sent again acknowledges its own answer. The later one is what the other waits for.
        match (client, server) {
            (Some(client), Some(server)) if !client.is_hole && !server.is_hole => {
                let later = if client.mark.time >= server.mark.time {
                    Direction::ToServer
                } else {
                    Direction::ToClient
                };
                Some((later, Self::Release))
            }
            _ => None,
        }
    }
}

/// The application of a flow, as reported to the analyzers.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Bits of `Known::…`.
    marks: u8,
    /// The protocol before the flow switched to another one.
    original: Option<AppProto>,
    /// The protocol that began as one that may negotiate TLS.
    opening: Option<AppProto>,
}

impl Known {
    /// Directions of a midstream connection in which data came before the application was recognised. The stream may
    /// be in the middle of a message.
    const MISSED: [u8; 2] = [1, 2];
    /// The analyzers of the application were informed.
    const TOLD: u8 = 4;
    /// The flow began with a DNS response and its data is ignored, see [`Data::refuse`].
    const UNASKED: u8 = 8;
    /// Directions whose next bytes may still be plain text, since the other direction has begun TLS before.
    const PLAIN: [u8; 2] = [16, 32];

    const fn has(self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Sets a mark. Returns true if it was set before.
    const fn set(&mut self, mark: u8) -> bool {
        let before = self.has(mark);
        self.marks |= mark;
        before
    }
}

/// Bytes of one direction that are buffered while only the other can still identify the application.
const MAX_HELD: usize = 4096;

/// The values that stay the same while a packet is followed.
#[derive(Clone, Copy)]
struct PacketContext<'a> {
    head: &'a FlowMeta,
    index: FlowIndex,
    alerted: &'a Cell<bool>,
    /// The connection began before the capture.
    midstream: bool,
    /// No segment of the server was seen.
    one_sided: bool,
    /// The rest of the datagram was not captured.
    is_cut: bool,
}

impl<'a> PacketContext<'a> {
    const fn new(head: &'a FlowMeta, index: FlowIndex, alerted: &'a Cell<bool>) -> Self {
        Self { head, index, alerted, midstream: false, one_sided: false, is_cut: false }
    }

    const fn of_connection(head: &'a FlowMeta, connection: &Connection, tools: &FlowContext<'a>) -> Self {
        let (midstream, one_sided) = (connection.is_midstream(), connection.is_one_sided());
        Self { midstream, one_sided, ..Self::new(head, tools.index, tools.alerted) }
    }
}

/// One direction of a flow's data.
struct Side<'a> {
    detector: &'a mut Detector,
    following: &'a mut Following,
    known: &'a mut Known,
    preamble: &'a mut Preamble,
    analyzers: &'a mut Analyzers,
    records: &'a mut Producer,
    inspection: Option<&'a mut Inspection>,
    now: PacketContext<'a>,
    mark: Mark,
    direction: Direction,
    /// Data of the other direction goes first, if the application turns out to be known.
    wait: bool,
    /// The direction in which TLS has begun behind another protocol.
    tls: Option<Direction>,
}

/// Returns the number of bytes in front of TLS.
fn plain_len(direction: Direction, event: Event<'_>) -> usize {
    let Event::Data { bytes, .. } = event else { return 0 };
    match tls_begins(direction, bytes) {
        TlsBegin::At(begin) | TlsBegin::Maybe(begin) => begin,
        TlsBegin::No => bytes.len(),
    }
}

impl Side<'_> {
    /// Processes the next event: preambles first, then detection, then the analyzers.
    fn take(&mut self, event: Event<'_>, mark: Mark) -> Consumed {
        self.mark = mark;
        if self.following.wants_inspection(self.direction) {
            return self.take_inspected(event);
        }
        self.pass(event)
    }

    #[inline]
    fn pass(&mut self, event: Event<'_>) -> Consumed {
        if self.known.has(Known::PLAIN[self.direction as usize])
            && let Some(outcome) = self.skip_plain(event)
        {
            return outcome;
        }
        if self.preamble.is_open(self.direction) {
            return self.begin(event);
        }
        self.protocol(event)
    }

    /// Drops plain text in front of a side's first record of TLS: its last answer before TLS, which may come together
    /// with its hello. Returns `None` if the event has no such text in front.
    #[cold]
    fn skip_plain(&mut self, event: Event<'_>) -> Option<Consumed> {
        let direction = self.direction;
        let Event::Data { bytes, .. } = event else {
            self.known.marks &= !Known::PLAIN[direction as usize];
            return None;
        };
        let is_record = matches!(bytes, [20..=23, 3, 0..=4, ..]);
        match tls_begins(direction, bytes) {
            TlsBegin::Maybe(begin) if !is_record && begin > 0 => Some(Consumed::Used(begin)),
            TlsBegin::No if !is_record && bytes.len() <= MAX_HELD => Some(Consumed::Used(bytes.len())),
            TlsBegin::At(begin) if !is_record && begin > 0 => {
                self.known.marks &= !Known::PLAIN[direction as usize];
                let rest = bytes.get(begin..).unwrap_or_default();
                Some(match self.pass(Event::Data { bytes: rest, new: 0 }) {
                    Consumed::Used(used) => Consumed::Used(begin + used),
                    other => other,
                })
            }
            TlsBegin::Maybe(_) if bytes.len() < 3 => Some(Consumed::Used(0)),
            _ => {
                self.known.marks &= !Known::PLAIN[direction as usize];
                None
            }
        }
    }

    /// Processes an event of a stream that rules inspect. They see its bytes first, and decide on them when the analyzers
    /// have.
    #[cold]
    fn take_inspected(&mut self, event: Event<'_>) -> Consumed {
        let (direction, end) = (self.direction, self.mark.end);
        if let Some(inspection) = self.inspection.as_deref_mut() {
            match event {
                Event::Data { bytes, .. } => inspection.stream(direction, bytes, end),
                Event::Gap { .. } => inspection.gap(direction, end),
                Event::End { .. } => {}
            }
        }
        let outcome = self.pass(event);
        self.recognise();
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.turn(direction);
            for direction in [Direction::ToServer, Direction::ToClient] {
                if inspection.is_closed(direction) {
                    self.following.end_inspection(direction);
                }
            }
        }
        self.raise();
        outcome
    }

    /// Tells the rules the protocol of the flow.
    fn recognise(&mut self) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            let flow = self.detector.flow();
            let found = match flow {
                Detection::Found(protocol) => Some(protocol),
                Detection::Unknown | Detection::Failed => None,
            };
            inspection.recognise(found, self.known.original, flow == Detection::Failed);
        }
    }

    /// Raises the alerts of rules that have just matched.
    fn raise(&mut self) {
        let PacketContext { head, alerted, .. } = self.now;
        let mut context = Context::new(head, self.mark.time, self.known.original, self.records, alerted);
        context.inspection = self.inspection.as_deref_mut();
        context.raise();
    }

    /// Processes the next event of a direction whose protocol has not begun.
    #[inline(never)]
    fn begin(&mut self, event: Event<'_>) -> Consumed {
        let direction = self.direction;
        let bytes = match event {
            Event::Data { bytes, .. } => bytes,
            Event::Gap { bytes, len } => {
                self.preamble.close(direction);
                if bytes.is_empty() {
                    return self.protocol(event);
                }
                let mark = self.mark;
                self.mark.end = mark.end.wrapping_sub(len as u32);
                let outcome = self.protocol(Event::Data { bytes, new: 0 });
                self.mark = mark;
                return match outcome {
                    Consumed::Used(used) => {
                        self.protocol(Event::Gap { bytes: bytes.get(used..).unwrap_or_default(), len })
                    }
                    other => other,
                };
            }
            Event::End { .. } => return self.protocol(event),
        };
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            match self.preamble.look(self.now.head.endpoints(), direction, rest) {
                Verdict::More => break,
                Verdict::Preamble { len, relayed, protocol } => {
                    used += len;
                    self.known.original = protocol.or(self.known.original);
                    if let Some(relayed) = relayed {
                        self.records.relay(self.now.head.flow_id(), &relayed);
                    }
                    continue;
                }
                Verdict::Opening(opening) => {
                    self.known.opening = self.known.opening.or(opening.protocol);
                    Analyzers::look_for_tls(self.following);
                }
                Verdict::Protocol => {}
            }
            return match self.protocol(Event::Data { bytes: rest, new: 0 }) {
                Consumed::Used(more) => Consumed::Used(used + more),
                other => other,
            };
        }
        Consumed::Used(used)
    }

    /// Processes an event of a protocol.
    #[inline]
    fn protocol(&mut self, event: Event<'_>) -> Consumed {
        match self.step(event) {
            Consumed::Restart(used) => self.restart(event, used),
            outcome => outcome,
        }
    }

    /// Restarts detection behind the first `used` bytes, where another protocol begins.
    #[cold]
    fn restart(&mut self, event: Event<'_>, used: usize) -> Consumed {
        let plain = match self.detector.flow() {
            Detection::Found(application) => Some(application),
            Detection::Unknown | Detection::Failed => None,
        };
        self.known.original = plain.or(self.known.opening.take()).or(self.known.original);
        self.known.marks &= !Known::TOLD;
        self.preamble.restart();
        *self.detector = Detector::default();
        let rest = match event {
            Event::Data { bytes, .. } => bytes.get(used..).unwrap_or_default(),
            Event::Gap { .. } | Event::End { .. } => &[],
        };
        if rest.is_empty() {
            return Consumed::Used(used);
        }
        if tls_begins(self.direction, rest) == TlsBegin::At(0) {
            self.tls = Some(self.direction);
            self.known.set(Known::PLAIN[self.direction.reverse() as usize]);
        }
        let event = Event::Data { bytes: rest, new: 0 };
        // A flow passes few preambles, so this ends: a sender may switch protocols hundreds of times in a segment.
        let outcome =
            if self.preamble.is_open(self.direction) { self.begin(event) } else { self.step(event) };
        match outcome {
            Consumed::Used(more) | Consumed::Restart(more) => Consumed::Used(used + more),
            other => other,
        }
    }

    fn step(&mut self, event: Event<'_>) -> Consumed {
        let direction = self.direction;
        let len = match event {
            Event::Data { bytes, new } => {
                if self.detector.direction(direction) == Detection::Unknown {
                    let new = bytes.get(new..).unwrap_or_default();
                    let opt_in = self.analyzers.opt_in();
                    let before = self.detector.flow();
                    self.detector.feed_with(opt_in, self.now.head.endpoints(), direction, new);
                    if before != self.detector.flow() && self.known.has(Known::TOLD) {
                        self.contradict();
                    }
                }
                bytes.len()
            }
            // Only the first bytes identify a stream.
            Event::Gap { .. } => {
                self.detector.give_up(direction);
                0
            }
            Event::End { .. } => 0,
        };
        let flow = self.detector.flow();
        let missed = Known::MISSED[direction as usize];
        if let Detection::Found(application) = flow {
            if self.wait {
                // The bytes in front of a gap are not kept, so they go first.
                if !matches!(event, Event::Gap { .. }) {
                    return Consumed::Used(0);
                }
                self.wait = false;
            }
            if !self.known.set(Known::TOLD) {
                let head = self.now.head;
                let sources = &self.records.sources;
                self.analyzers.recognised(self.following, application, || head.conversation(sources));
            }
            if self.known.has(missed) {
                self.known.marks &= !missed;
                let recognised = matches!(self.detector.direction(direction), Detection::Found(_));
                if !recognised && len > 0 {
                    // The analyzers can parse this direction from a later byte on.
                    let outcome = self.analyse(Event::Gap { bytes: &[], len }, false);
                    return if matches!(outcome, Consumed::Used(_)) { Consumed::Used(len) } else { outcome };
                }
            }
        }
        // The bytes are buffered for the analyzers that may want the application once it is recognised.
        let hold = match (flow, self.detector.direction(direction)) {
            (Detection::Found(_) | Detection::Failed, _) => false,
            (Detection::Unknown, Detection::Unknown) => true,
            (Detection::Unknown, _) => len < MAX_HELD,
        };
        if self.now.midstream && len > 0 && flow == Detection::Unknown {
            self.known.set(missed);
            if !hold {
                // The other direction can still identify the data that follows.
                return Consumed::Used(len);
            }
        }
        self.analyse(event, hold)
    }

    /// Handles a client that begins with another protocol than the server has begun with: a hello of TLS does not
    /// depend on what answers it.
    #[cold]
    fn contradict(&mut self) {
        if self.detector.flow() == Detection::Found(AppProto::Tls) {
            let (head, sources) = (self.now.head, &self.records.sources);
            self.analyzers.recognised(self.following, AppProto::Tls, || head.conversation(sources));
        }
    }

    /// Passes an event to the analyzers.
    #[inline]
    fn analyse(&mut self, event: Event<'_>, hold: bool) -> Consumed {
        let PacketContext { head, index, alerted, one_sided, is_cut, .. } = self.now;
        self.recognise();
        let application = match self.detector.flow() {
            Detection::Found(application) => Some(application),
            Detection::Unknown | Detection::Failed => None,
        };
        let mut context = Context {
            mark: self.mark,
            application,
            one_sided,
            is_cut,
            inspection: self.inspection.as_deref_mut(),
            ..Context::new(head, self.mark.time, self.known.original, self.records, alerted)
        };
        self.analyzers.data(self.following, index, self.direction, event, hold, &mut context)
    }
}
