//! A worker: frames in, records out. One a core; live and `read` run the very same code.

use std::cell::Cell;
use std::sync::Arc;

use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, Vni};
use serde::Serialize;

pub mod affinity;
mod datagrams;
mod duplicates;
#[cfg(test)]
mod fixture;
mod shunting;
pub mod survey;
mod tuning;

use self::datagrams::Whole;
pub use self::datagrams::{DatagramCounters, Datagrams};
use self::duplicates::{Duplicates, Place, Verdict};
use self::shunting::Ending;
pub use self::shunting::Shunting;
use self::survey::Survey;
pub use self::tuning::Tuning;
use crate::analyzer::{Analyzers, Cause};
use crate::flow::stream::{StreamLoss, Streams};
use crate::flow::{Flow, FlowIndex, FlowKey, FlowKeyHasher, FlowTable, SECOND, Session, Tools};
use crate::indicators::Indicators;
use crate::observe::Observers;
use crate::packet::fragment::Defragmenter;
use crate::packet::{
    self, Decoded, Fragment, Layer, LinkType, Packet, Refusal, Segment, Transport, tcp_flags,
};
use crate::record::EndReason;
use crate::sink::Producer;
use crate::store::{StoreCounters, StoreHandle};

/// Where a mirrored frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Outer source: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination: the mirror target.
    pub outer_destination: Address,
    /// Identifier of the Gateway Load Balancer endpoint that the frame came by; 0 where it came by none.
    pub endpoint: u64,
}

/// Which way a packet went by the mirrored interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It came in.
    Ingress,
    /// It left.
    Egress,
}

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// When the frame was seen, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// Bytes that the frame had on the wire; more than there are where it was truncated.
    pub original_len: u32,
    /// The symmetric flow hash of [`mirror_xdp_common::inner`].
    pub flow_hash: FlowHash,
    /// The mirror session's marks; `None` for a plain frame of a capture file.
    pub mirror: Option<Mirror>,
    /// Which way it went by the mirrored interface, where that is known.
    pub side: Option<Side>,
}

/// What a worker counts. `delivered = analysed + Σ refused + duplicates`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Frames given to [`Worker::frame`].
    pub delivered: u64,
    /// Bytes of those frames, as mirrored.
    pub delivered_bytes: u64,
    /// Frames that went through the whole analysis.
    pub analysed: u64,
    /// Frames that no flow could be made of, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Frames that were mirrored at both ends and analysed when they came from the other.
    pub duplicates: u64,
    /// Flows in the table now.
    pub flows_active: u64,
    /// Flows that were ever made.
    pub flows_total: u64,
    /// Flows that the driver counts now, and flows that it ever did.
    pub flows_shunted: (u64, u64),
    /// Records that were lost because the sink's queue was full.
    pub records_lost: u64,
    /// What the analysis has not seen of the frames that went through it, by reason: streams of TCP and states of
    /// analyzers that were given up, datagrams whose fragments did not all come, packets in packets.
    pub analysis_lost: Vec<(&'static str, u64)>,
    /// What became of the frames in the packet store, if there is one.
    pub store: Option<StoreCounters>,
    /// What came, by transport protocol.
    pub protocols: Protocols,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, as mirrored.
    pub bytes: u64,
}

/// Packets that belong to flows, by transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// How a worker is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Flows that the table holds at most; at the bound the flow that was idle the longest goes.
    pub max_flows: usize,
    /// Seed of all keyed hashes: the one that the frames' [`FrameInfo::flow_hash`] was made with.
    pub hash_seed: u64,
    /// Whether a packet that is mirrored at both ends of its conversation is analysed once only.
    pub dedup: bool,
    /// What can be set anew later, see [`Worker::tune`].
    pub tuning: Tuning,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { max_flows: 1 << 18, hash_seed: 0, dedup: false, tuning: Tuning::default() }
    }
}

/// How long live records may wait in a batch that is not full, in nanoseconds.
const HAND_OVER_INTERVAL: u64 = 100_000_000;

/// Flows that one tick ends at most.
const EXPIRE_AT_ONCE: usize = 1024;

/// Flows that the packets of one frame, one in the other, begin at most. Each costs more than a frame with one; more
/// begin with the next frame.
const MAX_NEW_FLOWS: u8 = 2;

/// What became of a frame that no flow refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Analysed,
    /// It is counted already.
    Duplicate,
}

