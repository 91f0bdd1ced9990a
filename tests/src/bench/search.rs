//! The search for the highest rate with at most a given share of frames lost. RFC 2544 calls it throughput;
//! others call it NDR for no loss and PDR for a little loss. Nothing here measures.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One measurement at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Frames a second requested; `None` for the generator's highest rate.
    pub asked_pps: Option<f64>,
    /// Frames a second given to the interface.
    pub pps: f64,
    /// Frames given to the interface.
    pub given: u64,
    /// Frames counted by the subject.
    pub received: u64,
}

impl Trial {
    /// Returns the share of the frames that did not arrive.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.given == 0 {
            0.0
        } else {
            self.given.saturating_sub(self.received) as f64 / self.given as f64
        }
    }
}

/// The limits of a search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The search ends when the lowest bad rate divided by the highest good rate, less 1, is at most this.
    pub precision: f64,
    /// No further trial begins after this.
    pub deadline: Instant,
}

/// Returns the highest rate at which at most `tolerance` is lost. It starts from the trials made so far and
/// makes more within `effort`. Returns 0 if every rate lost more.
pub fn search<E>(
    tolerance: f64,
    effort: Effort,
    trials: &mut Vec<Trial>,
    mut trial: impl FnMut(Option<f64>) -> Result<Trial, E>,
) -> Result<f64, E> {
    if trials.is_empty() {
        trials.push(trial(None)?);
    }
    loop {
        let (good, bad) = bracket(tolerance, trials);
        let Some(bad) = bad else { return Ok(good) };
        if good > 0.0 && bad.pps / good <= 1.0 + effort.precision || Instant::now() >= effort.deadline {
            return Ok(good);
        }
        // The rate that arrives under overload is an estimate of the rate without loss.
        let arrived = bad.pps * (1.0 - bad.loss());
        let next = if good > 0.0 { (good * bad.pps).sqrt() } else { (arrived * 0.9).min(bad.pps * 0.75) };
        if next < 1000.0 {
            return Ok(good);
        }
        trials.push(trial(Some(next))?);
    }
}

/// Returns the highest good rate below all bad ones, and the bad trial with the lowest rate.
fn bracket(tolerance: f64, trials: &[Trial]) -> (f64, Option<Trial>) {
    let is_bad = |trial: &&Trial| trial.loss() > tolerance;
    let bad = trials.iter().filter(is_bad).min_by(|a, b| a.pps.total_cmp(&b.pps)).copied();
    let good = trials
        .iter()
        .filter(|trial| !is_bad(trial) && bad.is_none_or(|bad| trial.pps < bad.pps))
        .map(|trial| trial.pps)
        .fold(0.0, f64::max);
    (good, bad)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;

    /// Searches with a subject that takes `capacity` frames a second and a generator that makes `generator`.
    fn found(capacity: f64, generator: f64, tolerance: f64) -> (f64, usize) {
        let mut trials = Vec::new();
        let effort = Effort { precision: 0.02, deadline: Instant::now() + Duration::from_secs(60) };
        let rate = search(tolerance, effort, &mut trials, |asked| {
            let pps = asked.unwrap_or(generator).min(generator);
            let received = pps.min(capacity);
            Ok::<_, Infallible>(Trial { asked_pps: asked, pps, given: pps as u64, received: received as u64 })
        });
        (rate.unwrap(), trials.len())
    }

    #[test]
    fn the_rate_is_found_within_its_precision() {
        for capacity in [1_200.0, 70_000.0, 263_000.0, 1_900_000.0] {
            let (rate, trials) = found(capacity, 2_000_000.0, 0.0);
            assert!(rate <= capacity && rate > capacity * 0.97, "{capacity}: {rate}");
            assert!(trials < 15, "{capacity}: {trials} trials");
        }
    }

    #[test]
    fn one_trial_is_enough_where_nothing_is_lost() {
        let (rate, trials) = found(2_000_000.0, 1_000_000.0, 0.0);
        assert!((rate - 1_000_000.0).abs() < 1.0 && trials == 1, "{rate}, {trials} trials");
    }

    #[test]
    fn a_little_loss_allows_a_little_more() {
        let (rate, _) = found(100_000.0, 2_000_000.0, 0.1);
        assert!((107_000.0..112_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn nothing_is_found_where_everything_is_lost() {
        assert!(found(0.0, 1_000_000.0, 0.0).0 < 1.0);
    }
}
