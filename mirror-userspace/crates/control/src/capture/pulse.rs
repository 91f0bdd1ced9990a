//! The heartbeat of a worker, which stores the time with each iteration, with or without traffic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A worker without an iteration for longer than this is stuck.
const STILL: Duration = Duration::from_secs(2);

/// The time of a worker's last iteration.
#[derive(Debug)]
pub struct Pulse {
    base: Instant,
    /// Milliseconds after `base`.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { base: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Stores that the worker made an iteration now.
    pub(super) fn beat(&self) {
        self.last.store(self.base.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns the time since the worker's last iteration.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.base.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// Returns whether the worker makes progress.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.age() < STILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_no_turn_does_not_move_any_more() {
        let Some(base) = Instant::now().checked_sub(STILL * 2) else { return };
        let pulse = Pulse { base, last: AtomicU64::new(0) };
        assert!(!pulse.is_moving());
        pulse.beat();
        assert!(pulse.is_moving());
    }
}
