//! The rules of the filter whose frames the store keeps.
//!
//! Each frame carries the number by which the XDP program knows its rule. These numbers change when rules are
//! replaced. Before the new rules are in force, their numbers are recorded here; none of the rules in force
//! has one of these numbers. So each frame is judged by the rule that let it through.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use mirror_xdp_common::filter::MAX_RULE_IDS;

/// Rules of a set, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRange {
    /// The name of its set.
    pub set: String,
    /// The numbers.
    pub numbers: RangeInclusive<u32>,
}

/// Formats the rules as in the configuration: the set's name, followed by the numbers unless they are all.
impl fmt::Display for RuleRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, first, last) = (&self.set, self.numbers.start(), self.numbers.end());
        match (*first, *last) {
            (0, u32::MAX) => f.write_str(set),
            _ if first == last => write!(f, "{set}/{first}"),
            _ => write!(f, "{set}/{first}-{last}"),
        }
    }
}

/// The rules whose frames are kept, by the identifiers of one interface's program.
#[derive(Debug)]
pub struct KeptRules {
    kept: Vec<RuleRange>,
    /// One bit per identifier.
    ids: Vec<AtomicU64>,
}

impl KeptRules {
    /// Returns a value in which no rule has an identifier yet.
    #[must_use]
    pub fn new(kept: Vec<RuleRange>) -> Self {
        Self { kept, ids: (0..MAX_RULE_IDS.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Records a rule's identifier.
    pub fn learn(&self, set: &str, number: u32, id: u16) {
        let Some(word) = self.ids.get(usize::from(id) / 64) else { return };
        let bit = 1 << (id % 64);
        if self.kept.iter().any(|rules| rules.set == set && rules.numbers.contains(&number)) {
            word.fetch_or(bit, Ordering::Release);
        } else {
            word.fetch_and(!bit, Ordering::Release);
        }
    }

    /// Returns whether the frames that the rule with this identifier let through are kept.
    #[must_use]
    pub fn keeps(&self, id: u32) -> bool {
        let word = self.ids.get(id as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) & 1 << (id % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_identifier_stood_for_before_does_not_matter() {
        let range = |numbers| RuleRange { set: "a".to_owned(), numbers };
        let rules = KeptRules::new(vec![range(100..=100), range(200..=299)]);
        for (set, number, id, kept) in [
            ("a", 100, 7, true),
            ("b", 100, 8, false),
            ("a", 250, 16_383, true),
            ("a", 300, 7, false),
            ("a", 200, 8, true),
        ] {
            rules.learn(set, number, id);
            assert_eq!(rules.keeps(id.into()), kept, "{set} {number}");
        }
        assert!(!rules.keeps(0) && !rules.keeps(u32::MAX));
    }
}
