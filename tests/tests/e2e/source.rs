//! The mirror source sends the whole frames of the mirrored interface, encapsulated as AWS does. Frames that
//! do not belong in a mirror session are not sent, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a helper fails where the test that called it has failed")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, NetSlice,
    SlicedPacket, TransportSlice,
};
use mirror_xdp_common::outer::{Mirrored, Ports, decapsulate};
use mirror_xdp_tests::appliance::{PATIENCE, wait_until};
use mirror_xdp_tests::frames::{APPLIANCE_V4, APPLIANCE_V6, Flow, SOURCE_V4, SOURCE_V6};
use mirror_xdp_tests::inject::Injector;
use mirror_xdp_tests::netns::Namespace;
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use mirror_xdp_tests::sniffer::Sniffer;
use nix::sys::signal::Signal;
use serde_json::Value;

const HOST_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// A host with an interface `mirrored0`, connected to a client, and an interface `out0`, connected to the
/// appliance.
struct Bed {
    binary: PathBuf,
    host: Namespace,
    client: Namespace,
    appliance: Namespace,
}

impl Bed {
    fn new() -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        let binary = require::binary()?;
        let namespace = || Namespace::new().unwrap();
        let bed = Self { binary, host: namespace(), client: namespace(), appliance: namespace() };
        bed.host.veth("mirrored0", &bed.client, "client0", 1).unwrap();
        bed.host.veth("out0", &bed.appliance, "appliance0", 1).unwrap();
        for (namespace, interface, address) in [
            (&bed.host, "mirrored0", HOST_V4),
            (&bed.client, "client0", CLIENT_V4),
            (&bed.host, "out0", SOURCE_V4),
            (&bed.appliance, "appliance0", APPLIANCE_V4),
        ] {
            namespace.address(interface, address.into(), 24).unwrap();
            namespace.up(interface).unwrap();
        }
        for (namespace, interface) in [(&bed.host, "out0"), (&bed.appliance, "appliance0")] {
            namespace.ip(&format!("link set {interface} mtu 2000")).unwrap();
        }
        Some(bed)
    }

    /// Returns the command `mirror-xdp source` on the host, with additional arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.binary.to_string_lossy());
        command.args(["source", "--json"]).args(arguments);
        command
    }

    fn start(&self, arguments: &[&str]) -> Source {
        let mut process = Process::spawn(&mut self.command(arguments)).unwrap();
        process.wait_for_line("mirroring", PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        Source(process)
    }

    /// Mirrors `mirrored0` to the appliance.
    fn mirror(&self, arguments: &[&str]) -> Source {
        let to = APPLIANCE_V4.to_string();
        self.start(&[&["--interface", "mirrored0", "--to", &to, "--vni", "7"], arguments].concat())
    }

    /// Runs `mirror-xdp source`, which must refuse at once, and returns its one line.
    fn refusal(&self, arguments: &[&str]) -> String {
        let process = Process::spawn(&mut self.command(arguments)).unwrap();
        let output = process.wait(PATIENCE).unwrap();
        assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
        let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
        line.clone()
    }

    /// Receives frames from the appliance's cable.
    fn sniffer(&self) -> Sniffer {
        Sniffer::new(&self.appliance, "appliance0").unwrap()
    }

    /// Returns the names of the host's interfaces.
    fn interfaces(&self) -> Vec<String> {
        let lines = self.host.ip("-brief link").unwrap();
        lines.lines().filter_map(|line| line.split([' ', '@']).next()).map(ToOwned::to_owned).collect()
    }
}

struct Source(Process);

impl Source {
    fn stop(self) -> Value {
        account(&self.0.interrupt(PATIENCE).unwrap())
    }

    fn kill(mut self) {
        self.0.signal(Signal::SIGKILL).unwrap();
        self.0.wait(PATIENCE).unwrap();
    }
}

fn account(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}", output.stderr);
    let account: Value = serde_json::from_str(&output.stdout).unwrap();
    let sum = |key: &str| account[key].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    let number = |key: &str| account[key].as_u64().unwrap();
    assert_eq!(sum("failed"), 0, "{account}");
    assert_eq!(number("seen"), sum("skipped") + number("copied"), "{account}");
    assert_eq!(number("segments"), number("mirrored"), "{account}");
    account
}

