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

/// Index of the outgoing interface; user space sets it before loading.
#[unsafe(no_mangle)]
static INTERFACE: Global<u32> = Global::new(0);

/// The number of frames of the sequence; user space sets it before loading.
#[unsafe(no_mangle)]
static FRAMES: Global<u32> = Global::new(0);

/// The size of the kernel's pages before the program runs, in bytes; user space sets it before loading.
#[unsafe(no_mangle)]
static ROOM: Global<u32> = Global::new(0);

/// The number of laps in a round, which is the number of times that the sequence contains the capture; 0 if
/// flows stay the same.
#[unsafe(no_mangle)]
static LAPS: Global<u32> = Global::new(0);

/// Non-zero if frames have due times, and do not follow each other as fast as possible; user space sets it
/// before loading.
#[unsafe(no_mangle)]
static PACED: Global<u32> = Global::new(0);

/// The sequence.
#[map]
static ENTRIES: Array<Entry> = Array::with_max_entries(UNSET, 0);

/// The bytes of the frames of the sequence.
#[map]
static BLOCKS: Array<Block> = Array::with_max_entries(UNSET, 0);

/// The progress of sending. There is one for all CPUs, because the program runs on one at a time.
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);

/// The program. If no frame is to be sent, for now or any more, the page is returned unused.
#[xdp]
pub(crate) fn pktgen(context: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: nothing else writes to the state while the program runs.
    let state = unsafe { &mut *state };
    if state.frames >= state.limit {
        return xdp_action::XDP_DROP;
    }
    if PACED.load() != 0 {
        // SAFETY: the helper takes no arguments.
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

/// The program for the interface itself: some drivers send redirected frames only if a program is attached.
#[xdp(frags)]
pub(crate) fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
