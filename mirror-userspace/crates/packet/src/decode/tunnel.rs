//! Tunnels: GRE and those over UDP.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{Ipv6Header, VXLAN_LEN, VXLAN_PORT, VxlanHeader, ethertype};
use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use super::link::{BRIDGED_ETHERNET, LinkType};
use super::{DecodeError, Layer, Protocol};

/// The first four bytes of a GRE header (RFC 2784, RFC 2890; version 1: RFC 2637).
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct GreHeader {
    flags: U16,
    protocol: U16,
}

/// Removes a GRE header.
pub(super) fn decode_gre(layer: Layer<'_>) -> Result<Layer<'_>, DecodeError> {
    const CHECKSUM: u16 = 0x8000;
    const ROUTING: u16 = 0x4000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const ACKNOWLEDGEMENT: u16 = 0x0080;
    const PPP: u16 = 0x880b;
    const ERSPAN: u16 = 0x88be;
    const ERSPAN_III: u16 = 0x22eb;
    let header: GreHeader = layer.bytes.header(0).ok_or(DecodeError::TransportHeader)?;
    let flags = header.flags.get();
    let version = flags & 7;
    let present = |flag: u16, len: usize| if flags & flag != 0 { len } else { 0 };
    let len = size_of::<GreHeader>() + present(KEY, 4) + present(SEQUENCE, 4);
    let (len, protocol) = match (version, header.protocol.get()) {
        (1, PPP) => (len + present(ACKNOWLEDGEMENT, 4), Protocol::Ppp),
        // A source route has a length of its own. No sender uses it any more (RFC 2784 dropped it).
        (0, _) if flags & ROUTING != 0 => return Err(DecodeError::TransportHeader),
        (0, kind) => {
            let len = len + present(CHECKSUM, 4);
            match kind {
                // Type I has no sequence number and no header of its own.
                ERSPAN => (len + present(SEQUENCE, 8), Protocol::Link(LinkType::Ethernet)),
                ERSPAN_III => (len + 12, Protocol::Link(LinkType::Ethernet)),
                PPP => (len, Protocol::Ppp),
                kind => (len, Protocol::EtherType(kind)),
            }
        }
        _ => return Err(DecodeError::TransportHeader),
    };
    layer.tunnelled().after(len, protocol).map_err(|_| DecodeError::TransportHeader)
}

const GENEVE_PORT: u16 = 6081;
const TEREDO_PORT: u16 = 3544;

/// Returns true if a datagram between these ports may carry a tunnel.
#[inline(always)]
pub(super) const fn may_be_in_udp(source_port: u16, destination_port: u16) -> bool {
    matches!(destination_port, VXLAN_PORT | GENEVE_PORT | TEREDO_PORT) || source_port == TEREDO_PORT
}

/// Returns the tunnel in a UDP payload if its ports and its first bytes indicate one.
pub(super) fn in_udp(layer: Layer<'_>, source_port: u16, destination_port: u16) -> Option<Layer<'_>> {
    if destination_port == VXLAN_PORT {
        vxlan(layer)
    } else if destination_port == GENEVE_PORT {
        geneve(layer)
    } else if source_port == TEREDO_PORT || destination_port == TEREDO_PORT {
        teredo(layer)
    } else {
        None
    }
}

/// VXLAN (RFC 7348).
fn vxlan(layer: Layer<'_>) -> Option<Layer<'_>> {
    let header: VxlanHeader = layer.bytes.header(0)?;
    if !header.has_vni() {
        return None;
    }
    layer.tunnelled().after(VXLAN_LEN, Protocol::Link(LinkType::Ethernet)).ok()
}

/// GENEVE (RFC 8926).
fn geneve(layer: Layer<'_>) -> Option<Layer<'_>> {
    const HEADER: usize = 8;
    let [version_and_options, ..] = *layer.bytes else { return None };
    if version_and_options >> 6 != 0 {
        return None;
    }
    let options = usize::from(version_and_options & 0x3f) * 4;
    let kind: U16 = layer.bytes.header(2)?;
    let protocol = match kind.get() {
        BRIDGED_ETHERNET => Protocol::Link(LinkType::Ethernet),
        kind @ (ethertype::IPV4 | ethertype::IPV6) => Protocol::EtherType(kind),
        _ => return None,
    };
    layer.tunnelled().after(HEADER + options, protocol).ok()
}

/// Teredo (RFC 4380, section 5.1.1): an IPv6 packet, optionally preceded by authentication and origin.
fn teredo(layer: Layer<'_>) -> Option<Layer<'_>> {
    const AUTHENTICATION: u16 = 1;
    const AUTHENTICATION_LEN: usize = 13;
    const ORIGIN: u16 = 0;
    const ORIGIN_LEN: usize = 8;
    let mut inside = layer.tunnelled().after(0, Protocol::Ip).ok()?;
    let indicator = |layer: &Layer<'_>| layer.bytes.header::<U16>(0).map(U16::get);
    if indicator(&inside)? == AUTHENTICATION {
        // The indicator is followed by the lengths of the client identifier and of the authentication value.
        let variable = inside.bytes.get(2..4)?.iter().map(|&len| usize::from(len)).sum::<usize>();
        inside = inside.after(AUTHENTICATION_LEN + variable, Protocol::Ip).ok()?;
    }
    if indicator(&inside)? == ORIGIN {
        inside = inside.after(ORIGIN_LEN, Protocol::Ip).ok()?;
    }
    let ip: Ipv6Header = inside.bytes.header(0)?;
    (ip.version() == 6 && Ipv6Header::LEN + ip.payload_length() == inside.wire_len()).then_some(inside)
}
