//! The flow table: a slab of flows, a hash index into it, and for each timeout a list of its flows, ordered
//! by their last packets. Everything is linked by index. The slab's memory is reserved at the start and
//! touched as flows come: nothing moves and nothing is scanned.

use mirror_base::memory_hints;
use mirror_packet::{FlowKey, KeyHash, SECOND};

use super::Flow;
use crate::meta::FlowIndex;

/// The class of flows that share a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// Only one side was seen.
    New,
    /// Both sides were seen.
    Established,
    /// TCP handshake not finished.
    TcpNew,
    /// TCP handshake finished.
    TcpEstablished,
    /// TCP connection closed.
    TcpClosed,
}

impl Class {
    const COUNT: usize = 5;
    /// The classes of which one side, or the end of the handshake, was not seen.
    const HALF_OPEN: [Self; 2] = [Self::New, Self::TcpNew];

    const fn is_half_open(self) -> bool {
        matches!(self, Self::New | Self::TcpNew)
    }
}

/// Seconds without a packet after which a flow ends, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Only one side was seen.
    pub new: u64,
    /// Both sides were seen.
    pub established: u64,
    /// The TCP handshake is not finished.
    pub tcp_new: u64,
    /// The TCP handshake is finished.
    pub tcp_established: u64,
    /// The TCP connection is closed.
    pub tcp_closed: u64,
}

impl Default for Timeouts {
    /// Returns Suricata's timeouts.
    fn default() -> Self {
        Self { new: 30, established: 300, tcp_new: 60, tcp_established: 600, tcp_closed: 60 }
    }
}

impl Timeouts {
    /// Returns the timeouts, indexed by [`Class`].
    const fn by_class(self) -> [u64; Class::COUNT] {
        let Self { new, established, tcp_new, tcp_established, tcp_closed } = self;
        [new, established, tcp_new, tcp_established, tcp_closed]
    }
}

/// Index that stands for no flow.
const NONE: u32 = u32::MAX;
/// Returns the time in seconds. A packet moves its flow within the list only if a second has begun since the
/// last move: order to the second is enough, and most packets need not touch the neighbours.
const fn seconds(time: u64) -> u32 {
    (time / SECOND) as u32
}

#[derive(Debug)]
struct Entry {
    flow: Flow,
    hash: u32,
    /// Index of the flow's two hosts in [`FlowTable::hosts`].
    hosts: u16,
    /// Next entry of the same bucket, or of the free list.
    next: u32,
    older: u32,
    newer: u32,
    class: Class,
    used: bool,
    /// Time of the entry's last move in its list, in seconds.
    listed: u32,
}

const _: () = assert!(size_of::<Entry>() <= 384, "a table of a million flows must stay below 400 MB");

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
    len: usize,
}

/// Divisor of the table's capacity. When the table is full and more flows than that part are half open, those
/// are evicted first: so many come from floods and scans.
const HALF_OPEN_PART: usize = 8;

/// Divisor of the table's capacity. When the table is full, the flows of two hosts that have more than that
/// part are evicted first: so many come from floods, and flows of other hosts must not pay for them.
const GREEDY_PART: usize = 8;
/// In a small table, this many flows of two hosts are not too many.
const MODEST: usize = 64;
/// Counters for pairs of hosts.
const HOSTS: usize = 1 << 12;
/// Entries that are sampled for a flow of two such hosts. The two have at least an eighth of all flows: one
/// in 70 searches finds none of theirs, one in 10,000 once they have a quarter.
const SAMPLES: usize = 32;

/// Maximum number of flows in a bucket. By chance alone, a bucket that is about to be split, which has twice
/// as many flows as the others, reaches this number with a probability of 4 · 10⁻¹⁸.
const MAX_CHAIN: usize = 24;

/// Buckets in use from the beginning.
const FIRST_BUCKETS: usize = 1 << 10;

/// The outcome of a search for a flow that is not in the table. With it, the flow can be added without hashing its key
/// and walking through its bucket again.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    hash: KeyHash,
    /// Flows in the bucket.
    chain: u32,
}

