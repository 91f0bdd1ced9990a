//! The HTTP API: its answers match its description and the account; liveness and readiness differ; only
//! authorised clients get answers; and no client disturbs the capture.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use mirror_xdp_tests::appliance::{Appliance, Bed, INTERFACE, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::http::{self, Answer};
use mirror_xdp_tests::schema::violations;
use mirror_xdp_tests::{process, require, secret};
use nix::sys::signal::Signal;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::prop_oneof;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const API: &str = "127.0.0.1:9470";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn ask(bed: &Bed, request: &str) -> Answer {
    ask_with(bed, request, &[])
}

fn ask_with(bed: &Bed, request: &str, headers: &[&str]) -> Answer {
    http::ask(&bed.appliance, API.parse().unwrap(), request, headers).unwrap()
}

fn get(bed: &Bed, path: &str) -> Value {
    let answer = ask(bed, &format!("GET {path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// Returns frames of `flows` flows of VNI 7, the first of which is the largest.
fn frames(flows: u16) -> Vec<Vec<u8>> {
    let large = (0..50).map(|_| mirrored(7).carrying(&Flow::v4(4000, 443).udp(&[0; 1000])));
    let small = (1..flows).map(|flow| mirrored(7).carrying(&Flow::v4(4000 + flow, 443).udp(b"hello")));
    large.chain(small).collect()
}

/// Writes a configuration with a set of one rule, and returns its path.
fn write_config(bed: &Bed, action: &str) -> String {
    let path = bed.log_dir().join("config.toml");
    let rule = format!("number = 100\naction = \"{action}\"\n");
    fs::write(&path, format!("[[filter.sets]]\nname = \"a\"\nvnis = [7]\n[[filter.sets.rules]]\n{rule}"))
        .unwrap();
    path.to_str().unwrap().to_owned()
}

/// Starts a capture, sends no more frames at a time than the rings hold, and waits until all are analysed.
fn start_with_traffic(bed: &Bed, arguments: &[&str], frames: &[Vec<u8>]) -> Appliance {
    let appliance = bed.start(arguments);
    let mut sent = 0;
    for some in frames.chunks(500) {
        bed.send(some);
        sent += some.len() as u64;
        wait_until("the workers' counters are published", || {
            let stats = get(bed, "/api/v1/stats");
            let workers = stats["workers"].as_array().unwrap().iter();
            workers.map(|worker| worker["analysed"].as_u64().unwrap()).sum::<u64>() == sent
        });
    }
    appliance
}

#[test]
fn every_path_answers_as_its_description_says() {
    let Some(bed) = Bed::new(2) else { return };
    let config = write_config(&bed, "accept");
    let mut appliance = start_with_traffic(&bed, &["--config", &config], &frames(40));
    let description = get(&bed, "/api/v1/openapi.json");
    let paths = description["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            if path == "/api/v1/events" {
                continue;
            }
            let answer = ask(&bed, &format!("{} {path}", method.to_uppercase()));
            assert_described(&description, operation, path, &answer);
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert_parameter(&bed, &description, operation, path, parameter);
            }
        }
    }
    // Paths and methods that are not described do not exist.
    assert_eq!(ask(&bed, "GET /api/v1/none").status, 404);
    assert_eq!(ask(&bed, "POST /api/v1/stats").status, 405);
    assert_eq!(ask(&bed, "GET /api/v1/reload").status, 405);
    appliance.wait_for_line("mirror-xdp: ");
    appliance.stop().assert_conserved();
}

/// Asserts that an answer has a status, content type and form that the description contains.
#[track_caller]
fn assert_described(description: &Value, operation: &Value, path: &str, answer: &Answer) {
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{path}: {} is not described: {}", answer.status, answer.body);
    let (kind, content) = response["content"].as_object().unwrap().iter().next().unwrap();
    assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}: {}", answer.head);
    if kind == "application/json" {
        let found = violations(description, &content["schema"], &answer.json());
        assert!(found.is_empty(), "{path}: {found:#?}");
    }
}

