//! Encapsulations of mirrored frames: that of AWS, and that of a Gateway Load Balancer around it.

use std::net::{IpAddr, Ipv4Addr};

use mirror_xdp_common::Vni;
use mirror_xdp_common::pktgen::Rewrite;
use mirror_xdp_common::source::{Path, Template};
use mirror_xdp_common::wire::{
    ETHERNET_LEN, Ipv4Header, Ipv6Header, UDP_LEN, VXLAN_LEN, ethertype, protocol,
};

/// UDP port of GENEVE (RFC 8926).
const GENEVE_PORT: u16 = 6081;
/// The class of AWS's GENEVE options.
const OPTION_CLASS: u16 = 0x0108;
/// Bytes of an option's class, type and length.
const OPTION_HEADER: usize = 4;
/// Bytes of the options of a Gateway Load Balancer: endpoint, attachment, flow cookie.
const OPTIONS_LEN: usize = (OPTION_HEADER + 8) + (OPTION_HEADER + 8) + (OPTION_HEADER + 4);
/// Bytes of a GENEVE header without options.
const GENEVE_LEN: usize = 8;
/// The load balancer's own address in its encapsulation: it and its target are neighbours.
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// The encapsulation of inner frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Encapsulation {
    /// Ethernet, IP, UDP 4789, VXLAN: as a mirror session sends to an ENI or a network load balancer
    #[default]
    Aws,
    /// The same within Ethernet, IPv4, UDP 6081 and GENEVE: as a gateway load balancer forwards it
    Gwlb,
    /// Nothing: frames are sent as they are in the capture
    None,
}

/// A mirror session, and the hardware addresses of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) vni: Vni,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) macs: Macs,
    pub(super) port: u16,
}

/// Hardware addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Macs {
    pub(super) source: [u8; 6],
    pub(super) destination: [u8; 6],
}

/// An encapsulated frame, with the offsets of its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Enveloped {
    pub(super) bytes: Vec<u8>,
    /// Offset of the inner frame; 0 if there is none.
    pub(super) inner: usize,
    /// Offset of the UDP header of the VXLAN datagram.
    pub(super) udp: usize,
    /// Offsets of outer source ports and flow cookie.
    pub(super) rewrite: Rewrite,
}

/// Returns the bytes that an encapsulation adds.
pub(super) const fn overhead(encapsulation: Encapsulation, ipv6: bool) -> usize {
    let vxlan = if ipv6 { Ipv6Header::LEN } else { Ipv4Header::LEN } + UDP_LEN + VXLAN_LEN;
    match encapsulation {
        Encapsulation::None => 0,
        Encapsulation::Aws => ETHERNET_LEN + vxlan,
        Encapsulation::Gwlb => ETHERNET_LEN + Ipv4Header::LEN + UDP_LEN + GENEVE_LEN + OPTIONS_LEN + vxlan,
    }
}

/// Encapsulates an inner frame of at most 60,000 bytes, with this UDP source port.
pub(super) fn seal(
    encapsulation: Encapsulation,
    session: &Session,
    source_port: u16,
    inner: &[u8],
) -> Enveloped {
    let path = Path {
        interface: 0,
        mtu: u32::from(u16::MAX),
        source_mac: session.macs.source,
        destination_mac: session.macs.destination,
        source: session.source,
        destination: session.destination,
    };
    let template = Template::new(&path, session.port, session.vni, u32::MAX);
    let length = inner.len() as u16;
    let aws = if template.is_ipv6() {
        template.v6(source_port, length).to_vec()
    } else {
        template.v4(source_port, length).to_vec()
    };
    let mut bytes = Vec::with_capacity(overhead(encapsulation, template.is_ipv6()) + inner.len());
    let mut rewrite = Rewrite::default();
    if encapsulation == Encapsulation::Gwlb {
        let datagram = aws.get(ETHERNET_LEN..).unwrap_or_default();
        let payload = GENEVE_LEN + OPTIONS_LEN + datagram.len() + inner.len();
        bytes.extend(session.macs.destination);
        bytes.extend(session.macs.source);
        bytes.extend(ethertype::IPV4.to_be_bytes());
        bytes.extend(ipv4(payload + UDP_LEN, session.destination));
        rewrite.source_ports[1] = bytes.len() as u16;
        for field in [source_port, GENEVE_PORT, (payload + UDP_LEN) as u16, 0] {
            bytes.extend(field.to_be_bytes());
        }
        // Version 0, length of options in words of four bytes, no flags; the protocol inside; VNI 0.
        bytes.extend([(OPTIONS_LEN / 4) as u8, 0]);
        let kind = if template.is_ipv6() { ethertype::IPV6 } else { ethertype::IPV4 };
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0; 4]);
        option(&mut bytes, 1, &endpoint(session).to_be_bytes());
        option(&mut bytes, 2, &attachment(session).to_be_bytes());
        rewrite.cookie = (bytes.len() + OPTION_HEADER) as u16;
        option(&mut bytes, 3, &cookie(source_port, session).to_be_bytes());
        bytes.extend(datagram);
    } else {
        bytes.extend(aws);
    }
    let inner_offset = bytes.len();
    let udp = inner_offset - VXLAN_LEN - UDP_LEN;
    rewrite.source_ports[0] = udp as u16;
    bytes.extend(inner);
    Enveloped { bytes, inner: inner_offset, udp, rewrite }
}

