//! HTTP/2 and gRPC: the records of connections, also of hostile ones.

use serde_json::Value;

use crate::hostile_records::{bounded, records, tcp};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a field that is a literal, and that is inserted into the table if `indexed`.
fn field(name: &str, value: &str, indexed: bool) -> Vec<u8> {
    let first = if indexed { 0x40 } else { 0 };
    let texts = [name, value].map(|text| {
        assert!(text.len() < 127);
        [&[text.len() as u8], text.as_bytes()].concat()
    });
    [&[first], &texts[0][..], &texts[1]].concat()
}

/// Returns the HEADERS frame of a GET request.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = [&[0x82, 0x86][..], &field(":path", path, false)].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// Returns a response with a body.
fn answer(stream: u32, body: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &[0x88]), frame(DATA, END_STREAM, stream, body)].concat()
}

fn of_kind<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event_type"] == kind)
}

/// Returns path, status and length of each stream, in the order of the events.
fn streams(events: &[Value]) -> Vec<(String, u64, u64)> {
    let streams = of_kind(events, "http").filter(|event| event["http"]["length"].is_number());
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    streams
        .map(|event| &event["http"])
        .map(|http| {
            (
                text(&http["url"]),
                http["status"].as_u64().unwrap_or_default(),
                http["length"].as_u64().unwrap_or(u64::MAX),
            )
        })
        .collect()
}

fn stream(path: &str, status: u64, length: u64) -> (String, u64, u64) {
    (path.to_owned(), status, length)
}

#[test]
fn interleaved_streams_belong_to_their_requests() {
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let requests = [PREFACE, &settings, &get(1, "/a"), &get(3, "/b")].concat();
    let answers = [
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 3, &[0x8d]),
        frame(HEADERS, END_HEADERS, 1, &[0x88]),
        frame(DATA, 0, 1, &[b'x'; 300]),
        frame(DATA, END_STREAM, 3, b"no"),
        frame(DATA, END_STREAM, 1, &[b'x'; 700]),
    ]
    .concat();
    let (events, _) = records(&tcp(8080, &[(true, &requests), (false, &answers)]));
    assert_eq!(streams(&events), [stream("/b", 404, 2), stream("/a", 200, 1000)]);
    assert!(of_kind(&events, "http").all(|event| event["http"]["version"] == "2"));
    // Cut anywhere, nothing changes.
    for len in [1, 7, 9, 33] {
        let turns: Vec<_> = requests
            .chunks(len)
            .map(|part| (true, part))
            .chain(answers.chunks(len).map(|part| (false, part)))
            .collect();
        assert_eq!(streams(&records(&tcp(8080, &turns)).0), streams(&events), "{len} bytes each");
    }
}

#[test]
fn padding_continuations_pushes_and_interim_responses_are_read() {
    let block = [&[0x82, 0x86][..], &field(":path", "/long", false)].concat();
    let (first, rest) = block.split_at(3);
    let padded = [&[2], first, &[0, 0]].concat();
    let requests =
        [PREFACE, &frame(HEADERS, END_STREAM | 8, 1, &padded), &frame(CONTINUATION, END_HEADERS, 1, rest)]
            .concat();
    let promise = [&2_u32.to_be_bytes()[..], &[0x82, 0x86], &field(":path", "/pushed", false)].concat();
    let answers = [
        frame(HEADERS, END_HEADERS, 1, &field(":status", "103", false)),
        frame(PUSH_PROMISE, END_HEADERS, 1, &promise),
        answer(1, b"one"),
        answer(2, b"two!"),
    ]
    .concat();
    let (events, _) = records(&tcp(8080, &[(true, &requests), (false, &answers)]));
    assert_eq!(streams(&events), [stream("/long", 200, 3), stream("/pushed", 200, 4)]);
}

#[test]
fn the_request_of_an_upgrade_is_the_first_stream() {
    let request = b"GET /up HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let server = [&switch[..], &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])].concat();
    let client = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(3, "/next")].concat();
    let answers = [answer(1, b"up"), answer(3, b"next")].concat();
    let turns = [(true, &request[..]), (false, &server), (true, &client), (false, &answers)];
    let (events, _) = records(&tcp(8080, &turns));
    let all: Vec<_> =
        of_kind(&events, "http").map(|event| event["http"]["url"].as_str().unwrap_or("-")).collect();
    assert_eq!(
        all.iter().filter(|url| **url == "/up").count(),
        2,
        "as HTTP/1.1 with 101, and as a stream: {all:?}"
    );
    let second: Vec<_> = streams(&events).into_iter().filter(|it| it.1 == 200).collect();
    assert_eq!(second, [stream("/up", 200, 2), stream("/next", 200, 4)]);
}

