//! `MySQL` and `MariaDB`: the login and the commands of a connection. What is compressed or encrypted is not read.

mod answer;
mod command;
mod login;
#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Requests, Service, Verdict};

/// The analyzer.
pub type Mysql = Analyzer<Packets>;

/// The ports of the protocol's servers.
const PORTS: &[u16] = &[3306];
/// Bytes in front of the payload: its length and a number.
const HEADER: usize = 4;

/// Packets with a length and a number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packets;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Capabilities that both sides have announced; `None` if the login was not seen.
    capabilities: Option<u32>,
    /// Capabilities of the server.
    offered: Option<u32>,
    /// The part of the answer that comes next.
    part: Part,
}

/// The part of an answer that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// The first packet of a result.
    #[default]
    First,
    /// This many descriptions of columns.
    Columns(u16),
    /// The first row, or the end of the descriptions.
    FirstRow,
    /// Rows, and their end.
    Rows,
    /// Nothing that counts.
    Rest,
}

impl Service for Packets {
    const TYPE: &'static str = "mysql";

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Mysql, None, &[], Test::Content(probe_greeting)),
        Signature::stream(AppProto::Mysql, Some(ToServer), &[], Test::Content(probe_client)),
        Signature::stream(AppProto::Mysql, Some(ToServer), PORTS, Test::Content(probe_command)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 3306 },
        payloads: &[
            (
                ToClient,
                b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0\0\
                  \0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\0mysql_native_password\0",
            ),
            (
                ToServer,
                b"\x2e\0\0\x01\x8d\xa6\x0f\0\0\0\0\x01\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0root\0\0\
                  shop\0x\0\0",
            ),
            (ToClient, b"\x07\0\0\x02\0\0\0\x02\0\0\0"),
            (ToServer, b"\x1e\0\0\0\x03SELECT a FROM t WHERE b = 'x'"),
            (
                ToClient,
                b"\x01\0\0\x01\x01\x03\0\0\x02def\x05\0\0\x03\xfe\0\0\x02\0\x02\0\0\x04\x011\x02\0\0\x05\x012\
                  \x05\0\0\x06\xfe\0\0\x02\0",
            ),
            (ToServer, b"\x09\0\0\0\x03DROP xyz"),
            (ToClient, b"\x0c\0\0\x01\xff\x28\x04#42000bad"),
            (ToServer, b"\x01\0\0\0\x01"),
        ],
    };

    type State = State;

    fn frame(_state: &State, direction: Direction, bytes: &[u8]) -> Frame {
        let [low, middle, high, number, ..] = *bytes else { return Frame::More };
        let len = u32::from_le_bytes([low, middle, high, 0]);
        let is_long = len == 0xff_ffff;
        // The client begins a command with number 0; nothing else has many packets.
        if direction == ToServer && number > 16 && len > 0 && !is_long && len > 1 << 20 {
            return Frame::No;
        }
        Frame::Message(u64::from(len) + HEADER as u64)
    }

    fn message(
        state: &mut State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict {
        let Some((header, payload)) = message.bytes.split_at_checked(HEADER) else { return Verdict::Next };
        let number = header.last().copied().unwrap_or_default();
        match direction {
            ToServer if number == 0 => command::request(state, payload, requests),
            ToServer => return login::request(state, number, payload, requests),
            ToClient if number == 0 => login::greeting(state, payload),
            ToClient => return answer::packet(state, number, payload, message.len, requests),
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_command(bytes) == Probe::Yes,
            ToClient => matches!(bytes, [_, _, 0, 1, ..]),
        }
    }

    fn is_reversed(direction: Direction, bytes: &[u8]) -> bool {
        let is_greeting = probe_greeting(bytes) == Probe::Yes;
        match direction {
            ToServer => is_greeting,
            ToClient => {
                !is_greeting && [probe_client, probe_command].iter().any(|probe| probe(bytes) == Probe::Yes)
            }
        }
    }
}

/// Matches the first packet of a server: version 10 of the protocol, and the version of the software.
fn probe_greeting(bytes: &[u8]) -> Probe {
    match bytes {
        [_, _, 0, 0, 10, b'0'..=b'9', ..] => Probe::Yes,
        [_, _, 0, 0] | [_, _, 0, 0, 10] => Probe::More,
        // It refuses the client: too many connections, a host that is blocked.
        [_, _, 0, 0, 0xff, _, 4, ..] => {
            bytes.get(7..).unwrap_or_default().iter().all(|byte| *byte >= b' ').into()
        }
        _ => Probe::No,
    }
}

/// Matches a login, or a statement in the middle of a connection.
fn probe_client(bytes: &[u8]) -> Probe {
    match bytes {
        [_, _, 0, 1 | 2, ..] => login::probe(bytes).into(),
        [_, _, _, 0, 3 | 22, rest @ ..] if !rest.is_empty() => command::is_statement(rest).into(),
        _ => Probe::No,
    }
}

/// Matches a command that is a whole segment, or the beginning of one.
fn probe_command(bytes: &[u8]) -> Probe {
    let [low, middle, high, 0, kind, ..] = *bytes else { return Probe::No };
    let len = u32::from_le_bytes([low, middle, high, 0]) as usize;
    let fits = len + HEADER == bytes.len() || (len + HEADER > bytes.len() && matches!(kind, 3 | 22 | 23));
    (fits && len > 0 && command::is_known(kind)).into()
}

/// Returns the bytes in front of the first zero.
fn word(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
