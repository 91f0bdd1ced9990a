//! The inner headers as far as they matter for a flow: addresses, protocol, ports, fragmentation.
//!
//! Parsing never fails. Headers that are malformed or missing leave their fields at the defaults, and the
//! frame is captured with the fields that are known.

use crate::Address;
use crate::frame::Frame;
use crate::hash::{FlowHash, HashWords, flow_hash};
use crate::outer::is_vlan;
use crate::wire::{
    ETHERNET_LEN, EtherType, ExtensionHeader, IcmpHeader, Ipv4Header, Ipv6Header, Ports, VLAN_LEN, VlanTag,
    ethertype, protocol,
};

/// The most IPv6 extension headers that are followed.
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// The network protocol of an inner frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// Another protocol, or an IP header that is truncated or inconsistent.
    #[default]
    Other,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The fragmentation of a packet.
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

/// The 5-tuple of the packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// Source port; 0 if there is none, and in a fragment.
    pub source_port: u16,
    /// Destination port; 0 if there is none, and in a fragment.
    pub destination_port: u16,
}

/// The parsed headers of an inner frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InnerHeaders {
    /// The network protocol.
    pub network: Network,
    /// Source address; zero if there is none.
    pub source: Address,
    /// Destination address; zero if there is none.
    pub destination: Address,
    /// Transport protocol (IANA); for IPv6, the header at which the parser stopped following the chain.
    pub protocol: u8,
    /// The fragmentation of the packet.
    pub fragment: Fragment,
    /// Source port of TCP, UDP, SCTP; 0 if there is none.
    pub source_port: u16,
    /// Destination port of TCP, UDP, SCTP; 0 if there is none.
    pub destination_port: u16,
    /// `true` if the packet has ports, and they are accessible.
    pub has_ports: bool,
    /// The packet that an ICMP error quotes, valid if [`InnerHeaders::has_cause`] is set. It is not an
    /// `Option`: for `None`, compilers may leave a register uninitialised, which the kernel's verifier does
    /// not allow to be read.
    pub cause: Cause,
    /// `true` if the packet is an ICMP error, and its quotation is accessible.
    pub has_cause: bool,
    /// Identifiers of the VLAN tags, outermost first; 0 for a missing tag, and for a priority tag, which names no
    /// VLAN. Further tags are not followed.
    pub vlans: [u16; 2],
    /// Offset of the network header from the start of the inner frame.
    pub network_offset: usize,
    /// Offset of the transport header from the start of the inner frame; meaningful unless `network` is
    /// [`Network::Other`]. May lie outside the frame.
    pub transport_offset: usize,
    /// Offset of the end of the IP packet by its own length field, from the start of the inner frame; 0 if it
    /// is unknown. Lies outside the frame if the mirror truncated it.
    pub network_end: usize,
}

impl InnerHeaders {
    /// Parses the inner frame that begins at `start`. Offsets in the result are relative to `start`.
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
            kind = tag.ethertype();
            offset += VLAN_LEN;
            if is_vlan(kind) {
                let Some(tag) = frame.header::<VlanTag>(offset) else { return headers };
                headers.vlans[1] = tag.id();
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
        // Segmentation offload of the sender leaves 0 in the field: the length is unknown.
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
        // 0 means a jumbogram (RFC 2675) or segmentation offload: the length is unknown.
        if ip.payload_length() != 0 {
            self.network_end = offset - start + Ipv6Header::LEN + ip.payload_length();
        }
        let mut next = ip.next_header();
        let mut at = offset + Ipv6Header::LEN;
        let mut fragmented = 0;
        let mut followed = 0;
        while followed < MAX_EXTENSION_HEADERS && is_extension(next) {
            let Some(extension) = frame.header::<ExtensionHeader>(at) else { break };
            // Without branches, because each would double the number of paths that the verifier follows.
            let is_fragment = equal(next.into(), protocol::FRAGMENT.into());
            let is_ah = equal(next.into(), protocol::AH.into());
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

    /// Returns whether all headers that rules look at were found. Otherwise the frame is truncated, the
    /// headers lie in a further buffer, or they are inconsistent.
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

    /// Returns 1 if the frame belongs to a VLAN, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn has_vlan(&self) -> u8 {
        1 - equal(self.vlans[0] | self.vlans[1], 0) as u8
    }

    /// Returns the length of the inner frame before the mirror truncated it to `captured` bytes.
    #[inline(always)]
    #[must_use]
    pub const fn original_len(&self, captured: usize) -> usize {
        if self.network_end > captured { self.network_end } else { captured }
    }

    /// Returns the symmetric hash of the flow. It covers the 5-tuple; for fragments, only addresses and
    /// protocol; for an ICMP error, the flow of the quoted packet.
    #[inline(always)]
    #[must_use]
    pub fn flow_hash(&self, key: &impl HashWords) -> FlowHash {
        // The inputs are chosen first, so that the hash is once in a program that inlines it.
        let flow = if self.has_cause {
            self.cause
        } else {
            let (source_port, destination_port) = match self.fragment {
                Fragment::Whole => (self.source_port, self.destination_port),
                Fragment::First | Fragment::Later => (0, 0),
            };
            Cause {
                source: self.source,
                destination: self.destination,
                protocol: self.protocol,
                source_port,
                destination_port,
            }
        };
        flow_hash(key, flow.source, flow.source_port, flow.destination, flow.destination_port, flow.protocol)
    }
}

/// Returns whether packets of this protocol begin with ports.
#[inline(always)]
#[must_use]
pub const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Parses the packet that an ICMP error quotes at `at`.
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

/// Parses the packet that an `ICMPv6` error quotes at `at`. Extension headers in it are not followed.
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
    /// Adds the ports at `at`, if a `whole` packet has ports.
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

/// Returns 1 if the two are equal, else 0.
#[inline(always)]
const fn equal(a: u16, b: u16) -> u32 {
    // The difference is 0 only for equal numbers, and only 0 minus 1 has the top bit set.
    (a as u32 ^ b as u32).wrapping_sub(1) >> 31
}

/// The extension headers with numbers below 64, one bit each.
const EXTENSIONS: u64 = 1 << protocol::HOP_BY_HOP
    | 1 << protocol::ROUTING
    | 1 << protocol::FRAGMENT
    | 1 << protocol::AH
    | 1 << protocol::DESTINATION_OPTIONS;

/// Returns whether this is an extension header that another header can follow.
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    next_header < 64 && EXTENSIONS >> next_header & 1 != 0
}
