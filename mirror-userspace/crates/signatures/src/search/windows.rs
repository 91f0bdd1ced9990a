//! Finds patterns by four bytes of each.
//!
//! The window of a pattern is its four bytes in a row that are rarest in traffic. A filter of one bit for each hash of
//! four bytes says where a window may be; it fits into the first cache, other than an automaton of so many patterns.
//! Only there, the patterns of that hash are compared as a whole.

use crate::frequency;

/// Bytes of a window, and of the shortest pattern.
const WINDOW: usize = crate::compile::SHORTEST;
/// Bits of the filter for each pattern: one place in so many is compared in vain.
const BITS: usize = 64;
/// Binary logarithms of the fewest and of the most bits of the filter.
const SIZES: std::ops::RangeInclusive<u32> = 10..=18;
/// Eighths of a bit that a window loses in worth for each pattern that has it already.
const SHARED: u32 = 4;

/// Patterns, without regard to case.
#[derive(Default)]
pub(super) struct Windows {
    /// A bit for each hash that a window has.
    filter: Box<[u64]>,
    /// 32 less the binary logarithm of the bits of the filter.
    shift: u32,
    /// The first pattern of each hash, and of the one behind the last. A hash has fewer bits here than in the filter.
    buckets: Box<[u32]>,
    /// 32 less the binary logarithm of the number of buckets.
    bucket_shift: u32,
    patterns: Box<[Pattern]>,
    bytes: Box<[u8]>,
}

#[derive(Clone, Copy)]
struct Pattern {
    window: u32,
    /// The place of the window in the pattern.
    at: u32,
    /// The place of the pattern in `bytes`.
    start: u32,
    len: u32,
    value: u32,
}

/// Returns four bytes as a number in which letters have one case. Other bytes may become equal, too.
fn number([a, b, c, d]: [u8; WINDOW]) -> u32 {
    u32::from_le_bytes([a, b, c, d]) | 0x2020_2020
}

const fn hash(window: u32) -> u32 {
    window.wrapping_mul(0x9e37_79b1)
}

fn windows(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.windows(WINDOW).filter_map(|window| window.first_chunk()).map(|window| number(*window))
}

impl Windows {
    /// Collects patterns of at least [`WINDOW`] bytes, in lower case, with what [`Windows::find`] returns for each.
    pub(super) fn new(of: &[(&[u8], u32)]) -> Self {
        let size =
            |wanted: usize| wanted.next_power_of_two().trailing_zeros().clamp(*SIZES.start(), *SIZES.end());
        let (bits, bucket_bits) = (size(of.len() * BITS), size(of.len() * 2));
        let (shift, bucket_shift) = (u32::BITS - bits, u32::BITS - bucket_bits);
        let mut loads = vec![0_u32; 1 << bucket_bits];
        let mut filter = vec![0_u64; 1 << (bits - 6)];
        let mut bytes = Vec::new();
        let mut chosen = Vec::with_capacity(of.len());
        // Short patterns have the least choice.
        let mut order: Vec<_> = of.iter().collect();
        order.sort_by_key(|(pattern, _)| pattern.len());
        for (pattern, value) in order {
            let load = |window: u32| loads.get((hash(window) >> bucket_shift) as usize).copied().unwrap_or(0);
            let worth = |(window, at): &(u32, usize)| {
                let rarity = pattern.get(*at..*at + WINDOW).map_or(0, frequency::rarity);
                rarity.saturating_sub(load(*window) * SHARED)
            };
            let Some((window, at)) = windows(pattern).zip(0_usize..).max_by_key(worth) else { continue };
            let (hash, start) = (hash(window), bytes.len());
            if let Some(load) = loads.get_mut((hash >> bucket_shift) as usize) {
                *load += 1;
            }
            if let Some(word) = filter.get_mut((hash >> shift) as usize / 64) {
                *word |= 1 << (hash >> shift & 63);
            }
            bytes.extend_from_slice(pattern);
            chosen.push(Pattern {
                window,
                at: at as u32,
                start: start as u32,
                len: pattern.len() as u32,
                value: *value,
            });
        }
        chosen.sort_by_key(|pattern| hash(pattern.window) >> bucket_shift);
        let mut buckets = Vec::with_capacity(loads.len() + 1);
        let mut sum = 0;
        for load in loads {
            buckets.push(sum);
            sum += load;
        }
        buckets.push(sum);
        Self {
            filter: filter.into(),
            shift,
            buckets: buckets.into(),
            bucket_shift,
            patterns: chosen.into(),
            bytes: bytes.into(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Calls `found` for each place of each pattern.
    pub(super) fn find(&self, bytes: &[u8], mut found: impl FnMut(u32)) {
        if self.is_empty() {
            return;
        }
        let shift = self.shift;
        for (window, at) in windows(bytes).zip(0_usize..) {
            let hash = hash(window) >> shift;
            if self.filter.get(hash as usize / 64).is_some_and(|word| word >> (hash & 63) & 1 != 0) {
                self.compare(bytes, window, at, &mut found);
            }
        }
    }

    /// Compares the patterns that may have this window, which is at `at`.
    fn compare(&self, bytes: &[u8], window: u32, at: usize, found: &mut impl FnMut(u32)) {
        let bucket = (hash(window) >> self.bucket_shift) as usize;
        let Some([first, end]) = self.buckets.get(bucket..).and_then(|rest| rest.first_chunk()) else {
            return;
        };
        for pattern in self.patterns.get(*first as usize..*end as usize).unwrap_or_default() {
            if pattern.window != window {
                continue;
            }
            let (start, len) = (pattern.start as usize, pattern.len as usize);
            let wanted = self.bytes.get(start..start + len).unwrap_or_default();
            let there = at.checked_sub(pattern.at as usize).and_then(|from| bytes.get(from..from + len));
            if there.is_some_and(|there| there.eq_ignore_ascii_case(wanted)) {
                found(pattern.value);
            }
        }
    }

    /// Returns the memory that the patterns take.
    pub(super) const fn heap_bytes(&self) -> usize {
        size_of_val(&*self.filter)
            + size_of_val(&*self.buckets)
            + size_of_val(&*self.patterns)
            + size_of_val(&*self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_pattern_is_found_wherever_it_is(
            patterns in prop::collection::vec("[ab{@\\[]{4,8}", 0..40),
            bytes in "[abAB{@\\[]{0,60}",
        ) {
            let of: Vec<_> = patterns.iter().map(String::as_bytes).zip(0..).collect();
            let windows = Windows::new(&of);
            let mut found = Vec::new();
            windows.find(bytes.as_bytes(), |value| found.push(value));
            found.sort_unstable();
            found.dedup();
            let bytes = bytes.to_ascii_lowercase();
            let expected: Vec<u32> =
                patterns.iter().zip(0..).filter(|(pattern, _)| bytes.contains(*pattern)).map(|one| one.1).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
