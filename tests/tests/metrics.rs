//! Metrics, alerts and dashboard: promtool accepts them, and each metric that alerts and dashboard use
//! exists.

use std::collections::BTreeSet;
use std::fs;

use mirror_xdp_tests::appliance::{Bed, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::{http, promtool, require};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/mirror-xdp.yml");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/tests.yml");
const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/mirror-xdp.json");

#[test]
fn alerts_are_valid_and_fire_when_they_should() {
    let Some(tool) = require::promtool() else { return };
    promtool::accepts(&tool, &["check", "rules", RULES], "");
    promtool::accepts(&tool, &["test", "rules", TESTS], "");
}

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("mirror_xdp_"))
        .collect()
}

#[test]
fn metrics_pass_promtool_and_are_those_that_alerts_and_dashboard_are_about() {
    let Some(bed) = Bed::new(1) else { return };
    let Some(tool) = require::promtool() else { return };
    let config = bed.log_dir().join("config.toml");
    let rule = "[[filter.sets.rules]]\nnumber = 100\naction = \"accept\"\n";
    fs::write(&config, format!("[[filter.sets]]\nname = \"a\"\nvnis = [7]\n{rule}")).unwrap();
    let (store, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let upload = format!("file://{}", copy.path().display());
    let store = ["--store", store.path().to_str().unwrap(), "--store-upload", &upload];
    bed.appliance.veth("tap0", &bed.appliance, "ids0", 1).unwrap();
    bed.appliance.up("tap0").unwrap();
    let others = ["--stats-interval", "100ms", "--tap", "tap0", "--config", config.to_str().unwrap()];
    let appliance = bed.start(&[&store[..], &others].concat());
    let dns = Flow::v4(5353, 53);
    let frames = [
        dns.udp(&dns_query(1, "shop.test")),
        dns.reversed().udp(&dns_answer(1, "shop.test", [10, 0, 0, 1].into())),
    ];
    bed.send(&frames.map(|frame| mirrored(7).carrying(&frame)));
    wait_until("the request is measured", || {
        bed.log_dir().join("eve.json").exists()
            && !of_type(&bed.records(), "dns").is_empty()
            && of_type(&bed.records(), "stats").len() > 1
    });
    let answer = http::ask(&bed.appliance, "127.0.0.1:9470".parse().unwrap(), "GET /metrics", &[]).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    promtool::accepts(&tool, &["check", "metrics"], &answer.body);
    let there = names(&answer.body);
    for file in [RULES, DASHBOARD] {
        let text = fs::read_to_string(file).unwrap();
        for name in names(&text) {
            assert!(there.contains(name), "{file}: there is no {name}");
        }
    }
    serde_json::from_str::<serde_json::Value>(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    appliance.stop().assert_conserved();
}
