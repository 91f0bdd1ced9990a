//! Waking a worker that waits for frames. Whoever has put something into one of its rings calls
//! [`Signal::wake`], which costs a system call only where the worker sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// By which one worker is woken.
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

    /// Wakes the worker if it sleeps. What was put into a ring before is seen by it in any case: either
    /// here it is found sleeping, or it looks at its rings after it has said that it will sleep.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only where the counter is full, and then the worker is woken already.
            let _ = self.event.write(1);
        }
    }

    /// Says that the worker is about to sleep; it looks at its rings once more before it does.
    pub(super) fn will_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the worker is awake.
    pub(super) fn is_awake(&self) {
        if !self.sleeping.swap(false, Ordering::Relaxed) {
            // Somebody has written; without a writer this would find nothing, and return.
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
