//! Writes and reads pcapng in the form that the store uses: a section with an interface per mirror session,
//! and an enhanced packet block per frame (draft-ietf-opsawg-pcapng).
//!
//! Data for which pcapng has no field is stored in options for local use, which other tools ignore: the
//! session of an interface (`Interface`), and the flow hash of a packet. A comment contains the Community
//! ID where a flow begins.

mod writer;

use mirror_packet::{CommunityId, MirrorDirection, MirrorSession};
use mirror_xdp_common::{Address, Vni};

use super::buffer::{Buffer, CHUNK};
pub use writer::Writer;

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// The byte-order magic.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// The link layer of all frames.
const ETHERNET: u32 = 1;
/// Option codes.
const END: u16 = 0;
const COMMENT: u16 = 1;
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
const USER_APPLICATION: u16 = 4;
const FLAGS: u16 = 2;
/// Options for local use; their top bit is set.
const SESSION: u16 = 0x8001;
const FLOW_HASH: u16 = 0x8002;
const PADDING: u16 = 0x8003;

/// Bytes of a section header as it is written here.
pub(super) const SECTION_HEADER: usize = 48;
/// Maximum size of an interface block in bytes.
pub(super) const MAX_INTERFACE: usize = 320;
/// Maximum size of a packet block in bytes, without its frame.
pub(super) const MAX_PACKET_OVERHEAD: usize = 128;
/// Size in bytes of the smallest block that fills a gap.
pub(super) const MIN_PADDING: usize = 32;
/// Maximum length of a frame in bytes; libpcap accepts no longer ones.
pub(super) const SNAPLEN: usize = 262_144;

/// The origin of frames: the mirror session, if they were mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Interface {
    pub(super) mirror: Option<MirrorSession>,
}

impl Interface {
    /// Size in bytes of an encoded interface.
    pub(super) const ENCODED: usize = 48;

    /// Encodes the interface for options and indexes.
    pub(super) fn encode(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        if let Some(mirror) = &self.mirror {
            bytes[0] = 1;
            bytes[4..8].copy_from_slice(&mirror.vni.get().to_le_bytes());
            bytes[8..24].copy_from_slice(&encode_address(mirror.outer_source));
            bytes[24..40].copy_from_slice(&encode_address(mirror.outer_destination));
            bytes[40..48].copy_from_slice(&mirror.endpoint.to_le_bytes());
        }
        bytes
    }

    /// Decodes an encoded interface.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mirror = match bytes.first()? {
            0 => None,
            _ => Some(MirrorSession {
                vni: Vni::new(u32_at(bytes, 4)?)?,
                outer_source: decode_address(bytes.get(8..24)?)?,
                outer_destination: decode_address(bytes.get(24..40)?)?,
                endpoint: u64_at(bytes, 40)?,
            }),
        };
        Some(Self { mirror })
    }
}

/// Encodes an address as two words in network byte order, the higher first.
pub(super) fn encode_address(address: Address) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.high.to_be_bytes());
    bytes[8..].copy_from_slice(&address.low.to_be_bytes());
    bytes
}

/// Decodes an address that [`encode_address`] has encoded.
pub(super) fn decode_address(bytes: &[u8]) -> Option<Address> {
    let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Address::from_words(word(0)?, word(8)?))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The fields of a packet's block, without its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketInfo {
    /// Position of the packet's interface in the section.
    pub(super) interface: u32,
    /// Capture time in nanoseconds since the epoch.
    pub(super) time: u64,
    pub(super) original_len: u32,
    pub(super) side: Option<MirrorDirection>,
    pub(super) flow_hash: u32,
    /// The Community ID of a flow that begins with the packet.
    pub(super) begins: Option<CommunityId>,
}

/// Begins a section of unknown length.
pub(super) fn put_section(buffer: &mut Buffer) {
    const APPLICATION: &[u8; 12] = b"mirror-xdp\0\0";
    put(buffer, &[SECTION, SECTION_HEADER as u32, BYTE_ORDER, 1]);
    buffer.push(&u64::MAX.to_le_bytes());
    buffer.push(&USER_APPLICATION.to_le_bytes());
    buffer.push(&10_u16.to_le_bytes());
    buffer.push(APPLICATION);
    put(buffer, &[u32::from(END), SECTION_HEADER as u32]);
}

