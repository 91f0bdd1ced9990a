//! The machine's huge pages. All tests that change them take turns, by a lock on a file, and put them back.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};

use nix::fcntl::{Flock, FlockArg};

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// The machine without huge pages, until this is dropped.
#[derive(Debug)]
pub struct NoHugePages {
    /// Locked; has what there was before. A test that was killed leaves it to the next one.
    file: Flock<File>,
}

impl NoHugePages {
    /// Takes them away.
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

/// How many there are.
#[must_use]
pub fn huge_pages() -> String {
    fs::read_to_string(HUGE_PAGES).expect("the kernel has huge pages").trim().to_owned()
}
