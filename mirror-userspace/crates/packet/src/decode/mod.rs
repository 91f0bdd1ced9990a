//! The decoded view of a frame: its IP packets and their headers, without copying.
//!
//! [`decode`] takes the bytes of one layer ([`Layer`]). It returns the first IP packet in it ([`Packet`]), or
//! a [`Fragment`], or the reason why there is none ([`DecodeError`]). For a packet that carries further packets
//! (a tunnel), [`Packet::tunnelled`] holds the next layer, and the caller loops. The definition of a packet
//! follows Suricata: link and shim layers ([`link`]) and GRE only lead to the next packet, while the packets
//! of UDP and IP-in-IP tunnels are flows of their own.

pub mod fragment;
pub mod link;
mod lone;
mod network;
mod transport;
mod tunnel;

use mirror_xdp_common::Address;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{EtherType, Ipv4Header, Ipv6Header, Ports, VlanTag, ethertype, protocol};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::Vlans;
pub use fragment::Fragment;
pub use link::{LinkType, link_name};
pub use lone::{LonePacket, lone_packets};
pub use tunnel::TunnelPorts;

/// Depth of nested packets that is followed. Only an attacker nests more.
const MAX_DEPTH: u8 = 8;
/// Headers between two IP packets (tags, labels, shims) that are followed.
const MAX_SHIMS: usize = 128;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The reason why a frame belongs to no flow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DecodeError { $($(#[$doc])* $variant,)* }

        impl DecodeError {
            /// All reasons, ordered by discriminant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the name in statistics and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

refusals! {
    /// The frame's link layer is not supported.
    LinkType = "link_type",
    /// The frame ends within its link layer or within the shims behind it.
    LinkTruncated = "link_truncated",
    /// Neither IPv4 nor IPv6: ARP, spanning tree, …
    NotIp = "not_ip",
    /// The IP header is cut short or contradicts itself.
    IpHeader = "ip_header",
    /// The fragment fits no datagram, or there was no room for it.
    Fragment = "fragment",
    /// A fragment whose datagram was given up, because others needed the memory.
    FragmentMemory = "fragment_memory",
    /// A fragment whose datagram was given up, because the rest of it did not come.
    FragmentIncomplete = "fragment_incomplete",
    /// An IP protocol for which no flows are tracked.
    IpProtocol = "ip_protocol",
    /// The transport header is cut short or contradicts itself.
    TransportHeader = "transport_header",
    /// An ICMP error about an unknown flow.
    IcmpError = "icmp_error",
    /// More nested packets than any legitimate sender produces.
    Nesting = "nesting",
}

/// The type of a layer's first header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// A frame of some link layer.
    Link(LinkType),
    /// The type that the preceding EtherType announced.
    EtherType(u16),
    /// A PPP protocol field (RFC 1661, section 2).
    Ppp,
    /// An MPLS label (RFC 3032).
    Mpls,
    /// IPv4 or IPv6, depending on the version field.
    Ip,
}

/// The bytes to decode, and the context from the layers around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer<'a> {
    bytes: &'a [u8],
    protocol: Protocol,
    /// Bytes missing at the end of the layer because the mirror or the capture truncated the frame.
    missing: usize,
    vlans: Vlans,
    /// VLAN tags so far, also those that name no VLAN.
    tags: u8,
    /// True for a reassembled datagram: no fragments are within it, except in a tunnel.
    is_whole: bool,
    depth: u8,
    /// True if only Ethernet and at most two VLAN tags precede this layer: the flow hash in the capture
    /// header is then that of this layer's packet.
    direct: bool,
    /// True if an IP packet around this layer is longer than the frame was on the wire.
    overlong: bool,
    /// The UDP ports of tunnels.
    ports: &'a TunnelPorts,
}

impl<'a> Layer<'a> {
    /// Returns the layer of a whole frame, of which `original_len` bytes were on the wire.
    #[must_use]
    pub const fn frame(link: LinkType, bytes: &'a [u8], original_len: usize) -> Self {
        Self {
            bytes,
            protocol: Protocol::Link(link),
            missing: original_len.saturating_sub(bytes.len()),
            vlans: Vlans::new(),
            tags: 0,
            is_whole: false,
            depth: 0,
            direct: matches!(link, LinkType::Ethernet),
            overlong: false,
            ports: &TunnelPorts::DEFAULT,
        }
    }

    /// Returns this layer, in which datagrams to these ports carry tunnels instead of those to the usual ones.
    #[must_use]
    pub const fn with_ports(self, ports: &'a TunnelPorts) -> Self {
        Self { ports, ..self }
    }

    /// Returns the layer of the whole datagram that `fragment` belonged to.
    #[must_use]
    pub fn datagram(bytes: &'a [u8], fragment: &Fragment<'_>) -> Self {
        Self::whole(bytes, fragment.vlans, fragment.depth)
    }

    /// Returns the layer of a reassembled datagram, with the VLAN tags and the nesting depth of its
    /// fragments. If the mirror truncated one of them, the datagram ends there, while its header has the
    /// length as sent.
    #[must_use]
    pub fn whole(bytes: &'a [u8], vlans: Vlans, depth: u8) -> Self {
        let network = network::whole_ipv4(bytes).or_else(|| network::whole_ipv6(bytes));
        let missing = network.map_or(0, |(_, _, len)| len.saturating_sub(bytes.len()));
        Self {
            bytes,
            protocol: Protocol::Ip,
            missing,
            vlans,
            tags: 0,
            is_whole: true,
            depth,
            direct: false,
            overlong: false,
            ports: &TunnelPorts::DEFAULT,
        }
    }

    /// Returns the length as sent, in bytes.
    const fn wire_len(&self) -> usize {
        self.bytes.len() + self.missing
    }

    /// Reads the header at the beginning of this layer.
    fn header<T: FromBytes>(&self) -> Result<T, DecodeError> {
        self.bytes.header(0).ok_or(DecodeError::LinkTruncated)
    }

    /// Returns the layer behind the first `len` bytes.
    fn after(self, len: usize, protocol: Protocol) -> Result<Self, DecodeError> {
        let bytes = self.bytes.get(len..).ok_or(DecodeError::LinkTruncated)?;
        Ok(Self { bytes, protocol, ..self })
    }

    /// Returns this layer as one behind a header that the XDP program does not parse.
    const fn shimmed(self) -> Self {
        Self { direct: false, ..self }
    }

    /// Returns this layer as the inside of a tunnel: a nested packet, with VLAN tags of its own.
    const fn tunnelled(self) -> Self {
        let depth = self.depth.saturating_add(1);
        Self { depth, vlans: Vlans::new(), tags: 0, is_whole: false, direct: false, ..self }
    }
}

/// The part of a packet behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    /// TCP (RFC 9293).
    Tcp(Segment<'a>),
    /// UDP.
    Udp {
        /// The captured part of the datagram's payload.
        payload: &'a [u8],
        /// Bytes of the payload that were not captured.
        missing: usize,
    },
    /// SCTP (RFC 9260). Only its ports are read.
    Sctp,
    /// ICMP or `ICMPv6`.
    Icmp {
        /// Type and code of the message.
        kind: (u8, u8),
        /// The packet that an IPv4 destination-unreachable message quotes.
        cause: Option<Cause>,
        /// True for an ICMP error, which creates no flow of its own.
        error: bool,
    },
    /// Encapsulating security payload (RFC 4303).
    Esp {
        /// Security parameters index.
        spi: u32,
    },
    /// A nested packet, directly behind the IP header.
    Ip,
}

/// The packet that an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Its source address.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Its source port.
    pub source_port: u16,
    /// Its destination port.
    pub destination_port: u16,
    /// Transport protocol: TCP or UDP.
    pub protocol: u8,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The fixed part of the header.
    pub header: &'a TcpHeader,
    /// The captured part of the options behind it.
    pub options: &'a [u8],
    /// The captured part of the data.
    pub payload: &'a [u8],
    /// Bytes of data that were not captured.
    pub missing: usize,
}

/// The fixed part of a TCP header (RFC 9293, section 3.1), borrowed from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    ports: U32,
    sequence: U32,
    acknowledgement: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

impl TcpHeader {
    /// Length of the fixed part in bytes.
    const LEN: usize = size_of::<Self>();

    /// Returns the sequence number.
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        self.sequence.get()
    }

    /// Returns the acknowledgement number; meaningful with [`tcp_flags::ACK`].
    #[must_use]
    pub const fn acknowledgement(&self) -> u32 {
        self.acknowledgement.get()
    }

    /// Returns the low eight flags, see [`tcp_flags`].
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Returns the receive window, without scaling.
    #[must_use]
    pub const fn window(&self) -> u16 {
        self.window.get()
    }

    /// Returns the length with options in bytes: 0 to 60, as in the header field. Below 20 it is malformed.
    const fn len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }

    /// Returns true if this is the first segment of a connection.
    #[must_use]
    pub const fn begins_connection(&self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN) == tcp_flags::SYN
    }
}

