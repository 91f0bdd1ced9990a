//! Capture files.
#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use mirror_userspace::packet::capture_file::CaptureFile;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("the temporary directory takes files");
    file.write_all(bytes).expect("the temporary directory takes files");
    if let Ok(capture) = CaptureFile::open(file.path()) {
        let _ = capture.for_each(|_| {});
    }
});
