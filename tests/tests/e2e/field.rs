//! `mirror-xdp read` on small captures of traffic that tools of this kind get wrong. Each `NAME.pcap.gz` has the right
//! outcome beside it, in `NAME.pcap.txt`. The directory is named by `MIRROR_XDP_FIELD`, or is `../shared/field` beside
//! the workspace. It is not part of the repository; without it, these tests are skipped with a message.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_xdp_tests::appliance::{PATIENCE, of_type, records};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use serde_json::Value;
use tempfile::TempDir;

/// A capture that was read.
struct Read {
    binary: PathBuf,
    records: Vec<Value>,
    totals: Value,
    directory: TempDir,
}

/// Reads a capture of the directory with additional arguments; `None` if it is missing.
fn read(name: &str, arguments: &[&str]) -> Option<Read> {
    let field = env::var_os("MIRROR_XDP_FIELD")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/field"), PathBuf::from);
    let file = field.join(name);
    if !file.is_file() {
        eprintln!("SKIPPED: there is no {}", file.display());
        return None;
    }
    let binary = require::binary()?;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(&binary);
    command.arg("read").arg(&file).args(["--json", "--log-dir"]).arg(directory.path()).args(arguments);
    let output = run(&mut command, directory.path());
    let totals = serde_json::from_str(&output.stdout).unwrap();
    Some(Read { binary, records: records(directory.path()), totals, directory })
}

fn run(command: &mut Command, directory: &Path) -> Output {
    let output = Process::spawn(command.current_dir(directory)).unwrap().wait(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    output
}

impl Read {
    fn of_type(&self, event_type: &str) -> Vec<&Value> {
        of_type(&self.records, event_type)
    }

    /// Returns the packets of each flow, from the client and from the server.
    fn packets(&self) -> Vec<[u64; 2]> {
        let count = |flow: &Value, way: &str| flow["flow"][way].as_u64().unwrap();
        let flows = self.of_type("flow");
        flows.iter().map(|flow| ["pkts_toserver", "pkts_toclient"].map(|way| count(flow, way))).collect()
    }
}

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
