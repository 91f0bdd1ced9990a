//! `mirror-xdp config`: each error is reported with file, line, key and accepted values, and each setting in
//! force with its source.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use mirror_xdp_tests::require;
use serde_json::Value;

fn config(arguments: &[&str]) -> Option<Output> {
    let binary = require::binary()?;
    let output = Command::new(binary).arg("config").args(arguments).output();
    Some(output.expect("mirror-xdp starts"))
}

/// Invalid files: the content, the line and key of the error, and part of the accepted values.
const WRONG: &[(&str, usize, &str, &str)] = &[
    ("[ports\n", 1, "[ports", "expected `]`"),
    ("[ports]\nvxlan = [1]\nvxlan = [2]\n", 3, "vxlan", "once"),
    ("[shunt]\nafter = soon\n", 2, "after", "text in quotes"),
    ("[shunt]\nafter =\n", 2, "after", "number, or text"),
    ("[fliter]\n", 1, "fliter", "capture, ports, admission"),
    ("[capture]\ninterface = [\"ens6\"]\n", 2, "capture.interface", "interfaces, replace"),
    ("[capture]\ninterfaces = []\n", 2, "capture.interfaces", "name one"),
    ("[capture]\ninterfaces = \"ens6\"\n", 2, "capture.interfaces", "a list of names"),
    ("[capture]\ninterfaces = [\"ens6\", \"ens6\"]\n", 2, "capture.interfaces[1]", "each interface once"),
    ("[capture]\nlog_dir = \"/dev/null/log\"\n", 2, "capture.log_dir", "that can be made"),
    ("[capture]\ninterfaces = [\"a b\"]\n", 2, "capture.interfaces[0]", "such as \"ens6\""),
    ("[receive]\nxdp_mode = \"fast\"\n", 2, "receive.xdp_mode", "\"native\""),
    ("[capture]\nreplace = \"yes\"\n", 2, "capture.replace", "\"on\" or \"off\""),
    ("[capture]\nlog_dir = \"log\"\n", 2, "capture.log_dir", "a path from the root"),
    ("[capture]\nstats_interval = \"soon\"\n", 2, "capture.stats_interval", "such as \"8s\""),
    ("[capture]\nmax_flows = -1\n", 2, "capture.max_flows", "a number from 1"),
    ("[ports]\nvxlan = [0]\n", 2, "ports.vxlan[0]", "from 1 to 65535"),
    ("[ports]\ngeneve = [4789]\n", 2, "ports.geneve[0]", "each port once"),
    ("[ports]\nvxlan = []\ngeneve = []\n", 1, "ports", "name one in vxlan"),
    ("[admission]\nmode = \"open\"\n", 2, "admission.mode", "\"learn\" or \"strict\""),
    ("[admission]\nsources = []\n", 2, "admission.sources", "leave the key out"),
    ("[admission]\nsources = [\"10.0.0.0/33\"]\n", 2, "admission.sources[0]", "such as 10.0.0.0/8"),
    ("[admission]\nvnis = [16777216]\n", 2, "admission.vnis[0]", "0 to 16777215"),
    ("[admission]\nvnis = [\"9-8\"]\n", 2, "admission.vnis[0]", "\"8-9\""),
    ("[admission]\nmode = \"strict\"\n", 2, "admission.mode", "admission.vnis or filter.sets"),
    ("[shunt]\nafter = \"1 TiB\"\n", 2, "shunt.after", "\"1MiB\""),
    ("[shunt]\nmax_flows = 0\n", 2, "shunt.max_flows", "from 1 to 1048576"),
    ("[analysis]\ndedup = \"yes\"\n", 2, "analysis.dedup", "\"on\" or \"off\""),
    ("[eve]\noutput = 1\n", 2, "eve.output", "unix-stream:PATH"),
    ("[eve]\noutput = \"foo://host\"\n", 2, "eve.output", "unix-stream:PATH"),
    ("[eve]\noutput = \"/etc\"\n", 2, "eve.output", "a file in it"),
    ("[store]\nkey = \"/absent/key\"\n", 2, "store.key", "leave the key out"),
    ("[alerts]\nfile = \"/absent/feed\"\n", 2, "alerts.file", "leave the key out"),
    ("[alerts]\nindicators = [\"10.1.2.300\"]\n", 2, "alerts.indicators[0]", "an address such as"),
    ("[alerts]\nindicators = [\"10.1.2\"]\n", 2, "alerts.indicators[0]", "an address such as"),
    ("[alerts]\nindicators = [\"1.2.3.4/33\"]\n", 2, "alerts.indicators[0]", "an address such as"),
    ("[alerts]\nindicators = [\"0.0.0.0/0\"]\n", 2, "alerts.indicators[0]", "networks of /4 or smaller"),
    ("[receive]\nxdp_mode = \"generic\"\nzero_copy = \"required\"\n", 3, "receive.zero_copy", "\"auto\""),
    ("[api]\nlisten = \"0.0.0.0:9470\"\n", 2, "api.listen", "token_file = "),
    ("[api]\nhealth = \"0.0.0.0:9470\"\n", 2, "api.health", "another port"),
    ("[api]\ntoken_file = \"/absent/token\"\n", 2, "api.token_file", "leave the key out"),
    ("[api]\ntoken_file = \"/etc/passwd\"\n", 2, "api.token_file", "openssl rand"),
    ("[eve]\nrotate_size = \"big\"\n", 2, "eve.rotate_size", "\"1MiB\""),
    ("[eve]\nrotate_interval = \"daily\"\n", 2, "eve.rotate_interval", "such as \"1h\""),
    ("[api]\nlisten = \"localhost\"\n", 2, "api.listen", "127.0.0.1:9470"),
    ("[api]\nhealth = 9471\n", 2, "api.health", "or \"off\""),
    ("[api]\ntoken_file = \"token\"\n", 2, "api.token_file", "a path from the root"),
    ("[api]\nport = 9470\n", 2, "api.port", "listen, health, token_file"),
    ("[filter]\ndefault = \"a\"\n", 2, "filter.default", "write a [[filter.sets]]"),
    ("[filter]\nmacs = [\"ff:ff:ff:ff:ff:ff\"]\n", 2, "filter.macs[0]", "an interface"),
    ("[[filter.sets]]\nvnis = [1]\n", 1, "filter.sets[0].name", "name = \"office\""),
    ("[[filter.sets]]\nname = \"\"\n", 2, "filter.sets[0].name", "1 to 128 bytes"),
];