/// Sets the length of the section that fills the whole buffer.
pub(super) fn end_section(buffer: &mut Buffer) {
    let length = (buffer.len() - SECTION_HEADER) as u64;
    buffer.as_mut_slice()[16..24].copy_from_slice(&length.to_le_bytes());
}

/// Describes an interface.
pub(super) fn put_interface(buffer: &mut Buffer, interface: &Interface) {
    use std::fmt::Write as _;
    let start = buffer.len();
    put(buffer, &[INTERFACE, 0, ETHERNET, SNAPLEN as u32]);
    match &interface.mirror {
        Some(mirror) => {
            let mut text = Text::default();
            // A `Text` has room for any session.
            let _ = write!(text, "vni{}", mirror.vni);
            put_option(buffer, NAME, text.as_bytes());
            let mut text = Text::default();
            let (source, destination) = (mirror.outer_source, mirror.outer_destination);
            let _ = write!(text, "VNI {} mirrored by {source} to {destination}", mirror.vni);
            put_option(buffer, DESCRIPTION, text.as_bytes());
        }
        None => put_option(buffer, NAME, b"plain"),
    }
    put_option(buffer, RESOLUTION, &[9]);
    put_option(buffer, SESSION, &interface.encode());
    end_block(buffer, start);
}

/// Writes a packet.
pub(super) fn put_packet(buffer: &mut Buffer, info: &PacketInfo, frame: &[u8]) {
    use std::fmt::Write as _;
    let start = buffer.len();
    put(
        buffer,
        &[
            PACKET,
            0,
            info.interface,
            (info.time >> 32) as u32,
            info.time as u32,
            frame.len() as u32,
            info.original_len.max(frame.len() as u32),
        ],
    );
    buffer.push(frame);
    pad(buffer);
    if let Some(side) = info.side {
        let direction: u32 = match side {
            MirrorDirection::Ingress => 1,
            MirrorDirection::Egress => 2,
        };
        put_option(buffer, FLAGS, &direction.to_le_bytes());
    }
    put_option(buffer, FLOW_HASH, &info.flow_hash.to_le_bytes());
    if let Some(id) = info.begins {
        let mut text = Text::default();
        // A `Text` has room for any Community ID.
        let _ = write!(text, "community_id={id}");
        put_option(buffer, COMMENT, text.as_bytes());
    }
    end_block(buffer, start);
}

/// Fills `len` bytes, at least [`MIN_PADDING`] and a multiple of four, with a block without information: the
/// interface statistics of the first interface, without any statistics.
pub(super) fn put_padding(buffer: &mut Buffer, len: usize) {
    let start = buffer.len();
    put(buffer, &[STATISTICS, 0, 0, 0, 0]);
    let payload = len - MIN_PADDING;
    buffer.push(&PADDING.to_le_bytes());
    buffer.push(&(payload as u16).to_le_bytes());
    buffer.push_zeros(payload);
    end_block(buffer, start);
}

fn put(buffer: &mut Buffer, words: &[u32]) {
    for word in words {
        buffer.push(&word.to_le_bytes());
    }
}

fn put_option(buffer: &mut Buffer, code: u16, value: &[u8]) {
    buffer.push(&code.to_le_bytes());
    buffer.push(&(value.len() as u16).to_le_bytes());
    buffer.push(value);
    pad(buffer);
}

fn pad(buffer: &mut Buffer) {
    buffer.push_zeros(buffer.len().next_multiple_of(4) - buffer.len());
}

/// Ends the options and the block that began at `start`.
fn end_block(buffer: &mut Buffer, start: usize) {
    buffer.push(&u32::from(END).to_le_bytes());
    let len = (buffer.len() - start + 4) as u32;
    buffer.push(&len.to_le_bytes());
    buffer.as_mut_slice()[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}

/// A short text on the stack.
struct Text {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 160], len: 0 }
    }
}

