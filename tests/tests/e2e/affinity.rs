//! One worker analyses every packet of a flow, whichever queue it arrives on; and every frame lost in a
//! handoff is counted.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use etherparse::{IpFragOffset, Ipv4Header, TcpHeader};
use mirror_xdp_tests::appliance::{Bed, Report, comparable, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::run;
use mirror_xdp_tests::require;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use serde_json::Value;

/// The far end of the cable of a [`Bed`].
const FAR: &str = "source0";
const ETHERNET: usize = 14;

/// Frames in the order on the wire, each with the queue on which it is to arrive.
type Step = (usize, Vec<u8>);

/// Splits an IPv4 packet into two fragments with this identification.
fn fragments(packet: &[u8], identification: u16) -> [Vec<u8>; 2] {
    let (header, payload) = Ipv4Header::from_slice(&packet[ETHERNET..]).unwrap();
    let (first, second) = payload.split_at(512);
    [(first, 0, true), (second, 512 / 8, false)].map(|(part, offset, more_fragments)| {
        let mut header = Ipv4Header {
            identification,
            dont_fragment: false,
            more_fragments,
            fragment_offset: IpFragOffset::try_new(offset).unwrap(),
            total_len: (Ipv4Header::MIN_LEN + part.len()) as u16,
            ..header.clone()
        };
        header.header_checksum = header.calc_header_checksum();
        [&packet[..ETHERNET], &header.to_bytes()[..], part].concat()
    })
}

/// Returns conversations step by step. Frames to the server arrive on queue 0, frames back on queue 1. Name
/// resolution uses the opposite queues, because AWS sends all answers of the resolver with one source port.
/// Of two fragments the first arrives on queue 0. Some flows have both whole and fragmented packets.
fn conversations() -> Vec<Vec<Step>> {
    let mut steps: Vec<Vec<Step>> = vec![Vec::new(); 5];
    for client in 20_000..20_030 {
        let tcp = Flow::v4(client, 4433);
        let [syn, syn_ack, ack] = <[_; 3]>::try_from(tcp.tcp_handshake()).unwrap();
        let data = |sequence_number, acknowledgment_number| TcpHeader {
            ack: true,
            psh: true,
            sequence_number,
            acknowledgment_number,
            window_size: 64_240,
            ..TcpHeader::default()
        };
        let there = tcp.tcp(data(1001, 9001), b"to the server");
        let back = tcp.reversed().tcp(data(9001, 1014), b"and back");
        for (step, (queue, frame)) in
            [(0, syn), (1, syn_ack), (0, ack), (0, there), (1, back)].into_iter().enumerate()
        {
            steps[step].push((queue, frame));
        }
        let dns = Flow::v6(client, 53);
        let name = format!("host{client}.example.com");
        steps[0].push((1, dns.udp(&dns_query(client, &name))));
        steps[1].push((0, dns.reversed().udp(&dns_answer(client, &name, [192, 0, 2, 1].into()))));
    }
    for client in 5000..5030 {
        let flow = Flow::v4(client, 9);
        let [first, second] = fragments(&flow.reversed().udp(&[7; 1000]), client);
        steps[0].push((0, flow.udp(b"whole")));
        steps[1].push((0, first));
        steps[2].push((1, second));
        steps[4].push((1, flow.udp(b"whole again")));
    }
    let wrap = |(queue, frame): Step| (queue, mirrored(1).carrying(&frame));
    steps.into_iter().map(|step| step.into_iter().map(wrap).collect()).collect()
}

fn write_pcap(path: &Path, frames: &[&[u8]]) {
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for frame in frames {
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, frame)).unwrap();
    }
}

/// Runs the generator on the CPU of this number. Frames on a veth arrive on the queue of the sending CPU.
fn generate(bed: &Bed, queue: usize, arguments: &[&str]) {
    let mut command = bed.far.command("taskset");
    command.args(["-c", &queue.to_string()]).arg(require::binary().unwrap());
    run(command.args(["pktgen", "--json", "--interface", FAR]).args(arguments)).unwrap();
}

