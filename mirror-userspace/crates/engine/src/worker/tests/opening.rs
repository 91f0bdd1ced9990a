//! Connections whose data comes with the first segments, and connections of which only the server's side is seen.

use super::*;

const REQUEST: &[u8] = b"GET /fast HTTP/1.1\r\nHost: a.example\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// Returns the HTTP transactions of a connection whose SYN has the first `early` bytes of the request. The server
/// accepts them or not; in the latter case the client sends them again. `again` is the sequence number of a second SYN
/// with the same data.
fn fast_open(mirrored: bool, early: usize, accepts: bool, again: Option<u32>) -> Vec<Value> {
    let mut bench = Bench::new();
    bench.mirror = mirrored.then(|| mirror(7, 1));
    let (client, server) = ((CLIENT, 4000), (SERVER, 80));
    let (begin, rest) = REQUEST.split_at(early);
    bench.frame(&tcp(client, server, 1000, 0, "S", begin));
    if let Some(sequence) = again {
        bench.frame(&tcp(client, server, sequence, 0, "S", begin));
    }
    let first = again.unwrap_or(1000) + 1;
    let accepted = if accepts { first + early as u32 } else { first };
    bench.frame(&tcp(server, client, 5000, accepted, "SA", b""));
    let end = first + REQUEST.len() as u32;
    if accepts {
        bench.frame(&tcp(client, server, accepted, 5001, "A", rest));
    } else {
        bench.frame(&tcp(client, server, first, 5001, "A", REQUEST));
    }
    bench.frame(&tcp(server, client, 5001, end, "A", RESPONSE));
    bench.frame(&tcp(client, server, end, 5001 + RESPONSE.len() as u32, "A", b""));
    let events = bench.events();
    let flow = of_kind(&events, "flow");
    assert_eq!((&flow["app_proto"], &flow["tcp"]["ts_gap"]), (&"http".into(), &Value::Null));
    events.into_iter().filter(|event| event["event_type"] == "http").collect()
}

#[test]
fn a_request_in_a_syn_is_analysed_once_the_server_has_accepted_it() {
    for mirrored in [false, true] {
        for early in [5, REQUEST.len()] {
            for accepts in [true, false] {
                let events = fast_open(mirrored, early, accepts, None);
                let found: Vec<_> = events.iter().map(http).collect();
                assert_eq!(found, [("GET", "/fast", 200, 2)], "{mirrored} {early} {accepts}");
            }
        }
    }
}

#[test]
fn a_syn_with_data_that_is_sent_again_counts_as_it_was_sent_last() {
    for again in [1000, 777_000, 4_000_000_000] {
        let events = fast_open(false, 5, true, Some(again));
        assert_eq!(events.iter().map(http).collect::<Vec<_>>(), [("GET", "/fast", 200, 2)], "{again}");
    }
}

#[test]
fn data_in_a_syn_that_nobody_accepts_is_no_request() {
    for refused in [false, true] {
        let mut bench = Bench::new();
        bench.frame(&tcp((CLIENT, 4000), (SERVER, 80), 1000, 0, "S", REQUEST));
        if refused {
            let end = 1001 + REQUEST.len() as u32;
            bench.frame(&tcp((SERVER, 80), (CLIENT, 4000), 0, end, "RA", b""));
        }
        bench.wait(2);
        bench.frame(&udp((CLIENT, 1), (SERVER, 9), b"x"));
        let events = bench.events();
        assert!(events.iter().all(|event| event["event_type"] == "flow"), "{events:?}");
    }
}

