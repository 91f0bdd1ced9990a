//! Builders of frames as a mirror session sends them, and of malformed ones.
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

/// The address of a Gateway Load Balancer, which forwards mirrored frames.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
/// [`GATEWAY_V4`] for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

/// The hardware addresses that built frames carry: source and destination.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A builder of mirrored frames. They are valid unless a method documented as "malformed" is called.
///
/// By default the frame is as AWS sends it: IPv4 without options and with TTL 255, UDP checksum 0, port 4789.
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
    vxlan_next_protocol: u8,
    geneve: Option<Geneve>,
    // Malformed: values that replace the correct ones in headers.
    fragment: Option<(u16, bool)>,
    ip_length: Option<u16>,
    udp_length: Option<u16>,
    trailer: usize,
}

/// A GENEVE header (RFC 8926), in place of VXLAN or around it.
#[derive(Clone, Debug)]
struct Geneve {
    /// The addresses of load balancer and appliance, if the header is around IP, UDP and VXLAN.
    gateway: Option<(IpAddr, IpAddr)>,
    version: u8,
    protocol: Option<u16>,
    options: Vec<u8>,
    options_words: Option<u8>,
}

/// Returns a builder of frames of the session with this VXLAN network identifier.
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
        vxlan_next_protocol: 0,
        geneve: None,
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

    /// Between these addresses, which must be of one family.
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

    /// With a further VLAN tag, inside those added before.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// With options in the IPv4 header: a multiple of four bytes, at most 40 (RFC 791).
    #[must_use]
    pub fn ip_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// With an IPv6 fragment header although the datagram is whole: an atomic fragment (RFC 6946).
    #[must_use]
    pub fn atomic_fragment(self) -> Self {
        Self { atomic_fragment: true, ..self }
    }

    /// With VXLAN-GPE's P flag and this next protocol; 3 is Ethernet.
    #[must_use]
    pub fn vxlan_gpe(self, next_protocol: u8) -> Self {
        Self { vxlan_flags: self.vxlan_flags | 0x04, vxlan_next_protocol: next_protocol, ..self }
    }

    /// With the group policy extension's G flag.
    #[must_use]
    pub fn vxlan_group_policy(self) -> Self {
        Self { vxlan_flags: self.vxlan_flags | 0x80, ..self }
    }

    /// In GENEVE in place of VXLAN, directly around the Ethernet frame, as other clouds and Open vSwitch
    /// mirror.
    #[must_use]
    pub fn geneve(self) -> Self {
        self.with_geneve(None, Vec::new())
    }

    /// As a Gateway Load Balancer forwards it: the frame so far, from the IP header on, is in GENEVE with
    /// Amazon's options, from [`GATEWAY_V4`] to [`APPLIANCE_V4`].
    #[must_use]
    pub fn by_gateway(self, endpoint: u64, attachment: u64, cookie: u32) -> Self {
        let ends = (GATEWAY_V4.into(), APPLIANCE_V4.into());
        self.with_geneve(Some(ends), gateway_options(endpoint, attachment, cookie))
    }

    /// As [`Mirrored::by_gateway`], from [`GATEWAY_V6`] to [`APPLIANCE_V6`].
    #[must_use]
    pub fn by_gateway_over_ipv6(self, endpoint: u64, attachment: u64, cookie: u32) -> Self {
        let ends = (GATEWAY_V6.into(), APPLIANCE_V6.into());
        self.with_geneve(Some(ends), gateway_options(endpoint, attachment, cookie))
    }

    fn with_geneve(self, gateway: Option<(IpAddr, IpAddr)>, options: Vec<u8>) -> Self {
        let geneve = Geneve { gateway, version: 0, protocol: None, options, options_words: None };
        Self { geneve: Some(geneve), ..self }
    }

    fn change_geneve(mut self, change: impl FnOnce(&mut Geneve)) -> Self {
        change(self.geneve.as_mut().expect("`geneve` or `by_gateway` was called before"));
        self
    }

    /// With these options in the GENEVE header, a multiple of four bytes; see [`geneve_option`].
    #[must_use]
    pub fn geneve_options(self, options: &[u8]) -> Self {
        self.change_geneve(|geneve| geneve.options = options.to_vec())
    }

    /// With this `EtherType` in the GENEVE header, regardless of the content.
    #[must_use]
    pub fn geneve_protocol(self, protocol: u16) -> Self {
        self.change_geneve(|geneve| geneve.protocol = Some(protocol))
    }

    /// Malformed: a version of GENEVE other than 0.
    #[must_use]
    pub fn geneve_version(self, version: u8) -> Self {
        self.change_geneve(|geneve| geneve.version = version)
    }

    /// Malformed: this length of the options in the GENEVE header, in words of four bytes.
    #[must_use]
    pub fn geneve_options_words(self, words: u8) -> Self {
        self.change_geneve(|geneve| geneve.options_words = Some(words))
    }

    /// With bytes behind the IP packet, such as the padding of a short Ethernet frame.
    #[must_use]
    pub fn trailer(self, trailer: usize) -> Self {
        Self { trailer, ..self }
    }

    /// Malformed: a fragment at this offset in bytes; `more` sets the more-fragments flag.
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

    /// Malformed: these VXLAN flags; a valid header has 0x08, the I flag, which marks the VNI as valid.
    #[must_use]
    pub fn vxlan_flags(self, vxlan_flags: u8) -> Self {
        Self { vxlan_flags, ..self }
    }

    /// Returns the frame with `inner` behind the VXLAN or GENEVE header.
    #[must_use]
    pub fn carrying(&self, inner: &[u8]) -> Vec<u8> {
        let Some(geneve) = &self.geneve else {
            return self.datagram(&self.vxlan(inner));
        };
        let Some((source, destination)) = geneve.gateway else {
            let outer = Self { port: GENEVE_PORT, ..self.clone() };
            return outer.datagram(&geneve.header(self.vni, EtherType(0x6558), inner));
        };
        let (kind, nested) = self.packet(&self.vxlan(inner));
        let outer = Self { vlans: self.vlans.clone(), trailer: self.trailer, ..mirrored(0) };
        let outer = outer.between(source, destination).port(GENEVE_PORT);
        outer.datagram(&geneve.header(0, kind, &nested))
    }

    /// Returns the frame with `payload` in place of the VXLAN header and the inner frame.
    #[must_use]
    pub fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        let (kind, packet) = self.packet(payload);
        let mut frame = ethernet(&self.vlans, kind);
        frame.extend(packet);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }

    fn vxlan(&self, inner: &[u8]) -> Vec<u8> {
        let mut payload = vec![self.vxlan_flags, 0, 0, self.vxlan_next_protocol];
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(inner);
        payload
    }

    /// Returns the IP packet of the datagram with this payload, and its `EtherType`.
    fn packet(&self, payload: &[u8]) -> (EtherType, Vec<u8>) {
        let udp = UdpHeader {
            source_port: self.source_port,
            destination_port: self.port,
            length: self.udp_length.unwrap_or((UdpHeader::LEN + payload.len()) as u16),
            checksum: 0,
        };
        let (kind, mut packet) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (EtherType::IPV4, self.ipv4(source, destination, payload.len()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (EtherType::IPV6, self.ipv6(source, destination, payload.len()))
            }
            (source, destination) => panic!("{source} and {destination} are of different families"),
        };
        packet.extend(udp.to_bytes());
        packet.extend(payload);
        (kind, packet)
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

/// The UDP port of GENEVE.
const GENEVE_PORT: u16 = 6081;

impl Geneve {
    /// Returns the header followed by `inside`, whose `EtherType` is `kind`.
    fn header(&self, vni: u32, kind: EtherType, inside: &[u8]) -> Vec<u8> {
        let words = self.options_words.unwrap_or((self.options.len() / 4) as u8);
        let mut payload = vec![self.version << 6 | words & 0x3f, 0];
        payload.extend(self.protocol.unwrap_or(kind.0).to_be_bytes());
        payload.extend((vni << 8).to_be_bytes());
        payload.extend(&self.options);
        payload.extend(inside);
        payload
    }
}

/// Returns a GENEVE option; `data` is a multiple of four bytes.
#[must_use]
pub fn geneve_option(class: u16, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut option = class.to_be_bytes().to_vec();
    option.extend([kind, (data.len() / 4) as u8]);
    option.extend(data);
    option
}

/// Returns the options of a Gateway Load Balancer: endpoint, attachment, flow cookie.
fn gateway_options(endpoint: u64, attachment: u64, cookie: u32) -> Vec<u8> {
    const AMAZON: u16 = 0x0108;
    [
        geneve_option(AMAZON, 1, &endpoint.to_be_bytes()),
        geneve_option(AMAZON, 2, &attachment.to_be_bytes()),
        geneve_option(AMAZON, 3, &cookie.to_be_bytes()),
    ]
    .concat()
}

/// Returns an Ethernet header with VLAN tags, outermost first; of two or more, all but the innermost are
/// service tags.
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

/// The two ends of an inner flow. Frames go from client to server, or back for [`Flow::reversed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender of the frames.
    pub client: SocketAddr,
    /// The receiver, of the same address family.
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

    /// With a further VLAN tag, inside those added before.
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

    /// A TCP segment with the flags, sequence numbers and other fields of `header`, but with the flow's
    /// ports.
    #[must_use]
    pub fn tcp(&self, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let mut header =
            TcpHeader { source_port: self.client.port(), destination_port: self.server.port(), ..header };
        let checksum = match (self.client.ip(), self.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                header.calc_checksum_ipv4_raw(client.octets(), server.octets(), payload)
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                header.calc_checksum_ipv6_raw(client.octets(), server.octets(), payload)
            }
            _ => panic!("{self:?}: not of one family"),
        };
        header.checksum = checksum.expect("the payload is shorter than 64 KiB");
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
    // The name as a pointer to the question, A, IN, TTL 300, four bytes.
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

/// Returns datagram `number` of a conversation, alternating in direction, with its number and `len` further
/// bytes: no two are equal.
#[must_use]
pub fn distinct_datagram(conversation: u16, number: u32, len: usize) -> Vec<u8> {
    let flow = Flow::v4(20_000 + conversation, 443);
    let flow = if number.is_multiple_of(2) { flow } else { flow.reversed() };
    flow.udp(&[&number.to_be_bytes()[..], &vec![conversation as u8; len]].concat())
}
