//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Memcached>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn commands_of_both_protocols_become_events() {
    assert_eq!(
        services(Memcache::EXAMPLE.payloads),
        [
            json!({"operation": "set", "object": "user:?", "statement": "user:? ?", "status": "ok", "bytes": 8,
                   "latency_ms": 2.0}),
            json!({"operation": "get", "object": "user:?", "statement": "user:? ?", "status": "ok", "rows": 1,
                   "bytes": 31, "latency_ms": 2.0}),
            json!({"operation": "delete", "object": "user:?", "statement": "user:?", "status": "error",
                   "code": "NOT_FOUND", "bytes": 11, "latency_ms": 2.0}),
            json!({"operation": "Get", "object": "abc", "statement": "abc", "status": "error", "code": "1",
                   "bytes": 33, "latency_ms": 2.0}),
            json!({"operation": "quit", "status": "none"}),
        ]
    );
}

#[test]
fn requests_without_a_reply_are_not_waited_for() {
    let events =
        services(&[(ToServer, b"set a 0 0 1 noreply\r\nx\r\nversion\r\n"), (ToClient, b"VERSION 1.6\r\n")]);
    let found: Vec<_> = events.iter().map(|event| (&event["operation"], &event["status"])).collect();
    assert_eq!(found, [(&json!("set"), &json!("none")), (&json!("version"), &json!("ok"))]);
}

#[test]
fn only_commands_are_recognised() {
    for bytes in
        [&b"set a 0 0 1\r\n"[..], b"get a b\r\n", b"cas k 0 0 1 17\r\n", Memcache::EXAMPLE.payloads[4].1]
    {
        assert_eq!(probe_any(bytes), Probe::Yes, "{}", bytes.escape_ascii());
    }
    for bytes in [&b"get / HTTP/1.0\r\n"[..], b"set a b c d\r\n", b"stats\r\n", b"GET a\r\n", b"get a", b""] {
        assert_eq!(probe_any(bytes), Probe::No, "{}", bytes.escape_ascii());
    }
    assert_eq!(probe_client(b"stats\r\n"), Probe::Yes);
}
