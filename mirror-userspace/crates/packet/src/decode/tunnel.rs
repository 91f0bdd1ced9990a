//! Tunnels: GRE and those over UDP.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{Ipv6Header, VXLAN_LEN, VXLAN_PORT, VxlanHeader, ethertype};
use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use super::link::{BRIDGED_ETHERNET, LinkType, begins_ethernet};
use super::{DecodeError, Decoded, Layer, Protocol, Transport};

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
                ERSPAN_III => erspan_3(layer, len)?,
                PPP => (len, Protocol::Ppp),
                kind => (len, Protocol::EtherType(kind)),
            }
        }
        _ => return Err(DecodeError::TransportHeader),
    };
    layer.tunnelled().after(len, protocol).map_err(|_| DecodeError::TransportHeader)
}

/// Returns the end of an ERSPAN III header that begins at `at`, and the protocol of the mirrored frame behind it
/// (draft-foschiano-erspan-03, section 4.3).
fn erspan_3(layer: Layer<'_>, at: usize) -> Result<(usize, Protocol), DecodeError> {
    const HEADER: usize = 12;
    const SUBHEADER: usize = 8;
    const HAS_SUBHEADER: u16 = 0x0001;
    const FRAME_TYPE: u16 = 0x7c00;
    const IP: u16 = 2 << 10;
    let last: U16 = layer.bytes.header(at + HEADER - 2).ok_or(DecodeError::TransportHeader)?;
    let subheader = if last.get() & HAS_SUBHEADER == 0 { 0 } else { SUBHEADER };
    let protocol =
        if last.get() & FRAME_TYPE == IP { Protocol::Ip } else { Protocol::Link(LinkType::Ethernet) };
    Ok((at + HEADER + subheader, protocol))
}

const GENEVE_PORT: u16 = 6081;
const TEREDO_PORT: u16 = 3544;
const GTP_PORT: u16 = 2152;
/// The port of VXLAN in Linux before RFC 7348, which Flannel and Cilium still use.
const LINUX_VXLAN_PORT: u16 = 8472;

/// The UDP ports of tunnels within packets, as far as they can be chosen; 0 marks an unused place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelPorts {
    vxlan: [u16; Self::MAX_VXLAN],
}

impl TunnelPorts {
    /// The most ports of VXLAN.
    pub const MAX_VXLAN: usize = 8;
    /// The usual ports.
    pub const DEFAULT: Self = Self { vxlan: [VXLAN_PORT, LINUX_VXLAN_PORT, 0, 0, 0, 0, 0, 0] };

    /// Makes a list of these ports of VXLAN; `None` if there are too many.
    #[must_use]
    pub fn new(vxlan: &[u16]) -> Option<Self> {
        let mut ports = Self { vxlan: [0; Self::MAX_VXLAN] };
        ports.vxlan.get_mut(..vxlan.len())?.copy_from_slice(vxlan);
        Some(ports)
    }

    /// Returns the usual ports, and those to which datagrams of this Ethernet frame go that seem to carry VXLAN as
    /// well. Readers of stored frames do not know the ports of the capture.
    #[must_use]
    pub fn guessed(frame: &[u8], original_len: usize) -> Self {
        let mut ports = Self::DEFAULT;
        while let Some(port) = ports.next_guess(frame, original_len)
            && let Some(place) = ports.vxlan.iter_mut().find(|place| **place == 0)
        {
            *place = port;
        }
        ports
    }

    /// Returns a port that is not in the list although a datagram to it seems to carry VXLAN.
    fn next_guess(&self, frame: &[u8], original_len: usize) -> Option<u16> {
        let mut next = Some(Layer::frame(LinkType::Ethernet, frame, original_len).with_ports(self));
        while let Some(layer) = next {
            let Ok(Decoded::Packet(packet)) = super::decode(layer) else { return None };
            let port = packet.destination_port;
            if let Transport::Udp { payload, .. } = packet.transport
                && port != 0
                && packet.tunnelled.is_none()
                && payload.header(0).is_some_and(|header: VxlanHeader| header.has_vni())
                && payload.get(VXLAN_LEN..).is_some_and(begins_ethernet)
                && !self.is_vxlan(port)
            {
                return Some(port);
            }
            next = packet.tunnelled;
        }
        None
    }

    /// Returns the ports of VXLAN.
    pub fn vxlan(&self) -> impl Iterator<Item = u16> + '_ {
        self.vxlan.iter().copied().filter(|&port| port != 0)
    }

    #[inline(always)]
    fn is_vxlan(&self, port: u16) -> bool {
        // All are compared at once.
        self.vxlan.iter().fold(0, |hits, &one| hits | u8::from(one == port)) != 0
    }

    /// Returns true if a datagram between these ports, in either direction, may carry a tunnel.
    #[inline]
    #[must_use]
    pub fn may_be_of_tunnel(&self, port: u16, other_port: u16) -> bool {
        self.may_be_tunnel(port, other_port) || self.may_be_tunnel(other_port, port)
    }

    /// Returns true if a datagram between these ports may carry a tunnel.
    #[inline(always)]
    pub(super) fn may_be_tunnel(&self, source_port: u16, destination_port: u16) -> bool {
        self.is_vxlan(destination_port)
            || matches!(destination_port, GENEVE_PORT | TEREDO_PORT | GTP_PORT)
            || source_port == TEREDO_PORT
    }
}

impl Default for TunnelPorts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Returns the tunnel in a UDP payload if its ports and its first bytes indicate one.
pub(super) fn in_udp(layer: Layer<'_>, source_port: u16, destination_port: u16) -> Option<Layer<'_>> {
    if destination_port != 0 && layer.ports.is_vxlan(destination_port) {
        vxlan(layer)
    } else if destination_port == GENEVE_PORT {
        geneve(layer)
    } else if destination_port == GTP_PORT {
        gtp(layer)
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

/// The user plane of GTP (3GPP TS 29.281, section 5): an IP packet behind the header, its optional fields and its
/// extension headers.
fn gtp(layer: Layer<'_>) -> Option<Layer<'_>> {
    const HEADER: usize = 8;
    const OPTIONAL: usize = 4;
    /// More extension headers than these are an attack.
    const MAX_EXTENSIONS: usize = 8;
    const G_PDU: u8 = 255;
    let [flags, G_PDU, ..] = *layer.bytes else { return None };
    // Version 1 and protocol type GTP.
    if flags & 0xf0 != 0x30 {
        return None;
    }
    let (has_extensions, has_optional) = (flags & 0b100 != 0, flags & 0b111 != 0);
    let length: U16 = layer.bytes.header(2)?;
    let end = HEADER + usize::from(length.get());
    let mut at = HEADER;
    if has_optional {
        at += OPTIONAL;
        // The last of the optional fields is the type of the first extension header, and the last byte of an
        // extension header that of the next. Their lengths count units of four bytes.
        let mut next = if has_extensions { *layer.bytes.get(at - 1)? } else { 0 };
        let mut followed = 0;
        while next != 0 {
            let len = usize::from(*layer.bytes.get(at)?) * 4;
            if len == 0 || followed == MAX_EXTENSIONS {
                return None;
            }
            at += len;
            next = *layer.bytes.get(at - 1)?;
            followed += 1;
        }
    }
    let version = layer.bytes.get(at)? >> 4;
    if !matches!(version, 4 | 6) || end < at || end > layer.wire_len() {
        return None;
    }
    let captured = end.min(layer.bytes.len());
    let bytes = layer.bytes.get(at..captured)?;
    Some(Layer { bytes, missing: end - captured, protocol: Protocol::Ip, ..layer }.tunnelled())
}
