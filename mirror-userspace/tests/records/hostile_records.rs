//! The records of an attacker's packets have a bounded size: a sender of little data cannot fill the disk of
//! the log. Omissions are recorded.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::sync::Arc;

use etherparse::{PacketBuilder, TcpHeader};
use mirror_userspace::engine::indicators::Indicators;
use mirror_userspace::engine::worker::{Worker, WorkerConfig};
use mirror_userspace::packet::FrameInfo;
use mirror_userspace::records::sink::{FILE_NAME, Overflow, Sink};
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_tests::tls::{server_hello, with_len16};
use serde_json::Value;

/// The most bytes of records for each byte of a packet.
const PER_BYTE: usize = 20;
/// The most further bytes for each packet of any length, and for each flow.
const PER_PACKET: usize = 2048;
const PER_FLOW: usize = 8192;

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

/// Returns the analyzers' records of a flow's frames, and their length in bytes.
pub(super) fn records(frames: &[Vec<u8>]) -> (Vec<Value>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    let mut worker = Worker::new(WorkerConfig::default(), sink.producer(Overflow::Wait));
    let mut indicators = Indicators::default();
    for number in 0..100 {
        indicators.add(&format!("a{number}.example")).unwrap();
    }
    worker.watch_for(&Arc::new(indicators));
    for (at, frame) in (1_u64..).zip(frames) {
        let info = FrameInfo {
            time: at * 1_000_000,
            original_len: frame.len() as u32,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        };
        worker.frame(&info, frame);
    }
    worker.finish();
    assert_eq!(sink.finish().lost, 0);
    let text = fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
    let mut bytes = 0;
    let lines = text.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let counts = !matches!(event["event_type"].as_str(), Some("flow" | "stats" | "metrics"));
        bytes += if counts { line.len() + 1 } else { 0 };
        counts.then_some(event)
    });
    (lines.collect(), bytes)
}

/// Asserts that the records of frames are within the bounds; returns the records.
pub(super) fn bounded(name: &str, frames: &[Vec<u8>]) -> Vec<Value> {
    let (events, bytes) = records(frames);
    let came: usize = frames.iter().map(Vec::len).sum();
    let most = PER_BYTE * came + PER_PACKET * frames.len() + PER_FLOW;
    println!("{name}: {} records of {bytes} bytes for {came} that came: {}", events.len(), bytes / came);
    assert!(bytes <= most, "{name}: {bytes} of records for {came} bytes, at most {most}");
    assert!(!events.is_empty(), "{name}");
    events
}

fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, SERVER, 64).udp(ports[0], ports[1]);
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Returns the segments of a connection in which client and server send these payloads in turn.
pub(super) fn tcp(port: u16, turns: &[(bool, &[u8])]) -> Vec<Vec<u8>> {
    let mut next = [1000_u32, 5000];
    let mut segment = |from_client: bool, flags: &str, payload: &[u8]| {
        let (this, other) = if from_client { (0, 1) } else { (1, 0) };
        let (ends, ports) = ([CLIENT, SERVER], [40_000, port]);
        let mut header = TcpHeader::new(ports[this], ports[other], next[this], 65_000);
        header.syn = flags.contains('S');
        header.fin = flags.contains('F');
        header.ack = flags.contains('A');
        header.acknowledgment_number = if header.ack { next[other] } else { 0 };
        next[this] += payload.len() as u32 + u32::from(header.syn || header.fin);
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ends[this], ends[other], 64);
        let mut frame = Vec::new();
        builder.tcp_header(header).write(&mut frame, payload).unwrap();
        frame
    };
    let mut frames = vec![segment(true, "S", &[]), segment(false, "SA", &[]), segment(true, "A", &[])];
    for &(from_client, bytes) in turns {
        frames.extend(bytes.chunks(1400).map(|part| segment(from_client, "A", part)));
    }
    frames.extend([segment(true, "FA", &[]), segment(false, "FA", &[]), segment(true, "A", &[])]);
    frames
}

