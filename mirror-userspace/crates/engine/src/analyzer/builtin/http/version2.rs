//! HTTP/2 (RFC 9113): each stream with its request and response becomes an event, as do SETTINGS and GOAWAY frames.
//! Calls of gRPC become events of their own, too.
#![expect(
    clippy::similar_names,
    reason = "content and context are the terms of this protocol and of this crate"
)]

mod streams;

use std::collections::VecDeque;

use mirror_packet::{Direction, SECOND};
use mirror_protocols::grpc::{CallEvent, is_grpc};
use mirror_protocols::http::tag as first_tag;
use mirror_protocols::http2::{
    self, Control, ControlEvent, FieldList, Head, LossEvent, Losses, PREFACE, StreamEvent, Table, flag, kind,
    tag, unpadded,
};
use mirror_protocols::pack;
use mirror_signatures::facts::{Http2Fact, TransactionFact};

use self::streams::{Open, Streams};
use super::inspected::Handover;
use super::without_port;
use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::credit::{self, Credit};
use crate::analyzer::{Consumed, Context, Event, Progress};

/// The longest frame that is waited for: longer ones are passed over, but for DATA, which is read as it comes.
const MAX_FRAME: u32 = 48 * 1024;
/// Bytes of a block of fields in several frames.
const MAX_BLOCK: usize = 64 * 1024;
/// Bytes of a stream's fields that are kept for its event.
const MAX_PACKED: usize = 16 * 1024;
/// Bytes of a SETTINGS frame that are kept for its event.
const MAX_SETTINGS: usize = 6 * 16;
/// Streams that the client has reset, and that wait for a response that may be on its way; and how long they wait.
const MAX_RESET: usize = 64;
const RESET_WAITS: u64 = SECOND;
/// Bodies of a connection that rules inspect at the same time.
const MAX_BODIES: usize = 64;
/// Bytes that the fields of a connection may take: for each packet, for each of its bytes, and the maximum unused. A
/// byte can stand for a field of many.
const A_PACKET: usize = 4096;
const A_BYTE: usize = 16;
const MOST: usize = 64 * 1024;
/// Bytes charged for the event of a call, without its texts.
const CALL: usize = 400;
/// Bytes charged for a field in an event, besides its name and its value, and for a setting.
const FIELD: usize = 28;
const SETTING: usize = 72;
/// Bytes of a target in an event without the other fields.
const MAX_TARGET: usize = 256;
/// Connections that are held for their memory, and the most memory of one.
const MAX_SPARE: usize = 64;
const MAX_SPARE_ROOM: usize = 64 * 1024;

/// The parts that connections share, besides those that they share with HTTP/1.
#[derive(Debug, Default)]
pub(super) struct Shared {
    list: FieldList,
    /// The fields of an event that has not all of its stream's.
    room: Vec<u8>,
    #[expect(clippy::vec_box, reason = "they move between flows and this list without a copy")]
    spare: Vec<Box<Connection>>,
}

/// The tools that a connection works with.
pub(super) struct Tools<'a> {
    pub(super) watch: &'a Watch,
    pub(super) handover: &'a mut Handover,
    pub(super) shared: &'a mut Shared,
}

/// The position in a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// In front of a frame, or within one that is waited for.
    #[default]
    Frame,
    /// Within a frame that is passed over.
    Skip(u32),
    /// Within a DATA frame.
    Data {
        stream: u32,
        /// Bytes of content, and of padding behind it, that have not come.
        content: u32,
        padding: u32,
        /// The stream's direction ends with the frame.
        ends: bool,
    },
    /// Behind a gap: the next frame is searched for at the beginning of segments.
    Lost,
}

/// The beginning of a block of fields.
#[derive(Clone, Copy, Debug)]
struct Begin {
    /// The stream of the frames.
    frames: u32,
    /// The stream that the fields are of.
    stream: u32,
    /// They are a request, whoever sends it.
    is_request: bool,
    ends: bool,
    priority: Option<u8>,
}

