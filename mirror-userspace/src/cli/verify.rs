//! `mirror-xdp verify`: checks that a store is unaltered.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_base::escaped;
use mirror_store::remote::RemoteReader;
use mirror_store::verify::{Report, verify, verify_copy};

use super::progress::{CLEAR, grouped, with_unit};
use super::store::Place;

/// Check that a store contains what was written
///
/// Compares each segment and index with the manifest, and checks the manifest itself. Reports altered and
/// missing parts, and parts that the store's own rules deleted. Exit code 1 if anything is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp verify /data/packets
  mirror-xdp verify /data/packets --head 3f8a…    nothing is gone since the head was this
  mirror-xdp verify s3://bucket/appliance-1       the same for the uploaded copy; reads all of it
  mirror-xdp verify /data/packets --json | jq .findings")]
pub(super) struct Args {
    /// The store: a directory, or the URL of a copy
    #[arg(value_name = "DIR|URL", value_parser = Place::parse)]
    store: Place,

    /// Previous head of the manifest, which was stored elsewhere
    #[arg(long, value_name = "DIGEST")]
    head: Option<String>,

    /// Print the result as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (start, mut shown) = (Instant::now(), None::<Instant>);
    let terminal = !args.json && std::io::stderr().is_terminal();
    let progress = |done, total| {
        if terminal
            && start.elapsed() > Duration::from_secs(2)
            && shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(200))
        {
            shown = Some(Instant::now());
            let bytes = |bytes: u64| with_unit(bytes as f64, "B");
            eprint!("{CLEAR}{} of {}", bytes(done), bytes(total));
        }
    };
    let head = args.head.as_deref();
    if let Place::Directory(directory) = &args.store {
        super::store::is_store(directory)?;
    }
    // Only the files in the directory are compared with its manifest.
    super::confined::to_store(&args.store, &[])?;
    let report = match &args.store {
        Place::Directory(directory) => {
            verify(directory, head, progress).with_context(|| format!("cannot read {}", directory.display()))
        }
        Place::Copy(location) => RemoteReader::open(location)
            .and_then(|copy| verify_copy(&copy, head, progress))
            .map_err(anyhow::Error::from),
    };
    if shown.is_some() {
        eprint!("{CLEAR}");
    }
    let report = report?;
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(&text(&report))?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &report.findings {
        _ = writeln!(text, "{} {}", finding.file, finding.what);
    }
    for deleted in &report.deleted {
        _ = writeln!(text, "{} was deleted: {}", deleted.file, escaped(&deleted.what));
    }
    for name in &report.unfinished {
        _ = writeln!(text, "{name} is not finished, so it cannot be checked yet");
    }
    for name in &report.not_uploaded {
        _ = writeln!(text, "{name} is not uploaded yet");
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
