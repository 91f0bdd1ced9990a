//! The replies of the API, as far as `top` shows them. Unknown fields of a newer appliance are ignored, and
//! fields that an older one lacks get default values, so that either can be shown.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Counters by name.
type Counters = BTreeMap<String, u64>;

/// The answer to `/api/v1/summary`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Summary {
    pub(super) version: String,
    pub(super) time: String,
    /// Seconds since the capture began.
    pub(super) seconds: f64,
    pub(super) protocols: BTreeMap<String, Traffic>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) workers: Vec<Worker>,
    pub(super) vnis: Vnis,
    pub(super) flows: Vec<Flow>,
    pub(super) services: Vec<Service>,
    pub(super) records: Records,
    pub(super) losses: Vec<Loss>,
    /// Counts of which nothing is lost.
    pub(super) notices: Vec<Loss>,
    pub(super) alerts: Vec<Alert>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Traffic {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mode: String,
    pub(super) zero_copy: bool,
    pub(super) huge_pages: bool,
    pub(super) program: Program,
    pub(super) link: Link,
}

impl Interface {
    /// Formats the mode in which frames are received.
    pub(super) fn mode_in_force(&self) -> String {
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let pages = if self.huge_pages { ", huge pages" } else { "" };
        format!("{}, {copy}{pages}", self.mode)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Program {
    pub(super) seen: u64,
    pub(super) redirected: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) running: bool,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the API's names")]
pub(super) struct Worker {
    pub(super) worker: u64,
    pub(super) interface: String,
    pub(super) queue: u64,
    pub(super) moving: bool,
    pub(super) moved_ms_ago: u64,
    pub(super) delivered: u64,
    pub(super) delivered_bytes: u64,
    pub(super) refused: Counters,
    pub(super) flows_active: u64,
    pub(super) flows_shunted: u64,
    pub(super) records_lost: u64,
    pub(super) busy_ms: u64,
}

impl Worker {
    /// Returns the number of frames that belong to no flow.
    pub(super) fn refused(&self) -> u64 {
        sum(self.refused.values().copied())
    }
}

/// The answer to `/api/v1/vnis`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Vnis {
    pub(super) total: u64,
    pub(super) vnis: Vec<Vni>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the API's names")]
pub(super) struct Vni {
    pub(super) interface: String,
    pub(super) vni: Option<u32>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) dropped: Counters,
    pub(super) idle_seconds: u64,
}

impl Vni {
    /// Returns the number of frames that the policy dropped or did not capture.
    pub(super) fn dropped(&self) -> u64 {
        let wanted = self.dropped.iter().filter(|(reason, _)| *reason != "undelivered");
        sum(wanted.map(|(_, count)| *count))
    }

    /// Returns the number of frames that should have been delivered but were not.
    pub(super) fn lost(&self) -> u64 {
        self.dropped.get("undelivered").copied().unwrap_or_default()
    }
}

/// The answer to `/api/v1/flows`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Flows {
    pub(super) flows: Vec<Flow>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the API's names")]
pub(super) struct Flow {
    pub(super) flow_id: u64,
    pub(super) src_ip: String,
    pub(super) src_port: Option<u64>,
    pub(super) dest_ip: String,
    pub(super) dest_port: Option<u64>,
    pub(super) proto: String,
    pub(super) app_proto: Option<String>,
    pub(super) flow: FlowCounters,
    pub(super) mirror: Option<Mirror>,
}

impl Flow {
    pub(super) fn packets(&self) -> u64 {
        self.flow.pkts_toserver.saturating_add(self.flow.pkts_toclient)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.flow.bytes_toserver.saturating_add(self.flow.bytes_toclient)
    }

    pub(super) fn vni(&self) -> Option<u32> {
        self.mirror.as_ref().map(|mirror| mirror.vni)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FlowCounters {
    pub(super) pkts_toserver: u64,
    pub(super) pkts_toclient: u64,
    pub(super) bytes_toserver: u64,
    pub(super) bytes_toclient: u64,
    /// The times of its first and its last packet, in the format of records.
    pub(super) start: String,
    pub(super) end: String,
    pub(super) age: u64,
    pub(super) state: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mirror {
    pub(super) vni: u32,
}

/// The answer to `/api/v1/services`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Services {
    pub(super) services: Vec<Service>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) vni: Option<u32>,
    /// Absent for the sum of all services that had no room of their own.
    pub(super) dest_ip: Option<String>,
    pub(super) dest_port: Option<u64>,
    pub(super) app_proto: Option<String>,
    pub(super) current: Option<Metrics>,
    pub(super) last: Option<Metrics>,
    pub(super) total: Total,
}

impl Service {
    /// Returns the metrics of the last complete minute. If that minute has no latencies, returns those of the
    /// current minute if it has.
    pub(super) fn measured(&self) -> Option<&Metrics> {
        let both = [self.last.as_ref(), self.current.as_ref()];
        both.into_iter().flatten().find(|metrics| metrics.latency_ms.is_some()).or(self.last.as_ref())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metrics {
    pub(super) latency_ms: Option<Quantiles>,
    pub(super) retransmission_rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Total {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) connections: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Records {
    pub(super) written: Counters,
    pub(super) lost: u64,
}

impl Records {
    pub(super) fn written(&self) -> u64 {
        sum(self.written.values().copied())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Loss {
    pub(super) stage: String,
    pub(super) place: String,
    pub(super) reason: String,
    pub(super) count: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Alert {
    pub(super) severity: String,
    pub(super) text: String,
}

/// Sums up counts, saturating at the largest number instead of wrapping.
pub(super) fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}
