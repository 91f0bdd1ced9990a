//! Mirrored connections as they are: segments that are late, lost, cut, or overtaken by the other direction.

use super::*;

/// A connection to an HTTP server whose segments come in any order.
struct Mirrored {
    bench: Bench,
    connection: Tcp,
}

impl Mirrored {
    /// Opens a connection of a mirror session to a port.
    fn to(port: u16) -> Self {
        let mut bench = Bench::new();
        bench.mirror = Some(mirror(7, 1));
        let mut connection = Tcp::new(4000);
        connection.server.1 = port;
        connection.open(&mut bench);
        Self { bench, connection }
    }

    fn http() -> Self {
        Self::to(80)
    }

    /// Returns the next segment of a side.
    fn next(&mut self, from_client: bool, payload: &[u8]) -> Vec<u8> {
        self.connection.segment(from_client, "A", payload)
    }

    /// Sends the next segment of a side.
    fn send(&mut self, from_client: bool, payload: &[u8]) {
        let frame = self.next(from_client, payload);
        self.bench.frame(&frame);
    }

    /// Sends the next segment of a side, of which the mirror has cut off all but `kept` bytes of data.
    fn send_cut(&mut self, from_client: bool, payload: &[u8], kept: usize) {
        let frame = self.next(from_client, payload);
        let missing = payload.len() - kept;
        self.bench.cut_frame(&frame[..frame.len() - missing], missing);
    }

    fn wait_ms(&mut self, milliseconds: u64) {
        self.bench.now += milliseconds * 1_000_000;
    }

    fn lost(&self, reason: &str) -> u64 {
        analysis_lost(&self.bench, reason)
    }

    /// Returns URL, status and length of each transaction, in the order of the records, and which directions
    /// have gaps.
    fn transactions(self) -> (Vec<(String, u64, u64)>, [bool; 2]) {
        let events = self.bench.events();
        let transactions = events.iter().filter(|event| event["event_type"] == "http").map(|event| {
            let http = &event["http"];
            let url = http["url"].as_str().unwrap().to_owned();
            (url, http["status"].as_u64().unwrap_or_default(), http["length"].as_u64().unwrap())
        });
        let flow = events.iter().find(|event| event["event_type"] == "flow").unwrap();
        let gaps = ["ts_gap", "tc_gap"].map(|gap| flow["tcp"][gap] == true);
        (transactions.collect(), gaps)
    }
}

const UNSEEN: &str = "/libhtp::request_uri_not_seen";

fn get(url: &str) -> Vec<u8> {
    format!("GET {url} HTTP/1.1\r\nHost: {}.example\r\n\r\n", &url[1..]).into_bytes()
}

fn answer(status: u16, length: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + length, b'.');
    answer
}

fn expected(transactions: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
    transactions.iter().map(|&(url, status, length)| (url.to_owned(), status, length)).collect()
}

#[test]
fn a_segment_that_is_sent_again_after_many_later_ones_leaves_no_gap() {
    // The sizes of segments, and the number of bytes behind the one that is late.
    for (size, behind) in [(1448, 700_000), (8948, 700_000), (100, 50_000)] {
        let mut mirrored = Mirrored::http();
        mirrored.send(true, &get("/first"));
        let length = size + behind;
        let whole = answer(200, length);
        let segments: Vec<_> = whole.chunks(size).map(|part| mirrored.next(false, part)).collect();
        for segment in segments.iter().take(1).chain(&segments[2..]) {
            mirrored.bench.frame(segment);
        }
        mirrored.bench.frame(&segments[1]);
        mirrored.send(true, &get("/second"));
        mirrored.send(false, &answer(201, 5));
        let (transactions, gaps) = mirrored.transactions();
        assert_eq!(transactions, expected(&[("/first", 200, length as u64), ("/second", 201, 5)]), "{size}");
        assert_eq!(gaps, [false; 2]);
    }
}

#[test]
fn a_hole_with_more_behind_it_than_may_be_buffered_is_a_gap_and_the_connection_goes_on() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/first"));
    let length = 3_000_000;
    let whole = answer(200, length);
    for (number, part) in whole.chunks(1448).enumerate() {
        let segment = mirrored.next(false, part);
        if number != 1 && number != 1500 {
            mirrored.bench.frame(&segment);
        }
    }
    assert!(mirrored.lost("stream_hole") >= 1);
    mirrored.send(true, &get("/second"));
    mirrored.send(false, &answer(201, 5));
    let (transactions, gaps) = mirrored.transactions();
    assert_eq!(transactions, expected(&[("/first", 200, length as u64), ("/second", 201, 5)]));
    assert_eq!(gaps, [false, true]);
}

