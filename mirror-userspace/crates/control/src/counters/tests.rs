//! Tests that the table is complete and that everything that depends on it agrees with it.

use std::collections::BTreeSet;

use mirror_store::{StoreCounters, UploadCounters};
use mirror_xdp_common::counters::Counter;
use serde_json::Value as Json;

use super::*;
use crate::observe::tap::TapCounts;
use crate::stats::tests::exact;

const TESTS: &str = include_str!("../../../../../deploy/prometheus/tests.yml");
const DASHBOARD: &str = include_str!("../../../../../deploy/grafana/mirror-xdp.json");

/// Returns an account in which every optional part is present.
pub(crate) fn complete() -> Stats {
    let mut stats = exact();
    for worker in &mut stats.workers {
        let lost = vec![("no_block", 0), ("paused", 0)];
        let counters = StoreCounters { not_kept: vec![("policy", 0)], lost, ..StoreCounters::default() };
        worker.store = Some(counters.into());
        worker.analysis_lost = crate::stats::Named(vec![("stream_hole", 0)]);
        worker.refused_nested = crate::stats::Named(vec![("not_ip", 0)]);
        worker.split = vec![crate::stats::Split { vni: Some(7), flows: 0 }];
    }
    stats.tap = Some(TapCounts { interface: "tap0".to_owned(), ..TapCounts::default() });
    stats.upload = Some(UploadCounters::default());
    stats
}

fn spec(metric: &str) -> &'static CounterSpec {
    COUNTERS.iter().find(|spec| spec.metric == metric).unwrap()
}

#[test]
fn each_counter_stands_once_in_the_order_of_the_stages() {
    let names: BTreeSet<_> = COUNTERS.iter().map(|spec| spec.metric).collect();
    assert_eq!(names.len(), COUNTERS.len());
    let place = |spec: &CounterSpec| Stage::ALL.iter().position(|stage| *stage == spec.stage).unwrap();
    assert!(COUNTERS.is_sorted_by_key(place));
    for spec in COUNTERS {
        let is_total = spec.metric.ends_with("_total");
        assert_eq!(spec.kind == Kind::Counter, is_total, "{}", spec.metric);
        assert!(spec.help.ends_with('.'), "{}", spec.metric);
        if let Some(loss) = spec.loss() {
            assert!(spec.kind == Kind::Counter && !loss.what.is_empty() && !spec.action.is_empty());
        }
    }
}

#[test]
fn samples_have_a_value_for_each_label() {
    let stats = complete();
    let source = Source { disk: Some((1, 2)), ..Source::account(&stats) };
    for spec in COUNTERS {
        for sample in spec.samples(&source) {
            assert_eq!(sample.labels.len(), spec.labels.len(), "{}", spec.metric);
        }
    }
}

/// Collects the places of all numbers and flags in the account, without the names of reasons.
fn places(value: &Json, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Json::Number(_) | Json::Bool(_) => {
            found.insert(at.to_owned());
        }
        Json::Array(items) => items.iter().for_each(|item| places(item, &format!("{at}[]"), found)),
        Json::Object(fields) => {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                places(value, &at, found);
            }
        }
        Json::String(_) | Json::Null => {}
    }
}

#[test]
fn the_table_has_every_counter_of_the_account() {
    let mut found = BTreeSet::new();
    places(&serde_json::to_value(complete()).unwrap(), "", &mut found);
    let known: Vec<String> = COUNTERS
        .iter()
        .flat_map(|spec| match spec.account.split_once(": ") {
            Some((object, fields)) => fields.split(", ").map(|field| format!("{object}.{field}")).collect(),
            None => vec![spec.account.to_owned()],
        })
        .collect();
    // Identifiers and settings.
    let others = [
        "interfaces[].zero_copy",
        "interfaces[].huge_pages",
        "interfaces[].rings[].queue",
        "interfaces[].rings[].worker",
        "workers[].worker",
        "workers[].split[].vni",
    ];
    for place in found.iter().filter(|place| !others.contains(&place.as_str())) {
        let is_known = |known: &String| place == known || place.starts_with(&format!("{known}."));
        assert!(known.iter().any(is_known), "{place} is not in the table of counters");
    }
    // And nothing that the account lacks; the policies are in it only at the end.
    for known in known.iter().filter(|known| !known.is_empty() && !known.starts_with("policies[]")) {
        let text = ["interfaces[].mode", "interfaces[].device", "records.written"];
        let is_found = found.iter().any(|place| place == known || place.starts_with(&format!("{known}.")));
        assert!(is_found || text.contains(&known.as_str()), "{known} is not in the account");
    }
}

#[test]
fn each_reason_of_the_program_is_explained() {
    let explained: Vec<_> =
        ["frames_total", "frames_noted_total"].iter().flat_map(|metric| spec(metric).reasons).collect();
    for counter in Counter::ALL {
        let name = match counter {
            Counter::Seen => continue,
            Counter::Redirected => "captured",
            other => other.name(),
        };
        assert!(explained.iter().any(|(reason, ..)| *reason == name), "{name}");
    }
}

#[test]
fn losses_of_every_stage_are_listed_with_their_place() {
    let mut stats = complete();
    stats.interfaces[0].program.dropped.0.push(("filter_rejected", 100));
    stats.workers[1].store.as_mut().unwrap().lost.0[0].1 = 4;
    stats.workers[1].analysis_lost.0[0].1 = 5;
    stats.workers[0].duplicates = 6;
    stats.workers[1].split[0].flows = 11;
    stats.records.lost = 7;
    stats.tap.as_mut().unwrap().lost.refused = 8;
    stats.missed = 9;
    stats.upload.as_mut().unwrap().failures = 10;
    let rows = |rows: Vec<Listed>| -> Vec<String> {
        rows.iter()
            .map(|row| format!("{} {} {} {}", row.stage.name(), row.place, row.reason, row.count))
            .collect()
    };
    assert_eq!(
        rows(losses(&stats)),
        [
            "program v0 outer_fragment 1",
            "program network stack missed 9",
            "ring v0 queue 0 rx_ring_full 2",
            "handoff worker 0 hand_over_full 1",
            "worker worker 0 not_ip 1",
            "worker worker 1 not_ip 1",
            "analysis worker 1 stream_hole 5",
            "records log lost 7",
            "store worker 1 no_block 4",
            "tap tap0 refused 8",
        ]
    );
    assert_eq!(
        rows(notices(&stats)),
        ["worker worker 0 duplicates 6", "analysis worker 1 vni 7 split_flows 11", "upload copy failures 10"]
    );
    let sums: Vec<_> = sums(&stats).iter().map(|(spec, sum)| (spec.metric, *sum)).collect();
    assert!(sums.contains(&("frames_total", 1)) && sums.contains(&("worker_refused_frames_total", 2)));
}

#[test]
fn alert_rules_have_each_loss_and_are_tested() {
    let rules = rules();
    for spec in COUNTERS {
        let Some(loss) = spec.loss() else { continue };
        assert!(rules.contains(&format!("- alert: MirrorXdp{}\n", loss.alert)));
        assert!(TESTS.contains(&format!("alertname=\"MirrorXdp{}\"", loss.alert)), "{}", loss.alert);
        assert!(DASHBOARD.contains(&spec.name()), "{} is not on the dashboard", spec.metric);
    }
    let drops = "sum by (instance, interface) (rate(mirror_xdp_frames_total{fate=\"dropped\",reason!~\"source_not_admitted|";
    assert!(rules.contains(drops), "{rules}");
}
