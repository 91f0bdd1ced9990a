//! The problems of an interface that `mirror-xdp doctor` finds and mends, and those that `run --prepare`
//! mends for the duration of a capture.

use std::fs::File;
use std::io;

use mirror_xdp_tests::appliance::{Bed, INTERFACE};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::huge_pages::{NoHugePages, huge_pages};
use mirror_xdp_tests::netns::Namespace;
use mirror_xdp_tests::process::{Output, run};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

fn doctor(bed: &Bed, arguments: &[&str]) -> Output {
    let mut command = bed.command(&["doctor", "--interface", INTERFACE]);
    command.args(arguments);
    bed.run_to_end(command)
}

/// Returns the fields of a check in the output of `--json`: its state, the finding, and the command that
/// mends it.
fn check(output: &Output, name: &str) -> (String, String, Option<String>) {
    let checks: Vec<Value> = serde_json::from_str(&output.stdout).expect("an array");
    let check = checks.iter().find(|check| check["check"] == name).expect("the check is there");
    let text = |key: &str| check[key].as_str().map(str::to_owned);
    let keys = check.as_object().expect("an object").len();
    assert_eq!(keys, 4, "{check}");
    (text("state").expect("a state"), text("found").expect("what was found"), text("fix"))
}

fn state(output: &Output, name: &str) -> String {
    check(output, name).0
}

/// Gives an interface an MTU of 9000 and one of two queues.
fn spoil(bed: &Bed) {
    for (namespace, interface) in [(&bed.appliance, INTERFACE), (&bed.far, "source0")] {
        run(namespace.command("ethtool").args(["-L", interface, "rx", "1", "tx", "1"]))
            .expect("queues can be set");
        namespace.ip(&format!("link set dev {interface} mtu 9000")).expect("the MTU can be set");
    }
}

fn queues(namespace: &Namespace) -> usize {
    let text = run(namespace.command("ethtool").args(["-l", INTERFACE])).expect("queues are told");
    let current = text.split("Current").nth(1).expect("the current settings");
    let line = current.lines().find_map(|line| line.strip_prefix("RX:")).expect("receive channels");
    line.trim().parse().expect("a number")
}

fn mtu(namespace: &Namespace) -> String {
    let line = namespace.ip(&format!("-o link show dev {INTERFACE}")).expect("the interface is there");
    line.split_whitespace().skip_while(|word| *word != "mtu").nth(1).expect("an MTU").to_owned()
}

