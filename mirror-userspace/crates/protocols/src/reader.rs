//! Reads fields off the front of a slice, big-endian as on the wire. An incomplete field is not read.

/// The unread rest of a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the unread bytes.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// Skips zeros, of which there may be many.
    pub(super) fn skip_zeros(&mut self) {
        while let Some((&[0, 0, 0, 0, 0, 0, 0, 0], rest)) = self.rest.split_first_chunk::<8>() {
            self.rest = rest;
        }
        while let [0, rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads bytes behind their number in one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let len = ahead.u8()?;
        let bytes = ahead.bytes(len.into())?;
        *self = ahead;
        Some(bytes)
    }

    /// Reads bytes behind their number in two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let len = ahead.u16()?;
        let bytes = ahead.bytes(len.into())?;
        *self = ahead;
        Some(bytes)
    }

    /// Reads a variable-length integer (RFC 9000, section 16).
    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = *self.rest.first()?;
        let bytes = self.bytes(1 << (first >> 6))?;
        let value = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Some(value & (u64::MAX >> (64 - 8 * bytes.len() + 2)))
    }
}

/// Returns the pairs of bytes in a slice as numbers. An odd byte at the end is ignored.
pub(super) fn u16s(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(u16::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_skipped_up_to_the_first_other_byte() {
        for zeros in 0..40 {
            for behind in [&[][..], &[1], &[1, 0], &[7; 20]] {
                let bytes = [&vec![0; zeros][..], behind].concat();
                let mut reader = Reader::new(&bytes);
                reader.skip_zeros();
                assert_eq!(reader.rest(), behind);
            }
        }
    }

    #[test]
    fn integers_of_variable_length_are_those_of_rfc_9000_appendix_a() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(Reader::new(bytes).varint(), Some(value));
            for cut in 0..bytes.len() {
                assert_eq!(Reader::new(&bytes[..cut]).varint(), None);
            }
        }
    }

    #[test]
    fn a_vector_that_is_cut_short_is_not_read() {
        let mut reader = Reader::new(&[0, 3, 1, 2]);
        assert_eq!(reader.vector16(), None);
        assert_eq!(reader.rest().len(), 4);
    }
}
