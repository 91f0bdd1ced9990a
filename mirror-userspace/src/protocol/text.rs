//! Strings of JSON: from the bytes of the wire, and from what can be displayed.

use std::fmt;

use serde::{Serialize, Serializer};

/// Bytes that are mostly text: as they are where they are UTF-8, else with `\xNN` for each byte that is
/// not ASCII. What JSON cannot hold as it is, the serializer escapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(self),
        }
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

/// A string of what can be displayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
