//! IP fragments, and putting them together: bounded in datagrams, in bytes and in time, so that a flood
//! of fragments costs no more than the datagrams that it pushes out.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use mirror_xdp_common::Address;

use super::Refusal;
use crate::flow::Session;
use crate::record::Vlans;

/// Datagrams that may be incomplete at one time.
const MAX_DATAGRAMS: usize = 1024;
/// Pieces of a datagram that are kept apart: what arrives in order is one piece.
const MAX_PIECES: usize = 64;
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
    session: Session,
    id: DatagramId,
    vlans: Vlans,
    depth: u8,
}

/// A datagram on its way to being whole.
#[derive(Debug, Default)]
struct Datagram {
    /// Tells this one from an earlier datagram of the same key.
    serial: u64,
    /// IP header and payload, with gaps.
    packet: Vec<u8>,
    header_len: usize,
    /// What is there of the payload: sorted, disjoint, not touching.
    pieces: Vec<(usize, usize)>,
    /// Length of the payload, known from the last fragment.
    len: Option<usize>,
}

impl Datagram {
    fn is_whole(&self) -> bool {
        match (self.len, self.pieces.as_slice()) {
            (Some(len), &[(0, end)]) => end >= len,
            _ => false,
        }
    }

    /// Adds a fragment's bytes where there are none yet: what came first stays.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), Refusal> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        if self.header_len + end > MAX_PACKET || self.len.is_some_and(|len| end > len) {
            return Err(Refusal::Fragment);
        }
        if !fragment.more {
            if self.pieces.last().is_some_and(|&(_, last)| last > end) {
                return Err(Refusal::Fragment);
            }
            self.len = Some(end);
        }
        if self.packet.len() < self.header_len + end {
            self.packet.resize(self.header_len + end, 0);
        }
        let mut at = start;
        for &(from, to) in self.pieces.iter().chain(&[(end, end)]) {
            if at < from.min(end) {
                copy(
                    &mut self.packet,
                    self.header_len + at,
                    fragment.payload,
                    at - start,
                    from.min(end) - at,
                );
            }
            at = at.max(to);
        }
        self.merge(start, end)
    }

    fn merge(&mut self, start: usize, end: usize) -> Result<(), Refusal> {
        let first = self.pieces.partition_point(|&(_, to)| to < start);
        let behind = self.pieces.partition_point(|&(from, _)| from <= end);
        let touched = self.pieces.get(first..behind).unwrap_or_default();
        let start = touched.first().map_or(start, |&(from, _)| from.min(start));
        let end = touched.last().map_or(end, |&(_, to)| to.max(end));
        if touched.is_empty() && self.pieces.len() == MAX_PIECES {
            return Err(Refusal::Fragment);
        }
        self.pieces.splice(first..behind, [(start, end)]);
        Ok(())
    }

    /// Makes the header that of a packet which never was fragmented.
    fn seal(&mut self, id: &DatagramId) {
        let payload = self.len.unwrap_or_default();
        self.packet.truncate(self.header_len + payload);
        let total = ((self.header_len + payload) as u16).to_be_bytes();
        let payload = (payload as u16).to_be_bytes();
        match (id.ipv6, self.packet.as_mut_slice()) {
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

fn copy(to: &mut [u8], to_at: usize, from: &[u8], from_at: usize, len: usize) {
    if let (Some(to), Some(from)) = (to.get_mut(to_at..to_at + len), from.get(from_at..from_at + len)) {
        to.copy_from_slice(from);
    }
}

/// Puts fragments together.
#[derive(Debug, Default)]
pub struct Defragmenter {
    datagrams: HashMap<Key, Datagram, RandomState>,
    /// Keys in the order of their first fragments, with serial and time of those.
    order: VecDeque<(Key, u64, u64)>,
    /// Datagrams that are done with, for their buffers.
    spare: Vec<Datagram>,
    serial: u64,
}

impl Defragmenter {
    /// Adds a fragment that was seen at `now`. Where it completes its datagram, the IP packet is put into
    /// `whole`, in exchange for the buffer that was there, and the answer is `true`.
    ///
    /// # Errors
    ///
    /// Where the fragment contradicts the others of its datagram or there are too many pieces.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        session: Session,
        now: u64,
        whole: &mut Vec<u8>,
    ) -> Result<bool, Refusal> {
        self.expire(now);
        let key = Key { session, id: fragment.id, vlans: fragment.vlans, depth: fragment.depth };
        if !self.datagrams.contains_key(&key) {
            self.start(key, fragment, now);
        }
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Err(Refusal::Fragment) };
        datagram.add(fragment)?;
        if !datagram.is_whole() {
            return Ok(false);
        }
        let Some(mut datagram) = self.datagrams.remove(&key) else { return Ok(false) };
        datagram.seal(&key.id);
        std::mem::swap(whole, &mut datagram.packet);
        self.spare.push(datagram);
        Ok(true)
    }

    fn start(&mut self, key: Key, fragment: &Fragment<'_>, now: u64) {
        while self.datagrams.len() >= MAX_DATAGRAMS {
            self.drop_oldest();
        }
        if self.order.len() >= 4 * MAX_DATAGRAMS {
            let datagrams = &self.datagrams;
            self.order.retain(|(key, serial, _)| datagrams.get(key).is_some_and(|d| d.serial == *serial));
        }
        let mut datagram = self.spare.pop().unwrap_or_default();
        self.serial += 1;
        datagram.serial = self.serial;
        datagram.packet.clear();
        datagram.packet.extend_from_slice(fragment.header);
        datagram.header_len = fragment.header.len();
        datagram.pieces.clear();
        datagram.len = None;
        self.order.push_back((key, self.serial, now));
        self.datagrams.insert(key, datagram);
    }

    fn expire(&mut self, now: u64) {
        while self.order.front().is_some_and(|&(_, _, start)| now.saturating_sub(start) > TIMEOUT) {
            self.drop_oldest();
        }
    }

    /// Drops the first of the order, which may have been completed already.
    fn drop_oldest(&mut self) {
        let Some((key, serial, _)) = self.order.pop_front() else { return };
        if self.datagrams.get(&key).is_some_and(|datagram| datagram.serial == serial)
            && let Some(datagram) = self.datagrams.remove(&key)
        {
            self.spare.push(datagram);
        }
    }
}
