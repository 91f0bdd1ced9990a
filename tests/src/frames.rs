//! Builders of frames: what a mirror session sends, also in the ways it should not be sent.
//!
//! ```
//! use mirror_xdp_tests::frames::{Flow, mirrored};
//!
//! let inner = Flow::default().udp(b"hello");
//! let frame = mirrored(7).over_ipv6().vlan(42).carrying(&inner);
//! assert!(frame.ends_with(&inner));
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader,
    Ipv6Header, PacketBuilder, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};

/// The mirrored interface's address, outer source of [`mirrored`] frames.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The appliance's address, outer destination of [`mirrored`] frames.
pub const APPLIANCE_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// [`SOURCE_V4`] for IPv6.
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// [`APPLIANCE_V4`] for IPv6.
pub const APPLIANCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The hardware addresses that built frames carry: source and destination.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A mirrored frame in the making: a valid one, as long as nothing below "malformed" is called.
///
/// By default as AWS sends it: IPv4 without options and with TTL 255, UDP checksum 0, port 4789.
#[derive(Clone, Debug)]
pub struct Mirrored {
    vni: u32,
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    port: u16,
    vlans: Vec<u16>,
    options: Vec<u8>,
    atomic_fragment: bool,
    vxlan_flags: u8,
    // Malformed: what stands in a header instead of the truth.
    fragment: Option<(u16, bool)>,
    ip_length: Option<u16>,
    udp_length: Option<u16>,
    trailer: usize,
}

/// A mirrored frame of the session with this VXLAN network identifier.
#[must_use]
pub fn mirrored(vni: u32) -> Mirrored {
    Mirrored {
        vni,
        source: SOURCE_V4.into(),
        destination: APPLIANCE_V4.into(),
        source_port: 65_408,
        port: 4789,
        vlans: Vec::new(),
        options: Vec::new(),
        atomic_fragment: false,
        vxlan_flags: 0x08,
        fragment: None,
        ip_length: None,
        udp_length: None,
        trailer: 0,
    }
}

impl Mirrored {
    /// Over IPv6, from [`SOURCE_V6`] to [`APPLIANCE_V6`].
    #[must_use]
    pub fn over_ipv6(self) -> Self {
        self.between(SOURCE_V6.into(), APPLIANCE_V6.into())
    }

