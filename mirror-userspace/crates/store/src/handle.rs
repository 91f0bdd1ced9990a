//! A worker's handle of the store: selects the frames to keep and copies them into chunks. It runs on the
//! packet path, so it neither allocates nor blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;

use mirror_base::Slot;
use mirror_packet::{CommunityId, Decoded, FlowKey, FrameInfo, Layer, LinkType, SessionKey, Transport};
use mirror_records::sink::Overflow;
use mirror_rules::KeptRules;

use super::chunk::{Chunk, FLOWS_A_FRAME, FlowRef};
use super::pcapng::{Interface, PacketInfo};
use super::policy::Policy;
use super::ring::{LinkNumber, Ring, Taken};
use super::{Counters, Pause, StoreCounters};

/// Age of a chunk's first packet, in nanoseconds, at which the chunk is written although it is not full.
const FLUSH_AFTER: u64 = 1_000_000_000;

/// The state of a flow in the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// The chunk in which the flow was noted last, and the interface for which it was.
    chunk: u32,
    interface: u32,
    /// Wire bytes of the flow's frames that were kept, including those that wait for an alert.
    kept: u32,
    /// The flow has raised an alert.
    alerted: bool,
}

/// The additional state of a flow where only alerts are kept.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// The flow's latest frame in the ring, and that of a flow that turned out to be the same.
    latest: [LinkNumber; 2],
    /// The flow's first frame is kept.
    begun: bool,
}

/// The frames that wait for an alert, and their flows.
#[derive(Debug)]
struct PreTrigger {
    ring: Ring,
    /// State by the flow's index in the worker's table.
    flows: Vec<Waiting>,
    /// The flows of the current frame.
    current: [Option<(usize, FlowRef)>; FLOWS_A_FRAME],
}

impl PreTrigger {
    fn flow(&mut self, at: usize) -> &mut Waiting {
        if at >= self.flows.len() {
            self.flows.resize(at + 1, Waiting::default());
        }
        &mut self.flows[at]
    }
}

/// The findings about the current frame.
#[derive(Debug)]
struct Current {
    interface: u32,
    /// Bytes of the frame on the wire.
    len: u32,
    /// The frame's flows that are new to the chunk.
    flows: [Option<FlowRef>; FLOWS_A_FRAME],
    /// The frame is found by the addresses of one of its flows.
    findable: bool,
    /// The Community ID of a flow that begins with the frame.
    begins: Option<CommunityId>,
    /// The frame belongs to a flow.
    has_flow: bool,
    /// A flow wants the frame to be kept.
    wanted: bool,
}

impl Current {
    fn new(interface: u32, info: &FrameInfo, frame: &[u8]) -> Self {
        Self {
            interface,
            len: info.original_len.max(frame.len() as u32),
            flows: [None; FLOWS_A_FRAME],
            findable: false,
            begins: None,
            has_flow: false,
            wanted: false,
        }
    }
}

/// Returns the flow key of a frame for which the worker has made no flow, e.g. a duplicate.
fn key(info: &FrameInfo, frame: &[u8]) -> Option<FlowKey> {
    let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
    match mirror_packet::decode(layer) {
        Ok(Decoded::Packet(packet)) if !matches!(packet.transport, Transport::Icmp { error: true, .. }) => {
            Some(FlowKey::of_packet(&packet, SessionKey::from(info.mirror)).0)
        }
        _ => None,
    }
}

/// Returns the mark of the flow at this index of the worker's table.
fn mark(marks: &mut Vec<Mark>, at: usize) -> &mut Mark {
    if at >= marks.len() {
        marks.resize(at + 1, Mark::default());
    }
    &mut marks[at]
}

/// Returns the fields of a packet's block, without its bytes.
const fn packet_info(interface: u32, info: &FrameInfo, begins: Option<CommunityId>) -> PacketInfo {
    PacketInfo {
        interface,
        time: info.time,
        original_len: info.original_len,
        side: info.side,
        flow_hash: info.flow_hash.0,
        begins,
    }
}

