//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn services(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Redis>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end().into_iter().map(|mut event| event["service"].take()).collect()
}

#[test]
fn each_command_becomes_an_event_with_its_answer() {
    let events = services(Resp::EXAMPLE.payloads);
    assert_eq!(
        events,
        [
            json!({"operation": "SET", "object": "user:?", "statement": "user:? ?", "status": "ok", "bytes": 5,
                   "latency_ms": 2.0}),
            json!({"operation": "GET", "object": "user:?", "statement": "user:?", "status": "ok", "bytes": 11,
                   "latency_ms": 2.0}),
            json!({"operation": "INCR", "object": "user:?", "statement": "user:?", "status": "error", "code": "ERR",
                   "bytes": 46, "latency_ms": 2.0}),
            json!({"operation": "LRANGE", "object": "a", "statement": "a ?", "status": "ok", "rows": 2, "bytes": 23,
                   "latency_ms": 2.0}),
            json!({"operation": "PING", "status": "ok", "bytes": 7, "latency_ms": 2.0}),
        ]
    );
}

#[test]
fn pushed_messages_answer_nothing() {
    let events = services(&[
        (ToServer, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n"),
        (ToClient, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
        (ToClient, b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
        (ToServer, b"*1\r\n$4\r\nPING\r\n"),
        (ToClient, b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
        (ToClient, b"-ERR no\r\n"),
    ]);
    let found: Vec<_> = events.iter().map(|event| (&event["operation"], &event["status"])).collect();
    assert_eq!(found, [(&json!("SUBSCRIBE"), &json!("ok")), (&json!("PING"), &json!("error"))]);
}

#[test]
fn passwords_are_not_written() {
    let events = services(&[
        (ToServer, b"*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$2\r\npw\r\n"),
        (ToClient, b"-WRONGPASS x\r\n"),
    ]);
    assert_eq!((&events[0]["statement"], &events[0]["code"]), (&json!("?"), &json!("WRONGPASS")));
}

#[test]
fn only_commands_are_recognised() {
    for (bytes, expected) in [
        (&b"*3\r\n$3\r\nSET\r\n"[..], Probe::Yes),
        (b"*1\r", Probe::More),
        (b"*x\r\n", Probe::No),
        (b"*1\r\n+OK", Probe::No),
        (b"* OK IMAP", Probe::No),
        (b"*1\r\n$4\r\n\x01", Probe::No),
    ] {
        assert_eq!(probe_command(bytes), expected, "{}", bytes.escape_ascii());
    }
}
