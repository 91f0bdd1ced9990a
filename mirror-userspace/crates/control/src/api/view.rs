//! The answers of the API as JSON. `openapi.json` describes them; a test compares the two.

use axum::Json;
use axum::http::StatusCode;
use mirror_engine::worker::Protocols;
use mirror_records::FlowRecord;
use mirror_records::apm::{BUCKETS, Standing, Total};
use mirror_records::eve::{Timestamp, flow_object, service_object};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::alerts::Alert;
use super::{Health, Snapshot};
use crate::capture::Watch;
use crate::config::Diagnostic;
use crate::counters::Listed;
use crate::stats::{Interface, Policy, Stats, Worker};

/// The body of an error response.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    error: String,
}

/// Builds an error response.
pub(super) fn failure(status: StatusCode, what: impl Into<String>) -> (StatusCode, Json<Failure>) {
    (status, Json(Failure { error: what.into() }))
}

/// The result of a reload: the new configuration is in force.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// The number of rules in force.
    pub rules: usize,
    /// The keys of changed settings, except for rules and admission.
    pub changed: Vec<&'static str>,
    /// The time that the reload took.
    pub milliseconds: u64,
}

/// The result of a refused reload: the previous configuration stays in force.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// The reason, in one line.
    pub error: String,
    /// All mistakes in the file.
    pub mistakes: Vec<Diagnostic>,
}

/// Returns the time of a snapshot in the format of records.
pub(super) fn time(snapshot: &Snapshot) -> Timestamp {
    let since = snapshot.time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_nanos() as u64)
}

/// The account so far.
#[derive(Serialize)]
pub(super) struct Account<'a> {
    version: &'static str,
    time: Timestamp,
    #[serde(flatten)]
    stats: &'a Stats,
}

impl<'a> Account<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), time: time(snapshot), stats: &snapshot.stats }
    }
}

/// Returns the interfaces, each with the kernel's counters of it.
pub(super) fn interfaces(snapshot: &Snapshot) -> Value {
    #[derive(Serialize)]
    struct Object<'a> {
        #[serde(flatten)]
        interface: &'a Interface,
        link: &'a mirror_device::nic::Received,
    }
    let interfaces = snapshot.stats.interfaces.iter().zip(&snapshot.received);
    let objects: Vec<_> = interfaces.map(|(interface, link)| Object { interface, link }).collect();
    json!(objects)
}

/// Returns the workers, each with its interface and queue, and whether it moves.
pub(super) fn workers(stats: &Stats, health: &Health) -> Value {
    #[derive(Serialize)]
    struct Object<'a> {
        interface: &'a str,
        queue: u32,
        moving: bool,
        moved_ms_ago: u64,
        #[serde(flatten)]
        worker: &'a Worker,
    }
    let object = |(worker, watch): (_, &'_ Watch)| {
        json!(Object {
            interface: &watch.interface,
            queue: watch.queue,
            moving: watch.pulse.is_moving(),
            moved_ms_ago: watch.pulse.age().as_millis() as u64,
            worker,
        })
    };
    Value::Array(stats.workers.iter().zip(health.watches()).map(object).collect())
}

/// Returns the VNIs with the most packets, and the number of VNIs.
pub(super) fn vnis(policies: &[Policy], limit: usize) -> Value {
    let mut all: Vec<_> = policies
        .iter()
        .flat_map(|policy| policy.vnis.iter().map(|vni| (policy.interface.as_str(), vni)))
        .collect();
    all.sort_by_key(|(_, vni)| std::cmp::Reverse(vni.packets));
    let total = all.len();
    let objects: Vec<_> = all.into_iter().take(limit).map(|(interface, vni)| of(interface, vni)).collect();
    json!({ "total": total, "vnis": objects })
}

/// Returns the rules in the order in which they are tried, and the number of policies that have been in
/// force.
pub(super) fn rules(policies: &[Policy]) -> Value {
    let objects: Vec<_> = policies
        .iter()
        .flat_map(|policy| policy.rules.iter().map(|rule| of(&policy.interface, rule)))
        .collect();
    let generation = policies.iter().map(|policy| policy.generation).max().unwrap_or_default();
    json!({ "generation": generation, "rules": objects })
}

/// Returns an object with the name of its interface in front.
fn of(interface: &str, object: &impl Serialize) -> Value {
    let mut map = Map::new();
    map.insert("interface".to_owned(), interface.into());
    if let Ok(Value::Object(rest)) = serde_json::to_value(object) {
        map.extend(rest);
    }
    Value::Object(map)
}

/// Returns a flow as its `flow` event would be now, without the reason of its end.
pub(super) fn flow(flow: &FlowRecord) -> Value {
    let mut value = flow_object(flow).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("event_type");
        if let Some(flow) = object.get_mut("flow").and_then(Value::as_object_mut) {
            flow.remove("reason");
        }
    }
    value
}

/// Returns the metrics of services.
pub(super) fn services(standing: &[Standing]) -> Value {
    Value::Array(standing.iter().map(service).collect())
}

fn service(standing: &Standing) -> Value {
    let mut object = Map::new();
    if let Some(Ok(Value::Object(named))) = standing.service.as_ref().map(service_object) {
        object.extend(named);
    }
    for (name, metrics) in [("current", &standing.current), ("last", &standing.last)] {
        if let Some(metrics) = metrics {
            object.insert(name.to_owned(), json!(metrics));
        }
    }
    object.insert("total".to_owned(), total(&standing.total));
    Value::Object(object)
}

fn total(total: &Total) -> Value {
    let answered: u64 = total.latency.iter().sum();
    let mut below = 0;
    let buckets: Vec<_> = BUCKETS
        .iter()
        .zip(total.latency)
        .map(|(le, count)| {
            below += count;
            json!({ "le": le, "count": below })
        })
        .collect();
    json!({
        "requests": total.requests,
        "errors": total.errors,
        "latency_seconds": { "count": answered, "sum": total.latency_sum, "buckets": buckets },
        "connections": total.connections,
        "packets": total.packets,
        "retransmissions": total.retransmissions,
    })
}

/// Everything that the page shows.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    pub(super) version: &'static str,
    pub(super) time: Timestamp,
    pub(super) seconds: f64,
    pub(super) protocols: Protocols,
    pub(super) interfaces: Value,
    pub(super) workers: Value,
    pub(super) vnis: Value,
    pub(super) flows: &'a [Value],
    pub(super) services: Value,
    pub(super) records: &'a crate::stats::Records,
    pub(super) losses: Vec<Listed>,
    pub(super) notices: Vec<Listed>,
    pub(super) alerts: Vec<Alert>,
}