#[test]
fn an_acknowledged_hole_may_still_be_filled_for_some_time_and_some_bytes() {
    // The time, and the bytes that come in the meantime.
    for (wait, bytes, gap) in [(0, 0, false), (100, 100_000, false), (400, 0, true), (0, 400_000, true)] {
        let mut mirrored = Mirrored::http();
        mirrored.send(true, &get("/first"));
        let body = vec![b'.'; 1000 + 1448 + 400_000];
        mirrored.send(false, &[b"HTTP/1.1 200 X\r\nContent-Length: 403448\r\n\r\n", &body[..1000]].concat());
        let late = mirrored.next(false, &body[..1448]);
        mirrored.send(false, &body[..1000]);
        mirrored.send(true, b"");
        mirrored.wait_ms(wait);
        for part in body[..bytes].chunks(1448) {
            mirrored.send(false, part);
        }
        mirrored.send(true, b"");
        mirrored.bench.frame(&late);
        let left = 403_448 - 3448 - bytes;
        for part in body[..left].chunks(1448) {
            mirrored.send(false, part);
        }
        mirrored.send(true, b"");
        let (transactions, gaps) = mirrored.transactions();
        assert_eq!(transactions, expected(&[("/first", 200, 403_448)]), "{wait} ms, {bytes} bytes");
        assert_eq!(gaps, [false, gap], "{wait} ms, {bytes} bytes");
    }
}

#[test]
fn a_response_that_is_mirrored_before_its_request_answers_it() {
    for distance in [1, 2, 4] {
        let mut mirrored = Mirrored::http();
        let mut frames = Vec::new();
        for (number, url) in ["/one", "/two", "/three", "/four"].iter().enumerate() {
            frames.push(mirrored.next(true, &get(url)));
            frames.push(mirrored.next(false, &answer(201 + number as u16, number + 1)));
            frames.push(mirrored.next(true, b""));
        }
        // The second request comes late.
        let late = frames.remove(3);
        frames.insert(3 + distance, late);
        for frame in &frames {
            mirrored.bench.frame(frame);
            mirrored.wait_ms(9);
        }
        let (transactions, gaps) = mirrored.transactions();
        let all = [("/one", 201, 1), ("/two", 202, 2), ("/three", 203, 3), ("/four", 204, 0)];
        assert_eq!(transactions, expected(&all), "{distance}");
        assert_eq!(gaps, [false; 2]);
    }
}

#[test]
fn a_response_does_not_wait_for_ever_for_its_request_nor_for_the_next_packet() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/one"));
    mirrored.send(false, &answer(200, 1));
    let late = mirrored.next(true, &get("/two"));
    mirrored.send(false, &answer(201, 1));
    mirrored.wait_ms(300);
    mirrored.bench.worker.tick(mirrored.bench.now);
    mirrored.bench.frame(&late);
    mirrored.send(true, &get("/three"));
    mirrored.send(false, &answer(202, 1));
    let (transactions, _) = mirrored.transactions();
    let all = [("/one", 200, 1), (UNSEEN, 201, 1), ("/two", 0, 0), ("/three", 202, 1)];
    assert_eq!(transactions, expected(&all));
}

#[test]
fn the_latency_of_a_response_does_not_count_its_wait() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/one"));
    mirrored.send(false, &answer(200, 1));
    let request = mirrored.next(true, &get("/two"));
    mirrored.send(false, &answer(200, 1));
    mirrored.bench.frame(&request);
    mirrored.wait_ms(50);
    mirrored.send(true, &get("/three"));
    mirrored.wait_ms(6);
    mirrored.send(false, &answer(200, 1));
    let events = mirrored.bench.of("http");
    let latencies: Vec<_> = events.iter().map(|event| event["http"]["latency_ms"].as_f64()).collect();
    assert_eq!(latencies, [Some(1.0), None, Some(7.0)]);
}

