//! Files with a secret, as mirror-xdp requires them: only the owner can read them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a secret to a file that only its owner can read.
///
/// # Panics
///
/// If the file exists or cannot be written.
pub fn write(path: &Path, secret: &str) {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(secret.as_bytes())).expect("the directory can be written to");
}
