//! The XDP program and user space share one parser, which is compiled twice. These tests compare the program
//! in the kernel with the parser in user space, frame by frame, by `BPF_PROG_TEST_RUN`: verdict, counter, and
//! every byte that reaches the socket.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::Program;
use etherparse::{IpNumber, TcpHeader};
use mirror_userspace::device::xdp::program::{CaptureProgram, Options, TestRun};
use mirror_xdp_common::capture::{CaptureHeader, flags};
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::{Fragment, InnerHeaders};
use mirror_xdp_common::outer::{MAX_GENEVE_OPTIONS, Ports, decapsulate};
use mirror_xdp_tests::frames::{Flow, Mirrored, geneve_option, mirrored};
use mirror_xdp_tests::require;
use nix::time::{ClockId, clock_gettime};
use rustix::net::{AddressFamily, SocketType, socket};

const SEED: u64 = 0x5eed_0f1a_57ed_c0de;

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// The loaded program, with a socket for queue 0 to which no frame is delivered.
struct Kernel {
    program: CaptureProgram,
    ports: Ports,
    _socket: OwnedFd,
}

impl Kernel {
    fn new(ports: Ports) -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        let options = Options { ports, hash_seed: SEED, ..Options::default() };
        let mut program = CaptureProgram::load(&options).unwrap();
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        program.set_socket(0, socket.as_raw_fd()).unwrap();
        Some(Self { program, ports, _socket: socket })
    }

    /// Runs the program on `frame` and compares all its effects with the parsers' results. Returns the
    /// outcome, with the capture header if the frame is captured.
    fn check(&self, frame: &[u8]) -> (Counter, Option<CaptureHeader>) {
        self.check_run(frame, frame.len(), |program| program.test_run(frame, 1).unwrap())
    }

    /// As [`Kernel::check`], with only `linear` bytes of the frame in its first buffer.
    fn check_split(&self, frame: &[u8], linear: usize) -> (Counter, Option<CaptureHeader>) {
        self.check_run(frame, linear, |program| program.test_run_split(frame, linear as u32).unwrap())
    }

    fn check_run(
        &self,
        frame: &[u8],
        linear: usize,
        run: impl FnOnce(&CaptureProgram) -> TestRun,
    ) -> (Counter, Option<CaptureHeader>) {
        let counted = self.program.counts().unwrap();
        let before = monotonic();
        let run = run(&self.program);
        let after = monotonic();
        let counted = self.program.counts().unwrap().since(&counted);

        // The parsers need not see all of a long option, but the program writes the capture header only if
        // the outer headers are in the first buffer.
        let expected = decapsulate(&Split { frame, linear }, &self.ports).and_then(|mirrored| {
            let linear = mirrored.inner_offset <= linear;
            if linear { Ok(mirrored) } else { Err(Counter::HeadersNotLinear) }
        });
        let outcome = expected.err().unwrap_or(Counter::Redirected);
        for &counter in Counter::ALL.iter().filter(|counter| counter.fate() != Fate::Noted) {
            let times = u64::from(counter == Counter::Seen || counter == outcome);
            assert_eq!(counted.get(counter), times, "{} of {frame:02x?}", counter.name());
        }
        let action = match outcome.fate() {
            Fate::Passed => PASS,
            Fate::Dropped | Fate::Shunted | Fate::Seen | Fate::Noted => DROP,
            Fate::Redirected => REDIRECT,
        };
        assert_eq!(run.action, action, "{frame:02x?}");
        let Ok(mirrored) = expected else {
            if outcome.fate() == Fate::Passed {
                assert_eq!(run.frame, frame, "a frame that the kernel gets is left as it was");
            }
            return (outcome, None);
        };

        let (header, inner) = CaptureHeader::decode(&run.frame).unwrap();
        let captured = &frame[mirrored.inner_offset..][..mirrored.inner_len];
        assert_eq!(inner, captured);
        // The inner headers end with the inner frame; bytes after it in the outer frame do not belong to
        // them.
        let split = linear < frame.len() && linear - mirrored.inner_offset < captured.len();
        let linear = captured.len().min(linear - mirrored.inner_offset);
        let headers = InnerHeaders::parse(&Split { frame: captured, linear }, 0);
        let original_len = headers.original_len(mirrored.inner_len);
        assert!((before..=after).contains(&header.time));
        let mut bits = mirrored.flags;
        bits |= if original_len > mirrored.inner_len { flags::TRUNCATED } else { 0 };
        bits |= match headers.fragment {
            Fragment::Whole => 0,
            Fragment::First => flags::FRAGMENT,
            Fragment::Later => flags::FRAGMENT | flags::LATER_FRAGMENT,
        };
        let noted = |counter| counted.get(counter) != 0;
        assert_eq!(noted(Counter::VxlanGpe), bits & flags::VXLAN_GPE != 0);
        assert_eq!(noted(Counter::VxlanGroupPolicy), bits & flags::VXLAN_GROUP_POLICY != 0);
        assert_eq!(noted(Counter::InnerNotLinear), split && !headers.is_complete(), "{frame:02x?}");
        let expected = CaptureHeader {
            flags: bits,
            vni: mirrored.vni,
            outer_source: mirrored.source,
            outer_destination: mirrored.destination,
            gateway: mirrored.gateway,
            original_len: original_len as u32,
            flow_hash: headers.flow_hash(&FlowHashKey::new(SEED)),
            rule: 0,
            time: header.time,
        };
        assert_eq!(header, expected, "{frame:02x?}");
        (outcome, Some(header))
    }
}

