//! `mirror-xdp read`: runs the worker of the live capture on capture files.

mod each;

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_base::one_line;
use mirror_base::sandbox::{self, Files, Kind};
use mirror_control::config::{self, Config, Diagnostic, Diagnostics};
use mirror_control::stats::{self, Named, Records};
use mirror_device::xdp::program::LogLevel;
use mirror_engine::analyzer::Enabled;
use mirror_engine::indicators::Indicators;
use mirror_engine::inspection::Rules;
use mirror_engine::offline::{self, Frames};
use mirror_engine::worker::{Memory, Worker, WorkerConfig};
use mirror_packet::FlowScope;
use mirror_packet::capture_file::{CaptureFile, CaptureFileError};
use mirror_packet::link_name;
use mirror_records::names::{Names, NamesFile};
use mirror_records::sink::{Destination, Overflow, Producer, Sink, StallPolicy};
use mirror_rules::Policy;
use mirror_signatures::engine::Engine;
use mirror_store::{Retention, Store, StoreHandle};
use serde::Serialize;

use super::gate;
use super::log::Format;
use super::progress::{CLEAR, grouped, listed, with_unit};
use super::run::sink_settings;
use super::{help, number, set};

/// Analyse capture files as if their frames had been captured
///
/// Mirrored frames (VXLAN, GENEVE) are decapsulated, all others are analysed as they are. Records are
/// appended to eve.json in the log directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp read session.pcap                      records go to ./eve.json
  mirror-xdp read --log-dir out a.pcap b.pcapng.gz  several files, in this order
  mirror-xdp read --each --log-dir out *.pcap       each file apart: out/a.pcap/eve.json, out/b.pcap/eve.json
  mirror-xdp read --config mirror-xdp.toml day.pcap  as a capture with this configuration would have
  mirror-xdp read --store packets session.pcap      keep and index the packets, for `mirror-xdp extract`
  ssh host tcpdump -i any -w - | mirror-xdp read -  a capture from standard input
  mirror-xdp read --eve-output - day.pcap | jq .dns  records to another program
  mirror-xdp read --rules et.rules -- session.pcap  alerts by rule files of Suricata
  mirror-xdp read --json session.pcap | jq .workers totals for scripts")]
pub(super) struct Args {
    /// Capture files: pcap or pcapng, plain or compressed by gzip or zstd; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Configuration, as for `run`: ports, admission, filter rules, analysis, timeouts, alerts, records, store. Of a
    /// live capture, only the maximum number of flows counts; nothing is deleted or uploaded
    #[arg(short, long, value_name = "CONFIG")]
    config: Option<PathBuf>,

    /// Directory of eve.json; created if missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    log_dir: PathBuf,

    /// Read each file apart, as a command of its own would, with its records in a directory of its own below that of
    /// --log-dir, named like the file with `__` for each `/`
    #[arg(long, conflicts_with = "store")]
    each: bool,

    /// Also keep the packets, in this directory, as [store] of the configuration defines; `mirror-xdp extract` finds
    /// them
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    #[command(flatten)]
    eve: super::eve::EveArgs,

    /// Print the totals as one JSON object on stdout, and nothing on stderr
    #[arg(long)]
    json: bool,

    #[arg(long, help = help("capture.max_flows"), value_name = "N")]
    #[arg(value_parser = number::<usize>("capture.max_flows"))]
    max_flows: Option<usize>,

    #[arg(long, help = help("analysis.dedup"), value_enum, value_name = "on|off")]
    #[arg(hide_possible_values = true)]
    dedup: Option<super::Switch>,

    #[arg(long, help = help("analysis.flow_scope"), value_name = "SCOPE", value_parser = super::flow_scope())]
    flow_scope: Option<FlowScope>,

    /// Number of workers that analyse the frames; by default one per CPU, at most 16. The records are the same with any
    /// number. It is one with --store, --each, and rules
    #[arg(long, value_name = "N", conflicts_with_all = ["store", "each", "rules"])]
    workers: Option<NonZeroUsize>,

    #[arg(long, help = help("services.literals"), value_enum, value_name = "on|off")]
    #[arg(hide_possible_values = true)]
    literals: Option<super::Switch>,