#[test]
fn each_mistake_is_told_with_file_line_key_and_what_is_allowed() {
    assert!(WRONG.len() >= 30);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("wrong.toml");
    let file = path.to_str().expect("text");
    for &(text, line, key, allowed) in WRONG {
        fs::write(&path, text).expect("the directory can be written to");
        let Some(output) = config(&["check", file]) else { return };
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(output.stdout.is_empty(), "{text}");
        let said = String::from_utf8_lossy(&output.stderr);
        let [only] = &said.lines().collect::<Vec<_>>()[..] else { panic!("{text}: not one line: {said}") };
        assert!(only.starts_with(&format!("mirror-xdp: {file}:{line}: {key}: ")), "{text}: {only}");
        assert!(only.contains(allowed), "{text}: {only}");
        let json = config(&["check", "--json", file]).expect("as before").stdout;
        let json: Value = serde_json::from_slice(&json).expect("an object");
        assert_eq!((&json["valid"], &json["mistakes"][0]["key"]), (&false.into(), &key.into()), "{text}");
    }
}

#[test]
fn what_is_allowed_but_hardly_wanted_is_warned_of() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("some.toml");
    fs::write(&path, "[admission]\nsources = [\"10.0.0.0/8\", \"0.0.0.0/0\"]\n").expect("written");
    let file = path.to_str().expect("text");
    let Some(output) = config(&["check", file]) else { return };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let start = format!("mirror-xdp: warning: {file}:2: admission.sources[1]: `0.0.0.0/0` admits every host");
    assert!(said.starts_with(&start) && said.lines().count() == 1, "{said}");
    let json = config(&["check", "--json", file]).expect("as before").stdout;
    let json: Value = serde_json::from_slice(&json).expect("an object");
    assert_eq!((&json["valid"], &json["warnings"][0]["line"]), (&true.into(), &2.into()), "{json}");
}

fn show(arguments: &[&str]) -> Option<Value> {
    let output = config(&[&["show", "--json"], arguments].concat())?;
    assert!(output.status.success(), "{output:?}");
    Some(serde_json::from_slice(&output.stdout).expect("an object"))
}

#[test]
fn what_is_in_force_is_shown_with_who_says_so() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("some.toml");
    fs::write(&path, "[capture]\ninterfaces = [\"ens6\"]\nreplace = \"on\"\n[receive]\nxdp_mode = \"native\"\n[api]\n\nlisten = \"off\"\n")
        .expect("written");
    let file = path.to_str().expect("text");
    let Some(shown) = show(&["--config", file, "--xdp-mode", "generic", "--rotate-keep", "3"]) else {
        return;
    };
    let setting =
        |key: &str| (shown[key]["value"].clone(), shown[key]["from"].as_str().unwrap_or_default().to_owned());
    assert_eq!(setting("capture.interfaces"), (vec!["ens6"].into(), format!("{file}:2")));
    assert_eq!(setting("receive.xdp_mode"), ("generic".into(), "--xdp-mode".to_owned()));
    assert_eq!(setting("api.listen"), ("off".into(), format!("{file}:8")));
    assert_eq!(setting("eve.rotate_keep"), (3.into(), "--rotate-keep".to_owned()));
    assert_eq!(setting("capture.stats_interval"), ("8s".into(), "default".to_owned()));
    let text = config(&["show"]).expect("as before");
    assert!(String::from_utf8_lossy(&text.stdout).contains("# default"), "{text:?}");
}

#[test]
fn every_key_of_the_example_is_shown() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("example.toml");
    let Some(example) = config(&["example"]) else { return };
    fs::write(&path, &example.stdout).expect("written");
    let file = path.to_str().expect("text");
    let check = config(&["check", file]).expect("as before");
    assert!(check.status.success(), "{check:?}");
    let shown = show(&["--config", file]).expect("as before");
    let text = String::from_utf8(example.stdout).expect("text");
    let keys = keys(&text);
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let from = shown[&key]["from"].as_str().unwrap_or_else(|| panic!("{key} is not shown"));
        assert!(from.starts_with(file), "{key}: {from}");
        assert!(Path::new(from.rsplit_once(':').expect("a line").0).is_file());
    }
}

/// Returns the keys of a file's plain sections.
fn keys(text: &str) -> Vec<String> {
    let mut section = None;
    let mut keys = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
            section = section.filter(|name| !name.starts_with('['));
        } else if let (Some(section), Some((key, _))) = (section, line.split_once(" = "))
            && !key.starts_with('#')
        {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}
