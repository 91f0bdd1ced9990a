//! Redis: commands and their answers (RESP2 and RESP3). Pushed messages answer no command.

mod command;
#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{
    Analyzer, Frame, HEAD, Message, Request, Requests, Service, Status, Verdict, line, number,
};

/// The analyzer.
pub type Redis = Analyzer<Resp>;

/// The port of the protocol's servers.
const PORT: u16 = 6379;
/// The longest first line of a value that has one for its length only.
const MAX_LENGTH_LINE: usize = 24;
/// The longest value (`proto-max-bulk-len`).
const MAX_BULK: u64 = 512 << 20;
/// Values of a command or of an answer. More than that is not RESP.
const MAX_VALUES: u64 = 1 << 32;

/// RESP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resp;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Values of the current command that have not come yet.
    arguments: u64,
    /// Length of the first word in [`Requests::draft`].
    operation: u16,
    /// Values of the current answer that have not come yet.
    values: u64,
    /// The kind of the current answer's first value.
    kind: u8,
    /// Bytes of the current answer.
    bytes: u64,
    /// Elements of the current answer, if it is a list.
    rows: Option<u64>,
    /// The first element of the current answer has come.
    is_begun: bool,
    /// The current answer is a pushed message.
    is_push: bool,
}

impl Service for Resp {
    const TYPE: &'static str = "redis";

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Redis, Some(ToServer), &[], Test::Content(probe_command)),
        Signature::stream(AppProto::Redis, None, &[PORT], Test::Content(probe_answer)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: PORT },
        payloads: &[
            (
                ToServer,
                b"*3\r\n$3\r\nSET\r\n$7\r\nuser:17\r\n$5\r\nalice\r\n*2\r\n$3\r\nget\r\n$7\r\nuser:17\r\n",
            ),
            (ToClient, b"+OK\r\n$5\r\nalice\r\n"),
            (ToServer, b"*2\r\n$4\r\nINCR\r\n$7\r\nuser:17\r\n"),
            (ToClient, b"-ERR value is not an integer or out of range\r\n"),
            (ToServer, b"*4\r\n$6\r\nLRANGE\r\n$1\r\na\r\n$1\r\n0\r\n$1\r\n9\r\n"),
            (ToClient, b"*2\r\n$1\r\nx\r\n%1\r\n+k\r\n:1\r\n"),
            (ToServer, b"PING\r\n"),
            (ToClient, b"+PONG\r\n"),
        ],
    };

    type State = State;

    fn frame(state: &State, direction: Direction, bytes: &[u8]) -> Frame {
        let Some(&kind) = bytes.first() else { return Frame::More };
        let is_inline = direction == ToServer && state.arguments == 0 && kind.is_ascii_alphabetic();
        if !is_inline && !b"*$+-:,#(_!=%~>|".contains(&kind) {
            return Frame::No;
        }
        let text = match line(bytes) {
            Ok(text) => text,
            Err(frame) => return frame,
        };
        if is_inline || matches!(kind, b'+' | b'-' | b',' | b'#' | b'(' | b'_' | b':') {
            return Frame::Message(text.len() as u64);
        }
        let Some(count) = count(text) else { return Frame::No };
        match kind {
            b'$' | b'!' | b'=' if count > MAX_BULK => Frame::No,
            b'$' | b'!' | b'=' if !is_null(text) => Frame::Message(text.len() as u64 + count + 2),
            _ => Frame::Message(text.len() as u64),
        }
    }

    fn message(
        state: &mut State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict {
        match direction {
            ToServer => state.command(message, requests),
            ToClient => state.answer(message, requests),
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_command(bytes) == Probe::Yes,
            ToClient => probe_answer(bytes) == Probe::Yes,
        }
    }

    fn is_reversed(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => matches!(bytes, [b'+' | b'-' | b':' | b'$', ..]),
            ToClient => probe_command(bytes) == Probe::Yes,
        }
    }
}

/// Returns the number in the first line of a value; 0 for null.
fn count(line: &[u8]) -> Option<u64> {
    let digits = line.get(1..)?.trim_ascii_end();
    if line.len() > MAX_LENGTH_LINE {
        return None;
    }
    if is_null(line) {
        Some(0)
    } else {
        number(digits).filter(|&count| count < MAX_VALUES && !digits.is_empty())
    }
}

/// Returns true for a value of no length: null in RESP2.
fn is_null(line: &[u8]) -> bool {
    line.get(1..).is_some_and(|rest| rest.starts_with(b"-1"))
}

/// Returns the text of a value: of a long one behind its first line, without its end.
fn text(message: &[u8]) -> &[u8] {
    let (Some(&kind), Ok(first)) = (message.first(), line(message)) else { return &[] };
    match kind {
        b'$' | b'!' => {
            let text = message.get(first.len()..).unwrap_or_default();
            let whole = count(first).and_then(|len| text.get(..usize::try_from(len).ok()?));
            whole.unwrap_or(text)
        }
        _ => first.get(1..).unwrap_or_default().trim_ascii_end(),
    }
}

impl State {
    /// Processes a value that the client has sent.
    fn command(&mut self, message: Message<'_>, requests: &mut Requests) {
        let kind = message.bytes.first().copied().unwrap_or_default();
        if self.arguments == 0 {
            self.operation = 0;
            requests.draft.clear();
            if kind == b'*' {
                self.arguments = line(message.bytes).ok().and_then(count).unwrap_or(0);
                return;
            }
            let words = message.bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.for_each(|word| self.argument(word, requests));
        } else {
            self.arguments -= 1;
            self.argument(text(message.bytes), requests);
        }
        if self.arguments == 0 && self.operation > 0 {
            self.complete(requests);
        }
    }

