//! The metrics in Prometheus' text format, built from the counters for each scrape.
//!
//! Names follow its conventions: counters end in `_total`, units are seconds and bytes. The number of metrics
//! is bounded: VNIs with few packets are summed up as `other`, and services with few requests are omitted.

use mirror_records::apm::{BUCKETS, Standing, Total};
use mirror_records::eve::service_object;
use mirror_store::UploadCounters;
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Snapshot;
use super::view::protocols;
use crate::capture::Watch;
use crate::stats::{self, Policy, Vni};

/// The number of VNIs of an interface with metrics of their own.
const VNIS: usize = 1000;

/// The labels of a metric: names and values.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The name and help text of a family, and the function that reads its value.
type Counted<T> = (&'static str, &'static str, fn(&T) -> u64);

/// A list of metric families under construction.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// Starts a family, to which the following metrics belong.
    fn family(&mut self, kind: MetricType, name: &str, help: &str) {
        let mut family = MetricFamily::default();
        family.set_name(format!("mirror_xdp_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.0.push(family);
    }

    fn counters(&mut self, name: &str, help: &str) {
        self.family(MetricType::COUNTER, name, help);
    }

    fn gauges(&mut self, name: &str, help: &str) {
        self.family(MetricType::GAUGE, name, help);
    }

    fn metric(&mut self, labels: Labels<'_>, set: impl FnOnce(&mut Metric)) {
        let pair = |&(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(labels.iter().filter(|(_, value)| !value.is_empty()).map(pair).collect());
        set(&mut metric);
        if let Some(family) = self.0.last_mut() {
            family.mut_metric().push(metric);
        }
    }

    fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.counter(labels, value as f64);
    }

    fn counter(&mut self, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.metric(labels, |metric| metric.set_counter(counter));
    }

    fn gauge(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.metric(labels, |metric| metric.set_gauge(gauge));
    }

    /// Returns the text, without families that have no metrics.
    fn text(mut self) -> prometheus::Result<String> {
        self.0.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new().encode_to_string(&self.0)
    }
}

/// Returns all metrics as text.
pub(super) fn exposition(
    snapshot: &Snapshot,
    policies: &[Policy],
    services: &[Standing],
    watches: &[Watch],
    disk: Option<(u64, u64)>,
) -> prometheus::Result<String> {
    let mut families = Families::default();
    process(&mut families, snapshot, disk);
    interfaces(&mut families, snapshot);
    rings(&mut families, snapshot);
    workers(&mut families, snapshot, watches);
    if let Some(counters) = &snapshot.stats.upload {
        upload(&mut families, counters);
    }
    vnis(&mut families, policies);
    rules(&mut families, policies);
    measured(&mut families, services);
    families.text()
}

fn process(families: &mut Families, snapshot: &Snapshot, disk: Option<(u64, u64)>) {
    let stats = &snapshot.stats;
    families.gauges("build_info", "The running version.");
    families.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    families.gauges("uptime_seconds", "Time since the capture began.");
    families.gauge(&[], stats.seconds);
    families.counters("records_written_total", "Events in the log, by kind.");
    for &(event_type, count) in &stats.records.written.0 {
        families.count(&[("event_type", event_type)], count);
    }
    families.counters(
        "records_lost_total",
        "Records lost on the way to the log, or because it could not be written.",
    );
    families.count(&[], stats.records.lost);
    if let Some((free, all)) = disk {
        families.gauges("log_free_bytes", "Free bytes of the file system of the records.");
        families.gauge(&[], free as f64);
        families.gauges("log_size_bytes", "Size of the file system of the records.");
        families.gauge(&[], all as f64);
    }
    let sum = protocols(stats);
    let protocols = [("tcp", sum.tcp), ("udp", sum.udp), ("icmp", sum.icmp), ("other", sum.other)];
    families.counters("protocol_packets_total", "Packets of flows, by transport protocol.");
    for (protocol, traffic) in protocols {
        families.count(&[("protocol", protocol)], traffic.packets);
    }
    families.counters("protocol_bytes_total", "Bytes of flows, by transport protocol.");
    for (protocol, traffic) in protocols {
        families.count(&[("protocol", protocol)], traffic.bytes);
    }
}

fn interfaces(families: &mut Families, snapshot: &Snapshot) {
    let interfaces = || snapshot.stats.interfaces.iter().zip(&snapshot.received);
    families.gauges("interface_info", "The XDP mode of an interface.");
    for (interface, _) in interfaces() {
        families.gauge(&[("interface", &interface.name), ("mode", interface.mode.name())], 1.0);
    }
    families.gauges("interface_running", "Whether an interface is up and has a carrier.");
    for (interface, device) in interfaces() {
        families.gauge(&[("interface", &interface.name)], f64::from(u8::from(device.running)));
    }
    families.counters(
        "device_receive_packets_total",
        "Frames received by the interface, as the kernel counts them.",
    );
    for (interface, device) in interfaces() {
        families.count(&[("interface", &interface.name)], device.packets);
    }
    families.counters(
        "device_receive_bytes_total",
        "Bytes received by the interface, as the kernel counts them.",
    );
    for (interface, device) in interfaces() {
        families.count(&[("interface", &interface.name)], device.bytes);
    }
    families.counters(
        "device_receive_lost_total",
        "Frames that were lost before the XDP program saw them, by reason.",
    );
    for (interface, _) in interfaces() {
        let silent = interface.device.silent(interface.explained());
        for (known, _) in &interface.device.0 {
            let count = silent.0.iter().find(|(other, _)| other.name == known.name);
            let labels = [("interface", interface.name.as_str()), ("reason", known.name)];
            families.count(&labels, count.map_or(0, |&(_, count)| count));
        }
    }
    families.counters("frames_seen_total", "Frames that entered the XDP program.");
    for (interface, _) in interfaces() {
        families.count(&[("interface", &interface.name)], interface.program.seen);
    }
    families.counters(
        "frames_total",
        "Frames by what the XDP program did with them, and why; the sum equals the frames seen.",
    );
    for (interface, _) in interfaces() {
        let program = &interface.program;
        for (fate, reasons) in
            [("passed", &program.passed), ("dropped", &program.dropped), ("shunted", &program.shunted)]
        {
            for &(reason, count) in &reasons.0 {
                families.count(&[("interface", &interface.name), ("fate", fate), ("reason", reason)], count);
            }
        }
        let labels = [("interface", interface.name.as_str()), ("fate", "redirected"), ("reason", "captured")];
        families.count(&labels, program.redirected);
    }
    families.counters("frames_noted_total", "Further observations about frames, independent of their fate.");
    for (interface, _) in interfaces() {
        for &(note, count) in &interface.program.noted.0 {
            families.count(&[("interface", &interface.name), ("note", note)], count);
        }
    }
}

fn rings(families: &mut Families, snapshot: &Snapshot) {
    let rings: Vec<_> = snapshot
        .stats
        .interfaces
        .iter()
        .flat_map(|interface| {
            interface
                .rings
                .iter()
                .map(|ring| (interface.name.as_str(), ring.queue.to_string(), ring.worker.to_string(), ring))
        })
        .collect();
    families.counters("ring_delivered_frames_total", "Frames that workers took off the rings.");
    for (interface, queue, worker, ring) in &rings {
        families.count(&[("interface", interface), ("queue", queue), ("worker", worker)], ring.delivered);
    }
    families
        .counters("ring_lost_frames_total", "Frames that were lost between program and worker, by reason.");
    for (interface, queue, worker, ring) in &rings {
        for (reason, count) in
            [("rx_ring_full", ring.lost.rx_ring_full), ("rx_dropped", ring.lost.rx_dropped)]
        {
            families.count(
                &[("interface", interface), ("queue", queue), ("worker", worker), ("reason", reason)],
                count,
            );
        }
    }
    families.counters("ring_fill_empty_total", "How often the kernel found no free buffer.");
    for (interface, queue, worker, ring) in &rings {
        families
            .count(&[("interface", interface), ("queue", queue), ("worker", worker)], ring.fill_ring_empty);
    }
}

fn workers(families: &mut Families, snapshot: &Snapshot, watches: &[Watch]) {
    let workers: Vec<_> = snapshot
        .stats
        .workers
        .iter()
        .zip(watches)
        .map(|(worker, watch)| (worker.worker.to_string(), watch.queue.to_string(), worker, watch))
        .collect();
    families.gauges("worker_info", "The interface and the queue that a worker serves.");
    for (number, queue, _, watch) in &workers {
        families.gauge(&[("worker", number), ("interface", &watch.interface), ("queue", queue)], 1.0);
    }
    families.gauges("worker_still_seconds", "Time since the last turn of a worker's loop.");
    for (number, _, _, watch) in &workers {
        families.gauge(&[("worker", number)], watch.pulse.age().as_secs_f64());
    }
    families.counters("worker_refused_frames_total", "Frames that belong to no flow, by reason.");
    for (number, _, worker, _) in &workers {
        for &(reason, count) in &worker.refused.0 {
            families.count(&[("worker", number), ("reason", reason)], count);
        }
    }
    families
        .counters("worker_analysis_lost_total", "Losses of the analysis within analysed frames, by reason.");
    for (number, _, worker, _) in &workers {
        for &(reason, count) in &worker.analysis_lost.0 {
            families.count(&[("worker", number), ("reason", reason)], count);
        }
    }
    families.counters("worker_cpu_seconds_total", "CPU time that a worker has used.");
    for (number, _, worker, _) in &workers {
        families.counter(&[("worker", number)], worker.busy_ms as f64 / 1e3);
    }
    let counters: [Counted<stats::Worker>; 8] = [
        ("worker_delivered_frames_total", "Frames that a worker received.", |worker| worker.delivered),
        (
            "worker_delivered_bytes_total",
            "Bytes of the frames that a worker received, as mirrored.",
            |worker| worker.delivered_bytes,
        ),
        ("worker_analysed_frames_total", "Frames that went through the analysis.", |worker| worker.analysed),
        ("worker_handed_over_frames_total", "Frames handed over to the flow's worker.", |worker| {
            worker.hand_over.given
        }),
        (
            "worker_hand_over_lost_frames_total",
            "Frames lost because the flow's worker was too slow.",
            |worker| worker.hand_over.full,
        ),
        ("worker_flows_created_total", "Flows created.", |worker| worker.flows_total),
        ("worker_flows_shunted_total", "Flows that the driver has counted.", |worker| {
            worker.flows_shunted_total
        }),
        ("worker_records_lost_total", "Records lost because the queue of the log was full.", |worker| {
            worker.records_lost
        }),
    ];
    for (name, help, get) in counters {
        families.counters(name, help);
        for (number, _, worker, _) in &workers {
            families.count(&[("worker", number)], get(worker));
        }
    }
    let gauges: [Counted<stats::Worker>; 2] = [
        ("worker_flows", "Flows in the table.", |worker| worker.flows_active),
        ("worker_flows_shunted", "Flows that the driver counts now.", |worker| worker.flows_shunted),
    ];
    for (name, help, get) in gauges {
        families.gauges(name, help);
        for (number, _, worker, _) in &workers {
            families.gauge(&[("worker", number)], get(worker) as f64);
        }
    }
}

/// Adds the metrics of the upload of the packet store.
fn upload(families: &mut Families, counters: &UploadCounters) {
    let totals = [
        ("upload_segments_total", "Segments uploaded and verified.", counters.segments),
        ("upload_bytes_total", "Bytes of the uploaded segments and their indexes.", counters.bytes),
        ("upload_failures_total", "Failed uploads.", counters.failures),
    ];
    for (name, help, count) in totals {
        families.counters(name, help);
        families.count(&[], count);
    }
    let overdue = "Segments due for deletion that are not uploaded yet.";
    let gauges = [
        ("upload_failing", "Whether the last upload failed.", u64::from(counters.failing)),
        ("upload_waiting_segments", "Finished segments that are not uploaded yet.", counters.waiting),
        ("upload_waiting_bytes", "Bytes of the waiting segments and their indexes.", counters.waiting_bytes),
        ("upload_overdue_segments", overdue, counters.overdue),
    ];
    for (name, help, value) in gauges {
        families.gauges(name, help);
        families.gauge(&[], value as f64);
    }
}

/// Returns the VNIs of an interface with metrics of their own, by name, and the sum of all others.
fn bounded(policy: &Policy) -> Vec<(String, Vni)> {
    let mut named: Vec<_> = policy.vnis.iter().filter(|vni| vni.vni.is_some()).copied().collect();
    named.sort_by_key(|vni| (std::cmp::Reverse(vni.packets), vni.vni));
    let few = named.split_off(named.len().min(VNIS));
    let mut all: Vec<_> = named.iter().map(|vni| (vni.vni.unwrap_or_default().to_string(), *vni)).collect();
    let rest = few.iter().chain(policy.vnis.iter().filter(|vni| vni.vni.is_none()));
    let other = rest.copied().reduce(|mut sum, vni| {
        sum.packets += vni.packets;
        sum.bytes += vni.bytes;
        sum.dropped.rejected += vni.dropped.rejected;
        sum.dropped.sampled_out += vni.dropped.sampled_out;
        sum.dropped.shunted += vni.dropped.shunted;
        sum.dropped.not_admitted += vni.dropped.not_admitted;
        sum.dropped.undelivered += vni.dropped.undelivered;
        sum.idle_seconds = sum.idle_seconds.min(vni.idle_seconds);
        sum
    });
    all.extend(other.map(|vni| ("other".to_owned(), vni)));
    all
}

fn vnis(families: &mut Families, policies: &[Policy]) {
    let vnis: Vec<_> = policies
        .iter()
        .flat_map(|policy| {
            bounded(policy).into_iter().map(|(name, vni)| (policy.interface.as_str(), name, vni))
        })
        .collect();
    families.counters("vni_frames_total", "Frames of a VNI.");
    for (interface, name, vni) in &vnis {
        families.count(&[("interface", interface), ("vni", name)], vni.packets);
    }
    families.counters("vni_bytes_total", "Bytes of the inner frames of a VNI.");
    for (interface, name, vni) in &vnis {
        families.count(&[("interface", interface), ("vni", name)], vni.bytes);
    }
    families.counters("vni_dropped_frames_total", "Frames of a VNI that were not captured, by reason.");
    for (interface, name, vni) in &vnis {
        let dropped = &vni.dropped;
        for (reason, count) in [
            ("rejected", dropped.rejected),
            ("sampled_out", dropped.sampled_out),
            ("shunted", dropped.shunted),
            ("not_admitted", dropped.not_admitted),
            ("undelivered", dropped.undelivered),
        ] {
            families.count(&[("interface", interface), ("vni", name), ("reason", reason)], count);
        }
    }
    families.gauges("vni_idle_seconds", "Time since the last frame of a VNI.");
    for (interface, name, vni) in &vnis {
        families.gauge(&[("interface", interface), ("vni", name)], vni.idle_seconds as f64);
    }
}

fn rules(families: &mut Families, policies: &[Policy]) {
    families.gauges("policy_generation", "The number of policies that have been in force.");
    for policy in policies {
        families.gauge(&[("interface", &policy.interface)], f64::from(policy.generation));
    }
    let counters: [Counted<stats::Rule>; 2] = [
        (
            "rule_packets_total",
            "Packets that a rule decided on; rule=\"none\" counts packets that no rule matched.",
            |rule| rule.packets,
        ),
        ("rule_bytes_total", "Bytes of the inner frames that a rule decided on.", |rule| rule.bytes),
    ];
    for (name, help, get) in counters {
        families.counters(name, help);
        for policy in policies {
            for rule in &policy.rules {
                let number = rule.number.map_or_else(|| "none".to_owned(), |number| number.to_string());
                let labels = [
                    ("interface", policy.interface.as_str()),
                    ("set", &rule.set),
                    ("rule", &number),
                    ("direction", rule.direction.unwrap_or_default()),
                    ("action", &rule.action),
                ];
                families.count(&labels, get(rule));
            }
        }
    }
}

/// Returns the labels of a service: names and values.
fn labels(standing: &Standing) -> Vec<(&'static str, String)> {
    let Some(Ok(object)) = standing.service.as_ref().map(service_object) else {
        return vec![("address", "other".to_owned())];
    };
    let text = |name: &str| match &object[name] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    [
        ("vni", "vni"),
        ("address", "dest_ip"),
        ("port", "dest_port"),
        ("protocol", "proto"),
        ("application", "app_proto"),
    ]
    .map(|(label, name)| (label, text(name)))
    .into()
}

fn pairs<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn measured(families: &mut Families, services: &[Standing]) {
    let services: Vec<_> = services.iter().map(|standing| (labels(standing), &standing.total)).collect();
    let counters: [Counted<Total>; 5] = [
        ("service_requests_total", "Requests to a service.", |total| total.requests),
        ("service_errors_total", "Requests that a service failed to serve.", |total| total.errors),
        ("service_connections_total", "Connections to a service that ended.", |total| total.connections),
        ("service_packets_total", "Packets of connections that ended.", |total| total.packets),
        ("service_retransmissions_total", "Retransmissions in connections that ended.", |total| {
            total.retransmissions
        }),
    ];
    for (name, help, get) in counters {
        families.counters(name, help);
        for (labels, total) in &services {
            families.count(&pairs(labels), get(total));
        }
    }
    families.family(MetricType::HISTOGRAM, "service_latency_seconds", "Time until a service answered.");
    for (labels, total) in &services {
        let mut below = 0;
        let buckets = BUCKETS.iter().zip(total.latency).map(|(&bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(total.latency.iter().sum());
        histogram.set_sample_sum(total.latency_sum);
        families.metric(&pairs(labels), |metric| metric.set_histogram(histogram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::VniDropped;

    fn vni(vni: Option<u32>, packets: u64) -> Vni {
        let dropped = VniDropped { rejected: 1, sampled_out: 0, shunted: 0, not_admitted: 0, undelivered: 0 };
        Vni { vni, packets, bytes: packets * 100, dropped, idle_seconds: packets }
    }

    #[test]
    fn vnis_beyond_the_bound_are_counted_together() {
        let mut vnis: Vec<_> = (0..1200).map(|number| vni(Some(number), u64::from(number) + 1)).collect();
        vnis.push(vni(None, 7));
        let policy = Policy { interface: "v0".to_owned(), generation: 1, vnis, rules: Vec::new() };
        let bounded = bounded(&policy);
        assert_eq!(bounded.len(), VNIS + 1);
        assert_eq!(bounded[0].0, "1199");
        let (name, other) = &bounded[VNIS];
        assert_eq!((name.as_str(), other.packets), ("other", (1..=200).sum::<u64>() + 7));
        assert_eq!((other.dropped.rejected, other.idle_seconds), (201, 1));
    }

    #[test]
    fn what_names_of_sets_say_stays_in_their_label() {
        let mut families = Families::default();
        families.counters("rule_packets_total", "Packets.");
        families.count(&[("set", "a\"b\\c\n# TYPE x counter"), ("direction", "")], 3);
        families.gauges("empty", "No metric.");
        let text = families.text().unwrap();
        let [_, _, line] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!(*line, r#"mirror_xdp_rule_packets_total{set="a\"b\\c\n# TYPE x counter"} 3"#);
    }
}
