//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng): the interfaces of each section, and the frames. A
//! block is parsed in place in the reader's buffer. Only the interfaces are stored, and their number is
//! bounded per section. Blocks of other kinds are skipped, however long they are.

use super::{FileFrame, MAX_RECORD};
use crate::LinkType;
use crate::SECOND;

/// The first bytes of a pcapng file.
pub(super) const MAGIC: [u8; 4] = SECTION.to_be_bytes();
/// Maximum number of interfaces in a section. Tools describe one per network interface; a packet store
/// describes one per mirror session in a megabyte.
pub const MAX_INTERFACES: usize = 65_536;

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// A packet in the form before the current one.
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;
/// The byte-order magic in a section's header.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Option codes of an interface.
const END: u16 = 0;
const RESOLUTION: u16 = 9;
const OFFSET: u16 = 14;

/// Bytes of a block's type and length, and of the length again at its end.
pub(super) const HEADER: usize = 8;
pub(super) const TRAILER: usize = 4;

/// An interface of a section.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Option<LinkType>,
    link_number: u32,
    snaplen: u32,
    /// Time units per second; `None` if the interface declares an impossible number.
    resolution: Option<u64>,
    /// Seconds to add to each time.
    offset: i64,
}

/// The block at the beginning of some bytes.
#[derive(Debug)]
pub(super) enum Block<'a> {
    /// The block has this length and is complete. It may contain a frame.
    Whole(usize, Option<FileFrame<'a>>),
    /// The block has this length and is not needed. It may be incomplete.
    Unused(usize),
    /// This many bytes are needed before the block can be parsed.
    Incomplete(usize),
}

/// The section that is being read.
#[derive(Debug, Default)]
pub(super) struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// Time of the preceding frame, for blocks without a time.
    time: u64,
}

