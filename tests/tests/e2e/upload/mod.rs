//! Uploads of the packet store: the copy contains the packets that were sent, byte for byte, even if the
//! process was killed meanwhile; alterations of the copy are detected.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

mod s3;

use std::fs;
use std::path::Path;
use std::process::Command;

use mirror_userspace::packet::capture_file::CaptureFile;
use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, Report, wait_until};
use mirror_xdp_tests::frames::{distinct_datagram, mirrored};
use mirror_xdp_tests::process::{Process, run};
use serde_json::{Value, json};

use s3::S3;

/// Returns datagram `number` of a conversation, before mirroring.
fn inner(conversation: u16, number: u32) -> Vec<u8> {
    distinct_datagram(conversation, number, 1400)
}

/// Returns `count` datagrams of 10 conversations, mirrored alternately in the sessions of VNIs 7 and 8.
fn frames(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|number| mirrored(7 + number % 2).carrying(&inner(number as u16 % 10, number))).collect()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the command `mirror-xdp ARGUMENTS`, with credentials for the server.
fn mirror_xdp(bed: &Bed, arguments: &[&str]) -> Command {
    with_credentials(bed.command(arguments))
}

fn with_credentials(mut command: Command) -> Command {
    command.env("AWS_ACCESS_KEY_ID", s3::KEY_ID).env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
    command
}

/// Starts a capture that stores packets in a directory and uploads them.
fn start(bed: &Bed, store: &Path, to: &str) -> Process {
    // One worker, so that there is one segment.
    let arguments = ["--store", text(store), "--store-upload", to, "--sockets-per-queue", "1"];
    let mut process =
        Process::spawn(&mut with_credentials(bed.run_command(&[INTERFACE], &arguments))).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    process
}

fn stop(process: Process) -> Report {
    let output = process.interrupt(PATIENCE).unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = Report::parse(&output);
    report.assert_conserved();
    report
}

/// Returns the frames of an extract of a store, and the amount read for it.
fn extract(bed: &Bed, store: &str, expression: &str) -> (Vec<Vec<u8>>, Value) {
    extract_by(bed, &["--store", store, expression])
}

fn extract_by(bed: &Bed, arguments: &[&str]) -> (Vec<Vec<u8>>, Value) {
    let found = directory();
    let file = found.path().join("found.pcapng");
    let mut command = mirror_xdp(bed, &["extract", "--json", "-w", text(&file)]);
    let said = run(command.args(arguments)).unwrap();
    let mut frames = Vec::new();
    let capture = CaptureFile::open(&file).unwrap();
    capture.for_each(|frame| frames.push(frame.bytes.to_vec())).unwrap();
    (frames, serde_json::from_str(&said).unwrap())
}

