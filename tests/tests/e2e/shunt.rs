//! Shunted flows in the XDP program: each direction is counted exactly, and neither other frames of the flow
//! nor its neighbours are affected.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use etherparse::{IpNumber, TcpHeader};
use mirror_userspace::device::xdp::program::{CaptureProgram, Options};
use mirror_userspace::device::xdp::shunt::{COOLING, Shunter};
use mirror_userspace::engine::hooks::{Offload as _, ShuntId, Shunted};
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::filter::{ShuntKey, tuple_word};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_tests::frames::{Flow, GATEWAY_V4, mirrored};
use mirror_xdp_tests::require;
use nix::time::{ClockId, clock_gettime};
use rustix::net::{AddressFamily, SocketType, socket};

const SEED: u64 = 0x5eed_0f1a_57ed_c0de;

/// The loaded program with a socket, and the table's part of its only worker.
struct Kernel {
    program: CaptureProgram,
    shunter: Shunter,
    _socket: OwnedFd,
}

impl Kernel {
    fn new(max_shunted: u32) -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        let options = Options { hash_seed: SEED, max_shunted, ..Options::default() };
        let mut program = CaptureProgram::load(&options).unwrap();
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        program.set_socket(0, socket.as_raw_fd()).unwrap();
        let shunter = program.shunter(0, 1).unwrap();
        Some(Self { program, shunter, _socket: socket })
    }

    /// Shunts the flow of a frame, seen from its sender.
    fn shunt(&mut self, frame: &[u8]) -> Option<ShuntId> {
        let outer = decapsulate(frame, &Ports::default()).unwrap();
        let inner = InnerHeaders::parse(&frame[outer.inner_offset..], 0);
        let source = (inner.source, inner.source_port);
        let destination = (inner.destination, inner.destination_port);
        let keys = [(source, destination), (destination, source)].map(|(from, to)| -> ShuntKey {
            [
                outer.source.high,
                outer.source.low,
                outer.gateway.endpoint,
                from.0.high,
                from.0.low,
                to.0.high,
                to.0.low,
                tuple_word(outer.vni, inner.protocol, from.1, to.1),
            ]
        });
        self.shunter.shunt(keys, inner.flow_hash(&FlowHashKey::new(SEED)), monotonic()).unwrap()
    }

    /// Returns whether the program counts a frame as one of a shunted flow; otherwise it is captured.
    fn is_shunted(&self, frame: &[u8]) -> bool {
        let before = self.program.counts().unwrap();
        self.program.test_run(frame, 1).unwrap();
        let counted = self.program.counts().unwrap().since(&before);
        let (shunted, captured) = (counted.get(Counter::FlowShunted), counted.get(Counter::Redirected));
        assert_eq!(shunted + captured, 1, "{frame:02x?}");
        shunted == 1
    }

    /// Returns the packets and bytes counted so far, for each direction.
    fn counted(&self, id: ShuntId) -> [(u64, u64); 2] {
        self.shunter.counted(id).unwrap().map(packets_and_bytes)
    }

    /// Returns a flow that has cooled down, at the time when all released flows can have done so.
    fn cooled(&mut self) -> Option<(ShuntId, [(u64, u64); 2])> {
        let cooled = self.shunter.cooled(monotonic() + COOLING).unwrap();
        cooled.map(|(id, counted)| (id, counted.map(packets_and_bytes)))
    }
}

const fn packets_and_bytes(shunted: Shunted) -> (u64, u64) {
    (shunted.packets, shunted.bytes)
}

fn monotonic() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64
}

fn acknowledging() -> TcpHeader {
    TcpHeader { ack: true, ..TcpHeader::default() }
}

