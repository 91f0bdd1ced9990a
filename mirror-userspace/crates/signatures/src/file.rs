//! Reads the files that an operator or a rule names.

use std::io;
use std::path::Path;

use crate::limits;

/// Reads a regular file of at most [`limits::FILE`] bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    mirror_base::file::read(path, limits::FILE)
}
