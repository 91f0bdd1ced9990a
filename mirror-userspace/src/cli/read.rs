//! `mirror-xdp read`: the worker of the live capture over capture files.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::{MAX_PORTS, VxlanPorts, decapsulate};
use serde::{Serialize, Serializer};

use crate::capture_file::{CaptureFile, CaptureFileError, FileFrame};
use crate::packet::LinkType;
use crate::sink::{Overflow, Sink, SinkCounters};
use crate::worker::{FrameInfo, Mirror, Worker, WorkerConfig, WorkerCounters};

/// Seed of the flow hash: fixed, so that a file gives the same records each time. Nobody can aim at a
/// table that nobody else sends to.
const HASH_SEED: u64 = 0x6d69_7272_6f72;

/// Analyse capture files as if their frames had been captured
///
/// Mirrored frames (VXLAN) are decapsulated, all others are taken as they are. Records are appended to
/// eve.json in the log directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp read session.pcap                      records go to ./eve.json
  mirror-xdp read --log-dir out a.pcap b.pcapng.gz  several files, in this order
  mirror-xdp read --json session.pcap | jq .workers totals for scripts")]
pub(super) struct Args {
    /// Capture files: pcap or pcapng, plain or compressed by gzip or zstd
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Directory of eve.json; made if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    log_dir: PathBuf,

    /// Print the totals as one JSON object on stdout, and nothing on stderr
    #[arg(long)]
    json: bool,

    /// Flows that are kept at one time; above, the flow that was idle the longest ends
    #[arg(long, value_name = "N", default_value_t = WorkerConfig::default().max_flows as u32,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_flows: u32,

    /// UDP ports that mirrored frames are sent to
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', default_value = "4789",
          value_parser = clap::value_parser!(u16).range(1..))]
    vxlan_port: Vec<u16>,
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut reader = Reader::new(&args)?;
    let mut damaged = false;
    for path in &args.files {
        if let Err(error) = reader.read(path) {
            damaged = true;
            eprintln!("mirror-xdp: {error}");
        }
    }
    let totals = reader.finish(start.elapsed())?;
    if args.json {
        println!("{}", serde_json::to_string(&totals).context("cannot write the totals")?);
    } else {
        totals.print();
    }
    let failed = damaged || totals.records.lost > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The counters of dropped frames with their names.
fn by_name<S: Serializer>(dropped: &[u64; Counter::COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    let counters = Counter::ALL.iter().filter(|counter| counter.fate() == Fate::Dropped);
    serializer.collect_map(counters.map(|&counter| (counter.name(), dropped[counter as usize])))
}

struct Reader {
    ports: VxlanPorts,
    sink: Sink,
    worker: Worker,
    frames: Frames,
    progress: Progress,
}

/// What became of the files' frames before they reached the worker.
#[derive(Clone, Debug, Default, Serialize)]
struct Frames {
    seen: u64,
    bytes: u64,
    mirrored: u64,
    plain: u64,
    /// Malformed mirror traffic, by [`Counter`].
    #[serde(serialize_with = "by_name")]
    dropped: [u64; Counter::COUNT],
}

impl Reader {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let mut ports = [0; MAX_PORTS];
        anyhow::ensure!(
            args.vxlan_port.len() <= MAX_PORTS,
            "--vxlan-port takes at most {MAX_PORTS} ports, not {}",
            args.vxlan_port.len()
        );
        for (slot, &port) in ports.iter_mut().zip(&args.vxlan_port) {
            *slot = port;
        }
        let sink = Sink::open(&args.log_dir)?;
        let config = WorkerConfig { max_flows: args.max_flows as usize, hash_seed: HASH_SEED };
        let worker = Worker::new(config, sink.producer(Overflow::Wait));
        let progress = Progress::new(args.json);
        Ok(Self { ports: VxlanPorts(ports), sink, worker, frames: Frames::default(), progress })
    }

    fn read(&mut self, path: &std::path::Path) -> Result<(), CaptureFileError> {
        CaptureFile::open(path)?.for_each(|frame| {
            self.frame(&frame);
            self.progress.show(&self.frames);
        })
    }

    fn frame(&mut self, frame: &FileFrame<'_>) {
        self.frames.seen += 1;
        self.frames.bytes += u64::from(frame.original_len);
        let link = LinkType::from_number(frame.link);
        if link == Some(LinkType::Ethernet) {
            match decapsulate(frame.bytes, &self.ports) {
                Ok(outer) => {
                    let inner = frame.bytes.get(outer.inner_offset..).unwrap_or_default();
                    let inner = inner.get(..outer.inner_len).unwrap_or(inner);
                    let mirror = Mirror {
                        vni: outer.vni,
                        outer_source: outer.source,
                        outer_destination: outer.destination,
                    };
                    self.frames.mirrored += 1;
                    return self.ethernet(frame.time, inner, inner.len(), Some(mirror));
                }
                Err(counter) if counter.fate() == Fate::Dropped => {
                    self.frames.dropped[counter as usize] += 1;
                    return;
                }
                Err(_) => {}
            }
            self.frames.plain += 1;
            return self.ethernet(frame.time, frame.bytes, frame.original_len as usize, None);
        }
        self.frames.plain += 1;
        let info = FrameInfo {
            time: frame.time,
            original_len: frame.original_len,
            // Of the first packet in an Ethernet frame only; the worker hashes all others itself.
            flow_hash: FlowHash::default(),
            mirror: None,
        };
        self.worker.link_frame(&info, link, frame.bytes);
        self.worker.tick(frame.time);
    }

    /// Hands on an inner frame of which `original_len` bytes are known to have been on the wire.
    fn ethernet(&mut self, time: u64, frame: &[u8], original_len: usize, mirror: Option<Mirror>) {
        let inner = InnerHeaders::parse(frame, 0);
        // Only the inner lengths say what a mirror cut off.
        let original_len = if mirror.is_some() { inner.original_len(original_len) } else { original_len };
        let flow_hash = inner.flow_hash(HASH_SEED);
        self.worker.frame(&FrameInfo { time, original_len: original_len as u32, flow_hash, mirror }, frame);
        self.worker.tick(time);
    }

    fn finish(mut self, elapsed: Duration) -> anyhow::Result<Totals> {
        self.worker.finish();
        self.progress.clear();
        let mut totals = Totals {
            seconds: elapsed.as_secs_f64(),
            frames: self.frames,
            workers: [self.worker.counters()],
            records: self.sink.counters(),
            unaccounted: 0,
        };
        totals.unaccounted = totals.unaccounted();
        self.sink.stats(self.worker.now(), &totals).context("cannot write the statistics")?;
        totals.records = self.sink.finish();
        Ok(totals)
    }
}