/// Returns the JSON result of `mirror-xdp verify`.
fn verified(bed: &Bed, store: &str) -> Value {
    let output = mirror_xdp(bed, &["verify", "--json", store]).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn what_was_kept_is_found_in_the_bucket_and_what_is_altered_there_is_named() {
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    let server = S3::start(&bed.appliance);
    let url = server.url(s3::BUCKET, "appliance-1");
    let process = start(&bed, store.path(), &url);
    // More than one part.
    bed.send(&frames(8000));
    let report = stop(process);
    let upload = &report.json()["upload"];
    assert_eq!((&upload["segments"], &upload["waiting"]), (&json!(1), &json!(0)), "{upload}");
    assert_eq!((upload["failing"].as_bool(), upload["failures"].as_u64()), (Some(false), Some(0)));
    assert!(server.count("PUT part") >= 2 && server.count("POST complete") == 1);
    assert_eq!(server.unfinished(), 0);
    let names = server.names();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("appliance-1/")), "{names:?}");
    let expected: Vec<_> =
        (0..8000).filter(|number| number % 10 == 3).map(|number| inner(3, number)).collect();
    assert_eq!(extract(&bed, text(store.path()), "port 20003").0, expected);
    let before = server.count("GET range");
    let (found, effort) = extract(&bed, &url, "port 20003 and vni 8");
    assert_eq!(found, expected);
    assert!(effort["requests"].as_u64().unwrap() > 1, "{effort}");
    assert!(server.count("GET range") > before);
    let found = verified(&bed, &url);
    assert_eq!((&found["findings"], &found["packets"]), (&json!([]), &json!(8000)), "{found}");
    assert_eq!(found["head"], verified(&bed, text(store.path()))["head"]);
    let timeline = run(&mut mirror_xdp(&bed, &["timeline", &url, "--json"])).unwrap();
    let timeline: Value = serde_json::from_str(&timeline).unwrap();
    let span = &timeline["spans"][0];
    assert_eq!((&span["packets"], &span["flows"]), (&json!(8000), &json!(10)), "{timeline}");
    assert_eq!((&span["whereabouts"], &span["vnis"]), (&json!("here_and_uploaded"), &json!([7, 8])));
    let segment = names.iter().find(|name| name.ends_with(".pcapng")).unwrap();
    server.flip(segment, 5000);
    let output = mirror_xdp(&bed, &["verify", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    let name = segment.strip_prefix("appliance-1/").unwrap();
    assert!(said.starts_with(&format!("{name} was altered")), "{said}");
}

#[test]
fn whenever_it_is_killed_the_next_start_uploads_the_rest() {
    let Some(bed) = Bed::new(1) else { return };
    let (store, target) = (directory(), directory());
    let url = format!("file://{}", target.path().display());
    let sent = frames(3000);
    for batch in [3000, 1500] {
        let mut process = start(&bed, store.path(), &url);
        bed.send(&sent[..batch]);
        process.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        process.wait(PATIENCE).unwrap();
    }
    let process = start(&bed, store.path(), &url);
    let manifest = store.path().join("manifest.jsonl");
    wait_until("what was repaired is uploaded", || {
        let lines = fs::read_to_string(&manifest).unwrap_or_default();
        lines.contains("\"uploaded\"")
    });
    let upload = stop(process).json()["upload"].clone();
    assert_eq!(upload["waiting"], 0, "{upload}");
    let (here, there) = (verified(&bed, text(store.path())), verified(&bed, &url));
    assert_eq!((&here["findings"], &there["findings"]), (&json!([]), &json!([])));
    assert_eq!((&here["packets"], &here["head"]), (&there["packets"], &there["head"]));
    assert!(there["packets"].as_u64().unwrap() > 0, "{there}");
    let torsos = fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!torsos.into_iter().any(|name| name.to_str().unwrap().contains('#')));
    let all = extract(&bed, text(store.path()), "").0;
    assert_eq!(extract(&bed, &url, "").0, all);
    // Segments deleted here by retention are found in the copy, once its URL is given.
    let appliance = bed.start(&["--store", text(store.path()), "--config", text(&retention(&bed))]);
    wait_until("all is deleted here", || {
        fs::read_dir(store.path())
            .unwrap()
            .flatten()
            .all(|entry| !entry.file_name().to_str().unwrap().ends_with(".pcapng"))
    });
    appliance.stop().assert_conserved();
    let (found, effort) = extract_by(&bed, &["--store", text(store.path()), "--copy", &url]);
    assert_eq!(found, all);
    assert!(effort["requests"].as_u64().unwrap() > 1, "{effort}");
}

