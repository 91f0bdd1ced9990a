//! The account of a capture: where every frame went, from the XDP program to the records. One structure
//! serves `stats` events, the `--json` summary and the totals for people.
//!
//! ```text
//! seen       = Σ passed + Σ dropped + Σ shunted + redirected   (by interface)
//! redirected = Σ rings (delivered + lost)                 (by interface)
//! Σ rings delivered = Σ workers delivered + Σ workers handed over in vain
//! Σ workers handed over = Σ workers taken over
//! delivered  = analysed + Σ refused + duplicates          (by worker)
//! delivered  = kept + Σ not kept + Σ lost to the store    (by worker, with a packet store)
//! ```

use std::time::Duration;

use mirror_device::afxdp::Statistics;
use mirror_device::nic::losses::Counters as Losses;
use mirror_device::xdp::Mode;
use mirror_device::xdp::policy::{RuleCount, VniCount};
use mirror_device::xdp::program::Counts;
use mirror_engine::worker::{Protocols, WorkerCounters};
use mirror_records::sink::SinkCounters;
use mirror_rules::policy::Action;
use mirror_store::{StoreCounters, UploadCounters};
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::filter::vni_counter;
use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};

use crate::observe::tap::TapCounts;

/// Counters with their names, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named(pub Vec<(&'static str, u64)>);

impl Named {
    /// The sum of all.
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

/// What the XDP program of one interface did with the frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Frames that entered it.
    pub seen: u64,
    /// Given to the kernel's network stack, by reason.
    pub passed: Named,
    /// Dropped, by reason.
    pub dropped: Named,
    /// Counted and dropped as it was asked for, by who asked.
    pub shunted: Named,
    /// Given to a socket.
    pub redirected: u64,
    /// What else was noticed of frames, whatever became of them.
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

/// Frames that a socket could not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// No buffer was free, or the frame was longer than one.
    pub rx_dropped: u64,
}

/// What became of the frames that were redirected to one queue's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// The queue.
    pub queue: u32,
    /// The worker that reads it.
    pub worker: usize,
    /// Taken off the ring by the worker.
    pub delivered: u64,
    /// Lost before.
    pub lost: Lost,
    /// How often the kernel found no free buffer; the frames are among those dropped.
    pub fill_ring_empty: u64,
}

impl Ring {
    /// A ring's part of the account.
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

/// How frames lie in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// A frame is in one buffer: the MTU allows for no longer ones.
    SingleBuffer,
    /// A frame may be in several buffers.
    Jumbo,
}

/// What a worker did with frames that are not its own, and with its own that others received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HandOver {
    /// Handed over to the worker that owns the flow.
    pub given: u64,
    /// Lost, because that had too many waiting already: it was too slow.
    pub full: u64,
    /// Taken over from other workers.
    pub taken: u64,
    /// Datagrams that it has put together of fragments and handed over to the worker that owns the flow. Their
    /// frames are its own.
    pub datagrams_given: u64,
    /// Datagrams that it has analysed itself, because that had too many waiting already.
    pub datagrams_kept: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How the program runs on it.
    pub mode: Mode,
    /// What device and driver lost since the capture began, by their counters; not in the identities, for
    /// no program saw it.
    pub device: Losses,
    /// Whether frames are received without copying.
    pub zero_copy: bool,
    /// Whether frames may be in several buffers.
    pub profile: Profile,
    /// Whether the buffers are in huge pages.
    pub huge_pages: bool,
    /// What the program did.
    pub program: Program,
    /// What became of what it redirected.
    pub rings: Vec<Ring>,
}

impl Interface {
    /// Frames that a driver may count as dropped, but that this account has already: those that the program
    /// dropped, and those that no socket could take.
    #[must_use]
    pub fn explained(&self) -> u64 {
        if self.mode == Mode::Generic {
            // Driver and program do not know of each other.
            return 0;
        }
        let lost: u64 = self.rings.iter().map(|ring| ring.lost.rx_ring_full + ring.lost.rx_dropped).sum();
        self.program.dropped.sum() + self.program.shunted.sum() + lost
    }
}

