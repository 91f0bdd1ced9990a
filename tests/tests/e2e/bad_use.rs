//! A command that cannot work is refused in one line that names the error and the remedy, with the documented
//! exit code, and leaves nothing behind.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;

use mirror_xdp_tests::appliance::{Bed, INTERFACE};

/// Asserts that `mirror-xdp run` with these interfaces and arguments fails with one line that contains these
/// words.
fn assert_refused(bed: &Bed, interfaces: &[&str], arguments: &[&str], words: &[&str]) {
    let output = bed.run_to_end(bed.run_command(interfaces, arguments));
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    assert_eq!(output.stdout, "");
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert!(line.starts_with("mirror-xdp: "), "{line}");
    for word in words {
        assert!(line.contains(word), "“{word}” is missing: {line}");
    }
    for interface in interfaces {
        let shown = bed.appliance.ip(&format!("link show {interface}")).unwrap_or_default();
        assert!(!shown.contains("xdp"), "a program was left behind: {shown}");
    }
}

#[test]
fn an_interface_that_is_not_there() {
    let Some(bed) = Bed::new(1) else { return };
    assert_refused(&bed, &["absent0"], &[], &["absent0"]);
}

#[test]
fn an_interface_that_is_down() {
    let Some(bed) = Bed::new(1) else { return };
    bed.appliance.ip(&format!("link set {INTERFACE} down")).unwrap();
    assert_refused(&bed, &[INTERFACE], &[], &[INTERFACE, "down"]);
}

#[test]
fn an_mtu_that_is_too_large() {
    let Some(bed) = Bed::new(1) else { return };
    bed.far.ip("link set source0 mtu 65535").unwrap();
    bed.appliance.ip(&format!("link set {INTERFACE} mtu 65535")).unwrap();
    assert_refused(&bed, &[INTERFACE], &[], &[INTERFACE, "MTU", "65535"]);
}

#[test]
fn a_port_of_mirror_traffic_that_another_program_has() {
    let Some(bed) = Bed::new(1) else { return };
    let socket = bed.appliance.enter(|| UdpSocket::bind("0.0.0.0:8472")).unwrap().unwrap();
    assert_refused(&bed, &[INTERFACE], &["--vxlan-port", "4789,8472"], &["8472", "in use", "--vxlan-port"]);
    drop(socket);
    bed.appliance.ip("link add vxlan0 type vxlan id 1 dstport 4789 local 127.0.0.1 dev lo").unwrap();
    bed.appliance.up("vxlan0").unwrap();
    assert_refused(&bed, &[INTERFACE], &[], &["4789", "in use", "vxlan0"]);
}

#[test]
fn missing_privileges() {
    let Some(bed) = Bed::new(1) else { return };
    let run = bed.run_command(&[INTERFACE], &[]);
    let mut command = bed.appliance.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    // The program itself and its arguments, without the words that enter the namespace.
    let words: Vec<_> = run.get_args().skip_while(|word| *word != "KILL").skip(1).collect();
    command.args(words);
    let output = bed.run_to_end(command);
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert!(line.contains("root") || line.contains("CAP_"), "{line}");
}

#[test]
fn a_log_directory_that_cannot_be_written_to() {
    let Some(bed) = Bed::new(1) else { return };
    let file = bed.log_dir().join("file");
    fs::write(&file, "").unwrap();
    let directory = file.join("below");
    let path = directory.to_str().unwrap();
    let mut command = bed.command(&["run", "--interface", INTERFACE, "--log-dir", path]);
    command.arg("--json");
    let output = bed.run_to_end(command);
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert!(line.contains(path), "{line}");
    assert!(!bed.appliance.ip(&format!("link show {INTERFACE}")).unwrap().contains("xdp"));
}

