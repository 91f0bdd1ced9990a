//! `mirror-xdp tail`: shows frames of a running capture as they arrive, for people, scripts and Wireshark.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use mirror_base::sandbox::{Files, Kind};
use mirror_control::observe::control::{Client, DEFAULT_PATH, Message, Request};
use mirror_control::observe::summary::{self, Summary};
use mirror_packet::FrameInfo;
use mirror_records::sink::Modes;
use mirror_store::copy::{self, CopyCounts};
use mirror_store::expression::Expression;
use mirror_store::pcapng::Writer;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::progress::grouped;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp tail 'tcp port 443' --vni 7
  mirror-xdp tail --count 10 --json 'outer src 10.0.1.17 and icmp'
  mirror-xdp tail -w - 'udp port 53' | wireshark -k -i -
  mirror-xdp tail -w - --rate unlimited 'host 10.1.2.3' > host.pcapng

The filter uses tcpdump's syntax (`man pcap-filter`) on the inner frames, and in addition: vni 7, vni 100-199,
outer src 10.0.0.0/16, community-id ID. The workers apply it and copy matching frames into a ring of 2 MiB
each. When a ring is full, or more frames match than --rate allows, the copy is dropped and counted; the
capture is not affected.";

/// Show frames of a running capture
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Filter in tcpdump's syntax; all frames without it
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,

    /// Only frames of these VNIs, such as 7 or 100-199; may be given several times
    #[arg(long, value_name = "N|N-M")]
    vni: Vec<String>,

    /// Write pcapng to this file instead; `-` is standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    write: Option<PathBuf>,

    /// Write each frame's summary as a JSON object on a line
    #[arg(long)]
    json: bool,

    /// End after this many frames
    #[arg(short, long, value_name = "N")]
    count: Option<NonZeroU64>,

    /// Maximum number of frames a second that each worker copies; `unlimited` for no limit but the ring
    #[arg(long, value_name = "N", default_value = "10000", value_parser = rate)]
    rate: Rate,

    /// Maximum number of bytes of each frame
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65535))]
    snaplen: Option<u32>,

    /// Control socket of the capture
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// Frames a second.
#[derive(Clone, Copy, Debug)]
struct Rate(Option<u32>);

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "unlimited" => Ok(Rate(None)),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("must be a number of at least 1, or `unlimited`".to_owned()),
            Ok(rate) => Ok(Rate(Some(rate))),
        },
    }
}

/// The output format and destination.
enum Output<'o> {
    Lines { out: &'o mut dyn Write, text: String },
    Json { out: &'o mut dyn Write },
    Pcapng(Box<Writer<&'o mut dyn Write>>),
}

impl Output<'_> {
    fn frame(&mut self, info: &FrameInfo, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Lines { out, text } => {
                text.clear();
                summary::write_line(text, info, frame);
                out.write_all(text.as_bytes())
            }
            Self::Json { out } => {
                serde_json::to_writer(&mut *out, &Summary::of(info, frame))?;
                out.write_all(b"\n")
            }
            Self::Pcapng(writer) => writer.frame(info, frame),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines { out, .. } | Self::Json { out } => out.flush(),
            Self::Pcapng(writer) => writer.flush(),
        }
    }
}

/// The number of frames shown, and the counters of the others.
#[derive(Debug, Default)]
struct Outcome {
    shown: u64,
    counts: CopyCounts,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = match combined(&args.filter.join(" "), &args.vni) {
        Ok(filter) => filter,
        Err(error) => return Ok(wrong(&error)),
    };
    let request =
        Request { filter, snaplen: args.snaplen.map(|snaplen| snaplen as usize), rate: args.rate.0 };
    let to_stdout = args.write.as_deref().is_none_or(|path| path == Path::new("-"));
    if args.write.is_some() && to_stdout && io::stdout().is_terminal() {
        return Ok(wrong("pcapng cannot go to a terminal; pipe it on, for example to `wireshark -k -i -`"));
    }
    let client = Client::connect(&args.control, &request)?;
    let mut file: Box<dyn Write> = match &args.write {
        Some(path) if !to_stdout => {
            Box::new(super::store::create_outside(path, Modes::default().create().truncate(true))?)
        }
        _ => Box::new(io::stdout()),
    };
    let stop = stop_flag()?;
    // The process now handles the frames of others.
    super::confined::to(Kind::Read, Files::default())?;
    let mut out = BufWriter::new(&mut file);
    let output = match (&args.write, args.json) {
        (Some(_), _) => pcapng(&mut out)?,
        (None, true) => Output::Json { out: &mut out },
        (None, false) => Output::Lines { out: &mut out, text: String::new() },
    };
    let outcome = pump(client, output, args.count, &stop)?;
    drop(out);
    let Outcome { shown, counts } = outcome;
    eprintln!(
        "{} frames, {} more not shown: {} beyond --rate, {} not read in time",
        grouped(shown),
        grouped(counts.limited + counts.lost),
        grouped(counts.limited),
        grouped(counts.lost)
    );
    Ok(ExitCode::SUCCESS)
}

