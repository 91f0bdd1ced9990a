//! Documents: the elements of the first level (bsonspec.org).

/// Elements of a document that are read.
const MAX_ELEMENTS: usize = 64;

/// An element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    kind: u8,
    pub(super) name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Element<'a> {
    /// Returns the value of a string.
    pub(super) fn text(&self) -> Option<&'a [u8]> {
        (self.kind == 2)
            .then(|| self.value.get(4..).unwrap_or_default())
            .map(|text| text.strip_suffix(&[0]).unwrap_or(text))
    }

    /// Returns the value of a number, or of a boolean, without fractions.
    pub(super) fn number(&self) -> Option<i64> {
        match self.kind {
            1 => self.value.first_chunk().map(|value| f64::from_le_bytes(*value) as i64),
            8 => self.value.first().map(|&value| value.into()),
            0x10 => self.value.first_chunk().map(|value| i32::from_le_bytes(*value).into()),
            0x12 => self.value.first_chunk().map(|value| i64::from_le_bytes(*value)),
            _ => None,
        }
    }
}

/// Returns the elements of a document, as far as its bytes are there.
pub(super) fn elements(document: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let mut rest = document.get(4..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&kind, behind) = rest.split_first().filter(|(kind, _)| **kind != 0)?;
        let end = behind.iter().position(|&byte| byte == 0)?;
        let (name, behind) = behind.split_at(end);
        let behind = behind.get(1..)?;
        let (value, behind) = behind.split_at_checked(len(kind, behind)?)?;
        rest = behind;
        Some(Element { kind, name, value })
    })
    .take(MAX_ELEMENTS)
}

/// Returns the length of a value.
fn len(kind: u8, value: &[u8]) -> Option<usize> {
    let prefix = || value.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
    Some(match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => prefix()?.checked_add(4)?,
        0x03 | 0x04 | 0x0f => prefix()?,
        0x05 => prefix()?.checked_add(5)?,
        0x0b => {
            let mut zeros = value.iter().enumerate().filter(|(_, byte)| **byte == 0);
            zeros.nth(1)?.0 + 1
        }
        _ => return None,
    })
}
