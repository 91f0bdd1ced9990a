//! Services: databases, caches and queues. Clients send requests, servers answer them, and each request becomes an
//! event with the object `service`, whatever the protocol.
//!
//! A protocol implements [`Service`]: it cuts a stream into messages and says what each means for the [`Requests`].
//! [`Analyzer`] does the rest, for all of them alike: long messages, of which only the beginning is kept; bytes that
//! are missing, also at the end of each packet; streams that are seen from their middle on; the limits of memory
//! and of events.

mod event;
mod requests;
mod statement;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

pub use event::ServiceEvent;
pub use requests::{Open, Request, Requests, Status};
pub use statement::Dialect;

use crate::Direction::{self, ToClient};
use crate::detect::Signature;
use crate::eve::EveWriter;
use crate::preamble::{TlsBegin, tls_begins};
use crate::protocol::{Consumed, Event, Example, Output, Protocol};

/// A protocol of requests and answers.
pub trait Service: Debug + Default + Send + 'static {
    /// The `event_type` of its events.
    const TYPE: &'static str;
    /// See [`Protocol::SIGNATURES`].
    const SIGNATURES: &'static [Signature];
    /// See [`Protocol::EXAMPLE`].
    const EXAMPLE: Example;
    /// The server answers in the order of the requests. Otherwise, answers have identifiers.
    const ORDERED: bool = true;

    /// The state of a flow.
    type State: Debug + Default + Send + 'static;

    /// Finds the end of the message that these bytes begin with.
    fn frame(state: &Self::State, direction: Direction, bytes: &[u8]) -> Frame;

    /// Processes a message.
    fn message(
        state: &mut Self::State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict;

    /// Returns true if a message seems to begin here: in the middle of a stream, at the beginning of a segment.
    fn begins(direction: Direction, bytes: &[u8]) -> bool;

    /// Returns true if these first bytes of a flow show that client and server were mistaken for each other: the
    /// connection is older than the capture, and the ports do not tell.
    #[must_use]
    fn is_reversed(_direction: Direction, _bytes: &[u8]) -> bool {
        false
    }

    /// Writes the event of a request. Overridden by protocols with details of their own.
    ///
    /// # Errors
    ///
    /// Fails if a value has no JSON form.
    fn write(event: &ServiceEvent<'_, Self>, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.service(None::<&()>, Some(&event.object(writer.literals())))
    }
}

/// The end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed to find it.
    More,
    /// There is no message here.
    No,
    /// The message has this many bytes.
    Message(u64),
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its bytes; of a long message at least the first [`HEAD`], unless some of them are missing.
    pub bytes: &'a [u8],
    /// Its length.
    pub len: u64,
}

/// The data that follows a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More messages of the protocol.
    Next,
    /// Nothing that can be read: the connection continues encrypted or compressed.
    Done,
}

/// Bytes of a message that are kept until the rest of it has come.
pub const HEAD: usize = 1536;
/// The longest line without its end, in protocols of lines.
pub const MAX_LINE: usize = 2048;
/// Times that no message was where one should be, after which the flow is given up.
const MAX_BAD: u8 = 8;
/// Idle [`Requests`] of a worker.
const MAX_SPARE: usize = 256;

/// The analyzer of a protocol.
#[derive(Debug, Default)]
pub struct Analyzer<S: Service> {
    /// Requests that no flow uses, held for their memory.
    #[expect(clippy::vec_box, reason = "they move between flows and this list without a copy")]
    spare: Vec<Box<Requests>>,
    /// Of the protocol, which has no value.
    _service: S,
}

/// The state of a flow.
#[derive(Debug)]
pub struct Flow<S: Service> {
    state: S::State,
    sides: [Side; 2],
    requests: Option<Box<Requests>>,
    /// Bytes that were no messages, since the last one that was.
    bad: u8,
    /// There was a message.
    good: bool,
    /// Client and server were mistaken for each other; `None` until there were bytes.
    reversed: Option<bool>,
}

impl<S: Service> Default for Flow<S> {
    fn default() -> Self {
        Self {
            state: S::State::default(),
            sides: [Side::default(); 2],
            requests: None,
            bad: 0,
            good: false,
            reversed: None,
        }
    }
}

/// The position in a direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Bytes of the current message that have not come yet. Its beginning is kept in the requests.
    rest: u64,
    /// Length of the current message.
    len: u64,
    /// It is unknown where messages begin.
    lost: bool,
}

impl<S: Service> Protocol for Analyzer<S> {
    type Flow = Flow<S>;

    const SIGNATURES: &'static [Signature] = S::SIGNATURES;
    const EXAMPLE: Example = S::EXAMPLE;

    fn data(
        &mut self,
        flow: &mut Flow<S>,
        direction: Direction,
        event: Event<'_>,
        output: &mut impl Output,
    ) -> Consumed {
        if !output.is_stream() {
            return Consumed::Done;
        }
        let direction = if flow.is_reversed(direction, event) { direction.reverse() } else { direction };
        let mut requests = flow.requests.take().unwrap_or_else(|| self.spare.pop().unwrap_or_default());
        requests.time = output.time();
        let outcome = match event {
            Event::Data { bytes, new } => {
                requests.earn(bytes.len().saturating_sub(new));
                flow.bytes(direction, bytes, &mut requests, output)
            }
            Event::Gap { bytes, len } => {
                flow.gap(direction, bytes, len as u64, &mut requests, output);
                Consumed::Used(0)
            }
            Event::End { .. } => Consumed::Close,
        };
        if outcome == Consumed::Done {
            requests.end::<S>(output);
        }
        flow.requests = Some(requests);
        outcome
    }

