//! `mirror-xdp timeline`: shows the contents of a store over time.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mirror_store::hold;
use mirror_store::manifest::Contents;
use mirror_store::remote::RemoteReader;
use mirror_store::timeline::{Span, Timeline, Whereabouts};

use super::progress::{grouped, with_unit};
use super::store::Place;

/// Show the times of which a store has packets, their VNIs and number, and where they are
///
/// Reads only the manifest: no packet and no index.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp timeline /data/packets
  mirror-xdp timeline /data/packets --every 1h           at least one line an hour
  mirror-xdp timeline s3://bucket/appliance-1 --json | jq '.vnis[] | select(.vni == 7)'")]
pub(super) struct Args {
    /// The store: a directory, or the URL of a copy
    #[arg(value_name = "DIR|URL", value_parser = Place::parse)]
    store: Place,

    /// Start a new line at each multiple of this time
    #[arg(long, value_name = "TIME", value_parser = super::seconds)]
    every: Option<Duration>,

    /// Time without a packet that counts as a gap
    #[arg(long, value_name = "TIME", value_parser = super::seconds, default_value = "1min")]
    gap: Duration,

    /// Print everything as one JSON object on stdout; times are in nanoseconds since 1970
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Place::Directory(directory) = &args.store {
        super::store::is_store(directory)?;
    }
    super::confined::to_store(&args.store, &[])?;
    let (contents, holds) = match &args.store {
        Place::Directory(directory) => {
            let read = || Ok::<_, std::io::Error>((Contents::read(directory)?, hold::read(directory)?));
            read().with_context(|| format!("cannot read {}", directory.display()))?
        }
        // Holds are stored in the directory; a copy has rules of its own.
        Place::Copy(location) => (RemoteReader::open(location)?.manifest()?, Vec::new()),
    };
    let nanoseconds = |time: Duration| time.as_nanos() as u64;
    let every = args.every.map(nanoseconds);
    let timeline = Timeline::new(&contents, &holds, nanoseconds(args.gap), every);
    if args.json {
        super::print_json(&timeline)?;
    } else {
        super::print(&text(&timeline))?;
    }
    if timeline.wrong_lines > 0 {
        eprintln!(
            "mirror-xdp: {} lines of the manifest were altered; run `mirror-xdp verify`",
            timeline.wrong_lines
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn time(nanoseconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds));
    time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// Formats VNIs in the notation of the configuration: `7, 100-199`.
fn vnis(vnis: &[u32]) -> String {
    if vnis.is_empty() {
        return "no VNI".to_owned();
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &vni in vnis {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == vni => *last = vni,
            _ => ranges.push((vni, vni)),
        }
    }
    let mut text = (if vnis.len() == 1 { "VNI " } else { "VNIs " }).to_owned();
    for (number, (first, last)) in ranges.iter().enumerate() {
        let comma = if number > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            1 => write!(text, "{comma}{first}, {last}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
    }
    text
}

fn line(span: &Span) -> String {
    let place = match span.whereabouts {
        Whereabouts::Here => "here",
        Whereabouts::HereAndUploaded => "here, uploaded",
        Whereabouts::Uploaded => "uploaded, deleted here",
        Whereabouts::Deleted => "deleted",
    };
    format!(
        "{}  {}  {} packets, {}, {} flows, {}; {} segments, {}; {place}{}\n",
        time(span.first),
        time(span.last),
        grouped(span.packets),
        with_unit(span.bytes as f64, "B"),
        grouped(span.flows),
        vnis(&span.vnis),
        grouped(span.segments),
        with_unit(span.stored_bytes as f64, "B"),
        if span.held { ", held" } else { "" },
    )
}

fn text(timeline: &Timeline) -> String {
    let took = |from: u64, to: u64| {
        humantime::format_duration(Duration::from_secs(to.saturating_sub(from) / 1_000_000_000)).to_string()
    };
    // Lines are sorted by time; of the same time, gaps come first, then losses.
    let mut lines: Vec<(u64, String)> = Vec::new();
    for gap in &timeline.gaps {
        let (from, to) = (time(gap.from), time(gap.to));
        lines.push((gap.from, format!("{from}  {to}  nothing for {}\n", took(gap.from, gap.to))));
    }
    for loss in &timeline.losses {
        let (from, to) = (time(loss.from), time(loss.to));
        lines.push((loss.from, format!("{from}  {to}  {} packets LOST\n", grouped(loss.packets))));
    }
    lines.extend(timeline.spans.iter().map(|span| (span.first, line(span))));
    lines.sort_by_key(|(time, _)| *time);
    let mut text: String = lines.into_iter().map(|(_, line)| line).collect();
    let there = || timeline.spans.iter().filter(|span| span.whereabouts != Whereabouts::Deleted);
    let sum = |of: fn(&Span) -> u64| there().map(of).fold(0, u64::saturating_add);
    // Writing to a string cannot fail.
    _ = writeln!(
        text,
        "{} packets, {}, of {} VNIs in {} segments, {}; {} gaps, {} packets lost",
        grouped(sum(|span| span.packets)),
        with_unit(sum(|span| span.bytes) as f64, "B"),
        grouped(timeline.vnis.len() as u64),
        grouped(sum(|span| span.segments)),
        with_unit(sum(|span| span.stored_bytes) as f64, "B"),
        grouped(timeline.gaps.len() as u64),
        grouped(timeline.losses.iter().map(|loss| loss.packets).fold(0, u64::saturating_add)),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnis_are_shown_as_ranges() {
        assert_eq!(vnis(&[]), "no VNI");
        assert_eq!(vnis(&[7]), "VNI 7");
        assert_eq!(vnis(&[7, 8, 100, 101, 102]), "VNIs 7, 8, 100-102");
    }
}
