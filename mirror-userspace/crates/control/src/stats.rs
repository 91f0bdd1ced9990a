//! The account of a capture: where every frame went, from the XDP program to the records. One structure
//! serves `stats` events, the `--json` summary and the totals for people. [`crate::counters`] describes each counter
//! of it.
//!
//! ```text
//! seen       = Σ passed + Σ dropped + Σ shunted + redirected   (by interface)
//! redirected = Σ rings (delivered + lost)                 (by interface)
//! Σ rings delivered = Σ workers delivered + Σ workers handed over in vain
//! Σ workers handed over = Σ workers taken over
//! delivered  = analysed + Σ refused + duplicates + waiting (by worker)
//! delivered  = kept + Σ not kept + Σ lost to the store    (by worker, with a packet store)
//! ```

use std::time::Duration;

use mirror_device::afxdp::Statistics;
use mirror_device::nic::losses::Counters as Losses;
use mirror_device::xdp::Mode;
use mirror_device::xdp::policy::{RuleCount, VniCount};
use mirror_device::xdp::program::Counts;
use mirror_engine::worker::{Protocols, Traffic, WorkerCounters};
use mirror_records::sink::SinkCounters;
use mirror_rules::policy::Action;
use mirror_store::{StoreCounters, UploadCounters};
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::filter::vni_counter;
use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::observe::tap::TapCounts;

/// Counters with their names, in display order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named(pub Vec<(&'static str, u64)>);

impl Named {
    /// Returns the sum of all counters.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|&(_, count)| count).sum()
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// The fate of the frames that the XDP program of one interface saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Program {
    /// Frames that entered the program.
    pub seen: u64,
    /// Frames passed to the kernel's network stack, by reason.
    pub passed: Named,
    /// Frames dropped, by reason.
    pub dropped: Named,
    /// Frames counted and dropped on request, by requester.
    pub shunted: Named,
    /// Frames redirected to a socket.
    pub redirected: u64,
    /// Further observations about frames, independent of their fate.
    pub noted: Named,
}

impl From<&Counts> for Program {
    fn from(counts: &Counts) -> Self {
        let of = |fate| {
            let counters = Counter::ALL.iter().filter(|counter| counter.fate() == fate);
            Named(counters.map(|&counter| (counter.name(), counts.get(counter))).collect())
        };
        Self {
            seen: counts.get(Counter::Seen),
            passed: of(Fate::Passed),
            dropped: of(Fate::Dropped),
            shunted: of(Fate::Shunted),
            redirected: counts.get(Counter::Redirected),
            noted: of(Fate::Noted),
        }
    }
}

/// Frames that a socket could not accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lost {
    /// Frames lost because the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Frames lost because no buffer was free, or because they were longer than a buffer.
    pub rx_dropped: u64,
}

/// The fate of the frames that were redirected to the socket of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ring {
    /// The queue.
    pub queue: u32,
    /// The worker that reads the queue.
    pub worker: usize,
    /// Frames that the worker took off the ring.
    pub delivered: u64,
    /// Frames lost before that.
    pub lost: Lost,
    /// The number of times the kernel found no free buffer; `rx_dropped` includes the frames.
    pub fill_ring_empty: u64,
}

impl Ring {
    /// Builds the part of the account that covers one ring.
    #[must_use]
    pub const fn new(queue: u32, worker: usize, delivered: u64, statistics: Statistics) -> Self {
        Self {
            queue,
            worker,
            delivered,
            lost: Lost { rx_ring_full: statistics.rx_ring_full, rx_dropped: statistics.rx_dropped },
            fill_ring_empty: statistics.fill_ring_empty,
        }
    }
}

/// The layout of frames in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// A frame is in one buffer: the MTU allows no longer frames.
    SingleBuffer,
    /// A frame may be in several buffers.
    Jumbo,
}

