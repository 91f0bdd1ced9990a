//! Entry point and maps.
#![expect(unsafe_code, reason = "globals are read as volatile, map values are raw pointers")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use mirror_xdp_common::pktgen::{Entry, State, rewrite};

use crate::page::{Block, Page};

/// Replaced by the numbers of frames and blocks when the program is loaded.
const UNSET: u32 = 1;

/// Index of the interface that frames leave by; user space sets it before loading.
#[unsafe(no_mangle)]
static INTERFACE: Global<u32> = Global::new(0);

/// How many frames the sequence has; user space sets it before loading.
#[unsafe(no_mangle)]
static FRAMES: Global<u32> = Global::new(0);

/// Bytes that the kernel's pages have before the program runs; user space sets it before loading.
#[unsafe(no_mangle)]
static ROOM: Global<u32> = Global::new(0);

/// How many laps a round is: how often the sequence holds the capture. 0 where flows stay the same.
#[unsafe(no_mangle)]
static LAPS: Global<u32> = Global::new(0);

/// Whether frames have their times, or follow each other as fast as it goes; user space sets it before
/// loading.
#[unsafe(no_mangle)]
static PACED: Global<u32> = Global::new(0);

/// The sequence.
#[map]
static ENTRIES: Array<Entry> = Array::with_max_entries(UNSET, 0);

/// The bytes of its frames.
#[map]
static BLOCKS: Array<Block> = Array::with_max_entries(UNSET, 0);

/// How far it was sent. One for all CPUs: the program runs on one at a time.
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);

/// The program. Where no frame is to be sent, for now or any more, the page goes back unused.
#[xdp]
pub(crate) fn pktgen(context: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: nobody else writes to the state while the program runs.
    let state = unsafe { &mut *state };
    if state.frames >= state.limit {
        return xdp_action::XDP_DROP;
    }
    if PACED.load() != 0 {
        // SAFETY: the helper takes nothing.
        let now = unsafe { bpf_ktime_get_ns() };
        if !state.is_due(now) {
            return xdp_action::XDP_DROP;
        }
    }
    let Some(entry) = ENTRIES.get(state.next) else { return xdp_action::XDP_DROP };
    let mut page = Page::new(&context);
    let filled = match BLOCKS.get_ptr(entry.block) {
        Some(block) => page.fill(ROOM.load(), block, entry.offset, entry.length),
        None => Err(()),
    };
    if filled.is_err() {
        state.failed += 1;
        return xdp_action::XDP_DROP;
    }
    let laps = LAPS.load();
    let lap = state.lap(laps, entry.lap);
    if laps != 0 && lap != 0 {
        rewrite(&mut page, &entry.rewrite, lap);
    }
    state.frames += 1;
    state.bytes += u64::from(entry.length);
    state.advance(FRAMES.load(), entry.gap);
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(INTERFACE.load(), 0) as u32 }
}

/// For the interface itself: some drivers send redirected frames only where a program is attached.
#[xdp(frags)]
pub(crate) fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
