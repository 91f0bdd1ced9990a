//! Fields of requests and responses: fixed, and since the "flexible" versions compact.

/// The unread rest of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(rest: &'a [u8], flexible: bool) -> Self {
        Self { rest, flexible }
    }

    pub(super) fn skip(&mut self, len: usize) -> Option<()> {
        self.rest = self.rest.get(len..)?;
        Some(())
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        let (value, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(i16::from_be_bytes(*value))
    }

    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*value))
    }

    /// Reads an integer of seven bits a byte.
    fn varint(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a string; a null one is empty.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = if self.flexible {
            self.varint()?.saturating_sub(1) as usize
        } else {
            usize::try_from(self.i16()?).unwrap_or(0)
        };
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(text)
    }

    /// Reads the number of elements of a list.
    pub(super) fn list(&mut self) -> Option<u32> {
        if self.flexible {
            self.varint().map(|count| count.saturating_sub(1))
        } else {
            self.u32().map(|count| if count > i32::MAX as u32 { 0 } else { count })
        }
    }

    /// Skips the tagged fields at the end of a structure.
    pub(super) fn tags(&mut self) -> Option<()> {
        if self.flexible {
            for _ in 0..self.varint()? {
                self.varint()?;
                let len = self.varint()? as usize;
                self.skip(len)?;
            }
        }
        Some(())
    }
}
