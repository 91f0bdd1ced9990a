//! Waiting until no program that began before can still be running.

use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};

/// Waits until every eBPF program that is running now has ended, those of other CPUs included. What they
/// were using may be written over then.
///
/// The kernel's `membarrier` waits for a grace period of RCU, which the programs run within
/// (`kernel/sched/membarrier.c`). Kernels that keep CPUs free of ticks refuse it; a program takes
/// microseconds, so a pause does there.
pub(super) fn wait() {
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(200));
    }
}
