//! The bits of `flags` in the capture header.

/// The innermost of the outer IP headers was IPv6.
pub const OUTER_IPV6: u16 = 1;
/// The mirror cut the inner frame short.
pub const TRUNCATED: u16 = 1 << 1;
/// The inner packet is a fragment.
pub const FRAGMENT: u16 = 1 << 2;
/// The inner packet is a fragment that has no transport header.
pub const LATER_FRAGMENT: u16 = 1 << 3;
/// The frame came in GENEVE.
pub const GENEVE: u16 = 1 << 4;
/// The VXLAN header had VXLAN-GPE's P flag.
pub const VXLAN_GPE: u16 = 1 << 5;
/// The VXLAN header had the group policy extension's G flag.
pub const VXLAN_GROUP_POLICY: u16 = 1 << 6;
/// The mirrored interface received the packet.
pub const INGRESS: u16 = 1 << 7;
/// The mirrored interface sent the packet.
pub const EGRESS: u16 = 1 << 8;
/// The flow is in the sample of a rule.
pub const SAMPLED: u16 = 1 << 9;
/// A rule made the program cut the inner frame short.
pub const SNAPPED: u16 = 1 << 10;
