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

/// Returns an IPv4 packet of a protocol in a frame.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), CLIENT, SERVER).unwrap();
    let mut frame = udp((CLIENT, 1), (SERVER, 2), b"")[..14].to_vec();
    header.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

#[test]
fn packets_of_no_flow_are_inspected_and_their_alerts_name_none() {
    const ESTABLISHED: &str = "alert ip any any -> any any (flow:established; sid:9;)";
    let unreachable = |inner: &[u8]| [&[3, 3, 0, 0, 0, 0, 0, 0][..], inner].concat();
    let datagram = udp((CLIENT, 1000), (SERVER, 9), &[7; 32]);
    let gre = [&[0, 0, 8, 0][..], &datagram[14..]].concat();
    for (rule, frames, count) in [
        ("alert ip 10.0.0.1 any -> any any (fragbits:M; sid:1;)", fragments(&datagram, 16), 2),
        (
            "alert icmp any any -> any any (itype:3; icode:3; sid:1;)",
            vec![ipv4(1, &unreachable(&datagram[14..]))],
            1,
        ),
        ("alert ip any any -> any any (ip_proto:47; sid:1;)", vec![ipv4(47, &gre)], 1),
        ("alert ip any any -> any any (ip_proto:89; sid:1;)", vec![ipv4(89, &[0; 40])], 1),
    ] {
        let mut bench = bench(&format!("{rule}\n{ESTABLISHED}"));
        for frame in frames {
            bench.frame(&frame);
        }
        let events = bench.of("alert");
        assert_eq!(events.len(), count, "{rule}: {events:?}");
        for event in events {
            assert_eq!((&event["src_ip"], &event["dest_ip"]), (&"10.0.0.1".into(), &"10.0.0.2".into()));
            for key in ["flow_id", "community_id", "flow", "direction"] {
                assert_eq!(event.get(key), None, "{rule}: {event}");
            }
        }
    }
}

#[test]
fn the_data_of_a_syn_is_inspected_once_the_server_has_accepted_it() {
    const REQUEST: &[u8] = b"GET /fast HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for accepts in [true, false] {
        let mut bench = bench(
            r#"alert http any any -> any any (flow:established,to_server; http.uri; content:"/fast"; sid:1;)
alert tcp-stream any any -> any any (flow:established,to_server; content:"a.example"; sid:2;)"#,
        );
        let (client, server) = ((CLIENT, 4000), (SERVER, 80));
        bench.frame(&tcp(client, server, 1000, 0, "S", REQUEST));
        let accepted = if accepts { 1001 + REQUEST.len() as u32 } else { 1001 };
        bench.frame(&tcp(server, client, 5000, accepted, "SA", b""));
        bench.frame(&tcp(client, server, accepted, 5001, "A", b""));
        let mut found = alerts(bench);
        found.sort_unstable();
        assert_eq!(found, if accepts { vec![1, 2] } else { vec![] });
    }
}

#[test]
fn a_plain_connection_that_is_older_than_the_capture_is_established_behind_its_first_packet() {
    let mut bench = Bench::new();
    bench.worker.config.midstream = true;
    bench.worker.inspect(Some(rules("alert tcp any any -> any any (flow:established; dsize:5; sid:1;)")));
    let mut connection = Tcp::new(4000);
    bench.frame(&connection.segment(true, "A", b"first"));
    bench.frame(&connection.segment(true, "A", b"later"));
    assert_eq!(alerts(bench), [1]);
}

#[test]
fn the_algorithms_of_ssh_are_inspected_however_they_are_cut() {
    let kexinit = |names: [&str; 10]| {
        let mut payload = vec![20];
        payload.extend([9; 16]);
        for name in names {
            payload.extend((name.len() as u32).to_be_bytes());
            payload.extend(name.bytes());
        }
        payload.extend([0; 5]);
        let mut packet = ((payload.len() + 5) as u32).to_be_bytes().to_vec();
        packet.push(4);
        packet.extend(payload);
        packet.extend([0; 4]);
        packet
    };
    let lists = kexinit(["kex", "host", "e1", "e2", "m1", "m2", "c1", "c2", "", ""]);
    for size in [1, 7, 1000] {
        let mut bench = bench(
            r#"alert ssh any any -> any any (ssh.hassh.string; content:"kex|3b|e1|3b|m1|3b|c1"; ssh.software; content:"client"; sid:1;)
alert ssh any any -> any any (ssh.hassh.server.string; content:"kex|3b|e2|3b|m2|3b|c2"; bsize:12; sid:2;)
alert ssh any any -> any any (ssh.software; content:"server"; sid:3;)"#,
        );
        let mut connection = Tcp::new(4000);
        connection.open(&mut bench);
        for (from_client, banner) in [(false, &b"SSH-2.0-server\r\n"[..]), (true, b"SSH-2.0-client\r\n")] {
            for piece in [banner, &lists].concat().chunks(size) {
                bench.frame(&connection.segment(from_client, "A", piece));
            }
        }
        connection.close(&mut bench);
        let events = bench.events();
        let of = |kind: &str| events.iter().filter(|event| event["event_type"] == kind).collect::<Vec<_>>();
        let mut sids: Vec<_> =
            of("alert").iter().map(|alert| alert["alert"]["signature_id"].as_u64().unwrap()).collect();
        sids.sort_unstable();
        assert_eq!(sids, [1, 2, 3], "{size}");
        let hassh = &of("ssh")[0]["ssh"]["client"]["hassh"];
        assert_eq!(hassh["string"], "kex;e1;m1;c1");
        assert_eq!(hassh["hash"].as_str().unwrap().len(), 32);
    }
}

