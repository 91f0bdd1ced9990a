//! `mirror-xdp hold`: protects packets from retention.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Subcommand;
use mirror_base::escaped;
use mirror_store::hold::{self, Hold};
use mirror_xdp_common::Vni;

/// Protect packets in a store from deletion by its rules
///
/// A hold covers each segment that contains any of its packets. A running capture respects a hold at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp hold --store /data/packets add --vni 7 --reason 'case 2026-17'
  mirror-xdp hold --store /data/packets add --from 2026-03-01T08:00:00Z --to 2026-03-02T00:00:00Z --reason audit
  mirror-xdp hold --store /data/packets list
  mirror-xdp hold --store /data/packets remove 1")]
pub(super) struct Args {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Place a hold
    Add {
        /// VNI, or range of VNIs; all VNIs without it
        #[arg(long, value_name = "VNI", value_parser = vnis)]
        vni: Option<RangeInclusive<u32>>,
        /// Start time
        #[arg(long, value_name = "TIME", value_parser = super::extract::time, allow_hyphen_values = true)]
        from: Option<u64>,
        /// End time, exclusive
        #[arg(long, value_name = "TIME", value_parser = super::extract::time, allow_hyphen_values = true)]
        to: Option<u64>,
        /// Reason for the hold
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show the holds
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Lift a hold
    Remove {
        /// Number of the hold, see `list`
        #[arg(value_name = "NUMBER")]
        number: u64,
    },
}

fn vnis(text: &str) -> Result<RangeInclusive<u32>, String> {
    mirror_base::text::range(text, "a VNI", 0..=Vni::MAX.get()).map_err(|wrong| wrong.to_string())
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let path = &args.store;
    super::store::is_store(path)?;
    let mut holds = hold::read(path).with_context(|| named(path))?;
    match &args.action {
        Action::Add { vni, from, to, reason } => {
            let number = holds.iter().map(|hold| hold.number).max().unwrap_or_default() + 1;
            let hold = Hold {
                number,
                vnis: vni.clone(),
                from: from.unwrap_or(0),
                to: to.unwrap_or(u64::MAX),
                reason: reason.clone(),
            };
            super::print(&(text(&hold) + "\n"))?;
            holds.push(hold);
            hold::write(path, &holds).with_context(|| named(path))?;
        }
        Action::List { json: true } => super::print_json(&holds)?,
        Action::List { json: false } => {
            super::print(&holds.iter().map(|hold| text(hold) + "\n").collect::<String>())?;
        }
        Action::Remove { number } => {
            let before = holds.len();
            holds.retain(|hold| hold.number != *number);
            anyhow::ensure!(holds.len() < before, "there is no hold {number}; see `list`");
            hold::write(path, &holds).with_context(|| named(path))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn named(path: &Path) -> String {
    format!("holds of {}", path.display())
}

fn text(hold: &Hold) -> String {
    let time = |nanoseconds| {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds));
        time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
    };
    let vnis = match &hold.vnis {
        None => "all VNIs".to_owned(),
        Some(vnis) if vnis.start() == vnis.end() => format!("VNI {}", vnis.start()),
        Some(vnis) => format!("VNIs {}-{}", vnis.start(), vnis.end()),
    };
    let from = if hold.from == 0 { String::new() } else { format!(" from {}", time(hold.from)) };
    let to = if hold.to == u64::MAX { String::new() } else { format!(" before {}", time(hold.to)) };
    format!("hold {}: {vnis}{from}{to}: {}", hold.number, escaped(&hold.reason))
}
