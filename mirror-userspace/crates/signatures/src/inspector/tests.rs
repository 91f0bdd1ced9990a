use std::path::Path;
use std::sync::{Arc, OnceLock};

use mirror_packet::Direction::{self, ToClient, ToServer};
use mirror_packet::SECOND;
use mirror_xdp_common::Address;
use proptest::prelude::*;

use super::{FlowState, Inspector, Progress};
use crate::buffer::{Application, Buffer};
use crate::config::classification::Classes;
use crate::engine::Engine;
use crate::facts::{Facts, PacketView, TransactionFact};
use crate::limits;
use crate::ruleset::Loader;
use crate::threshold::Counts;
use crate::variables::Variables;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A flow with an inspector of its own.
struct Flow {
    inspector: Inspector,
    state: FlowState,
    facts: Facts,
}

fn engine(rules: &str) -> Arc<Engine> {
    let (variables, classes) = (Variables::default(), Classes::default());
    let mut loader = Loader::new(&variables, &classes);
    loader.add(Path::new("test.rules"), rules.as_bytes());
    let set = loader.finish();
    assert!(set.report.refused.is_empty(), "{:?}", set.report.refused);
    Arc::new(Engine::new(set.signatures))
}

/// Returns rules with these parts: header and options. The first has sid 1.
fn rules(parts: &[(&str, &str)]) -> String {
    let line = |((header, options), sid): (&(&str, &str), u32)| format!("{header} ({options} sid:{sid};)\n");
    parts.iter().zip(1..).map(line).collect()
}

impl Flow {
    /// A flow from 10.0.0.1:4000 to 10.0.0.2:80.
    fn new(transport: u8, parts: &[(&str, &str)]) -> Self {
        Self::with(engine(&rules(parts)), transport)
    }

    fn with(engine: Arc<Engine>, transport: u8) -> Self {
        let facts = Facts {
            transport,
            ends: [(Address::from_v4(0x0a00_0001), 4000), (Address::from_v4(0x0a00_0002), 80)],
            is_established: true,
            ..Facts::default()
        };
        Self {
            inspector: Inspector::new(engine, Arc::new(Counts::new(1024, 7))),
            state: FlowState::default(),
            facts,
        }
    }

    fn http(parts: &[(&str, &str)]) -> Self {
        let mut flow = Self::new(TCP, parts);
        flow.facts.application = Some(Application::Http1);
        flow
    }

    /// Returns the numbers of the rules that have raised alerts since the last call, sorted.
    fn alerts(&mut self) -> Vec<u32> {
        let mut sids = Vec::new();
        while let Some(alert) = self.inspector.next_alert() {
            sids.push(self.inspector.engine().signatures()[alert.rule as usize].rule.id.sid);
        }
        sids.sort_unstable();
        sids
    }

    fn packet(&mut self, direction: Direction, payload: &[u8]) -> Vec<u32> {
        let packet = PacketView {
            direction,
            network: &[],
            transport: &[],
            payload,
            payload_len: payload.len(),
            in_stream: true,
        };
        self.inspector.packet(&mut self.state, &self.facts, &packet);
        self.alerts()
    }

    fn data(&mut self, direction: Direction, bytes: &[u8]) -> Vec<u32> {
        self.inspector.stream(&mut self.state, &self.facts, direction, bytes);
        self.inspector.turn(&mut self.state, &self.facts, direction);
        self.alerts()
    }

    fn transaction(
        &mut self,
        id: u64,
        direction: Direction,
        buffers: &[(Buffer, &str)],
        progress: Progress,
    ) -> Vec<u32> {
        for (buffer, bytes) in buffers {
            self.inspector.buffer(*buffer, bytes.as_bytes());
        }
        self.inspector.transaction(&mut self.state, &self.facts, id, direction, progress);
        self.alerts()
    }

    fn body(&mut self, id: u64, direction: Direction, bytes: &[u8], is_end: bool) -> Vec<u32> {
        self.inspector.body(&mut self.state, &self.facts, id, direction, bytes, is_end);
        self.alerts()
    }

    fn end(&mut self) -> Vec<u32> {
        self.inspector.end(&mut self.state, &self.facts);
        self.alerts()
    }
}