impl Text {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Returns the length of the section that begins here, from its header; `None` if no section begins here.
pub(super) fn section_len(bytes: &[u8]) -> Option<u64> {
    let begins = u32_at(bytes, 0)? == SECTION && u32_at(bytes, 8)? == BYTE_ORDER;
    let header = u64::from(u32_at(bytes, 4)?);
    begins.then(|| u64_at(bytes, 16)?.checked_add(header)).flatten()
}

/// Returns whether these bytes are the beginning of a section, cut off within a block.
pub(super) fn is_torn(bytes: &[u8]) -> bool {
    let mut header = Vec::new();
    for word in [SECTION, SECTION_HEADER as u32, BYTE_ORDER] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    let shared = bytes.len().min(header.len());
    if bytes[..shared] != header[..shared] {
        return false;
    }
    let mut at = 0;
    while let (Some(kind), Some(len)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) {
        let len = len as usize;
        let is_block = matches!(kind, INTERFACE | STATISTICS | PACKET) || kind == SECTION && at == 0;
        if !is_block || len < 12 || !len.is_multiple_of(4) || len > CHUNK {
            return false;
        }
        let Some(block) = bytes.get(at..at + len) else { return true };
        if u32_at(block, len - 4) != Some(len as u32) {
            return false;
        }
        at += len;
    }
    // Whole blocks alone are a chunk with a wrong length rather than the beginning of one.
    at < bytes.len()
}

/// A packet of a section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// Position of the packet's interface in the section.
    pub(super) interface: usize,
    pub(super) time: u64,
    pub(super) original_len: u32,
    pub(super) side: Option<MirrorDirection>,
    pub(super) flow_hash: u32,
    pub(super) frame: &'a [u8],
    /// Start and end offsets of the block in the section.
    pub(super) block: (usize, usize),
}

/// The section is damaged, at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a block of pcapng as the store writes it, {0} bytes after the section's beginning")]
pub(super) struct Damaged(pub(super) usize);

/// Reads a section, block by block.
#[derive(Debug)]
pub(super) struct Section<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The interfaces read so far.
    pub(super) interfaces: Vec<Interface>,
}

impl<'a> Section<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, interfaces: Vec::new() }
    }

    /// Returns the next packet, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Packet<'a>>, Damaged> {
        while self.at < self.bytes.len() {
            let start = self.at;
            let damaged = Damaged(start);
            let kind = u32_at(self.bytes, start).ok_or(damaged)?;
            let len = u32_at(self.bytes, start + 4).ok_or(damaged)? as usize;
            let end = start.checked_add(len).filter(|_| len >= 12 && len.is_multiple_of(4)).ok_or(damaged)?;
            let block = self.bytes.get(start..end).ok_or(damaged)?;
            if u32_at(block, len - 4) != Some(len as u32) {
                return Err(damaged);
            }
            self.at = end;
            match kind {
                INTERFACE => self.interfaces.push(interface(block).ok_or(damaged)?),
                PACKET => {
                    let packet = packet(block, start).ok_or(damaged)?;
                    if packet.interface >= self.interfaces.len() {
                        return Err(damaged);
                    }
                    return Ok(Some(packet));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

fn interface(block: &[u8]) -> Option<Interface> {
    options(block.get(16..block.len() - 4)?)
        .find(|(code, _)| *code == SESSION)?
        .1
        .try_into()
        .ok()
        .and_then(|bytes: [u8; Interface::ENCODED]| Interface::decode(&bytes))
}

fn packet(block: &[u8], start: usize) -> Option<Packet<'_>> {
    let len = u32_at(block, 20)? as usize;
    let frame = block.get(28..28_usize.checked_add(len)?)?;
    let mut packet = Packet {
        interface: u32_at(block, 8)? as usize,
        time: u64::from(u32_at(block, 12)?) << 32 | u64::from(u32_at(block, 16)?),
        original_len: u32_at(block, 24)?,
        side: None,
        flow_hash: 0,
        frame,
        block: (start, start + block.len()),
    };
    for (code, value) in options(block.get((28 + len).next_multiple_of(4)..block.len() - 4)?) {
        match code {
            FLAGS => {
                packet.side = match u32_at(value, 0)? & 3 {
                    1 => Some(MirrorDirection::Ingress),
                    2 => Some(MirrorDirection::Egress),
                    _ => None,
                }
            }
            FLOW_HASH => packet.flow_hash = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(packet)
}

/// Returns the options of a block, up to the first that is damaged.
fn options(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let code = u16_at(bytes, at).filter(|&code| code != END)?;
        let len = usize::from(u16_at(bytes, at + 2)?);
        let value = bytes.get(at + 4..at + 4 + len)?;
        at += 4 + len.next_multiple_of(4);
        Some((code, value))
    })
}

/// Returns the length of the frame in a packet's block.
pub(super) fn frame_len(block: &[u8]) -> u32 {
    u32_at(block, 20).unwrap_or_default()
}

/// Appends a copy of a packet's block with another interface.
pub(super) fn copy_packet(block: &[u8], interface: u32, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(block);
    to[start + 8..start + 12].copy_from_slice(&interface.to_le_bytes());
}
