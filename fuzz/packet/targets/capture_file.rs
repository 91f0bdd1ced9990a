//! Capture files.

use std::io::Write as _;

use mirror_packet::capture_file::CaptureFile;

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("the temporary directory takes files");
    file.write_all(bytes).expect("the temporary directory takes files");
    if let Ok(capture) = CaptureFile::open(file.path()) {
        let _ = capture.for_each(|_| {});
    }
}
