//! Transforms of a buffer before it is inspected: pure functions of bytes.

use std::borrow::Cow;

use md5::Digest as _;

use crate::limits;

/// A transform.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// `dotprefix`: puts a dot in front.
    DotPrefix,
    /// `to_lowercase`.
    Lowercase,
    /// `to_uppercase`.
    Uppercase,
    /// `header_lowercase`: the names of headers, one a line.
    HeaderLowercase,
    /// `strip_pseudo_headers`: removes the lines of HTTP/2's pseudo headers, which begin with a colon.
    StripPseudoHeaders,
    /// `strip_whitespace`.
    StripWhitespace,
    /// `compress_whitespace`: one space for several.
    CompressWhitespace,
    /// `url_decode`: escapes of percent signs, and spaces written as plus signs.
    UrlDecode,
    /// `xor`: with a key that is repeated.
    Xor(Box<[u8]>),
    /// `to_md5`.
    Md5,
    /// `to_sha1`.
    Sha1,
    /// `to_sha256`.
    Sha256,
}

impl Transform {
    /// Applies the transform. The result has at most [`limits::TRANSFORMED`] bytes.
    #[must_use]
    pub fn apply<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let bytes = bytes.get(..limits::TRANSFORMED).unwrap_or(bytes);
        Cow::Owned(match self {
            Self::DotPrefix => [b".", bytes].concat(),
            Self::Lowercase => bytes.to_ascii_lowercase(),
            Self::Uppercase => bytes.to_ascii_uppercase(),
            Self::HeaderLowercase => {
                let mut in_name = true;
                let lower = |byte: &u8| {
                    in_name = match byte {
                        b'\n' => true,
                        b':' => false,
                        _ => in_name,
                    };
                    if in_name { byte.to_ascii_lowercase() } else { *byte }
                };
                bytes.iter().map(lower).collect()
            }
            Self::StripPseudoHeaders => {
                let lines = bytes.split_inclusive(|byte| *byte == b'\n');
                lines.filter(|line| !line.starts_with(b":")).flatten().copied().collect()
            }
            Self::StripWhitespace => bytes.iter().copied().filter(|byte| !is_space(*byte)).collect(),
            Self::CompressWhitespace => {
                let mut after_space = false;
                let keep = |byte: &u8| {
                    let space = is_space(*byte);
                    let keep = !(space && after_space);
                    after_space = space;
                    keep.then_some(if space { b' ' } else { *byte })
                };
                bytes.iter().filter_map(keep).collect()
            }
            Self::UrlDecode => url_decoded(bytes),
            Self::Xor(key) => bytes.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect(),
            Self::Md5 => md5::Md5::digest(bytes).to_vec(),
            Self::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
        })
    }

    /// Applies transforms one after the other.
    #[must_use]
    pub fn apply_all<'a>(transforms: &[Self], bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut result = Cow::Borrowed(bytes);
        for transform in transforms {
            result = Cow::Owned(transform.apply(&result).into_owned());
        }
        result
    }
}

/// White space as `isspace(3)` in the C locale.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn url_decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    (high << 4 | low) as u8
                }
                _ => b'%',
            },
            _ => *first,
        });
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transform_has_its_effect() {
        let cases: [(&Transform, &[u8], &[u8]); 10] = [
            (&Transform::DotPrefix, b"a.example", b".a.example"),
            (&Transform::Lowercase, b"AbC\xc4", b"abc\xc4"),
            (&Transform::Uppercase, b"AbC1", b"ABC1"),
            (&Transform::HeaderLowercase, b"HOST: A:B\r\nX-Y: Z\r\n", b"host: A:B\r\nx-y: Z\r\n"),
            (&Transform::StripPseudoHeaders, b":method: GET\r\nhost: a\r\n:x: y\r\n", b"host: a\r\n"),
            (&Transform::StripWhitespace, b" a\t\r\n\x0b\x0cb ", b"ab"),
            (&Transform::CompressWhitespace, b" \ta\r\n\tb ", b" a b "),
            (&Transform::UrlDecode, b"a%20b+c%zz%4", b"a b c%zz%4"),
            (&Transform::Xor((*b"\x01\x02").into()), b"abc", b"``b"),
            (&Transform::Md5, b"", b"\xd4\x1d\x8c\xd9\x8f\x00\xb2\x04\xe9\x80\x09\x98\xec\xf8\x42\x7e"),
        ];
        for (transform, bytes, expected) in cases {
            assert_eq!(transform.apply(bytes), expected, "{transform:?}");
        }
        assert_eq!(Transform::Sha1.apply(b"")[..4], [0xda, 0x39, 0xa3, 0xee]);
        assert_eq!(Transform::Sha256.apply(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        let chain = [Transform::StripWhitespace, Transform::Lowercase, Transform::DotPrefix];
        assert_eq!(*Transform::apply_all(&chain, b"A B"), *b".ab");
    }
}
