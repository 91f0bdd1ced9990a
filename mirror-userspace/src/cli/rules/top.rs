//! `mirror-xdp rules top`: the rules that cost a running capture most.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use mirror_base::escaped;
use mirror_base::sandbox::{Files, Kind};
use mirror_control::observe::control::{self, Order, RuleCost, rule_costs};

use crate::cli::progress::grouped;
use crate::cli::{print, print_json};

/// Show what the rules of a running capture cost
///
/// Counts since the rules were loaded: how often traffic made a rule a candidate, how often its content was verified, how
/// often it matched. The time of one verification in 64 is measured.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp rules top                        the rules that take most time
  mirror-xdp rules top --sort matched -n 50   those that match most often
  mirror-xdp rules top --json | jq -r '.[] | [.sid, .nanoseconds] | @tsv'

Exit code 0; 1 if no capture answers; 2 for wrong usage.")]
pub(super) struct Args {
    /// What comes first
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Order::Time)]
    sort: Order,

    /// The most rules to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,

    /// Control socket of the capture
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH)]
    control: PathBuf,

    /// Print one JSON list on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let costs = rule_costs(&args.control, args.sort, args.limit.into())?;
    crate::cli::confined::to(Kind::Read, Files::default())?;
    if args.json {
        print_json(&costs)?;
    } else {
        print(&table(&costs))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats the rules for people, a line each.
fn table(costs: &[RuleCost]) -> String {
    let mut text = format!(
        "{:>10}  {:>12}  {:>12}  {:>10}  {:>8}  {:>10}  message\n",
        "ms", "candidates", "verified", "matched", "isolated", "sid"
    );
    for cost in costs {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:>10}  {:>12}  {:>12}  {:>10}  {:>8}  {:>10}  {}",
            grouped(cost.nanoseconds / 1_000_000),
            grouped(cost.candidates),
            grouped(cost.verified),
            grouped(cost.matched),
            grouped(cost.isolated),
            cost.sid,
            escaped(&cost.msg),
        );
    }
    text
}
