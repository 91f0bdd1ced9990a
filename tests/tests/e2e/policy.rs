//! Admission, rules and shunted flows of a running capture: the effect of a configuration file, and of a
//! reload by SIGHUP.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::{fs, thread};

use etherparse::TcpHeader;
use mirror_xdp_tests::appliance::{Bed, Report, wait_until};
use mirror_xdp_tests::frames::{APPLIANCE_V4, Flow, mirrored};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Writes a configuration file beside the records.
fn configure(bed: &Bed, text: &str) -> PathBuf {
    let path = bed.log_dir().join("config.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Returns the frames that the program dropped for this reason.
fn dropped(report: &Report, reason: &str) -> u64 {
    report.json()["interfaces"][0]["program"]["dropped"][reason].as_u64().unwrap()
}

/// Returns the counters of a VNI.
fn vni(report: &Report, vni: u32) -> Value {
    let vnis = report.json()["policies"][0]["vnis"].as_array().unwrap();
    vnis.iter().find(|counted| counted["vni"] == vni).cloned().unwrap_or(Value::Null)
}

/// Returns the packets that a rule decided on.
fn packets(report: &Report, set: &str, number: u32) -> u64 {
    let rules = report.json()["policies"][0]["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["set"] == set && rule["number"] == number);
    rule.unwrap()["packets"].as_u64().unwrap()
}

/// Returns the `flow` records.
fn flows(bed: &Bed) -> Vec<Value> {
    bed.records().into_iter().filter(|record| record["event_type"] == "flow").collect()
}

#[test]
fn frames_of_sources_that_are_not_admitted_reach_no_worker_and_a_health_check_answers() {
    let Some(bed) = Bed::new(1).map(|bed| bed.addressed().unwrap()) else { return };
    let config = configure(&bed, "[admission]\nsources = [\"10.9.0.0/30\", \"fd00::1/128\"]\n");
    let appliance = bed.start(&["--config", config.to_str().unwrap()]);
    let inner = Flow::default().udp(b"x");
    let forged = [Ipv4Addr::new(10, 9, 0, 4), Ipv4Addr::new(10, 8, 255, 255), Ipv4Addr::new(192, 0, 2, 1)];
    let mut frames = vec![mirrored(7).carrying(&inner), mirrored(7).over_ipv6().carrying(&inner)];
    frames.extend(
        forged.map(|source| mirrored(7).between(source.into(), APPLIANCE_V4.into()).carrying(&inner)),
    );
    bed.send(&frames);

    let listener = bed.appliance.enter(|| TcpListener::bind((APPLIANCE_V4, 0)).unwrap()).unwrap();
    let server = listener.local_addr().unwrap();
    let check = thread::spawn(move || listener.accept().unwrap().0.write_all(b"healthy").unwrap());
    let mut answer = String::new();
    bed.far.enter(|| TcpStream::connect(server).unwrap()).unwrap().read_to_string(&mut answer).unwrap();
    check.join().unwrap();
    assert_eq!(answer, "healthy");

    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!((report.analysed(), dropped(&report, "source_not_admitted")), (2, 3));
    assert_eq!(vni(&report, 7)["packets"], 2, "an injected frame is not the VNI's");
}

#[test]
fn unknown_vnis_are_learned_and_counted_or_dropped_as_configured() {
    let Some(bed) = Bed::new(1) else { return };
    let inner = Flow::default().udp(b"x");
    let frames = [7, 7, 8, 100, 200, 201].map(|vni| mirrored(vni).carrying(&inner));
    let report = bed.capture(&frames, &[]);
    assert_eq!(report.analysed(), 6);
    assert_eq!(vni(&report, 7)["packets"], 2);
    assert_eq!(vni(&report, 7)["bytes"], 2 * inner.len());
    assert_eq!(vni(&report, 201)["packets"], 1);

    let config = configure(&bed, "[admission]\nmode = \"strict\"\nvnis = [7, \"100-200\"]\n");
    let report = bed.capture(&frames, &["--config", config.to_str().unwrap()]);
    report.assert_conserved();
    assert_eq!((report.analysed(), dropped(&report, "vni_not_admitted")), (4, 2));
    assert_eq!(vni(&report, 100)["packets"], 1);
    assert_eq!(vni(&report, 8), Value::Null);
}

#[test]
fn sixteen_thousand_vnis_are_counted_one_by_one() {
    const VNIS: u32 = 16_384;
    let Some(bed) = Bed::new(1) else { return };
    let inner = Flow::default().udp(b"x");
    let frames: Vec<_> = (0..VNIS).map(|vni| mirrored(1000 + vni).carrying(&inner)).collect();
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    let vnis = report.json()["policies"][0]["vnis"].as_array().unwrap();
    assert_eq!(vnis.len(), VNIS as usize);
    assert!(vnis.iter().all(|vni| vni["packets"] == 1));
}

/// Returns a set for VNI 7 that rejects datagrams to this port, and truncates the rest to 60 bytes.
fn rejecting(port: u16) -> String {
    format!(
        r#"
[[filter.sets]]
name = "web"
vnis = [7]

[[filter.sets.rules]]
number = 10
action = "reject"
protocol = "udp"
destination_ports = {port}

[[filter.sets.rules]]
number = 20
action = "truncate 60"
"#
    )
}

#[test]
fn rules_are_replaced_while_the_capture_runs_and_a_broken_file_changes_nothing() {
    let Some(bed) = Bed::new(1) else { return };
    let config = configure(&bed, &rejecting(53));
    let mut appliance = bed.start(&["--config", config.to_str().unwrap()]);
    let to = |port| mirrored(7).carrying(&Flow::v4(40_000, port).udp(&[7; 100]));
    let frames = [to(53), to(53), to(80)];
    bed.send(&frames);

    configure(&bed, &rejecting(80));
    appliance.signal(Signal::SIGHUP);
    assert!(appliance.wait_for_line("mirror-xdp: ").contains("2 rules in force"));
    bed.send(&frames);

    configure(&bed, &rejecting(53).replace("udp", "icmp"));
    appliance.signal(Signal::SIGHUP);
    let refused = appliance.wait_for_line("mirror-xdp: not reloaded");
    assert!(refused.contains("config.toml:10: ") && refused.contains("destination_ports"), "{refused}");
    bed.send(&frames);

    configure(&bed, &format!("[ports]\nvxlan = [8472]\n{}", rejecting(53)));
    appliance.signal(Signal::SIGHUP);
    assert!(appliance.wait_for_line("mirror-xdp: not reloaded").contains("takes a restart"));

    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.json()["policies"][0]["generation"], 3);
    // Two to port 53, then twice one to port 80.
    assert_eq!(dropped(&report, "filter_rejected"), 4);
    assert_eq!(report.analysed(), 5);
    // The rule that was in both files continued to count.
    assert_eq!(packets(&report, "web", 20), 5);
    assert_eq!(packets(&report, "web", 10), 2);
    assert_eq!(vni(&report, 7)["dropped"]["rejected"], 4);
    // Records contain the original lengths.
    assert!(flows(&bed).iter().all(|flow| flow["flow"]["bytes_toserver"].as_u64().unwrap() % 142 == 0));
}

#[test]
fn what_the_driver_counted_of_a_flow_is_in_its_record() {
    let Some(bed) = Bed::new(1) else { return };
    let config = configure(&bed, "[shunt]\nafter = 1000\n");
    let appliance = bed.start(&["--config", config.to_str().unwrap(), "--stats-interval", "20ms"]);
    let flow = Flow::v4(40_000, 4444);
    let (mut to_server, mut to_client) = (1001, 9001);
    let mut frames = flow.tcp_handshake();
    for round in 0..400_u32 {
        // The payload belongs to no known application.
        let payload = [round as u8; 300];
        let header = |sequence_number, acknowledgment_number| TcpHeader {
            sequence_number,
            acknowledgment_number,
            ack: true,
            window_size: 64_000,
            ..TcpHeader::default()
        };
        frames.push(flow.tcp(header(to_server, to_client), &payload));
        to_server += 300;
        if round % 2 == 0 {
            frames.push(flow.reversed().tcp(header(to_client, to_server), &payload[..200]));
            to_client += 200;
        }
    }
    let end = |sequence_number, acknowledgment_number| TcpHeader {
        sequence_number,
        acknowledgment_number,
        ack: true,
        fin: true,
        ..TcpHeader::default()
    };
    frames.push(flow.tcp(end(to_server, to_client), b""));
    frames.push(flow.reversed().tcp(end(to_client, to_server + 1), b""));
    let ack = TcpHeader {
        sequence_number: to_server + 1,
        acknowledgment_number: to_client + 1,
        ack: true,
        ..TcpHeader::default()
    };
    frames.push(flow.tcp(ack, b""));
    let totals = |from: u8| {
        // The last byte of the source address identifies the sender.
        let own = frames.iter().filter(|frame| frame[29] == from);
        (own.clone().count() as u64, own.map(Vec::len).sum::<usize>() as u64)
    };
    let (sent, answered) = (totals(1), totals(2));
    // The worker has to decide that the flow is of no interest before the rest arrives.
    let (first, rest) = frames.split_at(40);
    let mirror = |frames: &[Vec<u8>]| -> Vec<_> { frames.iter().map(|f| mirrored(7).carrying(f)).collect() };
    bed.send(&mirror(first));
    wait_until("the flow is shunted", || {
        let shunts = |record: &Value| {
            let workers = record["stats"]["workers"].as_array();
            workers.is_some_and(|workers| workers.iter().any(|worker| worker["flows_shunted"] == 1))
        };
        bed.records().iter().any(shunts)
    });
    bed.send(&mirror(rest));

    let report = appliance.stop();
    report.assert_conserved();
    let shunted = report.json()["interfaces"][0]["program"]["shunted"]["flow"].as_u64().unwrap();
    // All later frames except the two that end the connection, and perhaps some of the first part.
    let after = rest.len() as u64 - 2;
    assert!((after..after + 35).contains(&shunted), "{shunted}");
    assert_eq!(vni(&report, 7)["dropped"]["shunted"], shunted);
    let [record] = &flows(&bed)[..] else { panic!("one flow was sent") };
    let counted = |name: &str| record["flow"][name].as_u64().unwrap();
    assert_eq!((counted("pkts_toserver"), counted("bytes_toserver")), sent);
    assert_eq!((counted("pkts_toclient"), counted("bytes_toclient")), answered);
    assert_eq!(record["flow"]["state"], "closed");
}
