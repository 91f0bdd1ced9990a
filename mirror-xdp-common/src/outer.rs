//! Recognising mirrored frames and taking off their outer headers.
//!
//! Ethernet, up to two VLAN tags, IPv4 (options allowed) or IPv6, UDP, and then one of:
//!
//! * VXLAN with the I flag and an Ethernet frame: what AWS VPC Traffic Mirroring sends to an interface or
//!   a Network Load Balancer. The bits that VXLAN-GPE and the group policy extension took of the reserved
//!   ones are tolerated, and noted.
//! * GENEVE with IP, UDP and such VXLAN in it: how a Gateway Load Balancer hands mirrored frames on. Its
//!   options say by which endpoint the frame came.
//! * GENEVE with an Ethernet frame: how other clouds and Open vSwitch mirror.

use zerocopy::FromBytes;

use crate::capture::flags;
use crate::counters::Counter;
use crate::frame::Frame;
use crate::wire::{
    ETHERNET_LEN, EtherType, ExtensionHeader, GeneveHeader, GeneveOption, Ipv4Header, Ipv6Header, UDP_LEN,
    UdpHeader, VLAN_LEN, VXLAN_LEN, VlanTag, VxlanHeader, ethertype, protocol,
};
use crate::{Address, Vni};

/// How many UDP ports can be taken as VXLAN at once.
pub const MAX_VXLAN_PORTS: usize = 8;
/// How many as GENEVE.
pub const MAX_GENEVE_PORTS: usize = 4;
/// How many as VXLAN-GPE.
pub const MAX_VXLAN_GPE_PORTS: usize = 4;

/// Length of [`Ports`].
const MAX_PORTS: usize = MAX_VXLAN_PORTS + MAX_GENEVE_PORTS + MAX_VXLAN_GPE_PORTS;
/// Where the ports of GENEVE begin in [`Ports`].
const GENEVE: usize = MAX_VXLAN_PORTS;
/// Where the ports of VXLAN-GPE begin in [`Ports`].
const VXLAN_GPE: usize = GENEVE + MAX_GENEVE_PORTS;

/// How many options of a GENEVE header are looked at. A Gateway Load Balancer sends three.
pub const MAX_GENEVE_OPTIONS: usize = 8;

/// What a UDP port of mirror traffic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// VXLAN, its reserved bits ignored (RFC 7348, section 5).
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
    /// VXLAN-GPE: the next protocol that it names has to be Ethernet.
    VxlanGpe,
}

/// The UDP destination ports that are mirror traffic, in host order; 0 marks an unused place. First those
/// of VXLAN, then of GENEVE, then of VXLAN-GPE.
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

    /// These ports; `None` where there are more of a kind than there is room for.
    #[must_use]
    pub fn new(vxlan: &[u16], geneve: &[u16], vxlan_gpe: &[u16]) -> Option<Self> {
        let mut ports = Self::NONE;
        ports.0.get_mut(..GENEVE)?.get_mut(..vxlan.len())?.copy_from_slice(vxlan);
        ports.0.get_mut(GENEVE..VXLAN_GPE)?.get_mut(..geneve.len())?.copy_from_slice(geneve);
        ports.0.get_mut(VXLAN_GPE..)?.get_mut(..vxlan_gpe.len())?.copy_from_slice(vxlan_gpe);
        Some(ports)
    }

    /// As numbers, in the order in which the type has them.
    #[must_use]
    pub const fn as_array(&self) -> &[u16; MAX_PORTS] {
        &self.0
    }

    /// All ports that are in use.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied().filter(|&port| port != 0)
    }

    /// What datagrams to this port carry; `None` where they are not mirror traffic. Port 0 never is.
    #[inline(always)]
    #[must_use]
    pub fn envelope(&self, port: u16) -> Option<Envelope> {
        if port == 0 {
            return None;
        }
        if port == self.0[0] {
            return Some(Envelope::Vxlan);
        }
        // BPF has no instruction that turns a comparison into a value, and each branch doubles what the
        // verifier has to follow: the difference is 0 for one port alone, and only then its predecessor
        // has the top bit set.
        let mut hits = 0;
        let mut index = 0;
        while index < MAX_PORTS {
            hits |= u32::from(self.0[index] ^ port).wrapping_sub(1) >> 31 << index;
            index += 1;
        }
        if hits == 0 {
            None
        } else if hits < 1 << GENEVE {
            Some(Envelope::Vxlan)
        } else if hits < 1 << VXLAN_GPE {
            Some(Envelope::Geneve)
        } else {
            Some(Envelope::VxlanGpe)
        }
    }
}