fn kernel() -> Option<Kernel> {
    Kernel::new(Ports::default())
}

fn monotonic() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64
}

/// A frame whose end may be in a further buffer, as the program sees it.
struct Split<'a> {
    frame: &'a [u8],
    linear: usize,
}

impl Frame for Split<'_> {
    fn len(&self) -> usize {
        self.frame.len()
    }

    fn header<T: zerocopy::FromBytes>(&self, offset: usize) -> Option<T> {
        self.frame[..self.linear].header(offset)
    }
}

/// Returns every valid form of the outer headers.
fn outer() -> Vec<Mirrored> {
    vec![
        mirrored(0),
        mirrored(0x00ff_ffff),
        mirrored(7).over_ipv6(),
        mirrored(7).over_ipv6().atomic_fragment(),
        mirrored(7).vlan(42),
        mirrored(7).vlan(4094).vlan(42),
        mirrored(7).vlan(4094).vlan(42).over_ipv6(),
        mirrored(7).ip_options(&[1; 4]),
        mirrored(7).vlan(42).ip_options(&[1; 40]),
        mirrored(7).trailer(6),
        mirrored(7).over_ipv6().trailer(300),
        mirrored(7).vxlan_gpe(3),
        mirrored(7).over_ipv6().vxlan_gpe(1).vxlan_group_policy(),
        mirrored(7).geneve(),
        mirrored(7).over_ipv6().vlan(42).geneve().geneve_options(&geneve_option(0xffff, 1, &[1; 12])),
        mirrored(7).by_gateway(1, u64::MAX, 3),
        mirrored(7).by_gateway_over_ipv6(1 << 63, 2, u32::MAX),
        mirrored(7).over_ipv6().by_gateway(1, 2, 3),
        mirrored(7).over_ipv6().vlan(42).by_gateway_over_ipv6(1, 2, 3).trailer(4),
        mirrored(7).ip_options(&[1; 8]).vxlan_group_policy().by_gateway(1, 2, 3).geneve_options(&[]),
    ]
}

/// Returns an IPv6 extension header of `words` times eight bytes, with this next header and length field.
fn extension(next: u8, field: u8, words: usize) -> Vec<u8> {
    let mut header = vec![0; words * 8];
    header[0] = next;
    header[1] = field;
    header
}

