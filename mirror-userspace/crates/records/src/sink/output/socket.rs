//! A Unix socket with a reader that may go away and come back.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};

use super::stream::{Stream, wait_for_room};
use super::{Lines, StallPolicy, Written};
use crate::sink::SinkError;

/// Time between two attempts to reconnect.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Connection {
    Lines(Stream),
    Datagrams { socket: OwnedFd, stalled: bool },
}

#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    datagrams: bool,
    patience: StallPolicy,
    connection: Option<Connection>,
    tried: Instant,
}

impl Socket {
    /// Connects. In a live capture, the reader may come later.
    pub(super) fn open(path: PathBuf, datagrams: bool, patience: StallPolicy) -> Result<Self, SinkError> {
        let mut this = Self { path, datagrams, patience, connection: None, tried: Instant::now() };
        match this.connect() {
            Ok(connection) => this.connection = Some(connection),
            Err(source) if patience == StallPolicy::Endless => {
                return Err(SinkError::Connect { path: this.path, source });
            }
            Err(error) => tracing::warn!(
                "no process listens on {}: {error}; records are lost until one does",
                this.path.display()
            ),
        }
        Ok(this)
    }

    fn connect(&mut self) -> io::Result<Connection> {
        self.tried = Instant::now();
        let kind = if self.datagrams { SockType::Datagram } else { SockType::Stream };
        // A blocking socket would wait for a listener that is too busy to accept.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, kind, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        Ok(if self.datagrams {
            Connection::Datagrams { socket, stalled: false }
        } else {
            Connection::Lines(Stream::socket(socket, self.patience))
        })
    }

    /// Writes as many events as the reader accepts. If the reader has gone, another may have come in its
    /// place.
    pub(super) fn write(&mut self, lines: Lines<'_>) -> Written {
        let was_there = self.connection.is_some();
        let (whole, error) = self.write_once(lines);
        if was_there && self.connection.is_none() {
            let (more, error) = self.write_once(lines.from(whole));
            return (whole + more, error);
        }
        (whole, error)
    }

    fn write_once(&mut self, lines: Lines<'_>) -> Written {
        if self.connection.is_none() && self.tried.elapsed() >= RETRY {
            match self.connect() {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => return (0, Some(error)),
            }
        }
        let (whole, error) = match &mut self.connection {
            None => (0, Some(io::ErrorKind::NotConnected.into())),
            Some(Connection::Lines(stream)) => stream.write(lines),
            Some(Connection::Datagrams { socket, stalled }) => {
                write_datagrams(socket, self.patience, stalled, lines)
            }
        };
        if error.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::TimedOut) {
            self.connection = None;
        }
        (whole, error)
    }
}

/// Sends each event as a datagram.
fn write_datagrams(socket: &OwnedFd, patience: StallPolicy, stalled: &mut bool, lines: Lines<'_>) -> Written {
    for event in 0..lines.ends.len() {
        let text = lines.text.get(lines.start(event)..lines.start(event + 1)).unwrap_or_default();
        loop {
            if let Err(error) = wait_for_room(socket.as_fd(), patience, stalled) {
                return (event, Some(error));
            }
            match send(socket.as_raw_fd(), text, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => break,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return (event, Some(error.into())),
            }
        }
    }
    (lines.ends.len(), None)
}
