//! The TC programs of the mirror source. `mirror`, at ingress and egress of the mirrored interface, puts
//! a copy of each frame into a private veth pair; `encapsulate`, at the pair's far end, writes the
//! envelope of a mirrored frame around it and sends it to the target.
//!
//! The pair is there for what only a device's transmit path does: it cuts the large packets of
//! segmentation offload into those that appear on a wire, and fills checksums and VLAN tags in. Frames
//! of the mirrored interface are never changed, delayed or dropped.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod encapsulate;
#[cfg(target_arch = "bpf")]
mod mirror;
#[cfg(target_arch = "bpf")]
#[path = "../object.rs"]
mod object;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod skb;

/// The programs exist for the eBPF target alone; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