#[test]
fn a_response_to_a_request_that_is_lost_is_not_that_of_the_next() {
    for wait in [0, 300] {
        let mut mirrored = Mirrored::http();
        for (number, url) in ["/one", "/two", "/three", "/four"].iter().enumerate() {
            let request = mirrored.next(true, &get(url));
            if number != 1 {
                mirrored.bench.frame(&request);
            }
            mirrored.send(false, &answer(200 + number as u16, 3));
            mirrored.send(true, b"");
            mirrored.wait_ms(wait);
        }
        let (transactions, gaps) = mirrored.transactions();
        let all = [("/one", 200, 3), (UNSEEN, 201, 3), ("/three", 202, 3), ("/four", 203, 3)];
        assert_eq!(transactions, expected(&all), "{wait}");
        assert_eq!(gaps, [true, false]);
    }
}

#[test]
fn a_request_whose_response_is_lost_has_not_that_of_the_next() {
    // The first lost response, and the number of lost responses.
    for (first, count) in [(0, 1), (1, 1), (1, 2)] {
        let mut mirrored = Mirrored::http();
        let mut all = Vec::new();
        for (number, url) in ["/one", "/two", "/three", "/four"].iter().enumerate() {
            mirrored.send(true, &get(url));
            let response = mirrored.next(false, &answer(200 + number as u16, 3));
            let lost = (first..first + count).contains(&number);
            if !lost {
                mirrored.bench.frame(&response);
            }
            mirrored.send(true, b"");
            all.push(if lost { (*url, 0, 0) } else { (*url, 200 + number as u64, 3) });
        }
        let (transactions, gaps) = mirrored.transactions();
        assert_eq!(transactions, expected(&all), "{first}, {count}");
        assert_eq!(gaps, [false, true]);
    }
}

#[test]
fn a_request_that_is_lost_among_pipelined_ones_has_its_response() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/one"));
    let _lost = mirrored.next(true, &get("/two"));
    mirrored.send(true, &get("/three"));
    for status in [201, 202, 203] {
        mirrored.send(false, &answer(status, 3));
    }
    mirrored.send(true, b"");
    let (transactions, gaps) = mirrored.transactions();
    assert_eq!(transactions, expected(&[("/one", 201, 3), (UNSEEN, 202, 3), ("/three", 203, 3)]));
    assert_eq!(gaps, [true, false]);
}

#[test]
fn a_response_to_a_lost_request_may_have_no_body_whatever_length_it_has() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/one"));
    mirrored.send(false, &answer(200, 1));
    let _lost = mirrored.next(true, b"HEAD /two HTTP/1.1\r\n\r\n");
    mirrored.send(false, b"HTTP/1.1 202 X\r\nContent-Length: 5000\r\n\r\n");
    mirrored.send(true, &get("/three"));
    mirrored.send(false, &answer(203, 3));
    let (transactions, _) = mirrored.transactions();
    assert_eq!(transactions, expected(&[("/one", 200, 1), (UNSEEN, 202, 0), ("/three", 203, 3)]));
}

#[test]
fn values_that_go_on_behind_a_cut_are_left_out() {
    let head = b"GET /path HTTP/1.1\r\nUser-Agent: agent\r\nHost: bank.example.com.evil\r\n\r\n";
    let end =
        |of: &str| head.windows(of.len()).position(|window| window == of.as_bytes()).unwrap() + of.len();
    for (kept, method, url, agent, host) in [
        (end("GET /pa"), "GET", UNSEEN, None, None),
        (end("HTTP/1.1"), "GET", "/path", None, None),
        (end("HTTP/1.1\r\n"), "GET", "/path", None, None),
        (end("agent\r\n"), "GET", "/path", Some("agent"), None),
        (end("bank.example.com.evi"), "GET", "/path", Some("agent"), None),
        (end("evil\r\n"), "GET", "/path", Some("agent"), Some("bank.example.com.evil")),
    ] {
        let mut mirrored = Mirrored::http();
        mirrored.send_cut(true, head, kept);
        mirrored.send_cut(false, &answer(200, 500), 60);
        mirrored.send(true, &get("/second"));
        mirrored.send_cut(
            false,
            b"HTTP/1.1 404 X\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n....",
            50,
        );
        mirrored.send(true, &get("/third"));
        mirrored.send(false, &answer(201, 3));
        let events = mirrored.bench.of("http");
        assert_eq!(events.len(), 3, "{kept}");
        let http = &events[0]["http"];
        assert_eq!((&http["http_method"], &http["url"]), (&method.into(), &url.into()), "{kept}");
        assert_eq!(http["http_user_agent"].as_str(), agent, "{kept}");
        assert_eq!(http["hostname"].as_str(), host, "{kept}");
        assert_eq!((&http["status"], &http["length"]), (&200.into(), &500.into()), "{kept}");
        let http = &events[1]["http"];
        assert_eq!((&http["url"], &http["status"]), (&"/second".into(), &404.into()));
        assert_eq!(http["http_content_type"], "text/html");
        assert_eq!(
            (&events[2]["http"]["url"], &events[2]["http"]["status"]),
            (&"/third".into(), &201.into())
        );
    }
}

