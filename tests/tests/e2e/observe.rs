//! Observing a running capture: `mirror-xdp tail` through the control socket, and the tap.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::process::Command;

use mirror_xdp_tests::appliance::{Bed, PATIENCE, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use mirror_xdp_tests::sniffer::Sniffer;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

/// Returns a datagram to this port in the session with this VNI.
fn frame(vni: u32, port: u16) -> Vec<u8> {
    mirrored(vni).carrying(&Flow::v4(40_000, port).udp(b"hello"))
}

fn tail(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = bed.command(&["tail"]);
    command.arg("--control").arg(bed.control()).args(arguments);
    command
}

/// Runs `tail` to its end while sending frames repeatedly, because no event announces that it is connected.
fn tail_while_sending(bed: &Bed, arguments: &[&str], frames: &[Vec<u8>]) -> Output {
    let mut process = Process::spawn(&mut tail(bed, arguments)).unwrap();
    wait_until("tail has had enough", || {
        bed.send(frames);
        !process.is_running()
    });
    process.wait(PATIENCE).unwrap()
}

#[test]
fn what_matches_is_shown_a_line_each() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let frames = [frame(7, 53), frame(7, 443), frame(8, 443)];
    let output = tail_while_sending(&bed, &["udp port 443", "--vni", "7", "--count", "3"], &frames);
    assert!(output.status.success(), "{:?}", output.stderr);
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert!(line.contains(" vni 7 IP ") && line.contains(":443: udp payload 5"), "{line}");
    }
    appliance.stop().assert_conserved();
}

#[test]
fn scripts_get_an_object_a_line() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let output = tail_while_sending(&bed, &["--json", "-c", "2"], &[frame(9, 5000)]);
    for line in output.stdout.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&json["vni"], &json["dest_port"]), (&9.into(), &5000.into()), "{json}");
        assert!(json["community_id"].as_str().unwrap().starts_with("1:"));
    }
    assert_eq!(output.stdout.lines().count(), 2);
    appliance.stop().assert_conserved();
}

#[test]
fn the_end_of_the_capture_ends_tail_too() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let file = bed.log_dir().join("tail.pcapng");
    let mut command = tail(&bed, &["-w"]);
    command.arg(&file);
    let process = Process::spawn(&mut command).unwrap();
    let size = || std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
    wait_until("tail has written frames", || {
        bed.send(&[frame(7, 53)]);
        // More than a header.
        size() > 500
    });
    appliance.stop().assert_conserved();
    let output = process.wait(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    let mut reader = PcapNgReader::new(File::open(&file).unwrap()).unwrap();
    let mut packets = 0;
    while let Some(block) = reader.next_block() {
        packets += u64::from(matches!(block.unwrap(), Block::EnhancedPacket(_)));
    }
    assert!(packets > 0);
    assert!(output.stderr.iter().any(|line| line.starts_with(&format!("{packets} frames"))));
}

#[test]
fn mistakes_are_told_before_anybody_is_asked() {
    let Some(binary) = require::binary() else { return };
    let tail = |arguments: &[&str]| {
        let output = Command::new(&binary).arg("tail").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = tail(&["tcp prot 80"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("column 5"), "{said}");
    let (code, said) = tail(&["--control", "/nonexistent/control.sock"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no mirror-xdp answers there"), "{said}");
}

#[test]
fn hostile_clients_of_the_control_socket_are_bounded_and_tail_says_so() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    // Idle connections count too, until they time out.
    let refused = || {
        let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(bed.control()).unwrap()).collect();
        let output = bed.run_to_end(tail(&bed, &["--count", "1"]));
        drop(silent);
        output
    };
    let output = refused();
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""), "{:?}", output.stderr);
    let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
    assert!(line.contains("clients of user 0 are served already"), "{line}");
    // Refused clients and closed connections no longer count.
    wait_until("there is a place again", || {
        tail_while_sending(&bed, &["--count", "1"], &[frame(7, 53)]).status.success()
    });
    appliance.stop().assert_conserved();
}

#[test]
fn the_tap_sends_the_inner_frames_and_counts_those_that_are_too_long() {
    let Some(bed) = Bed::new(2) else { return };
    bed.appliance.veth("tap0", &bed.appliance, "ids0", 1).unwrap();
    for interface in ["tap0", "ids0"] {
        bed.appliance.up(interface).unwrap();
    }
    let sniffer = Sniffer::new(&bed.appliance, "ids0").unwrap();
    let appliance = bed.start(&["--tap", "tap0"]);
    let inner: Vec<_> = (0..100).map(|port| Flow::v4(40_000, 1000 + port).udp(b"hello")).collect();
    let long = Flow::v4(40_000, 9).udp(&[0; 2000]);
    let mut frames: Vec<_> = inner.iter().map(|frame| mirrored(7).carrying(frame)).collect();
    frames.push(mirrored(7).carrying(&long));
    bed.send(&frames);
    let received = sniffer.take(inner.len(), |frame| inner.contains(&frame).then_some(frame));
    assert_eq!(received.len(), inner.len());
    let report = appliance.stop();
    report.assert_conserved();
    let tap = &report.json()["tap"];
    assert_eq!(tap["lost"]["too_long"], 1, "{tap}");
    let number = |value: &Value| value.as_u64().unwrap();
    let lost = ["ring_full", "too_long", "refused"].map(|reason| number(&tap["lost"][reason]));
    assert_eq!(number(&tap["frames"]), number(&tap["sent"]) + lost.iter().sum::<u64>(), "{tap}");
}
