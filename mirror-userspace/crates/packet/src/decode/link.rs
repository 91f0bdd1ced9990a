//! Link layers, and the shims between them and IP: VLAN and VN tags, MPLS labels, `PPPoE`, the network
//! service header, backbone and fabric encapsulations.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{EtherType, Ipv6Header, VlanTag, ethertype};
use zerocopy::network_endian::{U16, U32};

use super::{DecodeError, Layer, Protocol};
use crate::Vlans;

/// The supported link layers (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// IEEE 802.3 Ethernet.
    Ethernet,
    /// BSD loopback: the address family in four bytes of either byte order.
    Null,
    /// PPP, with or without HDLC-like framing (RFC 1662).
    Ppp,
    /// Cisco's PPP with HDLC framing.
    CiscoHdlc,
    /// IPv4 or IPv6 without a link header.
    RawIp,
    /// Linux "cooked" capture.
    LinuxSll,
    /// Linux "cooked" capture, version 2.
    LinuxSll2,
}

impl LinkType {
    /// Returns the link layer with this number in capture files (`LINKTYPE_…`, and the `DLT_RAW` of several
    /// systems), or `None` if it is not supported.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 | 108 => Self::Null,
            1 => Self::Ethernet,
            9 | 50 => Self::Ppp,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            104 => Self::CiscoHdlc,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }

    /// Returns the `EtherType` of what follows the link header, and the length of that header, for link layers other
    /// than Ethernet; `None` if the bytes end before, or nothing follows that has an `EtherType`.
    #[must_use]
    pub fn ethertype(self, bytes: &[u8]) -> Option<(u16, usize)> {
        let kind = |at: usize| bytes.header::<EtherType>(at).map(EtherType::get);
        let ip = |at: usize| match bytes.get(at)? >> 4 {
            4 => Some((ethertype::IPV4, at)),
            6 => Some((ethertype::IPV6, at)),
            _ => None,
        };
        match self {
            Self::Ethernet => None,
            Self::Null => ip(NULL_LEN),
            Self::RawIp => ip(0),
            Self::LinuxSll => Some((kind(SLL_LEN - 2)?, SLL_LEN)),
            Self::LinuxSll2 => Some((kind(0)?, SLL2_LEN)),
            Self::CiscoHdlc => Some((kind(HDLC_LEN - 2)?, HDLC_LEN)),
            Self::Ppp => match bytes {
                [0x0f | 0x8f, _, ..] => Some((kind(HDLC_LEN - 2)?, HDLC_LEN)),
                _ => match ppp_header(bytes)? {
                    (ppp::IPV4 | ppp::IPV6, len) => ip(len),
                    _ => None,
                },
            },
        }
    }
}

/// Lengths of link headers in bytes.
const NULL_LEN: usize = 4;
const SLL_LEN: usize = 16;
const SLL2_LEN: usize = 20;
const HDLC_LEN: usize = 4;

/// Returns the name of a link layer that capture files may have (<https://www.tcpdump.org/linktypes.html>), as far as
/// it is known.
#[must_use]
pub const fn link_name(number: u32) -> Option<&'static str> {
    Some(match number {
        0 => "NULL",
        1 => "ETHERNET",
        6 => "IEEE802_5",
        8 => "SLIP",
        9 => "PPP",
        10 => "FDDI",
        50 => "PPP_HDLC",
        51 => "PPP_ETHER",
        100 => "ATM_RFC1483",
        12 | 14 | 101 => "RAW",
        104 => "C_HDLC",
        105 => "IEEE802_11",
        107 => "FRELAY",
        108 => "LOOP",
        113 => "LINUX_SLL",
        117 => "PFLOG",
        119 => "IEEE802_11_PRISM",
        127 => "IEEE802_11_RADIOTAP",
        147..=162 => "USER",
        163 => "IEEE802_11_AVS",
        187 => "BLUETOOTH_HCI_H4",
        189 => "USB_LINUX",
        192 => "PPI",
        195 => "IEEE802_15_4_WITHFCS",
        201 => "BLUETOOTH_HCI_H4_WITH_PHDR",
        203 => "LAPD",
        220 => "USB_LINUX_MMAPPED",
        227 => "CAN_SOCKETCAN",
        228 => "IPV4",
        229 => "IPV6",
        230 => "IEEE802_15_4_NOFCS",
        239 => "NFLOG",
        240 => "NETANALYZER",
        242 => "IPOIB",
        249 => "USBPCAP",
        252 => "WIRESHARK_UPPER_PDU",
        253 => "NETLINK",
        254 => "BLUETOOTH_LINUX_MONITOR",
        276 => "LINUX_SLL2",
        _ => return None,
    })
}

/// The `EtherType`s of shims.
mod shim {
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const MPLS_MULTICAST: u16 = 0x8848;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
    pub(super) const PROVIDER_BACKBONE: u16 = 0x88e7;
    pub(super) const FABRIC_PATH: u16 = 0x8903;
    pub(super) const VN_TAG: u16 = 0x8926;
    pub(super) const NETWORK_SERVICE: u16 = 0x894f;
}

