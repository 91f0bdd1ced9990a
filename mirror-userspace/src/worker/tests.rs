//! A worker is given frames made by etherparse and judged by the records that reach its log.

use std::fs;

use etherparse::{
    EtherType, IpNumber, Ipv4Header, LinuxSllPacketType, PacketBuilder, SingleVlanHeader, TcpHeader,
    VlanHeader, VlanId,
};
use mirror_xdp_common::inner::InnerHeaders;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::flow::SECOND;
use crate::sink::{FILE_NAME, Overflow, Sink};

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];
const START: u64 = 1_000 * SECOND;

/// A query for `a.example`, type A, and its answer.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";
const ANSWER: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01";

/// A worker with its log.
struct Bench {
    directory: tempfile::TempDir,
    sink: Sink,
    worker: Worker,
    now: u64,
    mirror: Option<Mirror>,
}

impl Bench {
    fn new() -> Self {
        Self::with_max_flows(1000)
    }

    fn with_max_flows(max_flows: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(directory.path()).unwrap();
        let config = WorkerConfig { max_flows, hash_seed: 7 };
        let worker = Worker::new(config, sink.producer(Overflow::Wait));
        Self { directory, sink, worker, now: START, mirror: None }
    }

    /// Lets a millisecond pass and hands over a frame of which `missing` bytes were cut off.
    fn cut_frame(&mut self, frame: &[u8], missing: usize) {
        self.now += 1_000_000;
        let info = FrameInfo {
            time: self.now,
            original_len: (frame.len() + missing) as u32,
            flow_hash: InnerHeaders::parse(frame, 0).flow_hash(7),
            mirror: self.mirror,
        };
        self.worker.frame(&info, frame);
    }

    fn frame(&mut self, frame: &[u8]) {
        self.cut_frame(frame, 0);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }

    fn refused(&self, reason: &str) -> u64 {
        self.worker.counters().refused.iter().find(|(name, _)| *name == reason).unwrap().1
    }

    /// Frames that were delivered and neither analysed nor refused.
    fn unaccounted(&self) -> u64 {
        let counters = self.worker.counters();
        counters.delivered.abs_diff(counters.analysed + counters.refused.iter().map(|(_, n)| n).sum::<u64>())
    }

    /// Ends the worker: its events, flows after the others.
    fn events(mut self) -> Vec<Value> {
        self.worker.finish();
        assert_eq!(self.unaccounted(), 0);
        assert_eq!(self.sink.finish().lost, 0);
        let text = fs::read_to_string(self.directory.path().join(FILE_NAME)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn flows(self) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event_type"] == "flow").collect()
    }

    fn dns(self) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event_type"] == "dns").collect()
    }
}

fn mirror(vni: u32, outer_source: u32) -> Mirror {
    Mirror {
        endpoint: 0,
        vni: Vni::new(vni).unwrap(),
        outer_source: Address::from_v4(outer_source),
        outer_destination: Address::from_v4(0xac10_0001),
    }
}

fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source.0, destination.0, 64)
        .udp(source.1, destination.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A TCP connection whose segments are made one after the other.
struct Tcp {
    client: ([u8; 4], u16),
    server: ([u8; 4], u16),
    next: [u32; 2],
}

impl Tcp {
    fn new(port: u16) -> Self {
        Self { client: (CLIENT, port), server: (SERVER, 53), next: [1000, 5000] }
    }

    /// A segment of either side with the sequence numbers due; the flags are those of [`tcp`].
    fn segment(&mut self, from_client: bool, flags: &str, payload: &[u8]) -> Vec<u8> {
        let (source, destination) =
            if from_client { (self.client, self.server) } else { (self.server, self.client) };
        let [this, other] = if from_client { [0, 1] } else { [1, 0] };
        let frame = tcp(source, destination, self.next[this], self.next[other], flags, payload);
        let numbers = payload.len() as u32 + u32::from(flags.contains(['S', 'F']));
        self.next[this] = self.next[this].wrapping_add(numbers);
        frame
    }

    fn open(&mut self, bench: &mut Bench) {
        bench.frame(&self.segment(true, "S", &[]));
        bench.frame(&self.segment(false, "SA", &[]));
        bench.frame(&self.segment(true, "A", &[]));
    }

    fn close(&mut self, bench: &mut Bench) {
        bench.frame(&self.segment(true, "FA", &[]));
        bench.frame(&self.segment(false, "FA", &[]));
        bench.frame(&self.segment(true, "A", &[]));
    }
}

/// A segment; flags are given by their initials.
fn tcp(
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    sequence: u32,
    acknowledgement: u32,
    flags: &str,
    payload: &[u8],
) -> Vec<u8> {
    let mut header = TcpHeader::new(source.1, destination.1, sequence, 1000);
    header.syn = flags.contains('S');
    header.ack = flags.contains('A');
    header.fin = flags.contains('F');
    header.rst = flags.contains('R');
    if header.ack {
        header.acknowledgment_number = acknowledgement;
    }
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source.0, destination.0, 64).tcp_header(header);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn a_connection_from_handshake_to_close_is_one_closed_flow() {
    let mut bench = Bench::new();
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    bench.frame(&connection.segment(true, "A", b"hello"));
    connection.close(&mut bench);
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    let flow = &flows[0];
    assert_eq!((&flow["src_ip"], &flow["src_port"]), (&"10.0.0.1".into(), &4000.into()));
    assert_eq!((&flow["dest_ip"], &flow["dest_port"]), (&"10.0.0.2".into(), &53.into()));
    assert_eq!((&flow["flow"]["pkts_toserver"], &flow["flow"]["pkts_toclient"]), (&5.into(), &2.into()));
    assert_eq!(
        (&flow["flow"]["bytes_toserver"], &flow["flow"]["bytes_toclient"]),
        (&275.into(), &108.into())
    );
    assert_eq!((&flow["flow"]["state"], &flow["flow"]["reason"]), (&"closed".into(), &"shutdown".into()));
    assert_eq!((&flow["tcp"]["tcp_flags"], &flow["tcp"]["state"]), (&"13".into(), &"closed".into()));
    assert_eq!(flow["flow"]["start"], "1970-01-01T00:16:40.001000+0000");
}

#[test]
fn a_record_has_the_fields_of_suricata_in_its_order() {
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(7, 0x0a00_0063));
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    bench.worker.finish();
    let _ = bench.sink.finish();
    let line = fs::read_to_string(bench.directory.path().join(FILE_NAME)).unwrap();
    let mut line = line.trim_end().to_owned();
    let id = line.find("\"flow_id\":").unwrap() + 10;
    line.replace_range(id..id + line[id..].find(',').unwrap(), "1");
    assert_eq!(
        line,
        concat!(
            r#"{"timestamp":"1970-01-01T00:16:40.003000+0000","flow_id":1,"event_type":"flow","#,
            r#""src_ip":"10.0.0.1","src_port":4000,"dest_ip":"10.0.0.2","dest_port":53,"proto":"TCP","#,
            r#""flow":{"pkts_toserver":2,"pkts_toclient":1,"bytes_toserver":108,"bytes_toclient":54,"#,
            r#""start":"1970-01-01T00:16:40.001000+0000","end":"1970-01-01T00:16:40.003000+0000","age":0,"#,
            r#""state":"established","reason":"shutdown","alerted":false},"#,
            r#""community_id":"1:VdggaNENbgI21XxxxmwVYl5fXqs=","#,
            r#""tcp":{"tcp_flags":"12","tcp_flags_ts":"12","tcp_flags_tc":"12","syn":true,"ack":true,"#,
            r#""state":"established"},"#,
            r#""mirror":{"vni":7,"outer_src":"10.0.0.99","outer_dst":"172.16.0.1"}}"#
        )
    );
}

#[test]
fn a_syn_after_the_close_begins_a_new_flow_and_one_sent_again_does_not() {
    let mut bench = Bench::new();
    let mut connection = Tcp::new(4000);
    let syn = connection.segment(true, "S", &[]);
    bench.frame(&syn);
    bench.frame(&syn);
    bench.frame(&connection.segment(false, "SA", &[]));
    bench.frame(&connection.segment(true, "A", &[]));
    connection.close(&mut bench);
    connection.next = [90_000, 95_000];
    connection.open(&mut bench);
    let flows = bench.flows();
    let packets: Vec<_> = flows.iter().map(|flow| flow["flow"]["pkts_toserver"].as_u64().unwrap()).collect();
    assert_eq!(packets, [5, 2]);
    assert_ne!(flows[0]["flow_id"], flows[1]["flow_id"]);
}

