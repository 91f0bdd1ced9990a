//! The home of an open store: its directory and the lock in it. Others may remove, rename or unmount the
//! directory while the store is open, so the store checks it again and again.

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

/// The locked directory of a store.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) directory: Directory,
    lock: Flock<File>,
    /// The store has left this home.
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

    /// Returns whether the paths of directory, lock and manifest still refer to the open files.
    pub(super) fn is_there(&self, manifest: &Manifest) -> bool {
        self.directory.is_there()
            && self.directory.has(&FileName::Lock, &self.lock)
            && manifest.is_in(&self.directory)
    }

    /// Makes the threads that write to the home leave it.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Returns whether writers have to leave the home.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// Creates a store's directory again that was removed, provided that its parent is on the given device.
pub(super) fn make_anew(path: &Path, permissions: Permissions, device: u64) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = Directory::open_to_read(parent.unwrap_or(Path::new(".")))?;
    if parent.device() != device {
        return Err(other_device());
    }
    directory::make(path, permissions)
}

/// Returns the error for a directory on another device. The store writes nothing there before a user has
/// looked.
pub(super) fn other_device() -> io::Error {
    io::Error::other(
        "another file system than before is mounted there, or none; restart mirror-xdp to write to it",
    )
}
