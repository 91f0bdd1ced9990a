//! The accepted ranges of receive settings.

use std::ops::RangeInclusive;

/// Sockets per receive queue.
pub const SOCKETS_PER_QUEUE: RangeInclusive<i64> = 1..=64;
/// Frames in the receive ring of a worker.
pub const RING: RangeInclusive<u32> = 256..=262_144;
/// Microseconds that one call of busy polling may take.
pub const BUSY_POLL: RangeInclusive<i64> = 0..=10_000;