/// Returns a DNS message with these counts and sections.
fn dns(flags: u16, counts: [u16; 3], sections: &[u8]) -> Vec<u8> {
    let words = [0x1234, flags, counts[0], counts[1], counts[2], 0];
    words.into_iter().flat_map(u16::to_be_bytes).chain(sections.iter().copied()).collect()
}

/// Returns the longest name, made of this byte.
fn long_name(byte: u8) -> Vec<u8> {
    let labels = [63_u8, 63, 63, 61].into_iter();
    labels.flat_map(|len| std::iter::once(len).chain(vec![byte; len.into()])).chain([0]).collect()
}

const QUERY: u16 = 0x0100;
const ANSWER: u16 = 0x8180;
/// The type A, or the following ones, of the class Internet.
const A: [u8; 4] = [0, 1, 0, 1];
const CNAME: u8 = 5;
const TXT: u8 = 16;
const SOA: u8 = 6;

/// Returns a record about the name at offset 12.
fn record(rrtype: u8, data: &[u8]) -> Vec<u8> {
    [&[0xc0, 12, 0, rrtype, 0, 1, 0, 0, 0, 60][..], &with_len16(data)].concat()
}

#[test]
fn hostile_questions_are_logged_as_far_as_their_bytes_allow() {
    for byte in *b"a\x01\xff" {
        let mut questions = [&long_name(byte)[..], &A].concat();
        questions.extend([&[0xc0, 12][..], &A].concat().repeat(179));
        let events = bounded("questions", &[udp([40_000, 53], &dns(QUERY, [180, 0, 0], &questions))]);
        let (last, others) = events.split_last().unwrap();
        let omitted = last["dns"]["questions_omitted"].as_u64().unwrap();
        assert_eq!(events.len() as u64 + omitted, 180, "{last}");
        assert!(others.iter().all(|event| event["dns"]["questions_omitted"].is_null()));
    }
}

/// Compression pointers can form a loop: a few bytes are read as a thousand.
#[test]
fn hostile_names_without_an_end_are_cut() {
    for byte in *b"a\x01\xff" {
        let circle = [&[20][..], &[byte; 20], &[0xc0, 12]].concat();
        let query = dns(QUERY, [1, 0, 0], &[&circle[..], &A].concat());
        let events = bounded("a circle", &[udp([40_000, 53], &query)]);
        assert_eq!(events[0]["dns"]["rrname_truncated"], true);
        let questions = [&circle[..], &A, &[0xc0, 12], &A, &[0xc0, 12], &A].concat();
        bounded("circles", &[udp([40_000, 53], &dns(QUERY, [3, 0, 0], &questions))]);
        let stream = with_len16(&query).repeat(200);
        let events = bounded("a stream of circles", &tcp(53, &[(true, &stream)]));
        let omitted = events.last().unwrap()["dns"]["omitted"].as_u64().unwrap();
        assert_eq!(events.len() as u64 - 1 + omitted, 200);
    }
}

/// Returns a question, which marks the flow as DNS.
fn question_first() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(SERVER, CLIENT, 64).udp(40_000, 53);
    let query = dns(QUERY, [1, 0, 0], &[&b"\x01a\x00"[..], &A].concat());
    builder.write(&mut frame, &query).unwrap();
    frame
}

