//! HTTP: each request with its response becomes an event. This file follows HTTP/1.x, and hands over to `version2`.

mod inspected;
mod version2;

use std::collections::VecDeque;
use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::detect::AppProto;
use mirror_protocols::http::{
    Body, Fixed, Request, Response, Taken, TransactionEvent, begins_request, begins_response, head_end, tag,
    upgrades_to_http2,
};
use mirror_protocols::pack;
use mirror_protocols::preamble::{TlsBegin, tls_begins};

use self::inspected::{Handover, InspectedBody};
use self::version2::{Connection, Shared, Tools};
use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::credit::{self, Allowance, Credit};
use crate::analyzer::{Analyzer, Consumed, Context, Event};
use crate::indicators::Indicators;
use crate::sequence::before;

/// Requests of a connection that may wait for their responses; one more is the end of the analysis, but for alerts.
const MAX_OPEN: usize = 128;
/// Heads of a connection that are no requests and are passed over; with one more, the next request is looked for at the
/// beginning of segments alone. A client that errs sends an empty line or two.
const MAX_CRUFT: u8 = 32;
/// A buffer with more capacity than this is not held for reuse.
const MAX_SPARE: usize = 16 * 1024;

/// Methods whose responses have a message length of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    #[default]
    Other,
}

/// The progress of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// It has not begun.
    #[default]
    None,
    /// An interim response has come, and the final one has not begun.
    Interim,
    /// The head of the final response has come.
    Final,
}

/// A request that waits for its response, or whose response is in progress.
#[derive(Clone, Debug, Default)]
struct Transaction {
    fixed: Fixed,
    method: Method,
    /// Nothing of the request was seen.
    unseen: bool,
    /// The client sent the request when all others were answered, or when it had at least received something
    /// since it sent them.
    alone: bool,
    /// Sequence number of the request's first byte.
    start: u32,
    /// Sequence number behind the server's bytes that the client had received when it sent the request.
    received: u32,
    response: Progress,
    /// Time of the request's last byte; `None` if no request was seen, or if it is still in progress.
    requested: Option<u64>,
    packed: Vec<u8>,
}

/// The parser's position in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before a head, or within it.
    #[default]
    Head,
    /// Within a body.
    Body(Body),
    /// Behind a gap: the parser searches for the next head at the beginning of segments.
    Lost,
}

/// The state of a flow.
#[derive(Debug, Default)]
pub struct Flow {
    phases: [Phase; 2],
    open: VecDeque<Transaction>,
    transactions: u32,
    /// The remaining credit for events of transactions, and for alerts.
    credit: Credit,
    /// Too many requests wait: what comes is only looked at for names that raise alerts.
    crowded: bool,
    /// Heads of the client that were no requests.
    cruft: u8,
    /// Directions of which bytes are missing: requests and responses may be missing, too.
    gaps: [bool; 2],
    /// Sequence number behind the client's bytes that responses without a request have answered.
    answered: Option<u32>,
    /// Sequence number behind the server's bytes that the client had received when it sent its last data.
    received: Option<u32>,
    /// The bodies that rules inspect.
    inspected: [Option<Box<InspectedBody>>; 2],
    /// The connection, if it is one of HTTP/2. Nothing else is used then.
    version2: Option<Box<Connection>>,
}

/// Emits an event for each HTTP transaction.
#[derive(Debug, Default)]
pub struct Http {
    watch: Watch,
    handover: Handover,
    /// Buffers and queues that no flow uses.
    spare: Vec<Vec<u8>>,
    spare_queues: Vec<VecDeque<Transaction>>,
    version2: Shared,
}

/// The data that follows a head.
enum Next {
    /// The message's body.
    Body(Body),
    /// HTTP/2, whose first stream is that of the request.
    Version2,
    /// Another protocol.
    Other,
    /// Nothing that could be followed.
    Lost,
}

