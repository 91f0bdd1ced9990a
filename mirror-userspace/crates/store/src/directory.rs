//! The directory of a store. The store opens, creates, renames, deletes and lists files only through this
//! module.
//!
//! The directory is opened once. Files are found relative to it by their [`FileName`] alone, which contains
//! no separator, and no symbolic link is followed (`O_NOFOLLOW`): only files in the directory itself are
//! reachable. `openat2` would add nothing, and the threads of a capture may not use it, since their seccomp
//! filters cannot see the mode with which it would create a file. Others may have put entries into the
//! directory. An entry that is not a regular file is refused by name. So is, for writing, a file that has
//! another name elsewhere.

use std::fs::{self as std_fs, DirBuilder, File, Permissions as StdPermissions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::names::FileName;

/// Modes of files and directories that the store creates, as for `chmod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Mode of files.
    pub file: u32,
    /// Mode of directories.
    pub directory: u32,
}

impl Default for Permissions {
    fn default() -> Self {
        Self { file: 0o640, directory: 0o750 }
    }
}

/// An entry with the name of one of the store's files that the store did not create.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is {what}; the store uses only regular files that it created itself: move it away")]
pub(super) struct Refused {
    name: FileName,
    what: &'static str,
}

impl Refused {
    /// Returns whether an error is a refusal.
    pub(super) fn is(error: &io::Error) -> bool {
        Self::said(error).is_some()
    }

    /// Returns the message of a refusal, if an error is one.
    pub(super) fn said(error: &io::Error) -> Option<String> {
        Some(error.get_ref()?.downcast_ref::<Self>()?.to_string())
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::other(refused)
    }
}

/// The identity of a file to the kernel, whatever its name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    descriptor: OwnedFd,
    identity: Identity,
    permissions: Permissions,
}

/// Creates a directory where it is missing, and its parents.
pub(super) fn make(path: &Path, permissions: Permissions) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(permissions.directory).create(path)?;
    // The umask may have removed bits.
    std_fs::set_permissions(path, StdPermissions::from_mode(permissions.directory))
}