#[test]
fn hostile_answers_are_logged_as_far_as_their_bytes_allow() {
    let text = |byte: u8, len: usize| [&[len as u8][..], &vec![byte; len]].concat();
    for byte in *b"a\x01\xff" {
        let soa = [&[0xc0, 12, 0xc0, 12][..], &[255; 20]].concat();
        let kinds: [(&str, Vec<u8>, u16); 6] = [
            ("names", record(CNAME, &[0xc0, 12]), 60),
            ("addresses", record(1, &[1, 2, 3, 4]), 60),
            ("empty data", record(1, &[]), 60),
            ("zones", record(SOA, &soa), 15),
            ("texts", record(TXT, &text(byte, 255)), 5),
            ("many texts", record(TXT, &text(byte, 1).repeat(200)), 3),
        ];
        for (name, data, count) in kinds {
            let question = [&long_name(byte)[..], &A].concat();
            for counts in [[1, count, 0], [1, 0, count], [1, count, count]] {
                let all = usize::from(counts[1] + counts[2]);
                let sections = [&question[..], &data.repeat(all)].concat();
                let message = dns(ANSWER, counts, &sections);
                // Some messages are refused as a whole.
                let frame = udp([53, 40_000], &message);
                let most = PER_BYTE * frame.len() + 2 * PER_PACKET;
                let (events, bytes) = records(&[question_first(), frame]);
                assert!(bytes <= most, "{name}: {bytes}");
                let Some(event) = events.get(1) else { continue };
                println!("{name}: {bytes} of {most}");
                let object = &event["dns"];
                for (section, omitted) in
                    [("answers", "answers_omitted"), ("authorities", "authorities_omitted")]
                {
                    let written = object[section].as_array().map_or(0, Vec::len);
                    let omitted = object[omitted].as_u64().unwrap_or_default() as usize;
                    let expected = counts[if section == "answers" { 1 } else { 2 }];
                    let strings = if name == "many texts" { 200 } else { 1 };
                    assert_eq!(written + omitted, usize::from(expected) * strings, "{name}");
                }
            }
        }
    }
}

/// Ordinary messages are recorded completely, as Suricata does.
#[test]
fn a_long_answer_is_written_wholly() {
    let name = b"\x03www\x07example\x03com\x00";
    let question = [&name[..], &A].concat();
    let answers = record(1, &[192, 0, 2, 1]).repeat(28);
    let message = dns(ANSWER, [1, 28, 0], &[question, answers].concat());
    let events = bounded("28 addresses", &[question_first(), udp([53, 40_000], &message)]);
    let object = &events[1]["dns"];
    assert_eq!(object["answers"].as_array().unwrap().len(), 28);
    assert_eq!(object["grouped"]["A"].as_array().unwrap().len(), 28);
    assert!(object["answers_omitted"].is_null());
}

/// A name that is looked for.
fn looked_for(number: usize) -> Vec<u8> {
    let first = format!("a{number}");
    [&[first.len() as u8][..], first.as_bytes(), b"\x07example\x00"].concat()
}

/// Returns the number of alerts among these records, and the number that the last record reports as omitted.
fn alerts(events: &[Value]) -> (u64, u64) {
    let raised = events.iter().filter(|event| event["event_type"] == "alert").count();
    let last = events.last().unwrap();
    let omitted = ["http", "dns"].map(|kind| last[kind]["alerts_omitted"].as_u64().unwrap_or_default());
    (raised as u64, omitted.iter().sum())
}

#[test]
fn hostile_indicators_in_one_message_raise_some_alerts() {
    let questions: Vec<u8> = (0..100).flat_map(|number| [&looked_for(number)[..], &A].concat()).collect();
    let events = bounded("indicators", &[udp([40_000, 53], &dns(QUERY, [100, 0, 0], &questions))]);
    let (raised, omitted) = alerts(&events);
    // Of a message, the first questions are read.
    assert_eq!((raised, omitted), (2, 0));
    let requests: Vec<u8> = (0..1000)
        .flat_map(|number| format!("GET / HTTP/1.1\nhost:a{}.example\n\n", number % 100).into_bytes())
        .collect();
    let (raised, omitted) = alerts(&bounded("hosts", &tcp(80, &[(true, &requests)])));
    assert!((4..=150).contains(&raised), "{raised}");
    assert_eq!(raised + omitted, 1000);
}

