//! `mirror-xdp pktgen`: its arguments, its output for people and scripts, and the events that stop it.

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use mirror_control::pktgen::{
    Countable, Encapsulation, EngineChoice, Event, IMIX, Options, Oversize, Prepared, Ranges, Rate, Totals,
    Traffic, run,
};
use mirror_xdp_common::Vni;

use super::progress::{CLEAR, grouped, with_unit};

const EXAMPLES: &str = "\
Examples:
  mirror-xdp pktgen --interface eth1 --to 10.0.9.5 day.pcap        the capture once, as fast as it goes
  mirror-xdp pktgen -i eth1 --to 10.0.9.5 --rate 1x day.pcap       as it was captured
  mirror-xdp pktgen -i eth1 --to 10.0.9.5 --vni 1-100 --rate 1.5Mpps --duration 1min day.pcap
  mirror-xdp pktgen -i eth1 --to 10.0.9.5 --size imix --flows 100000 --rate 10Gbps
  mirror-xdp pktgen -i eth1 --count 1000003 --json day.pcap        exactly this many frames
  mirror-xdp pktgen -i eth1 --to 10.0.9.5 --engine kernel --size 8000   by the kernel's pktgen

Frames of a capture that were mirrored already keep their session unless --vni, --source or --to
override it; all others are encapsulated. Needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF. Send only
into networks that are yours.";

/// The range of sizes of synthetic frames in bytes: at least the headers, at most an IP packet in an
/// encapsulation.
const SIZES: std::ops::RangeInclusive<u16> = 60..=9000;
const MAX_FLOWS: i64 = 1 << 20;

/// Send mirror traffic: replayed from a capture, or synthetic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("traffic").required(true).args(["files", "size"])))]
pub(super) struct Args {
    /// Capture files to replay: pcap or pcapng, plain or compressed by gzip or zstd
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Generate UDP datagrams, in inner frames of this many bytes; `imix` mixes 60, 590 and 1514
    #[arg(long, value_name = "BYTES|imix", value_parser = sizes)]
    size: Option<Sizes>,

    /// Number of flows to generate
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "files")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_FLOWS))]
    flows: u32,

    /// Interface to send from
    #[arg(short, long, value_name = "IF")]
    interface: String,

    /// Engine that sends the frames
    #[arg(long, value_enum, default_value_t)]
    engine: EngineChoice,

    /// Rate: 1000pps, 1.5Mpps, 10Gbps, 2x (twice as fast as captured), or max
    #[arg(long, value_name = "RATE", default_value = "max")]
    rate: Rate,

    /// Send exactly this many frames
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Send the capture this many times; once, unless --count or --duration asks for more
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    loops: Option<u64>,

    /// Stop after this time, such as 90s, 10min or 1h
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,

    /// Use new flows, with other inner addresses, in each loop; with files yes, else no
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    new_flows: Option<bool>,

    /// Encapsulation of the frames
    #[arg(long, alias = "envelope", value_enum, default_value_t)]
    encapsulation: Encapsulation,

    /// Network identifiers of the mirror sessions, such as 7 or 1-100,200; flows are distributed over them
    #[arg(long, value_name = "N,…", value_parser = vnis)]
    vni: Option<Ranges<Vni>>,

    /// Addresses of the mirrored interfaces, such as 10.0.1.7 or 10.0.1.1-10.0.1.99
    #[arg(long, value_name = "IP,…", value_parser = addresses)]
    source: Option<Ranges<IpAddr>>,

    /// Address of the appliance; its hardware address is resolved
    #[arg(long, value_name = "IP")]
    to: Option<IpAddr>,

    /// Hardware address of the appliance, or of the router to it
    #[arg(long, value_name = "MAC", value_parser = mac)]
    to_mac: Option<[u8; 6]>,

    /// UDP port of the appliance
    #[arg(long, value_name = "PORT", default_value = "4789")]
    port: NonZeroU16,

    /// Treatment of frames that are longer than the interface can send
    #[arg(long, value_enum, default_value_t)]
    oversize: Oversize,

    /// Share of malformed frames, such as 1%
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    malformed: f64,

    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print what was sent as one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
}

/// Sizes of inner frames, used in turn.
#[derive(Clone, Debug)]
struct Sizes(Vec<u16>);

fn sizes(text: &str) -> Result<Sizes, String> {
    if text.eq_ignore_ascii_case("imix") {
        return Ok(Sizes(IMIX.to_vec()));
    }
    match text.parse() {
        Ok(size) if SIZES.contains(&size) => Ok(Sizes(vec![size])),
        _ => Err(format!("a size is `imix`, or a number from {} to {}", SIZES.start(), SIZES.end())),
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("must be `yes` or `no`".to_owned()),
    }
}

fn ranges<T: Countable>(
    text: &str,
    one: impl Fn(&str) -> Option<T>,
    wrong: &str,
) -> Result<Ranges<T>, String> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((one(first.trim())?, one(last.trim())?))
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges.and_then(Ranges::new).ok_or_else(|| format!("`{text}` is not {wrong}"))
}

