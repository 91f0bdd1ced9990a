//! The definitions that the programs of the mirror source and user space share: the outer headers of a
//! mirrored frame, and one counter for each possible fate of a frame.
//!
//! A program on the mirrored interface sees each frame, in both directions, and puts a copy into one end of a
//! private veth pair. There the kernel segments packets that are larger than those on the wire, and fills in
//! checksums. At the other end a second program writes the outer headers.
//!
//! ```text
//! seen     = Σ skipped + copied + copy_failed        on the mirrored interface
//! segments = mirrored + Σ failed                     at the far end of the pair
//! ```

use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Vni;
use crate::counters::counters;
use crate::hash::FlowHash;
use crate::wire::{ETHERNET_LEN, Ipv4Header, Ipv6Header, UDP_LEN, VXLAN_LEN, ethertype, protocol};

/// The mark (`SO_MARK`) on copies and on mirror traffic, by which the programs recognise their own frames.
pub const MARK: u32 = u32::from_be_bytes(*b"mxdp");

/// The first of the 128 UDP source ports of mirror traffic.
pub const FIRST_SOURCE_PORT: u16 = 65408;

/// Returns the UDP source port for an inner flow: seven bits of its symmetric hash.
#[must_use]
#[inline(always)]
pub const fn source_port(hash: FlowHash) -> u16 {
    FIRST_SOURCE_PORT | (hash.0 & 0x7f) as u16
}

/// The fate of a frame in the programs of the mirror source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceFate {
    /// Counted when the frame enters a program, before it is parsed.
    Entered,
    /// Not to be mirrored.
    Skipped,
    /// Passed on.
    Done,
    /// Not mirrored, though it should have been.
    Failed,
    /// A detail of a frame that another counter counts, or of one that is not involved in mirroring.
    Detail,
}

counters! {
    /// A counter of the mirror source. The discriminant is the index in the per-CPU array.
    enum SourceCounter of SourceFate;

    /// Frames on the mirrored interface. Before segmentation: one may stand for many on the wire.
    Seen = Entered "seen",
    /// Mirror traffic, of this source or any other on this host, or to the same target.
    MirrorTraffic = Skipped "mirror_traffic",
    /// ARP.
    Arp = Skipped "arp",
    /// DHCP for IPv4 or IPv6.
    Dhcp = Skipped "dhcp",
    /// Put into the veth pair.
    Copied = Done "copied",
    /// The kernel had no memory for a copy, or refused it.
    CopyFailed = Failed "copy_failed",
    /// Frames that came out of the veth pair, now as on the wire.
    Segments = Entered "segments",
    /// Frames that came out of the veth pair and are no copies: the system itself sends some.
    Foreign = Detail "foreign",
    /// Sent by the outgoing interface in their outer headers.
    Mirrored = Done "mirrored",
    /// Bytes of the mirrored frames, without the outer headers.
    MirroredBytes = Detail "mirrored_bytes",
    /// Mirrored frames that were cut to the packet length or the outgoing MTU.
    Truncated = Detail "truncated",
    /// There is no route to the target, or its hardware address is unknown at the moment.
    NoRoute = Failed "no_route",
    /// More than two VLAN tags.
    VlanTags = Failed "vlan_tags",
    /// The frame could not be cut to the packet length, because that lies within its headers.
    CannotTruncate = Failed "cannot_truncate",
    /// The kernel had no memory for the outer headers.
    NoHeadroom = Failed "no_headroom",
    /// The outgoing interface is down, or its queue is full.
    NotSent = Failed "not_sent",
}

/// The value of the per-CPU counter map: one array of counters per CPU.
pub type SourceCounterArray = [u64; SourceCounter::COUNT];

/// Bytes of the outer headers over IPv4, including Ethernet.
pub const V4_ENVELOPE_LEN: usize = ETHERNET_LEN + Ipv4Header::LEN + UDP_LEN + VXLAN_LEN;
/// Bytes of the outer headers over IPv6, including Ethernet.
pub const V6_ENVELOPE_LEN: usize = ETHERNET_LEN + Ipv6Header::LEN + UDP_LEN + VXLAN_LEN;

/// The way to the target: the source of the fixed fields of the outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Index of the outgoing interface.
    pub interface: u32,
    /// The MTU of the outgoing interface: bytes of the largest IP packet.
    pub mtu: u32,
    /// Hardware address of the outgoing interface.
    pub source_mac: [u8; 6],
    /// Hardware address of the target, or of the router to it.
    pub destination_mac: [u8; 6],
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address: the target. Of the same family as the source.
    pub destination: IpAddr,
}

