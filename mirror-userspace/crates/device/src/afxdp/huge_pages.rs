//! Huge pages where none are reserved. The kernel makes some on demand, as many as
//! `vm.nr_overcommit_hugepages` allows, and takes them apart when they are unmapped
//! (`Documentation/admin-guide/mm/hugetlbpage.rst`). What is allocated stays when it is not allowed any more: so
//! it is allowed for that moment, and the machine's settings are as before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use mirror_base::meminfo;
use nix::fcntl::{Flock, FlockArg};

const OVERCOMMIT: &str = "/proc/sys/vm/nr_overcommit_hugepages";
/// Bytes of a huge page; where they are larger, more is allowed than is needed.
pub(super) const SIZE: u64 = 2 << 20;

/// Runs `allocate` while the kernel may make so many bytes of huge pages; again where it could not. Where this
/// process may not allow that, it runs all the same.
pub(super) fn allowed<T, E>(bytes: u64, allocate: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let allowed = Allowed::new(bytes);
    let mut allocated = allocate();
    // The kernel brings memory together for some, and gives up; asked again, it goes on.
    for _ in 1..ATTEMPTS {
        if allocated.is_ok() || allowed.is_none() {
            break;
        }
        allocated = allocate();
    }
    allocated
}

/// A tenth of a second each, where memory is in pieces.
const ATTEMPTS: u32 = 5;

/// Takes back on drop what it has allowed.
struct Allowed {
    before: String,
    /// Locked, lest another capture that starts meanwhile takes this one's setting for the machine's.
    file: Flock<File>,
}

impl Allowed {
    fn new(bytes: u64) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(OVERCOMMIT).ok()?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive).ok()?;
        let mut before = String::new();
        file.read_to_string(&mut before).ok()?;
        // Those that other captures have count, whatever is allowed by now.
        let others = meminfo::field(&meminfo::read(), "HugePages_Surp")?;
        let pages = before.trim().parse::<u64>().ok()?.max(others).saturating_add(bytes.div_ceil(SIZE));
        let this = Self { before, file };
        this.set(&pages.to_string()).ok()?;
        Some(this)
    }

    fn set(&self, pages: &str) -> io::Result<()> {
        // The kernel takes a setting from its first byte on only.
        self.file.write_all_at(pages.as_bytes(), 0)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        // The kernel took another value from here a moment ago.
        let _ = self.set(&self.before);
    }
}
