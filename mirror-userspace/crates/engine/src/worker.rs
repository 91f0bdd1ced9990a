//! A worker: frames in, records out. Each core has one; live captures and `read` run the same code.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::Arc;

use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, Vni};
use serde::Serialize;

pub mod affinity;
mod datagrams;
pub(crate) mod duplicates;
pub mod flow_scan;
pub(crate) mod halves;
mod in_order;
mod shunting;
mod tuning;

use mirror_packet::fragment::{Defragmenter, Fragments};
use mirror_packet::{
    self, DecodeError, Decoded, FlowKey, FlowKeyHasher, FlowScope, Fragment, Layer, LinkType, Packet, SECOND,
    Segment, SessionKey, Transport, TunnelPorts, tcp_flags,
};
use mirror_packet::{FrameInfo, MirrorSession};
use mirror_records::EndReason;
use mirror_records::sink::Producer;

use self::datagrams::Whole;
pub use self::datagrams::{DatagramCounters, Datagrams};
use self::duplicates::{Duplicates, Place, Verdict};
use self::flow_scan::FlowScan;
use self::halves::Halves;
pub(crate) use self::in_order::Fragmented;
use self::in_order::InOrder;
use self::shunting::Ending;
pub use self::shunting::Shunting;
pub use self::tuning::Tuning;
use crate::FlowIndex;
use crate::analyzer::{self, AnalyzerMemory, Analyzers, Cause};
use crate::flow::{Flow, FlowContext, FlowTable, Missing};
use crate::hooks::{Offload, Recorder};
use crate::indicators::Indicators;
use crate::inspection::{Inspection, Rules};
use crate::observers::Observers;
use crate::stream::{StreamLoss, Streams};

/// The counters of a worker. `delivered = analysed + Σ refused + duplicates + waiting`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Frames passed to [`Worker::frame`].
    pub delivered: u64,
    /// Bytes of those frames, as mirrored.
    pub delivered_bytes: u64,
    /// Frames that were analysed completely.
    pub analysed: u64,
    /// Frames that belong to no flow, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Packets that belong to no flow, within other packets of analysed frames, by reason.
    pub refused_nested: Vec<(&'static str, u64)>,
    /// Frames that hold fragments of datagrams that are not complete yet.
    pub waiting: u64,
    /// Frames that were mirrored at both ends, and analysed when they came from the other.
    pub duplicates: u64,
    /// Flows in the table now.
    pub flows_active: u64,
    /// Flows created so far.
    pub flows_total: u64,
    /// Flows that the driver counts now, and flows handed to it so far.
    pub flows_shunted: (u64, u64),
    /// Records lost because the sink's queue was full.
    pub records_lost: u64,
    /// Data of analysed frames that the analyzers did not see, by reason: TCP streams and analyzer states
    /// that were given up, nested packets.
    pub analysis_lost: Vec<(&'static str, u64)>,
    /// Flows of one side that have ended, and of whose conversations another session of the same VNI had the other
    /// side, by VNI. `None` stands for the VNIs that have no counter of their own.
    pub split: Vec<(Option<Vni>, u64)>,
    /// Traffic by transport protocol.
    pub protocols: Protocols,
}

impl WorkerCounters {
    /// Adds the counters of another worker.
    pub fn add(&mut self, other: &Self) {
        fn all<N: PartialEq + Copy>(counts: &mut Vec<(N, u64)>, others: &[(N, u64)]) {
            for &(name, other) in others {
                match counts.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, count)) => *count += other,
                    None => counts.push((name, other)),
                }
            }
        }
        let traffic = |count: &mut Traffic, other: Traffic| {
            count.packets += other.packets;
            count.bytes += other.bytes;
        };
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.analysed += other.analysed;
        all(&mut self.refused, &other.refused);
        all(&mut self.refused_nested, &other.refused_nested);
        self.waiting += other.waiting;
        self.duplicates += other.duplicates;
        self.flows_active += other.flows_active;
        self.flows_total += other.flows_total;
        self.flows_shunted.0 += other.flows_shunted.0;
        self.flows_shunted.1 += other.flows_shunted.1;
        self.records_lost += other.records_lost;
        all(&mut self.analysis_lost, &other.analysis_lost);
        all(&mut self.split, &other.split);
        traffic(&mut self.protocols.tcp, other.protocols.tcp);
        traffic(&mut self.protocols.udp, other.protocols.udp);
        traffic(&mut self.protocols.icmp, other.protocols.icmp);
        traffic(&mut self.protocols.other, other.protocols.other);
    }
}

/// A count of packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Traffic {
    /// Number of packets.
    pub packets: u64,
    /// Bytes of these packets, as mirrored.
    pub bytes: u64,
}

/// Packets that belong to flows, by transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Protocols {
    /// TCP.
    pub tcp: Traffic,
    /// UDP.
    pub udp: Traffic,
    /// ICMP and `ICMPv6`.
    pub icmp: Traffic,
    /// All others.
    pub other: Traffic,
}

impl Protocols {
    const fn count(&mut self, number: u8, bytes: u64) {
        let traffic = match number {
            protocol::TCP => &mut self.tcp,
            protocol::UDP => &mut self.udp,
            protocol::ICMP | protocol::ICMPV6 => &mut self.icmp,
            _ => &mut self.other,
        };
        traffic.packets += 1;
        traffic.bytes += bytes;
    }
}