/// What became of a worker's frames in the packet store: each is kept, not kept, or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Store {
    /// On the disk.
    pub kept: u64,
    /// Bytes of them.
    pub kept_bytes: u64,
    /// Bytes of the segments that they are in.
    pub written_bytes: u64,
    /// Segments that were finished.
    pub segments: u64,
    /// Nothing can be written just now: the disk is full, or fails.
    pub paused: bool,
    /// Not to be kept, by reason.
    pub not_kept: Named,
    /// To be kept, and lost to the store, by reason.
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
    /// All of the frames.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.kept + self.not_kept.sum() + self.lost.sum()
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// Its number.
    pub worker: usize,
    /// Frames that it was given, be it by its own socket or by other workers.
    pub delivered: u64,
    /// Frames that changed the worker.
    pub hand_over: HandOver,
    /// Bytes of them, as mirrored.
    pub delivered_bytes: u64,
    /// Frames that went through the whole analysis.
    pub analysed: u64,
    /// Frames that no flow could be made of, by reason.
    pub refused: Named,
    /// Frames that were mirrored at both ends and analysed when they came from the other.
    pub duplicates: u64,
    /// Flows in the table.
    pub flows_active: u64,
    /// Flows that were ever made.
    pub flows_total: u64,
    /// Flows that the driver counts now.
    pub flows_shunted: u64,
    /// Flows that the driver ever counted.
    pub flows_shunted_total: u64,
    /// Records that the log's queue had no room for.
    pub records_lost: u64,
    /// What the analysis has not seen of the frames that went through it, by reason: streams of TCP and states of
    /// analyzers that were given up, datagrams whose fragments did not all come, packets in packets.
    pub analysis_lost: Named,
    /// What became of the frames in the packet store; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// What came, by transport protocol.
    pub protocols: Protocols,
    /// Milliseconds of CPU time that it has taken; 0 where nothing measures it.
    pub busy_ms: u64,
}

impl Worker {
    /// A worker's part of the account. `store` are its counters of the packet store, where there is one.
    #[must_use]
    pub fn new(
        worker: usize,
        hand_over: HandOver,
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
            duplicates: counters.duplicates,
            flows_active: counters.flows_active,
            flows_total: counters.flows_total,
            flows_shunted: counters.flows_shunted.0,
            flows_shunted_total: counters.flows_shunted.1,
            records_lost: counters.records_lost,
            analysis_lost: Named(counters.analysis_lost),
            store: store.map(Store::from),
            protocols: counters.protocols,
            busy_ms: 0,
        }
    }

    /// Frames that no counter explains.
    #[must_use]
    pub fn imbalance(&self) -> u64 {
        let stored = self.store.as_ref().map_or(0, |store| self.delivered.abs_diff(store.seen()));
        self.delivered.abs_diff(self.analysed + self.refused.sum() + self.duplicates) + stored
    }
}

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// Written to the log, by kind.
    pub written: Named,
    /// Lost, be it on the way to the log or because it could not be written.
    pub lost: u64,
}

impl Records {
    /// What became of the records, of which `on_the_way` never reached the sink.
    #[must_use]
    pub fn new(on_the_way: u64, sink: &SinkCounters) -> Self {
        Self { written: Named(sink.written_by_kind().collect()), lost: sink.lost + on_the_way }
    }
}

/// What an interface's policy counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Name of the interface.
    pub interface: String,
    /// How many policies have been in force.
    pub generation: u32,
    /// VNIs of which frames came, in ascending order; last all those that had no counters of their own.
    pub vnis: Vec<Vni>,
    /// Rules, in the order in which they are tried, set by set; of each set last what none matched.
    pub rules: Vec<Rule>,
}