#[test]
fn ten_thousand_requests_in_segments_of_a_byte_are_inspected_within_bounds() {
    let mut bench = bench(r#"alert http any any -> any any (http.uri; content:"/evil"; endswith; sid:1;)"#);
    let mut connection = Tcp::new(4000);
    connection.server.1 = 80;
    connection.open(&mut bench);
    for number in 0..10_000 {
        let request =
            if number == 9_999 { &b"GET /evil HTTP/1.1\r\n\r\n"[..] } else { b"GET / HTTP/1.1\r\n\r\n" };
        let size = if number % 1000 == 999 { 1 } else { request.len() };
        for piece in request.chunks(size) {
            bench.frame(&connection.segment(true, "A", piece));
        }
    }
    connection.close(&mut bench);
    assert_eq!(alerts(bench), [1]);
}

/// Returns rules with these options, and after them each once more with contents that must not be there.
fn with_twins(header: &str, options: &[&str]) -> String {
    let twins = options.iter().map(|options| options.replace("content:\"", "content:!\""));
    let all = options.iter().map(|options| (*options).to_owned()).chain(twins);
    let line = |(options, sid): (String, u32)| format!("{header} ({options} sid:{sid};)\n");
    all.zip(1..).map(line).collect()
}

#[test]
fn each_buffer_of_http_has_its_part_of_the_message() {
    let options = [
        r#"http.accept; content:"text/html"; bsize:9;"#,
        r#"http.accept_enc; content:"gzip"; bsize:4;"#,
        r#"http.accept_lang; content:"en"; bsize:2;"#,
        r#"http.connection; content:"close"; flow:to_server;"#,
        r#"http.content_len; content:"3"; flow:to_server; bsize:1;"#,
        r#"http.content_type; content:"a/b"; flow:to_server; bsize:3;"#,
        r#"http.header.raw; content:"Accept: text/html|0d 0a|"; flow:to_server;"#,
        r#"http.protocol; content:"HTTP/1.1"; flow:to_server; bsize:8;"#,
        r#"http.request_header; content:"Referer: r"; bsize:10;"#,
        r#"http.request_line; content:"POST /a%20b HTTP/1.1"; bsize:20;"#,
        r#"http.start; content:"POST /a%20b HTTP/1.1|0d 0a|Host: "; startswith; flow:to_server;"#,
        r#"http.host.raw; content:"A.example:81"; bsize:12;"#,
        r#"http.uri.raw; content:"/a%20b"; bsize:6;"#,
        r#"http.request_body; content:"xyz"; bsize:3;"#,
        r#"http.response_header; content:"Server: s"; bsize:9;"#,
        r#"http.response_line; content:"HTTP/1.1 302 Found"; bsize:18;"#,
        r#"http.stat_msg; content:"Found"; bsize:5;"#,
        r#"http.location; content:"/c"; bsize:2;"#,
        r#"http.server; content:"s"; bsize:1;"#,
        r#"http.response_body; content:"hi"; bsize:2;"#,
        r#"file.data; content:"hi"; flow:to_client; bsize:2;"#,
    ];
    let mut bench = bench(&with_twins("alert http any any -> any any", &options));
    let mut connection = Tcp::new(4000);
    connection.open(&mut bench);
    bench.frame(&connection.segment(
        true,
        "A",
        b"POST /a%20b HTTP/1.1\r\nHost: A.example:81\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\nAccept-Language: en\r\n\
          Connection: close\r\nContent-Length: 3\r\nContent-Type: a/b\r\nReferer: r\r\n\r\nxyz",
    ));
    bench.frame(&connection.segment(
        false,
        "A",
        b"HTTP/1.1 302 Found\r\nServer: s\r\nLocation: /c\r\nContent-Length: 2\r\n\r\nhi",
    ));
    connection.close(&mut bench);
    let mut found = alerts(bench);
    found.sort_unstable();
    assert_eq!(found, (1..=options.len() as u64).collect::<Vec<_>>());
}

#[test]
fn headers_of_packets_and_counts_of_flows_are_inspected() {
    let options = [
        r#"ipv4.hdr; content:"|0a 00 00 01 0a 00 00 02|"; offset:12;"#,
        r#"udp.hdr; content:"|0f a0|"; startswith; bsize:8;"#,
        "flow.pkts_toserver:1; flow.pkts_toclient:0;",
        "flow.bytes_toserver:>20; flow.bytes_toclient:0; content:\"hello\";",
    ];
    let mut bench = bench(&with_twins("alert udp any any -> any any", &options));
    bench.frame(&udp((CLIENT, 4000), (SERVER, 9), b"hello"));
    let mut found = alerts(bench);
    found.sort_unstable();
    // The third rule has no content, so its twin is the same.
    assert_eq!(found, [1, 2, 3, 4, 7]);
}

#[test]
fn names_of_questions_and_answers_of_dns_are_inspected() {
    let options = [
        r#"dns.query.name; content:"a.example"; flow:to_server; bsize:9;"#,
        r#"dns.query.name; content:"a.example"; flow:to_client; bsize:9;"#,
        r#"dns.answer.name; content:"a.example"; flow:to_client; bsize:9;"#,
    ];
    let mut bench = bench(&with_twins("alert dns any any -> any any", &options));
    bench.frame(&udp((CLIENT, 4000), (SERVER, 53), QUERY));
    bench.frame(&udp((SERVER, 53), (CLIENT, 4000), ANSWER));
    assert_eq!(alerts(bench), [1, 2, 3]);
}
