//! Finds names by their ends: a third of all published rules are an exact name or the end of one.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// Bytes of the longest end that is looked up.
pub(super) const LONGEST: usize = 255;

/// Ends of names, with the rules that each finds.
///
/// One pass over the name from its end computes the hash of each end. A table is asked for those whose length a rule
/// has.
#[derive(Debug, Default)]
pub(super) struct Suffixes {
    /// The lengths of the ends, one bit each.
    lengths: [u64; 4],
    longest: usize,
    /// The hash of an end, and the rules of that hash: first and number in `rules`.
    table: HashMap<u64, (u32, u32), FixedState>,
    rules: Box<[u32]>,
}

/// Ends that are being collected.
#[derive(Debug, Default)]
pub(super) struct Builder {
    lengths: [u64; 4],
    longest: usize,
    rules: HashMap<u64, Vec<u32>, FixedState>,
}

const fn step(hash: u64, byte: u8) -> u64 {
    (hash.rotate_left(5) ^ byte as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Builder {
    /// Adds an end of 1 to [`LONGEST`] bytes, in lower case.
    pub(super) fn add(&mut self, end: &[u8], rule: u32) {
        let hash = end.iter().rev().fold(0, |hash, byte| step(hash, *byte));
        if let Some(word) = self.lengths.get_mut(end.len() / 64) {
            *word |= 1 << (end.len() % 64);
        }
        self.longest = self.longest.max(end.len());
        self.rules.entry(hash).or_default().push(rule);
    }

    pub(super) fn build(self) -> Suffixes {
        let mut table = HashMap::with_capacity_and_hasher(self.rules.len(), FixedState::default());
        let mut rules = Vec::new();
        for (hash, of_hash) in self.rules {
            table.insert(hash, (rules.len() as u32, of_hash.len() as u32));
            rules.extend(of_hash);
        }
        Suffixes { lengths: self.lengths, longest: self.longest, table, rules: rules.into() }
    }
}

impl Suffixes {
    /// Calls `found` with each rule that may have an end of the name. Equal hashes of different ends are possible,
    /// so the rules have to be verified.
    pub(super) fn find(&self, name: &[u8], mut found: impl FnMut(u32)) {
        let mut hash = 0;
        for (byte, len) in name.iter().rev().take(self.longest).zip(1_usize..) {
            hash = step(hash, byte.to_ascii_lowercase());
            let is_length = self.lengths.get(len / 64).is_some_and(|word| word & (1 << (len % 64)) != 0);
            if !is_length {
                continue;
            }
            if let Some((first, count)) = self.table.get(&hash) {
                let (first, count) = (*first as usize, *count as usize);
                self.rules.get(first..first + count).unwrap_or_default().iter().copied().for_each(&mut found);
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.table.capacity() * (size_of::<(u64, (u32, u32))>() + 1) + size_of_val(&*self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_found_in_any_case() {
        let mut builder = Builder::default();
        for (end, rule) in [("evil.example", 0), (".example", 1), ("example", 2), ("evil.example", 3)] {
            builder.add(end.as_bytes(), rule);
        }
        let suffixes = builder.build();
        let find = |name: &str| {
            let mut rules = Vec::new();
            suffixes.find(name.as_bytes(), |rule| rules.push(rule));
            rules.sort_unstable();
            rules
        };
        assert_eq!(find("www.Evil.Example"), [0, 1, 2, 3]);
        assert_eq!(find("example"), [2]);
        assert_eq!(find("n.example"), [1, 2]);
        assert_eq!(find("evil.example.org"), []);
        assert_eq!(find(""), []);
    }
}