    fn end(&mut self, flow: &mut Flow<S>, output: &mut impl Output) {
        if let Some(mut requests) = flow.requests.take() {
            requests.end::<S>(output);
            requests.clear();
            if self.spare.len() < MAX_SPARE {
                self.spare.push(requests);
            }
        }
    }

    fn held(flow: &Flow<S>) -> usize {
        flow.requests.as_ref().map_or(0, |requests| requests.room())
    }
}

impl<S: Service> Flow<S> {
    /// Returns true if client and server were mistaken for each other, as the first bytes show.
    fn is_reversed(&mut self, direction: Direction, event: Event<'_>) -> bool {
        if let Event::Data { bytes, .. } = event
            && self.reversed.is_none()
        {
            self.reversed = Some(S::is_reversed(direction, bytes));
        }
        self.reversed == Some(true)
    }

    fn bytes(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        requests: &mut Requests,
        output: &mut impl Output,
    ) -> Consumed {
        if self.sides[direction as usize].lost {
            if !S::begins(direction, bytes) {
                self.bad += u8::from(!self.good);
                let is_over = self.bad >= MAX_BAD || is_tls(direction, bytes);
                return if is_over { Consumed::Done } else { Consumed::Used(bytes.len()) };
            }
            self.sides[direction as usize].lost = false;
        }
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let side = &mut self.sides[direction as usize];
            if side.rest > 0 {
                let taken = rest.len().min(usize::try_from(side.rest).unwrap_or(usize::MAX));
                side.rest -= taken as u64;
                used += taken;
                if side.rest > 0 {
                    return Consumed::Used(used);
                }
                if self.finish(direction, requests, output) == Verdict::Done {
                    return Consumed::Done;
                }
                continue;
            }
            if rest.is_empty() {
                return Consumed::Used(used);
            }
            if is_tls(direction, rest) {
                return Consumed::Done;
            }
            match S::frame(&self.state, direction, rest) {
                Frame::More => return Consumed::Used(used),
                Frame::No | Frame::Message(0) => {
                    self.bad += 1;
                    if self.bad >= MAX_BAD {
                        return Consumed::Done;
                    }
                    self.lose(direction, requests, output);
                    return Consumed::Used(bytes.len());
                }
                Frame::Message(len) => {
                    if let Some(message) = usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
                        used += message.len();
                        if self.deliver(direction, Message { bytes: message, len }, requests, output)
                            == Verdict::Done
                        {
                            return Consumed::Done;
                        }
                    } else if rest.len() < HEAD {
                        return Consumed::Used(used);
                    } else {
                        self.begin(direction, rest, len, requests);
                        return Consumed::Used(bytes.len());
                    }
                }
            }
        }
    }

    /// Begins a long message, of which these bytes have come.
    fn begin(&mut self, direction: Direction, bytes: &[u8], len: u64, requests: &mut Requests) {
        let side = &mut self.sides[direction as usize];
        (side.len, side.rest) = (len, len - bytes.len() as u64);
        requests.keep_head(direction, bytes);
    }

    /// Processes a long message, whose last byte has come.
    fn finish(&mut self, direction: Direction, requests: &mut Requests, output: &mut impl Output) -> Verdict {
        let head = requests.take_head(direction);
        let message = Message { bytes: &head, len: self.sides[direction as usize].len };
        let verdict = self.deliver(direction, message, requests, output);
        requests.return_head(direction, head);
        verdict
    }

    fn deliver(
        &mut self,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
        output: &mut impl Output,
    ) -> Verdict {
        (self.bad, self.good) = (0, true);
        requests.heard |= direction == ToClient;
        let verdict = S::message(&mut self.state, direction, message, requests);
        requests.emit::<S>(output);
        verdict
    }

    /// Processes a gap. Missing bytes of a message whose length is known do no harm.
    fn gap(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        len: u64,
        requests: &mut Requests,
        output: &mut impl Output,
    ) {
        if self.sides[direction as usize].lost {
            return;
        }
        if self.sides[direction as usize].rest == 0
            && !bytes.is_empty()
            && let Frame::Message(whole) = S::frame(&self.state, direction, bytes)
            && whole > bytes.len() as u64
        {
            self.begin(direction, bytes, whole, requests);
        }
        let side = &mut self.sides[direction as usize];
        if len == 0 || len > side.rest {
            self.lose(direction, requests, output);
            return;
        }
        side.rest -= len;
        if side.rest == 0 {
            self.finish(direction, requests, output);
        }
    }

    /// Gives up the position in a direction. Which answers belong to which requests is unknown, too, if they have no
    /// identifiers.
    fn lose(&mut self, direction: Direction, requests: &mut Requests, output: &mut impl Output) {
        self.sides[direction as usize] = Side { lost: true, ..Side::default() };
        self.state = S::State::default();
        if S::ORDERED {
            requests.give_up();
            requests.emit::<S>(output);
        }
    }
}

/// Returns true if TLS begins here.
fn is_tls(direction: Direction, bytes: &[u8]) -> bool {
    bytes.first() == Some(&22) && tls_begins(direction, bytes) == TlsBegin::At(0)
}

/// Returns the first line of these bytes with its end; `Err` if there is none within [`MAX_LINE`].
///
/// # Errors
///
/// Fails with the frame to return: more bytes are needed, or there is no line.
pub fn line(bytes: &[u8]) -> Result<&[u8], Frame> {
    match bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\n') {
        Some(end) => Ok(bytes.get(..=end).unwrap_or(bytes)),
        None if bytes.len() < MAX_LINE => Err(Frame::More),
        None => Err(Frame::No),
    }
}

/// Parses a decimal number.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns true if a statement of SQL begins here.
#[must_use]
pub fn is_sql(bytes: &[u8]) -> bool {
    statement::is_sql(bytes)
}
