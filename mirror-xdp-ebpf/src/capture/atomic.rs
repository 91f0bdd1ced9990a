//! Atomic addition by several CPUs: Rust's atomics provide none for this target.
#![expect(unsafe_code, reason = "the instructions take raw pointers")]

use core::arch::asm;

/// Atomically adds `value` to the number at `pointer`.
///
/// # Safety
///
/// `pointer` points to eight aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn add(pointer: *mut u64, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) pointer, in(reg) value, options(nostack)) };
}

/// Atomically adds `value` to the number at `pointer`, and returns its previous value.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(pointer: *mut u64, mut value: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({pointer} + 0), {value})",
            pointer = in(reg) pointer,
            value = inout(reg) value,
            options(nostack)
        );
    }
    value
}
