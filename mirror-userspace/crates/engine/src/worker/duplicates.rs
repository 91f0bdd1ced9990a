//! Packets that come twice because both ends of their conversation are mirrored: which of them are copies,
//! and which sessions see the same conversations.
//!
//! A copy has another outer source than the packet before it, perhaps another VNI, other hardware addresses
//! and another TTL; from there on both are alike. A table remembers the packets of the last moments by a
//! keyed hash of what stays the same, and how often each mirrored interface has sent each of them: a packet
//! is a copy if it comes for the n-th time from its interface and another has sent it n times before. So
//! what an interface sends again, as TCP does, never is a copy, and nothing is lost where one of the two
//! mirrors loses packets.
//!
//! A copy proves that two sessions see the same two hosts. From then on the packets between the two count
//! for the flows of one session, whichever they come by ([`Place`]).
//!
//! Everything is bounded, its memory is reserved at the start, and what has to make room is what is oldest:
//! then a copy is analysed, as it would be without all this.

use std::collections::HashMap;

use mirror_packet::SessionKey;
use mirror_xdp_common::Address;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::expand;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::wire::{Ipv6Header, protocol};
use zerocopy::network_endian::U64;

use super::Mirror;

/// A copy comes within this time, or is taken for a packet of its own. More than mirrors and ways differ
/// by, and less than any TCP waits before it sends again (RFC 6298 and what systems make of it: 200 ms).
/// Nanoseconds.
const WINDOW: u64 = 100_000_000;
/// Packets that are remembered: those of [`WINDOW`] at a million a second.
const PACKETS: usize = 1 << 17;
/// Pairs of hosts that are known to be seen by two sessions.
const PAIRS: usize = 1 << 16;
/// Places that an entry of a table may be at.
const WAYS: usize = 4;
/// Sessions that are told apart; the packets of others are no copies of anything.
const SESSIONS: usize = 1 << 14;
/// Mirrored interfaces that one packet is counted of.
const SOURCES: usize = 3;
/// Bytes behind the IP header that are compared: up to the sequence numbers of a packet in a tunnel.
const SAMPLE: usize = 96;

/// Which flows a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The session whose flow it is.
    pub(super) session: SessionKey,
    /// The session that had flows of the same conversations before that was known.
    pub(super) other: Option<SessionKey>,
}

impl From<Option<Mirror>> for Place {
    fn from(mirror: Option<Mirror>) -> Self {
        Self { session: mirror.into(), other: None }
    }
}

/// What a packet turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was not seen before, or from the same interface only.
    New(Place),
    /// It is a copy of what came by another session.
    Copy {
        /// Whose flow the conversation is.
        place: Place,
        /// The session that the packet came by first, where flows may be there of both.
        united: Option<SessionKey>,
    },
}

/// A packet of the last moments.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    tag: u64,
    /// When it was last taken for new, in units of 1024 ns.
    time: u32,
    /// The session that it came by first.
    session: u16,
    /// How often it was taken for new; 0 is an entry that is not in use.
    taken: u8,
    /// How often each interface has sent it.
    counts: [u8; SOURCES],
    sources: [u16; SOURCES],
}

impl Seen {
    /// Time since a packet, by a clock that goes round; packets of different queues may come in any order.
    const fn age(&self, now: u32) -> u32 {
        now.wrapping_sub(self.time).cast_signed().unsigned_abs()
    }

    /// Counts the packet for its interface, and says whether it is one that was not taken yet.
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
    /// When it was found out; 0 is an entry that is not in use.
    since: u64,
    used: u64,
    /// Whose flows they have.
    session: u16,
    other: u16,
}

/// The sessions and their numbers.
#[derive(Debug)]
struct Sessions {
    numbers: HashMap<SessionKey, u16>,
    /// The first session of each interface.
    first: HashMap<Address, u16>,
    /// Each with the number of the first session of the same interface.
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
pub(super) struct Duplicates {
    keys: Keys,
    sessions: Sessions,
    packets: Vec<Seen>,
    pairs: Vec<Pair>,
}

impl Duplicates {
    /// Nothing was seen yet; the hashes are keyed by what `seed` stands for.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            // Other words than those of other hashes of the same seed.
            keys: expand(seed ^ 0x6475_706c_6963_6174),
            sessions: Sessions::new(),
            packets: vec![Seen::default(); PACKETS],
            pairs: vec![Pair::default(); PAIRS],
        }
    }

    /// Looks at an inner frame that came by a session at a time.
    pub(super) fn look(&mut self, mirror: Mirror, now: u64, frame: &[u8]) -> Verdict {
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

    /// Remembers a packet; of a copy the number of the session that it came by first.
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

    /// Which flows the packets between two hosts belong to that come by a session.
    fn place(&mut self, hosts: u64, number: u16, now: u64) -> Option<Place> {
        let pair = *pair(&mut self.pairs, tagged(&self.keys, hosts, number), now)?;
        Some(Place {
            session: self.sessions.session(pair.session),
            other: Some(self.sessions.session(pair.other)),
        })
    }

    /// Notes that two sessions see the same two hosts.
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
        // What came first after that was known is in one flow.
        let united = (now.saturating_sub(since) <= WINDOW).then(|| self.sessions.session(first));
        Verdict::Copy { place, united }
    }
}

/// The entry of a pair, which is in use now.
fn pair(pairs: &mut [Pair], tag: u64, now: u64) -> Option<&mut Pair> {
    let pair = ways(pairs, tag).iter_mut().find(|pair| pair.tag == tag && pair.since > 0)?;
    pair.used = now;
    Some(pair)
}

/// The entries of a table that something with this tag may be at.
fn ways<T>(table: &mut [T], tag: u64) -> &mut [T] {
    // Tables have a power of two of sets.
    let set = tag as usize & (table.len() / WAYS - 1);
    &mut table[set * WAYS..(set + 1) * WAYS]
}

/// A hash of what stays the same of a packet on its way from one host to the other; `None` of what is no
/// IP packet. Checksums are left out: where a sender leaves them to its interface, they are not there yet.
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

/// A hash of the two hosts of a packet, the same in both directions.
fn hosts(keys: &Keys, headers: &InnerHeaders) -> u64 {
    let [one, other] = [headers.source, headers.destination]
        .map(|address| fold(address.low ^ keys[4], address.high ^ keys[5]));
    fold(one.wrapping_add(other) ^ keys[6], keys[7])
}

/// The tag of two hosts in a session.
const fn tagged(keys: &Keys, hosts: u64, session: u16) -> u64 {
    fold(hosts ^ keys[8], session as u64 ^ keys[9])
}

/// Secret words: none of those that a packet is made of can make a factor of [`fold`] zero but by a guess.
type Keys = [u64; 10];

/// Mixes two words into one by the halves of their product.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
