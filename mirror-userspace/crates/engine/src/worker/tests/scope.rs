//! The scope of flows: conversations whose directions come by two sessions of a VNI.

use mirror_packet::FlowScope;
use mirror_xdp_common::filter::ShuntKey;
use mirror_xdp_common::hash::FlowHash;

use super::*;
use crate::hooks::{ShuntId, Shunted};

/// The interfaces of the two ends, with one VNI.
const ENDS: [u32; 2] = [0x0a00_0001, 0x0a00_0002];

impl Bench {
    fn scoped(flow_scope: FlowScope, dedup: bool) -> Self {
        let mut bench = Self::new();
        let config =
            WorkerConfig { max_flows: 1000, hash_seed: 7, flow_scope, dedup, ..WorkerConfig::default() };
        bench.worker = Worker::new(config, bench.sink.producer(Overflow::Wait));
        bench
    }

    fn by(&mut self, vni: u32, source: u32, frame: &[u8]) {
        self.mirror = Some(mirror(vni, source));
        self.frame(frame);
    }

    fn split(&self) -> Vec<(Option<u32>, u64)> {
        let split = self.worker.counters().split;
        split.into_iter().map(|(vni, count)| (vni.map(Vni::get), count)).collect()
    }
}

/// Returns true if a frame comes from the client.
fn is_of_client(frame: &[u8]) -> bool {
    frame[26..30] == CLIENT
}

