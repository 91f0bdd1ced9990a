//! The machine's huge pages. Tests that change their number take turns by a file lock, and restore it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};

use nix::fcntl::{Flock, FlockArg};

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Removes the machine's huge pages until this is dropped.
#[derive(Debug)]
pub struct NoHugePages {
    /// The locked file, with the number of huge pages before. After a test was killed, the next test finds it
    /// there.
    file: Flock<File>,
}

impl NoHugePages {
    /// Removes the huge pages.
    #[must_use]
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("mirror-xdp-tests.huge-pages");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let lock = Flock::lock(file.expect("a file to lock"), FlockArg::LockExclusive);
        let mut this = Self { file: lock.expect("a lock on a file") };
        if this.before().is_empty() {
            this.file.write_all(huge_pages().as_bytes()).expect("the file can be written");
        }
        fs::write(HUGE_PAGES, "0").expect("huge pages can be given back");
        this
    }

    fn before(&mut self) -> String {
        let mut text = String::new();
        let _ = self.file.rewind();
        let _ = self.file.read_to_string(&mut text);
        text
    }
}

impl Drop for NoHugePages {
    fn drop(&mut self) {
        let _ = fs::write(HUGE_PAGES, self.before());
        let _ = self.file.set_len(0);
    }
}

/// Returns the number of huge pages.
#[must_use]
pub fn huge_pages() -> String {
    fs::read_to_string(HUGE_PAGES).expect("the kernel has huge pages").trim().to_owned()
}
