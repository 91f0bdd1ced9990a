//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::message::{parse_answer, probe_answer, probe_question};
use super::*;
use crate::Transcript;
use crate::detect::Probe;

fn events(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Ident>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end()
}

#[test]
fn each_answer_becomes_an_event() {
    assert_eq!(
        events(Ident::EXAMPLE.payloads),
        [
            json!({"ident": {"user_port": 6193, "service_port": 23, "user": "stjohns", "system": "UNIX",
                             "latency_ms": 2.0}}),
            json!({"ident": {"user_port": 6195, "service_port": 23, "error": "NO-USER", "latency_ms": 2.0}}),
        ]
    );
}

#[test]
fn a_question_without_an_answer_becomes_an_event_at_the_end() {
    let expected = json!({"ident": {"user_port": 6193, "service_port": 23}});
    assert_eq!(events(&[(ToServer, b"6193,23\r\n")]), [expected]);
}

#[test]
fn an_answer_without_a_question_has_no_latency() {
    let events = events(&[(ToClient, b"1,2:USERID:OTHER:a:b\n")]);
    assert_eq!(
        events,
        [json!({"ident": {"user_port": 1, "service_port": 2, "user": "a:b", "system": "OTHER"}})]
    );
}

#[test]
fn hostile_answers_become_a_limited_number_of_events() {
    let answers = b"1,2:ERROR:x\n".repeat(1000);
    assert_eq!(events(&[(ToClient, &answers)]).len(), usize::from(MAX_EVENTS));
}

#[test]
fn a_line_that_does_not_end_ends_the_analysis() {
    let mut payloads: Vec<(Direction, &[u8])> = vec![(ToClient, &[b'1'; MAX_LINE + 1])];
    payloads.push((ToClient, b",2:ERROR:x\n1,2:ERROR:x\n"));
    assert_eq!(events(&payloads), [] as [Value; 0]);
}

#[test]
fn only_questions_and_answers_are_recognised() {
    assert_eq!(probe_answer(b"6193, 23 : ERROR : NO-USER\r\n"), Probe::Yes);
    assert_eq!(probe_answer(b"6193, 23\r\n"), Probe::No);
    for (bytes, expected) in [
        (&b"6193, 23\r\n"[..], Probe::Yes),
        (b"6193,23\n", Probe::Yes),
        (b"6193, 2", Probe::More),
        (b"", Probe::More),
        (b"0, 23\r\n", Probe::No),
        (b"65536, 23\r\n", Probe::No),
        (b"+1, 23\r\n", Probe::No),
        (b"6193\r\n", Probe::No),
        (b"GET /", Probe::No),
        (b"111111111111111111111111111111111", Probe::No),
    ] {
        assert_eq!(probe_question(bytes), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn malformed_answers_are_refused() {
    for line in [&b"1,2"[..], b"1,2:ERROR", b"1,2:USERID:UNIX", b"1:ERROR:x", b"1,2:OTHER:x"] {
        assert_eq!(parse_answer(line), None, "{}", line.escape_ascii());
    }
}