#[test]
fn calls_of_grpc_have_events_of_their_own() {
    let call = |id, method: &str| {
        let path = format!("/shop.Orders/{method}");
        let kind = field("content-type", "application/grpc", true);
        let block = [&[0x83, 0x86][..], &field(":path", &path, false), &kind].concat();
        [frame(HEADERS, END_HEADERS, id, &block), frame(DATA, END_STREAM, id, &[0, 0, 0, 0, 1, 7])].concat()
    };
    let requests = [PREFACE, &call(1, "Get"), &call(3, "Put")].concat();
    let trailers =
        |id, code: &str| frame(HEADERS, END_STREAM | END_HEADERS, id, &field("grpc-status", code, false));
    let answers = [
        frame(HEADERS, END_HEADERS, 1, &[0x88]),
        frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 8, 9]),
        trailers(1, "0"),
        frame(HEADERS, END_HEADERS, 3, &[0x88]),
        trailers(3, "14"),
    ]
    .concat();
    let (events, _) = records(&tcp(50_051, &[(true, &requests), (false, &answers)]));
    let calls: Vec<_> = of_kind(&events, "grpc").map(|event| event["service"].clone()).collect();
    let of = |name: &str| calls.iter().map(|call| call[name].to_string()).collect::<Vec<_>>();
    assert_eq!(of("operation"), ["\"Get\"", "\"Put\""]);
    assert_eq!(of("object"), ["\"shop.Orders\"", "\"shop.Orders\""]);
    assert_eq!(of("status"), ["\"ok\"", "\"error\""]);
    assert_eq!((of("code")[1].as_str(), of("bytes")[0].as_str()), ("\"14\"", "7"));
    assert!(calls.iter().all(|call| call["latency_ms"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_gap_in_content_does_no_harm_and_one_elsewhere_is_counted() {
    let requests = [PREFACE, &get(1, "/a"), &get(3, "/b")].concat();
    let long = frame(DATA, END_STREAM, 1, &[b'x'; 14_000]);
    let answers = [&frame(HEADERS, END_HEADERS, 1, &[0x88]), &long[..], &answer(3, b"two")].concat();
    let frames = tcp(8080, &[(true, &requests), (false, &answers)]);
    // Behind the handshake and the request.
    let missing = |which: &[usize]| {
        let kept = frames.iter().enumerate().filter(|(at, _)| !which.contains(at));
        records(&kept.map(|(_, frame)| frame.clone()).collect::<Vec<_>>()).0
    };
    assert_eq!(streams(&missing(&[6, 7])), [stream("/a", 200, 14_000), stream("/b", 200, 3)]);
    let events = missing(&[4]);
    assert!(of_kind(&events, "http").any(|event| event["http"]["header_blocks_lost"] == 1), "{events:?}");
    assert_eq!(streams(&events).iter().filter(|it| it.1 == 0).count(), 2, "requests without responses");
}

#[test]
fn a_response_that_crosses_a_reset_belongs_to_the_stream() {
    let reset = frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    let requests = [PREFACE, &get(1, "/a")].concat();
    let (events, _) = records(&tcp(8080, &[(true, &requests), (true, &reset), (false, &answer(1, b"late"))]));
    assert_eq!(streams(&events), [stream("/a", 200, 4)]);
    let of_stream = of_kind(&events, "http").find(|event| event["http"]["url"] == "/a").unwrap();
    assert_eq!(of_stream["http"]["http2"]["request"]["error_code"], "Cancel");
}

#[test]
fn hostile_resets_floods_and_bombs_are_bounded() {
    let resets: Vec<u8> = (0..10_000_u32)
        .flat_map(|number| {
            let id = 2 * number + 1;
            let block = [0x82, 0x86, 0x84];
            let open = frame(HEADERS, END_STREAM | END_HEADERS, id, &block);
            [open, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let events = bounded("rapid reset", &tcp(8080, &[(true, &[PREFACE, &resets].concat())]));
    let written = streams(&events).len() as u64;
    let omitted: u64 = of_kind(&events, "http").filter_map(|event| event["http"]["omitted"].as_u64()).sum();
    assert_eq!(written + omitted, 10_000, "{written} written");

    let opened: Vec<u8> = (0..10_000_u32).flat_map(|number| get(2 * number + 1, "/")).collect();
    let events = bounded("streams without end", &tcp(8080, &[(true, &[PREFACE, &opened].concat())]));
    let evicted: u64 =
        of_kind(&events, "http").filter_map(|event| event["http"]["streams_evicted"].as_u64()).sum();
    assert_eq!(evicted, 10_000 - 256);

    let begin = frame(HEADERS, 0, 1, &[0x82]);
    for part in [&[][..], &[0x82; 1000]] {
        let flood = [PREFACE, &begin, &frame(CONTINUATION, 0, 1, part).repeat(200)[..]].concat();
        bounded("continuations", &tcp(8080, &[(true, &flood)]));
    }
    for byte in ["x", "\u{1}", "\""] {
        let bomb = field("a", &byte.repeat(120), true);
        let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&[0x82, 0x84][..], &bomb].concat());
        let others: Vec<u8> = (1..2000_u32)
            .flat_map(|number| frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &[0xbe; 60]))
            .collect();
        bounded("bombs", &tcp(8080, &[(true, &[PREFACE, &first, &others].concat())]));
    }
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100].repeat(200)).repeat(20);
    bounded("settings", &tcp(8080, &[(true, &[PREFACE, &settings].concat())]));
}
