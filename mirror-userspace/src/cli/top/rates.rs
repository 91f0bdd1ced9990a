//! Rates of counters: their increase per second over the last few seconds. The window smooths the jitter of
//! replies, which are up to a second old. A new counter has no rate until it was seen twice.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Seconds of the window.
const WINDOW: f64 = 3.0;
/// The minimum number of seconds between two samples of a rate.
const SHORTEST: f64 = 0.2;

/// Samples of counters, `N` for each key, over the last seconds.
#[derive(Debug)]
pub(super) struct Rates<K, const N: usize> {
    samples: VecDeque<(f64, HashMap<K, [u64; N]>)>,
}

impl<K, const N: usize> Default for Rates<K, N> {
    fn default() -> Self {
        Self { samples: VecDeque::new() }
    }
}

impl<K: Eq + Hash, const N: usize> Rates<K, N> {
    /// Records a sample of counters at the second `at`.
    pub(super) fn note(&mut self, at: f64, counters: impl IntoIterator<Item = (K, [u64; N])>) {
        match self.samples.back_mut() {
            // The same sample again, perhaps with other keys.
            Some((last, known)) if at - *last < SHORTEST => {
                for (key, counters) in counters {
                    known.entry(key).or_insert(counters);
                }
            }
            _ => self.samples.push_back((at, counters.into_iter().collect())),
        }
        while self.samples.get(1).is_some_and(|(second, _)| at - second >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Records that these counters were 0 in the last sample.
    pub(super) fn begin(&mut self, keys: impl IntoIterator<Item = K>) {
        if let Some((_, known)) = self.samples.back_mut() {
            for key in keys {
                known.entry(key).or_insert([0; N]);
            }
        }
    }

    /// Removes all samples, because the counters restarted.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }

    /// Returns the increase of each counter per second.
    pub(super) fn of<Q>(&self, key: &Q) -> Option<[f64; N]>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.over(key, usize::MAX, None)
    }

    /// As [`Rates::of`], for counters that are not listed while they are 0.
    pub(super) fn of_listed(&self, key: &K) -> Option<[f64; N]> {
        self.over(key, usize::MAX, Some(&[0; N]))
    }

    /// As [`Rates::of`], over the last step only.
    pub(super) fn last<Q>(&self, key: &Q) -> Option<[f64; N]>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.over(key, 1, None)
    }

    /// Computes the rates over at most `steps` steps, and only back to a step at which a counter fell: it
    /// restarted there.
    fn over<Q>(&self, key: &Q, steps: usize, absent: Option<&[u64; N]>) -> Option<[f64; N]>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut known =
            self.samples.iter().rev().map_while(|(at, known)| Some((*at, known.get(key).or(absent)?)));
        let (end, last) = known.next()?;
        let (mut start, mut first) = (end, last);
        for (at, counters) in known.take(steps) {
            if counters.iter().zip(first).any(|(before, after)| before > after) {
                break;
            }
            (start, first) = (at, counters);
        }
        let seconds = end - start;
        let rate = |index: usize| (last[index] - first[index]) as f64 / seconds;
        (seconds >= SHORTEST).then(|| std::array::from_fn(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_over_the_last_seconds() {
        let mut rates = Rates::default();
        rates.note(10.0, [("a", [100])]);
        assert_eq!(rates.of("a"), None, "seen once only");
        for second in 1..=10 {
            rates.note(10.0 + f64::from(second), [("a", [100 + 50 * second as u64])]);
            assert_eq!(rates.of("a"), Some([50.0]));
        }
        rates.note(21.0, [("a", [600])]);
        assert_eq!(rates.of("a"), Some([100.0 / 3.0]));
        assert_eq!(rates.last("a"), Some([0.0]));
    }

    #[test]
    fn a_counter_that_fell_began_anew() {
        let mut rates = Rates::default();
        for (second, count) in [(1.0, 1_000_000), (2.0, 1_000_100), (3.0, 7), (4.0, 17)] {
            rates.note(second, [("a", [count])]);
        }
        assert_eq!(rates.of("a"), Some([10.0]));
        rates.note(5.0, [("b", [1])]);
        assert_eq!(rates.of("a"), None, "it is gone");
        assert_eq!(rates.of_listed(&"b"), Some([1.0 / 3.0]), "it was nothing before");
    }

    #[test]
    fn what_has_begun_since_has_a_rate_at_once() {
        let mut rates = Rates::default();
        rates.begin(["b"]);
        rates.note(1.0, [("a", [1])]);
        rates.begin(["a", "b"]);
        rates.note(2.0, [("a", [2]), ("b", [5])]);
        assert_eq!((rates.of("a"), rates.of("b")), (Some([1.0]), Some([5.0])));
    }

    #[test]
    fn what_is_told_twice_at_once_counts_once() {
        let mut rates = Rates::default();
        rates.note(1.0, [("a", [10])]);
        rates.note(1.1, [("a", [11]), ("b", [5])]);
        rates.note(2.0, [("a", [20]), ("b", [6])]);
        assert_eq!((rates.of("a"), rates.of("b")), (Some([10.0]), Some([1.0])));
    }
}
