//! What values are within reason.

use std::ops::RangeInclusive;

/// Sockets of a queue.
pub const SOCKETS_PER_QUEUE: RangeInclusive<i64> = 1..=64;
/// Frames that may wait for a worker.
pub const RING: RangeInclusive<u32> = 256..=262_144;
/// Microseconds that one call of busy polling may take.
pub const BUSY_POLL: RangeInclusive<i64> = 0..=10_000;
