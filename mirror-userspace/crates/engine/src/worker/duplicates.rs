//! Detection of packets that come twice because both ends of their conversation are mirrored, and of sessions
//! that see the same conversations.
//!
//! A copy differs from the original in its outer source, possibly in its VNI, and in hardware addresses and
//! TTL; otherwise both are alike. A table stores recent packets by a keyed hash of the invariant part, and
//! the number of times that each mirrored interface has sent each of them. A packet is a copy if it comes for
//! the n-th time from its interface and another interface has already sent it n times. A retransmission by
//! the same interface, as in TCP, is therefore never a copy, and nothing is lost if one of the two mirrors
//! loses packets.
//!
//! A copy proves that two sessions see the same two hosts. From then on, the packets between the two hosts
//! belong to the flows of one session, whichever session they come by ([`Place`]).
//!
//! Everything is bounded, the memory is reserved at the start, and the oldest entry is evicted. A copy whose
//! entry was evicted is analysed, as it would be without deduplication.

use std::collections::HashMap;

use mirror_packet::{FlowScope, SessionKey};
use mirror_xdp_common::Address;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::expand;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::wire::{Ipv6Header, protocol};
use zerocopy::network_endian::U64;

use super::MirrorSession;

/// Nanoseconds within which a copy comes; later, it counts as a packet of its own. The bound exceeds the
/// differences between mirrors and paths, and is below the time that any TCP waits before it retransmits (RFC
/// 6298, and 200 ms in implementations).
const WINDOW: u64 = 100_000_000;
/// Packets stored: those of [`WINDOW`] at a million a second.
const PACKETS: usize = 1 << 17;
/// Stored pairs of hosts that two sessions see.
const PAIRS: usize = 1 << 16;
/// Associativity: the number of places that an entry of a table may take.
const WAYS: usize = 4;
/// Sessions that are distinguished. Packets of further sessions are never copies.
const SESSIONS: usize = 1 << 14;
/// Mirrored interfaces that are counted for one packet.
const SOURCES: usize = 3;
/// Bytes behind the IP header that are compared: up to the sequence numbers of a packet in a tunnel.
const SAMPLE: usize = 96;

/// The flows that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The session whose flow it is.
    pub(crate) session: SessionKey,
    /// The session that had flows of the same conversations before the two were known to be the same.
    pub(crate) other: Option<SessionKey>,
}

impl Place {
    /// Returns the place as keys of flows have it.
    #[inline]
    pub(crate) fn within(self, scope: FlowScope) -> Self {
        let session = scope.session(self.session);
        Self {
            session,
            other: self.other.map(|other| scope.session(other)).filter(|other| *other != session),
        }
    }
}

impl From<Option<MirrorSession>> for Place {
    fn from(mirror: Option<MirrorSession>) -> Self {
        Self { session: mirror.into(), other: None }
    }
}

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The packet was not seen before, or only from the same interface.
    New(Place),
    /// The packet is a copy of one that came by another session.
    Copy {
        /// The place of the conversation's flow.
        place: Place,
        /// The session that the packet came by first, if both sessions may have flows.
        united: Option<SessionKey>,
    },
}

/// A recent packet.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    tag: u64,
    /// Time when it last counted as new, in units of 1024 ns.
    time: u32,
    /// The session that it came by first.
    session: u16,
    /// Number of times that it counted as new; 0 if the entry is not in use.
    taken: u8,
    /// Number of times that each interface has sent it.
    counts: [u8; SOURCES],
    sources: [u16; SOURCES],
}

impl Seen {
    /// Returns the time since a packet, by a clock that wraps around. Packets of different queues may come in
    /// any order.
    const fn age(&self, now: u32) -> u32 {
        now.wrapping_sub(self.time).cast_signed().unsigned_abs()
    }

    /// Counts the packet for its interface. Returns true if it is new.
    fn count(&mut self, source: u16) -> bool {
        let slots = self.counts.iter_mut().zip(&mut self.sources);
        let Some((count, known)) = slots.into_iter().find(|(count, known)| **count == 0 || **known == source)
        else {
            // A fourth mirror of the same packet.
            return false;
        };
        *known = source;
        *count += 1;
        let new = *count > self.taken;
        self.taken = self.taken.max(*count);
        if self.taken == u8::MAX {
            // Only the differences matter.
            const HALF: u8 = u8::MAX / 2;
            self.taken -= HALF;
            self.counts.iter_mut().for_each(|count| *count = count.saturating_sub(HALF));
        }
        new
    }
}

