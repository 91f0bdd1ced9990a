//! The open requests of a flow: each waits for its answer.

use std::collections::VecDeque;

use super::statement::Dialect;
use super::{HEAD, Service, ServiceEvent};
use crate::Direction;
use crate::protocol::Output;

/// Requests that wait for an answer at the same time. More are counted, but not recorded.
const MAX_OPEN: usize = 128;
/// Events that wait for the end of an earlier answer.
const MAX_WAITING: usize = 16;
/// Bytes of a request's texts, each; the rest is cut off.
const MAX_OPERATION: usize = 48;
const MAX_OBJECT: usize = 256;
const MAX_STATEMENT: usize = 1024;
/// Bytes of a code.
const MAX_CODE: usize = 24;
/// Bytes of the details of a request.
const MAX_DETAILS: usize = 2048;

/// The result of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// There was no answer, or none is due.
    #[default]
    None,
    /// The server did what was requested.
    Ok,
    /// A set of rows came.
    Rows,
    /// The server failed, or refused.
    Error,
}

impl Status {
    /// Returns the name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ok => "ok",
            Self::Rows => "rows",
            Self::Error => "error",
        }
    }

    /// Returns the status of a packed number.
    pub(super) const fn of(number: u8) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Rows,
            3 => Self::Error,
            _ => Self::None,
        }
    }
}

/// A request, as its message describes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Its identifier, which the answer repeats; 0 if answers come in order.
    pub id: u64,
    /// A number for the protocol's own use.
    pub kind: u8,
    /// The operation.
    pub operation: &'a [u8],
    /// Its object: a table, a key, a topic, a collection. Statements of SQL name theirs themselves.
    pub object: &'a [u8],
    /// The statement.
    pub statement: &'a [u8],
    /// The language of the statement.
    pub dialect: Dialect,
    /// No answer is due.
    pub silent: bool,
}

/// A request that waits for its answer.
#[derive(Debug, Default)]
pub struct Open {
    /// Its identifier.
    pub id: u64,
    /// A number for the protocol's own use.
    pub kind: u8,
    /// The status, as far as it is known.
    pub status: Status,
    /// Rows of the answer.
    pub rows: Option<u64>,
    /// Bytes of the answer.
    pub bytes: u64,
    /// The time of the message that completed the request.
    asked: u64,
    /// Nanoseconds until the first message of the answer.
    latency: Option<u64>,
    /// Operation, object and statement, one behind the other.
    text: Vec<u8>,
    lens: [u16; 2],
    dialect: Dialect,
    code: [u8; MAX_CODE],
    code_len: u8,
    /// Values of the protocol's own, [packed](crate::pack).
    details: Vec<u8>,
    /// The event is due.
    done: bool,
}

impl Open {
    /// Returns true if a part of the answer has come.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.latency.is_some()
    }

    /// Returns the operation.
    #[must_use]
    pub fn operation(&self) -> &[u8] {
        self.text.get(..usize::from(self.lens[0])).unwrap_or_default()
    }

    /// Sets the status to an error with a code.
    pub fn fail(&mut self, code: &[u8]) {
        self.status = Status::Error;
        self.set_code(code);
    }

    /// Sets the code.
    pub fn set_code(&mut self, code: &[u8]) {
        self.code_len = 0;
        for (to, from) in self.code.iter_mut().zip(code) {
            *to = *from;
            self.code_len += 1;
        }
    }

    /// Adds a value of the protocol's own.
    pub fn detail(&mut self, tag: u8, value: &[u8]) {
        if self.details.len() + value.len() + 3 <= MAX_DETAILS {
            crate::pack::put(&mut self.details, tag, value);
        }
    }

    /// Marks the answer as complete.
    pub const fn finish(&mut self) {
        self.done = true;
    }

    fn room(&self) -> usize {
        self.text.capacity() + self.details.capacity()
    }

    fn event<S: Service>(&self) -> ServiceEvent<'_, S> {
        let (operation, rest) = self.text.split_at(usize::from(self.lens[0]).min(self.text.len()));
        let (object, statement) = rest.split_at(usize::from(self.lens[1]).min(rest.len()));
        ServiceEvent {
            operation,
            object,
            statement,
            dialect: self.dialect,
            status: self.status,
            code: self.code.get(..usize::from(self.code_len)).unwrap_or_default(),
            rows: self.rows,
            bytes: self.bytes,
            latency: self.latency,
            details: &self.details,
            omitted: 0,
            service: std::marker::PhantomData,
        }
    }
}