impl Analyzer for Http {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        if flow.version2.is_some() || context.application == Some(AppProto::Http2) {
            return self.version2(flow, direction, event, context);
        }
        match event {
            // It is not known any more which request is answered.
            _ if flow.crowded && direction == Direction::ToClient => Consumed::Close,
            Event::Data { bytes, new } => {
                flow.credit.earn(bytes.len().saturating_sub(new));
                if direction == Direction::ToServer {
                    flow.received = Some(context.mark.acknowledged);
                }
                self.bytes(flow, direction, bytes, new, context)
            }
            Event::Gap { bytes, len } => {
                self.end_body(flow, direction, context);
                flow.gaps[direction as usize] = true;
                let end = context.mark.end;
                self.unfinished(
                    flow,
                    direction,
                    bytes,
                    end.wrapping_sub((len + bytes.len()) as u32),
                    context,
                );
                self.gap(flow, direction, bytes.is_empty(), len, context);
                Consumed::Used(0)
            }
            Event::End { bytes, .. } => {
                // A request line without an end was no request yet.
                if direction == Direction::ToClient || bytes.contains(&b'\n') {
                    self.unfinished(flow, direction, bytes, context.mark.end, context);
                }
                self.end_body(flow, direction, context);
                Consumed::Close
            }
        }
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch.set(indicators);
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        if let Some(mut connection) = flow.version2.take() {
            connection.end(&mut self.tools(), context);
            return self.version2.give_back(connection);
        }
        for direction in [Direction::ToServer, Direction::ToClient] {
            self.end_body(flow, direction, context);
        }
        while let Some(transaction) = flow.open.pop_front() {
            self.emit(&mut flow.credit.events, transaction, context);
        }
        flow.credit.end::<TransactionEvent<'_>>(context);
        let queue = std::mem::take(&mut flow.open);
        if queue.capacity() > 0 {
            self.spare_queues.push(queue);
        }
    }

    fn held(flow: &Flow) -> usize {
        let packed: usize = flow.open.iter().map(|transaction| transaction.packed.capacity()).sum();
        let decoders: usize = flow.inspected.iter().flatten().map(|body| body.room()).sum();
        let version2 = flow.version2.as_ref().map_or(0, |connection| connection.held());
        flow.open.capacity() * size_of::<Transaction>() + packed + decoders + version2
    }

    fn forget(&mut self, flow: &mut Flow) {
        if let Some(connection) = &mut flow.version2 {
            connection.forget();
        }
        flow.phases = [Phase::Lost; 2];
        flow.open = VecDeque::new();
        flow.inspected = [None, None];
    }
}

impl Flow {
    /// Returns true if the last request asks for a tunnel.
    fn is_tunnel(&self) -> bool {
        self.open.back().is_some_and(|transaction| transaction.method == Method::Connect)
    }
}

/// Returns true if bytes begin with the hello of a TLS client.
fn is_tls(bytes: &[u8]) -> bool {
    tls_begins(Direction::ToServer, bytes) == TlsBegin::At(0)
}

