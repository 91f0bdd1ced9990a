//! `mirror-xdp read`: runs the worker of the live capture on capture files.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_base::one_line;
use mirror_base::sandbox::{self, Files, Kind};
use mirror_control::config;
use mirror_control::stats::{self, Named, Records};
use mirror_device::xdp::program::LogLevel;
use mirror_engine::analyzer::Enabled;
use mirror_engine::offline::{self, Frames};
use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::FlowScope;
use mirror_packet::capture_file::{CaptureFile, CaptureFileError};
use mirror_records::sink::{Destination, Overflow, Sink, StallPolicy};
use mirror_store::{Store, StoreHandle};
use serde::Serialize;

use super::log::Format;
use super::progress::{CLEAR, grouped, listed, with_unit};

/// Analyse capture files as if their frames had been captured
///
/// Mirrored frames (VXLAN, GENEVE) are decapsulated, all others are analysed as they are. Records are
/// appended to eve.json in the log directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp read session.pcap                      records go to ./eve.json
  mirror-xdp read --log-dir out a.pcap b.pcapng.gz  several files, in this order
  mirror-xdp read --store packets session.pcap      keep and index the packets, for `mirror-xdp extract`
  mirror-xdp read --eve-output - day.pcap | jq .dns  records to another program
  mirror-xdp read --json session.pcap | jq .workers totals for scripts")]
pub(super) struct Args {
    /// Capture files: pcap or pcapng, plain or compressed by gzip or zstd
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Directory of eve.json; created if missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    log_dir: PathBuf,

    /// Also keep the packets, in this directory; `mirror-xdp extract` finds them
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    #[command(flatten)]
    eve: super::eve::EveArgs,

    /// Print the totals as one JSON object on stdout, and nothing on stderr
    #[arg(long)]
    json: bool,

    /// Maximum number of flows; beyond it, the flow that has been idle longest is ended
    #[arg(long, value_name = "N", default_value_t = WorkerConfig::default().max_flows)]
    #[arg(value_parser = super::number::<usize>("capture.max_flows"))]
    max_flows: usize,

    /// If both ends of conversations are mirrored: analyse one copy of each packet, and count the other
    #[arg(long, value_enum, default_value_t, value_name = "on|off", hide_possible_values = true)]
    dedup: super::Switch,

    /// The frames that make up one address space: those of one mirrored interface with one VNI, or all with one VNI
    #[arg(long, value_name = "SCOPE", value_parser = super::flow_scope(), default_value = FlowScope::default().name())]
    flow_scope: FlowScope,

    /// Analyzers to run; by default all but those that are off by default
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(Enabled::all_names()))]
    analyzers: Option<Vec<String>>,

    #[command(flatten)]
    ports: super::PortArgs,
}

