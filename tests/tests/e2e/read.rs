//! `mirror-xdp read`: capture files of every format yield the same records as their frames do live.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_xdp_tests::appliance::{Bed, PATIENCE, comparable, of_type, records};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, TsResolution};
use serde_json::{Value, json};
use tempfile::TempDir;

/// 2020-09-13T12:26:40Z
const EPOCH: Duration = Duration::from_secs(1_600_000_000);

/// Returns the capture time of frame `index`, with no more digits than all formats can store.
fn time(index: usize) -> Duration {
    EPOCH + Duration::from_millis(index as u64) + Duration::from_micros(123)
}

/// Runs `mirror-xdp read` on files, with the records in a directory of their own.
fn read(files: &[&Path], arguments: &[&str]) -> Option<(Output, TempDir)> {
    let binary = require::binary()?;
    let log_dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(binary);
    command.arg("read").args(files).arg("--log-dir").arg(log_dir.path()).args(arguments);
    let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
    Some((output, log_dir))
}

/// Returns the records of files that are read without errors.
fn records_of(files: &[&Path]) -> Option<Vec<Value>> {
    let (output, log_dir) = read(files, &[])?;
    assert!(output.status.success(), "{:?}", output.stderr);
    Some(records(log_dir.path()))
}

fn write_pcap(
    directory: &Path,
    frames: &[Vec<u8>],
    endianness: Endianness,
    ts_resolution: TsResolution,
) -> PathBuf {
    let path = directory.join("frames.pcap");
    let header = PcapHeader { endianness, ts_resolution, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        writer.write_packet(&PcapPacket::new(time(index), frame.len() as u32, frame)).unwrap();
    }
    path
}

/// Writes a pcapng file with times in units of 10 to the minus `resolution` seconds.
fn write_pcapng(directory: &Path, frames: &[Vec<u8>], endianness: Endianness, resolution: u8) -> PathBuf {
    let path = directory.join("frames.pcapng");
    let mut writer = PcapNgWriter::with_endianness(File::create(&path).unwrap(), endianness).unwrap();
    let interface = InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: vec![InterfaceDescriptionOption::IfTsResol(resolution)],
    };
    writer.write_pcapng_block(interface).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            // The library writes nanoseconds, whatever the interface's unit.
            timestamp: Duration::from_nanos(
                (time(index).as_nanos() / 10_u128.pow(9 - u32::from(resolution))) as u64,
            ),
            original_len: frame.len() as u32,
            data: frame.into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).unwrap();
    }
    path
}

/// Returns conversations of several sessions: DNS, TCP, ICMP, both families, VLAN tags, one VNI twice.
fn conversations() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (session, host) in
        [(mirrored(1), 1), (mirrored(1).over_ipv6(), 2), (mirrored(0x00ff_ffff).vlan(9), 3)]
    {
        let mut add = |inner: Vec<u8>| frames.push(session.carrying(&inner));
        for flow in
            [Flow::v4(20_000 + host, 53), Flow::v6(21_000 + host, 53), Flow::v4(22_000 + host, 53).vlan(4)]
        {
            let name = format!("host{host}.example.com");
            add(flow.udp(&dns_query(host, &name)));
            add(flow.reversed().udp(&dns_answer(host, &name, [192, 0, 2, 1].into())));
        }
        Flow::v4(23_000 + host, 443).tcp_handshake().into_iter().for_each(&mut add);
        Flow::v6(24_000 + host, 443).tcp_handshake().into_iter().take(1).for_each(&mut add);
        add(Flow::v4(0, 0).ping(host, 1));
        add(Flow::v6(0, 0).ping(host, 1));
    }
    frames
}

#[test]
fn frames_give_the_same_records_from_a_file_as_live() {
    // On one queue, as in a file.
    let Some(bed) = Bed::new(1) else { return };
    let frames = conversations();
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    assert_eq!(report.analysed(), frames.len() as u64);
    let live = comparable(&bed.records());

    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
    let Some(read) = records_of(&[&file]) else { return };
    let read = comparable(&read);
    assert!(live.len() >= 15 + 18, "{} records", live.len());
    for (live, read) in live.iter().zip(&read) {
        assert_eq!(live, read);
    }
    assert_eq!(live.len(), read.len());
}