/// The configuration of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Maximum number of flows in the table. At this bound, the flow that was idle for the longest is
    /// evicted.
    pub max_flows: usize,
    /// Seed of all keyed hashes: the one with which the frames' [`FrameInfo::flow_hash`] was computed.
    pub hash_seed: u64,
    /// True if a packet that is mirrored at both ends of its conversation is analysed only once.
    pub dedup: bool,
    /// The frames that make up one address space.
    pub flow_scope: FlowScope,
    /// True if connections that are older than the capture are followed in plain frames, too, as they are in mirror
    /// sessions.
    pub midstream: bool,
    /// The bounds of memory for unfinished data.
    pub memory: Memory,
    /// The settings that can change later, see [`Worker::tune`].
    pub tuning: Tuning,
}

/// Bytes of memory that a worker uses for unfinished data. Hosts share each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of TCP streams that wait, for a hole to be filled or for the rest of a message.
    pub streams: usize,
    /// Fragments of datagrams that are not complete.
    pub fragments: usize,
    /// The states of flows for all analyzers together: handshakes, requests without a response.
    pub analyzers: AnalyzerMemory,
}

impl Memory {
    /// The bounds for a core of a live capture.
    pub const LIVE: Self = Self {
        streams: 32 << 20,
        fragments: 16 << 20,
        analyzers: AnalyzerMemory { few: 32 << 20, many: 32 << 20 },
    };
    /// The bounds for the reading of capture files, each of which may be made by an attacker.
    pub const FILES: Self = Self {
        streams: 8 << 20,
        fragments: 3 << 20,
        analyzers: AnalyzerMemory { few: 4 << 20, many: 32 << 20 },
    };
}

impl Memory {
    /// Returns the part of each of this many workers that share the memory of one.
    #[must_use]
    pub(crate) fn of_each(self, workers: NonZeroUsize) -> Self {
        if workers == NonZeroUsize::MIN {
            return self;
        }
        let Self { streams, fragments, analyzers: AnalyzerMemory { few, many } } = self;
        Self {
            streams: streams / workers,
            // Of several, only one has fragments, those in tunnels. All others are reassembled before.
            fragments: fragments / 2,
            analyzers: AnalyzerMemory { few: few / workers, many: many / workers },
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            max_flows: 1 << 18,
            hash_seed: 0,
            dedup: false,
            flow_scope: FlowScope::default(),
            midstream: false,
            memory: Memory::LIVE,
            tuning: Tuning::default(),
        }
    }
}

/// Nanoseconds that live records may wait in a batch that is not full.
const HAND_OVER_INTERVAL: u64 = 100_000_000;

/// Maximum number of flows that one tick ends.
const EXPIRE_AT_ONCE: usize = 1024;

/// Maximum number of flows whose waiting data one tick looks at.
const SETTLE_AT_ONCE: usize = 256;

/// Flows that the packets of one frame, one in the other, begin at most. Each costs more than a frame with one; more
const MAX_NEW_FLOWS: u8 = 3;

/// The outcome of a frame that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Analysed,
    /// It is a fragment of a datagram that is not complete.
    Waiting,
    /// Another frame or the driver has already counted it.
    Duplicate,
}

/// Tracks the flows of one core and feeds the analyzers.
#[derive(Debug)]
pub struct Worker<R: Recorder = (), O: Offload = ()> {
    config: WorkerConfig,
    hasher: FlowKeyHasher,
    /// The driver's hash key, which assigns flows to owners.
    hash_key: FlowHashKey,
    flows: FlowTable,
    shunting: Option<Shunting<O>>,
    recorder: R,
    /// The detector of packets that are mirrored at both ends, if enabled.
    dedup: Option<Box<Duplicates>>,
    observers: Observers,
    streams: Streams,
    analyzers: Analyzers,
    /// The indicators that raise an alert.
    indicators: Option<Arc<Indicators>>,
    /// The rules that raise alerts, if there are any.
    inspection: Option<Box<Inspection>>,
    /// Set if the current flow has raised an alert.
    alerted: Cell<bool>,
    defragmenter: Defragmenter,
    /// The datagram that was reassembled last.
    datagram: Vec<u8>,
    /// The queues of datagrams to the workers that own their flows, if there are several workers.
    datagrams: Option<Datagrams>,
    records: Producer,
    delivered: u64,
    delivered_bytes: u64,
    analysed: u64,
    refused: [u64; DecodeError::COUNT],
    refused_nested: [u64; DecodeError::COUNT],
    duplicates: u64,
    /// Finds conversations of which two sessions have a direction each, where flows are told apart by session.
    halves: Option<Halves>,
    flows_total: u64,
    flows_settled: u64,
    /// Set if the frames are those of a capture file.
    in_order: Option<InOrder>,
    /// Flows that the packets of the current frame have begun, see [`MAX_NEW_FLOWS`].
    begun: u8,
    /// Packets within others that began no flow, because too many did; what is in those is not looked at.
    unfollowed: u64,
    /// Frames with an IP packet that is longer than the frame was on the wire.
    overlong: u64,
    protocols: Protocols,
    /// The latest time seen, in nanoseconds since the epoch.
    now: u64,
    /// The last second in which all flows that had timed out were removed. Timeouts count whole seconds.
    swept: u64,
    handed_over: u64,
}

/// A worker in the making, see [`Worker::builder`].
#[derive(Debug)]
pub struct WorkerBuilder<R: Recorder = (), O: Offload = ()> {
    config: WorkerConfig,
    records: Producer,
    recorder: R,
    offload: Option<O>,
    indicators: Option<Arc<Indicators>>,
    datagrams: Option<Datagrams>,
    workers: NonZeroUsize,
}

