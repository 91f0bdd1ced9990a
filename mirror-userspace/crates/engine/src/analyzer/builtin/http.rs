//! HTTP/1.x: each request with its response becomes an event.

use std::collections::VecDeque;
use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::http::{
    Body, Fixed, Request, Response, Taken, TransactionEvent, begins_request, begins_response, head_end, tag,
};
use mirror_protocols::pack;
use mirror_protocols::preamble::{TlsBegin, tls_begins};

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::credit::{self, Allowance, Credit};
use crate::analyzer::{Analyzer, Consumed, Context, Event};
use crate::indicators::Indicators;

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

/// A request that waits for its response, or whose response is in progress.
#[derive(Clone, Debug, Default)]
struct Transaction {
    fixed: Fixed,
    method: Method,
    /// The final response has not begun.
    interim: bool,
    /// The head of the final response has been received.
    answered: bool,
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
#[derive(Clone, Debug, Default)]
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
}

/// Emits an event for each HTTP/1.x transaction.
#[derive(Clone, Debug, Default)]
pub struct Http {
    watch: Watch,
    /// Buffers and queues that no flow uses.
    spare: Vec<Vec<u8>>,
    spare_queues: Vec<VecDeque<Transaction>>,
}

/// The data that follows a head.
enum Next {
    /// The message's body.
    Body(Body),
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
        match event {
            // It is not known any more which request is answered.
            _ if flow.crowded && direction == Direction::ToClient => Consumed::Close,
            Event::Data { bytes, new } => {
                flow.credit.earn(bytes.len().saturating_sub(new));
                self.bytes(flow, direction, bytes, new, context)
            }
            Event::Gap { bytes, len } => {
                self.unfinished(flow, direction, bytes, context);
                self.gap(flow, direction, len, context);
                Consumed::Used(0)
            }
            Event::End { bytes, .. } => {
                self.unfinished(flow, direction, bytes, context);
                Consumed::Close
            }
        }
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch.set(indicators);
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
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
        flow.open.capacity() * size_of::<Transaction>() + packed
    }

    fn forget(&mut self, flow: &mut Flow) {
        flow.phases = [Phase::Lost; 2];
        flow.open = VecDeque::new();
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
    fn bytes(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        bytes: &[u8],
        new: usize,
        context: &mut Context<'_>,
    ) -> Consumed {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
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
                        Direction::ToServer => self.request(flow, head, context),
                        Direction::ToClient => self.response(flow, head, context),
                    };
                    at += end;
                    let body = match next {
                        Some(Next::Body(body)) => body,
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
                    let Taken { used, data } = body.take(rest);
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
                        Direction::ToServer => begins_request(rest),
                        Direction::ToClient => rest.len() > 12 && begins_response(rest),
                    };
                    if !found {
                        return Consumed::Used(bytes.len());
                    }
                    flow.phases[direction as usize] = Phase::Head;
                }
            }
        }
        Consumed::Used(at)
    }

    /// Continues behind missing bytes.
    fn gap(&mut self, flow: &mut Flow, direction: Direction, len: usize, context: &mut Context<'_>) {
        const MIN_HEAD: usize = b"HTTP/1.1 200\r\n\r\n".len();
        let phase = &mut flow.phases[direction as usize];
        let (behind, complete) = match phase {
            Phase::Body(body) if len > 0 => (body.miss(len), body.is_complete()),
            Phase::Body(_) | Phase::Head | Phase::Lost => (None, false),
        };
        if behind != Some(0) {
            *phase = Phase::Lost;
        }
        let Some(behind) = behind else { return };
        if direction == Direction::ToClient
            && let Some(transaction) = flow.open.front_mut()
        {
            transaction.fixed.length += (len - behind) as u64;
        }
        if complete {
            let phase = flow.phases[direction as usize];
            self.complete(flow, direction, context);
            flow.phases[direction as usize] = if behind == 0 { Phase::Head } else { phase };
        }
        // The next response is missing, too.
        if direction == Direction::ToClient
            && behind >= MIN_HEAD
            && let Some(transaction) = flow.open.pop_front()
        {
            self.emit(&mut flow.credit.events, transaction, context);
        }
    }

    /// Processes the received part of a head that will not be completed.
    fn unfinished(&mut self, flow: &mut Flow, direction: Direction, head: &[u8], context: &mut Context<'_>) {
        const STATUS: usize = b"HTTP/1.1 200".len();
        if flow.phases[direction as usize] != Phase::Head {
            return;
        }
        match direction {
            Direction::ToServer if begins_request(head) && head.contains(&b'\n') => {
                self.request(flow, head, context);
            }
            Direction::ToClient if begins_response(head) && head.len() >= STATUS => {
                self.response(flow, head, context);
            }
            _ => {}
        }
    }

    /// Processes the head of a request.
    fn request(&mut self, flow: &mut Flow, head: &[u8], context: &mut Context<'_>) -> Option<Next> {
        let request = Request::parse(head);
        if request.method.is_empty() || request.target.is_empty() {
            // Garbage between requests.
            flow.cruft = flow.cruft.saturating_add(1);
            let next = if flow.cruft > MAX_CRUFT { Next::Lost } else { Next::Body(Body::Length(0)) };
            return Some(next);
        }
        if let Some(host) = request.host() {
            let host = without_port(host);
            self.watch.one_of_names(Cause::Host, host, &mut flow.credit.alerts, context);
        }
        let Some(mut transaction) = self.open(flow) else {
            flow.credit.events.omit();
            flow.crowded = true;
            return self.watch.is_on().then(|| Next::Body(request.body()));
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
        let body = request.body();
        transaction.requested = body.is_complete().then_some(context.time());
        flow.open.push_back(transaction);
        Some(Next::Body(body))
    }

    /// Processes the head of a response.
    fn response(&mut self, flow: &mut Flow, head: &[u8], context: &mut Context<'_>) -> Option<Next> {
        let response = Response::parse(head);
        // The end of the previous response is in a gap.
        if flow.open.front().is_some_and(|front| front.answered)
            && let Some(transaction) = flow.open.pop_front()
        {
            self.emit(&mut flow.credit.events, transaction, context);
        }
        if flow.open.is_empty() {
            let transaction = self.open(flow)?;
            flow.open.push_back(transaction);
        }
        let transaction = flow.open.front_mut()?;
        transaction.fixed.status = response.status.unwrap_or_default();
        transaction.interim = response.is_interim();
        if transaction.interim {
            return Some(Next::Body(Body::Length(0)));
        }
        transaction.answered = true;
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
        match transaction.method {
            _ if response.switches_protocols() => Some(Next::Other),
            Method::Connect if response.is_successful() => Some(Next::Other),
            Method::Head => Some(Next::Body(Body::Length(0))),
            _ => Some(Next::Body(response.body())),
        }
    }

    /// Handles the end of a message.
    fn complete(&mut self, flow: &mut Flow, direction: Direction, context: &mut Context<'_>) {
        flow.phases[direction as usize] = Phase::Head;
        match direction {
            Direction::ToServer => {
                if let Some(transaction) = flow.open.back_mut() {
                    transaction.requested.get_or_insert(context.time());
                }
            }
            Direction::ToClient => {
                if flow.open.front().is_some_and(|transaction| !transaction.interim)
                    && let Some(transaction) = flow.open.pop_front()
                {
                    self.emit(&mut flow.credit.events, transaction, context);
                }
            }
        }
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
        let Transaction { fixed, packed, .. } = transaction;
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