/// Asserts that a parameter accepts the values described and refuses others.
fn assert_parameter(bed: &Bed, description: &Value, operation: &Value, path: &str, parameter: &Value) {
    let name = parameter["name"].as_str().unwrap();
    let schema = &parameter["schema"];
    let mut values: Vec<(String, u16)> = Vec::new();
    if schema["type"] == "integer" {
        let (least, most) = (schema["minimum"].as_i64().unwrap(), schema["maximum"].as_i64().unwrap());
        values.extend([(least.to_string(), 200), (most.to_string(), 200), ("x".to_owned(), 400)]);
        if name == "limit" {
            values.extend([((least - 1).to_string(), 400), ((most + 1).to_string(), 400)]);
        }
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        values.push((value.as_str().unwrap().to_owned(), 200));
    }
    let others: &[(&str, u16)] = match name {
        "sort" => &[("size", 400)],
        "address" => &[("10.0.0.1", 200), ("fd00::1", 200), ("host", 400)],
        "protocol" => &[("tcp", 200), ("47", 200), ("smtp", 400)],
        "application" => &[("dns", 200), ("%22%00", 200)],
        _ => &[],
    };
    values.extend(others.iter().map(|&(value, status)| (value.to_owned(), status)));
    assert!(!values.is_empty(), "{name}");
    for (value, status) in values {
        let answer = ask(bed, &format!("GET {path}?{name}={value}"));
        assert_eq!(answer.status, status, "{path}?{name}={value}: {}", answer.body);
        assert_described(description, operation, path, &answer);
    }
}

/// Percent-encodes bytes for a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| {
        if byte.is_ascii_alphanumeric() {
            text + &char::from(byte).to_string()
        } else {
            format!("{text}%{byte:02X}")
        }
    })
}

/// Generates parameter names with values, most of which are invalid.
fn hostile_query(names: Vec<String>) -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => select(names), 1 => any::<String>().prop_map(|name| encoded(&name))];
    let number = any::<i128>().prop_map(|number| number.to_string());
    let small = (-2i32..70_000).prop_map(|number| number.to_string());
    let text = any::<String>().prop_map(|text| encoded(&text));
    let long = (0usize..20_000).prop_map(|len| "7".repeat(len));
    let odd = select(vec![
        "",
        "0",
        "-0",
        "1e3",
        "%",
        "%zz",
        "%00",
        "10.0.0.256",
        "::",
        "tcp%0d%0aX:%20y",
        "null",
        "[]",
    ]);
    let value = prop_oneof![number, small, text, long, odd.prop_map(str::to_owned)];
    vec((name, value), 0..4).prop_map(|pairs| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    })
}

#[test]
fn whatever_is_asked_gets_an_answer_that_is_described_and_the_capture_goes_on() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = start_with_traffic(&bed, &[], &frames(40));
    let description = get(&bed, "/api/v1/openapi.json");
    let paths = description["paths"].as_object().unwrap();
    let paths: Vec<_> = paths.iter().filter(|(path, _)| *path != "/api/v1/events").collect();
    let mut runner = TestRunner::deterministic();
    let any_query = hostile_query(
        ["limit", "sort", "vni", "address", "port", "protocol", "application"].map(str::to_owned).to_vec(),
    );
    for round in 0..240 {
        let (path, methods) = paths[round % paths.len()];
        let query = any_query.new_tree(&mut runner).unwrap().current();
        let method =
            ["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"][round / paths.len() % 8];
        let Ok(answer) =
            http::ask(&bed.appliance, API.parse().unwrap(), &format!("{method} {path}?{query}"), &[])
        else {
            // The request head was too long.
            assert!(query.len() > 10_000, "{method} {path}?{query}");
            continue;
        };
        let operation = &methods[method.to_lowercase()];
        if operation.is_object() && !matches!(answer.status, 414 | 431) {
            assert_described(&description, operation, path, &answer);
        } else {
            assert!((400..500).contains(&answer.status), "{method} {path}?{query}: {}", answer.head);
        }
    }
    // Bytes that are no HTTP request at all.
    for bytes in [
        &b"\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/v1/stats HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &vec![0; 100_000],
    ] {
        let mut stream = http::connect(&bed.appliance, API.parse().unwrap()).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 ") && !answer.contains(" 500 "), "{answer}");
    }
    assert_eq!(get(&bed, "/healthz")["healthy"], true);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), 89);
}

