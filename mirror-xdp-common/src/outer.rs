//! Recognising mirrored frames and taking off their outer headers.
//!
//! Ethernet, up to two VLAN tags, IPv4 (options allowed) or IPv6, UDP to a VXLAN port, VXLAN with the
//! I flag: what AWS VPC Traffic Mirroring sends, and what its documents allow.

use crate::counters::Counter;
use crate::frame::Frame;
use crate::wire::{
    ETHERNET_LEN, EtherType, ExtensionHeader, Ipv4Header, Ipv6Header, UDP_LEN, UdpHeader, VLAN_LEN,
    VXLAN_LEN, VlanTag, VxlanHeader, ethertype, protocol,
};
use crate::{Address, Vni};
use zerocopy::FromBytes;

/// How many UDP ports can be taken as VXLAN at once.
pub const MAX_PORTS: usize = 8;

/// The UDP destination ports that are VXLAN, in host order; 0 marks an unused place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanPorts(pub [u16; MAX_PORTS]);

impl Default for VxlanPorts {
    fn default() -> Self {
        let mut ports = [0; MAX_PORTS];
        ports[0] = crate::wire::VXLAN_PORT;
        Self(ports)
    }
}

impl VxlanPorts {
    /// Whether datagrams to this port are mirror traffic. Port 0 never is.
    #[inline(always)]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        // BPF has no instruction that turns a comparison into a value, and each branch doubles what the
        // verifier has to follow: the difference is 0 for one port alone, and only then its predecessor
        // has the top bit set.
        let mut hit = 0;
        let mut index = 0;
        while index < MAX_PORTS {
            hit |= u32::from(self.0[index] ^ port).wrapping_sub(1);
            index += 1;
        }
        hit >> 31 != 0 && port != 0
    }
}

/// A mirrored frame whose outer headers were understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The VXLAN network identifier: the mirror session's, as AWS sets it.
    pub vni: Vni,
    /// Outer source: the mirrored interface's primary address.
    pub source: Address,
    /// Outer destination: the mirror target's address.
    pub destination: Address,
    /// Whether the outer header is IPv6.
    pub ipv6: bool,
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

/// Takes the outer headers off `frame`.
///
/// # Errors
///
/// Returns the counter that says why the frame is not, or is not valid, mirror traffic. Whatever ends
/// before a UDP port could be read is not mirror traffic and goes to the kernel, as does a frame whose
/// UDP port lies in a further buffer; whatever is wrong after a VXLAN port was read is malformed.
#[inline(always)]
pub fn decapsulate<F: Frame + ?Sized>(frame: &F, ports: &VxlanPorts) -> Result<Mirrored, Counter> {
    let datagram = udp_datagram(frame)?;
    let udp: UdpHeader = header(frame, datagram.offset)?;
    if !ports.contains(udp.destination()) {
        return Err(Counter::NotMirror);
    }
    if datagram.fragment {
        return Err(Counter::OuterFragment);
    }
    if datagram.end > frame.len() || datagram.end < datagram.offset + UDP_LEN {
        return Err(Counter::OuterIpLength);
    }
    let udp_len = udp.length();
    if udp_len < UDP_LEN || udp_len > datagram.end - datagram.offset {
        return Err(Counter::OuterUdpLength);
    }
    if udp_len < UDP_LEN + VXLAN_LEN {
        return Err(Counter::VxlanTruncated);
    }
    // The lengths above say that the header is within the frame, so only a further buffer can hide it.
    let vxlan: VxlanHeader = frame.header(datagram.offset + UDP_LEN).ok_or(Counter::HeadersNotLinear)?;
    if !vxlan.has_vni() {
        return Err(Counter::VxlanNoVni);
    }
    let inner_len = udp_len - UDP_LEN - VXLAN_LEN;
    if inner_len < ETHERNET_LEN {
        return Err(Counter::InnerTooShort);
    }
    Ok(Mirrored {
        vni: vxlan.vni(),
        source: datagram.source,
        destination: datagram.destination,
        ipv6: datagram.ipv6,
        inner_offset: datagram.offset + UDP_LEN + VXLAN_LEN,
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
fn udp_datagram<F: Frame + ?Sized>(frame: &F) -> Result<Datagram, Counter> {
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