/// A worker's handle of the store.
#[derive(Debug)]
pub struct StoreHandle {
    policy: Arc<Policy>,
    /// The slot for a new policy.
    changed: Arc<Slot<Arc<Policy>>>,
    /// The rules whose frames are kept; `None` keeps those of all.
    rules: Option<Arc<KeptRules>>,
    overflow: Overflow,
    /// Frames that wait for an alert, where only alerts are kept.
    waiting: Option<Box<PreTrigger>>,
    empty: Receiver<Box<Chunk>>,
    full: Option<SyncSender<Box<Chunk>>>,
    chunk: Option<Box<Chunk>>,
    /// Number of the chunk, by which marks refer to it.
    number: u32,
    /// Time of the chunk's first packet.
    began: u64,
    /// Time of the current frame.
    now: u64,
    /// Marks by the flow's index in the worker's table.
    marks: Vec<Mark>,
    current: Option<Current>,
    counters: Arc<Counters>,
    not_kept: u64,
    /// Frames without a flow, where only alerts are kept.
    without_flow: u64,
    not_ethernet: u64,
    lost_no_block: u64,
    lost_paused: u64,
    lost_gone: u64,
    lost_too_long: u64,
    threads: Vec<JoinHandle<()>>,
}

impl StoreHandle {
    pub(super) fn new(
        policy: Arc<Policy>,
        overflow: Overflow,
        (empty, full): (Receiver<Box<Chunk>>, SyncSender<Box<Chunk>>),
        counters: Arc<Counters>,
        threads: Vec<JoinHandle<()>>,
    ) -> Self {
        let waiting = policy.pre_trigger.map(|size| {
            Box::new(PreTrigger { ring: Ring::new(size), flows: Vec::new(), current: [None; FLOWS_A_FRAME] })
        });
        Self {
            policy,
            changed: Arc::default(),
            rules: None,
            overflow,
            waiting,
            empty,
            full: Some(full),
            chunk: None,
            number: 0,
            began: 0,
            now: 0,
            marks: Vec::new(),
            current: None,
            counters,
            not_kept: 0,
            without_flow: 0,
            not_ethernet: 0,
            lost_no_block: 0,
            lost_paused: 0,
            lost_gone: 0,
            lost_too_long: 0,
            threads,
        }
    }

    /// Returns the slot for a new policy, which the handle collects at the next tick.
    pub(super) const fn changed(&self) -> &Arc<Slot<Arc<Policy>>> {
        &self.changed
    }

    /// Restricts the handle to frames that these rules let through.
    #[must_use]
    pub fn by_rules(mut self, rules: Option<Arc<KeptRules>>) -> Self {
        self.rules = rules;
        self
    }

    /// Examines a frame before the worker does. Its flows follow by [`StoreHandle::flow`], and its end by
    /// [`StoreHandle::end_frame`].
    pub fn begin_frame(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.current = None;
        self.now = info.time;
        if link != Some(LinkType::Ethernet) {
            self.not_ethernet += 1;
        } else if !self.policy.wants_session(info.mirror.as_ref())
            || self.rules.as_ref().is_some_and(|rules| !rules.keeps(rule))
        {
            self.not_kept += 1;
        } else if !Chunk::fits_any(frame.len()) {
            self.lost_too_long += 1;
        } else if let Some(waiting) = &mut self.waiting {
            waiting.current = [None; FLOWS_A_FRAME];
            self.current = Some(Current::new(0, info, frame));
        } else if self.is_paused() {
            // `is_paused` has counted the frame.
        } else if let Some(chunk) = self.chunk_with_room(frame.len()) {
            let interface = chunk.interface(Interface { mirror: info.mirror });
            self.current = Some(Current::new(interface, info, frame));
        } else {
            self.lost_no_block += 1;
        }
    }

    /// Adds a flow of which the frame contains a packet. `findable` means that the flow's addresses are where
    /// a filter looks for them in the frame.
    pub fn flow(&mut self, at: usize, begins: bool, key: &FlowKey, findable: bool) {
        let mark = mark(&mut self.marks, at);
        if begins {
            *mark = Mark::default();
            if let Some(waiting) = &mut self.waiting {
                *waiting.flow(at) = Waiting::default();
            }
        }
        let Some(current) = &mut self.current else { return };
        current.has_flow = true;
        if !self.policy.wants_flow(mark.kept) {
            return;
        }
        current.wanted = true;
        current.findable |= findable;
        if mark.kept == 0 {
            current.begins.get_or_insert_with(|| CommunityId::of_key(key));
        }
        mark.kept = mark.kept.saturating_add(current.len);
        if let Some(waiting) = &mut self.waiting {
            if let Some(place) = waiting.current.iter_mut().find(|place| place.is_none()) {
                *place = Some((at, FlowRef::new(0, key)));
            }
            return;
        }
        if (mark.chunk, mark.interface) != (self.number, current.interface)
            && let Some(place) = current.flows.iter_mut().find(|place| place.is_none())
        {
            *place = Some(FlowRef::new(current.interface, key));
            mark.chunk = self.number;
            mark.interface = current.interface;
        }
    }

