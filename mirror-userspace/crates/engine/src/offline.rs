//! The way of a frame from a capture file to a worker: decapsulation, the hash of its flow, and the worker's timers,
//! which follow the frames' times.
//!
//! ```
//! use mirror_engine::offline::Reader;
//! use mirror_engine::worker::WorkerConfig;
//! use mirror_packet::capture_file::CaptureFile;
//! use mirror_records::sink::{Overflow, Sink};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("a.pcap");
//! # std::fs::write(&path, [&0xa1b2_c3d4_u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 12], &[1, 0, 0, 0]].concat())?;
//! let sink = Sink::open(directory.path())?;
//! let mut reader = Reader::new(WorkerConfig::default(), sink.producer(Overflow::Wait));
//! CaptureFile::open(&path)?.for_each(|frame| reader.frame(&frame))?;
//! reader.finish();
//! println!("{} frames, {} of them mirrored", reader.frames().seen, reader.frames().mirrored);
//! sink.finish();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With [`Reader::over`] in place of [`Reader::new`], several workers analyse the frames. The records are the same, in
//! the same order, as long as no table is full.

mod front;
mod outer;
mod spread;
mod work;

use std::fmt::Debug;
use std::io;
use std::num::NonZeroUsize;

use mirror_packet as packet;
use mirror_packet::capture_file::FileFrame;
use mirror_packet::{FrameInfo, LinkType, MirrorDirection, MirrorSession, SECOND};
use mirror_records::sink::{Producer, Sink};
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::{Mirrored, Ports};
use mirror_xdp_common::wire::{MacAddresses, protocol};

use self::spread::Spread;
use self::work::Moment;
use crate::hooks::Recorder;
use crate::worker::{Worker, WorkerConfig, WorkerCounters};

/// Seed of all keyed hashes of a worker that reads capture files. It is fixed, so that a file gives the same records
/// each time; an attacker who knows it can slow down the reading of that attacker's own file only.
pub const HASH_SEED: u64 = 0x6d69_7272_6f72;
/// The key of the flow hash that a recorder receives with each frame.
const HASH_KEY: FlowHashKey = FlowHashKey::new(HASH_SEED);

/// Decides which mirrored frames reach the worker, as the rules of the XDP program do in a live capture.
pub trait Gate: Debug {
    /// Decides on a frame with these outer and inner headers. `hash` is that of its inner flow.
    ///
    /// # Errors
    ///
    /// Returns the counter of the reason why the frame does not reach the worker.
    fn admit(
        &mut self,
        outer: &Mirrored,
        inner: &InnerHeaders,
        macs: MacAddresses,
        hash: FlowHash,
    ) -> Result<Admitted, Counter>;
}

/// A mirrored frame that reaches the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Identifier of the rule that decided; 0 for none.
    pub rule: u32,
    /// The most bytes of the inner frame that the worker sees; `None` for all.
    pub truncate: Option<u32>,
    /// The direction at the mirrored interface, if it is known.
    pub side: Option<MirrorDirection>,
}

/// The frames of capture files before they reach the worker: `seen = mirrored + plain + Σ dropped + Σ shunted`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Frames of the files.
    pub seen: u64,
    /// Bytes of those on the wire.
    pub bytes: u64,
    /// Frames of mirror sessions.
    pub mirrored: u64,
    /// All others.
    pub plain: u64,
    /// Mirror traffic that does not reach the worker, because it is malformed or because of a [`Gate`].
    pub gone: [u64; Counter::COUNT],
}

impl Frames {
    /// Mirror traffic that was malformed, not admitted or rejected, by the names of its counters.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.with_fate(Fate::Dropped)
    }

    /// Mirror traffic that rules only count, by the names of its counters.
    pub fn shunted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.with_fate(Fate::Shunted)
    }

    fn with_fate(&self, fate: Fate) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = Counter::ALL.iter().filter(move |counter| counter.fate() == fate);
        counters.map(|&counter| (counter.name(), self.gone[counter as usize]))
    }
}

/// The workers of a reader.
#[derive(Debug)]
enum Workers<R: Recorder> {
    /// It works in the reader's thread.
    One(Box<Worker<R>>),
    Several(Box<Spread<R>>),
}

