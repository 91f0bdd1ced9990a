//! mirror-xdp as a service: its notifications to systemd, the privileges that it drops once it captures, and
//! its end under load.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::sys::signal::Signal;

/// The time limit for a stop.
const STOP: Duration = Duration::from_secs(5);

/// Returns the names of all threads of a process with a field of their status, such as `CapEff` or
/// `NoNewPrivs`.
fn states(process: u32, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads
        .map(|thread| {
            let path = thread.unwrap().path();
            let name = fs::read_to_string(path.join("comm")).unwrap();
            let status = fs::read_to_string(path.join("status")).unwrap();
            let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
            format!("{} {}", name.trim(), value.unwrap())
        })
        .collect()
}

#[test]
fn no_thread_keeps_a_capability_or_can_get_one_and_rules_are_reloaded_all_the_same() {
    let Some(bed) = Bed::new(2) else { return };
    let config = bed.log_dir().join("config.toml");
    let with = |action: &str| {
        let text = format!(
            "[[filter.sets]]\nname = \"all\"\nvnis = [7]\n[[filter.sets.rules]]\nnumber = 1\naction = \"{action}\"\n"
        );
        fs::write(&config, text).unwrap();
    };
    with("accept");
    // Start all threads that exist.
    let (store, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let upload = format!("file://{}", copy.path().display());
    let store = ["--store", store.path().to_str().unwrap(), "--store-upload", &upload];
    let arguments = [&store[..], &["--config", config.to_str().unwrap()]].concat();
    let mut process = Process::spawn(&mut bed.run_command(&[INTERFACE], &arguments)).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    let capabilities = [("CapEff", "0000000000000000"), ("CapPrm", "0000000000000000")];
    for (field, value) in capabilities.into_iter().chain([
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ]) {
        let states = states(process.id(), field);
        assert!(states.len() >= 4, "{states:?}");
        for state in states {
            assert!(state.ends_with(value), "{field}: {state}");
        }
    }
    bed.send(&[mirrored(7).carrying(&Flow::default().udp(b"hello"))]);
    with("reject");
    process.signal(Signal::SIGHUP).unwrap();
    process.wait_for_line(&format!("mirror-xdp: {}: read again", config.display()), PATIENCE).unwrap();
    bed.send(&[mirrored(7).carrying(&Flow::default().udp(b"hello"))]);
    let output = process.interrupt(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    assert!(output.stdout.contains("\"filter_rejected\":1"), "{}", output.stdout);
    assert!(!bed.appliance.ip(&format!("link show {INTERFACE}")).unwrap().contains("xdp"));
}

/// The receiver of notifications that a service manager has.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Waits for a message that contains this line, and returns it.
    fn wait_for(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    }
}

#[test]
fn systemd_is_told_when_it_runs_that_it_lives_and_when_it_stops() {
    let Some(bed) = Bed::new(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::new(&path);
    let mut command = bed.run_command(&[INTERFACE], &[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "10000000");
    let mut process = Process::spawn(&mut command).unwrap();
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=capturing on mirror0"), "{ready}");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    process.signal(Signal::SIGTERM).unwrap();
    manager.wait_for("STOPPING=1");
    assert!(process.wait(PATIENCE).unwrap().status.success());
}

#[test]
fn json_logs_are_objects_only() {
    let Some(bed) = Bed::new(1) else { return };
    // A veth has no zero-copy, and the warning about it would come first.
    let arguments = ["--log-format", "json", "--zero-copy", "off"];
    let mut process = Process::spawn(&mut bed.run_command(&[INTERFACE], &arguments)).unwrap();
    let line = process.wait_for_line("{", PATIENCE).unwrap();
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(json["message"].as_str().unwrap().starts_with("capturing on mirror0"), "{json}");
    let output = process.interrupt(PATIENCE).unwrap();
    assert!(output.status.success());
}

#[test]
fn it_stops_within_five_seconds_under_load() {
    require::machine();
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for part in 0..2_u16 {
            let (injector, stop) = (bed.injector(), &stop);
            scope.spawn(move || {
                let frames: Vec<_> = (0..5000)
                    .map(|port| mirrored(7).carrying(&Flow::v4(port + 1, 1000 + part).udp(b"hello")))
                    .collect();
                for frame in frames.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    injector.send(frame).unwrap();
                }
            });
        }
        let before = bed.received();
        bed.wait_until_received(before + 20_000);
        let begun = Instant::now();
        let report = appliance.stop_by(Signal::SIGTERM);
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(took < STOP, "{took:?}");
        report.assert_conserved();
    });
}

#[test]
fn the_unit_is_understood_and_hardened() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/mirror-xdp.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains("Type=notify") && text.contains("WatchdogSec="));
    // A group excludes calls that are allowed before it, so the allowed calls come after.
    let filter = |call: &str| text.find(call).unwrap_or_else(|| panic!("{call} is not said"));
    for call in ["=bpf ", " capset ", " sched_setaffinity "] {
        assert!(filter(call) > filter("SystemCallFilter=~@privileged"), "{call}");
    }
    let directory = tempfile::tempdir().unwrap();
    let units = directory.path().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::copy(&unit, units.join("mirror-xdp.service")).unwrap();
    let verify = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(units.join("mirror-xdp.service"))
        .output();
    if let Ok(output) = verify {
        // systemd-analyze reports errors in the unit with a line number, and missing files without one.
        let said = String::from_utf8_lossy(&output.stderr);
        let wrong = said.lines().filter(|line| {
            let place = line.split_once("mirror-xdp.service:").map_or("", |(_, place)| place);
            place.starts_with(|c: char| c.is_ascii_digit())
        });
        assert_eq!(wrong.count(), 0, "{said}");
    }
    let analyze = std::process::Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=25", "--no-pager"])
        .arg(units.join("mirror-xdp.service"))
        .output();
    match analyze {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }
}