/// Messages without end use up what a flow may become, and not the alert for what comes behind them.
#[test]
fn hostile_messages_in_front_of_an_indicator_do_not_hide_it() {
    let evil = b"GET / HTTP/1.1\r\nHost: a7.example:80\r\n\r\n";
    let response = b"HTTP/1.1 200 a\r\ncontent-length:0\r\n\r\n";
    for many in [100, 127, 128, 129, 2000] {
        let requests = [&b"GET / HTTP/1.1\r\n\r\n".repeat(many)[..], evil].concat();
        let events = bounded("requests in front", &tcp(80, &[(true, &requests)]));
        assert_eq!(alerts(&events), (1, 0), "{many}");
        let omitted = events.last().unwrap()["http"]["omitted"].as_u64().unwrap();
        let written = events.iter().filter(|event| event["http"]["url"].is_string()).count();
        assert_eq!(written as u64 + omitted, many as u64 + 1);
        let answered = [(true, &requests[..]), (false, &response.repeat(many + 1))];
        assert_eq!(alerts(&bounded("answered", &tcp(80, &answered))), (1, 0), "{many}");
    }
    let question = |name: &[u8]| with_len16(&dns(QUERY, [1, 0, 0], &[name, &A].concat()));
    let messages = [question(b"\x01a\x00").repeat(2000), question(&looked_for(7))].concat();
    assert_eq!(alerts(&bounded("questions in front", &tcp(53, &[(true, &messages)]))), (1, 0));
}

#[test]
fn hostile_requests_of_a_few_bytes_are_counted_where_they_are_too_many() {
    let requests = b"a b\n\n".repeat(2000);
    let responses = b"HTTP/1.1 200 a\r\ncontent-length:0\r\n\r\n".repeat(10);
    let mut turns: Vec<(bool, &[u8])> = Vec::new();
    for part in requests.chunks(50) {
        turns.extend([(true, part), (false, &responses[..])]);
    }
    let events = bounded("short requests", &tcp(80, &[(true, &b"GET / HTTP/1.1\r\n\r\n".repeat(120))]));
    let written = events.iter().filter(|event| event["http"]["url"].is_string()).count() as u64;
    let omitted = events.last().unwrap()["http"]["omitted"].as_u64().unwrap();
    assert_eq!(written + omitted, 120);
    bounded("answered requests", &tcp(80, &turns));
}

#[test]
fn hostile_texts_of_requests_are_bounded_by_what_came() {
    for byte in *b"\x01\xff\"" {
        let long = vec![byte; 3000];
        let target = [b"GET http://", &long[..], b"/ HTTP/1.1\r\nuser-agent: ", &long, b"\r\n\r\n"].concat();
        let range =
            [b"HTTP/1.1 206 a\r\ncontent-range: ", &long[..], b"\r\ncontent-length: 0\r\n\r\n"].concat();
        bounded("texts of HTTP", &tcp(80, &[(true, &target), (false, &range)]));
        let banner = [b"SSH-2.0-", &[byte; 240][..], b"\r\n"].concat();
        bounded("banners", &tcp(22, &[(true, &banner), (false, &banner)]));
    }
}

#[test]
fn hostile_hellos_are_bounded_by_what_came() {
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_len16(body)].concat();
    for byte in *b"\x01\xff" {
        let name = with_len16(&[&[0][..], &with_len16(&vec![byte; 4000])].concat());
        let protocols = with_len16(&[1, byte].repeat(2000));
        let extensions = [extension(0, &name), extension(16, &protocols)].concat();
        let ciphers = vec![0xfe; 2000];
        let hello =
            [&[3, 3][..], &[7; 32], &[0], &with_len16(&ciphers), &[1, 0], &with_len16(&extensions)].concat();
        let message = [&[1, 0][..], &with_len16(&hello)].concat();
        let record = [&[22, 3, 1][..], &with_len16(&message)].concat();
        bounded("a hello", &tcp(443, &[(true, &record), (false, &server_hello())]));
    }
}
