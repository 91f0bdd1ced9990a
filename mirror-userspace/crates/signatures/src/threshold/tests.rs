use proptest::prelude::*;

use super::*;
use crate::config::threshold::parse as parse_config;
use crate::parse::parse;
use crate::variables::Variables;

const SECOND: u64 = 1_000_000_000;
/// 2020-09-13T12:26:40Z
const EPOCH: u64 = 1_600_000_000 * SECOND;

fn host(number: u32) -> Address {
    Address::from_v4(0x0a00_0000 + number)
}

fn event(time: u64, source: u32, destination: u32) -> Event {
    Event { time: EPOCH + time, source: host(source), destination: host(destination), vni: None, flow: 1 }
}

fn thresholds(rules: &str, config: &str) -> Thresholds {
    let parsed = parse(rules.as_bytes());
    assert!(parsed.refused.is_empty(), "{:?}", parsed.refused);
    let (entries, refused) = parse_config(config.as_bytes());
    assert!(refused.is_empty(), "{refused:?}");
    let variables = Variables::default();
    let (thresholds, refused) = Thresholds::new(&parsed.rules, &entries, &mut Resolver::new(&variables));
    assert!(refused.is_empty(), "{refused:?}");
    thresholds
}

fn rule(sid: u32, option: &str) -> String {
    format!("alert tcp any any -> any any (flags:S; {option} sid:{sid};)\n")
}

/// Returns the numbers of the matches, from 1 on, that raise an alert: so many of rule 0, a second apart.
fn alerts(thresholds: &Thresholds, matches: u64) -> Vec<u64> {
    let counts = Counts::new(64, 1);
    let raises =
        |second: &u64| thresholds.judge(0, &event(second * SECOND, 1, 2), &counts) == Judgement::Alert(None);
    (1..=matches).filter(raises).collect()
}

#[test]
fn each_kind_of_threshold_lets_its_matches_through() {
    let own = |option: &str| alerts(&thresholds(&rule(1, option), ""), 12);
    assert_eq!(own(""), (1..=12).collect::<Vec<_>>());
    assert_eq!(own("threshold:type limit,track by_src,count 2,seconds 5;"), [1, 2, 6, 7, 11, 12]);
    assert_eq!(own("threshold:type threshold,track by_src,count 2,seconds 5;"), [2, 4, 7, 9, 12]);
    assert_eq!(own("threshold:type both,track by_src,count 2,seconds 5;"), [2, 7, 12]);
    assert_eq!(own("threshold:type both,track by_src,count 9,seconds 5;"), [] as [u64; 0]);
    assert_eq!(own("detection_filter:track by_src,count 3,seconds 5;"), [4, 5, 9, 10]);
}

#[test]
fn matches_are_counted_apart_by_what_is_tracked() {
    let judged = |track: &str, events: &[Event]| {
        let option = format!("threshold:type limit,track {track},count 1,seconds 60;");
        let thresholds = thresholds(&rule(1, &option), "");
        let counts = Counts::new(64, 1);
        events
            .iter()
            .map(|event| thresholds.judge(0, event, &counts) == Judgement::Alert(None))
            .collect::<Vec<_>>()
    };
    let events = [event(0, 1, 2), event(1, 1, 3), event(2, 4, 2), event(3, 2, 1)];
    assert_eq!(judged("by_src", &events), [true, false, true, true]);
    assert_eq!(judged("by_dst", &events), [true, true, false, true]);
    assert_eq!(judged("by_both", &events), [true, true, true, false]);
    assert_eq!(judged("by_rule", &events), [true, false, false, false]);
    let flows = [1, 2, 1].map(|flow| Event { flow, ..events[0] });
    assert_eq!(judged("by_flow", &flows), [true, true, false]);
    let tenants = [None, Some(7), Some(8), Some(7)].map(|vni| Event { vni, ..events[0] });
    for track in ["by_src", "by_dst", "by_both", "by_rule"] {
        assert_eq!(judged(track, &tenants), [true, true, true, false], "{track}");
    }
}