/// Frames that a worker handed over to their owners, and frames that it took over from other workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Handoff {
    /// Frames handed over to the worker that owns the flow.
    pub given: u64,
    /// Frames lost because the owner had too many frames waiting: it was too slow.
    pub full: u64,
    /// Frames taken over from other workers.
    pub taken: u64,
    /// Datagrams that this worker reassembled from fragments and handed over to the owner of the flow. Their
    /// frames count as its own.
    pub datagrams_given: u64,
    /// Datagrams that this worker analysed itself, because the owner had too many frames waiting.
    pub datagrams_kept: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The XDP mode of the program on it.
    pub mode: Mode,
    /// Frames that device and driver lost since the capture began, by their counters. They are not in the
    /// identities, because no program saw them.
    #[schema(value_type = Named)]
    pub device: Losses,
    /// True if frames are received without copying.
    pub zero_copy: bool,
    /// The layout of frames in buffers.
    pub profile: Profile,
    /// True if the buffers are in huge pages.
    pub huge_pages: bool,
    /// The counters of the XDP program.
    pub program: Program,
    /// The counters of the rings that it redirects to.
    pub rings: Vec<Ring>,
}

impl Interface {
    /// Returns the frames that a driver may count as dropped although this account already includes them: the
    /// frames that the program dropped, and the frames that no socket could accept.
    #[must_use]
    pub fn explained(&self) -> u64 {
        if self.mode == Mode::Generic {
            // The driver and the program do not know of each other.
            return 0;
        }
        let lost: u64 = self.rings.iter().map(|ring| ring.lost.rx_ring_full + ring.lost.rx_dropped).sum();
        self.program.dropped.sum() + self.program.shunted.sum() + lost
    }
}

/// The fate of a worker's frames in the packet store: each is kept, not kept, or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Store {
    /// Frames on the disk.
    pub kept: u64,
    /// Bytes of these frames.
    pub kept_bytes: u64,
    /// Bytes of the segments that contain them.
    pub written_bytes: u64,
    /// Finished segments.
    pub segments: u64,
    /// True if nothing can be written at the moment: the disk is full, or fails.
    pub paused: bool,
    /// Frames that are not to be kept, by reason.
    pub not_kept: Named,
    /// Frames that were to be kept and that the store lost, by reason.
    pub lost: Named,
}

impl From<StoreCounters> for Store {
    fn from(counters: StoreCounters) -> Self {
        let StoreCounters { kept, kept_bytes, written_bytes, segments, paused, not_kept, lost } = counters;
        Self {
            kept,
            kept_bytes,
            written_bytes,
            segments,
            paused,
            not_kept: Named(not_kept),
            lost: Named(lost),
        }
    }
}

impl Store {
    /// Returns the number of all frames.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.kept + self.not_kept.sum() + self.lost.sum()
    }
}

/// Flows of one side, of whose conversations another session of the same VNI had the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Split {
    /// The VNI. Absent for the sum of the VNIs that have no counter of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The number of flows.
    pub flows: u64,
}

