//! The inner headers as far as a flow is concerned: addresses, protocol, ports, fragment or not.
//!
//! Parsing never fails. What cannot be understood, or is not there, is left at its default, and the
//! frame is captured with what is known.

use crate::Address;
use crate::frame::Frame;
use crate::hash::{FlowHash, HashWords, flow_hash};
use crate::outer::is_vlan;
use crate::wire::{
    ETHERNET_LEN, EtherType, ExtensionHeader, IcmpHeader, Ipv4Header, Ipv6Header, Ports, VLAN_LEN, VlanTag,
    ethertype, protocol,
};

/// How many IPv6 extension headers are followed.
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// The network protocol of an inner frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// Neither of the others, or cut short, or with a header that contradicts itself.
    #[default]
    Other,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Whether a packet is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// Not a fragment.
    #[default]
    Whole,
    /// The fragment that holds the transport header.
    First,
    /// A fragment without a transport header.
    Later,
}

/// The 5-tuple of a packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// Source port; 0 where there is none, and in a fragment.
    pub source_port: u16,
    /// Destination port; 0 where there is none, and in a fragment.
    pub destination_port: u16,
}

/// What the headers of an inner frame say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InnerHeaders {
    /// The network protocol.
    pub network: Network,
    /// Source address; zero where there is none.
    pub source: Address,
    /// Destination address; zero where there is none.
    pub destination: Address,
    /// Transport protocol (IANA); for IPv6 the header at which following the chain ended.
    pub protocol: u8,
    /// Whole packet or fragment.
    pub fragment: Fragment,
    /// Source port of TCP, UDP, SCTP; 0 where there is none.
    pub source_port: u16,
    /// Destination port of TCP, UDP, SCTP; 0 where there is none.
    pub destination_port: u16,
    /// Whether the packet has ports, and they are at hand.
    pub has_ports: bool,
    /// Of an ICMP error the packet that it is about, if [`InnerHeaders::has_cause`]. Not an option: what such a one
    /// has where it is none, compilers may leave in a register that the kernel's verifier does not let be touched.
    pub cause: Cause,
    /// Whether the packet is an ICMP error, and its quotation is at hand.
    pub has_cause: bool,
    /// Identifiers of the VLAN tags, outermost first; the first [`InnerHeaders::vlan_count`] are valid.
    pub vlans: [u16; 2],
    /// How many VLAN tags there are, at most two.
    pub vlan_count: u8,
    /// Where the network header begins, from the start of the inner frame.
    pub network_offset: usize,
    /// Where the transport header begins, from the start of the inner frame; meaningful unless
    /// `network` is [`Network::Other`]. May lie outside of the frame.
    pub transport_offset: usize,
    /// Where the IP packet ends by its own length field, from the start of the inner frame; 0 where
    /// that is unknown. Lies outside of the frame where the mirror truncated it.
    pub network_end: usize,
}

impl InnerHeaders {
    /// Parses the inner frame that begins at `start`. Offsets in the result count from there.
    #[inline(always)]
    #[must_use]
    pub fn parse<F: Frame + ?Sized>(frame: &F, start: usize) -> Self {
        let mut headers = Self::default();
        let mut offset = start + ETHERNET_LEN;
        let Some(kind) = frame.header::<EtherType>(offset - 2) else { return headers };
        let mut kind = kind.get();
        if is_vlan(kind) {
            let Some(tag) = frame.header::<VlanTag>(offset) else { return headers };
            headers.vlans[0] = tag.id();
            headers.vlan_count = 1;
            kind = tag.ethertype();
            offset += VLAN_LEN;
            if is_vlan(kind) {
                let Some(tag) = frame.header::<VlanTag>(offset) else { return headers };
                headers.vlans[1] = tag.id();
                headers.vlan_count = 2;
                kind = tag.ethertype();
                offset += VLAN_LEN;
            }
        }
        headers.network_offset = offset - start;
        match kind {
            ethertype::IPV4 => headers.parse_ipv4(frame, start, offset),
            ethertype::IPV6 => headers.parse_ipv6(frame, start, offset),
            _ => {}
        }
        headers
    }