#[derive(Debug, Default)]
struct Side {
    phase: Phase,
    table: Table,
    /// A block whose end has not come, and its beginning.
    block: Vec<u8>,
    begun: Option<Begin>,
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    sides: [Side; 2],
    streams: Streams,
    transactions: u32,
    credit: Credit,
    /// Bytes that fields may take.
    budget: usize,
    losses: Losses,
    /// Streams that the client has reset, and the times of that.
    reset: VecDeque<(u32, u64)>,
    bodies: Bodies,
}

/// The bodies of a connection that rules inspect.
#[derive(Debug, Default)]
struct Bodies {
    count: usize,
    /// The bytes that they hold.
    room: usize,
}

impl Bodies {
    /// Ends the body of a direction, if there is one.
    fn end(
        &mut self,
        open: &mut Open,
        direction: Direction,
        handover: &mut Handover,
        context: &mut Context<'_>,
    ) {
        let slot = &mut open.inspected[direction as usize];
        if let Some(body) = slot {
            self.count -= 1;
            self.room = self.room.saturating_sub(body.room());
            handover.end(slot, direction, context);
        }
    }
}

impl Shared {
    /// Returns a connection that has just begun.
    pub(super) fn connection(&mut self) -> Box<Connection> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a connection that has ended.
    pub(super) fn give_back(&mut self, mut connection: Box<Connection>) {
        let Connection { sides, streams, .. } = &mut *connection;
        for side in sides.iter_mut() {
            side.table.reset();
            side.block.clear();
            (side.phase, side.begun) = (Phase::Frame, None);
        }
        let (sides, streams) = (std::mem::take(sides), std::mem::take(streams));
        let mut reset = std::mem::take(&mut connection.reset);
        reset.clear();
        *connection = Connection { sides, streams, reset, ..Connection::default() };
        if self.spare.len() < MAX_SPARE && connection.held() <= MAX_SPARE_ROOM {
            self.spare.push(connection);
        }
    }
}

impl Connection {
    /// Opens the stream of a request that was sent as HTTP/1.1, with these packed values, and that asked for the
    /// upgrade.
    pub(super) fn upgrade(&mut self, values: &[u8], asked: Option<u64>) {
        let number = self.next_number();
        self.streams.open(1, number);
        let Some(open) = self.streams.get(1) else { return };
        (open.seen[0], open.ended[0], open.asked) = (true, true, asked);
        let before = open.packed.capacity();
        for (of, name) in [
            (first_tag::METHOD, &b":method"[..]),
            (first_tag::TARGET, b":path"),
            (first_tag::HOST, b":authority"),
            (first_tag::USER_AGENT, b"user-agent"),
            (first_tag::REFERER, b"referer"),
        ] {
            if let Some(value) = pack::get(values, of) {
                open.cost += FIELD + text_cost(name) + text_cost(value);
                pack::put(&mut open.packed, tag::NAME, name);
                pack::put(&mut open.packed, tag::VALUE, value);
            }
        }
        let grown = open.packed.capacity() - before;
        self.streams.grew(grown);
    }

    /// Returns the bytes of memory that are held.
    pub(super) fn held(&self) -> usize {
        let sides: usize = self.sides.iter().map(|side| side.table.room() + side.block.capacity()).sum();
        let reset = self.reset.capacity() * size_of::<(u32, u64)>();
        size_of::<Self>() + sides + self.streams.room() + reset + self.bodies.room
    }

    /// Releases the memory for streams and fields. Frames are followed further.
    pub(super) fn forget(&mut self) {
        for side in &mut self.sides {
            *side = Side { phase: side.phase, ..Side::default() };
        }
        self.streams = Streams::default();
        self.reset = VecDeque::new();
        self.bodies = Bodies::default();
    }

    pub(super) fn data(
        &mut self,
        direction: Direction,
        event: Event<'_>,
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        match event {
            Event::Data { bytes, new } => {
                let fresh = bytes.len().saturating_sub(new);
                self.credit.earn(fresh);
                self.budget = (self.budget + A_PACKET + A_BYTE * fresh).min(MOST);
                while let Some((stream, time)) = self.reset.front().copied()
                    && context.time().saturating_sub(time) > RESET_WAITS
                {
                    self.reset.pop_front();
                    self.close(stream, tools, context);
                }
                Consumed::Used(self.bytes(direction, bytes, tools, context))
            }
            Event::Gap { bytes, len } => {
                self.gap(direction, bytes, len, tools, context);
                Consumed::Used(0)
            }
            Event::End { .. } => Consumed::Close,
        }
    }