impl Http {
    /// Returns what connections of HTTP/2 work with.
    const fn tools(&mut self) -> Tools<'_> {
        Tools { watch: &self.watch, handover: &mut self.handover, shared: &mut self.version2 }
    }

    /// Processes an event in a connection of HTTP/2.
    #[inline(never)]
    fn version2(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        let mut connection = flow.version2.take().unwrap_or_else(|| self.version2.connection());
        let outcome = connection.data(direction, event, &mut self.tools(), context);
        flow.version2 = Some(connection);
        outcome
    }

    fn bytes(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        bytes: &[u8],
        new: usize,
        context: &mut Context<'_>,
    ) -> Consumed {
        let mut at = 0;
        let start = context.mark.end.wrapping_sub(bytes.len() as u32);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let position = start.wrapping_add(at as u32);
            if direction == Direction::ToClient && flow.is_bodiless(rest) {
                self.complete(flow, direction, context);
            }
            if direction == Direction::ToClient && flow.is_in_tunnel(rest) {
                self.end(flow, context);
                *flow = Flow::default();
                return Consumed::Restart(at);
            }
            match &mut flow.phases[direction as usize] {
                Phase::Head => {
                    let skipped = match direction {
                        Direction::ToServer => Some(skip_request(rest)),
                        Direction::ToClient => skip_response(rest),
                    };
                    match skipped {
                        Some(0) => {}
                        Some(len) => {
                            at += len;
                            continue;
                        }
                        None => {
                            flow.phases[direction as usize] = Phase::Body(Body::UntilClose);
                            continue;
                        }
                    }
                    if context.is_one_sided() && flow.is_tunnel() && is_tls(rest) {
                        // The proxy's response is not mirrored.
                        self.end(flow, context);
                        *flow = Flow::default();
                        return Consumed::Restart(at);
                    }
                    let end = head_end(rest, new.saturating_sub(at)).or_else(|| match direction {
                        Direction::ToServer => old_head_end(rest, new.saturating_sub(at)),
                        Direction::ToClient => None,
                    });
                    let Some(end) = end else { break };
                    let head = rest.get(..end).unwrap_or_default();
                    let next = match direction {
                        Direction::ToServer => self.request(flow, head, position, context),
                        Direction::ToClient => self.response(flow, head, position, context),
                    };
                    at += end;
                    let body = match next {
                        Some(Next::Body(body)) => body,
                        Some(Next::Version2) => {
                            let mut connection = self.version2.connection();
                            if let Some(asked) = flow.open.front() {
                                connection.upgrade(&asked.packed, asked.requested);
                            }
                            self.end(flow, context);
                            *flow = Flow { version2: Some(connection), ..Flow::default() };
                            return Consumed::Restart(at);
                        }
                        Some(Next::Other) => {
                            self.end(flow, context);
                            *flow = Flow::default();
                            return Consumed::Restart(at);
                        }
                        Some(Next::Lost) => {
                            flow.phases[direction as usize] = Phase::Lost;
                            return Consumed::Used(bytes.len());
                        }
                        None => return Consumed::Done,
                    };
                    flow.phases[direction as usize] = Phase::Body(body);
                    if body.is_complete() {
                        self.complete(flow, direction, context);
                    }
                }
                Phase::Body(body) => {
                    let inspected = &mut flow.inspected[direction as usize];
                    let Taken { used, data } = if inspected.is_some() {
                        let handover = &mut self.handover;
                        body.take_content(rest, |bytes| {
                            handover.content(inspected, direction, bytes, context);
                        })
                    } else {
                        body.take(rest)
                    };
                    at += used;
                    let complete = body.is_complete();
                    if direction == Direction::ToClient
                        && let Some(transaction) = flow.open.front_mut()
                    {
                        transaction.fixed.length += data as u64;
                    }
                    if complete {
                        self.complete(flow, direction, context);
                    }
                }
                Phase::Lost => {
                    let found = match direction {
                        Direction::ToServer => resumes_request(rest),
                        Direction::ToClient => resumes_response(rest),
                    };
                    match found {
                        Some(true) => flow.phases[direction as usize] = Phase::Head,
                        Some(false) => return Consumed::Used(bytes.len()),
                        None => break,
                    }
                }
            }
        }
        Consumed::Used(at)
    }

    /// Continues behind missing bytes. `between` is true if no head had begun.
    fn gap(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        between: bool,
        len: usize,
        context: &mut Context<'_>,
    ) {
        const MIN_REQUEST: usize = b"GET / HTTP/1.1\r\n\r\n".len();
        const MIN_RESPONSE: usize = b"HTTP/1.1 200\r\n\r\n".len();
        let phase = &mut flow.phases[direction as usize];
        let (behind, complete) = match phase {
            Phase::Body(body) if len > 0 => (body.miss(len), body.is_complete()),
            Phase::Head if between => (Some(len), false),
            Phase::Body(_) | Phase::Head | Phase::Lost => (None, false),
        };
        if behind != Some(0) || len == 0 {
            *phase = Phase::Lost;
        }
        let Some(behind) = behind else { return };
        let is_body = complete || behind == 0;
        if direction == Direction::ToClient
            && is_body
            && let Some(transaction) = flow.open.front_mut()
        {
            transaction.fixed.length += (len - behind) as u64;
        }
        if complete {
            let phase = flow.phases[direction as usize];
            self.complete(flow, direction, context);
            flow.phases[direction as usize] = if behind == 0 { Phase::Head } else { phase };
        }
        match direction {
            // A request is missing, and its response comes before those of later requests.
            Direction::ToServer if behind >= MIN_REQUEST => {
                let (end, acknowledged) = (context.mark.end, context.mark.acknowledged);
                let begin = end.wrapping_sub(behind as u32);
                let (start, received) = match flow.answered {
                    Some(answered) if !before(answered, end) => return,
                    // Only the rest is not answered yet.
                    Some(answered) if before(begin, answered) => (answered, acknowledged),
                    _ => (begin, flow.received.unwrap_or(acknowledged)),
                };
                if let Some(transaction) = self.open(flow) {
                    flow.open.push_back(Transaction { unseen: true, start, received, ..transaction });
                }
            }
            // The next response is missing, too.
            Direction::ToClient if behind >= MIN_RESPONSE => {
                if let Some(transaction) = flow.open.pop_front() {
                    self.emit(&mut flow.credit.events, transaction, context);
                }
            }
            _ => {}
        }
    }

    /// Processes the received part of a head that will not be completed, and that begins at `position`. Its
    /// last line may go on behind that part, and is left out.
    fn unfinished(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        head: &[u8],
        position: u32,
        context: &mut Context<'_>,
    ) {
        const STATUS: usize = b"HTTP/1.1 200".len();
        // Where the next head is searched for, the bytes are those that may begin one.
        if matches!(flow.phases[direction as usize], Phase::Body(_)) {
            return;
        }
        let lines = head.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        match direction {
            Direction::ToServer if begins_request(head) => {
                // Of a request line that goes on, the words with a space behind them are known.
                let spaces = head.iter().enumerate().filter(|(_, byte)| **byte == b' ');
                let words = spaces.take(2).last().map_or(0, |(space, _)| space + 1);
                let known = head.get(..lines.max(words)).unwrap_or_default();
                self.request(flow, known, position, context);
            }
            Direction::ToClient if begins_response(head) && head.len() >= STATUS => {
                let known = head.get(..lines.max(STATUS)).unwrap_or_default();
                self.response(flow, known, position, context);
            }
            _ => {}
        }
    }

    /// Processes the head of a request that begins at `position`.
    fn request(
        &mut self,
        flow: &mut Flow,
        head: &[u8],
        position: u32,
        context: &mut Context<'_>,
    ) -> Option<Next> {
        let request = Request::parse(head);
        let is_cut = !head.contains(&b'\n');
        if request.method.is_empty() || request.target.is_empty() && !is_cut {
            // Garbage between requests.
            flow.cruft = flow.cruft.saturating_add(1);
            let next = if flow.cruft > MAX_CRUFT { Next::Lost } else { Next::Body(Body::Length(0)) };
            return Some(next);
        }
        if let Some(host) = request.host() {
            let host = without_port(host);
            self.watch.one_of_names(Cause::Host, host, &mut flow.credit.alerts, context);
        }
        let body = request.body();
        if context.is_inspected() {
            self.end_body(flow, Direction::ToServer, context);
            let id = u64::from(flow.transactions);
            flow.inspected[Direction::ToServer as usize] = self.handover.request(id, head, body, context);
        }
        let Some(mut transaction) = self.open(flow) else {
            flow.credit.events.omit();
            flow.crowded = true;
            flow.transactions = flow.transactions.wrapping_add(1);
            return (self.watch.is_on() || context.is_inspected()).then_some(Next::Body(body));
        };
        transaction.method = match request.method {
            b"HEAD" => Method::Head,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        for (tag, value) in [
            (tag::METHOD, Some(request.method)),
            (tag::TARGET, Some(request.target)),
            (tag::PROTOCOL, request.protocol),
            (tag::HOST, request.host()),
            (tag::USER_AGENT, request.user_agent()),
            (tag::FORWARDED_FOR, request.forwarded_for()),
            (tag::REFERER, request.referer()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                pack::put(&mut transaction.packed, tag, value);
            }
        }
        transaction.requested = body.is_complete().then_some(context.time());
        // A gap has the acknowledgement of the data behind it.
        let received = flow.received.unwrap_or(context.mark.acknowledged);
        (transaction.start, transaction.received) = (position, received);
        let is_over =
            |open: &Transaction| open.response == Progress::Final || before(open.received, received);
        transaction.alone = !matches!(flow.phases[Direction::ToClient as usize], Phase::Body(_))
            && flow.open.iter().all(is_over);
        // Its response came before it, and was taken for another's.
        if flow.answered.is_some_and(|answered| before(position, answered)) {
            self.emit(&mut flow.credit.events, transaction, context);
            return Some(Next::Body(body));
        }
        flow.open.push_back(transaction);
        Some(Next::Body(body))
    }

    /// Processes the head of a response that begins at `position`.
    fn response(
        &mut self,
        flow: &mut Flow,
        head: &[u8],
        position: u32,
        context: &mut Context<'_>,
    ) -> Option<Next> {
        let direction = Direction::ToClient;
        let response = Response::parse(head);
        // The end of the previous response is in a gap.
        if flow.open.front().is_some_and(|front| front.response == Progress::Final)
            && let Some(transaction) = flow.open.pop_front()
        {
            self.emit(&mut flow.credit.events, transaction, context);
        }
        if flow.gaps != [false; 2] {
            self.pass_over(flow, position, context);
        }
        let acknowledged = context.mark.acknowledged;
        let has_gaps = flow.gaps != [false; 2];
        // The server had not received the first of the requests, or the client had received the beginning of
        // this response before it: this is the response to a missing one.
        let is_unasked = |front: &Transaction| {
            has_gaps && (!before(front.start, acknowledged) || before(position, front.received))
        };
        if flow.open.front().is_none_or(is_unasked) {
            let mut transaction = self.open(flow)?;
            transaction.unseen = true;
            (transaction.start, transaction.received) = (acknowledged.wrapping_sub(1), position);
            flow.open.push_front(transaction);
            flow.answered = Some(acknowledged);
        }
        let transaction = flow.open.front_mut()?;
        transaction.fixed.status = response.status.unwrap_or_default();
        if response.is_interim() {
            transaction.response = Progress::Interim;
            return Some(Next::Body(Body::Length(0)));
        }
        transaction.response = Progress::Final;
        let since = transaction.requested.map(|requested| context.time().saturating_sub(requested));
        // A request that was buffered until the response identified the protocol has the response's time.
        let since = since.filter(|&since| since > 0);
        transaction.fixed.latency = transaction.fixed.latency.or(since);
        for (tag, value) in [
            (tag::CONTENT_TYPE, response.content_type()),
            (tag::CONTENT_RANGE, response.content_range()),
            (tag::LOCATION, response.location()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                pack::put(&mut transaction.packed, tag, value);
            }
        }
        let next = match transaction.method {
            _ if response.switches_protocols() && upgrades_to_http2(head) => Next::Version2,
            _ if response.switches_protocols() => Next::Other,
            Method::Connect if response.is_successful() => Next::Other,
            Method::Head => Next::Body(Body::Length(0)),
            _ => Next::Body(response.body()),
        };
        if context.is_inspected() {
            let id = u64::from(transaction.fixed.number);
            let body = if let Next::Body(body) = next { body } else { Body::Length(0) };
            self.end_body(flow, direction, context);
            flow.inspected[direction as usize] = self.handover.response(id, head, body, context);
        }
        Some(next)
    }

    /// Passes over the requests whose responses are missing. The response to a request that was sent alone
    /// begins behind all that the client had received when it sent the request, and nowhere else. Of several
    /// requests, a later one is answered if this one begins there.
    fn pass_over(&mut self, flow: &mut Flow, position: u32, context: &mut Context<'_>) {
        while let Some(front) = flow.open.front()
            && (front.unseen || flow.gaps[Direction::ToClient as usize])
            && before(front.received, position)
            && (front.alone && front.response == Progress::None
                || flow.open.iter().skip(1).any(|later| later.received == position))
            && let Some(transaction) = flow.open.pop_front()
        {
            self.emit(&mut flow.credit.events, transaction, context);
        }
    }

    /// Handles the end of a message.
    fn complete(&mut self, flow: &mut Flow, direction: Direction, context: &mut Context<'_>) {
        flow.phases[direction as usize] = Phase::Head;
        self.end_body(flow, direction, context);
        match direction {
            Direction::ToServer => {
                if let Some(transaction) = flow.open.back_mut() {
                    transaction.requested.get_or_insert(context.time());
                }
            }
            Direction::ToClient => {
                if flow.open.front().is_some_and(|transaction| transaction.response != Progress::Interim)
                    && let Some(transaction) = flow.open.pop_front()
                {
                    self.emit(&mut flow.credit.events, transaction, context);
                }
            }
        }
    }

    /// Ends the body that rules inspect.
    fn end_body(&mut self, flow: &mut Flow, direction: Direction, context: &mut Context<'_>) {
        self.handover.end(&mut flow.inspected[direction as usize], direction, context);
    }

    /// Creates a transaction. Returns `None` if too many are open.
    fn open(&mut self, flow: &mut Flow) -> Option<Transaction> {
        if flow.open.len() == MAX_OPEN {
            return None;
        }
        if flow.open.capacity() == 0 {
            flow.open = self.spare_queues.pop().unwrap_or_default();
        }
        let number = flow.transactions;
        flow.transactions = number.wrapping_add(1);
        let packed = self.spare.pop().unwrap_or_default();
        Some(Transaction { fixed: Fixed { number, ..Fixed::default() }, packed, ..Transaction::default() })
    }

    fn emit(&mut self, allowance: &mut Allowance, transaction: Transaction, context: &mut Context<'_>) {
        let Transaction { fixed, packed, unseen, response, .. } = transaction;
        // Of a request that is missing with its response, nothing is known.
        if unseen && response == Progress::None {
            return self.keep_spare(packed);
        }
        if allowance.spend(credit::EVENT + context.relay_cost()) {
            context.record(&TransactionEvent { fixed, values: &packed });
        }
        self.keep_spare(packed);
    }

    /// Holds a buffer for the next transaction.
    fn keep_spare(&mut self, mut packed: Vec<u8>) {
        if packed.capacity() <= MAX_SPARE {
            packed.clear();
            self.spare.push(packed);
        }
    }
}