/// Describes flows of one side that are halves of conversations, and what helps; `None` if there are none.
#[must_use]
pub fn split_advice(workers: &[Worker]) -> Option<String> {
    let mut vnis: Vec<u32> =
        workers.iter().flat_map(|worker| &worker.split).filter_map(|it| it.vni).collect();
    let flows: u64 = workers.iter().flat_map(|worker| &worker.split).map(|split| split.flows).sum();
    if flows == 0 {
        return None;
    }
    vnis.sort_unstable();
    vnis.dedup();
    let shown: Vec<_> = vnis.iter().take(8).map(u32::to_string).collect();
    let more = if vnis.len() > shown.len() { ", …" } else { "" };
    let plural = if vnis.len() == 1 { "" } else { "s" };
    Some(format!(
        "{flows} flows have one side only, and another mirror session of the same VNI has the other (VNI{plural} \
         {}{more}); if each VNI is one network, make one flow of both with `--flow-scope vni`, or flow_scope = \
         \"vni\" in [analysis]",
        shown.join(", "),
    ))
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Worker {
    /// Its number.
    pub worker: usize,
    /// Frames that the worker received, from its own socket or from other workers.
    pub delivered: u64,
    /// Frames that moved from one worker to another.
    pub hand_over: Handoff,
    /// Bytes of the delivered frames, as mirrored.
    pub delivered_bytes: u64,
    /// Frames that were analysed completely.
    pub analysed: u64,
    /// Frames that belong to no flow, by reason.
    pub refused: Named,
    /// Packets within other packets of analysed frames that belong to no flow, by reason.
    pub refused_nested: Named,
    /// Frames with fragments of datagrams that are not complete yet.
    pub waiting: u64,
    /// Frames mirrored at both ends, of which the other copy was analysed.
    pub duplicates: u64,
    /// Flows in the table.
    pub flows_active: u64,
    /// Flows created since the start.
    pub flows_total: u64,
    /// Flows that the driver counts now.
    pub flows_shunted: u64,
    /// Flows that the driver has counted since the start.
    pub flows_shunted_total: u64,
    /// Records lost because the queue of the log was full.
    pub records_lost: u64,
    /// Losses of the analysis, by reason: abandoned TCP streams and analyzer states, packets in packets. The frames
    /// themselves went through the analysis.
    pub analysis_lost: Named,
    /// Flows of one side that have ended, and of whose conversations another session of the same VNI had the other
    /// side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Split>,
    /// The fate of the frames in the packet store; absent without a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// Traffic by transport protocol.
    pub protocols: Protocols,
    /// Milliseconds of CPU time that the worker has used; 0 if it is not measured.
    pub busy_ms: u64,
}

impl Worker {
    /// Builds the part of the account that covers one worker.
    #[must_use]
    pub fn new(
        worker: usize,
        hand_over: Handoff,
        counters: WorkerCounters,
        store: Option<StoreCounters>,
    ) -> Self {
        Self {
            worker,
            delivered: counters.delivered,
            hand_over,
            delivered_bytes: counters.delivered_bytes,
            analysed: counters.analysed,
            refused: Named(counters.refused),
            refused_nested: Named(counters.refused_nested),
            waiting: counters.waiting,
            duplicates: counters.duplicates,
            flows_active: counters.flows_active,
            flows_total: counters.flows_total,
            flows_shunted: counters.flows_shunted.0,
            flows_shunted_total: counters.flows_shunted.1,
            records_lost: counters.records_lost,
            analysis_lost: Named(counters.analysis_lost),
            split: (counters.split.into_iter())
                .map(|(vni, flows)| Split { vni: vni.map(mirror_xdp_common::Vni::get), flows })
                .collect(),
            store: store.map(Store::from),
            protocols: counters.protocols,
            busy_ms: 0,
        }
    }

    /// Returns the number of frames that no counter explains.
    #[must_use]
    pub fn imbalance(&self) -> u64 {
        let stored = self.store.as_ref().map_or(0, |store| self.delivered.abs_diff(store.seen()));
        let fates = self.analysed + self.refused.sum() + self.duplicates + self.waiting;
        self.delivered.abs_diff(fates) + stored
    }
}

/// The fate of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Records {
    /// Records written to the log, by kind.
    pub written: Named,
    /// Records lost, either on the way to the log or because they could not be written.
    pub lost: u64,
}

impl Records {
    /// Builds the counters of records, of which `on_the_way` never reached the sink.
    #[must_use]
    pub fn new(on_the_way: u64, sink: &SinkCounters) -> Self {
        Self { written: Named(sink.written_by_kind().collect()), lost: sink.lost + on_the_way }
    }
}

/// The counters of an interface's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Policy {
    /// Name of the interface.
    pub interface: String,
    /// The number of policies that have been in force.
    pub generation: u32,
    /// The VNIs that sent frames, in ascending order. The last entry sums up the VNIs that had no counters of
    /// their own.
    pub vnis: Vec<Vni>,
    /// The rules, in the order in which they are tried, set by set. The last entry of each set counts the
    /// packets that no rule matched.
    pub rules: Vec<Rule>,
}

/// The counters of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vni {
    /// The VNI; absent for the sum of all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Frames received.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
    /// Frames that were not captured, by reason.
    pub dropped: VniDropped,
    /// Seconds between the last frame and these statistics.
    pub idle_seconds: u64,
}

/// The reasons why frames of a VNI were not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct VniDropped {
    /// Frames rejected by the filter.
    pub rejected: u64,
    /// Frames of flows that a sample excludes.
    pub sampled_out: u64,
    /// Frames counted and dropped, at the request of a rule or of user space.
    pub shunted: u64,
    /// Frames dropped because the VNI is not admitted.
    pub not_admitted: u64,
    /// Frames dropped because there was no socket, or no room for the capture header.
    pub undelivered: u64,
}

/// The counters of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rule {
    /// The name of its set.
    pub set: String,
    /// The number of the rule; absent for the packets that no rule of the set matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// The direction that it applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    /// The action of the rule.
    pub action: String,
    /// Packets that the rule decided on.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
}