    #[inline(always)]
    fn parse_ipv4<F: Frame + ?Sized>(&mut self, frame: &F, start: usize, offset: usize) {
        let Some(ip) = frame.header::<Ipv4Header>(offset) else { return };
        let header_len = ip.header_len();
        if ip.version() != 4 || header_len < Ipv4Header::LEN {
            return;
        }
        self.network = Network::Ipv4;
        self.source = ip.source();
        self.destination = ip.destination();
        self.protocol = ip.protocol();
        // 0 is what a sender's segmentation offload leaves in the field: the length is not known.
        if ip.total_length() != 0 {
            self.network_end = offset - start + ip.total_length();
        }
        self.fragment = fragment(ip.fragment_offset(), ip.more_fragments());
        self.transport_offset = offset - start + header_len;
        let at = offset + header_len;
        self.parse_ports(frame, at);
        if self.protocol == protocol::ICMP && !matches!(self.fragment, Fragment::Later) {
            let is_error = frame.header::<IcmpHeader>(at).is_some_and(IcmpHeader::is_error);
            if is_error && let Some(cause) = quoted_ipv4(frame, at + IcmpHeader::LEN) {
                (self.cause, self.has_cause) = (cause, true);
            }
        }
    }

    #[inline(always)]
    fn parse_ipv6<F: Frame + ?Sized>(&mut self, frame: &F, start: usize, offset: usize) {
        let Some(ip) = frame.header::<Ipv6Header>(offset) else { return };
        if ip.version() != 6 {
            return;
        }
        self.network = Network::Ipv6;
        self.source = ip.source();
        self.destination = ip.destination();
        // 0 is a jumbogram (RFC 2675) or segmentation offload: the length is not known.
        if ip.payload_length() != 0 {
            self.network_end = offset - start + Ipv6Header::LEN + ip.payload_length();
        }
        let mut next = ip.next_header();
        let mut at = offset + Ipv6Header::LEN;
        let mut fragmented = 0;
        let mut followed = 0;
        while followed < MAX_EXTENSION_HEADERS && is_extension(next) {
            let Some(extension) = frame.header::<ExtensionHeader>(at) else { break };
            // Without branches, each of which doubles what the verifier has to follow.
            let is_fragment = equal(next, protocol::FRAGMENT);
            let is_ah = equal(next, protocol::AH);
            // RFC 8200, section 4: 8-byte units, without the first; the fragment header is of one unit,
            // its length field reserved. RFC 4302, section 2.2: 4-byte words, without the first two.
            let field = u32::from(extension.length_field()) & is_fragment.wrapping_sub(1);
            at += ((field + 1 + is_ah) << (3 - is_ah)) as usize;
            fragmented |= extension.fragment_field() & is_fragment.wrapping_neg();
            next = extension.next_header();
            if fragmented & ExtensionHeader::OFFSET_MASK != 0 {
                break;
            }
            followed += 1;
        }
        self.fragment = fragment(
            (fragmented & ExtensionHeader::OFFSET_MASK) as usize,
            fragmented & ExtensionHeader::MORE != 0,
        );
        self.protocol = next;
        self.transport_offset = at - start;
        self.parse_ports(frame, at);
        if self.protocol == protocol::ICMPV6 && !matches!(self.fragment, Fragment::Later) {
            let is_error = frame.header::<IcmpHeader>(at).is_some_and(IcmpHeader::is_error_v6);
            if is_error && let Some(cause) = quoted_ipv6(frame, at + IcmpHeader::LEN) {
                (self.cause, self.has_cause) = (cause, true);
            }
        }
    }

    #[inline(always)]
    fn parse_ports<F: Frame + ?Sized>(&mut self, frame: &F, at: usize) {
        if matches!(self.fragment, Fragment::Later) || !has_ports(self.protocol) {
            return;
        }
        if let Some(ports) = frame.header::<Ports>(at) {
            self.source_port = ports.source();
            self.destination_port = ports.destination();
            self.has_ports = true;
        }
    }