const ANY: &str = "alert tcp any any -> any any";
const HTTP: &str = "alert http any any -> any any";

#[test]
fn a_stream_is_inspected_when_the_turn_of_its_sender_ends() {
    let parts = [
        (ANY, r#"content:"first"; content:"last"; distance:0;"#),
        (ANY, r#"content:!"first"; content:"reply";"#),
    ];
    let mut flow = Flow::new(TCP, &parts);
    for byte in b"first and last" {
        assert_eq!(flow.data(ToServer, &[*byte]), []);
    }
    assert_eq!(flow.data(ToClient, b"reply"), [1]);
    assert_eq!(flow.end(), [2]);
}

#[test]
fn a_rule_that_takes_too_many_steps_is_isolated_for_a_while_and_named() {
    // Each `a` may be followed by each other one, and no `b` is there.
    let costly = r#"content:"aaaa"; content:"a"; distance:0; content:"a"; distance:0; pcre:"/b/R";"#;
    let mut flow = Flow::new(TCP, &[(ANY, costly), (ANY, r#"content:"needle";"#)]);
    let payload = [&[b'a'; 600][..], b"needle"].concat();
    let given_up = u64::from(super::suspects::OFTEN);
    // The answer ends the turn.
    let turn = |flow: &mut Flow| {
        assert_eq!(flow.data(ToServer, &payload), []);
        assert_eq!(flow.data(ToClient, b"x"), [2]);
        (flow.inspector.losses().steps, flow.inspector.losses().isolated)
    };
    for turns in 1..=given_up {
        assert_eq!(turn(&mut flow), (turns, 0));
    }
    assert_eq!(turn(&mut flow), (given_up, 1));
    let engine = flow.inspector.engine();
    let isolated = engine.profiles().costs().into_iter().filter(|(_, cost)| cost.isolated > 0);
    let sids: Vec<_> = isolated.map(|(rule, _)| engine.signatures()[rule as usize].rule.id.sid).collect();
    assert_eq!(sids, [1]);
    flow.facts.time += super::suspects::PERIOD;
    assert_eq!(turn(&mut flow), (given_up + 1, 1));
}

#[test]
fn a_long_stream_is_inspected_in_chunks() {
    let mut flow = Flow::new(TCP, &[(ANY, r#"content:"needle";"#)]);
    assert_eq!(flow.data(ToServer, &[b'a'; 1000]), []);
    assert_eq!(flow.data(ToServer, &[b'a'; 1000]), []);
    assert_eq!(flow.data(ToServer, b"needle"), []);
    assert_eq!(flow.data(ToServer, &[b'a'; 1000]), [1]);
    assert_eq!(flow.data(ToServer, &[b'a'; 5000]), []);
    assert_eq!(flow.end(), []);
}

/// Filler without a part of the contents that tests look for.
fn filler(len: usize) -> Vec<u8> {
    vec![b'.'; len]
}

#[test]
fn contents_astride_the_border_of_two_chunks_are_found_once() {
    let parts = [
        (ANY, r#"content:"needle";"#),
        (ANY, r#"content:"needle"; content:"thread"; distance:1; within:7;"#),
        (ANY, r#"content:"needle"; pcre:"/needle.thread$/";"#),
        (ANY, r#"pcre:"/e{2}dle.thr/"; content:"thread";"#),
        (ANY, r#"content:"thread"; content:!"needle";"#),
        (ANY, r#"content:"needle"; depth:6;"#),
    ];
    let text = b"needle thread";
    for direction in [ToServer, ToClient] {
        // Where the border of the second and third chunk lies in the text; it is at the end of a segment.
        for border in 0..=text.len() {
            let mut flow = Flow::new(TCP, &parts);
            let mut found = flow.data(direction, &filler(limits::CHUNK));
            let mut rest = filler(limits::CHUNK - border);
            rest.extend_from_slice(text);
            for segment in [&rest[..limits::CHUNK], &rest[limits::CHUNK..]] {
                found.extend(flow.data(direction, segment));
            }
            found.extend(flow.end());
            found.sort_unstable();
            let expected: &[u32] = match border {
                // The chunk begins with the text.
                0 => &[1, 2, 3, 4, 6],
                // The chunk has the second word, and the first one in part at most.
                1..=7 => &[1, 2, 3, 4, 5],
                _ => &[1, 2, 3, 4],
            };
            assert_eq!(found, expected, "{border}");
        }
    }
}

#[test]
fn a_rule_matches_again_in_a_later_chunk_and_not_twice_for_the_same_bytes() {
    let mut flow = Flow::new(TCP, &[(ANY, r#"content:"needle";"#)]);
    let mut chunk = filler(limits::CHUNK);
    chunk[limits::CHUNK - 10..][..6].copy_from_slice(b"needle");
    assert_eq!(flow.data(ToServer, &chunk), [1]);
    assert_eq!(flow.data(ToServer, &filler(limits::CHUNK)), []);
    assert_eq!(flow.data(ToServer, &chunk), [1]);
    assert_eq!(flow.data(ToServer, &chunk), [1]);
    assert_eq!(flow.data(ToClient, b"answer"), []);
    // The other side has answered: the turn of the first is over, and nothing of it is kept.
    assert_eq!(flow.data(ToServer, b"le"), []);
    assert_eq!(flow.end(), []);
}

#[test]
fn contents_astride_the_borders_of_an_inspected_body_are_found_once() {
    let parts = [
        (HTTP, r#"file.data; content:"needle";"#),
        (HTTP, r#"file.data; content:"needle"; content:"thread"; distance:1; within:7;"#),
        (HTTP, r#"file.data; pcre:"/e{2}dle.thread/";"#),
        (HTTP, r#"http.request_body; content:"needle thread";"#),
        (HTTP, r#"http.response_body; content:"needle thread";"#),
        (HTTP, r#"http.response_body; pcre:"/needle.th/"; content:"ead";"#),
    ];
    let text = b"needle thread";
    let borders = |first: usize| (first..limits::BODY).step_by(limits::BODY_NEXT);
    for (direction, first, own) in [
        (ToServer, limits::REQUEST_BODY_FIRST, &[4][..]),
        (ToClient, limits::RESPONSE_BODY_FIRST, &[5, 6][..]),
    ] {
        for border in borders(first) {
            for before in 0..=text.len() {
                let mut flow = Flow::http(&parts);
                let mut found = flow.transaction(0, direction, &[], Progress::Body);
                let mut body = filler(border - before);
                body.extend_from_slice(text);
                body.resize(border + limits::BODY_NEXT, b'.');
                for piece in body.chunks(limits::BODY_NEXT / 2) {
                    found.extend(flow.body(0, direction, piece, false));
                }
                found.extend(flow.body(0, direction, b"", true));
                found.sort_unstable();
                let expected = [&[1, 2, 3], own].concat();
                assert_eq!(found, expected, "{border} {before}");
            }
        }
    }
}

#[test]
fn a_packet_of_no_flow_is_inspected_by_rules_that_ask_for_none() {
    let parts = [
        ("alert ip 10.0.0.1 any -> any any", ""),
        ("alert ip any any -> any any", "ip_proto:17;"),
        ("alert udp any any -> any any", "flow:to_server; dsize:0;"),
        ("alert udp any any -> any any", "dsize:0; flowbits:isnotset,x;"),
        ("alert udp any any -> any any", "dsize:0;"),
        ("alert dns any any -> any any", "dsize:0;"),
    ];
    let mut flow = Flow::new(UDP, &parts);
    (flow.facts.is_lone, flow.facts.is_established) = (true, false);
    for _ in 0..2 {
        let packet = PacketView {
            direction: ToServer,
            network: &[],
            transport: &[],
            payload: &[],
            payload_len: 0,
            in_stream: true,
        };
        flow.inspector.lone_packet(&flow.facts, &packet);
        assert_eq!(flow.alerts(), [1, 2, 5]);
    }
}

#[test]
fn payload_of_packets_and_streams_is_told_apart() {
    let parts = [
        (ANY, r#"content:"abcd"; dsize:4;"#),
        ("alert tcp-pkt any any -> any any", r#"content:"abcd";"#),
        ("alert tcp-stream any any -> any any", r#"content:"abcd";"#),
        (ANY, r#"content:"abcd"; depth:4;"#),
        (ANY, r#"content:"ab"; depth:2;"#),
        ("alert udp any any -> any any", r#"content:"abcd";"#),
    ];
    let mut flow = Flow::new(TCP, &parts);
    flow.inspector.stream(&mut flow.state, &flow.facts, ToServer, b"abcd");
    assert_eq!(flow.packet(ToServer, b"abcd"), [1, 2, 4, 5]);
    // As in Suricata, a rule of a place matches in the segment and in the stream.
    assert_eq!(flow.end(), [3, 4, 5]);
    let mut flow = Flow::new(UDP, &parts);
    assert_eq!(flow.packet(ToServer, b"abcd"), [6]);
}

#[test]
fn rules_of_streams_are_tried_on_segments_that_are_part_of_none() {
    let parts = [
        (ANY, r#"content:"abcd";"#),
        ("alert tcp-stream any any -> any any", r#"content:"abcd";"#),
        (ANY, r#"content:"abcd"; depth:4;"#),
    ];
    let mut flow = Flow::new(TCP, &parts);
    let packet = PacketView {
        direction: ToServer,
        network: &[],
        transport: &[],
        payload: b"abcd",
        payload_len: 4,
        in_stream: false,
    };
    flow.inspector.packet(&mut flow.state, &flow.facts, &packet);
    assert_eq!(flow.alerts(), [1, 3]);
}

#[test]
fn headers_select_by_address_port_and_direction() {
    let parts = [
        ("alert tcp 10.0.0.1 any -> any 80", r#"content:"abcd"; flow:no_stream;"#),
        ("alert tcp any any -> 10.0.0.1 any", r#"content:"abcd"; flow:no_stream;"#),
        ("alert tcp any 80 <> any any", r#"content:"abcd"; flow:no_stream;"#),
        (ANY, r#"content:"abcd"; flow:to_client,no_stream;"#),
        (ANY, r#"content:"abcd"; flow:not_established,no_stream;"#),
        ("alert tcp any any -> any !80", "dsize:4;"),
        ("alert tcp any any -> any [79:81]", "dsize:4;"),
        ("alert tcp any [1:100] -> any any", "dsize:4;"),
    ];
    let mut flow = Flow::new(TCP, &parts);
    assert_eq!(flow.packet(ToServer, b"abcd"), [1, 3, 7]);
    assert_eq!(flow.packet(ToClient, b"abcd"), [2, 3, 4, 6, 8]);
}

#[test]
fn rules_of_addresses_match_once_for_each_direction() {
    let parts = [
        ("alert ip [10.0.0.1,10.0.0.9] any -> any any", ""),
        ("alert tcp any any -> [10.0.0.1,192.0.2.0/24] any", ""),
        ("alert ip [10.0.0.7] any <> any any", ""),
    ];
    let mut flow = Flow::new(TCP, &parts);
    assert_eq!(flow.packet(ToServer, b""), [1]);
    assert_eq!(flow.packet(ToServer, b""), []);
    assert_eq!(flow.packet(ToClient, b""), [2]);
    assert_eq!(flow.packet(ToClient, b""), []);
}

#[test]
fn a_transaction_is_verified_with_all_its_buffers() {
    let parts = [
        (HTTP, r#"http.method; content:"POST"; http.uri; content:"/gate.php"; endswith;"#),
        (HTTP, r#"http.uri; content:"/gate.php"; http.user_agent; content:!"Mozilla";"#),
        (HTTP, r#"http.uri; content:"/gate.php"; http.referer; absent;"#),
        ("alert http any any -> any 81", r#"http.uri; content:"/gate.php";"#),
    ];
    let mut flow = Flow::http(&parts);
    let request = |method, agent| {
        [(Buffer::HttpMethod, method), (Buffer::HttpUri, "/a/gate.php"), (Buffer::HttpUserAgent, agent)]
    };
    assert_eq!(flow.transaction(0, ToServer, &request("POST", "Mozilla"), Progress::Done), [1, 3]);
    assert_eq!(flow.transaction(1, ToServer, &request("GET", "curl"), Progress::Done), [2, 3]);
    assert_eq!(flow.transaction(2, ToServer, &[], Progress::Done), []);
}

#[test]
fn a_rule_of_head_and_body_matches_once_when_the_body_is_there() {
    let parts = [
        (HTTP, r#"http.uri; content:"/upload"; http.request_body; content:"secret";"#),
        (HTTP, r#"http.method; content:"POST"; http.request_body; content:"a longer secret";"#),
        (HTTP, r#"file.data; content:"secret"; flow:to_server;"#),
        (HTTP, r#"http.request_body; content:!"secret"; content:"nothing";"#),
    ];
    let mut flow = Flow::http(&parts);
    let head = [(Buffer::HttpMethod, "POST"), (Buffer::HttpUri, "/upload")];
    assert_eq!(flow.transaction(0, ToServer, &head, Progress::Body), []);
    for byte in b"nothing but a longer secret" {
        assert_eq!(flow.body(0, ToServer, &[*byte], false), []);
    }
    assert_eq!(flow.body(0, ToServer, b"", true), [1, 2, 3]);
    assert_eq!(flow.end(), []);
    // Another transaction.
    assert_eq!(flow.transaction(1, ToServer, &head, Progress::Body), []);
    assert_eq!(flow.body(1, ToServer, b"nothing", false), []);
    assert_eq!(flow.end(), [4]);
}

#[test]
fn a_long_body_is_inspected_before_its_end_and_only_to_a_bound() {
    let parts = [(HTTP, r#"file.data; content:"needle";"#), (HTTP, r#"file.data; content:"beyond";"#)];
    let mut flow = Flow::http(&parts);
    assert_eq!(flow.transaction(0, ToClient, &[(Buffer::HttpStatCode, "200")], Progress::Body), []);
    assert_eq!(flow.body(0, ToClient, b"needle", false), []);
    assert_eq!(flow.body(0, ToClient, &vec![b'a'; limits::RESPONSE_BODY_FIRST], false), [1]);
    assert_eq!(flow.body(0, ToClient, &vec![b'a'; limits::BODY], false), []);
    assert_eq!(flow.body(0, ToClient, b"beyond", true), []);
}

#[test]
fn flowbits_connect_the_rules_of_a_flow() {
    let parts = [
        (HTTP, r#"file.data; content:"answer"; flow:to_client; flowbits:isset,asked;"#),
        (HTTP, r#"http.uri; content:"/question"; flowbits:set,asked; flowbits:noalert;"#),
        (HTTP, r#"http.uri; content:"/question"; flowbits:isset,asked;"#),
        (HTTP, r#"http.uri; content:"/question"; flowbits:isnotset,asked;"#),
        (HTTP, r#"http.uri; content:"/question"; flowint:count,+,1; noalert;"#),
        (HTTP, r#"http.uri; content:"/question"; flowint:count,>=,2;"#),
    ];
    let mut flow = Flow::http(&parts);
    assert_eq!(flow.transaction(0, ToClient, &[], Progress::Body), []);
    assert_eq!(flow.body(0, ToClient, b"answer", true), []);
    let request = [(Buffer::HttpUri, "/question")];
    // Rules that set come first.
    assert_eq!(flow.transaction(1, ToServer, &request, Progress::Done), [3]);
    assert_eq!(flow.transaction(1, ToClient, &[], Progress::Body), []);
    assert_eq!(flow.body(1, ToClient, b"answer", true), [1]);
    assert_eq!(flow.transaction(2, ToServer, &request, Progress::Done), [3, 6]);
}

#[test]
fn bits_of_hosts_outlive_a_flow_until_they_expire_and_belong_to_a_vni() {
    let parts = [
        ("alert udp any any -> any any", r#"content:"mark"; xbits:set,seen,track ip_src,expire 10;"#),
        ("alert udp any any -> any any", r#"content:"test"; xbits:isset,seen,track ip_src;"#),
    ];
    let mut flow = Flow::new(UDP, &parts);
    assert_eq!(flow.packet(ToServer, b"test"), []);
    assert_eq!(flow.packet(ToServer, b"mark"), [1]);
    flow.state = FlowState::default();
    assert_eq!(flow.packet(ToServer, b"test"), [2]);
    assert_eq!(flow.packet(ToClient, b"test"), []);
    flow.facts.vni = Some(7);
    assert_eq!(flow.packet(ToServer, b"test"), []);
    flow.facts.vni = None;
    flow.facts.time = 11 * SECOND;
    assert_eq!(flow.packet(ToServer, b"test"), []);
}

#[test]
fn pass_ends_the_alerts_of_what_it_matches() {
    let parts = [
        ("alert udp any any -> any any", r#"content:"abcd";"#),
        ("pass udp any any -> any any", r#"content:"abcd"; content:"fine";"#),
        (HTTP, r#"http.uri; content:"/a";"#),
        ("pass http any any -> any any", r#"http.uri; content:"/a"; http.host; content:"good";"#),
    ];
    let mut flow = Flow::new(UDP, &parts);
    assert_eq!(flow.packet(ToServer, b"abcd fine"), []);
    assert_eq!(flow.packet(ToServer, b"abcd"), [1]);
    let mut flow = Flow::http(&parts);
    let uri = (Buffer::HttpUri, "/a");
    assert_eq!(flow.transaction(0, ToServer, &[uri, (Buffer::HttpHost, "bad")], Progress::Done), [3]);
    assert_eq!(flow.transaction(1, ToServer, &[uri, (Buffer::HttpHost, "good")], Progress::Done), []);
    assert_eq!(flow.transaction(2, ToServer, &[uri, (Buffer::HttpHost, "bad")], Progress::Done), []);
}

#[test]
fn conditions_of_transactions_are_about_their_facts() {
    let parts = [
        ("alert dns any any -> any any", "dns.opcode:4;"),
        ("alert dns any any -> any any", r#"dns.rrtype:16; dns.query; content:"example";"#),
        ("alert tls any any -> any any", "tls.version:1.0;"),
        ("alert udp any any -> any any", r#"mirror.vni:7,10-20; content:"abcd";"#),
    ];
    let mut flow = Flow::new(UDP, &parts);
    flow.facts.application = Some(Application::Dns);
    flow.inspector.fact(TransactionFact::DnsOpcode(0));
    flow.inspector.fact(TransactionFact::DnsType(16));
    assert_eq!(flow.transaction(0, ToServer, &[(Buffer::DnsQuery, "www.example")], Progress::Done), [2]);
    flow.inspector.fact(TransactionFact::DnsOpcode(4));
    assert_eq!(flow.transaction(1, ToServer, &[], Progress::Done), [1]);
    assert_eq!(flow.packet(ToServer, b"abcd"), []);
    flow.facts.vni = Some(15);
    assert_eq!(flow.packet(ToServer, b"abcd"), [4]);
    flow.facts.application = Some(Application::Tls);
    flow.inspector.fact(TransactionFact::TlsVersion(0x0301));
    assert_eq!(flow.transaction(0, ToClient, &[], Progress::Done), [3]);
}

#[test]
fn rules_of_transactions_and_payload_see_the_data_around() {
    let parts = [
        (HTTP, r#"content:"X-Raw"; http.uri; content:"/a";"#),
        (HTTP, r#"http.request_body; content:"never";"#),
    ];
    let mut flow = Flow::http(&parts);
    flow.inspector.stream(&mut flow.state, &flow.facts, ToServer, b"GET /a HTTP/1.1\r\nX-Raw: 1\r\n\r\n");
    assert_eq!(flow.transaction(0, ToServer, &[(Buffer::HttpUri, "/a")], Progress::Done), [1]);
    flow.inspector.stream(&mut flow.state, &flow.facts, ToServer, b"GET /a HTTP/1.1\r\n\r\n");
    assert_eq!(flow.transaction(1, ToServer, &[(Buffer::HttpUri, "/a")], Progress::Done), []);
    // The data behind a head is that of its body.
    flow.inspector.stream(&mut flow.state, &flow.facts, ToServer, b"POST /a HTTP/1.1\r\n\r\n");
    assert_eq!(flow.transaction(2, ToServer, &[(Buffer::HttpUri, "/a")], Progress::Body), []);
    flow.inspector.stream(&mut flow.state, &flow.facts, ToServer, b"X-Raw");
    assert_eq!(flow.body(2, ToServer, b"X-Raw", true), [1]);
}

#[test]
fn other_rules_inspect_the_rest_of_a_flow() {
    let parts = [(HTTP, r#"http.uri; content:"/a"; flowbits:set,seen;"#)];
    let mut flow = Flow::http(&parts);
    assert_eq!(flow.transaction(0, ToServer, &[(Buffer::HttpUri, "/a")], Progress::Done), [1]);
    assert_eq!(flow.transaction(0, ToClient, &[], Progress::Body), []);
    let text = rules(&[(HTTP, r#"file.data; content:"body"; flowbits:isset,seen;"#)]);
    flow.inspector.replace(engine(&text), Arc::new(Counts::new(1024, 7)));
    assert_eq!(flow.transaction(1, ToClient, &[], Progress::Body), []);
    assert_eq!(flow.body(1, ToClient, b"body", true), [1]);
}

#[test]
fn hostile_transactions_without_end_are_bounded() {
    let mut flow = Flow::http(&[(HTTP, r#"http.request_body; content:"secret";"#)]);
    for id in 0..10_000 {
        flow.transaction(id, ToServer, &[(Buffer::HttpUri, "/")], Progress::Body);
        flow.body(id, ToServer, b"secret", false);
    }
    assert_eq!(flow.state.open.len(), limits::OPEN);
    assert_eq!(flow.inspector.losses().transactions, 10_000 - limits::OPEN as u64);
    assert_eq!(flow.end().len(), limits::OPEN);
}

#[test]
fn hostile_buffers_and_facts_are_bounded() {
    let mut flow = Flow::http(&[(HTTP, r#"http.uri; content:"/a";"#)]);
    let long = vec![b'a'; limits::PARTS + 1];
    flow.inspector.buffer(Buffer::HttpHeader, &long);
    for _ in 0..2 * limits::BUFFERS {
        flow.inspector.buffer(Buffer::HttpHeader, b"x");
        flow.inspector.fact(TransactionFact::DnsType(1));
    }
    assert_eq!(flow.inspector.losses().buffers, limits::BUFFERS as u64 + 1);
    assert_eq!(flow.transaction(0, ToServer, &[], Progress::Done), []);
    assert_eq!(flow.transaction(1, ToServer, &[(Buffer::HttpUri, "/a")], Progress::Done), [1]);
}

#[test]
fn hostile_flows_that_never_end_a_turn_share_a_bounded_memory() {
    let mut flow = Flow::new(TCP, &[(ANY, r#"content:"needle";"#)]);
    let mut states: Vec<FlowState> = (0..60_000).map(|_| FlowState::default()).collect();
    for state in &mut states {
        flow.inspector.stream(state, &flow.facts, ToServer, b"needle");
    }
    assert!(flow.inspector.losses().memory > 0);
    for state in &mut states {
        flow.inspector.end(state, &flow.facts);
    }
    assert!(flow.alerts().len() > 10_000);
}

proptest! {
    /// However a message is cut into segments, the same rules match.
    #[test]
    fn cuts_of_a_stream_change_nothing(cuts in prop::collection::vec(1_usize..20, 1..20)) {
        static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
        let parts = [
            (ANY, r#"content:"needle"; offset:2; depth:20;"#),
            (ANY, r#"content:"end"; endswith;"#),
            (ANY, r#"content:!"absent"; content:"needle"; content:"end"; distance:0;"#),
            (ANY, r#"content:!"end"; content:"needle";"#),
        ];
        let message = b"a needle and then, after a while, the end";
        let engine = ENGINE.get_or_init(|| engine(&rules(&parts)));
        let mut flow = Flow::with(Arc::clone(engine), TCP);
        let mut rest = &message[..];
        for cut in cuts {
            let (now, behind) = rest.split_at(cut.min(rest.len()));
            prop_assert_eq!(flow.data(ToServer, now), []);
            rest = behind;
        }
        prop_assert_eq!(flow.data(ToServer, rest), []);
        prop_assert_eq!(flow.end(), [1, 2, 3]);
    }
}