impl Args {
    fn analyzers(&self) -> Enabled {
        self.analyzers.as_ref().map_or_else(Enabled::default, |names| {
            names.iter().fold(Enabled::none(), |enabled, name| enabled.with(name).unwrap_or(enabled))
        })
    }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::log::init(LogLevel::Off, Some(Format::Text))?;
    let start = Instant::now();
    let mut sink = confine(args)?;
    // Created once there is something to read: a mistyped name leaves nothing behind.
    let mut reader: Option<Reader> = None;
    let mut damaged = false;
    for path in &args.files {
        let outcome = match CaptureFile::open(path) {
            Ok(file) => match &mut reader {
                Some(reader) => reader.read(file),
                None => reader.insert(Reader::new(args, sink.take())?).read(file),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            damaged = true;
            if let Some(reader) = &mut reader {
                reader.progress.clear();
            }
            eprintln!("mirror-xdp: {}", one_line(&error));
        }
    }
    let Some(reader) = reader else { return Ok(ExitCode::FAILURE) };
    let totals = reader.finish(start.elapsed())?;
    if args.json {
        super::print_json(&totals)?;
    } else {
        totals.print();
    }
    let failed = damaged || totals.records.lost > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Confines the process to the capture files, the log and the store, before it reads any of them. Creates the
/// directories of log and store if there is a file to read: a mistyped name leaves nothing behind. Connects a
/// socket for records first, and returns the sink, because a confined process cannot connect.
fn confine(args: &Args) -> anyhow::Result<Option<Sink>> {
    let eve = args.eve.settings();
    let destination = super::eve::destination(&eve, &args.log_dir);
    let is_socket = matches!(destination, Destination::Socket { .. });
    let records = destination.needed_files();
    let store = Files { write: args.store.iter().cloned().collect(), ..Files::default() };
    if args.files.iter().any(|path| path.exists()) {
        // If they cannot be created, the code that opens them reports the error.
        for directory in &records.write {
            let _ = eve.modes.make_directory(directory);
        }
        for directory in &store.write {
            let _ = mirror_store::make_directory(
                directory,
                config::StoreSettings::default().settings.permissions,
            );
        }
    }
    let own = Files {
        read: args.files.clone(),
        write: records.write.iter().chain(&store.write).cloned().collect(),
        ..Files::default()
    };
    sandbox::install(&[(Kind::Read, own), (Kind::Records, records), (Kind::Store, store)].into())?;
    let sink = is_socket.then(|| open_sink(args)).transpose()?;
    sandbox::this_thread(Kind::Read);
    Ok(sink)
}

fn open_sink(args: &Args) -> anyhow::Result<Sink> {
    let eve = args.eve.settings();
    let destination = super::eve::destination(&eve, &args.log_dir);
    Ok(super::eve::open(destination, eve.types, StallPolicy::Endless, args.json)?)
}

struct Reader {
    sink: Sink,
    store: Option<Store>,
    frames: offline::Reader<Option<StoreHandle>>,
    progress: Progress,
    quiet: bool,
}

/// The frames of the files, by their fate before they reached the worker.
impl Reader {
    fn new(args: &Args, sink: Option<Sink>) -> anyhow::Result<Self> {
        let sink = sink.map_or_else(|| open_sink(args), Ok)?;
        let config = WorkerConfig {
            max_flows: args.max_flows,
            hash_seed: offline::HASH_SEED,
            dedup: args.dedup.is_on(),
            flow_scope: args.flow_scope,
            ..WorkerConfig::default()
        };
        let store = super::store::open(args.store.as_deref(), &config::StoreSettings::default())?;
        let recorder = store.as_ref().map(|store| store.handle(0, Overflow::Wait)).transpose()?;
        let mut worker = Worker::builder(config, sink.producer(Overflow::Wait)).recorder(recorder).build();
        worker.analyzers().enable(args.analyzers());
        let mut ports = config::Ports::default();
        args.ports.apply(&mut ports);
        let frames = offline::Reader::of(worker, super::parser_ports(&ports));
        Ok(Self { sink, store, frames, progress: Progress::new(args.json), quiet: args.json })
    }

    fn read(&mut self, file: CaptureFile) -> Result<(), CaptureFileError> {
        file.for_each(|frame| {
            self.frames.frame(&frame);
            self.progress.show(self.frames.frames());
        })
    }

    fn finish(mut self, elapsed: Duration) -> anyhow::Result<Totals> {
        self.frames.finish();
        self.progress.clear();
        let worker = self.frames.worker();
        let frames = self.frames.frames();
        let Frames { seen, bytes, mirrored, plain, .. } = *frames;
        let dropped = Named(frames.dropped().collect());
        let stored = worker.recorder().as_ref().map(StoreHandle::counters);
        let records_lost = worker.counters().records_lost;
        let analysed = stats::Worker::new(0, stats::Handoff::default(), worker.counters(), stored);
        let unaccounted = seen.abs_diff(mirrored + plain + dropped.sum())
            + (mirrored + plain).abs_diff(analysed.delivered)
            + analysed.imbalance();
        let mut totals = Totals {
            seconds: elapsed.as_secs_f64(),
            frames: FrameTotals { seen, bytes, mirrored, plain, dropped },
            records: Records::new(records_lost, &self.sink.flush()),
            workers: [analysed],
            unaccounted,
        };
        self.sink.stats(worker.now(), &totals).context("cannot write the statistics")?;
        totals.records = Records::new(records_lost, &self.sink.finish());
        if let Some(store) = self.store {
            // This command uploads nothing.
            let _ = super::store::finish(store, self.quiet);
        }
        Ok(totals)
    }
}

/// The sum of all counters.
#[derive(Clone, Debug, Serialize)]
struct Totals {
    seconds: f64,
    frames: FrameTotals,
    workers: [stats::Worker; 1],
    records: Records,
    /// The difference between the counters; 0 if they add up.
    unaccounted: u64,
}

/// The frames of all files.
#[derive(Clone, Debug, Serialize)]
struct FrameTotals {
    seen: u64,
    bytes: u64,
    mirrored: u64,
    plain: u64,
    dropped: Named,
}

impl Totals {
    /// Prints the totals for people.
    fn print(&self) {
        let FrameTotals { seen, bytes, mirrored, plain, dropped } = &self.frames;
        let [worker] = &self.workers;
        eprintln!(
            "read {} frames, {}, {} flows in {:.1} s",
            grouped(*seen),
            with_unit(*bytes as f64, "B"),
            grouped(worker.flows_total),
            self.seconds,
        );
        eprintln!(
            "{} mirrored, {} plain, {} malformed{}",
            grouped(*mirrored),
            grouped(*plain),
            grouped(dropped.sum()),
            listed(dropped),
        );
        if worker.refused.sum() > 0 {
            eprintln!("not analysed: {}{}", grouped(worker.refused.sum()), listed(&worker.refused));
        }
        if worker.analysis_lost.sum() > 0 {
            eprintln!("{}", super::progress::analysis_lost(&worker.analysis_lost));
        }
        if worker.refused_nested.sum() > 0 {
            eprintln!("{}", super::progress::refused_nested(&worker.refused_nested));
        }
        if let Some(advice) = stats::split_advice(&self.workers) {
            eprintln!("{advice}");
        }
        if let Some(store) = &worker.store {
            eprint!("{}", super::progress::stored([store].into_iter()));
        }
        if worker.duplicates > 0 {
            eprintln!("mirrored at both ends, the copy not analysed: {}", grouped(worker.duplicates));
        }
        let Records { written, lost } = &self.records;
        eprintln!("records: {} written{}, {} lost", grouped(written.sum()), listed(written), grouped(*lost));
        if self.unaccounted > 0 {
            eprintln!("UNACCOUNTED: {} frames; this is a bug of mirror-xdp", grouped(self.unaccounted));
        }
    }
}

/// A progress line on the terminal, shown only if reading takes long.
struct Progress {
    start: Instant,
    shown: Option<Instant>,
    wanted: bool,
}

impl Progress {
    const DELAY: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_millis(200);
    /// The number of frames between two readings of the clock.
    const STRIDE: u64 = 1024;

    fn new(quiet: bool) -> Self {
        Self { start: Instant::now(), shown: None, wanted: !quiet && std::io::stderr().is_terminal() }
    }

    fn show(&mut self, frames: &Frames) {
        if !self.wanted
            || !frames.seen.is_multiple_of(Self::STRIDE)
            || self.start.elapsed() < Self::DELAY
            || self.shown.is_some_and(|shown| shown.elapsed() < Self::INTERVAL)
        {
            return;
        }
        self.shown = Some(Instant::now());
        eprint!("{CLEAR}{} frames, {}", grouped(frames.seen), with_unit(frames.bytes as f64, "B"));
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            eprint!("{CLEAR}");
        }
    }
}
