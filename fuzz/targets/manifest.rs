//! The lines of a store's manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror_userspace::store::manifest::Contents;

fuzz_target!(|bytes: &[u8]| {
    let contents = Contents::parse(bytes);
    let _ = contents.deleted();
    for segment in contents.segments() {
        let _ = segment.index_file();
    }
});