impl Policy {
    /// Builds the statistics of an interface's policy.
    #[must_use]
    pub fn new(interface: &str, generation: u32, vnis: &[VniCount], rules: Vec<RuleCount>) -> Self {
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64);
        let came = vnis.iter().filter(|count| count.counters[vni_counter::PACKETS] > 0);
        Self {
            interface: interface.to_owned(),
            generation,
            vnis: came.map(|count| Vni::new(count, now)).collect(),
            rules: rules.into_iter().map(Rule::from).collect(),
        }
    }
}

impl Vni {
    fn new(count: &VniCount, now: u64) -> Self {
        let counters = &count.counters;
        Self {
            vni: count.vni.map(mirror_xdp_common::Vni::get),
            packets: counters[vni_counter::PACKETS],
            bytes: counters[vni_counter::BYTES],
            dropped: VniDropped {
                rejected: counters[vni_counter::REJECTED],
                sampled_out: counters[vni_counter::SAMPLED_OUT],
                shunted: counters[vni_counter::SHUNTED],
                not_admitted: counters[vni_counter::NOT_ADMITTED],
                undelivered: counters[vni_counter::UNDELIVERED],
            },
            idle_seconds: now.saturating_sub(counters[vni_counter::LAST_SEEN]) / 1_000_000_000,
        }
    }
}

impl From<RuleCount> for Rule {
    fn from(count: RuleCount) -> Self {
        let RuleCount { set, rule, packets, bytes, .. } = count;
        let (number, direction, action) = match &rule {
            Some(rule) => (Some(rule.number), Some(rule.direction.name()), rule.action.to_string()),
            None => (None, None, Action::Reject.to_string()),
        };
        Self { set, number, direction, action, packets, bytes }
    }
}

/// The whole account.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Stats {
    /// Seconds since the capture began.
    pub seconds: f64,
    /// The interfaces, in the order in which they were named.
    pub interfaces: Vec<Interface>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The records.
    pub records: Records,
    /// The fate of the frames for the tap; absent without a tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapCounts>,
    /// The progress of the upload of the packet store; absent without an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadCounters>,
    /// The counters of VNIs and rules, by interface. Only at the end: there may be many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    /// Datagrams to the ports of mirror traffic that the network stack received: no program saw them, or a
    /// program passed them. No other counter includes them.
    pub missed: u64,
    /// Frames that no counter explains: the sum of the absolute differences of the identities. Absent while
    /// frames are in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaccounted: Option<u64>,
}

impl Stats {
    /// Sets the counters of the records.
    pub fn set_records(&mut self, sink: &SinkCounters) {
        let on_the_way: u64 = self.workers.iter().map(|worker| worker.records_lost).sum();
        self.records = Records::new(on_the_way, sink);
    }

    /// Returns the number of frames that no counter explains; 0 when the account is exact.
    #[must_use]
    pub fn imbalance(&self) -> u64 {
        let mut sum = 0;
        for Interface { program, rings, .. } in &self.interfaces {
            sum += {
                let fates = program.passed.sum() + program.dropped.sum() + program.shunted.sum();
                program.seen.abs_diff(fates + program.redirected)
            };
            let rings: u64 =
                rings.iter().map(|ring| ring.delivered + ring.lost.rx_ring_full + ring.lost.rx_dropped).sum();
            sum += program.redirected.abs_diff(rings);
        }
        let taken: u64 = self.workers.iter().map(|worker| worker.delivered).sum();
        sum += self.delivered().abs_diff(taken + self.hand_over(|hand_over| hand_over.full));
        sum += self.hand_over(|hand_over| hand_over.given).abs_diff(self.hand_over(|over| over.taken));
        sum + self.workers.iter().map(Worker::imbalance).sum::<u64>()
    }

