//! What the kernel says of the machine's memory.

use std::fs;

/// The text of `/proc/meminfo` (`proc_meminfo(5)`); nothing where it cannot be read.
pub fn read() -> String {
    fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

/// The number behind a name in such a text, in the unit that stands there: KiB, or pages.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}
