//! The host that a capture runs on: its CPUs, its memory, the privileges of this process, and the UDP port of mirror
//! traffic, which is reserved so that the kernel answers nothing.

use std::io;

use mirror_base::sandbox::{self, Kind};

pub mod cpus;
pub mod memory;
pub mod port;
pub mod privilege;

pub use cpus::CpuList;

/// The lowest priority, as `nice(2)` takes it.
const NICE: i32 = 19;

/// Starts a thread of low priority that may read the files of the main thread, so that neither the packet path nor the main
/// thread waits for them. It ends with the process.
pub(crate) fn spawn_beside(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // On Linux, the value applies to the thread only. If the call fails, it has the priority of other threads.
    let lower = || {
        let _ = rustix::process::nice(NICE);
    };
    sandbox::spawn(name.to_owned(), Kind::Main, lower, run).map(drop)
}
