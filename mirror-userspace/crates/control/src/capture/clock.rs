//! Converts the clock of the XDP program to the time of day.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The interval, in nanoseconds, at which the difference of the two clocks is measured again: the time of day
/// jumps and is slewed, while the program's clock is not.
const RESAMPLE: u64 = 1_000_000_000;

/// Converts `CLOCK_MONOTONIC`, with which the program stamps frames, to nanoseconds since the epoch.
#[derive(Debug)]
pub(super) struct Clock {
    offset: u64,
    sampled: u64,
}

/// Returns the nanoseconds of a clock; 0 if the clock cannot be read, which does not happen on Linux.
fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map(Duration::from).map_or(0, |time| time.as_nanos() as u64)
}

impl Clock {
    pub(super) fn new() -> Self {
        let mut clock = Self { offset: 0, sampled: 0 };
        clock.sample();
        clock
    }

    fn sample(&mut self) {
        self.sampled = nanoseconds(ClockId::CLOCK_MONOTONIC);
        self.offset = nanoseconds(ClockId::CLOCK_REALTIME).wrapping_sub(self.sampled);
    }

    /// Returns the time of day at `monotonic`, in nanoseconds since the epoch.
    pub(super) const fn time_of_day(&self, monotonic: u64) -> u64 {
        self.offset.wrapping_add(monotonic)
    }

    /// Returns the nanoseconds by which the time of day is ahead of the program's clock.
    pub(super) const fn ahead(&self) -> u64 {
        self.offset
    }

    /// Returns the time of day, in nanoseconds since the epoch.
    pub(super) fn now(&mut self) -> u64 {
        let now = nanoseconds(ClockId::CLOCK_MONOTONIC);
        if now.wrapping_sub(self.sampled) >= RESAMPLE {
            self.sample();
        }
        self.time_of_day(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn now_is_the_time_of_day() {
        let before = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let now = Clock::new().now();
        let after = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        // The two clocks are read one after the other.
        let slack = 50_000_000;
        assert!((before - slack..=after + slack).contains(&now));
    }
}
