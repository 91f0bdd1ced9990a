//! A packet of hostile traffic costs about as much as one of ordinary traffic, whatever mirrored hosts send,
//! and no more if there are many.
//!
//! The measure is a ratio within one run: the CPU time of `mirror-xdp read` for crafted packets, compared
//! with as many packets of the same sizes, each of which begins a UDP flow.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etherparse::{IpNumber, TcpHeader};
use mirror_xdp_tests::frames::{Flow, Mirrored, dns_query, mirrored};
use mirror_xdp_tests::require;
use nix::sys::resource::{UsageWho, getrusage};

/// The numbers of packets of the two inputs.
const FEW: usize = 10_000;
const MANY: usize = 60_000;
/// A packet costs at most so many times what one of its control does, as deployed.
const MOST: f64 = 4.0;
/// The same of a build for tests, whose assertions cost parsers and writers more than the flow table: DNS with many
/// questions costs 4.6 times its control, where it costs 3.6 times as deployed.
const MOST_FOR_TESTS: f64 = 5.0;
/// The largest ratio of a packet's cost among many to that among few.
const GROWTH: f64 = 2.0;
/// The number of measurements before the verdict: other processes take CPU time and caches too.
const TRIES: usize = 4;

/// An input: its packet number `n`, and the encapsulation of its control.
struct Input {
    name: &'static str,
    packet: fn(usize) -> Vec<u8>,
    envelope: Option<fn() -> Mirrored>,
}

/// An [`Input`] whose control is not encapsulated.
const fn plain(name: &'static str, packet: fn(usize) -> Vec<u8>) -> Input {
    Input { name, packet, envelope: None }
}

/// An [`Input`] whose control is encapsulated, in one session.
const fn enveloped(name: &'static str, packet: fn(usize) -> Vec<u8>, envelope: fn() -> Mirrored) -> Input {
    Input { name, packet, envelope: Some(envelope) }
}

