//! IP fragment reassembly, bounded in datagrams, in bytes and in time, so that a flood of fragments costs no
//! more than the datagrams that it evicts.
//!
//! The bytes of a datagram are stored in the order of their arrival, each piece with its offset, and sorted
//! once all are there. A fragment therefore costs its own length, whatever offset it claims. Hosts share the
//! memory (`fair`).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use mirror_xdp_common::Address;

use super::DecodeError;
use crate::fair::Shares;
use crate::{FlowKeyHasher, SessionKey, Vlans};

/// Bytes charged for a datagram on top of its stored data. This limits the number of datagrams.
const OVERHEAD: usize = 1024;
/// Pieces stored for one datagram. Fragments that arrive in order form one piece.
const MAX_PIECES: usize = 1024;
/// Bytes of memory that finished datagrams hold in reserve for later ones, in total.
const MAX_SPARE: usize = 1 << 20;
/// The largest IP packet, header included.
const MAX_PACKET: usize = 65_535;
/// Nanoseconds after which an incomplete datagram is given up, as in Suricata.
const TIMEOUT: u64 = 60_000_000_000;

/// The fields that all fragments of one datagram share (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramId {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// True for IPv6.
    pub ipv6: bool,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// The sender's identification of the datagram.
    pub identification: u32,
}

/// A fragment of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// The datagram that the fragment belongs to.
    pub id: DatagramId,
    /// Offset in the datagram's payload, in bytes.
    pub offset: usize,
    /// The more-fragments flag: further fragments follow this one.
    pub more: bool,
    /// The IP header without options and extension headers.
    pub header: &'a [u8],
    /// The captured part of the fragment's payload.
    pub payload: &'a [u8],
    /// Bytes of the payload that were not captured.
    pub missing: usize,
    /// VLAN tags of the frame.
    pub vlans: Vlans,
    /// Nesting depth: the number of packets around the fragment.
    pub depth: u8,
}

impl Fragment<'_> {
    /// Returns the offset behind the fragment in the datagram's payload.
    const fn end(&self) -> usize {
        self.offset + self.payload.len() + self.missing
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    session: SessionKey,
    id: DatagramId,
    vlans: Vlans,
    depth: u8,
}

/// A contiguous range of a datagram's payload, stored contiguously.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Offset of the first byte in the payload.
    start: u32,
    /// Offset behind the last byte in the payload.
    end: u32,
    /// Offset of the first byte in the stored data; [`Piece::MISSING`] if the bytes were not captured.
    at: u32,
}

impl Piece {
    /// Stands for no stored data.
    const MISSING: u32 = u32::MAX;

    /// Returns true if the bytes were not captured.
    const fn is_missing(&self) -> bool {
        self.at == Self::MISSING
    }

    /// Returns true if `next` continues this piece, both in the payload and in the stored data.
    const fn is_continued_by(&self, next: &Self) -> bool {
        self.end == next.start
            && !self.is_missing()
            && !next.is_missing()
            && self.at + (self.end - self.start) == next.at
    }
}

/// A datagram that is being reassembled.
#[derive(Debug, Default)]
struct Datagram {
    key: Option<Key>,
    /// Arrival time of its first fragment.
    start: u64,
    /// The IP header, followed by the bytes of the pieces.
    kept: Vec<u8>,
    header_len: usize,
    /// The received ranges of the payload, sorted and disjoint.
    pieces: Vec<Piece>,
    /// Number of payload bytes received.
    covered: usize,
    /// Length of the payload, known from the last fragment.
    len: Option<usize>,
    /// Its fragments so far.
    fragments: Fragments,
}

/// A number of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// Those that are the outermost packet of their frame: the fate of the datagram is that of the frame.
    pub frames: u64,
    /// Those within other packets.
    pub nested: u64,
}

impl Fragments {
    const fn count(&mut self, is_nested: bool) {
        if is_nested {
            self.nested += 1;
        } else {
            self.frames += 1;
        }
    }

    const fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.nested += other.nested;
    }
}

impl Datagram {
    fn is_whole(&self) -> bool {
        self.len == Some(self.covered)
    }

