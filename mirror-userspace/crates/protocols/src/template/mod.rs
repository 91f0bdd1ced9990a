//! The template of a protocol: `ident`, the Identification Protocol (RFC 1413). A server that a client connects to
//! asks the client's host for the name of the user who owns the connection. Each answer becomes an event.
//!
//! Copy this folder to begin a protocol; `docs/adding-a-protocol.md` has the steps. This file implements
//! [`Protocol`], `message` parses, `event` is the record, `tests` are the protocol's own. The tests that every
//! protocol passes, and its fuzz target, come from its row in the table.

mod event;
mod message;
#[cfg(test)]
mod tests;

pub use event::AnswerEvent;
pub use message::{Answer, Ports};

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Signature, Test, Transport};
use crate::protocol::{Consumed, Event, Example, Output, Protocol};

/// The port of the protocol's servers.
const PORT: u16 = 113;

/// The longest line without its end (RFC 1413, section 4). A longer one ends the analysis.
const MAX_LINE: usize = 1000;
/// Events of a connection. A line of few bytes becomes an event of many, so their number is limited.
const MAX_EVENTS: u8 = 16;

/// Emits an event for each answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ident;

/// The state of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// The last question and its time, until it is answered.
    asked: Option<(Ports, u64)>,
    /// The number of events.
    events: u8,
}

impl Protocol for Ident {
    type Flow = Flow;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Ident, Some(ToServer), &[PORT], Test::Content(message::probe_question)),
        Signature::stream(AppProto::Ident, Some(ToClient), &[PORT], Test::Content(message::probe_answer)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: PORT },
        payloads: &[
            (ToServer, b"6193, 23\r\n"),
            (ToClient, b"6193, 23 : USERID : UNIX : stjohns\r\n"),
            (ToServer, b"6195, 23\r\n"),
            (ToClient, b"6195, 23 : ERROR : NO-USER\r\n"),
        ],
    };

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        output: &mut impl Output,
    ) -> Consumed {
        // The end of a line that a gap hides is not searched for.
        let Event::Data { bytes, .. } = event else { return Consumed::Done };
        let mut used = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { break };
            used += line.len();
            match direction {
                ToServer => flow.asked = Ports::parse(text).map(|ports| (ports, output.time())),
                ToClient => {
                    let Some((ports, answer)) = message::parse_answer(text) else { return Consumed::Done };
                    flow.record(ports, answer, output);
                }
            }
        }
        let unused = bytes.len() - used;
        if unused > MAX_LINE || flow.events == MAX_EVENTS { Consumed::Done } else { Consumed::Used(used) }
    }

    fn end(&mut self, flow: &mut Flow, output: &mut impl Output) {
        if let Some((ports, _)) = flow.asked.take() {
            flow.record(ports, Answer::None, output);
        }
    }
}

impl Flow {
    fn record(&mut self, ports: Ports, answer: Answer<'_>, output: &mut impl Output) {
        if self.events < MAX_EVENTS {
            self.events += 1;
            let asked = self.asked.take().filter(|&(asked, _)| asked == ports);
            let latency = asked.map(|(_, time)| output.time().saturating_sub(time));
            output.record(&AnswerEvent { ports, latency, answer });
        }
    }
}
