//! A log file, rotated when it is large or old, and created again if it was removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use super::{Lines, Modes, Rotation, Written};
use crate::sink::SinkError;

/// The suffix of a rotated file: the time of the rotation, UTC.
const STAMP: &[FormatItem<'_>] = format_description!("[year][month][day]-[hour][minute][second]");
const STAMP_LEN: usize = "20261125-051403".len();

#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    modes: Modes,
    file: File,
    size: u64,
    /// The number of the rotation interval in which it was begun.
    interval: u64,
    /// The file ends within a line, after a write that failed half way.
    torn: bool,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, rotation: Rotation, modes: Modes) -> Result<Self, SinkError> {
        if let Some(directory) = path.parent() {
            modes
                .make_directory(directory)
                .map_err(|source| SinkError::Directory { path: directory.to_owned(), source })?;
        }
        let opened = append(&path, modes).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|source| SinkError::Open { path: path.clone(), source })?;
        let begun = metadata.modified().ok().filter(|_| metadata.len() > 0).unwrap_or_else(SystemTime::now);
        let interval = interval(&rotation, begun);
        Ok(Self { path, rotation, modes, file, size: metadata.len(), interval, torn: false })
    }

    /// Sets the rotation. This does not end the current interval.
    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        if rotation.interval != self.rotation.interval {
            self.interval = interval(&rotation, SystemTime::now());
        }
        self.rotation = rotation;
    }

    pub(super) fn write(&mut self, lines: Lines<'_>) -> Written {
        if self.is_removed()
            && let Err(error) = self.make_again()
        {
            return (0, Some(error));
        }
        // If the rotation fails, events still go to the old file.
        let mut failure = self.rotate_by_time().err();
        // The first event that is in the current file, and not in a rotated one.
        let (mut first, mut done) = (0, 0);
        while done < lines.ends.len() {
            let start = lines.start(done);
            let mut fitting = lines.ends.len();
            if let (Some(size), None) = (self.rotation.size, &failure) {
                let room = usize::try_from(size.saturating_sub(self.size)).unwrap_or(usize::MAX);
                fitting = lines.whole(start.saturating_add(room)).max(done);
                if fitting == done && self.size > 0 {
                    failure = self.rotate().err();
                    if failure.is_none() {
                        first = done;
                    }
                    continue;
                }
                fitting = fitting.max(done + 1);
            }
            let text = lines.text.get(start..lines.start(fitting)).unwrap_or_default();
            let (written, error) = self.write_text(text);
            done = lines.whole(start + written);
            if error.is_some() {
                failure = error;
                break;
            }
        }
        if done > first && self.is_removed() {
            return (first, Some(io::Error::other("it was removed")));
        }
        (done, failure)
    }

    /// Returns true if the file has no name any more, so that no reader can open it.
    fn is_removed(&self) -> bool {
        let Ok(open) = self.file.metadata() else { return false };
        // Some file systems do not count links.
        let same = |named: fs::Metadata| (named.dev(), named.ino()) == (open.dev(), open.ino());
        open.nlink() == 0 && !fs::metadata(&self.path).is_ok_and(same)
    }

    /// Creates the removed file again, with its directory. A sandboxed process can access the directory that
    /// it began with, but not one that is created in its place.
    fn make_again(&mut self) -> io::Result<()> {
        let made = self.path.parent().map_or(Ok(()), |directory| self.modes.make_directory(directory));
        match made.and_then(|()| self.reopen()) {
            Ok(()) => {
                tracing::warn!("{} was removed; it is created again", self.path.display());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::new(
                error.kind(),
                "its directory was removed, and the process is confined to that one; restart it to log again",
            )),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("it was removed and cannot be created again: {error}"),
            )),
        }
    }

    /// Writes as much of a text as the file accepts. Returns the number of bytes, and the error that stopped
    /// it.
    fn write_text(&mut self, text: &[u8]) -> (usize, Option<io::Error>) {
        if self.torn {
            // Ends the line that an earlier failure left unfinished, so that only that one is broken.
            if let Err(error) = self.file.write_all(b"\n") {
                return (0, Some(error));
            }
            self.torn = false;
        }
        let mut written = 0;
        let error = loop {
            let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) else { break None };
            match self.file.write(rest) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        self.size += written as u64;
        if let Some(last) = written.checked_sub(1) {
            self.torn = text.get(last) != Some(&b'\n');
        }
        (written, error)
    }

    /// Rotates the file if an interval has ended since it was begun.
    pub(super) fn rotate_by_time(&mut self) -> io::Result<()> {
        let now = interval(&self.rotation, SystemTime::now());
        if now == self.interval {
            return Ok(());
        }
        self.interval = now;
        if self.size == 0 { Ok(()) } else { self.rotate() }
    }

    /// Renames the file to a unique name, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let aside = self.name_aside()?;
        fs::rename(&self.path, &aside)?;
        if let Err(error) = self.reopen() {
            // One large file is better than none.
            let _ = fs::rename(&aside, &self.path);
            return Err(error);
        }
        self.thin_out()
    }

    /// Returns a free name: a second one within a second has a number.
    fn name_aside(&self) -> io::Result<PathBuf> {
        let stamp = OffsetDateTime::now_utc().format(STAMP).map_err(io::Error::other)?;
        let named = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(if number == 0 { format!(".{stamp}") } else { format!(".{stamp}-{number}") });
            PathBuf::from(name)
        };
        let free = (0..u32::MAX).map(named).find(|path| !path.exists());
        free.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// Removes the oldest rotated files beyond the number to keep.
    fn thin_out(&self) -> io::Result<()> {
        let Some(keep) = self.rotation.keep else { return Ok(()) };
        let mut aside = put_aside(&self.path)?;
        aside.sort_unstable();
        let many = aside.len().saturating_sub(keep);
        aside.iter().take(many).try_for_each(|(_, _, path)| fs::remove_file(path))
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = append(&self.path, self.modes)?;
        self.size = file.metadata()?.len();
        self.file = file;
        self.torn = false;
        Ok(())
    }
}