    /// Ends the connection: the events of all open streams follow.
    pub(super) fn end(&mut self, tools: &mut Tools<'_>, context: &mut Context<'_>) {
        while let Some(id) = self.streams.first() {
            self.close(id, tools, context);
        }
        self.credit.end::<StreamEvent<'_>>(context);
        let unfinished = self.sides.iter().filter(|side| side.begun.is_some()).count();
        let mut losses = std::mem::take(&mut self.losses);
        losses.blocks = losses.blocks.saturating_add(unfinished as u32);
        if losses != Losses::default() {
            context.record(&LossEvent(losses));
        }
    }

    /// Processes the next bytes. Returns how many were used.
    fn bytes(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let side = &mut self.sides[direction as usize];
            match side.phase {
                Phase::Frame => {
                    let preface = rest.len().min(PREFACE.len());
                    if direction == Direction::ToServer
                        && rest.first() == PREFACE.first()
                        && rest.get(..preface) == PREFACE.get(..preface)
                    {
                        if preface < PREFACE.len() {
                            return at;
                        }
                        at += preface;
                        continue;
                    }
                    let Some(head) = Head::read(rest) else { return at };
                    if !head.is_correct() {
                        self.lose(direction);
                        return bytes.len();
                    }
                    match self.frame(direction, head, rest, tools, context) {
                        Some(used) => at += used,
                        None => return at,
                    }
                }
                Phase::Skip(left) => {
                    let skipped = rest.len().min(left as usize);
                    at += skipped;
                    let left = left - skipped as u32;
                    side.phase = if left == 0 { Phase::Frame } else { Phase::Skip(left) };
                    if left > 0 {
                        return at;
                    }
                }
                Phase::Data { stream, content, padding, ends } => {
                    let taken = rest.len().min(content as usize);
                    let skipped = (rest.len() - taken).min(padding as usize);
                    let (content, padding) = (content - taken as u32, padding - skipped as u32);
                    side.phase = Phase::Data { stream, content, padding, ends };
                    at += taken + skipped;
                    if taken > 0 {
                        let bytes = rest.get(..taken).unwrap_or_default();
                        self.content(direction, stream, bytes, tools, context);
                    }
                    if content + padding > 0 {
                        return at;
                    }
                    self.sides[direction as usize].phase = Phase::Frame;
                    if ends {
                        self.end_of(direction, stream, tools, context);
                    }
                }
                Phase::Lost => match http2::begins(direction, rest) {
                    Some(true) => side.phase = Phase::Frame,
                    Some(false) => return bytes.len(),
                    None => return at,
                },
            }
        }
    }

    /// Processes the frame with this head, with which `bytes` begin. Returns the number of bytes used; `None` if more
    /// are needed.
    fn frame(
        &mut self,
        direction: Direction,
        head: Head,
        bytes: &[u8],
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        let behind = bytes.get(http2::HEAD..).unwrap_or_default();
        if head.kind == kind::DATA {
            let (of_padding, padding) = match behind.first() {
                _ if !head.has(flag::PADDED) => (0, 0),
                Some(padding) => (1, u32::from(*padding)),
                None => return None,
            };
            let content = head.len.saturating_sub(of_padding + padding);
            let padding = head.len.saturating_sub(of_padding).min(padding);
            let ends = head.has(flag::END_STREAM);
            self.sides[direction as usize].phase =
                Phase::Data { stream: head.stream, content, padding, ends };
            self.inspect_frame(direction, head, &[], context);
            return Some(http2::HEAD + of_padding.min(head.len) as usize);
        }
        let has_fields = matches!(head.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION);
        if head.len > MAX_FRAME || head.kind > kind::CONTINUATION {
            if has_fields {
                self.lose_fields(direction);
                if head.kind == kind::HEADERS && head.has(flag::END_STREAM) {
                    self.end_of(direction, head.stream, tools, context);
                }
            }
            if head.len > 0 {
                self.sides[direction as usize].phase = Phase::Skip(head.len);
            }
            return Some(http2::HEAD);
        }
        let payload = behind.get(..head.len as usize)?;
        let used = http2::HEAD + payload.len();
        if !has_fields {
            self.control(direction, head, payload, tools, context);
            return Some(used);
        }
        let side = &mut self.sides[direction as usize];
        let begun = if head.kind == kind::CONTINUATION {
            side.begun.take().filter(|begun| begun.frames == head.stream)
        } else {
            // A block that is not ended by its own frames was broken off.
            if side.begun.take().is_some() {
                self.lose_fields(direction);
            }
            begin(direction, head)
        };
        let parts = begun.and_then(|begun| {
            let fields = if head.kind == kind::CONTINUATION { payload } else { unpadded(head, payload)? };
            match head.kind {
                kind::PUSH_PROMISE => {
                    let stream = http2::number(fields)? & 0x7fff_ffff;
                    Some((Begin { stream, ..begun }, fields.get(4..)?))
                }
                kind::HEADERS if head.has(flag::PRIORITY) => {
                    let priority = Some(*fields.get(4)?);
                    Some((Begin { priority, ..begun }, fields.get(5..)?))
                }
                _ => Some((begun, fields)),
            }
        });
        let side = &mut self.sides[direction as usize];
        let Some((begun, fields)) = parts.filter(|(_, fields)| side.block.len() + fields.len() <= MAX_BLOCK)
        else {
            self.lose_fields(direction);
            return Some(used);
        };
        if !head.has(flag::END_HEADERS) {
            side.block.extend_from_slice(fields);
            side.begun = Some(begun);
        } else if side.block.is_empty() {
            self.block(direction, begun, fields, tools, context);
        } else {
            let mut block = std::mem::take(&mut side.block);
            block.extend_from_slice(fields);
            self.block(direction, begun, &block, tools, context);
            block.clear();
            self.sides[direction as usize].block = block;
        }
        Some(used)
    }

    /// Processes a frame without fields and content.
    fn control(
        &mut self,
        direction: Direction,
        head: Head,
        payload: &[u8],
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        self.inspect_frame(direction, head, payload, context);
        let control = match head.kind {
            kind::SETTINGS if !head.has(flag::ACK) => {
                Control::Settings(payload.get(..MAX_SETTINGS).unwrap_or(payload))
            }
            kind::GOAWAY => Control::Goaway(payload.get(4..).and_then(http2::number).unwrap_or_default()),
            kind::RST_STREAM => {
                self.reset(direction, head.stream, http2::number(payload), tools, context);
                return;
            }
            _ => return,
        };
        let number = self.next_number();
        let settings = if let Control::Settings(settings) = control { settings.len() / 6 } else { 0 };
        if self.credit.events.spend(credit::EVENT + SETTING * settings + context.relay_cost()) {
            context.record(&ControlEvent { number, by_server: direction == Direction::ToClient, control });
        }
    }

    /// Notes that a side has reset a stream. A response may still be on its way to the client that did.
    fn reset(
        &mut self,
        direction: Direction,
        stream: u32,
        error: Option<u32>,
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let Some(open) = self.streams.get(stream) else { return };
        open.stream.errors[direction as usize] = error;
        open.ended[direction as usize] = true;
        if direction == Direction::ToClient || open.ended[Direction::ToClient as usize] {
            return self.close(stream, tools, context);
        }
        if self.reset.len() >= MAX_RESET
            && let Some((first, _)) = self.reset.pop_front()
        {
            self.close(first, tools, context);
        }
        self.reset.push_back((stream, context.time()));
    }

    /// Hands over a frame to the rules, if one of them asks for frames. Those with fields are handed over with them.
    fn inspect_frame(&mut self, direction: Direction, head: Head, payload: &[u8], context: &mut Context<'_>) {
        if !context.wants_frames() {
            return;
        }
        let number = match self.streams.get(head.stream) {
            Some(open) => open.stream.number,
            None => self.transactions,
        };
        let mut fact = |of, value| context.fact(TransactionFact::Http2(of, value));
        fact(Http2Fact::FrameType, u32::from(head.kind));
        match head.kind {
            kind::SETTINGS => {
                http2::settings(payload).for_each(|(id, value)| fact(Http2Fact::Setting(id), value));
            }
            kind::RST_STREAM => http2::number(payload).into_iter().for_each(|it| fact(Http2Fact::Error, it)),
            kind::GOAWAY => {
                let code = payload.get(4..).and_then(http2::number);
                if let Some(code) = code {
                    fact(Http2Fact::Error, code);
                }
            }
            kind::WINDOW_UPDATE => {
                let window = http2::number(payload).map(|window| window & 0x7fff_ffff);
                if let Some(window) = window {
                    fact(Http2Fact::Window, window);
                }
            }
            kind::PRIORITY => {
                payload.get(4).into_iter().for_each(|weight| fact(Http2Fact::Priority, u32::from(*weight)));
            }
            _ => {}
        }
        context.transaction(u64::from(number), direction, Progress::Done);
    }

    /// Processes a block of fields.
    fn block(
        &mut self,
        direction: Direction,
        begun: Begin,
        block: &[u8],
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let mut list = std::mem::take(&mut tools.shared.list);
        list.clear();
        let table = &mut self.sides[direction as usize].table;
        if table.read(block, &mut self.budget, &mut list).is_err() {
            self.lose_fields(direction);
        }
        self.losses.fields = self.losses.fields.saturating_add(list.omitted());
        self.fields(direction, begun, &list, tools, context);
        tools.shared.list = list;
    }

    /// Processes the fields of a stream.
    fn fields(
        &mut self,
        direction: Direction,
        begun: Begin,
        list: &FieldList,
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let Begin { stream, is_request, ends, priority, .. } = begun;
        if self.streams.get(stream).is_none() {
            if self.streams.is_full()
                && let Some(first) = self.streams.first()
            {
                let is_reset = |open: &mut Open| open.stream.errors[0].is_some();
                let is_whole = self.streams.get(first).is_some_and(is_reset);
                self.losses.streams = self.losses.streams.saturating_add(u32::from(!is_whole));
                self.close(first, tools, context);
            }
            let number = self.next_number();
            self.streams.open(stream, number);
        }
        let side = if is_request { Direction::ToServer } else { Direction::ToClient };
        let is_pushed = side != direction;
        let Some(open) = self.streams.get(stream) else { return };
        let id = u64::from(open.stream.number);
        let status = if is_request { None } else { list.get(b":status").and_then(status) };
        if status.is_some_and(|status| (100..200).contains(&status)) {
            open.stream.status = status.unwrap_or_default();
            return;
        }
        let is_first = !std::mem::replace(&mut open.seen[side as usize], true);
        let before = open.packed.capacity();
        open.cost += keep(&mut open.packed, if is_request { 0 } else { tag::RESPONSE }, list);
        let grown = open.packed.capacity() - before;
        open.is_call |= is_first && list.get(b"content-type").is_some_and(is_grpc);
        if is_first && is_request {
            open.stream.priority = priority;
            // The response came before it: the mirror has changed their order.
            open.asked = Some(context.time()).filter(|_| !open.seen[Direction::ToClient as usize]);
            open.ended[side as usize] |= is_pushed;
        } else if is_first {
            open.stream.status = status.unwrap_or_default();
            let since = open.asked.map(|asked| context.time().saturating_sub(asked));
            open.stream.latency = since.filter(|&since| since > 0);
        }
        self.streams.grew(grown);
        if is_first
            && is_request
            && tools.watch.is_on()
            && let Some(host) = list.get(b":authority").or_else(|| list.get(b"host"))
        {
            let host = without_port(host);
            tools.watch.one_of_names(Cause::Host, host, &mut self.credit.alerts, context);
        }
        if is_first && context.is_inspected() && !is_pushed {
            let has_body = !ends && self.bodies.count < MAX_BODIES;
            if context.wants_frames() {
                let mut fact = |of, value| context.fact(TransactionFact::Http2(of, value));
                fact(Http2Fact::FrameType, u32::from(kind::HEADERS));
                if let Some(weight) = priority {
                    fact(Http2Fact::Priority, u32::from(weight));
                }
                list.updates().iter().for_each(|size| fact(Http2Fact::TableSize, *size));
            }
            let body = if is_request {
                tools.handover.request_list(id, list, has_body, context)
            } else {
                tools.handover.response_list(id, list, has_body, context)
            };
            if let Some(body) = body
                && let Some(open) = self.streams.get(stream)
            {
                self.bodies.count += 1;
                self.bodies.room += body.room();
                open.inspected[side as usize] = Some(body);
            }
        }
        if ends {
            self.end_of(direction, stream, tools, context);
        }
    }

    /// Processes content of a stream.
    fn content(
        &mut self,
        direction: Direction,
        stream: u32,
        bytes: &[u8],
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let Some(open) = self.streams.get(stream) else { return };
        if direction == Direction::ToClient {
            open.stream.length += bytes.len() as u64;
        }
        let slot = &mut open.inspected[direction as usize];
        if let Some(body) = slot {
            let before = body.room();
            tools.handover.content(slot, direction, bytes, context);
            let after = slot.as_ref().map_or(0, |body| body.room());
            self.bodies.count -= usize::from(slot.is_none());
            self.bodies.room = (self.bodies.room + after).saturating_sub(before);
        }
    }

    /// Ends a direction of a stream.
    fn end_of(
        &mut self,
        direction: Direction,
        stream: u32,
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let Some(open) = self.streams.get(stream) else { return };
        open.ended[direction as usize] = true;
        if direction == Direction::ToServer && !open.seen[Direction::ToClient as usize] {
            open.asked = Some(context.time());
        }
        self.bodies.end(open, direction, tools.handover, context);
        if open.ended == [true; 2] && open.seen == [true; 2] {
            self.close(stream, tools, context);
        }
    }

    /// Closes a stream: its event follows, if there was a request or a response.
    fn close(&mut self, stream: u32, tools: &mut Tools<'_>, context: &mut Context<'_>) {
        let Self { streams, credit, bodies, .. } = self;
        streams.close(stream, |open| {
            for direction in [Direction::ToServer, Direction::ToClient] {
                bodies.end(open, direction, tools.handover, context);
            }
            emit(open, credit, &mut tools.shared.room, context);
        });
    }

    /// Continues behind missing bytes.
    fn gap(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        len: usize,
        tools: &mut Tools<'_>,
        context: &mut Context<'_>,
    ) {
        let side = &mut self.sides[direction as usize];
        // Of a frame that is waited for, only the rest may be missing.
        if side.phase == Phase::Frame
            && let Some(head) = Head::read(bytes)
            && len > 0
            && head.is_correct()
            && (http2::HEAD + head.len as usize) >= bytes.len() + len
        {
            let left = http2::HEAD + head.len as usize - bytes.len() - len;
            if matches!(head.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION) {
                self.lose_fields(direction);
                if head.kind == kind::HEADERS && head.has(flag::END_STREAM) {
                    self.end_of(direction, head.stream, tools, context);
                }
            }
            self.sides[direction as usize].phase =
                if left == 0 { Phase::Frame } else { Phase::Skip(left as u32) };
            return;
        }
        let missing = u32::try_from(len).unwrap_or(u32::MAX);
        match side.phase {
            Phase::Skip(left) if len > 0 && missing <= left => {
                side.phase = if missing == left { Phase::Frame } else { Phase::Skip(left - missing) };
            }
            Phase::Data { stream, content, padding, ends } if len > 0 && missing <= content + padding => {
                let of_content = missing.min(content);
                let (content, padding) = (content - of_content, padding - (missing - of_content));
                side.phase = Phase::Data { stream, content, padding, ends };
                if let Some(open) = self.streams.get(stream) {
                    if direction == Direction::ToClient {
                        open.stream.length += u64::from(of_content);
                    }
                    self.bodies.end(open, direction, tools.handover, context);
                }
                // The end of the frame, if it was reached, is noted with what follows.
                self.bytes(direction, &[], tools, context);
            }
            _ => self.lose(direction),
        }
    }

    /// Gives up the position in a direction.
    fn lose(&mut self, direction: Direction) {
        self.sides[direction as usize].phase = Phase::Lost;
        self.lose_fields(direction);
    }

    /// Gives up what is known of a direction's fields: a block is missing.
    fn lose_fields(&mut self, direction: Direction) {
        let side = &mut self.sides[direction as usize];
        side.table.lose();
        side.block.clear();
        side.begun = None;
        self.losses.blocks = self.losses.blocks.saturating_add(1);
    }

    const fn next_number(&mut self) -> u32 {
        let number = self.transactions;
        self.transactions = number.wrapping_add(1);
        number
    }
}

