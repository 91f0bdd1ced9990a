//! `mirror-xdp fleet`: one question to several appliances.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use futures_util::future::join_all;
use mirror_base::escaped;
use mirror_control::api::Token;
use serde::Deserialize;
use serde_json::json;

use super::progress::{columns, grouped};
use super::top::client::{Address, Failure, Server};

/// Ask several running captures at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp fleet status http://sensor-1:9470 http://sensor-2:9470 --api-token-file token
  mirror-xdp fleet status sensor-1 sensor-2 --json | jq '.total.lost'")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(StatusArgs),
}

/// Show frames and losses of several appliances, and their sums
///
/// The exit code is 1 if an appliance does not answer; the others are shown.
#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// URLs of the APIs
    #[arg(value_name = "URL", required = true)]
    appliances: Vec<Address>,

    /// File with the token of the APIs, if they need one
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The part of an appliance's summary that counts. What an older one lacks is 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Summary {
    seconds: f64,
    interfaces: Vec<Interface>,
    workers: Vec<Worker>,
    records: Records,
    losses: Vec<Count>,
    notices: Vec<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    program: Program,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Program {
    seen: u64,
    redirected: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Worker {
    delivered: u64,
    moving: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Records {
    written: BTreeMap<String, u64>,
    lost: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the API's names")]
struct Count {
    stage: String,
    reason: String,
    count: u64,
}

/// The figures of an appliance, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Figures {
    /// Frames that the program saw, that it redirected, and that workers received.
    seen: u64,
    redirected: u64,
    delivered: u64,
    /// Losses of all stages.
    lost: u64,
    /// Records written.
    records: u64,
    /// Flows of one side whose other side another mirror session or appliance may have.
    one_sided: u64,
    /// Workers that do not move.
    stalled: u64,
    /// Losses by stage and reason.
    losses: BTreeMap<String, u64>,
}

/// The reason under which one-sided flows are counted.
const ONE_SIDED: &str = "split_flows";

impl Figures {
    fn of(summary: &Summary) -> Self {
        let mut figures = Self {
            records: summary.records.written.values().sum(),
            stalled: summary.workers.iter().filter(|worker| !worker.moving).count() as u64,
            ..Self::default()
        };
        for Interface { program } in &summary.interfaces {
            figures.seen = figures.seen.saturating_add(program.seen);
            figures.redirected = figures.redirected.saturating_add(program.redirected);
        }
        for worker in &summary.workers {
            figures.delivered = figures.delivered.saturating_add(worker.delivered);
        }
        for loss in &summary.losses {
            let name = format!("{} {}", loss.stage, loss.reason);
            *figures.losses.entry(name).or_default() += loss.count;
            figures.lost = figures.lost.saturating_add(loss.count);
        }
        let one_sided = summary.notices.iter().filter(|notice| notice.reason == ONE_SIDED);
        figures.one_sided = one_sided.map(|notice| notice.count).sum();
        figures
    }

    fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.seen, other.seen),
            (&mut self.redirected, other.redirected),
            (&mut self.delivered, other.delivered),
            (&mut self.lost, other.lost),
            (&mut self.records, other.records),
            (&mut self.one_sided, other.one_sided),
            (&mut self.stalled, other.stalled),
        ] {
            *sum = sum.saturating_add(part);
        }
        for (name, count) in &other.losses {
            *self.losses.entry(name.clone()).or_default() += count;
        }
    }

    fn cells(&self, name: &str) -> [String; 7] {
        let Self { seen, delivered, lost, records, one_sided, stalled, .. } = *self;
        let [seen, delivered, lost, records, one_sided, stalled] =
            [seen, delivered, lost, records, one_sided, stalled].map(grouped);
        [name.to_owned(), seen, delivered, lost, records, one_sided, stalled]
    }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Status(args) = &args.command;
    let token = args.api_token_file.as_deref().map(Token::read).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answers =
        runtime.context("cannot start")?.block_on(join_all(args.appliances.iter().map(async |address| {
            let server = Server { address: address.clone(), token: token.clone() };
            let summary: Result<Summary, Failure> = server.read("/api/v1/summary").await;
            (address.to_string(), summary)
        })));
    let is_whole = answers.iter().all(|(_, answer)| answer.is_ok());
    let mut total = Figures::default();
    let figures: Vec<_> = answers
        .into_iter()
        .map(|(name, answer)| {
            let figures = answer.map(|summary| (summary.seconds, Figures::of(&summary)));
            if let Ok((_, figures)) = &figures {
                total.add(figures);
            }
            (name, figures)
        })
        .collect();
    if args.json {
        let appliances = figures.iter().map(|(name, figures)| match figures {
            Ok((seconds, figures)) => json!({"appliance": name, "seconds": seconds, "figures": figures}),
            Err(failure) => json!({"appliance": name, "failure": failure.to_string()}),
        });
        super::print_json(&json!({"appliances": appliances.collect::<Vec<_>>(), "total": total}))?;
    } else {
        super::print(&table(&figures, &total))?;
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The seconds of a capture and its figures, or the reason why they are missing.
type Answer = Result<(f64, Figures), Failure>;

/// The titles of the columns.
const TITLES: [&str; 7] = ["APPLIANCE", "SEEN", "DELIVERED", "LOST", "RECORDS", "ONE-SIDED", "STALLED"];

fn table(figures: &[(String, Answer)], total: &Figures) -> String {
    let mut rows = vec![TITLES.map(ToOwned::to_owned)];
    rows.extend(figures.iter().filter_map(|(name, figures)| Some(figures.as_ref().ok()?.1.cells(name))));
    rows.push(total.cells("all"));
    let mut text = columns(&rows, 1);
    for (name, figures) in figures {
        if let Err(failure) = figures {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {failure}");
        }
    }
    for (name, count) in total.losses.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "lost: {} {}", escaped(name), grouped(*count));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up_over_appliances() {
        let summary: Summary = serde_json::from_value(json!({
            "seconds": 5.0,
            "interfaces": [{"program": {"seen": 10, "redirected": 8}}, {"program": {"seen": 1, "redirected": 1}}],
            "workers": [{"delivered": 7, "moving": true}, {"delivered": 1, "moving": false}],
            "records": {"written": {"flow": 2, "dns": 3}, "lost": 0},
            "losses": [{"stage": "ring", "place": "queue 0", "reason": "full", "count": 1},
                       {"stage": "ring", "place": "queue 1", "reason": "full", "count": 0}],
            "notices": [{"stage": "worker", "place": "vni 7", "reason": "split_flows", "count": 4}],
        }))
        .unwrap();
        let mut total = Figures::of(&summary);
        assert_eq!(
            (total.seen, total.redirected, total.delivered, total.lost, total.records, total.one_sided),
            (11, 9, 8, 1, 5, 4)
        );
        assert_eq!(total.stalled, 1);
        total.add(&Figures::of(&summary));
        assert_eq!(total.losses, BTreeMap::from([("ring full".to_owned(), 2)]));
        let missing = Err(Failure::new("connection refused"));
        let shown = table(
            &[("a:1".to_owned(), Ok((5.0, Figures::of(&summary)))), ("b:1".to_owned(), missing)],
            &Figures::of(&summary),
        );
        let expected = "\
APPLIANCE  SEEN  DELIVERED  LOST  RECORDS  ONE-SIDED  STALLED
a:1          11          8     1        5          4        1
all          11          8     1        5          4        1
b:1: connection refused
lost: ring full 1
";
        assert_eq!(shown, expected);
    }
}