/// Returns HTTP connections and DNS queries.
fn conversations() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for port in 4000..4020 {
        let mut http = Tcp { client: (CLIENT, port), server: (SERVER, 80), next: [1000, 5000] };
        frames.push(http.segment(true, "S", &[]));
        frames.push(http.segment(false, "SA", &[]));
        frames.push(http.segment(true, "A", &[]));
        let request = format!("GET /{port} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        frames.push(http.segment(true, "A", request.as_bytes()));
        frames.push(http.segment(false, "A", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345"));
        frames.push(http.segment(true, "FA", &[]));
        frames.push(http.segment(false, "FA", &[]));
        frames.push(http.segment(true, "A", &[]));
        frames.push(udp((CLIENT, port), (SERVER, 53), QUERY));
        frames.push(udp((SERVER, 53), (CLIENT, port), ANSWER));
    }
    // The answer comes in fragments, of which one comes by the other session.
    frames.extend(fragments(&udp((CLIENT, 5000), (SERVER, 6000), &[7; 3000]), 1000));
    frames
}

/// Returns the events without what the mirror session decides.
fn without_mirror(events: Vec<Value>) -> Vec<Value> {
    let strip = |mut event: Value| {
        event["mirror"].take();
        // It covers the interface, if the flow does.
        event["flow_id"].take();
        event
    };
    events.into_iter().map(strip).collect()
}

#[test]
fn where_a_vni_is_one_address_space_each_session_may_have_one_direction() {
    let mut one = Bench::scoped(FlowScope::Interface, false);
    let mut both = Bench::scoped(FlowScope::Vni, false);
    for (number, frame) in conversations().iter().enumerate() {
        one.by(7, ENDS[0], frame);
        let is_fragment = frame.len() > 1000;
        let end = if is_fragment { number % 2 } else { usize::from(!is_of_client(frame)) };
        both.by(7, ENDS[end], frame);
    }
    assert_eq!(both.split(), []);
    let (one, both) = (one.events(), both.events());
    let sources = serde_json::json!(["10.0.0.1", "10.0.0.2"]);
    let flows: Vec<_> = both.iter().filter(|event| event["event_type"] == "flow").collect();
    assert_eq!(flows.len(), 41);
    for flow in flows {
        assert_eq!(flow["mirror"]["outer_src"], "10.0.0.1");
        let expected = if flow["dest_port"] == 6000 { None } else { Some(&sources) };
        assert_eq!(flow["mirror"].get("sources"), expected, "{flow}");
    }
    assert_eq!(without_mirror(both), without_mirror(one));
}

#[test]
fn the_same_addresses_in_two_vnis_stay_two_flows() {
    let mut bench = Bench::scoped(FlowScope::Vni, false);
    bench.by(7, ENDS[0], &udp((CLIENT, 1), (SERVER, 2), b"x"));
    bench.by(8, ENDS[0], &udp((SERVER, 2), (CLIENT, 1), b"x"));
    bench.by(7, ENDS[1], &udp((SERVER, 2), (CLIENT, 1), b"x"));
    let mut packets: Vec<_> = bench
        .flows()
        .iter()
        .map(|flow| (flow["mirror"]["vni"].as_u64(), flow["flow"]["pkts_toclient"].as_u64()))
        .collect();
    packets.sort_unstable();
    assert_eq!(packets, [(Some(7), Some(1)), (Some(8), Some(0))]);
}

#[test]
fn where_each_session_is_an_address_space_halves_of_conversations_are_counted_by_vni() {
    let mut bench = Bench::scoped(FlowScope::Interface, false);
    for frame in conversations() {
        bench.by(7, ENDS[usize::from(!is_of_client(&frame))], &frame);
    }
    assert_eq!(bench.split(), [], "as long as they last");
    // Scans, and conversations of which one session has both directions, are not split.
    for port in 0..100 {
        bench.by(8, ENDS[0], &udp((CLIENT, port), (SERVER, 9), b"scan"));
        bench.by(8, ENDS[1], &udp((CLIENT, port), (SERVER, 9), b"scan"));
        bench.by(9, ENDS[0], &udp((CLIENT, port), (SERVER, 53), QUERY));
        bench.by(9, ENDS[0], &udp((SERVER, 53), (CLIENT, port), ANSWER));
    }
    // Both halves of 20 DNS queries; connections last longer.
    bench.wait(100);
    bench.worker.tick(bench.now);
    assert_eq!(bench.split(), [(Some(7), 40)]);
    bench.wait(600);
    bench.worker.tick(bench.now);
    assert_eq!(bench.split(), [(Some(7), 80)]);
    // At the end, too; and a flow that another session has whole is not counted.
    let mut bench = Bench::scoped(FlowScope::Interface, false);
    for (port, back) in [(1, ENDS[1]), (2, ENDS[0])] {
        bench.by(7, ENDS[0], &udp((CLIENT, port), (SERVER, 9), b"there"));
        bench.by(7, back, &udp((SERVER, 9), (CLIENT, port), b"and back"));
        bench.by(7, ENDS[1], &udp((CLIENT, port), (SERVER, 9), b"there"));
    }
    bench.worker.finish();
    assert_eq!(bench.split(), [(Some(7), 1)]);
}

#[test]
fn copies_of_two_sessions_of_one_vni_are_analysed_once() {
    let mut one = Bench::scoped(FlowScope::Vni, true);
    let mut both = Bench::scoped(FlowScope::Vni, true);
    for frame in conversations() {
        one.by(7, ENDS[0], &frame);
        both.by(7, ENDS[0], &frame);
        both.now -= 1_000_000;
        both.by(7, ENDS[1], &frame);
    }
    assert_eq!(one.worker.counters().duplicates, 0);
    assert_eq!(both.worker.counters().duplicates, one.worker.counters().analysed);
    assert_eq!(without_mirror(both.events()), without_mirror(one.events()));
}

/// An offload that remembers the keys.
#[derive(Debug, Default)]
struct Keys(Vec<[ShuntKey; 2]>);

impl Offload for Keys {
    type Error = std::convert::Infallible;

    fn set_clock(&mut self, _: u64) {}

    fn active(&self) -> usize {
        self.0.len()
    }

    fn shunt(&mut self, keys: [ShuntKey; 2], _: FlowHash, _: u64) -> Result<Option<ShuntId>, Self::Error> {
        self.0.push(keys);
        Ok(Some(ShuntId::at(self.0.len() - 1)))
    }

    fn counted(&self, _: ShuntId) -> Result<[Shunted; 2], Self::Error> {
        Ok([Shunted { packets: 10, bytes: 1000, last: 0 }; 2])
    }

    fn release(&mut self, _: ShuntId, _: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    fn cooled(&mut self, _: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, Self::Error> {
        Ok(None)
    }
}

#[test]
fn the_driver_counts_each_direction_by_its_own_session() {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    for dedup in [false, true] {
        let tuning = Tuning { shunt_after: Some(0), ..Tuning::default() };
        let config = WorkerConfig { flow_scope: FlowScope::Vni, dedup, tuning, ..WorkerConfig::default() };
        let mut worker =
            Worker::builder(config, sink.producer(Overflow::Wait)).offload(Some(Keys::default())).build();
        let mut frame = |source: u32, frame: &[u8]| {
            let info = FrameInfo::of(frame).at(START).mirrored(mirror(7, source));
            worker.frame(&info, frame);
            (worker.counters().duplicates, worker.shunting().unwrap().counters())
        };
        let payload = [0xff; 600];
        let (there, back) = (((CLIENT, 4000), (SERVER, 4001)), ((SERVER, 4001), (CLIENT, 4000)));
        // No analyzer wants more of a flow whose protocol is unknown.
        for _ in 0..2 {
            frame(ENDS[0], &udp(there.0, there.1, &payload));
            frame(ENDS[1], &udp(back.0, back.1, &payload));
        }
        let (_, shunted) = frame(ENDS[0], &udp(there.0, there.1, b"still on its way"));
        assert_eq!(shunted, (1, 1));
        // A packet that the driver counts by one session is a duplicate if it comes by another.
        let (duplicates, _) = frame(ENDS[1], &udp(there.0, there.1, b"mirrored at the other end"));
        assert_eq!(duplicates, u64::from(dedup));
        let sources = worker.shunting().unwrap().keys().map(|keys| keys.map(|key| key[1] as u32));
        assert_eq!(sources, Some(ENDS));
        worker.finish();
    }
    let _ = sink.finish();
}

impl Shunting<Keys> {
    fn keys(&self) -> Option<[ShuntKey; 2]> {
        self.table().0.first().copied()
    }
}
