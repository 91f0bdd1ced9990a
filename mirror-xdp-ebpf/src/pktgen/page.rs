//! The page that the kernel provides, as a writable frame. This is the only place with unsafe code that
//! touches it.
#![expect(unsafe_code, reason = "packet memory is reached through raw pointers")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::pktgen::{BLOCK_LEN, BLOCK_VALUE_LEN, FrameMut, MAX_FRAME};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of frames, one behind the other.
pub(crate) type Block = [u8; BLOCK_VALUE_LEN];

/// Returns the same value, about which the compiler knows nothing, so that it draws no conclusions that the
/// verifier cannot follow.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: the assembly is empty.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// A page. Its initial contents are those of an earlier frame, if any.
pub(crate) struct Page<'a> {
    context: &'a XdpContext,
}

impl<'a> Page<'a> {
    #[inline(always)]
    pub(crate) const fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn raw(&self) -> *mut xdp_md {
        self.context.as_ptr().cast::<xdp_md>()
    }

    /// Replaces the contents of the page, which has `room` bytes, by the `length` bytes at `offset` in
    /// `block`.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        room: u32,
        block: *const Block,
        offset: u32,
        length: u32,
    ) -> Result<(), ()> {
        // SAFETY: the helper checks the length; packet pointers are derived anew afterwards.
        if unsafe { bpf_xdp_adjust_tail(self.raw(), length as i32 - room as i32) } != 0 {
            return Err(());
        }
        let (offset, length) = (opaque(u64::from(offset)), opaque(u64::from(length)));
        if offset >= BLOCK_LEN as u64 || length > MAX_FRAME as u64 {
            return Err(());
        }
        // The compiler would merge both bounds into one comparison, which the verifier does not accept as
        // bounds.
        let length = opaque(length);
        if length == 0 {
            return Err(());
        }
        // SAFETY: `offset` and `length` were checked to lie within a block, whose pointer is the map's.
        let done = unsafe {
            let bytes = block.cast::<u8>().add(offset as usize);
            bpf_xdp_store_bytes(self.raw(), 0, bytes.cast_mut().cast(), length as u32)
        };
        if done == 0 { Ok(()) } else { Err(()) }
    }

    /// Returns a pointer to `size_of::<T>()` bytes at `offset`.
    #[inline(always)]
    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let offset = opaque(offset as u64) as usize;
        if offset > MAX_FRAME {
            return None;
        }
        // Otherwise the compiler may compute `start` twice, once for the comparison and once for the access;
        // the verifier then does not know that the two are the same.
        let start = opaque((self.context.data() + offset) as u64) as usize;
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for Page<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the helper reads the context that the kernel passed to the program.
        unsafe { bpf_xdp_get_buff_len(self.raw()) as usize }
    }

    #[inline(always)]
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        let pointer = self.pointer::<T>(offset)?;
        // SAFETY: the pointer was checked to point to as many bytes of this frame as `T` has; every bit
        // pattern is a valid `T`. The machine allows unaligned access; otherwise the verifier refuses the
        // program.
        Some(unsafe { pointer.read() })
    }
}

impl FrameMut for Page<'_> {
    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) {
        if let Some(pointer) = self.pointer::<T>(offset) {
            // SAFETY: as above.
            unsafe { pointer.write(value) };
        }
    }
}
