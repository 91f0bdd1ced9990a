//! Pseudo-random numbers, which are the same for the same seed.

/// The generator `SplitMix64` (Steele, Lea, Flood 2014): sufficient for choices, unsuitable for secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `bound`, or 0 if that is 0.
    pub(super) const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    /// Chooses `count` of the numbers below `total`, which are marked `true`.
    pub(super) fn choose(&mut self, count: usize, total: usize) -> Vec<bool> {
        let mut chosen = vec![false; total];
        // Floyd's algorithm: as many draws as there are numbers to choose.
        for last in total - count.min(total)..total {
            let drawn = self.below(last + 1);
            let place = if chosen.get(drawn) == Some(&true) { last } else { drawn };
            if let Some(place) = chosen.get_mut(place) {
                *place = true;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_are_chosen() {
        for (count, total) in [(0, 0), (0, 5), (1, 5), (5, 5), (7, 5), (250, 1000)] {
            let chosen = Random::new(1).choose(count, total);
            assert_eq!(chosen.iter().filter(|&&chosen| chosen).count(), count.min(total));
        }
        assert_ne!(Random::new(1).choose(5, 100), Random::new(2).choose(5, 100));
    }
}
