//! `mirror-xdp pktgen` sends exactly the frames requested, in the encapsulation requested, and reports the
//! frames that the interface refused.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, Report, comparable, of_type, records};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use mirror_xdp_tests::sniffer::Sniffer;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use serde_json::Value;
use tempfile::TempDir;

/// The far end of the cable of a [`Bed`].
const FAR: &str = "source0";

/// A capture file with frames a millisecond apart.
struct Capture {
    _directory: TempDir,
    path: PathBuf,
}

impl Capture {
    fn new(frames: &[Vec<u8>]) -> Self {
        Self::of_link(frames, DataLink::ETHERNET)
    }

    fn of_link(frames: &[Vec<u8>], datalink: DataLink) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("frames.pcap");
        let header = PcapHeader { datalink, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let time = Duration::from_secs(1_600_000_000) + Duration::from_millis(index as u64);
            writer.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)).unwrap();
        }
        Self { _directory: directory, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// Returns the command `mirror-xdp pktgen` at the far end.
fn command(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json", "--interface", FAR]).args(arguments);
    command
}

fn run(bed: &Bed, arguments: &[&str]) -> Output {
    bed.run_to_end(command(bed, arguments))
}

/// Returns the totals of a run that succeeded.
fn totals(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}", output.stderr);
    let totals: Value = serde_json::from_str(&output.stdout).unwrap();
    let fields: Vec<_> = totals.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["sent", "bytes", "refused", "seconds", "pps"];
    expected.sort_unstable();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    totals
}

/// Sends to an appliance; returns the totals and the appliance's report.
fn generate(bed: &Bed, arguments: &[&str]) -> (Value, Report) {
    let appliance = bed.start(&[]);
    let totals = totals(&run(bed, arguments));
    (totals, appliance.stop())
}

/// Returns an inner conversation of four frames in two flows.
fn conversation() -> Vec<Vec<u8>> {
    let dns = Flow::v4(20_000, 53);
    let tcp = Flow::v6(22_000, 443);
    vec![
        dns.udp(&dns_query(7, "example.com")),
        dns.reversed().udp(&dns_answer(7, "example.com", [192, 0, 2, 1].into())),
        tcp.tcp_handshake().swap_remove(0),
        tcp.reversed().tcp(etherparse::TcpHeader { rst: true, ack: true, ..Default::default() }, b""),
    ]
}

#[test]
fn exactly_as_many_frames_are_sent_as_were_asked_for() {
    let Some(bed) = Bed::new(1) else { return };
    for arguments in [&["--size", "imix", "--count", "100003"][..], &["--size", "60", "--count", "1"]] {
        let (totals, report) = generate(&bed, arguments);
        report.assert_conserved();
        let count: u64 = arguments[3].parse().unwrap();
        assert_eq!(totals["sent"], count);
        assert_eq!(report.seen(), count);
        let seconds = totals["seconds"].as_f64().unwrap();
        assert!((totals["pps"].as_f64().unwrap() * seconds - count as f64).abs() < 1.0, "{totals}");
    }
}

#[test]
fn a_socket_sends_the_same_frames_as_the_program_in_the_kernel() {
    let Some(bed) = Bed::new(1) else { return };
    let capture = Capture::new(&conversation());
    let sniffer = sniff(&bed);
    let sent = |engine: &str| -> Vec<_> {
        let arguments =
            ["--engine", engine, "--vni", "1-3", "--loops", "30", "--rate", "10kpps", capture.path()];
        let totals = totals(&run(&bed, &arguments));
        assert_eq!((&totals["sent"], &totals["refused"]), (&120.into(), &0.into()), "{engine}");
        (0..120).map(|_| sniffer.receive()).collect()
    };
    assert_eq!(sent("live-frames"), sent("af-xdp"));
}