#[test]
fn what_it_says_is_what_the_account_says() {
    let Some(bed) = Bed::new(2) else { return };
    let config = write_config(&bed, "accept");
    let appliance = start_with_traffic(&bed, &["--config", &config], &frames(40));
    let stats = get(&bed, "/api/v1/stats");
    let flows = get(&bed, "/api/v1/flows?limit=5&vni=7&protocol=udp&port=443");
    let flows = flows["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 5);
    assert_eq!((&flows[0]["src_port"], &flows[0]["flow"]["pkts_toserver"]), (&4000.into(), &50.into()));
    assert_eq!(get(&bed, "/api/v1/flows?limit=1000")["flows"].as_array().unwrap().len(), 40);
    assert!(get(&bed, "/api/v1/flows?vni=8")["flows"].as_array().unwrap().is_empty());
    assert_eq!(get(&bed, "/api/v1/flows?port=4007")["flows"].as_array().unwrap().len(), 1);
    let vni = &get(&bed, "/api/v1/vnis")["vnis"][0];
    let rule = &get(&bed, "/api/v1/rules")["rules"][0];
    let workers = get(&bed, "/api/v1/workers");
    assert!(workers["workers"].as_array().unwrap().iter().all(|worker| worker["moving"] == true));
    let metrics = ask(&bed, "GET /metrics").body;

    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(stats["interfaces"][0]["program"], report.json()["interfaces"][0]["program"]);
    assert_eq!(
        (&vni["vni"], &vni["packets"]),
        (&7.into(), &report.json()["policies"][0]["vnis"][0]["packets"])
    );
    assert_eq!(rule["packets"], report.json()["policies"][0]["rules"][0]["packets"]);
    let metric = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}")).rsplit(' ').next();
        value.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(metric("mirror_xdp_frames_seen_total{interface=\"mirror0\"}"), report.seen());
    let redirected = "mirror_xdp_frames_total{interface=\"mirror0\",fate=\"redirected\",reason=\"captured\"}";
    assert_eq!(metric(redirected), report.redirected());
    assert_eq!(metric("mirror_xdp_vni_frames_total{interface=\"mirror0\",vni=\"7\"}"), 89);
    assert_eq!(metric("mirror_xdp_protocol_packets_total{protocol=\"udp\"}"), 89);
}

#[test]
fn summaries_come_as_events() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = start_with_traffic(&bed, &[], &frames(3));
    let mut stream = http::connect(&bed.appliance, API.parse().unwrap()).unwrap();
    stream.write_all(format!("GET /api/v1/events HTTP/1.1\r\nHost: {API}\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while text.matches("event: summary").count() < 2 {
        let count = stream.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{text}");
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    assert!(text.contains("text/event-stream"), "{text}");
    appliance.stop().assert_conserved();
}

#[test]
fn a_reload_takes_what_is_right_and_refuses_what_is_not_as_a_whole() {
    let Some(bed) = Bed::new(1) else { return };
    let config = write_config(&bed, "accept");
    let mut appliance = bed.start(&["--config", &config]);
    write_config(&bed, "reject");
    let answer = ask(&bed, "POST /api/v1/reload");
    assert_eq!((answer.status, &answer.json()["rules"]), (200, &1.into()), "{}", answer.body);
    appliance.wait_for_line("mirror-xdp: ");

    write_config(&bed, "drop");
    let refused = ask(&bed, "POST /api/v1/reload");
    assert_eq!(refused.status, 409);
    let mistake = &refused.json()["mistakes"][0];
    assert_eq!((&mistake["line"], &mistake["key"]), (&6.into(), &"filter.sets[0].rules[0].action".into()));
    appliance.wait_for_line("mirror-xdp: not reloaded");
    fs::write(&config, "[ports]\nvxlan = [8472]\n").unwrap();
    let refused = ask(&bed, "POST /api/v1/reload");
    assert_eq!(refused.status, 409);
    assert!(refused.json()["error"].as_str().unwrap().contains("takes a restart"), "{}", refused.body);
    fs::write(&config, "[admission]\nmode = \"strict\"\n").unwrap();
    let refused = ask(&bed, "POST /api/v1/reload");
    assert_eq!((refused.status, &refused.json()["mistakes"][0]["key"]), (409, &"admission.mode".into()));

    bed.send(&frames(2));
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.number("/interfaces/0/program/dropped/filter_rejected"), 51);
}