#[test]
fn segments_without_a_handshake_are_a_flow_without_a_connection() {
    let mut bench = Bench::new();
    let mut connection = Tcp::new(4000);
    bench.frame(&connection.segment(false, "A", b"late"));
    bench.frame(&connection.segment(true, "A", b"to the party"));
    let flows = bench.flows();
    assert_eq!(flows[0]["src_ip"], "10.0.0.2");
    assert_eq!(flows[0]["flow"]["state"], "new");
    assert_eq!(flows[0]["tcp"]["state"], Value::Null);
}

#[test]
fn a_forged_reset_does_not_close_a_connection() {
    let mut bench = Bench::new();
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    let forged = connection.next[1].wrapping_add(1 << 30);
    bench.frame(&tcp((SERVER, 53), (CLIENT, 4000), forged, 0, "R", &[]));
    let flows = bench.flows();
    assert_eq!(flows[0]["flow"]["state"], "established");
}

#[test]
fn the_same_inner_addresses_in_different_sessions_are_different_flows() {
    let mut bench = Bench::new();
    let frame = udp((CLIENT, 1), (SERVER, 2), b"x");
    for session in [
        None,
        Some(mirror(0, 1)),
        Some(mirror(1, 1)),
        Some(mirror(1, 2)),
        Some(mirror(0x00ff_ffff, 1)),
        Some(mirror(1, 1)),
    ] {
        bench.mirror = session;
        bench.frame(&frame);
    }
    let flows = bench.flows();
    assert_eq!(flows.len(), 5);
    let twice: Vec<_> = flows.iter().filter(|flow| flow["flow"]["pkts_toserver"] == 2).collect();
    assert_eq!(twice.len(), 1);
    assert_eq!(twice[0]["mirror"]["vni"], 1);
    assert!(flows.iter().all(|flow| flow["community_id"] == flows[0]["community_id"]));
    let mut ids: Vec<_> = flows.iter().map(|flow| flow["flow_id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[test]
fn vlan_tags_tell_flows_apart() {
    let mut bench = Bench::new();
    for vlan in [5, 6, 5] {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .vlan(VlanHeader::Single(SingleVlanHeader {
                pcp: etherparse::VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(vlan).unwrap(),
                ether_type: EtherType::IPV4,
            }))
            .ipv4(CLIENT, SERVER, 64)
            .udp(1, 2)
            .write(&mut frame, b"x")
            .unwrap();
        bench.frame(&frame);
    }
    let flows = bench.flows();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[0]["vlan"], serde_json::json!([5]));
    assert_eq!(flows[0]["flow"]["pkts_toserver"], 2);
}

#[test]
fn a_datagram_in_both_directions_establishes_a_flow() {
    let mut bench = Bench::new();
    bench.frame(&udp((CLIENT, 1), (SERVER, 2), b"x"));
    bench.frame(&udp((SERVER, 2), (CLIENT, 1), b"y"));
    bench.frame(&udp((CLIENT, 3), (SERVER, 2), b"z"));
    let flows = bench.flows();
    assert_eq!(flows[0]["flow"]["state"], "established");
    assert_eq!(flows[1]["flow"]["state"], "new");
}

#[test]
fn flows_end_when_they_were_idle_for_as_long_as_their_state_allows() {
    for (answered, timeout) in [(false, 30), (true, 300)] {
        let mut bench = Bench::new();
        bench.frame(&udp((CLIENT, 1), (SERVER, 2), b"x"));
        if answered {
            bench.frame(&udp((SERVER, 2), (CLIENT, 1), b"y"));
        }
        bench.wait(timeout);
        bench.worker.tick(bench.now);
        assert_eq!(bench.worker.counters().flows_active, 1);
        bench.wait(1);
        bench.worker.tick(bench.now);
        assert_eq!(bench.worker.counters().flows_active, 0);
        assert_eq!(bench.flows()[0]["flow"]["reason"], "timeout");
    }
}

#[test]
fn a_packet_after_the_timeout_begins_a_new_flow_also_without_a_tick() {
    let mut bench = Bench::new();
    bench.frame(&udp((CLIENT, 1), (SERVER, 2), b"x"));
    bench.wait(31);
    bench.frame(&udp((SERVER, 2), (CLIENT, 1), b"y"));
    let flows = bench.flows();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[0]["flow"]["reason"], "timeout");
    assert_eq!(flows[1]["src_ip"], "10.0.0.2");
}

#[test]
fn a_live_worker_loses_no_flow_that_ends_with_many_others() {
    for timeout in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(directory.path()).unwrap();
        let config = WorkerConfig { max_flows: 20_000, hash_seed: 7 };
        let mut worker = Worker::new(config, sink.producer(Overflow::Lose));
        for port in 0..20_000 {
            let frame = udp((CLIENT, port), (SERVER, 2), b"x");
            let flow_hash = InnerHeaders::parse(frame.as_slice(), 0).flow_hash(7);
            let info = FrameInfo { time: START, original_len: frame.len() as u32, flow_hash, mirror: None };
            worker.frame(&info, &frame);
        }
        if timeout {
            worker.tick(START + 40 * SECOND);
            assert!(worker.counters().flows_active < 20_000);
        }
        worker.finish();
        assert_eq!(worker.counters().records_lost, 0);
        assert_eq!(sink.finish().written[0], 20_000);
    }
}