/// Two hosts as one session sees them.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    tag: u64,
    /// Time when the pair was detected; 0 if the entry is not in use.
    since: u64,
    used: u64,
    /// The session that has their flows.
    session: u16,
    other: u16,
}

/// The sessions and their numbers.
#[derive(Debug)]
struct Sessions {
    numbers: HashMap<SessionKey, u16>,
    /// The first session of each interface.
    first: HashMap<Address, u16>,
    /// Each session, with the number of the first session of the same interface.
    known: Vec<(SessionKey, u16)>,
}

impl Sessions {
    fn new() -> Self {
        let (numbers, first) = (HashMap::with_capacity(SESSIONS), HashMap::with_capacity(SESSIONS));
        Self { numbers, first, known: Vec::with_capacity(SESSIONS) }
    }

    fn number(&mut self, session: &SessionKey) -> Option<u16> {
        if let Some(&number) = self.numbers.get(session) {
            return Some(number);
        }
        if self.known.len() == SESSIONS {
            return None;
        }
        let number = self.known.len() as u16;
        let source = *self.first.entry(session.outer_source).or_insert(number);
        self.known.push((*session, source));
        self.numbers.insert(*session, number);
        Some(number)
    }

    fn session(&self, number: u16) -> SessionKey {
        self.known.get(usize::from(number)).map(|&(session, _)| session).unwrap_or_default()
    }

    fn source(&self, number: u16) -> u16 {
        self.known.get(usize::from(number)).map_or(number, |&(_, source)| source)
    }
}

/// Finds the copies among a worker's packets.
#[derive(Debug)]
pub(crate) struct Duplicates {
    keys: Keys,
    sessions: Sessions,
    packets: Vec<Seen>,
    pairs: Vec<Pair>,
}

impl Duplicates {
    /// Creates empty tables. The hashes are keyed by words expanded from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            // The words must differ from those of other hashes of the same seed.
            keys: expand(seed ^ 0x6475_706c_6963_6174),
            sessions: Sessions::new(),
            packets: vec![Seen::default(); PACKETS],
            pairs: vec![Pair::default(); PAIRS],
        }
    }

    /// Classifies an inner frame that came by a session at a time.
    pub(crate) fn look(&mut self, mirror: MirrorSession, now: u64, frame: &[u8]) -> Verdict {
        let own = Place::from(Some(mirror));
        let headers = InnerHeaders::parse(frame, 0);
        let Some(tag) = fingerprint(&self.keys, &headers, frame) else { return Verdict::New(own) };
        let Some(number) = self.sessions.number(&own.session) else { return Verdict::New(own) };
        let hosts = hosts(&self.keys, &headers);
        match self.see(tag, number, now) {
            None => Verdict::New(self.place(hosts, number, now).unwrap_or(own)),
            Some(first) => self.copy(hosts, first, number, now),
        }
    }

    /// Stores a packet. For a copy, returns the number of the session that the packet came by first.
    fn see(&mut self, tag: u64, session: u16, now: u64) -> Option<u16> {
        let source = self.sessions.source(session);
        let now = (now >> 10) as u32;
        let ways = ways(&mut self.packets, tag);
        let fresh =
            |seen: &&mut Seen| seen.tag == tag && seen.taken > 0 && seen.age(now) < (WINDOW >> 10) as u32;
        if let Some(seen) = ways.iter_mut().find(fresh) {
            if seen.count(source) {
                seen.time = now;
                return None;
            }
            return Some(seen.session);
        }
        let oldest =
            ways.iter_mut().max_by_key(|seen| if seen.taken == 0 { u32::MAX } else { seen.age(now) });
        if let Some(seen) = oldest {
            *seen = Seen { tag, time: now, session, ..Seen::default() };
            seen.count(source);
        }
        None
    }

    /// Returns the place of the flows between two hosts, for packets that come by a session.
    fn place(&mut self, hosts: u64, number: u16, now: u64) -> Option<Place> {
        let pair = *pair(&mut self.pairs, tagged(&self.keys, hosts, number), now)?;
        Some(Place {
            session: self.sessions.session(pair.session),
            other: Some(self.sessions.session(pair.other)),
        })
    }

    /// Records that two sessions see the same two hosts.
    fn copy(&mut self, hosts: u64, first: u16, second: u16, now: u64) -> Verdict {
        let [of_first, of_second] = [first, second].map(|number| {
            pair(&mut self.pairs, tagged(&self.keys, hosts, number), now)
                .map(|pair| (pair.session, pair.since))
        });
        let (session, since) = match (of_first, of_second) {
            (Some(one), Some(other)) if one.0 == other.0 => (one.0, one.1.max(other.1)),
            (Some((session, _)), _) | (None, Some((session, _))) => (session, now),
            (None, None) => (first, now),
        };
        let other = if session == first { second } else { first };
        if since == now {
            for number in [first, second] {
                let tag = tagged(&self.keys, hosts, number);
                let ways = ways(&mut self.pairs, tag);
                let same = ways.iter().position(|pair| pair.tag == tag);
                let oldest = (0..WAYS).min_by_key(|&way| ways[way].used);
                if let Some(way) = same.or(oldest) {
                    ways[way] = Pair { tag, since, used: now, session, other };
                }
            }
        }
        let place =
            Place { session: self.sessions.session(session), other: Some(self.sessions.session(other)) };
        // Packets that came first after the detection are already in one flow.
        let united = (now.saturating_sub(since) <= WINDOW).then(|| self.sessions.session(first));
        Verdict::Copy { place, united }
    }
}