#[test]
fn of_several_answers_to_a_syn_the_one_counts_that_the_client_acknowledges() {
    let (client, server) = ((CLIENT, 4000), (SERVER, 80));
    let end = 1001 + REQUEST.len() as u32;
    for (chosen, last) in [(5000, 800_000_000), (700_000_000, 700_000_000), (4_000_000_000, 4_000_000_000)] {
        for is_sent_late in [false, true] {
            let mut bench = Bench::new();
            bench.frame(&tcp(client, server, 1000, 0, "S", b""));
            bench.frame(&tcp(server, client, 5000, 1001, "SA", b""));
            // A request for an answer that the server has forgotten.
            if is_sent_late {
                bench.frame(&tcp(client, server, 1001, 5001, "A", REQUEST));
            }
            for other in [1_200_000_000, last] {
                bench.frame(&tcp(server, client, other, 1001, "SA", b""));
            }
            bench.frame(&tcp(client, server, 1001, chosen + 1, "A", REQUEST));
            // Acknowledgements of others do not hide what the server sends.
            bench.frame(&tcp(client, server, end, 2_000_000_001, "A", b""));
            bench.frame(&tcp(server, client, chosen + 1, end, "A", RESPONSE));
            bench.frame(&tcp(client, server, end, chosen + 1 + RESPONSE.len() as u32, "A", b""));
            let events = bench.events();
            let found = http(of_kind(&events, "http"));
            assert_eq!(found, ("GET", "/fast", 200, 2), "{chosen} {is_sent_late}");
            assert_eq!(of_kind(&events, "flow")["tcp"]["tc_gap"], Value::Null);
        }
    }
}

#[test]
fn an_answer_that_the_client_does_not_take_does_not_replace_what_it_takes() {
    let (client, server) = ((CLIENT, 4000), (SERVER, 80));
    let end = 1001 + REQUEST.len() as u32;
    for forged in [1_000_000_000, 900_000_001, 4_000_000_000] {
        let mut bench = Bench::new();
        bench.frame(&tcp(client, server, 1000, 0, "S", b""));
        bench.frame(&tcp(server, client, 5000, 1001, "SA", b""));
        bench.frame(&tcp(client, server, 1001, 5001, "A", REQUEST));
        bench.frame(&tcp(server, client, 900_000_000, 1001, "SA", b""));
        bench.frame(&tcp(client, server, end, 5001, "A", b""));
        let other = b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno";
        bench.frame(&tcp(server, client, forged, end, "A", other));
        bench.frame(&tcp(server, client, 5001, end, "A", RESPONSE));
        bench.frame(&tcp(client, server, end, 5001 + RESPONSE.len() as u32, "A", b""));
        let events = bench.events();
        assert_eq!(http(of_kind(&events, "http")), ("GET", "/fast", 200, 2), "{forged}");
    }
}

/// Returns the events of a connection of which the client's side is not mirrored.
fn answers(port: u16, segments: &[&[u8]]) -> Vec<Value> {
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(7, 1));
    let mut connection = Tcp::new(4000);
    connection.server.1 = port;
    connection.segment(true, "S", &[]);
    bench.frame(&connection.segment(false, "SA", &[]));
    for segment in segments {
        // Each answers something.
        connection.next[0] += 40;
        bench.frame(&connection.segment(false, "A", segment));
    }
    bench.events()
}

#[test]
fn the_answers_of_socks_alone_lead_to_the_protocol_behind() {
    let method: &[u8] = b"\x05\x00";
    let with_password: &[u8] = b"\x05\x02\x01\x00";
    let granted: &[u8] = b"\x05\x00\x00\x01\x0a\x00\x00\x02\x00\x50";
    let hello = server_hello();
    for begin in [method, with_password] {
        let joined = [begin, granted, RESPONSE].concat();
        for segments in [&[begin, granted, RESPONSE][..], &[&joined]] {
            let events = answers(1080, segments);
            assert_eq!(of_kind(&events, "http")["http"]["status"], 200, "{begin:?}");
            let flow = of_kind(&events, "flow");
            assert_eq!((&flow["app_proto"], &flow["app_proto_orig"]), (&"http".into(), &"socks".into()));
        }
        let events = answers(1080, &[begin, granted, &hello]);
        assert_eq!(of_kind(&events, "tls")["tls"]["version"], "TLS 1.2");
    }
    // The answer to a bind of DCE/RPC.
    let events = answers(1080, &[b"\x05\x00\x0c\x03\x10\x00\x00\x00\x44\x00\x00\x00\x01\x00\x00\x00"]);
    assert_eq!(of_kind(&events, "flow")["app_proto_orig"], Value::Null);
}