const INPUTS: [Input; 32] = [
    plain("ESP, a new index each", |n| esp(&Flow::v4(0, 0), n as u32)),
    plain("ESP over IPv6, indexes that differ in top bits", |n| {
        esp(&Flow::v6(0, 0), (n as u32).reverse_bits())
    }),
    plain("ICMPv6, a new type and code each", |n| {
        // Neither errors, which belong to the flows they quote, nor types of neighbour discovery.
        let (kind, code) = (128 + (n % 120) as u8, (n / 120) as u8);
        Flow::v6(0, 0).packet(IpNumber::IPV6_ICMP, &[kind, code, 0, 0, 0, 0, (n >> 16) as u8, 0])
    }),
    plain("ICMP, a new type each", |n| {
        Flow::v4(0, 0).packet(IpNumber::ICMP, &[40 + (n % 200) as u8, (n / 200) as u8, 0, 0, 0, 0, 0, 0])
    }),
    plain("a protocol without ports, a new number each", |n| {
        between(host(n / 100), host(0)).packet(IpNumber(150 + (n % 100) as u8), &[0; 16])
    }),
    enveloped("outer IPv6 sources whose words cancel out", |n| cancelling(n, 0), || mirrored(1).over_ipv6()),
    enveloped(
        "outer IPv6 sources that differ in top bits",
        |n| from_source((n as u64).reverse_bits(), 1),
        || mirrored(1).over_ipv6(),
    ),
    enveloped("endpoints of a gateway that cancel out", gateway, || mirrored(1).by_gateway(1, 1, 1)),
    enveloped(
        "a new VNI each",
        |n| mirrored(n as u32).carrying(&Flow::v4(1, 9).udp(&[0; 8])),
        || mirrored(1),
    ),
    plain("IPv6 addresses that differ in top bits", |n| {
        // Each difference at one end is cancelled at the other.
        let top = (n as u128).reverse_bits();
        udp(Ipv6Addr::from(top | 1).into(), Ipv6Addr::from(top | 2).into(), [1000, 2000])
    }),
    plain("IPv6 addresses whose halves are exchanged", |n| {
        let (a, b) = (n as u128, (n as u128) << 64);
        udp(Ipv6Addr::from(a | 1 << 120).into(), Ipv6Addr::from(b | 1 << 120).into(), [1000, 2000])
    }),
    plain("addresses and ports with the same sum", |n| {
        let (up, down) = (n as u32, MANY as u32 - n as u32);
        let address = |host| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + host));
        udp(address(up), address(down), [1 + (n % 60_000) as u16, 60_001 - (n % 60_000) as u16])
    }),
    plain("VLAN tags, a new pair each", |n| {
        Flow::v4(1, 9).vlan(1 + (n % 4000) as u16).vlan(1 + (n / 4000) as u16).udp(&[0; 8])
    }),
    plain("fragments at the end of their datagrams", |n| fragment(n as u16, n, 65_000 / 8, true, 24)),
    plain("fragments of one datagram, from its end", |n| {
        let at = 1000 - (n % 1000);
        fragment((n / 1000) as u16, n / 1000, 2 * at as u16, true, 8)
    }),
    plain("open heads of HTTP, all of one host", |n| open_head(n, 1)),
    plain("open heads of HTTP, each of a host", |n| open_head(n, 1 + n / 4)),
    plain("segments behind holes", |n| {
        let flow = connection(n / 64, 1);
        match n % 64 {
            at @ 0..3 => flow.tcp_handshake().swap_remove(at),
            at => flow.tcp(segment(1001 + 2 * (at as u32)), b"x"),
        }
    }),
    plain("SYNs, each of a host", |n| between(host(n), host(0)).tcp_handshake().swap_remove(0)),
    plain("DNS, a name each", |n| {
        Flow::v4(1024 + (n % 60_000) as u16, 53).udp(&dns_query(n as u16, &format!("n{n}.example.com")))
    }),
    plain("DNS, many questions for one long name", |n| {
        Flow::v4(1024 + (n % 60_000) as u16, 53).udp(&dns_questions(n as u16, 180))
    }),
    plain("DNS, a name that goes round in circles", |n| {
        let message = [&n.to_be_bytes()[6..], b"\x01\0\0\x01\0\0\0\0\0\0\x01a\xc0\x0c\0\x01\0\x01"].concat();
        Flow::v4(1024 + (n % 60_000) as u16, 53).udp(&message)
    }),
    plain("DNS, pointers that lead to pointers", |n| {
        Flow::v4(1024 + (n % 60_000) as u16, 53).udp(&dns_pointers(n as u16))
    }),
    plain("what could be QUIC, a connection each", quic),
    plain("what could be QUIC, in short datagrams", |n| {
        let payload =
            [&[0xc3, 0, 0, 0, 1, 8][..], &(n as u64).to_be_bytes(), &[0, 0, 0x40, 40], &[n as u8; 40]];
        let server = SocketAddr::new(host(0), 443);
        Flow { server, ..between(host(n), host(0)) }.udp(&payload.concat())
    }),
    plain("hellos of TLS that never end, each of a host", |n| {
        let flow = Flow { server: SocketAddr::new(host(0), 443), ..connection(n / 4, 1 + n / 4) };
        match n % 4 {
            at @ 0..3 => flow.tcp_handshake().swap_remove(at),
            _ => flow
                .tcp(segment(1001), &[&[22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xf0, 3, 3][..], &[7; 1000]].concat()),
        }
    }),
    plain("packets in packets, as deep as they are followed", |n| {
        let mut frame = Flow::v4(1 + (n % 60_000) as u16, 9).udp(&[0; 8]);
        for _ in 0..5 {
            frame = between(host(n), host(0)).packet(IpNumber::IPV4, &frame[14..]);
        }
        frame
    }),
    plain("packets of IPv6 and IPv4 in each other", |n| {
        let mut packet = udp(host(n), host(0), [1000, 9]).split_off(14);
        for layer in 0..3 {
            let (from, to) = (Ipv6Addr::from(1 << 120 | n as u128), Ipv6Addr::from(2 << 120 | layer));
            packet = between(from.into(), to.into()).packet(IpNumber::IPV4, &packet).split_off(14);
            packet = between(host(n), host(1 + layer as usize)).packet(IpNumber::IPV6, &packet).split_off(14);
        }
        between(host(n), host(0)).packet(IpNumber::IPV4, &packet)
    }),
    plain("heads that are no requests", |n| {
        let flow = connection(n / 8, 1 + n / 8);
        match n % 8 {
            at @ 0..3 => flow.tcp_handshake().swap_remove(at),
            3 => flow.tcp(segment(1001), b"GET / HTTP/1.1\r\n\r\n"),
            at => flow.tcp(segment(1019 + 1200 * (at as u32 - 4)), &b" \n\n".repeat(400)),
        }
    }),
    plain("hellos of TLS in records of a byte", |n| {
        let flow = Flow { server: SocketAddr::new(host(0), 443), ..connection(n / 16, 1 + n / 16) };
        let records =
            |hello: &[u8]| hello.iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect::<Vec<_>>();
        match n % 16 {
            at @ 0..3 => flow.tcp_handshake().swap_remove(at),
            3 => flow.tcp(segment(1001), &records(&[1, 0, 0x3f, 0, 3, 3])),
            at => flow.tcp(segment(1037 + 1200 * (at as u32 - 4)), &records(&[7; 200])),
        }
    }),
    plain("errors of ICMP about flows that there are none of", |n| {
        let quoted = udp(host(n), host(1 + n), [1000, 2000]);
        between(host(2 + n), host(n))
            .packet(IpNumber::ICMP, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted[14..42]].concat())
    }),
    plain("options of TCP, as many as there can be", |n| {
        let mut header = segment(n as u32);
        header.set_options_raw(&[1; 40]).unwrap();
        connection(n, 1 + n).tcp(header, b"x")
    }),
];

