//! The default number of buffers of a capture.

use std::num::NonZeroU32;

use mirror_base::meminfo;
use mirror_device::afxdp::CHUNK_SIZE;

/// The largest share of the machine's memory that buffers take, as its inverse.
const SHARE: u64 = 16;
/// Frames that may wait for a worker. Fewer would not last while a worker is off its core now and then; more
/// than tens of milliseconds at a million frames per second are useless, and do not stay in any cache.
const RING: std::ops::RangeInclusive<u32> = 2048..=32_768;

/// Returns the bytes of the buffers of this many queues, on a machine with this many bytes of memory.
#[must_use]
pub fn buffer_bytes(memory: u64, queues: u32) -> u64 {
    let ring = ring_of(memory, NonZeroU32::new(queues).unwrap_or(NonZeroU32::MIN));
    u64::from(queues) * u64::from(ring) * 2 * u64::from(CHUNK_SIZE)
}

/// Returns the frames that may wait for each worker, with this many queues in total.
#[must_use]
pub fn ring(queues: NonZeroU32) -> u32 {
    ring_of(of_machine(), queues)
}

/// Returns the machine's memory in bytes; 1 GiB if the kernel does not report it.
#[must_use]
pub fn of_machine() -> u64 {
    total(&meminfo::read()).unwrap_or(1 << 30)
}

/// Returns the machine's memory in bytes, from the text of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    Some(meminfo::field(text, "MemTotal")? << 10)
}

fn ring_of(memory: u64, queues: NonZeroU32) -> u32 {
    let buffers = memory / SHARE / u64::from(CHUNK_SIZE) / u64::from(queues.get());
    let (least, most) = RING.into_inner();
    // A queue has two buffers for each place in the ring.
    let ring = u32::try_from(buffers / 2).unwrap_or(most).clamp(least, most);
    1 << ring.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_take_a_share_of_the_memory_within_bounds() {
        let ring = |gigabytes: u64, queues| ring_of(gigabytes << 30, NonZeroU32::new(queues).unwrap());
        assert_eq!(ring(8, 1), 32_768);
        assert_eq!(ring(8, 4), 16_384);
        assert_eq!(ring(1024, 8), 32_768);
        assert_eq!(ring(1, 32), 2048);
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 << 10));
        assert_eq!(total(""), None);
    }
}