#[test]
fn a_socket_sends_exactly_as_many_frames_and_longer_ones() {
    let Some(bed) = Bed::new(1) else { return };
    let arguments = ["--engine", "af-xdp", "--size", "3462", "--count", "2003", "--rate", "20kpps"];
    let (totals, report) = generate(&bed, &arguments);
    assert_eq!((totals["sent"].as_u64().unwrap(), report.seen()), (2003, 2003));
    assert_eq!(totals["bytes"], 2003 * 3512);
    refused(&bed, &["--size", "3462"], &["3392", "3512", "--engine af-xdp"]);
    // Frames that are truncated are counted in a message.
    let cut = ["--engine", "af-xdp", "--size", "8000", "--oversize", "truncate", "--count", "10"];
    let output = run(&bed, &cut);
    assert!(output.stderr.iter().any(|line| line.contains("1000 of 1000 frames are cut")), "{output:?}");
    let cut: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&cut["sent"], &cut["bytes"]), (&10.into(), &35_120.into()), "{cut}");
}

#[test]
fn a_socket_sends_frames_of_several_buffers_that_arrive_whole() {
    let Some(bed) = Bed::new(1) else { return };
    for (namespace, interface) in [(&bed.far, FAR), (&bed.appliance, INTERFACE)] {
        namespace.ip(&format!("link set {interface} mtu 9001")).unwrap();
    }
    // Inner frames around the limit between two buffers, and the longest that fits.
    for (size, count) in [("3790", 200), ("3791", 200), ("7631", 200), ("8965", 2000)] {
        let arguments =
            ["--engine", "af-xdp", "--size", size, "--count", &count.to_string(), "--rate", "10kpps"];
        let (totals, report) = generate(&bed, &arguments);
        report.assert_conserved();
        assert_eq!((&totals["sent"], report.seen(), report.analysed()), (&count.into(), count, count));
        let inner: u64 = size.parse().unwrap();
        assert_eq!(totals["bytes"], count * (inner + 50));
        assert_eq!(report.sum("/workers", "/delivered_bytes"), count * inner, "not one byte is missing");
    }
    let too_long = ["--engine", "af-xdp", "--size", "8966"];
    refused(&bed, &too_long, &["9015", "9016", "MTU"]);
}

#[test]
fn bytes_are_those_of_the_frames() {
    let Some(bed) = Bed::new(1) else { return };
    // An encapsulation of 50 bytes around frames of 60 bytes.
    let (totals, _) = generate(&bed, &["--size", "60", "--count", "1000"]);
    assert_eq!(totals["bytes"], 110 * 1000);
    let (totals, _) =
        generate(&bed, &["--size", "60", "--count", "1000", "--to", "fd00::2", "--to-mac", "2:0:0:0:0:2"]);
    assert_eq!(totals["bytes"], 130 * 1000);
}

#[test]
fn a_replayed_capture_gives_the_records_of_reading_it() {
    let Some(bed) = Bed::new(1) else { return };
    let frames: Vec<_> = [mirrored(1), mirrored(0x00ff_ffff).over_ipv6(), mirrored(7).source_port(65_500)]
        .iter()
        .flat_map(|session| conversation().into_iter().map(|inner| session.carrying(&inner)))
        .collect();
    let capture = Capture::new(&frames);
    for envelope in ["aws", "none"] {
        let (totals, report) = generate(&bed, &["--envelope", envelope, capture.path()]);
        assert_eq!((&totals["sent"], &totals["refused"]), (&frames.len().into(), &0.into()));
        report.assert_conserved();
        assert_eq!(report.analysed(), frames.len() as u64);
    }
    let live = comparable(&bed.records());

    let log_dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut read = Command::new(require::binary().unwrap());
        read.args(["read", capture.path(), "--log-dir"]).arg(log_dir.path());
        let output = Process::spawn(&mut read).unwrap().wait(PATIENCE).unwrap();
        assert!(output.status.success(), "{:?}", output.stderr);
    }
    let read = comparable(&records(log_dir.path()));
    assert!(read.len() >= 2 * 3 * 4, "{} records", read.len());
    assert_eq!(live, read);
}

