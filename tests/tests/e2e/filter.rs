//! `mirror-xdp filter` checks, tests and imports rules, and reports errors in a form for people and for
//! scripts.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_xdp_tests::appliance::PATIENCE;
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use serde_json::{Value, json};

/// The example configuration of the product.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/mirror-xdp.toml");

fn filter(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(require::binary()?);
    command.arg("filter").args(arguments);
    Some(Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap())
}

fn json_of(output: &Output) -> Value {
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    serde_json::from_str(&output.stdout).unwrap()
}

fn file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("config.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_valid_file_is_shown_as_it_will_be_applied() {
    let Some(output) = filter(&["check", EXAMPLE]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    for words in
        ["set office: the default, and VNIs 7, 100-199", "5 of 4,096 rules", "tcp any > any port 873"]
    {
        assert!(output.stdout.contains(words), "{words}: {}", output.stdout);
    }
    let report = json_of(&filter(&["check", "--json", EXAMPLE]).unwrap());
    assert_eq!(report["valid"], true);
    assert_eq!(report["capacity"]["rules"], json!({"used": 5, "most": 4096}));
    assert_eq!(report["capacity"]["vnis"]["used"], 113);
    assert_eq!(report["sets"][0]["rules"][0]["destination_ports"], "443");
    assert_eq!(report["never_match"], json!([]));
}

#[test]
fn a_broken_file_is_told_about_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "[ports]\nvxlan = [0]\n[filter]\ndefalt = \"a\"\n");
    let path = path.to_str().unwrap();
    let Some(output) = filter(&["check", "--json", path]) else { return };
    assert_eq!(output.status.code(), Some(1));
    let lines = [
        format!(
            "mirror-xdp: {path}:2: ports.vxlan[0]: 0 is out of range; must be a UDP port from 1 to 65535"
        ),
        format!(
            "mirror-xdp: {path}:4: filter.defalt: unknown key, did you mean `default`?; allowed here: \
             default, macs, sets"
        ),
    ];
    assert_eq!(output.stderr, lines);
    let report = json_of(&output);
    assert_eq!((&report["valid"], &report["mistakes"][1]["line"]), (&json!(false), &json!(4)));

    let output = filter(&["test", "--config", path, "not-ip vni 7"]).unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &lines[..]));
}

#[test]
fn rules_without_effect_and_contradictions_are_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let rule = |number: u32, action: &str, ports: &str| {
        format!(
            "[[filter.sets.rules]]\nnumber = {number}\naction = \"{action}\"\nprotocol = \"tcp\"\n\
             destination_ports = \"{ports}\"\n"
        )
    };
    let text = "[[filter.sets]]\nname = \"a\"\nvnis = [1]\n".to_owned()
        + &rule(10, "accept", "0-100")
        + &rule(20, "reject", "50-150")
        + &rule(30, "accept", "20-140");
    let path = file(directory.path(), &text);
    let Some(output) = filter(&["check", path.to_str().unwrap()]) else { return };
    assert!(output.status.success());
    for line in [
        "never matches: set a, rule 30 accept tcp any > any port 20-140: rules 10 and 20 together match all of it",
        "conflict: set a, rule 10 accept comes before rule 20 reject: tcp any > any port 50-100",
    ] {
        assert!(output.stdout.lines().any(|other| other == line), "{line}: {}", output.stdout);
    }
}

#[test]
fn a_packet_is_told_which_rule_decides_on_it_and_why() {
    let packet = "tcp 10.1.2.3:4000 > 10.9.0.1:873 vni 7 mac 02:00:00:00:00:01 > 02:00:00:00:00:09";
    let Some(output) = filter(&["test", "--config", EXAMPLE, packet]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "direction is egress",
            "set office: VNI 7 is bound to it",
            "rule 100 accept ingress tcp 10.0.0.0/8 port 1024-65535 > 10.9.0.0/16 port 443: direction is egress",
            "rule 200 shunt tcp any > any port 873: matches",
            "shunt: rule 200 of set office",
        ]
    );
    let decided = |packet: &str| json_of(&filter(&["test", "--config", EXAMPLE, "--json", packet]).unwrap());
    let outcome = decided("tcp [fd00::1]:1 > [fd00::2]:2 vni 9999 from fd00::9");
    assert_eq!(
        (&outcome["verdict"], &outcome["set"], &outcome["admitted"], &outcome["rule"]["number"]),
        (&json!("sample 1/16"), &json!("office"), &json!(true), &json!(400))
    );
    assert_eq!(outcome["passed_over"][2]["why"], "protocol is tcp");
    let outcome = decided("not-ip vni 7 from 192.0.2.1");
    assert_eq!((&outcome["verdict"], &outcome["decided_by"]), (&json!("drop"), &json!("admission_source")));
}

#[test]
fn what_is_no_packet_is_wrong_usage() {
    for packet in ["tcp", "tcp 10.0.0.1 > 10.0.0.2 vni 7", "tcp 10.0.0.1:1 > 10.0.0.2:2"] {
        let Some(output) = filter(&["test", "--config", EXAMPLE, packet]) else { return };
        assert_eq!(output.status.code(), Some(2), "{packet}");
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    for path in [absent.to_str().unwrap(), directory.path().to_str().unwrap()] {
        for arguments in
            [&["check", path][..], &["test", "--config", path, "not-ip vni 7"], &["import", path]]
        {
            let Some(output) = filter(arguments) else { return };
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let [line] = &output.stderr[..] else { panic!("not one line: {:?}", output.stderr) };
            assert!(line.starts_with("mirror-xdp: ") && line.contains(path), "{line}");
        }
    }
}

#[test]
fn filters_of_aws_become_a_file_that_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("filters.json");
    let mut filters = json!({"TrafficMirrorFilters": [{
        "TrafficMirrorFilterId": "tmf-1",
        "IngressFilterRules": [{
            "TrafficDirection": "ingress", "RuleNumber": 100, "RuleAction": "accept", "Protocol": 6,
            "SourceCidrBlock": "10.0.0.0/24", "DestinationCidrBlock": "0.0.0.0/0",
        }],
        "EgressFilterRules": [],
        "NetworkServices": [],
        "Tags": [],
    }]});
    fs::write(&input, filters.to_string()).unwrap();
    let Some(output) = filter(&["import", input.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let config = file(directory.path(), &output.stdout);
    let packet = "tcp 10.0.0.1:1 > 192.0.2.1:2 vni 7";
    let output = filter(&["test", "--json", "--config", config.to_str().unwrap(), packet]).unwrap();
    assert_eq!(json_of(&output)["rule"]["number"], 100);

    filters["TrafficMirrorFilters"][0]["IngressFilterRules"][0]["Protocol"] = json!(300);
    fs::write(&input, filters.to_string()).unwrap();
    let output = filter(&["import", input.to_str().unwrap()]).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""));
    let place = "TrafficMirrorFilters[0].IngressFilterRules[0].Protocol: is 300; must be a protocol number";
    assert!(output.stderr[0].contains(place), "{:?}", output.stderr);
}

#[test]
fn help_has_examples() {
    for arguments in [&["--help"][..], &["check", "--help"], &["test", "--help"], &["import", "--help"]] {
        let Some(output) = filter(arguments) else { return };
        assert!(output.status.success());
        assert!(output.stdout.contains("Example"), "{arguments:?}: {}", output.stdout);
    }
}
