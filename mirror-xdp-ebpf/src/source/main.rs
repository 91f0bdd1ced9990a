//! The TC programs of the mirror source. `mirror`, at ingress and egress of the mirrored interface, puts a
//! copy of each frame into a private veth pair. `encapsulate`, at the pair's far end, puts the outer headers
//! of a mirrored frame in front of it and sends it to the target.
//!
//! The pair provides the transmit path of a device, which segments the large packets of segmentation offload
//! into packets as they appear on a wire, and fills in checksums and VLAN tags. Frames of the mirrored
//! interface are never changed, delayed or dropped.
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

/// The programs exist only for the eBPF target; a plain `cargo check` sees this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