/// What a Gateway Load Balancer says of a frame in its GENEVE options; zero where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Identifier of the endpoint that the frame came by.
    pub endpoint: u64,
    /// Identifier of the endpoint's attachment.
    pub attachment: u64,
    /// The load balancer's mark of the flow.
    pub cookie: u32,
}

/// A mirrored frame whose outer headers were understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The network identifier: the mirror session's, as AWS sets it.
    pub vni: Vni,
    /// Source of the outermost IP header: who sent the frame to this host. A load balancer, or the same as
    /// `source`.
    pub sender: Address,
    /// Source of the innermost of the outer IP headers: the mirrored interface's primary address.
    pub source: Address,
    /// Its destination: the mirror target's address.
    pub destination: Address,
    /// What a Gateway Load Balancer says.
    pub gateway: Gateway,
    /// The bits of [`flags`] that the outer headers decide.
    pub flags: u16,
    /// Where the inner Ethernet frame begins, in bytes from the start of the frame.
    pub inner_offset: usize,
    /// Length of the inner frame in bytes: what the UDP length leaves, without any trailer.
    pub inner_len: usize,
}

/// Where a UDP header was found, and how far the IP header says its datagram goes.
#[derive(Clone, Copy)]
struct Datagram {
    source: Address,
    destination: Address,
    ipv6: bool,
    fragment: bool,
    /// Offset of the UDP header.
    offset: usize,
    /// Offset of the end of the IP payload; may lie outside of the frame.
    end: usize,
}

/// Where the payload of a UDP datagram begins and ends; both within the frame.
#[derive(Clone, Copy)]
struct Payload {
    offset: usize,
    end: usize,
}

/// Takes the outer headers off `frame`.
///
/// # Errors
///
/// Returns the counter that says why the frame is not, or is not valid, mirror traffic. Whatever ends
/// before a UDP port could be read is not mirror traffic and goes to the kernel, as does a frame whose
/// UDP port lies in a further buffer; whatever is wrong after a port of mirror traffic was read is
/// malformed.
#[inline(always)]
pub fn decapsulate<F: Frame + ?Sized>(frame: &F, ports: &Ports) -> Result<Mirrored, Counter> {
    let datagram = outermost_datagram(frame)?;
    let udp: UdpHeader = header(frame, datagram.offset)?;
    let Some(envelope) = ports.envelope(udp.destination()) else { return Err(Counter::NotMirror) };
    let payload = payload(&datagram, udp, frame.len())?;
    match envelope {
        Envelope::Vxlan | Envelope::VxlanGpe => {
            let gpe = matches!(envelope, Envelope::VxlanGpe);
            vxlan(frame, &datagram, payload, datagram.source, Gateway::default(), 0, gpe)
        }
        Envelope::Geneve => geneve(frame, &datagram, payload, ports),
    }
}

