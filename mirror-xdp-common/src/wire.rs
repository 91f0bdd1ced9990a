//! Protocol headers in their wire format. Multi-byte fields are big-endian; the accessors return host order.
//! Fields that no code here reads are not named individually.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Ethernet types (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Transparent Ethernet bridging: an Ethernet frame (RFC 1701).
    pub const ETHERNET: u16 = 0x6558;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// The pre-standard service tag, still seen in the field.
    pub const QINQ_OLD: u16 = 0x9100;
}

/// IANA protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header. Nothing follows it (RFC 6275, section 6.1.1).
    pub const MOBILITY: u8 = 135;
}

/// The UDP port of VXLAN (RFC 7348), which AWS mirror sessions always use.
pub const VXLAN_PORT: u16 = 4789;
/// The UDP port of GENEVE (RFC 8926), to which a Gateway Load Balancer forwards frames.
pub const GENEVE_PORT: u16 = 6081;

/// Length of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Length of one VLAN tag.
pub const VLAN_LEN: usize = 4;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of a VXLAN header.
pub const VXLAN_LEN: usize = 8;

/// The last two bytes of an Ethernet header or VLAN tag.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EtherType(u16);

impl EtherType {
    /// Returns it in host order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// The four bytes after an EtherType that announced a VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanTag {
    control: u16,
    ethertype: u16,
}

impl VlanTag {
    /// VLAN identifier, 12 bits.
    #[inline(always)]
    #[must_use]
    pub const fn id(self) -> u16 {
        u16::from_be(self.control) & 0x0fff
    }

    /// EtherType of the payload behind the tag.
    #[inline(always)]
    #[must_use]
    pub const fn ethertype(self) -> u16 {
        u16::from_be(self.ethertype)
    }
}

/// IPv4 header without options (RFC 791).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

impl Ipv4Header {
    /// Length without options.
    pub const LEN: usize = 20;

    /// Version field, 4 in a valid header.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u8 {
        self.version_ihl >> 4
    }

    /// Length with options in bytes, 0 to 60 as the field says; below 20 is malformed.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Length of header and payload in bytes, as the field says.
    #[inline(always)]
    #[must_use]
    pub const fn total_length(self) -> usize {
        u16::from_be(self.total_length) as usize
    }

    /// Offset of this fragment in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(self) -> usize {
        (u16::from_be(self.fragment) & 0x1fff) as usize * 8
    }

    /// Returns whether more fragments follow.
    #[inline(always)]
    #[must_use]
    pub const fn more_fragments(self) -> bool {
        u16::from_be(self.fragment) & 0x2000 != 0
    }

    /// Payload protocol (IANA).
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        self.protocol
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> Address {
        Address::from_v4(u32::from_be(self.source))
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> Address {
        Address::from_v4(u32::from_be(self.destination))
    }
}

/// IPv6 header (RFC 8200). Addresses are words of 32 bits: the header is only 4-aligned.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Header {
    version_class_flow: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[inline(always)]
const fn address(words: [u32; 4]) -> Address {
    Address::from_words(
        (u32::from_be(words[0]) as u64) << 32 | u32::from_be(words[1]) as u64,
        (u32::from_be(words[2]) as u64) << 32 | u32::from_be(words[3]) as u64,
    )
}

impl Ipv6Header {
    /// Length of the fixed header.
    pub const LEN: usize = 40;

    /// Version field, 6 in a valid header.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u8 {
        (u32::from_be(self.version_class_flow) >> 28) as u8
    }

    /// Length of everything after the fixed header, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn payload_length(self) -> usize {
        u16::from_be(self.payload_length) as usize
    }

    /// Protocol or extension header that follows (IANA).
    #[inline(always)]
    #[must_use]
    pub const fn next_header(self) -> u8 {
        self.next_header
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> Address {
        address(self.source)
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> Address {
        address(self.destination)
    }
}

/// The first bytes that all IPv6 extension headers share, and the whole of the fragment header
/// (RFC 8200, sections 4.3 to 4.6; RFC 4302 for the authentication header).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtensionHeader {
    next_header: u8,
    length: u8,
    fragment: u16,
    identification: u32,
}