#[test]
fn every_format_of_capture_files_reads_alike() {
    let frames = conversations();
    let directory = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for endianness in [Endianness::Little, Endianness::Big] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let file = write_pcap(directory.path(), &frames, endianness, resolution);
            let Some(records) = records_of(&[&file]) else { return };
            all.push((format!("pcap, {endianness:?} endian, {resolution:?}"), records));
        }
        for resolution in [6, 9] {
            let file = write_pcapng(directory.path(), &frames, endianness, resolution);
            let Some(records) = records_of(&[&file]) else { return };
            all.push((format!("pcapng, {endianness:?} endian, 10^-{resolution} s"), records));
        }
    }
    // Including the times, which come from the file.
    let times = |records: &[Value]| {
        let mut times: Vec<_> = of_type(records, "flow")
            .iter()
            .map(|flow| {
                (
                    flow["community_id"].to_string(),
                    flow["flow"]["start"].to_string(),
                    flow["flow"]["end"].to_string(),
                )
            })
            .collect();
        times.sort();
        times
    };
    let (_, first) = &all[0];
    assert!(
        times(first).iter().all(|(_, start, _)| start.starts_with("\"2020-09-13T12:26:40.")),
        "{:?}",
        times(first)
    );
    for (format, records) in &all {
        assert_eq!(comparable(records), comparable(first), "{format}");
        assert_eq!(times(records), times(first), "{format}");
    }
}

#[test]
fn frames_that_were_not_mirrored_are_taken_as_inner_frames() {
    let flow = Flow::v4(20_000, 53);
    let frames = [
        flow.udp(&dns_query(7, "example.com")),
        flow.reversed().udp(&dns_answer(7, "example.com", [192, 0, 2, 1].into())),
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
    let Some(records) = records_of(&[&file]) else { return };
    let flows = of_type(&records, "flow");
    assert_eq!(flows.len(), 1);
    assert_eq!(
        (&flows[0]["flow"]["pkts_toserver"], &flows[0]["flow"]["pkts_toclient"]),
        (&1.into(), &1.into())
    );
    assert!(flows[0].get("mirror").is_none(), "{}", flows[0]);
    assert_eq!(of_type(&records, "dns").len(), 2);
}

/// Writes Ethernet frames as another link layer has them: without the Ethernet header, behind `header`.
fn write_without_ethernet(
    directory: &Path,
    frames: &[Vec<u8>],
    datalink: DataLink,
    header: &[u8],
) -> PathBuf {
    let path = directory.join("cooked.pcap");
    let pcap = PcapHeader { datalink, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), pcap).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        let frame = [header, &frame[14..]].concat();
        writer.write_packet(&PcapPacket::new(time(index), frame.len() as u32, &frame)).unwrap();
    }
    path
}

#[test]
fn mirror_traffic_is_decapsulated_whatever_the_link_layer_of_the_file() {
    let inner = Flow::v4(20_000, 53).udp(&dns_query(7, "example.com"));
    let v4: Vec<_> = [1, 2].map(|vni| mirrored(vni).carrying(&inner)).into();
    let v6: Vec<_> = [1, 2].map(|vni| mirrored(vni).over_ipv6().carrying(&inner)).into();
    let directory = tempfile::tempdir().unwrap();
    for (frames, kind, family) in [(v4, [0x08, 0x00], 2), (v6, [0x86, 0xdd], 10)] {
        let file = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
        let Some(expected) = records_of(&[&file]) else { return };
        assert_eq!(of_type(&expected, "flow").len(), 2);
        let sll = [&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0][..], &kind].concat();
        let sll2 = [&kind[..], &[0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0]].concat();
        let ppp: &[u8] = if family == 2 { &[0xff, 3, 0, 0x21] } else { &[0xff, 3, 0, 0x57] };
        for (number, header) in [
            (113, &sll[..]),
            (276, &sll2),
            (0, &[family, 0, 0, 0]),
            (108, &[0, 0, 0, family]),
            (12, &[]),
            (101, &[]),
            (if family == 2 { 228 } else { 229 }, &[]),
            (9, ppp),
            (104, &[&[0x0f, 0][..], &kind].concat()),
        ] {
            let file = write_without_ethernet(directory.path(), &frames, DataLink::from(number), header);
            let store = tempfile::tempdir().unwrap();
            let arguments = ["--json", "--store", store.path().to_str().unwrap()];
            let Some((output, log_dir)) = read(&[&file], &arguments) else { return };
            assert!(output.status.success(), "{number}: {:?}", output.stderr);
            assert_eq!(comparable(&records(log_dir.path())), comparable(&expected), "{number}");
            let totals: Value = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!(
                (&totals["frames"]["mirrored"], &totals["workers"][0]["store"]["kept"]),
                (&2.into(), &2.into())
            );
        }
    }
}