    /// Returns the number of frames that the workers took off the rings.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.rings().map(|ring| ring.delivered).sum()
    }

    /// Returns the traffic of all workers by transport protocol.
    #[must_use]
    pub fn protocols(&self) -> Protocols {
        let add = |to: &mut Traffic, from: Traffic| {
            to.packets += from.packets;
            to.bytes += from.bytes;
        };
        self.workers.iter().fold(Protocols::default(), |mut sum, worker| {
            add(&mut sum.tcp, worker.protocols.tcp);
            add(&mut sum.udp, worker.protocols.udp);
            add(&mut sum.icmp, worker.protocols.icmp);
            add(&mut sum.other, worker.protocols.other);
            sum
        })
    }

    /// Returns the sum of a hand-over counter over all workers.
    #[must_use]
    pub fn hand_over(&self, count: impl Fn(&Handoff) -> u64) -> u64 {
        self.workers.iter().map(|worker| count(&worker.hand_over)).sum()
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.interfaces.iter().flat_map(|interface| &interface.rings)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns an account of two workers without imbalance.
    pub(crate) fn exact() -> Stats {
        let program = Program {
            seen: 12,
            passed: Named(vec![("not_mirror", 1)]),
            dropped: Named(vec![("outer_fragment", 1)]),
            shunted: Named(vec![("flow", 2)]),
            redirected: 8,
            noted: Named(vec![("judged", 5)]),
        };
        let ring = |queue, delivered, rx_ring_full| Ring {
            queue,
            worker: queue as usize,
            delivered,
            lost: Lost { rx_ring_full, rx_dropped: 0 },
            fill_ring_empty: 0,
        };
        // The first worker has handed two frames over, of which the second could accept one.
        let hand_over =
            [Handoff { given: 1, full: 1, ..Handoff::default() }, Handoff { taken: 1, ..Handoff::default() }];
        let worker = |worker: usize, delivered| {
            let counters = WorkerCounters { delivered, analysed: delivered - 1, ..WorkerCounters::default() };
            let counters = WorkerCounters { refused: vec![("not_ip", 1)], ..counters };
            Worker::new(worker, hand_over[worker], counters, None)
        };
        Stats {
            seconds: 1.0,
            interfaces: vec![Interface {
                name: "v0".to_owned(),
                mode: Mode::Native,
                device: Losses::default(),
                zero_copy: false,
                profile: Profile::SingleBuffer,
                huge_pages: false,
                program,
                rings: vec![ring(0, 4, 2), ring(1, 2, 0)],
            }],
            workers: vec![worker(0, 2), worker(1, 3)],
            records: Records::default(),
            tap: None,
            upload: None,
            policies: Vec::new(),
            missed: 0,
            unaccounted: None,
        }
    }

    #[test]
    fn an_exact_account_has_no_imbalance() {
        assert_eq!(exact().imbalance(), 0);
    }

    #[test]
    fn each_broken_identity_shows() {
        let breaks: [fn(&mut Stats); 9] = [
            |stats| stats.interfaces[0].program.seen += 3,
            |stats| stats.interfaces[0].program.passed.0[0].1 += 3,
            |stats| stats.interfaces[0].rings[1].lost.rx_dropped += 3,
            |stats| stats.workers[1].refused.0[0].1 += 3,
            |stats| stats.workers[1].analysed -= 1,
            |stats| stats.workers[0].hand_over.full += 1,
            |stats| stats.workers[0].hand_over.given += 1,
            |stats| stats.workers[1].duplicates += 1,
            |stats| stats.workers[1].waiting += 1,
        ];
        for (index, break_it) in breaks.into_iter().enumerate() {
            let mut stats = exact();
            break_it(&mut stats);
            assert_ne!(stats.imbalance(), 0, "{index}");
        }
    }

    #[test]
    fn halves_of_conversations_are_summed_up_with_the_setting_that_helps() {
        let mut stats = exact();
        assert_eq!(split_advice(&stats.workers), None);
        stats.workers[0].split = vec![Split { vni: Some(7), flows: 2 }];
        stats.workers[1].split = vec![Split { vni: Some(7), flows: 1 }];
        let advice = split_advice(&stats.workers).unwrap();
        assert!(advice.starts_with("3 flows have one side only"), "{advice}");
        assert!(advice.contains("(VNI 7)") && advice.contains("--flow-scope vni"), "{advice}");
        stats.workers[1].split = (8..30).map(|vni| Split { vni: Some(vni), flows: 1 }).collect();
        let advice = split_advice(&stats.workers).unwrap();
        assert!(advice.contains("(VNIs 7, 8, 9, 10, 11, 12, 13, 14, …)"), "{advice}");
    }

    #[test]
    fn frames_that_vanish_between_ring_and_worker_show() {
        let mut stats = exact();
        stats.workers[0].delivered -= 1;
        stats.workers[0].analysed -= 1;
        assert_eq!(stats.imbalance(), 1);
    }
}