#[test]
fn requests_and_responses_that_are_all_cut_are_one_transaction_each() {
    // The bytes of a request and of a response that the mirror keeps.
    for (of_request, of_response, url) in [(60, 30, true), (20, 60, false), (20, 14, false)] {
        let mut mirrored = Mirrored::http();
        for number in 0..4 {
            let long = format!(
                "GET /{} HTTP/1.1\r\nHost: a.example\r\nCookie: {}\r\n\r\n",
                "x".repeat(20),
                "x".repeat(500)
            );
            mirrored.send_cut(true, long.as_bytes(), of_request);
            let response = answer(200 + number, 3000);
            mirrored.send_cut(false, &response[..response.len() - 1000], of_response);
            // The rest of the response comes in segments of its own.
            mirrored.send_cut(false, &[b'.'; 1000], of_response);
        }
        let events = mirrored.bench.of("http");
        let statuses: Vec<_> = events.iter().map(|event| event["http"]["status"].as_u64()).collect();
        assert_eq!(statuses, [Some(200), Some(201), Some(202), Some(203)], "{of_request}, {of_response}");
        for event in &events {
            assert_eq!(event["http"]["http_method"], "GET", "{of_request}, {of_response}");
            assert_eq!(event["http"]["url"] != UNSEEN, url);
        }
    }
}

#[test]
fn what_a_cut_hello_of_tls_has_in_front_of_the_cut_is_told() {
    let hello = client_hello();
    let mut mirrored = Mirrored::to(443);
    mirrored.send_cut(true, &hello, hello.len() - 3);
    mirrored.send(
        false,
        b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03\
        ................................\x00\xc0\x2f\x00",
    );
    mirrored.send(true, b"");
    let events = mirrored.bench.of("tls");
    assert_eq!(events.len(), 1);
    let tls = &events[0]["tls"];
    assert_eq!((&tls["sni"], &tls["version"]), (&"a.example".into(), &"TLS 1.2".into()));
    // The fingerprints of half a hello are those of another one.
    assert_eq!((&tls["ja3"], &tls["ja4"]), (&Value::Null, &Value::Null));
    assert!(tls["ja3s"].is_object());
}

#[test]
fn tls_goes_on_behind_a_gap_unless_it_is_in_the_hello() {
    let mut mirrored = Mirrored::to(443);
    mirrored.send(true, &client_hello());
    mirrored.send(true, b"\x16\x03\x03\x00\x05....");
    let _lost = mirrored.next(true, b".");
    mirrored.send(true, b"\x14\x03\x03\x00\x01\x01");
    mirrored.send(
        false,
        b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03\
        ................................\x00\xc0\x2f\x00",
    );
    mirrored.send(true, b"");
    let events = mirrored.bench.of("tls");
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["tls"]["sni"], &events[0]["tls"]["version"]),
        (&"a.example".into(), &"TLS 1.2".into())
    );
}

#[test]
fn cut_fragments_are_in_the_flow() {
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(7, 1));
    let whole = udp((CLIENT, 4000), (SERVER, 9), &[0; 3000]);
    for fragment in fragments(&whole, 1480) {
        let kept = fragment.len().min(100);
        bench.cut_frame(&fragment[..kept], fragment.len() - kept);
    }
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!((&flows[0]["src_port"], &flows[0]["flow"]["bytes_toserver"]), (&4000.into(), &3028.into()));
}