/// Reads the frames of capture files, one file after the other.
#[derive(Debug)]
pub struct Reader<R: Recorder = ()> {
    ports: Ports,
    workers: Workers<R>,
    gate: Option<Box<dyn Gate>>,
    frames: Frames,
    /// The last frame that could be of a mirror session was one.
    in_sessions: bool,
    /// The latest time of a frame, in nanoseconds since the epoch. Timers follow it.
    now: u64,
    /// The end of the second of the last tick.
    second_ends: u64,
}

impl Reader {
    /// A reader whose records go to `records`, with the usual ports of VXLAN and GENEVE.
    #[must_use]
    pub fn new(config: WorkerConfig, records: Producer) -> Self {
        let config = WorkerConfig { hash_seed: HASH_SEED, ..config };
        Self::of(Worker::new(config, records), Ports::default())
    }

    /// Such a reader with this many workers, each in a thread of its own.
    ///
    /// # Errors
    ///
    /// Fails if a thread cannot be started.
    pub fn over(workers: NonZeroUsize, config: WorkerConfig, sink: &Sink) -> io::Result<Self> {
        let config = WorkerConfig { hash_seed: HASH_SEED, ..config };
        let worker = |records| Worker::builder(config, records).one_of(workers).build();
        Self::across(sink.producers(workers).into_iter().map(worker).collect(), Ports::default())
    }
}

