//! Destinations of the log: a file, which is rotated, standard output, or a Unix socket. Events that cannot
//! be written are lost, and the loss is reported. The sink waits for a slow reader, but only for a limited
//! time in a live capture.

mod file;
mod socket;
mod stream;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use mirror_base::ParseError;
use mirror_base::file::directory_of;
use mirror_base::sandbox::Files;

use self::file::LogFile;
use self::socket::Socket;
use self::stream::Stream;
use super::SinkError;

/// Length of the longest path of a Unix socket, in bytes (`sun_path` without the terminating 0).
const SOCKET_PATH: usize = 107;

/// The destination of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file that is appended to.
    File {
        /// Its path. The directory is created if it is missing.
        path: PathBuf,
        /// Its rotation.
        rotation: Rotation,
        /// Its permissions.
        modes: Modes,
    },
    /// Standard output.
    Stdout,
    /// A Unix socket that another process listens on.
    Socket {
        /// Its path.
        path: PathBuf,
        /// True if each event is a datagram. Otherwise the events are a stream of lines.
        datagrams: bool,
    },
}

impl Destination {
    /// Returns a file that is not rotated.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), rotation: Rotation::default(), modes: Modes::default() }
    }

    /// Checks that a name denotes a destination: it is a file name, or begins with a known kind. A file whose
    /// name looks like another kind is named by its path, such as `./udp:1`.
    ///
    /// # Errors
    ///
    /// Returns the reason why the name is not a destination.
    pub fn check(name: &str) -> Result<(), ParseError> {
        const ALLOWED: &str = "write a file, \"-\", \"unix-stream:PATH\" or \"unix-dgram:PATH\"";
        let wrong = |what: String| Err(ParseError::new(what, ALLOWED));
        let is_kind =
            |kind: &str| kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte));
        if name.contains('\0') {
            return wrong("a name cannot contain the NUL character".to_owned());
        }
        match name.split_once(':') {
            Some((kind @ ("unix-stream" | "unix-dgram"), path)) => match path.len() {
                0 => wrong(format!("`{kind}:` without a path")),
                1..=SOCKET_PATH => Ok(()),
                len => {
                    wrong(format!("the path of a socket has at most {SOCKET_PATH} bytes, this one has {len}"))
                }
            },
            Some((kind, _)) if is_kind(kind) => wrong(format!("`{kind}:` is no kind of output")),
            _ if name.is_empty()
                || name.ends_with('/')
                || matches!(name.rsplit('/').next(), Some("." | "..")) =>
            {
                wrong(format!("`{name}` is not a file name"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the files that the writing thread needs: the directory of a file, or of a socket.
    #[must_use]
    pub fn needed_files(&self) -> Files {
        match self {
            Self::File { path, .. } => Files { write: vec![directory_of(path)], ..Files::default() },
            Self::Stdout => Files::default(),
            Self::Socket { path, .. } => Files { connect: vec![directory_of(path)], ..Files::default() },
        }
    }

    /// Returns the destination that a name denotes: `-`, `unix-stream:PATH`, `unix-dgram:PATH`, or a file. A
    /// relative path is taken from `directory`.
    #[must_use]
    pub fn named(name: &Path, directory: &Path, rotation: Rotation, modes: Modes) -> Self {
        let text = name.to_str().unwrap_or_default();
        let socket = |path: &str, datagrams| Self::Socket { path: path.into(), datagrams };
        match (text, text.split_once(':')) {
            ("-", _) => Self::Stdout,
            (_, Some(("unix-stream", path))) => socket(path, false),
            (_, Some(("unix-dgram", path))) => socket(path, true),
            _ => Self::File { path: directory.join(name), rotation, modes },
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
            Self::Socket { path, .. } => write!(f, "to the socket {}", path.display()),
        }
    }
}

/// The conditions under which a log file is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Rotates the file before it would exceed this number of bytes.
    pub size: Option<u64>,
    /// Rotates at the multiples of this interval since 1970, UTC, so that 1 h means on the hour.
    pub interval: Option<Duration>,
    /// Number of rotated files that are kept; all if `None`.
    pub keep: Option<usize>,
}

/// The permissions of a file that is created, and of the directories that are created for it. The process's
/// umask may remove some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Permissions of the file, and of those that follow it in a rotation.
    pub file: u32,
    /// Permissions of each directory.
    pub directory: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self { file: 0o640, directory: 0o750 }
    }
}

impl Modes {
    /// Creates a directory and its parents, if they are missing.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(self.directory).create(path)
    }

    /// Returns the options for opening a file that is created if it is missing.
    #[must_use]
    pub fn create(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.create(true).mode(self.file);
        options
    }
}

/// The time to wait for a stalled reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallPolicy {
    /// Waits for ever: the choice for a reader of capture files.
    Endless,
    /// Waits for two seconds, and not again until the reader has accepted data: the choice for a live
    /// capture.
    Short,
}

impl StallPolicy {
    const SHORT: Duration = Duration::from_secs(2);

    const fn limit(self) -> Option<Duration> {
        match self {
            Self::Endless => None,
            Self::Short => Some(Self::SHORT),
        }
    }
}

/// An open destination.
#[derive(Debug)]
pub(super) enum Output {
    File(LogFile),
    Stdout(Stream),
    Socket(Socket),
}

/// Events as concatenated text, and the end of each.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    text: &'a [u8],
    ends: &'a [(usize, &'static str)],
    /// Offset that `ends` have in addition to positions in `text`.
    base: usize,
}

impl<'a> Lines<'a> {
    pub(super) const fn new(text: &'a [u8], ends: &'a [(usize, &'static str)]) -> Self {
        Self { text, ends, base: 0 }
    }

    /// Returns the number of events that are complete within the first `len` bytes.
    fn whole(&self, len: usize) -> usize {
        self.ends.partition_point(|&(end, _)| end - self.base <= len)
    }

    /// Returns the start of the event with this number.
    fn start(&self, event: usize) -> usize {
        event.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |&(end, _)| end - self.base)
    }

    /// Returns the events from this number on.
    fn from(&self, event: usize) -> Self {
        let start = self.start(event);
        let text = self.text.get(start..).unwrap_or_default();
        Self { text, ends: self.ends.get(event..).unwrap_or_default(), base: self.base + start }
    }
}

/// The result of a write: the number of events written, from the first on, and the error that stopped it.
pub(super) type Written = (usize, Option<io::Error>);

impl Output {
    pub(super) fn open(destination: Destination, patience: StallPolicy) -> Result<Self, SinkError> {
        Ok(match destination {
            Destination::File { path, rotation, modes } => Self::File(LogFile::open(path, rotation, modes)?),
            Destination::Stdout => Self::Stdout(Stream::stdout(patience)),
            Destination::Socket { path, datagrams } => Self::Socket(Socket::open(path, datagrams, patience)?),
        })
    }

    /// Writes as many events as possible.
    pub(super) fn write(&mut self, lines: Lines<'_>) -> Written {
        match self {
            Self::File(file) => file.write(lines),
            Self::Stdout(stream) => stream.write(lines),
            Self::Socket(socket) => socket.write(lines),
        }
    }

    /// Rotates a file if it is time, also when there is nothing to write.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.rotate_by_time(),
            Self::Stdout(_) | Self::Socket(_) => Ok(()),
        }
    }

    /// Sets a file's rotation.
    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        match self {
            Self::File(file) => file.set_rotation(rotation),
            Self::Stdout(_) | Self::Socket(_) => {}
        }
    }

    /// Reopens a file by its name, after it was moved away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Stdout(_) | Self::Socket(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
