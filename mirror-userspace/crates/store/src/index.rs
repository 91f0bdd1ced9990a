//! The index of a segment: the flows that have packets in each of its chunks. It is by flow and not by
//! packet, so it is small. A reader takes from it the chunks that may contain a match, and searches the
//! packets in those.
//!
//! ```text
//! magic "MXINDEX1"
//! numbers of chunks, interfaces, flows, postings          4 × u32
//! chunks      offset u64, length u32, packets u32, first u64, last u64
//! interfaces  as in pcapng options of the store, 48 bytes
//! flows       addresses 2 × 16, ports 2 × u16, interface u32, protocol u8, kind u8, 0 u16,
//!             Community ID's first bytes u64, first posting u32, postings u32
//! postings    number of a chunk, u32
//! CRC-32 of all that
//! ```
//!
//! Numbers are little endian, except addresses. A reader loads the whole index and accesses it in place.

use std::collections::HashMap;

use super::chunk::{Chunk, FlowRef, MEMORY, Summary, kind};
use super::pcapng::{self, Interface, decode_address, encode_address, u16_at, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"MXINDEX1";
const HEADER: usize = 24;
const CHUNK_ENTRY: usize = 32;
const FLOW_ENTRY: usize = 60;
const POSTING: usize = 4;
const CHECKSUM: usize = 4;
/// Bytes of an index from which on its segment gets no more chunks. Half a million flows take that much, and
/// four times as much memory while the index is built.
pub(super) const MOST: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };

/// An index that is being built.
#[derive(Debug, Default)]
pub(super) struct Builder {
    chunks: Vec<(u64, u32, Summary)>,
    interfaces: Vec<Interface>,
    positions: HashMap<Interface, u32>,
    flows: HashMap<FlowRef, Vec<u32>>,
    postings: usize,
    summary: Summary,
}

impl Builder {
    /// Returns true if the segment has to end: otherwise flows that come only once would fill the memory.
    pub(super) fn is_full(&self) -> bool {
        self.encoded_len() >= MOST
    }

    /// Returns the length of the encoded index.
    fn encoded_len(&self) -> usize {
        HEADER
            + self.chunks.len() * CHUNK_ENTRY
            + self.interfaces.len() * Interface::ENCODED
            + self.flows.len() * FLOW_ENTRY
            + self.postings * POSTING
            + CHECKSUM
    }

    /// Adds a chunk at `offset` of the segment.
    pub(super) fn add(&mut self, chunk: &Chunk, offset: u64, len: u32) {
        self.add_parts(&chunk.summary, &chunk.interfaces, &chunk.flows, offset, len);
    }