impl<R: Recorder + Send + 'static> Reader<R> {
    /// A reader with this worker, whose seed is [`HASH_SEED`], and these UDP ports of mirror traffic.
    #[must_use]
    pub fn of(mut worker: Worker<R>, ports: Ports) -> Self {
        worker.keep_order();
        Self::with(Workers::One(Box::new(worker)), ports)
    }

    /// A reader with these workers, each in a thread of its own. All have the same configuration, whose seed is
    /// [`HASH_SEED`]; each is one of as many workers ([`one_of`]), and has a producer of [`Sink::producers`].
    ///
    /// [`one_of`]: crate::worker::WorkerBuilder::one_of
    ///
    /// # Errors
    ///
    /// Fails if a thread cannot be started, or if there is no worker.
    pub fn across(mut workers: Vec<Worker<R>>, ports: Ports) -> io::Result<Self> {
        if workers.len() > 1 {
            workers.iter_mut().for_each(Worker::keep_order);
            return Ok(Self::with(Workers::Several(Box::new(Spread::start(workers)?)), ports));
        }
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "a reader needs a worker");
        workers.pop().map(|worker| Self::of(worker, ports)).ok_or_else(none)
    }

    fn with(workers: Workers<R>, ports: Ports) -> Self {
        Self {
            ports,
            workers,
            gate: None,
            frames: Frames::default(),
            in_sessions: false,
            now: 0,
            second_ends: 0,
        }
    }

    /// This reader, with a gate that decides on mirrored frames.
    #[must_use]
    pub fn with_gate(self, gate: Box<dyn Gate>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// The workers. Several are away from the first frame to [`Reader::finish`].
    pub fn workers(&self) -> impl Iterator<Item = &Worker<R>> {
        let (one, several) = match &self.workers {
            Workers::One(worker) => (Some(&**worker), None),
            Workers::Several(spread) => (None, Some(spread.workers())),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// The counters of all workers together. Those of several are complete after [`Reader::finish`].
    #[must_use]
    pub fn counters(&self) -> WorkerCounters {
        match &self.workers {
            Workers::One(worker) => worker.counters(),
            Workers::Several(spread) => spread.counters(),
        }
    }

    /// The frames so far.
    #[must_use]
    pub const fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The latest time of a frame, in nanoseconds since the epoch.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Ends all flows and hands over the last records.
    pub fn finish(&mut self) {
        let moment = self.moment(Step::Finish);
        match &mut self.workers {
            Workers::One(worker) => {
                worker.advance(self.now);
                worker.finish();
            }
            Workers::Several(spread) => spread.finish(moment),
        }
    }

    /// A step of the current frame.
    const fn moment(&self, step: Step) -> Moment {
        Moment { position: self.frames.seen * Step::COUNT + step as u64, now: self.now }
    }

    /// Reads a frame.
    #[inline]
    pub fn frame(&mut self, frame: &FileFrame<'_>) {
        self.frames.seen += 1;
        self.frames.bytes += u64::from(frame.original_len);
        let mut link = frame.link;
        let mut bytes = frame.bytes;
        let mut info = FrameInfo {
            time: frame.time,
            original_len: frame.original_len,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        };
        let (recording, tunnels) = match &self.workers {
            Workers::One(worker) => (worker.recorder().is_recording(), worker.tunnel_ports()),
            Workers::Several(spread) => (spread.is_recording(), spread.front().ports()),
        };
        // Outer headers are those of a datagram: in a capture without any, a TCP segment is decoded once.
        if link == Some(LinkType::Ethernet)
            && !self.in_sessions
            && !recording
            && let Some(packet) = packet::decode_usual(bytes, frame.original_len as usize, tunnels)
            && packet.protocol == protocol::TCP
        {
            self.frames.plain += 1;
            self.now = self.now.max(frame.time);
            let moment = self.moment(Step::Frame);
            match &mut self.workers {
                Workers::One(worker) => {
                    worker.advance(self.now);
                    worker.decoded_frame(&info, bytes, &packet);
                }
                Workers::Several(spread) => {
                    spread.decoded_frame(moment, &info, bytes, &packet);
                }
            }
            return self.tick(frame.time);
        }
        self.in_sessions = false;
        let mut rule = 0;
        let mut inner = None;
        let len = frame.original_len as usize;
        if let Some(outer) = link.and_then(|link| outer::decapsulate(link, bytes, len, &self.ports)) {
            match outer {
                Ok(outer) => {
                    self.in_sessions = link == Some(LinkType::Ethernet);
                    // Whatever the outer link layer is, a mirror session carries Ethernet.
                    link = Some(LinkType::Ethernet);
                    bytes = bytes.get(outer.inner_offset..).unwrap_or_default();
                    bytes = bytes.get(..outer.inner_len).unwrap_or(bytes);
                    info.mirror = Some(MirrorSession {
                        vni: outer.vni,
                        outer_source: outer.source,
                        outer_destination: outer.destination,
                        endpoint: outer.gateway.endpoint,
                    });
                    // The inner lengths report what a mirror truncated besides.
                    let headers = InnerHeaders::parse(bytes, 0);
                    inner = Some(headers);
                    info.original_len = headers.original_len(outer.inner_len) as u32;
                    if recording {
                        info.flow_hash = headers.flow_hash(&HASH_KEY);
                    }
                    if let Some(gate) = &mut self.gate {
                        let macs = bytes.header(0).unwrap_or_default();
                        match gate.admit(&outer, &headers, macs, headers.flow_hash(&HASH_KEY)) {
                            Ok(admitted) => {
                                rule = admitted.rule;
                                info.side = admitted.side;
                                let len = admitted.truncate.map_or(usize::MAX, |len| len as usize);
                                bytes = bytes.get(..len).unwrap_or(bytes);
                            }
                            Err(counter) => {
                                self.frames.gone[counter as usize] += 1;
                                return self.tick(frame.time);
                            }
                        }
                    }
                    self.frames.mirrored += 1;
                }
                Err(counter) if counter.fate() == Fate::Dropped => {
                    self.frames.gone[counter as usize] += 1;
                    return;
                }
                Err(_) => {
                    self.frames.plain += 1;
                    if recording && link == Some(LinkType::Ethernet) {
                        info.flow_hash = InnerHeaders::parse(bytes, 0).flow_hash(&HASH_KEY);
                    }
                }
            }
        } else {
            self.frames.plain += 1;
        }
        self.now = self.now.max(frame.time);
        let moment = self.moment(Step::Frame);
        match &mut self.workers {
            Workers::One(worker) => {
                worker.advance(self.now);
                worker.link_frame_of(rule, &info, link, bytes);
            }
            Workers::Several(spread) => {
                spread.frame(moment, rule, &info, link, bytes, inner.as_ref());
            }
        }
        self.tick(frame.time);
    }

    /// Advances the workers' timers, which count whole seconds. A live worker's advance after each batch, too.
    #[inline]
    fn tick(&mut self, time: u64) {
        const BATCH: u64 = 64;
        self.now = self.now.max(time);
        if self.frames.seen.is_multiple_of(BATCH) || self.now >= self.second_ends {
            self.second_ends = (self.now / SECOND).saturating_add(1).saturating_mul(SECOND);
            let moment = self.moment(Step::Tick);
            match &mut self.workers {
                Workers::One(worker) => worker.tick(self.now),
                Workers::Several(spread) => spread.tick(moment),
            }
        }
    }
}

/// The steps of a frame that cause records, in their order.
#[derive(Clone, Copy)]
enum Step {
    Frame,
    /// The end of flows that have timed out. The delivery of data that has waited comes right behind it.
    Tick,
    Finish = 3,
}

impl Step {
    const COUNT: u64 = 4;
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// Returns a mirrored frame, and the offset of its outer IP header.
    fn envelope(ipv6: bool, tag: bool) -> (Vec<u8>, usize) {
        let inner = [&[2; 12][..], &[8, 0], &[0x45; 60]].concat();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder =
            if ipv6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([1; 4], [2; 4], 64) };
        let mut frame = Vec::new();
        builder.udp(4000, 4789).write(&mut frame, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat()).unwrap();
        if tag {
            frame.splice(12..12, [0x81, 0, 0, 9]);
        }
        (frame, if tag { 18 } else { 14 })
    }

    #[test]
    fn an_outer_packet_without_a_length_or_with_one_too_long_ends_with_its_frame() {
        let ports = Ports::default();
        let outer =
            |frame: &[u8]| outer::decapsulate(LinkType::Ethernet, frame, frame.len(), &ports).unwrap();
        for (ipv6, tag) in [(false, false), (false, true), (true, false), (true, true)] {
            let (whole, ip) = envelope(ipv6, tag);
            let (length, udp_length) = if ipv6 { (ip + 4, ip + 44) } else { (ip + 2, ip + 24) };
            let known = outer(&whole).unwrap();
            for clear_udp in [false, true] {
                let mut frame = whole.clone();
                frame[length..length + 2].fill(0);
                if clear_udp {
                    frame[udp_length..udp_length + 2].fill(0);
                }
                assert_eq!(outer(&frame), Ok(known), "{ipv6} {tag} {clear_udp}");
                // Behind another link layer.
                let cooked = [&[0; 14][..], &frame[ip - 2..]].concat();
                if !tag {
                    let found =
                        outer::decapsulate(LinkType::LinuxSll, &cooked, cooked.len(), &ports).unwrap();
                    let inner_offset = known.inner_offset + 2;
                    assert_eq!(found, Ok(Mirrored { inner_offset, ..known }));
                }
            }
            // A tool has written the captured length as that on the wire.
            let cut = &whole[..whole.len() - 20];
            assert_eq!(outer(cut), Ok(known));
            // Shorter than its headers.
            let mut frame = whole.clone();
            frame[length + 1] = 7;
            frame[length] = 0;
            assert_eq!(outer(&frame), Err(Counter::OuterIpLength));
        }
    }

    proptest! {
        /// A TCP segment, for which `read` skips the search for outer headers, is never encapsulated.
        #[test]
        fn what_is_decoded_as_tcp_is_no_envelope(
            (ipv6, tags, payload) in (any::<bool>(), 0_usize..5, 0_usize..64),
            changes in proptest::collection::vec((0_usize..80, any::<u8>()), 0..4),
            (captured, missing) in (0_usize..150, 0_usize..20),
        ) {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let builder =
                if ipv6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([1; 4], [2; 4], 64) };
            let mut frame = Vec::new();
            builder.tcp(4000, 4789, 7, 1000).write(&mut frame, &vec![0xab; payload]).unwrap();
            for _ in 0..tags {
                frame.splice(12..12, [0x81, 0, 0, 9]);
            }
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(captured);
            let original_len = frame.len() + missing;
            let usual = mirror_packet::decode_usual(&frame, original_len, &mirror_packet::TunnelPorts::DEFAULT);
            if usual.is_some_and(|it| it.protocol == protocol::TCP) {
                let outer = outer::decapsulate(LinkType::Ethernet, &frame, original_len, &Ports::default());
                prop_assert!(outer.unwrap().is_err_and(|counter| counter.fate() != Fate::Dropped));
            }
        }
    }
}
