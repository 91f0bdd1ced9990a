//! Errors of the XDP program and its maps.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// The reasons why the program could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not match this code.
    #[error("the embedded eBPF object lacks `{0}`: rebuild it with `cargo xtask build`")]
    Missing(&'static str),
    /// The kernel rejected the object.
    #[error("the kernel did not load the eBPF program")]
    Load(#[from] EbpfError),
    /// The kernel refused an operation on the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel refused an operation on a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The system does not report the number of possible CPUs.
    #[error("cannot find out the number of possible CPUs")]
    Cpus(#[source] std::io::Error),
}

impl Error {
    /// Returns the system's error number at the root of the error, if there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            next = error.source();
        }
        None
    }
}