#[test]
fn a_replayed_capture_is_sent_as_it_is() {
    let Some(bed) = Bed::new(1) else { return };
    let frames: Vec<_> = conversation().iter().map(|inner| mirrored(5).carrying(inner)).collect();
    let capture = Capture::new(&frames);
    let sniffer = sniff(&bed);
    for envelope in ["aws", "none"] {
        totals(&run(&bed, &["--envelope", envelope, capture.path()]));
        for frame in &frames {
            assert_eq!(sniffer.receive(), *frame, "{envelope}");
        }
    }
}

/// Opens a sniffer at the near end. Without a program there, redirected frames arrive only with GRO on.
fn sniff(bed: &Bed) -> Sniffer {
    let mut command = bed.appliance.command("ethtool");
    command.args(["-K", INTERFACE, "gro", "on"]);
    assert!(command.status().unwrap().success());
    Sniffer::new(&bed.appliance, INTERFACE).unwrap()
}

#[test]
fn frames_have_the_envelope_of_aws() {
    let Some(bed) = Bed::new(1) else { return };
    let frames = conversation();
    let capture = Capture::new(&frames);
    let sniffer = sniff(&bed);
    let target = ["--to", "10.9.0.2", "--to-mac", "02:00:00:00:00:02", "--vni", "77", "--source", "10.1.2.3"];
    totals(&run(&bed, &[&target[..], &[capture.path()]].concat()));
    let mut ports = Vec::new();
    for inner in &frames {
        let frame = sniffer.receive();
        assert!(frame.ends_with(inner));
        assert_eq!(frame.len(), inner.len() + 50);
        assert_eq!((&frame[..6], &frame[6..12]), (&[2, 0, 0, 0, 0, 2][..], &bed.far.mac(FAR).unwrap()[..]));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("{packet:?}") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!((header.source, header.destination), ([10, 1, 2, 3], [10, 9, 0, 2]));
        assert_eq!((header.identification, header.dont_fragment, header.time_to_live), (0, false, 255));
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, 77, 0]);
        ports.push(udp.source_port());
    }
    assert!(ports.iter().all(|port| (65_408..=65_535).contains(port)), "{ports:?}");
    // Both directions of a flow have the same port, except answers of the VPC's resolver.
    assert_eq!((ports[1], ports[2]), (65_408, ports[3]));
}

#[test]
fn a_load_balancers_envelope_is_around_that_of_aws() {
    let Some(bed) = Bed::new(1) else { return };
    let frames = conversation();
    let capture = Capture::new(&frames);
    let sniffer = sniff(&bed);
    totals(&run(&bed, &["--envelope", "gwlb", "--vni", "77", capture.path()]));
    for inner in &frames {
        let frame = sniffer.receive();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
        assert_eq!(udp.destination_port(), 6081);
        let geneve = udp.payload();
        assert_eq!(geneve[..8], [8, 0, 8, 0, 0, 0, 0, 0]);
        // After eight words of options, the packet as it would be without the load balancer.
        let ethernet = &frame[..14];
        let inside = [ethernet, &geneve[40..]].concat();
        let outer = decapsulate(&inside[..], &Ports::default()).unwrap();
        assert_eq!(outer.vni.get(), 77);
        assert_eq!(inside[outer.inner_offset..], inner[..]);
    }
}

#[test]
fn an_appliance_behind_a_load_balancer_captures_what_is_sent() {
    let Some(bed) = Bed::new(1) else { return };
    let capture = Capture::new(&conversation());
    let (totals, report) =
        generate(&bed, &["--envelope", "gwlb", "--vni", "77", "--loops", "9", capture.path()]);
    report.assert_conserved();
    assert_eq!((totals["sent"].as_u64().unwrap(), report.analysed()), (36, 36));
    let records = bed.records();
    let flows = of_type(&records, "flow");
    assert_eq!(flows.len(), 18);
    assert!(flows.iter().all(|flow| flow["mirror"]["vni"] == 77), "{}", flows[0]);
}

