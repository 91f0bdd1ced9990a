//! The compiled policy in the kernel: two copies of each table, of which one is in force. User space writes
//! the other and then switches by a single write.
#![expect(unsafe_code, reason = "map values are raw pointers")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use mirror_xdp_common::filter::{Compiled, MAX_CLASSES, MAX_RULE_IDS, Row, RuleCounters, Tables};

/// The generation in force. Its lowest bit selects the copy.
#[map]
static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static TABLES: Array<Tables> = Array::with_max_entries(2, 0);

#[map]
static ROWS: Array<Row> = Array::with_max_entries(2 * MAX_CLASSES as u32, 0);

/// The counters by the identifier of a rule.
#[map]
static RULE_COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::with_max_entries(MAX_RULE_IDS as u32, 0);

/// Returns the generation in force, which applies to the frame from here on.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    // SAFETY: the entry exists and is aligned; user space writes it whole.
    GENERATION.get_ptr(0).map_or(0, |generation| unsafe { generation.read_volatile() })
}

/// The policy of a generation.
pub(crate) struct Policy {
    tables: &'static Tables,
    first_row: u32,
}

impl Policy {
    #[inline(always)]
    pub(crate) fn of(generation: u32) -> Option<Self> {
        let copy = generation & 1;
        // User space writes a copy only when no frame can be judged by it any more.
        Some(Self { tables: TABLES.get(copy)?, first_row: copy * MAX_CLASSES as u32 })
    }
}

impl Compiled for Policy {
    #[inline(always)]
    fn tables(&self) -> &Tables {
        self.tables
    }

    #[inline(always)]
    fn row(&self, class: u16) -> Option<&Row> {
        ROWS.get(self.first_row + u32::from(class))
    }

    #[inline(always)]
    fn lowest_bit(word: u64) -> usize {
        let mut bit = word.trailing_zeros() as usize;
        // The compiler knows that this is less than 64, and would omit the mask that proves it to the
        // verifier.
        // SAFETY: the assembly is empty.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) bit, options(pure, nomem, nostack)) };
        bit & 63
    }

    #[inline(always)]
    fn opaque(mut number: u64) -> u64 {
        // SAFETY: as above.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack)) };
        number
    }
}

/// Counts a frame for a rule, or for a set of which no rule matches.
#[inline(always)]
pub(crate) fn count_rule(rule: u16, bytes: usize) {
    if let Some(counters) = RULE_COUNTERS.get_ptr_mut(u32::from(rule)) {
        // SAFETY: the counters belong to this CPU, and no other program on it interrupts this one.
        unsafe {
            (*counters)[0] += 1;
            (*counters)[1] += bytes as u64;
        }
    }
}
