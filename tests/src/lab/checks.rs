//! The checks that decide whether the lab passes.

use serde_json::Value;

use super::seen::{Seen, human, total};
use super::vpc::{BULK, SERVER, SILENT};

/// The result of one check.
#[derive(Debug)]
pub(super) struct Check {
    /// A description in words, with the numbers.
    pub(super) what: String,
    pub(super) passed: bool,
}

fn check(passed: bool, what: impl Into<String>) -> Check {
    Check { what: what.into(), passed }
}

/// Returns all checks, given the accounts of the mirror source, of the cable, and of the appliance.
pub(super) fn checks(seen: &Seen, source: &Value, cable_drops: u64, appliance: &Value) -> Vec<Check> {
    let answered = |name: &str, answer: &str| {
        let is = seen.names.get(name).is_some_and(|name| name.queries > 0 && name.answers.contains(answer));
        check(is, format!("DNS: {name} asked for and answered with {answer}"))
    };
    let application = |name: &str, title: &str| {
        let flows = seen.flows.get(name).copied().unwrap_or_default();
        check(flows.count > 0, format!("{title}: {} flows", flows.count))
    };
    let ipv6 = of(seen, |flow| flow["src_ip"].as_str().is_some_and(|ip| ip.contains(':')));
    let bulk = seen
        .records
        .iter()
        .filter(|record| total(record["flow"].get("pkts_toserver")) > 0)
        .map(|record| total(record["flow"].get("bytes_toclient")))
        .max()
        .unwrap_or_default();
    let unanswered = of(seen, |flow| {
        flow["dest_ip"] == SILENT.to_string()
            && flow["proto"] == "TCP"
            && flow["flow"]["pkts_toserver"].as_u64().is_some_and(|packets| packets > 0)
            && flow["flow"]["pkts_toclient"] == 0
    });

    let number = |value: &Value, pointer: &str| total(value.pointer(pointer));
    let mirrored = number(source, "/mirrored");
    let failed = number(source, "/failed");
    let by_reason = source["failed"].as_object().into_iter().flatten();
    let reasons: Vec<_> = by_reason
        .filter(|(_, count)| total(Some(count)) > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let not_sent = number(source, "/failed/not_sent");
    let segments = number(source, "/segments");
    let on_the_interface = number(source, "/failed/copy_failed");
    let before_segments = on_the_interface + number(source, "/failed/pair_full");
    let segments_failed = failed.saturating_sub(before_segments);
    let copied = number(source, "/copied") + on_the_interface;
    let copies_seen = number(source, "/seen").saturating_sub(number(source, "/skipped"));
    let program = appliance.pointer("/interfaces/0/program").unwrap_or(&Value::Null);
    let arrived =
        total(program.get("dropped")) + total(program.get("shunted")) + total(program.get("redirected"));
    // A missing account is not an account of zero.
    let unaccounted = appliance.get("unaccounted").and_then(Value::as_u64);
    vec![
        answered("www.shop.test", &SERVER.to_string()),
        answered("api.shop.test", &SERVER.to_string()),
        answered("typo.shop.test", "NXDOMAIN"),
        application("http", "HTTP"),
        application("tls", "TLS"),
        check(ipv6 > 0, format!("IPv6: {ipv6} flows")),
        check(bulk > BULK, format!("bulk transfer: a flow of {}, both ways", human(bulk))),
        check(unanswered > 0, "the SYN that nobody answers"),
        // Some kernels report the frames that the cable drops to the source; others only count them.
        check(
            mirrored > 0 && mirrored + not_sent == arrived + cable_drops,
            format!("{mirrored} frames mirrored, {arrived} arrived"),
        ),
        // A machine under load loses copies, as AWS does; the check is that all of them are counted.
        check(
            segments == mirrored + segments_failed && copies_seen == copied,
            format!("frames not mirrored, counted by the source: {failed}{reasons}"),
        ),
        match unaccounted {
            Some(count) => check(count == 0, format!("frames unaccounted for: {count}")),
            None => check(false, "frames unaccounted for: the appliance does not say"),
        },
    ]
}

fn of(seen: &Seen, is: impl Fn(&Value) -> bool) -> usize {
    seen.records.iter().filter(|record| is(record)).count()
}