/// Returns inner frames of all kinds that the parser distinguishes.
fn inner() -> Vec<Vec<u8>> {
    let tcp = TcpHeader { syn: true, ..TcpHeader::default() };
    let segment = |flow: &Flow| {
        let header = TcpHeader { source_port: flow.client.port(), destination_port: 443, ..tcp.clone() };
        [&header.to_bytes()[..], b"payload"].concat()
    };
    let v6 = Flow::v6(40_000, 443);
    let fragment = |next, field: u16| {
        let mut header = extension(next, 0xff, 1);
        header[2..4].copy_from_slice(&field.to_be_bytes());
        header
    };
    let chain = [
        extension(43, 0, 1),
        extension(44, 1, 2),
        fragment(51, 0),
        extension(60, 1, 3),
        extension(60, 0, 1),
        extension(6, 0, 1),
    ]
    .concat();
    let mut arp = Flow::default().udp(b"")[..14].to_vec();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    arp.extend([0; 28]);
    let mut truncated = Flow::v4(1, 2).udp(&[7; 400]);
    truncated.truncate(100);
    let mut offloaded = Flow::v4(1, 2).udp(&[7; 40]);
    offloaded[16..18].fill(0);
    let mut later = Flow::v4(1, 2).udp(&[7; 40]);
    later[20..22].copy_from_slice(&[0x00, 0xb9]);
    let mut first = Flow::v4(1, 2).udp(&[7; 40]);
    first[20..22].copy_from_slice(&[0x20, 0x00]);
    vec![
        Flow::v4(40_000, 53).udp(b"question"),
        Flow::v4(40_000, 443).tcp(tcp.clone(), b""),
        Flow::v4(40_000, 443).ping(1, 2),
        Flow::v4(40_000, 443).vlan(5).tcp(tcp.clone(), b"x"),
        Flow::v6(40_000, 443).vlan(5).vlan(6).tcp(tcp.clone(), b"x"),
        v6.udp(b"question"),
        v6.packet(IpNumber::IPV6_HEADER_HOP_BY_HOP, &[extension(6, 0, 1), segment(&v6)].concat()),
        v6.packet(IpNumber::IPV6_HEADER_HOP_BY_HOP, &[chain, segment(&v6)].concat()),
        v6.packet(IpNumber::IPV6_FRAGMENTATION_HEADER, &[fragment(6, 1), segment(&v6)].concat()),
        v6.packet(IpNumber::IPV6_FRAGMENTATION_HEADER, &[fragment(6, 1448), segment(&v6)].concat()),
        v6.packet(IpNumber::AUTHENTICATION_HEADER, &[extension(6, 4, 3), segment(&v6)].concat()),
        arp,
        truncated,
        offloaded,
        later,
        first,
    ]
}

#[test]
fn every_form_of_mirrored_frame_is_captured_as_the_parsers_say() {
    let Some(kernel) = kernel() else { return };
    for outer in outer() {
        for inner in inner() {
            let frame = outer.carrying(&inner);
            let (outcome, header) = kernel.check(&frame);
            assert_eq!(outcome, Counter::Redirected, "{outer:?}");
            assert!(header.is_some());
        }
    }
}

#[test]
fn jumbo_frames_in_several_buffers_are_captured_whole() {
    let Some(kernel) = kernel() else { return };
    for length in [3400, 3500, 4000, 8500, 8973] {
        for outer in [mirrored(7), mirrored(7).over_ipv6(), mirrored(7).trailer(4)] {
            let frame = outer.carrying(&Flow::v4(1, 2).udp(&vec![7; length]));
            assert_eq!(kernel.check(&frame).0, Counter::Redirected);
        }
    }
}

#[test]
fn both_directions_of_an_inner_flow_get_one_hash() {
    let Some(kernel) = kernel() else { return };
    let flow = Flow::v6(40_000, 443);
    let hash =
        |flow: &Flow, outer: Mirrored| kernel.check(&outer.carrying(&flow.udp(b"x"))).1.unwrap().flow_hash;
    assert_eq!(hash(&flow, mirrored(7)), hash(&flow.reversed(), mirrored(7).over_ipv6()));
}

