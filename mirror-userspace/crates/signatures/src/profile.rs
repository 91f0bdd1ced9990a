//! The cost of each rule: how often traffic made it a candidate, how often it was verified, how often it matched, and the
//! time that verifying it took.
//!
//! A worker counts in a [`Profile`] of its own, without locked instructions; another thread adds them up. The time is
//! measured for one verification in [`SAMPLE`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Verifications for each one whose time is measured.
pub const SAMPLE: u32 = 64;

/// The counters of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often its pattern or header was found.
    pub candidates: u64,
    /// How often its content was verified.
    pub verified: u64,
    /// How often it matched.
    pub matched: u64,
    /// How often it was isolated for a while, because verifying it took too many steps.
    pub isolated: u64,
    /// Nanoseconds that verifying it took, extrapolated from samples.
    pub nanoseconds: u64,
}

/// The counters of one worker, by the index of the rule.
#[derive(Debug)]
pub struct Profile(Box<[Counters]>);

#[derive(Debug, Default)]
struct Counters {
    candidates: AtomicU64,
    verified: AtomicU64,
    matched: AtomicU64,
    isolated: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Adds to a counter that no other thread changes.
fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}

impl Profile {
    /// Counts a candidate.
    #[inline]
    pub fn candidate(&self, rule: u32) {
        if let Some(counters) = self.0.get(rule as usize) {
            add(&counters.candidates, 1);
        }
    }

    /// Counts a verification.
    #[inline]
    pub fn verified(&self, rule: u32) {
        if let Some(counters) = self.0.get(rule as usize) {
            add(&counters.verified, 1);
        }
    }

    /// Counts a match.
    #[inline]
    pub fn matched(&self, rule: u32) {
        if let Some(counters) = self.0.get(rule as usize) {
            add(&counters.matched, 1);
        }
    }

    /// Counts an isolation.
    #[cold]
    pub fn isolated(&self, rule: u32) {
        if let Some(counters) = self.0.get(rule as usize) {
            add(&counters.isolated, 1);
        }
    }

    /// Adds the time of a sampled verification.
    #[cold]
    pub fn sampled(&self, rule: u32, since: Instant) {
        if let Some(counters) = self.0.get(rule as usize) {
            let nanoseconds = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            add(&counters.nanoseconds, nanoseconds.saturating_mul(SAMPLE.into()));
        }
    }

    fn cost(&self, rule: usize) -> Cost {
        let Some(counters) = self.0.get(rule) else { return Cost::default() };
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Cost {
            candidates: of(&counters.candidates),
            verified: of(&counters.verified),
            matched: of(&counters.matched),
            isolated: of(&counters.isolated),
            nanoseconds: of(&counters.nanoseconds),
        }
    }
}

/// The counters of all workers.
#[derive(Debug, Default)]
pub struct Profiles {
    rules: usize,
    all: Mutex<Vec<Arc<Profile>>>,
}

impl Profiles {
    /// Makes counters for so many rules.
    #[must_use]
    pub fn new(rules: usize) -> Self {
        Self { rules, all: Mutex::default() }
    }

    /// Returns the counters of a further worker: those of one that has ended go on.
    #[must_use]
    pub fn join(&self) -> Arc<Profile> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unused) = all.iter().find(|profile| Arc::strong_count(profile) == 1) {
            return Arc::clone(unused);
        }
        let profile = Arc::new(Profile((0..self.rules).map(|_| Counters::default()).collect()));
        all.push(Arc::clone(&profile));
        profile
    }

    /// Returns the rules that were candidates, with the sums over all workers.
    #[must_use]
    pub fn costs(&self) -> Vec<(u32, Cost)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |rule: usize| {
            all.iter().map(|profile| profile.cost(rule)).fold(Cost::default(), |sum, one| Cost {
                candidates: sum.candidates.wrapping_add(one.candidates),
                verified: sum.verified.wrapping_add(one.verified),
                matched: sum.matched.wrapping_add(one.matched),
                isolated: sum.isolated.wrapping_add(one.isolated),
                nanoseconds: sum.nanoseconds.wrapping_add(one.nanoseconds),
            })
        };
        (0..self.rules).map(|rule| (rule as u32, sum(rule))).filter(|(_, cost)| cost.candidates > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_workers_add_up() {
        let profiles = Profiles::new(3);
        let workers = [profiles.join(), profiles.join()];
        for worker in &workers {
            worker.candidate(1);
            worker.candidate(1);
            worker.verified(1);
            worker.candidate(2);
            worker.matched(2);
            // A rule of another generation counts nothing.
            worker.candidate(3);
        }
        workers[0].sampled(2, Instant::now());
        // A worker that takes the place of another one goes on with its counters.
        let [first, second] = workers;
        drop(second);
        profiles.join().verified(2);
        assert_eq!(profiles.all.lock().unwrap().len(), 2);
        drop(first);
        let costs = profiles.costs();
        assert_eq!(costs.iter().map(|(rule, _)| *rule).collect::<Vec<_>>(), [1, 2]);
        let (one, two) = (costs[0].1, costs[1].1);
        assert_eq!((one.candidates, one.verified, one.matched, one.nanoseconds), (4, 2, 0, 0));
        assert_eq!((two.candidates, two.verified, two.matched), (2, 1, 2));
        assert!(two.nanoseconds > 0);
    }
}
