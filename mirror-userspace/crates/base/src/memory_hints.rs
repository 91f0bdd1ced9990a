//! Hints for the kernel and the CPU about how memory will be used. They affect speed only, not results.
#![expect(unsafe_code, reason = "the hints take addresses")]

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The size of the huge pages to request: those of x86-64, and of arm64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Asks the kernel to back a vector's capacity by huge pages as it is touched. That saves address
/// translations where the vector is accessed at random.
pub fn huge_pages<T>(room: &mut Vec<T>) {
    let start = room.as_mut_ptr().cast::<u8>();
    let end = start.addr() + room.capacity() * size_of::<T>();
    let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
    let len = (end - end % HUGE_PAGE).saturating_sub(start.addr() + before);
    if let Some(start) = NonNull::new(start.wrapping_add(before)).filter(|_| len > 0) {
        // SAFETY: the pages belong to the vector, and the call changes only how they are backed, not their
        // content.
        let _ = unsafe { madvise(start.cast(), len, MmapAdvise::MADV_HUGEPAGE) };
    }
}

/// Prefetches the beginning of `bytes`, up to two cache lines, which are read soon.
#[inline(always)]
pub fn fetch(bytes: &[u8]) {
    fetch_lines(bytes.as_ptr(), 2);
}

/// Prefetches a value that is read soon.
#[inline(always)]
pub fn fetch_value<T>(value: &T) {
    fetch_lines(std::ptr::from_ref(value).cast(), size_of::<T>().div_ceil(LINE));
}

/// The size of a cache line.
const LINE: usize = 64;

#[inline(always)]
fn fetch_lines(start: *const u8, lines: usize) {
    for line in 0..lines {
        let at = start.wrapping_add(line * LINE);
        // SAFETY: a prefetch reads nothing, and an unmapped address does no harm.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
        // SAFETY: the same.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }
}