#[test]
fn an_outer_packet_without_a_length_ends_with_its_frame() {
    let Some(kernel) = kernel() else { return };
    let inner = Flow::default().udp(b"payload");
    for base in [mirrored(7), mirrored(7).vlan(42).ip_options(&[1; 8]), mirrored(7).over_ipv6()] {
        for outer in [base.clone(), base.clone().geneve(), base.clone().by_gateway(1, 2, 3)] {
            for outer in [outer.clone().ip_length(0), outer.ip_length(0).udp_length(0)] {
                let frame = outer.carrying(&inner);
                let (counter, header) = kernel.check(&frame);
                assert_eq!(counter, Counter::Redirected, "{outer:?}");
                assert_eq!(header.unwrap().original_len as usize, inner.len());
            }
        }
        // The UDP length alone says where the trailer begins.
        let (_, header) = kernel.check(&base.ip_length(0).trailer(6).carrying(&inner));
        assert_eq!(header.unwrap().original_len as usize, inner.len());
    }
    // In several buffers.
    let large = Flow::default().udp(&[7; 8000]);
    for outer in [mirrored(7).ip_length(0), mirrored(7).over_ipv6().ip_length(0).udp_length(0)] {
        assert_eq!(kernel.check(&outer.carrying(&large)).0, Counter::Redirected);
    }
}

#[test]
fn each_malformed_kind_is_dropped_under_its_own_counter() {
    let Some(kernel) = kernel() else { return };
    let inner = Flow::default().udp(b"payload");
    for base in [mirrored(7), mirrored(7).vlan(42), mirrored(7).over_ipv6()] {
        let cases = [
            (base.clone().fragment(0, true).carrying(&inner), Counter::OuterFragment),
            (base.clone().ip_length(7).carrying(&inner), Counter::OuterIpLength),
            (base.clone().ip_length(u16::MAX).carrying(&inner), Counter::OuterIpLength),
            (base.clone().udp_length(7).carrying(&inner), Counter::OuterUdpLength),
            (base.clone().udp_length(u16::MAX).carrying(&inner), Counter::OuterUdpLength),
            (base.datagram(&[8, 0, 0, 0, 0, 0, 7]), Counter::VxlanTruncated),
            (base.clone().vxlan_flags(0xf7).carrying(&inner), Counter::VxlanNoVni),
            (base.carrying(&inner[..13]), Counter::InnerTooShort),
        ];
        for (frame, counter) in cases {
            assert_eq!(kernel.check(&frame).0, counter, "{base:?}");
        }
    }
}

#[test]
fn each_malformed_kind_of_geneve_is_dropped_under_its_own_counter() {
    let Some(kernel) = kernel() else { return };
    let inner = Flow::default().udp(b"payload");
    for base in
        [mirrored(7).geneve(), mirrored(7).by_gateway(1, 2, 3), mirrored(7).by_gateway_over_ipv6(1, 2, 3)]
    {
        // An option that claims more than the header has room for, after a valid one.
        let options = [geneve_option(0x0108, 3, &[1; 4]), vec![1, 8, 1, 2]].concat();
        let cases = [
            (base.clone().geneve_version(1), Counter::GeneveVersion),
            (base.clone().geneve_version(3), Counter::GeneveVersion),
            (base.clone().geneve_options(&[]).geneve_options_words(63), Counter::GeneveTruncated),
            (base.clone().geneve_options(&options), Counter::GeneveTruncated),
        ];
        for (frame, counter) in cases {
            assert_eq!(kernel.check(&frame.carrying(&inner)).0, counter, "{frame:?}");
        }
    }
    // GENEVE directly in the datagram, with a truncated header.
    for length in 0..8 {
        let frame = mirrored(7).port(6081).datagram(&[0, 0, 0x65, 0x58, 0, 0, 7, 0][..length]);
        assert_eq!(kernel.check(&frame).0, Counter::GeneveTruncated, "{length}");
    }
    // Errors inside are counted as without the encapsulation.
    let short = mirrored(7).geneve().carrying(&inner[..13]);
    assert_eq!(kernel.check(&short).0, Counter::InnerTooShort);
    for base in [mirrored(7), mirrored(7).over_ipv6()] {
        let inside = |mirrored: Mirrored| mirrored.by_gateway(1, 2, 3).carrying(&inner);
        let cases = [
            (inside(base.clone().fragment(0, true)), Counter::OuterFragment),
            (inside(base.clone().ip_length(7)), Counter::OuterIpLength),
            (inside(base.clone().ip_length(u16::MAX)), Counter::OuterIpLength),
            (inside(base.clone().udp_length(7)), Counter::OuterUdpLength),
            (inside(base.clone().vxlan_flags(0xf7)), Counter::VxlanNoVni),
            (base.by_gateway(1, 2, 3).carrying(&inner[..13]), Counter::InnerTooShort),
        ];
        for (frame, counter) in cases {
            assert_eq!(kernel.check(&frame).0, counter, "{frame:02x?}");
        }
    }
}