#[test]
fn flows_are_spread_over_sessions() {
    let Some(bed) = Bed::new(1) else { return };
    let capture = Capture::new(&conversation());
    let arguments = ["--vni", "3,5-6", "--source", "10.1.0.1-10.1.0.2", "--loops", "60", capture.path()];
    let (totals, report) = generate(&bed, &arguments);
    assert_eq!(totals["sent"], 240);
    assert_eq!(report.analysed(), 240);
    let records = bed.records();
    let flows = of_type(&records, "flow");
    let sessions: BTreeSet<_> = flows
        .iter()
        .map(|flow| (flow["mirror"]["vni"].as_u64().unwrap(), flow["mirror"]["outer_src"].as_str().unwrap()))
        .collect();
    let expected = [3, 5, 6].into_iter().flat_map(|vni| [(vni, "10.1.0.1"), (vni, "10.1.0.2")]);
    assert_eq!(sessions, expected.collect());
    // Both directions of a flow stay in its session.
    for flow in flows {
        let packets = (&flow["flow"]["pkts_toserver"], &flow["flow"]["pkts_toclient"]);
        assert_eq!(packets, (&1.into(), &1.into()), "{flow}");
    }
}

#[test]
fn each_loop_brings_new_flows_unless_told_otherwise() {
    let Some(bed) = Bed::new(1) else { return };
    let capture = Capture::new(&conversation());
    let flows = |arguments: &[&str]| {
        let (_, report) = generate(&bed, &[arguments, &["--loops", "50", capture.path()]].concat());
        assert_eq!(report.analysed(), 200);
        report.sum("/workers", "/flows_total")
    };
    assert_eq!(flows(&[]), 100);
    assert_eq!(flows(&["--new-flows", "no"]), 2);
    // Checksums are right in all of them, or their payloads would yield no records.
    let records = bed.records();
    assert_eq!(of_type(&records, "dns").len(), 2 * 100);
}

#[test]
fn the_share_of_malformed_frames_is_as_asked_for() {
    let Some(bed) = Bed::new(1) else { return };
    let whole = generate(&bed, &["--size", "100", "--count", "10000", "--rate", "20kpps"]).1;
    assert_eq!(whole.analysed(), 10_000);
    let arguments = ["--size", "100", "--malformed", "20%", "--count", "10000", "--rate", "20kpps"];
    let (_, report) = generate(&bed, &arguments);
    report.assert_conserved();
    assert_eq!(report.seen(), 10_000);
    // A frame malformed inside may still be a valid packet; frames not chosen stay valid.
    let good = report.analysed();
    assert!((8_000..9_500).contains(&good), "{good} of 10,000 were analysed");
    let reasons = report.reasons();
    assert!(reasons.len() >= 4, "{reasons:?}");
}

#[test]
fn the_same_seed_makes_the_same_frames() {
    let Some(bed) = Bed::new(1) else { return };
    let sniffer = sniff(&bed);
    let sent = |seed: &str| -> Vec<_> {
        let arguments =
            ["--size", "imix", "--flows", "3", "--malformed", "30%", "--count", "50", "--seed", seed];
        totals(&run(&bed, &arguments));
        (0..50).map(|_| sniffer.receive()).collect()
    };
    let first = sent("1");
    assert_eq!(first, sent("1"));
    assert_ne!(first, sent("2"));
}

#[test]
fn frames_are_sent_at_the_rate_that_was_asked_for() {
    require::machine();
    let Some(bed) = Bed::new(1) else { return };
    let capture = Capture::new(&conversation());
    // The least time that it takes; the clock is read with a tolerance.
    let paced: [(&[&str], f64); 4] = [
        (&["--size", "60", "--rate", "1000pps", "--count", "501"], 0.5),
        (&["--size", "60", "--rate", "88kbps", "--count", "51"], 0.5),
        // Fifty loops of four frames with 1 ms between frames, at half the speed.
        (&["--rate", "0.5x", "--loops", "50", capture.path()], 0.398),
        (&["--size", "60", "--rate", "2pps", "--count", "2"], 0.5),
    ];
    for (arguments, least) in paced {
        let (totals, report) = generate(&bed, arguments);
        assert_eq!(totals["sent"], report.seen());
        let seconds = totals["seconds"].as_f64().unwrap();
        assert!(seconds > least - 0.003 && seconds < least + 5.0, "{arguments:?}: {seconds}");
    }
}