/// Prints an error about wrong usage on one line, and returns the exit code for it.
fn wrong(message: &str) -> ExitCode {
    super::complain(message);
    ExitCode::from(2)
}

/// Combines the filter and the VNIs to one expression. It is compiled here so that errors are reported before
/// the appliance is contacted.
fn combined(filter: &str, vnis: &[String]) -> Result<String, String> {
    let mut text = filter.trim().to_owned();
    if !vnis.is_empty() {
        let vnis = vnis.iter().map(|vni| format!("vni {vni}")).collect::<Vec<_>>().join(" or ");
        // `and` and `or` have the same precedence in this language, and associate to the left.
        text = if text.is_empty() { vnis } else { format!("{text} and ({vnis})") };
    }
    let expression = Expression::parse(&text).map_err(|error| error.to_string())?;
    if expression.matches_nothing() {
        return Err(format!("no frame can match `{text}`"));
    }
    Ok(text)
}

fn pcapng(out: &mut dyn Write) -> io::Result<Output<'_>> {
    let mut writer = Writer::new(out)?;
    // Wireshark waits for the file's header.
    writer.flush()?;
    Ok(Output::Pcapng(Box::new(writer)))
}

/// Returns a flag that is set when the process is to end in order.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Writes frames until the count is reached, the capture ends, the reader closes the pipe, or `stop` is set.
fn pump(
    mut client: Client,
    mut output: Output<'_>,
    count: Option<NonZeroU64>,
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut write = |outcome: &mut Outcome, frames: &[u8]| {
        for (head, frame) in copy::frames(frames) {
            if count.is_some_and(|count| outcome.shown >= count.get()) {
                break;
            }
            output.frame(&head.info(), frame)?;
            outcome.shown += 1;
        }
        output.flush()
    };
    while count.is_none_or(|count| outcome.shown < count.get()) {
        match client.next(stop).context("the connection to the appliance broke")? {
            None => break,
            Some(Message::Counts(counts)) => outcome.counts = counts,
            Some(Message::Frames(frames)) => match write(&mut outcome, &frames) {
                Ok(()) => {}
                // The reader has closed the pipe.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error).context("cannot write"),
            },
        }
    }
    Ok(outcome)
}

/// Writes pcapng for Wireshark's extcap interface until the pipe is closed.
pub(super) fn to_fifo(control: &Path, filter: &str, fifo: &Path) -> anyhow::Result<ExitCode> {
    // Opened before anything can fail: Wireshark waits for the other end of the pipe, and forever if that is
    // closed before it looks.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(fifo)
        .with_context(|| format!("cannot open {}", fifo.display()))?;
    let filter = match combined(filter, &[]) {
        Ok(filter) => filter,
        Err(error) => return Ok(wrong(&error)),
    };
    let client = Client::connect(control, &Request { filter, snaplen: None, rate: None })?;
    let mut out = BufWriter::new(&mut file);
    pump(client, pcapng(&mut out)?, None, &*stop_flag()?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnis_are_put_behind_the_filter() {
        let vnis = ["7".to_owned(), "100-199".to_owned()];
        assert_eq!(combined("tcp or udp", &vnis).unwrap(), "tcp or udp and (vni 7 or vni 100-199)");
        assert_eq!(combined(" ", &vnis[..1]).unwrap(), "vni 7");
        assert!(combined("", &["x".to_owned()]).is_err());
        assert!(combined("tcp and udp", &[]).unwrap_err().contains("no frame can match"));
    }
}
