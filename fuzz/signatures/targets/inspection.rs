//! The inspection of flows by a few rules of every kind. Each command has a head of three bytes: what to do, the
//! buffer or the number of the transaction, and the length of the bytes behind it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use mirror_packet::Direction;
use mirror_signatures::buffer::BUFFERS;
use mirror_signatures::config::classification::Classes;
use mirror_signatures::engine::Engine;
use mirror_signatures::facts::{Facts, PacketView, TransactionFact};
use mirror_signatures::inspector::{FlowState, Inspector, Progress};
use mirror_signatures::ruleset::Loader;
use mirror_signatures::threshold::Counts;
use mirror_signatures::variables::Variables;
use mirror_xdp_common::Address;

const RULES: &[u8] = br#"
alert tcp any any -> any any (content:"abc"; content:"def"; distance:1; within:9; sid:1;)
alert tcp any any -> any 80 (content:"a"; depth:1; isdataat:!4,relative; sid:2;)
alert tcp any any -> any any (flags:S; tcp.mss:<1400; sid:3;)
alert tcp any any -> any any (dsize:>3; ttl:<9; ipopts:any; fragbits:D; sid:4;)
alert icmp any any -> any any (itype:8; icmp_seq:1; content:"x"; sid:5;)
alert ip [10.0.0.1,192.0.2.0/24] any <> any any (sid:6;)
alert http any any -> any any (http.method; content:"P"; http.uri; content:"/up"; http.request_body; content:"abcd"; sid:7;)
alert http any any -> any any (file.data; content:"abcd"; byte_extract:1,0,n,relative; content:"e"; distance:n; sid:8;)
alert http any any -> any any (content:"raw"; http.host; content:"a"; flowbits:set,f; xbits:toggle,x,track ip_pair; sid:9;)
alert http any any -> any any (http.request_header; content:"a:"; startswith; flowbits:isset,f; flowint:n,+,2; sid:10;)
alert dns any any -> any any (dns.query; dotprefix; content:".evil"; endswith; dns.rrtype:16; threshold:type limit,track by_src,count 2,seconds 9; sid:11;)
alert tls any any -> any any (tls.sni; content:"evil"; pcre:"/^(a+)+b\1$/"; sid:12;)
alert tcp any any -> any any (tcp.hdr; content:"|00 50|"; ipv4.hdr; content:"|45|"; depth:1; sid:13;)
pass tcp any any -> any 81 (content:"pass"; sid:14;)
alert tcp any any -> any any (base64_decode:offset 0,relative; base64_data; content:"secret"; sid:15;)
alert tcp any any -> any any (entropy:value > 3; flow.pkts_toserver:>1; xbits:isset,x,track ip_pair; sid:16;)
"#;

fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let make = || {
        let (variables, classes) = (Variables::default(), Classes::default());
        let mut loader = Loader::new(&variables, &classes);
        loader.add(Path::new("fuzz.rules"), RULES);
        Arc::new(Engine::new(loader.finish().signatures))
    };
    Arc::clone(ENGINE.get_or_init(make))
}

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut inspector = Inspector::new(engine(), Arc::new(Counts::new(64, 7)));
    let mut flow = FlowState::default();
    let [transport, port, rest @ ..] = bytes else { return };
    let mut facts = Facts {
        transport: *transport,
        ends: [(Address::from_v4(0x0a00_0001), 4000), (Address::from_v4(0xc000_0201), u16::from(*port))],
        ..Facts::default()
    };
    let mut rest = rest;
    while let Some(([command, number, len], behind)) = rest.split_first_chunk() {
        let (now, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let direction = if command & 0x80 == 0 { Direction::ToServer } else { Direction::ToClient };
        let id = u64::from(*number);
        match command & 0x0f {
            0 => {
                inspector.stream(&mut flow, &facts, direction, now);
                inspector.turn(&mut flow, &facts, direction);
            }
            1 => inspector.packet(&mut flow, &facts, &packet(direction, now)),
            2 => inspector.buffer(BUFFERS[usize::from(*number) % BUFFERS.len()].buffer, now),
            3 => inspector.fact(TransactionFact::DnsType(u16::from(*number))),
            4 => inspector.fact(TransactionFact::TlsVersion(u16::from(*number))),
            5 => inspector.transaction(&mut flow, &facts, id, direction, Progress::Done),
            6 => inspector.transaction(&mut flow, &facts, id, direction, Progress::Body),
            7 => inspector.body(&mut flow, &facts, id, direction, now, false),
            8 => inspector.body(&mut flow, &facts, id, direction, now, true),
            9 => inspector.gap(&mut flow, &facts, direction),
            10 => inspector.close(&mut flow, &facts, direction),
            11 => inspector.replace(engine(), Arc::new(Counts::new(64, 7))),
            12 => facts.is_established = !facts.is_established,
            13 => facts.application = mirror_signatures::buffer::Application::from_name(now),
            14 => facts.time += u64::from(*number) * 1_000_000_000,
            _ => {
                inspector.end(&mut flow, &facts);
                flow = FlowState::default();
            }
        }
        while inspector.next_alert().is_some() {}
    }
    inspector.end(&mut flow, &facts);
}

/// Returns a packet whose headers and payload are these bytes.
fn packet(direction: Direction, bytes: &[u8]) -> PacketView<'_> {
    let transport = bytes.get(20..).unwrap_or_default();
    let payload = transport.get(20..).unwrap_or(bytes);
    PacketView { direction, network: bytes, transport, payload, payload_len: payload.len(), in_stream: true }
}
