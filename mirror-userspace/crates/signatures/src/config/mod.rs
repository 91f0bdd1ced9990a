//! The files beside the rules: `classification.config`, `reference.config`, `threshold.config`.

pub mod classification;
pub mod reference;
pub mod threshold;

use crate::diagnostic::Place;

/// Returns the lines of a file without comments, empty lines and marks of continuation, with their places.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (Place, Vec<u8>)> {
    let mut rest = text.split(|byte| *byte == b'\n').zip(1_u32..);
    std::iter::from_fn(move || {
        loop {
            let (first, line) = rest.next()?;
            let trimmed = first.trim_ascii();
            if trimmed.is_empty() || trimmed.starts_with(b"#") {
                continue;
            }
            let column = first.len() - first.trim_ascii_start().len() + 1;
            let place = Place { line, column: u32::try_from(column).unwrap_or(u32::MAX) };
            let mut whole = trimmed.to_vec();
            while whole.last() == Some(&b'\\') {
                whole.pop();
                let Some((next, _)) = rest.next() else { break };
                whole.extend_from_slice(next.trim_ascii());
            }
            return Some((place, whole));
        }
    })
}
