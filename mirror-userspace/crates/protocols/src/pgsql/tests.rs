//! Tests of this protocol alone. Those that every protocol passes are in `lib.rs`.

use serde_json::{Value, json};

use super::*;
use crate::Transcript;

fn events(payloads: &[(Direction, &[u8])]) -> Vec<Value> {
    let mut transcript = Transcript::<Pgsql>::new(Transport::Tcp);
    for &(direction, bytes) in payloads {
        transcript.data(direction, bytes);
        transcript.wait(2_000_000);
    }
    transcript.end()
}

#[test]
fn start_up_and_queries_become_events_of_the_service() {
    let events = events(Messages::EXAMPLE.payloads);
    let services: Vec<_> = events.iter().filter_map(|event| event.get("service")).collect();
    assert_eq!(
        services,
        [
            &json!({"operation": "SSL request", "status": "none"}),
            &json!({"operation": "Startup", "object": "shop", "statement": "ann/shop", "status": "ok", "bytes": 48,
                    "latency_ms": 2.0}),
            &json!({"operation": "Query", "object": "t", "statement": "SELECT a FROM t WHERE b=?;", "status": "rows",
                    "rows": 1, "bytes": 59, "latency_ms": 2.0}),
            &json!({"operation": "Extended", "object": "t", "statement": "DELETE FROM t", "status": "error",
                    "code": "42P01", "bytes": 35, "latency_ms": 2.0}),
        ]
    );
}

#[test]
fn requests_and_responses_are_those_of_suricata_without_secrets() {
    let events = events(Messages::EXAMPLE.payloads);
    let expected = [
        json!({"tx_id": 1, "request": {"message": "SSL Request"}, "response": {"ssl_accepted": false}}),
        json!({"tx_id": 2,
               "request": {"protocol_version": "3.0", "startup_parameters":
                           {"user": "ann", "optional_parameters": [{"database": "shop"}]}},
               "response": {"authentication_md5_password": "\\x73\\x61\\x6c\\x74"}}),
        json!({"tx_id": 3, "request": {"password": "?"},
               "response": {"message": "authentication_ok", "parameter_status": [{"time_zone": "UTC"}]}}),
        json!({"tx_id": 4, "request": {"simple_query": "SELECT a FROM t WHERE b=?;"},
               "response": {"field_count": 1, "data_rows": 1, "data_size": 1, "command_completed": "SELECT 1"}}),
        json!({"tx_id": 5, "request": {"extended_query": "DELETE FROM t"},
               "response": {"severity_localizable": "ERROR", "code": "42P01", "message": "missing"}}),
        json!({"tx_id": 6, "request": {"message": "termination_message"}}),
    ];
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(&event["pgsql"], expected);
    }
    assert_eq!(events.len(), expected.len());
}

#[test]
fn an_accepted_request_for_tls_ends_the_analysis() {
    let events =
        events(&[Messages::EXAMPLE.payloads[0], (ToClient, b"S"), (ToServer, b"Q\0\0\0\x0bSELECT\0")]);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["pgsql"]["response"]["ssl_accepted"], true);
}

#[test]
fn only_start_ups_and_statements_are_recognised_on_any_port() {
    assert_eq!(probe_client(b"\0\0\0\x20\0\x03\0\0user\0ann\0"), Probe::Yes);
    assert_eq!(probe_client(b"Q\0\0\0\x0dSELECT 1\0"), Probe::Yes);
    assert_eq!(probe_client(b"P\0\0\0\x15s1\0DELETE FROM t\0"), Probe::Yes);
    assert_eq!(probe_client(b"QUIT\r\n"), Probe::No);
    assert_eq!(probe_message(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0"), Probe::Yes);
}
