//! The limits of a policy: the capacities of the compiled tables.

use std::ops::RangeInclusive;

use mirror_xdp_common::{filter, outer};

/// Rules over all sets together.
pub const RULES: usize = filter::MAX_RULES;
/// Rule sets.
pub const SETS: usize = filter::MAX_SETS;
/// VNIs that are known before their first frame arrives.
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
/// The accepted N of `sample 1/N`.
pub const SAMPLE: RangeInclusive<u32> = 1..=65_535;
/// The accepted N of `truncate N`, at least an Ethernet header.
pub const TRUNCATE: RangeInclusive<u32> = 14..=65_535;
/// Flows that the driver counts at a time.
pub const SHUNTED_FLOWS: RangeInclusive<u32> = 1..=1 << 20;
/// Bytes in the name of a set.
pub const NAME: usize = 128;