/// A frame as it arrives at the appliance.
struct Arrived {
    outer: Vec<u8>,
    envelope: Mirrored,
    inner: Vec<u8>,
}

/// Decodes a frame on the appliance's cable; `None` if it is not a mirrored frame.
fn mirrored(frame: Vec<u8>) -> Option<Arrived> {
    let envelope = decapsulate(&frame[..], &Ports::default()).ok()?;
    let inner = frame[envelope.inner_offset..].to_vec();
    Some(Arrived { outer: frame, envelope, inner })
}

fn source_port(arrived: &Arrived) -> u16 {
    let packet = SlicedPacket::from_ethernet(&arrived.outer).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP: {packet:?}") };
    udp.source_port()
}

#[test]
fn both_directions_are_mirrored_whole_and_share_a_source_port() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.mirror(&[]);
    let (v4, v6) = (Flow::v4(40_000, 9), Flow::v6(40_001, 9));
    let from_client = Injector::new(&bed.client, "client0").unwrap();
    let from_host = Injector::new(&bed.host, "mirrored0").unwrap();
    for flow in [&v4, &v6] {
        for (injector, frame) in
            [(&from_client, flow.udp(&[1; 700])), (&from_host, flow.reversed().udp(&[2; 700]))]
        {
            injector.send(&frame).unwrap();
            let arrived = sniffer.take(1, mirrored).remove(0);
            assert_eq!(arrived.inner, frame);
            assert_eq!(arrived.envelope.vni.get(), 7);
        }
    }
    for flow in [&v4, &v6] {
        from_client.send(&flow.udp(b"there")).unwrap();
        from_host.send(&flow.reversed().udp(b"back")).unwrap();
        let ports: Vec<_> = sniffer.take(2, mirrored).iter().map(source_port).collect();
        assert_eq!(ports[0], ports[1]);
        assert!((65_408..=65_535).contains(&ports[0]), "{ports:?}");
    }
    assert_eq!(source.stop()["mirrored"], 8);
}

#[test]
fn the_envelope_is_that_of_aws() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.start(&["--interface", "mirrored0", "--to", "10.9.0.2", "--vni", "16777215"]);
    let frame = Flow::v4(40_000, 9).udp(b"payload");
    Injector::new(&bed.client, "client0").unwrap().send(&frame).unwrap();
    let arrived = sniffer.take(1, mirrored).remove(0);
    let port = source_port(&arrived);
    let mut expected = Vec::new();
    expected.extend(bed.appliance.mac("appliance0").unwrap());
    expected.extend(bed.host.mac("out0").unwrap());
    expected.extend([0x08, 0x00]);
    let length = (frame.len() + 36) as u16;
    let mut ip = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0, 0, 255, 17, 0, 0];
    ip.extend([10, 9, 0, 1, 10, 9, 0, 2]);
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    expected.extend(ip);
    for word in [port, 4789, length - 20, 0] {
        expected.extend(word.to_be_bytes());
    }
    expected.extend([0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
    expected.extend(&frame);
    assert_eq!(arrived.outer, expected);
    source.stop();
}

#[test]
fn a_target_over_ipv6_gets_an_envelope_without_checksum() {
    let Some(bed) = Bed::new() else { return };
    for (namespace, interface, addresses) in [
        (&bed.host, "out0", [SOURCE_V6, "fe80::1".parse().unwrap()]),
        (&bed.appliance, "appliance0", [APPLIANCE_V6, "fe80::2".parse().unwrap()]),
    ] {
        for address in addresses {
            namespace.address(interface, address.into(), 64).unwrap();
        }
    }
    let sniffer = bed.sniffer();
    let source = bed.start(&["--interface", "mirrored0", "--to", "fd00::2", "--vni", "0", "--port", "4789"]);
    let frame = Flow::v4(40_000, 9).udp(b"payload");
    Injector::new(&bed.client, "client0").unwrap().send(&frame).unwrap();
    let arrived = sniffer.take(1, mirrored).remove(0);
    assert_eq!((&arrived.inner, arrived.envelope.vni.get()), (&frame, 0));
    assert_eq!(arrived.envelope.destination.to_ip(), IpAddr::from(APPLIANCE_V6));
    let packet = SlicedPacket::from_ethernet(&arrived.outer).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
    let header = ip.header();
    assert_eq!((header.hop_limit(), header.traffic_class(), header.flow_label().value()), (255, 0, 0));
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("{packet:?}") };
    assert_eq!((udp.checksum(), udp.destination_port()), (0, 4789));
    assert_eq!(usize::from(udp.length()), 16 + frame.len());
    source.stop();
}

