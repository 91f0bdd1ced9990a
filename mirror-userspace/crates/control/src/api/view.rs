//! The answers of the API. Their types are also their description, see `description.rs`.

use axum::Json;
use axum::http::StatusCode;
use mirror_device::nic::Received;
use mirror_engine::worker::Protocols;
use mirror_records::FlowRecord;
use mirror_records::apm::{BUCKETS, Metrics, Standing, Total};
use mirror_records::eve::{Timestamp, flow_object, service_object};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::alerts::Alert;
use super::{Phase, Snapshot, schema};
use crate::capture::Watch;
use crate::config::Diagnostic;
use crate::counters::Listed;
use crate::stats::{Interface, Policy, Records, Rule, Stats, Vni, Worker};

/// The body of an error response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failure {
    error: String,
}

/// Builds an error response.
pub(super) fn failure(status: StatusCode, what: impl Into<String>) -> (StatusCode, Json<Failure>) {
    (status, Json(Failure { error: what.into() }))
}

/// The result of a reload: the new configuration is in force.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reloaded {
    /// The number of rules in force.
    pub rules: usize,
    /// The keys of changed settings, except for rules and admission.
    pub changed: Vec<&'static str>,
    /// The rules that raise alerts, if their files have changed.
    pub signatures: Option<ChangedSignatures>,
    /// The time that the reload took.
    pub milliseconds: u64,
}

/// The rules that raise alerts, after a reload of their files.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChangedSignatures {
    /// The number of rules in force.
    pub rules: usize,
    /// The number of rules that are refused.
    pub refused: usize,
    /// The `sid` of each rule that was not in force before.
    pub added: Vec<u32>,
    /// The `sid` of each rule that is not in force any more.
    pub removed: Vec<u32>,
    /// The `sid` of each rule that has changed.
    pub changed: Vec<u32>,
}

/// The result of a refused reload: the previous configuration stays in force.
#[derive(Clone, Debug, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account<'a> {
    version: &'static str,
    #[schema(value_type = String)]
    time: Timestamp,
    #[serde(flatten)]
    stats: &'a Stats,
}

impl<'a> Account<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), time: time(snapshot), stats: &snapshot.stats }
    }
}

/// An interface with the kernel's counters of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InterfaceWithLink<'a> {
    #[serde(flatten)]
    interface: &'a Interface,
    link: &'a Received,
}

/// The interfaces.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Interfaces<'a> {
    pub(super) interfaces: Vec<InterfaceWithLink<'a>>,
}

/// Returns the interfaces, each with the kernel's counters of it.
pub(super) fn interfaces(snapshot: &Snapshot) -> Vec<InterfaceWithLink<'_>> {
    let interfaces = snapshot.stats.interfaces.iter().zip(&snapshot.received);
    interfaces.map(|(interface, link)| InterfaceWithLink { interface, link }).collect()
}

/// A worker with its interface and queue, and whether it moves.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkerWithQueue<'a> {
    /// The interface that it serves.
    interface: &'a str,
    /// The queue that it serves.
    queue: u32,
    /// False if it has not moved for two seconds.
    moving: bool,
    /// Milliseconds since its last turn.
    moved_ms_ago: u64,
    #[serde(flatten)]
    worker: &'a Worker,
}

/// The workers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workers<'a> {
    pub(super) workers: Vec<WorkerWithQueue<'a>>,
}

/// Returns the workers, each with its interface and queue, and whether it moves.
pub(super) fn workers<'a>(stats: &'a Stats, watches: &'a [Watch]) -> Vec<WorkerWithQueue<'a>> {
    let object = |(worker, watch): (&'a Worker, &'a Watch)| WorkerWithQueue {
        interface: &watch.interface,
        queue: watch.queue,
        moving: watch.pulse.is_moving(),
        moved_ms_ago: watch.pulse.age().as_millis() as u64,
        worker,
    };
    stats.workers.iter().zip(watches).map(object).collect()
}

/// The counters of a VNI on an interface.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InterfaceVni<'a> {
    interface: &'a str,
    #[serde(flatten)]
    vni: &'a Vni,
}

/// The VNIs with the most packets, and the number of VNIs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Vnis<'a> {
    total: usize,
    vnis: Vec<InterfaceVni<'a>>,
}

/// Returns the VNIs with the most packets, and the number of VNIs.
pub(super) fn vnis<'a>(policies: &'a [Policy], limit: usize) -> Vnis<'a> {
    let of = |policy: &'a Policy| {
        let Policy { interface, vnis, .. } = policy;
        vnis.iter().map(move |vni| InterfaceVni { interface, vni })
    };
    let mut vnis: Vec<_> = policies.iter().flat_map(of).collect();
    vnis.sort_by_key(|one| std::cmp::Reverse(one.vni.packets));
    let total = vnis.len();
    vnis.truncate(limit);
    Vnis { total, vnis }
}

