//! Starting and stopping in all ways, repeatedly, and with other programs on the interface.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_xdp_tests::appliance::{Bed, INTERFACE, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::run;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn frame() -> Vec<u8> {
    mirrored(1).carrying(&Flow::default().udp(b"hello"))
}

/// Returns whether any XDP program is attached to the interface.
fn has_program(bed: &Bed) -> bool {
    bed.appliance.ip(&format!("link show {INTERFACE}")).unwrap().contains("xdp")
}

#[test]
fn it_says_what_it_captures_on_and_how() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&["--sockets-per-queue", "1"]);
    let line = &appliance.announced[0];
    assert!(line.starts_with("capturing on mirror0: native, copy, 2 queues, 2 workers"), "{line}");
    assert!(has_program(&bed));
    let report = appliance.stop();
    let interface = &report.list("/interfaces")[0];
    assert_eq!((&interface["mode"], &interface["zero_copy"]), (&json!("native"), &json!(false)));
}

#[test]
fn sigint_and_sigterm_stop_it_in_order() {
    let Some(bed) = Bed::new(1) else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let appliance = bed.start(&[]);
        bed.send(&[frame()]);
        let report = appliance.stop_by(signal);
        report.assert_conserved();
        assert_eq!(report.analysed(), 1, "{signal}");
        assert!(!has_program(&bed), "{signal} has left the program behind");
    }
    let records = bed.records();
    let flows = of_type(&records, "flow");
    assert_eq!(flows.len(), 2, "the second run has appended to the records of the first");
    assert!(flows.iter().all(|flow| flow["flow"]["reason"] == "shutdown"), "{flows:?}");
    assert!(!of_type(&records, "stats").is_empty());
}

#[test]
fn it_stops_by_itself_after_the_duration() {
    let Some(bed) = Bed::new(1) else { return };
    let report = bed.start(&["--duration", "1s"]).wait();
    report.assert_conserved();
    let seconds = report.seconds();
    assert!((1.0..10.0).contains(&seconds), "{seconds} s");
    assert!(!has_program(&bed));
}

#[test]
fn statistics_are_recorded_while_it_runs_and_at_the_end() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&["--stats-interval", "50ms"]);
    let frames = vec![frame(); 10];
    bed.send(&frames);
    let redirected = |stats: &Value| stats["stats"]["interfaces"][0]["program"]["redirected"].as_u64();
    // The last line may still be incomplete, so only whole lines are parsed.
    let recorded = || {
        let text = std::fs::read_to_string(bed.log_dir().join("eve.json")).unwrap_or_default();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.filter(|record| record["event_type"] == "stats").any(|stats| redirected(&stats) == Some(10))
    };
    wait_until("statistics tell of the frames", recorded);
    let report = appliance.stop();
    report.assert_conserved();
    let records = bed.records();
    let last = of_type(&records, "stats").pop().expect("one at the end");
    for counters in ["interfaces", "workers"] {
        assert_eq!(last["stats"][counters], report.json()[counters], "{counters}");
    }
}

#[test]
fn without_json_the_totals_are_for_people() {
    let Some(bed) = Bed::new(1) else { return };
    let mut command = bed.command(&["run", "--interface", INTERFACE, "--duration", "1s", "--log-dir"]);
    command.arg(bed.log_dir());
    let output = bed.run_to_end(command);
    assert!(output.status.success(), "{:?}", output.stderr);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.len() > 1, "{:?}", output.stderr);
    assert!(!output.stderr.iter().any(|line| line.contains('\x1b')), "colours without a terminal");
}

#[test]
fn it_starts_again_right_after_it_was_killed() {
    let Some(bed) = Bed::new(2) else { return };
    for _ in 0..3 {
        let appliance = bed.start(&[]);
        bed.send(&[frame()]);
        let status = appliance.kill();
        assert!(!status.success());
    }
    let report = bed.capture(&[frame()], &[]);
    report.assert_conserved();
    assert_eq!((report.seen(), report.analysed()), (1, 1));
    assert!(!has_program(&bed));
}

#[test]
fn a_second_one_on_the_same_interface_is_refused_and_the_first_goes_on() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let output = bed.run_to_end(bed.run_command(&[INTERFACE], &[]));
    assert_eq!(output.status.code(), Some(1));
    let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
    assert!(line.contains(INTERFACE) && line.contains("capture"), "{line}");
    bed.send(&[frame()]);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), 1);
}

/// Compiles an XDP program that passes all frames.
fn foreign_program(directory: &Path) -> PathBuf {
    let source = directory.join("foreign.c");
    let object = directory.join("foreign.o");
    let program = r#"
        __attribute__((section("xdp"), used)) int foreign(void *context) { return 2; }
        __attribute__((section("license"), used)) char _license[] = "GPL";
    "#;
    std::fs::write(&source, program).unwrap();
    run(Command::new("clang")
        .args(["-target", "bpf", "-g", "-O2", "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object))
    .unwrap();
    object
}

#[test]
fn another_program_on_the_interface_is_named_and_replaced_only_on_demand() {
    let Some(bed) = Bed::new(1) else { return };
    let object = foreign_program(bed.log_dir());
    bed.appliance
        .ip(&format!("link set dev {INTERFACE} xdpdrv object {} section xdp", object.display()))
        .unwrap();

    let output = bed.run_to_end(bed.run_command(&[INTERFACE], &[]));
    assert_eq!(output.status.code(), Some(1));
    let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
    for word in [INTERFACE, "foreign", "--replace"] {
        assert!(line.contains(word), "{word} is missing: {line}");
    }
    assert!(has_program(&bed), "the other program is gone");

    let report = bed.capture(&[frame()], &["--replace"]);
    report.assert_conserved();
    assert_eq!(report.analysed(), 1);
}