fn vnis(text: &str) -> Result<Ranges<Vni>, String> {
    let wrong = "a list of numbers from 0 to 16777215, such as 7 or 1-100,200";
    ranges(text, |text| text.parse().ok().and_then(Vni::new), wrong)
}

fn addresses(text: &str) -> Result<Ranges<IpAddr>, String> {
    ranges(text, |text| text.parse().ok(), "a list of addresses, such as 10.0.1.7 or 10.0.1.1-10.0.1.99")
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| format!("`{text}` is not a hardware address such as 02:00:00:00:00:01"))
}

fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text.trim(), 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if (0.0..=whole).contains(&number) => Ok(number / whole),
        _ => Err(format!("`{text}` is not a share, such as 1% or 0.01")),
    }
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        let rewrite = args.new_flows.unwrap_or(args.size.is_none());
        let traffic = match args.size {
            Some(Sizes(sizes)) => Traffic::Synthetic { sizes, flows: args.flows },
            None => Traffic::Capture(args.files),
        };
        Self {
            interface: args.interface,
            engine: args.engine,
            traffic,
            encapsulation: args.encapsulation,
            vnis: args.vni,
            sources: args.source,
            target: args.to,
            target_mac: args.to_mac,
            port: args.port.get(),
            rate: args.rate,
            count: args.count,
            loops: args.loops,
            duration: args.duration.map(Into::into),
            rewrite,
            oversize: args.oversize,
            malformed: args.malformed,
            seed: args.seed,
        }
    }
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot listen to signals")?;
    }
    let options = Options::from(args);
    let live = !json && std::io::stderr().is_terminal();
    let mut shown = Shown { live, frames: 0, bytes: 0, elapsed: Duration::ZERO };
    let totals = run(&options, &stop, |event| shown.tell(&options.interface, &event))?;
    if live {
        eprint!("{CLEAR}");
    }
    if json {
        super::print_json(&totals)?;
    } else {
        print_totals(&totals);
    }
    Ok(ExitCode::SUCCESS)
}

/// The values shown last.
struct Shown {
    live: bool,
    frames: u64,
    bytes: u64,
    elapsed: Duration,
}

impl Shown {
    fn tell(&mut self, interface: &str, event: &Event<'_>) {
        match *event {
            Event::Ready(&Prepared { frames, truncated, unsendable }) => {
                if truncated > 0 {
                    eprintln!("mirror-xdp: {truncated} of {frames} frames are cut to the MTU of {interface}");
                }
                if unsendable > 0 {
                    eprintln!("mirror-xdp: {unsendable} frames are left out: they are not Ethernet");
                }
                eprintln!("sending by {interface}, repeating {} frames", grouped(frames as u64));
            }
            Event::Sending { frames, bytes, elapsed } if self.live => {
                let seconds = elapsed.saturating_sub(self.elapsed).as_secs_f64().max(f64::EPSILON);
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                eprint!(
                    "{CLEAR}{:.0} s  {} frames  {}  {}",
                    elapsed.as_secs_f64(),
                    grouped(frames),
                    with_unit(rate(frames, self.frames), "frames/s"),
                    with_unit(rate(bytes, self.bytes) * 8.0, "bit/s"),
                );
                (self.frames, self.bytes, self.elapsed) = (frames, bytes, elapsed);
            }
            Event::Sending { .. } => {}
            Event::Uncounted => eprintln!(
                "mirror-xdp: {interface} does not count what it sends by XDP: what was sent is what it was given"
            ),
        }
    }
}

fn print_totals(totals: &Totals) {
    eprintln!(
        "sent {} frames, {}, in {:.1} s: {}, {}",
        grouped(totals.sent),
        with_unit(totals.bytes as f64, "B"),
        totals.seconds,
        with_unit(totals.pps, "frames/s"),
        with_unit(totals.bytes as f64 * 8.0 / totals.seconds.max(f64::EPSILON), "bit/s"),
    );
    if totals.refused > 0 {
        eprintln!("refused by the interface: {}", grouped(totals.refused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_wrong_ones_refused() {
        assert_eq!(vnis("7").unwrap().count(), 1);
        assert_eq!(vnis("1-100, 200").unwrap().count(), 101);
        assert_eq!(addresses("10.0.1.1-10.0.1.99,fd00::1").unwrap().count(), 100);
        for wrong in ["", "x", "9-1", "16777216", "1,"] {
            assert!(vnis(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "host"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_and_hardware_addresses_are_read() {
        assert_eq!((share("5%"), share("0.25"), share("100%")), (Ok(0.05), Ok(0.25), Ok(1.0)));
        assert!(share("101%").is_err() && share("-1").is_err() && share("nan").is_err());
        assert_eq!(mac("02:00:00:00:00:ff"), Ok([2, 0, 0, 0, 0, 255]));
        assert!(mac("02:00:00:00:00").is_err() && mac("host").is_err());
    }
}
