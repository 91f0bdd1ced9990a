//! Cassandra: the native protocol (CQL), versions 3 to 5.

#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{
    Analyzer, Dialect, Frame, Message, Open, Request, Requests, Service, Status, Verdict, is_sql,
};

/// The analyzer.
pub type Cassandra = Analyzer<Cql>;

/// The port of the protocol's servers.
const PORT: u16 = 9042;
/// Bytes of a header: version, flags, stream, operation, length.
const HEADER: usize = 9;
/// The longest message.
const MAX_LEN: u32 = 256 << 20;
/// Bytes around the messages of a frame of version 5: its length with a checksum, and a checksum.
const OUTER: usize = 6;
const TRAILER: usize = 4;

/// Bits of the flags.
const COMPRESSED: u8 = 1;
const TRACED: u8 = 2;
const PAYLOAD: u8 = 4;
const WARNED: u8 = 8;

const ERROR: u8 = 0;
const STARTUP: u8 = 1;
const READY: u8 = 2;
const AUTHENTICATE: u8 = 3;
const QUERY: u8 = 7;
const RESULT: u8 = 8;
const PREPARE: u8 = 9;
const EVENT: u8 = 0x0c;
const BATCH: u8 = 0x0d;

/// Messages with the number of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cql;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Messages are in frames, as version 5 has them behind its start.
    framed: [bool; 2],
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    version: u8,
    flags: u8,
    stream: u16,
    operation: u8,
    len: u32,
}

impl Header {
    fn parse(direction: Direction, bytes: &[u8]) -> Option<Self> {
        let [version, flags, high, low, operation, a, b, c, d, ..] = *bytes else { return None };
        let stream = u16::from_be_bytes([high, low]);
        let header =
            Self { version: version & 0x7f, flags, stream, operation, len: u32::from_be_bytes([a, b, c, d]) };
        let from_server = version & 0x80 != 0;
        let known = match direction {
            ToServer => name(operation).is_some(),
            ToClient => matches!(operation, ERROR | READY | AUTHENTICATE | 6 | RESULT | EVENT | 0x0e | 0x10),
        };
        let fits = matches!(header.version, 3..=5) && flags < 0x20 && header.len < MAX_LEN;
        (fits && known && from_server == (direction == ToClient)).then_some(header)
    }
}

/// Returns the name of a request.
const fn name(operation: u8) -> Option<&'static str> {
    Some(match operation {
        STARTUP => "STARTUP",
        5 => "OPTIONS",
        QUERY => "QUERY",
        PREPARE => "PREPARE",
        0x0a => "EXECUTE",
        0x0b => "REGISTER",
        BATCH => "BATCH",
        0x0f => "AUTH_RESPONSE",
        _ => return None,
    })
}