    /// Returns the bytes of memory that the datagram holds.
    const fn room(&self) -> usize {
        self.kept.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Adds the bytes of a fragment that are not there yet. Where fragments overlap, the bytes that came
    /// first stay.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), DecodeError> {
        let (start, end) = (fragment.offset, fragment.end());
        if self.header_len + end > MAX_PACKET || self.len.is_some_and(|len| end > len) {
            return Err(DecodeError::Fragment);
        }
        if !fragment.more {
            if self.pieces.last().is_some_and(|last| last.end as usize > end) {
                return Err(DecodeError::Fragment);
            }
            self.len = Some(end);
        }
        let captured = start + fragment.payload.len();
        self.add_range(start, captured, Some(fragment.payload))?;
        self.add_range(captured, end, None)
    }

    /// Adds the parts of a range that are not there yet. `payload` holds its bytes, unless they were not
    /// captured.
    fn add_range(&mut self, start: usize, end: usize, payload: Option<&[u8]>) -> Result<(), DecodeError> {
        let mut next = self.pieces.partition_point(|piece| piece.end as usize <= start);
        let mut at = start;
        while at < end {
            let (from, to) = match self.pieces.get(next) {
                Some(piece) => ((piece.start as usize).min(end), piece.end as usize),
                None => (end, end),
            };
            if at < from {
                let bytes = payload.map(|it| it.get(at - start..from - start).unwrap_or_default());
                next = self.put(next, at, from, bytes)?;
            }
            at = to;
            next += 1;
        }
        Ok(())
    }

    /// Inserts a range in front of piece number `next`. Returns the new number of that piece.
    fn put(
        &mut self,
        next: usize,
        start: usize,
        end: usize,
        bytes: Option<&[u8]>,
    ) -> Result<usize, DecodeError> {
        let at = bytes.map_or(Piece::MISSING, |_| self.kept.len() as u32);
        let piece = Piece { start: start as u32, end: end as u32, at };
        let is_full = self.pieces.len() == MAX_PIECES;
        let before = next.checked_sub(1).and_then(|before| self.pieces.get_mut(before));
        let number = match before {
            Some(before) if before.is_continued_by(&piece) => {
                before.end = piece.end;
                next
            }
            _ if is_full => return Err(DecodeError::Fragment),
            _ => {
                self.pieces.insert(next, piece);
                next + 1
            }
        };
        self.kept.extend_from_slice(bytes.unwrap_or_default());
        self.covered += end - start;
        Ok(number)
    }

    /// Writes the IP packet into `whole`, with the header of a packet that was never fragmented. The packet
    /// ends in front of the first byte that was not captured; its header has the length as sent.
    fn assemble(&mut self, id: &DatagramId, whole: &mut Vec<u8>) {
        if self.pieces.len() <= 1 {
            std::mem::swap(whole, &mut self.kept);
        } else {
            whole.clear();
            whole.extend_from_slice(self.kept.get(..self.header_len).unwrap_or_default());
            for piece in self.pieces.iter().take_while(|piece| !piece.is_missing()) {
                let (at, len) = (piece.at as usize, (piece.end - piece.start) as usize);
                whole.extend_from_slice(self.kept.get(at..at + len).unwrap_or_default());
            }
        }
        let total = ((self.header_len + self.covered) as u16).to_be_bytes();
        let payload = (self.covered as u16).to_be_bytes();
        match (id.ipv6, whole.as_mut_slice()) {
            (true, [_, _, _, _, length_0, length_1, next, ..]) => {
                [*length_0, *length_1] = payload;
                *next = id.protocol;
            }
            (false, [version_ihl, _, length_0, length_1, _, _, fragment_0, fragment_1, ..]) => {
                *version_ihl = 0x45;
                [*length_0, *length_1] = total;
                [*fragment_0, *fragment_1] = [0, 0];
            }
            _ => {}
        }
    }
}

/// Reassembles fragmented datagrams.
#[derive(Debug)]
pub struct Defragmenter {
    hasher: FlowKeyHasher,
    numbers: HashMap<Key, usize, RandomState>,
    /// Datagrams by number, in use or not.
    datagrams: Vec<Datagram>,
    shares: Shares,
    /// Numbers that are not in use. Their datagrams hold `spare` bytes of memory.
    free: Vec<usize>,
    spare: usize,
    /// The frames among the fragments of incomplete datagrams.
    waiting: u64,
    /// The fragments of datagrams given up because others needed their memory, and because they stayed
    /// incomplete.
    lost: [Fragments; 2],
}