/// Lines of a manifest that an attacker wrote look like any others.
#[test]
fn hostile_manifests_have_no_server_asked_that_the_user_did_not_name() {
    let Some(bed) = Bed::new(1) else { return };
    let (server, other) = (S3::start(&bed.appliance), S3::start(&bed.appliance));
    let (store, url) = (directory(), server.url(s3::BUCKET, "a"));
    let process = start(&bed, store.path(), &url);
    bed.send(&frames(100));
    assert_eq!(stop(process).analysed(), 100);
    let appliance = bed.start(&["--store", text(store.path()), "--config", text(&retention(&bed))]);
    appliance.stop().assert_conserved();

    let before = (server.requests(), other.requests());
    let (store, elsewhere) = (text(store.path()), other.url(s3::BUCKET, "a"));
    for arguments in
        [&["extract", "--store", store][..], &["extract", "--store", store, "--copy", &elsewhere]]
    {
        let output = bed.run_to_end(mirror_xdp(&bed, &[arguments, &["-w", "/dev/null"]].concat()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let [line] = &output.stderr[..] else { panic!("{output:?}") };
        assert!(line.contains("the manifest alone names this place") && line.contains("--copy"), "{line}");
    }
    assert_eq!((server.requests(), other.requests()), before);
    let (found, effort) = extract_by(&bed, &["--store", store, "--copy", &url]);
    assert_eq!(found.len(), 100, "{effort}");
}

/// Writes a configuration with a retention that keeps nothing.
fn retention(bed: &Bed) -> std::path::PathBuf {
    let file = bed.log_dir().join("config.toml");
    fs::write(&file, "[store]\nmax_size = 0\n").unwrap();
    file
}

#[test]
fn a_capture_goes_on_where_nothing_can_be_uploaded_and_says_why() {
    let Some(bed) = Bed::new(1) else { return };
    let server = S3::start(&bed.appliance);
    for (bucket, secret, expected) in [
        ("elsewhere", s3::SECRET, "there is no such bucket"),
        (s3::BUCKET, "wrong", "the credentials are not accepted"),
    ] {
        let store = directory();
        let url = server.url(bucket, "a");
        let mut command = bed.run_command(
            &[INTERFACE],
            &["--store", text(store.path()), "--store-upload", &url, "--sockets-per-queue", "1"],
        );
        command.env("AWS_ACCESS_KEY_ID", s3::KEY_ID).env("AWS_SECRET_ACCESS_KEY", secret);
        let mut process = Process::spawn(&mut command).unwrap();
        let (mut told, mut captures) = (false, false);
        while !told || !captures {
            let line = process.wait_for_line("", PATIENCE).unwrap();
            captures |= line.starts_with("capturing on");
            if line.contains("cannot upload") {
                assert!(line.contains(expected), "{line}");
                told = true;
            }
        }
        bed.send(&frames(10));
        let report = stop(process);
        assert_eq!((report.analysed(), &report.json()["upload"]["waiting"]), (10, &json!(1)));
        assert_eq!(report.json()["upload"]["failing"], true);
    }
}

#[test]
fn bad_use_is_told_in_one_line() {
    let Some(bed) = Bed::new(1) else { return };
    let server = S3::start(&bed.appliance);
    let (elsewhere, empty) = (server.url("elsewhere", ""), server.url(s3::BUCKET, "empty"));
    let nothing = format!("file://{}", bed.log_dir().join("nothing").display());
    for (arguments, expected) in [
        (&["extract", "--store", &elsewhere, "-w", "/dev/null"][..], "there is no such bucket"),
        (&["verify", &elsewhere], "there is no such bucket"),
        (&["verify", &empty], "is no store"),
        (&["verify", "s3://packets?endpoint=https://127.0.0.1:1"], "cannot be reached: "),
        (&["timeline", &nothing], "is no store"),
        (&["timeline", text(bed.log_dir())], "is no store"),
    ] {
        let output = bed.run_to_end(mirror_xdp(&bed, arguments));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let [line] = &output.stderr[..] else { panic!("{arguments:?}: {output:?}") };
        assert!(line.contains(expected), "{line}");
    }
    let output = bed.run_to_end(bed.command(&["verify", &empty]));
    let [line] = &output.stderr[..] else { panic!("{output:?}") };
    assert!(line.contains("there are no credentials"), "{line}");
    let output = bed.run_to_end(bed.command(&["verify", "gs://packets"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr[0].contains("`gs:` is no place for a store"), "{output:?}");
    // Requests carry credentials, and a session token is enough to use them.
    let output = bed.run_to_end(mirror_xdp(&bed, &["verify", "s3://packets?endpoint=http://10.9.9.9"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr[0].contains("is not encrypted"), "{output:?}");
    let mut command = mirror_xdp(&bed, &["verify", "s3://packets"]);
    command.env("AWS_ENDPOINT_URL", "http://10.9.9.9");
    let output = bed.run_to_end(command);
    let [line] = &output.stderr[..] else { panic!("{output:?}") };
    assert!(line.contains("of the environment is not encrypted"), "{line}");
}
