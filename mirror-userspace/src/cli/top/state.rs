//! The state of the capture: the last replies, and the rates computed from earlier ones.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::answer::{Flow, Service, Summary, Vnis, sum};
use super::client::{Failure, Rows, Update};
use super::rates::Rates;

/// Number of points of a graph to keep: enough for the widest terminal.
const POINTS: usize = 600;
/// The appliance counts as late after this time without a reply, in addition to the interval.
const LATE: Duration = Duration::from_secs(4);

/// The number of kinds of rows.
const KINDS: usize = 3;

/// The stage, the place and the reason of a loss.
type LossKey = (String, String, String);
/// The interface and the VNI.
type VniKey = (String, Option<u32>);

/// The address, the port, the VNI and the protocol of a service.
type ServiceKey = (Option<String>, Option<u64>, Option<u32>, Option<String>);

fn service_key(service: &Service) -> ServiceKey {
    (service.dest_ip.clone(), service.dest_port, service.vni, service.app_proto.clone())
}

/// Packets and bits per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    /// Bits.
    pub(super) bits: f64,
}

impl Rate {
    fn of([packets, bytes]: [f64; 2]) -> Self {
        Self { packets, bits: bytes * 8.0 }
    }
}

/// Packets and bits per second of each interval; `None` if they are unknown.
pub(super) type Graph = VecDeque<Option<Rate>>;

/// Everything known about the capture.
#[derive(Debug)]
pub(super) struct State {
    began: Instant,
    /// The time of the last reply.
    answered: Option<Instant>,
    /// The failure since then.
    failure: Option<Failure>,
    /// The reason why rows are missing, although the appliance answers.
    pub(super) rows_failure: Option<Failure>,
    pub(super) summary: Summary,
    pub(super) vnis: Vnis,
    pub(super) flows: Vec<Flow>,
    pub(super) services: Vec<Service>,
    pub(super) graph: Graph,
    /// For each kind of rows, true if there are more rows than those of the summary.
    full: [bool; KINDS],
    total: Rates<(), 2>,
    records: Rates<(), 1>,
    interfaces: Rates<String, 2>,
    protocols: Rates<String, 2>,
    workers: Rates<u64, 3>,
    losses: Rates<LossKey, 1>,
    vni: Rates<VniKey, 2>,
    flow: Rates<u64, 2>,
    /// The appliance's time of its last list of flows.
    flows_told: String,
    service: Rates<ServiceKey, 1>,
}

