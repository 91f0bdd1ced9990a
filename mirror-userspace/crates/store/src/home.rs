//! The home of a store that is open: its directory and the lock in it. What is opened here is checked again
//! and again, since others may remove, rename or unmount it meanwhile.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StoreError;
use super::directory::{self, Directory, Permissions};
use super::manifest::Manifest;
use super::names::FileName;

/// The directory of a store, locked.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) directory: Directory,
    lock: Flock<File>,
    /// It is nobody's home any more.
    gone: AtomicBool,
}

impl Home {
    /// Opens a directory and locks it.
    pub(super) fn open(path: &Path, permissions: Permissions) -> Result<Self, StoreError> {
        let error = |source| StoreError::Directory { path: path.to_owned(), source };
        let directory = Directory::open(path, permissions).map_err(error)?;
        let lock = directory.write_or_create(&FileName::Lock).map_err(error)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => StoreError::InUse(path.to_owned()),
            errno => error(errno.into()),
        })?;
        Ok(Self { directory, lock, gone: AtomicBool::new(false) })
    }

    /// Whether directory, lock and manifest are still what their names name.
    pub(super) fn is_there(&self, manifest: &Manifest) -> bool {
        self.directory.is_there()
            && self.directory.has(&FileName::Lock, &self.lock)
            && manifest.is_in(&self.directory)
    }

    /// Has those who write to it leave it.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether it is to be left.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// Makes the directory of a store anew that was removed, on the device that it was on.
pub(super) fn make_anew(path: &Path, permissions: Permissions, device: u64) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = Directory::open_to_read(parent.unwrap_or(Path::new(".")))?;
    if parent.device() != device {
        return Err(other_device());
    }
    directory::make(path, permissions)
}

/// That the directory is not where it was: nothing is written there before somebody has looked.
pub(super) fn other_device() -> io::Error {
    io::Error::other("another file system is there than before, or none; restart mirror-xdp to write to it")
}
