//! `--once` and `--json`: the content of `top`, for mails and scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::answer::Loss;
use super::query::Filter;
use super::state::{Rate, State};
use super::table::printable;
use super::views::{self, View};
use crate::cli::progress::with_unit;

/// The number of rows of each kind.
const ROWS: usize = 10;

/// Formats all views as text, one after the other.
pub(super) fn text(server: &str, state: &State) -> String {
    let summary = &state.summary;
    let mut text = format!(
        "mirror-xdp {} at {server}, has captured for {}\n",
        summary.version,
        views::age(summary.seconds as u64)
    );
    if let Some(Rate { packets, bits }) = state.rate() {
        let rates = [with_unit(packets, "packets/s"), with_unit(bits, "bit/s")];
        let records = state.records_rate().map_or_else(String::new, |rate| with_unit(rate, "records/s"));
        let _ = writeln!(text, "captured {}, {}; {records}", rates[0], rates[1]);
    }
    for alert in &summary.alerts {
        let _ = writeln!(text, "{}", printable(format!("{}: {}", alert.severity, alert.text)));
    }
    let _ = write!(text, "\n{}", views::interfaces(state).print(usize::MAX));
    for view in View::ALL {
        let mut table = view.table(state, &Filter::default());
        if let Some(sort) = view.sort() {
            table.sort(sort);
        }
        let _ = write!(text, "\n{}\n{}", table.title, table.print(ROWS));
    }
    text
}

/// Returns all views as one JSON object.
pub(super) fn json(server: &str, state: &State) -> Value {
    let summary = &state.summary;
    let rate = |rate: Option<Rate>| match rate {
        Some(Rate { packets, bits }) => json!({ "packets_per_second": packets, "bits_per_second": bits }),
        None => Value::Null,
    };
    let interfaces = summary.interfaces.iter().map(|one| {
        json!({
            "name": one.name, "mode": one.mode, "zero_copy": one.zero_copy, "running": one.link.running,
            "seen": one.program.seen, "redirected": one.program.redirected,
            "rate": rate(state.interface_rate(&one.name)),
        })
    });
    let listed = |one: &Loss| {
        json!({
            "stage": one.stage, "place": one.place, "reason": one.reason, "count": one.count,
            "per_second": state.loss_rate(&one.stage, &one.place, &one.reason),
        })
    };
    let vnis = state.vnis.vnis.iter().map(|one| {
        json!({
            "interface": one.interface, "vni": one.vni, "packets": one.packets, "bytes": one.bytes,
            "dropped": one.dropped(), "undelivered": one.lost(), "idle_seconds": one.idle_seconds,
            "rate": rate(state.vni_rate(&one.interface, one.vni)),
        })
    });
    let mut talkers: Vec<_> = state.talkers(state.flows.iter()).into_iter().collect();
    talkers
        .sort_by_key(|(key, talker)| (std::cmp::Reverse(talker.sent.saturating_add(talker.received)), *key));
    let talkers = talkers.into_iter().take(ROWS).map(|((vni, address), one)| {
        json!({
            "vni": vni, "address": address, "sent": one.sent, "received": one.received,
            "packets": one.packets, "flows": one.flows, "bits_per_second": one.bits,
        })
    });
    let flows = state.flows.iter().take(ROWS).map(|one| {
        json!({
            "flow_id": one.flow_id, "src_ip": one.src_ip, "src_port": one.src_port,
            "dest_ip": one.dest_ip, "dest_port": one.dest_port, "proto": one.proto,
            "app_proto": one.app_proto, "vni": one.vni(), "packets": one.packets(), "bytes": one.bytes(),
            "age": one.flow.age, "state": one.flow.state, "rate": rate(state.flow_rate(one.flow_id)),
        })
    });
    let services = state.services.iter().take(ROWS).map(|one| {
        let latency = one.measured().and_then(|metrics| metrics.latency_ms);
        let latency = latency.map(|ms| json!({ "p50": ms.p50, "p95": ms.p95, "p99": ms.p99 }));
        json!({
            "vni": one.vni, "dest_ip": one.dest_ip, "dest_port": one.dest_port,
            "app_proto": one.app_proto, "requests": one.total.requests, "errors": one.total.errors,
            "connections": one.total.connections, "latency_ms": latency,
            "requests_per_second": state.service_rate(one),
        })
    });
    let workers = summary.workers.iter().map(|one| {
        let came = state.worker_rate(one.worker);
        json!({
            "worker": one.worker, "interface": one.interface, "queue": one.queue, "moving": one.moving,
            "flows": one.flows_active, "load": came.map(|(_, load)| load),
            "rate": rate(came.map(|(came, _)| came)),
        })
    });
    let alerts = summary.alerts.iter();
    let alerts = alerts.map(|one| json!({ "severity": one.severity, "text": one.text }));
    json!({
        "api": server,
        "version": summary.version,
        "time": summary.time,
        "seconds": summary.seconds,
        "rate": rate(state.rate()),
        "records_per_second": state.records_rate(),
        "interfaces": interfaces.collect::<Vec<_>>(),
        "losses": summary.losses.iter().map(listed).collect::<Vec<_>>(),
        "notices": summary.notices.iter().map(listed).collect::<Vec<_>>(),
        "vnis": vnis.collect::<Vec<_>>(),
        "talkers": talkers.collect::<Vec<_>>(),
        "flows": flows.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "workers": workers.collect::<Vec<_>>(),
        "alerts": alerts.collect::<Vec<_>>(),
    })
}