impl Section {
    /// Parses the block at the beginning of `data`; an error describes what is wrong with it.
    pub(super) fn block<'a>(&mut self, data: &'a [u8]) -> Result<Block<'a>, &'static str> {
        // A section's header has at least 28 bytes. Its byte order applies to its own length, too.
        let Some(header) = data.get(..HEADER + TRAILER) else {
            return Ok(Block::Incomplete(HEADER + TRAILER));
        };
        if header.starts_with(&MAGIC) {
            self.big_endian = match header.get(HEADER..).and_then(|word| word.try_into().ok()) {
                Some(word) if u32::from_le_bytes(word) == BYTE_ORDER => false,
                Some(word) if u32::from_be_bytes(word) == BYTE_ORDER => true,
                _ => return Err("a section of unknown byte order"),
            };
        }
        let (kind, len) = (self.u32(header, 0), self.u32(header, 4) as usize);
        if len < HEADER + TRAILER || !len.is_multiple_of(4) {
            return Err("a block of impossible length");
        }
        if !matches!(kind, SECTION | INTERFACE | OBSOLETE_PACKET | SIMPLE_PACKET | PACKET) {
            return Ok(Block::Unused(len));
        }
        if len > MAX_RECORD {
            return Err("a block of impossible length");
        }
        let Some(block) = data.get(..len) else { return Ok(Block::Incomplete(len)) };
        if !self.ends(block.get(len - TRAILER..).unwrap_or_default(), len) {
            return Err("a block whose two lengths differ");
        }
        let body = block.get(HEADER..len - TRAILER).unwrap_or_default();
        let frame = match kind {
            PACKET => Some(self.packet(body, self.u32(body, 0))?),
            // The interface has half a word. A count of lost packets has the other half.
            OBSOLETE_PACKET => Some(self.packet(body, u32::from(self.u16(body, 0)))?),
            SIMPLE_PACKET => Some(self.simple_packet(body)?),
            INTERFACE => {
                self.describe(body)?;
                None
            }
            _ => {
                self.begin(body)?;
                None
            }
        };
        self.time = frame.map_or(self.time, |frame| frame.time);
        Ok(Block::Whole(len, frame))
    }

    /// Returns whether a block of this length may end with these bytes.
    pub(super) fn ends(&self, trailer: &[u8], len: usize) -> bool {
        self.u32(trailer, 0) as usize == len
    }

    /// Begins a section with this header.
    fn begin(&mut self, body: &[u8]) -> Result<(), &'static str> {
        const MAJOR_VERSION: u16 = 1;
        let fixed = body.get(..16).ok_or("a section's block that is too short")?;
        if self.u16(fixed, 4) != MAJOR_VERSION {
            return Err("a section of an unknown version of pcapng");
        }
        self.interfaces.clear();
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), &'static str> {
        if self.interfaces.len() == MAX_INTERFACES {
            return Err("a section with more than 65536 interfaces");
        }
        let fixed = body.get(..8).ok_or("an interface's block that is too short")?;
        let link_number = u32::from(self.u16(fixed, 0));
        let mut interface = Interface {
            link: LinkType::from_number(link_number),
            link_number,
            snaplen: self.u32(fixed, 4),
            resolution: Some(1_000_000),
            offset: 0,
        };
        let mut rest = body.get(8..).unwrap_or_default();
        while let Some((head, behind)) = rest.split_at_checked(4) {
            let (code, len) = (self.u16(head, 0), usize::from(self.u16(head, 2)));
            let value = behind.get(..len).ok_or("an option that is longer than its block")?;
            match (code, value) {
                (END, _) => break,
                // Only a packet with such a time makes it a mistake.
                (RESOLUTION, value) => interface.resolution = value.first().copied().and_then(resolution),
                (OFFSET, value) => {
                    let &bytes = value.first_chunk().ok_or("an impossible time offset")?;
                    interface.offset =
                        if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn packet<'a>(&self, body: &'a [u8], interface: u32) -> Result<FileFrame<'a>, &'static str> {
        let (fixed, rest) = body.split_at_checked(20).ok_or("a packet's block that is too short")?;
        let [high, low, captured, original] = [4, 8, 12, 16].map(|at| self.u32(fixed, at));
        let interface = self.interface(interface as usize)?;
        let bytes = rest.get(..captured as usize).ok_or("a packet that is longer than its block")?;
        let time = interface.time(u64::from(high) << 32 | u64::from(low));
        Ok(FileFrame {
            time: time.ok_or("a packet of an interface with an impossible time resolution")?,
            link: interface.link,
            link_number: interface.link_number,
            original_len: original.max(captured),
            bytes,
        })
    }

    fn simple_packet<'a>(&self, body: &'a [u8]) -> Result<FileFrame<'a>, &'static str> {
        let (original, rest) = body.split_at_checked(4).ok_or("a packet's block that is too short")?;
        let original_len = self.u32(original, 0);
        let interface = self.interface(0)?;
        let snaplen = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
        let captured = original_len.min(snaplen) as usize;
        let bytes = rest.get(..captured).ok_or("a packet that is longer than its block")?;
        let &Interface { link, link_number, .. } = interface;
        Ok(FileFrame { time: self.time, link, link_number, original_len, bytes })
    }

    fn interface(&self, index: usize) -> Result<&Interface, &'static str> {
        self.interfaces.get(index).ok_or("a packet of an interface that was not described")
    }

    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Returns the time units per second: a power of two if the option's top bit is set, else of ten; `None` if
/// they exceed 64 bits.
fn resolution(option: u8) -> Option<u64> {
    let exponent = u32::from(option & 0x7f);
    if option & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 2_u64.checked_pow(exponent) }
}

impl Interface {
    /// Converts a time in this interface's units to nanoseconds since the epoch; times before the epoch
    /// become 0. Returns `None` if its units are impossible.
    fn time(&self, units: u64) -> Option<u64> {
        let nanoseconds = u128::from(units) * u128::from(SECOND) / u128::from(self.resolution?);
        let offset = i128::from(self.offset) * i128::from(SECOND);
        let time = i128::try_from(nanoseconds).unwrap_or(i128::MAX).saturating_add(offset).max(0);
        Some(u64::try_from(time).unwrap_or(u64::MAX))
    }
}