impl ExtensionHeader {
    /// Length of the shortest extension header, and of the fragment header.
    pub const LEN: usize = 8;
    /// The bits of a fragment header's field that hold the fragment's offset in bytes.
    pub const OFFSET_MASK: u32 = 0xfff8;
    /// The bit of a fragment header's field that announces more fragments.
    pub const MORE: u32 = 1;

    /// Protocol or extension header that follows (IANA).
    #[inline(always)]
    #[must_use]
    pub const fn next_header(self) -> u8 {
        self.next_header
    }

    /// The raw length field; its unit depends on the header.
    #[inline(always)]
    #[must_use]
    pub const fn length_field(self) -> u8 {
        self.length
    }

    /// Offset and flags of a fragment header, see [`Self::OFFSET_MASK`] and [`Self::MORE`].
    #[inline(always)]
    #[must_use]
    pub const fn fragment_field(self) -> u32 {
        u16::from_be(self.fragment) as u32
    }

    /// The fragment's offset in bytes, of a fragment header.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(self) -> usize {
        (self.fragment_field() & Self::OFFSET_MASK) as usize
    }

    /// Returns whether more fragments follow, by a fragment header.
    #[inline(always)]
    #[must_use]
    pub const fn more_fragments(self) -> bool {
        self.fragment_field() & Self::MORE != 0
    }
}

/// Source and destination port: the first bytes of TCP, UDP and SCTP.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ports {
    source: u16,
    destination: u16,
}

impl Ports {
    /// Source port.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u16 {
        u16::from_be(self.source)
    }

    /// Destination port.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u16 {
        u16::from_be(self.destination)
    }
}

/// UDP header (RFC 768).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UdpHeader {
    source: u16,
    destination: u16,
    length: u16,
    checksum: u16,
}

impl UdpHeader {
    /// Destination port.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u16 {
        u16::from_be(self.destination)
    }

    /// Length of header and payload in bytes, as the field says.
    #[inline(always)]
    #[must_use]
    pub const fn length(self) -> usize {
        u16::from_be(self.length) as usize
    }
}

/// VXLAN header (RFC 7348), with the reserved bits that its extensions use.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VxlanHeader {
    flags: u32,
    vni: u32,
}

impl VxlanHeader {
    /// The value of VXLAN-GPE's next protocol for Ethernet (draft-ietf-nvo3-vxlan-gpe, section 3.2).
    pub const NEXT_ETHERNET: u8 = 3;

    /// Returns whether the I flag marks the VNI as valid.
    #[inline(always)]
    #[must_use]
    pub const fn has_vni(self) -> bool {
        u32::from_be(self.flags) & 0x0800_0000 != 0
    }

    /// Returns whether the P flag of VXLAN-GPE announces a [next protocol](Self::next_protocol).
    #[inline(always)]
    #[must_use]
    pub const fn has_next_protocol(self) -> bool {
        u32::from_be(self.flags) & 0x0400_0000 != 0
    }

    /// The next protocol of VXLAN-GPE.
    #[inline(always)]
    #[must_use]
    pub const fn next_protocol(self) -> u8 {
        u32::from_be(self.flags) as u8
    }

    /// Returns whether the G flag announces a group policy (draft-smith-vxlan-group-policy).
    #[inline(always)]
    #[must_use]
    pub const fn has_group_policy(self) -> bool {
        u32::from_be(self.flags) & 0x8000_0000 != 0
    }

    /// The VNI.
    #[inline(always)]
    #[must_use]
    pub const fn vni(self) -> crate::Vni {
        crate::Vni::from_vxlan_word(u32::from_be(self.vni))
    }
}

/// GENEVE header without options (RFC 8926, section 3.4).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeneveHeader {
    version_options: u8,
    flags: u8,
    protocol: u16,
    vni: u32,
}

