//! What each object has to have, whatever is in it.

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier admits no program in which this could be reached.
    loop {}
}

#[expect(unsafe_code, reason = "the kernel looks for the licence in a section of that name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