#[test]
fn sending_ends_with_its_time_or_a_signal() {
    let Some(bed) = Bed::new(1) else { return };
    let (totals, report) = generate(&bed, &["--size", "60", "--rate", "10kpps", "--duration", "300ms"]);
    assert_eq!(totals["sent"], report.seen());
    assert!(totals["sent"].as_u64().unwrap() <= 3100, "{totals}");

    let appliance = bed.start(&[]);
    let mut process = Process::spawn(&mut command(&bed, &["--size", "60", "--rate", "10kpps"])).unwrap();
    process.wait_for_line("sending by", PATIENCE).unwrap();
    bed.wait_until_received(bed.received() + 100);
    let output = process.interrupt(PATIENCE).unwrap();
    let report = appliance.stop();
    assert!(output.status.success(), "{:?}", output.stderr);
    let totals: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(totals["sent"], report.seen());
}

#[test]
fn what_the_interface_does_not_take_is_refused_and_not_sent() {
    let Some(bed) = Bed::new(1) else { return };
    // Longer than the other end accepts.
    bed.appliance.ip(&format!("link set {INTERFACE} mtu 1500")).unwrap();
    let appliance = bed.start(&[]);
    let sent = totals(&run(&bed, &["--size", "2000", "--loops", "1"]));
    assert_eq!((&sent["sent"], &sent["bytes"], &sent["refused"]), (&0.into(), &0.into(), &1000.into()));
    assert_eq!(appliance.stop().seen(), 0);
}

#[test]
fn frames_that_are_too_long_are_refused_or_cut() {
    let Some(bed) = Bed::new(1) else { return };
    bed.far.ip(&format!("link set {FAR} mtu 1500")).unwrap();
    let frames =
        [Flow::v4(1, 9).udp(&[0; 100]), Flow::v4(1, 9).udp(&[0; 1450]), Flow::v4(1, 9).udp(&[0; 1500])];
    let capture = Capture::new(&frames);
    refused(&bed, &[capture.path()], &["2 of 3", "1514", "1592", "--oversize truncate"]);
    let appliance = bed.start(&[]);
    let output = run(&bed, &["--oversize", "truncate", capture.path()]);
    assert!(output.stderr.iter().any(|line| line.contains("2 of 3 frames are cut")), "{:?}", output.stderr);
    let sent = totals(&output);
    assert_eq!((&sent["sent"], &sent["bytes"]), (&3.into(), &(192 + 2 * 1514).into()));
    let report = appliance.stop();
    assert_eq!(report.analysed(), 3, "{}", report.json());
}

/// Asserts that it fails with one line that contains these words.
fn refused(bed: &Bed, arguments: &[&str], words: &[&str]) {
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json"]).args(arguments);
    if !arguments.contains(&"--interface") {
        command.args(["--interface", FAR]);
    }
    assert_refused(&bed.run_to_end(command), words);
}

fn assert_refused(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    assert_eq!(output.stdout, "");
    let [line] = &output.stderr[..] else { panic!("not one line: {:#?}", output.stderr) };
    assert!(line.starts_with("mirror-xdp: "), "{line}");
    for word in words {
        assert!(line.contains(word), "“{word}” is missing: {line}");
    }
}

