//! Waits until no program that began earlier can still be running.

use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};

/// Waits until every eBPF program that is running now has ended, on all CPUs. The data that they used may be
/// overwritten then.
///
/// The kernel's `membarrier` waits for a grace period of RCU, and the programs run within RCU read-side
/// critical sections (`kernel/sched/membarrier.c`). Kernels with tick-free CPUs refuse the call; a program
/// takes microseconds, so a pause suffices there.
pub(super) fn wait() {
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(200));
    }
}
