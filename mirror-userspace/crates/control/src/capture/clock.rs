//! From the clock of the XDP program to the time of day.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time of day jumps and is slewed while the program's clock runs on, so the difference between them
/// is taken anew after this long.
const RESAMPLE: u64 = 1_000_000_000;

/// Converts `CLOCK_MONOTONIC`, which the program stamps frames with, into nanoseconds since the epoch.
#[derive(Debug)]
pub(super) struct Clock {
    offset: u64,
    sampled: u64,
}

/// Nanoseconds of a clock. A clock that cannot be read, which Linux does not have, stands still.
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

    /// The time of day at `monotonic`, in nanoseconds since the epoch.
    pub(super) const fn time_of_day(&self, monotonic: u64) -> u64 {
        self.offset.wrapping_add(monotonic)
    }

    /// How far the time of day is ahead of the program's clock, in nanoseconds.
    pub(super) const fn ahead(&self) -> u64 {
        self.offset
    }

    /// The time of day, in nanoseconds since the epoch.
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
