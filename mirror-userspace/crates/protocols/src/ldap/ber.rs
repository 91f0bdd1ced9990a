//! Values in BER (X.690) with definite lengths.

pub(super) const INTEGER: u8 = 2;
pub(super) const OCTETS: u8 = 4;
pub(super) const ENUMERATED: u8 = 10;

/// A value, and the bytes behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    /// The content, as far as its bytes are there.
    pub(super) content: &'a [u8],
    pub(super) rest: &'a [u8],
}

impl<'a> Value<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&tag, _) = bytes.split_first()?;
        let (len, header) = len(bytes).ok().flatten()?;
        let behind = bytes.get(header..)?;
        let len = usize::try_from(len).ok()?.min(behind.len());
        let (content, rest) = behind.split_at(len);
        Some(Self { tag, content, rest })
    }
}

/// Returns the length of the content, and that of the header; `None` if more bytes are needed.
fn len(bytes: &[u8]) -> Result<Option<(u64, usize)>, ()> {
    match bytes.get(1) {
        None => Ok(None),
        Some(&short @ 0..=0x7f) => Ok(Some((short.into(), 2))),
        Some(&long @ 0x81..=0x84) => {
            let count = usize::from(long & 0x7f);
            let digits = bytes.get(2..2 + count);
            Ok(digits
                .map(|digits| (digits.iter().fold(0, |len, &digit| len << 8 | u64::from(digit)), 2 + count)))
        }
        Some(_) => Err(()),
    }
}

/// Returns the length of the value that these bytes begin with, its header included; `None` if more bytes are needed.
pub(super) fn whole_len(bytes: &[u8]) -> Result<Option<u64>, ()> {
    len(bytes).map(|len| len.map(|(len, header)| len + header as u64))
}

/// Returns the value of an integer that is not negative.
pub(super) fn integer(content: &[u8]) -> Option<u64> {
    (1..=8)
        .contains(&content.len())
        .then(|| content.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
