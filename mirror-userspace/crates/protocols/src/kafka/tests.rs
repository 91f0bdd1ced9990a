//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Kafka>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn requests_become_events_with_their_topics_and_errors() {
    assert_eq!(
        services(Protocol::EXAMPLE.payloads),
        [
            json!({"operation": "Produce", "object": "orders", "statement": "orders v7", "status": "error",
                   "code": "6", "bytes": 58, "latency_ms": 2.0}),
            json!({"operation": "ApiVersions", "statement": "v0", "status": "ok", "bytes": 14, "latency_ms": 2.0}),
        ]
    );
}

#[test]
fn a_request_that_wants_no_response_is_not_waited_for() {
    let mut request = Protocol::EXAMPLE.payloads[0].1.to_vec();
    request[17..19].copy_from_slice(&[0, 0]);
    let event = &services(&[(ToServer, &request)])[0];
    assert_eq!((&event["status"], &event["object"]), (&json!("none"), &json!("orders")));
}

#[test]
fn only_requests_are_recognised() {
    let request = Protocol::EXAMPLE.payloads[0].1;
    assert_eq!(probe_request(request), Probe::Yes);
    assert_eq!(probe_request(b"\0\0\0\x0b\0\x12\0\0\0\0\0\x02\xff\xff\0"), Probe::No);
    assert_eq!(probe_request(&[0; 20]), Probe::No);
    assert_eq!(probe_request(b"GET / HTTP/1.1\r\n"), Probe::No);
}