/// Bits of [`TcpHeader::flags`].
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// One IP packet of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// True for IPv6.
    pub ipv6: bool,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
    /// VLAN tags of the packet itself, without those of the packets around it.
    pub vlans: Vlans,
    /// Nesting depth: the number of packets around this one.
    pub depth: u8,
    /// True if [`crate::FrameInfo::flow_hash`] is the hash of this packet.
    pub direct: bool,
    /// True if the packet, or one around it, is longer by its IP header than the frame was on the wire. The rest of
    /// it counts as not captured.
    pub overlong: bool,
    /// Length in bytes as sent, independent of the captured part. It counts from the beginning of the frame
    /// or of the tunnel's payload, and includes link headers and padding.
    pub len: usize,
    /// The captured part of the packet, from its IP header on and without padding.
    pub network: &'a [u8],
    /// Bytes of the IP header with extension headers.
    pub header_len: u16,
    /// The transport header and payload.
    pub transport: Transport<'a>,
    /// The packet within this one, not decoded yet.
    pub tunnelled: Option<Layer<'a>>,
}

/// The result of decoding a layer.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    /// A whole packet, possibly truncated by the mirror or the capture.
    Packet(Packet<'a>),
    /// A fragment of a packet.
    Fragment(Fragment<'a>),
}

/// Decodes the usual frame: Ethernet, optional VLAN tags, and TCP or UDP in unfragmented IPv4 or IPv6 without
/// a tunnel to one of `ports`. Returns `None` for anything else and for any error; never returns another packet
/// than [`decode_stepwise`].
#[inline(always)]
#[must_use]
pub fn decode_usual<'a>(frame: &'a [u8], original_len: usize, ports: &TunnelPorts) -> Option<Packet<'a>> {
    let mut kind = frame.header::<EtherType>(12)?.get();
    let mut at = 14;
    let mut vlans = Vlans::new();
    let mut tags = 0;
    while matches!(kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD) {
        let tag: VlanTag = frame.header(at)?;
        if tags == Vlans::MAX || !vlans.push(tag.id()) {
            return None;
        }
        tags += 1;
        kind = tag.ethertype();
        at += 4;
    }
    let (network, header_len, total_len) = match kind {
        ethertype::IPV4 => network::whole_ipv4(frame.get(at..)?)?,
        ethertype::IPV6 => network::whole_ipv6(frame.get(at..)?)?,
        _ => return None,
    };
    let len = original_len.max(frame.len());
    if total_len > len - at {
        return None;
    }
    let captured = frame.get(at..frame.len().min(at + total_len))?;
    let bytes = captured.get(header_len..)?;
    let missing = total_len - header_len - bytes.len();
    let both: Ports = bytes.header(0)?;
    let (source_port, destination_port) = (both.source(), both.destination());
    let transport = match network.protocol {
        protocol::TCP => transport::tcp(bytes, missing).ok()?,
        protocol::UDP if !ports.may_be_tunnel(source_port, destination_port) => {
            let (payload, missing) = transport::udp(bytes, missing).ok()?;
            Transport::Udp { payload, missing }
        }
        _ => return None,
    };
    Some(Packet {
        source: network.source,
        destination: network.destination,
        ipv6: network.ipv6,
        protocol: network.protocol,
        source_port,
        destination_port,
        vlans,
        depth: 0,
        // The capture header's hash covers frames with at most two tags.
        direct: tags <= 2,
        overlong: false,
        len,
        network: captured,
        header_len: header_len as u16,
        transport,
        tunnelled: None,
    })
}

