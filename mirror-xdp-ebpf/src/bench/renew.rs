//! Restores a captured frame to its original, or makes the next frame of another flow.
//!
//! Nothing here depends on whether the frame has just been captured, so the work is the same in both programs
//! that do it. The bytes that the capture program reads are written in the same pieces, because a CPU that
//! assembles a piece from several writes has to wait for them, which never happens with a frame from a NIC.
//! The pieces are four bytes each, from offset 2, where all headers are aligned, up to the inner Ethernet
//! header.
#![expect(unsafe_code, reason = "packet memory and map values are reached through raw pointers")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

/// The most words of outer headers.
const WORDS: usize = 64;

/// Offset of the first word.
const FIRST: usize = 2;

/// The frame to be made, which the benchmark writes. Numbers in the packet are in its byte order.
#[repr(C)]
struct Frame {
    /// Bytes of the frame.
    length: u32,
    /// The frame's first bytes.
    head: u32,
    /// The number of words between the first bytes and the inner frame.
    words: u32,
    /// Offset of the VNI and the eight bits that follow it.
    vni_at: u32,
    /// Offset of the inner frame's source address.
    source_at: u32,
    /// Offset of its source port.
    port_at: u32,
    /// Index of the first of its variants.
    first: u32,
    /// The number of variants, a power of two, minus one.
    mask: u32,
    /// The number of runs.
    run: u32,
    outer: [u32; WORDS],
}

/// The fields that differ from packet to packet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Variant {
    vni: u32,
    source: u32,
    port: u32,
    reserved: u32,
}

#[map]
static FRAME: Array<Frame> = Array::with_max_entries(1, 0);

/// Room for the variants of all frames of a benchmark.
#[map]
static VARIANTS: Array<Variant> = Array::with_max_entries(1 << 20, 0);

/// Moves the frame's start back, writes the outer headers, and makes a packet of the next variant.
#[inline(always)]
pub(crate) fn renew(context: &XdpContext) -> Option<()> {
    // SAFETY: the entry exists, and only one program runs at a time.
    let frame = unsafe { &mut *FRAME.get_ptr_mut(0)? };
    let length = context.data_end() - context.data();
    let by = length as i32 - frame.length as i32;
    // SAFETY: the helper checks the length; packet pointers are derived anew afterwards.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast::<xdp_md>(), by) } != 0 {
        return None;
    }
    let run = frame.run;
    frame.run = run.wrapping_add(1);
    let variant = *VARIANTS.get(frame.first + (run & frame.mask))?;

    write(context, 0, frame.head as u16)?;
    let start = context.data() + FIRST;
    if start + 4 * WORDS > context.data_end() {
        return None;
    }
    let mut word = 0;
    while word < WORDS && word < frame.words as usize {
        // SAFETY: all of the words were just checked to be within the frame.
        unsafe { ((start + 4 * word) as *mut u32).write_unaligned(frame.outer[word]) };
        word += 1;
    }
    write(context, frame.vni_at, variant.vni)?;
    write(context, frame.source_at, variant.source)?;
    write(context, frame.port_at, variant.port as u16)
}

/// Writes a number into the frame.
#[inline(always)]
fn write<T>(context: &XdpContext, at: u32, value: T) -> Option<()> {
    let mut pointer = context.data() + (at & 0xff) as usize;
    // The comparison and the access must use the same pointer, so that the verifier recognises it.
    // SAFETY: the assembly is empty.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack)) };
    if pointer + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: as many bytes were just checked to be within the frame. The machine allows unaligned access.
    unsafe { (pointer as *mut T).write(value) };
    Some(())
}