#[test]
fn at_the_bound_the_flow_that_was_idle_the_longest_ends() {
    let mut bench = Bench::with_max_flows(2);
    for port in [1, 2] {
        bench.frame(&udp((CLIENT, port), (SERVER, 9), b"x"));
        bench.wait(2);
    }
    bench.frame(&udp((CLIENT, 1), (SERVER, 9), b"x"));
    bench.frame(&udp((CLIENT, 3), (SERVER, 9), b"x"));
    assert_eq!(bench.worker.counters().flows_active, 2);
    assert_eq!(bench.worker.counters().flows_total, 3);
    let flows = bench.flows();
    assert_eq!((&flows[0]["src_port"], &flows[0]["flow"]["reason"]), (&2.into(), &"forced".into()));
}

#[test]
fn an_echo_and_its_reply_are_one_flow() {
    let mut bench = Bench::new();
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    builder().ipv4(CLIENT, SERVER, 64).icmpv4_echo_request(1, 1).write(&mut request, b"ping").unwrap();
    builder().ipv4(SERVER, CLIENT, 64).icmpv4_echo_reply(1, 1).write(&mut reply, b"ping").unwrap();
    bench.frame(&request);
    bench.frame(&reply);
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!((&flows[0]["icmp_type"], &flows[0]["response_icmp_type"]), (&8.into(), &0.into()));
    assert_eq!(flows[0]["flow"]["state"], "established");
}

#[test]
fn an_icmp_error_counts_for_the_flow_that_it_is_about() {
    let mut bench = Bench::new();
    let datagram = udp((CLIENT, 1), (SERVER, 2), b"x");
    let unreachable = |quoted: &[u8]| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(SERVER, CLIENT, 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut frame, quoted)
            .unwrap();
        frame
    };
    bench.frame(&unreachable(&datagram[14..]));
    assert_eq!(bench.refused("icmp_error"), 1);
    bench.frame(&datagram);
    bench.frame(&unreachable(&datagram[14..]));
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["flow"]["pkts_toclient"], 1);
    assert_eq!(flows[0]["flow"]["state"], "new");
}

#[test]
fn dns_over_udp_gives_a_record_of_query_and_answer() {
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(9, 1));
    bench.frame(&udp((CLIENT, 1000), (SERVER, 53), QUERY));
    bench.frame(&udp((SERVER, 53), (CLIENT, 1000), ANSWER));
    let events = bench.events();
    assert_eq!(events.len(), 3);
    for (event, kind) in events.iter().zip(["query", "answer"]) {
        assert_eq!((&event["event_type"], &event["dns"]["type"]), (&"dns".into(), &kind.into()));
        assert_eq!((&event["src_ip"], &event["dns"]["rrname"]), (&"10.0.0.1".into(), &"a.example".into()));
        assert_eq!((&event["mirror"]["vni"], &event["flow_id"]), (&9.into(), &events[2]["flow_id"]));
    }
    assert_eq!(events[1]["dns"]["answers"][0]["rdata"], "192.0.2.1");
    assert_eq!(events[2]["app_proto"], "dns");
}

#[test]
fn an_answer_alone_is_reported_of_a_mirror_session_with_the_server_as_the_server() {
    for (session, expected) in [(Some(mirror(9, 1)), 1), (None, 0)] {
        let mut bench = Bench::new();
        bench.mirror = session;
        bench.frame(&udp((SERVER, 53), (CLIENT, 1000), ANSWER));
        let events = bench.dns();
        assert_eq!(events.len(), expected);
        assert!(events.iter().all(|event| event["src_ip"] == "10.0.0.1"));
    }
}