    fn argument(&mut self, word: &[u8], requests: &mut Requests) {
        let is_operation = self.operation == 0;
        if !is_operation && requests.draft.len() > usize::from(self.operation) {
            requests.draft.push(b' ');
        }
        let room = HEAD.saturating_sub(requests.draft.len());
        let word = word.get(..room).unwrap_or(word);
        requests.draft.extend_from_slice(word);
        if is_operation {
            requests.draft.make_ascii_uppercase();
            self.operation = word.len() as u16;
        }
    }

    /// Adds the request of a complete command.
    fn complete(&self, requests: &mut Requests) {
        let draft = std::mem::take(&mut requests.draft);
        let (operation, arguments) = draft.split_at(usize::from(self.operation).min(draft.len()));
        let command::Form { dialect, has_key } = command::form(operation);
        let key = arguments.split(|&byte| byte == b' ').next().filter(|_| has_key).unwrap_or_default();
        requests.push(Request {
            operation,
            object: key,
            statement: arguments,
            dialect,
            ..Request::default()
        });
        requests.draft = draft;
    }

    /// Processes a value that the server has sent.
    fn answer(&mut self, message: Message<'_>, requests: &mut Requests) {
        let kind = message.bytes.first().copied().unwrap_or_default();
        let elements = match kind {
            b'*' | b'~' | b'>' => line(message.bytes).ok().and_then(count).unwrap_or(0),
            b'%' | b'|' => 2 * line(message.bytes).ok().and_then(count).unwrap_or(0),
            _ => 0,
        };
        // An attribute comes in front of the answer that it is about.
        if self.values == 0 || (self.kind == b'|' && self.values == 1) {
            let is_list = matches!(kind, b'*' | b'~' | b'%');
            (self.kind, self.values, self.bytes) = (kind, 1, 0);
            self.is_begun = false;
            self.rows = Some(elements).filter(|_| is_list && !is_null(message.bytes));
            self.is_push = kind == b'>';
        } else if !self.is_begun {
            self.is_begun = true;
            self.classify(text(message.bytes), requests);
        }
        self.bytes += message.len;
        self.values = (self.values - u64::from(kind != b'|')).saturating_add(elements);
        if self.values == 0 && !self.is_push {
            self.answered(message, requests);
        }
    }

    /// Finds out from the first element of a list whether it was pushed.
    fn classify(&mut self, first: &[u8], requests: &mut Requests) {
        if !matches!(self.kind, b'*' | b'>') {
            return;
        }
        let is = |word: &[u8]| first.eq_ignore_ascii_case(word);
        if [&b"message"[..], b"pmessage", b"smessage"].into_iter().any(is) {
            // In RESP2, only its first element distinguishes it from an answer.
            let asks = requests.front().is_some_and(|open| command::subscribes(open.operation()));
            self.is_push = self.kind == b'>'
                || self.rows.is_some_and(|rows| rows <= 4) && (asks || requests.front().is_none());
        } else if command::subscribes(first) {
            // A subscription to several channels has several answers.
            self.is_push = !requests.front().is_some_and(|open| is(open.operation()));
        }
    }

    fn answered(&self, message: Message<'_>, requests: &mut Requests) {
        let Some(open) = requests.answer(self.bytes) else { return };
        open.rows = self.rows;
        open.status = Status::Ok;
        if matches!(self.kind, b'-' | b'!') {
            let mut words = text(message.bytes).split(u8::is_ascii_whitespace);
            open.fail(words.next().unwrap_or_default());
        }
        open.finish();
    }
}

/// Matches a command: a list of strings, of which the first is a word.
fn probe_command(bytes: &[u8]) -> Probe {
    if bytes.first() != Some(&b'*') {
        return Probe::No;
    }
    let mut at = 1;
    for (begin, most) in [(b'*', 7), (b'$', 2)] {
        if begin == b'$' {
            match bytes.get(at) {
                Some(b'$') => at += 1,
                Some(_) => return Probe::No,
                None => return short(bytes),
            }
        }
        let digits =
            bytes.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let behind = bytes.get(at + digits..).unwrap_or_default();
        match behind {
            _ if digits > most => return Probe::No,
            [b'\r', b'\n', ..] if digits > 0 => at += digits + 2,
            [] | [b'\r'] => return short(bytes),
            _ => return Probe::No,
        }
    }
    match bytes.get(at) {
        Some(first) => first.is_ascii_alphabetic().into(),
        None => short(bytes),
    }
}

/// Returns the verdict on bytes that fit as far as they go.
fn short(bytes: &[u8]) -> Probe {
    const MIN: usize = 5;
    if bytes.len() <= MIN { Probe::More } else { Probe::Yes }
}

/// Matches a value.
fn probe_answer(bytes: &[u8]) -> Probe {
    match Resp::frame(&State::default(), ToClient, bytes) {
        Frame::Message(_) => line(bytes).is_ok_and(|line| line.ends_with(b"\r\n")).into(),
        Frame::More if bytes.len() < MAX_LENGTH_LINE => Probe::More,
        Frame::More | Frame::No => Probe::No,
    }
}
