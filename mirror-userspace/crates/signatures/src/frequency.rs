//! How rare bytes are in traffic, to choose by which bytes a pattern is found.

/// The information of each byte in eighths of a bit, by the payload of captures of many protocols: 8 is a byte that
/// every second one is. Letters count in either case.
#[rustfmt::skip]
const RARITY: [u8; 256] = [
    27, 59, 64, 64, 65, 66, 67, 68, 65, 66, 58, 67, 66, 62, 68, 66,
    63, 66, 67, 67, 67, 67, 67, 68, 66, 68, 67, 67, 67, 67, 67, 67,
    50, 67, 66, 68, 64, 67, 68, 68, 66, 67, 68, 63, 66, 63, 60, 62,
    54, 58, 59, 60, 61, 61, 61, 61, 61, 61, 65, 66, 66, 65, 66, 67,
    65, 41, 55, 53, 53, 49, 54, 55, 52, 52, 56, 56, 53, 53, 52, 52,
    53, 56, 53, 52, 50, 54, 56, 56, 56, 56, 57, 68, 68, 68, 68, 66,
    68, 41, 55, 53, 53, 49, 54, 55, 52, 52, 56, 56, 53, 53, 52, 52,
    53, 56, 53, 52, 50, 54, 56, 56, 56, 56, 57, 68, 68, 68, 68, 67,
    67, 68, 67, 66, 68, 66, 68, 69, 68, 65, 68, 62, 68, 66, 69, 68,
    68, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 68,
    68, 68, 69, 69, 69, 67, 69, 69, 69, 69, 66, 69, 69, 69, 69, 68,
    69, 69, 70, 70, 70, 69, 70, 69, 69, 70, 69, 70, 70, 70, 70, 69,
    66, 69, 69, 68, 69, 70, 69, 68, 69, 69, 69, 69, 69, 70, 70, 69,
    69, 69, 70, 70, 70, 70, 70, 69, 70, 69, 70, 69, 70, 69, 69, 69,
    69, 69, 69, 69, 69, 69, 69, 69, 66, 68, 68, 67, 67, 67, 67, 66,
    65, 65, 66, 65, 66, 66, 66, 67, 67, 68, 68, 69, 68, 69, 67, 58,
];

/// The information of a byte that repeats the one in front: runs are common.
const REPEATED: u32 = 8;

/// Returns how rare a pattern is, in eighths of a bit. Runs of one byte, such as zeroes, add little.
pub(crate) fn rarity(pattern: &[u8]) -> u32 {
    let mut before = None;
    let mut sum = 0;
    for byte in pattern {
        sum += if before == Some(*byte) { REPEATED } else { u32::from(of(*byte)) };
        before = Some(*byte);
    }
    sum
}

fn of(byte: u8) -> u8 {
    RARITY.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Returns the index of the rarest of the first 256 bytes of a pattern; of equal ones, the last.
pub(crate) fn rarest(pattern: &[u8]) -> u8 {
    let rarest = pattern.iter().take(256).enumerate().max_by_key(|(_, byte)| of(**byte));
    rarest.and_then(|(index, _)| u8::try_from(index).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeroes_are_common_and_odd_bytes_rare() {
        assert!(rarity(&[0; 16]) < rarity(b"jqxz"));
        assert!(rarity(b"http") < rarity(b"\xd9\x74\x24\xf4"));
        assert_eq!(rarest(b"eee|ee"), 3);
        assert_eq!(rarest(b""), 0);
    }
}