/// Messages as they travel over TCP.
fn framed(messages: &[&[u8]]) -> Vec<u8> {
    messages.iter().flat_map(|message| [&(message.len() as u16).to_be_bytes(), *message].concat()).collect()
}

#[test]
fn dns_over_tcp_is_put_together_from_segments_of_any_size_and_order() {
    let stream = framed(&[QUERY, QUERY, QUERY]);
    // The protocol is recognised by the header of the first message; it may come behind its length alone.
    for (head, size) in [(0, 14), (2, 12), (2, 30), (0, 30), (0, 200)] {
        for reversed in [false, true] {
            let mut bench = Bench::new();
            let mut connection = Tcp::new(4000);
            connection.open(&mut bench);
            let (head, body) = stream.split_at(head);
            let chunks = Some(head).filter(|head| !head.is_empty()).into_iter().chain(body.chunks(size));
            let mut segments: Vec<_> = chunks.map(|chunk| connection.segment(true, "A", chunk)).collect();
            if reversed {
                segments.reverse();
            }
            for segment in &segments {
                bench.frame(segment);
                bench.frame(segment);
            }
            assert_eq!(bench.dns().len(), 3, "segments of {size}, reversed: {reversed}");
        }
    }
}

#[test]
fn dns_over_tcp_goes_on_behind_data_that_was_not_captured() {
    let mut bench = Bench::new();
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    bench.frame(&connection.segment(true, "A", &framed(&[QUERY])));
    let _lost = connection.segment(true, "A", &framed(&[QUERY]));
    bench.frame(&connection.segment(true, "A", &framed(&[QUERY])));
    bench.frame(&connection.segment(false, "A", &[]));
    bench.frame(&connection.segment(true, "A", &framed(&[QUERY])));
    let events = bench.events();
    let flow = events.last().unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!((&flow["app_proto"], &flow["tcp"]["ts_gap"]), (&"dns".into(), &true.into()));
}

/// The fragments of a datagram, each of `size` bytes of payload.
fn fragments(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &datagram[34..];
    payload
        .chunks(size)
        .enumerate()
        .map(|(index, chunk)| {
            let mut header = Ipv4Header::new(chunk.len() as u16, 64, IpNumber::UDP, CLIENT, SERVER).unwrap();
            header.identification = 77;
            header.dont_fragment = false;
            header.more_fragments = (index + 1) * size < payload.len();
            header.fragment_offset = ((index * size / 8) as u16).try_into().unwrap();
            let mut frame = datagram[..14].to_vec();
            header.write(&mut frame).unwrap();
            frame.extend(chunk);
            frame
        })
        .collect()
}

#[test]
fn a_datagram_in_fragments_is_one_packet_in_whatever_order_they_come() {
    let datagram = udp((CLIENT, 1000), (SERVER, 53), QUERY);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut bench = Bench::new();
        let fragments = fragments(&datagram, 16);
        for index in order.into_iter().filter(|&index| index < fragments.len()) {
            bench.frame(&fragments[index]);
        }
        let events = bench.events();
        assert_eq!(events.len(), 2, "{order:?}");
        assert_eq!(events[0]["dns"]["rrname"], "a.example");
        assert_eq!(events[1]["flow"]["pkts_toserver"], 1);
    }
}

#[test]
fn fragments_of_different_sessions_do_not_mix() {
    let mut bench = Bench::new();
    for (index, fragment) in fragments(&udp((CLIENT, 1000), (SERVER, 53), QUERY), 16).iter().enumerate() {
        bench.mirror = Some(mirror(index as u32, 1));
        bench.frame(fragment);
    }
    assert!(bench.events().is_empty());
}

#[test]
fn a_packet_that_the_mirror_cut_short_counts_with_its_whole_length() {
    let mut bench = Bench::new();
    let frame = udp((CLIENT, 1), (SERVER, 2), &[0; 1000]);
    bench.mirror = Some(mirror(1, 1));
    bench.cut_frame(&frame[..60], frame.len() - 60);
    // The same bytes with nothing missing are a lie of the IP header.
    bench.frame(&frame[..60]);
    assert_eq!(bench.refused("ip_length"), 1);
    assert_eq!(bench.flows()[0]["flow"]["bytes_toserver"], frame.len());
}