#[test]
fn entries_of_the_file_override_those_of_rules() {
    let limit = "threshold:type limit,track by_src,count 2,seconds 60;";
    let both = |config: &str| alerts(&thresholds(&rule(5, limit), config), 6);
    assert_eq!(both("threshold gen_id 1, sig_id 6, type both, track by_src, count 4, seconds 60"), [1, 2]);
    assert_eq!(both("threshold gen_id 1, sig_id 5, type both, track by_src, count 4, seconds 60"), [4]);
    assert_eq!(both("event_filter gen_id 1, sig_id 0, type both, track by_src, count 3, seconds 60"), [3]);
    let specific = "threshold gen_id 1, sig_id 5, type both, track by_src, count 4, seconds 60\n\
                    threshold gen_id 0, sig_id 0, type both, track by_src, count 3, seconds 60";
    assert_eq!(both(specific), [4]);
    // A detection filter stays.
    let filter = "detection_filter:track by_src,count 2,seconds 60;";
    let config = "threshold gen_id 1, sig_id 5, type limit, track by_src, count 1, seconds 60";
    assert_eq!(alerts(&thresholds(&rule(5, filter), config), 6), [3]);
}

#[test]
fn suppressed_hosts_raise_nothing_and_are_not_counted() {
    let judged = |config: &str, event: &Event| {
        let limit = "threshold:type threshold,track by_rule,count 1,seconds 60;";
        thresholds(&rule(5, limit), config).judge(0, event, &Counts::new(8, 1)) == Judgement::Alert(None)
    };
    let [from, to] = [event(0, 1, 2), event(0, 2, 1)];
    for (config, expected) in [
        ("suppress gen_id 1, sig_id 5", [false, false]),
        ("suppress gen_id 1, sig_id 6", [true, true]),
        ("suppress gen_id 2, sig_id 5", [true, true]),
        ("suppress gen_id 0, sig_id 0, track by_src, ip 10.0.0.1", [false, true]),
        ("suppress gen_id 1, sig_id 5, track by_dst, ip [10.0.0.1,10.0.0.3]", [true, false]),
        ("suppress gen_id 1, sig_id 0, track by_either, ip 10.0.0.1/32", [false, false]),
        ("suppress gen_id 1, sig_id 5, track by_src, ip !10.0.0.0/8", [true, true]),
    ] {
        assert_eq!([judged(config, &from), judged(config, &to)], expected, "{config}");
    }
}

#[test]
fn a_rate_filter_changes_the_action_while_it_holds() {
    let judged = |timeout: u32, action: &str| {
        let config = format!(
            "rate_filter gen_id 1, sig_id 5, track by_src, count 2, seconds 10, new_action {action}, timeout {timeout}"
        );
        let thresholds = thresholds(&rule(5, ""), &config);
        let counts = Counts::new(64, 1);
        (1..=12)
            .map(|second| match thresholds.judge(0, &event(second * SECOND, 1, 2), &counts) {
                Judgement::Alert(None) => 'a',
                Judgement::Alert(Some(_)) => 'd',
                Judgement::Silent => '-',
            })
            .collect::<String>()
    };
    // The third match begins the hold, which ends four seconds later whatever comes meanwhile.
    assert_eq!(judged(4, "drop"), "aaddddaadddd");
    assert_eq!(judged(4, "pass"), "aa----aa----");
    assert_eq!(judged(0, "drop"), "aadddddddddd");
}

#[test]
fn addresses_that_cannot_be_resolved_are_named() {
    let (entries, _) = parse_config(b"suppress gen_id 1, sig_id 5, track by_src, ip $NONE\n");
    let variables = Variables::default();
    let (thresholds, refused) =
        Thresholds::new(&parse(rule(5, "").as_bytes()).rules, &entries, &mut Resolver::new(&variables));
    assert_eq!((refused.len(), refused[0].line, refused[0].sid), (1, 1, Some(5)));
    assert!(thresholds.is_empty());
}

