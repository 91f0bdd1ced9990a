//! Busy polling: a worker has the driver look for frames, instead of waiting for its interrupt. It takes all
//! of a core. With `napi_defer_hard_irqs` and `gro_flush_timeout` of the interface set, interrupts stay off.

use std::io;
use std::os::fd::RawFd;

/// Frames that one call handles at most, as the kernel's documentation of `AF_XDP` has it.
const BUDGET: u32 = 64;

/// How a socket polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    microseconds: u32,
}

impl BusyPoll {
    /// One call looks for frames for so many microseconds; `None` for 0.
    #[must_use]
    pub const fn of(microseconds: u32) -> Option<Self> {
        if microseconds > 0 { Some(Self { microseconds }) } else { None }
    }

    /// Microseconds that one call looks for frames.
    #[must_use]
    pub const fn microseconds(self) -> u32 {
        self.microseconds
    }
}

/// Switches it on (`include/uapi/asm-generic/socket.h`).
pub(super) fn enable(socket: RawFd, settings: BusyPoll) -> io::Result<()> {
    let options = [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, settings.microseconds),
        (libc::SO_BUSY_POLL_BUDGET, BUDGET),
    ];
    for (option, value) in options {
        // SAFETY: the value is read only, and as long as it is said to be.
        let result = unsafe {
            libc::setsockopt(
                socket,
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
