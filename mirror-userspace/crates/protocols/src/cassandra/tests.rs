//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Cassandra>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn requests_become_events_in_the_order_of_their_answers() {
    assert_eq!(
        services(Cql::EXAMPLE.payloads),
        [
            json!({"operation": "STARTUP", "status": "ok", "bytes": 9, "latency_ms": 2.0}),
            json!({"operation": "QUERY", "statement": "DROP TABLE", "status": "error", "code": "8192", "bytes": 18,
                   "latency_ms": 2.0}),
            json!({"operation": "QUERY", "object": "ks.t", "statement": "SELECT a FROM ks.t WHERE b=?", "rows": 3,
                   "status": "rows", "bytes": 25, "latency_ms": 6.0}),
        ]
    );
}

#[test]
fn frames_of_version_5_are_read() {
    let [(_, startup), (_, ready), (_, query), ..] = Cql::EXAMPLE.payloads else { panic!() };
    let five = |message: &[u8]| {
        let mut message = message.to_vec();
        message[0] += 1;
        message
    };
    let frame = |message: &[u8]| [&[message.len() as u8, 0, 2, 0, 0, 0][..], message, &[0; 4]].concat();
    let events = services(&[
        (ToServer, &five(startup)),
        (ToClient, &five(ready)),
        (ToServer, &frame(&five(query))),
        (ToClient, &frame(b"\x85\0\0\x01\x08\0\0\0\x04\0\0\0\x01")),
    ]);
    assert_eq!((&events[1]["operation"], &events[1]["status"]), (&json!("QUERY"), &json!("ok")));
}

#[test]
fn only_messages_are_recognised() {
    assert_eq!(probe_any(Cql::EXAMPLE.payloads[0].1), Probe::Yes);
    assert_eq!(probe_any(Cql::EXAMPLE.payloads[2].1), Probe::Yes);
    assert_eq!(probe_any(b"\x04\0\0\0\x05\0\0\0\0"), Probe::Yes);
    assert_eq!(probe_any(b"\x05\0\x0b\x03\x10\0\0\0\x48\0\0\0\x01"), Probe::No);
    assert_eq!(probe_any(b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0"), Probe::No);
}
