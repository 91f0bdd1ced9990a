//! Rules in a worker: traffic in, alerts out.

use std::path::Path;

use mirror_signatures::config::classification::Classes;
use mirror_signatures::engine::Engine;
use mirror_signatures::ruleset::Loader;
use mirror_signatures::variables::Variables;

use super::*;

fn rules(text: &str) -> Rules {
    let (variables, classes) = (Variables::default(), Classes::default());
    let mut loader = Loader::new(&variables, &classes);
    loader.add(Path::new("test.rules"), text.as_bytes());
    let set = loader.finish();
    assert!(set.report.refused.is_empty(), "{:?}", set.report.refused);
    Rules::new(Arc::new(Engine::new(set.signatures)))
}

pub(super) fn bench(text: &str) -> Bench {
    let mut bench = Bench::new();
    bench.worker.inspect(Some(rules(text)));
    bench
}

/// Returns the numbers of the rules that have raised alerts, in their order.
pub(super) fn alerts(bench: Bench) -> Vec<u64> {
    let events = bench.of("alert");
    events.iter().map(|event| event["alert"]["signature_id"].as_u64().unwrap()).collect()
}

#[test]
fn a_query_raises_an_alert_with_the_fields_of_its_rule() {
    let mut bench = bench(
        r#"drop dns any any -> any 53 (msg:"a name"; dns.query; content:"a.example"; bsize:9; classtype:trojan-activity; sid:7; rev:3;)"#,
    );
    bench.frame(&udp((CLIENT, 4000), (SERVER, 53), QUERY));
    bench.frame(&udp((SERVER, 53), (CLIENT, 4000), ANSWER));
    let events = bench.events();
    let alert = events.iter().find(|event| event["event_type"] == "alert").unwrap();
    assert_eq!((&alert["src_ip"], &alert["dest_port"]), (&"10.0.0.1".into(), &53.into()));
    let alert = &alert["alert"];
    assert_eq!((&alert["signature_id"], &alert["rev"], &alert["gid"]), (&7.into(), &3.into(), &1.into()));
    assert_eq!((&alert["signature"], &alert["severity"]), (&"a name".into(), &1.into()));
    assert_eq!(alert["category"], "A Network Trojan was detected");
    let flow = events.iter().find(|event| event["event_type"] == "flow").unwrap();
    assert_eq!(flow["flow"]["alerted"], true);
}

#[test]
fn a_stream_in_segments_of_a_byte_out_of_order_is_one_message() {
    let mut bench = bench(
        r#"alert tcp any any -> any 53 (flow:established,to_server; content:"hello"; content:"world"; distance:1; within:5; sid:1;)
alert tcp any any -> any any (content:"hell"; content:!"world"; sid:2;)
alert tcp any any -> any any (flow:to_client; content:"reply"; sid:3;)"#,
    );
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    let mut segments: Vec<_> =
        b"hello world".iter().map(|byte| connection.segment(true, "A", &[*byte])).collect();
    segments.swap(2, 7);
    segments.swap(0, 1);
    for segment in segments {
        bench.frame(&segment);
    }
    bench.frame(&connection.segment(false, "A", b"reply"));
    connection.close(&mut bench);
    assert_eq!(alerts(bench), [1, 3]);
}

#[test]
fn packets_are_inspected_by_their_headers() {
    let mut bench = bench(
        "alert tcp any any -> any 53 (flags:S; ttl:64; sid:1;)
alert tcp any any -> any any (flags:FA; flow:to_client; sid:2;)
alert tcp any any -> any any (dsize:3; stream_size:client,=,4; sid:3;)
alert ip 10.0.0.2 any -> any any (sid:4;)
alert tcp any any -> any any (ttl:63; sid:5;)",
    );
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    bench.frame(&connection.segment(true, "A", b"abc"));
    connection.close(&mut bench);
    assert_eq!(alerts(bench), [1, 4, 3, 2]);
}

#[test]
fn an_alert_of_a_vni_leaves_equal_addresses_of_another_alone() {
    let mut bench =
        bench(r#"alert dns any any -> any any (mirror.vni:7; dns.query; content:"example"; sid:1;)"#);
    for vni in [7, 8] {
        bench.mirror = Some(mirror(vni, 1));
        bench.frame(&udp((CLIENT, 4000), (SERVER, 53), QUERY));
    }
    let events = bench.of("alert");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["mirror"]["vni"], 7);
}

#[test]
fn rules_are_replaced_between_frames() {
    let mut bench = bench(r#"alert udp any any -> any any (content:"one"; sid:1;)"#);
    let frame = |payload: &[u8]| udp((CLIENT, 4000), (SERVER, 9), payload);
    bench.frame(&frame(b"one two"));
    bench.worker.inspect(Some(rules(r#"alert udp any any -> any any (content:"two"; sid:2;)"#)));
    bench.frame(&frame(b"one two"));
    bench.worker.inspect(None);
    bench.frame(&frame(b"one two"));
    assert_eq!(alerts(bench), [1, 2]);
}

#[test]
fn plain_connections_that_are_older_than_the_capture_are_inspected_on_request() {
    for midstream in [false, true] {
        let mut bench = Bench::new();
        bench.worker.config.midstream = midstream;
        bench.worker.inspect(Some(rules(r#"alert tcp-stream any any -> any any (content:"hello"; sid:1;)"#)));
        let mut connection = Tcp::new(4000);
        bench.frame(&connection.segment(true, "A", b"hello"));
        bench.frame(&connection.segment(false, "A", b"reply"));
        assert_eq!(alerts(bench).len(), usize::from(midstream));
    }
}
