//! What is measured.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;

use crate::program::{SOCKETS, handle};
use crate::renew::renew;

/// Frames that were counted and dropped, or handed to a socket without a look at them.
#[map]
static COUNTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn count() {
    if let Some(counted) = COUNTED.get_ptr_mut(0) {
        // SAFETY: the counter belongs to this CPU, and no other program on it interrupts this one.
        unsafe { *counted += 1 };
    }
}

/// The least that a program can do: counts and drops.
#[xdp(frags)]
pub(crate) fn floor(_context: XdpContext) -> u32 {
    count();
    xdp_action::XDP_DROP
}

/// The least that a program can do for an `AF_XDP` socket: counts and redirects.
#[xdp(frags)]
pub(crate) fn redirect(context: XdpContext) -> u32 {
    count();
    SOCKETS.redirect(context.rx_queue_index(), 0).unwrap_or_else(|action| action)
}

/// Renews the frame, counts and drops: what this costs more than `floor` is what renewing costs.
#[xdp(frags)]
pub(crate) fn renewed_floor(context: XdpContext) -> u32 {
    if renew(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    count();
    xdp_action::XDP_DROP
}

/// Renews the frame and captures it.
#[xdp(frags)]
pub(crate) fn renewed_capture(context: XdpContext) -> u32 {
    if renew(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    handle(&context)
}
