//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Mongodb>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn commands_become_events_with_their_replies() {
    let [find, found, drop, dropped] = Wire::EXAMPLE.payloads else { panic!() };
    let expected = [
        json!({"operation": "Extensible Message Format", "object": "shop.users", "statement": "find=users",
               "status": "ok", "bytes": 38, "latency_ms": 2.0}),
        json!({"operation": "Extensible Message Format", "object": "shop.users", "statement": "drop=users",
               "status": "error", "code": "26", "bytes": 48, "latency_ms": 2.0}),
    ];
    assert_eq!(services(Wire::EXAMPLE.payloads), expected);
    // In any order.
    let events = services(&[*find, *drop, *dropped, *found]);
    assert_eq!([&events[1]["statement"], &events[0]["statement"]], ["find=users", "drop=users"]);
    assert_eq!(events[1]["latency_ms"], 6.0);
}

#[test]
fn requests_that_want_no_reply_are_not_waited_for() {
    let mut request = Wire::EXAMPLE.payloads[0].1.to_vec();
    request[16] = 2;
    assert_eq!(services(&[(ToServer, &request)])[0]["status"], "none");
}

#[test]
fn only_messages_are_recognised() {
    assert_eq!(probe_request(Wire::EXAMPLE.payloads[0].1), Probe::Yes);
    assert_eq!(probe_reply(Wire::EXAMPLE.payloads[1].1), Probe::Yes);
    assert_eq!(probe_request(&[0; 40]), Probe::No);
    assert_eq!(probe_request(Wire::EXAMPLE.payloads[1].1), Probe::No);
}
