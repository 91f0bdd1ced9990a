//! A thousand replacements of the rules in a row under load: each frame is judged by one policy or the other,
//! never by parts of both, and every frame is accounted for.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use mirror_xdp_tests::appliance::{Bed, PATIENCE, Report, of_type};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::sys::signal::Signal;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::Value;

/// The number of reloads.
const RELOADS: u32 = 1000;

/// Flows of each VNI, with one frame each. All VNIs together have more flows than are sent between two
/// reloads, so that most frames belong to a flow that has to be judged anew.
const FLOWS: u16 = 8000;

/// VNIs accepted under both policies, under neither, and under only one of them.
const BOTH: u32 = 1;
const NEITHER: u32 = 2;
const FIRST: u32 = 3;
const SECOND: u32 = 4;
const ALL: [u32; 4] = [BOTH, NEITHER, FIRST, SECOND];

/// Rules of a set in the second policy to which no frame's VNI is bound. They move all entries of the first
/// policy's tables to other places.
const FILLERS: u32 = 300;

/// Returns a flow whose addresses and ports are specific to its VNI, so that each table of the rules matters.
fn flow(vni: u32, number: u16) -> Flow {
    let [high, low] = number.to_be_bytes();
    let client = (Ipv4Addr::new(10, vni as u8, high, low), 20_000 + number).into();
    let server = (Ipv4Addr::new(10, 200, vni as u8, 1), 1000 + vni as u16).into();
    Flow { client, server, vlans: Vec::new() }
}

/// Returns a rule for a VNI's flows.
fn rule(number: u32, action: &str, vni: u32) -> String {
    format!(
        r#"
[[filter.sets.rules]]
number = {number}
action = "{action}"
protocol = "udp"
source = "10.{vni}.0.0/16"
destination = "10.200.{vni}.0/24"
source_ports = "20000-29999"
destination_ports = {}
"#,
        1000 + vni
    )
}

fn set(name: &str, vnis: &[u32]) -> String {
    format!("\n[[filter.sets]]\nname = \"{name}\"\nvnis = {vnis:?}\n")
}

/// Returns one set of two rules; rejected frames match neither.
fn first_policy() -> String {
    [set("a", &ALL), rule(10, "accept", BOTH), rule(20, "accept", FIRST)].concat()
}

/// Returns three sets, the first of which would decide the opposite; rejected frames match a rule.
///
/// A mixture of parts of both policies decides wrongly. The index of the first policy's set is that of the
/// opposite set here, the indices of its rules are those of fillers, and its classes are those of other
/// flows. The places of this policy's rules are empty in the first one, which accepts.
fn second_policy() -> String {
    let mut text = set("opposite", &[99]);
    for filler in 0..FILLERS {
        let (high, low) = (filler / 200, filler % 200);
        let action = if filler < 10 { "reject" } else { ["accept", "reject"][filler as usize % 2] };
        write!(
            text,
            r#"
[[filter.sets.rules]]
number = {}
action = "{action}"
protocol = "tcp"
source = "10.{high}.{low}.0/24"
destination = "10.200.{low}.0/24"
source_ports = {}
destination_ports = {}
"#,
            filler + 1,
            20_000 + filler,
            1000 + filler
        )
        .unwrap();
    }
    text += &[rule(1000, "reject", BOTH), rule(1001, "accept", NEITHER)].concat();
    text += &[set("odd", &[BOTH, SECOND]), rule(7, "accept", BOTH), rule(8, "accept", SECOND)].concat();
    text += &[set("even", &[NEITHER, FIRST]), rule(7, "reject", NEITHER), rule(8, "reject", FIRST)].concat();
    text
}

/// Writes a capture with a mirrored frame of each flow.
fn write_frames(path: &Path) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for number in 0..FLOWS {
        for vni in ALL {
            let frame = mirrored(vni).carrying(&flow(vni, number).udp(b"hello, mirror"));
            writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
        }
    }
}