#[test]
fn each_direction_of_a_shunted_flow_is_counted_exactly() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    for (session, flow) in [
        (mirrored(7), Flow::v4(40_000, 443)),
        (mirrored(8).over_ipv6(), Flow::v6(40_000, 443)),
        (mirrored(9).by_gateway(1, 2, 3), Flow::v4(40_000, 443)),
    ] {
        let to_server = |size| session.carrying(&flow.tcp(acknowledging(), &vec![7; size]));
        let to_client = |size| session.carrying(&flow.reversed().tcp(acknowledging(), &vec![7; size]));
        assert!(!kernel.is_shunted(&to_server(1)) && !kernel.is_shunted(&to_client(1)));
        let id = kernel.shunt(&to_server(1)).unwrap();
        assert_eq!(kernel.counted(id), [(0, 0); 2]);
        let headers = flow.tcp(acknowledging(), b"").len() as u64;
        let begun = monotonic();
        for size in 0..100 {
            assert!(kernel.is_shunted(&to_server(size)));
            assert!(size % 2 != 0 || kernel.is_shunted(&to_client(2 * size)));
        }
        let expected = [(100, 100 * headers + 4950), (50, 50 * headers + 4900)];
        assert_eq!(kernel.counted(id), expected);
        let last = kernel.shunter.counted(id).unwrap().map(|way| way.last);
        assert!(last.iter().all(|last| (begun..=monotonic()).contains(last)), "{last:?}");
        assert!(last[0] > last[1]);

        kernel.shunter.release(id, monotonic()).unwrap();
        assert_eq!(kernel.cooled(), Some((id, expected)));
    }
    assert!(kernel.shunter.active() == 0);
}

#[test]
fn lengths_before_the_mirror_cut_are_those_that_count() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    let whole = Flow::v4(40_000, 443).udp(&[7; 1000]);
    let cut = mirrored(7).carrying(&whole[..100]);
    let id = kernel.shunt(&cut).unwrap();
    assert!(kernel.is_shunted(&cut));
    assert_eq!(kernel.counted(id), [(1, whole.len() as u64), (0, 0)]);
}

#[test]
fn what_ends_a_connection_still_comes_up() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    for flow in [Flow::v4(40_000, 443), Flow::v6(40_000, 443)] {
        let segment = |flow: &Flow, header| mirrored(7).carrying(&flow.tcp(header, b"x"));
        let id = kernel.shunt(&segment(&flow, acknowledging())).unwrap();
        for way in [flow.clone(), flow.reversed()] {
            assert!(!kernel.is_shunted(&segment(&way, TcpHeader { fin: true, ..acknowledging() })));
            assert!(!kernel.is_shunted(&segment(&way, TcpHeader { rst: true, ..TcpHeader::default() })));
            assert!(kernel.is_shunted(&segment(&way, TcpHeader { psh: true, ..acknowledging() })));
        }
        assert_eq!(kernel.counted(id).map(|(packets, _)| packets), [1, 1]);
    }
}

#[test]
fn packets_of_a_released_flow_come_up_again() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    let flow = Flow::v4(40_000, 53);
    let frames = [flow.clone(), flow.reversed()].map(|way| mirrored(7).carrying(&way.udp(b"x")));
    for round in 0..10 {
        let id = kernel.shunt(&frames[0]).unwrap();
        assert!(frames.iter().all(|frame| kernel.is_shunted(frame)), "{round}");
        let now = monotonic();
        kernel.shunter.release(id, now).unwrap();
        // A second release is harmless.
        kernel.shunter.release(id, now).unwrap();
        assert!(frames.iter().all(|frame| !kernel.is_shunted(frame)), "{round}");
        // Not before it has cooled down, and then once.
        assert_eq!(kernel.shunter.cooled(now + COOLING - 1).unwrap(), None);
        assert_eq!(kernel.cooled().unwrap().1.map(|(packets, _)| packets), [1, 1]);
        assert_eq!(kernel.cooled(), None);
    }
}

