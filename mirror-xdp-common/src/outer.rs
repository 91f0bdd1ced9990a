//! Recognition of mirrored frames, and removal of their outer headers.
//!
//! A mirrored frame has Ethernet, up to two VLAN tags, IPv4 (options allowed) or IPv6, UDP, and then one of:
//!
//! * VXLAN with the I flag and an Ethernet frame, which AWS VPC Traffic Mirroring sends to an interface or a
//!   Network Load Balancer. The reserved bits that VXLAN-GPE and the group policy extension use are
//!   tolerated, and noted.
//! * GENEVE with IP, UDP and such VXLAN inside, in which a Gateway Load Balancer forwards mirrored frames.
//!   Its options identify the endpoint by which the frame came.
//! * GENEVE with an Ethernet frame, which other clouds and Open vSwitch use for mirroring.

use zerocopy::FromBytes;

use crate::counters::Counter;
use crate::flags;
use crate::frame::Frame;
use crate::wire::{
    ETHERNET_LEN, EtherType, ExtensionHeader, GeneveHeader, GeneveOption, Ipv4Header, Ipv6Header, UDP_LEN,
    UdpHeader, VLAN_LEN, VXLAN_LEN, VlanTag, VxlanHeader, ethertype, protocol,
};
use crate::{Address, Vni};

/// The most UDP ports of VXLAN.
pub const MAX_VXLAN_PORTS: usize = 8;
/// The most UDP ports of GENEVE.
pub const MAX_GENEVE_PORTS: usize = 4;
/// The most UDP ports of VXLAN-GPE.
pub const MAX_VXLAN_GPE_PORTS: usize = 4;

/// Length of [`Ports`].
const MAX_PORTS: usize = MAX_VXLAN_PORTS + MAX_GENEVE_PORTS + MAX_VXLAN_GPE_PORTS;
/// The index of the first GENEVE port in [`Ports`].
const GENEVE: usize = MAX_VXLAN_PORTS;
/// The index of the first VXLAN-GPE port in [`Ports`].
const VXLAN_GPE: usize = GENEVE + MAX_GENEVE_PORTS;

/// The most options of a GENEVE header that are read. A Gateway Load Balancer sends three.
pub const MAX_GENEVE_OPTIONS: usize = 8;

/// The encapsulation at a UDP port of mirror traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// VXLAN, its reserved bits ignored (RFC 7348, section 5).
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
    /// VXLAN-GPE: the next protocol that it names has to be Ethernet.
    VxlanGpe,
}

/// The UDP destination ports of mirror traffic, in host order; 0 marks an unused place. The ports of VXLAN
/// come first, then those of GENEVE, then those of VXLAN-GPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Ports([u16; MAX_PORTS]);

impl Default for Ports {
    fn default() -> Self {
        let mut ports = Self::NONE;
        ports.0[0] = crate::wire::VXLAN_PORT;
        ports.0[GENEVE] = crate::wire::GENEVE_PORT;
        ports
    }
}

impl Ports {
    /// No port at all.
    pub const NONE: Self = Self([0; MAX_PORTS]);

    /// Makes a list of these ports; `None` if there are too many of a kind.
    #[must_use]
    pub fn new(vxlan: &[u16], geneve: &[u16], vxlan_gpe: &[u16]) -> Option<Self> {
        let mut ports = Self::NONE;
        ports.0.get_mut(..GENEVE)?.get_mut(..vxlan.len())?.copy_from_slice(vxlan);
        ports.0.get_mut(GENEVE..VXLAN_GPE)?.get_mut(..geneve.len())?.copy_from_slice(geneve);
        ports.0.get_mut(VXLAN_GPE..)?.get_mut(..vxlan_gpe.len())?.copy_from_slice(vxlan_gpe);
        Some(ports)
    }

    /// Returns the ports as numbers, in the order of the type.
    #[must_use]
    pub const fn as_array(&self) -> &[u16; MAX_PORTS] {
        &self.0
    }

    /// Returns all ports in use.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied().filter(|&port| port != 0)
    }

    /// Returns the encapsulation of datagrams to this port; `None` if they are not mirror traffic, as for
    /// port 0.
    #[inline(always)]
    #[must_use]
    pub fn encapsulation(&self, port: u16) -> Option<Encapsulation> {
        if port == 0 {
            return None;
        }
        if port == self.0[0] {
            return Some(Encapsulation::Vxlan);
        }
        // BPF has no instruction that turns a comparison into a value, and each branch doubles the number of
        // paths that the verifier follows. The difference is 0 only for the port itself, and only then the
        // difference minus 1 has the top bit set.
        let mut hits = 0;
        let mut index = 0;
        while index < MAX_PORTS {
            hits |= u32::from(self.0[index] ^ port).wrapping_sub(1) >> 31 << index;
            index += 1;
        }
        if hits == 0 {
            None
        } else if hits < 1 << GENEVE {
            Some(Encapsulation::Vxlan)
        } else if hits < 1 << VXLAN_GPE {
            Some(Encapsulation::Geneve)
        } else {
            Some(Encapsulation::VxlanGpe)
        }
    }
}