/// The flow table.
#[derive(Debug)]
pub struct FlowTable {
    /// The first entry of each bucket, plus one. Zero stands for none, so that fresh memory need not be
    /// touched. Buckets are taken into use one by one as flows come (linear hashing, Litwin 1980): the memory
    /// accessed at random is no larger than necessary, and no flow waits for a rehash of the whole table.
    buckets: Vec<u32>,
    /// Number of buckets in use.
    used: usize,
    /// Mask of the hash bits that select a bucket, once all buckets that they can select are in use.
    mask: usize,
    entries: Vec<Entry>,
    /// The entry found or added last, unless it was removed since.
    found: u32,
    free: u32,
    lists: [List; Class::COUNT],
    /// See [`Timeouts`].
    timeouts: [u64; Class::COUNT],
    /// Number of flows of each pair of hosts, by hash.
    hosts: Vec<u32>,
    /// Number of flows that two hosts may have before they are evicted for others.
    modest: usize,
    /// The pair of hosts last seen to have more.
    greedy: Option<u16>,
    /// State of the random generator that samples entries.
    random: u64,
    len: usize,
    max: usize,
}

impl FlowTable {
    /// Creates an empty table for at most `max` flows, at least one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = max.clamp(1, NONE as usize - 1);
        let mut buckets = vec![0; max.next_power_of_two()];
        memory_hints::huge_pages(&mut buckets);
        let mut entries = Vec::with_capacity(max);
        memory_hints::huge_pages(&mut entries);
        let used = buckets.len().min(FIRST_BUCKETS);
        Self {
            buckets,
            used,
            mask: used - 1,
            entries,
            found: NONE,
            free: NONE,
            lists: [List { oldest: NONE, newest: NONE, len: 0 }; Class::COUNT],
            timeouts: Timeouts::default().by_class(),
            hosts: vec![0; HOSTS],
            modest: (max / GREEDY_PART).max(MODEST),
            greedy: None,
            random: 1,
            len: 0,
            max,
        }
    }

    /// Sets the timeouts, also for flows in the table.
    pub const fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts.by_class();
    }

    /// Returns the number of flows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no flows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Finds the flow with this key. Packets of a flow come in trains: for the flow found last, `hash` is not
    /// called.
    ///
    /// # Errors
    ///
    /// There is no such flow: see [`Missing`].
    #[inline(always)]
    pub fn find(&mut self, key: &FlowKey, hash: impl FnOnce() -> KeyHash) -> Result<FlowIndex, Missing> {
        if let Some(entry) = self.entries.get(self.found as usize)
            && entry.flow.head.key == *key
        {
            return Ok(FlowIndex(self.found));
        }
        let hash = hash();
        self.find_by_hash(key, hash.flow).map_err(|chain| Missing { hash, chain })
    }

    /// The flow, or how many others its bucket has.
    // Out of line, where it needs no more registers than a function may use without saving them.
    #[inline(never)]
    fn find_by_hash(&mut self, key: &FlowKey, hash: u32) -> Result<FlowIndex, u32> {
        let mut at = self.buckets[self.bucket(hash)].wrapping_sub(1);
        let mut before = 0;
        // There is no entry `NONE`.
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.hash == hash {
                if entry.flow.head.key == *key {
                    self.found = at;
                    return Ok(FlowIndex(at));
                }
                return self.find_behind(at, before, key, hash);
            }
            at = entry.next;
            before += 1;
        }
        Err(before)
    }

    /// Goes on behind a flow of another key with the same hash: of a million flows, one in 4,000 has such a one. A
    /// loop of its own, for in one with the other the compiler would load all of the key in advance.
    #[cold]
    #[inline(never)]
    fn find_behind(
        &mut self,
        mut at: u32,
        mut before: u32,
        key: &FlowKey,
        hash: u32,
    ) -> Result<FlowIndex, u32> {
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.hash == hash && entry.flow.head.key == *key {
                self.found = at;
                return Ok(FlowIndex(at));
            }
            at = entry.next;
            before += 1;
        }
        Err(before)
    }

    /// Returns the flow at `index`.
    #[inline]
    #[must_use]
    pub fn flow(&mut self, index: FlowIndex) -> &mut Flow {
        &mut self.entries[index.0 as usize].flow
    }

    /// Marks two flows as halves of a conversation, if they are. The first is the one that begins, `forward` as for
    /// [`Flow::new`]; at the place of the other there may be none any more.
    #[cold]
    #[inline(never)]
    pub(crate) fn mark_halves(&mut self, one: FlowIndex, other: FlowIndex, forward: bool) {
        if let Ok([one, other]) = self.entries.get_disjoint_mut([one.get(), other.get()])
            && other.used
            && one.flow.is_other_half_of(&other.flow, forward)
        {
            one.flow.set_half();
            other.flow.set_half();
        }
    }

    /// Returns true if the flow has had no packet for longer than its timeout.
    #[inline(always)]
    #[must_use]
    pub fn is_timed_out(&self, index: FlowIndex, now: u64) -> bool {
        let entry = &self.entries[index.0 as usize];
        is_over(entry.flow.last, self.timeouts[entry.class as usize], now)
    }

    /// Evicts a flow for one that is missing, if one has to go. From a full bucket, it is the flow that was idle for the
    /// longest. From a full table, it is likewise the most idle flow, of the half-open ones if these are many. But if two
    /// hosts have a great part of all flows, it is one of theirs, whichever flow is inserted.
    #[inline(always)]
    #[must_use]
    pub fn make_room(&mut self, missing: Missing) -> Option<(FlowIndex, Flow)> {
        if (missing.chain as usize) < MAX_CHAIN && self.len < self.max {
            return None;
        }
        let index = self.spare(missing.hash.flow)?;
        Some((index, self.remove(index)))
    }

    /// Inserts a flow that is missing, after [`FlowTable::make_room`].
    pub fn insert(&mut self, flow: Flow, missing: Missing, now: u64) -> FlowIndex {
        debug_assert!(self.len < self.max, "there is room");
        let Missing { hash, .. } = missing;
        if self.len == self.used && self.used < self.buckets.len() {
            self.use_bucket();
        }
        let class = flow.class();
        let bucket = self.bucket(hash.flow);
        let hosts = hash.hosts % HOSTS as u16;
        let count = &mut self.hosts[usize::from(hosts)];
        *count += 1;
        if *count as usize > self.modest {
            self.greedy = Some(hosts);
        }
        let entry = Entry {
            flow,
            hash: hash.flow,
            hosts,
            next: self.buckets[bucket].wrapping_sub(1),
            older: NONE,
            newer: NONE,
            class,
            used: true,
            listed: seconds(now),
        };
        let at = if self.free == NONE {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
            at
        };
        self.buckets[bucket] = at.wrapping_add(1);
        self.found = at;
        self.append(at);
        self.len += 1;
        FlowIndex(at)
    }

    /// Updates the flow's place in the order of idleness. To be called after a packet of the flow was
    /// counted.
    #[inline(always)]
    pub fn touch(&mut self, index: FlowIndex, now: u64) {
        let entry = &self.entries[index.0 as usize];
        let class = entry.flow.class();
        if class != entry.class || seconds(now) > entry.listed {
            self.relist(index, class, now);
        }
    }

    fn relist(&mut self, index: FlowIndex, class: Class, now: u64) {
        self.unlink(index.0);
        let entry = &mut self.entries[index.0 as usize];
        entry.class = class;
        entry.listed = seconds(now);
        self.append(index.0);
    }

    /// Removes a flow.
    pub fn remove(&mut self, index: FlowIndex) -> Flow {
        let at = index.0;
        self.unlink(at);
        let (hash, next) = (self.entries[at as usize].hash, self.entries[at as usize].next);
        let bucket = self.bucket(hash);
        let mut before = self.buckets[bucket].wrapping_sub(1);
        if before == at {
            self.buckets[bucket] = next.wrapping_add(1);
        } else {
            while self.entries[before as usize].next != at {
                before = self.entries[before as usize].next;
            }
            self.entries[before as usize].next = next;
        }
        if self.found == at {
            self.found = NONE;
        }
        let entry = &mut self.entries[at as usize];
        self.hosts[usize::from(entry.hosts)] -= 1;
        entry.used = false;
        entry.next = self.free;
        self.free = at;
        self.len -= 1;
        entry.flow.clone()
    }

    /// Returns a flow that timed out by `now`, if there is one.
    #[must_use]
    pub fn expired(&self, now: u64) -> Option<FlowIndex> {
        let oldest = self.lists.iter().zip(self.timeouts).find(|(list, timeout)| {
            list.oldest != NONE && is_over(self.entries[list.oldest as usize].flow.last, *timeout, now)
        });
        oldest.map(|(list, _)| FlowIndex(list.oldest))
    }

    /// Removes all flows, roughly in the order in which they began.
    pub fn drain(&mut self) -> impl Iterator<Item = (FlowIndex, Flow)> {
        (0..self.entries.len()).filter_map(|at| {
            let index = FlowIndex(at as u32);
            let used = self.entries[at].used;
            if used { Some((index, self.remove(index))) } else { None }
        })
    }

    /// Returns the number of places of the slab, used or not.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.entries.len()
    }

    /// Returns the flows in the places from `start` to before `end`.
    pub fn stretch(&self, start: usize, end: usize) -> impl Iterator<Item = &Flow> {
        let end = end.min(self.entries.len());
        let entries = self.entries.get(start..end).unwrap_or_default();
        entries.iter().filter(|entry| entry.used).map(|entry| &entry.flow)
    }

    /// Selects the flow to evict for one with this hash, if one has to go.
    #[cold]
    #[inline(never)]
    fn spare(&mut self, hash: u32) -> Option<FlowIndex> {
        if let Some(index) = self.crowded(self.bucket(hash)) {
            return Some(index);
        }
        if self.len < self.max {
            return None;
        }
        let idle = self.most_idle()?;
        match self.greedy {
            Some(hosts) if self.entries[idle.0 as usize].hosts != hosts => self.one_of(hosts).or(Some(idle)),
            _ => Some(idle),
        }
    }

    /// Returns the flow of a full bucket that was idle for the longest.
    fn crowded(&self, bucket: usize) -> Option<FlowIndex> {
        let mut at = self.buckets[bucket].wrapping_sub(1);
        let mut oldest = at;
        let mut len = 0;
        while at != NONE {
            if self.entries[at as usize].flow.last <= self.entries[oldest as usize].flow.last {
                oldest = at;
            }
            at = self.entries[at as usize].next;
            len += 1;
        }
        (len >= MAX_CHAIN).then_some(FlowIndex(oldest))
    }

    /// Samples entries of the full table, and returns the most idle flow of these two hosts, if they still
    /// have too many. If many flows are half open, only half-open flows qualify: if these hosts have none,
    /// the flood comes from others.
    fn one_of(&mut self, hosts: u16) -> Option<FlowIndex> {
        if self.hosts[usize::from(hosts)] as usize <= self.modest {
            self.greedy = None;
            return None;
        }
        let (len, flooded) = (self.entries.len() as u64, self.is_flooded());
        let samples = (0..SAMPLES).map(|_| {
            // Xorshift (Marsaglia 2003): the choice need not be secret, only spread.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            ((u128::from(self.random) * u128::from(len)) >> 64) as u32
        });
        let entries = &self.entries;
        samples
            .filter(|&at| {
                let Entry { hosts: of, used, class, .. } = entries[at as usize];
                of == hosts && used && (!flooded || class.is_half_open())
            })
            .min_by_key(|&at| entries[at as usize].listed)
            .map(FlowIndex)
    }

    /// Returns the flow that was idle for the longest, among the half-open ones if these are many.
    fn most_idle(&self) -> Option<FlowIndex> {
        let flooded = self.is_flooded();
        let half_open = |class: usize| Class::HALF_OPEN.iter().any(|&open| open as usize == class);
        let lists = self.lists.iter().enumerate();
        lists
            .filter(|&(class, list)| list.oldest != NONE && (!flooded || half_open(class)))
            .map(|(_, list)| list)
            .min_by_key(|list| self.entries[list.oldest as usize].flow.last)
            .map(|list| FlowIndex(list.oldest))
    }

    /// Returns true if so many flows are half open that they come from floods or scans.
    fn is_flooded(&self) -> bool {
        let open: usize = Class::HALF_OPEN.iter().map(|&class| self.lists[class as usize].len).sum();
        open > self.max / HALF_OPEN_PART
    }

    /// Returns the bucket of flows with this hash.
    #[inline(always)]
    const fn bucket(&self, hash: u32) -> usize {
        // Entries of a bucket not yet in use are stored in the bucket that it will be split from.
        let bucket = hash as usize & self.mask;
        if bucket < self.used { bucket } else { bucket & self.mask >> 1 }
    }

    /// Takes one more bucket into use, and moves half of the flows of another into it.
    fn use_bucket(&mut self) {
        let new = self.used;
        self.used += 1;
        if new > self.mask {
            self.mask = self.mask << 1 | 1;
        }
        let mut at = std::mem::take(&mut self.buckets[new & self.mask >> 1]).wrapping_sub(1);
        while at != NONE {
            let bucket = self.bucket(self.entries[at as usize].hash);
            let first = std::mem::replace(&mut self.buckets[bucket], at.wrapping_add(1));
            at = std::mem::replace(&mut self.entries[at as usize].next, first.wrapping_sub(1));
        }
    }

    fn append(&mut self, at: u32) {
        let list = &mut self.lists[self.entries[at as usize].class as usize];
        list.len += 1;
        let older = std::mem::replace(&mut list.newest, at);
        if older == NONE {
            list.oldest = at;
        } else {
            self.entries[older as usize].newer = at;
        }
        let entry = &mut self.entries[at as usize];
        entry.older = older;
        entry.newer = NONE;
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, class, .. } = self.entries[at as usize];
        let list = &mut self.lists[class as usize];
        list.len -= 1;
        if older == NONE {
            list.oldest = newer;
            // Flows time out in this order, so the next one is prefetched.
            if let Some(next) = self.entries.get(newer as usize) {
                memory_hints::fetch_value(next);
            }
        }
        if newer == NONE {
            list.newest = older;
        }
        if older != NONE {
            self.entries[older as usize].newer = newer;
        }
        if newer != NONE {
            self.entries[newer as usize].older = older;
        }
    }
}