#[test]
fn a_file_of_which_no_frame_can_be_analysed_is_a_failure_with_the_number_of_its_link_layer() {
    let directory = tempfile::tempdir().unwrap();
    let frames = conversations();
    let file = write_without_ethernet(directory.path(), &frames, DataLink::from(147), &[]);
    let Some((output, _)) = read(&[&file], &[]) else { return };
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("link type 147 (USER)")), "{:?}", output.stderr);
}

#[test]
fn a_capture_is_read_from_standard_input() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &conversations(), Endianness::Little, TsResolution::MicroSecond);
    let Some(expected) = records_of(&[&file]) else { return };
    let log_dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(binary);
    command.args(["read", "-", "--log-dir"]).arg(log_dir.path()).stdin(File::open(&file).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(comparable(&records(log_dir.path())), comparable(&expected));
}

#[test]
fn a_configuration_decides_as_it_does_in_a_capture() {
    let named = |name: &str, port: u16| Flow::v4(port, 53).udp(&dns_query(7, name));
    let frames = [
        mirrored(5).carrying(&named("accepted.example", 20_000)),
        mirrored(5).carrying(&Flow::v4(20_001, 123).udp(b"rejected")),
        mirrored(5).carrying(&Flow::v4(20_002, 873).udp(b"shunted")),
        mirrored(6).carrying(&named("unknown.example", 20_003)),
        mirrored(5)
            .between([192, 0, 2, 1].into(), [10, 9, 0, 2].into())
            .carrying(&named("a.example", 20_004)),
        mirrored(5).port(4790).carrying(&named("port.example", 20_005)),
        Flow::v4(20_006, 53).udp(&dns_query(7, "plain.example")),
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
    let config = directory.path().join("mirror-xdp.toml");
    let text = "\
[capture]
log_dir = \"/nonexistent\"
[ports]
vxlan = [4789, 4790]
[admission]
sources = [\"10.0.0.0/8\"]
mode = \"strict\"
[alerts]
indicators = [\"accepted.example\"]
[eve]
types = [\"dns\", \"alert\"]
[[filter.sets]]
name = \"dns\"
vnis = [5]
[[filter.sets.rules]]
number = 100
action = \"accept\"
protocol = \"udp\"
destination_ports = \"53\"
[[filter.sets.rules]]
number = 200
action = \"shunt\"
protocol = \"udp\"
destination_ports = \"873\"
";
    fs::write(&config, text).unwrap();
    let arguments = ["--json", "--config", config.to_str().unwrap()];
    let Some((output, log_dir)) = read(&[&file], &arguments) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let totals: Value = serde_json::from_str(&output.stdout).unwrap();
    let frames = &totals["frames"];
    for (pointer, count) in [
        ("/mirrored", 2),
        ("/plain", 1),
        ("/dropped/filter_rejected", 1),
        ("/dropped/vni_not_admitted", 1),
        ("/dropped/source_not_admitted", 1),
        ("/shunted/rule", 1),
    ] {
        assert_eq!(frames.pointer(pointer), Some(&count.into()), "{pointer}: {frames}");
    }
    assert_eq!(totals["unaccounted"], 0);
    let records = records(log_dir.path());
    let mut asked: Vec<_> =
        of_type(&records, "dns").iter().map(|it| it["dns"]["rrname"].as_str().unwrap().to_owned()).collect();
    asked.sort();
    assert_eq!(asked, ["accepted.example", "plain.example", "port.example"]);
    assert_eq!(of_type(&records, "alert").len(), 1);
    assert_eq!(records.len(), 4, "only these types: {records:?}");
    // A flag overrides the file, and a mistake in it is an error with its line.
    let arguments = [&arguments[..], &["--eve-types", "flow"]].concat();
    let Some((_, log_dir)) = read(&[&file], &arguments) else { return };
    assert!(self::records(log_dir.path()).iter().all(|record| record["event_type"] == "flow"));
    fs::write(&config, "[ports]\nvxlan = [0]\n").unwrap();
    let Some((output, _)) = read(&[&file], &arguments[1..3]) else { return };
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("mirror-xdp.toml:2")), "{:?}", output.stderr);
}

#[test]
fn several_files_are_read_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..3)
        .map(|index| {
            let frame = mirrored(index).carrying(&Flow::default().udp(b"hello"));
            let file = write_pcap(directory.path(), &[frame], Endianness::Little, TsResolution::MicroSecond);
            let own = directory.path().join(format!("{index}.pcap"));
            fs::rename(file, &own).unwrap();
            own
        })
        .collect();
    let paths: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let Some(records) = records_of(&paths) else { return };
    assert_eq!(of_type(&records, "flow").len(), 3);
}

