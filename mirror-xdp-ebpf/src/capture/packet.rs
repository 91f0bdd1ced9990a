//! Packet memory behind the bounds checks that the verifier requires. This is the only place with unsafe code
//! that touches packets.
#![expect(unsafe_code, reason = "packet memory is reached through raw pointers")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use mirror_xdp_common::frame::Frame;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::forget::forget;

/// The largest offset of a header. It keeps the offset, as far as the verifier knows it, small enough to be
/// added to a packet pointer, and covers the longest chain of headers that is followed: 64 bytes of outer IP,
/// 2 × 18 of Ethernet, 6 extension headers of IPv6.
const MAX_OFFSET: usize = 0x3fff;

/// For [`Frame::forgotten`].
#[map]
static FORGOTTEN: PerCpuArray<usize> = PerCpuArray::with_max_entries(1, 0);

/// The frame that the program was called for.
pub(crate) struct Packet<'a> {
    context: &'a XdpContext,
    length: usize,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a XdpContext) -> Self {
        // SAFETY: the helper reads the context that the kernel passed to the program.
        let length = unsafe { bpf_xdp_get_buff_len(context.as_ptr().cast::<xdp_md>()) } as usize;
        Self { context, length }
    }

    /// Returns a pointer to `size_of::<T>()` readable and writable bytes at `offset` in the first buffer.
    #[inline(always)]
    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        // The compiler knows that the mask changes nothing, and would omit it. Verifiers before Linux 6.10
        // forget the result of a comparison for a number that lies on the stack.
        let mut offset = offset;
        // SAFETY: the assembly is empty.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) offset, options(pure, nomem, nostack)) };
        let mut start = self.context.data() + (offset & MAX_OFFSET);
        // Without this the compiler may compute `start` twice, once for the comparison and once for the
        // access; the verifier then does not know that the two are the same.
        // SAFETY: the assembly is empty.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) start, options(pure, nomem, nostack)) };
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// Drops all bytes after the first `length`.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, length: usize) -> Result<(), ()> {
        if self.length <= length {
            return Ok(());
        }
        let by = length as i32 - self.length as i32;
        // SAFETY: the helper checks the length; all packet pointers are derived anew afterwards.
        if unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast::<xdp_md>(), by) } != 0 {
            return Err(());
        }
        self.length = length;
        Ok(())
    }

    /// Moves the frame's start so that the byte at `offset` is `front` bytes behind it. The start moves into
    /// the frame, or into the headroom in front of it.
    #[inline(always)]
    pub(crate) fn move_front(&mut self, offset: usize, front: usize) -> Result<(), ()> {
        let by = offset as i32 - front as i32;
        // SAFETY: as above.
        if unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast::<xdp_md>(), by) } != 0 {
            return Err(());
        }
        self.length = self.length + front - offset;
        Ok(())
    }

    /// Returns whether a part of the frame lies in a further buffer.
    #[inline(always)]
    pub(crate) fn is_split(&self) -> bool {
        self.context.data_end() - self.context.data() < self.length
    }

    /// Writes `header` over the frame's first bytes.
    #[inline(always)]
    pub(crate) fn write_front<T: IntoBytes + Immutable>(&mut self, header: T) -> Result<(), ()> {
        let pointer = self.pointer::<T>(0).ok_or(())?;
        // SAFETY: `pointer` was just checked to point to as many bytes of this frame as `T` has. The machine
        // allows unaligned access; otherwise the verifier refuses the program.
        unsafe { pointer.write(header) };
        Ok(())
    }
}

impl Frame for Packet<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        let pointer = self.pointer::<T>(offset)?;
        // SAFETY: as in `write_front`; every pattern of bits is a valid `T`.
        Some(unsafe { pointer.read() })
    }

    #[inline(always)]
    fn forgotten(&self, number: usize) -> usize {
        forget(&FORGOTTEN, &number).copied().unwrap_or_default()
    }
}
