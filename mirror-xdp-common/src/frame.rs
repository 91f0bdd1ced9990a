//! Reading headers out of a frame, wherever the frame is.

use zerocopy::FromBytes;

/// A frame whose headers can be read by offset.
///
/// User space implements it for byte slices, the XDP program for packet memory. An implementation
/// must never read outside the frame: an offset comes from a hostile length field more often than not.
pub trait Frame {
    /// Length of the whole frame in bytes, also of what [`Frame::header`] cannot reach because it
    /// lies in a further buffer.
    fn len(&self) -> usize;

    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header at `offset`, by value; `None` where it does not lie wholly within the bytes at hand.
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T>;

    /// The number. In the kernel the verifier knows nothing of it any more, so that the ways on which it
    /// had different values become one.
    #[inline(always)]
    fn forgotten(&self, number: usize) -> usize {
        number
    }
}

impl Frame for [u8] {
    #[inline(always)]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline(always)]
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        // Bytes of the very length, so that the compiler reads each field where it lies instead of copying all.
        T::read_from_bytes(self.get(offset..)?.get(..size_of::<T>())?).ok()
    }
}

impl<F: Frame + ?Sized> Frame for &F {
    #[inline(always)]
    fn len(&self) -> usize {
        (**self).len()
    }

    #[inline(always)]
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        (**self).header(offset)
    }

    #[inline(always)]
    fn forgotten(&self, number: usize) -> usize {
        (**self).forgotten(number)
    }
}