#[test]
fn each_file_apart_gives_the_records_that_a_command_of_its_own_gives() {
    let directory = tempfile::tempdir().unwrap();
    let own = |name: &str, frames: &[Vec<u8>]| {
        let file = write_pcap(directory.path(), frames, Endianness::Little, TsResolution::MicroSecond);
        let own = directory.path().join(name);
        fs::rename(file, &own).unwrap();
        own
    };
    let frames = conversations();
    let files = [own("all.pcap", &frames), own("two.pcap", &frames[..2]), own("again.pcap", &frames)];
    let bad = directory.path().join("bad.pcap");
    fs::write(&bad, "").unwrap();
    let absent = directory.path().join("absent.pcap");
    let given = [&files[0], &bad, &files[1], &absent, &files[2]].map(PathBuf::as_path);
    let Some((output, log_dir)) = read(&given, &["--each", "--json"]) else { return };
    assert_eq!(output.status.code(), Some(1));
    for name in ["bad.pcap", "absent.pcap"] {
        assert_eq!(output.stderr.iter().filter(|line| line.contains(name)).count(), 1, "{:?}", output.stderr);
    }
    let totals: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(totals.len(), files.len());
    for (file, totals) in files.iter().zip(&totals) {
        assert_eq!(totals["file"], file.to_str().unwrap());
        let log = log_dir.path().join(file.to_str().unwrap().replace('/', "__"));
        let Some((alone, alone_dir)) = read(&[file], &["--json"]) else { return };
        assert_eq!(comparable(&records(&log)), comparable(&records(alone_dir.path())), "{file:?}");
        let alone: Value = serde_json::from_str(&alone.stdout).unwrap();
        for key in ["frames", "records", "workers"] {
            assert_eq!(totals[key], alone[key], "{file:?}: {key}");
        }
    }
}

#[test]
fn files_apart_whose_records_would_meet_are_wrong_usage() {
    let file = Path::new("a.pcap");
    let Some((output, log_dir)) = read(&[file, file], &["--each"]) else { return };
    assert_eq!(output.status.code(), Some(2), "{:?}", output.stderr);
    for arguments in [["--eve-output", "-"], ["--eve-output", "/tmp/eve.json"], ["--store", "packets"]] {
        let (output, _) = read(&[file], &[&["--each"], &arguments[..]].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {:?}", output.stderr);
    }
    assert_eq!(fs::read_dir(log_dir.path()).unwrap().count(), 0);
}

#[test]
fn a_truncated_file_is_read_up_to_the_damage() {
    let frames = conversations();
    let directory = tempfile::tempdir().unwrap();
    let whole =
        fs::read(write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond))
            .unwrap();
    // The file has a header, and each frame a header of 16 bytes.
    let last = whole.len() - frames.last().unwrap().len() - 16;
    let Some(expected) = records_of(&[&{
        write_pcap(
            directory.path(),
            &frames[..frames.len() - 1],
            Endianness::Little,
            TsResolution::MicroSecond,
        )
    }]) else {
        return;
    };
    // In the last frame, in its header, and right after the frame before, which is not damage.
    for (length, damaged) in [(whole.len() - 1, true), (last + 16, true), (last + 1, true), (last, false)] {
        let file = directory.path().join("truncated.pcap");
        fs::write(&file, &whole[..length]).unwrap();
        let Some((output, log_dir)) = read(&[&file], &[]) else { return };
        assert_eq!(output.status.code(), Some(i32::from(damaged)), "{length}: {:?}", output.stderr);
        assert_eq!(comparable(&records(log_dir.path())), comparable(&expected), "{length}");
        let warnings: Vec<_> = output.stderr.iter().filter(|line| line.contains("truncated.pcap")).collect();
        let offset = format!("{last}");
        let named = warnings.iter().filter(|line| line.contains(&offset)).count();
        assert_eq!(named, usize::from(damaged), "{length}, offset {offset}: {:?}", output.stderr);
    }
}

#[test]
fn a_damaged_file_does_not_keep_the_next_from_being_read() {
    let frames = conversations();
    let directory = tempfile::tempdir().unwrap();
    let good = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
    let empty = directory.path().join("empty.pcap");
    fs::write(&empty, "").unwrap();
    let other = directory.path().join("other.pcap");
    fs::write(&other, "this is not a capture file, but it is long enough to hold the header of one").unwrap();
    let absent = directory.path().join("absent.pcap");
    let Some(expected) = records_of(&[&good]) else { return };
    for bad in [&empty, &other, &absent] {
        let Some((output, log_dir)) = read(&[bad, &good], &[]) else { return };
        assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
        let name = bad.file_name().unwrap().to_str().unwrap();
        assert_eq!(output.stderr.iter().filter(|line| line.contains(name)).count(), 1, "{:?}", output.stderr);
        assert_eq!(comparable(&records(log_dir.path())), comparable(&expected), "{name}");
    }
}

