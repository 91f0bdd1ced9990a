//! The records of a pcap file (draft-ietf-opsawg-pcap), and of the form that Alexey Kuznetzov's patches gave them,
//! whose headers are longer.

use mirror_base::memory_hints;

use super::FileFrame;
use crate::{LinkType, SECOND};

/// Length of a file's header.
pub(super) const HEADER: usize = 24;
/// Length of the part of a record's header that all forms share.
const SHARED: usize = 16;
/// Length of what the modified form has behind it: interface, protocol and type of the packet.
const MODIFIED: usize = 8;

/// Properties of a file's records, from the file's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    link: Option<LinkType>,
    link_number: u32,
    /// Nanoseconds per unit of the times' fractions.
    unit: u64,
    big_endian: bool,
    /// Bytes of a record's header behind the shared part.
    extra: usize,
}

impl Records {
    /// Parses a file's header. Returns `None` if it is not that of a pcap file.
    pub(super) fn new(header: &[u8; HEADER]) -> Option<Self> {
        let (words, _) = header.as_chunks();
        let magic: [u8; 4] = *words.first()?;
        let of = |magic: u32| {
            Some(match magic {
                0xa1b2_c3d4 => (1_000, 0),
                0xa1b2_3c4d => (1, 0),
                0xa1b2_cd34 => (1_000, MODIFIED),
                _ => return None,
            })
        };
        let little = of(u32::from_le_bytes(magic));
        let big_endian = little.is_none();
        let (unit, extra) = little.or_else(|| of(u32::from_be_bytes(magic)))?;
        let records = Self { link: None, link_number: 0, unit, big_endian, extra };
        // The upper half describes frame check sequences.
        let link_number = records.u32(*words.last()?) & 0xffff;
        Some(Self { link: LinkType::from_number(link_number), link_number, ..records })
    }

    const fn u32(&self, word: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    /// Calls `each` with the frames at the beginning of `data`; returns the number of bytes that they take.
    pub(super) fn each(&self, data: &[u8], mut each: impl FnMut(FileFrame<'_>)) -> usize {
        let mut rest = data;
        while let Some((header, behind)) = rest.split_first_chunk::<SHARED>() {
            let (words, _) = header.as_chunks();
            let word = |index: usize| self.u32(words.get(index).copied().unwrap_or_default());
            let [seconds, fraction, captured, original] = [0, 1, 2, 3].map(word);
            let Some(behind) = behind.get(self.extra..) else { break };
            let Some((bytes, behind)) = behind.split_at_checked(captured as usize) else { break };
            memory_hints::fetch(behind);
            each(FileFrame {
                time: u64::from(seconds) * SECOND + u64::from(fraction) * self.unit,
                link: self.link,
                link_number: self.link_number,
                original_len: original.max(captured),
                bytes,
            });
            rest = behind;
        }
        data.len() - rest.len()
    }

    /// Returns the length of the record at the beginning of `data`, or that of its header if that is not complete.
    pub(super) fn needed(&self, data: &[u8]) -> usize {
        let captured = data.get(8..12).and_then(<[u8]>::first_chunk).filter(|_| data.len() >= SHARED);
        let captured = captured.map_or(0, |&captured| self.u32(captured) as usize);
        SHARED + self.extra + captured
    }
}
