//! The frames of Initial packets (RFC 9000, section 12.4), and the reassembly of their bytes.

use crate::reader::Reader;

/// The longest hello that is reassembled, in bytes.
pub const MAX_CRYPTO: usize = 16 * 1024;
/// Disjoint pieces that are stored for one side. Clients that scramble their hello send about twenty in a
/// packet.
const MAX_PIECES: usize = 64;

/// Calls `each` with offset and bytes of each CRYPTO frame of a packet, up to the first frame that is not
/// allowed there.
pub(super) fn crypto_frames<'a>(payload: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) {
    let mut reader = Reader::new(payload);
    while frame(&mut reader, &mut each).is_some() {}
}

fn frame<'a>(reader: &mut Reader<'a>, each: &mut impl FnMut(u64, &'a [u8])) -> Option<()> {
    match reader.u8()? {
        // PADDING, which fills most of a client's first packet.
        0 => reader.skip_zeros(),
        // PING.
        1 => {}
        // ACK.
        kind @ (2 | 3) => {
            reader.varint()?;
            reader.varint()?;
            let ranges = reader.varint()?;
            reader.varint()?;
            for _ in 0..ranges {
                reader.varint()?;
                reader.varint()?;
            }
            if kind == 3 {
                reader.varint()?;
                reader.varint()?;
                reader.varint()?;
            }
        }
        // CRYPTO.
        6 => {
            let offset = reader.varint()?;
            let len = reader.varint()?;
            each(offset, reader.bytes(usize::try_from(len).ok()?)?);
        }
        _ => return None,
    }
    Some(())
}

/// The received handshake bytes of one side, from its CRYPTO frames.
#[derive(Debug, Default)]
pub(super) struct Crypto {
    bytes: Vec<u8>,
    /// Begin and end of each received range, in order. No two of them touch.
    pieces: Vec<(u32, u32)>,
}

impl Crypto {
    /// Returns the bytes of memory that the buffer holds.
    pub(super) const fn room(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<(u32, u32)>()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Resets the buffer for another handshake. Most of the memory stays.
    pub(super) fn clear(&mut self) {
        const SPARE: usize = 4096;
        self.bytes.clear();
        self.bytes.shrink_to(SPARE);
        self.pieces.clear();
    }

    /// Adds a frame. It is ignored if it exceeds [`MAX_CRYPTO`] or needs too many pieces.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8]) {
        let Ok(start) = usize::try_from(offset) else { return };
        let Some(end) = start.checked_add(data.len()).filter(|&end| end <= MAX_CRYPTO) else { return };
        if data.is_empty() || !self.remember(start as u32, end as u32) {
            return;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(slot) = self.bytes.get_mut(start..end) {
            slot.copy_from_slice(data);
        }
    }

    /// Records a piece. Returns `false` if there are too many.
    fn remember(&mut self, start: u32, end: u32) -> bool {
        // Pieces that touch the new one are merged with it.
        let first = self.pieces.partition_point(|piece| piece.1 < start);
        let behind = self.pieces.partition_point(|piece| piece.0 <= end);
        if let Some(touched) = self.pieces.get(first..behind)
            && let (Some(&(begin, _)), Some(&(_, last))) = (touched.first(), touched.last())
        {
            if let Some(piece) = self.pieces.get_mut(first) {
                *piece = (begin.min(start), last.max(end));
            }
            self.pieces.drain(first + 1..behind);
            return true;
        }
        let room = self.pieces.len() < MAX_PIECES;
        if room {
            self.pieces.insert(first, (start, end));
        }
        room
    }

    /// Returns the bytes received without a gap.
    pub(super) fn begin(&self) -> &[u8] {
        match self.pieces.first() {
            Some((0, end)) => self.bytes.get(..*end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Returns types and bodies of the complete handshake messages, up to the first incomplete one.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut reader = Reader::new(self.begin());
        std::iter::from_fn(move || {
            let [kind, high, middle, low] = reader.array()?;
            Some((kind, reader.bytes(u32::from_be_bytes([0, high, middle, low]) as usize)?))
        })
    }
}