/// Returns a query with many questions, all but the first with a pointer to its name of 250 bytes.
fn dns_questions(id: u16, count: u16) -> Vec<u8> {
    let mut message = [id, 0x0100, count, 0, 0, 0].map(u16::to_be_bytes).concat();
    for _ in 0..4 {
        message.push(60);
        message.extend([b'a'; 60]);
    }
    message.extend([0, 0, 1, 0, 1]);
    for _ in 1..count {
        message.extend([0xc0, 12, 0, 1, 0, 1]);
    }
    message
}

/// Returns a query whose names form a chain of pointers.
fn dns_pointers(id: u16) -> Vec<u8> {
    let mut message = [id, 0x0100, 100, 0, 0, 0].map(u16::to_be_bytes).concat();
    message.extend([1, b'a', 0, 0, 1, 0, 1]);
    for _ in 1..100 {
        // A pointer to the name before it, which consists of a label of one byte and a pointer.
        let before = message.len() as u16 - 7;
        message.extend([1, b'b']);
        message.extend((0xc000 | before.max(12)).to_be_bytes());
        message.extend([0, 1, 0, 1]);
    }
    message
}

/// Returns a datagram with the length and form of a client's first QUIC datagram, and a connection ID of its
/// own.
fn quic(n: usize) -> Vec<u8> {
    let mut datagram = vec![0xc3, 0, 0, 0, 1, 8];
    datagram.extend((n as u64).to_be_bytes());
    datagram.extend([0, 0, 0x44, 0x90]);
    datagram.resize(1200, n as u8);
    Flow {
        client: SocketAddr::new(host(n / 50_000), 1024 + (n % 50_000) as u16),
        server: SocketAddr::new(host(0), 443),
        vlans: Vec::new(),
    }
    .udp(&datagram)
}

fn host(n: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0b00_0000 + n as u32).into()
}

fn between(client: IpAddr, server: IpAddr) -> Flow {
    Flow { client: SocketAddr::new(client, 4000), server: SocketAddr::new(server, 80), vlans: Vec::new() }
}

fn udp(client: IpAddr, server: IpAddr, [from, to]: [u16; 2]) -> Vec<u8> {
    Flow { client: SocketAddr::new(client, from), server: SocketAddr::new(server, to), vlans: Vec::new() }
        .udp(&[0; 8])
}

fn esp(flow: &Flow, index: u32) -> Vec<u8> {
    let payload = [&index.to_be_bytes()[..], &[0, 0, 0, 1], &[0x5a; 40]].concat();
    flow.packet(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &payload)
}

/// Returns a frame mirrored from an outer IPv6 address of these two words.
fn from_source(high: u64, low: u64) -> Vec<u8> {
    let source = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
    mirrored(1)
        .over_ipv6()
        .between(source.into(), Ipv6Addr::LOCALHOST.into())
        .carrying(&Flow::v4(1, 9).udp(&[0; 8]))
}

/// Returns a frame mirrored from an outer address one of whose words cancels the other under the rotation of
/// a weak hash.
fn cancelling(n: usize, constant: u64) -> Vec<u8> {
    let high = 0x2001_0db8_0000_0000 | n as u64;
    from_source(high, constant ^ high.rotate_left(32))
}

fn gateway(n: usize) -> Vec<u8> {
    let envelope = mirrored(1).by_gateway((n as u64).rotate_left(32), n as u64, n as u32);
    envelope.carrying(&Flow::v4(1, 9).udp(&[0; 8]))
}

/// Returns a fragment of a UDP datagram between two hosts; `offset` is in units of eight bytes.
fn fragment(identification: u16, of: usize, offset: u16, more: bool, len: usize) -> Vec<u8> {
    let mut frame = between(host(of), host(0)).packet(IpNumber::UDP, &vec![0; len]);
    let field = offset | if more { 0x2000 } else { 0 };
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame[24..26].fill(0);
    frame
}

