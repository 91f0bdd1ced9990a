//! `mirror-xdp verify`: is a store what was written?

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::progress::{CLEAR, grouped, with_unit};
use crate::store::manifest;
use crate::store::verify::{Report, verify};

/// Find out whether a store is what was written
///
/// Compares each segment and index with the manifest, and the manifest with itself: says what was altered,
/// what is missing, and what was deleted by the store's own rules. Exit code 1 if anything is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp verify /data/packets
  mirror-xdp verify /data/packets --head 3f8a…    nothing of what was there when this was the head is gone
  mirror-xdp verify /data/packets --json | jq .findings")]
pub(super) struct Args {
    /// The store
    #[arg(value_name = "DIR")]
    store: PathBuf,

    /// A head that the manifest had before, and that was kept elsewhere
    #[arg(long, value_name = "DIGEST")]
    head: Option<String>,

    /// Print the result as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.store.join(manifest::FILE_NAME);
    anyhow::ensure!(
        path.is_file(),
        "{} is no store: it has no {}",
        args.store.display(),
        manifest::FILE_NAME
    );
    let (start, mut shown) = (Instant::now(), None::<Instant>);
    let terminal = !args.json && std::io::stderr().is_terminal();
    let report = verify(&args.store, args.head.as_deref(), |done, total| {
        if terminal
            && start.elapsed() > Duration::from_secs(2)
            && shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(200))
        {
            shown = Some(Instant::now());
            let bytes = |bytes: u64| with_unit(bytes as f64, "B");
            eprint!("{CLEAR}{} of {}", bytes(done), bytes(total));
        }
    });
    if shown.is_some() {
        eprint!("{CLEAR}");
    }
    let report = report.with_context(|| format!("cannot read {}", args.store.display()))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for finding in &report.findings {
        _ = writeln!(text, "{} {}", finding.file, finding.what);
    }
    for deleted in &report.deleted {
        _ = writeln!(text, "{} was deleted: {}", deleted.file, deleted.what);
    }
    for name in &report.unfinished {
        _ = writeln!(text, "{name} is not finished, so there is nothing to compare it with");
    }
    _ = writeln!(
        text,
        "{} segments intact, {} packets, {}; {} findings; the manifest's head is {}",
        grouped(report.intact),
        grouped(report.packets),
        with_unit(report.bytes as f64, "B"),
        grouped(report.findings.len() as u64),
        report.head,
    );
    text
}