#[test]
fn vlan_tags_stay_in_the_inner_frame() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.mirror(&[]);
    let from_client = Injector::new(&bed.client, "client0").unwrap();
    let from_host = Injector::new(&bed.host, "mirrored0").unwrap();
    let frames =
        [Flow::v4(40_000, 9).vlan(42), Flow::v6(40_000, 9).vlan(42), Flow::v4(40_000, 9).vlan(42).vlan(7)];
    for injector in [&from_client, &from_host] {
        for flow in &frames {
            let frame = flow.udp(b"tagged");
            injector.send(&frame).unwrap();
            assert_eq!(sniffer.take(1, mirrored).remove(0).inner, frame);
        }
    }
    assert_eq!(source.stop()["mirrored"], 6);
}

#[test]
fn the_packet_length_truncates_and_leaves_the_inner_headers_alone() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.mirror(&["--packet-length", "128"]);
    let injector = Injector::new(&bed.client, "client0").unwrap();
    let flows = [Flow::v4(40_000, 9), Flow::v6(40_000, 9), Flow::v4(40_000, 9).vlan(42)];
    for flow in &flows {
        let frame = flow.udp(&[1; 900]);
        injector.send(&frame).unwrap();
        assert_eq!(sniffer.take(1, mirrored).remove(0).inner, frame[..128]);
    }
    let short = Flow::v4(40_000, 9).udp(&[1; 128 - 42]);
    injector.send(&short).unwrap();
    assert_eq!(sniffer.take(1, mirrored).remove(0).inner, short);
    let account = source.stop();
    assert_eq!((&account["mirrored"], &account["truncated"]), (&4.into(), &3.into()));
    assert_eq!(account["mirrored_bytes"], 4 * 128);
}

#[test]
fn what_does_not_fit_the_outgoing_mtu_is_truncated() {
    let Some(bed) = Bed::new() else { return };
    bed.host.ip("link set out0 mtu 1000").unwrap();
    let sniffer = bed.sniffer();
    let source = bed.mirror(&[]);
    let frame = Flow::v4(40_000, 9).udp(&[1; 1400]);
    Injector::new(&bed.client, "client0").unwrap().send(&frame).unwrap();
    assert_eq!(sniffer.take(1, mirrored).remove(0).inner, frame[..1000 - 36]);
    assert_eq!(source.stop()["truncated"], 1);
}

/// Sends `bytes` bytes over a TCP connection between real network stacks.
fn transfer(from: &Namespace, to: &Namespace, address: Ipv4Addr, bytes: usize) {
    let listener = to.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), bytes);
        });
        let mut client = from.enter(|| TcpStream::connect(server).unwrap()).unwrap();
        client.write_all(&vec![7; bytes]).unwrap();
    });
}

#[test]
fn segmentation_offload_is_undone_and_checksums_are_filled_in() {
    const BYTES: usize = 2_000_000;
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.mirror(&[]);
    // The host's frames have not been on a wire when they are mirrored, in either direction.
    transfer(&bed.host, &bed.client, CLIENT_V4, BYTES);
    transfer(&bed.client, &bed.host, HOST_V4, BYTES);
    let account = source.stop();
    let number = |key: &str| account[key].as_u64().unwrap();
    assert!(number("segments") > number("copied"), "there was nothing to segment: {account}");
    assert_eq!(number("truncated"), 0);

    // For each direction: the first sequence number of the data, and which of its bytes were seen. TCP may
    // retransmit some.
    let mut sent = [(); 2].map(|()| (None, vec![false; BYTES]));
    for arrived in sniffer.take(number("mirrored") as usize, mirrored) {
        assert!(arrived.inner.len() <= 1514, "{} bytes", arrived.inner.len());
        let packet = SlicedPacket::from_ethernet(&arrived.inner).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { continue };
        let header = ip.header().to_header();
        assert_eq!(usize::from(header.total_len) + 14, arrived.inner.len());
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { continue };
        assert_eq!(
            tcp.checksum(),
            tcp.calc_checksum_ipv4(ip.header().to_header().source, header.destination).unwrap()
        );
        // Each side sends data in one of the two connections; its segments in the other carry none.
        let (first, seen) = &mut sent[usize::from(ip.header().source_addr() == HOST_V4)];
        if tcp.payload().is_empty() {
            continue;
        }
        let first = *first.get_or_insert(tcp.sequence_number());
        let offset = tcp.sequence_number().wrapping_sub(first) as usize;
        seen[offset..offset + tcp.payload().len()].fill(true);
    }
    for (_, seen) in sent {
        assert_eq!(seen.iter().filter(|&&seen| seen).count(), BYTES);
    }
}

