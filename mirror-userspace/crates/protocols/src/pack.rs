//! Values in packed bytes: a tag, a length and a value for each. An analyzer
//! collects them in a buffer until it emits its event; the event is unpacked with them.

/// Maximum number of bytes packed for a value. The rest is cut off.
pub const MAX_VALUE: usize = 8 * 1024;

/// Appends a value.
pub fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    let value = value.get(..MAX_VALUE).unwrap_or(value);
    out.push(tag);
    out.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    out.extend_from_slice(value);
}

/// Returns the packed value with this tag; the last one if there are several.
#[must_use]
pub fn get(packed: &[u8], tag: u8) -> Option<&[u8]> {
    values(packed).filter(|&(of, _)| of == tag).last().map(|(_, value)| value)
}

/// Returns all packed values with their tags.
pub fn values(packed: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = packed;
    std::iter::from_fn(move || {
        let (&tag, behind) = rest.split_first()?;
        let (len, behind) = behind.split_first_chunk()?;
        let (value, behind) = behind.split_at_checked(usize::from(u16::from_ne_bytes(*len)))?;
        rest = behind;
        Some((tag, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out(input in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..9)) {
            let mut packed = Vec::new();
            for (tag, value) in &input {
                put(&mut packed, *tag, value);
            }
            let output: Vec<_> = values(&packed).map(|(tag, value)| (tag, value.to_vec())).collect();
            prop_assert_eq!(output, input);
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_cut_and_damaged_bytes_end_the_list() {
        let mut packed = Vec::new();
        put(&mut packed, 1, &[7; MAX_VALUE + 1]);
        assert_eq!(get(&packed, 1).map(<[u8]>::len), Some(MAX_VALUE));
        packed.truncate(100);
        assert_eq!(get(&packed, 1), None);
    }
}
