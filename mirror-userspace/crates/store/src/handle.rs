//! A worker's side of the store: which frames are kept, and copying those into chunks. What is done here is
//! done on the packet path: it does not allocate, and it does not wait.

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

/// A chunk that is not full is written when its first packet is this old, in nanoseconds.
const FLUSH_AFTER: u64 = 1_000_000_000;

/// What the store knows of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// The chunk in which the flow was noted last, and for which interface.
    chunk: u32,
    interface: u32,
    /// Bytes of its frames that were kept, as they were on the wire; those that wait for an alert included.
    pub(super) kept: u32,
    /// It has raised an alert.
    alerted: bool,
}

/// What is known of a flow besides where only alerts are kept.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// Its latest frame in the ring, and the latest of a flow that turned out to be the same.
    latest: [LinkNumber; 2],
    /// The first frame of it is kept.
    begun: bool,
}

/// Where frames wait for an alert, and whose they are.
#[derive(Debug)]
struct PreTrigger {
    ring: Ring,
    /// By the place of a flow in the worker's table.
    flows: Vec<Waiting>,
    /// The flows of the frame that is being looked at.
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

/// What was found out about the frame that is being looked at.
#[derive(Debug)]
struct Current {
    interface: u32,
    /// Bytes that it had on the wire.
    len: u32,
    /// Its flows that are new to the chunk.
    flows: [Option<FlowRef>; FLOWS_A_FRAME],
    /// It is found by the addresses of one of its flows.
    findable: bool,
    /// A flow begins with it.
    begins: Option<CommunityId>,
    /// It belongs to a flow.
    has_flow: bool,
    /// A flow wants it to be kept.
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

/// The flow that a frame would be of which the worker has made no flow: a copy, perhaps.
fn key(info: &FrameInfo, frame: &[u8]) -> Option<FlowKey> {
    let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
    match mirror_packet::decode(layer) {
        Ok(Decoded::Packet(packet)) if !matches!(packet.transport, Transport::Icmp { error: true, .. }) => {
            Some(FlowKey::of_packet(&packet, SessionKey::from(info.mirror)).0)
        }
        _ => None,
    }
}

/// The mark of the flow in this place of the worker's table.
fn mark(marks: &mut Vec<Mark>, at: usize) -> &mut Mark {
    if at >= marks.len() {
        marks.resize(at + 1, Mark::default());
    }
    &mut marks[at]
}

/// What a packet's block says besides its bytes.
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

/// A worker's end of the store.
#[derive(Debug)]
pub struct StoreHandle {
    policy: Arc<Policy>,
    /// Where another policy is left.
    changed: Arc<Slot<Arc<Policy>>>,
    /// The rules whose frames are kept; `None`: all.
    rules: Option<Arc<KeptRules>>,
    overflow: Overflow,
    /// Where only alerts are kept.
    waiting: Option<Box<PreTrigger>>,
    empty: Receiver<Box<Chunk>>,
    full: Option<SyncSender<Box<Chunk>>>,
    chunk: Option<Box<Chunk>>,
    /// Number of the chunk, so that flows can say whether they are noted in it.
    number: u32,
    /// When the chunk's first packet came.
    began: u64,
    /// When the frame came that is being looked at.
    now: u64,
    /// By the place of a flow in the worker's table.
    marks: Vec<Mark>,
    current: Option<Current>,
    counters: Arc<Counters>,
    not_kept: u64,
    /// Where only alerts are kept: frames that no flow could be made of.
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

    /// Where another policy is left, which is taken with the next tick.
    pub(super) const fn changed(&self) -> &Arc<Slot<Arc<Policy>>> {
        &self.changed
    }

    /// Keeps nothing but what these rules let through.
    #[must_use]
    pub fn by_rules(mut self, rules: Option<Arc<KeptRules>>) -> Self {
        self.rules = rules;
        self
    }

    /// Looks at a frame before the worker does. Its flows come with [`StoreHandle::flow`], and then
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
            // Counted there.
        } else if let Some(chunk) = self.chunk_with_room(frame.len()) {
            let interface = chunk.interface(Interface { mirror: info.mirror });
            self.current = Some(Current::new(interface, info, frame));
        } else {
            self.lost_no_block += 1;
        }
    }

    /// Takes a flow that the frame has a packet of; `findable` says that the frame has the flow's addresses
    /// where a filter looks for them.
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
        if !self.policy.wants_flow(*mark) {
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

    /// Takes an alert of a flow: where only those are kept, its frames are that wait for one.
    pub fn alert(&mut self, at: usize) {
        mark(&mut self.marks, at).alerted = true;
        let Some(mut waiting) = self.waiting.take() else { return };
        let latest = std::mem::take(&mut waiting.flow(at).latest);
        for place in 0..waiting.ring.find(latest) {
            let Some(Taken { info, frame, flows }) = waiting.ring.take(place) else { continue };
            // It is the first that its links are of.
            let begins = std::mem::replace(&mut waiting.flows[at].begun, true);
            let begins = (!begins).then(|| flows[0].map(|flow| flow.community_id())).flatten();
            self.put(&info, frame, flows.into_iter().flatten(), begins);
        }
        self.waiting = Some(waiting);
    }

    /// Takes note that two flows are one, which goes on in the place of the second.
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

    /// Whether what comes of a flow is to be seen here: it has raised an alert, and is kept still.
    pub fn wants_rest_of(&self, at: usize) -> bool {
        self.marks.get(at).is_some_and(|mark| mark.alerted && self.policy.wants_flow(*mark))
    }

    /// Keeps the frame that began, lets it wait for an alert, or does not keep it.
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

    /// As [`StoreHandle::end_frame`], where only alerts are kept.
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

    /// Whether nothing can be written just now; counts a frame that is lost for that.
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

    /// Adds a frame to a chunk, where there is one.
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
            // What comes from the ring is old already.
            self.began = now;
        }
    }

    /// Lets the time pass: packets do not wait for ever in a chunk that does not get full. Those of a
    /// capture file do.
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

    /// Writes out what there is, and waits for it.
    pub fn finish(&mut self) {
        self.overflow = Overflow::Wait;
        if let Some(waiting) = &mut self.waiting {
            waiting.ring.clear();
        }
        self.hand_over();
        self.publish();
        // Without a sender, the threads end when they have done all.
        self.full = None;
        self.chunk = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so itself.
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
        // 0 is what no flow is noted in.
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
        // The channel has room for every chunk; it fails where the thread behind it panicked.
        if full.try_send(chunk).is_err() {
            self.counters.lost_write.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// What was counted so far. Packets that are on their way to the disk, or wait for an alert, are in none of
    /// the figures.
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
