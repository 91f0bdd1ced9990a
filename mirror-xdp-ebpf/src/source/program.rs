//! Entry points, maps and counting.
#![expect(unsafe_code, reason = "globals are read as volatile, map values are raw pointers")]

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use mirror_xdp_common::source::{MARK, SourceCounter, SourceCounterArray, Template};

use crate::encapsulate::{Sealed, encapsulate as seal};
use crate::mirror::{Config, mirror as copy};
use crate::skb::Skb;

/// `BPF_F_NO_PREALLOC`: a template that a program is reading is freed only afterwards.
const NO_PREALLOC: u32 = 1;

/// The parameters that are fixed while the source runs; user space sets them before loading.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::EMPTY;

/// The template of the outer headers, under the key 0; missing while there is no way to the target. It is in
/// a hash table, which replaces a value at once, while an array would replace it byte by byte.
#[map]
static TEMPLATE: HashMap<u32, Template> = HashMap::with_max_entries(1, NO_PREALLOC);

/// The counters of both programs, one array per CPU.
#[map]
static COUNTERS: PerCpuArray<SourceCounterArray> = PerCpuArray::with_max_entries(1, 0);

/// The program at ingress and egress of the mirrored interface, which leaves every frame to the next program.
#[classifier]
pub(crate) fn mirror(context: TcContext) -> i32 {
    // SAFETY: a read-only global that user space set before loading. The read is volatile, because the
    // compiler would otherwise fold the initial value in.
    let config = unsafe { core::ptr::read_volatile(&raw const CONFIG) };
    add(SourceCounter::Seen, 1);
    add(copy(&mut Skb::new(context), &config), 1);
    TC_ACT_UNSPEC
}

/// The program at ingress of the pair's far end, where every frame ends.
#[classifier]
pub(crate) fn encapsulate(context: TcContext) -> i32 {
    let mut skb = Skb::new(context);
    // Frames that the system itself sends into the pair, such as router solicitations, are no copies.
    if skb.mark() != MARK {
        add(SourceCounter::Foreign, 1);
        return TC_ACT_SHOT as i32;
    }
    add(SourceCounter::Segments, 1);
    // SAFETY: the map frees values only after the programs that read them have ended.
    let template = unsafe { TEMPLATE.get(&0) };
    match template.ok_or(SourceCounter::NoRoute).and_then(|template| seal(&mut skb, template)) {
        Ok(Sealed { bytes, truncated }) => {
            add(SourceCounter::Mirrored, 1);
            add(SourceCounter::MirroredBytes, u64::from(bytes));
            add(SourceCounter::Truncated, u64::from(truncated));
        }
        Err(reason) => add(reason, 1),
    }
    TC_ACT_SHOT as i32
}

#[inline(always)]
fn add(counter: SourceCounter, amount: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the array belongs to this CPU, and no program on it interrupts another at this point.
        unsafe { (*counters)[counter as usize] += amount };
    }
}