#[test]
fn health_is_told_on_an_address_of_its_own_until_the_capture_ends() {
    let Some(bed) = Bed::new(1) else { return };
    let health: SocketAddr = "127.0.0.1:9471".parse().unwrap();
    let mut appliance = bed.start(&["--health", "127.0.0.1:9471"]);
    let check = |path: &str| http::ask(&bed.appliance, health, path, &["Host: any.example"]).unwrap();
    let healthy = check("GET /healthz");
    assert_eq!((healthy.status, &healthy.json()["healthy"]), (200, &true.into()), "{}", healthy.body);
    assert_eq!(check("GET /readyz").status, 200);
    assert_eq!(check("GET /api/v1/stats").status, 404);
    assert_eq!(check("GET /metrics").status, 404);
    appliance.signal(Signal::SIGTERM);
    let report = appliance.wait();
    report.assert_conserved();
    assert!(http::ask(&bed.appliance, health, "GET /healthz", &[]).is_err(), "it is stopped");
}

#[test]
fn who_does_not_know_the_token_learns_nothing() {
    let Some(bed) = Bed::new(1) else { return };
    let token = bed.log_dir().join("token");
    secret::write(&token, &format!("{TOKEN}\n"));
    let appliance = bed.start(&["--api", "0.0.0.0:9470", "--api-token-file", token.to_str().unwrap()]);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/metrics", "/api/v1/stats", "/api/v1/flows", "/api/v1/events", "/none"] {
        for headers in
            [&[][..], &["Authorization: Bearer 0123456789abcdef"], &[&bearer.replace("Bearer", "Basic")]]
        {
            let answer = ask_with(&bed, &format!("GET {path}"), headers);
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        }
    }
    assert_eq!(ask(&bed, "POST /api/v1/reload").status, 401);
    assert_eq!(ask_with(&bed, "GET /api/v1/stats", &[&bearer]).status, 200);
    for open in ["/", "/healthz", "/api/v1/openapi.json"] {
        assert_eq!(ask(&bed, &format!("GET {open}")).status, 200, "{open}");
    }
    appliance.stop().assert_conserved();
}

#[test]
fn pages_of_others_cannot_ask_through_a_browser_on_this_host() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let asked = |headers: &[&str]| ask_with(&bed, "GET /api/v1/stats", headers).status;
    assert_eq!(asked(&["Host: evil.example:9470"]), 403);
    assert_eq!(asked(&["Origin: http://evil.example"]), 403);
    assert_eq!(ask_with(&bed, "POST /api/v1/reload", &["Origin: http://evil.example"]).status, 403);
    assert_eq!(asked(&["Host: localhost:9470", "Origin: http://localhost:9470"]), 200);
    appliance.stop().assert_conserved();
}

#[test]
fn slow_clients_and_floods_do_not_touch_the_capture() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&["--health", "127.0.0.1:9471"]);
    // More clients that send half a request, or never read, than the API has room for.
    let mut slow = Vec::new();
    for client in 0..200 {
        let Ok(mut stream) = http::connect(&bed.appliance, API.parse().unwrap()) else { continue };
        let request =
            if client % 2 == 0 { "GET /api/v1/sta" } else { "GET /api/v1/events HTTP/1.1\r\nHost: x" };
        let _ = stream.write_all(request.as_bytes());
        slow.push(stream);
    }
    let frames = frames(200);
    for _ in 0..5 {
        bed.send(&frames);
    }
    let health = http::ask(&bed.appliance, "127.0.0.1:9471".parse().unwrap(), "GET /healthz", &[]).unwrap();
    assert_eq!(health.status, 200, "{}", health.body);
    // They time out after a while, and then there is room again.
    wait_until("there is room again", || {
        http::ask(&bed.appliance, API.parse().unwrap(), "GET /readyz", &[])
            .is_ok_and(|answer| answer.status == 200)
    });
    drop(slow);
    // A flood of requests.
    for _ in 0..300 {
        let _ = http::ask(&bed.appliance, API.parse().unwrap(), "GET /api/v1/flows?limit=1000", &[]);
    }
    bed.send(&frames);
    appliance.signal(Signal::SIGINT);
    let report = appliance.wait();
    report.assert_conserved();
    assert_eq!((report.lost(), report.analysed()), (0, 6 * frames.len() as u64));
}

const HEALTH: &str = "127.0.0.1:9471";
/// Addresses of this host from which clients connect.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

fn ask_from(bed: &Bed, source: Ipv4Addr, address: &str, request: &str) -> io::Result<Answer> {
    let stream = http::connect_from(&bed.appliance, source, address.parse().unwrap())?;
    http::ask_by(stream, address.parse().unwrap(), request, &[])
}