/// Returns true if more than `timeout` seconds lie between two times, in whole seconds as Suricata counts.
#[inline(always)]
const fn is_over(last: u64, timeout: u64, now: u64) -> bool {
    // The first comparison avoids a division in the usual case.
    now.saturating_sub(last) > timeout.saturating_mul(SECOND) && now / SECOND > last / SECOND + timeout
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use mirror_packet::{Packet, SessionKey, Transport, Vlans};
    use mirror_xdp_common::Address;
    use proptest::prelude::*;

    use super::*;

    /// Returns a flow that only its number distinguishes from others.
    fn flow(number: u16, now: u64) -> (FlowKey, Flow) {
        let packet = Packet {
            source: Address::from_v4(0x0a00_0001),
            destination: Address::from_v4(0x0a00_0002),
            ipv6: false,
            protocol: 17,
            source_port: number,
            destination_port: 9,
            vlans: Vlans::new(),
            depth: 0,
            direct: true,
            overlong: false,
            len: 60,
            network: &[],
            header_len: 0,
            transport: Transport::Udp { payload: &[] },
            tunnelled: None,
        };
        let (key, forward) = FlowKey::of_packet(&packet, SessionKey::default());
        (key, Flow::new(key, forward, &packet, None, now))
    }

    /// Adds a flow that is not in the table; returns the flow that was evicted for it.
    fn add(table: &mut FlowTable, flow: Flow, hash: KeyHash, now: u64) -> Option<Flow> {
        let missing = table.find(&flow.head.key, || hash).unwrap_err();
        let evicted = table.make_room(missing);
        table.insert(flow, missing, now);
        evicted.map(|(_, flow)| flow)
    }

    /// Returns the hash of a flow of two hosts of its own.
    fn apart(flow: u32) -> KeyHash {
        KeyHash { flow, hosts: flow.wrapping_mul(0x85eb_ca6b).to_be() as u16 }
    }

    /// Returns few different hashes, so that chains form.
    fn hash(number: u16) -> u32 {
        u32::from(number % 5)
    }

    #[test]
    fn the_flow_that_was_idle_the_longest_makes_room() {
        let mut table = FlowTable::new(2);
        for (number, second) in [(1, 0), (2, 1)] {
            let (_, flow) = flow(number, second * SECOND);
            assert!(add(&mut table, flow, apart(hash(number)), second * SECOND).is_none());
        }
        let first = table.find(&flow(1, 0).0, || apart(hash(1))).unwrap();
        table.flow(first).last = 5 * SECOND;
        table.touch(first, 5 * SECOND);
        let evicted = add(&mut table, flow(3, 6 * SECOND).1, apart(hash(3)), 6 * SECOND).unwrap();
        assert_eq!(evicted.head.key, flow(2, 0).0);
        assert_eq!(table.len(), 2);
    }

    /// Returns hashes spread over all buckets.
    fn spread(number: u16) -> u32 {
        u32::from(number).wrapping_mul(0x9e37_79b9)
    }

    #[test]
    fn hostile_hashes_make_no_chain_longer_than_its_bound() {
        let mut table = FlowTable::new(4096);
        for number in 0..1000 {
            let second = u64::from(number) * SECOND;
            let evicted = add(&mut table, flow(number, second).1, apart(7), second);
            // The oldest flow of the bucket is evicted, and no other.
            let oldest = usize::from(number).checked_sub(MAX_CHAIN).map(|oldest| flow(oldest as u16, 0).0);
            assert_eq!(evicted.map(|flow| flow.head.key), oldest);
        }
        assert_eq!(table.len(), MAX_CHAIN);
        let other = flow(2000, 0);
        add(&mut table, other.1, apart(8), 0);
        assert!(table.find(&other.0, || apart(8)).is_ok(), "the bucket beside it is as it was");
    }

    #[test]
    fn hostile_flows_of_two_hosts_leave_those_of_others_alone() {
        const OTHERS: u16 = 1500;
        let mut table = FlowTable::new(2048);
        for number in 0..OTHERS {
            // They have been idle for longer than any flow of the flood.
            add(&mut table, flow(number, 0).1, apart(spread(number)), 0);
        }
        for number in OTHERS..60_000 {
            let hash = KeyHash { flow: spread(number), hosts: 7 };
            add(&mut table, flow(number, SECOND).1, hash, SECOND);
        }
        let found =
            |table: &mut FlowTable, number| table.find(&flow(number, 0).0, || apart(spread(number))).is_ok();
        let left = (0..OTHERS).filter(|&number| found(&mut table, number)).count();
        assert!(left > 1450, "{left} are left");
        // A flow of other hosts finds room as well: one of the two hosts loses a flow.
        for number in 60_000..60_200 {
            add(&mut table, flow(number, SECOND).1, apart(spread(number)), SECOND);
            assert!(found(&mut table, number));
        }
        let after = (0..OTHERS).filter(|&number| found(&mut table, number)).count();
        assert!(left - after <= 10, "{} made room for flows of others", left - after);
    }

    #[test]
    fn flows_are_found_however_many_come() {
        for max in [1, 3, 5_000, 20_000] {
            let mut table = FlowTable::new(max);
            for number in 0..10_000 {
                add(&mut table, flow(number, 0).1, apart(spread(number)), 0);
                // Flows are found in any bucket that they have moved to.
                let oldest = usize::from(number).saturating_sub(max - 1) as u16;
                for known in [oldest, oldest.midpoint(number), number] {
                    let found = table.find(&flow(known, 0).0, || apart(spread(known))).unwrap();
                    assert_eq!(table.flow(found).head.key, flow(known, 0).0);
                }
                if oldest > 0 {
                    let gone = table.find(&flow(oldest - 1, 0).0, || apart(spread(oldest - 1)));
                    assert!(gone.is_err());
                }
            }
            let longest = (0..table.used).map(|bucket| {
                let mut at = table.buckets[bucket].wrapping_sub(1);
                let mut len = 0;
                while at != NONE {
                    (at, len) = (table.entries[at as usize].next, len + 1);
                }
                len
            });
            assert!(longest.max().unwrap() <= 12, "all buckets are used alike");
            assert_eq!(table.used, table.buckets.len().min(table.len().max(FIRST_BUCKETS)));
        }
    }

    proptest! {
        /// After any sequence of operations, the table holds the same flows as a plain map.
        #[test]
        fn it_behaves_as_a_map_of_flows(
            steps in prop::collection::vec((0_u16..40, 0_u8..4, 0_u64..20), 1..400)
        ) {
            let mut table = FlowTable::new(16);
            let mut model: HashMap<u16, u64> = HashMap::new();
            let mut now = SECOND;
            for (number, action, passed) in steps {
                now += passed * SECOND;
                let found = table.find(&flow(number, 0).0, || apart(hash(number)));
                prop_assert_eq!(found.is_ok(), model.contains_key(&number));
                match (found, action) {
                    (Ok(index), 0) => {
                        table.remove(index);
                        model.remove(&number);
                    }
                    (Ok(index), _) => {
                        table.flow(index).last = now;
                        table.touch(index, now);
                        model.insert(number, now);
                    }
                    (Err(_), 1) => {
                        while let Some(index) = table.expired(now) {
                            let ended = table.remove(index);
                            let last = model.remove(&ended.head.key.low().1);
                            prop_assert!(last.is_some_and(|last| is_over(last, 30, now)));
                        }
                        prop_assert!(model.values().all(|&last| !is_over(last, 30, now)));
                    }
                    (Err(missing), _) => {
                        let evicted = table.make_room(missing);
                        table.insert(flow(number, now).1, missing, now);
                        if let Some((_, evicted)) = evicted {
                            let last = model.remove(&evicted.head.key.low().1);
                            prop_assert_eq!(last, model.values().copied().chain(last).min());
                        }
                        model.insert(number, now);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let mut drained: Vec<_> = table.drain().map(|(_, flow)| flow.head.key.low().1).collect();
            drained.sort_unstable();
            let mut left: Vec<_> = model.into_keys().collect();
            left.sort_unstable();
            prop_assert_eq!(drained, left);
        }
    }
}
