//! `mirror-xdp rules` loads Suricata's rule files and names what it refuses, for people and for scripts.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, of_type, records, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_query, mirrored};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::{http, require};
use nix::sys::signal::Signal;
use pcap_file::pcap::{PcapPacket, PcapWriter};
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
    for arguments in [&["read"][..], &["config", "check"], &["verify"], &["read", "capture.pcap", "--config"]]
    {
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

/// Writes frames to a capture file, a second apart.
fn capture(directory: &Path, frames: &[Vec<u8>]) -> PathBuf {
    let path = directory.join("frames.pcap");
    let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    for (second, frame) in (1_600_000_000..).zip(frames) {
        let packet = PcapPacket::new(Duration::from_secs(second), frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    path
}

/// Reads frames with a configuration, and returns the alerts.
fn alerts(directory: &Path, frames: &[Vec<u8>], arguments: &[&str]) -> Option<Vec<Value>> {
    let file = capture(directory, frames);
    let log_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(require::binary()?);
    command.arg("read").arg(file).arg("--log-dir").arg(log_dir.path()).args(["--eve-types", "alert"]);
    command.args(arguments).current_dir(directory);
    let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    let records = records(log_dir.path());
    Some(of_type(&records, "alert").into_iter().cloned().collect())
}

/// Returns the number of the rule of each alert, with the VNI.
fn by_vni(alerts: &[Value]) -> Vec<(u64, u64)> {
    let number = |alert: &Value, pointer: &str| alert.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let mut all: Vec<_> = alerts
        .iter()
        .map(|alert| (number(alert, "/mirror/vni"), number(alert, "/alert/signature_id")))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn an_alert_says_all_about_the_rule_the_transaction_and_the_flow() {
    let directory = tempfile::tempdir().unwrap();
    let rule = r#"drop dns any any -> any any (msg:"one \"name\""; dns.query; content:"evil.example"; classtype:trojan-activity; reference:cve,2021-44228; metadata:attack_target Client, tag One, tag Two; target:src_ip; sid:7; rev:3;)
alert udp any any -> any 53 (msg:"two"; content:"|04|evil"; sid:8;)
"#;
    fs::write(directory.path().join("local.rules"), rule).unwrap();
    fs::write(
        directory.path().join("config.toml"),
        "[signatures]\npayload = [\"payload_printable\", \"packet\"]\n",
    )
    .unwrap();
    let flow = Flow::v4(20_000, 53);
    let frames = [mirrored(7).carrying(&flow.udp(&dns_query(1, "evil.example")))];
    let arguments = ["--rules", "local.rules", "--config", "config.toml"];
    let Some(alerts) = alerts(directory.path(), &frames, &arguments) else { return };
    assert_eq!(by_vni(&alerts), [(7, 7), (7, 8)]);
    let of = |sid: u64| alerts.iter().find(|alert| alert["alert"]["signature_id"] == sid).unwrap();
    let (alert, packet) = (of(7), of(8));
    let (source, destination) = (&alert["src_ip"], &alert["dest_ip"]);
    let expected = json!({
        "action": "allowed",
        "gid": 1,
        "signature_id": 7,
        "rev": 3,
        "signature": "one \"name\"",
        "category": "A Network Trojan was detected",
        "severity": 1,
        "source": {"ip": destination, "port": 53},
        "target": {"ip": source, "port": 20_000},
        "metadata": {"attack_target": ["Client"], "tag": ["One", "Two"]},
        "references": ["cve:2021-44228"],
    });
    assert_eq!(alert["alert"], expected);
    assert_eq!(alert["verdict"], json!({"action": "drop"}));
    assert_eq!(alert["dns"], json!({"query": [{"type": "query", "rrname": "evil.example"}]}));
    assert_eq!(
        (&alert["app_proto"], &alert["direction"], &alert["tx_id"]),
        (&"dns".into(), &"to_server".into(), &0.into())
    );
    let flow = &alert["flow"];
    assert_eq!(
        (&flow["pkts_toserver"], &flow["src_ip"], &flow["dest_port"]),
        (&1.into(), source, &53.into())
    );
    assert!(flow["start"].as_str().unwrap().starts_with("2020-09-13T12:26:40"), "{flow}");
    assert!(alert["community_id"].is_string());
    assert!(packet["payload_printable"].as_str().unwrap().contains(".evil.example"), "{packet}");
    assert_eq!((&packet["stream"], &packet["packet_info"]["linktype"]), (&0.into(), &12.into()));
    // The packet in base64 begins with its version and the length of its header.
    assert!(packet["packet"].as_str().unwrap().starts_with("RQ"), "{packet}");
    assert!(packet.get("payload").is_none() && packet.get("verdict").is_none());
}

#[test]
fn tenants_have_rules_and_variables_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(
        path("all.rules"),
        "alert udp $HOME_NET any -> any 53 (msg:\"one\"; dns.query; content:\"evil\"; sid:1;)\n\
         alert udp !$HOME_NET any -> any 53 (msg:\"two\"; content:\"|04|evil\"; sid:2;)\n",
    )
    .unwrap();
    fs::write(
        path("own.rules"),
        "alert udp any any -> any 53 (msg:\"three\"; content:\"|04|evil\"; sid:3;)\n",
    )
    .unwrap();
    let config = format!(
        "[signatures]\nfiles = [\"{0}\"]\nvariables = {{ HOME_NET = \"172.31.0.0/16\" }}\n\
         [[signatures.tenants]]\nname = \"other\"\nvnis = [\"20-29\"]\nvariables = {{ HOME_NET = \"192.168.0.0/16\" }}\n\
         [[signatures.tenants]]\nname = \"own\"\nvnis = [8]\nfiles = [\"{1}\"]\n",
        path("al*.rules"),
        path("own.rules"),
    );
    fs::write(path("config.toml"), config).unwrap();
    let inner = Flow::v4(20_000, 53).udp(&dns_query(1, "evil.example"));
    let frames = [7, 20, 29, 8].map(|vni| mirrored(vni).carrying(&inner));
    let Some(alerts) = alerts(directory.path(), &frames, &["--config", "config.toml"]) else { return };
    assert_eq!(by_vni(&alerts), [(7, 1), (8, 3), (20, 2), (29, 2)]);
}

#[test]
fn thresholds_of_rules_and_of_their_file_limit_alerts_by_vni() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let rule = |sid: u32, option: &str| {
        format!("alert udp any any -> any 53 (content:\"|04|evil\"; {option} sid:{sid};)\n")
    };
    let limit = "threshold:type limit,track by_src,count 2,seconds 60;";
    fs::write(path("a.rules"), rule(1, limit) + &rule(2, "") + &rule(3, "")).unwrap();
    fs::write(
        path("threshold.config"),
        "suppress gen_id 1, sig_id 2\nthreshold gen_id 1, sig_id 3, type both, track by_rule, count 3, seconds 60\n",
    )
    .unwrap();
    let config = format!(
        "[signatures]\nfiles = [\"{}\"]\nthresholds = \"{}\"\n",
        path("a.rules"),
        path("threshold.config")
    );
    fs::write(path("config.toml"), config).unwrap();
    let frames: Vec<_> = (0..8)
        .map(|number| {
            let flow = Flow::v4(20_000 + number, 53).udp(&dns_query(number, "evil.example"));
            mirrored(if number < 4 { 7 } else { 8 }).carrying(&flow)
        })
        .collect();
    let Some(alerts) = alerts(directory.path(), &frames, &["--config", "config.toml"]) else { return };
    assert_eq!(by_vni(&alerts), [(7, 1), (7, 1), (7, 3), (8, 1), (8, 1), (8, 3)]);
}

#[test]
fn mistakes_in_the_configuration_of_rules_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let Some(binary) = require::binary() else { return };
    let config = directory.path().join("config.toml");
    let check = |text: &str| {
        fs::write(&config, text).unwrap();
        let mut command = Command::new(&binary);
        command.args(["config", "check"]).arg(&config);
        let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
        (output.status.code(), output.stdout + &output.stderr.join("\n"))
    };
    let rules = directory.path().join("a.rules");
    fs::write(&rules, "alert udp any any -> any 53 (content:\"evil\"; sid:1;)\nnonsense\n").unwrap();
    let (code, text) = check(&format!("[signatures]\nfiles = [\"{}\"]\n", rules.display()));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 of 2 rules are refused"), "{text}");
    for (wrong, said) in [
        ("files = [\"/nonexistent/*.rules\"]", "no rule file is named"),
        ("files = [\"relative\"]", "is not an absolute path"),
        ("variables = { HOME_NET = \"10.0.0.0/33\" }", "10.0.0.0/33"),
        ("payload = [\"all\"]", "is none of them"),
        ("tenants = [{ name = \"a\", vnis = [7] }, { name = \"b\", vnis = [\"1-9\"] }]", "VNI 1"),
    ] {
        let (code, text) = check(&format!("[signatures]\n{wrong}\n"));
        assert_eq!(code, Some(1), "{wrong}: {text}");
        assert!(text.contains(said), "{wrong}: {text}");
    }
}

#[test]
fn rules_are_replaced_while_the_capture_runs_and_say_what_they_cost() {
    let Some(bed) = Bed::new(1) else { return };
    let path = |name: &str| bed.log_dir().join(name);
    let rule = |sid: u32, name: &str| {
        format!(
            "alert dns any any -> any any (msg:\"rule {sid}\"; dns.query; content:\"{name}\"; sid:{sid};)\n"
        )
    };
    let replace = |text: &str| {
        fs::write(path("new"), text).unwrap();
        fs::rename(path("new"), path("a.rules")).unwrap();
    };
    replace(&(rule(1, "first.example") + &rule(2, "second.example")));
    let config = format!("[signatures]\nfiles = [\"{}\"]\n", path("a.rules").display());
    fs::write(path("config.toml"), config).unwrap();
    let arguments = ["--config", path("config.toml").to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut process = Process::spawn(&mut bed.run_command(&[INTERFACE], &arguments)).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    let address = "127.0.0.1:9470".parse().unwrap();
    let mut sent = 0;
    let mut ask = |port: u16, name: &str| {
        bed.send(&[mirrored(7).carrying(&Flow::v4(port, 53).udp(&dns_query(1, name)))]);
        sent += 1;
        wait_until("the frame is analysed", || {
            let stats = http::ask(&bed.appliance, address, "GET /api/v1/stats", &[]).unwrap().json();
            let workers = stats["workers"].as_array().unwrap().iter();
            workers.map(|worker| worker["analysed"].as_u64().unwrap()).sum::<u64>() == sent
        });
    };
    ask(20_000, "first.example");
    replace(&(rule(2, "third.example") + &rule(3, "first.example")));
    let answer = http::ask(&bed.appliance, address, "POST /api/v1/reload", &[]).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json());
    let expected = json!({"rules": 2, "refused": 0, "added": [3], "removed": [1], "changed": [2]});
    assert_eq!(answer.json()["signatures"], expected);
    ask(20_001, "first.example");
    ask(20_002, "second.example");
    ask(20_003, "third.example");
    let top = bed.command(&[
        "rules",
        "top",
        "--json",
        "--sort",
        "matched",
        "--control",
        bed.control().to_str().unwrap(),
    ]);
    let output = bed.run_to_end(top);
    let costs: Value = serde_json::from_str(&output.stdout).unwrap();
    let matched: Vec<_> =
        costs.as_array().unwrap().iter().map(|one| (&one["sid"], &one["matched"])).collect();
    assert_eq!(matched.len(), 2, "{costs}");
    assert!(matched.iter().all(|(_, matched)| **matched == json!(1)), "{costs}");
    // The same files are not loaded again, and a file that is missing changes nothing.
    let again = http::ask(&bed.appliance, address, "POST /api/v1/reload", &[]).unwrap().json();
    assert_eq!(again["signatures"], Value::Null);
    fs::remove_file(path("a.rules")).unwrap();
    process.signal(Signal::SIGHUP).unwrap();
    let said = process.wait_for_line("mirror-xdp: not reloaded", PATIENCE).unwrap();
    assert!(said.contains("a.rules"), "{said}");
    ask(20_004, "third.example");
    assert!(process.interrupt(PATIENCE).unwrap().status.success());
    let records = bed.records();
    let mut sids: Vec<_> = of_type(&records, "alert")
        .iter()
        .map(|alert| alert["alert"]["signature_id"].as_u64().unwrap())
        .collect();
    sids.sort_unstable();
    assert_eq!(sids, [1, 2, 2, 3]);
}

#[test]
fn the_requirement_that_fails_is_named_for_each_flow() {
    let directory = tempfile::tempdir().unwrap();
    let rule = r#"alert dns $HOME_NET any -> any any (msg:"one"; dns.query; content:"evil"; content:".example"; distance:0; endswith; sid:7;)"#;
    fs::write(directory.path().join("local.rules"), rule).unwrap();
    let asking =
        |port: u16, name: &str| mirrored(7).carrying(&Flow::v4(port, 53).udp(&dns_query(port, name)));
    let other = mirrored(7).carrying(&Flow::v6(20_003, 53).udp(&dns_query(1, "evil.example")));
    let frames =
        [asking(20_000, "evil.example"), asking(20_001, "evil.test"), asking(20_002, "good.test"), other];
    let file = capture(directory.path(), &frames);
    let explain = |more: &[&str]| {
        let file = file.to_str().unwrap();
        let arguments = ["explain", file, "--rules", "local.rules", "--rules-var", "HOME_NET=172.31.0.0/16"];
        rules(directory.path(), &[&arguments[..], more].concat())
    };
    let Some(output) = explain(&["--sid", "7", "--json"]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let flows: Value = serde_json::from_str(&output.stdout).unwrap();
    let failed: Vec<_> = flows.as_array().unwrap().iter().map(|flow| &flow["failed"]).collect();
    assert_eq!(failed[0], &Value::Null, "{flows}");
    assert_eq!((&failed[1]["buffer"], &failed[1]["offset"]), (&"dns.query".into(), &4.into()), "{flows}");
    assert_eq!(failed[1]["bytes"], ".test");
    assert!(failed[1]["requirement"].as_str().unwrap().contains(".example"), "{flows}");
    assert_eq!((&failed[2]["offset"], &failed[2]["bytes"]), (&0.into(), &"good.test".into()), "{flows}");
    assert_eq!(failed[3]["requirement"], "the source address", "{flows}");
    let text = explain(&["--sid", "7"]).unwrap().stdout;
    assert!(text.ends_with("1 of 4 flows match\n"), "{text}");
    assert_eq!(explain(&["--sid", "8"]).unwrap().status.code(), Some(1));
    assert_eq!(explain(&[]).unwrap().status.code(), Some(2));
}