/// The requests of a flow, and buffers that its directions need.
#[derive(Debug, Default)]
pub struct Requests {
    /// The time of the current packet, in nanoseconds since the epoch.
    pub time: u64,
    /// A text that is collected from several messages.
    pub draft: Vec<u8>,
    /// The server has sent a message.
    pub(super) heard: bool,
    open: VecDeque<Open>,
    /// Requests that are not used, held for their memory.
    spare: Vec<Open>,
    /// Open requests behind those in `open`, which had no room.
    beyond: u64,
    /// Requests without an event.
    omitted: u64,
    credit: Credit,
    /// The first bytes of a long message, by direction.
    heads: [Vec<u8>; 2],
}

/// The limit of events per byte of the stream: bytes of records that may be written.
#[derive(Clone, Copy, Debug)]
struct Credit(u32);

impl Credit {
    /// The credit of a new flow, and the most that can be unused.
    const FIRST: u32 = 4096;
    const MOST: u32 = 64 * 1024;
    /// The credit of each packet, and of each byte.
    const A_PACKET: u32 = 1024;
    const A_BYTE: u32 = 8;
    /// The cost of an event, and of each byte of its texts.
    const EVENT: u32 = 400;
    const A_BYTE_OF_TEXT: u32 = 6;
}

impl Default for Credit {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Requests {
    /// Adds a request.
    pub fn push(&mut self, request: Request<'_>) {
        if self.beyond > 0 || self.open.len() >= MAX_OPEN {
            if self.heard || request.silent {
                self.beyond += u64::from(!request.silent);
                self.omitted += 1;
                return;
            }
            // Only the client is seen, so no answer will come.
            if let Some(oldest) = self.open.iter_mut().find(|open| !open.done) {
                oldest.done = true;
            }
        }
        let mut open = self.spare.pop().unwrap_or_default();
        let Request { id, kind, operation, object, statement, dialect, silent } = request;
        let texts = [(operation, MAX_OPERATION), (object, MAX_OBJECT), (statement, MAX_STATEMENT)];
        let [operation, object, statement] = texts.map(|(text, most)| text.get(..most).unwrap_or(text));
        open.text.clear();
        open.details.clear();
        for text in [operation, object, statement] {
            open.text.extend_from_slice(text);
        }
        open.lens = [operation.len() as u16, object.len() as u16];
        (open.id, open.kind, open.dialect, open.done, open.asked) = (id, kind, dialect, silent, self.time);
        (open.status, open.rows, open.bytes, open.latency, open.code_len) = (Status::None, None, 0, None, 0);
        self.open.push_back(open);
    }