    /// Analyzers to run; by default all but those that are off by default
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(Enabled::all_names()))]
    analyzers: Option<Vec<String>>,

    #[command(flatten)]
    rules: super::inspect::RulesArgs,

    /// Follow connections that are older than the file in plain frames, too, as in mirror sessions
    #[arg(long)]
    midstream: bool,

    #[command(flatten)]
    ports: super::PortArgs,
}

/// The most workers without `--workers`: one thread reads the file, and has no frames for more.
const MOST_WORKERS: NonZeroUsize = NonZeroUsize::new(16).expect("sixteen is not zero");

impl Args {
    /// Returns the number of workers. Rules count some matches over all flows, in the order of the frames.
    fn workers(&self, with_rules: bool) -> NonZeroUsize {
        let every_cpu =
            || std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |cpus| cpus.min(MOST_WORKERS));
        let is_one = self.store.is_some() || self.each || with_rules;
        if is_one { NonZeroUsize::MIN } else { self.workers.unwrap_or_else(every_cpu) }
    }

    /// Returns the settings in force, and the warnings about the configuration file: its values, except where a flag
    /// overrides them, and without those that concern a live capture only.
    fn settings(&self) -> anyhow::Result<(Config, Vec<Diagnostic>)> {
        let (mut settings, warnings) = match &self.config {
            Some(path) => self.file(path)?,
            None => (Config::default(), Vec::new()),
        };
        let analyzers = self.analyzers.as_ref().map(|names| {
            names.iter().fold(Enabled::none(), |enabled, name| enabled.with(name).unwrap_or(enabled))
        });
        set(&mut settings.capture.max_flows, self.max_flows.as_ref());
        set(&mut settings.analysis.dedup, self.dedup.map(super::Switch::is_on).as_ref());
        set(&mut settings.analysis.flow_scope, self.flow_scope.as_ref());
        set(&mut settings.services.literals, self.literals.map(super::Switch::is_on).as_ref());
        set(&mut settings.analysis.analyzers, analyzers.as_ref());
        self.ports.apply(&mut settings);
        self.eve.apply(&mut settings.eve);
        self.rules.apply(&mut settings.signatures);
        // The log of a live capture is not the place for the records of a file, and the age of packets is not that of
        // their segments.
        settings.capture.log_dir.clone_from(&self.log_dir);
        settings.shunt.after = None;
        settings.store.settings.upload = None;
        settings.store.settings.retention = Retention::default();
        Ok((settings, warnings))
    }

    /// Reads the configuration file. Files that only a live capture needs are not checked.
    fn file(&self, path: &Path) -> anyhow::Result<(Config, Vec<Diagnostic>)> {
        let is_unused = |key: &str| {
            let section = key.split('.').next().unwrap_or(key);
            // Rules are loaded, and what is wrong with them reported, whatever the check finds.
            matches!(section, "api" | "capture" | "receive" | "signatures")
                || key == "store.upload"
                || (self.store.is_none() && section == "store")
        };
        let checked = config::check(path, is_unused)?;
        match Diagnostics::of(checked.mistakes) {
            Some(mistakes) => Err(config::Error::from(mistakes).into()),
            None => Ok((checked.config, checked.warnings)),
        }
    }
}

/// The name of standard input among the files.
const STANDARD_INPUT: &str = "-";