/// The outer headers without the fields that differ from frame to frame, which user space gives to the
/// program.
///
/// They are those of AWS: IP identification 0, no Don't Fragment, TTL 255, TOS 0, UDP checksum 0 (also over
/// IPv6, RFC 6935), VXLAN flags 0x08, reserved fields 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Template {
    /// The headers, which are shorter over IPv4. Lengths, IP checksum and UDP source port are 0.
    headers: [u8; V6_ENVELOPE_LEN],
    /// 0 over IPv4, 1 over IPv6.
    ipv6: u16,
    /// The partly folded one's complement sum over the IPv4 header (RFC 1071); 0 over IPv6.
    sum: u32,
    /// The most bytes of an inner frame that are mirrored.
    pub inner_max: u32,
    /// Index of the outgoing interface.
    pub interface: u32,
    reserved: u32,
}

/// Bytes of a [`Template`] in the map.
pub const TEMPLATE_LEN: usize = size_of::<Template>();

/// Offset of the IPv4 total length in the outer headers.
const V4_LENGTH: usize = ETHERNET_LEN + 2;
const V4_CHECKSUM: usize = ETHERNET_LEN + 10;
const V6_LENGTH: usize = ETHERNET_LEN + 4;

impl Template {
    /// Makes the template for a path, a session, and its packet length, the most bytes of each frame that are
    /// mirrored.
    #[must_use]
    pub fn new(path: &Path, port: u16, vni: Vni, packet_length: u32) -> Self {
        let mut headers = [0; V6_ENVELOPE_LEN];
        let mut writer = Writer { bytes: &mut headers, at: 0 };
        writer.put(&path.destination_mac);
        writer.put(&path.source_mac);
        let mut sum = 0;
        let overhead = match (path.source, path.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                writer.put(&ethertype::IPV4.to_be_bytes());
                let start = writer.at;
                // Version 4 and five words of header, TOS, length, identification, flags, TTL, protocol.
                writer.put(&[0x45, 0, 0, 0, 0, 0, 0, 0, 255, protocol::UDP, 0, 0]);
                writer.put(&source.octets());
                writer.put(&destination.octets());
                let header = writer.bytes.get(start..writer.at).unwrap_or_default();
                sum = header.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
                Ipv4Header::LEN + UDP_LEN + VXLAN_LEN
            }
            (source, destination) => {
                writer.put(&ethertype::IPV6.to_be_bytes());
                // Version 6, traffic class, flow label, length, next header, hop limit.
                writer.put(&[0x60, 0, 0, 0, 0, 0, protocol::UDP, 255]);
                writer.put(&v6(source).octets());
                writer.put(&v6(destination).octets());
                Ipv6Header::LEN + UDP_LEN + VXLAN_LEN
            }
        };
        writer.put(&[0, 0]);
        writer.put(&port.to_be_bytes());
        writer.put(&[0, 0, 0, 0]);
        writer.put(&[0x08, 0, 0, 0]);
        writer.put(&(vni.get() << 8).to_be_bytes());
        let room = path.mtu.min(u32::from(u16::MAX)).saturating_sub(overhead as u32);
        Self {
            headers,
            ipv6: u16::from(path.destination.is_ipv6()),
            sum,
            inner_max: packet_length.min(room),
            interface: path.interface,
            reserved: 0,
        }
    }

    /// Returns whether the outer headers are [`Template::v6`] and not [`Template::v4`].
    #[must_use]
    #[inline(always)]
    pub const fn is_ipv6(&self) -> bool {
        self.ipv6 != 0
    }

    /// Returns the outer headers over IPv4 of an inner frame of `inner_len` bytes, at most `inner_max`.
    #[must_use]
    #[inline(always)]
    pub fn v4(&self, source_port: u16, inner_len: u16) -> [u8; V4_ENVELOPE_LEN] {
        let mut headers = [0; V4_ENVELOPE_LEN];
        headers.copy_from_slice(&self.headers[..V4_ENVELOPE_LEN]);
        let udp_len = inner_len + (UDP_LEN + VXLAN_LEN) as u16;
        let ip_len = udp_len + Ipv4Header::LEN as u16;
        put_u16(&mut headers, V4_LENGTH, ip_len);
        // Ten words of 16 bits leave a carry that two foldings absorb.
        let sum = self.sum + u32::from(ip_len);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        put_u16(&mut headers, V4_CHECKSUM, !(sum as u16));
        put_u16(&mut headers, ETHERNET_LEN + Ipv4Header::LEN, source_port);
        put_u16(&mut headers, ETHERNET_LEN + Ipv4Header::LEN + 4, udp_len);
        headers
    }

    /// Returns the outer headers over IPv6 of an inner frame of `inner_len` bytes, at most `inner_max`.
    #[must_use]
    #[inline(always)]
    pub fn v6(&self, source_port: u16, inner_len: u16) -> [u8; V6_ENVELOPE_LEN] {
        let mut headers = self.headers;
        let udp_len = inner_len + (UDP_LEN + VXLAN_LEN) as u16;
        put_u16(&mut headers, V6_LENGTH, udp_len);
        put_u16(&mut headers, ETHERNET_LEN + Ipv6Header::LEN, source_port);
        put_u16(&mut headers, ETHERNET_LEN + Ipv6Header::LEN + 4, udp_len);
        headers
    }
}

