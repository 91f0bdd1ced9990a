//! Packets that belong to no flow. Rules inspect them nevertheless.

use mirror_xdp_common::Address;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{Ipv4Header, Ipv6Header};

use super::{DecodeError, Layer, MAX_DEPTH, MAX_SHIMS, Network, Protocol, Step, Transport, link, network};
use crate::Vlans;

/// An IP packet that belongs to no flow: a fragment, an ICMP error, the header of GRE or of IP within IPv6, or a packet
/// of a transport protocol that is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LonePacket<'a> {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// True if the addresses are IPv6.
    pub ipv6: bool,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// VLAN tags of the packet itself.
    pub vlans: Vlans,
    /// The captured part of the packet, from its IP header on.
    pub network: &'a [u8],
    /// The bytes behind the IP header; none of a fragment.
    pub transport: &'a [u8],
}

/// Calls `each` with the packets of a layer that belong to no flow, as far as the first packet that has others within
/// it, or that belongs to a flow.
pub fn lone_packets<'a>(layer: Layer<'a>, mut each: impl FnMut(LonePacket<'a>)) {
    let mut layer = layer;
    for _ in 0..MAX_SHIMS {
        if layer.depth > MAX_DEPTH {
            return;
        }
        let next = match layer.protocol {
            Protocol::Link(link) => link::decode(layer, link),
            Protocol::EtherType(kind) => link::decode_ethertype(layer, kind),
            Protocol::Ppp => link::decode_ppp(layer),
            Protocol::Mpls => link::decode_mpls(layer),
            Protocol::Ip => {
                let step = network::decode(layer);
                let is_fragment = matches!(step, Ok(Step::Fragment(_)));
                let is_lone = match &step {
                    Ok(Step::Next(_) | Step::Fragment(_)) | Err(DecodeError::IpProtocol) => true,
                    Ok(Step::Packet(packet)) => match packet.transport {
                        Transport::Icmp { error, .. } => error,
                        Transport::Ip => packet.ipv6,
                        _ => false,
                    },
                    Err(_) => false,
                };
                if is_lone && let Some(packet) = lone(layer, is_fragment) {
                    let protocol = match &step {
                        Ok(Step::Fragment(fragment)) => fragment.id.protocol,
                        Ok(Step::Packet(of)) => of.protocol,
                        _ => packet.protocol,
                    };
                    each(LonePacket { protocol, ..packet });
                }
                match step {
                    Ok(Step::Next(next)) => Ok(next),
                    _ => return,
                }
            }
        };
        let Ok(next) = next else { return };
        layer = next;
    }
}

/// Reads the IP header at the beginning of a layer.
fn lone(layer: Layer<'_>, is_fragment: bool) -> Option<LonePacket<'_>> {
    let bytes = layer.bytes;
    let (of, header_len, len) = if bytes.first()? >> 4 == 4 {
        let ip: Ipv4Header = bytes.header(0)?;
        (Network::of_ipv4(&ip), ip.header_len(), ip.total_length())
    } else {
        let ip: Ipv6Header = bytes.header(0)?;
        (Network::of_ipv6(&ip), Ipv6Header::LEN, Ipv6Header::LEN + ip.payload_length())
    };
    let network = bytes.get(..len.max(header_len)).unwrap_or(bytes);
    let transport = if is_fragment { &[] } else { network.get(header_len..).unwrap_or_default() };
    Some(LonePacket {
        source: of.source,
        destination: of.destination,
        ipv6: of.ipv6,
        protocol: of.protocol,
        vlans: layer.vlans,
        network,
        transport,
    })
}
