//! The packet path allocates no memory once it has seen the demand of its traffic: afterwards buffers and
//! states pass from flow to flow.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::num::NonZeroUsize;

use etherparse::{PacketBuilder, TcpHeader};
use mirror_userspace::engine::offline::Reader;
use mirror_userspace::engine::worker::{Worker, WorkerConfig};
use mirror_userspace::packet::capture_file::FileFrame;
use mirror_userspace::packet::{FrameInfo, LinkType};
use mirror_userspace::records::sink::{Overflow, Sink};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;

const SEED: u64 = 7;
const SECOND: u64 = 1_000_000_000;
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

fn udp(ports: [u16; 2], from_client: bool, payload: &[u8]) -> Vec<u8> {
    let (this, other) = if from_client { (0, 1) } else { (1, 0) };
    let ends = [CLIENT, SERVER];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(ends[this], ends[other], 64)
        .udp(ports[this], ports[other])
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Returns the segments of a connection in which both sides send these payloads in turn, with handshake and
/// end.
fn tcp(ports: [u16; 2], turns: &[(bool, &[u8])]) -> Vec<Vec<u8>> {
    let mut next = [1000_u32, 5000];
    let mut segment = |from_client: bool, flags: &str, payload: &[u8]| {
        let (this, other) = if from_client { (0, 1) } else { (1, 0) };
        let ends = [CLIENT, SERVER];
        let mut header = TcpHeader::new(ports[this], ports[other], next[this], 1000);
        header.syn = flags.contains('S');
        header.fin = flags.contains('F');
        header.ack = flags.contains('A');
        header.acknowledgment_number = if header.ack { next[other] } else { 0 };
        next[this] += payload.len() as u32 + u32::from(header.syn || header.fin);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(ends[this], ends[other], 64)
            .tcp_header(header)
            .write(&mut frame, payload)
            .unwrap();
        frame
    };
    let mut frames = vec![segment(true, "S", &[]), segment(false, "SA", &[]), segment(true, "A", &[])];
    for &(from_client, text) in turns {
        // In two segments, the second before the first.
        let (first, second) = text.split_at(text.len() / 2);
        let [first, second] = [first, second].map(|half| segment(from_client, "A", half));
        frames.extend([second, first]);
    }
    frames.extend([segment(true, "FA", &[]), segment(false, "FA", &[]), segment(true, "A", &[])]);
    frames
}

/// Returns traffic of flows of all analysed kinds. The client's port distinguishes them from earlier ones.
fn traffic(client_port: u16) -> Vec<Vec<u8>> {
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";
    const ANSWER: &[u8] =
        b"\x12\x34\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";
    const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
    const SSH: [&[u8]; 2] = [b"SSH-2.0-client\r\n", b"SSH-2.0-server\r\n"];
    // A ClientHello without extensions.
    let hello = [&[22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0, 47, 1, 0]].concat();
    let initial = [&[0xc3, 0, 0, 0, 1, 8][..], &[5; 8], &[0, 0, 0x44, 0xb0], &[9; 1200]].concat();
    let mut frames = vec![
        udp([client_port, 53], true, QUERY),
        udp([client_port, 53], false, ANSWER),
        udp([client_port, 443], true, &initial),
        udp([client_port, 9], true, b"whatever"),
    ];
    frames.extend(tcp([client_port, 80], &[(true, GET), (true, GET), (false, OK), (false, OK)]));
    frames.extend(tcp([client_port, 22], &[(true, SSH[0]), (false, SSH[1])]));
    frames.extend(tcp([client_port, 443], &[(true, &hello)]));
    frames.extend(tcp([client_port, 25], &[(false, b"220 mail\r\n"), (true, b"EHLO x\r\n")]));
    frames.extend(tcp([client_port, 4711], &[(true, b"garbage"), (false, b"garbage")]));
    frames
}

#[test]
fn traffic_like_that_before_takes_no_memory() {
    const ROUNDS: u16 = 400;
    const MEASURED: u16 = 100;
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    let config = WorkerConfig { max_flows: 64, hash_seed: SEED, ..WorkerConfig::default() };
    let mut worker = Worker::new(config, sink.producer(Overflow::Wait));
    let rounds: Vec<_> = (0..ROUNDS + MEASURED).map(|round| traffic(10_000 + round)).collect();
    let mut now = 1_000 * SECOND;
    let mut run = |rounds: &[Vec<Vec<u8>>]| {
        for frames in rounds {
            for frame in frames {
                now += SECOND / 50;
                let flow_hash = InnerHeaders::parse(frame.as_slice(), 0).flow_hash(&FlowHashKey::new(SEED));
                let info = FrameInfo {
                    time: now,
                    original_len: frame.len() as u32,
                    flow_hash,
                    mirror: None,
                    side: None,
                };
                worker.frame(&info, frame);
                worker.tick(now);
            }
        }
    };
    let (before, measured) = rounds.split_at(ROUNDS.into());
    let needed = allocation_counter::measure(|| run(before));
    let mut taken = (0, 0);
    for rounds in measured.chunks(10) {
        // Reading files waits when the log is behind, and the first wait allocates memory.
        let _ = sink.flush();
        let info = allocation_counter::measure(|| run(rounds));
        taken = (taken.0 + info.count_total, taken.1 + info.bytes_total);
    }
    worker.finish();
    let counters = sink.finish();
    let flows = u64::from(ROUNDS + MEASURED) * 8;
    assert_eq!(counters.written("flow"), flows);
    for (kind, each) in [("dns", 2), ("http", 2), ("ssh", 1)] {
        assert_eq!(counters.written(kind), u64::from(ROUNDS + MEASURED) * each, "{kind}");
    }
    assert!(needed.count_total > 0, "the counter does not count");
    assert_eq!(taken, (0, 0), "allocations, bytes");
}

#[test]
fn frames_on_their_way_to_several_workers_take_no_memory() {
    const PASSES: usize = 60;
    const MEASURED: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    let workers = NonZeroUsize::new(3).unwrap();
    let mut reader = Reader::over(workers, WorkerConfig::default(), &sink).unwrap();
    let frames: Vec<_> = (0..100).flat_map(|round| traffic(10_000 + round)).collect();
    let mut now = 1_000 * SECOND;
    let mut pass = || {
        for bytes in &frames {
            now += SECOND / 5_000;
            let (link, original_len) = (Some(LinkType::Ethernet), bytes.len() as u32);
            reader.frame(&FileFrame { time: now, link, link_number: 1, original_len, bytes });
        }
    };
    (0..PASSES).for_each(|_| pass());
    let taken = allocation_counter::measure(|| (0..MEASURED).for_each(|_| pass()));
    reader.finish();
    let _ = sink.finish();
    // A first wait for a worker allocates, whenever it comes.
    assert!(
        taken.count_total <= 8,
        "{} allocations for {} frames",
        taken.count_total,
        MEASURED * frames.len()
    );
}