#[test]
fn nothing_but_the_flow_itself_is_shunted() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    let flow = Flow::v4(40_000, 53);
    let inner = flow.udp(&[7; 40]);
    let session = || mirrored(7);
    let frame = session().carrying(&inner);
    let id = kernel.shunt(&frame).unwrap();
    assert!(kernel.is_shunted(&frame));

    // The fragment fields of a first and of a later fragment.
    let fragment = |field: [u8; 2]| {
        let mut inner = inner.clone();
        inner[20..22].copy_from_slice(&field);
        session().carrying(&inner)
    };
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &inner[14..42]].concat();
    let others = [
        ("first fragment", fragment([0x20, 0])),
        ("later fragment", fragment([0, 0xb9])),
        ("VLAN tag", session().carrying(&flow.clone().vlan(5).udp(&[7; 40]))),
        ("two VLAN tags", session().carrying(&flow.clone().vlan(5).vlan(6).udp(&[7; 40]))),
        ("other VNI", mirrored(8).carrying(&inner)),
        ("other source", session().between(GATEWAY_V4.into(), [10, 9, 0, 2].into()).carrying(&inner)),
        ("other family of the source", session().over_ipv6().carrying(&inner)),
        ("behind an endpoint", session().by_gateway(1, 2, 3).carrying(&inner)),
        ("other protocol", session().carrying(&flow.tcp(acknowledging(), b"x"))),
        ("other port", session().carrying(&Flow::v4(40_001, 53).udp(&[7; 40]))),
        ("other addresses", session().carrying(&Flow::v6(40_000, 53).udp(&[7; 40]))),
        ("error about it", session().carrying(&flow.reversed().packet(IpNumber::ICMP, &error))),
    ];
    // Nor when the program uses its memo.
    for _ in 0..2 {
        for (what, frame) in &others {
            assert!(!kernel.is_shunted(frame), "{what}");
        }
        assert!(kernel.is_shunted(&frame));
    }
    assert_eq!(kernel.counted(id), [(3, 3 * inner.len() as u64), (0, 0)]);
    // A priority tag names no VLAN.
    assert!(kernel.is_shunted(&session().carrying(&flow.clone().vlan(0).udp(&[7; 40]))));
    // Neither the direction matters nor the headers around the session: a VLAN tag, options.
    assert!(kernel.is_shunted(&session().vlan(9).ip_options(&[1; 4]).carrying(&inner)));
    assert!(kernel.is_shunted(&session().source_port(9).carrying(&flow.reversed().udp(b"x"))));
}

#[test]
fn where_the_table_is_full_the_flow_goes_that_was_not_used_for_the_longest() {
    const ROOM: u16 = 64;
    // Places reserved for flows that cool down.
    const RESERVE: u16 = ROOM / 8;
    let Some(mut kernel) = Kernel::new(ROOM.into()) else { return };
    let frame = |number: u16| mirrored(7).carrying(&Flow::v4(40_000 + number, 53).udp(b"x"));
    let length = Flow::v4(40_000, 53).udp(b"x").len() as u64;
    let in_table = ROOM - RESERVE;
    let ids: Vec<_> = (0..in_table).map(|number| kernel.shunt(&frame(number)).unwrap()).collect();
    for number in 0..in_table {
        for _ in 0..=number {
            assert!(kernel.is_shunted(&frame(number)));
        }
    }
    // The flow that was first is used again.
    assert!(kernel.is_shunted(&frame(0)));
    assert_eq!(kernel.cooled(), None);

    for number in 0..RESERVE {
        assert!(kernel.shunt(&frame(in_table + number)).is_some());
        assert_eq!(kernel.shunter.active(), usize::from(in_table));
    }
    // Flows that cool down occupy all reserved places.
    assert_eq!(kernel.shunt(&frame(2 * ROOM)), None);
    // Flows 1 to 8 were evicted for those, and flow 9 for the one that found no room nevertheless.
    for number in 1..=RESERVE + 1 {
        assert!(!kernel.is_shunted(&frame(number)), "{number}");
        let packets = u64::from(number) + 1;
        let expected = (ids[usize::from(number)], [(packets, packets * length), (0, 0)]);
        assert_eq!(kernel.cooled(), Some(expected));
    }
    assert_eq!(kernel.cooled(), None);
    assert!(kernel.is_shunted(&frame(0)));
    assert!((RESERVE + 2..in_table + RESERVE).all(|number| kernel.is_shunted(&frame(number))));
    // Their places start with counters of zero.
    let id = kernel.shunt(&frame(2 * ROOM)).unwrap();
    assert_eq!(kernel.counted(id), [(0, 0); 2]);
}

#[test]
fn workers_have_parts_of_the_table_to_themselves() {
    let Some(mut kernel) = Kernel::new(64) else { return };
    let frames = [1, 2].map(|port| mirrored(7).carrying(&Flow::v4(port, 53).udp(b"x")));
    let ids: Vec<_> = (0..2)
        .map(|worker| {
            kernel.shunter = kernel.program.shunter(worker, 2).unwrap();
            let id = kernel.shunt(&frames[worker as usize]).unwrap();
            assert!((0..=worker).all(|_| kernel.is_shunted(&frames[worker as usize])));
            id
        })
        .collect();
    for worker in [0, 1] {
        kernel.shunter = kernel.program.shunter(worker, 2).unwrap();
        let [(packets, _), _] = kernel.counted(ids[worker as usize]);
        assert_eq!(packets, u64::from(worker) + 1);
    }
}