/// The payload of a datagram to a port of mirror traffic. What is around it ends at `limit`.
#[inline(always)]
fn payload(datagram: &Datagram, udp: UdpHeader, limit: usize) -> Result<Payload, Counter> {
    if datagram.fragment {
        return Err(Counter::OuterFragment);
    }
    if datagram.end > limit || datagram.end < datagram.offset + UDP_LEN {
        return Err(Counter::OuterIpLength);
    }
    let udp_len = udp.length();
    if udp_len < UDP_LEN || udp_len > datagram.end - datagram.offset {
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
    // The lengths say that the header is within the frame, so only a further buffer can hide it.
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
    // Whatever the headers in front were.
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
    // What a load balancer hands on besides mirror traffic is the host's own affair.
    let nested = match ip_datagram(frame, kind, inside.offset) {
        Ok(nested) => nested,
        Err(Counter::OuterNotLinear) => return Err(Counter::OuterNotLinear),
        Err(_) => return Err(Counter::GeneveNotMirror),
    };
    if nested.offset + UDP_LEN > inside.end {
        return Err(Counter::GeneveNotMirror);
    }
    let udp: UdpHeader = frame.header(nested.offset).ok_or(Counter::OuterNotLinear)?;
    let gpe = match ports.envelope(udp.destination()) {
        Some(Envelope::Vxlan) => false,
        Some(Envelope::VxlanGpe) => true,
        Some(Envelope::Geneve) | None => return Err(Counter::GeneveNotMirror),
    };
    let payload = self::payload(&nested, udp, inside.end)?;
    let gateway = gateway(frame, options)?;
    vxlan(frame, &nested, payload, datagram.source, gateway, flags::GENEVE, gpe)
}

/// Reads the options of a Gateway Load Balancer; those of others are passed over.
#[inline(always)]
fn gateway<F: Frame + ?Sized>(frame: &F, options: Payload) -> Result<Gateway, Counter> {
    let mut gateway = Gateway::default();
    let mut at = options.offset;
    let mut read = 0;
    while read < MAX_GENEVE_OPTIONS && at < options.end {
        // Eight bytes of data, be they another option's or what follows the options: there is enough.
        let option: GeneveOption = match frame.header(at) {
            Some(option) => option,
            None if at + size_of::<GeneveOption>() <= frame.len() => return Err(Counter::HeadersNotLinear),
            None => return Err(Counter::GeneveTruncated),
        };
        let next = at + option.total_len();
        if next > options.end {
            return Err(Counter::GeneveTruncated);
        }
        // Calculated, for each branch would double what the verifier has to follow, in each round.
        gateway.endpoint |= option.word() & option.is(GeneveOption::ENDPOINT);
        gateway.attachment |= option.word() & option.is(GeneveOption::ATTACHMENT);
        gateway.cookie |= (option.word() >> 32 & option.is(GeneveOption::COOKIE)) as u32;
        at = next;
        read += 1;
    }
    Ok(gateway)
}

/// What there is to say of a frame when the inner one was found.
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

/// The header at `offset`, or why nobody can tell whether the frame is mirror traffic: a frame that ends
/// before it certainly is not; where only the first buffer ends before it, that stays unknown.
#[inline(always)]
fn header<T: FromBytes, F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<T, Counter> {
    match frame.header(offset) {
        Some(header) => Ok(header),
        None if offset + size_of::<T>() <= frame.len() => Err(Counter::OuterNotLinear),
        None => Err(Counter::NotMirror),
    }
}

/// Finds the UDP datagram of a frame, or says that it is not mirror traffic.
#[inline(always)]
fn outermost_datagram<F: Frame + ?Sized>(frame: &F) -> Result<Datagram, Counter> {
    let mut offset = ETHERNET_LEN;
    let mut kind = header::<EtherType, _>(frame, ETHERNET_LEN - 2)?.get();
    // Two tags at most; written out, since a loop costs the verifier more than it saves the reader.
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

/// The UDP datagram in the IP packet at `offset`, whose EtherType is `kind`.
#[inline(always)]
fn ip_datagram<F: Frame + ?Sized>(frame: &F, kind: u16, offset: usize) -> Result<Datagram, Counter> {
    match kind {
        ethertype::IPV4 => ipv4_datagram(frame, offset),
        ethertype::IPV6 => ipv6_datagram(frame, offset),
        _ => Err(Counter::NotMirror),
    }
}

/// Whether an EtherType announces a VLAN tag.
#[inline(always)]
pub(crate) const fn is_vlan(kind: u16) -> bool {
    matches!(kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD)
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
        end: offset + ip.total_length(),
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
        end: offset + Ipv6Header::LEN + ip.payload_length(),
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
