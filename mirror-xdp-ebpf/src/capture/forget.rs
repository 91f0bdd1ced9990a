//! Makes the verifier forget.
//!
//! The verifier follows each path through the program, and merges two paths only if it knows the same of all
//! values. After the parsers it knows much: on one path there was a VLAN tag, on another the protocol is TCP.
//! These are hundreds of paths, each of which it would follow to the end. A value read from a map can be
//! anything; so the results are put into a map and read back, and all paths are merged.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;

/// Puts `value` into the map's only element, and returns it from there. The reference is valid until the next
/// call for the same map.
#[inline(always)]
pub(crate) fn forget<T: Copy>(map: &'static PerCpuArray<T>, value: &T) -> Option<&'static T> {
    let place = map.get_ptr_mut(0)?;
    // SAFETY: the element belongs to this CPU, and no other program on it interrupts this one.
    unsafe {
        place.write(*value);
        let mut place = place;
        // As far as the compiler knows, this may have changed what was written.
        asm!("/* {0} */", inout(reg) place, options(nostack));
        Some(&*place)
    }
}
