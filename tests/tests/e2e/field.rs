//! `mirror-xdp read` on small captures of traffic that tools of this kind get wrong: one test for each. Each
//! `NAME.pcap.gz` has the right outcome beside it, in `NAME.pcap.txt`. The directory is named by `MIRROR_XDP_FIELD`, or
//! is `../shared/field` beside the workspace. It is not part of the repository; without it, these tests are skipped with
//! a message.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

mod decoding;
mod flows;
mod front;
mod streams;

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

/// Reads a capture with additional arguments; `None` if there is no binary, or if the captures are elsewhere.
fn read(name: &str, arguments: &[&str]) -> Option<Read> {
    let file = require::field()?.join(name);
    let binary = require::binary()?;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(&binary);
    command.arg("read").arg(&file).args(["--json", "--log-dir"]).arg(directory.path()).args(arguments);
    let output = run(&mut command, directory.path());
    let totals = serde_json::from_str(&output.stdout).unwrap();
    Some(Read { binary, records: records(directory.path()), totals, directory })
}

/// Returns the records of a capture; `None` as for [`read`].
fn records_of(name: &str) -> Option<Vec<Value>> {
    Some(read(name, &[])?.records)
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
