//! Transport headers.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::wire::{Ipv4Header, Ports, UDP_LEN, UdpHeader, protocol};
use zerocopy::FromBytes;
use zerocopy::network_endian::{U16, U32};

use super::{
    Cause, DecodeError, Layer, Network, Packet, Protocol, Segment, TcpHeader, Transport, tcp_flags, tunnel,
};

/// Decodes the transport header at the beginning of `layer`, the end of the packet that was captured.
pub(super) fn decode<'a>(
    captured: &'a [u8],
    layer: Layer<'a>,
    network: Network,
) -> Result<Packet<'a>, DecodeError> {
    let mut packet = Packet {
        source: network.source,
        destination: network.destination,
        ipv6: network.ipv6,
        protocol: network.protocol,
        source_port: 0,
        destination_port: 0,
        vlans: layer.vlans,
        depth: layer.depth,
        direct: layer.direct,
        overlong: layer.overlong,
        len: 0,
        network: captured,
        header_len: captured.len().saturating_sub(layer.bytes.len()) as u16,
        transport: Transport::Ip,
        tunnelled: None,
    };
    match network.protocol {
        protocol::TCP => {
            set_ports(&mut packet, layer)?;
            packet.transport = tcp(layer.bytes, layer.missing)?;
        }
        protocol::UDP => {
            set_ports(&mut packet, layer)?;
            let (payload, missing) = udp(layer.bytes, layer.missing)?;
            let inside = Layer { bytes: payload, missing, ..layer };
            packet.tunnelled = tunnel::in_udp(inside, packet.source_port, packet.destination_port);
            packet.transport = Transport::Udp { payload };
        }
        protocol::SCTP => {
            const COMMON_HEADER: usize = 12;
            set_ports(&mut packet, layer)?;
            layer.bytes.get(..COMMON_HEADER).ok_or(DecodeError::TransportHeader)?;
            packet.transport = Transport::Sctp;
        }
        protocol::ICMP if !network.ipv6 => packet.transport = icmp(layer)?,
        protocol::ICMPV6 if network.ipv6 => {
            let header: IcmpHeader = layer.bytes.header(0).ok_or(DecodeError::TransportHeader)?;
            packet.transport =
                Transport::Icmp { kind: (header.kind, header.code), cause: None, error: false };
        }
        protocol::ESP => {
            const HEADER: usize = 8;
            layer.bytes.get(..HEADER).ok_or(DecodeError::TransportHeader)?;
            let spi: U32 = layer.bytes.header(0).ok_or(DecodeError::TransportHeader)?;
            packet.transport = Transport::Esp { spi: spi.get() };
        }
        protocol::IPV4 | protocol::IPV6 => {
            packet.tunnelled = Some(Layer { protocol: Protocol::Ip, ..layer }.tunnelled());
        }
        _ => return Err(DecodeError::IpProtocol),
    }
    Ok(packet)
}

#[inline(always)]
fn set_ports(packet: &mut Packet<'_>, layer: Layer<'_>) -> Result<(), DecodeError> {
    let ports: Ports = layer.bytes.header(0).ok_or(DecodeError::TransportHeader)?;
    packet.source_port = ports.source();
    packet.destination_port = ports.destination();
    Ok(())
}

/// Parses the TCP segment in `bytes`. `missing` bytes behind them were not captured.
#[inline(always)]
pub(super) fn tcp(bytes: &[u8], missing: usize) -> Result<Transport<'_>, DecodeError> {
    let (header, _) = TcpHeader::ref_from_prefix(bytes).map_err(|_| DecodeError::TransportHeader)?;
    let len = header.len();
    if len < TcpHeader::LEN || len > bytes.len() + missing {
        return Err(DecodeError::TransportHeader);
    }
    // If the options were truncated, no payload was captured.
    let (options, payload) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
    Ok(Transport::Tcp(Segment {
        header,
        options: options.get(TcpHeader::LEN..).unwrap_or_default(),
        payload,
        missing: missing.min(bytes.len() + missing - len),
    }))
}

impl Segment<'_> {
    /// Returns the value and the echo reply of the timestamps option (RFC 7323, section 3.2). Only SYNs and
    /// resets are searched.
    #[must_use]
    pub fn time_stamps(&self) -> Option<(u32, u32)> {
        const SEARCHED: u8 = tcp_flags::SYN | tcp_flags::RST;
        if self.header.flags() & SEARCHED == 0 { None } else { time_stamps(self.options) }
    }
}

/// Finds the timestamps among the options of a TCP header.
fn time_stamps(options: &[u8]) -> Option<(u32, u32)> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const TIME_STAMPS: u8 = 8;
    let mut rest = options;
    loop {
        rest = match rest {
            [] | [END, ..] => return None,
            [NO_OPERATION, rest @ ..] => rest,
            [TIME_STAMPS, 10, rest @ ..] => {
                let (value, rest) = rest.split_first_chunk()?;
                return Some((u32::from_be_bytes(*value), u32::from_be_bytes(*rest.first_chunk()?)));
            }
            [_, len, ..] => rest.get(usize::from((*len).max(2))..)?,
            [_] => return None,
        };
    }
}

/// Parses the UDP datagram in `bytes`. `missing` bytes behind them were not captured. Returns the payload and
/// the number of its bytes that are missing.
#[inline(always)]
pub(super) fn udp(bytes: &[u8], missing: usize) -> Result<(&[u8], usize), DecodeError> {
    let header: UdpHeader = bytes.header(0).ok_or(DecodeError::TransportHeader)?;
    let len = header.length();
    if len < UDP_LEN || len > bytes.len() + missing {
        return Err(DecodeError::TransportHeader);
    }
    let captured = len.min(bytes.len());
    let payload = bytes.get(UDP_LEN..captured).ok_or(DecodeError::TransportHeader)?;
    Ok((payload, len - captured))
}

/// The common beginning of all ICMP messages. The use of the last four bytes depends on the type.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    _checksum: U16,
    _rest: U32,
}

/// `ICMPv4` (RFC 792).
fn icmp(layer: Layer<'_>) -> Result<Transport<'_>, DecodeError> {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const SOURCE_QUENCH: u8 = 4;
    const REDIRECT: u8 = 5;
    const TIME_EXCEEDED: u8 = 11;
    const PARAMETER_PROBLEM: u8 = 12;
    /// The highest code of a destination-unreachable message (RFC 1812, section 5.2.7.1).
    const LAST_UNREACHABLE: u8 = 15;
    let header: IcmpHeader = layer.bytes.header(0).ok_or(DecodeError::TransportHeader)?;
    let error = matches!(
        header.kind,
        DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    );
    let unreachable = header.kind == DESTINATION_UNREACHABLE && header.code <= LAST_UNREACHABLE;
    let cause = if unreachable { layer.bytes.get(size_of::<IcmpHeader>()..).and_then(cause) } else { None };
    Ok(Transport::Icmp { kind: (header.kind, header.code), cause, error })
}

/// Parses the TCP or UDP packet that an ICMP error quotes.
fn cause(quoted: &[u8]) -> Option<Cause> {
    let ip: Ipv4Header = quoted.header(0)?;
    if ip.version() != 4 || !matches!(ip.protocol(), protocol::TCP | protocol::UDP) {
        return None;
    }
    let ports: Ports = quoted.header(ip.header_len())?;
    Some(Cause {
        source: ip.source(),
        destination: ip.destination(),
        source_port: ports.source(),
        destination_port: ports.destination(),
        protocol: ip.protocol(),
    })
}
