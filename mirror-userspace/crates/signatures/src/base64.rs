//! Base64 (RFC 4648) as far as it goes: decoding stops at the first character that is not of its alphabet.

const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Decodes what is base64 at the beginning. A last group without padding counts as far as it has whole bytes.
pub(crate) fn decode(bytes: &[u8]) -> Vec<u8> {
    decode_prefix(bytes).0
}

/// Decodes text that is base64 as a whole.
pub(crate) fn decode_all(bytes: &[u8]) -> Option<Vec<u8>> {
    let (decoded, used) = decode_prefix(bytes);
    let rest = bytes.get(used..)?;
    let is_padding =
        rest.len() <= 2 && rest.iter().all(|byte| *byte == b'=') && bytes.len().is_multiple_of(4);
    (is_padding || rest.is_empty() && used % 4 != 1).then_some(decoded)
}

fn decode_prefix(bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3 + 3);
    let (mut group, mut count, mut used) = (0_u32, 0, 0);
    for sextet in bytes.iter().map_while(|byte| sextet(*byte)) {
        used += 1;
        group = group << 6 | u32::from(sextet);
        count += 1;
        if count == 4 {
            decoded.extend_from_slice(&group.to_be_bytes()[1..]);
            (group, count) = (0, 0);
        }
    }
    match count {
        2 => decoded.push((group >> 4) as u8),
        3 => decoded.extend_from_slice(&((group >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    (decoded, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_stops_where_base64_does() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"", b""),
            (b"dGVzdA==", b"test"),
            (b"dGVzdA", b"test"),
            (b"dGVzdDE=&x", b"test1"),
            (b"dGVz dDE=", b"tes"),
            (b"dGVzdDEx", b"test11"),
            (b"d", b""),
            (b"+/+/", b"\xfb\xff\xbf"),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text), expected, "{}", text.escape_ascii());
        }
        assert_eq!(decode_all(b"dGVzdA==").as_deref(), Some(&b"test"[..]));
        assert_eq!(decode_all(b"dGVzdA").as_deref(), Some(&b"test"[..]));
        assert!(decode_all(b"dGVz!").is_none() && decode_all(b"d===").is_none());
    }
}