    /// Between these addresses, which are of one family.
    #[must_use]
    pub fn between(self, source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, ..self }
    }

    /// From this UDP port, which AWS derives from the inner flow.
    #[must_use]
    pub fn source_port(self, source_port: u16) -> Self {
        Self { source_port, ..self }
    }

    /// To this UDP port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// With a further VLAN tag, inside of those there are.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// With options in the IPv4 header; as many bytes as RFC 791 allows, a multiple of four.
    #[must_use]
    pub fn ip_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// With an IPv6 fragment header although the datagram is whole (RFC 6946).
    #[must_use]
    pub fn atomic_fragment(self) -> Self {
        Self { atomic_fragment: true, ..self }
    }

    /// With bytes behind the IP packet, as the padding of a short Ethernet frame.
    #[must_use]
    pub fn trailer(self, trailer: usize) -> Self {
        Self { trailer, ..self }
    }

    /// Malformed: a fragment at this offset, in bytes, that more fragments follow or not.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset / 8, more)), ..self }
    }

    /// Malformed: this value in the IPv4 header's total length, or the IPv6 header's payload length.
    #[must_use]
    pub fn ip_length(self, length: u16) -> Self {
        Self { ip_length: Some(length), ..self }
    }

    /// Malformed: this value in the UDP header's length.
    #[must_use]
    pub fn udp_length(self, length: u16) -> Self {
        Self { udp_length: Some(length), ..self }
    }

    /// Malformed: these VXLAN flags; a valid header has 0x08, which says that there is a VNI.
    #[must_use]
    pub fn vxlan_flags(self, vxlan_flags: u8) -> Self {
        Self { vxlan_flags, ..self }
    }

    /// The frame, with `inner` behind the VXLAN header.
    #[must_use]
    pub fn carrying(&self, inner: &[u8]) -> Vec<u8> {
        let mut payload = vec![self.vxlan_flags, 0, 0, 0];
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(inner);
        self.datagram(&payload)
    }

    /// The frame, with `payload` in place of VXLAN header and inner frame.
    #[must_use]
    pub fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        let udp = UdpHeader {
            source_port: self.source_port,
            destination_port: self.port,
            length: self.udp_length.unwrap_or((UdpHeader::LEN + payload.len()) as u16),
            checksum: 0,
        };
        let (kind, ip) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (EtherType::IPV4, self.ipv4(source, destination, payload.len()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (EtherType::IPV6, self.ipv6(source, destination, payload.len()))
            }
            (source, destination) => panic!("{source} and {destination} are of different families"),
        };
        let mut frame = ethernet(&self.vlans, kind);
        frame.extend(ip);
        frame.extend(udp.to_bytes());
        frame.extend(payload);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
        let (offset, more_fragments) = self.fragment.unwrap_or_default();
        let mut ip = Ipv4Header {
            time_to_live: 255,
            protocol: IpNumber::UDP,
            source: source.octets(),
            destination: destination.octets(),
            options: Ipv4Options::try_from(&self.options[..]).expect("whole words, at most ten"),
            fragment_offset: IpFragOffset::try_new(offset).expect("13 bits"),
            more_fragments,
            ..Ipv4Header::default()
        };
        let length = (ip.header_len() + UdpHeader::LEN + payload) as u16;
        ip.total_len = self.ip_length.unwrap_or(length);
        ip.header_checksum = ip.calc_header_checksum();
        ip.to_bytes().to_vec()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: usize) -> Vec<u8> {
        let fragment = (self.atomic_fragment || self.fragment.is_some()).then(|| {
            let (offset, more) = self.fragment.unwrap_or_default();
            let offset = IpFragOffset::try_new(offset).expect("13 bits");
            Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 1).to_bytes().to_vec()
        });
        let extension = fragment.unwrap_or_default();
        let length = (extension.len() + UdpHeader::LEN + payload) as u16;
        let ip = Ipv6Header {
            payload_length: self.ip_length.unwrap_or(length),
            next_header: if extension.is_empty() {
                IpNumber::UDP
            } else {
                IpNumber::IPV6_FRAGMENTATION_HEADER
            },
            hop_limit: 255,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        };
        [&ip.to_bytes()[..], &extension].concat()
    }
}

/// An Ethernet header with VLAN tags, outermost first; the outer one of two is a service tag.
fn ethernet(vlans: &[u16], kind: EtherType) -> Vec<u8> {
    let tag = |at: usize| match vlans.len() - at {
        0 => kind,
        1 => EtherType::VLAN_TAGGED_FRAME,
        _ => EtherType::PROVIDER_BRIDGING,
    };
    let header = Ethernet2Header { source: MACS[0], destination: MACS[1], ether_type: tag(0) };
    let mut frame = header.to_bytes().to_vec();
    for (index, id) in vlans.iter().enumerate() {
        let tag = SingleVlanHeader {
            vlan_id: VlanId::try_new(*id).expect("12 bits"),
            ether_type: tag(index + 1),
            ..SingleVlanHeader::default()
        };
        frame.extend(tag.to_bytes());
    }
    frame
}

/// The two ends of an inner flow. Frames go from client to server, those of [`Flow::reversed`] back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where frames come from.
    pub client: SocketAddr,
    /// Where they go to; of the same family.
    pub server: SocketAddr,
    /// VLAN tags, outermost first.
    pub vlans: Vec<u16>,
}

impl Default for Flow {
    fn default() -> Self {
        Self::v4(40_000, 9)
    }
}

impl Flow {
    /// Between 172.31.0.1 and 172.31.0.2, with these ports.
    #[must_use]
    pub fn v4(client: u16, server: u16) -> Self {
        let end = |host, port| SocketAddr::from((Ipv4Addr::new(172, 31, 0, host), port));
        Self { client: end(1, client), server: end(2, server), vlans: Vec::new() }
    }

