//! Reading headers out of a frame in any memory.

use zerocopy::FromBytes;

/// A frame whose headers can be read by offset.
///
/// User space implements it for byte slices, the XDP program for packet memory. An implementation must never
/// read outside the frame, because offsets often come from hostile length fields.
pub trait Frame {
    /// Returns the length of the whole frame in bytes, including the part in further buffers, which
    /// [`Frame::header`] cannot reach.
    fn len(&self) -> usize;

    /// Returns whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the header at `offset`, by value; `None` if it does not lie wholly within the accessible
    /// bytes.
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T>;

    /// Returns the number unchanged. In the kernel, the verifier forgets all that it knows about the number,
    /// so that paths with different values are merged.
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
        // A slice of the exact length, so that the compiler reads each field in place instead of copying all
        // of them.
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