#[test]
fn a_response_without_a_body_has_none_whatever_its_fields_say() {
    let turns: [(bool, &[u8]); 10] = [
        (true, b"GET /n HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 304 X\r\nContent-Length: 5000\r\n\r\n"),
        (true, b"HEAD /h HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (true, b"DELETE /d HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (true, b"GET /e HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 103 X\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n....."),
        (true, b"GET /c HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 1\r\n\r\n1\r\n.\r\n0\r\n\r\n"),
    ];
    let events = conversation(&turns).of("http");
    let of: Vec<_> = events.iter().map(|event| (http(event).1, http(event).2)).collect();
    assert_eq!(of, [("/n", 304), ("/h", 200), ("/d", 204), ("/e", 200), ("/c", 200)]);
    assert_eq!(events[..3].iter().map(|event| http(event).3).collect::<Vec<_>>(), [0; 3]);
}

#[test]
fn hostile_acknowledgements_of_what_was_never_sent_take_nothing_from_what_comes() {
    for beyond in [1, 1000, 1 << 19, 1 << 21, 1 << 30, (1 << 31) + 5] {
        let mut mirrored = Mirrored::http();
        for (number, url) in ["/one", "/two", "/three"].iter().enumerate() {
            mirrored.send(true, &get(url));
            let [sent, _] = mirrored.connection.next;
            mirrored.connection.next[0] = sent.wrapping_add(beyond);
            // An acknowledgement of its own, and one with the response.
            mirrored.send(false, b"");
            mirrored.send(false, &answer(200 + number as u16, 3));
            mirrored.connection.next[0] = sent;
            mirrored.wait_ms(if number == 1 { 300 } else { 0 });
        }
        let (transactions, gaps) = mirrored.transactions();
        assert_eq!(
            transactions,
            expected(&[("/one", 200, 3), ("/two", 201, 3), ("/three", 202, 3)]),
            "{beyond}"
        );
        assert_eq!(gaps, [false; 2], "{beyond}");
    }
}

#[test]
fn hostile_segments_far_ahead_take_nothing_from_what_comes() {
    for ahead in [20 << 20, 1 << 30] {
        let mut mirrored = Mirrored::http();
        mirrored.send(true, &get("/one"));
        let [_, sent] = mirrored.connection.next;
        mirrored.connection.next[1] = sent.wrapping_add(ahead);
        for _ in 0..2000 {
            mirrored.send(false, &[b'.'; 1400]);
        }
        mirrored.connection.next[1] = sent;
        mirrored.send(false, &answer(200, 3));
        mirrored.send(true, &get("/two"));
        mirrored.send(false, &answer(201, 3));
        mirrored.send(true, b"");
        let (transactions, _) = mirrored.transactions();
        assert_eq!(transactions, expected(&[("/one", 200, 3), ("/two", 201, 3)]), "{ahead}");
    }
}

#[test]
fn single_bytes_in_any_order_with_any_overlap_around_the_end_of_numbers_are_one_stream() {
    let mut state = 7_u32;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for round in 0..20 {
        let mut bench = Bench::new();
        bench.mirror = Some(mirror(7, 1));
        let mut connection = Tcp::new(4000);
        connection.server.1 = 80;
        connection.next = [u32::MAX - 20, u32::MAX - 30];
        connection.open(&mut bench);
        let [client, server] = connection.next;
        let request = get("/one");
        let response = answer(200, 100);
        let mut frames = Vec::new();
        for (from_client, bytes, first, acknowledged) in [
            (true, &request, client, server),
            (false, &response, server, client.wrapping_add(request.len() as u32)),
        ] {
            let (source, destination) = (connection.client, connection.server);
            let (source, destination) =
                if from_client { (source, destination) } else { (destination, source) };
            for at in 0..bytes.len() {
                let len = (1 + random(4)).min(bytes.len() - at);
                let sequence = first.wrapping_add(at as u32);
                frames.push(tcp(source, destination, sequence, acknowledged, "A", &bytes[at..at + len]));
            }
        }
        for at in (1..frames.len()).rev() {
            frames.swap(at, random(at + 1));
        }
        for frame in &frames {
            bench.frame(frame);
        }
        let events = bench.of("http");
        assert_eq!(events.len(), 1, "{round}");
        assert_eq!(http(&events[0]), ("GET", "/one", 200, 100), "{round}");
    }
}

#[test]
fn hostile_holes_without_end_are_bounded_in_memory_and_time() {
    let mut mirrored = Mirrored::http();
    mirrored.send(true, &get("/one"));
    let begin = std::time::Instant::now();
    for _ in 0..20_000 {
        mirrored.send(false, b".");
        let _lost = mirrored.next(false, b".");
    }
    assert!(begin.elapsed().as_secs() < 60);
    mirrored.send(true, b"");
    assert!(mirrored.lost("stream_hole") > 1000);
    let (_, gaps) = mirrored.transactions();
    assert_eq!(gaps, [false, true]);
}

#[test]
fn a_connection_without_its_beginning_goes_on_behind_gaps() {
    let mut mirrored = Mirrored::http();
    mirrored.bench = Bench::new();
    mirrored.bench.mirror = Some(mirror(7, 1));
    for (number, url) in ["/one", "/two", "/three", "/four"].iter().enumerate() {
        let request = mirrored.next(true, &get(url));
        if number != 2 {
            mirrored.bench.frame(&request);
        }
        mirrored.send(false, &answer(200 + number as u16, 3));
    }
    let (transactions, _) = mirrored.transactions();
    let all = [("/one", 200, 3), ("/two", 201, 3), (UNSEEN, 202, 3), ("/four", 203, 3)];
    assert_eq!(transactions, expected(&all));
}

#[test]
fn a_connection_goes_on_without_the_answer_to_its_syn() {
    // Whether the answer is lost or late, and whether the client acknowledges it first.
    for (late, acknowledged) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut mirrored = Mirrored::http();
        mirrored.bench = Bench::new();
        mirrored.bench.mirror = Some(mirror(7, 1));
        mirrored.connection.next = [u32::MAX - 20, u32::MAX - 30];
        let syn = mirrored.connection.segment(true, "S", b"");
        mirrored.bench.frame(&syn);
        let answered = mirrored.connection.segment(false, "SA", b"");
        if acknowledged {
            mirrored.send(true, b"");
        }
        mirrored.send(true, &get("/one"));
        if late {
            mirrored.bench.frame(&answered);
        }
        mirrored.send(false, &answer(200, 3));
        mirrored.send(true, &get("/two"));
        mirrored.send(false, &answer(201, 3));
        let (transactions, gaps) = mirrored.transactions();
        assert_eq!(transactions, expected(&[("/one", 200, 3), ("/two", 201, 3)]), "{late} {acknowledged}");
        assert_eq!(gaps, [false; 2]);
    }
}