impl<R: Recorder, O: Offload> WorkerBuilder<R, O> {
    /// Keeps frames in `recorder`.
    /// Creates a worker without flows. Its records go to `records`.
    #[must_use]
    pub fn recorder<S: Recorder>(self, recorder: S) -> WorkerBuilder<S, O> {
        let Self { config, records, offload, indicators, datagrams, workers, .. } = self;
        WorkerBuilder { config, records, recorder, offload, indicators, datagrams, workers }
    }

    /// Counts flows that no analyzer wants more of in the driver, where there is one.
    #[must_use]
    pub fn offload<P: Offload>(self, offload: Option<P>) -> WorkerBuilder<R, P> {
        let Self { config, records, recorder, indicators, datagrams, workers, .. } = self;
        WorkerBuilder { config, records, recorder, offload, indicators, datagrams, workers }
    }

    /// Raises an alert for flows that have one of these.
    #[must_use]
    pub fn indicators(self, indicators: Option<Arc<Indicators>>) -> Self {
        Self { indicators, ..self }
    }

    /// Sends datagrams that arrive in fragments to the workers that own their flows, where there are several.
    #[must_use]
    pub fn datagrams(self, datagrams: Option<Datagrams>) -> Self {
        Self { datagrams, ..self }
    }

    /// Makes it one of this many workers that share the flows and the memory that one would have.
    #[must_use]
    pub fn one_of(self, workers: NonZeroUsize) -> Self {
        Self { workers, ..self }
    }

    /// The worker, without flows.
    #[must_use]
    pub fn build(self) -> Worker<R, O> {
        let Self { config, records, recorder, offload, indicators, datagrams, workers } = self;
        let max_flows = config.max_flows.div_ceil(workers.get());
        let memory = config.memory.of_each(workers);
        let mut worker = Worker {
            config,
            hasher: FlowKeyHasher::new(config.hash_seed),
            hash_key: FlowHashKey::new(config.hash_seed),
            flows: FlowTable::new(max_flows),
            shunting: offload.map(Shunting::new),
            recorder,
            dedup: config.dedup.then(|| Box::new(Duplicates::new(config.hash_seed))),
            observers: Observers::default(),
            streams: Streams::new(config.hash_seed, memory.streams),
            analyzers: Analyzers::of_worker(max_flows, memory.analyzers, config.hash_seed),
            indicators: None,
            inspection: None,
            alerted: Cell::new(false),
            defragmenter: Defragmenter::new(config.hash_seed, memory.fragments),
            datagram: Vec::new(),
            datagrams,
            records,
            delivered: 0,
            delivered_bytes: 0,
            analysed: 0,
            refused: [0; DecodeError::COUNT],
            refused_nested: [0; DecodeError::COUNT],
            duplicates: 0,
            halves: (config.flow_scope == FlowScope::Interface).then(Halves::new),
            flows_total: 0,
            flows_settled: 0,
            in_order: None,
            begun: 0,
            unfollowed: 0,
            overlong: 0,
            protocols: Protocols::default(),
            now: 0,
            swept: 0,
            handed_over: 0,
        };
        if let Some(indicators) = &indicators {
            worker.watch_for(indicators);
        }
        worker.tune(config.tuning);
        worker
    }
}

impl Worker {
    /// Creates a worker without flows. Its records go to `records`.
    #[must_use]
    pub fn new(config: WorkerConfig, records: Producer) -> Self {
        Self::builder(config, records).build()
    }

    /// Builds a worker whose records go to `records`.
    #[must_use]
    pub const fn builder(config: WorkerConfig, records: Producer) -> WorkerBuilder {
        WorkerBuilder {
            config,
            records,
            recorder: (),
            offload: None,
            indicators: None,
            datagrams: None,
            workers: NonZeroUsize::MIN,
        }
    }
}

/// Makes the context of a flow from the worker's fields, so that others can be borrowed beside it.
macro_rules! context {
    ($worker:expr, $index:expr, $time:expr) => {
        FlowContext {
            streams: &mut $worker.streams,
            analyzers: &mut $worker.analyzers,
            records: &mut $worker.records,
            index: $index,
            time: $time,
            alerted: &$worker.alerted,
            inspection: &mut $worker.inspection,
            midstream: $worker.config.midstream,
        }
    };
}

impl<R: Recorder, O: Offload> Worker<R, O> {
    /// Applies other settings.
    pub fn tune(&mut self, tuning: Tuning) {
        self.config.tuning = tuning;
        self.flows.set_timeouts(tuning.timeouts);
        self.swept = 0;
        self.analyzers.enable(tuning.analyzers);
        if let Some(shunting) = &mut self.shunting {
            shunting.set_after(tuning.shunt_after);
        }
    }

    /// Returns the worker's analyzers, for registration.
    pub const fn analyzers(&mut self) -> &mut Analyzers {
        &mut self.analyzers
    }