/// Finds the entry of a pair and marks it as used now.
fn pair(pairs: &mut [Pair], tag: u64, now: u64) -> Option<&mut Pair> {
    let pair = ways(pairs, tag).iter_mut().find(|pair| pair.tag == tag && pair.since > 0)?;
    pair.used = now;
    Some(pair)
}

/// Returns the entries of a table that an item with this tag may take.
fn ways<T>(table: &mut [T], tag: u64) -> &mut [T] {
    // The number of sets in a table is a power of two.
    let set = tag as usize & (table.len() / WAYS - 1);
    &mut table[set * WAYS..(set + 1) * WAYS]
}

/// Hashes the part of a packet that stays the same on its way from one host to the other. Returns `None` if
/// it is not an IP packet. Checksums are left out: with checksum offload, the sender's copy does not have
/// them yet.
fn fingerprint(keys: &Keys, headers: &InnerHeaders, frame: &[u8]) -> Option<u64> {
    let at = headers.network_offset;
    let (fixed, start) = match headers.network {
        Network::Other => return None,
        Network::Ipv4 => {
            // Length, identification, flags, fragment offset. Options may change on the way.
            let fields: U64 = frame.header(at)?;
            (fields.get() & 0x0000_ffff_ffff_ffff, headers.transport_offset)
        }
        Network::Ipv6 => {
            // Flow label, length.
            let fields: U64 = frame.header(at)?;
            (fields.get() & 0x000f_ffff_ffff_0000, at + Ipv6Header::LEN)
        }
    };
    let end = match headers.network_end {
        0 => frame.len(),
        end => end.min(frame.len()),
    };
    let bytes = frame.get(start..end).unwrap_or_default();
    let mut sample = [0; SAMPLE];
    let len = bytes.len().min(SAMPLE);
    sample[..len].copy_from_slice(&bytes[..len]);
    let checksum = match headers.protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        _ => None,
    };
    if let Some(checksum) = checksum.filter(|_| headers.fragment != Fragment::Later) {
        let at = headers.transport_offset.saturating_sub(start) + checksum;
        if let Some(checksum) = sample.get_mut(at..at + 2) {
            checksum.fill(0);
        }
    }
    let mut state = fold(fixed ^ keys[0], u64::from(headers.protocol) ^ keys[1]);
    for address in [headers.source, headers.destination] {
        state = fold(address.low ^ state, address.high ^ keys[2]);
    }
    for pair in sample.as_chunks::<16>().0 {
        let number = u128::from_le_bytes(*pair);
        state = fold(number as u64 ^ state, (number >> 64) as u64 ^ keys[3]);
    }
    Some(state)
}

/// Hashes the two hosts of a packet, the same in both directions.
fn hosts(keys: &Keys, headers: &InnerHeaders) -> u64 {
    let [one, other] = [headers.source, headers.destination]
        .map(|address| fold(address.low ^ keys[4], address.high ^ keys[5]));
    fold(one.wrapping_add(other) ^ keys[6], keys[7])
}

/// Returns the tag of two hosts in a session.
const fn tagged(keys: &Keys, hosts: u64, session: u16) -> u64 {
    fold(hosts ^ keys[8], session as u64 ^ keys[9])
}

/// Secret words. No part of a packet can make a factor of [`fold`] zero, except by a guess.
type Keys = [u64; 10];

/// Mixes two words into one, by the halves of their product.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