/// Opens a connection and sends `bytes`, which may be empty.
fn say(bed: &Bed, source: Ipv4Addr, address: &str, bytes: &[u8]) -> io::Result<TcpStream> {
    let mut stream = http::connect_from(&bed.appliance, source, address.parse().unwrap())?;
    stream.write_all(bytes)?;
    Ok(stream)
}

/// Asserts that health checks from all sources to all addresses are answered at once.
#[track_caller]
fn assert_healthy(bed: &Bed, round: usize) {
    for (source, address) in [(HERE, API), (THERE, API), (HERE, HEALTH), (THERE, HEALTH)] {
        for path in ["GET /healthz", "GET /readyz"] {
            let begun = Instant::now();
            let answer = ask_from(bed, source, address, path)
                .unwrap_or_else(|error| panic!("{round}: {path} of {address} from {source}: {error}"));
            let late = begun.elapsed() > Duration::from_secs(1);
            assert_eq!((answer.status, late), (200, false), "{round}: {path} of {address} from {source}");
            assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
        }
    }
}

#[test]
fn hostile_clients_by_the_hundred_do_not_keep_health_checks_out() {
    require::machine();
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&["--health", HEALTH]);
    let kept_alive = b"GET /api/v1/stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let hostile: [(&str, &[u8]); 5] = [
        (API, kept_alive),
        (API, b"GET /api/v1/sta"),
        (API, b""),
        (HEALTH, b"GET /healthz HTTP/1.1\r\nX: "),
        (HEALTH, b""),
    ];
    let mut clients = Vec::new();
    let more = |clients: &mut Vec<TcpStream>| {
        for (address, bytes) in hostile {
            // A client that was refused at once serves as well.
            let Ok(mut stream) = say(&bed, HERE, address, bytes) else { continue };
            if bytes == kept_alive {
                let _ = stream.read(&mut [0; 64]);
            }
            clients.push(stream);
        }
    };
    for _ in 0..200 {
        more(&mut clients);
    }
    assert!(clients.len() > 900, "{}", clients.len());
    for round in 0..100 {
        more(&mut clients);
        assert_healthy(&bed, round);
        // The flood from one address does not affect clients at others.
        assert_eq!(ask_from(&bed, THERE, API, "GET /api/v1/stats").unwrap().status, 200, "{round}");
        if clients.len() > 950 {
            clients.drain(..100);
        }
    }
    appliance.stop().assert_conserved();
}

#[test]
fn hostile_clients_that_take_no_answers_do_not_keep_health_checks_out() {
    require::machine();
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&["--health", HEALTH]);
    // More requests than answers fit into the buffers of the connection.
    let requests = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(1000);
    let mut clients = Vec::new();
    for source in [HERE, ELSEWHERE].into_iter().cycle().take(300) {
        let Ok(stream) = http::connect_from(&bed.appliance, source, API.parse().unwrap()) else { continue };
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        let _ = (&stream).write_all(&requests);
        clients.push(stream);
    }
    // Until the answers fill all buffers, the thread of the API is busy.
    wait_until("the connections are full", || {
        let begun = Instant::now();
        let answer = ask_from(&bed, HERE, API, "GET /healthz");
        answer.is_ok_and(|answer| answer.status == 200) && begun.elapsed() < Duration::from_millis(100)
    });
    for round in 0..100 {
        assert_healthy(&bed, round);
    }
    // Other clients need not wait for the end of these connections.
    let begun = Instant::now();
    wait_until("there is room for others", || {
        ask_from(&bed, THERE, API, "GET /api/v1/stats").is_ok_and(|answer| answer.status == 200)
    });
    assert!(begun.elapsed() < Duration::from_secs(20));
    drop(clients);
    appliance.stop().assert_conserved();
}

#[test]
fn a_link_that_is_down_is_told_of_until_it_is_up_again() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&["--health", HEALTH]);
    let ready = || http::ask(&bed.appliance, HEALTH.parse().unwrap(), "GET /readyz", &[]).unwrap();
    assert_eq!((ready().status, &ready().json()["reasons"]), (200, &Value::Array(Vec::new())));
    bed.far.ip("link set source0 down").unwrap();
    appliance.wait_for_line_with("mirror0: link is down");
    let answer = ready();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reasons"], Value::from(vec!["mirror0: link is down"]));
    bed.far.ip("link set source0 up").unwrap();
    appliance.wait_for_line_with("mirror0: link is up again, it was down for ");
    assert_eq!(ready().status, 200, "{}", ready().body);
    bed.send(&frames(3));
    appliance.stop().assert_conserved();
}