#[test]
fn arp_and_dhcp_are_not_mirrored() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let source = bed.mirror(&[]);
    let injector = Injector::new(&bed.client, "client0").unwrap();
    for vlan in [false, true] {
        let tag = |flow: Flow| if vlan { flow.vlan(42).vlan(7) } else { flow };
        injector.send(&arp(vlan)).unwrap();
        injector.send(&tag(Flow::v4(68, 67)).udp(b"dhcp")).unwrap();
        injector.send(&tag(Flow::v4(67, 68)).udp(b"dhcp")).unwrap();
        injector.send(&tag(Flow::v6(546, 547)).udp(b"dhcp")).unwrap();
    }
    let last = Flow::v4(40_000, 67).udp(b"not DHCP");
    injector.send(&last).unwrap();
    assert_eq!(sniffer.take(1, mirrored).remove(0).inner, last);
    let account = source.stop();
    assert_eq!(account["mirrored"], 1, "{account}");
    // The host answers none of these.
    assert_eq!(account["skipped"]["dhcp"], 6, "{account}");
    assert_eq!(account["skipped"]["arp"], 2, "{account}");
}

/// Returns a gratuitous ARP reply, which requires no answer.
fn arp(tagged: bool) -> Vec<u8> {
    let packet = ArpPacket::from(ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_ipv4: [172, 31, 0, 99],
        target_mac: [0xff; 6],
        target_ipv4: [172, 31, 0, 99],
    });
    assert_eq!(packet.hw_addr_type, ArpHardwareId::ETHERNET);
    let ether_type = if tagged { EtherType::VLAN_TAGGED_FRAME } else { EtherType::ARP };
    let header = Ethernet2Header { destination: [0xff; 6], source: [2, 0, 0, 0, 0, 1], ether_type };
    let mut frame = header.to_bytes().to_vec();
    if tagged {
        frame.extend([0, 42, 0x81, 0x00, 0, 7, 0x08, 0x06]);
    }
    frame.extend(packet.to_bytes());
    frame
}

#[test]
fn mirror_traffic_is_not_mirrored_even_by_the_interface_that_it_leaves() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    // Two sources that see each other's mirror traffic, to different targets of the same network.
    bed.appliance.address("appliance0", Ipv4Addr::new(10, 9, 0, 3).into(), 24).unwrap();
    // A socket receives the datagrams; otherwise the kernel would answer that the port is unreachable.
    let _listener = bed.appliance.enter(|| UdpSocket::bind("0.0.0.0:4789").unwrap()).unwrap();
    let sources =
        ["10.9.0.2", "10.9.0.3"].map(|to| bed.start(&["--interface", "out0", "--to", to, "--vni", "7"]));
    let frame = Flow::v4(40_000, 9).udp(b"once");
    Injector::new(&bed.appliance, "appliance0").unwrap().send(&frame).unwrap();
    let mut targets: Vec<_> = sniffer
        .take(2, mirrored)
        .into_iter()
        .map(|arrived| {
            assert_eq!(arrived.inner, frame);
            arrived.envelope.destination.to_ip()
        })
        .collect();
    targets.sort();
    assert_eq!(targets, [IpAddr::from([10, 9, 0, 2]), IpAddr::from([10, 9, 0, 3])]);
    for source in sources {
        let account = source.stop();
        assert_eq!((&account["mirrored"], &account["skipped"]["mirror_traffic"]), (&1.into(), &2.into()));
    }
}

