//! The capture program for benchmarks, which run it repeatedly on one frame by `BPF_PROG_TEST_RUN`.
//!
//! The program changes its frame, so a second run would see the result of the first. Here it runs behind code
//! that renews the frame, and that code also runs alone, so that its cost can be subtracted. The modules of
//! the capture program are those of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[path = "../capture/atomic.rs"]
mod atomic;
#[cfg(target_arch = "bpf")]
mod entries;
#[cfg(target_arch = "bpf")]
#[path = "../capture/forget.rs"]
mod forget;
#[cfg(target_arch = "bpf")]
#[path = "../capture/memo.rs"]
mod memo;
#[cfg(target_arch = "bpf")]
#[path = "../object.rs"]
mod object;
#[cfg(target_arch = "bpf")]
#[path = "../capture/packet.rs"]
mod packet;
#[cfg(target_arch = "bpf")]
#[path = "../capture/policy.rs"]
mod policy;
#[cfg(target_arch = "bpf")]
#[path = "../capture/program.rs"]
mod program;
#[cfg(target_arch = "bpf")]
mod renew;
#[cfg(target_arch = "bpf")]
#[path = "../capture/shunt.rs"]
mod shunt;
#[cfg(target_arch = "bpf")]
#[path = "../capture/vni.rs"]
mod vni;

/// The programs exist only for the eBPF target; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