#[test]
fn one_direction_of_a_connection_goes_on_behind_what_is_lost() {
    let mut mirrored = Mirrored::http();
    mirrored.bench = Bench::new();
    mirrored.bench.mirror = Some(mirror(7, 1));
    for (number, status) in [200, 201, 202, 203].into_iter().enumerate() {
        let response = mirrored.next(false, &answer(status, 3));
        if number != 1 {
            mirrored.bench.frame(&response);
        }
        mirrored.wait_ms(1100);
    }
    let (transactions, gaps) = mirrored.transactions();
    assert_eq!(transactions, expected(&[(UNSEEN, 200, 3), (UNSEEN, 202, 3), (UNSEEN, 203, 3)]));
    assert_eq!(gaps, [false, true]);
}

#[test]
fn plain_text_in_front_of_tls_is_dropped_whatever_is_swapped() {
    let (hello, answer) = (client_hello(), server_hello());
    let mut mirrored = Mirrored::to(5432);
    mirrored.send(true, b"\0\0\0\x08\x04\xd2\x16\x2f");
    let go = mirrored.next(false, b"S");
    mirrored.send(true, &hello);
    mirrored.bench.frame(&go);
    mirrored.send(false, &answer);
    mirrored.send(true, &[]);
    let events = mirrored.bench.events();
    let tls = of_kind(&events, "tls");
    assert_eq!((&tls["tls"]["sni"], tls["tls"]["ja3s"].is_object()), (&"a.example".into(), true));
    assert_eq!(tls["tls"]["from_proto"], "pgsql");
}

#[test]
fn a_cut_hello_behind_plain_text_is_reported() {
    let hello = client_hello();
    let mut mirrored = Mirrored::to(5432);
    mirrored.send(true, b"\0\0\0\x08\x04\xd2\x16\x2f");
    mirrored.send(false, b"S");
    mirrored.send_cut(true, &hello, hello.len() - 2);
    mirrored.send(false, &server_hello());
    let events = mirrored.bench.events();
    assert_eq!(of_kind(&events, "tls")["tls"]["from_proto"], "pgsql");
}