/// The metadata in the GENEVE options of a Gateway Load Balancer; absent values are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Identifier of the endpoint by which the frame came.
    pub endpoint: u64,
    /// Identifier of the endpoint's attachment.
    pub attachment: u64,
    /// The load balancer's cookie of the flow.
    pub cookie: u32,
}

/// A mirrored frame with its parsed outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The network identifier, which is that of the mirror session for AWS.
    pub vni: Vni,
    /// Source of the outermost IP header, which is the host that sent the frame to this one: a load balancer,
    /// or the same as `source`.
    pub sender: Address,
    /// Source of the innermost of the outer IP headers: the mirrored interface's primary address.
    pub source: Address,
    /// Destination of the innermost of the outer IP headers: the mirror target's address.
    pub destination: Address,
    /// The metadata of a Gateway Load Balancer.
    pub gateway: Gateway,
    /// The bits of [`flags`] that follow from the outer headers.
    pub flags: u16,
    /// Offset of the inner Ethernet frame, in bytes from the start of the frame.
    pub inner_offset: usize,
    /// Length of the inner frame in bytes, by the UDP length and without any trailer.
    pub inner_len: usize,
}

/// The UDP datagram in an IP packet, by the IP header.
#[derive(Clone, Copy)]
struct Datagram {
    source: Address,
    destination: Address,
    ipv6: bool,
    fragment: bool,
    /// Offset of the UDP header.
    offset: usize,
    /// Offset of the end of the IP payload; may lie outside the frame. 0 if the header has no length, as segmentation
    /// offload leaves it.
    end: usize,
}

/// Begin and end of the payload of a UDP datagram; both within the frame.
#[derive(Clone, Copy)]
struct Payload {
    offset: usize,
    end: usize,
}

/// Parses the outer headers of `frame`.
///
/// # Errors
///
/// Returns the counter of the reason why the frame is not mirror traffic, or malformed. A frame that ends
/// before its UDP port is not mirror traffic and goes to the kernel, as does a frame whose UDP port lies in a
/// further buffer. Any error after a port of mirror traffic means that the frame is malformed.
#[inline(always)]
pub fn decapsulate<F: Frame + ?Sized>(frame: &F, ports: &Ports) -> Result<Mirrored, Counter> {
    let datagram = outermost_datagram(frame)?;
    let udp: UdpHeader = header(frame, datagram.offset)?;
    let Some(encapsulation) = ports.encapsulation(udp.destination()) else { return Err(Counter::NotMirror) };
    let payload = payload(&datagram, udp, frame.len())?;
    match encapsulation {
        Encapsulation::Vxlan | Encapsulation::VxlanGpe => {
            let gpe = matches!(encapsulation, Encapsulation::VxlanGpe);
            vxlan(frame, &datagram, payload, datagram.source, Gateway::default(), 0, gpe)
        }
        Encapsulation::Geneve => geneve(frame, &datagram, payload, ports),
    }
}

/// Returns the payload of a datagram to a port of mirror traffic. Everything around it ends at `limit`.
#[inline(always)]
fn payload(datagram: &Datagram, udp: UdpHeader, limit: usize) -> Result<Payload, Counter> {
    if datagram.fragment {
        return Err(Counter::OuterFragment);
    }
    let mut udp_len = udp.length();
    let mut end = datagram.end;
    if end == 0 {
        end = limit;
        if udp_len == 0 {
            udp_len = limit.wrapping_sub(datagram.offset);
        }
    }
    if end > limit || end < datagram.offset + UDP_LEN {
        return Err(Counter::OuterIpLength);
    }
    if udp_len < UDP_LEN || udp_len > end - datagram.offset {
        return Err(Counter::OuterUdpLength);
    }
    Ok(Payload { offset: datagram.offset + UDP_LEN, end: datagram.offset + udp_len })
}