/// Keeps the flows of one core and feeds the analyzers.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    hasher: FlowKeyHasher,
    /// That of the driver, by which flows have owners.
    hash_key: FlowHashKey,
    flows: FlowTable,
    shunting: Option<Shunting>,
    store: Option<StoreHandle>,
    /// What finds the copies of packets that are mirrored at both ends, if that is wanted.
    twice: Option<Box<Duplicates>>,
    observers: Observers,
    streams: Streams,
    analyzers: Analyzers,
    /// What raises an alert.
    indicators: Option<Arc<Indicators>>,
    /// The flow that is being looked at has raised an alert.
    alerted: Cell<bool>,
    defragmenter: Defragmenter,
    /// The datagram that was put together last.
    datagram: Vec<u8>,
    /// The way of datagrams to the workers that own their flows, where there are several.
    datagrams: Option<Datagrams>,
    records: Producer,
    delivered: u64,
    delivered_bytes: u64,
    analysed: u64,
    refused: [u64; Refusal::COUNT],
    duplicates: u64,
    flows_total: u64,
    flows_settled: u64,
    /// Flows that the packets of the frame at hand have begun, see [`MAX_NEW_FLOWS`].
    begun: u8,
    /// Packets within others that began no flow, because too many did; what is in those is not looked at.
    unfollowed: u64,
    protocols: Protocols,
    /// The latest time that was seen, in nanoseconds since the epoch.
    now: u64,
    /// The second in which no flow was left that had timed out: timeouts count whole seconds.
    swept: u64,
    handed_over: u64,
}

impl Worker {
    /// A worker without flows; its records go to `records`.
    #[must_use]
    pub fn new(config: WorkerConfig, records: Producer) -> Self {
        let mut worker = Self {
            config,
            hasher: FlowKeyHasher::new(config.hash_seed),
            hash_key: FlowHashKey::new(config.hash_seed),
            flows: FlowTable::new(config.max_flows),
            shunting: None,
            store: None,
            twice: config.dedup.then(|| Box::new(Duplicates::new(config.hash_seed))),
            observers: Observers::default(),
            streams: Streams::new(config.hash_seed),
            analyzers: Analyzers::of_worker(config.max_flows, config.hash_seed),
            indicators: None,
            alerted: Cell::new(false),
            defragmenter: Defragmenter::new(config.hash_seed),
            datagram: Vec::new(),
            datagrams: None,
            records,
            delivered: 0,
            delivered_bytes: 0,
            analysed: 0,
            refused: [0; Refusal::COUNT],
            duplicates: 0,
            flows_total: 0,
            flows_settled: 0,
            begun: 0,
            unfollowed: 0,
            protocols: Protocols::default(),
            now: 0,
            swept: 0,
            handed_over: 0,
        };
        worker.tune(config.tuning);
        worker
    }

    /// Goes on with other settings.
    pub fn tune(&mut self, tuning: Tuning) {
        self.config.tuning = tuning;
        self.flows.set_timeouts(tuning.timeouts);
        self.swept = 0;
        self.analyzers.enable(tuning.analyzers);
        if let Some(shunting) = &mut self.shunting {
            shunting.set_after(tuning.shunt_after);
        }
    }

    /// The worker's analyzers, to register more with.
    pub const fn analyzers(&mut self) -> &mut Analyzers {
        &mut self.analyzers
    }

    /// Has the driver count flows that nobody wants more of.
    pub fn shunt_by(&mut self, shunting: Shunting) {
        self.shunting = Some(shunting);
        self.tune(self.config.tuning);
    }

