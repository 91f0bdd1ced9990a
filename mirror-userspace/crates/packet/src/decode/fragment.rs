//! IP fragments, and putting them together: bounded in datagrams, in bytes and in time, so that a flood
//! of fragments costs no more than the datagrams that it pushes out.
//!
//! The bytes of a datagram are kept in the order in which they come, with where they belong, and put in order once
//! all are there: a fragment costs what it has, wherever in its datagram it says that it belongs. Hosts share the memory
//! (`fair`).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use mirror_xdp_common::Address;

use super::Refusal;
use crate::fair::Shares;
use crate::{FlowKeyHasher, SessionKey, Vlans};

/// Bytes of memory for incomplete datagrams, altogether.
const MAX_HELD: usize = 16 << 20;
/// Bytes that a datagram counts as besides those that are kept of it. So there are at most 16,384.
const OVERHEAD: usize = 1024;
/// Pieces of a datagram that are kept apart: what arrives in order is one piece.
const MAX_PIECES: usize = 1024;
/// Bytes of memory that datagrams which are done with hold for the next ones, altogether.
const MAX_SPARE: usize = 1 << 20;
/// The largest IP packet, header included.
const MAX_PACKET: usize = 65_535;
/// A datagram that is not whole after this many nanoseconds is given up, as in Suricata.
const TIMEOUT: u64 = 60_000_000_000;

/// What all fragments of one datagram have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramId {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Whether the packets are IPv6.
    pub ipv6: bool,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// The sender's number for the datagram.
    pub identification: u32,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Whose part.
    pub id: DatagramId,
    /// Where in the datagram's payload, in bytes.
    pub offset: usize,
    /// Whether further parts follow this one.
    pub more: bool,
    /// The IP header without options and extension headers.
    pub header: &'a [u8],
    /// The bytes.
    pub payload: &'a [u8],
    /// VLAN tags of the frame.
    pub vlans: Vlans,
    /// How many packets the fragment is in.
    pub depth: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    session: SessionKey,
    id: DatagramId,
    vlans: Vlans,
    depth: u8,
}

/// Bytes of a datagram's payload that came one after the other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where in the payload they begin.
    start: u32,
    /// Where in the payload they end.
    end: u32,
    /// Where they begin in what is kept.
    at: u32,
}

impl Piece {
    /// Whether `next` goes on where this one ends, in the payload and in what is kept.
    const fn is_continued_by(&self, next: &Self) -> bool {
        self.end == next.start && self.at + (self.end - self.start) == next.at
    }
}

/// A datagram on its way to being whole.
#[derive(Debug, Default)]
struct Datagram {
    key: Option<Key>,
    /// When its first fragment came.
    start: u64,
    /// The IP header, and then the bytes of the pieces.
    kept: Vec<u8>,
    header_len: usize,
    /// What is there of the payload: sorted and disjoint.
    pieces: Vec<Piece>,
    /// Bytes of the payload that are there.
    covered: usize,
    /// Length of the payload, known from the last fragment.
    len: Option<usize>,
}

impl Datagram {
    fn is_whole(&self) -> bool {
        self.len == Some(self.covered)
    }