#[test]
fn with_json_the_summary_is_one_object() {
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &conversations(), Endianness::Little, TsResolution::MicroSecond);
    let Some((output, _)) = read(&[&file], &["--json"]) else { return };
    assert!(output.status.success(), "{:?}", output.stderr);
    let summary: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(summary.is_object(), "{summary}");
}

#[test]
fn a_reader_of_the_summary_that_goes_away_is_no_failure() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &conversations(), Endianness::Little, TsResolution::MicroSecond);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(binary);
    command.arg("read").arg(file).arg("--json").arg("--log-dir").arg(directory.path()).stdout(writer);
    let output = command.stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// The inner flows of the corpus's captures of VXLAN and GENEVE: file, VNI, number of flows, and the ends of
/// one flow.
const TUNNELS: &[(&str, u32, usize, &str)] = &[
    ("suricata-verify/tests/vxlan-decoder-03/vxlan.pcap", 5_569_041, 13, "172.31.0.238 78.46.93.39"),
    ("suricata-verify/tests/vxlan-decoder-01/input.pcap", 37, 1, "10.96.0.10 185.27.115.6"),
    ("suricata-verify/tests/vxlan-non-zero-reserved-fields/input.pcap", 11, 1, "218.94.93.34 192.168.1.134"),
    ("zeek/tunnels/vxlan-inner-tcp-bad-checksum.pcap", 42, 1, "10.0.0.1 10.0.0.2"),
    // VXLAN in VXLAN in VXLAN: the outermost is the session.
    ("zeek/tunnels/vxlan-triple-v2.pcap", 1, 3, "4.4.4.4 4.4.4.9"),
    ("zeek/tunnels/geneve-47101.pcap", 4242, 1, "192.168.0.107 145.40.68.75"),
    ("zeek/tunnels/geneve-many-options.pcap", 786_734, 1, "10.0.0.226 95.217.228.176"),
    ("zeek/tunnels/geneve-tagged-udp-packet.pcap", 100, 1, "127.0.0.1 127.0.0.1"),
    // VXLAN in IP in GENEVE, as a load balancer sends it, without options.
    ("zeek/tunnels/geneve-vxlan-dns-truncated.pcap", 4242, 1, "172.16.11.201 1.1.1.1"),
];

#[test]
fn captures_of_tunnels_yield_the_inner_flows_with_their_vni() {
    let Some(corpus) = require::corpus() else { return };
    for &(name, vni, count, ends) in TUNNELS {
        let Some(records) = records_of(&[&corpus.join(name)]) else { return };
        let flows = of_type(&records, "flow");
        let mirrored: Vec<_> = flows.iter().filter(|flow| flow["mirror"]["vni"] == vni).collect();
        assert_eq!(mirrored.len(), count, "{name}: {flows:?}");
        // A frame that does not belong to this session belongs to no other either.
        assert_eq!(flows.iter().filter(|flow| flow.get("mirror").is_some()).count(), count, "{name}");
        let ends_of =
            |flow: &Value| [&flow["src_ip"], &flow["dest_ip"]].map(|ip| ip.as_str().unwrap().to_owned());
        assert!(mirrored.iter().any(|flow| ends_of(flow).join(" ") == ends), "{name}: {mirrored:?}");
    }
}

#[test]
fn a_capture_behind_a_load_balancer_yields_flows_with_endpoint_and_vni() {
    let sessions =
        [mirrored(7).by_gateway(0x0123_4567_89ab_cdef, 2, 3), mirrored(8).by_gateway_over_ipv6(4, 5, 6)];
    let frames =
        sessions.map(|session| session.carrying(&Flow::v4(20_000, 53).udp(&dns_query(7, "example.com"))));
    let directory = tempfile::tempdir().unwrap();
    let file = write_pcap(directory.path(), &frames, Endianness::Little, TsResolution::MicroSecond);
    let Some(records) = records_of(&[&file]) else { return };
    let mut sessions: Vec<_> = of_type(&records, "flow").iter().map(|flow| flow["mirror"].clone()).collect();
    sessions.sort_by_key(|session| session["vni"].as_u64());
    // The outer addresses are those of the session, not those of the load balancer.
    let expected = [("vpce-0123456789abcdef", 7), ("vpce-0000000000000004", 8)].map(|(endpoint, vni)| {
        json!({ "vni": vni, "outer_src": "10.9.0.1", "outer_dst": "10.9.0.2", "endpoint": endpoint })
    });
    assert_eq!(sessions, expected);
}