#[test]
fn an_interface_that_cannot_be_sent_by_is_refused() {
    let Some(bed) = Bed::new(1) else { return };
    let synthetic = ["--size", "60"];
    refused(&bed, &[&synthetic[..], &["--interface", "absent0"]].concat(), &["absent0", FAR]);
    // No program at the other end.
    refused(&bed, &synthetic, &[FAR, "XDP", "gro on"]);
    bed.far.ip("link add br0 type bridge").unwrap();
    refused(&bed, &[&synthetic[..], &["--interface", "br0"]].concat(), &["br0", "down"]);
    bed.far.up("br0").unwrap();
    refused(&bed, &[&synthetic[..], &["--interface", "br0"]].concat(), &["br0", "native XDP", "--engine"]);
    assert!(!bed.far.ip(&format!("link show {FAR}")).unwrap().contains("xdp"), "a program was left behind");
}

#[test]
fn the_kernels_generator_says_what_it_cannot_do() {
    let Some(bed) = Bed::new(1) else { return };
    let kernel = ["--engine", "kernel"];
    let told = |arguments: &[&str], words: &[&str]| {
        refused(&bed, &[&kernel[..], arguments].concat(), words);
    };
    told(&["day.pcap"], &["pktgen", "captures", "--engine live-frames"]);
    told(&["--size", "60", "--to", "10.9.0.2", "--malformed", "1%"], &["break"]);
    told(&["--size", "60", "--to", "10.9.0.2", "--new-flows", "yes"], &["new flows"]);
    told(&["--size", "60", "--to", "10.9.0.2", "--vni", "1-65"], &["64"]);
    told(&["--size", "60", "--to", "10.9.0.2", "--envelope", "gwlb"], &["load balancer"]);
    told(&["--size", "60"], &["--to"]);
    // Few machines have the module loaded.
    if !std::path::Path::new("/proc/net/pktgen").exists() {
        told(&["--size", "60", "--envelope", "none"], &["modprobe pktgen", "--engine"]);
    }
}

#[test]
fn captures_without_a_frame_to_send_are_refused() {
    let Some(bed) = Bed::new(1) else { return };
    let raw = Capture::of_link(&[vec![0x45; 60], vec![0x45; 60]], DataLink::RAW);
    refused(&bed, &[raw.path()], &["nothing to send", "2"]);
    let empty = Capture::new(&[]);
    refused(&bed, &[empty.path()], &["nothing to send"]);
    refused(&bed, &["/absent.pcap"], &["/absent.pcap"]);
}

#[test]
fn a_target_that_cannot_be_reached_is_refused() {
    let Some(bed) = Bed::new(1) else { return };
    refused(&bed, &["--size", "60", "--to", "198.51.100.1"], &["no route", "198.51.100.1"]);
    let bed = bed.addressed().unwrap();
    refused(&bed, &["--size", "60", "--to", "10.9.0.77"], &["10.9.0.77", "no host answers"]);
    // The hardware address of a reachable target is resolved.
    let appliance = bed.start(&[]);
    totals(&run(&bed, &["--size", "60", "--to", "10.9.0.2", "--count", "10"]));
    assert_eq!(appliance.stop().analysed(), 10);
}

#[test]
fn missing_privileges_are_told() {
    let Some(bed) = Bed::new(1) else { return };
    let mut command = bed.far.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg(require::binary().unwrap()).args(["pktgen", "--interface", FAR, "--size", "60"]);
    assert_refused(&bed.run_to_end(command), &["root", "CAP_NET_ADMIN"]);
}

#[test]
fn wrong_usage_has_an_exit_code_of_its_own() {
    let Some(bed) = Bed::new(1) else { return };
    let wrong: &[&[&str]] = &[
        &[],
        &["--size", "59"],
        &["--size", "60", "file.pcap"],
        &["--size", "60", "--rate", "fast"],
        &["--size", "60", "--count", "0"],
        &["--size", "60", "--vni", "16777216"],
        &["--size", "60", "--malformed", "101%"],
        &["--size", "60", "--to", "nowhere"],
        &["--size", "60", "--engine", "magic"],
        &["file.pcap", "--flows", "7"],
    ];
    for arguments in wrong {
        let output = run(&bed, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {:?}", output.stderr);
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
    let help = run(&bed, &["--help"]);
    assert!(help.status.success() && help.stdout.contains("Examples:"), "{help:?}");
}