/// Returns the packets of a VNI, and how many of them the rules rejected.
fn counted(report: &Report, vni: u32) -> (u64, u64) {
    let vnis = report.list("/policies/0/vnis");
    let counted = vnis.iter().find(|counted| counted["vni"] == vni).unwrap();
    (counted["packets"].as_u64().unwrap(), counted["dropped"]["rejected"].as_u64().unwrap())
}

#[test]
fn a_thousand_reloads_under_load_leave_no_frame_to_a_mixture_and_none_unaccounted_for() {
    require::machine();
    let Some(bed) = Bed::new(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (capture, config) = (directory.path().join("frames.pcap"), directory.path().join("config.toml"));
    write_frames(&capture);
    let policies = [first_policy(), second_policy()];
    // The file is replaced atomically.
    let configure = |generation: u32| {
        let new = directory.path().join("config.new");
        fs::write(&new, &policies[generation as usize % 2]).unwrap();
        fs::rename(&new, &config).unwrap();
    };
    configure(0);
    let mut appliance = bed.start(&["--config", config.to_str().unwrap()]);

    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json", "--interface", "source0", "--envelope", "none", "--new-flows", "no"]);
    command.args(["--rate", "1Mpps", "--duration", "10min"]).arg(&capture);
    let mut generator = Process::spawn(&mut command).unwrap();
    generator.wait_for_line("sending by", PATIENCE).unwrap();

    let begun = Instant::now();
    let before = bed.received();
    for generation in 1..=RELOADS {
        configure(generation);
        appliance.signal(Signal::SIGHUP);
        let said = appliance.wait_for_line("mirror-xdp: ");
        let rules = [2, FILLERS + 6][generation as usize % 2];
        assert!(said.contains(&format!("read again, {rules} rules in force")), "{said}");
    }
    let (took, received) = (begun.elapsed(), bed.received() - before);
    let output = generator.interrupt(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    let sent = serde_json::from_str::<Value>(&output.stdout).unwrap()["sent"].as_u64().unwrap();
    let report = appliance.stop();
    println!(
        "{RELOADS} reloads, {:.1} ms each, under {:.0} packets a second; {sent} sent, {} analysed, {} lost in rings",
        took.as_secs_f64() * 1e3 / f64::from(RELOADS),
        received as f64 / took.as_secs_f64(),
        report.analysed(),
        report.lost(),
    );

    report.assert_conserved();
    assert_eq!(report.seen(), sent);
    // The loaded program and the start each have had a policy before.
    assert_eq!(report.number("/policies/0/generation"), u64::from(RELOADS) + 2);
    let rejected = report.number("/interfaces/0/program/dropped/filter_rejected");
    let delivered: u64 = report.list("/workers").iter().map(|w| w["delivered"].as_u64().unwrap()).sum();
    assert_eq!(rejected + delivered + report.lost(), sent, "{}", report.json());
    let [both, neither, first, second] = ALL.map(|vni| counted(&report, vni));
    for (packets, _) in [both, neither, first, second] {
        assert!(packets.abs_diff(sent / 4) <= 1 + u64::from(FLOWS), "{packets} of {sent}");
    }
    assert_eq!(both.0 + neither.0 + first.0 + second.0, sent);
    assert_eq!(both.1, 0, "accepted by both policies, rejected by a mixture");
    assert_eq!(neither.1, neither.0, "rejected by both policies, accepted by a mixture");
    // Both policies have been in force for a good part of the time.
    for (packets, rejected) in [first, second] {
        assert!(rejected > packets / 20 && rejected < packets - packets / 20, "{rejected} of {packets}");
    }
    let records = bed.records();
    let flows = of_type(&records, "flow");
    assert!(flows.iter().all(|flow| flow["mirror"]["vni"] != NEITHER));
    assert!(flows.iter().any(|flow| flow["mirror"]["vni"] == BOTH));
}
