//! The kernel's report on the memory of the machine.

use std::fs;

/// Returns the text of `/proc/meminfo` (`proc_meminfo(5)`), or an empty string if it cannot be read.
#[must_use]
pub fn read() -> String {
    fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

/// Returns the number behind a name in such a text, in the unit of its line: KiB, or pages.
#[must_use]
pub fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}