    /// Adds a chunk by its parts.
    pub(super) fn add_parts(
        &mut self,
        summary: &Summary,
        interfaces: &[Interface],
        flows: &[FlowRef],
        offset: u64,
        len: u32,
    ) {
        let number = self.chunks.len() as u32;
        self.chunks.push((offset, len, *summary));
        self.summary.merge(summary);
        let mut places = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let next = self.interfaces.len() as u32;
            let place = *self.positions.entry(*interface).or_insert(next);
            if place == next {
                self.interfaces.push(*interface);
            }
            places.push(place);
        }
        for flow in flows {
            let Some(&interface) = places.get(flow.interface as usize) else { continue };
            let chunks = self.flows.entry(FlowRef { interface, ..*flow }).or_default();
            if chunks.last() != Some(&number) {
                chunks.push(number);
                self.postings += 1;
            }
        }
    }

    pub(super) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Returns the number of flows in the segment.
    pub(super) fn flow_count(&self) -> u64 {
        self.flows.keys().filter(|flow| flow.kind & kind::OTHER == 0).count() as u64
    }

    /// Returns the VNIs of the segment, in ascending order.
    pub(super) fn vnis(&self) -> Vec<u32> {
        let mut vnis: Vec<u32> =
            self.interfaces.iter().filter_map(|interface| Some(interface.mirror?.vni.get())).collect();
        vnis.sort_unstable();
        vnis.dedup();
        vnis
    }

    /// Returns the encoded index.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(MAGIC);
        for count in [self.chunks.len(), self.interfaces.len(), self.flows.len(), self.postings] {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for (offset, len, summary) in &self.chunks {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&(summary.packets as u32).to_le_bytes());
            bytes.extend_from_slice(&summary.first.to_le_bytes());
            bytes.extend_from_slice(&summary.last.to_le_bytes());
        }
        for interface in &self.interfaces {
            bytes.extend_from_slice(&interface.encode());
        }
        let mut first = 0_u32;
        for (flow, chunks) in &self.flows {
            bytes.extend_from_slice(&encode_address(flow.addresses[0]));
            bytes.extend_from_slice(&encode_address(flow.addresses[1]));
            bytes.extend_from_slice(&flow.ports[0].to_le_bytes());
            bytes.extend_from_slice(&flow.ports[1].to_le_bytes());
            bytes.extend_from_slice(&flow.interface.to_le_bytes());
            bytes.extend_from_slice(&[flow.protocol, flow.kind, 0, 0]);
            let id = if flow.kind & kind::OTHER == 0 { flow.community_id().prefix() } else { 0 };
            bytes.extend_from_slice(&id.to_le_bytes());
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
            first += chunks.len() as u32;
        }
        for chunk in self.flows.values().flatten() {
            bytes.extend_from_slice(&chunk.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Bytes that are not a valid index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an index of this version, or damaged")]
pub(super) struct NoIndex;

/// The index entry of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkEntry {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) packets: u32,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The index entry of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowEntry<'a> {
    pub(super) flow: FlowRef,
    /// [`mirror_packet::CommunityId::prefix`].
    pub(super) community_id: u64,
    postings: &'a [u8],
}

impl FlowEntry<'_> {
    /// Returns the positions of the chunks that contain packets of the flow.
    pub(super) fn chunks(&self) -> impl Iterator<Item = usize> {
        self.postings.chunks_exact(POSTING).filter_map(|posting| Some(u32_at(posting, 0)? as usize))
    }
}

/// A parsed index.
#[derive(Debug)]
pub(super) struct Index {
    bytes: Vec<u8>,
    interfaces: Vec<Interface>,
    /// Byte offsets of the parts.
    chunks: usize,
    flows: usize,
    postings: usize,
    end: usize,
}

impl Index {
    /// Parses the contents of the index file of a segment of this size. The parts have to be as a writer
    /// writes them: otherwise an index could name the same chunk, or the same posting, any number of times.
    pub(super) fn parse(bytes: Vec<u8>, size: u64) -> Result<Self, NoIndex> {
        let content = bytes.len().checked_sub(CHECKSUM).ok_or(NoIndex)?;
        if bytes.get(..8) != Some(&MAGIC[..])
            || u32_at(&bytes, content) != Some(crc32fast::hash(&bytes[..content]))
        {
            return Err(NoIndex);
        }
        let part = |at: usize, entry: usize| {
            (u32_at(&bytes, at).ok_or(NoIndex)? as usize).checked_mul(entry).ok_or(NoIndex)
        };
        let chunks = HEADER;
        let interfaces = chunks.checked_add(part(8, CHUNK_ENTRY)?).ok_or(NoIndex)?;
        let flows = interfaces.checked_add(part(12, Interface::ENCODED)?).ok_or(NoIndex)?;
        let postings = flows.checked_add(part(16, FLOW_ENTRY)?).ok_or(NoIndex)?;
        let end = postings.checked_add(part(20, POSTING)?).ok_or(NoIndex)?;
        if end != content {
            return Err(NoIndex);
        }
        let described = bytes[interfaces..flows].chunks_exact(Interface::ENCODED);
        let described = described.map(Interface::decode).collect::<Option<_>>().ok_or(NoIndex)?;
        let index = Self { interfaces: described, chunks, flows, postings, end, bytes };
        // A reader allocates this much memory to read a chunk.
        if index.chunks().any(|chunk| chunk.len as usize > MEMORY) {
            return Err(NoIndex);
        }
        let mut end = 0;
        for chunk in index.chunks() {
            if chunk.offset < end {
                return Err(NoIndex);
            }
            end = chunk.offset.checked_add(chunk.len.into()).filter(|&end| end <= size).ok_or(NoIndex)?;
        }
        let mut first = 0;
        for entry in index.bytes[index.flows..index.postings].chunks_exact(FLOW_ENTRY) {
            if u32_at(entry, 52) != Some(first) {
                return Err(NoIndex);
            }
            first = u32_at(entry, 56).and_then(|count| first.checked_add(count)).ok_or(NoIndex)?;
        }
        if first as usize * POSTING != index.end - index.postings {
            return Err(NoIndex);
        }
        Ok(index)
    }

    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    pub(super) fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkEntry> {
        let end = self.chunks + self.chunk_count() * CHUNK_ENTRY;
        self.bytes[self.chunks..end].chunks_exact(CHUNK_ENTRY).map(|entry| {
            let number = |at| u64_at(entry, at).unwrap_or_default();
            ChunkEntry {
                offset: number(0),
                len: u32_at(entry, 8).unwrap_or_default(),
                packets: u32_at(entry, 12).unwrap_or_default(),
                first: number(16),
                last: number(24),
            }
        })
    }