/// Makes the header between load balancer and target, with `payload` bytes behind it.
fn ipv4(payload: usize, destination: IpAddr) -> [u8; Ipv4Header::LEN] {
    let target = match destination {
        IpAddr::V4(target) => target,
        IpAddr::V6(_) => Ipv4Addr::new(10, 255, 0, 2),
    };
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 255, protocol::UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&((Ipv4Header::LEN + payload) as u16).to_be_bytes());
    header[12..16].copy_from_slice(&BALANCER.octets());
    header[16..20].copy_from_slice(&target.octets());
    let checksum = checksum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// Computes the internet checksum (RFC 1071) of an even number of bytes.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(*high) << 8 | u32::from(*low),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn option(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.extend(OPTION_CLASS.to_be_bytes());
    bytes.extend([kind, (value.len() / 4) as u8]);
    bytes.extend(value);
}

/// Returns one endpoint for each source network: sessions of one VPC arrive by one endpoint.
fn endpoint(session: &Session) -> u64 {
    0x0e00_0000_0000_0000 | network(session.source)
}

fn attachment(session: &Session) -> u64 {
    0x0a00_0000_0000_0000 | network(session.source)
}

fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64,
    }
}

/// Returns the flow cookie, which is the same for both directions of a flow.
fn cookie(source_port: u16, session: &Session) -> u32 {
    u32::from(source_port).wrapping_mul(0x9e37_79b9) ^ session.vni.get()
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn session(source: &str, destination: &str) -> Session {
        Session {
            vni: Vni::new(7).unwrap(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            macs: Macs { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] },
            port: 4789,
        }
    }

    #[test]
    fn a_load_balancers_envelope_is_as_documented() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let session = session(source, destination);
            let sealed = seal(Encapsulation::Gwlb, &session, 65500, &[7; 100]);
            assert_eq!(sealed.bytes.len(), overhead(Encapsulation::Gwlb, session.source.is_ipv6()) + 100);
            let packet = SlicedPacket::from_ethernet(&sealed.bytes).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("{packet:?}") };
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), sealed.bytes.len() - ETHERNET_LEN);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            assert_eq!((udp.source_port(), udp.destination_port(), udp.checksum()), (65500, 6081, 0));
            let geneve = udp.payload();
            // Version 0 and 8 words of options, no flags, IP inside.
            let kind = if session.source.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0] };
            assert_eq!(geneve[..8], [8, 0, kind[0], kind[1], 0, 0, 0, 0]);
            assert_eq!(geneve[8..12], [1, 8, 1, 2]);
            assert_eq!(geneve[20..24], [1, 8, 2, 2]);
            assert_eq!(geneve[32..36], [1, 8, 3, 1]);
            let cookie = usize::from(sealed.rewrite.cookie);
            assert_eq!(sealed.bytes[cookie..][..4], geneve[36..40]);
            // The inside is what AWS sends to an ENI, without its Ethernet header.
            let aws = seal(Encapsulation::Aws, &session, 65500, &[7; 100]);
            assert_eq!(geneve[40..], aws.bytes[ETHERNET_LEN..]);
            assert_eq!(sealed.bytes.len() - sealed.inner, 100);
        }
    }

    #[test]
    fn offsets_say_where_ports_are() {
        for encapsulation in [Encapsulation::Aws, Encapsulation::Gwlb] {
            let sealed = seal(encapsulation, &session("10.0.0.1", "10.0.0.2"), 65411, &[7; 60]);
            for offset in sealed.rewrite.source_ports.into_iter().filter(|&offset| offset != 0) {
                assert_eq!(sealed.bytes[usize::from(offset)..][..2], 65411_u16.to_be_bytes());
            }
        }
    }
}
