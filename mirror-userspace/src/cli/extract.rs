//! `mirror-xdp extract`: extracts packets from a store, using its indexes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use mirror_packet::CommunityId;
use mirror_records::sink::Modes;
use mirror_store::StoreKey;
use mirror_store::expression::Expression;
use mirror_store::reader::{Effort, Reader, Wanted};
use mirror_store::remote::{Location, RemoteReader};
use serde::Serialize;

use super::progress::{CLEAR, grouped, with_unit};
use super::store::Place;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp extract --store /data/packets 'host 10.1.2.3 and port 443 and vni 7' -w found.pcapng
  mirror-xdp extract --store /data/packets --flow 1:LQU9qZlK+B5F3KDmev6m5PMibrg= | tshark -r -
  mirror-xdp extract --store /data/packets --from 2026-03-01T08:00:00Z --to 2026-03-01T08:05:00Z tcp -w five.pcapng
  mirror-xdp extract --store /data/packets --from -10min 'udp port 53' --stats -w dns.pcapng
  mirror-xdp extract --store s3://bucket/appliance-1 'host 10.1.2.3' -w found.pcapng
  mirror-xdp extract --store /data/packets --copy file:///mnt/packets tcp -w found.pcapng

Expressions use tcpdump's syntax (`man pcap-filter`) on the inner frame, and in addition:
  vni N, vni N-M          the mirror session's VNI
  outer src A, A/PREFIX   the mirrored interface
  community-id ID         the flow, in both directions, also within other packets";

/// Extract packets from a store, in the order of time, even while the store is written to
///
/// The indexes tell which parts of the store may contain matches; only those are read. Segments that were
/// deleted after their upload are read from where they were uploaded to, see --copy.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The store: the argument of `run --store`, or of `--store-upload`
    #[arg(long, value_name = "DIR|URL", value_parser = Place::parse)]
    store: Place,

    /// Skip segments that were deleted from the directory, even if they were uploaded before
    #[arg(long)]
    local: bool,

    /// Read segments that were deleted from the directory from this URL, which they were uploaded to.
    /// Required: the manifest alone does not make mirror-xdp contact a server, or read another directory
    #[arg(long, value_name = "URL", value_parser = super::store::location, conflicts_with = "local")]
    copy: Vec<Location>,

    /// Start time: 2026-03-01T08:00:00Z, or relative to now, such as -10min
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    from: Option<u64>,

    /// End time, exclusive
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    to: Option<u64>,

    /// Expression that packets must match; all packets without it
    #[arg(value_name = "EXPRESSION")]
    expression: Vec<String>,

    /// Only packets of this flow, by its `community_id` in the records
    #[arg(long, value_name = "COMMUNITY_ID", value_parser = community_id)]
    flow: Option<CommunityId>,

    /// File to write; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,

    /// Key file of an encrypted store
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Print how much was read
    #[arg(long)]
    stats: bool,

    /// Print that as one JSON object; on stderr if the packets go to stdout
    #[arg(long)]
    json: bool,
}

/// Parses a point in time, to nanoseconds since the epoch.
pub(super) fn time(text: &str) -> Result<u64, String> {
    let time = match text.strip_prefix('-') {
        Some(ago) => {
            let ago = humantime::parse_duration(ago).map_err(|error| error.to_string())?;
            SystemTime::now().checked_sub(ago).ok_or("the time is too far in the past")?
        }
        None => humantime::parse_rfc3339_weak(text).map_err(|_| {
            "write a time in UTC such as 2026-03-01T08:00:00Z, or relative to now, such as -10min".to_owned()
        })?,
    };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).map_err(|_| "the time is too far in the future".to_owned())
}

fn community_id(text: &str) -> Result<CommunityId, String> {
    text.parse().map_err(|error| format!("{error}; write one such as 1:LQU9qZlK+B5F3KDmev6m5PMibrg="))
}

