//! Making the verifier forget.
//!
//! The verifier follows each way through the program, and two ways only become one where it knows the
//! same of all values. After the parsers it knows much: on this way there was a VLAN tag, on that one the
//! protocol is TCP; hundreds of ways, each of which it would follow to the end. What is read from a map
//! can be anything, so what was found is put into one and read from there: all ways are one again.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;

/// Puts `value` into the map's only element, and returns it there. The reference holds until the next
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
