//! Reads files that hold a secret: the key of the packet store, the token of the API.
//!
//! A secret that others can read is no secret, and a file that others can write holds their secret. As `ssh`
//! does, this module refuses a file whose mode grants access to anybody but its owner. The group may read the
//! file, since the files of a service belong to root and to the group of the service. All checks are made on
//! the open file and not on its name, which may refer to another file a moment later.

use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::file;

/// Bytes of the longest secret; a longer file holds something else.
const LONGEST: u64 = 4096;
/// The group's write permission, and all permissions of others.
const EXPOSED: u32 = 0o027;

/// The reasons to refuse a file as a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path is a directory, a pipe or the like.
    #[error("{} is no regular file; name one with the secret in it", .0.display())]
    NotAFile(PathBuf),
    /// The file is too long.
    #[error("{} has more than {LONGEST} bytes, which no secret has; name another file", .0.display())]
    TooLong(PathBuf),
    /// Others can read or write the file.
    #[error(
        "{path} has mode {mode:04o}, which lets {} it; `chmod 640 {path}` restricts it",
        exposure(*mode),
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file belongs to another user, who can change it.
    #[error(
        "{path} belongs to user {owner}, who can change it; `chown {} {path}` changes the owner",
        nix::unistd::geteuid(),
        path = path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The user ID of its owner.
        owner: u32,
    },
}

/// Returns the users and the access that this mode grants, for an error message.
const fn exposure(mode: u32) -> &'static str {
    match (mode & 0o020 != 0, mode & 0o007) {
        (_, 0o002 | 0o003 | 0o006 | 0o007) => "everybody write to",
        (true, _) => "its group write to",
        _ => "everybody read",
    }
}

/// Reads a secret, and returns the content of the file as `parse` converts it. If `parse` fails, the file
/// holds no secret, so its mode and owner are not checked.
///
/// # Errors
///
/// Returns an error if the file cannot be read, if `parse` fails, if others can read or write the file, or if
/// it belongs to a user who is neither root nor the user of this process.
pub fn read<T, E: From<SecretError>>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, E> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let file = file::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // A device, such as /dev/null, stores nothing that others could read.
    let is_device = metadata.file_type().is_char_device();
    if !metadata.is_file() && !is_device {
        return Err(SecretError::NotAFile(path.to_owned()).into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(SecretError::TooLong(path.to_owned()).into());
    }
    let secret = parse(&bytes)?;
    if !is_device {
        check(path, metadata.mode(), metadata.uid())?;
    }
    Ok(secret)
}

/// Checks that nobody but root and the user of this process can read or change the file.
fn check(path: &Path, mode: u32, owner: u32) -> Result<(), SecretError> {
    let mode = mode & 0o7777;
    if mode & EXPOSED != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(SecretError::Foreign { path: path.to_owned(), owner });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use nix::sys::stat::Mode;

    use super::*;

    fn text(path: &Path) -> Result<String, SecretError> {
        read(path, |bytes| Ok(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn file(directory: &tempfile::TempDir, mode: u32) -> PathBuf {
        let path = directory.path().join(format!("{mode:o}"));
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn hostile_modes_are_refused_with_what_mends_them() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o400, 0o600, 0o440, 0o640, 0o700, 0o750] {
            assert_eq!(text(&file(&directory, mode)).unwrap(), "secret", "{mode:o}");
        }
        for (mode, by) in [
            (0o644, "everybody read"),
            (0o604, "everybody read"),
            (0o642, "everybody write"),
            (0o646, "everybody write"),
            (0o660, "its group write"),
            (0o666, "everybody write"),
            (0o4777, "everybody write"),
        ] {
            let error = text(&file(&directory, mode)).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}, which lets {by}")), "{error}");
            assert!(error.contains("chmod 640 "), "{error}");
        }
    }

    #[test]
    fn hostile_files_neither_hang_nor_fill_the_memory() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        for path in [pipe.as_path(), directory.path()] {
            let error = text(path).unwrap_err();
            assert!(matches!(error, SecretError::NotAFile(_)), "{error}");
        }
        let long = file(&directory, 0o600);
        fs::write(&long, [b'a'; LONGEST as usize + 1]).unwrap();
        assert!(matches!(text(&long), Err(SecretError::TooLong(_))));
        assert!(matches!(text(Path::new("/dev/zero")), Err(SecretError::TooLong(_))));
        assert_eq!(text(Path::new("/dev/null")).unwrap(), "");
    }

    #[test]
    fn a_secret_that_another_user_can_change_is_refused() {
        let me = nix::unistd::geteuid().as_raw();
        for owner in [0, me] {
            check(Path::new("key"), 0o100_640, owner).unwrap();
        }
        let error = check(Path::new("key"), 0o100_640, me + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("user {}", me + 1)) && error.contains("chown"), "{error}");
    }

    #[test]
    fn a_file_without_a_secret_is_told_to_be_so_whatever_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let none = |_: &[u8]| Err::<(), _>(SecretError::NotAFile("none".into()));
        let error = read(&file(&directory, 0o666), none).unwrap_err();
        assert!(matches!(error, SecretError::NotAFile(path) if path == Path::new("none")));
    }
}
