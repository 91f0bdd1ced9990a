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

/// Runs `mirror-xdp rules` in a directory.
fn rules(directory: &Path, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(require::binary()?);
    command.arg("rules").args(arguments).current_dir(directory);
    Some(Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap())
}

fn rule(sid: u32, rev: u32, option: &str) -> String {
    format!("alert tcp any any -> any any (msg:\"number {sid}\"; {option} sid:{sid}; rev:{rev};)\n")
}

#[test]
fn two_sets_of_rules_are_compared_by_number() {
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("a.rules"), rule(1, 1, "") + &rule(2, 1, "")).unwrap();
    fs::write(old.join("b.rules"), rule(3, 1, "")).unwrap();
    fs::write(old.join("note.txt"), rule(9, 1, "")).unwrap();
    fs::write(directory.path().join("new.rules"), rule(2, 1, "") + &rule(3, 4, "flags:S;") + &rule(4, 1, ""))
        .unwrap();
    let Some(output) = rules(directory.path(), &["diff", "old", "new.rules", "--json"]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let differences: Value = serde_json::from_str(&output.stdout).unwrap();
    let expected = json!({
        "added": [{"gid": 1, "sid": 4, "rev": 1, "msg": "number 4"}],
        "removed": [{"gid": 1, "sid": 1, "rev": 1, "msg": "number 1"}],
        "changed": [{
            "gid": 1,
            "sid": 3,
            "before": {"rev": 1, "msg": "number 3"},
            "after": {"rev": 4, "msg": "number 3"},
        }],
    });
    assert_eq!(differences, expected);
    let text = rules(directory.path(), &["diff", "old", "new.rules"]).unwrap().stdout;
    assert_eq!(
        text,
        "- 1 rev 1 number 1\n~ 3 rev 1 → 4 number 3\n+ 4 rev 1 number 4\n1 added, 1 removed, 1 changed\n"
    );
    assert_eq!(rules(directory.path(), &["diff", "old", "absent"]).unwrap().status.code(), Some(1));
    assert_eq!(rules(directory.path(), &["diff", "old"]).unwrap().status.code(), Some(2));
}

#[test]
fn downloaded_rules_become_one_file_as_their_configuration_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("rules")).unwrap();
    fs::write(path("rules/one.rules"), rule(1, 1, "") + "# " + &rule(2, 1, "")).unwrap();
    fs::write(path("rules/two.rules"), rule(1, 2, "flags:S;") + &rule(3, 1, "")).unwrap();
    fs::write(path("disable.conf"), "group:two\n").unwrap();
    fs::write(path("enable.conf"), "2\n1\n").unwrap();
    fs::write(path("modify.conf"), "2 \"any any\" \"any 80\"\n").unwrap();
    let arguments = [
        "update",
        "rules",
        "--output",
        "all.rules",
        "--disable-conf",
        "disable.conf",
        "--enable-conf",
        "enable.conf",
        "--modify-conf",
        "modify.conf",
        "--json",
    ];
    let Some(output) = rules(directory.path(), &arguments) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let counts: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&counts["rules"], &counts["enabled"], &counts["added"]), (&3.into(), &2.into(), &2.into()));
    let text = fs::read_to_string(path("all.rules")).unwrap();
    let expected =
        rule(1, 2, "flags:S;") + &rule(2, 1, "").replace("any any", "any 80") + "# " + &rule(3, 1, "");
    assert_eq!(text, expected);
    // Again, from an archive, which changes nothing.
    let packed =
        Command::new("tar").args(["czf", "rules.tar.gz", "rules"]).current_dir(directory.path()).status();
    if packed.is_ok_and(|status| status.success()) {
        let arguments = [&["update", "rules.tar.gz"], &arguments[2..]].concat();
        let output = rules(directory.path(), &arguments).unwrap();
        let counts: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(
            (&counts["files"], &counts["added"], &counts["changed"]),
            (&2.into(), &0.into(), &0.into())
        );
    }
    // A line that is not understood changes nothing.
    fs::write(path("modify.conf"), "nonsense\n").unwrap();
    let output = rules(directory.path(), &arguments).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("modify.conf:1:1")), "{:?}", output.stderr);
    assert_eq!(fs::read_to_string(path("all.rules")).unwrap(), expected);
    let mut names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_str().unwrap().starts_with("all.rules.")), "a file is left behind");
}