/// The result that `--json` prints.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    effort: Effort,
    seconds: f64,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut text = args.expression.join(" ");
    if let Some(id) = &args.flow {
        let flow = format!("community-id {id}");
        text = if text.trim().is_empty() { flow } else { format!("({text}) and {flow}") };
    }
    let expression = match Expression::parse(&text) {
        Ok(expression) => expression,
        Err(error) => {
            super::complain(error);
            return Ok(ExitCode::from(2));
        }
    };
    let wanted = Wanted { from: args.from.unwrap_or(0), to: args.to.unwrap_or(u64::MAX), expression };
    if wanted.from >= wanted.to {
        eprintln!("mirror-xdp: --from is not before --to; give an earlier --from");
        return Ok(ExitCode::from(2));
    }
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && stdout().is_terminal() {
        eprintln!(
            "mirror-xdp: packets cannot go to a terminal; name a file with -w, or append `| tshark -r -`"
        );
        return Ok(ExitCode::from(2));
    }
    let key = args.key.as_deref().map(StoreKey::load).transpose()?;
    let output: Box<dyn Write> = if to_stdout {
        Box::new(stdout().lock())
    } else {
        if let Place::Directory(directory) = &args.store {
            super::store::is_store(directory)?;
        }
        // Opened before the process is confined; truncated once there is something to write.
        let file = super::store::create_outside(&args.write, Modes::default().create().truncate(false))?;
        Box::new(Emptied::new(file))
    };
    super::confined::to_store(&args.store, &args.copy)?;
    let mut reader = match &args.store {
        Place::Directory(directory) => Reader::open(directory, key)?,
        Place::Copy(_) if args.local => {
            eprintln!("mirror-xdp: --local applies to a directory, not to the URL of a copy");
            return Ok(ExitCode::from(2));
        }
        Place::Copy(location) => Reader::open_copy(RemoteReader::open(location)?, key),
    };
    if args.local {
        reader.only_local();
    }
    reader.read_copies(args.copy.clone());
    let mut output = BufWriter::with_capacity(1 << 20, output);
    let mut progress = Progress::new(start, args.json);
    let result =
        reader.extract(&wanted, &mut output, |done, total, effort| progress.show(done, total, effort));
    progress.clear();
    for strange in reader.strange() {
        super::complain(strange);
    }
    if let Err(error) = result {
        // The reader of the pipe has closed it.
        let closed = matches!(&error, mirror_store::reader::ReadError::Write(error)
            if error.kind() == io::ErrorKind::BrokenPipe);
        return if closed { Ok(ExitCode::SUCCESS) } else { Err(error.into()) };
    }
    let summary = Summary { effort: reader.effort, seconds: start.elapsed().as_secs_f64() };
    if args.json {
        let text = serde_json::to_string(&summary)?;
        if to_stdout { eprintln!("{text}") } else { println!("{text}") }
    } else if args.stats || !to_stdout {
        eprint!("{}", summary.text(args.stats));
    }
    if reader.is_incomplete() {
        eprintln!("mirror-xdp: packets may be missing; run `mirror-xdp verify`");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that keeps its content until something is written.
struct Emptied {
    file: File,
    is_emptied: bool,
}

impl Emptied {
    const fn new(file: File) -> Self {
        Self { file, is_emptied: false }
    }

    fn empty(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_emptied, true) && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

impl Write for Emptied {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.empty()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.empty()?;
        self.file.flush()
    }
}

impl Summary {
    fn text(&self, with_effort: bool) -> String {
        let Self { effort, seconds } = self;
        let bytes = |bytes: u64| with_unit(bytes as f64, "B");
        let mut text =
            format!("{} packets, {}, in {seconds:.2} s\n", grouped(effort.packets), bytes(effort.bytes));
        if with_effort {
            // Writing to a string cannot fail.
            _ = writeln!(
                text,
                "read {} of indexes of {} of {} segments, and {} in {} chunks of {} in store",
                bytes(effort.index_bytes),
                grouped(effort.indexes_read),
                grouped(effort.segments),
                bytes(effort.bytes_read),
                grouped(effort.chunks_read),
                bytes(effort.store_bytes),
            );
            if effort.requests > 0 {
                _ = writeln!(text, "{} requests to an object store", grouped(effort.requests));
            }
        }
        text
    }
}

/// A progress line on the terminal, shown only if the command takes long.
struct Progress {
    start: Instant,
    shown: Option<Instant>,
    wanted: bool,
}

impl Progress {
    fn new(start: Instant, quiet: bool) -> Self {
        Self { start, shown: None, wanted: !quiet && io::stderr().is_terminal() }
    }

    fn show(&mut self, done: usize, total: usize, effort: &Effort) {
        const DELAY: Duration = Duration::from_secs(2);
        const INTERVAL: Duration = Duration::from_millis(200);
        if !self.wanted
            || self.start.elapsed() < DELAY
            || self.shown.is_some_and(|shown| shown.elapsed() < INTERVAL)
        {
            return;
        }
        self.shown = Some(Instant::now());
        match (done * 100).checked_div(total) {
            Some(percent) => eprint!("{CLEAR}{percent} %  {} packets", grouped(effort.packets)),
            None => eprint!("{CLEAR}{} indexes read", grouped(effort.indexes_read)),
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            eprint!("{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_times_beyond_the_range_of_packets_are_refused() {
        assert_eq!(time("1970-01-01T00:00:02Z"), Ok(2_000_000_000));
        assert!(time("2554-01-01T00:00:00Z").is_ok());
        for text in ["2600-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