/// The largest value of the field behind the hardware addresses that is a length instead of an EtherType (IEEE
/// 802.3, section 3.2.6). Linux "cooked" captures have smaller numbers for frames with such a length, too.
const MAX_LENGTH: u16 = 1500;

/// "Transparent Ethernet bridging": an Ethernet frame in a tunnel that identifies its payload by EtherType.
pub(super) const BRIDGED_ETHERNET: u16 = 0x6558;

/// Removes the link header.
#[inline(always)]
pub(super) fn decode(layer: Layer<'_>, link: LinkType) -> Result<Layer<'_>, DecodeError> {
    match link {
        LinkType::Ethernet => after_ethertype(layer, 12),
        LinkType::LinuxSll => after_ethertype(layer, SLL_LEN - 2),
        LinkType::LinuxSll2 => {
            let kind: EtherType = layer.header()?;
            layer.after(SLL2_LEN, Protocol::EtherType(kind.get()))
        }
        LinkType::CiscoHdlc => after_ethertype(layer, HDLC_LEN - 2),
        LinkType::RawIp => layer.after(0, Protocol::Ip),
        LinkType::Null => {
            let family: U32 = layer.header()?;
            // The writer uses its own byte order. AF_INET6 is 10 on Linux, and 24, 28 or 30 on the BSDs.
            match family.get().min(family.get().swap_bytes()) {
                2 | 10 | 24 | 28 | 30 => layer.after(NULL_LEN, Protocol::Ip),
                _ => Err(DecodeError::NotIp),
            }
        }
        LinkType::Ppp => match layer.bytes {
            [0x0f | 0x8f, _, ..] => after_ethertype(layer, HDLC_LEN - 2),
            _ => layer.after(0, Protocol::Ppp),
        },
    }
}

/// Skips past the EtherType at `offset`.
#[inline(always)]
fn after_ethertype(layer: Layer<'_>, offset: usize) -> Result<Layer<'_>, DecodeError> {
    let kind: EtherType = layer.after(offset, layer.protocol)?.header()?;
    layer.after(offset + 2, Protocol::EtherType(kind.get()))
}

/// Removes the header that an EtherType announced, unless that is the IP header.
#[inline(always)]
pub(super) fn decode_ethertype(layer: Layer<'_>, kind: u16) -> Result<Layer<'_>, DecodeError> {
    match kind {
        ethertype::IPV4 | ethertype::IPV6 => layer.after(0, Protocol::Ip),
        ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => {
            let tag: VlanTag = layer.header()?;
            let mut layer = layer;
            // The capture header's hash covers frames with at most two tags.
            layer.direct &= layer.tags < 2;
            if usize::from(layer.tags) == Vlans::MAX || !layer.vlans.push(tag.id()) {
                return Err(DecodeError::Nesting);
            }
            layer.tags += 1;
            layer.after(4, Protocol::EtherType(tag.ethertype()))
        }
        shim::MPLS | shim::MPLS_MULTICAST => layer.shimmed().after(0, Protocol::Mpls),
        // Version and type, code, session and length (RFC 2516, section 4), followed by PPP.
        shim::PPPOE_SESSION => layer.shimmed().after(6, Protocol::Ppp),
        shim::VN_TAG => after_ethertype(layer.shimmed(), 4),
        // Four bytes of service identifier, followed by the customer's Ethernet frame (IEEE 802.1ah).
        shim::PROVIDER_BACKBONE => layer.shimmed().after(4, Protocol::Link(LinkType::Ethernet)),
        // The rest of the tag, followed by the Ethernet frame.
        shim::FABRIC_PATH => layer.shimmed().after(2, Protocol::Link(LinkType::Ethernet)),
        shim::NETWORK_SERVICE => network_service(layer.shimmed()),
        BRIDGED_ETHERNET => layer.shimmed().after(0, Protocol::Link(LinkType::Ethernet)),
        0..=MAX_LENGTH => logical_link(layer.shimmed()),
        _ => Err(DecodeError::NotIp),
    }
}

/// Removes the header of IEEE 802.2 logical link control, which is in frames that have a length in place of the
/// EtherType. IP follows the header of the subnetwork access protocol (RFC 1042), or the IP access point.
fn logical_link(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    match layer.bytes {
        // Behind the organisation 0, or that of IEEE 802.1H, follows an EtherType.
        [0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, ..] => after_ethertype(layer, 6),
        [0x06, 0x06, 0x03, ..] => layer.after(3, Protocol::Ip),
        _ => Err(DecodeError::NotIp),
    }
}

/// Numbers of protocols in PPP.
mod ppp {
    pub(super) const IPV4: u16 = 0x0021;
    pub(super) const IPV6: u16 = 0x0057;
    pub(super) const MPLS: u16 = 0x0281;
    pub(super) const MPLS_MULTICAST: u16 = 0x0283;
}

/// Reads the protocol field of PPP, which has one byte if it was compressed (RFC 1661, sections 2 and 6.5), behind
/// the address and control field, which the peers may agree to omit (RFC 1662, section 3.1). Returns the protocol,
/// and the length of all of them.
fn ppp_header(bytes: &[u8]) -> Option<(u16, usize)> {
    let (rest, at) = match bytes {
        [0xff, 0x03, rest @ ..] => (rest, 2),
        rest => (rest, 0),
    };
    match *rest {
        [low, ..] if low & 1 == 1 => Some((u16::from(low), at + 1)),
        [high, low, ..] => Some((u16::from_be_bytes([high, low]), at + 2)),
        _ => None,
    }
}

/// Removes the header of PPP.
pub(super) fn decode_ppp(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    let (protocol, len) = ppp_header(layer.bytes).ok_or(DecodeError::LinkTruncated)?;
    match protocol {
        ppp::IPV4 | ppp::IPV6 => layer.after(len, Protocol::Ip),
        ppp::MPLS | ppp::MPLS_MULTICAST => layer.after(len, Protocol::Mpls),
        _ => Err(DecodeError::NotIp),
    }
}

/// Removes one MPLS label. A reserved label, or else the first four bits, identifies the payload behind the
/// last label, as in routers (RFC 3032, section 2.1; RFC 4928, section 3).
pub(super) fn decode_mpls(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    const BOTTOM_OF_STACK: u32 = 0x100;
    const CONTROL_WORD: usize = 4;
    let label: U32 = layer.header()?;
    if label.get() & BOTTOM_OF_STACK == 0 {
        return layer.after(4, Protocol::Mpls);
    }
    let inside = layer.after(4, Protocol::Ip)?;
    let ethernet = |offset: usize| inside.after(offset, Protocol::Link(LinkType::Ethernet));
    match inside.bytes.first().map(|first| first >> 4) {
        Some(4 | 6) if begins_ip(&inside) || !begins_ethernet(inside.bytes) => Ok(inside),
        // A pseudowire's control word (RFC 4385), unless only the bytes without one begin a frame.
        Some(0) if !begins_ethernet(inside.bytes) => ethernet(CONTROL_WORD),
        Some(0) if inside.bytes.get(CONTROL_WORD..).is_some_and(begins_ethernet) => ethernet(CONTROL_WORD),
        // A pseudowire without control word begins with a hardware address (RFC 4448, section 4.4.1).
        Some(_) if begins_ethernet(inside.bytes) => ethernet(0),
        Some(_) => Err(DecodeError::NotIp),
        None => Err(DecodeError::LinkTruncated),
    }
}

/// Returns whether a layer is an IP packet by more than its version: by the checksum of the header for IPv4, by the
/// length for IPv6, behind which no more than a check sequence has room.
fn begins_ip(layer: &Layer<'_>) -> bool {
    const CHECK_SEQUENCE: usize = 4;
    match layer.bytes.first() {
        Some(0x45..=0x4f) => ipv4_checksum_holds(layer.bytes),
        _ => layer.bytes.header::<Ipv6Header>(0).is_some_and(|ip| {
            let behind = layer.wire_len().checked_sub(Ipv6Header::LEN + ip.payload_length());
            ip.version() == 6 && behind.is_some_and(|behind| behind <= CHECK_SEQUENCE)
        }),
    }
}

/// Returns whether the checksum of an IPv4 header is right (RFC 1071).
fn ipv4_checksum_holds(bytes: &[u8]) -> bool {
    let len = bytes.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let Some(header) = bytes.get(..len) else { return false };
    let (words, _) = header.as_chunks();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Returns whether these bytes begin a plausible Ethernet frame: one of a known type, which the first bytes behind
/// the header confirm for IP.
pub(super) fn begins_ethernet(bytes: &[u8]) -> bool {
    let (Some(kind), version) = (bytes.header::<EtherType>(12), bytes.get(14).map(|first| first >> 4)) else {
        return false;
    };
    match kind.get() {
        ethertype::IPV4 => version == Some(4),
        ethertype::IPV6 => version == Some(6),
        ethertype::ARP
        | ethertype::VLAN
        | ethertype::QINQ
        | ethertype::QINQ_OLD
        | shim::MPLS
        | shim::PPPOE_SESSION
        | shim::PROVIDER_BACKBONE => true,
        _ => false,
    }
}

/// Removes a network service header (RFC 8300, section 2.2).
fn network_service(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    #[derive(zerocopy::FromBytes, Clone, Copy)]
    #[repr(C)]
    struct Base {
        /// Version, flags and time to live. The low six bits are the length in words of four bytes.
        length: U16,
        metadata: u8,
        next: u8,
    }
    let base: Base = layer.header()?;
    let len = usize::from(base.length.get() & 0x3f) * 4;
    let _ = base.metadata;
    if len < 8 {
        return Err(DecodeError::LinkTruncated);
    }
    match base.next {
        1 | 2 => layer.after(len, Protocol::Ip),
        3 => layer.after(len, Protocol::Link(LinkType::Ethernet)),
        5 => layer.after(len, Protocol::Mpls),
        _ => Err(DecodeError::NotIp),
    }
}
