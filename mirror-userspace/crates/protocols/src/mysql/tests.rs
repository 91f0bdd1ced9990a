//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Mysql>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn login_and_commands_become_events() {
    assert_eq!(
        services(Packets::EXAMPLE.payloads),
        [
            json!({"operation": "Login", "object": "shop", "statement": "root/shop", "status": "ok", "bytes": 11,
                   "latency_ms": 2.0}),
            json!({"operation": "Query", "object": "t", "statement": "SELECT a FROM t WHERE b = ?", "status": "rows",
                   "rows": 2, "bytes": 42, "latency_ms": 2.0}),
            json!({"operation": "Query", "statement": "DROP xyz", "status": "error", "code": "1064", "bytes": 16,
                   "latency_ms": 2.0}),
            json!({"operation": "Quit", "status": "none"}),
        ]
    );
}

#[test]
fn several_results_are_one_answer() {
    let events = services(&[
        (ToServer, b"\x09\0\0\0\x03CALL p()"),
        (ToClient, b"\x01\0\0\x01\x01\x03\0\0\x02def\x05\0\0\x03\xfe\0\0\x02\0\x02\0\0\x04\x011\x05\0\0\x05\xfe\0\0\x0a\0"),
        (ToClient, b"\x07\0\0\x06\0\0\0\x02\0\0\0"),
    ]);
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["status"], &events[0]["rows"]), (&json!("rows"), &json!(1)));
}

#[test]
fn a_request_for_tls_ends_the_analysis() {
    let request = [&b"\x20\0\0\x01\x85\xae\xff\x19\0\0\0\x01\x1c"[..], &[0; 23]].concat();
    let events =
        services(&[Packets::EXAMPLE.payloads[0], (ToServer, &request), (ToServer, b"\x01\0\0\0\x0e")]);
    assert_eq!(events, [] as [Value; 0]);
}

#[test]
fn a_long_statement_that_is_cut_by_the_mirror_has_its_latency() {
    let mut transcript = Transcript::<Mysql>::new(Transport::Tcp);
    let statement = [&b"\x88\x13\0\0\x03INSERT INTO t VALUES ('"[..], &[b'x'; 100]].concat();
    transcript.data(ToServer, &statement);
    transcript.gap(ToServer, 5004 - statement.len());
    transcript.wait(1_000_000);
    transcript.data(ToClient, b"\x07\0\0\x01\0\x01\0\x02\0\0\0");
    let event = transcript.end().remove(0);
    assert_eq!(event["service"]["statement"], "INSERT INTO t VALUES (?");
    assert_eq!((&event["service"]["rows"], &event["service"]["latency_ms"]), (&json!(1), &json!(1.0)));
}

#[test]
fn a_server_that_was_taken_for_the_client_is_recognised() {
    let reversed: Vec<_> =
        Packets::EXAMPLE.payloads.iter().map(|&(direction, bytes)| (direction.reverse(), bytes)).collect();
    assert_eq!(services(&reversed), services(Packets::EXAMPLE.payloads));
}

#[test]
fn only_greetings_logins_and_statements_are_recognised_on_any_port() {
    assert_eq!(probe_greeting(b"\x4a\0\0\0\x0a8.0"), Probe::Yes);
    assert_eq!(probe_client(b"\x09\0\0\0\x03SELECT 1"), Probe::Yes);
    assert_eq!(probe_client(b"\x0b\0\0\0\x03\0\x01SELECT 1"), Probe::Yes);
    assert_eq!(probe_client(b"\x09\0\0\0\x03selected"), Probe::No);
    assert_eq!(probe_command(b"\x01\0\0\0\x0e"), Probe::Yes);
    assert_eq!(probe_command(b"\x02\0\0\0\x0e"), Probe::No);
}