#[test]
fn a_killed_source_stands_in_nobodys_way() {
    let Some(bed) = Bed::new() else { return };
    let before = bed.interfaces();
    bed.mirror(&[]).kill();
    assert_ne!(bed.interfaces(), before, "a pair is left by a killed source, or this tests nothing");
    let sniffer = bed.sniffer();
    let sources = [bed.mirror(&[]), bed.mirror(&[])];
    assert_eq!(bed.interfaces().len(), before.len() + 4, "one pair for each living source");
    let frame = Flow::v4(40_000, 9).udp(b"hello");
    Injector::new(&bed.client, "client0").unwrap().send(&frame).unwrap();
    for arrived in sniffer.take(2, mirrored) {
        assert_eq!(arrived.inner, frame);
    }
    for source in sources {
        assert_eq!(source.stop()["mirrored"], 1);
    }
    assert_eq!(bed.interfaces(), before);
}

#[test]
fn the_sources_end_leaves_nothing_behind() {
    let Some(bed) = Bed::new() else { return };
    let before = bed.interfaces();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut source = bed.mirror(&[]);
        source.0.signal(signal).unwrap();
        account(&source.0.wait(PATIENCE).unwrap());
        assert_eq!(bed.interfaces(), before);
    }
    account(&bed.mirror(&["--duration", "10ms"]).0.wait(PATIENCE).unwrap());
    assert_eq!(bed.interfaces(), before);
}

#[test]
fn a_new_hardware_address_of_the_target_is_followed() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let mut source = bed.mirror(&[]);
    let new = [2, 0, 0, 0, 9, 9];
    bed.appliance.ip("link set appliance0 address 02:00:00:00:09:09").unwrap();
    // As announced by a host whose address has moved to another interface.
    bed.host.ip("neighbour replace 10.9.0.2 dev out0 lladdr 02:00:00:00:09:09 nud reachable").unwrap();
    source.0.wait_for_line("mirror-xdp: mirror traffic goes by out0", PATIENCE).unwrap();
    Injector::new(&bed.client, "client0").unwrap().send(&Flow::v4(40_000, 9).udp(b"moved")).unwrap();
    assert_eq!(sniffer.take(1, mirrored).remove(0).outer[..6], new);
    source.stop();
}

#[test]
fn frames_are_counted_as_lost_while_there_is_no_way_to_the_target() {
    let Some(bed) = Bed::new() else { return };
    let sniffer = bed.sniffer();
    let mut source = bed.mirror(&[]);
    let injector = Injector::new(&bed.client, "client0").unwrap();
    let frame = Flow::v4(40_000, 9).udp(b"hello");
    bed.host.ip("route del 10.9.0.0/24 dev out0").unwrap();
    source.0.wait_for_line("mirror-xdp: frames are lost: no route to 10.9.0.2", PATIENCE).unwrap();
    injector.send(&frame).unwrap();
    injector.send(&frame).unwrap();
    bed.host.ip("route add 10.9.0.0/24 dev out0 src 10.9.0.1").unwrap();
    source.0.wait_for_line("mirror-xdp: mirror traffic goes by out0", PATIENCE).unwrap();
    injector.send(&frame).unwrap();
    assert_eq!(sniffer.take(1, mirrored).remove(0).inner, frame);
    let output = source.0.interrupt(PATIENCE).unwrap();
    let account: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&account["failed"]["no_route"], &account["mirrored"]), (&2.into(), &1.into()), "{account}");
}