    /// Sets the indicators: flows that match one of them raise an alert.
    pub fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.analyzers.watch_for(indicators);
        self.indicators = Some(Arc::clone(indicators));
    }

    /// Sets the rules that raise alerts, in place of those before; `None` ends inspection.
    pub fn inspect(&mut self, rules: Option<Rules>) {
        match (rules, &mut self.inspection) {
            (None, inspection) => *inspection = None,
            (Some(rules), Some(inspection)) => inspection.replace(rules),
            (Some(rules), inspection) => {
                *inspection = Some(Box::new(Inspection::new(rules, self.config.max_flows)));
            }
        }
    }

    /// Returns the state of shunting, if it is enabled.
    pub const fn shunting(&mut self) -> Option<&mut Shunting<O>> {
        self.shunting.as_mut()
    }

    /// Analyses at most `most` datagrams that other workers have reassembled. Returns their number. They
    /// count as frames of the workers that received them.
    pub fn take_datagrams(&mut self, most: usize) -> usize {
        let mut count = 0;
        while count < most
            && let Some(whole) = self.datagrams.as_ref().and_then(Datagrams::taken)
        {
            count += 1;
            let Whole { info, place, vlans, bytes, .. } = &whole;
            self.begun = 0;
            let ports = self.config.tuning.tunnel_ports;
            let layer = Layer::whole(bytes, *vlans, 0).with_ports(&ports);
            if let Err(refusal) = self.layers(info, place, layer, true) {
                self.refused_nested[refusal as usize] += 1;
            }
            whole.end();
        }
        count
    }

    /// Returns the counters of the datagrams that this worker has reassembled for others.
    #[must_use]
    pub fn datagram_counters(&self) -> DatagramCounters {
        self.datagrams.as_ref().map(|datagrams| datagrams.counters).unwrap_or_default()
    }

    /// Calls `wake` with the number of each worker that was handed a datagram since the last call.
    pub fn wake_for_datagrams(&mut self, wake: impl FnMut(usize)) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.wake(wake);
        }
    }

    /// Returns the UDP ports of tunnels within the frames.
    #[must_use]
    pub const fn tunnel_ports(&self) -> &TunnelPorts {
        &self.config.tuning.tunnel_ports
    }

    /// Returns the observers.
    pub const fn observers(&mut self) -> &mut Observers {
        &mut self.observers
    }

    /// Processes one inner frame, from its Ethernet header on.
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        self.frame_of(0, info, frame);
    }

    /// Processes one inner frame that the filter rule with this identifier has admitted; 0 stands for none.
    pub fn frame_of(&mut self, rule: u32, info: &FrameInfo, frame: &[u8]) {
        self.take(rule, info, Some(LinkType::Ethernet), frame);
    }

    /// Processes one frame of a capture file, of any link layer. `None` stands for an unsupported one.
    pub fn link_frame(&mut self, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.link_frame_of(0, info, link, frame);
    }

    /// Processes such a frame that the filter rule with this identifier has admitted; 0 stands for none.
    pub fn link_frame_of(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.take(rule, info, link, frame);
    }

    /// Processes one plain Ethernet frame that [`mirror_packet::decode_usual`] has already decoded.
    #[inline(always)]
    pub fn decoded_frame(&mut self, info: &FrameInfo, frame: &[u8], packet: &Packet<'_>) {
        self.arrives(0, info, Some(LinkType::Ethernet), frame);
        let outcome = self.packet(info, &Place::from(None), packet);
        self.leaves(info, frame, outcome);
    }

    fn take(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.arrives(rule, info, link, frame);
        let outcome = self.analyse(info, link, frame);
        self.leaves(info, frame, outcome);
    }

    #[inline(always)]
    fn arrives(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.delivered += 1;
        self.begun = 0;
        self.delivered_bytes += u64::from(info.original_len).max(frame.len() as u64);
        self.now = self.now.max(info.time);
        if !self.observers.is_empty() {
            self.observers.frame(info, frame);
        }
        self.recorder.begin_frame(rule, info, link, frame);
    }

    #[inline(always)]
    fn leaves(&mut self, info: &FrameInfo, frame: &[u8], outcome: Result<Outcome, DecodeError>) {
        match outcome {
            Ok(Outcome::Analysed) => self.analysed += 1,
            // The defragmenter counts it.
            Ok(Outcome::Waiting) => {}
            Ok(Outcome::Duplicate) => self.duplicates += 1,
            Err(refusal) => self.refused[refusal as usize] += 1,
        }
        self.recorder.end_frame(info, frame);
    }

    fn analyse(
        &mut self,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
    ) -> Result<Outcome, DecodeError> {
        if let (Some(dedup), Some(mirror), Some(LinkType::Ethernet)) = (&mut self.dedup, info.mirror, link) {
            let verdict = dedup.look(mirror, info.time, frame);
            return self.analyse_judged(info, link, frame, &verdict);
        }
        let place = Place::from(info.mirror).within(self.config.flow_scope);
        self.analyse_at(info, link, frame, place)
    }

    /// Analyses a frame of which it is known whether it is a copy.
    // Out of line: most workers do not look for copies.
    #[inline(never)]
    fn analyse_judged(
        &mut self,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        verdict: &Verdict,
    ) -> Result<Outcome, DecodeError> {
        let scope = self.config.flow_scope;
        match *verdict {
            Verdict::New(place) => self.analyse_at(info, link, frame, place.within(scope)),
            Verdict::Copy { place, united } => {
                let place = place.within(scope);
                if let Some(first) = united {
                    self.unite_by_copy(info, frame, &place, &scope.session(first));
                }
                Ok(Outcome::Duplicate)
            }
        }
    }

    #[inline(always)]
    fn analyse_at(
        &mut self,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        place: Place,
    ) -> Result<Outcome, DecodeError> {
        let original_len = info.original_len as usize;
        if let Some(LinkType::Ethernet) = link
            && let Some(packet) =
                mirror_packet::decode_usual(frame, original_len, &self.config.tuning.tunnel_ports)
        {
            return self.packet(info, &place, &packet);
        }
        let link = link.ok_or(DecodeError::LinkType)?;
        let ports = self.config.tuning.tunnel_ports;
        self.layers(info, &place, Layer::frame(link, frame, original_len).with_ports(&ports), false)
    }

    /// Processes the nested packets of a layer. The frame counts as analysed as soon as one of them belongs
    /// to a flow; errors of the inner packets have counters of their own. `is_nested` means that the frame is
    /// counted already.
    fn layers(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        layer: Layer<'_>,
        is_nested: bool,
    ) -> Result<Outcome, DecodeError> {
        let mut outcome = Err(DecodeError::Nesting);
        let mut overlong = false;
        let mut next = Some(layer);
        while let Some(layer) = next.take() {
            if self.inspection.is_some() {
                self.inspect_lone(info, layer);
            }
            let step = match mirror_packet::decode_stepwise(layer) {
                Ok(Decoded::Packet(packet)) => {
                    let unfollowed = self.unfollowed;
                    overlong |= packet.overlong;
                    let step = self.unusual_packet(info, place, &packet);
                    // Nor is what is in a packet that begins no flow since there were too many.
                    next = packet.tunnelled.filter(|_| self.unfollowed == unfollowed);
                    step
                }
                Ok(Decoded::Fragment(fragment)) => {
                    self.fragment(info, place, &fragment, is_nested || outcome.is_ok())
                }
                Err(refusal) => Err(refusal),
            };
            match (outcome, step) {
                (Err(_), step) => outcome = step,
                (Ok(_), Err(refusal)) => self.refused_nested[refusal as usize] += 1,
                (Ok(_), Ok(_)) => {}
            }
        }
        self.overlong += u64::from(overlong && outcome.is_ok());
        outcome
    }

    /// Inspects the packets of a layer that belong to no flow.
    #[cold]
    #[inline(never)]
    fn inspect_lone(&mut self, info: &FrameInfo, layer: Layer<'_>) {
        let Self { inspection: Some(inspection), records, .. } = self else { return };
        mirror_packet::lone_packets(layer, |packet| {
            analyzer::inspect_lone(inspection, &packet, (info.time, info.mirror), records);
        });
    }

    fn fragment(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        fragment: &Fragment<'_>,
        is_nested: bool,
    ) -> Result<Outcome, DecodeError> {
        let mut datagram = std::mem::take(&mut self.datagram);
        let whole = self.defragmenter.add(fragment, place.session, self.now, is_nested, &mut datagram);
        let outcome = match whole {
            Ok(Some(before)) => {
                let ports = self.config.tuning.tunnel_ports;
                let outcome = if self.is_handed_over(info, place, fragment, &datagram) {
                    Ok(Outcome::Analysed)
                } else {
                    self.layers(
                        info,
                        place,
                        Layer::datagram(&datagram, fragment).with_ports(&ports),
                        is_nested,
                    )
                };
                self.count_fragments(outcome, before);
                outcome
            }
            Ok(None) => Ok(Outcome::Waiting),
            Err(refusal) => Err(refusal),
        };
        self.datagram = datagram;
        outcome
    }

    /// Counts the other fragments of a datagram: their frames share the fate of this one.
    const fn count_fragments(&mut self, outcome: Result<Outcome, DecodeError>, before: Fragments) {
        match outcome {
            Ok(Outcome::Analysed | Outcome::Waiting) => self.analysed += before.frames,
            Ok(Outcome::Duplicate) => self.duplicates += before.frames,
            Err(refusal) => {
                self.refused[refusal as usize] += before.frames;
                self.refused_nested[refusal as usize] += before.nested;
            }
        }
    }

    /// Hands the datagram to the worker that owns its flow. Returns false if this worker owns it, or if the
    /// handoff fails.
    fn is_handed_over(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        fragment: &Fragment<'_>,
        datagram: &[u8],
    ) -> bool {
        let Some(datagrams) = &mut self.datagrams else { return false };
        // A datagram in a tunnel stays with the worker of the tunnel.
        if fragment.depth > 0 {
            return false;
        }
        let Ok(Decoded::Packet(packet)) = mirror_packet::decode(Layer::datagram(datagram, fragment)) else {
            return false;
        };
        let (key, _) = FlowKey::of_packet(&packet, place.session);
        let hash = key.flow_hash(&self.hash_key);
        datagrams.hand_over(hash, datagram, fragment.vlans, info, place)
    }

    #[inline(never)]
    fn unusual_packet(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        packet: &Packet<'_>,
    ) -> Result<Outcome, DecodeError> {
        self.packet(info, place, packet)
    }

    // Inlined: for nearly all packets, the decoded values then stay in registers.
    #[inline(always)]
    fn packet(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        packet: &Packet<'_>,
    ) -> Result<Outcome, DecodeError> {
        if let Transport::Icmp { error: true, cause, .. } = packet.transport {
            let key = cause.map(|cause| FlowKey::of_cause(&cause, packet, place.session));
            return self.icmp_error(info, place, packet, key);
        }
        let (key, forward) = FlowKey::of_packet(packet, place.session);
        let mut found = self.find(&key, place.other.as_ref(), info.time);
        if let Ok(index) = found {
            if self.is_counted_elsewhere(index, forward, info, packet) {
                return Ok(Outcome::Duplicate);
            }
            let flow = self.flows.flow(index);
            let reused = match &packet.transport {
                Transport::Tcp(segment) if segment.header.begins_connection() => {
                    flow.is_reused_by(flow.direction(forward), segment)
                }
                _ => false,
            };
            if reused || self.is_over(index, info.time) {
                let flow = self.flows.remove(index);
                self.end(index, flow, EndReason::Timeout, info.time);
                found = self.find_again(&key);
            }
        }
        let index = match found {
            Ok(index) => index,
            Err(_) if self.begun == MAX_NEW_FLOWS => {
                self.unfollowed += 1;
                return Ok(Outcome::Analysed);
            }
            Err(missing) => self.begin(key, missing, forward, info, packet),
        };
        let flow = self.flows.flow(index);
        let direction = flow.direction(forward);
        flow.count(direction, packet, info.time);
        if self.config.flow_scope == FlowScope::Vni {
            flow.came_by(direction, info.mirror, &mut self.records.sources);
        }
        self.protocols.count(packet.protocol, packet.len as u64);
        let mut tools = context!(self, index, info.time);
        flow.follow(direction, packet, &mut tools);
        if flow.settles() {
            self.flows_settled += 1;
        }
        self.recorder.flow(index, found.is_err(), flow.key(), packet.direct);
        take_alert(&self.alerted, &mut self.recorder, index, flow);
        if let Some(shunting) = &mut self.shunting
            && !self.recorder.wants_rest_of(index)
        {
            let sources = (self.config.flow_scope, &self.records.sources);
            shunting.consider(index, flow, info, packet, sources);
        }
        self.flows.touch(index, self.now);
        Ok(Outcome::Analysed)
    }

    /// Begins a flow with this packet.
    #[inline(never)]
    fn begin(
        &mut self,
        key: FlowKey,
        missing: Missing,
        forward: bool,
        info: &FrameInfo,
        packet: &Packet<'_>,
    ) -> FlowIndex {
        self.begun += 1;
        if let Some((index, evicted)) = self.flows.make_room(missing) {
            self.end(index, evicted, EndReason::Forced, info.time);
        }
        let mut flow = Flow::new(key, forward, packet, info.mirror, info.time);
        if self.config.midstream && info.mirror.is_none() {
            flow.pick_up(packet);
        }
        if self.config.flow_scope == FlowScope::Vni {
            flow.came_by(flow.direction(forward), info.mirror, &mut self.records.sources);
        }
        flow.followed_by(&self.analyzers, &self.records.sources, self.inspection.is_some());
        self.flows_total += 1;
        let index = self.flows.insert(flow, missing, self.now);
        if info.mirror.is_some() {
            self.find_half(index, forward, info, packet);
        }
        if self.indicators.is_some() {
            self.look_at_addresses(index, info.time);
        }
        index
    }

    /// Looks for a flow of another session that has the other direction of a conversation, and marks both.
    #[inline(always)]
    fn find_half(&mut self, index: FlowIndex, forward: bool, info: &FrameInfo, packet: &Packet<'_>) {
        let Some(halves) = &mut self.halves else { return };
        let hash = match info.flow_hash {
            // A frame of a capture file.
            FlowHash(0) => self.flows.flow(index).key().flow_hash(&self.hash_key),
            _ if !packet.direct => self.flows.flow(index).key().flow_hash(&self.hash_key),
            hash => hash,
        };
        if let Some(other) = halves.begun(hash, index) {
            self.flows.mark_halves(index, other, forward);
        }
    }

    /// Finds the flow with this key, or with that of another session that sees the same hosts.
    #[inline(always)]
    fn find(&mut self, key: &FlowKey, other: Option<&SessionKey>, now: u64) -> Result<FlowIndex, Missing> {
        let hasher = &self.hasher;
        let found = self.flows.find(key, || hasher.hash(key));
        match other {
            None => found,
            Some(other) => self.find_in_both(found, key, other, now),
        }
    }

    /// Looks for a flow that was there until now.
    #[cold]
    #[inline(never)]
    fn find_again(&mut self, key: &FlowKey) -> Result<FlowIndex, Missing> {
        self.find(key, None, 0)
    }

    // Out of line: it has a part in few packets, and is long.
    #[inline(never)]
    fn find_in_both(
        &mut self,
        found: Result<FlowIndex, Missing>,
        key: &FlowKey,
        other: &SessionKey,
        now: u64,
    ) -> Result<FlowIndex, Missing> {
        if found.is_ok_and(|index| self.flows.flow(index).is_united()) {
            return found;
        }
        let (hasher, second) = (&self.hasher, key.in_session(*other));
        let second = self.flows.find(&second, || hasher.hash(&second));
        match (found, second) {
            (Ok(one), Ok(other)) => Ok(self.unite(one, other, now)),
            (Ok(one), Err(_)) => {
                self.flows.flow(one).set_united();
                found
            }
            (Err(missing), second) => second.map_err(|_| missing),
        }
    }

    /// Merges two flows of the same conversation. The flow that has seen more of it continues.
    fn unite(&mut self, one: FlowIndex, other: FlowIndex, now: u64) -> FlowIndex {
        self.flows.flow(one).set_united();
        if self.flows.flow(one).was_shunted() || self.flows.flow(other).was_shunted() {
            return one;
        }
        let (kept, gone) = if self.flows.flow(one).weight() < self.flows.flow(other).weight() {
            (other, one)
        } else {
            (one, other)
        };
        let mut part = self.flows.remove(gone);
        self.end_analysis(gone, &mut part, now);
        self.recorder.unite(gone, kept);
        let flow = self.flows.flow(kept);
        flow.add_part(&part);
        flow.set_united();
        self.records.unite_relays(part.id(), flow.id());
        self.flows.touch(kept, self.now);
        kept
    }

    /// Merges the flows that a copy belongs to. The flow that continues may not have had the original packet,
    /// which came by the session `first`.
    fn unite_by_copy(&mut self, info: &FrameInfo, frame: &[u8], place: &Place, first: &SessionKey) {
        let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
        let Ok(Decoded::Packet(packet)) = mirror_packet::decode(layer) else { return };
        if matches!(packet.transport, Transport::Icmp { error: true, .. }) {
            return;
        }
        let (key, forward) = FlowKey::of_packet(&packet, place.session);
        let flows = self.flows.len();
        let Ok(index) = self.find(&key, place.other.as_ref(), info.time) else { return };
        let united = self.flows.len() < flows;
        let flow = self.flows.flow(index);
        if united && flow.session() != *first {
            let direction = flow.direction(forward);
            let mut tools = context!(self, index, info.time);
            flow.follow(direction, &packet, &mut tools);
            take_alert(&self.alerted, &mut self.recorder, index, flow);
            self.flows.touch(index, self.now);
        }
    }

    /// Returns true if the driver counts the flow, and counts it in another session than this packet's.
    #[inline]
    fn is_counted_elsewhere(
        &mut self,
        index: FlowIndex,
        forward: bool,
        info: &FrameInfo,
        packet: &Packet<'_>,
    ) -> bool {
        if self.dedup.is_none() || !packet.direct {
            return false;
        }
        // The driver passes FINs and resets up from both sessions.
        if let Transport::Tcp(Segment { header, .. }) = packet.transport
            && header.flags() & (tcp_flags::FIN | tcp_flags::RST) != 0
        {
            return false;
        }
        let flow = self.flows.flow(index);
        flow.shunted().is_some()
            && !flow.is_counted_by(flow.direction(forward), info.mirror, &self.records.sources)
    }

    /// Counts an ICMP error for the flow that it is about.
    #[inline(never)]
    fn icmp_error(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        packet: &Packet<'_>,
        key: Option<FlowKey>,
    ) -> Result<Outcome, DecodeError> {
        let key = key.ok_or(DecodeError::IcmpError)?;
        let found = self.find(&key, place.other.as_ref(), info.time);
        let index = found.map_err(|_| DecodeError::IcmpError)?;
        if self.is_over(index, info.time) {
            let flow = self.flows.remove(index);
            self.end(index, flow, EndReason::Timeout, info.time);
            return Err(DecodeError::IcmpError);
        }
        let flow = self.flows.flow(index);
        let direction = flow.direction_of_error(packet.source);
        flow.count(direction, packet, info.time);
        self.flows.touch(index, self.now);
        Ok(Outcome::Analysed)
    }

    fn end(&mut self, index: FlowIndex, mut flow: Flow, reason: EndReason, now: u64) {
        self.end_analysis(index, &mut flow, now);
        count_half(&mut self.halves, &flow);
        let ending = Ending { flow, reason, time: now };
        let ending = match &mut self.shunting {
            Some(shunting) => shunting.end(ending),
            None => Some(ending),
        };
        if let Some(ending) = ending {
            push_flow(&mut self.records, &ending);
        }
    }

    /// Ends a flow for its analyzers.
    fn end_analysis(&mut self, index: FlowIndex, flow: &mut Flow, now: u64) {
        flow.end(&mut context!(self, index, now));
        take_alert(&self.alerted, &mut self.recorder, index, flow);
    }

    /// Raises an alert if one of the flow's addresses is an indicator.
    fn look_at_addresses(&mut self, index: FlowIndex, time: u64) {
        let flow = self.flows.flow(index);
        let ends = [flow.key().low().0, flow.key().high().0];
        let is_one =
            |address: &Address| self.indicators.as_ref().is_some_and(|all| all.has_address(*address));
        if let Some(address) = ends.into_iter().find(is_one) {
            let bytes = (u128::from(address.high) << 64 | u128::from(address.low)).to_be_bytes();
            flow.alert(Cause::Address, &bytes, &mut context!(self, index, time));
        }
    }

    /// Returns true if a flow has timed out. If it seems so, the driver is asked first for packets that only
    /// the driver has seen.
    #[inline(always)]
    fn is_over(&mut self, index: FlowIndex, now: u64) -> bool {
        self.flows.is_timed_out(index, now) && !self.refresh(index, now)
    }

    /// Updates a flow that the driver may still see packets of. Returns true if the flow is still alive.
    #[cold]
    fn refresh(&mut self, index: FlowIndex, now: u64) -> bool {
        let Some(shunting) = &self.shunting else { return false };
        let alive = shunting.is_alive(self.flows.flow(index));
        if alive {
            self.flows.touch(index, self.now);
        }
        alive && !self.flows.is_timed_out(index, now)
    }

    /// Advances the timers to `now` (nanoseconds since the epoch), ends flows that timed out, and hands
    /// finished records to the sink. A live capture calls this after each batch and at least once a second.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        if now / SECOND != self.swept {
            self.end_timed_out(now);
        }
        while let Some(shunting) = &mut self.shunting
            && self.records.has_room()
            && let Some(ending) = shunting.ended(&mut self.flows, now)
        {
            push_flow(&mut self.records, &ending);
        }
        self.defragmenter.expire(now);
        self.settle(now);
        self.recorder.tick(now);
        if now.saturating_sub(self.handed_over) >= HAND_OVER_INTERVAL {
            self.handed_over = now;
            self.records.flush_in_time();
        }
    }

    /// Delivers data that has waited long enough for what is missing in its flow. The number of flows per tick
    /// is limited.
    fn settle(&mut self, now: u64) {
        if self.in_order.is_some() {
            return self.settle_in_order(now);
        }
        for _ in 0..SETTLE_AT_ONCE {
            if !self.records.has_room() {
                return;
            }
            let Some(index) = self.streams.due(now) else { return };
            self.settle_flow(index, now);
        }
    }

    /// Delivers the data of a flow that has waited long enough.
    fn settle_flow(&mut self, index: FlowIndex, now: u64) {
        let flow = self.flows.flow(index);
        flow.settle(&mut context!(self, index, now));
        take_alert(&self.alerted, &mut self.recorder, index, flow);
    }

    /// Ends flows that timed out. The number per tick is limited: neither the frames nor the sink may suffer
    /// if many flows end at once.
    fn end_timed_out(&mut self, now: u64) {
        if self.in_order.is_some() {
            return self.end_timed_out_in_order(now);
        }
        for _ in 0..EXPIRE_AT_ONCE {
            if !self.records.has_room() {
                return;
            }
            let Some(index) = self.flows.expired(now) else {
                self.swept = now / SECOND;
                return;
            };
            if self.is_over(index, now) {
                let flow = self.flows.remove(index);
                self.end(index, flow, EndReason::Timeout, now);
            }
        }
    }

    /// Ends all flows (reason `shutdown`) and flushes the last records, however long the sink takes.
    pub fn finish(&mut self) {
        self.records.wait();
        self.defragmenter.finish();
        if self.in_order.is_some() {
            self.end_all_in_order();
        }
        let now = self.now;
        for ending in self.shunting.iter_mut().flat_map(|shunting| shunting.finish(&mut self.flows)) {
            push_flow(&mut self.records, &ending);
        }
        for (index, mut flow) in self.flows.drain() {
            flow.end(&mut context!(self, index, now));
            take_alert(&self.alerted, &mut self.recorder, index, &mut flow);
            count_half(&mut self.halves, &flow);
            push_flow(&mut self.records, &Ending { flow, reason: EndReason::Shutdown, time: now });
        }
        self.records.flush();
        self.recorder.finish();
    }

    /// Continues a survey of the flows. Returns the survey if it is not finished.
    #[must_use]
    pub fn flow_scan(&self, flow_scan: FlowScan) -> Option<FlowScan> {
        flow_scan.advance(&self.flows, &self.records.sources, self.now)
    }

    /// Returns the number of flows of which no analyzer wanted more at some time. From then on they were only
    /// counted.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.flows_settled
    }

    /// Returns the latest time that the worker knows of, in nanoseconds since the epoch.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &WorkerConfig {
        &self.config
    }

    /// The recorder.
    #[must_use]
    pub const fn recorder(&self) -> &R {
        &self.recorder
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> WorkerCounters {
        let (mut refused, mut refused_nested) = (self.refused, self.refused_nested);
        for (reason, lost) in self.defragmenter.lost() {
            refused[reason as usize] += lost.frames;
            refused_nested[reason as usize] += lost.nested;
        }
        let named = |counts: [u64; DecodeError::COUNT]| {
            DecodeError::ALL.iter().map(|&refusal| (refusal.name(), counts[refusal as usize])).collect()
        };
        WorkerCounters {
            delivered: self.delivered,
            delivered_bytes: self.delivered_bytes,
            analysed: self.analysed,
            refused: named(refused),
            refused_nested: named(refused_nested),
            waiting: self.defragmenter.waiting(),
            duplicates: self.duplicates,
            flows_active: self.flows.len() as u64,
            flows_total: self.flows_total,
            flows_shunted: self.shunting.as_ref().map(Shunting::counters).unwrap_or_default(),
            records_lost: self.records.lost(),
            analysis_lost: (StreamLoss::ALL.iter().map(|why| why.name()).zip(self.streams.lost()))
                .chain([("analyzer_memory", self.analyzers.forgotten() + self.records.relays_lost())])
                .chain([("nested_flow", self.unfollowed), ("ip_length", self.overlong)])
                .chain(inspection_losses(self.inspection.as_deref()))
                .collect(),
            split: self.halves.iter().flat_map(Halves::counts).collect(),
            protocols: self.protocols,
        }
    }
}