/// Returns the rotated files of a log: stamp, number, path.
fn put_aside(log: &Path) -> io::Result<Vec<(String, u32, PathBuf)>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let suffix = path.file_name().and_then(|file| file.to_str()?.strip_prefix(name)?.strip_prefix('.'));
        let Some((stamp, number)) = suffix.and_then(|suffix| suffix.split_at_checked(STAMP_LEN)) else {
            continue;
        };
        let is_stamp = stamp.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        let number = match number {
            "" => Some(0),
            number => number.strip_prefix('-').and_then(|number| number.parse().ok()),
        };
        if let Some(number) = number.filter(|_| is_stamp) {
            found.push((stamp.to_owned(), number, path));
        }
    }
    Ok(found)
}

/// Directories to which only the system adds files: standard output, the pipes of a shell, `/dev/null`.
const OF_THE_SYSTEM: [&str; 3] = ["/dev", "/dev/fd", "/proc/self/fd"];

/// Opens a log to append to it. Others may have put something in its place: a link by which the records would go to
/// another file, or a pipe that would block the writer.
fn append(path: &Path, modes: Modes) -> io::Result<File> {
    let mut options = modes.create();
    options.append(true);
    if path.parent().is_some_and(|parent| OF_THE_SYSTEM.iter().any(|of| parent == Path::new(of))) {
        return options.open(path);
    }
    let opened = options.custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY).open(path);
    let metadata = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => fs::symlink_metadata(path),
    };
    match metadata.ok().and_then(|found| foreign(&found)) {
        Some(what) => {
            Err(io::Error::other(format!("it is {what}, and a log is a regular file: move it away")))
        }
        None => opened,
    }
}

/// Describes a file that cannot be a log.
fn foreign(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    Some(if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else if kind.is_file() && metadata.nlink() > 1 {
        "a file that has another name, too (a hard link)"
    } else {
        return None;
    })
}

/// Returns the number of the interval that contains a time.
fn interval(rotation: &Rotation, time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rotation.interval.map_or(0, |interval| since.as_secs() / interval.as_secs().max(1))
}
