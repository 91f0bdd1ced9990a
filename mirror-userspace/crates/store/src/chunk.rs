//! A chunk: the part of a segment that is written at once. Each chunk is a pcapng section of its own, so that
//! it can be read without its predecessors. It carries along what the index needs of it.

use std::collections::HashMap;

use mirror_packet::{CommunityId, FlowKey};
use mirror_xdp_common::Address;
use mirror_xdp_common::inner::{InnerHeaders, Network};

use super::buffer::{ALIGNMENT, Buffer, CHUNK};
use super::pcapng::{self, Interface, PacketInfo};

/// Maximum number of flows in a chunk. A chunk with more is written early.
const MAX_FLOWS: usize = 4096;
/// Maximum number of mirror sessions in a chunk.
const MAX_INTERFACES: usize = 512;
/// Maximum number of flows noted of one frame: its own, and those within its tunnels.
pub(super) const FLOWS_A_FRAME: usize = 8;
/// Size of the cache that [`Chunk::flow`] uses.
const LATEST_FLOWS: usize = 16;
/// Bytes that storing may add to the section: a header, and the worst case of compression.
const MARGIN: usize = 64 * 1024;
/// Bytes of memory that a chunk takes.
pub(super) const MEMORY: usize = CHUNK + MARGIN;

/// Flags of a flow reference, besides its 5-tuple.
pub(super) mod kind {
    /// The addresses are IPv6.
    pub(crate) const IPV6: u8 = 1;
    /// The reference stands for frames that belong to no flow, or that are not found by their flow's
    /// addresses: fragments, ICMP errors, GRE payloads. Its addresses are those of the first IP header; its
    /// ports are unknown.
    pub(crate) const OTHER: u8 = 2;
    /// The addresses are unknown, too.
    pub(crate) const UNKNOWN: u8 = 4;
}

/// A flow, as the index stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowRef {
    /// Position of the flow's interface, in the chunk or the segment.
    pub(super) interface: u32,
    pub(super) addresses: [Address; 2],
    pub(super) ports: [u16; 2],
    pub(super) protocol: u8,
    /// See [`kind`].
    pub(super) kind: u8,
}

impl FlowRef {
    pub(super) fn new(interface: u32, key: &FlowKey) -> Self {
        let (low, high) = (key.low(), key.high());
        Self {
            interface,
            addresses: [low.0, high.0],
            ports: [low.1, high.1],
            protocol: key.protocol(),
            kind: if key.ipv6() { kind::IPV6 } else { 0 },
        }
    }

    /// Returns the reference for a frame that is not found by its flow.
    pub(super) fn other(interface: u32, frame: &[u8]) -> Self {
        let headers = InnerHeaders::parse(frame, 0);
        let (source, destination) = (headers.source, headers.destination);
        let kind = match headers.network {
            Network::Ipv4 => kind::OTHER,
            Network::Ipv6 => kind::OTHER | kind::IPV6,
            Network::Other => kind::OTHER | kind::UNKNOWN,
        };
        Self {
            interface,
            addresses: [source.min(destination), source.max(destination)],
            ports: [0; 2],
            protocol: headers.protocol,
            kind,
        }
    }

    pub(super) fn community_id(&self) -> CommunityId {
        let [low, high] = self.addresses;
        let ends = [(low, self.ports[0]), (high, self.ports[1])];
        CommunityId::of_ends(ends, self.protocol, self.kind & kind::IPV6 != 0)
    }
}

/// Counts and times of a chunk's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) packets: u64,
    /// Bytes of the frames.
    pub(super) bytes: u64,
    /// The earliest and the latest time, in nanoseconds since the epoch.
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { packets: 0, bytes: 0, first: u64::MAX, last: 0 }
    }
}

impl Summary {
    pub(super) fn add(&mut self, time: u64, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// A chunk that is being filled, or is on its way to the disk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) buffer: Buffer,
    pub(super) summary: Summary,
    /// The section's interfaces.
    pub(super) interfaces: Vec<Interface>,
    positions: HashMap<Interface, u32>,
    /// The interface of the preceding packet.
    latest: Option<(Interface, u32)>,
    /// Flows with packets in the chunk; a flow may be repeated.
    pub(super) flows: Vec<FlowRef>,
    /// A cache of flows that are noted already. The index removes the duplicates that the cache misses.
    latest_flows: [Option<FlowRef>; LATEST_FLOWS],
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer::new(MEMORY),
            summary: Summary::default(),
            interfaces: Vec::with_capacity(MAX_INTERFACES),
            positions: HashMap::with_capacity(MAX_INTERFACES),
            latest: None,
            flows: Vec::with_capacity(MAX_FLOWS),
            latest_flows: [None; LATEST_FLOWS],
        }
    }

    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.summary = Summary::default();
        self.interfaces.clear();
        self.positions.clear();
        self.latest = None;
        self.flows.clear();
        self.latest_flows = [None; LATEST_FLOWS];
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.summary.packets == 0
    }

    /// Returns whether a frame of this length fits into an empty chunk.
    pub(super) const fn fits_any(frame: usize) -> bool {
        frame <= pcapng::SNAPLEN
    }

    /// Returns whether there is room for another frame of this length, with everything that comes with it.
    pub(super) fn has_room(&self, frame: usize) -> bool {
        let needed = pcapng::SECTION_HEADER
            + pcapng::MAX_INTERFACE
            + pcapng::MAX_PACKET_OVERHEAD
            + frame
            + ALIGNMENT
            + pcapng::MIN_PADDING;
        self.buffer.len() + needed <= CHUNK
            && self.flows.len() + FLOWS_A_FRAME + 1 < MAX_FLOWS
            && self.interfaces.len() < MAX_INTERFACES
    }

    /// Returns the position of an interface, and describes the interface in the section if it is new. The
    /// caller has checked for room.
    pub(super) fn interface(&mut self, interface: Interface) -> u32 {
        if let Some((latest, position)) = self.latest
            && latest == interface
        {
            return position;
        }
        if self.buffer.len() == 0 {
            pcapng::put_section(&mut self.buffer);
        }
        let next = self.interfaces.len() as u32;
        let position = *self.positions.entry(interface).or_insert(next);
        if position == next {
            pcapng::put_interface(&mut self.buffer, &interface);
            self.interfaces.push(interface);
        }
        self.latest = Some((interface, position));
        position
    }

    /// Notes a flow, unless the cache shows that the chunk has it already.
    pub(super) fn flow(&mut self, flow: FlowRef) {
        let words = flow.addresses[0].low ^ flow.addresses[1].low ^ u64::from(flow.interface);
        let mixed = words.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.latest_flows[(mixed >> 60) as usize % LATEST_FLOWS];
        if *place != Some(flow) {
            *place = Some(flow);
            self.flows.push(flow);
        }
    }

    /// Adds a packet. The caller has checked for room.
    pub(super) fn packet(&mut self, info: &PacketInfo, frame: &[u8]) {
        pcapng::put_packet(&mut self.buffer, info, frame);
        self.summary.add(info.time, frame.len());
    }

    /// Ends the section at a length that direct I/O accepts.
    pub(super) fn seal(&mut self) {
        let len = self.buffer.len();
        let end = (len + pcapng::MIN_PADDING).next_multiple_of(ALIGNMENT);
        if !len.is_multiple_of(ALIGNMENT) {
            pcapng::put_padding(&mut self.buffer, end - len);
        }
        pcapng::end_section(&mut self.buffer);
    }
}