fn is_standard_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::log::init(LogLevel::Off, Some(Format::Text))?;
    let start = Instant::now();
    let (settings, warnings) = args.settings()?;
    super::log::set_level(settings.log.level.as_deref());
    for warning in warnings {
        tracing::warn!(target: super::log::CONFIGURATION, "{warning}");
    }
    if args.each {
        each::check(args, &settings);
    }
    let rules = super::inspect::load(&settings.signatures)?.map(|(engine, _)| engine);
    // A confined process cannot see all limits of its CPUs.
    let workers = args.workers(rules.is_some());
    let shared = Shared { indicators: Arc::new(settings.alerts.load()?), rules, workers };
    let mut sink = confine(args, &settings)?;
    if args.each {
        return each::read(args, &settings, &shared);
    }
    // Created once there is something to read: a mistyped name leaves nothing behind.
    let mut reader: Option<Reader> = None;
    let mut damaged = false;
    for path in &args.files {
        let read = match open_file(path) {
            Ok(file) => {
                let reader = if let Some(reader) = &mut reader {
                    reader
                } else {
                    let sink = sink.take().map_or_else(|| open_sink(args, &settings), Ok)?;
                    reader.insert(Reader::new(args, &settings, &shared, sink)?)
                };
                reader.read(file)
            }
            Err(error) => (Links::default(), Err(error)),
        };
        damaged |= !is_whole(args, path, read);
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

fn open_file(path: &Path) -> Result<CaptureFile, CaptureFileError> {
    if is_standard_input(path) { CaptureFile::standard_input() } else { CaptureFile::open(path) }
}

/// Reports what could not be read of a file. Returns whether the file is whole, and has frames that can be analysed.
fn is_whole(args: &Args, path: &Path, (links, outcome): (Links, Result<(), CaptureFileError>)) -> bool {
    let mut whole = true;
    if let Some(text) = links.unsupported_text().filter(|_| !args.json || !links.any_supported) {
        whole = links.any_supported;
        super::complain(format_args!("{}: {text}", path.display()));
    }
    if let Err(error) = outcome {
        whole = false;
        super::complain(one_line(&error));
    }
    whole
}

/// Confines the process to the capture files, the log and the store, before it reads any of them. Creates the
/// directories of log and store if there is a file to read: a mistyped name leaves nothing behind. Connects a
/// socket for records first, and returns the sink, because a confined process cannot connect.
fn confine(args: &Args, settings: &Config) -> anyhow::Result<Option<Sink>> {
    let eve = &settings.eve;
    let destination = super::eve::destination(eve, &settings.capture.log_dir);
    let is_socket = matches!(destination, Destination::Socket { .. });
    let records = destination.needed_files();
    let store = Files { write: args.store.iter().cloned().collect(), ..Files::default() };
    if args.files.iter().any(|path| is_standard_input(path) || path.exists()) {
        // If they cannot be created, the code that opens them reports the error.
        for directory in &records.write {
            let _ = eve.modes.make_directory(directory);
        }
        for directory in &store.write {
            let _ = mirror_store::make_directory(directory, settings.store.settings.permissions);
        }
    }
    let files = args.files.iter().filter(|path| !is_standard_input(path)).chain(&eve.names);
    let key = settings.store.key.iter().filter(|_| args.store.is_some());
    let own = Files {
        read: files.chain(key).cloned().collect(),
        write: records.write.iter().chain(&store.write).cloned().collect(),
        ..Files::default()
    };
    sandbox::install(&[(Kind::Read, own), (Kind::Records, records), (Kind::Store, store)].into())?;
    let sink = is_socket.then(|| open_sink(args, settings)).transpose()?;
    sandbox::this_thread(Kind::Read);
    Ok(sink)
}

fn open_sink(args: &Args, settings: &Config) -> anyhow::Result<Sink> {
    let destination = super::eve::destination(&settings.eve, &settings.capture.log_dir);
    let sink = super::eve::open(destination, settings.eve.types.clone(), StallPolicy::Endless, args.json)?;
    sink.set(sink_settings(settings));
    if !settings.eve.names.is_empty() {
        let files: Result<Vec<_>, _> = settings.eve.names.iter().map(|path| NamesFile::read(path)).collect();
        sink.names().leave(Some(Arc::new(Names::new(&files?))));
    }
    Ok(sink)
}

/// The link layers of a file's frames.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    any_supported: bool,
    /// The first that is not supported.
    unsupported: Option<u32>,
}

impl Links {
    /// Describes frames that were not analysed because of their link layer, if there are any.
    fn unsupported_text(&self) -> Option<String> {
        let number = self.unsupported?;
        let name = link_name(number).map_or_else(String::new, |name| format!(" ({name})"));
        Some(if self.any_supported {
            format!(
                "its frames of link type {number}{name} cannot be analysed: the link layer is not supported"
            )
        } else {
            format!("none of its frames can be analysed: link type {number}{name} is not supported")
        })
    }
}

