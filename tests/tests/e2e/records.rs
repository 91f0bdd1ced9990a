//! The outputs for records, and failures of outputs, which never cost packets.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, Report, of_type, wait_until};
use mirror_xdp_tests::frames::{APPLIANCE_V4, Flow, SOURCE_V4, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::sys::signal::Signal;
use pcap_file::pcap::{PcapPacket, PcapWriter};

/// Returns a frame of each of `count` flows.
fn flows(count: u16) -> Vec<Vec<u8>> {
    (0..count).map(|port| mirrored(1).carrying(&Flow::v4(10_000 + port, 9).udp(b"hello"))).collect()
}

/// Returns the numbers of events written and lost.
fn fate(report: &Report) -> (u64, u64) {
    let written = report.json()["records"]["written"].as_object().unwrap();
    (written.values().map(|count| count.as_u64().unwrap()).sum(), report.number("/records/lost"))
}

#[test]
fn a_full_disk_costs_records_that_are_counted_and_no_packets() {
    const FLOWS: u16 = 2000;
    let Some(bed) = Bed::new(1) else { return };
    // A small file system that only this process sees.
    let inner = bed.run_command(&[INTERFACE], &["--stats-interval", "200ms"]);
    let mut command = bed.appliance.command("unshare");
    let script = r#"mount -t tmpfs -o size=64k records "$0" && exec "$@""#;
    command.args(["--mount", "sh", "-c", script]).arg(bed.log_dir()).arg(inner.get_program());
    command.args(inner.get_args());
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    bed.send(&flows(FLOWS));
    let report = Report::parse(&process.interrupt(PATIENCE).unwrap());
    report.assert_conserved();
    assert_eq!(report.analysed(), u64::from(FLOWS));
    let (written, lost) = fate(&report);
    assert!(written > 0 && lost > 0 && written + lost > u64::from(FLOWS), "{written} {lost}");
}

/// The process is confined to the directory that it started with; one in its place is another.
#[test]
fn hostile_removal_of_the_log_directory_is_told_and_its_records_count_as_lost() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&["--stats-interval", "200ms"]);
    let log = bed.log_dir().join("eve.json");
    let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count() as u64);
    wait_until("something is written", || lines() > 0);
    fs::remove_dir_all(bed.log_dir()).unwrap();
    fs::create_dir(bed.log_dir()).unwrap();
    // Other lines may come before it, such as that of a machine that is too busy.
    let line = appliance.wait_for_line_with("was removed");
    let again = line.contains("is created again");
    assert!(again || line.contains("restart it to log again"), "{line}");
    appliance.signal(Signal::SIGHUP);
    bed.send(&flows(2000));
    let report = appliance.stop();
    report.assert_conserved();
    let (written, lost) = fate(&report);
    if again {
        // A kernel without Landlock.
        assert!(lost == 0 && lines() > 2000, "{lost} {}", lines());
    } else {
        assert!(lost > 2000 && written < 100 && lines() == 0, "{lost} {written} {}", lines());
    }
}

#[test]
fn hostile_removal_of_the_log_costs_no_record() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&["--stats-interval", "200ms"]);
    let log = bed.log_dir().join("eve.json");
    let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count() as u64);
    wait_until("something is written", || lines() > 0);
    fs::remove_file(&log).unwrap();
    appliance.wait_for_line_with("was removed; it is created again");
    bed.send(&flows(2000));
    let report = appliance.stop();
    report.assert_conserved();
    let (written, lost) = fate(&report);
    assert!(lost == 0 && lines() > 2000 && written >= lines(), "{lost} {written} {}", lines());
    let mode = fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_reader_that_stalls_costs_records_that_are_counted_and_no_packets() {
    const FLOWS: u16 = 5000;
    let Some(bed) = Bed::new(1) else { return };
    let socket = bed.log_dir().join("eve.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let output = format!("unix-stream:{}", socket.display());
    let appliance = bed.start(&["--eve-output", &output]);
    let (mut reader, _) = listener.accept().unwrap();
    bed.send(&flows(FLOWS));
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), u64::from(FLOWS));
    let (written, lost) = fate(&report);
    assert!(written > 0 && lost > 0 && written + lost > u64::from(FLOWS), "{written} {lost}");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
    assert_eq!(whole as u64, written);
}