/// Everything that was counted.
#[derive(Clone, Debug, Serialize)]
struct Totals {
    seconds: f64,
    frames: Frames,
    workers: [WorkerCounters; 1],
    records: SinkCounters,
    unaccounted: u64,
}

impl Totals {
    /// How far the counters are from adding up: 0, or there is a mistake in the program.
    fn unaccounted(&self) -> u64 {
        let Frames { seen, mirrored, plain, dropped, .. } = &self.frames;
        let worker = &self.workers[0];
        seen.abs_diff(mirrored + plain + dropped.iter().sum::<u64>())
            + (mirrored + plain).abs_diff(worker.delivered)
            + worker.unaccounted()
    }

    /// Prints the totals for people.
    fn print(&self) {
        let Frames { seen, bytes, mirrored, plain, dropped } = &self.frames;
        let worker = &self.workers[0];
        eprintln!(
            "{seen} frames, {} in {:.1} s: {mirrored} mirrored, {plain} plain",
            Bytes(*bytes),
            self.seconds
        );
        let dropped = Counter::ALL.iter().map(|&counter| (counter.name(), dropped[counter as usize]));
        print_reasons("not decapsulated", dropped);
        print_reasons("without a flow", worker.refused.iter().copied());
        let written: Vec<_> =
            self.records.written_by_kind().map(|(kind, count)| format!("{count} {kind}")).collect();
        eprintln!("{} flows; records: {}", worker.flows_total, written.join(", "));
        if self.records.lost > 0 {
            eprintln!("{} records could not be written", self.records.lost);
        }
        if self.unaccounted > 0 {
            eprintln!("{} frames are not accounted for: please report this", self.unaccounted);
        }
    }
}

/// Prints the reasons that occurred, if any did.
fn print_reasons(what: &str, reasons: impl Iterator<Item = (&'static str, u64)>) {
    let (mut total, mut text) = (0, String::new());
    for (name, count) in reasons.filter(|&(_, count)| count > 0) {
        total += count;
        text.push_str(if text.is_empty() { "" } else { ", " });
        let _ = write!(text, "{name} {count}");
    }
    if total > 0 {
        eprintln!("{total} {what}: {text}");
    }
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0);
        write!(f, "{value:.decimals$} {}", UNITS[unit])
    }
}

/// A line on the terminal that says how far the reading is, for files that take long.
struct Progress {
    start: Instant,
    shown: Option<Instant>,
    wanted: bool,
}

impl Progress {
    const DELAY: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_millis(200);
    /// Frames between two looks at the clock.
    const STRIDE: u64 = 1024;

    fn new(quiet: bool) -> Self {
        Self { start: Instant::now(), shown: None, wanted: !quiet && std::io::stderr().is_terminal() }
    }

    fn show(&mut self, frames: &Frames) {
        if !self.wanted || frames.seen % Self::STRIDE != 0 || self.start.elapsed() < Self::DELAY {
            return;
        }
        if self.shown.is_none_or(|shown| shown.elapsed() >= Self::INTERVAL) {
            self.shown = Some(Instant::now());
            eprint!("\r{} frames, {} \x1b[K", frames.seen, Bytes(frames.bytes));
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