    /// Whether all headers were found that rules look at. Where they were not, the frame was cut short, or
    /// they lie in a further buffer, or they contradict themselves.
    #[inline(always)]
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match self.network {
            Network::Other => false,
            Network::Ipv4 | Network::Ipv6 => {
                self.has_ports || matches!(self.fragment, Fragment::Later) || !has_ports(self.protocol)
            }
        }
    }

    /// The length that the inner frame had before the mirror truncated it, where `captured` bytes of
    /// it are left.
    #[inline(always)]
    #[must_use]
    pub const fn original_len(&self, captured: usize) -> usize {
        if self.network_end > captured { self.network_end } else { captured }
    }

    /// The symmetric hash of the flow: by 5-tuple, of fragments by addresses and protocol alone, of an
    /// ICMP error by the flow that it is about.
    #[inline(always)]
    #[must_use]
    pub fn flow_hash(&self, key: &impl HashWords) -> FlowHash {
        if self.has_cause {
            let about = &self.cause;
            return flow_hash(
                key,
                about.source,
                about.source_port,
                about.destination,
                about.destination_port,
                about.protocol,
            );
        }
        let (source_port, destination_port) = match self.fragment {
            Fragment::Whole => (self.source_port, self.destination_port),
            Fragment::First | Fragment::Later => (0, 0),
        };
        flow_hash(key, self.source, source_port, self.destination, destination_port, self.protocol)
    }
}

/// Whether packets of this protocol begin with ports.
#[inline(always)]
#[must_use]
pub const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// The packet that an ICMP error quotes at `at`.
#[inline(always)]
fn quoted_ipv4<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Cause> {
    let ip: Ipv4Header = frame.header(at)?;
    if ip.version() != 4 || ip.header_len() < Ipv4Header::LEN {
        return None;
    }
    let whole = ip.fragment_offset() == 0 && !ip.more_fragments();
    let cause = Cause {
        source: ip.source(),
        destination: ip.destination(),
        protocol: ip.protocol(),
        ..Cause::default()
    };
    Some(cause.with_ports(frame, at + ip.header_len(), whole))
}

/// The packet that an `ICMPv6` error quotes at `at`. Extension headers in it are not followed.
#[inline(always)]
fn quoted_ipv6<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Cause> {
    let ip: Ipv6Header = frame.header(at)?;
    if ip.version() != 6 {
        return None;
    }
    let cause = Cause {
        source: ip.source(),
        destination: ip.destination(),
        protocol: ip.next_header(),
        ..Cause::default()
    };
    Some(cause.with_ports(frame, at + Ipv6Header::LEN, true))
}

impl Cause {
    /// With the ports at `at`, where a `whole` packet has some.
    #[inline(always)]
    fn with_ports<F: Frame + ?Sized>(mut self, frame: &F, at: usize, whole: bool) -> Self {
        if whole
            && has_ports(self.protocol)
            && let Some(ports) = frame.header::<Ports>(at)
        {
            self.source_port = ports.source();
            self.destination_port = ports.destination();
        }
        self
    }
}

#[inline(always)]
const fn fragment(offset: usize, more: bool) -> Fragment {
    if offset != 0 {
        Fragment::Later
    } else if more {
        Fragment::First
    } else {
        Fragment::Whole
    }
}

/// 1 where the two are equal, else 0.
#[inline(always)]
const fn equal(a: u8, b: u8) -> u32 {
    // The difference is 0 for equal numbers alone, and only then its predecessor has the top bit set.
    (a as u32 ^ b as u32).wrapping_sub(1) >> 31
}

/// Extension headers below 64, one bit each.
const EXTENSIONS: u64 = 1 << protocol::HOP_BY_HOP
    | 1 << protocol::ROUTING
    | 1 << protocol::FRAGMENT
    | 1 << protocol::AH
    | 1 << protocol::DESTINATION_OPTIONS;

/// Whether this is an extension header that another header can follow.
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    next_header < 64 && EXTENSIONS >> next_header & 1 != 0
}