    /// Records that a flow raised an alert. Where only alerts are kept, this stores the flow's waiting
    /// frames.
    pub fn alert(&mut self, at: usize) {
        mark(&mut self.marks, at).alerted = true;
        let Some(mut waiting) = self.waiting.take() else { return };
        let latest = std::mem::take(&mut waiting.flow(at).latest);
        for place in 0..waiting.ring.find(latest) {
            let Some(Taken { info, frame, flows, flow }) = waiting.ring.take(place) else { continue };
            let begun = std::mem::replace(&mut waiting.flows[at].begun, true);
            let begins = (!begun).then(|| flow.community_id());
            self.put(&info, frame, flows.into_iter().flatten(), begins);
        }
        self.waiting = Some(waiting);
    }

    /// Records that two flows are the same, which continues at the index of the second.
    pub fn unite(&mut self, gone: usize, kept: usize) {
        let Some(gone_mark) = self.marks.get(gone).copied() else { return };
        if let Some(waiting) = &mut self.waiting {
            let part = waiting.flow(gone).latest[0];
            let flow = waiting.flow(kept);
            flow.latest[1] = flow.latest[1].max(part);
        }
        let alerted = self.marks.get(kept).is_some_and(|mark| mark.alerted);
        if gone_mark.alerted || alerted {
            self.alert(kept);
        }
    }

    /// Returns whether the store needs the flow's further frames: the flow has raised an alert, and is still
    /// kept.
    #[must_use]
    pub fn wants_rest_of(&self, at: usize) -> bool {
        self.marks.get(at).is_some_and(|mark| mark.alerted && self.policy.wants_flow(mark.kept))
    }

