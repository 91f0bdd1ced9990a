//! Opens files whose names come from outside. A path that is not a file neither blocks the process nor fills
//! its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};

/// Opens a file for reading. Opening a pipe does not wait for a writer.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY | O_CLOEXEC).open(path)
}

/// Returns the directory that contains a file; for the root it returns the root itself.
#[must_use]
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

/// Reads a regular file of at most `longest` bytes.
pub fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::other(format!("longer than {} MiB", longest >> 20)));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `longest` bytes as text.
pub fn read_text(path: &Path, longest: u64) -> io::Result<String> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    String::from_utf8(read(path, longest)?).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn hostile_files_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        for path in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
            assert!(read_text(path, 10).unwrap_err().to_string().contains("regular"), "{}", path.display());
        }
        let long = directory.path().join("long");
        fs::write(&long, "0123456789").unwrap();
        assert_eq!(read_text(&long, 10).unwrap(), "0123456789");
        assert!(read_text(&long, 9).unwrap_err().to_string().contains("longer"));
    }
}
