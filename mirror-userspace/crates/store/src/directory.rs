//! The directory of a store, and the only way in which the store opens, makes, renames, deletes and lists
//! files in it.
//!
//! The directory is opened once. Files are found from there by their [`FileName`] alone, which has no separator in
//! it, and no symbolic link is followed (`O_NOFOLLOW`): nothing else is reached than what lies in the directory itself.
//! `openat2` would add nothing, and the threads of a capture may not use it, since their filters of system calls
//! cannot see with which mode it would make a file. What is in the directory may have
//! been put there by others: what is no regular file is refused by name, and so is, for writing, a file that
//! has another name elsewhere.

use std::fs::{self as std_fs, DirBuilder, File, Permissions as StdPermissions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::names::FileName;

/// Who may do what with files and directories that the store makes, as `chmod` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Of files.
    pub file: u32,
    /// Of directories.
    pub directory: u32,
}

impl Default for Permissions {
    fn default() -> Self {
        Self { file: 0o640, directory: 0o750 }
    }
}

/// A file in the place of one of the store's is not one that the store has made.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is {what}; the store takes only plain files that it has made itself: move it away")]
pub(super) struct Refused {
    name: FileName,
    what: &'static str,
}

impl Refused {
    /// Whether an error is one.
    pub(super) fn is(error: &io::Error) -> bool {
        Self::said(error).is_some()
    }

    /// What it says, if an error is one.
    pub(super) fn said(error: &io::Error) -> Option<String> {
        Some(error.get_ref()?.downcast_ref::<Self>()?.to_string())
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::other(refused)
    }
}

/// By which the kernel knows a file, whatever its name: its device and its inode.
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

/// Makes a directory where it is missing, with those above it.
pub(super) fn make(path: &Path, permissions: Permissions) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(permissions.directory).create(path)?;
    // Whatever the umask takes away.
    std_fs::set_permissions(path, StdPermissions::from_mode(permissions.directory))
}

impl Directory {
    /// Opens a directory; its own path may have links in it.
    pub(super) fn open(path: &Path, permissions: Permissions) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = fs::openat(fs::CWD, path, flags, Mode::empty())?;
        let identity = Identity::of(&fs::fstat(&descriptor)?);
        Ok(Self { path: path.to_owned(), descriptor, identity, permissions })
    }

    /// Opens a directory to read files in it.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        Self::open(path, Permissions::default())
    }

    /// The path that it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, for messages.
    pub(super) fn named(&self, name: &FileName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Whether the path that it was opened by still names it.
    pub(super) fn is_there(&self) -> bool {
        match fs::statat(fs::CWD, &self.path, AtFlags::empty()) {
            Ok(stat) => Identity::of(&stat) == self.identity,
            // What cannot be looked at just now need not be gone.
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }

    /// The device that it is on.
    pub(super) const fn device(&self) -> u64 {
        self.identity.0
    }

    /// Whether a file that is open still has this name.
    pub(super) fn has(&self, name: &FileName, file: &File) -> bool {
        let (Ok(named), Ok(open)) = (self.stat(name), fs::fstat(file)) else { return true };
        named.is_some_and(|named| Identity::of(&named) == Identity::of(&open))
    }

    /// What the kernel says of a file, if there is one of this name. No link is followed.
    fn stat(&self, name: &FileName) -> io::Result<Option<Stat>> {
        match fs::statat(&self.descriptor, name.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of a file, if there is one of this name; an error where it is no plain file.
    pub(super) fn size(&self, name: &FileName) -> io::Result<Option<u64>> {
        let Some(stat) = self.stat(name)? else { return Ok(None) };
        check(name, &stat, false)?;
        Ok(Some(stat.st_size.cast_unsigned()))
    }

    /// Opens a file to read it.
    pub(super) fn read(&self, name: &FileName) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY)
    }

    /// Opens a file to read and to change it.
    pub(super) fn write(&self, name: &FileName) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR)
    }

    /// Opens a file to read and to change it; makes it where it is missing.
    pub(super) fn write_or_create(&self, name: &FileName) -> io::Result<File> {
        match self.write(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.create(name) {
                // Another process was quicker.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.write(name),
                result => result,
            },
            result => result,
        }
    }

    /// Makes a file that is not there.
    pub(super) fn create(&self, name: &FileName) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(self.permissions.file);
        let file = self.open_by(name, flags, mode)?;
        // Whatever the umask takes away.
        fs::fchmod(&file, mode)?;
        Ok(file)
    }

    /// Makes a file, in the place of an earlier one if there is one.
    pub(super) fn replace(&self, name: &FileName) -> io::Result<File> {
        if let Some(stat) = self.stat(name)? {
            check(name, &stat, true)?;
            self.remove(name)?;
        }
        self.create(name)
    }

    /// Reads a whole file of at most so many bytes.
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
        // Before it is opened: to open a device may already do something.
        if let Some(stat) = self.stat(name)? {
            check(name, &stat, writes)?;
        }
        let file = self.open_by(name, flags, Mode::empty())?;
        check(name, &fs::fstat(&file)?, writes)?;
        Ok(file)
    }

    fn open_by(&self, name: &FileName, flags: OFlags, mode: Mode) -> io::Result<File> {
        // Opening a FIFO would wait for its other end.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = fs::openat(&self.descriptor, name.to_string(), flags, mode);
        opened.map(File::from).map_err(|error| match error {
            Errno::LOOP => Refused { name: name.clone(), what: "a symbolic link" }.into(),
            // A FIFO that nobody reads, a socket.
            Errno::NXIO => Refused { name: name.clone(), what: "no file" }.into(),
            error => error.into(),
        })
    }

    /// Deletes a file; what is not there need not go. Of a link, the link goes.
    pub(super) fn remove(&self, name: &FileName) -> io::Result<()> {
        match fs::unlinkat(&self.descriptor, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file a name that no other has.
    pub(super) fn rename_new(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        let (old, new) = (from.to_string(), to.to_string());
        let here = &self.descriptor;
        match fs::renameat_with(here, &old, here, &new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(taken(to)),
            // The file system knows no such thing.
            Err(Errno::INVAL) => {
                self.is_free(to)?;
                Ok(fs::renameat(here, &old, here, &new)?)
            }
            result => Ok(result?),
        }
    }

    /// An error where there is something of this name.
    pub(super) fn is_free(&self, name: &FileName) -> io::Result<()> {
        if self.stat(name)?.is_some() { Err(taken(name)) } else { Ok(()) }
    }

    /// Puts a file in the place of another.
    pub(super) fn rename_over(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        Ok(fs::renameat(&self.descriptor, from.to_string(), &self.descriptor, to.to_string())?)
    }

    /// Has what was made, renamed and deleted last through a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.descriptor)?)
    }

    /// Names of all that is in the directory, as far as they are texts.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Names of what the store may have made.
    pub(super) fn files(&self) -> io::Result<Vec<FileName>> {
        Ok(self.list()?.iter().filter_map(|name| FileName::parse(name)).collect())
    }

    /// Bytes that are free on its file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        let of = fs::fstatvfs(&self.descriptor)?;
        Ok(of.f_bavail.saturating_mul(of.f_frsize))
    }
}

fn taken(name: &FileName) -> io::Error {
    io::Error::other(format!("there is a `{name}` already, which the store has not made: move it away"))
}

/// Refuses what is no file that the store can have made.
fn check(name: &FileName, stat: &Stat, writes: bool) -> Result<(), Refused> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if writes && stat.st_nlink > 1 => {
            "a file with another name besides (a hard link)"
        }
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