#[test]
fn hostile_token_files_are_refused_and_neither_hang_nor_show_what_is_in_them() {
    let Some(bed) = Bed::new(1) else { return };
    let token = bed.log_dir().join("token");
    let name = token.to_str().unwrap().to_owned();
    let refused = |command: Command| {
        let output = bed.run_to_end(command);
        assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
        let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
        assert!(line.contains(&name) && !line.contains(TOKEN), "{line}");
        line.clone()
    };
    for mode in ["644", "604", "660", "602"] {
        secret::write(&token, TOKEN);
        process::run(Command::new("chmod").args([mode, &name])).unwrap();
        for command in [
            bed.run_command(&[INTERFACE], &["--api-token-file", &name]),
            bed.command(&["top", "--once", "--api-token-file", &name]),
        ] {
            let line = refused(command);
            assert!(line.contains(&format!("mode 0{mode}")) && line.contains("chmod 640"), "{line}");
        }
        fs::remove_file(&token).unwrap();
    }
    process::run(Command::new("mkfifo").args(["-m", "600", &name])).unwrap();
    let line = refused(bed.run_command(&[INTERFACE], &["--api-token-file", &name]));
    assert!(line.contains("no regular file"), "{line}");
}

#[test]
fn what_is_wrong_with_its_addresses_is_told_in_one_line() {
    let Some(bed) = Bed::new(1) else { return };
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = bed.run_to_end(bed.run_command(&[INTERFACE], arguments));
        assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
        let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
        for word in words {
            assert!(line.contains(word), "“{word}” is missing: {line}");
        }
    };
    refused(&["--api", "0.0.0.0:9470"], &["0.0.0.0:9470", "--api-token-file"]);
    refused(&["--api", "[::]:9470"], &["--api-token-file"]);
    refused(&["--api-token-file", "/absent"], &["/absent", "token"]);
    refused(&["--api", "192.0.2.1:9470", "--api-token-file", "/dev/null"], &["too short", "openssl rand"]);
    let weak = bed.log_dir().join("weak");
    fs::write(&weak, "secret").unwrap();
    refused(&["--api-token-file", weak.to_str().unwrap()], &["too short"]);

    let appliance = bed.start(&[]);
    bed.appliance.veth("mirror1", &bed.far, "source1", 1).unwrap();
    bed.appliance.up("mirror1").unwrap();
    bed.far.up("source1").unwrap();
    let control = bed.log_dir().join("second.sock");
    let second = |arguments: &[&str]| {
        let mut command = bed.command(&["run", "--interface", "mirror1", "--vxlan-port", "4790"]);
        command
            .args(["--geneve-port", "none", "--log-dir"])
            .arg(bed.log_dir())
            .arg("--control")
            .arg(&control);
        command.args(arguments);
        bed.run_to_end(command)
    };
    let output = second(&[]);
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert_eq!(output.status.code(), Some(1));
    for word in ["127.0.0.1:9470", "in use", "--api off"] {
        assert!(line.contains(word), "“{word}” is missing: {line}");
    }
    let off = second(&["--api", "off", "--duration", "100ms"]);
    assert!(off.status.success(), "{:?}", off.stderr);
    let wrong = bed.run_to_end(bed.run_command(&[INTERFACE], &["--api", "localhost"]));
    assert_eq!(wrong.status.code(), Some(2), "{:?}", wrong.stderr);
    appliance.stop().assert_conserved();
}

/// A test that a scan of a full table ends; its duration depends on the workers' ticks.
#[test]
fn a_survey_goes_through_a_table_of_many_flows() {
    let Some(bed) = Bed::new(1) else { return };
    let frames: Vec<_> = (0..5000)
        .map(|flow: u16| mirrored(7).carrying(&Flow::v4(10_000 + flow, 443).udp(b"hello")))
        .collect();
    let appliance = start_with_traffic(&bed, &[], &frames);
    let begun = Instant::now();
    let flows = get(&bed, "/api/v1/flows?limit=1000&sort=recent");
    assert_eq!(flows["flows"].as_array().unwrap().len(), 1000);
    assert!(begun.elapsed() < Duration::from_secs(5));
    appliance.stop().assert_conserved();
}