#[test]
fn hostile_addresses_take_the_cells_of_others_and_are_counted() {
    let limit = "threshold:type limit,track by_src,count 1,seconds 60;";
    let thresholds = thresholds(&rule(1, limit), "");
    let counts = Counts::new(256, 1);
    let size = counts.heap_bytes();
    for source in 0..100_000 {
        thresholds.judge(0, &event(0, source, 2), &counts);
    }
    assert_eq!(counts.heap_bytes(), size);
    assert_eq!(counts.evicted(), 100_000 - 256);
    // Windows that have ended cost nobody anything.
    for source in 0..16 {
        thresholds.judge(0, &event(60 * SECOND, source, 2), &counts);
    }
    assert_eq!(counts.evicted(), 100_000 - 256);
}

#[test]
fn numbers_and_times_at_their_bounds_are_counted() {
    let option = "threshold:type threshold,track by_src,count 4294967295,seconds 4294967295;";
    let far = thresholds(&rule(1, option), "");
    let counts = Counts::new(8, 1);
    for time in [0, u64::MAX, 0, EPOCH] {
        let event = Event { time, ..event(0, 1, 2) };
        assert_eq!(far.judge(0, &event, &counts), Judgement::Silent);
    }
    assert_eq!(far.judge(u32::MAX, &event(0, 1, 2), &counts), Judgement::Alert(None));
}

/// Whether the matches of one key at these times raise alerts, as the manual defines it.
fn reference(kind: ThresholdKind, count: u32, seconds: u32, times: &[u64]) -> Vec<bool> {
    let mut window: Vec<u64> = Vec::new();
    let mut raised = Vec::new();
    for &time in times {
        if window.first().is_some_and(|first| time - first >= u64::from(seconds) * SECOND) {
            window.clear();
        }
        window.push(time);
        let number = window.len() as u32;
        raised.push(match kind {
            ThresholdKind::Limit => number <= count,
            ThresholdKind::Threshold => number.is_multiple_of(count),
            ThresholdKind::Both => number == count,
            ThresholdKind::DetectionFilter => number > count,
        });
    }
    raised
}

proptest! {
    #[test]
    fn thresholds_agree_with_the_plain_reference(
        kind in 0_usize..4,
        count in 1_u32..6,
        seconds in 1_u32..8,
        by_source: bool,
        // Milliseconds between matches, and the hosts.
        matches in prop::collection::vec((0_u64..4000, 0_u32..3, 0_u32..3), 0..60),
        seed: u64,
    ) {
        let kinds = ["limit", "threshold", "both"];
        let track = if by_source { "by_src" } else { "by_dst" };
        let option = match kinds.get(kind) {
            Some(name) => format!("threshold:type {name},track {track},count {count},seconds {seconds};"),
            None => format!("detection_filter:track {track},count {count},seconds {seconds};"),
        };
        let thresholds = thresholds(&rule(1, &option), "");
        let kind = [
            ThresholdKind::Limit,
            ThresholdKind::Threshold,
            ThresholdKind::Both,
            ThresholdKind::DetectionFilter,
        ][kind];
        let mut now = 0;
        let events: Vec<Event> = matches
            .iter()
            .map(|(gap, source, destination)| {
                now += gap * 1_000_000;
                event(now, *source, *destination)
            })
            .collect();
        let counts = Counts::new(1024, seed);
        let judged: Vec<bool> = events
            .iter()
            .map(|event| thresholds.judge(0, event, &counts) == Judgement::Alert(None))
            .collect();
        let mut expected = vec![false; events.len()];
        for tracked in 0..3 {
            let of = |event: &Event| if by_source { event.source } else { event.destination };
            let (places, times): (Vec<usize>, Vec<u64>) = events
                .iter()
                .enumerate()
                .filter(|(_, event)| of(event) == host(tracked))
                .map(|(place, event)| (place, event.time))
                .unzip();
            for (place, raised) in places.into_iter().zip(reference(kind, count, seconds, &times)) {
                expected[place] = raised;
            }
        }
        prop_assert_eq!(judged, expected);
        prop_assert_eq!(counts.evicted(), 0);
    }
}