#[test]
fn a_port_of_vxlan_gpe_takes_ethernet_and_nothing_else() {
    let Some(kernel) = Kernel::new(Ports::new(&[4789], &[6081], &[4790]).unwrap()) else { return };
    let inner = Flow::default().udp(b"x");
    let gpe = || mirrored(7).port(4790);
    let outcome = |mirrored: Mirrored| kernel.check(&mirrored.carrying(&inner)).0;
    assert_eq!(outcome(gpe()), Counter::Redirected);
    assert_eq!(outcome(gpe().vxlan_gpe(3)), Counter::Redirected);
    assert_eq!(outcome(gpe().vxlan_gpe(3).by_gateway(1, 2, 3)), Counter::Redirected);
    for other in [0, 1, 2, 4, 0xff] {
        assert_eq!(outcome(gpe().vxlan_gpe(other)), Counter::VxlanNextProtocol);
        assert_eq!(outcome(gpe().vxlan_gpe(other).by_gateway(1, 2, 3)), Counter::VxlanNextProtocol);
        // The bits and the numbers are in reserved fields of VXLAN.
        assert_eq!(outcome(mirrored(7).vxlan_gpe(other)), Counter::Redirected);
    }
}

#[test]
fn geneve_that_is_not_mirror_traffic_is_left_to_the_kernel_untouched() {
    let Some(kernel) = kernel() else { return };
    let inner = Flow::default().udp(b"x");
    let v6 = Flow::v6(1, 4789);
    let mut others = vec![
        // Traffic that a load balancer sends to a firewall for inspection.
        mirrored(7)
            .geneve()
            .geneve_protocol(0x0800)
            .carrying(&Flow::v4(1, 443).tcp(TcpHeader::default(), b"x")[14..]),
        mirrored(7).geneve().geneve_protocol(0x0800).carrying(&Flow::v4(1, 53).udp(b"x")[14..]),
        mirrored(7).geneve().geneve_protocol(0x86dd).carrying(&v6.tcp(TcpHeader::default(), b"x")[14..]),
        mirrored(7).geneve().geneve_protocol(0x0806).carrying(&inner),
        mirrored(7).geneve().geneve_protocol(0).carrying(&[]),
        mirrored(7).fragment(1480, false).by_gateway(1, 2, 3).carrying(&inner),
    ];
    // An IP packet that contradicts the header's protocol, and GENEVE in GENEVE.
    others.push(mirrored(7).by_gateway(1, 2, 3).geneve_protocol(0x86dd).carrying(&inner));
    others.push(mirrored(7).port(6081).by_gateway(1, 2, 3).carrying(&inner));
    for frame in others {
        assert_eq!(kernel.check(&frame).0, Counter::GeneveNotMirror, "{frame:02x?}");
    }
}