#[inline(always)]
fn vxlan<F: Frame + ?Sized>(
    frame: &F,
    datagram: &Datagram,
    payload: Payload,
    sender: Address,
    gateway: Gateway,
    more_flags: u16,
    gpe: bool,
) -> Result<Mirrored, Counter> {
    if payload.end - payload.offset < VXLAN_LEN {
        return Err(Counter::VxlanTruncated);
    }
    // By the lengths, the header is within the frame, so only a further buffer can hide it.
    let header: VxlanHeader = frame.header(payload.offset).ok_or(Counter::HeadersNotLinear)?;
    if !header.has_vni() {
        return Err(Counter::VxlanNoVni);
    }
    if gpe && header.has_next_protocol() && header.next_protocol() != VxlanHeader::NEXT_ETHERNET {
        return Err(Counter::VxlanNextProtocol);
    }
    let mut bits = more_flags;
    if header.has_next_protocol() {
        bits |= flags::VXLAN_GPE;
    }
    if header.has_group_policy() {
        bits |= flags::VXLAN_GROUP_POLICY;
    }
    let inner = Payload { offset: payload.offset + VXLAN_LEN, ..payload };
    mirrored(datagram, inner, sender, header.vni(), gateway, bits)
}

#[inline(always)]
fn geneve<F: Frame + ?Sized>(
    frame: &F,
    datagram: &Datagram,
    payload: Payload,
    ports: &Ports,
) -> Result<Mirrored, Counter> {
    // The paths of the verifier merge here, for all headers in front.
    let payload = Payload { offset: frame.forgotten(payload.offset), end: frame.forgotten(payload.end) };
    let len = payload.end.wrapping_sub(payload.offset);
    if len < GeneveHeader::LEN {
        return Err(Counter::GeneveTruncated);
    }
    let geneve: GeneveHeader = frame.header(payload.offset).ok_or(Counter::HeadersNotLinear)?;
    if geneve.version() != 0 {
        return Err(Counter::GeneveVersion);
    }
    if len < GeneveHeader::LEN + geneve.options_len() {
        return Err(Counter::GeneveTruncated);
    }
    let options = Payload {
        offset: payload.offset + GeneveHeader::LEN,
        end: payload.offset + GeneveHeader::LEN + geneve.options_len(),
    };
    let inside = Payload { offset: options.end, ..payload };
    let kind = geneve.protocol();
    if kind == ethertype::ETHERNET {
        let gateway = gateway(frame, options)?;
        return mirrored(datagram, inside, datagram.source, geneve.vni(), gateway, flags::GENEVE);
    }
    // Traffic other than mirror traffic that a load balancer forwards belongs to the host.
    let nested = match ip_datagram(frame, kind, inside.offset) {
        Ok(nested) => nested,
        Err(Counter::OuterNotLinear) => return Err(Counter::OuterNotLinear),
        Err(_) => return Err(Counter::GeneveNotMirror),
    };
    if nested.offset + UDP_LEN > inside.end {
        return Err(Counter::GeneveNotMirror);
    }
    let udp: UdpHeader = frame.header(nested.offset).ok_or(Counter::OuterNotLinear)?;
    let gpe = match ports.encapsulation(udp.destination()) {
        Some(Encapsulation::Vxlan) => false,
        Some(Encapsulation::VxlanGpe) => true,
        Some(Encapsulation::Geneve) | None => return Err(Counter::GeneveNotMirror),
    };
    let payload = self::payload(&nested, udp, inside.end)?;
    let gateway = gateway(frame, options)?;
    vxlan(frame, &nested, payload, datagram.source, gateway, flags::GENEVE, gpe)
}

/// Reads the options of a Gateway Load Balancer, and skips all others.
#[inline(always)]
fn gateway<F: Frame + ?Sized>(frame: &F, options: Payload) -> Result<Gateway, Counter> {
    let mut gateway = Gateway::default();
    let mut at = options.offset;
    let mut read = 0;
    while read < MAX_GENEVE_OPTIONS && at < options.end {
        // Eight bytes of data exist in any case, be they another option's or those after the options.
        let option: GeneveOption = match frame.header(at) {
            Some(option) => option,
            None if at + size_of::<GeneveOption>() <= frame.len() => return Err(Counter::HeadersNotLinear),
            None => return Err(Counter::GeneveTruncated),
        };
        let next = at + option.total_len();
        if next > options.end {
            return Err(Counter::GeneveTruncated);
        }
        // Computed arithmetically, because in each round a branch would double the number of paths that the
        // verifier follows.
        gateway.endpoint |= option.word() & option.is(GeneveOption::ENDPOINT);
        gateway.attachment |= option.word() & option.is(GeneveOption::ATTACHMENT);
        gateway.cookie |= (option.word() >> 32 & option.is(GeneveOption::COOKIE)) as u32;
        at = next;
        read += 1;
    }
    Ok(gateway)
}