/// Returns the frames delivered to the workers, according to the last statistics in the log.
fn delivered(bed: &Bed) -> u64 {
    let text = fs::read_to_string(bed.log_dir().join("eve.json")).unwrap_or_default();
    // The last line may still be incomplete, so only whole lines are parsed.
    let mut whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = whole.rfind(|record| record["event_type"] == "stats").unwrap_or_default();
    let workers = last["stats"]["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().map(|worker| worker["delivered"].as_u64().unwrap_or_default()).sum()
}

/// Captures the conversations; sends each step when the one before has been analysed.
fn capture(bed: &Bed, arguments: &[&str], send: impl Fn(&[Step])) -> (Report, Vec<String>) {
    let appliance = bed.start(&[&["--stats-interval", "50ms"], arguments].concat());
    let mut expected = 0;
    for step in conversations() {
        send(&step);
        expected += step.len() as u64;
        wait_until("the step is analysed", || delivered(bed) >= expected);
    }
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!((report.analysed(), report.lost()), (expected, 0));
    (report, comparable(&bed.records()))
}

/// Returns the records of the conversations from a capture with one worker.
fn by_one_worker() -> Option<Vec<String>> {
    let bed = Bed::new(1)?;
    let send = |step: &[Step]| {
        bed.send(&step.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>());
    };
    Some(capture(&bed, &["--sockets-per-queue", "1"], send).1)
}

#[test]
fn directions_on_different_queues_make_the_records_of_one_queue() {
    let Some(expected) = by_one_worker() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("skipped: the queues are chosen by the CPU, and there is but one");
        return;
    }
    for arguments in [&["--sockets-per-queue", "1"], &["--sockets-per-queue", "2"]] {
        let bed = Bed::new(2).unwrap();
        let (report, records) = capture(&bed, arguments, |step| {
            for queue in 0..2 {
                let frames: Vec<_> =
                    step.iter().filter(|(of, _)| *of == queue).map(|(_, frame)| &frame[..]).collect();
                if !frames.is_empty() {
                    let path = bed.log_dir().join("frames.pcap");
                    write_pcap(&path, &frames);
                    generate(&bed, queue, &[&path.to_string_lossy()]);
                }
            }
        });
        assert_eq!(records, expected, "{arguments:?}");
        assert!(report.handed_over("given") > 0, "nothing was handed over, and all was on the right queue");
        assert!(
            report.handed_over("datagrams_given") > 0,
            "all datagrams are of the worker of their fragments"
        );
        assert_eq!(report.handed_over("datagrams_kept"), 0);
    }
}

#[test]
fn without_affinity_nothing_is_handed_over() {
    let Some(bed) = Bed::new(2) else { return };
    let frames: Vec<_> = (0..200)
        .map(|port| mirrored(1).source_port(40_000 + port).carrying(&Flow::v4(port, 9).udp(b"hello")))
        .collect();
    let report = bed.capture(&frames, &["--flow-affinity", "off"]);
    report.assert_conserved();
    assert_eq!((report.handed_over("given"), report.analysed()), (0, 200));
}

#[test]
fn several_sockets_share_a_queue_and_hand_nothing_over() {
    let Some(expected) = by_one_worker() else { return };
    let bed = Bed::new(1).unwrap();
    let (report, records) = capture(&bed, &["--sockets-per-queue", "4"], |step| {
        bed.send(&step.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>());
    });
    assert_eq!(records, expected);
    let rings = report.list("/interfaces/0/rings");
    assert_eq!(rings.len(), 4);
    assert!(rings.iter().all(|ring| ring["delivered"].as_u64() > Some(0)), "{rings:?}");
    assert_eq!(report.handed_over("given"), 0, "the program and the workers choose alike");
    assert!(report.handed_over("datagrams_given") > 0, "of fragments, only what becomes of them has ports");
}

#[test]
fn what_the_owner_has_no_room_for_is_counted() {
    let Some(bed) = Bed::new(2) else { return };
    // Two workers on one CPU, with small rings: while one hands frames over, the other cannot take them.
    let appliance = bed.start(&["--ring", "256", "--cpus", "0", "--sockets-per-queue", "1"]);
    generate(&bed, 0, &["--size", "128", "--flows", "1000", "--count", "200000"]);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.seen(), 200_000);
    assert!(report.handed_over("full") > 0, "{}", report.json());
    assert_eq!(report.analysed() + report.lost(), report.redirected());
    let flows = of_type(&bed.records(), "flow").len();
    assert!(flows > 0);
}
