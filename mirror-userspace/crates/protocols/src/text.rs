//! JSON strings: from bytes of the wire, and from values with `Display`.

use std::fmt;

use serde::{Serialize, Serializer};

/// Bytes that are mostly text. UTF-8 is written unchanged; otherwise each byte that is not ASCII is written
/// as `\xNN`. The serializer escapes everything that JSON does not allow.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(self),
        }
    }
}

impl<'a> Bytes<'a> {
    /// Returns the length of the JSON string without the quotes, in bytes. Never too small.
    #[must_use]
    pub fn json_len(&self) -> usize {
        let other = if str::from_utf8(self.0).is_ok() { 1 } else { r"\\xff".len() };
        self.0.iter().map(|byte| json_len_of(*byte, other)).sum()
    }

    /// Returns the longest prefix that takes at most `json_len` bytes as a JSON string.
    #[must_use]
    pub fn cut_to(&self, json_len: usize) -> &'a [u8] {
        // If the prefix ends within a character, all others are written in more bytes, too.
        let mut left = json_len;
        let fits = |byte: &&u8| match left.checked_sub(json_len_of(**byte, r"\\xff".len())) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let len = self.0.iter().take_while(fits).count();
        self.0.get(..len).unwrap_or_default()
    }
}

/// Returns the bytes that a byte takes in a JSON string; `other` if it is not ASCII.
const fn json_len_of(byte: u8, other: usize) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => r"\u0000".len(),
        0x20..0x80 => 1,
        0x80.. => other,
    }
}

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0.iter().try_for_each(|byte| {
            if byte.is_ascii() { f.write_char(char::from(*byte)) } else { write!(f, "\\x{byte:02x}") }
        })
    }
}

/// A JSON string of a value with `Display`.
#[derive(Clone, Copy, Debug)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