#[test]
fn what_a_gateway_says_of_a_frame_reaches_the_capture_header() {
    let Some(kernel) = kernel() else { return };
    let inner = Flow::default().udp(b"x");
    let said = |mirrored: Mirrored| {
        let gateway = kernel.check(&mirrored.carrying(&inner)).1.unwrap().gateway;
        (gateway.endpoint, gateway.attachment, gateway.cookie)
    };
    assert_eq!(said(mirrored(7).by_gateway(1, 2, 3)), (1, 2, 3));
    assert_eq!(said(mirrored(7).by_gateway_over_ipv6(u64::MAX, 1 << 63, 3)), (u64::MAX, 1 << 63, 3));
    // Among other options, up to the number that is examined.
    let option = geneve_option(0x0108, 2, &[9; 8]);
    let options = |before| [geneve_option(0x0109, 2, &[1; 8]).repeat(before), option.clone()].concat();
    let attachment = |before| said(mirrored(7).by_gateway(0, 0, 0).geneve_options(&options(before))).1;
    assert_eq!(attachment(1), 0x0909_0909_0909_0909);
    assert_eq!(attachment(MAX_GENEVE_OPTIONS - 1), 0x0909_0909_0909_0909);
    assert_eq!(attachment(MAX_GENEVE_OPTIONS), 0);
}

#[test]
fn other_traffic_is_left_to_the_kernel_untouched() {
    let Some(kernel) = kernel() else { return };
    let tagged_thrice = mirrored(7).vlan(1).vlan(2).vlan(3).carrying(&Flow::default().udp(b"x"));
    let mut others = inner();
    others.push(mirrored(7).port(4790).carrying(&Flow::default().udp(b"x")));
    others.push(mirrored(7).port(0).carrying(&Flow::default().udp(b"x")));
    others.push(tagged_thrice);
    for frame in others {
        assert_eq!(kernel.check(&frame).0.fate(), Fate::Passed, "{frame:02x?}");
    }
    for base in [mirrored(7), mirrored(7).over_ipv6()] {
        let later = base.fragment(1480, false).carrying(&Flow::default().udp(b"x"));
        assert_eq!(kernel.check(&later).0, Counter::LaterFragment);
    }
}

#[test]
fn all_configured_ports_and_no_others_are_mirror_traffic() {
    let ports = [4789, 8472, 1, 65_535, 250, 4790, 53, 6081];
    let Some(kernel) = Kernel::new(Ports::new(&ports, &[], &[]).unwrap()) else { return };
    let inner = Flow::default().udp(b"x");
    for port in ports {
        assert_eq!(kernel.check(&mirrored(7).port(port).carrying(&inner)).0, Counter::Redirected);
    }
    for port in [0, 2, 4788, 4791, 65_534] {
        assert_eq!(kernel.check(&mirrored(7).port(port).carrying(&inner)).0, Counter::NotMirror);
    }
}

#[test]
fn frames_of_a_queue_without_a_socket_are_dropped_and_counted() {
    if !require::privileges() {
        return;
    }
    let program = CaptureProgram::load(&Options::default()).unwrap();
    let frame = mirrored(7).trailer(6).carrying(&Flow::default().udp(b"x"));
    let run = program.test_run(&frame, 1).unwrap();
    assert_eq!(run.action, DROP);
    assert_eq!(program.counts().unwrap().get(Counter::NoSocket), 1);
}

/// As many programs as a queue has sockets. Each program has only one of the sockets, so its verdict tells
/// whether a frame goes to that one.
struct FanOut {
    programs: Vec<CaptureProgram>,
    _socket: OwnedFd,
}

impl FanOut {
    fn new(sockets: u32) -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        let options = Options { hash_seed: SEED, sockets_per_queue: sockets, ..Options::default() };
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        let programs = (0..sockets)
            .map(|number| {
                let mut program = CaptureProgram::load(&options).unwrap();
                program.set_socket_of_several(0, number, socket.as_raw_fd()).unwrap();
                program
            })
            .collect();
        Some(Self { programs, _socket: socket })
    }

    /// Returns the number of the one socket that gets a frame.
    fn socket(&self, frame: &[u8]) -> usize {
        let gets = |program: &CaptureProgram| {
            let before = program.counts().unwrap();
            let action = program.test_run(frame, 1).unwrap().action;
            let counted = program.counts().unwrap().since(&before);
            assert_eq!(counted.get(Counter::Redirected), u64::from(action == REDIRECT));
            assert_eq!(counted.get(Counter::NoSocket), u64::from(action == DROP));
            action == REDIRECT
        };
        let mut getting = (0..self.programs.len()).filter(|&number| gets(&self.programs[number]));
        let socket = getting.next().unwrap();
        assert_eq!(getting.next(), None, "{frame:02x?}");
        socket
    }
}