/// What was counted of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vni {
    /// The VNI; absent for all others together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Frames that came.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
    /// What became of those that were not captured, by reason.
    pub dropped: VniDropped,
    /// Seconds since the last frame, when the statistics were made.
    pub idle_seconds: u64,
}

/// What became of frames of a VNI that were not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VniDropped {
    /// Rejected by the filter.
    pub rejected: u64,
    /// Of flows that a sample does not include.
    pub sampled_out: u64,
    /// Counted and dropped, as a rule or user space asked for.
    pub shunted: u64,
    /// The VNI is not admitted.
    pub not_admitted: u64,
    /// No socket, or no room for the capture header.
    pub undelivered: u64,
}

/// What was counted of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The set's name.
    pub set: String,
    /// The rule's number; absent for what no rule of the set matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Its direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    /// What it does.
    pub action: String,
    /// Packets that it decided on.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
}

impl Policy {
    /// The statistics of an interface's policy.
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Since the capture began.
    pub seconds: f64,
    /// The interfaces, in the order in which they were named.
    pub interfaces: Vec<Interface>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The records.
    pub records: Records,
    /// What became of the frames that were to go out of the tap, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapCounts>,
    /// What was uploaded of the packet store, if anything is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadCounters>,
    /// What was counted of VNIs and rules, by interface. Only at the end: there may be many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    /// Datagrams for the ports of mirror traffic that the network stack got: no program has seen them, or it let them
    /// pass. They are in no other counter.
    pub missed: u64,
    /// Frames that no counter explains: the sum of the absolute differences of the identities. Absent
    /// while frames are on their way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaccounted: Option<u64>,
}

impl Stats {
    /// Enters what became of the records.
    pub fn set_records(&mut self, sink: &SinkCounters) {
        let on_the_way: u64 = self.workers.iter().map(|worker| worker.records_lost).sum();
        self.records = Records::new(on_the_way, sink);
    }

    /// Frames that no counter explains; 0 when the account is exact.
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

    /// Frames that the workers took off the rings.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.rings().map(|ring| ring.delivered).sum()
    }

    /// Frames that were lost between the program and the worker that was to analyse them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let rings: u64 = self.rings().map(|ring| ring.lost.rx_ring_full + ring.lost.rx_dropped).sum();
        rings + self.hand_over(|hand_over| hand_over.full)
    }

    /// The sum of what the workers say of frames that changed the worker.
    #[must_use]
    pub fn hand_over(&self, count: impl Fn(&HandOver) -> u64) -> u64 {
        self.workers.iter().map(|worker| count(&worker.hand_over)).sum()
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.interfaces.iter().flat_map(|interface| &interface.rings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact() -> Stats {
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
        // The first has handed two frames over, of which the second could take one.
        let hand_over = [
            HandOver { given: 1, full: 1, ..HandOver::default() },
            HandOver { taken: 1, ..HandOver::default() },
        ];
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
        let breaks: [fn(&mut Stats); 8] = [
            |stats| stats.interfaces[0].program.seen += 3,
            |stats| stats.interfaces[0].program.passed.0[0].1 += 3,
            |stats| stats.interfaces[0].rings[1].lost.rx_dropped += 3,
            |stats| stats.workers[1].refused.0[0].1 += 3,
            |stats| stats.workers[1].analysed -= 1,
            |stats| stats.workers[0].hand_over.full += 1,
            |stats| stats.workers[0].hand_over.given += 1,
            |stats| stats.workers[1].duplicates += 1,
        ];
        for (index, break_it) in breaks.into_iter().enumerate() {
            let mut stats = exact();
            break_it(&mut stats);
            assert_ne!(stats.imbalance(), 0, "{index}");
        }
    }

    #[test]
    fn frames_that_vanish_between_ring_and_worker_show() {
        let mut stats = exact();
        stats.workers[0].delivered -= 1;
        stats.workers[0].analysed -= 1;
        assert_eq!(stats.imbalance(), 1);
    }
}