/// Tells whether the appliance answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answering {
    /// The first reply is not due yet.
    Waiting,
    Yes,
    /// No reply for this time, with the reason if it is known.
    No(Duration, Option<Failure>),
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            answered: None,
            failure: None,
            rows_failure: None,
            summary: Summary::default(),
            vnis: Vnis::default(),
            flows: Vec::new(),
            services: Vec::new(),
            graph: Graph::new(),
            full: [false; KINDS],
            total: Rates::default(),
            records: Rates::default(),
            interfaces: Rates::default(),
            protocols: Rates::default(),
            workers: Rates::default(),
            losses: Rates::default(),
            vni: Rates::default(),
            flow: Rates::default(),
            flows_told: String::new(),
            service: Rates::default(),
        }
    }

    /// Returns whether the appliance answers; `interval` is the time between two requests.
    pub(super) fn answering(&self, now: Instant, interval: Duration) -> Answering {
        let silent = now.saturating_duration_since(self.answered.unwrap_or(self.began));
        match &self.failure {
            Some(failure) => Answering::No(silent, Some(failure.clone())),
            None if silent > LATE + interval => Answering::No(silent, None),
            None if self.answered.is_none() => Answering::Waiting,
            None => Answering::Yes,
        }
    }

    /// Returns true if there was a reply.
    pub(super) const fn is_known(&self) -> bool {
        self.answered.is_some()
    }

    /// Applies the result of a round of requests.
    pub(super) fn apply(&mut self, update: Update) {
        match update.summary {
            Some(Ok(summary)) => self.summarize(*summary, update.at),
            Some(Err(failure)) => {
                self.failure = Some(failure);
                // Later counters may come from another process.
                self.begin_anew();
                self.gap();
            }
            None => {}
        }
        match update.rows {
            Some(Ok(rows)) => {
                self.rows_failure = None;
                self.full[kind(&rows)] = true;
                self.take_rows(rows, update.at);
            }
            Some(Err(failure)) => self.rows_failure = Some(failure),
            None => {}
        }
    }

    fn summarize(&mut self, summary: Summary, at: Instant) {
        if summary.seconds < self.summary.seconds {
            self.begin_anew();
        }
        self.failure = None;
        self.answered = Some(at);
        let seconds = summary.seconds;
        let delivered = summary.workers.iter().map(|worker| worker.delivered);
        let bytes = summary.workers.iter().map(|worker| worker.delivered_bytes);
        self.total.note(seconds, [((), [sum(delivered), sum(bytes)])]);
        self.records.note(seconds, [((), [summary.records.written()])]);
        let interfaces = summary.interfaces.iter();
        let interfaces = interfaces.map(|one| (one.name.clone(), [one.program.seen, one.link.bytes]));
        self.interfaces.note(seconds, interfaces);
        let protocols = summary.protocols.iter();
        self.protocols.note(seconds, protocols.map(|(name, one)| (name.clone(), [one.packets, one.bytes])));
        let workers = summary.workers.iter();
        let workers = workers.map(|one| (one.worker, [one.delivered, one.delivered_bytes, one.busy_ms]));
        self.workers.note(seconds, workers);
        let losses = summary.losses.iter().chain(&summary.notices);
        let losses =
            losses.map(|one| ((one.stage.clone(), one.place.clone(), one.reason.clone()), [one.count]));
        self.losses.note(seconds, losses);
        let rate = self.total.last(&()).map(Rate::of);
        self.graph.push_back(rate);
        self.trim();
        // The rows on the screen are requested separately, and are more; until they arrive, those of the
        // summary are shown.
        let rows = [
            Rows::Vnis(summary.vnis.clone()),
            Rows::Flows(summary.flows.clone()),
            Rows::Services(summary.services.clone()),
        ];
        self.summary = summary;
        for rows in rows {
            if !self.full[kind(&rows)] {
                self.take_rows(rows, at);
            }
        }
    }

    fn take_rows(&mut self, rows: Rows, at: Instant) {
        // These replies do not contain the time of their content.
        let at = at.saturating_duration_since(self.began).as_secs_f64();
        match rows {
            Rows::Vnis(vnis) => {
                let counters = vnis.vnis.iter();
                let counters =
                    counters.map(|one| ((one.interface.clone(), one.vni), [one.packets, one.bytes]));
                self.vni.note(at, counters);
                self.vnis = vnis;
            }
            Rows::Flows(flows) => {
                // All times have the same format, so later ones compare greater.
                let begun = flows.iter().filter(|flow| flow.flow.start > self.flows_told);
                self.flow.begin(begun.map(|flow| flow.flow_id));
                self.flows_told.clone_from(&self.summary.time);
                self.flow.note(at, flows.iter().map(|flow| (flow.flow_id, [flow.packets(), flow.bytes()])));
                self.flows = flows;
            }
            Rows::Services(services) => {
                let counters = services.iter().map(|one| (service_key(one), [one.total.requests]));
                self.service.note(at, counters);
                self.services = services;
            }
        }
    }

    /// Clears the samples of the rates, and rows that may belong to another process.
    fn begin_anew(&mut self) {
        self.total.clear();
        self.records.clear();
        self.interfaces.clear();
        self.protocols.clear();
        self.workers.clear();
        self.losses.clear();
        self.vni.clear();
        self.flow.clear();
        self.service.clear();
        self.full = [false; KINDS];
        self.vnis = Vnis::default();
        self.flows.clear();
        self.services.clear();
    }

    fn gap(&mut self) {
        if self.is_known() {
            self.graph.push_back(None);
            self.trim();
        }
    }

    fn trim(&mut self) {
        while self.graph.len() > POINTS {
            self.graph.pop_front();
        }
    }

    /// Returns the rate of all workers.
    pub(super) fn rate(&self) -> Option<Rate> {
        self.total.of(&()).map(Rate::of)
    }

    pub(super) fn records_rate(&self) -> Option<f64> {
        self.records.of(&()).map(|[records]| records)
    }

    /// Returns the rate of frames that the program sees on an interface, and of bits that the interface
    /// receives.
    pub(super) fn interface_rate(&self, name: &str) -> Option<Rate> {
        self.interfaces.of(name).map(Rate::of)
    }

    pub(super) fn protocol_rate(&self, name: &str) -> Option<Rate> {
        self.protocols.of(name).map(Rate::of)
    }

    /// Returns the rate of a worker, and the share of a core that it uses.
    pub(super) fn worker_rate(&self, worker: u64) -> Option<(Rate, f64)> {
        let [packets, bytes, busy_ms] = self.workers.of(&worker)?;
        Some((Rate::of([packets, bytes]), busy_ms / 1000.0))
    }

    /// Returns the increase of a loss per second.
    pub(super) fn loss_rate(&self, stage: &str, place: &str, reason: &str) -> Option<f64> {
        let key = (stage.to_owned(), place.to_owned(), reason.to_owned());
        self.losses.of_listed(&key).map(|[count]| count)
    }

    pub(super) fn vni_rate(&self, interface: &str, vni: Option<u32>) -> Option<Rate> {
        self.vni.of(&(interface.to_owned(), vni)).map(Rate::of)
    }

    pub(super) fn flow_rate(&self, flow: u64) -> Option<Rate> {
        self.flow.of(&flow).map(Rate::of)
    }

    /// Returns the requests per second.
    pub(super) fn service_rate(&self, service: &Service) -> Option<f64> {
        self.service.of(&service_key(service)).map(|[requests]| requests)
    }
}

const fn kind(rows: &Rows) -> usize {
    match rows {
        Rows::Vnis(_) => 0,
        Rows::Flows(_) => 1,
        Rows::Services(_) => 2,
    }
}

/// The traffic of a host in the known flows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Talker {
    pub(super) flows: u64,
    pub(super) packets: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Bits per second; absent if none of its flows has a rate.
    pub(super) bits: Option<f64>,
}

