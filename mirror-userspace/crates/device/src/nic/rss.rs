//! Receive side scaling: the spread of mirror traffic over the queues of a NIC.
//!
//! The NIC computes the Toeplitz hash of the outer addresses and ports, and its low bits select a queue from
//! an indirection table. Only 7 bits vary in mirror traffic: AWS uses the UDP source ports 65408 to 65535,
//! whatever is mirrored. Each input bit that is set adds 32 bits of the key, starting at its own position.
//! Over GF(2) the hash is therefore a linear map, and the relevant part is a 7 × 7 matrix from the 7 bits of
//! the port to the 7 low bits of the hash. If its rank is lower than 7, one mirrored interface cannot reach
//! some entries of the table, and the queues in them receive nothing.

use std::collections::BTreeMap;

/// The UDP source ports of mirrored frames.
pub const MIRROR_PORTS: std::ops::RangeInclusive<u16> = 65_408..=65_535;

/// The number of bits that vary among these ports.
pub const PORT_BITS: usize = 7;

/// Bytes of addresses before the ports in the hash input, for IPv4.
const PORTS_AT: usize = 8;

/// Bytes of addresses before the ports in the hash input, for IPv6.
const PORTS_AT_V6: usize = 32;

/// `ETH_RSS_HASH_TOP`.
const TOEPLITZ: u8 = 1;

/// Bytes of the shortest key that covers IPv4 addresses and ports.
const MIN_KEY: usize = PORTS_AT + 4 + 4;

/// The RSS hash of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rss {
    /// The hash key; empty if the driver does not report it.
    pub key: Vec<u8>,
    /// The indirection table: the queue for each value of the hash's low bits.
    pub table: Vec<u32>,
    /// The hash function, `ETH_RSS_HASH_…`; 0 if the driver does not report it.
    pub function: u8,
    /// The transformation of addresses and ports before hashing, `RXH_XFRM_…`; 0 for none.
    pub transformation: u8,
}

impl Rss {
    /// Returns whether the hash of this NIC can be computed here.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.key.len() >= MIN_KEY
            && !self.table.is_empty()
            && self.table.len().is_power_of_two()
            && matches!(self.function, 0 | TOEPLITZ)
            && self.transformation == 0
    }

    /// Returns the rank of the map from the bits of the port to the bits of the hash that select the queue,
    /// at most [`PORT_BITS`]. Of a table with more than 2⁷ entries, only the lowest 7 bits are considered,
    /// because the table repeats its queues long before.
    #[must_use]
    pub fn rank(&self) -> usize {
        let mask = low_bits(self.table.len().min(1 << PORT_BITS));
        rank((0..PORT_BITS).map(|bit| column(&self.key, bit) & mask))
    }

    /// Returns the highest rank that this table allows: few bits select from a table of few entries.
    #[must_use]
    pub fn full_rank(&self) -> usize {
        PORT_BITS.min(self.table.len().checked_ilog2().unwrap_or(0) as usize)
    }

    /// Returns how many ports of one mirrored interface reach each queue in the table.
    #[must_use]
    pub fn spread(&self) -> BTreeMap<u32, usize> {
        let mut spread: BTreeMap<u32, usize> = self.table.iter().map(|&queue| (queue, 0)).collect();
        for port in MIRROR_PORTS {
            let hash = hash(&self.key, port) as usize;
            if let Some(count) =
                self.table.get(hash % self.table.len().max(1)).and_then(|q| spread.get_mut(q))
            {
                *count += 1;
            }
        }
        spread
    }

    /// Returns a key like this one for which each port has a hash of its own.
    ///
    /// The port decides on the hash bits of a window of the key. If a single bit moves through the 7 low bits
    /// of that window as the bits of the port go up, the matrix is the identity.
    #[must_use]
    pub fn better_key(&self) -> Vec<u8> {
        let mut key = self.key.clone();
        // Input bit i of the port adds key bits i..i+32; its low bits end at bit i+31. So columns are
        // windows of 7 bits that slide over the 13 key bits below.
        for last in [PORTS_AT, PORTS_AT_V6].map(|ports| ports * 8 + 15 + 31) {
            for bit in last - 2 * (PORT_BITS - 1)..=last {
                let set = bit == last - (PORT_BITS - 1);
                let mask = 0x80 >> (bit % 8);
                if let Some(byte) = key.get_mut(bit / 8) {
                    *byte = if set { *byte | mask } else { *byte & !mask };
                }
            }
        }
        key
    }
}

