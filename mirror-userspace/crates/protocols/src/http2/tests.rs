//! The tests of frames and of events.

use serde_json::{Value, json};

use super::*;
use crate::Direction::{ToClient, ToServer};
use crate::eve::{EveEvent, EveWriter, Packer, Unpacker};
use crate::grpc::{CallEvent, is_grpc};
use crate::pack;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn heads_are_read_and_impossible_ones_are_told() {
    let bytes = frame(kind::HEADERS, flag::END_HEADERS, 0x8000_0003, &[0x82]);
    let head = Head::read(&bytes).unwrap();
    assert_eq!(head, Head { len: 1, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 3 });
    assert!(head.is_correct() && Head::read(&bytes[..8]).is_none());
    for (kind, flags, stream, len) in [
        (kind::DATA, 0, 0, 5),
        (kind::HEADERS, flag::PRIORITY, 1, 4),
        (kind::PRIORITY, 0, 1, 4),
        (kind::RST_STREAM, 0, 1, 5),
        (kind::SETTINGS, 0, 1, 6),
        (kind::SETTINGS, 0, 0, 7),
        (kind::SETTINGS, flag::ACK, 0, 6),
        (kind::PUSH_PROMISE, 0, 1, 3),
        (kind::PING, 0, 0, 7),
        (kind::GOAWAY, 0, 0, 7),
        (kind::WINDOW_UPDATE, 0, 1, 5),
        (kind::CONTINUATION, 0, 0, 5),
    ] {
        assert!(!Head { len, kind, flags, stream }.is_correct(), "{kind} {flags} {stream} {len}");
    }
}

#[test]
fn padding_is_taken_off_and_too_much_is_refused() {
    let head = |len| Head { len, kind: kind::DATA, flags: flag::PADDED, stream: 1 };
    assert_eq!(unpadded(head(5), &[2, 7, 8, 0, 0]), Some(&[7, 8][..]));
    assert_eq!(unpadded(head(1), &[0]), Some(&[][..]));
    assert_eq!(unpadded(head(2), &[2, 0]), None);
    assert_eq!(unpadded(head(0), &[]), None);
}

#[test]
fn frames_are_found_behind_a_gap_and_in_the_middle_of_a_connection() {
    let request = [frame(kind::HEADERS, 4, 3, &[0x82, 0x84]), frame(kind::DATA, 1, 3, b"hello")].concat();
    assert_eq!(begins(ToServer, &request), Some(true));
    assert_eq!(resumes(&request), Some(true));
    assert_eq!(resumes(&request[..11]), None, "the next frame has to be seen");
    for text in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 40], &[0xff; 40], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"]
    {
        assert_eq!(begins(ToServer, text), Some(false));
        assert_eq!(resumes(text), Some(false));
    }
    assert_eq!(begins(ToServer, PREFACE), Some(true));
    assert_eq!((begins(ToServer, &PREFACE[..9]), begins(ToClient, &PREFACE[..9])), (None, Some(false)));
    let response =
        [frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), frame(kind::SETTINGS, 1, 0, &[])].concat();
    assert_eq!(resumes(&response), Some(true));
    // The content of another frame is none.
    let garbage = [frame(kind::HEADERS, 4, 3, &[0x82]), vec![0x55; 20]].concat();
    assert_eq!(begins(ToClient, &garbage), Some(false));
}

/// Packs, unpacks and writes an event.
fn written<E: EveEvent>(event: &E) -> Value {
    struct Lines(Vec<Value>);

    impl EveWriter for Lines {
        fn line(&mut self, object: &impl serde::Serialize) -> serde_json::Result<()> {
            self.0.push(serde_json::to_value(object)?);
            Ok(())
        }
        fn transaction(&mut self, _: u32, object: &impl serde::Serialize) -> serde_json::Result<()> {
            self.line(object)
        }
        fn line_within(&mut self, _: usize, object: &impl serde::Serialize) -> serde_json::Result<bool> {
            self.line(object).map(|()| true)
        }
        fn service(
            &mut self,
            _: Option<&impl serde::Serialize>,
            service: Option<&impl serde::Serialize>,
        ) -> serde_json::Result<()> {
            service.map_or(Ok(()), |service| self.line(service))
        }
        fn literals(&self) -> bool {
            false
        }
    }

    let mut packed = Vec::new();
    event.pack(&mut Packer::new(&mut packed, usize::MAX));
    let mut lines = Lines(Vec::new());
    E::unpack(&mut Unpacker::new(&packed)).unwrap().write(&mut lines).unwrap();
    lines.0.remove(0)
}

