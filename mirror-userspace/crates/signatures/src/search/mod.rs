//! Searches a buffer for the patterns of all rules together.

mod suffixes;
mod windows;

use std::collections::HashMap;

use self::suffixes::Suffixes;
use self::windows::Windows;
use crate::compile::SHORTEST;
use crate::number::Compare;
use crate::rule::{Content, Match};

/// The rules that a search found, each once.
#[derive(Debug, Default)]
pub struct Candidates {
    rules: Vec<u32>,
    seen: Vec<u64>,
}

impl Candidates {
    /// Returns the rules: indexes in the order in which they were found.
    #[must_use]
    pub fn rules(&self) -> &[u32] {
        &self.rules
    }

    /// Sorts the rules in the order of their inspection.
    pub fn sort(&mut self) {
        self.rules.sort_unstable();
    }

    /// Forgets the rules, and keeps the memory.
    pub fn clear(&mut self) {
        for rule in self.rules.drain(..) {
            if let Some(word) = self.seen.get_mut(rule as usize / 64) {
                *word = 0;
            }
        }
    }

    /// Adds a rule.
    pub(crate) fn add(&mut self, rule: u32) {
        let (word, bit) = (rule as usize / 64, 1 << (rule % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if let Some(seen) = self.seen.get_mut(word)
            && *seen & bit == 0
        {
            *seen |= bit;
            self.rules.push(rule);
        }
    }
}

/// Finds the patterns of one buffer.
#[derive(Default)]
pub(crate) struct Search {
    suffixes: Suffixes,
    windows: Windows,
    /// The rules of each pattern: first and number in `rules`.
    patterns: Box<[(u32, u32)]>,
    rules: Box<[u32]>,
    /// Rules whose patterns are shorter than a window. They are always candidates.
    short: Box<[u32]>,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("patterns", &self.patterns.len()).finish_non_exhaustive()
    }
}

/// Patterns that are being collected.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    suffixes: suffixes::Builder,
    patterns: HashMap<Box<[u8]>, Vec<u32>>,
    short: Vec<u32>,
}

/// Returns true if a match of the content ends with the buffer.
fn is_end(content: &Content, matches: &[Match]) -> bool {
    let len = content.pattern.len() as u64;
    content.at_end
        || matches.iter().any(|other| matches!(other, Match::Size(Compare::Equal(size)) if *size == len))
}

impl Builder {
    /// Adds the pattern of a rule: a part of a content, and all requirements of its buffer.
    pub(crate) fn add(&mut self, rule: u32, pattern: &[u8], content: &Content, matches: &[Match]) {
        let is_end = is_end(content, matches) && content.pattern.len() <= suffixes::LONGEST;
        if is_end {
            self.suffixes.add(&content.pattern.to_ascii_lowercase(), rule);
        } else if pattern.len() < SHORTEST {
            self.short.push(rule);
        } else {
            self.patterns.entry(pattern.to_ascii_lowercase().into()).or_default().push(rule);
        }
    }

    /// Builds the search.
    pub(crate) fn build(self) -> Search {
        let mut sorted: Vec<_> = self.patterns.into_iter().collect();
        sorted.sort_unstable();
        let mut patterns = Vec::with_capacity(sorted.len());
        let mut rules = Vec::with_capacity(sorted.len());
        for (_, of_pattern) in &sorted {
            patterns.push((rules.len() as u32, of_pattern.len() as u32));
            rules.extend_from_slice(of_pattern);
        }
        let of: Vec<_> = sorted.iter().map(|(pattern, _)| &**pattern).zip(0..).collect();
        Search {
            suffixes: self.suffixes.build(),
            windows: Windows::new(&of),
            patterns: patterns.into(),
            rules: rules.into(),
            short: self.short.into(),
        }
    }
}

impl Search {
    /// Adds the rules whose patterns may be in the bytes.
    pub(crate) fn find(&self, bytes: &[u8], found: &mut Candidates) {
        self.suffixes.find(bytes, |rule| found.add(rule));
        for rule in &self.short {
            found.add(*rule);
        }
        // Case is folded in the patterns; the verification of a rule compares it.
        self.windows.find(bytes, |pattern| {
            let (first, count) = self.patterns.get(pattern as usize).copied().unwrap_or_default();
            let (first, count) = (first as usize, count as usize);
            for rule in self.rules.get(first..first + count).unwrap_or_default() {
                found.add(*rule);
            }
        });
    }

    /// Returns the memory that the search takes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let tables = size_of_val(&*self.patterns) + size_of_val(&*self.rules) + size_of_val(&*self.short);
        self.windows.heap_bytes() + tables + self.suffixes.heap_bytes()
    }
}