/// Returns the mask for an index into this many entries.
const fn low_bits(entries: usize) -> u32 {
    (entries as u32).wrapping_sub(1)
}

/// Returns the contribution of bit `bit` of the port (0 is the lowest) to the hash.
fn column(key: &[u8], bit: usize) -> u32 {
    window(key, PORTS_AT * 8 + 15 - bit)
}

/// Returns 32 bits of the key, starting at bit `at`.
fn window(key: &[u8], at: usize) -> u32 {
    let bytes = (0..8).map(|index| key.get(at / 8 + index).copied().unwrap_or(0));
    let eight = bytes.fold(0_u64, |bits, byte| bits << 8 | u64::from(byte));
    (eight << (at % 8) >> 32) as u32
}

/// Returns the contribution of a source port to the hash. The other addresses and ports contribute the same
/// to all frames from one interface: they permute the queues and do not change the spread.
fn hash(key: &[u8], port: u16) -> u32 {
    (0..16).filter(|bit| port >> bit & 1 == 1).fold(0, |hash, bit| hash ^ column(key, bit))
}

/// Returns the rank of vectors over GF(2).
fn rank(vectors: impl Iterator<Item = u32>) -> usize {
    let mut basis: Vec<u32> = Vec::new();
    for vector in vectors {
        let rest = basis.iter().fold(vector, |rest, &base| rest.min(rest ^ base));
        if rest != 0 {
            basis.push(rest);
        }
    }
    basis.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key in Microsoft's definition of RSS, which lists hashes for verification.
    const MICROSOFT: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bits = (0..input.len() * 8).filter(|bit| input[bit / 8] & 0x80 >> (bit % 8) != 0);
        bits.fold(0, |hash, bit| hash ^ window(key, bit))
    }

    fn rss(key: &[u8], entries: usize, queues: u32) -> Rss {
        let table = (0..entries as u32).map(|entry| entry % queues).collect();
        Rss { key: key.to_vec(), table, function: TOEPLITZ, transformation: 0 }
    }

    #[test]
    fn the_hash_is_that_of_the_definition() {
        // 66.9.149.187:2794 → 161.142.100.80:1766
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&MICROSOFT, &input), 0x51cc_c178);
        let mut without_port = input;
        without_port[8..10].fill(0);
        assert_eq!(toeplitz(&MICROSOFT, &without_port) ^ hash(&MICROSOFT, 2794), 0x51cc_c178);
    }

    #[test]
    fn a_key_of_one_repeated_byte_is_degenerate() {
        // 0x6d5a repeated makes the hash symmetric and is widely used for that purpose.
        let symmetric = [0x6d, 0x5a].repeat(20);
        assert!(rss(&symmetric, 128, 8).is_known());
        assert_eq!(rss(&[0xff; 40], 128, 8).rank(), 1);
        let spread = rss(&[0xff; 40], 128, 8).spread();
        assert_eq!(spread.values().filter(|count| **count > 0).count(), 2, "{spread:?}");
    }

    proptest! {
        #[test]
        fn the_better_key_reaches_every_entry(
            key in proptest::collection::vec(any::<u8>(), 40..53),
            size in 0_u32..10,
            queues in 1_u32..33,
        ) {
            let entries = 1 << size;
            let better = Rss { key: rss(&key, 1, 1).better_key(), ..rss(&key, entries, queues) };
            prop_assert_eq!(better.rank(), better.full_rank());
            prop_assert_eq!(better.key.len(), key.len());
            if entries <= 128 {
                let counts = better.spread();
                let least = 128 / entries * (entries / queues as usize);
                prop_assert!(counts.values().all(|count| *count >= least), "{:?}", counts);
            }
        }

        #[test]
        fn the_spread_counts_each_port_once(key in proptest::collection::vec(any::<u8>(), 40)) {
            let rss = rss(&key, 128, 8);
            prop_assert_eq!(rss.spread().values().sum::<usize>(), 128);
            let reached: std::collections::BTreeSet<u32> =
                MIRROR_PORTS.map(|port| hash(&key, port) & 127).collect();
            prop_assert_eq!(reached.len(), 1 << rss.rank(), "the image has as many elements as its rank says");
        }
    }
}