/// The counters of a rule on an interface.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InterfaceRule<'a> {
    interface: &'a str,
    #[serde(flatten)]
    rule: &'a Rule,
}

/// The rules in the order in which they are tried.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rules<'a> {
    /// The number of policies that have been in force.
    generation: u32,
    rules: Vec<InterfaceRule<'a>>,
}

/// Returns the rules in the order in which they are tried, and the number of policies that have been in
/// force.
pub(super) fn rules<'a>(policies: &'a [Policy]) -> Rules<'a> {
    let of = |policy: &'a Policy| {
        let Policy { interface, rules, .. } = policy;
        rules.iter().map(move |rule| InterfaceRule { interface, rule })
    };
    let generation = policies.iter().map(|policy| policy.generation).max().unwrap_or_default();
    Rules { generation, rules: policies.iter().flat_map(of).collect() }
}

/// The largest flows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Flows<'a> {
    #[schema(value_type = Vec<schema::Flow>)]
    pub(super) flows: &'a [Value],
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

/// The metrics of a service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Service<'a> {
    /// Absent for the last of a list if it is the sum of all services that had no room of their own.
    #[serde(flatten)]
    #[schema(value_type = schema::ServiceName)]
    name: Option<Value>,
    /// The interval in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Metrics>)]
    current: Option<&'a Metrics>,
    /// The last complete interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Metrics>)]
    last: Option<&'a Metrics>,
    /// The time since the capture began.
    total: ServiceTotal,
}

/// The measurements of a service since the capture began.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServiceTotal {
    requests: u64,
    errors: u64,
    latency_seconds: Latency,
    /// Connections that ended.
    connections: u64,
    /// Packets of these connections.
    packets: u64,
    retransmissions: u64,
}

/// A histogram of response times.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Latency {
    count: u64,
    sum: f64,
    buckets: Vec<Bucket>,
}

/// The number of values up to a bound.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Bucket {
    le: f64,
    count: u64,
}

/// The services with the most requests and connections.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Services<'a> {
    pub(super) services: Vec<Service<'a>>,
}

/// Returns the metrics of services.
pub(super) fn services<'a>(standing: &'a [Standing]) -> Vec<Service<'a>> {
    let service = |one: &'a Standing| {
        let Standing { service, current, last, total, .. } = one;
        let name = service.as_ref().and_then(|service| service_object(service).ok());
        Service { name, current: current.as_ref(), last: last.as_ref(), total: ServiceTotal::from(total) }
    };
    standing.iter().map(service).collect()
}

impl From<&Total> for ServiceTotal {
    fn from(total: &Total) -> Self {
        let mut below = 0;
        let buckets = BUCKETS.iter().zip(total.latency).map(|(&le, count)| {
            below += count;
            Bucket { le, count: below }
        });
        let buckets = buckets.collect();
        let count = total.latency.iter().sum();
        Self {
            requests: total.requests,
            errors: total.errors,
            latency_seconds: Latency { count, sum: total.latency_sum, buckets },
            connections: total.connections,
            packets: total.packets,
            retransmissions: total.retransmissions,
        }
    }
}

/// The answer to `/healthz`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Liveness {
    pub(super) healthy: bool,
    pub(super) phase: Phase,
    /// The number of workers.
    pub(super) workers: usize,
    /// Workers that do not move.
    pub(super) still: Vec<usize>,
}

/// The answer to `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) phase: Phase,
    /// A line for each link that is down.
    pub(super) reasons: Vec<String>,
}

/// Everything that the page shows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Summary<'a> {
    pub(super) version: &'static str,
    #[schema(value_type = String)]
    pub(super) time: Timestamp,
    /// Seconds since the capture began.
    pub(super) seconds: f64,
    pub(super) protocols: Protocols,
    pub(super) interfaces: Vec<InterfaceWithLink<'a>>,
    pub(super) workers: Vec<WorkerWithQueue<'a>>,
    pub(super) vnis: Vnis<'a>,
    #[schema(value_type = Vec<schema::Flow>)]
    pub(super) flows: &'a [Value],
    pub(super) services: Vec<Service<'a>>,
    pub(super) records: &'a Records,
    /// Losses that are not 0.
    pub(super) losses: Vec<Listed>,
    /// Other counts that deserve attention and are not 0; nothing is lost.
    pub(super) notices: Vec<Listed>,
    pub(super) alerts: Vec<Alert>,
}
