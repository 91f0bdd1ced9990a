//! Several workers write the records that one worker writes, byte for byte.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use etherparse::{IpNumber, TcpHeader};
use mirror_userspace::engine::offline::{HASH_SEED, Reader};
use mirror_userspace::engine::worker::{Worker, WorkerConfig, WorkerCounters};
use mirror_userspace::packet::capture_file::FileFrame;
use mirror_userspace::packet::{FlowScope, LinkType};
use mirror_userspace::records::sink::{Overflow, Sink};
use mirror_xdp_common::outer::Ports;
use mirror_xdp_tests::frames::{APPLIANCE_V4, Flow, Mirrored, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::require::corpus;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// A part of a capture: its kind, the hosts and ports that it is about, its session, and the time that passes before.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    host: u8,
    port: u8,
    session: u8,
    passed: u8,
}

prop_compose! {
    fn step()(
        kind in 0..KINDS, host in 0_u8..6, port in 0_u8..4, session in 0_u8..4, passed in any::<u8>(),
    ) -> Step {
        Step { kind, host, port, session, passed }
    }
}

const KINDS: u8 = 12;

impl Step {
    fn flow(self, server_port: u16) -> Flow {
        let end = |host, port| SocketAddr::from((Ipv4Addr::new(172, 31, 0, host), port));
        let client = end(10 + self.host % 3, 20_000 + u16::from(self.port));
        Flow { client, server: end(20 + self.host / 3, server_port), vlans: Vec::new() }
    }

    /// The session of the frames; `None` for plain ones.
    fn session(self) -> Option<Mirrored> {
        let from = |host| IpAddr::from(Ipv4Addr::new(10, 9, 1, host));
        let session = |vni, host| Some(mirrored(vni).between(from(host), APPLIANCE_V4.into()));
        match self.session {
            0 => None,
            1 => session(7, 1),
            2 => session(7, 2),
            _ => session(8, 1),
        }
    }

    /// The frames, with the time that passes before each.
    fn frames(self) -> Vec<Vec<u8>> {
        let Self { kind, port, .. } = self;
        let dns = self.flow(53);
        match kind {
            0 => vec![self.flow(9).udp(b"hello"), self.flow(9).reversed().udp(b"hello")],
            1 => vec![
                dns.udp(&dns_query(port.into(), "a.example")),
                dns.reversed().udp(&dns_answer(port.into(), "a.example", Ipv4Addr::new(1, 2, 3, 4))),
            ],
            2 => http(&self.flow(80), false),
            3 => http(&self.flow(80), true),
            4 => fragments(&dns.udp(&dns_query(port.into(), "a.long.name.example")), port.into()),
            // The rest of the datagram does not come.
            5 => fragments(&dns.udp(&dns_query(1, "lost.example")), 99).drain(..1).collect(),
            6 => vec![icmp_error(&self.flow(9))],
            7 => vec![self.flow(9).ping(port.into(), 1)],
            // Overlays: the tunnel's ports and ends say little about the flow in it.
            8 => vec![overlay(self.host, port).carrying(&dns.udp(&dns_query(9, "pod.example")))],
            9 => vec![overlay(self.host / 2, 9).carrying(&self.flow(9).reversed().udp(b"pod"))],
            10 => vec![self.flow(9).packet(IpNumber::IPV4, &dns.udp(&dns_query(3, "ipip.example"))[14..])],
            // A connection that goes on for long.
            _ => vec![self.flow(4711).tcp(
                TcpHeader { ack: true, sequence_number: 5, acknowledgment_number: 7, ..TcpHeader::default() },
                b"middle",
            )],
        }
    }

    fn passed(self) -> u64 {
        match self.passed {
            0..=199 => u64::from(self.passed) * MILLISECOND / 8,
            200..=229 => u64::from(self.passed) * MILLISECOND,
            other => u64::from(other - 229) * 7 * SECOND,
        }
    }
}

fn overlay(host: u8, port: u8) -> Mirrored {
    let end = |host| IpAddr::from(Ipv4Addr::new(192, 168, 0, host));
    mirrored(5).between(end(host), end(100)).source_port(50_000 + u16::from(port))
}