impl Directory {
    /// Opens a directory. Its own path may contain symbolic links.
    pub(super) fn open(path: &Path, permissions: Permissions) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = fs::openat(fs::CWD, path, flags, Mode::empty())?;
        let identity = Identity::of(&fs::fstat(&descriptor)?);
        Ok(Self { path: path.to_owned(), descriptor, identity, permissions })
    }

    /// Opens a directory for reading files in it.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        Self::open(path, Permissions::default())
    }

    /// Returns the path by which the directory was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file, for messages.
    pub(super) fn named(&self, name: &FileName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Returns whether the path by which the directory was opened still refers to it.
    pub(super) fn is_there(&self) -> bool {
        match fs::statat(fs::CWD, &self.path, AtFlags::empty()) {
            Ok(stat) => Identity::of(&stat) == self.identity,
            // A directory that cannot be examined at present need not be gone.
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }

    /// Returns the device that the directory is on.
    pub(super) const fn device(&self) -> u64 {
        self.identity.0
    }

    /// Returns whether an open file still has this name.
    pub(super) fn has(&self, name: &FileName, file: &File) -> bool {
        let (Ok(named), Ok(open)) = (self.stat(name), fs::fstat(file)) else { return true };
        named.is_some_and(|named| Identity::of(&named) == Identity::of(&open))
    }

    /// Returns the file's status, if a file of this name exists. Does not follow symbolic links.
    fn stat(&self, name: &FileName) -> io::Result<Option<Stat>> {
        match fs::statat(&self.descriptor, name.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a file's size in bytes, if a file of this name exists. Fails if it is not a regular file.
    pub(super) fn size(&self, name: &FileName) -> io::Result<Option<u64>> {
        let Some(stat) = self.stat(name)? else { return Ok(None) };
        check(name, &stat, false)?;
        Ok(Some(stat.st_size.cast_unsigned()))
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: &FileName) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY)
    }

    /// Opens a file for reading and writing.
    pub(super) fn write(&self, name: &FileName) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR)
    }

    /// Opens a file for reading and writing; creates it where it is missing.
    pub(super) fn write_or_create(&self, name: &FileName) -> io::Result<File> {
        match self.write(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.create(name) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.write(name),
                result => result,
            },
            result => result,
        }
    }

    /// Creates a file that does not exist yet.
    pub(super) fn create(&self, name: &FileName) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(self.permissions.file);
        let file = self.open_by(name, flags, mode)?;
        // The umask may have removed bits.
        fs::fchmod(&file, mode)?;
        Ok(file)
    }

    /// Creates a file, and removes an earlier one of the same name.
    pub(super) fn replace(&self, name: &FileName) -> io::Result<File> {
        if let Some(stat) = self.stat(name)? {
            check(name, &stat, true)?;
            self.remove(name)?;
        }
        self.create(name)
    }

    /// Reads a whole file of at most `most` bytes.
    pub(super) fn read_whole(&self, name: &FileName, most: u64) -> io::Result<Vec<u8>> {
        let file = self.read(name)?;
        let too_long = || io::Error::other(format!("`{name}` is longer than {most} bytes"));
        if file.metadata()?.len() > most {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
    }

    fn open_file(&self, name: &FileName, flags: OFlags) -> io::Result<File> {
        let writes = flags.contains(OFlags::RDWR);
        // The check precedes the opening, since opening a device may have side effects.
        if let Some(stat) = self.stat(name)? {
            check(name, &stat, writes)?;
        }
        let file = self.open_by(name, flags, Mode::empty())?;
        check(name, &fs::fstat(&file)?, writes)?;
        Ok(file)
    }

    fn open_by(&self, name: &FileName, flags: OFlags, mode: Mode) -> io::Result<File> {
        // `O_NONBLOCK`: opening a FIFO would wait for its other end.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = fs::openat(&self.descriptor, name.to_string(), flags, mode);
        opened.map(File::from).map_err(|error| match error {
            Errno::LOOP => Refused { name: name.clone(), what: "a symbolic link" }.into(),
            // A FIFO without a reader, or a socket.
            Errno::NXIO => Refused { name: name.clone(), what: "no file" }.into(),
            error => error.into(),
        })
    }

    /// Deletes a file, if it exists. Of a symbolic link, deletes the link itself.
    pub(super) fn remove(&self, name: &FileName) -> io::Result<()> {
        match fs::unlinkat(&self.descriptor, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames a file to a name that does not exist yet.
    pub(super) fn rename_new(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        let (old, new) = (from.to_string(), to.to_string());
        let here = &self.descriptor;
        match fs::renameat_with(here, &old, here, &new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(taken(to)),
            // The file system does not support `RENAME_NOREPLACE`.
            Err(Errno::INVAL) => {
                self.is_free(to)?;
                Ok(fs::renameat(here, &old, here, &new)?)
            }
            result => Ok(result?),
        }
    }

    /// Fails if an entry of this name exists.
    pub(super) fn is_free(&self, name: &FileName) -> io::Result<()> {
        if self.stat(name)?.is_some() { Err(taken(name)) } else { Ok(()) }
    }

    /// Renames a file, and replaces another of the new name.
    pub(super) fn rename_over(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        Ok(fs::renameat(&self.descriptor, from.to_string(), &self.descriptor, to.to_string())?)
    }

    /// Makes earlier creations, renames and deletions survive a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.descriptor)?)
    }

    /// Returns the names of all entries of the directory that are valid UTF-8.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Returns the names of all files that the store may have created.
    pub(super) fn files(&self) -> io::Result<Vec<FileName>> {
        Ok(self.list()?.iter().filter_map(|name| FileName::parse(name)).collect())
    }

    /// Returns the number of free bytes on the directory's file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        let of = fs::fstatvfs(&self.descriptor)?;
        Ok(of.f_bavail.saturating_mul(of.f_frsize))
    }
}

fn taken(name: &FileName) -> io::Error {
    io::Error::other(format!("`{name}` already exists, but the store did not create it: move it away"))
}

/// Refuses an entry that cannot be a file of the store.
fn check(name: &FileName, stat: &Stat, writes: bool) -> Result<(), Refused> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if writes && stat.st_nlink > 1 => "a file with a second name (a hard link)",
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "no file",
    };
    Err(Refused { name: name.clone(), what })
}