/// The indicators and rules, which are loaded once for all files.
struct Shared {
    indicators: Arc<Indicators>,
    rules: Option<Arc<Engine>>,
    workers: NonZeroUsize,
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
    fn new(args: &Args, settings: &Config, shared: &Shared, sink: Sink) -> anyhow::Result<Self> {
        let config = WorkerConfig {
            max_flows: settings.capture.max_flows,
            hash_seed: offline::HASH_SEED,
            dedup: settings.analysis.dedup,
            flow_scope: settings.analysis.flow_scope,
            midstream: args.midstream,
            memory: Memory::FILES,
            tuning: settings.tuning(),
        };
        let store = super::store::open(args.store.as_deref(), &settings.store)?;
        let kept = store.as_ref().and_then(Store::rules);
        let worker = |(number, records): (usize, Producer)| {
            let recorder = store.as_ref().map(|store| store.handle(number, Overflow::Wait)).transpose()?;
            let mut worker = Worker::builder(config, records)
                .recorder(recorder.map(|recorder| recorder.by_rules(kept.clone())))
                .indicators(Some(Arc::clone(&shared.indicators)))
                .one_of(shared.workers)
                .build();
            // Thresholds count anew for each file that is read apart.
            worker.inspect(shared.rules.clone().map(Rules::new));
            Ok(worker)
        };
        let workers = sink.producers(shared.workers).into_iter().enumerate().map(worker);
        let workers = workers.collect::<anyhow::Result<_>>()?;
        let mut frames = offline::Reader::across(workers, super::parser_ports(&settings.ports))
            .context("cannot start the workers")?;
        if settings.policy != Policy::default() {
            frames = frames.with_gate(Box::new(gate::Rules::new(&settings.policy, kept.as_deref())?));
        }
        Ok(Self { sink, store, frames, progress: Progress::new(args.json), quiet: args.json })
    }

    /// Reads a file. Returns the link layers of its frames, also of a damaged one.
    fn read(&mut self, file: CaptureFile) -> (Links, Result<(), CaptureFileError>) {
        let mut links = Links::default();
        let outcome = file.for_each(|frame| {
            if frame.link.is_some() {
                links.any_supported = true;
            } else {
                links.unsupported.get_or_insert(frame.link_number);
            }
            self.frames.frame(&frame);
            self.progress.show(self.frames.frames());
        });
        self.progress.clear();
        (links, outcome)
    }

    /// Ends all flows, and closes log and store.
    fn finish(mut self, elapsed: Duration) -> anyhow::Result<Totals> {
        let mut totals = self.account(elapsed)?;
        totals.records = Records::new(self.frames.counters().records_lost, &self.sink.finish());
        if let Some(store) = self.store {
            // This command uploads nothing.
            let _ = super::store::finish(store, self.quiet);
        }
        Ok(totals)
    }

    /// Ends all flows, and writes the account.
    fn account(&mut self, elapsed: Duration) -> anyhow::Result<Totals> {
        self.frames.finish();
        self.progress.clear();
        let frames = self.frames.frames();
        let Frames { seen, bytes, mirrored, plain, .. } = *frames;
        let dropped = Named(frames.dropped().collect());
        let shunted = Named(frames.shunted().collect());
        let recorder = self.frames.workers().find_map(|worker| worker.recorder().as_ref());
        let stored = recorder.map(StoreHandle::counters);
        let counters = self.frames.counters();
        let records_lost = counters.records_lost;
        let analysed = stats::Worker::new(0, stats::Handoff::default(), counters, stored);
        let unaccounted = seen.abs_diff(mirrored + plain + dropped.sum() + shunted.sum())
            + (mirrored + plain).abs_diff(analysed.delivered)
            + analysed.imbalance();
        let totals = Totals {
            seconds: elapsed.as_secs_f64(),
            frames: FrameTotals { seen, bytes, mirrored, plain, dropped, shunted },
            records: Records::new(records_lost, &self.sink.flush()),
            workers: [analysed],
            unaccounted,
        };
        self.sink.stats(self.frames.now(), &totals).context("cannot write the statistics")?;
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
    /// Malformed, not admitted or rejected.
    dropped: Named,
    /// Counted by a rule.
    shunted: Named,
}

impl Totals {
    /// Prints the totals for people.
    fn print(&self) {
        let FrameTotals { seen, bytes, mirrored, plain, dropped, shunted } = &self.frames;
        let [worker] = &self.workers;
        eprintln!(
            "read {} frames, {}, {} flows in {:.1} s",
            grouped(*seen),
            with_unit(*bytes as f64, "B"),
            grouped(worker.flows_total),
            self.seconds,
        );
        eprintln!(
            "{} mirrored, {} plain, {} dropped{}",
            grouped(*mirrored),
            grouped(*plain),
            grouped(dropped.sum()),
            listed(dropped),
        );
        if shunted.sum() > 0 {
            eprintln!("shunted: {}{}", grouped(shunted.sum()), listed(shunted));
        }
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
