//! Loads ET Open's rules and the tests of suricata-verify, if they are there (`MIRROR_XDP_RULES`).

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use mirror_signatures::config::classification::Classes;
use mirror_signatures::ruleset::{Loader, RuleSet};
use mirror_signatures::variables::Variables;

fn directory() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let directory = env::var_os("MIRROR_XDP_RULES").map_or(workspace.join("../shared/rules"), PathBuf::from);
    if directory.is_dir() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no rules in {}; set MIRROR_XDP_RULES", directory.display());
    None
}

/// Decompresses a file with xz, which the rules are packed with.
fn unpacked(path: &Path) -> Vec<u8> {
    let xz = Command::new("xz").arg("-dc").arg(path).stdout(Stdio::piped()).spawn();
    let mut text = Vec::new();
    xz.expect("xz is installed").stdout.expect("it is piped").read_to_end(&mut text).expect("xz writes");
    text
}

fn load(text: &[u8]) -> RuleSet {
    let (variables, classes) = (Variables::default(), Classes::default());
    let mut loader = Loader::new(&variables, &classes);
    loader.add(Path::new("et-open.rules"), text);
    loader.finish()
}

#[test]
fn et_open_loads_and_what_is_refused_is_named() {
    let Some(directory) = directory() else { return };
    let set = load(&unpacked(&directory.join("et-open.rules.xz")));
    let report = &set.report;
    let refused: Vec<String> = report.refused.iter().map(|(_, refusal)| refusal.to_string()).collect();
    eprintln!("{} of {} rules loaded; refused: {refused:#?}", set.signatures.len(), report.total);
    assert_eq!(report.total, 35_510);
    assert_eq!(set.signatures.len() + report.refused_count, report.total);
    assert_eq!(report.refused.len(), report.refused_count);
    assert!(set.signatures.len() * 1000 >= report.total * 999);
    assert!(report.refused.iter().all(|(_, refusal)| refusal.sid.is_some() && refusal.column > 0));
    // Three negate an address that is `any` unless a variable says otherwise.
    for sid in [2_000_328, 2_002_087, 2_011_802] {
        assert!(report.refused.iter().any(|(_, refusal)| refusal.sid == Some(sid)), "{sid}");
    }
    let classes = Classes::default();
    for signature in &set.signatures {
        let class = signature.rule.class.as_deref().expect("each rule has a class");
        assert!(classes.get(class).is_some(), "{class}");
    }
}

#[test]
fn rule_tests_load_or_name_what_they_need() {
    let Some(directory) = directory() else { return };
    let index =
        fs::read_to_string(directory.join("suricata-verify/INDEX.tsv")).expect("the index is readable");
    let mut lines = index.lines();
    let header: Vec<&str> = lines.next().expect("the index has a header").split('\t').collect();
    let tier = header.iter().position(|name| *name == "tier1").expect("the index has the column");
    let (mut all, mut loaded) = (0, 0);
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let name = fields[0];
        let text = fs::read(directory.join("suricata-verify").join(name).join("test.rules"))
            .expect("rules are there");
        let set = load(&text);
        if fields[tier] != "1" {
            continue;
        }
        all += 1;
        if set.report.refused_count == 0 {
            loaded += 1;
        } else {
            for (_, refusal) in &set.report.refused {
                eprintln!("{name}: {refusal}");
            }
        }
    }
    eprintln!("{loaded} of {all} tests of tier 1 load");
    assert!(loaded * 100 >= all * 90);
}