/// Returns frames of one flow: both directions, and ICMP errors about it from both ends and from a router, in
/// sessions of several kinds. The second list has fragments of each direction.
fn frames_of(flow: &Flow) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut whole, mut fragments) = (Vec::new(), Vec::new());
    for way in [flow.clone(), flow.reversed()] {
        let datagram = way.udp(&[7; 40]);
        let back = Flow { client: ([192, 0, 2, 1], 0).into(), ..way.reversed() };
        if way.client.is_ipv4() {
            // Destination unreachable, with the quoted IP header and the first eight bytes of its payload.
            let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &datagram[14..42]].concat();
            whole.extend([way.reversed(), back].map(|from| from.packet(IpNumber::ICMP, &error)));
            for field in [[0x20, 0], [0x20, 5], [0, 0xb9]] {
                let mut fragment = datagram.clone();
                fragment[20..22].copy_from_slice(&field);
                fragments.push(fragment);
            }
        } else {
            let error = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &datagram[14..]].concat();
            whole.push(way.reversed().packet(IpNumber::IPV6_ICMP, &error));
            for field in [1, 41, 1480_u16] {
                let mut header = extension(17, 0, 1);
                header[2..4].copy_from_slice(&field.to_be_bytes());
                let payload = [&header[..], &datagram[54..]].concat();
                fragments.push(way.packet(IpNumber::IPV6_FRAGMENTATION_HEADER, &payload));
            }
        }
        whole.extend([datagram, way.clone().vlan(5).udp(b"x")]);
    }
    let sessions = [mirrored(7), mirrored(8).over_ipv6(), mirrored(9).by_gateway(1, 2, 3)];
    let carried = |inner: &[Vec<u8>]| {
        inner.iter().zip(sessions.iter().cycle()).map(|(inner, session)| session.carrying(inner)).collect()
    };
    (carried(&whole), carried(&fragments))
}

#[test]
fn all_of_a_flow_goes_to_one_socket_of_its_queue() {
    let Some(fan_out) = FanOut::new(4) else { return };
    for number in 0..50 {
        for flow in [Flow::v4(40_000 + number, 53), Flow::v6(40_000 + number, 53)] {
            let (whole, fragments) = frames_of(&flow);
            for frames in [whole, fragments] {
                let socket = fan_out.socket(&frames[0]);
                for frame in &frames[1..] {
                    assert_eq!(fan_out.socket(frame), socket, "{flow:?}: {frame:02x?}");
                }
            }
        }
    }
}

#[test]
fn flows_are_spread_evenly_over_the_sockets_of_a_queue() {
    const FLOWS: usize = 4000;
    // Three is not a power of two.
    for sockets in [3, 4] {
        let Some(fan_out) = FanOut::new(sockets) else { return };
        let mut load = vec![0_usize; sockets as usize];
        for number in 0..FLOWS {
            let flow = Flow::v4(20_000 + number as u16, 443);
            load[fan_out.socket(&mirrored(7).carrying(&flow.udp(b"x")))] += 1;
        }
        let mean = FLOWS / sockets as usize;
        // At least five standard deviations of a binomial distribution with this mean.
        assert!(load.iter().all(|flows| flows.abs_diff(mean) < 5 * mean.isqrt()), "{load:?}");
    }
}

/// The shortest frame that `BPF_PROG_TEST_RUN` accepts.
const SHORTEST: usize = 14;

