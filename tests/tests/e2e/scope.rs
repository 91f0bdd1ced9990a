//! The scope of flows: two mirror sessions with one direction each of the same conversations.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use etherparse::TcpHeader;
use mirror_xdp_tests::appliance::{Bed, PATIENCE, comparable, of_type, records};
use mirror_xdp_tests::frames::{APPLIANCE_V4, Flow, SOURCE_V4, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::{Value, json};

const CONNECTIONS: u16 = 1000;
const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);

/// Returns the frames of HTTP connections; those of the server come by the session of `server`.
fn connections(server: Ipv4Addr) -> Vec<Vec<u8>> {
    let [to_server, to_client] = [SOURCE_V4, server].map(|source| {
        let session = mirrored(7).between(source.into(), APPLIANCE_V4.into());
        move |frame: &[u8]| session.carrying(frame)
    });
    let segment = |sequence_number, acknowledgment_number| TcpHeader {
        sequence_number,
        acknowledgment_number,
        ack: true,
        window_size: 64_240,
        ..TcpHeader::default()
    };
    let mut frames = Vec::new();
    for port in 0..CONNECTIONS {
        let flow = Flow::v4(20_000 + port, 80);
        let back = flow.reversed();
        let request = format!("GET /{port} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let (asked, answered) = (1001 + request.len() as u32, 9001 + response.len() as u32);
        let [syn, accepted, ack] = flow.tcp_handshake().try_into().unwrap();
        frames.extend([to_server(&syn), to_client(&accepted), to_server(&ack)]);
        frames.push(to_server(&flow.tcp(segment(1001, 9001), request.as_bytes())));
        frames.push(to_client(&back.tcp(segment(9001, asked), response)));
        frames.push(to_server(&flow.tcp(TcpHeader { fin: true, ..segment(asked, answered) }, b"")));
        frames.push(to_client(&back.tcp(TcpHeader { fin: true, ..segment(answered, asked + 1) }, b"")));
        frames.push(to_server(&flow.tcp(segment(asked + 1, answered + 1), b"")));
    }
    frames
}

/// Returns the records without what differs between two runs, and without the mirror session.
fn without_mirror(records: &[Value]) -> Vec<String> {
    let strip = |record: &Value| {
        let mut record = record.clone();
        record.as_object_mut().unwrap().remove("mirror");
        record
    };
    comparable(&records.iter().map(strip).collect::<Vec<_>>())
}

/// Asserts that the records of two sessions are those of one, and name both sources.
fn assert_united(records: &[Value], of_one: &[Value]) {
    let flows = of_type(records, "flow");
    assert_eq!((flows.len(), of_type(records, "http").len()), (CONNECTIONS.into(), CONNECTIONS.into()));
    let sources = json!([SOURCE_V4.to_string(), OTHER_SOURCE.to_string()]);
    assert!(flows.iter().all(|flow| flow["mirror"]["sources"] == sources), "{}", flows[0]);
    assert!(of_type(of_one, "flow").iter().all(|flow| flow["mirror"].get("sources").is_none()));
    let (records, of_one) = (without_mirror(records), without_mirror(of_one));
    assert_eq!(records.len(), of_one.len());
    for (record, of_one) in records.iter().zip(&of_one) {
        assert_eq!(record, of_one);
    }
}

/// Returns the number of flows in the account of which another session has the other side. All are of VNI 7.
fn split(account: &Value) -> u64 {
    let workers = account["workers"].as_array().unwrap();
    let splits = workers.iter().filter_map(|worker| worker["split"].as_array()).flatten();
    let count = |split: &Value| {
        assert_eq!(split["vni"], 7);
        split["flows"].as_u64().unwrap()
    };
    splits.map(count).sum()
}

#[test]
fn two_live_sessions_with_one_direction_each_give_the_records_of_one_with_both() {
    // Two workers on one queue: the order of the frames of a flow is kept.
    let workers = ["--sockets-per-queue", "2"];
    let capture = |server: Ipv4Addr, arguments: &[&str]| {
        let bed = Bed::new(1)?;
        let frames = connections(server);
        let report = bed.capture(&frames, &[&workers, arguments].concat());
        report.assert_conserved();
        assert_eq!(report.analysed(), frames.len() as u64);
        Some((bed.records(), report))
    };
    let Some((of_one, report)) = capture(SOURCE_V4, &[]) else { return };
    assert_eq!(split(report.json()), 0);
    let (records, report) = capture(OTHER_SOURCE, &["--flow-scope", "vni"]).unwrap();
    assert_eq!(split(report.json()), 0);
    assert_united(&records, &of_one);
    let (records, report) = capture(OTHER_SOURCE, &[]).unwrap();
    assert_eq!(of_type(&records, "flow").len(), 2 * usize::from(CONNECTIONS));
    assert_eq!(split(report.json()), 2 * u64::from(CONNECTIONS));
}

#[test]
fn flows_of_one_side_are_warned_of_in_a_live_capture_and_shown_by_top_and_doctor() {
    let Some(bed) = Bed::new(1) else { return };
    let config = bed.log_dir().join("mirror-xdp.toml");
    std::fs::write(
        &config,
        "[timeouts]\ntcp_new = \"1s\"\ntcp_established = \"1s\"\n[api]\nlisten = \"127.0.0.1:9470\"\n",
    )
    .unwrap();
    bed.appliance.up("lo").unwrap();
    let mut appliance = bed.start(&["--config", config.to_str().unwrap(), "--stats-interval", "200ms"]);
    bed.send(&connections(OTHER_SOURCE));
    let line = appliance.wait_for_line_with("flows have one side only");
    assert!(line.contains("--flow-scope vni") && line.contains("VNI 7"), "{line}");
    let output = |arguments: &[&str]| {
        Process::spawn(&mut bed.command(arguments)).unwrap().wait(PATIENCE).unwrap().stdout
    };
    assert!(output(&["top", "--once"]).contains("split_flows"));
    let checks = output(&["doctor", "--interface", "mirror0", "--json"]);
    let checks: Value = serde_json::from_str(&checks).unwrap();
    let check = checks.as_array().unwrap().iter().find(|check| check["check"] == "flow scope").unwrap();
    assert!(check["state"] == "warning" && check["found"].as_str().unwrap().ends_with("VNI 7"), "{check}");
    appliance.stop().assert_conserved();
}

#[test]
fn a_file_of_two_sessions_with_one_direction_each_gives_the_records_of_one_with_both() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, server: Ipv4Addr, arguments: &[&str]| {
        let file = directory.path().join(name);
        let mut writer = PcapWriter::new(File::create(&file).unwrap()).unwrap();
        for (millis, frame) in (0..).zip(connections(server)) {
            let time = Duration::from_secs(1_600_000_000) + Duration::from_millis(millis);
            writer.write_packet(&PcapPacket::new(time, frame.len() as u32, &frame)).unwrap();
        }
        drop(writer);
        let log_dir = directory.path().join(format!("{name}-log"));
        let mut command = Command::new(&binary);
        command.arg("read").arg(&file).arg("--log-dir").arg(&log_dir).args(arguments);
        let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
        assert!(output.status.success(), "{:?}", output.stderr);
        (records(Path::new(&log_dir)), output.stderr.join("\n"))
    };
    let (of_one, told) = read("one", SOURCE_V4, &[]);
    assert!(!told.contains("one side only"), "{told}");
    let (records, told) = read("two", OTHER_SOURCE, &["--flow-scope", "vni"]);
    assert!(!told.contains("one side only"), "{told}");
    assert_united(&records, &of_one);
    let (records, told) = read("split", OTHER_SOURCE, &[]);
    assert_eq!(of_type(&records, "flow").len(), 2 * usize::from(CONNECTIONS));
    assert!(told.contains("2000 flows have one side only") && told.contains("--flow-scope vni"), "{told}");
}
