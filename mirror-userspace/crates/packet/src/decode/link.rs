//! Link layers, and the shims between them and IP: VLAN and VN tags, MPLS labels, `PPPoE`, the network
//! service header, backbone and fabric encapsulations.

use mirror_xdp_common::wire::{EtherType, VlanTag, ethertype};
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

/// "Transparent Ethernet bridging": an Ethernet frame in a tunnel that identifies its payload by EtherType.
pub(super) const BRIDGED_ETHERNET: u16 = 0x6558;

/// Removes the link header.
#[inline(always)]
pub(super) fn decode(layer: Layer<'_>, link: LinkType) -> Result<Layer<'_>, DecodeError> {
    match link {
        LinkType::Ethernet => after_ethertype(layer, 12),
        LinkType::LinuxSll => after_ethertype(layer, 14),
        LinkType::LinuxSll2 => {
            let kind: EtherType = layer.header()?;
            layer.after(20, Protocol::EtherType(kind.get()))
        }
        LinkType::CiscoHdlc => after_ethertype(layer, 2),
        LinkType::RawIp => layer.after(0, Protocol::Ip),
        LinkType::Null => {
            let family: U32 = layer.header()?;
            // The writer uses its own byte order. AF_INET6 is 10 on Linux, and 24, 28 or 30 on the BSDs.
            match family.get().min(family.get().swap_bytes()) {
                2 | 10 | 24 | 28 | 30 => layer.after(4, Protocol::Ip),
                _ => Err(DecodeError::NotIp),
            }
        }
        LinkType::Ppp => match layer.bytes {
            // Address and control field, which the peers may agree to omit (RFC 1662, section 3.1).
            [0xff, 0x03, ..] => layer.after(2, Protocol::Ppp),
            [0x0f | 0x8f, _, ..] => after_ethertype(layer, 2),
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
        _ => Err(DecodeError::NotIp),
    }
}

/// Removes the PPP protocol field, which has one byte if it was compressed (RFC 1661, sections 2 and 6.5).
pub(super) fn decode_ppp(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    let (protocol, len) = match *layer.bytes {
        [low, ..] if low & 1 == 1 => (u16::from(low), 1),
        [high, low, ..] => (u16::from_be_bytes([high, low]), 2),
        _ => return Err(DecodeError::LinkTruncated),
    };
    match protocol {
        0x0021 | 0x0057 => layer.after(len, Protocol::Ip),
        0x0281 | 0x0283 => layer.after(len, Protocol::Mpls),
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
    match inside.bytes.first().map(|first| first >> 4) {
        Some(4 | 6) => Ok(inside),
        // A pseudowire's control word (RFC 4385).
        Some(0) => inside.after(CONTROL_WORD, Protocol::Link(LinkType::Ethernet)),
        Some(_) => Err(DecodeError::NotIp),
        None => Err(DecodeError::LinkTruncated),
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
