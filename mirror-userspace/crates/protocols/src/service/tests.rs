//! Tests of what all services share, by a protocol of lines: `?` and a text is a request, `!` and a text its answer, and
//! `#` and a number a message of that many bytes behind its line.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::Direction::{ToClient, ToServer};
use crate::Transcript;
use crate::detect::{AppProto, Endpoints, Test, Transport};

#[derive(Debug, Default)]
struct Lines;

impl Service for Lines {
    const TYPE: &'static str = "lines";
    const SIGNATURES: &'static [Signature] =
        &[Signature::stream(AppProto::Ssh, None, &[], Test::Begins(&[b"?"]))];
    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 1 },
        payloads: &[],
    };
    type State = ();

    fn frame((): &(), _direction: Direction, bytes: &[u8]) -> Frame {
        match line(bytes) {
            Ok([b'#', rest @ ..]) => match number(rest.trim_ascii_end()) {
                Some(len) => Frame::Message(len + rest.len() as u64 + 1),
                None => Frame::No,
            },
            Ok(line) => Frame::Message(line.len() as u64),
            Err(frame) => frame,
        }
    }

    fn message((): &mut (), direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
        let operation = message.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if direction == ToServer {
            requests.push(Request { operation, ..Request::default() });
        } else if let Some(open) = requests.answer(message.len) {
            open.status = Status::Ok;
            open.finish();
        }
        Verdict::Next
    }

    fn begins(_direction: Direction, bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(b'?' | b'!'))
    }
}

fn transcript() -> Transcript<Analyzer<Lines>> {
    Transcript::new(Transport::Tcp)
}

fn found(events: &[Value]) -> Vec<(&str, &str)> {
    fn text<'a>(event: &'a Value, name: &str) -> &'a str {
        event["service"][name].as_str().unwrap_or("-")
    }
    events.iter().map(|event| (text(event, "operation"), text(event, "status"))).collect()
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let mut transcript = transcript();
    transcript.data(ToServer, b"?a\n?b\n?c\n");
    transcript.wait(1_000_000);
    transcript.data(ToClient, b"!1\n!2\n");
    let events = transcript.end();
    assert_eq!(found(&events), [("?a", "ok"), ("?b", "ok"), ("?c", "none")]);
    assert_eq!(events[1]["service"]["latency_ms"], 1.0);
}

#[test]
fn the_latency_begins_with_the_last_byte_of_a_long_request() {
    let mut transcript = transcript();
    transcript.data(ToServer, &[&b"#5000\n"[..], &[b'x'; 2000]].concat());
    transcript.wait(1_000_000);
    transcript.data(ToServer, &[b'x'; 3000]);
    transcript.wait(2_000_000);
    transcript.data(ToClient, b"!1\n");
    let events = transcript.end();
    assert_eq!((found(&events), &events[0]["service"]["latency_ms"]), (vec![("#5000", "ok")], &2.0.into()));
}

#[test]
fn bytes_missing_within_a_message_do_no_harm() {
    let mut transcript = transcript();
    transcript.data(ToServer, b"#5000\nxxx");
    transcript.gap(ToServer, 4000);
    transcript.data(ToServer, &[b'x'; 997]);
    transcript.data(ToServer, b"?b\n");
    transcript.data(ToClient, b"!1\n!2\n");
    assert_eq!(found(&transcript.end()), [("#5000", "ok"), ("?b", "ok")]);
}

#[test]
fn behind_a_gap_reading_continues_where_a_message_begins() {
    let mut transcript = transcript();
    transcript.data(ToServer, b"?a\n?");
    transcript.gap(ToServer, 10);
    transcript.data(ToServer, b"rest\n");
    transcript.data(ToServer, b"?b\n");
    transcript.data(ToClient, b"!2\n");
    assert_eq!(found(&transcript.end()), [("?a", "none"), ("?b", "ok")]);
}

#[test]
fn requests_without_a_server_become_events() {
    let mut transcript = transcript();
    (0..1000).for_each(|_| transcript.data(ToServer, b"?a\n"));
    let events = transcript.end();
    assert!(events.len() > 900, "{}", events.len());
    assert!(events.iter().all(|event| event["service"]["status"] == "none"));
}

#[test]
fn hostile_requests_become_a_limited_number_of_events() {
    let mut transcript = transcript();
    for _ in 0..100 {
        transcript.data(ToServer, &b"?\n".repeat(500));
        transcript.data(ToClient, &b"!\n".repeat(500));
    }
    let events = transcript.end();
    let omitted = events.last().and_then(|event| event["service"]["omitted"].as_u64()).unwrap_or(0);
    assert!(events.len() < 10_000, "{}", events.len());
    assert_eq!(events.len() as u64 - 1 + omitted, 50_000);
}

#[test]
fn a_flow_that_was_guessed_wrong_is_given_up() {
    let mut transcript = transcript();
    (0..20).for_each(|_| transcript.data(ToServer, b"#no\n"));
    (0..20).for_each(|_| transcript.data(ToServer, b"?a\n"));
    assert_eq!(transcript.end(), [] as [Value; 0]);
}

proptest! {
    #[test]
    fn the_memory_of_any_flow_is_bounded(pieces in prop::collection::vec((any::<bool>(), 0..4usize, 0..2000usize), 0..200)) {
        let mut analyzer = Analyzer::<Lines>::default();
        let mut flow = Flow::default();
        for (client, kind, len) in pieces {
            let direction = if client { ToServer } else { ToClient };
            let mut output = Nothing;
            let line = [&[[b'?', b'!', b'#', b'x'][kind]][..], &vec![b'9'; len], b"\n"].concat();
            let _ = Protocol::data(&mut analyzer, &mut flow, direction, Event::Data { bytes: &line, new: 0 }, &mut output);
            prop_assert!(Analyzer::<Lines>::held(&flow) < 600_000);
        }
    }
}

/// Takes no events.
struct Nothing;

impl Output for Nothing {
    fn time(&self) -> u64 {
        1
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn record<E: crate::eve::EveEvent>(&mut self, _event: &E) {}
}