impl Service for Cql {
    const TYPE: &'static str = "cassandra";
    const ORDERED: bool = false;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Cassandra, Some(ToServer), &[], Test::Content(probe_any)),
        Signature::stream(AppProto::Cassandra, Some(ToServer), &[PORT], Test::Content(probe_request)),
        Signature::stream(AppProto::Cassandra, Some(ToClient), &[PORT], Test::Content(probe_response)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: PORT },
        payloads: &[
            (ToServer, b"\x04\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.4.4"),
            (ToClient, b"\x84\0\0\0\x02\0\0\0\0"),
            (ToServer, b"\x04\0\0\x01\x07\0\0\0\x24\0\0\0\x1dSELECT a FROM ks.t WHERE b=17\0\x01\0"),
            (ToServer, b"\x04\0\0\x02\x07\0\0\0\x11\0\0\0\x0aDROP TABLE\0\x01\0"),
            (ToClient, b"\x84\0\0\x02\0\0\0\0\x09\0\0\x20\0\0\x03bad"),
            (ToClient, b"\x84\0\0\x01\x08\0\0\0\x10\0\0\0\x02\0\0\0\x04\0\0\0\x01\0\0\0\x03"),
        ],
    };

    type State = State;

    fn frame(state: &State, direction: Direction, bytes: &[u8]) -> Frame {
        if state.framed[direction as usize] {
            let [a, b, c, _, _, _, ..] = *bytes else { return Frame::More };
            let len = u32::from_le_bytes([a, b, c, 0]) & 0x1_ffff;
            return Frame::Message(u64::from(len) + (OUTER + TRAILER) as u64);
        }
        match Header::parse(direction, bytes) {
            Some(header) => Frame::Message(u64::from(header.len) + HEADER as u64),
            None if bytes.len() < HEADER => Frame::More,
            None => Frame::No,
        }
    }

    fn message(
        state: &mut State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict {
        if !state.framed[direction as usize] {
            return one(state, direction, message, requests);
        }
        let end = message.bytes.len().saturating_sub(TRAILER);
        let mut rest = message.bytes.get(OUTER..end).unwrap_or_default();
        while let Some(header) = Header::parse(direction, rest) {
            let len = u64::from(header.len) + HEADER as u64;
            let whole = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
            let (bytes, behind) = whole.unwrap_or((rest, &[]));
            if one(state, direction, Message { bytes, len }, requests) == Verdict::Done {
                return Verdict::Done;
            }
            rest = behind;
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        Header::parse(direction, bytes).is_some()
    }
}

/// Processes a message.
fn one(state: &mut State, direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
    let Some(header) = Header::parse(direction, message.bytes) else { return Verdict::Next };
    let body = message.bytes.get(HEADER..).unwrap_or_default();
    match direction {
        ToServer => {
            request(header, body, requests);
            if header.operation == STARTUP && header.version == 5 {
                if body.windows(b"COMPRESSION".len()).any(|word| word == b"COMPRESSION") {
                    return Verdict::Done;
                }
                state.framed[ToServer as usize] = true;
            }
        }
        ToClient => {
            if header.operation != EVENT
                && let Some(open) = requests.answer_to(header.stream.into(), message.len)
            {
                response(header, body, open);
            }
            if header.version == 5 && matches!(header.operation, READY | AUTHENTICATE) {
                state.framed[ToClient as usize] = true;
            }
        }
    }
    Verdict::Next
}

fn request(header: Header, body: &[u8], requests: &mut Requests) {
    let body = if header.flags & COMPRESSED != 0 { &[] } else { body };
    let statement = match header.operation {
        QUERY | PREPARE => long_string(body),
        // Its type, the number of statements, and for each whether it is a text.
        BATCH if body.get(3) == Some(&0) => body.get(4..).and_then(long_string),
        _ => None,
    };
    requests.push(Request {
        id: header.stream.into(),
        kind: header.operation,
        operation: name(header.operation).unwrap_or("Unknown").as_bytes(),
        statement: statement.unwrap_or_default(),
        dialect: Dialect::Sql,
        ..Request::default()
    });
}

/// Reads a text behind its length in four bytes, as far as it is there.
fn long_string(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    Some(rest.get(..u32::from_be_bytes(*len) as usize).unwrap_or(rest))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn response(header: Header, body: &[u8], open: &mut Open) {
    const ROWS: u32 = 2;
    const NO_METADATA: u32 = 4;
    const MORE_PAGES: u32 = 2;
    // The identifier of a trace comes first. What may follow it has no fixed length.
    let start = if header.flags & TRACED != 0 { 16 } else { 0 };
    let body =
        body.get(start..).filter(|_| header.flags & (COMPRESSED | PAYLOAD | WARNED) == 0).unwrap_or_default();
    open.status = Status::Ok;
    match header.operation {
        ERROR => open.fail(itoa::Buffer::new().format(int(body, 0).unwrap_or_default()).as_bytes()),
        RESULT if int(body, 0) == Some(ROWS) => {
            open.status = Status::Rows;
            // Without descriptions, the number of rows follows that of columns.
            if int(body, 4).is_some_and(|flags| flags & NO_METADATA != 0 && flags & MORE_PAGES == 0) {
                open.rows = int(body, 12).map(u64::from);
            }
        }
        _ => {}
    }
    open.finish();
}

/// Matches the start of a client, and statements in the middle of a connection.
fn probe_any(bytes: &[u8]) -> Probe {
    if !matches!(bytes, [3..=5, ..]) {
        return Probe::No;
    }
    let Some(header) = Header::parse(ToServer, bytes) else { return Probe::No };
    let body = bytes.get(HEADER..).unwrap_or_default();
    match header.operation {
        STARTUP => body.windows(b"CQL_VERSION".len()).take(64).any(|word| word == b"CQL_VERSION").into(),
        5 => (header.len == 0 && bytes.len() == HEADER).into(),
        QUERY | PREPARE => long_string(body).is_some_and(is_sql).into(),
        _ => Probe::No,
    }
}

/// Matches the header of a request.
fn probe_request(bytes: &[u8]) -> Probe {
    Header::parse(ToServer, bytes).is_some().into()
}

/// Matches the header of a response.
fn probe_response(bytes: &[u8]) -> Probe {
    Header::parse(ToClient, bytes).is_some().into()
}