/// Returns connection number `number` of the host `from`.
fn connection(number: usize, from: usize) -> Flow {
    let port = 1024 + (number % 60_000) as u16;
    Flow {
        client: SocketAddr::new(host(from), port),
        server: SocketAddr::new(host(0), 80),
        vlans: Vec::new(),
    }
}

fn segment(sequence_number: u32) -> TcpHeader {
    TcpHeader { sequence_number, acknowledgment_number: 9001, ack: true, psh: true, ..TcpHeader::default() }
}

/// Returns packet `n` of connections that each open and begin a request.
fn open_head(n: usize, from: usize) -> Vec<u8> {
    let flow = connection(n / 4, from);
    match n % 4 {
        at @ 0..3 => flow.tcp_handshake().swap_remove(at),
        _ => flow.tcp(segment(1001), b"GET /open HTTP/1.1\r\nHost: example.com\r\n"),
    }
}

/// Returns a frame of a UDP flow of its own, with the length `len` or the shortest possible.
fn control(n: usize, len: usize, envelope: Option<fn() -> Mirrored>) -> Vec<u8> {
    let flow = Flow {
        client: SocketAddr::new(
            Ipv4Addr::from_bits(0x0c00_0000 + (n / 50_000) as u32).into(),
            (n % 50_000) as u16,
        ),
        server: SocketAddr::new(host(0), 9),
        vlans: Vec::new(),
    };
    let frame = |payload: usize| {
        let inner = flow.udp(&vec![0; payload]);
        envelope.map_or_else(|| inner.clone(), |envelope| envelope().carrying(&inner))
    };
    let shortest = frame(0).len();
    frame(len.saturating_sub(shortest))
}

/// Writes a capture file with packets 10 µs apart.
fn write(path: &Path, packets: impl Iterator<Item = Vec<u8>>) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (n, packet) in packets.enumerate() {
        let (seconds, micros) = (1_600_000_000 + n / 100_000, n % 100_000 * 10);
        for word in [seconds as u32, micros as u32, packet.len() as u32, packet.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(packet);
    }
    std::fs::write(path, bytes).unwrap();
}

/// Returns the CPU time of this process's children, in user space and in the kernel.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
        .iter()
        .sum()
}

/// Returns the CPU seconds of reading a file.
fn read(binary: &Path, file: &Path) -> f64 {
    let records = tempfile::tempdir().unwrap();
    let before = children();
    let status = Command::new(binary)
        .arg("read")
        .arg(file)
        .arg("--log-dir")
        .arg(records.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", file.display());
    children().saturating_sub(before).as_secs_f64()
}

// The only test of this file, because it measures the CPU time of all children.
#[test]
fn hostile_packets_cost_as_much_as_others_and_no_more_for_being_many() {
    let Some(binary) = require::binary() else { return };
    let is_for_tests = binary.components().any(|part| part.as_os_str() == "debug");
    let most = if is_for_tests { MOST_FOR_TESTS } else { MOST };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(&path("empty"), std::iter::empty());
    let mut failures = Vec::new();
    for Input { name, packet, envelope } in INPUTS {
        write(&path("few"), (0..FEW).map(packet));
        write(&path("many"), (0..MANY).map(packet));
        write(&path("control"), (0..MANY).map(|n| control(n, packet(n).len(), envelope)));
        let mut least = [f64::MAX; 4];
        let mut ratios = (f64::MAX, f64::MAX);
        for _ in 0..TRIES {
            for (least, file) in least.iter_mut().zip(["empty", "few", "many", "control"]) {
                *least = least.min(read(&binary, &path(file)));
            }
            let [empty, few, many, control] = least;
            let each = |time: f64, packets: usize| (time - empty).max(1e-3) / packets as f64;
            let [control, many, few] = [each(control, MANY), each(many, MANY), each(few, FEW)];
            // Inputs that cost half of their control or less are too cheap to be measured with few packets.
            ratios = (many / control, many / few.max(control / 2.0));
            if ratios.0 <= most && ratios.1 <= GROWTH {
                break;
            }
        }
        let [empty, _, many, _] = least;
        println!(
            "{name}: {:.2} µs a packet, {:.2} times its control; {:.2} times as much at {MANY} as at {FEW}",
            (many - empty) / MANY as f64 * 1e6,
            ratios.0,
            ratios.1,
        );
        if ratios.0 > most || ratios.1 > GROWTH {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "{failures:?} cost too much");
}
