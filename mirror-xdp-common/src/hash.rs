//! The symmetric hash of an inner flow: both directions have the same hash.
//!
//! Mirrored hosts choose the hash input: they can send packets with any addresses, ports and protocol. The
//! hash determines the worker and the table place of a flow, so no host may be able to choose flows that
//! collide. It is therefore keyed, and built from a family for which this is proven, not from a mixing
//! function that merely looks random:
//!
//! 1. Each endpoint is hashed by *multilinear-HM* (Lemire and Kaser, "Strongly universal string hashing is fast",
//!    The Computer Journal 57(11), 2014, section 3.2): with 32-bit words `s` and secret 64-bit words `k`,
//!    `Σ (k₂ᵢ + s₂ᵢ) · (k₂ᵢ₊₁ + s₂ᵢ₊₁)` modulo 2⁶⁴. For any two endpoints, whichever bits they differ in, the upper
//!    32 bits of the difference of their sums are uniform over the choice of the keys. The lower bits are weaker: a
//!    difference in the top bit of a word reaches bit 31 and those above alone. They are never used by themselves.
//!    A pair of 32-bit words is the two halves of a 64-bit word, and the second factor has all of that word: masking
//!    costs a BPF program two instructions, and the proof holds without. Where the upper halves differ, by `δ` of
//!    less than 2³² either way, the difference of the products has the term `k₂ᵢ₊₁ · δ`, and no other with `k₂ᵢ₊₁`;
//!    where they are equal, all of the difference is that of the lower halves times `k₂ᵢ + s₂ᵢ`. A uniform number
//!    times one that is not divisible by 2³² is uniform in the upper 32 bits, whatever independent of it is added.
//! 2. The two sums are multiplied. A sum of the sums would be as symmetric, but it has collisions that no key
//!    prevents: what is added to one endpoint's sum and taken from the other's (ports 1000 and 443, 1001 and 442)
//!    cancels out. Of two pairs of numbers with the same sum the products differ.
//!
//! The hash is the upper half of the product, which depends on all bits of both sums. With one endpoint
//! fixed, it is linear in the other's port and in each half of its address, by secret factors. It is suitable
//! for choosing among workers, and for tables in which flows may displace each other. User space has a hash
//! of its own for tables with chains.
//!
//! All of it is branch-free 64-bit arithmetic with short chains of dependent multiplications, which suits a
//! BPF program.

use crate::Address;

/// A symmetric hash of an inner flow, keyed by a secret so that addresses and ports cannot be crafted to
/// collide. All its bits may be used, lowest or highest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u32);

/// The secret words of [`flow_hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowHashKey(pub [u64; FlowHashKey::WORDS]);

/// A key whose words are read one by one, where they are used. A BPF program has few registers: words that it has read
/// in advance it has to write to its stack, and to read again.
pub trait HashWords {
    /// The secret word number `AT`, one of [`FlowHashKey::WORDS`].
    fn word<const AT: usize>(&self) -> u64;
}

impl HashWords for FlowHashKey {
    #[inline(always)]
    fn word<const AT: usize>(&self) -> u64 {
        self.0[AT]
    }
}

impl FlowHashKey {
    /// The number of words.
    pub const WORDS: usize = 5;

    /// Expands a seed to a key.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(expand(seed))
    }
}

/// Expands a seed to secret words by `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014), whose outputs are all different.
#[must_use]
pub const fn expand<const WORDS: usize>(seed: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut state = seed;
    let mut at = 0;
    while at < WORDS {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        words[at] = word ^ word >> 31;
        at += 1;
    }
    words
}

/// Returns the product of the upper half of a word and the whole of it, each with a word of the key added.
#[inline(always)]
const fn halves(word: u64, upper: u64, whole: u64) -> u64 {
    upper.wrapping_add(word >> 32).wrapping_mul(whole.wrapping_add(word))
}

/// Returns the sum of an endpoint; port and protocol are one word, with a secret factor of its own
/// (*multilinear*, section 3.1).
#[inline(always)]
fn endpoint(key: &impl HashWords, address: Address, port: u16, protocol: u8) -> u64 {
    halves(address.high, key.word::<0>(), key.word::<1>())
        .wrapping_add(halves(address.low, key.word::<2>(), key.word::<3>()))
        .wrapping_add(key.word::<4>().wrapping_mul(u64::from(port) | u64::from(protocol) << 16))
}

