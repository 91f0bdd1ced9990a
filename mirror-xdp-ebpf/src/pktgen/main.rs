//! The program of the packet generator's engine `live-frames`. It is attached to nothing: user space runs it
//! by `BPF_PROG_TEST_RUN` in live frames mode. In each run it writes the next frame of a sequence into the
//! page that the kernel provides, and redirects the page to the interface.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[path = "../object.rs"]
mod object;
#[cfg(target_arch = "bpf")]
mod page;
#[cfg(target_arch = "bpf")]
mod program;

/// The programs exist only for the eBPF target; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