/// The places of [`Defragmenter::lost`].
const MEMORY: usize = 0;
const INCOMPLETE: usize = 1;

impl Defragmenter {
    /// Creates a defragmenter without fragments, whose datagrams hold at most `most` bytes. The seed keys the hash of
    /// hosts.
    #[must_use]
    pub fn new(seed: u64, most: usize) -> Self {
        Self {
            hasher: FlowKeyHasher::new(seed),
            numbers: HashMap::default(),
            datagrams: Vec::new(),
            shares: Shares::new(most),
            free: Vec::new(),
            spare: 0,
            waiting: 0,
            lost: [Fragments::default(); 2],
        }
    }

    /// Returns the number of fragments whose datagrams were given up, by reason.
    pub fn lost(&self) -> impl Iterator<Item = (DecodeError, Fragments)> + use<> {
        [DecodeError::FragmentMemory, DecodeError::FragmentIncomplete].into_iter().zip(self.lost)
    }

    /// Returns the number of frames whose datagrams are incomplete.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Gives up all incomplete datagrams.
    pub fn finish(&mut self) {
        while let Some(oldest) = self.shares.oldest() {
            self.give_up(oldest, INCOMPLETE);
        }
    }

    /// Adds a fragment that was seen at `now`, in nanoseconds; `is_nested` means within another packet. If it
    /// completes its datagram, replaces `whole` by the IP packet and returns the fragments before this one.
    ///
    /// # Errors
    ///
    /// Fails if the fragment contradicts others of its datagram, or if the datagram has too many pieces.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        session: SessionKey,
        now: u64,
        is_nested: bool,
        whole: &mut Vec<u8>,
    ) -> Result<Option<Fragments>, DecodeError> {
        self.expire(now);
        if fragment.header.len() + fragment.end() > MAX_PACKET {
            return Err(DecodeError::Fragment);
        }
        let key = Key { session, id: fragment.id, vlans: fragment.vlans, depth: fragment.depth };
        let number = match self.numbers.get(&key) {
            Some(&number) => number,
            None => self.start(key, fragment, now),
        };
        let Some(datagram) = self.datagrams.get_mut(number) else { return Err(DecodeError::Fragment) };
        let added = datagram.add(fragment);
        self.shares.charge(number, OVERHEAD + datagram.room());
        let is_whole = added.is_ok() && datagram.is_whole();
        let mut before = None;
        if is_whole {
            datagram.assemble(&key.id, whole);
            before = Some(self.end(number));
        } else if added.is_ok() {
            datagram.fragments.count(is_nested);
            self.waiting += u64::from(!is_nested);
        }
        while let Some(other) = self.shares.to_give_back(number) {
            self.give_up(other, MEMORY);
        }
        added?;
        Ok(before)
    }

    /// Returns a number for a new datagram that begins with this fragment.
    fn start(&mut self, key: Key, fragment: &Fragment<'_>, now: u64) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.datagrams.push(Datagram::default());
            self.datagrams.len() - 1
        });
        if let Some(datagram) = self.datagrams.get_mut(number) {
            self.spare -= datagram.room();
            datagram.key = Some(key);
            datagram.start = now;
            datagram.kept.extend_from_slice(fragment.header);
            datagram.header_len = fragment.header.len();
        }
        self.shares.enter(number, self.hasher.host(&key.session, key.id.source));
        self.numbers.insert(key, number);
        number
    }

    /// Gives up datagrams that have waited for too long at `now`, in nanoseconds.
    pub fn expire(&mut self, now: u64) {
        while let Some(oldest) = self.shares.oldest()
            && let Some(datagram) = self.datagrams.get(oldest)
            && now.saturating_sub(datagram.start) > TIMEOUT
        {
            self.give_up(oldest, INCOMPLETE);
        }
    }

    /// Removes a datagram that is not complete.
    fn give_up(&mut self, number: usize, reason: usize) {
        let fragments = self.end(number);
        self.lost[reason].add(fragments);
    }

    /// Removes a datagram, and returns the number of its fragments. Some of its memory is held in reserve for
    /// later ones.
    fn end(&mut self, number: usize) -> Fragments {
        self.shares.leave(number);
        let Some(datagram) = self.datagrams.get_mut(number) else { return Fragments::default() };
        let fragments = std::mem::take(&mut datagram.fragments);
        self.waiting -= fragments.frames;
        if let Some(key) = datagram.key.take() {
            self.numbers.remove(&key);
        }
        if self.spare + datagram.room() > MAX_SPARE {
            *datagram = Datagram::default();
        }
        datagram.kept.clear();
        datagram.pieces.clear();
        (datagram.covered, datagram.len) = (0, None);
        self.spare += datagram.room();
        self.free.push(number);
        fragments
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_HELD: usize = 16 << 20;
    const HEADER: [u8; 20] = [0x45; 20];

    fn fragment(identification: u32, offset: usize, more: bool, payload: &[u8]) -> Fragment<'_> {
        let id = DatagramId {
            source: Address::from_v4(identification >> 16),
            destination: Address::from_v4(2),
            ipv6: false,
            protocol: 17,
            identification,
        };
        Fragment { id, offset, more, header: &HEADER, payload, missing: 0, vlans: Vlans::new(), depth: 0 }
    }

    fn add(defragmenter: &mut Defragmenter, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        let added = defragmenter.add(fragment, SessionKey::default(), 0, false, &mut whole);
        added.is_ok_and(|before| before.is_some()).then(|| whole[HEADER.len()..].to_vec())
    }

    proptest! {
        /// Fragments in any order, some repeated with other bytes, are reassembled as in a plain array of
        /// bytes in which the first value of each byte stays.
        #[test]
        fn a_datagram_is_what_came_first_of_each_byte(
            len in 1_usize..60,
            cuts in prop::collection::vec((0_usize..60, 1_usize..60, any::<u8>()), 0..40),
        ) {
            let mut defragmenter = Defragmenter::new(1, MAX_HELD);
            let len = len * 8;
            let mut model: Vec<Option<u8>> = vec![None; len];
            // At the end, all fragments come once more.
            let all = (0..len / 8).map(|unit| (unit, 1, 255));
            for (start, units, byte) in cuts.into_iter().chain(all) {
                let start = (start * 8).min(len - 8);
                let end = (start + units * 8).min(len);
                let payload = vec![byte; end - start];
                for place in &mut model[start..end] {
                    place.get_or_insert(byte);
                }
                let whole = add(&mut defragmenter, &fragment(7, start, end < len, &payload));
                let expected: Option<Vec<u8>> = model.iter().copied().collect();
                prop_assert_eq!(&whole, &expected);
                if whole.is_some() {
                    break;
                }
            }
            prop_assert_eq!(defragmenter.lost, [Fragments::default(); 2]);
            prop_assert_eq!(defragmenter.waiting(), 0);
            prop_assert_eq!(defragmenter.shares.oldest(), None);
        }
    }

    #[test]
    fn hostile_fragments_at_the_end_of_a_datagram_cost_their_bytes() {
        let mut defragmenter = Defragmenter::new(1, MAX_HELD);
        for number in 0..100_000 {
            assert_eq!(add(&mut defragmenter, &fragment(number, 65_000, true, &[1; 8])), None);
        }
        let held: usize = defragmenter.datagrams.iter().map(Datagram::room).sum();
        assert!(held <= 4 << 20, "{held}");
        assert!(defragmenter.shares.cost() <= MAX_HELD);
    }

    #[test]
    fn hostile_fragments_of_one_host_take_nothing_from_others() {
        let mut defragmenter = Defragmenter::new(1, MAX_HELD);
        assert_eq!(add(&mut defragmenter, &fragment(1 << 16, 0, true, &[1; 8])), None);
        for number in 0..65_000 {
            add(&mut defragmenter, &fragment(2 << 16 | number, 0, true, &[0; 1480]));
        }
        assert!(defragmenter.shares.cost() <= MAX_HELD);
        let whole = add(&mut defragmenter, &fragment(1 << 16, 8, false, &[2; 8]));
        assert_eq!(whole.as_deref(), Some(&[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2][..]));
        assert!(defragmenter.lost[MEMORY].frames > 50_000);
        assert_eq!(defragmenter.lost[MEMORY].frames + defragmenter.waiting(), 65_000);
    }

    #[test]
    fn hostile_fragments_that_are_refused_leave_nothing_behind() {
        let mut defragmenter = Defragmenter::new(1, MAX_HELD);
        for number in 0..50_000 {
            let mut whole = Vec::new();
            let beyond = fragment(number, 65_528, true, &[0; 104]);
            assert!(defragmenter.add(&beyond, SessionKey::default(), 0, false, &mut whole).is_err());
        }
        assert_eq!(defragmenter.datagrams.len(), 0);
        // The defragmenter refuses a fragment that contradicts the others; its datagram remains charged.
        for number in 0..50_000 {
            add(&mut defragmenter, &fragment(number, 0, false, &[0; 8]));
            add(&mut defragmenter, &fragment(number, 8, false, &[0; 8]));
            add(&mut defragmenter, &fragment(number, 0, true, &[0; 1000]));
        }
        assert!(defragmenter.shares.cost() <= MAX_HELD);
    }

    #[test]
    fn a_datagram_of_cut_fragments_ends_at_the_first_cut() {
        let mut defragmenter = Defragmenter::new(1, MAX_HELD);
        let (first, last) = (fragment(1, 0, true, &[1; 16]), fragment(1, 24, false, &[2; 8]));
        let mut whole = Vec::new();
        for (cut, add) in
            [(Fragment { missing: 8, ..first }, false), (Fragment { missing: 100, ..last }, true)]
        {
            assert_eq!(
                defragmenter
                    .add(&cut, SessionKey::default(), 0, false, &mut whole)
                    .map(|whole| whole.is_some()),
                Ok(add)
            );
        }
        assert_eq!(whole.get(HEADER.len()..), Some(&[1; 16][..]));
        assert_eq!(whole.get(2..4), Some(&((HEADER.len() + 24 + 108) as u16).to_be_bytes()[..]));
    }

    #[test]
    fn what_stays_incomplete_is_counted() {
        let mut defragmenter = Defragmenter::new(1, MAX_HELD);
        let mut whole = Vec::new();
        let mut add = |defragmenter: &mut Defragmenter, number, offset, is_nested, time| {
            let piece = fragment(number, offset, true, &[1; 8]);
            defragmenter.add(&piece, SessionKey::default(), time, is_nested, &mut whole).unwrap()
        };
        assert_eq!(add(&mut defragmenter, 1, 0, false, 0), None);
        assert_eq!(add(&mut defragmenter, 1, 8, true, 1), None);
        assert_eq!(add(&mut defragmenter, 2, 0, false, TIMEOUT), None);
        assert_eq!((defragmenter.waiting(), defragmenter.lost), (2, [Fragments::default(); 2]));
        defragmenter.expire(TIMEOUT + 1);
        let one = Fragments { frames: 1, nested: 1 };
        assert_eq!((defragmenter.waiting(), defragmenter.lost), (1, [Fragments::default(), one]));
        defragmenter.finish();
        let both = Fragments { frames: 2, nested: 1 };
        assert_eq!((defragmenter.waiting(), defragmenter.lost), (0, [Fragments::default(), both]));
        // A datagram that is complete knows the fragments before the last.
        assert_eq!(add(&mut defragmenter, 3, 8, false, 0), None);
        assert_eq!(add(&mut defragmenter, 3, 16, true, 0), None);
        let last = fragment(3, 24, false, &[1; 8]);
        assert_eq!(add(&mut defragmenter, 3, 0, false, 0), None);
        let before = defragmenter.add(&last, SessionKey::default(), 0, false, &mut Vec::new());
        assert_eq!(before, Ok(Some(Fragments { frames: 2, nested: 1 })));
        assert_eq!((defragmenter.waiting(), defragmenter.lost), (0, [Fragments::default(), both]));
    }
}