impl GeneveHeader {
    /// Length without options.
    pub const LEN: usize = 8;

    /// Version field, 0 in a valid header.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u8 {
        self.version_options >> 6
    }

    /// Length of all options in bytes, 0 to 252.
    #[inline(always)]
    #[must_use]
    pub const fn options_len(self) -> usize {
        (self.version_options & 0x3f) as usize * 4
    }

    /// EtherType of the payload.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u16 {
        u16::from_be(self.protocol)
    }

    /// The VNI.
    #[inline(always)]
    #[must_use]
    pub const fn vni(self) -> crate::Vni {
        crate::Vni::from_vxlan_word(u32::from_be(self.vni))
    }
}

/// A GENEVE option (RFC 8926, section 3.5) with the first eight bytes of its data, or of the bytes that
/// follow it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeneveOption {
    class: u16,
    kind: u8,
    length: u8,
    data: [u32; 2],
}

impl GeneveOption {
    /// Length without data.
    const HEAD_LEN: usize = 4;

    /// Amazon's option with the identifier of the Gateway Load Balancer endpoint: class, type and words of
    /// data.
    pub const ENDPOINT: (u16, u8, u8) = (0x0108, 1, 2);
    /// Amazon's option with the identifier of the endpoint's attachment.
    pub const ATTACHMENT: (u16, u8, u8) = (0x0108, 2, 2);
    /// Amazon's option with the load balancer's cookie of the flow.
    pub const COOKIE: (u16, u8, u8) = (0x0108, 3, 1);

    /// Length with data in bytes, 4 to 128.
    #[inline(always)]
    #[must_use]
    pub const fn total_len(self) -> usize {
        Self::HEAD_LEN + (self.length & 0x1f) as usize * 4
    }

    /// Returns all bits if the option is this one, else none.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, (class, kind, words): (u16, u8, u8)) -> u64 {
        let different = (u16::from_be(self.class) ^ class) as u64
            | (self.kind ^ kind) as u64
            | ((self.length & 0x1f) ^ words) as u64;
        // Only 0 minus 1 has the top bits set.
        (different.wrapping_sub(1).cast_signed() >> 63).cast_unsigned()
    }

    /// The first eight bytes of data, in host order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        (u32::from_be(self.data[0]) as u64) << 32 | u32::from_be(self.data[1]) as u64
    }
}

/// The hardware addresses at the beginning of an Ethernet frame.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MacAddresses {
    words: [u32; 3],
}

impl MacAddresses {
    /// The destination as the low 48 bits of a number, its first byte the most significant.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u64 {
        (u32::from_be(self.words[0]) as u64) << 16 | (u32::from_be(self.words[1]) >> 16) as u64
    }

    /// The source as the low 48 bits of a number, its first byte the most significant.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u64 {
        ((u32::from_be(self.words[1]) & 0xffff) as u64) << 32 | u32::from_be(self.words[2]) as u64
    }
}

/// The beginning of an ICMP or `ICMPv6` message (RFC 792, RFC 4443).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

impl IcmpHeader {
    /// Bytes of the header; in an error message, the beginning of the packet that caused it follows.
    pub const LEN: usize = 8;

    /// The type of the message.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.kind
    }

    /// Returns whether an ICMP message of this type quotes another packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_error(self) -> bool {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        self.kind < 16 && 1_u32 << self.kind & (1 << 3 | 1 << 4 | 1 << 5 | 1 << 11 | 1 << 12) != 0
    }

    /// Returns whether an `ICMPv6` message of this type quotes another packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_error_v6(self) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        self.kind >= 1 && self.kind <= 4
    }
}

/// The flags of a TCP header that show the state of a connection (RFC 9293), at offset 13.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// Their offset in the header.
    pub const OFFSET: usize = 13;

    /// Returns whether a FIN or RST ends the connection.
    #[inline(always)]
    #[must_use]
    pub const fn ends(self) -> bool {
        self.0 & 0b101 != 0
    }
}
