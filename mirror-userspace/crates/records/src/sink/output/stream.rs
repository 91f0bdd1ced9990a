//! Lines to a reader, through standard output or a stream socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};

use super::{Lines, StallPolicy, Written};

/// Bytes that a writable pipe accepts without blocking (`PIPE_BUF`).
const PIPE: usize = 4096;

#[derive(Debug)]
enum End {
    Stdout {
        /// Maximum number of bytes in one write.
        at_once: usize,
    },
    Socket(OwnedFd),
}

#[derive(Debug)]
pub(crate) struct Stream {
    end: End,
    patience: StallPolicy,
    /// The reader accepted nothing for longer than the limit.
    stalled: bool,
    /// A line was cut: the reader accepted no more of it.
    torn: bool,
}

impl Stream {
    pub(super) fn stdout(patience: StallPolicy) -> Self {
        let kind = fstat(io::stdout()).map_or(0, |stat| stat.st_mode) & SFlag::S_IFMT.bits();
        let at_once = if kind == SFlag::S_IFREG.bits() { usize::MAX } else { PIPE };
        Self { end: End::Stdout { at_once }, patience, stalled: false, torn: false }
    }

    pub(super) const fn socket(socket: OwnedFd, patience: StallPolicy) -> Self {
        Self { end: End::Socket(socket), patience, stalled: false, torn: false }
    }

    pub(super) fn write(&mut self, lines: Lines<'_>) -> Written {
        if self.torn {
            // Ends the line that was cut, so that only that one is broken.
            if let (0, error) = self.write_text(b"\n") {
                return (0, error);
            }
            self.torn = false;
        }
        let (written, error) = self.write_text(lines.text);
        let whole = lines.whole(written);
        self.torn = written > lines.start(whole);
        (whole, error)
    }

    fn write_text(&mut self, text: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(count) => written += count,
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    fn write_some(&mut self, text: &[u8]) -> io::Result<usize> {
        let Self { end, patience, stalled, .. } = self;
        let result = match end {
            End::Stdout { at_once } => {
                let stdout = io::stdout();
                wait_for_room(stdout.as_fd(), *patience, stalled)?;
                nix::unistd::write(stdout, text.get(..*at_once).unwrap_or(text))
            }
            End::Socket(socket) => {
                wait_for_room(socket.as_fd(), *patience, stalled)?;
                send(socket.as_raw_fd(), text, MsgFlags::MSG_NOSIGNAL)
            }
        };
        match result {
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(0),
            other => Ok(other?),
        }
    }
}

/// Waits until a reader has room, up to the limit. `stalled` is set once the limit has passed.
pub(super) fn wait_for_room(fd: BorrowedFd<'_>, patience: StallPolicy, stalled: &mut bool) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let timeout = match patience.limit() {
            None => PollTimeout::NONE,
            Some(_) if *stalled => PollTimeout::ZERO,
            Some(limit) => {
                PollTimeout::try_from(limit.saturating_sub(begun.elapsed())).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
            Ok(0) => {
                *stalled = true;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader accepts no data"));
            }
            Ok(_) => {
                *stalled = false;
                return Ok(());
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