/// Returns the address as IPv6; a mapped IPv4 address does not occur, because both ends of a path have one
/// family.
fn v6(address: IpAddr) -> core::net::Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Overwrites two bytes at an offset that is known at compile time.
#[inline(always)]
const fn put_u16<const N: usize>(headers: &mut [u8; N], at: usize, value: u16) {
    let [high, low] = value.to_be_bytes();
    headers[at] = high;
    headers[at + 1] = low;
}

/// Writes one field after the other.
struct Writer<'a> {
    bytes: &'a mut [u8; V6_ENVELOPE_LEN],
    at: usize,
}

impl Writer<'_> {
    /// Appends `field`; the fields of the longest envelope fill the array exactly.
    fn put(&mut self, field: &[u8]) {
        let end = self.at + field.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(field);
        }
        self.at = end;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::outer::{Ports, decapsulate};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use std::vec::Vec;

    fn path(source: &str, destination: &str) -> Path {
        Path {
            interface: 3,
            mtu: 1500,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn vni() -> Vni {
        Vni::new(0x00ab_cdef).unwrap()
    }

    fn sealed(template: &Template, inner: &[u8]) -> Vec<u8> {
        let len = u16::try_from(inner.len()).unwrap();
        let mut frame = if template.is_ipv6() {
            template.v6(65500, len).to_vec()
        } else {
            template.v4(65500, len).to_vec()
        };
        frame.extend_from_slice(inner);
        frame
    }

    #[test]
    fn the_envelope_over_ipv4_is_that_of_aws() {
        let path = path("10.0.0.1", "10.0.0.2");
        let inner = [7; 400];
        let frame = sealed(&Template::new(&path, 4789, vni(), 8500), &inner);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("{packet:?}") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), frame.len() - ETHERNET_LEN);
        assert_eq!((header.identification, header.dont_fragment, header.more_fragments), (0, false, false));
        assert_eq!((header.time_to_live, header.dscp.value(), header.ecn.value()), (255, 0, 0));
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.checksum()), (65500, 4789, 0));
        assert_eq!(usize::from(udp.length()), inner.len() + 16);
        assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
    }

    #[test]
    fn the_capture_side_takes_the_envelope_off_again() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let path = path(source, destination);
            let frame = sealed(&Template::new(&path, 4789, vni(), 8500), &[7; 60]);
            let mirrored = decapsulate(&frame[..], &Ports::default()).unwrap();
            assert_eq!((mirrored.vni, mirrored.inner_len), (vni(), 60));
            assert_eq!(mirrored.inner_offset, frame.len() - 60);
            assert_eq!(
                (mirrored.source.to_ip(), mirrored.destination.to_ip()),
                (path.source, path.destination)
            );
        }
    }

    #[test]
    fn the_shorter_of_packet_length_and_room_in_the_mtu_counts() {
        let (v4, v6) = (path("10.0.0.1", "10.0.0.2"), path("fd00::1", "fd00::2"));
        assert_eq!(Template::new(&v4, 4789, vni(), 8500).inner_max, 1500 - 36);
        assert_eq!(Template::new(&v6, 4789, vni(), 8500).inner_max, 1500 - 56);
        assert_eq!(Template::new(&v4, 4789, vni(), 128).inner_max, 128);
        let loopback = Path { mtu: 65536, ..v4 };
        assert_eq!(Template::new(&loopback, 4789, vni(), u32::MAX).inner_max, 65535 - 36);
    }

    #[test]
    fn ip_checksums_are_right_for_every_length() {
        let template = Template::new(&path("255.255.255.255", "255.255.255.254"), 4789, vni(), 8500);
        for len in 0..=65535 - 36 {
            let header = template.v4(65535, len);
            let words = header[ETHERNET_LEN..][..Ipv4Header::LEN].chunks_exact(2);
            let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            assert_eq!((folded & 0xffff) + (folded >> 16), 0xffff, "length {len}");
        }
    }

    #[test]
    fn source_ports_are_those_of_aws() {
        assert_eq!(source_port(FlowHash(0)), 65408);
        assert_eq!(source_port(FlowHash(u32::MAX)), 65535);
    }
}