#[test]
fn what_is_wrong_is_named_with_what_mends_it_and_mended() {
    let Some(bed) = Bed::new(2) else { return };
    let _pages = NoHugePages::take();
    spoil(&bed);

    let output = doctor(&bed, &["--json"]);
    // A capture would work, though not well.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (state_of_mtu, found, fix) = check(&output, "mtu");
    assert_eq!(
        (state_of_mtu.as_str(), fix.as_deref()),
        ("warning", Some("ip link set dev mirror0 mtu 3498"))
    );
    assert!(found.contains("9000"), "{found}");
    let (state_of_pages, _, fix) = check(&output, "huge_pages");
    assert_eq!(state_of_pages, "warning");
    assert!(fix.is_some_and(|fix| fix.starts_with("sysctl -w vm.nr_hugepages=")));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus > 1 {
        let (state_of_channels, found, fix) = check(&output, "channels");
        assert_eq!(state_of_channels, "warning");
        assert!(found.contains("1 queue of at most 2"), "{found}");
        assert_eq!(fix.as_deref(), Some("ethtool -L mirror0 rx 2"));
    }

    let output = doctor(&bed, &["--fix", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in ["mtu", "channels", "huge_pages"] {
        assert_eq!(state(&output, name), "fine", "{name}: {output:?}");
    }
    assert!(output.stderr.iter().any(|line| line.contains("mtu mended")), "{:?}", output.stderr);
    assert_eq!(mtu(&bed.appliance), "3498");
    assert_eq!(queues(&bed.appliance), cpus.min(2));
    assert_ne!(huge_pages(), "0");
}

#[test]
fn a_capture_that_prepares_the_interface_puts_it_back() {
    let Some(bed) = Bed::new(2) else { return };
    let _pages = NoHugePages::take();
    spoil(&bed);
    let queues_before = queues(&bed.appliance);

    let frame = mirrored(1).carrying(&Flow::v4(40_000, 9).udp(b"hello"));
    let appliance = bed.start(&["--prepare"]);
    assert_eq!(mtu(&bed.appliance), "3498");
    bed.send(&[frame]);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), 1);
    assert_eq!((mtu(&bed.appliance).as_str(), queues(&bed.appliance)), ("9000", queues_before));
    assert_eq!(huge_pages(), "0");

    // Also if the capture fails to start.
    let output = bed.run_to_end(bed.run_command(&[INTERFACE, "absent0"], &["--prepare"]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((mtu(&bed.appliance).as_str(), huge_pages().as_str()), ("9000", "0"));
}

#[test]
fn a_capture_has_huge_pages_made_for_as_long_as_it_runs() {
    let Some(bed) = Bed::new(1) else { return };
    let _pages = NoHugePages::take();
    // A capture that changes the setting briefly holds a lock on it.
    let allowed = || {
        let file = File::open("/proc/sys/vm/nr_overcommit_hugepages").expect("the kernel has huge pages");
        let file = Flock::lock(file, FlockArg::LockShared).expect("a lock on a file");
        io::read_to_string(&*file).expect("a setting")
    };
    let before = allowed();
    let report = bed.start(&["--ring", "2048"]).stop();
    assert_eq!(report.json()["interfaces"][0]["huge_pages"], true, "{}", report.json());
    assert_eq!((huge_pages().as_str(), allowed()), ("0", before));
}

#[test]
fn people_see_a_table_and_the_exit_code_says_whether_something_is_broken() {
    let Some(bed) = Bed::new(1) else { return };
    let output = doctor(&bed, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.lines().any(|line| line.starts_with("fine     kernel")), "{}", output.stdout);
    assert!(!output.stdout.contains('\x1b'), "colours without a terminal");

    bed.appliance.ip(&format!("link set dev {INTERFACE} down")).unwrap();
    let output = doctor(&bed, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.contains("ip link set dev mirror0 up"), "{}", output.stdout);
}

#[test]
fn a_vxlan_interface_on_the_port_is_named() {
    let Some(bed) = Bed::new(1) else { return };
    bed.appliance.ip("link add vx0 type vxlan id 7 dstport 4789 dev mirror0").unwrap();
    let output = doctor(&bed, &["--json"]);
    let (state, found, fix) = check(&output, "ports");
    assert_eq!(state, "broken");
    assert!(found.contains("4789") && found.contains("vx0"), "{found}");
    assert_eq!(fix.as_deref(), Some("ip link delete vx0"));
}

#[test]
fn a_running_capture_is_recognised_and_its_devices_losses_are_in_the_account() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let output = doctor(&bed, &["--json"]);
    let (state, found, _) = check(&output, "programs");
    assert_eq!((state.as_str(), found.as_str()), ("fine", "a capture is running"));
    let inner = Flow::v4(40_000, 9).udp(b"hello");
    bed.send(&[mirrored(1).carrying(&inner), mirrored(1).ip_length(10).carrying(&inner)]);
    let report = appliance.stop();
    report.assert_conserved();
    let device = &report.json()["interfaces"][0]["device"];
    assert_eq!(device["rx_missed_errors"], 0, "{device}");
    // The driver counts the frames that the program drops; the account does not take them for losses.
    assert_eq!(device["xdp_drops"], 1, "{device}");
}

#[test]
fn an_unknown_interface_is_told_in_one_line() {
    let Some(bed) = Bed::new(1) else { return };
    let output = bed.run_to_end(bed.command(&["doctor", "--interface", "absent0"]));
    assert_eq!(output.status.code(), Some(1));
    let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
    assert!(line.contains("absent0") && line.contains(INTERFACE), "{line}");
}