#[test]
fn the_answer_of_socks_4_alone_leads_to_the_protocol_behind() {
    let granted: &[u8] = b"\x00\x5a\x00\x50\x0a\x00\x00\x02";
    let hello = server_hello();
    let joined = [granted, RESPONSE].concat();
    for segments in [&[granted, RESPONSE][..], &[&joined], &[&joined[..1], &joined[1..5], &joined[5..]]] {
        let events = answers(1080, segments);
        assert_eq!(of_kind(&events, "http")["http"]["status"], 200, "{segments:?}");
        let flow = of_kind(&events, "flow");
        assert_eq!((&flow["app_proto"], &flow["app_proto_orig"]), (&"http".into(), &"socks".into()));
    }
    let events = answers(1080, &[granted, &hello]);
    assert_eq!(of_kind(&events, "tls")["tls"]["version"], "TLS 1.2");
    // Refused, and a message of 90 bytes behind its length.
    let message = [&[0, 90][..], &[0x12, 0x34, 0x81, 0x80, 0, 1], &[0; 84]].concat();
    for other in [&b"\x00\x5b\x00\x50\x0a\x00\x00\x02"[..], &message] {
        let events = answers(1080, &[other, RESPONSE]);
        assert_eq!(of_kind(&events, "flow")["app_proto_orig"], Value::Null);
    }
}

#[test]
fn the_answer_of_an_http_proxy_alone_leads_to_tls() {
    let established: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
    let hello = server_hello();
    let joined = [established, &hello].concat();
    for segments in [&[established, &hello[..]][..], &[&joined]] {
        let events = answers(3128, segments);
        assert_eq!(of_kind(&events, "http")["http"]["status"], 200);
        assert_eq!(of_kind(&events, "tls")["tls"]["version"], "TLS 1.2");
        let flow = of_kind(&events, "flow");
        assert_eq!((&flow["app_proto"], &flow["app_proto_orig"]), (&"tls".into(), &"http".into()));
    }
}

#[test]
fn a_hello_in_the_segment_of_the_command_in_front_is_one_handshake() {
    let hello = hello_with(&[]);
    let answer = server_hello();
    let conversations: [(u16, [&[u8]; 3]); 4] = [
        (25, [b"220 mx ESMTP\r\n", b"EHLO a\r\nSTARTTLS\r\n", b"250 STARTTLS\r\n220 go\r\n"]),
        (110, [b"+OK ready\r\n", b"STLS\r\n", b"+OK begin\r\n"]),
        (5432, [b"", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"S"]),
        (
            389,
            [
                b"",
                b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037",
                b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00",
            ],
        ),
    ];
    for (port, [greeting, command, accepted]) in conversations {
        let asked = [command, &hello].concat();
        let answered = [accepted, &answer].concat();
        for piece in [1000, 9] {
            let turns: &[(bool, &[u8])] = &[(false, greeting), (true, &asked), (false, &answered)];
            let turns: Vec<_> = turns.iter().copied().filter(|(_, bytes)| !bytes.is_empty()).collect();
            let events = talk(port, &turns, piece, true);
            let tls = &of_kind(&events, "tls")["tls"];
            assert_eq!(
                (&tls["sni"], &tls["version"]),
                (&"a.example".into(), &"TLS 1.2".into()),
                "{port} {piece}"
            );
            assert_eq!(of_kind(&events, "flow")["app_proto"], "tls");
        }
    }
}

#[test]
fn a_server_that_refuses_gssapi_and_accepts_tls_is_recognised_alone() {
    let joined = [b"NS", &server_hello()[..]].concat();
    let hello = server_hello();
    for segments in [&[b"N", b"S", &hello[..]][..], &[b"N", &joined[1..]]] {
        let events = answers(5432, segments);
        assert_eq!(of_kind(&events, "tls")["tls"]["from_proto"], "pgsql");
    }
}
