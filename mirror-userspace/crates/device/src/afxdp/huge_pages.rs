//! Huge pages on a machine that has reserved none. The kernel makes huge pages on demand, as many as
//! `vm.nr_overcommit_hugepages` allows, and frees them when they are unmapped
//! (`Documentation/admin-guide/mm/hugetlbpage.rst`). Allocated pages stay when the limit is lowered. The
//! limit is therefore raised only during the allocation, and the machine's settings are restored.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use mirror_base::meminfo;
use nix::fcntl::{Flock, FlockArg};

const OVERCOMMIT: &str = "/proc/sys/vm/nr_overcommit_hugepages";
/// Bytes of a huge page; if pages are larger, more is allowed than needed.
pub(super) const SIZE: u64 = 2 << 20;

/// Runs `allocate` while the kernel may make this many bytes of huge pages, and repeats it on failure. If
/// this process may not raise the limit, `allocate` runs anyway.
pub(super) fn allowed<T, E>(bytes: u64, allocate: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let allowed = Allowed::new(bytes);
    let mut allocated = allocate();
    // The kernel compacts memory for some pages and gives up; when asked again, it continues.
    for _ in 1..ATTEMPTS {
        if allocated.is_ok() || allowed.is_none() {
            break;
        }
        allocated = allocate();
    }
    allocated
}

/// The most attempts. Each takes a tenth of a second if memory is fragmented.
const ATTEMPTS: u32 = 5;

/// A raised limit, which dropping this restores.
struct Allowed {
    before: String,
    /// Locked, so that another capture that starts meanwhile does not take this setting for the machine's
    /// own.
    file: Flock<File>,
}

impl Allowed {
    fn new(bytes: u64) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(OVERCOMMIT).ok()?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive).ok()?;
        let mut before = String::new();
        file.read_to_string(&mut before).ok()?;
        // The huge pages of other captures count, whatever the limit is by now.
        let others = meminfo::field(&meminfo::read(), "HugePages_Surp")?;
        let pages = before.trim().parse::<u64>().ok()?.max(others).saturating_add(bytes.div_ceil(SIZE));
        let this = Self { before, file };
        this.set(&pages.to_string()).ok()?;
        Some(this)
    }

    fn set(&self, pages: &str) -> io::Result<()> {
        // The kernel accepts a setting only at offset 0.
        self.file.write_all_at(pages.as_bytes(), 0)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        // The kernel accepted another value a moment ago, so a failure is unlikely.
        let _ = self.set(&self.before);
    }
}