/// Hashes addresses, ports and protocol. The ports are 0 if the flow has none, and for every fragment,
/// including the first: later fragments have no ports, and all fragments must have the same hash.
#[inline(always)]
#[must_use]
pub fn flow_hash(
    key: &impl HashWords,
    source: Address,
    source_port: u16,
    destination: Address,
    destination_port: u16,
    protocol: u8,
) -> FlowHash {
    let source = endpoint(key, source, source_port, protocol);
    let product = source.wrapping_mul(endpoint(key, destination, destination_port, protocol));
    FlowHash((product >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_hash_alike() {
        let (a, b) = (Address::from_v4(0x0a00_0001), Address::from_v4(0x0a00_0002));
        let (seven, eight) = (FlowHashKey::new(7), FlowHashKey::new(8));
        assert_eq!(flow_hash(&seven, a, 1000, b, 443, 6), flow_hash(&seven, b, 443, a, 1000, 6));
        assert_ne!(flow_hash(&seven, a, 1000, b, 443, 6), flow_hash(&seven, a, 443, b, 1000, 6));
        assert_ne!(flow_hash(&seven, a, 1000, b, 443, 6), flow_hash(&eight, a, 1000, b, 443, 6));
    }

    #[test]
    fn consecutive_ports_spread_evenly_over_the_buckets() {
        const BUCKETS: usize = 64;
        const FLOWS: usize = 64 * 1024;
        let key = FlowHashKey::new(42);
        let server = Address::from_v4(0x0a01_0001);
        let hash = |flow: usize| {
            let client = Address::from_v4(0x0a00_0000 + (flow / 1024) as u32);
            flow_hash(&key, client, (flow % 1024) as u16, server, 443, 6).0 as usize
        };
        let mean = FLOWS / BUCKETS;
        // Five standard deviations of a binomial distribution with this mean.
        let bound = 5 * mean.isqrt();
        let lowest: fn(usize) -> usize = |hash| hash % BUCKETS;
        let highest: fn(usize) -> usize = |hash| (hash * BUCKETS) >> 32;
        for bucket in [lowest, highest] {
            let mut load = [0_usize; BUCKETS];
            (0..FLOWS).for_each(|flow| load[bucket(hash(flow))] += 1);
            assert!(load.iter().all(|&n| n.abs_diff(mean) < bound), "{load:?}");
        }
    }

    /// A flow as the numbers that are hashed: two endpoints of two words and a port each, and the protocol.
    #[derive(Clone, Copy, PartialEq)]
    struct Input([u64; 7]);

    impl Input {
        /// The number of bits of each number.
        const BITS: [u32; 7] = [64, 64, 16, 64, 64, 16, 8];

        fn hash(self, key: &FlowHashKey) -> u32 {
            let Self([high, low, port, other_high, other_low, other_port, protocol]) = self;
            let source = Address::from_words(high, low);
            let destination = Address::from_words(other_high, other_low);
            flow_hash(key, source, port as u16, destination, other_port as u16, protocol as u8).0
        }

        /// Flips bit number `bit` of all bits.
        fn turned(mut self, mut bit: u32) -> Self {
            for (number, bits) in self.0.iter_mut().zip(Self::BITS) {
                if bit < bits {
                    *number ^= 1 << bit;
                    break;
                }
                bit -= bits;
            }
            self
        }

        /// Returns the other direction of the flow.
        const fn reversed(self) -> Self {
            let [high, low, port, other_high, other_low, other_port, protocol] = self.0;
            Self([other_high, other_low, other_port, high, low, port, protocol])
        }
    }

    /// An attacker who does not know the key chooses how flows differ. For each difference of one or two
    /// bits, at any position, two flows share a byte of their hashes for as many keys as two random numbers
    /// do. This is tested for the lowest byte, which selects buckets, and the highest, which selects workers.
    #[test]
    fn hostile_differences_in_any_input_bits_meet_no_more_often_than_by_chance() {
        const KEYS: usize = 512;
        // Two random bytes are equal for one key in 256, which is two keys here. A Poisson distribution with
        // this mean exceeds 16 once in 10¹⁰ cases; there are 140,000.
        const BOUND: u32 = 16;
        let keys: [FlowHashKey; KEYS] = core::array::from_fn(|seed| FlowHashKey::new(seed as u64));
        let all: u32 = Input::BITS.iter().sum();
        let base = Input([0x2001_0db8_0000_0001, 7, 1000, 0x2001_0db8_0000_0002, 9, 443, 17]);
        let hashes = keys.map(|key| base.hash(&key));
        for first in 0..all {
            for second in first..all {
                let other = base.turned(first);
                let other = if second == first { other } else { other.turned(second) };
                let mut shared = [0_u32; 2];
                for (key, hash) in keys.iter().zip(hashes) {
                    let difference = hash ^ other.hash(key);
                    shared[0] += u32::from(difference.trailing_zeros() >= 8);
                    shared[1] += u32::from(difference.leading_zeros() >= 8);
                }
                assert!(
                    shared.iter().all(|&n| n <= BOUND),
                    "bits {first} and {second}: {shared:?} of {KEYS}"
                );
            }
        }
    }

    /// An amount that is added to one endpoint and subtracted from the other does not cancel out.
    #[test]
    fn hostile_differences_of_both_endpoints_do_not_cancel_out() {
        let base = Input([5, 7, 1000, 5, 7000, 443, 6]);
        for number in 0..3 {
            for step in [1_u64, 2, 1 << 8, 1 << 15, 1 << 31, 1 << 32, 1 << 62, 1 << 63] {
                let mut other = base;
                other.0[number] = other.0[number].wrapping_add(step);
                other.0[number + 3] = other.0[number + 3].wrapping_sub(step);
                let mask = if number == 2 { 0xffff } else { u64::MAX };
                other.0[number] &= mask;
                other.0[number + 3] &= mask;
                if other == base || other == base.reversed() {
                    continue;
                }
                let keys = || (0..4096).map(FlowHashKey::new);
                let met =
                    keys().filter(|key| (base.hash(key) ^ other.hash(key)).trailing_zeros() >= 8).count();
                assert!(met <= 48, "number {number}, step {step:#x}: {met}");
            }
        }
    }
}