#[test]
fn a_configuration_that_names_what_cannot_be_used() {
    let Some(bed) = Bed::new(1) else { return };
    let config = bed.log_dir().join("wrong.toml");
    let path = config.to_str().unwrap().to_owned();
    let open = bed.log_dir().join("open");
    fs::write(&open, "0123456789abcdef".repeat(4)).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let open = open.to_str().unwrap();
    let store = bed.log_dir().join("store");
    let store = store.to_str().unwrap();
    let refused = |text: &str, arguments: &[&str], words: &[&str]| {
        fs::write(&config, text).unwrap();
        let arguments = [&["--config", &path], arguments].concat();
        assert_refused(&bed, &[INTERFACE], &arguments, &[&[&*path], words].concat());
    };
    let key = format!("[store]\nkey = \"{open}\"\n");
    refused(&key, &["--store", store], &[":2: store.key: ", "mode 0644", "chmod 640"]);
    let token = format!("[api]\n\ntoken_file = \"{open}\"\n");
    refused(&token, &[], &[":3: api.token_file: ", "mode 0644", "chmod 640"]);
    refused("[store]\nkey = \"/absent/key\"\n", &["--store", store], &[":2: store.key: ", "/absent/key"]);
    refused("[alerts]\nfile = \"/absent/feed\"\n", &[], &[":2: alerts.file: ", "/absent/feed"]);
    refused("[alerts]\nindicators = [\"fe80::xyz\"]\n", &[], &[":2: alerts.indicators[0]: ", "fe80::xyz"]);
    refused("[admission]\nmode = \"strict\"\n", &[], &[":2: admission.mode: ", "no frame"]);
    refused("[eve]\noutput = \"foo://host\"\n", &[], &[":2: eve.output: ", "`foo:`"]);
    let both = "[capture]\ninterfaces = [\"mirror0\", \"mirror0\"]\n[shunt]\nafter = true\n";
    refused(both, &[], &[":2: capture.interfaces[1]: ", "(1 more: `mirror-xdp config check` shows them)"]);
    assert!(!bed.log_dir().join("store").exists(), "a store was made");
    // If a flag overrides it, or there is no store, the key is not used.
    fs::write(&config, key + "[api]\nlisten = \"0.0.0.0:9470\"\n").unwrap();
    let arguments = ["--config", &path, "--api", "off", "--duration", "100ms"];
    let output = bed.run_to_end(bed.run_command(&[INTERFACE], &arguments));
    assert!(output.status.success(), "{:?}", output.stderr);
}

#[test]
fn a_log_directory_that_is_missing_is_made() {
    let Some(bed) = Bed::new(1) else { return };
    let directory = bed.log_dir().join("a/b/c");
    let path = directory.to_str().unwrap();
    let command =
        bed.command(&["run", "--interface", INTERFACE, "--duration", "100ms", "--json", "--log-dir", path]);
    let output = bed.run_to_end(command);
    assert!(output.status.success(), "{:?}", output.stderr);
    assert!(directory.join("eve.json").is_file());
}

#[test]
fn wrong_usage_has_an_exit_code_of_its_own() {
    let Some(bed) = Bed::new(1) else { return };
    let wrong: &[&[&str]] = &[
        &[],
        &["fly"],
        &["run"],
        &["run", "--interface"],
        &["run", "--interface", INTERFACE, "--xdp-mode", "magic"],
        &["run", "--interface", INTERFACE, "--vxlan-port", "0"],
        &["run", "--interface", INTERFACE, "--vxlan-port", "65536"],
        &["run", "--interface", INTERFACE, "--vxlan-port", "1,2,3,4,5,6,7,8,9"],
        &["run", "--interface", INTERFACE, "--duration", "soon"],
        &["run", "--interface", INTERFACE, "--bpf-log", "loud"],
        &["run", "--interface", INTERFACE, "--eve-output", "foo://host"],
        &["read", "--eve-output", "unix-stream:", "capture.pcap"],
        &["read"],
    ];
    for arguments in wrong {
        let output = bed.run_to_end(bed.command(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {:?}", output.stderr);
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_has_examples() {
    let Some(bed) = Bed::new(1) else { return };
    for arguments in [&["--help"][..], &["run", "--help"], &["read", "--help"]] {
        let output = bed.run_to_end(bed.command(arguments));
        assert!(output.status.success());
        assert!(output.stdout.contains("Examples:"), "{arguments:?}: {}", output.stdout);
    }
}
