//! Memcached: its protocols of text and of binary messages.

mod binary;
#[cfg(test)]
mod tests;
mod text;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Requests, Service, Verdict};

/// The analyzer.
pub type Memcached = Analyzer<Memcache>;

/// The port of the protocol's servers.
const PORT: u16 = 11211;

/// Both protocols. The first byte of a message tells which it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memcache;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Bytes of the block of data that comes next in each direction, with its end; 0 if a line comes next.
    blocks: [u64; 2],
}

impl Service for Memcache {
    const TYPE: &'static str = "memcached";

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Memcached, Some(ToServer), &[], Test::Content(probe_any)),
        Signature::stream(AppProto::Memcached, Some(ToServer), &[PORT], Test::Content(probe_client)),
        Signature::stream(AppProto::Memcached, Some(ToClient), &[PORT], Test::Content(probe_server)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: PORT },
        payloads: &[
            (ToServer, b"set user:17 0 60 5\r\nalice\r\nget user:17 user:18\r\n"),
            (ToClient, b"STORED\r\nVALUE user:17 0 5\r\nalice\r\nEND\r\n"),
            (ToServer, b"delete user:18\r\n"),
            (ToClient, b"NOT_FOUND\r\n"),
            (ToServer, b"\x80\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\x07\0\0\0\0\0\0\0\0abc"),
            (ToClient, b"\x81\0\0\0\0\0\0\x01\0\0\0\x09\0\0\0\x07\0\0\0\0\0\0\0\0Not found"),
            (ToServer, b"quit\r\n"),
        ],
    };

    type State = State;

    fn frame(state: &State, direction: Direction, bytes: &[u8]) -> Frame {
        match state.blocks[direction as usize] {
            0 if bytes.first().is_some_and(|&magic| magic == binary::magic(direction)) => {
                binary::frame(bytes)
            }
            0 => text::frame(bytes),
            block => Frame::Message(block),
        }
    }

    fn message(
        state: &mut State,
        direction: Direction,
        message: Message<'_>,
        requests: &mut Requests,
    ) -> Verdict {
        let block = std::mem::take(&mut state.blocks[direction as usize]);
        let is_binary = message.bytes.first() == Some(&binary::magic(direction));
        match direction {
            _ if block > 0 => text::block(direction, message, requests),
            ToServer if is_binary => binary::request(message, requests),
            ToClient if is_binary => binary::response(message, requests),
            ToServer => state.blocks[0] = text::request(message, requests),
            ToClient => state.blocks[1] = text::response(message, requests),
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_client(bytes) == Probe::Yes,
            ToClient => probe_server(bytes) == Probe::Yes,
        }
    }
}

/// Matches commands with a key that are unlike anything else.
fn probe_any(bytes: &[u8]) -> Probe {
    (binary::is_header(bytes, ToServer) || text::is_storage(bytes) || text::is_retrieval(bytes)).into()
}

/// Matches a command.
fn probe_client(bytes: &[u8]) -> Probe {
    (probe_any(bytes) == Probe::Yes || text::is_command(bytes)).into()
}

/// Matches a response.
fn probe_server(bytes: &[u8]) -> Probe {
    (binary::is_header(bytes, ToClient) || text::is_response(bytes)).into()
}
