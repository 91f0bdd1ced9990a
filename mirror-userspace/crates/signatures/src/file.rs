//! Reads the files that an operator or a rule names.

use std::io::{self, Read as _};
use std::path::Path;

use mirror_base::file;

use crate::limits;

/// Reads a regular file of at most [`limits::FILE`] bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = file::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limits::FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::FILE {
        return Err(io::Error::other(format!("longer than {} MiB", limits::FILE >> 20)));
    }
    Ok(bytes)
}