impl Flow {
    /// Returns true if the next bytes are a head where the body of a response to a missing request should
    /// begin: the request was one whose response has none, such as HEAD.
    fn is_bodiless(&self, bytes: &[u8]) -> bool {
        self.is_unasked() && resumes_response(bytes) == Some(true)
    }

    /// Returns true if the next bytes are TLS where the body of a response to a missing request should begin: the
    /// request was one for a tunnel.
    fn is_in_tunnel(&self, bytes: &[u8]) -> bool {
        self.is_unasked() && tls_begins(Direction::ToClient, bytes) == TlsBegin::At(0)
    }

    /// Returns true if the body of a response to a missing request should begin with the next bytes.
    fn is_unasked(&self) -> bool {
        self.open
            .front()
            .is_some_and(|front| front.unseen && front.response == Progress::Final && front.fixed.length == 0)
            && matches!(self.phases[Direction::ToClient as usize], Phase::Body(_))
    }
}

/// Returns true if the bytes are the beginning of a request, and `None` if more bytes are needed to tell.
/// They follow missing ones, and may be anything.
fn resumes_request(bytes: &[u8]) -> Option<bool> {
    const MAX_LINE: usize = 8192;
    const MAX_METHOD: usize = 20;
    if bytes.len() < MAX_METHOD && bytes.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-') {
        return None;
    }
    if !begins_request(bytes) {
        return Some(false);
    }
    let target = bytes.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    let is_target = matches!(target, [] | [b'/' | b'*' | b'h' | b'H', ..]) || bytes.starts_with(b"CONNECT ");
    if !is_target {
        return Some(false);
    }
    let line = bytes.get(..bytes.len().min(MAX_LINE)).unwrap_or_default();
    match line.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = line.get(..end).unwrap_or_default().trim_ascii_end();
            let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            Some(version.starts_with(b"HTTP/1."))
        }
        None if bytes.len() < MAX_LINE && !line.iter().any(u8::is_ascii_control) => None,
        None => Some(false),
    }
}