    /// Between `fd31::1` and `fd31::2`, with these ports.
    #[must_use]
    pub fn v6(client: u16, server: u16) -> Self {
        let end = |host, port| SocketAddr::from((Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, host), port));
        Self { client: end(1, client), server: end(2, server), vlans: Vec::new() }
    }

    /// With a further VLAN tag, inside of those there are.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// The other direction.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { client: self.server, server: self.client, vlans: self.vlans.clone() }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let header = UdpHeader {
            source_port: self.client.port(),
            destination_port: self.server.port(),
            length: (UdpHeader::LEN + payload.len()) as u16,
            checksum: 0,
        };
        self.packet(IpNumber::UDP, &[&header.to_bytes()[..], payload].concat())
    }

    /// A TCP segment with the flags, sequence numbers, and so on, of `header`; the ports are the flow's.
    #[must_use]
    pub fn tcp(&self, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let header =
            TcpHeader { source_port: self.client.port(), destination_port: self.server.port(), ..header };
        let mut segment = header.to_bytes().to_vec();
        segment.extend(payload);
        self.packet(IpNumber::TCP, &segment)
    }

    /// The three segments that open a TCP connection.
    #[must_use]
    pub fn tcp_handshake(&self) -> Vec<Vec<u8>> {
        let segment = |sequence_number, acknowledgment_number| TcpHeader {
            sequence_number,
            acknowledgment_number,
            window_size: 64_240,
            ..TcpHeader::default()
        };
        vec![
            self.tcp(TcpHeader { syn: true, ..segment(1000, 0) }, b""),
            self.reversed().tcp(TcpHeader { syn: true, ack: true, ..segment(9000, 1001) }, b""),
            self.tcp(TcpHeader { ack: true, ..segment(1001, 9001) }, b""),
        ]
    }

    /// An ICMP echo request between the hosts.
    #[must_use]
    pub fn ping(&self, id: u16, sequence: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        match (self.client.ip(), self.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => PacketBuilder::ethernet2(MACS[0], MACS[1])
                .ipv4(client.octets(), server.octets(), 64)
                .icmpv4_echo_request(id, sequence)
                .write(&mut frame, b"ping"),
            (IpAddr::V6(client), IpAddr::V6(server)) => PacketBuilder::ethernet2(MACS[0], MACS[1])
                .ipv6(client.octets(), server.octets(), 64)
                .icmpv6_echo_request(id, sequence)
                .write(&mut frame, b"ping"),
            (client, server) => panic!("{client} and {server} are of different families"),
        }
        .expect("a vector takes any number of bytes");
        frame
    }

    /// An IP packet of any protocol.
    #[must_use]
    pub fn packet(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let (kind, header) = match (self.client.ip(), self.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                let header =
                    Ipv4Header::new(payload.len() as u16, 64, protocol, client.octets(), server.octets());
                let mut header = header.expect("shorter than 64 KiB");
                header.header_checksum = header.calc_header_checksum();
                (EtherType::IPV4, header.to_bytes().to_vec())
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                let header = Ipv6Header {
                    payload_length: payload.len() as u16,
                    next_header: protocol,
                    hop_limit: 64,
                    source: client.octets(),
                    destination: server.octets(),
                    ..Ipv6Header::default()
                };
                (EtherType::IPV6, header.to_bytes().to_vec())
            }
            (client, server) => panic!("{client} and {server} are of different families"),
        };
        let mut frame = ethernet(&self.vlans, kind);
        frame.extend(header);
        frame.extend(payload);
        frame
    }
}

/// A DNS query for the IPv4 address of `name` (RFC 1035, section 4), to be sent as a UDP payload.
#[must_use]
pub fn dns_query(id: u16, name: &str) -> Vec<u8> {
    let mut message = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    message.extend(dns_question(name));
    message
}

/// The answer to [`dns_query`], with one address.
#[must_use]
pub fn dns_answer(id: u16, name: &str, address: Ipv4Addr) -> Vec<u8> {
    let mut message = [id, 0x8180, 1, 1, 0, 0].map(u16::to_be_bytes).concat();
    message.extend(dns_question(name));
    // The name of the question again, A, IN, TTL 300, four bytes.
    message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
    message.extend(address.octets());
    message
}

fn dns_question(name: &str) -> Vec<u8> {
    let mut question = Vec::new();
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}
