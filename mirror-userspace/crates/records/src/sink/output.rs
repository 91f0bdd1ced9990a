//! Where the log goes: a file, which is rotated, standard output, or a Unix socket. What cannot be written
//! is lost and told to be so; a reader that does not keep up is waited for, but not for ever where frames
//! come in meanwhile.

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

/// Bytes of the longest path of a Unix socket (`sun_path`, less the 0 behind it).
const SOCKET_PATH: usize = 107;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, which is appended to.
    File {
        /// Its path; its directory is made where it is missing.
        path: PathBuf,
        /// When it is put aside and begun anew.
        rotation: Rotation,
        /// Who may read it.
        modes: Modes,
    },
    /// Standard output.
    Stdout,
    /// A Unix socket that somebody listens to.
    Socket {
        /// Its path.
        path: PathBuf,
        /// Whether each event is a datagram; else they are a stream of lines.
        datagrams: bool,
    },
}

impl Destination {
    /// A file that is not rotated.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), rotation: Rotation::default(), modes: Modes::default() }
    }

    /// Finds out whether a name means a destination: whether it is a file's, or begins with a kind that there is.
    /// A file whose name looks like another kind is named by its path, such as `./udp:1`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn check(name: &str) -> Result<(), ParseError> {
        const ALLOWED: &str = "write a file, \"-\", \"unix-stream:PATH\" or \"unix-dgram:PATH\"";
        let wrong = |what: String| Err(ParseError::new(what, ALLOWED));
        let is_kind =
            |kind: &str| kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte));
        if name.contains('\0') {
            return wrong("no name has the character 0".to_owned());
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
                wrong(format!("`{name}` is no name of a file"))
            }
            _ => Ok(()),
        }
    }

    /// What the thread that writes it works with: the directory of a file, or of a socket.
    pub fn needed_files(&self) -> Files {
        match self {
            Self::File { path, .. } => Files { write: vec![directory_of(path)], ..Files::default() },
            Self::Stdout => Files::default(),
            Self::Socket { path, .. } => Files { connect: vec![directory_of(path)], ..Files::default() },
        }
    }

    /// The destination that a name means: `-`, `unix-stream:PATH`, `unix-dgram:PATH`, or a file, which is
    /// in `directory` unless it says otherwise.
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

/// When a log file is put aside under another name and begun anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Before it would have more bytes than this.
    pub size: Option<u64>,
    /// When so much time has passed: at its multiples since 1970, UTC, so that 1 h means on the hour.
    pub interval: Option<Duration>,
    /// So many of those that were put aside are kept; all, where this is not said.
    pub keep: Option<usize>,
}

/// The permissions of a file that is made, and of the directories that are made for it. The process's umask may take
/// some of them away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Of the file, and of those that follow it when it is rotated.
    pub file: u32,
    /// Of each directory.
    pub directory: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self { file: 0o640, directory: 0o750 }
    }
}

impl Modes {
    /// Makes a directory, and those that it is in, where they are missing.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(self.directory).create(path)
    }

    /// How a file is opened that is made where it is missing.
    #[must_use]
    pub fn create(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.create(true).mode(self.file);
        options
    }
}

/// How long a reader that takes nothing is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever: the way of a reader of capture files.
    Endless,
    /// For two seconds, and not again until it has taken something: the way of a live capture.
    Short,
}

impl Patience {
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

/// Events as text, one after the other, and where each ends.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    text: &'a [u8],
    ends: &'a [(usize, &'static str)],
    /// What `ends` are more than places in `text`.
    base: usize,
}

impl<'a> Lines<'a> {
    pub(super) const fn new(text: &'a [u8], ends: &'a [(usize, &'static str)]) -> Self {
        Self { text, ends, base: 0 }
    }

    /// How many events are whole within the first `len` bytes.
    fn whole(&self, len: usize) -> usize {
        self.ends.partition_point(|&(end, _)| end - self.base <= len)
    }

    /// Where the event with this number begins.
    fn start(&self, event: usize) -> usize {
        event.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |&(end, _)| end - self.base)
    }

    /// The events from this number on.
    fn from(&self, event: usize) -> Self {
        let start = self.start(event);
        let text = self.text.get(start..).unwrap_or_default();
        Self { text, ends: self.ends.get(event..).unwrap_or_default(), base: self.base + start }
    }
}

/// What became of events: how many, from the first on, are written, and what stopped that.
pub(super) type Written = (usize, Option<io::Error>);

impl Output {
    pub(super) fn open(destination: Destination, patience: Patience) -> Result<Self, SinkError> {
        Ok(match destination {
            Destination::File { path, rotation, modes } => Self::File(LogFile::open(path, rotation, modes)?),
            Destination::Stdout => Self::Stdout(Stream::stdout(patience)),
            Destination::Socket { path, datagrams } => Self::Socket(Socket::open(path, datagrams, patience)?),
        })
    }

    /// Writes as many events as it can.
    pub(super) fn write(&mut self, lines: Lines<'_>) -> Written {
        match self {
            Self::File(file) => file.write(lines),
            Self::Stdout(stream) => stream.write(lines),
            Self::Socket(socket) => socket.write(lines),
        }
    }

    /// Begins a file anew where it is time, also when there is nothing to write.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.rotate_by_time(),
            Self::Stdout(_) | Self::Socket(_) => Ok(()),
        }
    }

    /// Sets when a file is put aside.
    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        match self {
            Self::File(file) => file.set_rotation(rotation),
            Self::Stdout(_) | Self::Socket(_) => {}
        }
    }

    /// Opens a file by its name again: somebody has moved it away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Stdout(_) | Self::Socket(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
