//! Wakes a worker that waits for frames. A thread that has put something into one of its rings calls
//! [`Signal::wake`], which costs a system call only if the worker sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The signal that wakes one worker.
#[derive(Debug)]
pub(super) struct Signal {
    event: EventFd,
    sleeping: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event, sleeping: AtomicBool::new(false) })
    }

    /// Wakes the worker if it sleeps. The worker sees everything put into a ring before this call: either it
    /// is found sleeping here, or it checks its rings after it has announced its sleep.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // This fails only if the counter is full, and then the worker is already being woken.
            let _ = self.event.write(1);
        }
    }

    /// Announces that the worker is about to sleep; it checks its rings once more before it does.
    pub(super) fn will_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Announces that the worker is awake.
    pub(super) fn is_awake(&self) {
        if !self.sleeping.swap(false, Ordering::Relaxed) {
            // A waker has written; without one, this would find nothing and return.
            let _ = self.event.read();
        }
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_signalled(signal: &Signal) -> bool {
        let mut fds = [PollFd::new(signal.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn only_a_sleeper_is_signalled_and_only_once() {
        let signal = Signal::new().unwrap();
        signal.wake();
        assert!(!is_signalled(&signal));
        signal.will_sleep();
        signal.wake();
        signal.wake();
        assert!(is_signalled(&signal));
        signal.is_awake();
        assert!(!is_signalled(&signal));
    }
}
