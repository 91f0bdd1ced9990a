//! Keys of flows, packets in packets, and fragments.

use std::process::Command;

use serde_json::Value;

use super::{read, run};

#[test]
fn vlan0_one_way() {
    let Some(read) = read("vlan0-one-way.pcap.gz", &[]) else { return };
    assert_eq!(read.packets(), [[6, 4]]);
    let [http] = read.of_type("http")[..] else { panic!("{:?}", read.records) };
    assert_eq!(http["http"]["status"], 200);
}

#[test]
fn extract_by_id_of_inner_flow() {
    let Some(read) = read("extract-by-id-of-inner-flow.pcap.gz", &["--store", "packets"]) else { return };
    let inner = read.of_type("http")[0]["community_id"].as_str().unwrap();
    let mut command = Command::new(&read.binary);
    command.args(["extract", "--json", "--store", "packets", "-w", "found.pcapng", "--flow", inner]);
    let output = run(&mut command, read.directory.path());
    let summary: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(summary["packets"], 10);
}

#[test]
fn fragment_incomplete_uncounted() {
    let Some(read) = read("fragment-incomplete-uncounted.pcap.gz", &[]) else { return };
    let worker = &read.totals["workers"][0];
    assert_eq!((&worker["analysed"], &worker["refused"]["fragment_incomplete"]), (&1.into(), &1.into()));
    assert_eq!((&worker["waiting"], &read.totals["unaccounted"]), (&0.into(), &0.into()));
}
