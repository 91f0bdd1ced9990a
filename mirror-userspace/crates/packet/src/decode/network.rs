//! IPv4 and IPv6 headers, which lead to a transport header, to a fragment, or through a shim to the next IP
//! header.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::inner::MAX_EXTENSION_HEADERS;
use mirror_xdp_common::wire::{ExtensionHeader, Ipv4Header, Ipv6Header, protocol};
use zerocopy::network_endian::{U16, U32};

use super::fragment::{DatagramId, Fragment};
use super::{DecodeError, Layer, Network, Protocol, Step, transport, tunnel};

/// Decodes the IP header at the beginning of `layer`.
#[inline(always)]
pub(super) fn decode(layer: Layer<'_>) -> Result<Step<'_>, DecodeError> {
    match layer.bytes.first().map(|first| first >> 4) {
        Some(4) => decode_ipv4(layer),
        Some(6) => decode_ipv6(layer),
        Some(_) => Err(DecodeError::IpHeader),
        None => Err(DecodeError::LinkTruncated),
    }
}

/// Reads the header of an unfragmented IPv4 packet. Returns it with the lengths of header and packet.
#[inline(always)]
pub(super) fn whole_ipv4(bytes: &[u8]) -> Option<(Network, usize, usize)> {
    let ip: Ipv4Header = bytes.header(0)?;
    let (header_len, total_len) = (ip.header_len(), ip.total_length());
    let whole = ip.fragment_offset() == 0 && !ip.more_fragments();
    (ip.version() == 4 && whole && header_len >= Ipv4Header::LEN && total_len >= header_len)
        .then(|| (Network::of_ipv4(&ip), header_len, total_len))
}

/// Does the same for IPv6. Extension headers are left to [`decode`].
#[inline(always)]
pub(super) fn whole_ipv6(bytes: &[u8]) -> Option<(Network, usize, usize)> {
    let ip: Ipv6Header = bytes.header(0)?;
    let len = Ipv6Header::LEN + ip.payload_length();
    (ip.version() == 6).then(|| (Network::of_ipv6(&ip), Ipv6Header::LEN, len))
}

#[inline(always)]
fn decode_ipv4(layer: Layer<'_>) -> Result<Step<'_>, DecodeError> {
    let ip: Ipv4Header = layer.bytes.header(0).ok_or(DecodeError::IpHeader)?;
    let header_len = ip.header_len();
    let total_len = match ip.total_length() {
        // The sender left the field to its network interface, which divides the packet (segmentation offload).
        0 => layer.wire_len(),
        total_len => total_len,
    };
    if header_len < Ipv4Header::LEN || total_len < header_len {
        return Err(DecodeError::IpHeader);
    }
    let payload = payload(layer, header_len, total_len)?;
    let network = Network::of_ipv4(&ip);
    let offset = ip.fragment_offset();
    if offset != 0 || ip.more_fragments() {
        if layer.is_whole {
            return Err(DecodeError::Fragment);
        }
        let identification: U16 = layer.bytes.header(4).ok_or(DecodeError::IpHeader)?;
        let header = layer.bytes.get(..Ipv4Header::LEN).ok_or(DecodeError::IpHeader)?;
        let (identification, more) = (u32::from(identification.get()), ip.more_fragments());
        return Ok(fragment(payload, network, identification, offset, more, header));
    }
    decode_transport(
        layer.bytes.get(..header_len + payload.bytes.len()).unwrap_or_default(),
        payload,
        network,
    )
}

fn decode_ipv6(layer: Layer<'_>) -> Result<Step<'_>, DecodeError> {
    let ip: Ipv6Header = layer.bytes.header(0).ok_or(DecodeError::IpHeader)?;
    let total_len = match ip.payload_length() {
        0 => jumbo_len(layer, &ip),
        payload_len => Ipv6Header::LEN + payload_len,
    };
    let mut payload = payload(layer, Ipv6Header::LEN, total_len)?;
    let captured = layer.bytes.get(..Ipv6Header::LEN + payload.bytes.len()).unwrap_or_default();
    let mut network = Network::of_ipv6(&ip);
    for _ in 0..MAX_EXTENSION_HEADERS {
        let extension =
            |payload: &Layer<'_>| payload.bytes.header::<ExtensionHeader>(0).ok_or(DecodeError::IpHeader);
        let len = match network.protocol {
            protocol::FRAGMENT => {
                let header = extension(&payload)?;
                let identification: U32 = payload.bytes.header(4).ok_or(DecodeError::IpHeader)?;
                let (offset, more) = (header.fragment_offset(), header.more_fragments());
                if offset != 0 || more {
                    // RFC 8200, section 4.5: a packet has one fragment header. Nested ones are an attack on the stack.
                    if layer.is_whole {
                        return Err(DecodeError::Fragment);
                    }
                    network.protocol = header.next_header();
                    let inside = payload.after(ExtensionHeader::LEN, Protocol::Ip)?;
                    let header = layer.bytes.get(..Ipv6Header::LEN).ok_or(DecodeError::IpHeader)?;
                    return Ok(fragment(inside, network, identification.get(), offset, more, header));
                }
                ExtensionHeader::LEN
            }
            // RFC 4302, section 2.2: words of four bytes, minus two.
            protocol::AH => (usize::from(extension(&payload)?.length_field()) + 2) * 4,
            // RFC 8200, section 4: units of eight bytes, without the first.
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::MOBILITY => {
                (usize::from(extension(&payload)?.length_field()) + 1) * 8
            }
            _ => return decode_transport(captured, payload, network),
        };
        network.protocol = extension(&payload)?.next_header();
        payload = payload.after(len, Protocol::Ip).map_err(|_| DecodeError::IpHeader)?;
    }
    decode_transport(captured, payload, network)
}

/// Returns the length of an IPv6 packet without a payload length: that of the jumbo payload option (RFC 2675,
/// section 2), or else, as with segmentation offload, everything that there is.
fn jumbo_len(layer: Layer<'_>, ip: &Ipv6Header) -> usize {
    const JUMBO_PAYLOAD: u8 = 0xc2;
    const PAD_1: u8 = 0;
    let options = || {
        let extension: ExtensionHeader = layer.bytes.header(Ipv6Header::LEN)?;
        let len = (usize::from(extension.length_field()) + 1) * 8;
        layer.bytes.get(Ipv6Header::LEN + 2..Ipv6Header::LEN + len)
    };
    let mut rest =
        if ip.next_header() == protocol::HOP_BY_HOP { options() } else { None }.unwrap_or_default();
    loop {
        rest = match rest {
            [JUMBO_PAYLOAD, 4, a, b, c, d, ..] => {
                return Ipv6Header::LEN + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            }
            [PAD_1, rest @ ..] => rest,
            [_, len, rest @ ..] => rest.get(usize::from(*len)..).unwrap_or_default(),
            [_] | [] => return layer.wire_len(),
        };
    }
}

/// Returns the layer behind the header, up to the end that the packet's own length gives. Link padding is
/// left out; bytes that the mirror or the capture truncated count as missing, and so do those for which there was
/// no room in the frame.
#[inline(always)]
fn payload(layer: Layer<'_>, header_len: usize, total_len: usize) -> Result<Layer<'_>, DecodeError> {
    let overlong = layer.overlong || total_len > layer.wire_len();
    let captured = total_len.min(layer.bytes.len());
    let bytes = layer.bytes.get(header_len..captured).ok_or(DecodeError::IpHeader)?;
    Ok(Layer { bytes, missing: total_len - captured, overlong, ..layer })
}

fn fragment<'a>(
    payload: Layer<'a>,
    network: Network,
    identification: u32,
    offset: usize,
    more: bool,
    header: &'a [u8],
) -> Step<'a> {
    Step::Fragment(Fragment {
        id: DatagramId {
            source: network.source,
            destination: network.destination,
            ipv6: network.ipv6,
            protocol: network.protocol,
            identification,
        },
        offset,
        more,
        header,
        payload: payload.bytes,
        missing: payload.missing,
        vlans: payload.vlans,
        depth: payload.depth,
    })
}

#[inline(always)]
fn decode_transport<'a>(
    captured: &'a [u8],
    payload: Layer<'a>,
    network: Network,
) -> Result<Step<'a>, DecodeError> {
    if network.protocol == protocol::GRE {
        return tunnel::decode_gre(payload).map(Step::Next);
    }
    transport::decode(captured, payload, network).map(Step::Packet)
}
