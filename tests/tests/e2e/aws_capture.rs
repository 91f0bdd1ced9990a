//! A real capture of AWS mirror traffic, replayed over a cable, yields the flow and DNS records that Suricata
//! writes for it.

use std::collections::BTreeMap;
use std::fs::{self, File};

use mirror_xdp_tests::appliance::{Bed, of_type};
use mirror_xdp_tests::require;
use pcap_file::pcap::PcapReader;
use serde_json::Value;

/// 100 frames of one mirror session, captured on an appliance in a VPC.
const CAPTURE: &str = "suricata-verify/tests/vxlan-decoder-03/vxlan.pcap";
const VNI: u32 = 5_569_041;

/// Counts the records by `key`.
fn count(records: &[&Value], key: impl Fn(&Value) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(key(record)).or_default() += 1;
    }
    counts
}

/// Returns both ends of a record's flow, sorted: Suricata may have missed which end began.
fn ends(record: &Value) -> String {
    let mut ends = [("src_ip", "src_port"), ("dest_ip", "dest_port")]
        .map(|(ip, port)| format!("{} {}", record[ip], record[port]));
    ends.sort();
    format!("{} {}", record["proto"], ends.join(" "))
}

/// Returns the flow's ends, its packets in each direction, and its Community ID.
fn flow_key(record: &Value) -> String {
    let mut packets = ["pkts_toserver", "pkts_toclient"].map(|field| record["flow"][field].as_u64());
    packets.sort_unstable();
    format!("{} {packets:?} {}", ends(record), record["community_id"])
}

fn dns_key(record: &Value) -> String {
    let dns = &record["dns"];
    let fields =
        ["type", "id", "rrname", "rrtype", "rcode"].map(|field| dns[field].to_string().to_lowercase());
    format!("{} {}", ends(record), fields.join(" "))
}

#[test]
fn a_real_mirror_session_gives_the_records_that_suricata_made_of_it() {
    let Some(corpus) = require::corpus() else { return };
    // On one queue, because the resolver's replies have another outer source port than the queries.
    let Some(bed) = Bed::new(1) else { return };
    let mut reader = PcapReader::new(File::open(corpus.join(CAPTURE)).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    assert_eq!((report.seen(), report.analysed()), (100, 100));

    let ours = bed.records();
    let expected = fs::read_to_string(corpus.join(format!("expected/{CAPTURE}.eve.json"))).unwrap();
    let theirs: Vec<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Suricata also records the outer flow, which carries the inner ones.
    let is_inner = |record: &Value| {
        matches!(record["proto"].as_str(), Some("TCP" | "UDP")) && record["dest_port"] != 4789
    };
    for (kind, key) in [("flow", flow_key as fn(&Value) -> String), ("dns", dns_key)] {
        let inner = |records| -> Vec<&Value> {
            of_type(records, kind).into_iter().filter(|record| is_inner(record)).collect()
        };
        let (ours, theirs) = (inner(&ours), inner(&theirs));
        assert!(!theirs.is_empty());
        assert_eq!(count(&ours, key), count(&theirs, key), "{kind}");
        assert!(ours.iter().all(|record| record["mirror"]["vni"] == VNI));
    }
}
