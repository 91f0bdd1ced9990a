//! Bits of hosts: `xbits` and `hostbits`. A worker has its own; hosts of different VNIs are different.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use mirror_packet::{Direction, SECOND};
use mirror_xdp_common::Address;

use crate::facts::Facts;
use crate::limits;
use crate::rule::{BitOperation, BitTrack};

/// Seconds after which a bit without `expire` is cleared.
const EXPIRE: u32 = 3600;

/// The owner of a bit: VNI plus one, and the hosts; the second is the default for one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    bit: u32,
    vni: u32,
    hosts: [Address; 2],
}

/// The bits of all hosts, with the times at which they are cleared.
#[derive(Debug, Default)]
pub(super) struct HostBits {
    bits: HashMap<Key, u64, FixedState>,
    /// The time at which cleared bits were removed last.
    swept: u64,
}

impl HostBits {
    fn keys(bit: u32, track: BitTrack, facts: &Facts, direction: Direction) -> [Option<Key>; 2] {
        let (source, destination) = (facts.sender(direction).0, facts.sender(direction.reverse()).0);
        let vni = facts.vni.map_or(0, |vni| vni + 1);
        let key = |hosts| Some(Key { bit, vni, hosts });
        let one = |host| key([host, Address::default()]);
        match track {
            BitTrack::Source => [one(source), None],
            BitTrack::Destination => [one(destination), None],
            BitTrack::Pair => [key([source.min(destination), source.max(destination)]), None],
            BitTrack::Both => [one(source), one(destination)],
        }
    }

    /// Returns true if the bit is set for any of the hosts.
    pub(super) fn is_set(&self, bit: u32, track: BitTrack, facts: &Facts, direction: Direction) -> bool {
        let keys = Self::keys(bit, track, facts, direction);
        keys.iter().flatten().any(|key| self.bits.get(key).is_some_and(|until| *until > facts.time))
    }

    /// Changes the bit.
    pub(super) fn change(
        &mut self,
        bit: u32,
        track: BitTrack,
        operation: BitOperation,
        expire: Option<u32>,
        facts: &Facts,
        direction: Direction,
    ) {
        let until = facts.time + u64::from(expire.unwrap_or(EXPIRE)) * SECOND;
        for key in Self::keys(bit, track, facts, direction).into_iter().flatten() {
            let is_set = self.bits.get(&key).is_some_and(|until| *until > facts.time);
            let sets = match operation {
                BitOperation::Set => true,
                BitOperation::Toggle => !is_set,
                _ => false,
            };
            if !sets {
                self.bits.remove(&key);
            } else if self.has_room(facts.time) || self.bits.contains_key(&key) {
                self.bits.insert(key, until);
            }
        }
    }

    /// Makes room by removing bits that are cleared, once the table is full, at most once a second.
    fn has_room(&mut self, now: u64) -> bool {
        if self.bits.len() < limits::HOST_BITS {
            return true;
        }
        if now.saturating_sub(self.swept) >= SECOND {
            self.swept = now;
            self.bits.retain(|_, until| *until > now);
        }
        self.bits.len() < limits::HOST_BITS
    }
}
