//! `mirror-xdp rules` loads Suricata's rule files and names what it refuses, for people and for scripts.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::path::Path;
use std::process::Command;

use mirror_xdp_tests::appliance::PATIENCE;
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use serde_json::{Value, json};

const RULES: &str = "\
alert dns any any -> any any (msg:\"one\"; dns.query; content:\"evil.example\"; sid:1; rev:2;)
alert tcp any any -> any any (msg:\"two\"; lua:script.lua; sid:2;)
alert tcp any any -> any any (msg:\"three\"; content:\"ab\"; sid:3;)
alert dns any any -> any any (msg:\"one, older\"; dns.query; content:\"evil.test\"; sid:1; rev:1;)
#alert tcp any any -> any any (msg:\"four\"; sid:4;)
alert tcp !$HOME_NET any -> any any (msg:\"five\"; flags:S; sid:5;)
alert tcp any any -> any any (requires:version >= 9; moon:full; sid:6;)
";

/// Runs `rules check` in a directory that contains `local.rules`.
fn check(directory: &Path, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(require::binary()?);
    command.args(["rules", "check"]).args(arguments).arg("local.rules").current_dir(directory);
    Some(Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap())
}

#[test]
fn refused_rules_are_named_and_the_others_load() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("local.rules"), RULES).unwrap();
    let Some(output) = check(directory.path(), &["--json"]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let counts = json!([report["rules"], report["loaded"], report["disabled"]]);
    assert_eq!(counts, json!([6, 2, 1]));
    let lua = json!({
        "file": "local.rules", "line": 2, "column": 42, "sid": 2, "keyword": "lua", "reason": "scripts are not run",
    });
    assert_eq!(report["refused"][0], lua);
    assert_eq!(report["refused"][1]["keyword"], "source");
    assert_eq!(report["refused"].as_array().unwrap().len(), 2);
    assert_eq!(report["skipped"][0]["sid"], 6);
    assert_eq!(report["duplicates"][0]["dropped"], json!({"file": "local.rules", "line": 4, "rev": 1}));
    assert_eq!(
        report["slow"],
        json!([{"gid": 1, "sid": 3, "reason": "its pattern is shorter than 4 bytes"}])
    );

    let with_home = check(directory.path(), &["--json", "--rules-var", "HOME_NET=10.0.0.0/8"]).unwrap();
    let report: Value = serde_json::from_str(&with_home.stdout).unwrap();
    assert_eq!(report["loaded"], 3);

    let text = check(directory.path(), &[]).unwrap();
    for words in [
        "local.rules:2:42: sid 2: lua: scripts are not run",
        "local.rules:4: sid 1 is there twice; revision 2 of local.rules:1 is loaded, not 1",
        "2 of 6 rules loaded, 2 refused, 1 skipped, 1 there twice, 1 slow, 1 disabled",
    ] {
        assert!(text.stdout.contains(words), "{words}: {}", text.stdout);
    }
}

#[test]
fn hostile_names_and_rules_do_not_reach_the_terminal() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let name = "\u{1b}]0;owned\u{7}\u{202e}.rules";
    let rule = "alert tcp any any -> any any (msg:\"a\"; \u{1b}[2J\u{9b}31m:x; sid:7;)\n";
    fs::write(directory.path().join(name), [RULES, rule, RULES].concat()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).arg(name).current_dir(directory.path());
        Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap()
    };
    let harmless = |text: &str| !text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']);
    let checked = run(&["rules", "check"]);
    assert!(checked.stdout.contains("owned") && checked.stdout.contains("sid 7"));
    assert!(harmless(&checked.stdout), "{:?}", checked.stdout);
    for arguments in [&["read"][..], &["config", "check"], &["verify"], &["read", "--config"]] {
        let said = run(arguments).stderr.join("\n");
        assert!(said.contains("owned") && harmless(&said), "{arguments:?}: {said:?}");
    }
}

#[test]
fn exit_codes_tell_refused_rules_files_and_usage_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("local.rules");
    let Some(absent) = check(directory.path(), &[]) else { return };
    assert_eq!(absent.status.code(), Some(1));
    fs::write(&path, RULES).unwrap();
    assert_eq!(check(directory.path(), &["--strict"]).unwrap().status.code(), Some(1));
    assert_eq!(check(directory.path(), &["--rules-var", "HOME_NET"]).unwrap().status.code(), Some(2));
    fs::write(&path, "alert tcp any any -> any any (flags:S; sid:1;)\n").unwrap();
    assert_eq!(check(directory.path(), &["--strict"]).unwrap().status.code(), Some(0));
    let own = directory.path().join("threshold.config");
    fs::write(&own, "suppress gen_id 1, sig_id 1, track by_src, ip $NONE\n").unwrap();
    let output = check(directory.path(), &["--strict", "threshold.config"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stdout.contains("threshold.config:1:1: sid 1: suppress: $NONE is not set"),
        "{}",
        output.stdout
    );
}
