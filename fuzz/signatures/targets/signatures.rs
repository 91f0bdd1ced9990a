//! Rule files: parsed, compiled, and matched with the text itself as the content of each buffer.

use std::path::Path;

use mirror_signatures::config::classification::Classes;
use mirror_signatures::config::threshold;
use mirror_signatures::inspect::{Values, verify};
use mirror_signatures::ruleset::Loader;
use mirror_signatures::transform::Transform;
use mirror_signatures::variables::Variables;

/// Bytes that are inspected.
const BUFFER: usize = 512;

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut classes = Classes::default();
    let _ = classes.add(bytes);
    let _ = threshold::parse(bytes);
    let variables = Variables::default();
    let mut loader = Loader::new(&variables, &classes);
    // Data sets are files: none is in this directory.
    loader.add(Path::new("/nonexistent/fuzz.rules"), bytes);
    let set = loader.finish();
    let report = &set.report;
    let sum = set.signatures.len() + report.refused_count + report.skipped_count + report.duplicates.len();
    assert_eq!(sum, report.total);
    let buffer = &bytes[bytes.len().saturating_sub(BUFFER)..];
    for signature in &set.signatures {
        let mut values = Values::default();
        for list in &signature.rule.buffers {
            let _ = verify(&list.matches, &Transform::apply_all(&list.transforms, buffer), &mut values);
        }
    }
}