/// Returns the beginning of a block in the frame with this head.
fn begin(direction: Direction, head: Head) -> Option<Begin> {
    let is_promise = head.kind == kind::PUSH_PROMISE;
    // Only servers promise.
    (!is_promise || direction == Direction::ToClient).then_some(Begin {
        frames: head.stream,
        stream: head.stream,
        is_request: is_promise || direction == Direction::ToServer,
        ends: !is_promise && head.has(flag::END_STREAM),
        priority: None,
    })
}

/// Parses a status.
fn status(value: &[u8]) -> Option<u16> {
    let digits = value
        .first_chunk::<3>()
        .filter(|digits| value.len() == 3 && digits.iter().all(u8::is_ascii_digit))?;
    Some(digits.iter().fold(0, |number, digit| 10 * number + u16::from(digit - b'0')))
}

/// Returns the bytes that text takes in a record, roughly and not too few.
fn text_cost(text: &[u8]) -> usize {
    let escaped = text.iter().filter(|&&byte| !(0x20..0x7f).contains(&byte) || matches!(byte, b'"' | b'\\'));
    text.len() + 5 * escaped.count()
}

/// Keeps the fields of a stream for its event, as far as there is room. Returns the bytes that they take in it.
fn keep(packed: &mut Vec<u8>, of: u8, list: &FieldList) -> usize {
    let mut cost = 0;
    for size in list.updates() {
        if packed.len() < MAX_PACKED {
            cost += FIELD;
            pack::put(packed, of + tag::TABLE_SIZE, &size.to_be_bytes());
        }
    }
    for (name, value) in list.iter() {
        if packed.len() + name.len() + value.len() + 6 <= MAX_PACKED {
            cost += FIELD + text_cost(name) + text_cost(value);
            pack::put(packed, of + tag::NAME, name);
            pack::put(packed, of + tag::VALUE, value);
        }
    }
    cost
}

/// Emits the events of a stream. If the credit is too little for all fields, only method and target are written, which are
/// made in `room`.
fn emit(open: &Open, credit: &mut Credit, room: &mut Vec<u8>, context: &mut Context<'_>) {
    if open.seen == [false; 2] {
        return;
    }
    let each = context.relay_cost();
    let mut event = StreamEvent { stream: open.stream, values: &open.packed };
    let call_code = &mut [0; 16];
    let call = open.is_call.then(|| CallEvent::new(&event, call_code));
    let mut cost = credit::EVENT + each + open.cost;
    if !credit.events.has(cost) {
        room.clear();
        cost = credit::EVENT + each;
        for name in [&b":method"[..], b":path"] {
            if let Some(value) = http2::request_field(&open.packed, name) {
                let value = value.get(..MAX_TARGET).unwrap_or(value);
                cost += 2 * (FIELD + text_cost(value));
                pack::put(room, tag::NAME, name);
                pack::put(room, tag::VALUE, value);
            }
        }
        event.values = room;
    }
    if credit.events.spend(cost) {
        context.record(&event);
    }
    if let Some(call) = call
        && credit.events.spend(CALL + each + call.text_len())
    {
        context.record(&call);
    }
}