/// Makes the description of a frame whose inner frame was found.
#[inline(always)]
fn mirrored(
    datagram: &Datagram,
    inner: Payload,
    sender: Address,
    vni: Vni,
    gateway: Gateway,
    more_flags: u16,
) -> Result<Mirrored, Counter> {
    let inner_len = inner.end - inner.offset;
    if inner_len < ETHERNET_LEN {
        return Err(Counter::InnerTooShort);
    }
    let mut bits = more_flags;
    if datagram.ipv6 {
        bits |= flags::OUTER_IPV6;
    }
    Ok(Mirrored {
        vni,
        sender,
        source: datagram.source,
        destination: datagram.destination,
        gateway,
        flags: bits,
        inner_offset: inner.offset,
        inner_len,
    })
}

/// Returns the header at `offset`. On error, a frame that ends before the header is certainly not mirror
/// traffic; if only the first buffer ends before it, that is unknown.
#[inline(always)]
fn header<T: FromBytes, F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<T, Counter> {
    match frame.header(offset) {
        Some(header) => Ok(header),
        None if offset + size_of::<T>() <= frame.len() => Err(Counter::OuterNotLinear),
        None => Err(Counter::NotMirror),
    }
}

/// Finds the UDP datagram of a frame, or returns that the frame is not mirror traffic.
#[inline(always)]
fn outermost_datagram<F: Frame + ?Sized>(frame: &F) -> Result<Datagram, Counter> {
    let mut offset = ETHERNET_LEN;
    let mut kind = header::<EtherType, _>(frame, ETHERNET_LEN - 2)?.get();
    // Two tags at most, without a loop, which would cost the verifier more than it saves the reader.
    if is_vlan(kind) {
        kind = header::<VlanTag, _>(frame, offset)?.ethertype();
        offset += VLAN_LEN;
        if is_vlan(kind) {
            kind = header::<VlanTag, _>(frame, offset)?.ethertype();
            offset += VLAN_LEN;
        }
    }
    ip_datagram(frame, kind, offset)
}

/// Finds the UDP datagram in the IP packet at `offset`, whose EtherType is `kind`.
#[inline(always)]
fn ip_datagram<F: Frame + ?Sized>(frame: &F, kind: u16, offset: usize) -> Result<Datagram, Counter> {
    match kind {
        ethertype::IPV4 => ipv4_datagram(frame, offset),
        ethertype::IPV6 => ipv6_datagram(frame, offset),
        _ => Err(Counter::NotMirror),
    }
}

/// Returns whether an EtherType announces a VLAN tag.
#[inline(always)]
pub(crate) const fn is_vlan(kind: u16) -> bool {
    matches!(kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD)
}

/// Returns the end of what begins at `begin` and has `len` bytes, or 0 if its length is not known.
#[inline(always)]
const fn end_of(begin: usize, len: usize) -> usize {
    if len == 0 { 0 } else { begin + len }
}

#[inline(always)]
fn ipv4_datagram<F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<Datagram, Counter> {
    let ip: Ipv4Header = header(frame, offset)?;
    let header_len = ip.header_len();
    if ip.version() != 4 || header_len < Ipv4Header::LEN || ip.protocol() != protocol::UDP {
        return Err(Counter::NotMirror);
    }
    if ip.fragment_offset() != 0 {
        return Err(Counter::LaterFragment);
    }
    Ok(Datagram {
        source: ip.source(),
        destination: ip.destination(),
        ipv6: false,
        fragment: ip.more_fragments(),
        offset: offset + header_len,
        end: end_of(offset, ip.total_length()),
    })
}

#[inline(always)]
fn ipv6_datagram<F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<Datagram, Counter> {
    let ip: Ipv6Header = header(frame, offset)?;
    if ip.version() != 6 {
        return Err(Counter::NotMirror);
    }
    let mut datagram = Datagram {
        source: ip.source(),
        destination: ip.destination(),
        ipv6: true,
        fragment: false,
        offset: offset + Ipv6Header::LEN,
        end: end_of(offset + Ipv6Header::LEN, ip.payload_length()),
    };
    match ip.next_header() {
        protocol::UDP => Ok(datagram),
        protocol::FRAGMENT => {
            let fragment: ExtensionHeader = header(frame, datagram.offset)?;
            if fragment.next_header() != protocol::UDP {
                return Err(Counter::NotMirror);
            }
            if fragment.fragment_offset() != 0 {
                return Err(Counter::LaterFragment);
            }
            // A fragment header on a whole datagram is an atomic fragment (RFC 6946): nothing is missing.
            datagram.fragment = fragment.more_fragments();
            datagram.offset += ExtensionHeader::LEN;
            Ok(datagram)
        }
        _ => Err(Counter::NotMirror),
    }
}