    /// Has flows raise an alert that have one of these.
    pub fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.analyzers.watch_for(indicators);
        self.indicators = Some(Arc::clone(indicators));
    }

    /// Has the frames kept, too.
    pub fn store_by(&mut self, store: StoreHandle) {
        self.store = Some(store);
    }

    /// What the worker needs to have flows counted by the driver, if it has.
    pub const fn shunting(&mut self) -> Option<&mut Shunting> {
        self.shunting.as_mut()
    }

    /// Has datagrams that come in fragments analysed by the workers that own their flows.
    pub fn hand_datagrams_over_by(&mut self, datagrams: Datagrams) {
        self.datagrams = Some(datagrams);
    }

    /// Analyses what others have put together, so many at most; says how many there were. They count as frames
    /// of those who have received them.
    pub fn take_datagrams(&mut self, most: usize) -> usize {
        let mut count = 0;
        while count < most
            && let Some(whole) = self.datagrams.as_ref().and_then(Datagrams::taken)
        {
            count += 1;
            let Whole { info, place, vlans, bytes, .. } = &whole;
            self.begun = 0;
            // Nothing is wrong with it that was not looked at before.
            let _ = self.layers(info, place, Layer::whole(bytes, *vlans, 0));
            whole.end();
        }
        count
    }

    /// What became of the datagrams that this worker has put together for others.
    #[must_use]
    pub fn datagram_counters(&self) -> DatagramCounters {
        self.datagrams.as_ref().map(|datagrams| datagrams.counters).unwrap_or_default()
    }

    /// Calls `wake` with the number of each worker that was handed a datagram since the last time.
    pub fn wake_for_datagrams(&mut self, wake: impl FnMut(usize)) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.wake(wake);
        }
    }

    /// Those who look on.
    pub const fn observers(&mut self) -> &mut Observers {
        &mut self.observers
    }

    /// Takes one inner frame, from its Ethernet header on.
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        self.frame_of(0, info, frame);
    }

    /// Takes one inner frame that the filter's rule with this identifier has let through; 0 is none.
    pub fn frame_of(&mut self, rule: u32, info: &FrameInfo, frame: &[u8]) {
        self.take(rule, info, Some(LinkType::Ethernet), frame);
    }

    /// Takes one frame of a capture file, of whatever link layer; `None` is one that is not known.
    pub fn link_frame(&mut self, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.take(0, info, link, frame);
    }

    /// Takes one plain Ethernet frame that is decoded already, by [`packet::decode_usual`].
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
        if let Some(store) = &mut self.store {
            store.begin_frame(rule, info, link, frame);
        }
    }

    #[inline(always)]
    fn leaves(&mut self, info: &FrameInfo, frame: &[u8], outcome: Result<Taken, Refusal>) {
        match outcome {
            Ok(Taken::Analysed) => self.analysed += 1,
            Ok(Taken::Duplicate) => self.duplicates += 1,
            Err(refusal) => self.refused[refusal as usize] += 1,
        }
        if let Some(store) = &mut self.store {
            store.end_frame(info, frame);
        }
    }

    fn analyse(&mut self, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) -> Result<Taken, Refusal> {
        let mut place = Place::from(info.mirror);
        if let (Some(twice), Some(mirror), Some(LinkType::Ethernet)) = (&mut self.twice, info.mirror, link) {
            match twice.look(mirror, info.time, frame) {
                Verdict::New(known) => place = known,
                Verdict::Copy { place, united } => {
                    if let Some(first) = united {
                        self.unite_by_copy(info, frame, &place, &first);
                    }
                    return Ok(Taken::Duplicate);
                }
            }
        }
        let original_len = info.original_len as usize;
        if let Some(LinkType::Ethernet) = link
            && let Some(packet) = packet::decode_usual(frame, original_len)
        {
            return self.packet(info, &place, &packet);
        }
        let link = link.ok_or(Refusal::LinkType)?;
        self.layers(info, &place, Layer::frame(link, frame, original_len))
    }

    /// Takes the packets of a layer, one within the other. The frame counts as analysed as soon as one of
    /// them belongs to a flow, whatever is wrong with those inside.
    fn layers(&mut self, info: &FrameInfo, place: &Place, layer: Layer<'_>) -> Result<Taken, Refusal> {
        let mut outcome = Err(Refusal::Nesting);
        let mut next = Some(layer);
        while let Some(layer) = next.take() {
            let step = match packet::decode_stepwise(layer) {
                Ok(Decoded::Packet(packet)) => {
                    let unfollowed = self.unfollowed;
                    let step = self.unusual_packet(info, place, &packet);
                    // Nor is what is in a packet that begins no flow since there were too many.
                    next = packet.tunnelled.filter(|_| self.unfollowed == unfollowed);
                    step
                }
                Ok(Decoded::Fragment(fragment)) => self.fragment(info, place, &fragment),
                Err(refusal) => Err(refusal),
            };
            if outcome.is_err() {
                outcome = step;
            }
        }
        outcome
    }

    fn fragment(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        fragment: &Fragment<'_>,
    ) -> Result<Taken, Refusal> {
        let mut datagram = std::mem::take(&mut self.datagram);
        let whole = self.defragmenter.add(fragment, place.session, info.time, &mut datagram);
        let outcome = match whole {
            Ok(true) if self.is_handed_over(info, place, fragment, &datagram) => Ok(Taken::Analysed),
            Ok(true) => self.layers(info, place, Layer::datagram(&datagram, fragment)),
            Ok(false) => Ok(Taken::Analysed),
            Err(refusal) => Err(refusal),
        };
        self.datagram = datagram;
        outcome
    }

    /// Has the datagram analysed by the worker that owns its flow, where that is another.
    fn is_handed_over(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        fragment: &Fragment<'_>,
        datagram: &[u8],
    ) -> bool {
        let Some(datagrams) = &mut self.datagrams else { return false };
        // What is in a tunnel goes where the tunnel goes.
        if fragment.depth > 0 {
            return false;
        }
        let Ok(Decoded::Packet(packet)) = packet::decode(Layer::datagram(datagram, fragment)) else {
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
    ) -> Result<Taken, Refusal> {
        self.packet(info, place, packet)
    }

    // Inlined: with nearly all packets, what was decoded goes on in registers.
    #[inline(always)]
    fn packet(&mut self, info: &FrameInfo, place: &Place, packet: &Packet<'_>) -> Result<Taken, Refusal> {
        if let Transport::Icmp { error: true, cause, .. } = packet.transport {
            let key = cause.map(|cause| FlowKey::of_cause(&cause, packet, place.session));
            return self.icmp_error(info, place, packet, key);
        }
        let (key, forward) = FlowKey::of_packet(packet, place.session);
        let mut found = self.find(&key, place.other, info.time);
        if let Some(index) = found {
            if self.is_counted_elsewhere(index, info, packet) {
                return Ok(Taken::Duplicate);
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
                found = None;
            }
        }
        let index = match found {
            Some(index) => index,
            None if self.begun == MAX_NEW_FLOWS => {
                self.unfollowed += 1;
                return Ok(Taken::Analysed);
            }
            None => self.begin(key, forward, info, packet),
        };
        let flow = self.flows.flow(index);
        let direction = flow.direction(forward);
        flow.count(direction, packet, info.time);
        self.protocols.count(packet.protocol, packet.len as u64);
        let Self { streams, analyzers, records, alerted, .. } = self;
        let mut tools = Tools { streams, analyzers, records, index, time: info.time, alerted };
        flow.follow(direction, packet, &mut tools);
        if flow.settles() {
            self.flows_settled += 1;
        }
        if let Some(store) = &mut self.store {
            store.flow(index, found.is_none(), flow.key(), packet.direct);
        }
        take_alert(&self.alerted, self.store.as_mut(), index, flow);
        let wanted = self.store.as_ref().is_some_and(|store| store.wants_rest_of(index));
        if let Some(shunting) = &mut self.shunting
            && !wanted
        {
            shunting.consider(index, flow, info, packet);
        }
        self.flows.touch(index, info.time);
        Ok(Taken::Analysed)
    }

    /// The flow that begins with a packet.
    #[inline(never)]
    fn begin(&mut self, key: FlowKey, forward: bool, info: &FrameInfo, packet: &Packet<'_>) -> FlowIndex {
        self.begun += 1;
        let mut flow = Flow::new(key, forward, packet, info.mirror, info.time);
        flow.followed_by(&self.analyzers);
        self.flows_total += 1;
        let insert = self.flows.insert(flow, self.hasher.hash(&key), info.time);
        if let Some((index, evicted)) = insert.evicted {
            self.end(index, evicted, EndReason::Forced, info.time);
        }
        if self.indicators.is_some() {
            self.look_at_addresses(insert.index, info.time);
        }
        insert.index
    }

    /// The flow with this key, or with that of another session that sees the same hosts.
    #[inline]
    fn find(&mut self, key: &FlowKey, other: Option<Session>, now: u64) -> Option<FlowIndex> {
        let hasher = &self.hasher;
        let found = self.flows.find(key, || hasher.hash(key).flow);
        match other {
            None => found,
            Some(other) => self.find_in_both(found, key, other, now),
        }
    }

    fn find_in_both(
        &mut self,
        found: Option<FlowIndex>,
        key: &FlowKey,
        other: Session,
        now: u64,
    ) -> Option<FlowIndex> {
        if found.is_some_and(|index| self.flows.flow(index).is_united()) {
            return found;
        }
        let (hasher, second) = (&self.hasher, key.in_session(other));
        let second = self.flows.find(&second, || hasher.hash(&second).flow);
        match (found, second) {
            (Some(one), Some(other)) => Some(self.unite(one, other, now)),
            (Some(one), None) => {
                self.flows.flow(one).set_united();
                found
            }
            (None, _) => second,
        }
    }

    /// Makes one flow of two that are the same conversation: the one that saw more of it goes on.
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
        if let Some(store) = &mut self.store {
            store.unite(gone, kept);
        }
        let flow = self.flows.flow(kept);
        flow.add_part(&part);
        flow.set_united();
        self.flows.touch(kept, now);
        kept
    }

    /// Unites the flows that a copy belongs to. The one that goes on may not have had the packet that it is
    /// a copy of, which came by the session `first`.
    fn unite_by_copy(&mut self, info: &FrameInfo, frame: &[u8], place: &Place, first: &Session) {
        let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
        let Ok(Decoded::Packet(packet)) = packet::decode(layer) else { return };
        if matches!(packet.transport, Transport::Icmp { error: true, .. }) {
            return;
        }
        let (key, forward) = FlowKey::of_packet(&packet, place.session);
        let flows = self.flows.len();
        let Some(index) = self.find(&key, place.other, info.time) else { return };
        let united = self.flows.len() < flows;
        let flow = self.flows.flow(index);
        if united && flow.session() != *first {
            let direction = flow.direction(forward);
            let Self { streams, analyzers, records, alerted, .. } = self;
            let mut tools = Tools { streams, analyzers, records, index, time: info.time, alerted };
            flow.follow(direction, &packet, &mut tools);
            take_alert(&self.alerted, self.store.as_mut(), index, flow);
            self.flows.touch(index, info.time);
        }
    }

    /// Whether the driver counts the flow, which it knows as one of another session than this packet's.
    #[inline]
    fn is_counted_elsewhere(&mut self, index: FlowIndex, info: &FrameInfo, packet: &Packet<'_>) -> bool {
        if self.twice.is_none() || !packet.direct {
            return false;
        }
        // These come up from both.
        if let Transport::Tcp(Segment { header, .. }) = packet.transport
            && header.flags() & (tcp_flags::FIN | tcp_flags::RST) != 0
        {
            return false;
        }
        let flow = self.flows.flow(index);
        flow.shunted().is_some() && flow.session() != Session::from(info.mirror)
    }

    /// Counts an ICMP error for the flow that it is about.
    #[inline(never)]
    fn icmp_error(
        &mut self,
        info: &FrameInfo,
        place: &Place,
        packet: &Packet<'_>,
        key: Option<FlowKey>,
    ) -> Result<Taken, Refusal> {
        let key = key.ok_or(Refusal::IcmpError)?;
        let index = self.find(&key, place.other, info.time).ok_or(Refusal::IcmpError)?;
        if self.is_over(index, info.time) {
            let flow = self.flows.remove(index);
            self.end(index, flow, EndReason::Timeout, info.time);
            return Err(Refusal::IcmpError);
        }
        let flow = self.flows.flow(index);
        let direction = flow.direction_of_error(packet.source);
        flow.count(direction, packet, info.time);
        self.flows.touch(index, info.time);
        Ok(Taken::Analysed)
    }

    fn end(&mut self, index: FlowIndex, mut flow: Flow, reason: EndReason, now: u64) {
        self.end_analysis(index, &mut flow, now);
        let Some(shunting) = &mut self.shunting else {
            return self.records.push_flow(flow.record(reason, now));
        };
        if let Some(Ending { flow, reason, time }) = shunting.end(Ending { flow, reason, time: now }) {
            self.records.push_flow(flow.record(reason, time));
        }
    }

    /// Tells the analyzers of a flow's end.
    fn end_analysis(&mut self, index: FlowIndex, flow: &mut Flow, now: u64) {
        let Self { streams, analyzers, records, alerted, store, .. } = self;
        flow.end(&mut Tools { streams, analyzers, records, index, time: now, alerted });
        take_alert(alerted, store.as_mut(), index, flow);
    }

    /// Raises an alert where a flow that begins has an address that is looked for.
    fn look_at_addresses(&mut self, index: FlowIndex, time: u64) {
        let Self { flows, streams, analyzers, records, alerted, indicators, .. } = self;
        let flow = flows.flow(index);
        let ends = [flow.key().low().0, flow.key().high().0];
        let is_one = |address: &Address| indicators.as_ref().is_some_and(|all| all.has_address(*address));
        if let Some(address) = ends.into_iter().find(is_one) {
            let bytes = (u128::from(address.high) << 64 | u128::from(address.low)).to_be_bytes();
            let mut tools = Tools { streams, analyzers, records, index, time, alerted };
            flow.alert(Cause::Address, &bytes, &mut tools);
        }
    }

    /// Whether a flow has timed out. Of one that seems to have, the driver is asked whether it had packets that
    /// only the driver has seen.
    #[inline(always)]
    fn is_over(&mut self, index: FlowIndex, now: u64) -> bool {
        self.flows.is_timed_out(index, now) && !self.refresh(index, now)
    }

    /// Renews a flow that the driver still sees packets of; whether it is one.
    #[cold]
    fn refresh(&mut self, index: FlowIndex, now: u64) -> bool {
        let Some(shunting) = &self.shunting else { return false };
        let alive = shunting.is_alive(self.flows.flow(index));
        if alive {
            self.flows.touch(index, now);
        }
        alive && !self.flows.is_timed_out(index, now)
    }

    /// Advances the timers to `now` (nanoseconds since the epoch), ending flows that timed out, and
    /// hands finished records to the sink. Live: called after each batch and at least once a second.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        if now / SECOND != self.swept {
            self.end_timed_out(now);
        }
        while let Some(shunting) = &mut self.shunting
            && self.records.has_room()
            && let Some(Ending { flow, reason, time }) = shunting.ended(&mut self.flows, now)
        {
            self.records.push_flow(flow.record(reason, time));
        }
        if let Some(store) = &mut self.store {
            store.tick(now);
        }
        if now.saturating_sub(self.handed_over) >= HAND_OVER_INTERVAL {
            self.handed_over = now;
            self.records.flush_in_time();
        }
    }

    /// Ends flows that timed out. The rest can wait for the next tick: neither the frames nor the sink are to
    /// suffer from many flows that end at once.
    fn end_timed_out(&mut self, now: u64) {
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

    /// Ends all flows (reason `shutdown`) and hands over the last records, however long the sink takes.
    pub fn finish(&mut self) {
        self.records.wait();
        self.defragmenter.finish();
        let Self { flows, shunting, streams, analyzers, records, now, alerted, store, .. } = self;
        for Ending { flow, reason, time } in shunting.iter_mut().flat_map(|shunting| shunting.finish(flows)) {
            records.push_flow(flow.record(reason, time));
        }
        for (index, mut flow) in flows.drain() {
            flow.end(&mut Tools { streams, analyzers, records, index, time: *now, alerted });
            take_alert(alerted, store.as_mut(), index, &mut flow);
            records.push_flow(flow.record(EndReason::Shutdown, *now));
        }
        self.records.flush();
        if let Some(store) = &mut self.store {
            store.finish();
        }
    }

    /// Goes on with a survey of the flows; gives it back where it is not through.
    #[must_use]
    pub fn survey(&self, survey: Survey) -> Option<Survey> {
        survey.advance(&self.flows, self.now)
    }

    /// Flows of which no analyzer wanted more at some time: from then on they are only counted.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.flows_settled
    }

    /// The latest time that the worker knows of, in nanoseconds since the epoch.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> WorkerCounters {
        WorkerCounters {
            delivered: self.delivered,
            delivered_bytes: self.delivered_bytes,
            analysed: self.analysed,
            refused: Refusal::ALL
                .iter()
                .map(|&refusal| (refusal.name(), self.refused[refusal as usize]))
                .collect(),
            duplicates: self.duplicates,
            flows_active: self.flows.len() as u64,
            flows_total: self.flows_total,
            flows_shunted: self.shunting.as_ref().map(Shunting::counters).unwrap_or_default(),
            records_lost: self.records.lost(),
            analysis_lost: (StreamLoss::ALL.iter().map(|why| why.name()).zip(self.streams.lost()))
                .chain([("analyzer_memory", self.analyzers.forgotten())])
                .chain(self.defragmenter.lost())
                .chain([("nested_flow", self.unfollowed)])
                .collect(),
            store: self.store.as_ref().map(StoreHandle::counters),
            protocols: self.protocols,
        }
    }
}

/// Has everybody know that a flow has raised an alert, if it just has.
#[inline]
fn take_alert(alerted: &Cell<bool>, store: Option<&mut StoreHandle>, index: FlowIndex, flow: &mut Flow) {
    if alerted.take() {
        flow.set_alerted();
        if let Some(store) = store {
            store.alert(index);
        }
    }
}

#[cfg(test)]
mod tests;