/// Returns one frame for each form of the outer headers, with the inner frames in turn.
fn samples() -> Vec<Vec<u8>> {
    let inner = inner();
    outer().iter().zip(inner.iter().cycle()).map(|(outer, inner)| outer.carrying(inner)).collect()
}

#[test]
fn every_prefix_of_a_valid_frame_is_judged_alike() {
    let Some(kernel) = kernel() else { return };
    for frame in samples() {
        for length in SHORTEST..=frame.len() {
            kernel.check(&frame[..length]);
        }
    }
}

/// The length of the longest headers; the bytes after them are payload, which is not parsed.
const HEADERS: usize = 200;

#[test]
fn every_corrupted_header_byte_is_judged_alike() {
    let Some(kernel) = kernel() else { return };
    for frame in samples() {
        let mut corrupted = frame.clone();
        for offset in 0..frame.len().min(HEADERS) {
            for value in 0..=u8::MAX {
                corrupted[offset] = value;
                kernel.check(&corrupted);
            }
            corrupted[offset] = frame[offset];
        }
    }
}

#[test]
fn headers_beyond_the_first_buffer_are_never_taken_for_what_they_are_not() {
    let Some(kernel) = kernel() else { return };
    let frame = mirrored(7).carrying(&Flow::default().udp(&[7; 200]));
    if kernel.program.test_run_split(&frame, 100).is_err() {
        println!("skipped: before Linux 6.18, BPF_PROG_TEST_RUN does not split short frames");
        return;
    }
    for frame in samples() {
        for linear in SHORTEST..frame.len() {
            kernel.check_split(&frame, linear);
        }
    }
    // Ethernet, IPv4, UDP and VXLAN end at 14, 34, 42 and 50.
    let outcome = |linear| kernel.check_split(&frame, linear).0;
    assert_eq!(outcome(41), Counter::OuterNotLinear);
    assert_eq!(outcome(42), Counter::HeadersNotLinear);
    assert_eq!(outcome(49), Counter::HeadersNotLinear);
    assert_eq!(outcome(50), Counter::Redirected);
}

#[test]
fn the_verifier_has_an_easy_time() {
    let Some(kernel) = kernel() else { return };
    let Some(instructions) = kernel.program.verified_instructions().unwrap() else { return };
    println!("the verifier went through {instructions} instructions");
    // The kernel's limit is one million.
    assert!(instructions < 200_000, "{instructions}");
}

/// Each program of each object, also of those that only benchmarks load; with what can be switched on, off and on: the
/// verifier goes past what is off.
#[test]
fn the_kernel_takes_each_program_of_each_object() {
    if !require::privileges() {
        return;
    }
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf");
    let mut loaded = Vec::new();
    for object in ["bench", "capture", "pktgen", "source"] {
        let path = objects.join(format!("{object}.o"));
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (switch, level) in [(0_u32, 0), (1, aya_log::Level::Trace as u8)] {
            let mut settings = EbpfLoader::new();
            for (map, entries) in [("ENTRIES", 16), ("BLOCKS", 16), ("MEMOS", 1 << 12)] {
                settings.map_max_entries(map, entries);
            }
            for (global, value) in
                [("INTERFACE", &1), ("FRAMES", &16), ("ROOM", &1500), ("PACED", &switch), ("LAPS", &switch)]
            {
                settings.override_global(global, value, false);
            }
            settings.override_global(aya_log::LEVEL, &level, false);
            let mut ebpf = settings.load(&bytes).unwrap_or_else(|error| panic!("{object}: {error:?}"));
            for (name, program) in ebpf.programs_mut() {
                let outcome = match program {
                    Program::Xdp(program) => program.load(),
                    Program::SchedClassifier(program) => program.load(),
                    other => panic!("{object} has a program of another type: {other:?}"),
                };
                outcome.unwrap_or_else(|error| panic!("{object}: {name}: {error:?}"));
                loaded.push(format!("{object}: {name}"));
            }
        }
    }
    println!("{loaded:#?}");
    assert!(loaded.len() >= 2 * 6, "{loaded:?}");
}
