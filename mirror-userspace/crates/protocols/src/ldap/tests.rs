//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Ldap>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn operations_become_events_without_passwords() {
    assert_eq!(
        services(Messages::EXAMPLE.payloads),
        [
            json!({"operation": "bindRequest", "statement": "cn=me", "status": "ok", "bytes": 14, "latency_ms": 2.0}),
            json!({"operation": "searchRequest", "object": "dc=x", "statement": "dc=x wholeSubtree",
                   "status": "error", "code": "32", "rows": 1, "bytes": 27, "latency_ms": 2.0}),
            json!({"operation": "unbindRequest", "status": "none"}),
        ]
    );
}

#[test]
fn events_keep_the_order_of_requests_while_a_long_answer_comes() {
    let [_, _, (_, search), (_, found), (_, unbind)] = Messages::EXAMPLE.payloads else { panic!() };
    let (entry, done) = found.split_at(13);
    let events = services(&[(ToServer, search), (ToClient, entry), (ToServer, unbind), (ToClient, done)]);
    assert_eq!([&events[0]["operation"], &events[1]["operation"]], ["searchRequest", "unbindRequest"]);
}

#[test]
fn signed_operations_are_read() {
    let wrap = |message: &[u8]| {
        let signature = [1, 0, 0, 0, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 1];
        let len = (message.len() + signature.len()) as u32;
        [&len.to_be_bytes()[..], &signature, message].concat()
    };
    let [_, _, (_, search), (_, found), _] = Messages::EXAMPLE.payloads else { panic!() };
    let events = services(&[(ToServer, &wrap(search)), (ToClient, &wrap(found))]);
    assert_eq!((&events[0]["operation"], &events[0]["code"]), (&json!("searchRequest"), &json!("32")));
}

#[test]
fn only_operations_are_recognised() {
    for &(direction, bytes) in Messages::EXAMPLE.payloads {
        assert_eq!(probe(direction, bytes), Probe::Yes, "{}", bytes.escape_ascii());
    }
    assert_eq!(probe_any(b"\x30\x26\x02\x01\x01\x04\x06public"), Probe::No);
    assert_eq!(probe_any(&[0x30; 40]), Probe::No);
}
