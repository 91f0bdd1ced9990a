//! The form of those answers whose JSON is written elsewhere: flows and services look like records, which `mirror-records`
//! writes without an intermediate structure. A test compares these descriptions with real answers.

use std::collections::BTreeMap;

use utoipa::ToSchema;
use utoipa::openapi::{Object, ObjectBuilder, RefOr, Schema, Type};

use crate::stats::Named;

/// A flow as its `flow` event would be now, without the reason of its end (see `docs/records.md`). It does not include
/// the packets of a shunted flow that only the driver has counted yet.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
#[expect(clippy::struct_field_names, reason = "the API's names")]
pub(super) struct Flow {
    timestamp: String,
    flow_id: u64,
    vlan: Option<Vec<u16>>,
    src_ip: String,
    src_port: Option<u16>,
    dest_ip: String,
    dest_port: Option<u16>,
    proto: String,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    response_icmp_type: Option<u8>,
    response_icmp_code: Option<u8>,
    /// The index of an `IPsec` flow.
    spi: Option<u32>,
    app_proto: Option<String>,
    app_proto_orig: Option<String>,
    app_proto_ts: Option<String>,
    app_proto_tc: Option<String>,
    flow: FlowCounters,
    community_id: String,
    tcp: Option<Object>,
    tcp_perf: Option<Object>,
    mirror: Option<Mirror>,
}

/// The counters of a flow.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct FlowCounters {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    /// The time of the first packet.
    start: String,
    /// The time of the last packet.
    end: String,
    /// Seconds between the two.
    age: u64,
    state: FlowState,
    alerted: bool,
}

/// The state of a flow.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "a description only")]
pub(super) enum FlowState {
    New,
    Established,
    Closed,
}

/// The mirror session of a flow.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct Mirror {
    vni: u32,
    outer_src: String,
    outer_dst: String,
    /// The outer sources of the client's and of the server's packets, if these are two.
    sources: Option<Vec<String>>,
    /// The endpoint of a Gateway Load Balancer.
    endpoint: Option<String>,
}

/// The name of a service. Absent for the sum of all services that had no room of their own.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct ServiceName {
    dest_ip: Option<String>,
    dest_port: Option<u16>,
    proto: Option<String>,
    app_proto: Option<String>,
    vni: Option<u32>,
}

/// The metrics of an interval of one minute, as in `metrics` events.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct Metrics {
    start: String,
    end: String,
    requests: Option<u64>,
    errors: Option<u64>,
    latency_ms: Option<Quantiles>,
    connections: Option<u64>,
    retransmissions: Option<u64>,
    retransmission_rate: Option<f64>,
    rtt_ms: Option<Quantiles>,
    /// By operation, of databases, caches and queues.
    operations: Option<BTreeMap<String, Operation>>,
}

/// The metrics of an operation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct Operation {
    requests: u64,
    errors: u64,
    latency_ms: Option<Quantiles>,
}

/// Quantiles of a time, in milliseconds.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description only")]
pub(super) struct Quantiles {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// The names of counters depend on the version and the driver: the schema allows every name.
impl utoipa::PartialSchema for Named {
    fn schema() -> RefOr<Schema> {
        let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("Counters by name."))
            .additional_properties(Some(count))
            .into()
    }
}

impl ToSchema for Named {
    fn name() -> std::borrow::Cow<'static, str> {
        "Counters".into()
    }
}
