//! A compiled program of libpcap's that may be used by other threads: the control thread compiles it, and
//! workers run it.
#![expect(unsafe_code, reason = "pcap does not say that its programs may change threads")]

use pcap::BpfProgram;

/// A compiled program.
pub(super) struct Program(BpfProgram);

// SAFETY: a program is a block of instructions from `malloc` that nothing else refers to; libpcap reads it
// to run it, and frees it in the end. Neither depends on the thread.
unsafe impl Send for Program {}
// SAFETY: as above; to run a program changes nothing of it.
unsafe impl Sync for Program {}

impl Program {
    pub(super) const fn new(program: BpfProgram) -> Self {
        Self(program)
    }

    /// Returns whether the program lets a packet through.
    pub(super) fn filter(&self, packet: &[u8]) -> bool {
        self.0.filter(packet)
    }
}