    /// Bytes of memory that it holds.
    const fn room(&self) -> usize {
        self.kept.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Adds a fragment's bytes where there are none yet: what came first stays.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), Refusal> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        if self.header_len + end > MAX_PACKET || self.len.is_some_and(|len| end > len) {
            return Err(Refusal::Fragment);
        }
        if !fragment.more {
            if self.pieces.last().is_some_and(|last| last.end as usize > end) {
                return Err(Refusal::Fragment);
            }
            self.len = Some(end);
        }
        let mut next = self.pieces.partition_point(|piece| piece.end as usize <= start);
        let mut at = start;
        while at < end {
            let (from, to) = match self.pieces.get(next) {
                Some(piece) => ((piece.start as usize).min(end), piece.end as usize),
                None => (end, end),
            };
            if at < from {
                next =
                    self.put(next, at, fragment.payload.get(at - start..from - start).unwrap_or_default())?;
            }
            at = to;
            next += 1;
        }
        Ok(())
    }

    /// Puts the bytes that belong at `start` in front of piece number `next`, and returns the number that this has
    /// then.
    fn put(&mut self, next: usize, start: usize, bytes: &[u8]) -> Result<usize, Refusal> {
        let end = start + bytes.len();
        let piece = Piece { start: start as u32, end: end as u32, at: self.kept.len() as u32 };
        let is_full = self.pieces.len() == MAX_PIECES;
        let before = next.checked_sub(1).and_then(|before| self.pieces.get_mut(before));
        let number = match before {
            Some(before) if before.is_continued_by(&piece) => {
                before.end = piece.end;
                next
            }
            _ if is_full => return Err(Refusal::Fragment),
            _ => {
                self.pieces.insert(next, piece);
                next + 1
            }
        };
        self.kept.extend_from_slice(bytes);
        self.covered += bytes.len();
        Ok(number)
    }

    /// Puts the IP packet into `whole`, with the header of one that never was fragmented.
    fn assemble(&mut self, id: &DatagramId, whole: &mut Vec<u8>) {
        if self.pieces.len() <= 1 {
            std::mem::swap(whole, &mut self.kept);
        } else {
            whole.clear();
            whole.extend_from_slice(self.kept.get(..self.header_len).unwrap_or_default());
            for piece in &self.pieces {
                let (at, len) = (piece.at as usize, (piece.end - piece.start) as usize);
                whole.extend_from_slice(self.kept.get(at..at + len).unwrap_or_default());
            }
        }
        let total = (whole.len() as u16).to_be_bytes();
        let payload = ((whole.len() - self.header_len) as u16).to_be_bytes();
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

/// Puts fragments together.
#[derive(Debug)]
pub struct Defragmenter {
    hasher: FlowKeyHasher,
    numbers: HashMap<Key, usize, RandomState>,
    /// Datagrams by number, in use or not.
    datagrams: Vec<Datagram>,
    shares: Shares,
    /// Numbers that are not in use, and bytes of memory that the datagrams there hold.
    free: Vec<usize>,
    spare: usize,
    /// Datagrams that were given up because others wanted their memory, and because they stayed incomplete.
    lost: [u64; 2],
}

impl Defragmenter {
    /// No fragment came yet; the seed keys the hash of hosts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FlowKeyHasher::new(seed),
            numbers: HashMap::default(),
            datagrams: Vec::new(),
            shares: Shares::new(MAX_HELD),
            free: Vec::new(),
            spare: 0,
            lost: [0; 2],
        }
    }

    /// How many datagrams were given up, by reason.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        ["datagram_memory", "datagram_incomplete"].into_iter().zip(self.lost)
    }

    /// Gives up what is incomplete.
    pub fn finish(&mut self) {
        while let Some(oldest) = self.shares.oldest() {
            self.end(oldest);
            self.lost[1] += 1;
        }
    }

    /// Adds a fragment that was seen at `now`. Where it completes its datagram, the IP packet is put into
    /// `whole`, in place of what was there, and the answer is `true`.
    ///
    /// # Errors
    ///
    /// Where the fragment contradicts the others of its datagram or there are too many pieces.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        session: SessionKey,
        now: u64,
        whole: &mut Vec<u8>,
    ) -> Result<bool, Refusal> {
        self.expire(now);
        if fragment.header.len() + fragment.offset + fragment.payload.len() > MAX_PACKET {
            return Err(Refusal::Fragment);
        }
        let key = Key { session, id: fragment.id, vlans: fragment.vlans, depth: fragment.depth };
        let number = match self.numbers.get(&key) {
            Some(&number) => number,
            None => self.start(key, fragment, now),
        };
        let Some(datagram) = self.datagrams.get_mut(number) else { return Err(Refusal::Fragment) };
        let added = datagram.add(fragment);
        self.shares.charge(number, OVERHEAD + datagram.room());
        let is_whole = added.is_ok() && datagram.is_whole();
        if is_whole {
            datagram.assemble(&key.id, whole);
            self.end(number);
        }
        while let Some(other) = self.shares.to_give_back(number) {
            self.end(other);
            self.lost[0] += 1;
        }
        added?;
        Ok(is_whole)
    }

    /// A number for a datagram of which this is the first fragment.
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

    fn expire(&mut self, now: u64) {
        while let Some(oldest) = self.shares.oldest()
            && let Some(datagram) = self.datagrams.get(oldest)
            && now.saturating_sub(datagram.start) > TIMEOUT
        {
            self.end(oldest);
            self.lost[1] += 1;
        }
    }

    /// Is done with a datagram, and keeps some memory of it for the next ones.
    fn end(&mut self, number: usize) {
        self.shares.leave(number);
        let Some(datagram) = self.datagrams.get_mut(number) else { return };
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
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: [u8; 20] = [0x45; 20];

    fn fragment(identification: u32, offset: usize, more: bool, payload: &[u8]) -> Fragment<'_> {
        let id = DatagramId {
            source: Address::from_v4(identification >> 16),
            destination: Address::from_v4(2),
            ipv6: false,
            protocol: 17,
            identification,
        };
        Fragment { id, offset, more, header: &HEADER, payload, vlans: Vlans::new(), depth: 0 }
    }

    fn add(defragmenter: &mut Defragmenter, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        let added = defragmenter.add(fragment, SessionKey::default(), 0, &mut whole);
        added.is_ok_and(|complete| complete).then(|| whole[HEADER.len()..].to_vec())
    }

    proptest! {
        /// Fragments in any order, some sent again with other bytes, come together as a plain array of bytes has
        /// them in which what came first stays.
        #[test]
        fn a_datagram_is_what_came_first_of_each_byte(
            len in 1_usize..60,
            cuts in prop::collection::vec((0_usize..60, 1_usize..60, any::<u8>()), 0..40),
        ) {
            let mut defragmenter = Defragmenter::new(1);
            let len = len * 8;
            let mut model: Vec<Option<u8>> = vec![None; len];
            // In the end all of it comes once more.
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
            prop_assert_eq!(defragmenter.lost().map(|(_, lost)| lost).sum::<u64>(), 0);
            prop_assert_eq!(defragmenter.shares.oldest(), None);
        }
    }

    #[test]
    fn hostile_fragments_at_the_end_of_a_datagram_cost_their_bytes() {
        let mut defragmenter = Defragmenter::new(1);
        for number in 0..100_000 {
            assert_eq!(add(&mut defragmenter, &fragment(number, 65_000, true, &[1; 8])), None);
        }
        let held: usize = defragmenter.datagrams.iter().map(Datagram::room).sum();
        assert!(held <= 4 << 20, "{held}");
        assert!(defragmenter.shares.cost() <= MAX_HELD);
    }

    #[test]
    fn hostile_fragments_of_one_host_take_nothing_from_others() {
        let mut defragmenter = Defragmenter::new(1);
        assert_eq!(add(&mut defragmenter, &fragment(1 << 16, 0, true, &[1; 8])), None);
        for number in 0..65_000 {
            add(&mut defragmenter, &fragment(2 << 16 | number, 0, true, &[0; 1480]));
        }
        assert!(defragmenter.shares.cost() <= MAX_HELD);
        let whole = add(&mut defragmenter, &fragment(1 << 16, 8, false, &[2; 8]));
        assert_eq!(whole.as_deref(), Some(&[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2][..]));
        assert!(defragmenter.lost().any(|(reason, lost)| reason == "datagram_memory" && lost > 50_000));
    }

    #[test]
    fn hostile_fragments_that_are_refused_leave_nothing_behind() {
        let mut defragmenter = Defragmenter::new(1);
        for number in 0..50_000 {
            let mut whole = Vec::new();
            let beyond = fragment(number, 65_528, true, &[0; 104]);
            assert!(defragmenter.add(&beyond, SessionKey::default(), 0, &mut whole).is_err());
        }
        assert_eq!(defragmenter.datagrams.len(), 0);
        // One that contradicts the others is refused, and its datagram counts still.
        for number in 0..50_000 {
            add(&mut defragmenter, &fragment(number, 0, false, &[0; 8]));
            add(&mut defragmenter, &fragment(number, 8, false, &[0; 8]));
            add(&mut defragmenter, &fragment(number, 0, true, &[0; 1000]));
        }
        assert!(defragmenter.shares.cost() <= MAX_HELD);
    }

    #[test]
    fn what_stays_incomplete_is_counted() {
        let mut defragmenter = Defragmenter::new(1);
        let mut whole = Vec::new();
        for (number, time) in [(1, 0), (2, TIMEOUT + 1)] {
            let first = fragment(number, 0, true, &[1; 8]);
            assert_eq!(defragmenter.add(&first, SessionKey::default(), time, &mut whole), Ok(false));
        }
        let incomplete = |it: &Defragmenter| it.lost().map(|(_, lost)| lost).collect::<Vec<_>>();
        assert_eq!(incomplete(&defragmenter), [0, 1]);
        defragmenter.finish();
        assert_eq!(incomplete(&defragmenter), [0, 2]);
    }
}
