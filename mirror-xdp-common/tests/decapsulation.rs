//! Properties of the parsers that kernel and user space share, over generated frames.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice, VlanSlice};
use mirror_xdp_common::capture::flags;
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::outer::{Mirrored as Decapsulated, Ports, decapsulate};
use mirror_xdp_common::{Address, Vni};
use mirror_xdp_tests::frames::{Flow, Mirrored, mirrored};
use proptest::collection::vec;
use proptest::prelude::*;

/// The parts of a valid mirrored frame.
#[derive(Clone, Debug)]
struct Session {
    vni: u32,
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    vlans: Vec<u16>,
    options: usize,
    atomic_fragment: bool,
    trailer: usize,
}

impl Session {
    fn builder(&self) -> Mirrored {
        let mut builder = mirrored(self.vni)
            .between(self.source, self.destination)
            .source_port(self.source_port)
            .ip_options(&vec![1; self.options * 4])
            .trailer(self.trailer);
        for id in &self.vlans {
            builder = builder.vlan(*id);
        }
        if self.atomic_fragment { builder.atomic_fragment() } else { builder }
    }
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(source, destination)| (source.into(), destination.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(source, destination)| (source.into(), destination.into())),
    ]
}

prop_compose! {
    fn session()(
        vni in prop_oneof![Just(0), Just(Vni::MAX.get()), 0..=Vni::MAX.get()],
        (source, destination) in addresses(),
        source_port: u16,
        vlans in vec(0..4096_u16, 0..=2),
        options in 0..=10_usize,
        atomic_fragment: bool,
        trailer in 0..32_usize,
    ) -> Session {
        Session { vni, source, destination, source_port, vlans, options, atomic_fragment, trailer }
    }
}

prop_compose! {
    fn flow()(
        (client, server) in addresses(),
        client_port: u16,
        server_port: u16,
        vlans in vec(0..4096_u16, 0..=2),
    ) -> Flow {
        Flow { client: (client, client_port).into(), server: (server, server_port).into(), vlans }
    }
}

/// Generates inner frames of the protocols that have flows.
fn inner_frame() -> impl Strategy<Value = Vec<u8>> {
    (flow(), vec(any::<u8>(), 0..200), 0..4_u8).prop_map(|(flow, payload, protocol)| match protocol {
        0 => flow.udp(&payload),
        1 => flow.tcp(etherparse::TcpHeader { syn: true, ..Default::default() }, &payload),
        2 => flow.ping(7, 8),
        // An unassigned protocol.
        _ => flow.packet(etherparse::IpNumber(200), &payload),
    })
}