/// Returns a connection with a request and its response, in order or with segments exchanged.
fn http(flow: &Flow, mixed: bool) -> Vec<Vec<u8>> {
    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let header = |sequence, acknowledgement| TcpHeader {
        ack: true,
        psh: true,
        sequence_number: sequence,
        acknowledgment_number: acknowledgement,
        window_size: 64_240,
        ..TcpHeader::default()
    };
    let mut frames = flow.tcp_handshake();
    let (first, second) = REQUEST.split_at(10);
    frames.push(flow.tcp(header(1001, 9001), first));
    frames.push(flow.tcp(header(1011, 9001), second));
    frames.push(flow.reversed().tcp(header(9001, 1001 + REQUEST.len() as u32), RESPONSE));
    if mixed {
        // The response overtakes a part of the request, and another part never comes.
        frames.swap(4, 5);
        frames.pop();
    } else {
        let (sent, received) = (1001 + REQUEST.len() as u32, 9001 + RESPONSE.len() as u32);
        frames.push(flow.tcp(TcpHeader { fin: true, ..header(sent, received) }, b""));
        frames.push(flow.reversed().tcp(TcpHeader { fin: true, ..header(received, sent + 1) }, b""));
    }
    frames
}

/// Returns the two fragments of an IPv4 packet in Ethernet.
fn fragments(frame: &[u8], identification: u16) -> Vec<Vec<u8>> {
    let (headers, payload) = frame.split_at(34);
    let (first, last) = payload.split_at(24);
    let fragment = |payload: &[u8], field: u16| {
        let mut fragment = [headers, payload].concat();
        fragment[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        fragment[18..20].copy_from_slice(&identification.to_be_bytes());
        fragment[20..22].copy_from_slice(&field.to_be_bytes());
        fragment
    };
    vec![fragment(last, 3), fragment(first, 0x2000)]
}

/// Returns a report that a packet of the flow has not reached its destination.
fn icmp_error(flow: &Flow) -> Vec<u8> {
    let packet = &flow.udp(b"hello")[14..];
    let router = SocketAddr::from((Ipv4Addr::new(172, 31, 9, 9), 0));
    let to_client = Flow { client: router, server: flow.client, vlans: Vec::new() };
    to_client.packet(IpNumber::ICMP, &[&[3, 1, 0, 0, 0, 0, 0, 0], packet].concat())
}

/// Returns the frames of a capture, with their times.
fn capture(steps: &[Step]) -> Vec<(u64, Vec<u8>)> {
    let mut now = 1_600_000_000 * SECOND;
    let mut frames = Vec::new();
    for step in steps {
        now += step.passed();
        for (index, frame) in step.frames().into_iter().enumerate() {
            now += MILLISECOND / 10;
            // Some frames have come late.
            let time = now - if step.passed % 16 == 1 && index == 1 { 30 * MILLISECOND } else { 0 };
            let frame = step.session().map_or(frame.clone(), |session| session.carrying(&frame));
            frames.push((time, frame));
            if step.passed % 4 == 0 && step.session == 1 {
                // The other end is mirrored, too.
                let copy = Step { session: 2, ..*step }.session().unwrap();
                frames.push((time + MILLISECOND, copy.carrying(&step.frames()[index])));
            }
        }
    }
    frames
}

fn read(frames: &[(u64, Vec<u8>)], config: WorkerConfig, workers: usize) -> (String, WorkerCounters) {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    let workers = NonZeroUsize::new(workers).unwrap();
    let mut reader = Reader::over(workers, config, &sink).unwrap();
    for (time, bytes) in frames {
        let link = Some(LinkType::Ethernet);
        let original_len = bytes.len() as u32;
        reader.frame(&FileFrame { time: *time, link, link_number: 1, original_len, bytes });
    }
    reader.finish();
    let _ = sink.finish();
    (fs::read_to_string(directory.path().join("eve.json")).unwrap(), reader.counters())
}

/// Returns the counters that are sums over all frames, without those of tables that each worker has for itself.
fn comparable(mut counters: WorkerCounters) -> WorkerCounters {
    counters.split.clear();
    counters
}

fn check(steps: &[Step], dedup: bool, flow_scope: FlowScope) {
    let config = WorkerConfig { dedup, flow_scope, ..WorkerConfig::default() };
    let frames = capture(steps);
    let (expected, counted) = read(&frames, config, 1);
    for workers in 2..=4 {
        let (records, counters) = read(&frames, config, workers);
        let difference = records.lines().zip(expected.lines()).find(|(one, other)| one != other);
        assert_eq!(difference, None, "{workers} workers, the first difference");
        assert_eq!(records.len(), expected.len(), "{workers} workers");
        assert_eq!(comparable(counters), comparable(counted.clone()), "{workers} workers");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_workers_writes_the_same_bytes(
        steps in prop::collection::vec(step(), 1..120), dedup: bool, by_vni: bool,
    ) {
        check(&steps, dedup, if by_vni { FlowScope::Vni } else { FlowScope::Interface });
    }
}

#[test]
fn a_long_capture_of_all_kinds_has_the_same_records_with_any_number_of_workers() {
    let step = |number: u32| {
        let random = number.wrapping_mul(0x9e37_79b9) >> 7;
        let [a, b, c, _] = random.to_le_bytes();
        Step { kind: a % KINDS, host: b % 6, port: c % 4, session: b / 6 % 4, passed: c }
    };
    let steps: Vec<_> = (0..6_000).map(step).collect();
    for dedup in [false, true] {
        check(&steps, dedup, FlowScope::Interface);
    }
}

#[test]
fn flows_that_end_in_one_tick_are_written_in_order_however_many() {
    let flow = |number: u32| {
        let client = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 1000));
        Flow { client, ..Flow::default() }
    };
    let mut frames: Vec<_> = (0..5_000_u32)
        .map(|number| {
            (SECOND + u64::from(number), flow(number.wrapping_mul(2_654_435_761) % 65_536).udp(b"x"))
        })
        .collect();
    frames.push((1000 * SECOND, flow(70_000).udp(b"x")));
    let (expected, _) = read(&frames, WorkerConfig::default(), 1);
    assert_eq!(expected.lines().filter(|line| line.contains("\"timeout\"")).count(), 5_000);
    assert!(read(&frames, WorkerConfig::default(), 3).0 == expected);
}

