//! The table of all counters and other metrics, in the order of the stages.

use mirror_engine::worker::Traffic;
use mirror_records::apm::{BUCKETS, Service, Standing, Total};
use mirror_records::eve::service_object;
use mirror_store::UploadCounters;

use super::Condition::{Is, NoneOf};
use super::Severity::{Critical, Info, Warning};
use super::Shown::{Loss, Notice};
use super::{CounterSpec, Kind, LossSpec, Samples, Shown, Source, Stage, Value};
use crate::stats::{Interface, Ring, Rule, Store, Vni, Worker};

/// The number of VNIs of an interface with metrics of their own.
pub(super) const VNIS: usize = 1000;

/// A counter of which only the rest is left to say.
const COUNTER: CounterSpec = CounterSpec {
    metric: "",
    kind: Kind::Counter,
    stage: Stage::Process,
    labels: &[],
    account: "",
    help: "",
    reasons: &[],
    action: "",
    shown: Shown::No,
    shown_as: ("", ""),
    read: |_, _| {},
};

const GAUGE: CounterSpec = CounterSpec { kind: Kind::Gauge, ..COUNTER };

const FASTER: &str = "more queues, more sockets per queue, more cores, or rules that capture less";
const DEVICE: &str = "the log names a remedy when a counter first rises; `mirror-xdp doctor` checks the settings; \
                      see [ena.md](ena.md#frames-that-the-device-loses)";
const MALFORMED: &str = "find the other sender to this port";

/// The reasons for which the policy asks to drop frames.
const POLICY: &[&str] = &["source_not_admitted", "vni_not_admitted", "filter_rejected", "sampled_out"];

/// The reasons for which a packet belongs to no flow.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("link_type", "the link layer is not supported", ""),
    ("link_truncated", "ends within the link layer", ""),
    ("not_ip", "neither IPv4 nor IPv6: ARP, spanning tree, …", ""),
    ("ip_header", "the IP header is cut short or contradicts itself", ""),
    ("fragment", "a fragment that fits no datagram, or one of too many pieces", ""),
    ("fragment_memory", "a fragment of a datagram that was given up at a memory limit", ""),
    ("fragment_incomplete", "a fragment of a datagram of which others did not arrive within 60 s", ""),
    ("ip_protocol", "an IP protocol for which no flows are tracked", ""),
    ("transport_header", "the transport header is cut short or contradicts itself", ""),
    ("icmp_error", "an ICMP error about an unknown flow", ""),
    ("nesting", "more nested packets than any legitimate sender produces", ""),
];

/// Returns the frames that the program passed, dropped, shunted and redirected, by reason.
fn fates(interface: &Interface) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let program = &interface.program;
    let reasons = [("passed", &program.passed), ("dropped", &program.dropped), ("shunted", &program.shunted)];
    let named = reasons
        .into_iter()
        .flat_map(|(fate, reasons)| reasons.0.iter().map(move |&(reason, count)| (fate, reason, count)));
    named.chain([("redirected", "captured", program.redirected)])
}

fn each_ring(source: &Source<'_>, mut read: impl FnMut(&str, &Ring)) {
    for interface in &source.stats.interfaces {
        for ring in &interface.rings {
            read(&interface.name, ring);
        }
    }
}

fn each_worker(source: &Source<'_>, samples: &mut Samples, count: fn(&Worker) -> u64) {
    for worker in &source.stats.workers {
        samples.count(&[&worker.worker], count(worker));
    }
}

/// Reads counters of a worker by reason.
fn by_reason(source: &Source<'_>, samples: &mut Samples, of: fn(&Worker) -> Option<&crate::stats::Named>) {
    for worker in &source.stats.workers {
        for (reason, count) in of(worker).into_iter().flat_map(|named| &named.0) {
            samples.count(&[&worker.worker, reason], *count);
        }
    }
}

fn each_store(source: &Source<'_>, samples: &mut Samples, count: fn(&Store) -> u64) {
    for worker in &source.stats.workers {
        if let Some(store) = &worker.store {
            samples.count(&[&worker.worker], count(store));
        }
    }
}

/// Returns the traffic of all workers by transport protocol.
fn protocols(source: &Source<'_>) -> [(&'static str, Traffic); 4] {
    let sum = source.stats.protocols();
    [("tcp", sum.tcp), ("udp", sum.udp), ("icmp", sum.icmp), ("other", sum.other)]
}

fn upload(source: &Source<'_>, samples: &mut Samples, count: fn(&UploadCounters) -> u64) {
    if let Some(counters) = &source.stats.upload {
        samples.count(&[], count(counters));
    }
}

