//! Entry point, maps, and the way from outcome to verdict.
#![expect(unsafe_code, reason = "globals are read as volatile, map values are raw pointers")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{debug, trace};
use mirror_xdp_common::capture::{self, CaptureHeader, flags};
use mirror_xdp_common::counters::{Counter, CounterArray, Fate};
use mirror_xdp_common::inner::{Fragment, InnerHeaders};
use mirror_xdp_common::outer::{self, VxlanPorts};

use crate::packet::Packet;

/// Replaced by the number of queues when the program is loaded.
const QUEUES: u32 = 1;

/// UDP ports taken as VXLAN; user space sets them before loading.
#[unsafe(no_mangle)]
static VXLAN_PORTS: Global<VxlanPorts> = Global::new(VxlanPorts([0; outer::MAX_PORTS]));

/// Secret seed of the flow hash; user space sets it before loading.
#[unsafe(no_mangle)]
static HASH_SEED: Global<u64> = Global::new(0);

/// The counters of all outcomes, one array a CPU.
#[map]
static COUNTERS: PerCpuArray<CounterArray> = PerCpuArray::with_max_entries(1, 0);

/// The socket of each queue.
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES, 0);

/// The program.
#[xdp(frags)]
pub(crate) fn capture(context: XdpContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let count = |counter: Counter| {
        // SAFETY: the array belongs to this CPU, and no other program on it interrupts this one.
        unsafe { (*counters)[counter as usize] += 1 };
    };
    count(Counter::Seen);
    let outcome = run(&context);
    count(outcome);
    match outcome.fate() {
        Fate::Passed => {
            trace!(&context, "passed: {}", outcome.name());
            xdp_action::XDP_PASS
        }
        // `run` has already told the kernel which socket.
        Fate::Redirected => xdp_action::XDP_REDIRECT,
        Fate::Dropped | Fate::Seen => {
            debug!(&context, "dropped: {}", outcome.name());
            xdp_action::XDP_DROP
        }
    }
}

/// Handles one frame and says what became of it.
#[inline(always)]
fn run(context: &XdpContext) -> Counter {
    match try_run(context) {
        Ok(()) => Counter::Redirected,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn try_run(context: &XdpContext) -> Result<(), Counter> {
    let mut packet = Packet::new(context);
    let mirrored = outer::decapsulate(&packet, &VXLAN_PORTS.load())?;
    // First what can fail without having changed the frame. The kernel remembers the socket, and follows
    // it when the verdict is to redirect.
    SOCKETS.redirect(context.rx_queue_index(), 0).map_err(|_| Counter::NoSocket)?;
    let header_len = if mirrored.ipv6 { capture::V6_LEN } else { capture::V4_LEN };
    // Behind the datagram: padding of a short Ethernet frame, or a trailer.
    packet.truncate(mirrored.inner_offset + mirrored.inner_len).map_err(|()| Counter::NoHeadroom)?;
    packet.trim_head(mirrored.inner_offset - header_len).map_err(|()| Counter::NoHeadroom)?;
    // Only now the inner headers: the frame ends where the inner one does, so nothing behind it is taken
    // for a part of it; and they begin at one of two offsets, whatever was in front of them, so that the
    // verifier need not follow them once for each form of the outer headers.
    let header = capture_header(&packet, &mirrored, header_len);
    let written =
        if mirrored.ipv6 { packet.write_front(header.to_v6()) } else { packet.write_front(header.to_v4()) };
    written.map_err(|()| Counter::HeadersNotLinear)
}

#[inline(always)]
fn capture_header(packet: &Packet<'_>, mirrored: &outer::Mirrored, inner_offset: usize) -> CaptureHeader {
    let inner = InnerHeaders::parse(packet, inner_offset);
    let original_len = inner.original_len(mirrored.inner_len);
    let mut bits = 0;
    if mirrored.ipv6 {
        bits |= flags::OUTER_IPV6;
    }
    if original_len > mirrored.inner_len {
        bits |= flags::TRUNCATED;
    }
    if !matches!(inner.fragment, Fragment::Whole) {
        bits |= flags::FRAGMENT;
    }
    CaptureHeader {
        flags: bits,
        vni: mirrored.vni,
        outer_source: mirrored.source,
        outer_destination: mirrored.destination,
        captured_len: mirrored.inner_len as u32,
        original_len: original_len as u32,
        flow_hash: inner.flow_hash(HASH_SEED.load()),
        rule: 0,
        // SAFETY: the helper takes nothing.
        time: unsafe { bpf_ktime_get_ns() },
    }
}
