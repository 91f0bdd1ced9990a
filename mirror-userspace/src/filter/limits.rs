//! How much a policy may hold: what the compiled tables have room for.

use std::ops::RangeInclusive;

/// Rules over all sets.
pub const RULES: usize = 4096;
/// Rule sets.
pub const SETS: usize = 256;
/// VNIs that are known before any frame came.
pub const VNIS: usize = 16_384;
/// Hardware addresses of mirrored interfaces.
pub const MACS: usize = 4096;
/// Prefixes of outer sources.
pub const SOURCES: usize = 4096;
/// UDP ports of VXLAN.
pub const VXLAN_PORTS: usize = mirror_xdp_common::outer::MAX_PORTS;
/// UDP ports of GENEVE.
pub const GENEVE_PORTS: usize = 4;
/// UDP ports of VXLAN-GPE.
pub const VXLAN_GPE_PORTS: usize = 4;
/// What the N of `sample 1/N` may be.
pub const SAMPLE: RangeInclusive<u32> = 1..=65_535;
/// What the N of `truncate N` may be: an Ethernet header at least.
pub const TRUNCATE: RangeInclusive<u32> = 14..=65_535;
/// Flows that are counted in the driver at a time.
pub const SHUNTED_FLOWS: RangeInclusive<u32> = 1..=1 << 20;
/// Bytes in the name of a set.
pub const NAME: usize = 128;