    fn chunk_count(&self) -> usize {
        u32_at(&self.bytes, 8).unwrap_or_default() as usize
    }

    pub(super) fn flows(&self) -> impl ExactSizeIterator<Item = FlowEntry<'_>> {
        let postings = &self.bytes[self.postings..self.end];
        self.bytes[self.flows..self.postings].chunks_exact(FLOW_ENTRY).map(move |entry| {
            let word = |at| u32_at(entry, at).unwrap_or_default();
            let port = |at| u16_at(entry, at).unwrap_or_default();
            let address = |at: usize| decode_address(&entry[at..at + 16]).unwrap_or_default();
            let (first, count) = (word(52) as usize, word(56) as usize);
            let start = first.saturating_mul(POSTING);
            FlowEntry {
                flow: FlowRef {
                    interface: word(36),
                    addresses: [address(0), address(16)],
                    ports: [port(32), port(34)],
                    protocol: entry[40],
                    kind: entry[41],
                },
                community_id: u64_at(entry, 44).unwrap_or_default(),
                postings: postings
                    .get(start..start.saturating_add(count.saturating_mul(POSTING)))
                    .unwrap_or_default(),
            }
        })
    }
}

/// Parses a chunk's section and returns what an index needs of it. Recovery uses this to index a segment
/// whose writer was killed.
pub(super) fn scan(section: &[u8]) -> Result<(Summary, Vec<Interface>, Vec<FlowRef>), pcapng::Damaged> {
    use mirror_packet::{Decoded, FlowKey, Layer, LinkType, SessionKey, Transport, TunnelPorts};

    let mut summary = Summary::default();
    let mut flows = std::collections::HashSet::new();
    let mut reader = pcapng::Section::new(section);
    while let Some(frame) = reader.next()? {
        summary.add(frame.time, frame.frame.len());
        let interface = frame.interface as u32;
        let session = SessionKey::from(reader.interfaces.get(frame.interface).and_then(|i| i.mirror));
        let original_len = frame.original_len as usize;
        let ports = TunnelPorts::guessed(frame.frame, original_len);
        let whole = Layer::frame(LinkType::Ethernet, frame.frame, original_len);
        let mut next = Some(whole.with_ports(&ports));
        let mut findable = false;
        while let Some(layer) = next.take() {
            let Ok(Decoded::Packet(packet)) = mirror_packet::decode(layer) else { break };
            next = packet.tunnelled;
            if matches!(packet.transport, Transport::Icmp { error: true, .. }) {
                continue;
            }
            findable |= packet.direct;
            flows.insert(FlowRef::new(interface, &FlowKey::of_packet(&packet, session).0));
        }
        if !findable {
            flows.insert(FlowRef::other(interface, frame.frame));
        }
    }
    Ok((summary, reader.interfaces, flows.into_iter().collect()))
}
