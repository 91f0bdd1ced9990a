//! `PostgreSQL`: start-up, queries in both forms, and their answers. `event` writes the object `pgsql` as Suricata 7
//! does, beside the object `service`.

mod details;
mod event;
mod request;
mod response;
#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::eve::EveWriter;
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Requests, Service, ServiceEvent, Verdict, is_sql};

/// The analyzer.
pub type Pgsql = Analyzer<Messages>;

/// Types of messages (`PostgreSQL`'s manual, section 55.7).
const FROM_CLIENT: &[u8] = b"BCDEFHPQSXcdfp";
const FROM_SERVER: &[u8] = b"RSKZTDCEINnt123sAGHWVvdc";
/// The longest message.
const MAX_LEN: u32 = 1 << 30;
/// The longest message without a type: a start-up, or a request for encryption.
const MAX_STARTUP: u32 = 10_000;

/// Messages of a type and a length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// The number of requests.
    requests: u32,
    /// The server answers a request for encryption next, with a single byte.
    asked_for_tls: bool,
    /// Messages of an extended query have come; its last one is Sync.
    extended: bool,
    /// Columns of the current answer, and bytes of its values.
    columns: Option<u16>,
    size: u64,
}

impl Service for Messages {
    const TYPE: &'static str = "pgsql";

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Pgsql, Some(ToServer), &[], Test::Content(probe_client)),
        Signature::stream(AppProto::Pgsql, Some(ToClient), &[], Test::Content(probe_server)),
        Signature::stream(AppProto::Pgsql, Some(ToServer), &[5432], Test::Content(probe_message)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 5432 },
        payloads: &[
            (ToServer, b"\0\0\0\x08\x04\xd2\x16\x2f"),
            (ToClient, b"N"),
            (ToServer, b"\0\0\0\x20\0\x03\0\0user\0ann\0database\0shop\0\0"),
            (ToClient, b"R\0\0\0\x0c\0\0\0\x05salt"),
            (ToServer, b"p\0\0\0\x28md5d47dfe4b3c0e9cbf539949db664f528b\0"),
            (ToClient, b"R\0\0\0\x08\0\0\0\0S\0\0\0\x13time_zone\0UTC\0\0Z\0\0\0\x05I"),
            (ToServer, b"Q\0\0\0\x1fSELECT a FROM t WHERE b=7;\0"),
            (
                ToClient,
                b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0D\0\0\0\x0b\0\x01\0\0\0\x015\
                  C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
            ),
            (ToServer, b"P\0\0\0\x15\0DELETE FROM t\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"),
            (ToClient, b"E\0\0\0\x1cSERROR\0C42P01\0Mmissing\0\0Z\0\0\0\x05I"),
            (ToServer, b"X\0\0\0\x04"),
        ],
    };

    type State = State;

    fn frame(state: &State, direction: Direction, bytes: &[u8]) -> Frame {
        let known = match (direction, bytes) {
            (ToClient, [b'S' | b'N', ..]) if state.asked_for_tls => return Frame::Message(1),
            (ToServer, [0, ..]) => {
                let Some(len) = bytes.first_chunk().map(|len| u32::from_be_bytes(*len)) else {
                    return Frame::More;
                };
                return if (8..=MAX_STARTUP).contains(&len) { Frame::Message(len.into()) } else { Frame::No };
            }
            (ToServer, [kind, ..]) => FROM_CLIENT.contains(kind),
            (ToClient, [kind, ..]) => FROM_SERVER.contains(kind),
            (_, []) => return Frame::More,
        };
        match bytes.get(1..).and_then(<[u8]>::first_chunk).map(|len| u32::from_be_bytes(*len)) {
            _ if !known => Frame::No,
            Some(len) if (4..MAX_LEN).contains(&len) => Frame::Message(u64::from(len) + 1),
            Some(_) => Frame::No,
            None => Frame::More,
        }
    }

    fn message(
        state: &mut State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict {
        match direction {
            ToServer => request::message(state, message, requests),
            ToClient => return response::message(state, message, requests),
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_message(bytes) == Probe::Yes,
            ToClient => {
                matches!(Self::frame(&State::default(), direction, bytes), Frame::Message(len) if len < 1 << 16)
            }
        }
    }

    fn write(event: &ServiceEvent<'_, Self>, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        event::write(event, writer)
    }
}

/// Matches requests for encryption and for a cancellation, start-ups, and statements in the middle of a connection.
fn probe_client(bytes: &[u8]) -> Probe {
    match bytes {
        [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f | 0x30, ..] | [0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e, ..] => Probe::Yes,
        [0, 0, _, _, 0, 3, 0, _, rest @ ..] => rest.starts_with(b"user\0").into(),
        [b'Q', 0, 0, _, _, statement @ ..] if !statement.is_empty() => is_sql(statement).into(),
        [b'P', 0, 0, _, _, rest @ ..] if !rest.is_empty() => {
            let mut texts = rest.split(|&byte| byte == 0);
            let is_name = texts.next().is_some_and(|name| name.iter().all(u8::is_ascii_graphic));
            (is_name && texts.next().is_some_and(is_sql)).into()
        }
        _ => Probe::No,
    }
}

/// Matches a question for a password, or the success of a login (`Authentication…`).
fn probe_server(bytes: &[u8]) -> Probe {
    matches!(bytes, [b'R', 0, 0, 0, 8..=64, 0, 0, 0, 0..=12, ..]).into()
}

/// Matches a message of a client.
fn probe_message(bytes: &[u8]) -> Probe {
    let fits = match Messages::frame(&State::default(), ToServer, bytes) {
        Frame::Message(len) => bytes.first() != Some(&0) && len < 1 << 16,
        Frame::More | Frame::No => false,
    };
    (fits || probe_client(bytes) == Probe::Yes).into()
}
