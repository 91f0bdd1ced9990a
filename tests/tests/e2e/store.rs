//! The packet store returns the packets that were sent, byte for byte. Whatever happens to the process or the
//! disk, finished segments are intact, and packets that are not stored are counted.

mod hostile;
mod integrity;
mod kept;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_userspace::packet::capture_file::CaptureFile;
use mirror_xdp_tests::appliance::{Appliance, Bed, INTERFACE, PATIENCE, Report, wait_until};
use mirror_xdp_tests::frames::{Flow, distinct_datagram, mirrored};
use mirror_xdp_tests::process::{Process, run};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Returns datagram `number` of a conversation, before mirroring.
fn inner(conversation: u16, number: u32) -> Vec<u8> {
    distinct_datagram(conversation, number, 1000)
}

/// Returns `count` datagrams of 10 conversations, mirrored alternately in the sessions of VNIs 7 and 8.
fn frames(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|number| mirrored(7 + number % 2).carrying(&inner(number as u16 % 10, number))).collect()
}

/// Returns a temporary directory for a store.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

fn start(bed: &Bed, store: &Path, arguments: &[&str]) -> Appliance {
    bed.start(&[&["--store", text(store)], arguments].concat())
}

/// Runs `mirror-xdp ARGUMENTS`, which must succeed, and returns its output.
fn mirror_xdp(bed: &Bed, arguments: &[&str]) -> String {
    run(&mut bed.command(arguments)).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the frames of an extract of the store.
fn extract(bed: &Bed, store: &Path, expression: &str) -> Vec<Vec<u8>> {
    extract_by(bed, store, &[expression])
}

/// Returns the frames of an extract of the store with these arguments.
fn extract_by(bed: &Bed, store: &Path, arguments: &[&str]) -> Vec<Vec<u8>> {
    let found = directory();
    let file = found.path().join("found.pcapng");
    let (store, path) = (text(store), text(&file));
    mirror_xdp(bed, &[&["extract", "--store", store, "-w", path], arguments].concat());
    let mut frames = Vec::new();
    let capture = CaptureFile::open(&file).expect("a capture file");
    capture.for_each(|frame| frames.push(frame.bytes.to_vec())).expect("a whole file");
    frames
}

/// Returns the JSON result of `mirror-xdp verify`.
fn verified(bed: &Bed, store: &Path) -> Value {
    let mut command = bed.command(&["verify", "--json"]);
    let output = command.arg(store).output().expect("the binary starts");
    serde_json::from_slice(&output.stdout).expect("an object")
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(store).expect("the store is there").map(|entry| entry.expect("a name").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pcapng"));
    files.sort();
    files
}

/// Opens every finished segment with other programs, and returns their number of packets.
fn opened_by_others(store: &Path) -> u64 {
    let mut packets = 0;
    for segment in segments(store) {
        let info = run(Command::new("capinfos").args(["-M", "-c"]).arg(&segment)).expect("capinfos opens it");
        let count = info.lines().find_map(|line| line.strip_prefix("Number of packets:"));
        packets += count.and_then(|count| count.trim().parse::<u64>().ok()).expect("a number");
        let output = Command::new("tshark").args(["-n", "-r"]).arg(&segment).output().expect("tshark starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> = said.lines().filter(|line| !line.starts_with("Running as user")).collect();
        assert!(output.status.success() && said.is_empty(), "{}: {said:?}", segment.display());
    }
    packets
}

/// Returns the packets kept and lost by the stores of all workers.
fn stored(report: &Report) -> (u64, u64) {
    let parts = report.list("/workers").iter().map(|worker| &worker["store"]);
    parts.fold((0, 0), |(kept, lost), store| {
        let reasons = store["lost"].as_object().expect("reasons").values();
        let sum: u64 = reasons.map(|count| count.as_u64().expect("a count")).sum();
        (kept + store["kept"].as_u64().expect("a count"), lost + sum)
    })
}

#[test]
fn a_conversation_comes_out_as_it_was_sent_while_the_capture_runs_and_after() {
    let Some(bed) = Bed::new(2) else { return };
    let store = directory();
    let appliance = start(&bed, store.path(), &[]);
    bed.send(&frames(200));
    let expected: Vec<_> =
        (0..200).filter(|number| number % 10 == 3).map(|number| inner(3, number)).collect();
    wait_until("the packets are on the disk", || {
        extract(&bed, store.path(), "host 172.31.0.1 and port 20003") == expected
    });
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(stored(&report), (200, 0));
    assert_eq!(extract(&bed, store.path(), "port 20003 and vni 8"), expected);
    assert_eq!(extract(&bed, store.path(), "port 20003 and vni 7"), [b""; 0]);
    assert_eq!(opened_by_others(store.path()), 200);
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"];
    let shown = run(Command::new("tshark").args(["-n", "-r"]).arg(&segments(store.path())[0]).args(fields));
    let shown = shown.unwrap();
    assert!(shown.contains("vni7") && shown.contains("vni8") && shown.contains("community_id=1:"), "{shown}");
    // By the Community ID in the records.
    let records = bed.records();
    // Its first datagram came from the server.
    let flow = records.iter().find(|record| record["event_type"] == "flow" && record["dest_port"] == 20_003);
    let id = flow.and_then(|flow| flow["community_id"].as_str()).expect("the flow's record");
    assert_eq!(extract(&bed, store.path(), &format!("community-id {id}")), expected);
    assert_eq!(verified(&bed, store.path())["findings"], serde_json::json!([]));
}

/// Writes a key file that only its owner can read.
fn key_in(directory: &Path) -> PathBuf {
    let path = directory.join("store.key");
    fs::write(&path, "5a".repeat(32)).expect("the directory is there");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is our own");
    path
}

/// The forms of stored segments: compressed, encrypted, and the end of their names.
const FORMS: [(bool, bool, &str); 4] = [
    (false, false, ".pcapng"),
    (true, false, ".pcapng.zst"),
    (false, true, ".pcapng.enc"),
    (true, true, ".pcapng.enc"),
];

#[test]
fn every_packet_that_came_is_in_the_extract_whether_segments_are_compressed_encrypted_both_or_plain() {
    let Some(bed) = Bed::new(1) else { return };
    let files = directory();
    let key = key_in(files.path());
    // Sorted, because two workers may take packets in another order than they arrived.
    let sorted = |mut frames: Vec<Vec<u8>>| {
        frames.sort();
        frames
    };
    let expected = |count| sorted((0..count).map(|number| inner(number as u16 % 10, number)).collect());
    for (compressed, encrypted, end) in FORMS {
        let store = directory();
        let mut settings = "[store]\nsegment_time = \"1s\"\n".to_owned();
        if compressed {
            settings += "compression = 1\n";
        }
        if encrypted {
            settings.extend(["key = \"", text(&key), "\"\n"]);
        }
        let config = files.path().join("config.toml");
        fs::write(&config, settings).expect("the directory is there");
        let appliance = start(&bed, store.path(), &["--config", text(&config)]);
        let arguments = if encrypted { vec!["--key", text(&key), "udp"] } else { vec!["udp"] };
        let sent = frames(4000);
        bed.send(&sent[..2000]);
        wait_until("the packets are on the disk", || {
            sorted(extract_by(&bed, store.path(), &arguments)) == expected(2000)
        });
        // The next segment has a key of its own.
        wait_until("a segment is finished", || {
            let names = fs::read_dir(store.path())
                .expect("it is there")
                .map(|entry| entry.expect("a name").file_name());
            names.into_iter().any(|name| name.to_string_lossy().ends_with(end))
        });
        bed.send(&sent[2000..]);
        let report = appliance.stop();
        report.assert_conserved();
        assert_eq!(stored(&report), (4000, 0), "compressed: {compressed}, encrypted: {encrypted}");
        let found = sorted(extract_by(&bed, store.path(), &arguments));
        assert!(found == expected(4000), "compressed: {compressed}, encrypted: {encrypted}");
        assert_eq!(verified(&bed, store.path())["findings"], serde_json::json!([]));
        if encrypted {
            let file = files.path().join("found.pcapng");
            let arguments = ["extract", "--store", text(store.path()), "udp", "-w", text(&file)];
            let output = bed.run_to_end(bed.command(&arguments));
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        }
    }
}

#[test]
fn a_flipped_byte_names_its_segment() {
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    let appliance = start(&bed, store.path(), &[]);
    bed.send(&frames(50));
    appliance.stop().assert_conserved();
    let segment = segments(store.path()).remove(0);
    let file = fs::OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], 5000).unwrap();
    let mut command = bed.command(&["verify"]);
    let output = command.arg(store.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(text.starts_with(&format!("{name} was altered")), "{text}");
}

/// Runs mirror-xdp on a private file system; its files are copied out at the end.
const SCRIPT: &str = "mount -t tmpfs -o size=12m tmpfs \"$0\" && \
     dd if=/dev/zero of=\"$0/ballast\" bs=1M count=10 2>/dev/null || exit 9; \
     copy=$1; shift; trap 'kill -INT $pid' INT; \"$@\" & pid=$!; wait $pid; wait $pid; code=$?; \
     rm -f \"$0/ballast\"; cp \"$0\"/* \"$copy\"; exit $code";

#[test]
fn a_full_disk_pauses_the_store_and_not_the_analysis_and_ends_by_itself() {
    let Some(bed) = Bed::new(1) else { return };
    let (mounted, kept) = (directory(), directory());
    let inside = bed.run_command(&[INTERFACE], &["--store", mounted.path().to_str().unwrap()]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]);
    command.arg(mounted.path()).arg(kept.path());
    command.arg(inside.get_program()).args(inside.get_args());
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    let sent = frames(6000);
    bed.send(&sent[..5000]);
    let said = process.wait_for_line("", PATIENCE);
    let mut lines = vec![said.unwrap()];
    while !lines.last().unwrap().contains("cannot write") {
        lines.push(process.wait_for_line("", PATIENCE).unwrap());
    }
    let ballast = format!("/proc/{}/root{}/ballast", process.id(), mounted.path().display());
    fs::remove_file(ballast).unwrap();
    while !lines.last().unwrap().contains("kept again") {
        bed.send(&sent[5000..5100]);
        if let Ok(line) = process.wait_for_line("", std::time::Duration::from_millis(300)) {
            lines.push(line);
        }
    }
    process.signal(Signal::SIGINT).unwrap();
    let output = process.wait(PATIENCE).unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = Report::parse(&output);
    report.assert_conserved();
    assert_eq!(report.analysed(), report.seen());
    let (packets, lost) = stored(&report);
    assert_eq!(packets + lost, report.analysed());
    assert!(packets > 0 && lost > 0, "{packets} kept, {lost} lost");
    assert_eq!(verified(&bed, kept.path())["packets"], packets);
    assert_eq!(verified(&bed, kept.path())["findings"], serde_json::json!([]));
    assert_eq!(opened_by_others(kept.path()), packets);
}

#[test]
fn bad_use_is_told_in_one_line() {
    let Some(bed) = Bed::new(1) else { return };
    let nothing = directory();
    let path = nothing.path().to_str().unwrap();
    for (arguments, code, expected) in [
        (&["extract", "--store", path, "-w", "/dev/null"][..], 1, "is no store"),
        (&["extract", "--store", path, "port 80 and ]", "-w", "/dev/null"], 2, "column 13"),
        (
            &["extract", "--store", path, "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"],
            2,
            "before",
        ),
        (&["verify", path], 1, "is no store"),
        (&["hold", "--store", path, "list"], 1, "is no store"),
    ] {
        let output = bed.run_to_end(bed.command(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let [line] = &output.stderr[..] else { panic!("{arguments:?}: {output:?}") };
        assert!(line.contains(expected), "{line}");
    }
}
