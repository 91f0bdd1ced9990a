//! How much a policy may hold: what the compiled tables have room for.

use std::ops::RangeInclusive;

use mirror_xdp_common::{filter, outer};

/// Rules over all sets.
pub const RULES: usize = filter::MAX_RULES;
/// Rule sets.
pub const SETS: usize = filter::MAX_SETS;
/// VNIs that are known before any frame came.
pub const VNIS: usize = filter::MAX_VNIS;
/// Hardware addresses of mirrored interfaces.
pub const MACS: usize = filter::MAX_MACS;
/// Prefixes of outer sources.
pub const SOURCES: usize = filter::MAX_INTERVALS / 4;
/// UDP ports of VXLAN.
pub const VXLAN_PORTS: usize = outer::MAX_VXLAN_PORTS;
/// UDP ports of GENEVE.
pub const GENEVE_PORTS: usize = outer::MAX_GENEVE_PORTS;
/// UDP ports of VXLAN-GPE.
pub const VXLAN_GPE_PORTS: usize = outer::MAX_VXLAN_GPE_PORTS;
/// What the N of `sample 1/N` may be.
pub const SAMPLE: RangeInclusive<u32> = 1..=65_535;
/// What the N of `truncate N` may be: an Ethernet header at least.
pub const TRUNCATE: RangeInclusive<u32> = 14..=65_535;
/// Flows that are counted in the driver at a time.
pub const SHUNTED_FLOWS: RangeInclusive<u32> = 1..=1 << 20;
/// Bytes in the name of a set.
pub const NAME: usize = 128;