/// A library user's own workers read a file after the end of another one.
#[test]
fn a_reader_goes_on_after_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let workers = NonZeroUsize::new(2).unwrap();
    let log = |several: bool| {
        let path = directory.path().join(several.to_string());
        let sink = Sink::open(&path).unwrap();
        let config = WorkerConfig { hash_seed: HASH_SEED, ..WorkerConfig::default() };
        let mut reader = if several {
            Reader::over(workers, config, &sink).unwrap()
        } else {
            Reader::of(Worker::new(config, sink.producer(Overflow::Wait)), Ports::default())
        };
        for round in 1..4 {
            for number in 0..100 {
                let bytes = &Flow::v4(number, 9).udp(b"hello");
                let time = round * SECOND;
                let (link, original_len) = (Some(LinkType::Ethernet), bytes.len() as u32);
                reader.frame(&FileFrame { time, link, link_number: 1, original_len, bytes });
            }
            reader.finish();
        }
        assert_eq!(reader.counters().flows_total, 300);
        assert_eq!(sink.finish().written("flow"), 300);
        fs::read_to_string(path.join("eve.json")).unwrap()
    };
    assert!(log(true) == log(false));
}

/// Runs `mirror-xdp read`; returns its log, without `stats`, and its messages.
fn run(file: &Path, workers: &str) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mirror-xdp"))
        .args(["read", "--json", "--workers", workers, "--log-dir"])
        .args([directory.path(), file])
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {output:?}", file.display());
    let log = fs::read_to_string(directory.path().join("eve.json")).unwrap_or_default();
    let kept = log.lines().filter(|line| !line.contains("\"event_type\":\"stats\""));
    (kept.flat_map(|line| [line, "\n"]).collect(), String::from_utf8(output.stderr).unwrap())
}

fn captures(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            captures(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "pcap" || kind == "pcapng") {
            found.push(path);
        }
    }
}

#[test]
fn real_captures_have_the_same_records_with_any_number_of_workers() {
    let Some(corpus) = corpus() else { return };
    let every: usize = std::env::var("MIRROR_XDP_EVERY").map_or(29, |every| every.parse().unwrap());
    let mut files = Vec::new();
    captures(&corpus, &mut files);
    assert!(files.len() > 100);
    for file in files.iter().step_by(every) {
        let (expected, messages) = run(file, "1");
        let (records, others) = run(file, "3");
        let difference = records.lines().zip(expected.lines()).find(|(one, other)| one != other);
        assert_eq!(difference, None, "{}", file.display());
        assert_eq!((records.len(), others), (expected.len(), messages), "{}", file.display());
    }
}