/// Returns the VNIs of an interface with metrics of their own, by name, and the sum of all others.
pub(super) fn bounded(vnis: &[Vni]) -> Vec<(String, Vni)> {
    let mut named: Vec<_> = vnis.iter().filter(|vni| vni.vni.is_some()).copied().collect();
    named.sort_by_key(|vni| (std::cmp::Reverse(vni.packets), vni.vni));
    let few = named.split_off(named.len().min(VNIS));
    let mut all: Vec<_> = named.iter().map(|vni| (vni.vni.unwrap_or_default().to_string(), *vni)).collect();
    let rest = few.iter().chain(vnis.iter().filter(|vni| vni.vni.is_none()));
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

fn each_vni(source: &Source<'_>, mut read: impl FnMut(&str, &str, &Vni)) {
    for policy in source.policies {
        for (name, vni) in bounded(&policy.vnis) {
            read(&policy.interface, &name, &vni);
        }
    }
}

const RULE: &[&str] = &["interface", "set", "rule", "direction", "action"];

fn each_rule(source: &Source<'_>, samples: &mut Samples, count: fn(&Rule) -> u64) {
    for policy in source.policies {
        for rule in &policy.rules {
            let number = rule.number.map_or_else(|| "none".to_owned(), |number| number.to_string());
            let direction = rule.direction.unwrap_or_default();
            samples.count(&[&policy.interface, &rule.set, &number, &direction, &rule.action], count(rule));
        }
    }
}

const SERVICE: &[&str] = &["vni", "address", "port", "protocol", "application"];
const OPERATION: &[&str] = &["vni", "address", "port", "protocol", "application", "operation"];

/// Returns the labels of a service.
fn service_labels(service: Option<&Service>) -> [String; 5] {
    let object = service.and_then(|service| service_object(service).ok());
    let text = |name: &str| match object.as_ref().map(|object| &object[name]) {
        Some(serde_json::Value::String(text)) => text.clone(),
        None if name == "dest_ip" => "other".to_owned(),
        None | Some(serde_json::Value::Null) => String::new(),
        Some(other) => other.to_string(),
    };
    ["vni", "dest_ip", "dest_port", "proto", "app_proto"].map(text)
}

fn each_service(source: &Source<'_>, samples: &mut Samples, value: fn(&Total) -> Value) {
    for Standing { service, total, .. } in source.services {
        let [vni, address, port, protocol, application] = service_labels(service.as_ref());
        samples.add(&[&vni, &address, &port, &protocol, &application], value(total));
    }
}

fn each_operation(source: &Source<'_>, samples: &mut Samples, value: fn(&Total) -> Value) {
    for Standing { service, operations, .. } in source.services {
        let [vni, address, port, protocol, application] = service_labels(service.as_ref());
        for (operation, total) in operations {
            samples.add(&[&vni, &address, &port, &protocol, &application, operation], value(total));
        }
    }
}

fn latency(total: &Total) -> Value {
    let mut below = 0;
    let buckets = BUCKETS.iter().zip(total.latency).map(|(&bound, count)| {
        below += count;
        (bound, below)
    });
    Value::Histogram(buckets.collect(), total.latency_sum, total.latency.iter().sum())
}

/// All counters and other metrics, in the order of the stages.
pub const COUNTERS: &[CounterSpec] = &[
    // Process.
    CounterSpec {
        metric: "build_info",
        labels: &["version"],
        help: "The running version.",
        read: |_, samples| samples.count(&[&env!("CARGO_PKG_VERSION")], 1),
        ..GAUGE
    },
    CounterSpec {
        metric: "uptime_seconds",
        account: "seconds",
        help: "Time since the capture began.",
        read: |source, samples| samples.number(&[], source.stats.seconds),
        ..GAUGE
    },
    // Device.
    CounterSpec {
        metric: "interface_info",
        stage: Stage::Device,
        labels: &["interface", "mode"],
        account: "interfaces[].mode",
        help: "The XDP mode of an interface.",
        read: |source, samples| {
            for interface in &source.stats.interfaces {
                samples.count(&[&interface.name, &interface.mode.name()], 1);
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "interface_running",
        stage: Stage::Device,
        labels: &["interface"],
        help: "Whether an interface is up and has a carrier.",
        read: |source, samples| {
            for (interface, received) in source.stats.interfaces.iter().zip(source.received) {
                samples.count(&[&interface.name], u64::from(received.running));
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "device_receive_packets_total",
        stage: Stage::Device,
        labels: &["interface"],
        help: "Frames received by the interface, as the kernel counts them.",
        read: |source, samples| {
            for (interface, received) in source.stats.interfaces.iter().zip(source.received) {
                samples.count(&[&interface.name], received.packets);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "device_receive_bytes_total",
        stage: Stage::Device,
        labels: &["interface"],
        help: "Bytes received by the interface, as the kernel counts them.",
        read: |source, samples| {
            for (interface, received) in source.stats.interfaces.iter().zip(source.received) {
                samples.count(&[&interface.name], received.bytes);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "device_receive_lost_total",
        stage: Stage::Device,
        labels: &["interface", "reason"],
        account: "interfaces[].device",
        help: "Frames that NIC and driver lost before the XDP program saw them, by the name of their counter. Beside \
               the account, not part of it. The account has the driver's numbers; of counters that include frames \
               that the program dropped (such as `xdp_drop` of ENA), the metric and the losses have only the excess.",
        action: DEVICE,
        shown: Loss(LossSpec {
            severity: Critical,
            alert: "DeviceLoss",
            what: "frames lost by the device",
            only: &[],
        }),
        read: |source, samples| {
            for interface in &source.stats.interfaces {
                let silent = interface.device.silent(interface.explained());
                for (known, _) in &interface.device.0 {
                    let count = silent.0.iter().find(|(other, _)| other.name == known.name);
                    samples.count(&[&interface.name, &known.name], count.map_or(0, |&(_, count)| count));
                }
            }
        },
        ..COUNTER
    },
    // Program.
    CounterSpec {
        metric: "frames_seen_total",
        stage: Stage::Program,
        labels: &["interface"],
        account: "interfaces[].program.seen",
        help: "Frames that entered the XDP program.",
        read: |source, samples| {
            for interface in &source.stats.interfaces {
                samples.count(&[&interface.name], interface.program.seen);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "frames_total",
        stage: Stage::Program,
        labels: &["interface", "fate", "reason"],
        account: "interfaces[].program: passed, dropped, shunted, redirected",
        help: "Frames by what the XDP program did with them, and why; the sum equals the frames seen.",
        reasons: &[
            ("not_mirror", "passed: not UDP to a port of mirror traffic; the host's own traffic", ""),
            (
                "outer_later_fragment",
                "passed: a later fragment of an outer packet. AWS does not fragment, it truncates",
                "look for a tunnel or a smaller MTU on the path",
            ),
            (
                "outer_not_linear",
                "passed: the outer headers extend beyond the first buffer of a frame",
                "none, unless there are many",
            ),
            (
                "geneve_not_mirror",
                "passed: GENEVE with other content, such as traffic that a load balancer has inspected",
                "",
            ),
            (
                "outer_fragment",
                "dropped: the first fragment of an outer packet",
                "look for a tunnel or a smaller MTU on the path",
            ),
            ("outer_ip_length", "dropped: the outer IP length is wrong", MALFORMED),
            ("outer_udp_length", "dropped: the outer UDP length is wrong", MALFORMED),
            ("vxlan_truncated", "dropped: the datagram ends within the VXLAN header", MALFORMED),
            ("vxlan_no_vni", "dropped: the VXLAN header has no valid VNI", MALFORMED),
            ("vxlan_next_protocol", "dropped: VXLAN-GPE without an Ethernet frame", MALFORMED),
            ("geneve_truncated", "dropped: the datagram ends within the GENEVE header", MALFORMED),
            ("geneve_version", "dropped: GENEVE of an unknown version", MALFORMED),
            ("inner_too_short", "dropped: shorter than an Ethernet header after decapsulation", MALFORMED),
            (
                "headers_not_linear",
                "dropped: the outer headers of mirror traffic extend beyond the first buffer",
                "a smaller MTU",
            ),
            (
                "no_headroom",
                "dropped: the kernel did not move the frame's start or end",
                "report it as a bug",
            ),
            (
                "source_not_admitted",
                "dropped: the configuration does not admit the source",
                "add the source to `[admission]`, or find the sender",
            ),
            (
                "vni_not_admitted",
                "dropped: the configuration does not admit the VNI",
                "add the VNI, or find the sender",
            ),
            ("filter_rejected", "dropped: a rule rejected it, or no rule of its set matched", ""),
            ("sampled_out", "dropped: its flow is not in the sample of a rule", ""),
            (
                "no_socket",
                "dropped: no socket is bound to the queue",
                "restart the capture after changing queues",
            ),
            (
                "flow",
                "shunted: counted by the program instead of analysed; the flow's record includes these packets",
                "",
            ),
            ("rule", "shunted: a rule asks to count it only", ""),
            ("captured", "redirected to a socket", ""),
        ],
        shown: Loss(LossSpec {
            severity: Warning,
            alert: "ProgramDrops",
            what: "frames dropped as malformed or undeliverable",
            only: &[Is("fate", "dropped"), NoneOf("reason", POLICY)],
        }),
        action: "by reason, see [counters.md](counters.md#xdp-program)",
        read: |source, samples| {
            for interface in &source.stats.interfaces {
                for (fate, reason, count) in fates(interface) {
                    samples.count(&[&interface.name, &fate, &reason], count);
                }
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "frames_noted_total",
        stage: Stage::Program,
        labels: &["interface", "note"],
        account: "interfaces[].program.noted",
        help: "Further observations about frames, independent of their fate.",
        reasons: &[
            ("vxlan_gpe", "the VXLAN header has the P flag of VXLAN-GPE", ""),
            ("vxlan_group_policy", "the VXLAN header has the G flag of the group policy extension", ""),
            (
                "inner_not_linear",
                "the inner headers of a jumbo frame extend beyond its first buffer, so the rules saw only a part",
                "none, unless there are many",
            ),
            ("judged", "judged by all the rules: the remembered decision of its flow did not apply", ""),
            ("vni_uncounted", "of a VNI for which there is no room to keep counters", ""),
        ],
        read: |source, samples| {
            for interface in &source.stats.interfaces {
                for (note, count) in &interface.program.noted.0 {
                    samples.count(&[&interface.name, note], *count);
                }
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "missed_datagrams_total",
        stage: Stage::Program,
        account: "missed",
        help: "Datagrams to the ports of mirror traffic that reached the network stack instead of the capture. No \
               other counter includes them. A few are usual while a capture starts.",
        action: "capture on the interface that they arrive on; use native mode if the source runs on the same host",
        shown: Loss(LossSpec {
            severity: Warning,
            alert: "TrafficMissed",
            what: "datagrams of mirror traffic missed by the capture",
            only: &[],
        }),
        shown_as: ("network stack", "missed"),
        read: |source, samples| samples.count(&[], source.stats.missed),
        ..COUNTER
    },
    // Policy.
    CounterSpec {
        metric: "policy_generation",
        stage: Stage::Policy,
        labels: &["interface"],
        account: "policies[].generation",
        help: "The number of policies that have been in force.",
        read: |source, samples| {
            for policy in source.policies {
                samples.count(&[&policy.interface], policy.generation.into());
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "vni_frames_total",
        stage: Stage::Policy,
        labels: &["interface", "vni"],
        account: "policies[].vnis[].packets",
        help: "Frames of a VNI. The 1,000 VNIs with the most packets of each interface have series of their own; \
               `vni=\"other\"` is the sum of all others.",
        read: |source, samples| {
            each_vni(source, |interface, name, vni| samples.count(&[&interface, &name], vni.packets));
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "vni_bytes_total",
        stage: Stage::Policy,
        labels: &["interface", "vni"],
        account: "policies[].vnis[].bytes",
        help: "Bytes of the inner frames of a VNI.",
        read: |source, samples| {
            each_vni(source, |interface, name, vni| samples.count(&[&interface, &name], vni.bytes));
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "vni_dropped_frames_total",
        stage: Stage::Policy,
        labels: &["interface", "vni", "reason"],
        account: "policies[].vnis[].dropped",
        help: "Frames of a VNI that were not captured, by reason.",
        read: |source, samples| {
            each_vni(source, |interface, name, vni| {
                let dropped = &vni.dropped;
                for (reason, count) in [
                    ("rejected", dropped.rejected),
                    ("sampled_out", dropped.sampled_out),
                    ("shunted", dropped.shunted),
                    ("not_admitted", dropped.not_admitted),
                    ("undelivered", dropped.undelivered),
                ] {
                    samples.count(&[&interface, &name, &reason], count);
                }
            });
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "vni_idle_seconds",
        stage: Stage::Policy,
        labels: &["interface", "vni"],
        account: "policies[].vnis[].idle_seconds",
        help: "Time since the last frame of a VNI.",
        read: |source, samples| {
            each_vni(source, |interface, name, vni| samples.count(&[&interface, &name], vni.idle_seconds));
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "rule_packets_total",
        stage: Stage::Policy,
        labels: RULE,
        account: "policies[].rules[].packets",
        help: "Packets that a rule decided on; rule=\"none\" counts packets that no rule matched.",
        read: |source, samples| each_rule(source, samples, |rule| rule.packets),
        ..COUNTER
    },
    CounterSpec {
        metric: "rule_bytes_total",
        stage: Stage::Policy,
        labels: RULE,
        account: "policies[].rules[].bytes",
        help: "Bytes of the inner frames that a rule decided on.",
        read: |source, samples| each_rule(source, samples, |rule| rule.bytes),
        ..COUNTER
    },
    // Rings.
    CounterSpec {
        metric: "ring_delivered_frames_total",
        stage: Stage::Ring,
        labels: &["interface", "queue", "worker"],
        account: "interfaces[].rings[].delivered",
        help: "Frames that workers took off the rings.",
        read: |source, samples| {
            each_ring(source, |interface, ring| {
                samples.count(&[&interface, &ring.queue, &ring.worker], ring.delivered);
            });
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "ring_lost_frames_total",
        stage: Stage::Ring,
        labels: &["interface", "queue", "worker", "reason"],
        account: "interfaces[].rings[].lost",
        help: "Frames that were lost between program and worker, by reason.",
        reasons: &[
            ("rx_ring_full", "the worker of this socket was too slow", FASTER),
            (
                "rx_dropped",
                "no buffer was free, or the frame was longer than a buffer",
                "a larger `ring`; more cores",
            ),
        ],
        action: FASTER,
        shown: Loss(LossSpec {
            severity: Critical,
            alert: "RingLoss",
            what: "frames lost between program and workers",
            only: &[],
        }),
        read: |source, samples| {
            each_ring(source, |interface, ring| {
                let lost = [("rx_ring_full", ring.lost.rx_ring_full), ("rx_dropped", ring.lost.rx_dropped)];
                for (reason, count) in lost {
                    samples.count(&[&interface, &ring.queue, &ring.worker, &reason], count);
                }
            });
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "ring_fill_empty_total",
        stage: Stage::Ring,
        labels: &["interface", "queue", "worker"],
        account: "interfaces[].rings[].fill_ring_empty",
        help: "How often the kernel found no free buffer; `rx_dropped` includes the frames.",
        action: "a larger `ring`",
        read: |source, samples| {
            each_ring(source, |interface, ring| {
                samples.count(&[&interface, &ring.queue, &ring.worker], ring.fill_ring_empty);
            });
        },
        ..COUNTER
    },
    // Handoff.
    CounterSpec {
        metric: "worker_handed_over_frames_total",
        stage: Stage::Handoff,
        labels: &["worker"],
        account: "workers[].hand_over.given",
        help: "Frames handed over to the flow's worker.",
        read: |source, samples| each_worker(source, samples, |worker| worker.hand_over.given),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_taken_over_frames_total",
        stage: Stage::Handoff,
        labels: &["worker"],
        account: "workers[].hand_over.taken",
        help: "Frames taken over from other workers.",
        read: |source, samples| each_worker(source, samples, |worker| worker.hand_over.taken),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_hand_over_lost_frames_total",
        stage: Stage::Handoff,
        labels: &["worker"],
        account: "workers[].hand_over.full",
        help: "Frames lost because the flow's worker was too slow to accept them.",
        action: FASTER,
        shown: Loss(LossSpec {
            severity: Critical,
            alert: "HandoffLoss",
            what: "frames lost from worker to worker",
            only: &[],
        }),
        shown_as: ("", "hand_over_full"),
        read: |source, samples| each_worker(source, samples, |worker| worker.hand_over.full),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_handed_over_datagrams_total",
        stage: Stage::Handoff,
        labels: &["worker"],
        account: "workers[].hand_over.datagrams_given",
        help: "Datagrams reassembled from fragments and handed over to the flow's worker.",
        read: |source, samples| each_worker(source, samples, |worker| worker.hand_over.datagrams_given),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_kept_datagrams_total",
        stage: Stage::Handoff,
        labels: &["worker"],
        account: "workers[].hand_over.datagrams_kept",
        help: "Reassembled datagrams analysed by the wrong worker because the flow's worker was too slow. Nothing is \
               lost, but the flow has two records.",
        action: FASTER,
        shown: Notice,
        shown_as: ("", "datagrams_kept"),
        read: |source, samples| each_worker(source, samples, |worker| worker.hand_over.datagrams_kept),
        ..COUNTER
    },
    // Workers.
    CounterSpec {
        metric: "worker_info",
        stage: Stage::Worker,
        labels: &["worker", "interface", "queue"],
        help: "The interface and the queue that a worker serves.",
        read: |source, samples| {
            for (worker, watch) in source.stats.workers.iter().zip(source.watches) {
                samples.count(&[&worker.worker, &watch.interface, &watch.queue], 1);
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "worker_still_seconds",
        stage: Stage::Worker,
        labels: &["worker"],
        help: "Time since the last turn of a worker's loop.",
        read: |source, samples| {
            for (worker, watch) in source.stats.workers.iter().zip(source.watches) {
                samples.number(&[&worker.worker], watch.pulse.age().as_secs_f64());
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "worker_cpu_seconds_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].busy_ms",
        help: "CPU time that a worker has used.",
        read: |source, samples| {
            for worker in &source.stats.workers {
                samples.number(&[&worker.worker], worker.busy_ms as f64 / 1e3);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_delivered_frames_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].delivered",
        help: "Frames that a worker received.",
        read: |source, samples| each_worker(source, samples, |worker| worker.delivered),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_delivered_bytes_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].delivered_bytes",
        help: "Bytes of the frames that a worker received, as mirrored.",
        read: |source, samples| each_worker(source, samples, |worker| worker.delivered_bytes),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_analysed_frames_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].analysed",
        help: "Frames that went through the analysis.",
        read: |source, samples| each_worker(source, samples, |worker| worker.analysed),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_refused_frames_total",
        stage: Stage::Worker,
        labels: &["worker", "reason"],
        account: "workers[].refused",
        help: "Frames that belong to no flow, by reason.",
        reasons: REFUSALS,
        action: "none, unless there are many",
        shown: Loss(LossSpec {
            severity: Info,
            alert: "FramesRefused",
            what: "frames that belong to no flow",
            only: &[],
        }),
        read: |source, samples| by_reason(source, samples, |worker| Some(&worker.refused)),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_refused_nested_packets_total",
        stage: Stage::Worker,
        labels: &["worker", "reason"],
        account: "workers[].refused_nested",
        help: "Packets within other packets that belong to no flow, by reason. Their frames are analysed.",
        reasons: REFUSALS,
        action: "none, unless there are many",
        shown: Loss(LossSpec {
            severity: Info,
            alert: "NestedPacketsRefused",
            what: "packets within tunnels that belong to no flow",
            only: &[],
        }),
        read: |source, samples| by_reason(source, samples, |worker| Some(&worker.refused_nested)),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_waiting_frames",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].waiting",
        help: "Frames with fragments of datagrams that are not complete yet.",
        read: |source, samples| each_worker(source, samples, |worker| worker.waiting),
        ..GAUGE
    },
    CounterSpec {
        metric: "worker_duplicate_frames_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].duplicates",
        help: "With `--dedup on`: second copies of frames that were mirrored at both ends.",
        shown: Notice,
        shown_as: ("", "duplicates"),
        read: |source, samples| each_worker(source, samples, |worker| worker.duplicates),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_flows",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].flows_active",
        help: "Flows in the table.",
        read: |source, samples| each_worker(source, samples, |worker| worker.flows_active),
        ..GAUGE
    },
    CounterSpec {
        metric: "worker_flows_created_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].flows_total",
        help: "Flows created.",
        read: |source, samples| each_worker(source, samples, |worker| worker.flows_total),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_flows_shunted",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].flows_shunted",
        help: "Flows that the driver counts now.",
        read: |source, samples| each_worker(source, samples, |worker| worker.flows_shunted),
        ..GAUGE
    },
    CounterSpec {
        metric: "worker_flows_shunted_total",
        stage: Stage::Worker,
        labels: &["worker"],
        account: "workers[].flows_shunted_total",
        help: "Flows that the driver has counted.",
        read: |source, samples| each_worker(source, samples, |worker| worker.flows_shunted_total),
        ..COUNTER
    },
    CounterSpec {
        metric: "protocol_packets_total",
        stage: Stage::Worker,
        labels: &["protocol"],
        account: "workers[].protocols",
        help: "Packets of flows, by transport protocol: `tcp`, `udp`, `icmp`, `other`.",
        read: |source, samples| {
            for (protocol, traffic) in protocols(source) {
                samples.count(&[&protocol], traffic.packets);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "protocol_bytes_total",
        stage: Stage::Worker,
        labels: &["protocol"],
        account: "workers[].protocols",
        help: "Bytes of flows, by transport protocol.",
        read: |source, samples| {
            for (protocol, traffic) in protocols(source) {
                samples.count(&[&protocol], traffic.bytes);
            }
        },
        ..COUNTER
    },
    // Analysis.
    CounterSpec {
        metric: "worker_analysis_lost_total",
        stage: Stage::Analysis,
        labels: &["worker", "reason"],
        account: "workers[].analysis_lost",
        help: "Data that the analysis did not see within analysed frames, by reason.",
        reasons: &[
            ("stream_memory", "TCP data given up at a memory limit", ""),
            ("stream_hole", "more than 1 MiB or 1,024 segments behind a hole, which was passed over", ""),
            ("stream_unfinished", "a message of more than 64 KiB, which was passed over", ""),
            (
                "analyzer_memory",
                "state given up at a memory limit: handshakes of TLS and QUIC, HTTP requests that wait for their \
                 responses, values of PROXY headers and SOCKS requests",
                "",
            ),
            ("nested_flow", "nested packets begin at most three flows per frame", ""),
            ("ip_length", "the rest of an IP packet that is longer than its frame was", ""),
            ("rule_memory", "data and transactions that waited for rules, given up at a memory limit", ""),
            ("rule_transactions", "a transaction without an end, in a flow with more than 64 of them", ""),
            ("rule_buffers", "parts of a transaction beyond 256 KiB or 1,024, which no rule saw", ""),
            (
                "rule_candidates",
                "rules beyond 4,096 that a packet, message or chunk of a stream could match",
                "",
            ),
            ("rule_steps", "verifications of a rule that took too many steps, and counted as no match", ""),
            (
                "rule_isolated",
                "verifications that were left out, because the rule took too many steps 64 times in a minute",
                "",
            ),
            ("rule_alerts", "alerts beyond 1,000 that a packet, message or chunk of a stream raised", ""),
        ],
        action: "none, unless there are many. Then look for loss on the way to the mirror, or for a host that starts \
                 many requests and finishes none",
        shown: Loss(LossSpec {
            severity: Info,
            alert: "AnalysisLoss",
            what: "pieces of data that the analysis did not see",
            only: &[],
        }),
        read: |source, samples| by_reason(source, samples, |worker| Some(&worker.analysis_lost)),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_split_flows_total",
        stage: Stage::Analysis,
        labels: &["worker", "vni"],
        account: "workers[].split[].flows",
        help: "Flows of one side that have ended, and of whose conversations another session of the same VNI had the \
               other side. 64 VNIs of a worker have series of their own; `vni=\"other\"` is the sum of all others.",
        action: "if each VNI is one network, `--flow-scope vni`",
        shown: Notice,
        shown_as: ("", "split_flows"),
        read: |source, samples| {
            for worker in &source.stats.workers {
                for split in &worker.split {
                    let vni = split.vni.map_or_else(|| "other".to_owned(), |vni| vni.to_string());
                    samples.count(&[&worker.worker, &vni], split.flows);
                }
            }
        },
        ..COUNTER
    },
    // Records.
    CounterSpec {
        metric: "records_written_total",
        stage: Stage::Records,
        labels: &["event_type"],
        account: "records.written",
        help: "Events in the log, by kind.",
        read: |source, samples| {
            for (event_type, count) in &source.stats.records.written.0 {
                samples.count(&[event_type], *count);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "records_lost_total",
        stage: Stage::Records,
        account: "records.lost",
        help: "Records lost on the way to the log, or because it could not be written.",
        action: "a faster disk or reader; more space",
        shown: Loss(LossSpec {
            severity: Critical,
            alert: "RecordsLost",
            what: "records lost on the way to the log",
            only: &[],
        }),
        shown_as: ("log", "lost"),
        read: |source, samples| samples.count(&[], source.stats.records.lost),
        ..COUNTER
    },
    CounterSpec {
        metric: "worker_records_lost_total",
        stage: Stage::Records,
        labels: &["worker"],
        account: "workers[].records_lost",
        help: "Records lost because the queue of the log was full; `records_lost_total` includes them.",
        action: "a faster disk or reader",
        read: |source, samples| each_worker(source, samples, |worker| worker.records_lost),
        ..COUNTER
    },
    CounterSpec {
        metric: "log_free_bytes",
        stage: Stage::Records,
        help: "Free bytes of the file system of the records.",
        read: |source, samples| {
            if let Some((free, _)) = source.disk {
                samples.count(&[], free);
            }
        },
        ..GAUGE
    },
    CounterSpec {
        metric: "log_size_bytes",
        stage: Stage::Records,
        help: "Size of the file system of the records.",
        read: |source, samples| {
            if let Some((_, size)) = source.disk {
                samples.count(&[], size);
            }
        },
        ..GAUGE
    },
    // Packet store.
    CounterSpec {
        metric: "store_kept_frames_total",
        stage: Stage::Store,
        labels: &["worker"],
        account: "workers[].store.kept",
        help: "Frames on the disk.",
        read: |source, samples| each_store(source, samples, |store| store.kept),
        ..COUNTER
    },
    CounterSpec {
        metric: "store_kept_bytes_total",
        stage: Stage::Store,
        labels: &["worker"],
        account: "workers[].store.kept_bytes",
        help: "Bytes of the frames on the disk.",
        read: |source, samples| each_store(source, samples, |store| store.kept_bytes),
        ..COUNTER
    },
    CounterSpec {
        metric: "store_written_bytes_total",
        stage: Stage::Store,
        labels: &["worker"],
        account: "workers[].store.written_bytes",
        help: "Bytes written to segments.",
        read: |source, samples| each_store(source, samples, |store| store.written_bytes),
        ..COUNTER
    },
    CounterSpec {
        metric: "store_segments_total",
        stage: Stage::Store,
        labels: &["worker"],
        account: "workers[].store.segments",
        help: "Finished segments.",
        read: |source, samples| each_store(source, samples, |store| store.segments),
        ..COUNTER
    },
    CounterSpec {
        metric: "store_paused",
        stage: Stage::Store,
        labels: &["worker"],
        account: "workers[].store.paused",
        help: "Whether nothing can be written at the moment: the disk is full, or fails.",
        action: "more space; the log gives the reason",
        shown: Notice,
        shown_as: ("", "paused"),
        read: |source, samples| each_store(source, samples, |store| store.paused.into()),
        ..GAUGE
    },
    CounterSpec {
        metric: "store_not_kept_frames_total",
        stage: Stage::Store,
        labels: &["worker", "reason"],
        account: "workers[].store.not_kept",
        help: "Frames that are not to be kept, by reason.",
        reasons: &[
            ("policy", "the settings exclude it", ""),
            ("no_alert", "with `keep = \"alerts\"`: its flow raised no alert in time", ""),
            ("link_type", "not an Ethernet frame", ""),
        ],
        read: |source, samples| {
            by_reason(source, samples, |worker| worker.store.as_ref().map(|store| &store.not_kept));
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "store_lost_frames_total",
        stage: Stage::Store,
        labels: &["worker", "reason"],
        account: "workers[].store.lost",
        help: "Frames that were to be kept and that the store lost, by reason.",
        reasons: &[
            ("no_block", "the disk was too slow", "a faster disk; a larger `memory`"),
            ("paused", "the disk was full or failed", "more space"),
            ("write_error", "the disk was full or failed while the frames were written", "more space"),
            ("directory_gone", "the directory was removed, renamed or unmounted", "restore it"),
            ("too_long", "longer than 262,144 bytes", ""),
        ],
        action: "a faster disk; a larger `memory`; more space",
        shown: Loss(LossSpec {
            severity: Critical,
            alert: "StoreLoss",
            what: "frames lost by the packet store",
            only: &[],
        }),
        read: |source, samples| {
            by_reason(source, samples, |worker| worker.store.as_ref().map(|store| &store.lost));
        },
        ..COUNTER
    },
    // Upload.
    CounterSpec {
        metric: "upload_segments_total",
        stage: Stage::Upload,
        account: "upload.segments",
        help: "Segments uploaded and verified.",
        read: |source, samples| upload(source, samples, |counters| counters.segments),
        ..COUNTER
    },
    CounterSpec {
        metric: "upload_bytes_total",
        stage: Stage::Upload,
        account: "upload.bytes",
        help: "Bytes of the uploaded segments and their indexes.",
        read: |source, samples| upload(source, samples, |counters| counters.bytes),
        ..COUNTER
    },
    CounterSpec {
        metric: "upload_failures_total",
        stage: Stage::Upload,
        account: "upload.failures",
        help: "Failed uploads. They are repeated until they succeed.",
        action: "credentials, network; the log gives the reason",
        shown: Notice,
        shown_as: ("copy", "failures"),
        read: |source, samples| upload(source, samples, |counters| counters.failures),
        ..COUNTER
    },
    CounterSpec {
        metric: "upload_failing",
        stage: Stage::Upload,
        account: "upload.failing",
        help: "Whether the last upload failed. Packets that are not uploaded are not deleted.",
        action: "credentials, network; the log gives the reason",
        shown: Notice,
        shown_as: ("copy", "failing"),
        read: |source, samples| upload(source, samples, |counters| counters.failing.into()),
        ..GAUGE
    },
    CounterSpec {
        metric: "upload_waiting_segments",
        stage: Stage::Upload,
        account: "upload.waiting",
        help: "Finished segments that are not uploaded yet.",
        shown: Notice,
        shown_as: ("copy", "waiting_segments"),
        read: |source, samples| upload(source, samples, |counters| counters.waiting),
        ..GAUGE
    },
    CounterSpec {
        metric: "upload_waiting_bytes",
        stage: Stage::Upload,
        account: "upload.waiting_bytes",
        help: "Bytes of the waiting segments and their indexes.",
        read: |source, samples| upload(source, samples, |counters| counters.waiting_bytes),
        ..GAUGE
    },
    CounterSpec {
        metric: "upload_overdue_segments",
        stage: Stage::Upload,
        account: "upload.overdue",
        help: "Segments due for deletion that are not uploaded yet.",
        action: "credentials, network; more space until then",
        shown: Notice,
        shown_as: ("copy", "overdue_segments"),
        read: |source, samples| upload(source, samples, |counters| counters.overdue),
        ..GAUGE
    },
    // Tap.
    CounterSpec {
        metric: "tap_frames_total",
        stage: Stage::Tap,
        labels: &["interface"],
        account: "tap.frames",
        help: "Frames for the tap: sent, lost, or on the way.",
        read: |source, samples| {
            if let Some(tap) = &source.stats.tap {
                samples.count(&[&tap.interface], tap.frames);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "tap_sent_frames_total",
        stage: Stage::Tap,
        labels: &["interface"],
        account: "tap.sent",
        help: "Frames that the tap sent.",
        read: |source, samples| {
            if let Some(tap) = &source.stats.tap {
                samples.count(&[&tap.interface], tap.sent);
            }
        },
        ..COUNTER
    },
    CounterSpec {
        metric: "tap_lost_frames_total",
        stage: Stage::Tap,
        labels: &["interface", "reason"],
        account: "tap.lost",
        help: "Frames that the tap could not send, by reason.",
        reasons: &[
            ("ring_full", "the thread of the tap was too slow", "a free CPU"),
            ("too_long", "longer than the MTU of the interface", "a larger MTU on both ends of the tap"),
            ("refused", "the interface is down, or its queue is full", "a faster program at the other end"),
        ],
        action: "see [tap](operate.md#tap)",
        shown: Loss(LossSpec {
            severity: Warning,
            alert: "TapLoss",
            what: "frames not sent by the tap",
            only: &[],
        }),
        read: |source, samples| {
            if let Some(tap) = &source.stats.tap {
                let lost = &tap.lost;
                let reasons =
                    [("ring_full", lost.ring_full), ("too_long", lost.too_long), ("refused", lost.refused)];
                for (reason, count) in reasons {
                    samples.count(&[&tap.interface, &reason], count);
                }
            }
        },
        ..COUNTER
    },
    // Services.
    CounterSpec {
        metric: "service_requests_total",
        stage: Stage::Services,
        labels: SERVICE,
        help: "Requests to a service. The 200 services with the most requests and connections have series of their \
               own; `address=\"other\"` is the sum of all others.",
        read: |source, samples| each_service(source, samples, |total| Value::Count(total.requests)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_errors_total",
        stage: Stage::Services,
        labels: SERVICE,
        help: "Requests that a service failed to serve.",
        read: |source, samples| each_service(source, samples, |total| Value::Count(total.errors)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_connections_total",
        stage: Stage::Services,
        labels: SERVICE,
        help: "Connections to a service that ended.",
        read: |source, samples| each_service(source, samples, |total| Value::Count(total.connections)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_packets_total",
        stage: Stage::Services,
        labels: SERVICE,
        help: "Packets of connections that ended.",
        read: |source, samples| each_service(source, samples, |total| Value::Count(total.packets)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_retransmissions_total",
        stage: Stage::Services,
        labels: SERVICE,
        help: "Retransmissions in connections that ended.",
        read: |source, samples| each_service(source, samples, |total| Value::Count(total.retransmissions)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_latency_seconds",
        kind: Kind::Histogram,
        stage: Stage::Services,
        labels: SERVICE,
        help: "Time until a service answered.",
        read: |source, samples| each_service(source, samples, latency),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_operation_requests_total",
        stage: Stage::Services,
        labels: OPERATION,
        help: "Requests to a database, cache or queue, by operation; the first 32 operations of each.",
        read: |source, samples| each_operation(source, samples, |total| Value::Count(total.requests)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_operation_errors_total",
        stage: Stage::Services,
        labels: OPERATION,
        help: "Requests for an operation that the service failed to serve.",
        read: |source, samples| each_operation(source, samples, |total| Value::Count(total.errors)),
        ..COUNTER
    },
    CounterSpec {
        metric: "service_operation_latency_seconds",
        kind: Kind::Histogram,
        stage: Stage::Services,
        labels: OPERATION,
        help: "Time until a service answered, by operation.",
        read: |source, samples| each_operation(source, samples, latency),
        ..COUNTER
    },
];