#[test]
fn a_mirrored_interface_that_goes_away_ends_the_source() {
    let Some(bed) = Bed::new() else { return };
    let source = bed.mirror(&[]);
    bed.host.ip("link del mirrored0").unwrap();
    let output = source.0.wait(PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("mirrored0 is gone")), "{:?}", output.stderr);
    assert_eq!(bed.interfaces(), ["lo", "out0"]);
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    let Some(bed) = Bed::new() else { return };
    let before = bed.interfaces();
    let source =
        |interface: &str, to: &str| bed.refusal(&["--interface", interface, "--to", to, "--vni", "7"]);
    let cases = [
        ("absent0", "10.9.0.2", ["no interface absent0", "mirrored0"]),
        ("mirrored0", "192.0.2.1", ["no route", "192.0.2.1"]),
        ("mirrored0", "10.9.0.77", ["no host answers for 10.9.0.77", "out0"]),
        ("mirrored0", "10.9.0.1", ["10.9.0.1", "another host"]),
        ("mirrored0", "127.0.0.1", ["127.0.0.1", "another host"]),
        ("mirrored0", "10.9.0.255", ["10.9.0.255", "another host"]),
    ];
    for (interface, to, words) in cases {
        let line = source(interface, to);
        for word in words {
            assert!(line.contains(word), "“{word}” is missing: {line}");
        }
    }
    bed.host.ip("link set mirrored0 down").unwrap();
    assert!(source("mirrored0", "10.9.0.2").contains("mirrored0 is down"));
    assert_eq!(bed.interfaces(), before);
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let Some(bed) = Bed::new() else { return };
    for (argument, value) in [
        ("--vni", "16777216"),
        ("--vni", "-1"),
        ("--packet-length", "10"),
        ("--port", "0"),
        ("--to", "nowhere"),
    ] {
        let mut arguments = vec!["--interface", "mirrored0"];
        for (name, default) in [("--vni", "7"), ("--to", "10.9.0.2")] {
            arguments.extend([name, if name == argument { value } else { default }]);
        }
        if !arguments.contains(&argument) {
            arguments.extend([argument, value]);
        }
        let process = Process::spawn(&mut bed.command(&arguments)).unwrap();
        let output = process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(output.status.code(), Some(2), "{argument} {value}: {:?}", output.stderr);
    }
}

#[test]
fn missing_privileges_are_named() {
    let Some(bed) = Bed::new() else { return };
    let mut command = bed.host.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(&bed.binary);
    command.args(["source", "--interface", "mirrored0", "--to", "10.9.0.2", "--vni", "7"]);
    let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert!(line.contains("root") && line.contains("CAP_NET_ADMIN"), "{line}");
}

/// The kernel does not show a program in generic mode the frames that this host itself has redirected, such
/// as those of a source on the same host. In native mode it shows them.
#[test]
fn hostile_silence_of_generic_mode_beside_a_source_is_told_and_counted() {
    const SENT: u64 = 40;
    let Some(bed) = Bed::new() else { return };
    for (mode, seen) in [("native", true), ("generic", false)] {
        let log_dir = tempfile::tempdir().unwrap();
        let mut command = bed.appliance.command(&bed.binary.to_string_lossy());
        command.args(["run", "--json", "--interface", "appliance0", "--xdp-mode", mode, "--api", "off"]);
        command
            .arg("--log-dir")
            .arg(log_dir.path())
            .arg("--control")
            .arg(log_dir.path().join("control.sock"));
        let mut capture = Process::spawn(&mut command).unwrap();
        capture.wait_for_line("capturing on", PATIENCE).unwrap();
        let source = bed.mirror(&[]);
        let injector = Injector::new(&bed.client, "client0").unwrap();
        let send = || (0..SENT).for_each(|_| injector.send(&Flow::v4(40_000, 9).udp(&[1; 700])).unwrap());
        send();
        if !seen {
            wait_until("the capture says what it misses", || {
                // The kernel reports the frames that found no room with the next frame.
                send();
                let Ok(line) = capture.wait_for_line("", Duration::from_millis(100)) else { return false };
                assert!(line.contains("bypassed the capture") && line.contains("generic mode"), "{line}");
                true
            });
        }
        assert!(source.stop()["mirrored"].as_u64().unwrap() >= SENT);
        let output = capture.interrupt(PATIENCE).unwrap();
        assert!(output.status.success(), "{:?}", output.stderr);
        let account: Value = serde_json::from_str(&output.stdout).unwrap();
        let missed = account["missed"].as_u64().unwrap();
        let workers = account["workers"].as_array().unwrap();
        let taken: u64 = workers.iter().map(|worker| worker["delivered"].as_u64().unwrap()).sum();
        assert_eq!((missed == 0, taken >= SENT), (seen, seen), "{mode}: {account}");
        assert_eq!(account["unaccounted"], 0, "{account}");
    }
}
