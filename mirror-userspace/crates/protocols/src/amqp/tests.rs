//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Amqp>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn methods_become_events_with_their_answers() {
    assert_eq!(
        services(Frames::EXAMPLE.payloads),
        [
            json!({"operation": "Queue.Declare", "object": "tasks", "status": "ok", "bytes": 26, "latency_ms": 2.0}),
            json!({"operation": "Basic.Publish", "object": "tasks", "status": "none"}),
            json!({"operation": "Queue.Declare", "object": "other", "status": "error", "code": "404", "bytes": 26,
                   "latency_ms": 2.0}),
        ]
    );
}

#[test]
fn deliveries_and_failed_publishing_become_events() {
    let [_, _, _, publish, _, close] = Frames::EXAMPLE.payloads else { panic!() };
    let deliver = b"\x01\0\x01\0\0\0\x1a\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x04exch\x05tasks\xce";
    let events = services(&[*publish, *close, (ToClient, deliver)]);
    let found: Vec<_> =
        events.iter().map(|event| (&event["operation"], &event["object"], &event["code"])).collect();
    assert_eq!(
        found,
        [
            (&json!("Basic.Publish"), &json!("tasks"), &Value::Null),
            (&json!("Channel.Close"), &Value::Null, &json!("404")),
            (&json!("Basic.Deliver"), &json!("exch/tasks"), &Value::Null),
        ]
    );
}

#[test]
fn only_the_header_and_methods_are_recognised() {
    assert_eq!(probe_method(Frames::EXAMPLE.payloads[1].1), Probe::Yes);
    assert_eq!(probe_method(b"\x01\0\x01\0\0\0\x11\0\x32\0\x0a\0\0\x05tasks\0\0\0\0\0\0"), Probe::No);
    assert_eq!(probe_method(&[1; 40]), Probe::No);
}