impl State {
    /// Returns the hosts of the flows, by VNI and address: an address in two VNIs is two hosts.
    pub(super) fn talkers<'f>(
        &self,
        flows: impl Iterator<Item = &'f Flow>,
    ) -> HashMap<(Option<u32>, &'f str), Talker> {
        let mut talkers: HashMap<_, Talker> = HashMap::new();
        for flow in flows {
            let rate = self.flow_rate(flow.flow_id);
            let (to_server, to_client) = (flow.flow.bytes_toserver, flow.flow.bytes_toclient);
            let ends = [(&flow.src_ip, to_server, to_client), (&flow.dest_ip, to_client, to_server)];
            for (address, sent, received) in ends {
                let talker = talkers.entry((flow.vni(), address.as_str())).or_default();
                talker.flows += 1;
                talker.packets = talker.packets.saturating_add(flow.packets());
                talker.sent = talker.sent.saturating_add(sent);
                talker.received = talker.received.saturating_add(received);
                if let Some(Rate { bits, .. }) = rate {
                    talker.bits = Some(talker.bits.unwrap_or_default() + bits);
                }
            }
        }
        talkers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::answer::{FlowCounters, Worker};

    const SECOND: Duration = Duration::from_secs(1);

    fn summary(seconds: f64, delivered: u64) -> Summary {
        let worker = Worker { delivered, delivered_bytes: delivered * 100, ..Worker::default() };
        Summary { seconds, workers: vec![worker], ..Summary::default() }
    }

    fn answer(at: Instant, summary: Summary) -> Update {
        Update { at, summary: Some(Ok(Box::new(summary))), rows: None }
    }

    #[test]
    fn rates_do_not_jump_when_the_appliance_begins_anew() {
        let start = Instant::now();
        let mut state = State::new(start);
        for second in 1..=5_u32 {
            let counted = summary(f64::from(second), u64::from(second) * 1000);
            state.apply(answer(start + second * SECOND, counted));
        }
        let rate = Rate { packets: 1000.0, bits: 800_000.0 };
        assert_eq!(state.rate(), Some(rate));
        // So fast that only the counters reveal it.
        state.apply(answer(start + 6 * SECOND, summary(0.5, 10)));
        assert_eq!(state.rate(), None);
        state.apply(answer(start + 7 * SECOND, summary(1.5, 510)));
        assert_eq!(state.rate(), Some(Rate { packets: 500.0, bits: 400_000.0 }));
        // A failed request reveals it; by now the new process has counted more than the old one.
        let failure = Failure::new("connection refused");
        state.apply(Update { at: start + 8 * SECOND, summary: Some(Err(failure.clone())), rows: None });
        assert_eq!(state.answering(start + 19 * SECOND, SECOND), Answering::No(12 * SECOND, Some(failure)));
        state.apply(answer(start + 20 * SECOND, summary(9.0, 1_000_000)));
        assert_eq!((state.rate(), state.answering(start + 20 * SECOND, SECOND)), (None, Answering::Yes));
        assert_eq!(state.graph.iter().filter(|rate| rate.is_some()).count(), 5);
        assert_eq!(state.graph.len(), 9);
    }

    #[test]
    fn an_appliance_that_says_nothing_is_late() {
        let start = Instant::now();
        let mut state = State::new(start);
        assert_eq!(state.answering(start + SECOND, SECOND), Answering::Waiting);
        assert_eq!(state.answering(start + 9 * SECOND, SECOND), Answering::No(9 * SECOND, None));
        state.apply(answer(start + 10 * SECOND, summary(1.0, 1)));
        assert_eq!(state.answering(start + 12 * SECOND, SECOND), Answering::Yes);
        assert_eq!(state.answering(start + 17 * SECOND, SECOND), Answering::No(7 * SECOND, None));
    }

    #[test]
    fn hosts_are_told_apart_by_their_network() {
        let flow = |id, vni, src: &str, dest: &str, bytes| Flow {
            flow_id: id,
            src_ip: src.to_owned(),
            dest_ip: dest.to_owned(),
            flow: FlowCounters { bytes_toserver: bytes, pkts_toserver: 1, ..FlowCounters::default() },
            mirror: Some(crate::cli::top::answer::Mirror { vni }),
            ..Flow::default()
        };
        let start = Instant::now();
        let mut state = State::new(start);
        for (second, more) in [(1, 0), (2, 100)] {
            let flows =
                vec![flow(1, 7, "a", "b", 1000 + more), flow(2, 7, "b", "c", 10), flow(3, 8, "a", "b", 5)];
            state.apply(Update {
                at: start + second * SECOND,
                summary: None,
                rows: Some(Ok(Rows::Flows(flows))),
            });
        }
        let talkers = state.talkers(state.flows.iter());
        assert_eq!(talkers.len(), 5);
        let b = &talkers[&(Some(7), "b")];
        assert_eq!((b.flows, b.sent, b.received, b.bits), (2, 10, 1100, Some(800.0)));
        assert_eq!(talkers[&(Some(8), "a")].sent, 5);
    }
}