/// Does the same for a response.
fn resumes_response(bytes: &[u8]) -> Option<bool> {
    const BEGIN: &[u8] = b"HTTP/1.";
    let len = bytes.len().min(BEGIN.len());
    if bytes.get(..len) != BEGIN.get(..len) {
        return Some(false);
    }
    match bytes.get(BEGIN.len()..) {
        Some([version, space, a, b, c, ..]) => {
            Some(*space == b' ' && [version, a, b, c].iter().all(|it| it.is_ascii_digit()))
        }
        _ => None,
    }
}

/// Returns a host without its port number.
fn without_port(host: &[u8]) -> &[u8] {
    host.iter().position(|&byte| byte == b':').and_then(|at| host.get(..at)).unwrap_or(host).trim_ascii()
}

/// Returns the number of a client's bytes in front of a head: empty lines.
fn skip_request(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// Returns the number of a server's bytes in front of a head: white space, or one other line with a head
/// behind it, which receivers tolerate. Returns `None` if there is no head.
fn skip_response(bytes: &[u8]) -> Option<usize> {
    const MAX_LINE: usize = 512;
    let space = bytes.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0).count();
    let rest = bytes.get(space..)?;
    if space > 0 || begins_response(rest) {
        return Some(space);
    }
    let line = rest.iter().take(MAX_LINE).position(|&byte| byte == b'\n')? + 1;
    let behind = rest.get(line..)?;
    (behind.len() > 4 && begins_response(behind)).then_some(line)
}

/// Returns the end of an HTTP/0.9 request, which is a single line of method and target. The first `seen`
/// bytes were searched before.
fn old_head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    if !bytes.get(seen..)?.contains(&b'\n') {
        return None;
    }
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = bytes.get(..end)?;
    (line.trim_ascii().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count() == 2)
        .then_some(end + 1)
}
