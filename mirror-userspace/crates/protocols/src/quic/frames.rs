//! The frames of Initial packets (RFC 9000, section 12.4) and the bytes that they carry, put in order.

use crate::reader::Reader;

/// The longest hello that is put together, in bytes.
pub const MAX_CRYPTO: usize = 16 * 1024;
/// Pieces without a connection to each other that are remembered of one side. Clients that scramble their
/// hello send about twenty a packet.
const MAX_PIECES: usize = 64;

/// Calls `each` with offset and bytes of the CRYPTO frames of a packet, up to the first frame that does
/// not belong there.
pub(super) fn crypto_frames<'a>(payload: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) {
    let mut reader = Reader::new(payload);
    while frame(&mut reader, &mut each).is_some() {}
}

fn frame<'a>(reader: &mut Reader<'a>, each: &mut impl FnMut(u64, &'a [u8])) -> Option<()> {
    match reader.u8()? {
        // PADDING, PING.
        0 | 1 => {}
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

/// The handshake bytes that one side sends in CRYPTO frames, as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Crypto {
    bytes: Vec<u8>,
    /// Begin and end of what has come, in order, none touching another.
    pieces: Vec<(u32, u32)>,
}

impl Crypto {
    /// Bytes of memory that it holds.
    pub(super) const fn room(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<(u32, u32)>()
    }

    /// Makes ready for another handshake; the memory stays, or most of it.
    pub(super) fn clear(&mut self) {
        const SPARE: usize = 4096;
        self.bytes.clear();
        self.bytes.shrink_to(SPARE);
        self.pieces.clear();
    }

    /// Takes a frame. What is beyond [`MAX_CRYPTO`] or needs too many pieces is left out.
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

    /// Takes note of a piece; `false` where there are too many.
    fn remember(&mut self, start: u32, end: u32) -> bool {
        // Those that touch the new one become part of it.
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

    /// What has come without a gap.
    pub(super) fn begin(&self) -> &[u8] {
        match self.pieces.first() {
            Some((0, end)) => self.bytes.get(..*end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Types and bodies of the handshake messages that have come as a whole, up to the first that has not.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut reader = Reader::new(self.begin());
        std::iter::from_fn(move || {
            let [kind, high, middle, low] = reader.array()?;
            Some((kind, reader.bytes(u32::from_be_bytes([0, high, middle, low]) as usize)?))
        })
    }
}
