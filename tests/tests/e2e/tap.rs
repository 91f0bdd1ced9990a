//! The tap, with other programs behind it: they receive the delivered frames unchanged.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::Path;

use etherparse::TcpHeader;
use mirror_xdp_tests::appliance::{Appliance, Bed, PATIENCE, Report, of_type, records, wait_until};
use mirror_xdp_tests::bench::subject::Subject;
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use pcap_file::pcap::PcapReader;
use serde_json::Value;

/// The interface out of which frames are sent, and the other end, where other programs capture.
const TAP: &str = "tap0";
const BEHIND: &str = "ids0";

/// Makes a bed with a cable for the tap.
fn bed() -> Option<Bed> {
    let bed = Bed::new(2)?;
    bed.appliance.veth(TAP, &bed.appliance, BEHIND, 1).unwrap();
    for interface in [TAP, BEHIND] {
        bed.appliance.up(interface).unwrap();
    }
    Some(bed)
}

/// Starts a program that captures behind the tap.
fn start(bed: &Bed, subject: Subject, words: &[String]) -> Process {
    // Suricata prints its messages on standard output.
    let mut command = bed.appliance.command("sh");
    let mut process = Process::spawn(command.args(["-c", "exec \"$@\" >&2", "sh"]).args(words)).unwrap();
    process.wait_for_line(subject.ready(), PATIENCE).unwrap();
    process
}

/// Asserts that the tap has sent all delivered frames, and returns their number.
fn assert_all_sent(report: &Report) -> u64 {
    report.assert_conserved();
    let tap = &report.json()["tap"];
    assert_eq!(tap["frames"], report.sum("/workers", "/delivered"), "{tap}");
    assert_eq!(tap["sent"], tap["frames"], "{tap}");
    tap["sent"].as_u64().unwrap()
}

/// Returns name resolutions and connections, each with ports of its own.
fn conversations(count: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..count {
        let dns = Flow::v4(20_000 + number, 53);
        let name = format!("host{number}.example.com");
        frames.push(dns.udp(&dns_query(number, &name)));
        frames.push(dns.reversed().udp(&dns_answer(number, &name, [192, 0, 2, 1].into())));
        let tcp = Flow::v4(40_000 + number, 9000);
        frames.extend(tcp.tcp_handshake());
        let end = |flow: &Flow, sequence, acknowledged| {
            let mut header = TcpHeader::new(flow.client.port(), flow.server.port(), sequence, 1000);
            (header.fin, header.ack, header.acknowledgment_number) = (true, true, acknowledged);
            flow.tcp(header, &[])
        };
        frames.push(end(&tcp, 1, 1));
        frames.push(end(&tcp.reversed(), 1, 2));
    }
    frames
}

fn send(bed: &Bed, frames: &[Vec<u8>]) {
    let session = mirrored(7);
    bed.send(&frames.iter().map(|frame| session.carrying(frame)).collect::<Vec<_>>());
}

#[test]
fn tcpdump_behind_it_gets_each_frame_as_it_was() {
    let Some(bed) = bed() else { return };
    let Some(_) = require::tool("tcpdump") else { return };
    let file = bed.log_dir().join("tap.pcap");
    let mut words: Vec<_> =
        ["tcpdump", "-i", BEHIND, "-n", "-s", "0", "-U", "-w"].map(str::to_owned).to_vec();
    words.push(file.to_string_lossy().into_owned());
    let tcpdump = start(&bed, Subject::Tcpdump, &words);
    let appliance = bed.start(&["--tap", TAP]);
    let mut frames = conversations(50);
    send(&bed, &frames);
    let sent = assert_all_sent(&appliance.stop());
    assert_eq!(sent, frames.len() as u64);
    let size = 24 + frames.iter().map(|frame| 16 + frame.len() as u64).sum::<u64>();
    wait_until("tcpdump has written all", || fs::metadata(&file).is_ok_and(|file| file.len() >= size));
    let output = tcpdump.interrupt(PATIENCE).unwrap();
    assert_eq!(Subject::Tcpdump.received(&output, bed.log_dir()).unwrap(), sent);
    let mut received = Vec::new();
    let mut reader = PcapReader::new(File::open(&file).unwrap()).unwrap();
    while let Some(packet) = reader.next_packet() {
        received.push(packet.unwrap().data.into_owned());
    }
    // Frames of two workers arrive in no certain order.
    received.sort();
    frames.sort();
    assert_eq!(received, frames);
}

/// Starts Suricata behind the tap, if it is installed.
fn suricata(bed: &Bed, directory: &Path) -> Option<(Process, Appliance)> {
    require::optional("suricata")?;
    let words = Subject::SuricataAfPacket.command(Path::new(""), BEHIND, directory).unwrap();
    let suricata = start(bed, Subject::SuricataAfPacket, &words);
    Some((suricata, bed.start(&["--tap", TAP])))
}

/// Returns the identity of a flow and its counters.
fn flow(record: &Value) -> String {
    let flow = &record["flow"];
    let counted = ["pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient"];
    let counted = counted.map(|name| flow[name].to_string()).join(" ");
    format!("{} {} {} {counted}", record["community_id"], record["proto"], record["dest_port"])
}

fn name(record: &Value) -> String {
    let dns = &record["dns"];
    // Older versions have the name of the question in another place.
    let name = dns.pointer("/queries/0/rrname").unwrap_or(&dns["rrname"]);
    format!("{} {name}", record["community_id"])
}

#[test]
fn suricata_behind_it_writes_the_same_flows_and_names() {
    let Some(bed) = bed() else { return };
    let logs = tempfile::tempdir().unwrap();
    let Some((suricata, appliance)) = suricata(&bed, logs.path()) else { return };
    let frames = conversations(30);
    send(&bed, &frames);
    let sent = assert_all_sent(&appliance.stop());
    assert_eq!(sent, frames.len() as u64);
    let eve = logs.path().join("eve.json");
    let names = || {
        let text = fs::read_to_string(&eve).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"event_type\":\"dns\"")).count()
    };
    wait_until("Suricata has seen the last name", || names() >= 60);
    suricata.interrupt(PATIENCE).unwrap();
    let (theirs, ours) = (records(logs.path()), bed.records());
    let of = |records: &[Value], kind: &str, what: fn(&Value) -> String| {
        let mut list: Vec<_> = of_type(records, kind).into_iter().map(what).collect();
        list.sort();
        list
    };
    assert_eq!(of(&theirs, "dns", name), of(&ours, "dns", name));
    let flows = of(&ours, "flow", flow);
    assert_eq!(flows.len(), 60);
    assert_eq!(of(&theirs, "flow", flow), flows);
}