    /// Stores the current frame, adds it to those that wait for an alert, or drops it.
    pub fn end_frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        if let Some(mut waiting) = self.waiting.take() {
            if let Some(current) = self.current.take() {
                self.end_waiting(&mut waiting, &current, info, frame);
            }
            self.waiting = Some(waiting);
            return;
        }
        let (Some(current), Some(chunk)) = (self.current.take(), &mut self.chunk) else { return };
        if current.has_flow && !current.wanted {
            self.not_kept += 1;
            return;
        }
        for flow in current.flows.into_iter().flatten() {
            chunk.flow(flow);
        }
        if !current.findable {
            chunk.flow(FlowRef::other(current.interface, frame));
        }
        if !current.has_flow
            && let Some(key) = key(info, frame)
        {
            chunk.flow(FlowRef::new(current.interface, &key));
        }
        if chunk.is_empty() {
            self.began = info.time;
        }
        let packet = packet_info(current.interface, info, current.begins);
        chunk.packet(&packet, self.policy.cut(frame));
    }

    /// Ends a frame as [`StoreHandle::end_frame`] does, where only alerts are kept.
    fn end_waiting(&mut self, waiting: &mut PreTrigger, current: &Current, info: &FrameInfo, frame: &[u8]) {
        if !current.wanted {
            if current.has_flow {
                self.not_kept += 1;
            } else {
                self.without_flow += 1;
            }
            return;
        }
        let other = (!current.findable).then(|| FlowRef::other(0, frame));
        let cut = self.policy.cut(frame);
        let PreTrigger { ring, flows, current } = waiting;
        let known = current.iter().flatten();
        let alerted = known.clone().find(|(at, _)| self.marks.get(*at).is_some_and(|mark| mark.alerted));
        let Some(&(at, flow)) = alerted else {
            return ring.push(info, cut, other, known.copied(), |at, link| {
                flows.get_mut(at).map_or(0, |flow| std::mem::replace(&mut flow.latest[0], link))
            });
        };
        let begun = flows.get_mut(at).is_some_and(|flow| std::mem::replace(&mut flow.begun, true));
        let begins = (!begun).then(|| flow.community_id());
        self.put(info, cut, known.map(|(_, flow)| *flow).chain(other), begins);
    }

    /// Returns whether nothing can be written at present. If so, counts a frame as lost.
    fn is_paused(&mut self) -> bool {
        if self.overflow == Overflow::Wait {
            return false;
        }
        match self.counters.pause() {
            Pause::No => return false,
            Pause::Failed => self.lost_paused += 1,
            Pause::Gone => self.lost_gone += 1,
        }
        true
    }

    /// Adds a frame to a chunk, if one is free.
    fn put(
        &mut self,
        info: &FrameInfo,
        frame: &[u8],
        flows: impl Iterator<Item = FlowRef>,
        begins: Option<CommunityId>,
    ) {
        if self.is_paused() {
            return;
        }
        let now = self.now;
        let Some(chunk) = self.chunk_with_room(frame.len()) else {
            self.lost_no_block += 1;
            return;
        };
        let is_new = chunk.is_empty();
        let interface = chunk.interface(Interface { mirror: info.mirror });
        for flow in flows {
            chunk.flow(FlowRef { interface, ..flow });
        }
        chunk.packet(&packet_info(interface, info, begins), frame);
        if is_new {
            // Frames from the ring are already old.
            self.began = now;
        }
    }

    /// Advances the time, so that packets do not wait for ever in a chunk that does not fill up. Packets of a
    /// capture file do wait.
    pub fn tick(&mut self, now: u64) {
        if let Some(policy) = self.changed.collect() {
            self.policy = policy;
        }
        self.publish();
        if self.overflow == Overflow::Lose
            && self.chunk.as_ref().is_some_and(|chunk| !chunk.is_empty())
            && now.abs_diff(self.began) >= FLUSH_AFTER
        {
            self.hand_over();
        }
    }

    fn publish(&self) {
        let lost = self.lost_no_block + self.lost_paused + self.lost_gone;
        self.counters.lost_waiting.store(lost, Ordering::Relaxed);
    }

    /// Writes everything that is left, and waits until it is written.
    pub fn finish(&mut self) {
        self.overflow = Overflow::Wait;
        if let Some(waiting) = &mut self.waiting {
            waiting.ring.clear();
        }
        self.hand_over();
        self.publish();
        // Without a sender, the threads finish their work and end.
        self.full = None;
        self.chunk = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has already reported it.
            let _ = thread.join();
        }
    }

    fn chunk_with_room(&mut self, frame: usize) -> Option<&mut Chunk> {
        if self.chunk.as_ref().is_some_and(|chunk| !chunk.has_room(frame)) {
            self.hand_over();
        }
        if self.chunk.is_none() {
            self.chunk = match self.overflow {
                Overflow::Lose => self.empty.try_recv().ok(),
                Overflow::Wait => self.empty.recv().ok(),
            };
            self.next_number();
        }
        self.chunk.as_deref_mut()
    }

    fn next_number(&mut self) {
        // No flow is noted in chunk 0.
        self.number = self.number.wrapping_add(1).max(1);
    }

    fn hand_over(&mut self) {
        let (Some(mut chunk), Some(full)) = (self.chunk.take(), &self.full) else { return };
        if chunk.is_empty() {
            chunk.clear();
            self.chunk = Some(chunk);
            self.next_number();
            return;
        }
        let packets = chunk.summary.packets;
        // The channel has room for every chunk; sending fails only if the receiving thread panicked.
        if full.try_send(chunk).is_err() {
            self.counters.lost_write.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// Returns the counters so far. They do not include packets that are on their way to the disk or wait for
    /// an alert.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounters {
            kept: load(&self.counters.kept),
            kept_bytes: load(&self.counters.kept_bytes),
            written_bytes: load(&self.counters.written),
            segments: load(&self.counters.segments),
            paused: self.counters.pause() != Pause::No,
            not_kept: vec![
                ("policy", self.not_kept),
                (
                    "no_alert",
                    self.without_flow + self.waiting.as_ref().map_or(0, |waiting| waiting.ring.overwritten()),
                ),
                ("link_type", self.not_ethernet),
            ],
            lost: vec![
                ("no_block", self.lost_no_block),
                ("paused", self.lost_paused),
                ("write_error", load(&self.counters.lost_write)),
                ("directory_gone", self.lost_gone + load(&self.counters.lost_gone)),
                ("too_long", self.lost_too_long),
            ],
        }
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        self.finish();
    }
}