    /// Returns the request that the server answers next.
    pub fn front(&mut self) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| !open.done)
    }

    /// Returns the request that was made last, if it is open.
    pub fn back(&mut self) -> Option<&mut Open> {
        self.open.back_mut()
    }

    /// Completes the last request, whose first part was a message of its own.
    pub fn complete(&mut self) {
        let time = self.time;
        if let Some(open) = self.open.back_mut() {
            open.asked = time;
        }
    }

    /// Returns the oldest request with this identifier.
    pub fn find(&mut self, id: u64) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.id == id && !open.done)
    }

    /// Returns the request that a message of the server answers, the next in order, and notes that it was answered.
    /// Returns `None` if there is none.
    pub fn answer(&mut self, len: u64) -> Option<&mut Open> {
        let time = self.time;
        if self.beyond > 0 && !self.open.iter().any(|open| !open.done) {
            self.beyond -= 1;
            return None;
        }
        self.front().map(|open| answered(open, time, len))
    }

    /// Returns the request that a message of the server with this identifier answers.
    pub fn answer_to(&mut self, id: u64, len: u64) -> Option<&mut Open> {
        let time = self.time;
        let is_open = |open: &Open| open.id == id && !open.done;
        if self.beyond > 0 && !self.open.iter().any(is_open) {
            self.beyond -= 1;
            return None;
        }
        self.find(id).map(|open| answered(open, time, len))
    }

    /// Adds the credit of a packet with this many new bytes.
    pub(super) fn earn(&mut self, bytes: usize) {
        let earned = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_mul(Credit::A_BYTE);
        let sum = self.credit.0.saturating_add(Credit::A_PACKET).saturating_add(earned);
        self.credit.0 = sum.min(Credit::MOST);
    }

    /// Emits the events that are due.
    pub(super) fn emit<S: Service>(&mut self, output: &mut impl Output) {
        if S::ORDERED {
            while self.open.front().is_some_and(|open| open.done) {
                self.record::<S>(0, output);
            }
        } else {
            while let Some(at) = self.due() {
                self.record::<S>(at, output);
            }
        }
    }

    /// Returns the request whose event comes next, if answers have identifiers. It waits while the answer to an earlier
    /// request is still coming, so that events of long answers keep their order.
    fn due(&self) -> Option<usize> {
        let at = self.open.iter().position(|open| open.done)?;
        let waits = self.open.iter().take(at).any(Open::is_answered);
        let crowded = || self.open.iter().filter(|open| open.done).count() > MAX_WAITING;
        (!waits || crowded()).then_some(at)
    }

    /// Emits the event of a request and removes it.
    fn record<S: Service>(&mut self, at: usize, output: &mut impl Output) {
        let Some(open) = self.open.remove(at) else { return };
        let text = (open.text.len() + open.details.len()) as u32;
        match self.credit.0.checked_sub(Credit::EVENT + Credit::A_BYTE_OF_TEXT * text) {
            Some(left) => {
                self.credit.0 = left;
                output.record(&open.event::<S>());
            }
            None => self.omitted += 1,
        }
        self.spare.push(open);
    }

    /// Marks all requests as done: their answers cannot be recognised.
    pub(super) fn give_up(&mut self) {
        self.open.iter_mut().for_each(Open::finish);
        self.beyond = 0;
        self.draft.clear();
    }

    /// Emits the events of all requests, and of how many there are none.
    pub(super) fn end<S: Service>(&mut self, output: &mut impl Output) {
        self.give_up();
        self.emit::<S>(output);
        if self.omitted > 0 {
            output.record(&ServiceEvent::<S> { omitted: self.omitted, ..ServiceEvent::default() });
            self.omitted = 0;
        }
    }

    /// Prepares for another flow. Memory beyond the usual is released.
    pub(super) fn clear(&mut self) {
        const USUAL: usize = 4;
        self.give_up();
        while let Some(open) = self.open.pop_back() {
            self.spare.push(open);
        }
        while self.spare.len() > USUAL {
            self.spare.pop();
        }
        self.open.shrink_to(MAX_OPEN);
        (self.omitted, self.heard, self.credit) = (0, false, Credit::default());
    }

    pub(super) fn keep_head(&mut self, direction: Direction, bytes: &[u8]) {
        let head = &mut self.heads[direction as usize];
        head.clear();
        head.extend_from_slice(bytes.get(..HEAD).unwrap_or(bytes));
    }

    pub(super) fn take_head(&mut self, direction: Direction) -> Vec<u8> {
        std::mem::take(&mut self.heads[direction as usize])
    }

    pub(super) fn return_head(&mut self, direction: Direction, head: Vec<u8>) {
        self.heads[direction as usize] = head;
    }

    /// Returns the bytes of memory that are held.
    pub(super) fn room(&self) -> usize {
        let heads: usize = self.heads.iter().map(Vec::capacity).sum();
        let requests: usize = self.open.iter().chain(&self.spare).map(Open::room).sum();
        requests + heads + self.draft.capacity() + self.open.capacity() * size_of::<Open>()
    }
}

/// Notes a message of the answer to a request.
const fn answered(open: &mut Open, time: u64, len: u64) -> &mut Open {
    if open.latency.is_none() {
        open.latency = Some(time.saturating_sub(open.asked));
    }
    open.bytes += len;
    open
}
