//! External events during a capture: changes of its interface, and signals to its process.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, Report, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Returns one frame of each of 50 flows.
fn frames(first: u16) -> Vec<Vec<u8>> {
    (first..first + 50).map(|port| mirrored(1).carrying(&Flow::v4(port, 9).udp(&[7; 1000]))).collect()
}

fn assert_all_analysed(report: &Report, frames: usize) {
    report.assert_conserved();
    assert_eq!((report.seen(), report.analysed()), (frames as u64, frames as u64), "{}", report.json());
}

#[test]
fn an_interface_that_goes_down_and_comes_back_is_captured_on_as_before() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let mut sent = 0;
    for round in 0..3 {
        bed.send(&frames(1000 * (round + 1)));
        sent += 50;
        bed.appliance.ip(&format!("link set {INTERFACE} down")).unwrap();
        bed.appliance.up(INTERFACE).unwrap();
        // Until the far end has noticed, it discards frames to send.
        wait_until("the link is up again", || bed.far.ip("link show source0").unwrap().contains("state UP"));
    }
    bed.send(&frames(9000));
    assert_all_analysed(&appliance.stop(), sent + 50);
}

#[test]
fn an_mtu_that_changes_disturbs_nothing() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let mtus = [1500, 9001, 3498];
    for (round, mtu) in (1..).zip(mtus) {
        bed.appliance.ip(&format!("link set {INTERFACE} mtu {mtu}")).unwrap();
        bed.send(&frames(1000 * round));
    }
    assert_all_analysed(&appliance.stop(), mtus.len() * 50);
}

#[test]
fn an_interface_that_is_deleted_ends_the_capture_and_what_was_captured_is_kept() {
    let Some(bed) = Bed::new(2) else { return };
    let mut process = Process::spawn(&mut bed.run_command(&[INTERFACE], &["--zero-copy", "off"])).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    bed.send(&frames(1000));
    bed.appliance.ip(&format!("link del {INTERFACE}")).unwrap();
    let output = process.wait(PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
    assert!(line.contains(INTERFACE) && line.contains("gone"), "{line}");
    assert_all_analysed(&Report::parse(&output), 50);
    assert_eq!(of_type(&bed.records(), "flow").len(), 50);
}

/// Returns the last `stats` event.
fn last_stats(bed: &Bed) -> Option<Value> {
    let text = std::fs::read_to_string(bed.log_dir().join("eve.json")).ok()?;
    // The last line may still be incomplete, so only whole lines are parsed.
    let whole = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    whole.into_iter().find(|record| record["event_type"] == "stats")
}

/// Returns whether all redirected frames have been taken out of the rings or were lost.
fn is_drained(stats: &Value) -> bool {
    let interface = &stats["stats"]["interfaces"][0];
    let rings = interface["rings"].as_array().unwrap();
    let lost =
        |ring: &Value| ring["lost"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    let arrived: u64 = rings.iter().map(|ring| ring["delivered"].as_u64().unwrap() + lost(ring)).sum();
    interface["program"]["redirected"].as_u64() == Some(arrived)
}

#[test]
fn a_process_that_is_stopped_for_seconds_under_traffic_goes_on_and_counts_what_it_has_missed() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&["--stats-interval", "50ms"]);
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json", "--interface", "source0", "--to-mac", "02:00:00:00:00:01"]);
    command.args(["--to", "10.99.0.1", "--source", "10.99.0.2", "--size", "128", "--flows", "100"]);
    command.args(["--rate", "50kpps", "--duration", "10min"]);
    let mut generator = Process::spawn(&mut command).unwrap();
    generator.wait_for_line("sending by", PATIENCE).unwrap();
    let let_pass = |frames| bed.wait_until_received(bed.received() + frames);

    let_pass(10_000);
    appliance.signal(Signal::SIGSTOP);
    // The traffic of two seconds: more than any ring holds.
    let_pass(100_000);
    appliance.signal(Signal::SIGCONT);
    let_pass(10_000);
    let output = generator.interrupt(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    let sent = serde_json::from_str::<Value>(&output.stdout).unwrap()["sent"].as_u64().unwrap();

    // The rings have room for the following frames again.
    wait_until("the rings are empty", || last_stats(&bed).is_some_and(|stats| is_drained(&stats)));
    bed.send(&frames(1000));
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.seen(), sent + 50);
    assert!(report.lost() > 0, "{}", report.json());
    assert_eq!(report.analysed() + report.lost(), sent + 50);
    let records = bed.records();
    let flows = of_type(&records, "flow");
    let after = flows.iter().filter(|flow| (1000..1050).contains(&flow["src_port"].as_u64().unwrap()));
    assert_eq!(after.count(), 50);
}