/// Decodes the first IP packet of `layer`.
///
/// # Errors
///
/// Returns the reason if the layer has no packet that belongs to a flow.
#[inline]
pub fn decode(layer: Layer<'_>) -> Result<Decoded<'_>, DecodeError> {
    let is_frame = layer.protocol == Protocol::Link(LinkType::Ethernet) && layer.depth == 0;
    match is_frame.then(|| decode_usual(layer.bytes, layer.wire_len(), layer.ports)).flatten() {
        Some(packet) => Ok(Decoded::Packet(packet)),
        None => decode_stepwise(layer),
    }
}

/// Decodes any layer as [`decode`] does, one header after the other.
///
/// # Errors
///
/// Returns the reason if the layer has no packet that belongs to a flow.
pub fn decode_stepwise(layer: Layer<'_>) -> Result<Decoded<'_>, DecodeError> {
    let mut layer = layer;
    let mut len = layer.wire_len();
    for _ in 0..MAX_SHIMS {
        if layer.depth > MAX_DEPTH {
            break;
        }
        let step = match layer.protocol {
            Protocol::Link(link) => Step::Next(link::decode(layer, link)?),
            Protocol::EtherType(kind) => Step::Next(link::decode_ethertype(layer, kind)?),
            Protocol::Ppp => Step::Next(link::decode_ppp(layer)?),
            Protocol::Mpls => Step::Next(link::decode_mpls(layer)?),
            Protocol::Ip => network::decode(layer)?,
        };
        match step {
            Step::Next(next) => {
                if next.depth > layer.depth {
                    len = next.wire_len();
                }
                layer = next;
            }
            Step::Packet(packet) => return Ok(Decoded::Packet(Packet { len, ..packet })),
            Step::Fragment(fragment) => return Ok(Decoded::Fragment(fragment)),
        }
    }
    Err(DecodeError::Nesting)
}

/// The result of decoding one header.
enum Step<'a> {
    Next(Layer<'a>),
    Packet(Packet<'a>),
    Fragment(Fragment<'a>),
}

impl Segment<'_> {
    /// Whether a flag of the header is set, see [`tcp_flags`].
    #[inline]
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.header.flags() & flag != 0
    }

    /// The sequence number behind the data.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.header.sequence().wrapping_add((self.payload.len() + self.missing) as u32)
    }
}

/// The fields of a packet's IP header that the transport layer needs.
#[derive(Clone, Copy)]
struct Network {
    source: Address,
    destination: Address,
    ipv6: bool,
    protocol: u8,
}

impl Network {
    #[inline(always)]
    const fn of_ipv4(ip: &Ipv4Header) -> Self {
        Self { source: ip.source(), destination: ip.destination(), ipv6: false, protocol: ip.protocol() }
    }

    /// Reads the fixed header, without extension headers.
    #[inline(always)]
    const fn of_ipv6(ip: &Ipv6Header) -> Self {
        Self { source: ip.source(), destination: ip.destination(), ipv6: true, protocol: ip.next_header() }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// Returns a frame with this many tags, of which each second one is a priority tag.
    fn frame(ipv6: bool, udp: bool, tags: usize, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = if ipv6 {
            builder.ipv6([1; 16], [2; 16], 64)
        } else {
            builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let payload = vec![0xab; payload];
        if udp {
            builder.udp(4000, 53).write(&mut frame, &payload).unwrap();
        } else {
            builder.tcp(4000, 443, 7, 1000).syn().write(&mut frame, &payload).unwrap();
        }
        for number in 0..tags {
            frame.splice(12..12, [0x81, 0, 0xa0, 9 * (number as u8 & 1)]);
        }
        frame
    }

    /// Returns the VLANs of the first packet, and whether the flow hash in the capture header is that packet's.
    fn tagged(frame: &[u8]) -> Option<(Vec<u16>, bool)> {
        match decode_stepwise(Layer::frame(LinkType::Ethernet, frame, frame.len())) {
            Ok(Decoded::Packet(packet)) => Some((packet.vlans.ids().collect(), packet.direct)),
            _ => None,
        }
    }

    /// A datagram whose content completes another one, and so on, takes the stack.
    #[test]
    fn hostile_fragments_within_a_reassembled_datagram_are_refused() {
        // IPv6, destination options, a fragment header of a middle fragment.
        let mut datagram = vec![0x60, 0, 0, 0, 0, 24, 60, 64];
        datagram.extend([1; 32]);
        datagram.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        datagram.extend([17, 0, 0, 9, 0, 0, 0, 1]);
        datagram.extend([0; 8]);
        let whole = |bytes| decode_stepwise(Layer::whole(bytes, Vlans::new(), 0));
        assert_eq!(whole(&datagram).unwrap_err(), DecodeError::Fragment);
        let frame = [&[2; 12][..], &[0x86, 0xdd], &datagram].concat();
        let outer = decode(Layer::frame(LinkType::Ethernet, &frame, frame.len()));
        assert!(matches!(outer, Ok(Decoded::Fragment(_))));
        let mut datagram = vec![0x45, 0, 0, 28, 0, 1, 0x20, 0, 64, 17, 0, 0];
        datagram.extend([1; 16]);
        assert_eq!(whole(&datagram).unwrap_err(), DecodeError::Fragment);
    }

    #[test]
    fn a_priority_tag_names_no_vlan() {
        let expected =
            [Some((vec![], true)), Some((vec![], true)), Some((vec![9], true)), Some((vec![9], false)), None];
        for (tags, expected) in expected.into_iter().enumerate() {
            assert_eq!(tagged(&frame(false, false, tags, 1)), expected, "{tags} tags");
        }
    }

    #[test]
    fn whole_packets_take_the_short_way() {
        for ipv6 in [false, true] {
            for (udp, tags) in [(false, 0), (true, 0), (false, 1), (true, 3)] {
                let frame = frame(ipv6, udp, tags, 50);
                assert!(decode_usual(&frame, frame.len(), &TunnelPorts::DEFAULT).is_some());
            }
        }
    }

    proptest! {
        #[test]
        fn the_short_way_gives_what_the_long_one_does(
            (ipv6, udp, tags, payload) in (any::<bool>(), any::<bool>(), 0_usize..5, 0_usize..64),
            changes in proptest::collection::vec((0_usize..80, any::<u8>()), 0..4),
            (captured, missing) in (0_usize..150, 0_usize..20),
        ) {
            let mut frame = frame(ipv6, udp, tags, payload);
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(captured);
            let original_len = frame.len() + missing;
            if let Some(packet) = decode_usual(&frame, original_len, &TunnelPorts::DEFAULT) {
                let layer = Layer::frame(LinkType::Ethernet, &frame, original_len);
                let Ok(Decoded::Packet(other)) = decode_stepwise(layer) else { panic!("{packet:?}") };
                prop_assert_eq!(packet, other);
            }
        }
    }
}