/// Returns what the rules did not see, by reason.
fn inspection_losses(inspection: Option<&Inspection>) -> [(&'static str, u64); 7] {
    let lost = inspection.map(Inspection::losses).unwrap_or_default();
    [
        ("rule_memory", lost.memory),
        ("rule_transactions", lost.transactions),
        ("rule_buffers", lost.buffers),
        ("rule_candidates", lost.candidates),
        ("rule_steps", lost.steps),
        ("rule_isolated", lost.isolated),
        ("rule_alerts", lost.alerts),
    ]
}

/// Records in the flow and in the packet store that the flow has just raised an alert, if it has.
#[inline]
fn take_alert(alerted: &Cell<bool>, recorder: &mut impl Recorder, index: FlowIndex, flow: &mut Flow) {
    if alerted.take() {
        flow.set_alerted();
        recorder.alert(index);
    }
}

/// Counts a flow that has ended if another session has the other direction of its conversation, see [`Halves`].
#[inline]
fn count_half(halves: &mut Option<Halves>, flow: &Flow) {
    if let Some(vni) = flow.half()
        && let Some(halves) = halves
    {
        halves.count(vni);
    }
}

/// Emits the record of a flow that has ended.
fn push_flow(records: &mut Producer, ending: &Ending) {
    let record = ending.flow.record(ending.reason, ending.time, &records.sources);
    records.push_flow(record);
}

#[cfg(test)]
mod tests;
