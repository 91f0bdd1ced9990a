//! The XDP program: recognises mirrored frames, removes their outer headers, puts the capture header in front
//! and redirects them to the queue's `AF_XDP` socket. Everything else goes to the kernel unchanged.
//!
//! The program is a function that returns the counter of the outcome. A single place turns it into the
//! verdict and counts it, so no frame can leave uncounted.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod forget;
#[cfg(target_arch = "bpf")]
mod memo;
#[cfg(target_arch = "bpf")]
#[path = "../object.rs"]
mod object;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod policy;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod shunt;
#[cfg(target_arch = "bpf")]
mod vni;

/// The programs exist only for the eBPF target; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
