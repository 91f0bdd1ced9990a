//! Hostile traffic beside ordinary traffic in a live capture: no ordinary frames are lost because of it.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::env;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use etherparse::IpNumber;
use mirror_xdp_tests::appliance::{Bed, PATIENCE, Report};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::Value;

/// The rates of both in packets a second, and the duration.
const HOSTILE: u32 = 5_000;
const ORDINARY: u32 = 50_000;
const SECONDS: u32 = 8;
/// The environment variable with another duration of the live test, in seconds.
const DURATION: &str = "MIRROR_XDP_HOSTILE_SECONDS";
/// The number of comparisons before a loss counts: other processes use CPUs too.
const TRIES: usize = 3;

fn seconds() -> u32 {
    env::var(DURATION).map_or(SECONDS, |seconds| seconds.parse().unwrap())
}

/// Writes ESP packets between two hosts, with a new SPI in each, encapsulated in a session of their own.
fn write_esp(path: &Path) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for index in 0..HOSTILE * seconds() {
        let payload = [&index.to_be_bytes()[..], &[0; 4], &[0x5a; 40]].concat();
        let inner = Flow::v4(0, 0).packet(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &payload);
        let frame = mirrored(66).carrying(&inner);
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
    }
}

/// Captures ordinary traffic, with `hostile` beside it; returns the report and the number of frames sent.
fn capture(bed: &Bed, hostile: Option<&Path>) -> (Report, u64) {
    let appliance = bed.start(&[]);
    let generator = |arguments: &[&str]| {
        let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
        command.args(["pktgen", "--json", "--interface", "source0"]).args(arguments);
        Process::spawn(&mut command).unwrap()
    };
    let (rate, duration) = (format!("{ORDINARY}pps"), format!("{}s", seconds()));
    let mut generators = vec![generator(&[
        "--to",
        "10.9.0.2",
        "--to-mac",
        "02:00:00:00:00:02",
        "--size",
        "128",
        "--flows",
        "1000",
        "--rate",
        &rate,
        "--duration",
        &duration,
    ])];
    if let Some(file) = hostile {
        let (rate, file) = (format!("{HOSTILE}pps"), file.to_string_lossy());
        generators.push(generator(&["--envelope", "none", "--new-flows", "no", "--rate", &rate, &file]));
    }
    let mut sent = 0;
    for generator in generators {
        let output = generator.wait(Duration::from_secs(u64::from(seconds())) + PATIENCE).unwrap();
        assert!(output.status.success(), "{:?}", output.stderr);
        sent += serde_json::from_str::<Value>(&output.stdout).unwrap()["sent"].as_u64().unwrap();
    }
    bed.wait_until_received(sent);
    let report = appliance.stop();
    report.assert_conserved();
    (report, sent)
}

#[test]
fn hostile_esp_beside_ordinary_traffic_costs_no_frame_of_it() {
    require::machine();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("esp.pcap");
    write_esp(&file);
    let mut lost = Vec::new();
    for _ in 0..TRIES {
        let Some(bed) = Bed::new(1) else { return };
        let (without, _) = capture(&bed, None);
        let Some(bed) = Bed::new(1) else { return };
        let (with, sent) = capture(&bed, Some(&file));
        assert_eq!(with.seen(), sent);
        assert_eq!(with.sum("/workers", "/flows_total"), 1000 + u64::from(HOSTILE * seconds()));
        println!("{sent} frames: {} lost without it, {} with it", without.lost(), with.lost());
        lost.push((without.lost(), with.lost()));
        if with.lost() <= without.lost() {
            return;
        }
    }
    panic!("lost without and with it: {lost:?}");
}
