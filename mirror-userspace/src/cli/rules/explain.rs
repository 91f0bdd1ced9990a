//! `mirror-xdp rules explain`: why a rule does or does not match the flows of a capture file.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use mirror_base::one_line;
use mirror_base::sandbox::{Files, Kind};
use mirror_control::config::SignatureSettings;
use mirror_engine::inspection::Rules;
use mirror_engine::offline::{HASH_SEED, Reader};
use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::capture_file::CaptureFile;
use mirror_packet::{Direction, text};
use mirror_records::sink::{Destination, EventTypes, Overflow, Sink, StallPolicy};
use mirror_signatures::engine::AlertPayload;
use mirror_signatures::explain::{Attempt, ExplainedFlow};
use mirror_xdp_common::outer::Ports;
use serde::Serialize;

use crate::cli::inspect::RulesArgs;
use crate::cli::{print, print_json};

/// Explain for each flow of a capture file why a rule does or does not match
///
/// Shows the attempt that came farthest: the requirement of the rule that failed, the buffer, and its bytes from where the
/// requirements before had matched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp rules explain session.pcap --rules local.rules --sid 1000001
  mirror-xdp rules explain session.pcap --rules et.rules --rules-var HOME_NET=10.0.0.0/8 --sid 2027865 --json

Exit code 0, whether it matches or not; 1 if a file cannot be read, or there is no such rule; 2 for wrong usage.")]
pub(super) struct Args {
    /// Capture file: pcap or pcapng, plain or compressed by gzip or zstd
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The number of the rule
    #[arg(long, value_name = "N")]
    sid: u32,

    #[command(flatten)]
    rules: RulesArgs,

    /// Follow connections that are older than the file in plain frames, too, as in mirror sessions
    #[arg(long)]
    midstream: bool,

    /// Print one JSON list on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let mut settings = SignatureSettings::default();
    args.rules.apply(&mut settings);
    anyhow::ensure!(!settings.sources.is_empty(), "no rules are named; add --rules FILE");
    let loaded = settings.sources.load()?;
    let (engine, report) = loaded.into_engine(AlertPayload::default())?;
    let refusal = report.refused.iter().find(|(_, refusal)| refusal.sid == Some(args.sid));
    let Some(engine) = engine.explaining(args.sid) else {
        match refusal {
            Some((_, refusal)) => anyhow::bail!("rule {} is refused: {refusal}", args.sid),
            None => anyhow::bail!("the files have no rule {}", args.sid),
        }
    };
    let engine = Arc::new(engine);
    let sink = Sink::to(Destination::file("/dev/null"), EventTypes::only(Vec::new()), StallPolicy::Endless)?;
    crate::cli::confined::to(Kind::Read, Files { read: vec![args.file.clone()], ..Files::default() })?;
    let config = WorkerConfig { hash_seed: HASH_SEED, midstream: args.midstream, ..WorkerConfig::default() };
    let mut worker = Worker::builder(config, sink.producer(Overflow::Wait)).build();
    worker.inspect(Some(Rules::new(Arc::clone(&engine))));
    let mut reader = Reader::of(worker, Ports::default());
    let outcome = CaptureFile::open(&args.file).and_then(|file| file.for_each(|frame| reader.frame(&frame)));
    reader.finish();
    drop(reader);
    let _ = sink.finish();
    let flows =
        engine.explanations().map(mirror_signatures::explain::Explanations::flows).unwrap_or_default();
    if args.json {
        print_json(&flows.iter().map(View::new).collect::<Vec<_>>())?;
    } else {
        print(&listed(&flows))?;
    }
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("mirror-xdp: {}", one_line(&error));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn ends(flow: &ExplainedFlow) -> [String; 2] {
    flow.ends.map(|(address, port)| {
        let address = text::address(address, flow.ipv6);
        let address = String::from_utf8_lossy(address.as_bytes()).into_owned();
        if flow.ipv6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    })
}

const fn direction(attempt: &Attempt) -> &'static str {
    match attempt.direction {
        Direction::ToServer => "to_server",
        Direction::ToClient => "to_client",
    }
}

/// Formats the flows for people, a line each, and their number.
fn listed(flows: &[(ExplainedFlow, Attempt)]) -> String {
    let mut text = String::new();
    for (flow, attempt) in flows {
        let [client, server] = ends(flow);
        let vni = flow.vni.map(|vni| format!(" VNI {vni}")).unwrap_or_default();
        let (direction, unit) = (direction(attempt), &attempt.unit);
        // Writing to a string cannot fail.
        let _ = match &attempt.failed {
            None => writeln!(text, "{client} -> {server}{vni}: matches in {unit} {direction}"),
            Some(failed) => writeln!(text, "{client} -> {server}{vni}: in {unit} {direction}: {failed}"),
        };
    }
    let matching = flows.iter().filter(|(_, attempt)| attempt.failed.is_none()).count();
    text + &format!("{matching} of {} flows match\n", flows.len())
}

/// A flow, in the output of `--json`.
#[derive(Serialize)]
struct View<'a> {
    client: String,
    server: String,
    vni: Option<u32>,
    matches: bool,
    unit: &'a str,
    direction: &'static str,
    failed: Option<FailureView<'a>>,
}

#[derive(Serialize)]
struct FailureView<'a> {
    requirement: &'a str,
    buffer: Option<&'static str>,
    length: Option<usize>,
    offset: usize,
    bytes: String,
}

impl<'a> View<'a> {
    fn new((flow, attempt): &'a (ExplainedFlow, Attempt)) -> Self {
        let [client, server] = ends(flow);
        let failed = attempt.failed.as_ref().map(|failed| FailureView {
            requirement: &failed.requirement,
            buffer: failed.buffer,
            length: failed.len,
            offset: failed.offset,
            bytes: failed.bytes.escape_ascii().to_string(),
        });
        Self {
            client,
            server,
            vni: flow.vni,
            matches: failed.is_none(),
            unit: &attempt.unit,
            direction: direction(attempt),
            failed,
        }
    }
}
