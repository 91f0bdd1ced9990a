//! Busy polling: a worker makes the driver look for frames, instead of waiting for its interrupt. It uses a
//! whole core. With the interface's `napi_defer_hard_irqs` and `gro_flush_timeout` set, interrupts stay off.

use std::io;
use std::os::fd::RawFd;

/// The most frames that one call handles, as in the kernel's documentation of `AF_XDP`.
const BUDGET: u32 = 64;

/// The busy-polling settings of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    microseconds: u32,
}

impl BusyPoll {
    /// Makes settings with which one call looks for frames for this many microseconds; `None` for 0.
    #[must_use]
    pub const fn of(microseconds: u32) -> Option<Self> {
        if microseconds > 0 { Some(Self { microseconds }) } else { None }
    }

    /// Returns the microseconds for which one call looks for frames.
    #[must_use]
    pub const fn microseconds(self) -> u32 {
        self.microseconds
    }
}

/// Enables busy polling on a socket (`include/uapi/asm-generic/socket.h`).
pub(super) fn enable(socket: RawFd, settings: BusyPoll) -> io::Result<()> {
    let options = [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, settings.microseconds),
        (libc::SO_BUSY_POLL_BUDGET, BUDGET),
    ];
    for (option, value) in options {
        // SAFETY: the kernel only reads the value, which has the given length.
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
