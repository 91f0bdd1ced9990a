//! The eBPF objects: the stored ones, unless their sources were changed.

/// The XDP program of a capture, and its maps.
pub static CAPTURE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/capture.o"));
/// The TC programs of the mirror source.
pub static SOURCE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/source.o"));
/// The program of the packet generator.
pub static PKTGEN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pktgen.o"));
