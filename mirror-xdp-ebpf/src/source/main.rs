//! The TC programs of the mirror source. `mirror`, at ingress and egress of the mirrored interface, puts
//! a copy of each frame into a private veth pair; `encapsulate`, at the pair's far end, writes the
//! envelope of a mirrored frame around it and sends it to the target.
//!
//! The pair is there for what only a device's transmit path does: it cuts the large packets of
//! segmentation offload into those that appear on a wire, and fills checksums and VLAN tags in. Frames
//! of the mirrored interface are never changed, delayed or dropped.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod encapsulate;
#[cfg(target_arch = "bpf")]
mod mirror;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod skb;

/// The programs exist for the eBPF target alone; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier admits no program in which this could be reached.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "the kernel looks for the licence in a section of that name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