/// Asserts that the inner frame that was found lies within the frame.
fn assert_within(frame: &[u8], found: &Decapsulated) {
    let end = found.inner_offset.checked_add(found.inner_len).expect("no overflow");
    assert!(end <= frame.len(), "{found:?} reaches out of {} bytes", frame.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_put_in_is_what_comes_out(session in session(), inner in inner_frame()) {
        let frame = session.builder().carrying(&inner);
        let found = decapsulate(&frame[..], &Ports::default()).expect("a valid frame");
        prop_assert_eq!(found.vni.get(), session.vni);
        prop_assert_eq!(found.source.to_ip(), Address::from(session.source).to_ip());
        prop_assert_eq!(found.destination.to_ip(), Address::from(session.destination).to_ip());
        prop_assert_eq!(found.flags & flags::OUTER_IPV6 != 0, session.source.is_ipv6());
        prop_assert_eq!(&frame[found.inner_offset..found.inner_offset + found.inner_len], &inner[..]);
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_refused(session in session(), inner in inner_frame()) {
        let session = Session { trailer: 0, ..session };
        let frame = session.builder().carrying(&inner);
        for length in 0..frame.len() {
            let outcome = decapsulate(&frame[..length], &Ports::default());
            let counter = outcome.expect_err("not the whole datagram is there");
            prop_assert!(matches!(counter, Counter::NotMirror | Counter::OuterIpLength), "{length}: {counter:?}");
        }
    }

    #[test]
    fn a_packet_without_a_length_ends_with_its_frame(
        session in session(),
        inner in inner_frame(),
        clear_udp: bool,
        cut in 0..60_usize,
    ) {
        let session = Session { trailer: 0, ..session };
        let builder = session.builder().ip_length(0);
        let frame = if clear_udp { builder.udp_length(0) } else { builder }.carrying(&inner);
        let found = decapsulate(&frame[..], &Ports::default()).expect("a valid frame");
        prop_assert_eq!(&frame[found.inner_offset..found.inner_offset + found.inner_len], &inner[..]);
        if let Ok(found) = decapsulate(&frame[..frame.len() - cut], &Ports::default()) {
            assert_within(&frame[..frame.len() - cut], &found);
        }
    }

    #[test]
    fn a_wrong_byte_anywhere_leads_out_of_no_frame(
        session in session(),
        inner in inner_frame(),
        wrong in 1..=255_u8,
    ) {
        let good = session.builder().carrying(&inner);
        for at in 0..good.len() {
            let mut frame = good.clone();
            frame[at] ^= wrong;
            match decapsulate(&frame[..], &Ports::default()) {
                Ok(found) => assert_within(&frame, &found),
                Err(counter) => prop_assert!(matches!(counter.fate(), Fate::Passed | Fate::Dropped), "{counter:?}"),
            }
            // At any offset, nothing is read outside the frame, and the results do not exceed it.
            let headers = InnerHeaders::parse(&frame[..], at);
            prop_assert_eq!(headers.has_vlan() == 0, headers.vlans == [0; 2]);
        }
    }

    #[test]
    fn any_bytes_at_all_can_be_parsed(bytes in vec(any::<u8>(), 0..300), start in 0..400_usize) {
        if let Ok(found) = decapsulate(&bytes[..], &Ports::default()) {
            assert_within(&bytes, &found);
        }
        let headers = InnerHeaders::parse(&bytes[..], start);
        prop_assert!(headers.original_len(bytes.len()) >= bytes.len());
    }

    #[test]
    fn inner_headers_are_those_that_etherparse_reads(inner in inner_frame(), before in vec(any::<u8>(), 0..80)) {
        let frame = [&before[..], &inner].concat();
        assert_agrees(&InnerHeaders::parse(&frame[..], before.len()), &inner);
    }

    #[test]
    fn a_truncated_inner_frame_never_says_more_than_the_whole(inner in inner_frame()) {
        let whole = InnerHeaders::parse(&inner[..], 0);
        for length in 0..inner.len() {
            let cut = InnerHeaders::parse(&inner[..length], 0);
            if cut.network != Network::Other {
                prop_assert_eq!((cut.source, cut.destination), (whole.source, whole.destination));
                prop_assert_eq!((cut.protocol, cut.fragment), (whole.protocol, whole.fragment));
                prop_assert_eq!(cut.original_len(length), inner.len());
            }
            let ports = (cut.source_port, cut.destination_port);
            prop_assert!(ports == (0, 0) || ports == (whole.source_port, whole.destination_port));
        }
    }

    #[test]
    fn both_directions_of_an_inner_flow_hash_alike(flow in flow(), seed: u64, payload in vec(any::<u8>(), 0..50)) {
        let hash = |frame: &[u8]| InnerHeaders::parse(frame, 0).flow_hash(&FlowHashKey::new(seed));
        prop_assert_eq!(hash(&flow.udp(&payload)), hash(&flow.reversed().udp(b"")));
    }
}

/// Asserts that the headers agree with those that etherparse finds in the frame.
fn assert_agrees(headers: &InnerHeaders, frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let vlans = match sliced.vlan() {
        None => [0; 2],
        Some(VlanSlice::SingleVlan(tag)) => [tag.vlan_identifier().value(), 0],
        Some(VlanSlice::DoubleVlan(tags)) => {
            [tags.outer.vlan_identifier().value(), tags.inner.vlan_identifier().value()]
        }
    };
    assert_eq!(headers.vlans, vlans);
    let (network, source, destination, protocol): (_, IpAddr, IpAddr, _) =
        match sliced.net.expect("an IP packet") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (
                    Network::Ipv4,
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    ip.payload_ip_number(),
                )
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (
                    Network::Ipv6,
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    ip.payload().ip_number,
                )
            }
            NetSlice::Arp(_) => panic!("no ARP is generated"),
        };
    assert_eq!(headers.network, network);
    assert_eq!((headers.source, headers.destination), (Address::from(source), Address::from(destination)));
    assert_eq!(headers.protocol, protocol.0);
    assert_eq!(headers.fragment, Fragment::Whole);
    let ports = match sliced.transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        _ => (0, 0),
    };
    assert_eq!((headers.source_port, headers.destination_port), ports);
    assert_eq!(headers.original_len(frame.len()), frame.len());
}
