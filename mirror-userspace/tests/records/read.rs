//! `mirror-xdp read` from the view of a person or a script: exit codes and messages.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn read(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mirror-xdp"))
        .arg("read")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns a pcap file with one datagram to `port`.
fn capture(payload: &[u8], port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(5000, port)
        .write(&mut frame, payload)
        .unwrap();
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1, 7, 0, frame.len() as u32, frame.len() as u32] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(frame);
    file
}

fn one_line_naming(output: &Output, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(text.lines().filter(|line| line.starts_with("mirror-xdp: ")).count(), 1, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_capture_becomes_records_in_the_current_directory() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.pcap"), capture(b"x", 9)).unwrap();
    let output = read(&["a.pcap", "a.pcap"], directory.path());
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).starts_with("read 2 frames"), "{}", stderr(&output));
    let log = fs::read_to_string(directory.path().join("eve.json")).unwrap();
    let flow: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(flow["flow"]["pkts_toserver"], 2);
}

#[test]
fn totals_for_scripts_are_one_object_on_stdout() {
    let directory = tempfile::tempdir().unwrap();
    let mirrored = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &capture(b"x", 9)[40..]].concat();
    fs::write(directory.path().join("good.pcap"), capture(&mirrored, 4789)).unwrap();
    fs::write(directory.path().join("bad.pcap"), capture(&[0; 30], 4789)).unwrap();
    let output = read(&["--json", "good.pcap", "bad.pcap"], directory.path());
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&totals["frames"]["seen"], &totals["frames"]["mirrored"]), (&2.into(), &1.into()));
    assert_eq!(totals["frames"]["dropped"]["vxlan_no_vni"], 1);
    assert_eq!((&totals["workers"][0]["analysed"], &totals["unaccounted"]), (&1.into(), &0.into()));
}

#[test]
fn other_ports_can_be_those_of_mirrored_frames() {
    let directory = tempfile::tempdir().unwrap();
    let mirrored = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &capture(b"x", 9)[40..]].concat();
    fs::write(directory.path().join("a.pcap"), capture(&mirrored, 8472)).unwrap();
    let output = read(&["--json", "--vxlan-port", "4789,8472", "a.pcap"], directory.path());
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(totals["frames"]["mirrored"], 1);
    let output = read(&["--vxlan-port", "0", "a.pcap"], directory.path());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_damaged_file_costs_its_end_and_the_others_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = capture(b"x", 9);
    fs::write(directory.path().join("cut.pcap"), [&file[..], &file[24..50]].concat()).unwrap();
    fs::write(directory.path().join("whole.pcap"), &file).unwrap();
    let output = read(&["cut.pcap", "whole.pcap"], directory.path());
    assert_eq!(output.status.code(), Some(1));
    one_line_naming(&output, &["cut.pcap", &format!("byte {}", file.len())]);
    assert!(stderr(&output).contains("read 2 frames"));
}

#[test]
fn what_cannot_be_read_is_named_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("empty"), "").unwrap();
    fs::write(directory.path().join("text"), "no capture at all, just text").unwrap();
    for (file, words) in [
        ("missing", &["missing", "No such file"][..]),
        ("empty", &["empty is empty"]),
        ("text", &["text is not a capture file"]),
        (".", &["is a directory"]),
    ] {
        let output = read(&[file], directory.path());
        assert_eq!(output.status.code(), Some(1), "{file}");
        one_line_naming(&output, words);
    }
}

#[test]
fn a_log_directory_that_cannot_be_made_is_refused_before_anything_is_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.pcap"), capture(b"x", 9)).unwrap();
    let output = read(&["--log-dir", "a.pcap/logs", "a.pcap"], directory.path());
    assert_eq!(output.status.code(), Some(1));
    one_line_naming(&output, &["a.pcap/logs", "--log-dir"]);
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(read(&[], directory.path()).status.code(), Some(2));
    assert_eq!(read(&["--max-flows", "0", "x"], directory.path()).status.code(), Some(2));
}