#[test]
fn a_tunnel_is_a_flow_and_what_it_carries_another() {
    let inner = udp((CLIENT, 1), (SERVER, 2), b"x");
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(1, 1));
    bench.frame(&udp(([192, 0, 2, 1], 5000), ([192, 0, 2, 2], 4789), &vxlan));
    let flows = bench.flows();
    assert_eq!(flows.len(), 2);
    assert_eq!((&flows[0]["dest_port"], &flows[1]["dest_port"]), (&4789.into(), &2.into()));
    assert_eq!(flows[1]["flow"]["bytes_toserver"], inner.len());
}

#[test]
fn link_layers_other_than_ethernet_lead_to_the_same_flow() {
    let ip = udp((CLIENT, 1), (SERVER, 2), b"x")[14..].to_vec();
    let mut sll = Vec::new();
    PacketBuilder::linux_sll(LinuxSllPacketType::HOST, 6, [2; 8])
        .ipv4(CLIENT, SERVER, 64)
        .udp(1, 2)
        .write(&mut sll, b"x")
        .unwrap();
    let behind = |header: &[u8]| [header, &ip].concat();
    let mut bench = Bench::new();
    for (link, frame) in [
        (101, ip.clone()),
        (113, sll),
        (0, behind(&[2, 0, 0, 0])),
        (0, behind(&[0, 0, 0, 2])),
        (9, behind(&[0xff, 3, 0, 0x21])),
        (9, behind(&[0x21])),
        (104, behind(&[0x0f, 0, 8, 0])),
        (276, behind(&[8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0])),
    ] {
        let original_len = frame.len() as u32;
        let info = FrameInfo { time: START, original_len, flow_hash: FlowHash::default(), mirror: None };
        bench.worker.link_frame(&info, LinkType::from_number(link), &frame);
    }
    let info = FrameInfo { time: START, original_len: 1, flow_hash: FlowHash::default(), mirror: None };
    bench.worker.link_frame(&info, LinkType::from_number(127), &[0]);
    assert_eq!(bench.refused("link_type"), 1);
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["flow"]["pkts_toserver"], 8);
}

#[test]
fn each_kind_of_frame_without_a_flow_has_its_reason() {
    let mut bench = Bench::new();
    let good = udp((CLIENT, 1), (SERVER, 2), b"x");
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    for (frame, reason) in [
        (Vec::new(), "link_truncated"),
        (good[..13].to_vec(), "link_truncated"),
        (with(13, 6), "not_ip"),
        (with(14, 0x44), "ip_header"),
        (with(14, 0x55), "ip_header"),
        (with(16, 0xff), "ip_length"),
        (with(23, 89), "ip_protocol"),
        (with(39, 200), "transport_header"),
        (with(39, 7), "transport_header"),
    ] {
        let before = bench.refused(reason);
        bench.frame(&frame);
        assert_eq!(bench.refused(reason), before + 1, "{reason}");
    }
    assert!(bench.events().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Each frame is either analysed or refused for one reason, whatever its bytes: garbage, and frames
    /// that were sound before some of their bytes were changed or cut off.
    #[test]
    fn every_frame_is_accounted_for(
        frames in prop::collection::vec(
            (
                0_usize..7,
                prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
                any::<prop::sample::Index>(),
                prop::collection::vec(any::<u8>(), 0..100),
                any::<u16>(),
            ),
            1..40,
        )
    ) {
        let mut bench = Bench::with_max_flows(8);
        let mut connection = Tcp::new(4000);
        let datagram = udp((CLIENT, 1000), (SERVER, 53), QUERY);
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &datagram].concat();
        let count = frames.len() as u64;
        for (kind, changes, cut, garbage, missing) in frames {
            let mut frame = match kind {
                0 => garbage,
                1 => datagram.clone(),
                2 => connection.segment(true, "S", &[]),
                3 => connection.segment(false, "SA", &[]),
                4 => connection.segment(true, "A", &framed(&[QUERY])),
                5 => fragments(&datagram, 16).swap_remove(usize::from(missing) % 3),
                _ => udp((CLIENT, 5000), (SERVER, 4789), &vxlan),
            };
            for (index, value) in changes {
                if !frame.is_empty() {
                    let at = index.index(frame.len());
                    frame[at] = value;
                }
            }
            frame.truncate(cut.index(frame.len() * 4 + 1));
            bench.cut_frame(&frame, usize::from(missing));
        }
        let counters = bench.worker.counters();
        prop_assert_eq!(counters.delivered, count);
        prop_assert_eq!(bench.unaccounted(), 0);
        bench.events();
    }
}
