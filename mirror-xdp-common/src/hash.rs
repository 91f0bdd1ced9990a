//! The symmetric hash of an inner flow: both directions hash alike.

use crate::Address;

/// A symmetric hash of an inner flow, keyed by a secret seed so that crafted addresses and ports
/// cannot be made to collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u32);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// One multiply-and-fold step; two of them mix 64 bits well enough for a table's buckets.
#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

#[inline(always)]
const fn endpoint(seed: u64, address: Address, port: u16) -> u64 {
    // IPv4 addresses, whose high word is 0, differ from IPv6 in the mapping prefix of the low word.
    let state = mix(mix(seed, address.high), address.low);
    mix(state, port as u64)
}

/// Hashes addresses, ports and protocol. The ports are 0 where the flow has none, and for every
/// fragment, the first included: later fragments have no ports, and all must hash alike.
#[inline(always)]
#[must_use]
pub const fn flow_hash(
    seed: u64,
    source: Address,
    source_port: u16,
    destination: Address,
    destination_port: u16,
    protocol: u8,
) -> FlowHash {
    let both =
        endpoint(seed, source, source_port).wrapping_add(endpoint(seed, destination, destination_port));
    let mixed = mix(both, protocol as u64);
    FlowHash((mixed ^ mixed >> 29) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_hash_alike() {
        let (a, b) = (Address::from_v4(0x0a00_0001), Address::from_v4(0x0a00_0002));
        assert_eq!(flow_hash(7, a, 1000, b, 443, 6), flow_hash(7, b, 443, a, 1000, 6));
        assert_ne!(flow_hash(7, a, 1000, b, 443, 6), flow_hash(7, a, 443, b, 1000, 6));
        assert_ne!(flow_hash(7, a, 1000, b, 443, 6), flow_hash(8, a, 1000, b, 443, 6));
    }

    #[test]
    fn consecutive_ports_spread_evenly_over_the_buckets() {
        const BUCKETS: usize = 64;
        const FLOWS: usize = 64 * 1024;
        let mut load = [0_usize; BUCKETS];
        for flow in 0..FLOWS {
            let client = Address::from_v4(0x0a00_0000 + (flow / 1024) as u32);
            let hash = flow_hash(42, client, (flow % 1024) as u16, Address::from_v4(0x0a01_0001), 443, 6);
            load[hash.0 as usize % BUCKETS] += 1;
        }
        let mean = FLOWS / BUCKETS;
        // Five standard deviations of a binomial with this mean.
        let bound = 5 * mean.isqrt();
        assert!(load.iter().all(|&n| n.abs_diff(mean) < bound), "{load:?}");
    }
}