fn packed(fields: &[(u8, &str, &str)]) -> Vec<u8> {
    let mut values = Vec::new();
    for (of, name, value) in fields {
        pack::put(&mut values, of + tag::NAME, name.as_bytes());
        pack::put(&mut values, of + tag::VALUE, value.as_bytes());
    }
    values
}

#[test]
fn a_stream_is_written_as_suricata_does_and_without_secrets() {
    let mut values = packed(&[
        (0, ":method", "GET"),
        (0, ":path", "/a"),
        (0, ":authority", "a.example:80"),
        (0, "user-agent", "x"),
        (0, "cookie", "id=1"),
        (tag::RESPONSE, ":status", "200"),
    ]);
    pack::put(&mut values, tag::RESPONSE + tag::TABLE_SIZE, &4096_u32.to_be_bytes());
    let stream = Stream {
        id: 1,
        status: 200,
        length: 5,
        latency: Some(2_000_000),
        priority: Some(15),
        errors: [None, Some(5)],
        ..Stream::default()
    };
    assert_eq!(
        written(&StreamEvent { stream, values: &values }),
        json!({
            "url": "/a", "http_user_agent": "x", "http_method": "GET", "version": "2",
            "request_headers": [
                {"name": ":method", "value": "GET"}, {"name": ":path", "value": "/a"},
                {"name": ":authority", "value": "a.example:80"}, {"name": "user-agent", "value": "x"},
                {"name": "cookie"},
            ],
            "response_headers": [{"table_size_update": 4096}, {"name": ":status", "value": "200"}],
            "status": 200, "length": 5, "latency_ms": 2.0,
            "http2": {"stream_id": 1, "request": {"priority": 15}, "response": {"error_code": "StreamClosed"}},
        })
    );
}

#[test]
fn frames_about_the_connection_are_written_for_their_side() {
    let settings = [0, 3, 0, 0, 0, 100, 0, 99, 0, 0, 0, 1];
    let control = Control::Settings(&settings);
    assert_eq!(
        written(&ControlEvent { number: 0, by_server: false, control }),
        json!({"version": "2", "http2": {"stream_id": 0, "response": {}, "request": {"settings": [
            {"settings_id": "SETTINGSMAXCONCURRENTSTREAMS", "settings_value": 100},
            {"settings_id": "99", "settings_value": 1},
        ]}}})
    );
    let event = ControlEvent { number: 0, by_server: true, control: Control::Goaway(1) };
    assert_eq!(
        written(&event),
        json!({"version": "2", "http2": {"stream_id": 0, "request": {}, "response": {"error_code": "PROTOCOLERROR"}}})
    );
    assert_eq!(
        written(&LossEvent(Losses { blocks: 1, fields: 0, streams: 2 })),
        json!({"version": "2", "header_blocks_lost": 1, "streams_evicted": 2})
    );
}

#[test]
fn a_call_has_its_method_and_the_status_of_its_trailers() {
    let of = |fields: &[(u8, &str, &str)], stream: Stream| {
        let values = packed(&[&[(0, ":path", "/shop.Orders/Get")], fields].concat());
        written(&CallEvent::new(&StreamEvent { stream, values: &values }, &mut [0; 16]))
    };
    let answered = Stream { status: 200, length: 7, latency: Some(1_000_000), ..Stream::default() };
    let call =
        json!({"operation": "Get", "object": "shop.Orders", "status": "ok", "bytes": 7, "latency_ms": 1.0});
    assert_eq!(of(&[(tag::RESPONSE, "grpc-status", "0")], answered), call);
    for (fields, stream, status, code) in [
        (&[(tag::RESPONSE, "grpc-status", "5")][..], answered, "error", Some("5")),
        (&[], Stream { status: 503, ..answered }, "error", Some("HTTP 503")),
        (&[], Stream { errors: [Some(8), None], ..answered }, "error", Some("RST 8")),
        (&[], Stream::default(), "none", None),
    ] {
        let event = of(fields, stream);
        assert_eq!((event["status"].as_str(), event["code"].as_str()), (Some(status), code));
    }
    assert!(is_grpc(b"application/grpc") && is_grpc(b"application/grpc+proto"));
    assert!(!is_grpc(b"application/grpc-web") && !is_grpc(b"application/json"));
}