#[test]
fn sighup_begins_a_log_anew_that_was_moved_away() {
    let Some(bed) = Bed::new(1) else { return };
    let (log, moved) = (bed.log_dir().join("eve.json"), bed.log_dir().join("eve.json.1"));
    let mut appliance = bed.start(&["--stats-interval", "100ms"]);
    let has_lines = || fs::metadata(&log).is_ok_and(|metadata| metadata.len() > 0);
    wait_until("there are records", has_lines);
    fs::rename(&log, &moved).unwrap();
    appliance.signal(Signal::SIGHUP);
    wait_until("there are records in the new file", has_lines);
    let before = fs::read_to_string(&moved).unwrap();
    appliance.stop().assert_conserved();
    // Nothing is written to the old file any more, and both contain whole lines.
    assert_eq!(fs::read_to_string(&moved).unwrap(), before);
    for text in [before, fs::read_to_string(&log).unwrap()] {
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }
}

#[test]
fn a_capture_file_is_read_to_stdout_and_not_together_with_the_account() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("flows.pcap");
    let mut writer = PcapWriter::new(fs::File::create(&capture).unwrap()).unwrap();
    for frame in flows(300) {
        writer.write_packet(&PcapPacket::new(PATIENCE, frame.len() as u32, &frame)).unwrap();
    }
    drop(writer);
    let read = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.arg("read").arg(&capture).args(arguments).current_dir(directory.path());
        Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap()
    };
    let output = read(&["--eve-output", "-"]);
    assert!(output.status.success(), "{:?}", output.stderr);
    assert_eq!(output.stdout.lines().filter(|line| line.contains(r#""event_type":"flow""#)).count(), 300);
    assert!(!directory.path().join("eve.json").exists());
    let output = read(&["--eve-output", "-", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("leave out --json")), "{:?}", output.stderr);
    let output = read(&["--eve-output", "day.json", "--rotate-size", "20kB", "--rotate-keep", "2"]);
    assert!(output.status.success(), "{:?}", output.stderr);
    let logs = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(logs.filter(|name| name.to_string_lossy().starts_with("day.json")).count(), 3);
}

#[test]
fn of_what_is_mirrored_at_both_ends_one_copy_is_analysed_and_the_other_counted() {
    let Some(bed) = Bed::new(1) else { return };
    let other = std::net::Ipv4Addr::new(10, 9, 0, 77);
    let ends = [
        mirrored(7).between(SOURCE_V4.into(), APPLIANCE_V4.into()),
        mirrored(8).between(other.into(), APPLIANCE_V4.into()),
    ];
    let mut frames = Vec::new();
    for port in 0..50 {
        let flow = Flow::v4(20_000 + port, 53);
        let (query, answer) = (dns_query(port, "a.example"), dns_answer(port, "a.example", other));
        let inner = [flow.udp(&query), flow.reversed().udp(&answer)];
        let connection = Flow::v6(30_000 + port, 80).tcp_handshake();
        for frame in inner.iter().chain(&connection) {
            frames.extend(ends.iter().map(|end| end.carrying(frame)));
        }
    }
    let report = bed.capture(&frames, &["--dedup", "on"]);
    report.assert_conserved();
    let half = frames.len() as u64 / 2;
    assert_eq!((report.analysed(), report.sum("/workers", "/duplicates")), (half, half));
    let records = bed.records();
    assert_eq!((of_type(&records, "flow").len(), of_type(&records, "dns").len()), (100, 100));
}
