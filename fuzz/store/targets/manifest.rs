//! The lines of a store's manifest.

use mirror_store::manifest::Contents;

pub(crate) fn fuzz(bytes: &[u8]) {
    let contents = Contents::parse(bytes);
    let _ = contents.deleted();
    for segment in contents.segments() {
        let _ = segment.index_file();
    }
}
