//! The programs that are measured.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use mirror_xdp_common::capture;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer;

use crate::forget::forget;
use crate::packet::Packet;
use crate::program::{FACTS, Facts, MIRRORED, PORTS, SOCKETS, handle};
use crate::renew::renew;

/// Frames that were counted and dropped, or redirected to a socket without being parsed.
#[map]
static COUNTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn count() {
    add(1);
}

#[inline(always)]
fn add(frames: u64) {
    if let Some(counted) = COUNTED.get_ptr_mut(0) {
        // SAFETY: the counter belongs to this CPU, and no other program on it interrupts this one.
        unsafe { *counted += frames };
    }
}

/// The minimum of a program: counts and drops.
#[xdp(frags)]
pub(crate) fn floor(_context: XdpContext) -> u32 {
    count();
    xdp_action::XDP_DROP
}

/// The minimum of a program for an `AF_XDP` socket: counts and redirects.
#[xdp(frags)]
pub(crate) fn redirect(context: XdpContext) -> u32 {
    count();
    SOCKETS.redirect(context.rx_queue_index(), 0).unwrap_or_else(|action| action)
}

/// Renews the frame, counts and drops; its cost beyond that of `floor` is the cost of renewing.
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

/// Reads the clock, counts and drops.
#[xdp(frags)]
pub(crate) fn clock(_context: XdpContext) -> u32 {
    // SAFETY: the helper takes no arguments. The time is used, so that the compiler keeps the call.
    let now = unsafe { bpf_ktime_get_ns() };
    add(1 + (now >> 63));
    xdp_action::XDP_DROP
}

/// Renews the frame, reads its outer headers, counts and drops.
#[xdp(frags)]
pub(crate) fn renewed_outer(context: XdpContext) -> u32 {
    if renew(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    let packet = Packet::new(&context);
    let Ok(mirrored) = outer::decapsulate(&packet, &PORTS.load()) else { return xdp_action::XDP_ABORTED };
    let Some(_) = forget(&MIRRORED, &mirrored) else { return xdp_action::XDP_ABORTED };
    count();
    xdp_action::XDP_DROP
}

/// Like `renewed_outer`, but also removes the outer headers, parses the inner ones and computes the hash.
#[xdp(frags)]
pub(crate) fn renewed_inner(context: XdpContext) -> u32 {
    if renew(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    let mut packet = Packet::new(&context);
    let Ok(mirrored) = outer::decapsulate(&packet, &PORTS.load()) else { return xdp_action::XDP_ABORTED };
    let Some(mirrored) = forget(&MIRRORED, &mirrored) else { return xdp_action::XDP_ABORTED };
    if packet.move_front(mirrored.inner_offset, capture::LEN).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    let inner = InnerHeaders::parse(&packet, capture::LEN);
    let macs = packet.header(capture::LEN).unwrap_or_default();
    let Some(facts) = forget(&FACTS, &Facts::new(mirrored, &inner, macs)) else {
        return xdp_action::XDP_ABORTED;
    };
    // The hash is used, so that the compiler keeps its computation.
    add(1 + u64::from(facts.hash.0 == 0));
    xdp_action::XDP_DROP
}
