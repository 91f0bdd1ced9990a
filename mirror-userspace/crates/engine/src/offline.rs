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

use mirror_packet as packet;
use mirror_packet::capture_file::FileFrame;
use mirror_packet::{FrameInfo, LinkType, MirrorSession, SECOND};
use mirror_records::sink::Producer;
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_common::wire::protocol;
use zerocopy::FromBytes;

use crate::hooks::Recorder;
use crate::worker::{Worker, WorkerConfig};

/// Seed of all keyed hashes of a worker that reads capture files. It is fixed, so that a file gives the same records
/// each time; an attacker who knows it can slow down the reading of that attacker's own file only.
pub const HASH_SEED: u64 = 0x6d69_7272_6f72;
/// The key of the flow hash that a recorder receives with each frame.
const HASH_KEY: FlowHashKey = FlowHashKey::new(HASH_SEED);

/// The frames of capture files before they reach the worker: `seen = mirrored + plain + Σ dropped`.
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
    /// Malformed mirror traffic, by [`Counter`].
    pub dropped: [u64; Counter::COUNT],
}

impl Frames {
    /// Malformed mirror traffic by the names of its counters.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = Counter::ALL.iter().filter(|counter| counter.fate() == Fate::Dropped);
        counters.map(|&counter| (counter.name(), self.dropped[counter as usize]))
    }
}

/// Reads the frames of capture files, one file after the other.
#[derive(Debug)]
pub struct Reader<R: Recorder = ()> {
    ports: Ports,
    worker: Worker<R>,
    frames: Frames,
    /// The last frame that could be of a mirror session was one.
    in_sessions: bool,
    /// The end of the second of the worker's last tick, in nanoseconds of the frames' times.
    second_ends: u64,
}

impl Reader {
    /// A reader whose records go to `records`, with the usual ports of VXLAN and GENEVE.
    #[must_use]
    pub fn new(config: WorkerConfig, records: Producer) -> Self {
        let config = WorkerConfig { hash_seed: HASH_SEED, ..config };
        Self::of(Worker::new(config, records), Ports::default())
    }
}

impl<R: Recorder> Reader<R> {
    /// A reader with this worker, whose seed is [`HASH_SEED`], and these UDP ports of mirror traffic.
    #[must_use]
    pub fn of(worker: Worker<R>, ports: Ports) -> Self {
        Self { ports, worker, frames: Frames::default(), in_sessions: false, second_ends: 0 }
    }

    /// The worker.
    #[must_use]
    pub const fn worker(&self) -> &Worker<R> {
        &self.worker
    }

    /// The frames so far.
    #[must_use]
    pub const fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Ends all flows and hands over the last records.
    pub fn finish(&mut self) {
        self.worker.finish();
    }

    /// Reads a frame.
    #[inline]
    pub fn frame(&mut self, frame: &FileFrame<'_>) {
        self.frames.seen += 1;
        self.frames.bytes += u64::from(frame.original_len);
        let link = frame.link;
        let mut bytes = frame.bytes;
        let mut info = FrameInfo {
            time: frame.time,
            original_len: frame.original_len,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        };
        let recording = self.worker.recorder().is_recording();
        // Outer headers are those of a datagram: in a capture without any, a TCP segment is decoded once.
        if link == Some(LinkType::Ethernet)
            && !self.in_sessions
            && !recording
            && let Some(packet) = packet::decode_usual(bytes, frame.original_len as usize)
            && packet.protocol == protocol::TCP
        {
            self.frames.plain += 1;
            self.worker.decoded_frame(&info, bytes, &packet);
            return self.tick(frame.time);
        }
        self.in_sessions = false;
        if link == Some(LinkType::Ethernet) {
            let whole = Captured { bytes, original_len: frame.original_len as usize };
            match decapsulate(&whole, &self.ports) {
                Ok(outer) => {
                    self.in_sessions = true;
                    self.frames.mirrored += 1;
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
                    info.original_len = headers.original_len(outer.inner_len) as u32;
                    if recording {
                        info.flow_hash = headers.flow_hash(&HASH_KEY);
                    }
                }
                Err(counter) if counter.fate() == Fate::Dropped => {
                    self.frames.dropped[counter as usize] += 1;
                    return;
                }
                Err(_) => {
                    self.frames.plain += 1;
                    if recording {
                        info.flow_hash = InnerHeaders::parse(bytes, 0).flow_hash(&HASH_KEY);
                    }
                }
            }
        } else {
            self.frames.plain += 1;
        }
        self.worker.link_frame(&info, link, bytes);
        self.tick(frame.time);
    }

    /// Advances the worker's timers, which count whole seconds. A live worker's advance after each batch, too.
    fn tick(&mut self, time: u64) {
        const BATCH: u64 = 64;
        if self.frames.seen.is_multiple_of(BATCH) || time >= self.second_ends {
            self.second_ends = (time / SECOND).saturating_add(1).saturating_mul(SECOND);
            self.worker.tick(time);
        }
    }
}

/// A frame of which the file may have only the beginning.
struct Captured<'f> {
    bytes: &'f [u8],
    original_len: usize,
}

impl Frame for Captured<'_> {
    fn len(&self) -> usize {
        self.original_len.max(self.bytes.len())
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        self.bytes.header(offset)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

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
            if mirror_packet::decode_usual(&frame, original_len).is_some_and(|it| it.protocol == protocol::TCP) {
                let outer = decapsulate(&Captured { bytes: &frame, original_len }, &Ports::default());
                prop_assert!(outer.is_err_and(|counter| counter.fate() != Fate::Dropped));
            }
        }
    }
}
