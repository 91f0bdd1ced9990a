//! The parts that every object needs.

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier admits no program that could reach this.
    loop {}
}

#[expect(unsafe_code, reason = "the kernel looks for the licence in a section of that name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
