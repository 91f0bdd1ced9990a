//! `mirror-xdp read`: runs the worker of the live capture on capture files.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_common::wire::protocol;
use serde::Serialize;
use zerocopy::FromBytes;

use super::log::Format;
use super::progress::{CLEAR, grouped, listed, with_unit};
use crate::capture_file::{CaptureFile, CaptureFileError, FileFrame};
use crate::config;
use crate::confine::{self, Files, Kind};
use crate::datapath::program::LogLevel;
use crate::error::one_line;
use crate::flow::SECOND;
use crate::packet::{self, LinkType};
use crate::sink::{Destination, Overflow, Patience, Sink};
use crate::stats::{self, Named, Records};
use crate::store::Store;
use crate::worker::{FrameInfo, Mirror, Worker, WorkerConfig};

/// The seed of the flow hash. It is fixed, so that a file gives the same records each time. An attacker gains
/// nothing from knowing it, because no live traffic reaches this table.
const HASH_SEED: u64 = 0x6d69_7272_6f72;
/// The key that hashes each frame's flow for the packet store.
const HASH_KEY: FlowHashKey = FlowHashKey::new(HASH_SEED);

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
    #[arg(value_parser = super::max_flows)]
    max_flows: usize,

    /// If both ends of conversations are mirrored: analyse one copy of each packet, and count the other
    #[arg(long, value_enum, default_value_t, value_name = "on|off", hide_possible_values = true)]
    dedup: super::Switch,

    #[command(flatten)]
    ports: super::PortArgs,
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
    let destination = args.eve.destination(&args.log_dir, &config::EveSettings::default());
    let is_socket = matches!(destination, Destination::Socket { .. });
    let records = destination.needed_files();
    let store = Files { write: args.store.iter().cloned().collect(), ..Files::default() };
    if args.files.iter().any(|path| path.exists()) {
        // If they cannot be created, the code that opens them reports the error.
        for directory in &records.write {
            let _ = config::EveSettings::default().modes.make_directory(directory);
        }
        for directory in &store.write {
            let _ = crate::store::make_directory(
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
    confine::install(&[(Kind::Read, own), (Kind::Records, records), (Kind::Store, store)].into())?;
    let sink = is_socket.then(|| open_sink(args)).transpose()?;
    confine::this_thread(Kind::Read);
    Ok(sink)
}

fn open_sink(args: &Args) -> anyhow::Result<Sink> {
    let eve = config::EveSettings::default();
    let destination = args.eve.destination(&args.log_dir, &eve);
    Ok(super::eve::open(destination, args.eve.types(&eve), Patience::Endless, args.json)?)
}

struct Reader {
    ports: Ports,
    sink: Sink,
    store: Option<Store>,
    worker: Worker,
    frames: Frames,
    /// True if the last frame that was checked for an outer header had one.
    in_envelopes: bool,
    /// The end of the second of the worker's last tick, by the frames' time.
    second_ends: u64,
    progress: Progress,
    quiet: bool,
}

/// The frames of the files, by their fate before they reached the worker.
#[derive(Clone, Debug, Default)]
struct Frames {
    seen: u64,
    bytes: u64,
    mirrored: u64,
    plain: u64,
    /// Malformed mirror traffic, by [`Counter`].
    dropped: [u64; Counter::COUNT],
}

impl Reader {
    fn new(args: &Args, sink: Option<Sink>) -> anyhow::Result<Self> {
        let sink = sink.map_or_else(|| open_sink(args), Ok)?;
        let config = WorkerConfig {
            max_flows: args.max_flows,
            hash_seed: HASH_SEED,
            dedup: args.dedup.is_on(),
            ..WorkerConfig::default()
        };
        let mut worker = Worker::new(config, sink.producer(Overflow::Wait));
        let store = super::store::open(args.store.as_deref(), &config::StoreSettings::default())?;
        if let Some(store) = &store {
            worker.store_by(store.handle(0, Overflow::Wait)?);
        }
        let progress = Progress::new(args.json);
        Ok(Self {
            ports: args.ports.ports(&config::Ports::default()),
            sink,
            store,
            worker,
            frames: Frames::default(),
            in_envelopes: false,
            second_ends: 0,
            progress,
            quiet: args.json,
        })
    }

    fn read(&mut self, file: CaptureFile) -> Result<(), CaptureFileError> {
        file.for_each(|frame| {
            self.frame(&frame);
            self.progress.show(&self.frames);
        })
    }

    fn frame(&mut self, frame: &FileFrame<'_>) {
        self.frames.seen += 1;
        self.frames.bytes += u64::from(frame.original_len);
        let link = frame.link;
        let mut bytes = frame.bytes;
        let mut info = FrameInfo {
            time: frame.time,
            original_len: frame.original_len,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        };
        // Outer headers need a datagram: in a capture without mirrored frames, a TCP segment is decoded only
        // once.
        if link == Some(LinkType::Ethernet)
            && !self.in_envelopes
            && self.store.is_none()
            && let Some(packet) = packet::decode_usual(bytes, frame.original_len as usize)
            && packet.protocol == protocol::TCP
        {
            self.frames.plain += 1;
            self.worker.decoded_frame(&info, bytes, &packet);
            return self.tick(frame.time);
        }
        self.in_envelopes = false;
        if link == Some(LinkType::Ethernet) {
            let whole = Captured { bytes, original_len: frame.original_len as usize };
            match decapsulate(&whole, &self.ports) {
                Ok(outer) => {
                    self.in_envelopes = true;
                    self.frames.mirrored += 1;
                    bytes = bytes.get(outer.inner_offset..).unwrap_or_default();
                    bytes = bytes.get(..outer.inner_len).unwrap_or(bytes);
                    info.mirror = Some(Mirror {
                        vni: outer.vni,
                        outer_source: outer.source,
                        outer_destination: outer.destination,
                        endpoint: outer.gateway.endpoint,
                    });
                    // The inner lengths reveal bytes that a mirror cut off in addition.
                    let headers = InnerHeaders::parse(bytes, 0);
                    info.original_len = headers.original_len(outer.inner_len) as u32;
                    if self.store.is_some() {
                        info.flow_hash = headers.flow_hash(&HASH_KEY);
                    }
                }
                Err(counter) if counter.fate() == Fate::Dropped => {
                    self.frames.dropped[counter as usize] += 1;
                    return;
                }
                Err(_) => {
                    self.frames.plain += 1;
                    if self.store.is_some() {
                        info.flow_hash = InnerHeaders::parse(bytes, 0).flow_hash(&HASH_KEY);
                    }
                }
            }
        } else {
            self.frames.plain += 1;
        }
        self.worker.link_frame(&info, link, bytes);
        self.tick(frame.time);
    }

    /// Advances the worker's timers, which count whole seconds. A live worker also advances them after each
    /// batch.
    fn tick(&mut self, time: u64) {
        const BATCH: u64 = 64;
        if self.frames.seen.is_multiple_of(BATCH) || time >= self.second_ends {
            self.second_ends = (time / SECOND).saturating_add(1).saturating_mul(SECOND);
            self.worker.tick(time);
        }
    }

    fn finish(mut self, elapsed: Duration) -> anyhow::Result<Totals> {
        self.worker.finish();
        self.progress.clear();
        let Frames { seen, bytes, mirrored, plain, dropped } = self.frames;
        let counters = Counter::ALL.iter().filter(|counter| counter.fate() == Fate::Dropped);
        let dropped = Named(counters.map(|&counter| (counter.name(), dropped[counter as usize])).collect());
        let worker = stats::Worker::new(0, stats::HandOver::default(), self.worker.counters());
        let unaccounted = seen.abs_diff(mirrored + plain + dropped.sum())
            + (mirrored + plain).abs_diff(worker.delivered)
            + worker.imbalance();
        let mut totals = Totals {
            seconds: elapsed.as_secs_f64(),
            frames: FrameTotals { seen, bytes, mirrored, plain, dropped },
            records: Records::new(self.worker.counters().records_lost, &self.sink.flush()),
            workers: [worker],
            unaccounted,
        };
        self.sink.stats(self.worker.now(), &totals).context("cannot write the statistics")?;
        totals.records = Records::new(self.worker.counters().records_lost, &self.sink.finish());
        if let Some(store) = self.store {
            // This command uploads nothing.
            let _ = super::store::finish(store, self.quiet);
        }
        Ok(totals)
    }
}

/// A frame of which the file may contain only the beginning.
struct Captured<'f> {
    bytes: &'f [u8],
    original_len: usize,
}

impl Frame for Captured<'_> {
    fn len(&self) -> usize {
        self.original_len.max(self.bytes.len())
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        self.bytes.header(offset)
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A TCP segment, for which `read` skips the search for outer headers, is never encapsulated.
        #[test]
        fn what_is_decoded_as_tcp_is_no_envelope(
            (ipv6, tags, payload) in (any::<bool>(), 0_usize..5, 0_usize..64),
            changes in proptest::collection::vec((0_usize..80, any::<u8>()), 0..4),
            (captured, missing) in (0_usize..150, 0_usize..20),
        ) {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let builder =
                if ipv6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([1; 4], [2; 4], 64) };
            let mut frame = Vec::new();
            builder.tcp(4000, 4789, 7, 1000).write(&mut frame, &vec![0xab; payload]).unwrap();
            for _ in 0..tags {
                frame.splice(12..12, [0x81, 0, 0, 9]);
            }
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(captured);
            let original_len = frame.len() + missing;
            if packet::decode_usual(&frame, original_len).is_some_and(|it| it.protocol == protocol::TCP) {
                let outer = decapsulate(&Captured { bytes: &frame, original_len }, &Ports::default());
                prop_assert!(outer.is_err_and(|counter| counter.fate() != Fate::Dropped));
            }
        }
    }
}
