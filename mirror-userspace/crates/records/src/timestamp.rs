//! Times in records.

use mirror_packet::text::Clock;
use serde::{Serialize, Serializer};

/// A time in nanoseconds since the epoch, written in UTC to the microsecond.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub u64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&Clock::default().text(self.0)).unwrap_or_default())
    }
}
