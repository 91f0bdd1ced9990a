//! `mirror-xdp aws sessions`: a table of the mirror sessions.

use std::fmt::Write as _;
use std::process::ExitCode;

use mirror_aws::discovery::Details;
use mirror_records::names::Session;
use serde_json::{Value, json};

use super::Accounts;
use crate::cli::progress::columns;

/// Show the mirror sessions, with the instances they mirror
///
/// The exit code is 1 if an account or region could not be described; the others are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp aws sessions --region eu-central-1,eu-west-1
  mirror-xdp aws sessions --json | jq -r '.sessions[] | select(.state == \"stopped\").session'")]
pub(super) struct Args {
    #[command(flatten)]
    accounts: Accounts,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A row: what is known of a session, and the session of records if its frames can be recognised.
struct Row<'a> {
    details: &'a Details,
    session: Option<&'a Session>,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (fleet, failures) = super::runtime()?.block_on(async {
        let mut fleet = args.accounts.fleet().await?;
        let failures = fleet.refresh().await;
        anyhow::Ok((fleet, failures))
    })?;
    let rows: Vec<_> = fleet
        .known()
        .flat_map(|(description, _)| {
            description.details.iter().map(|details| Row {
                details,
                session: description
                    .sessions
                    .iter()
                    .find(|session| session.session.as_deref() == Some(&details.session)),
            })
        })
        .collect();
    if args.json {
        let sessions: Vec<_> = rows.iter().map(Row::json).collect();
        let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        crate::cli::print_json(&json!({"sessions": sessions, "failures": failures}))?;
    } else {
        if fleet.known().next().is_some() {
            crate::cli::print(&table(&rows))?;
        }
        failures.iter().for_each(crate::cli::complain);
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Row<'_> {
    fn json(&self) -> Value {
        let Details { session, state, attached, problem, interface, target, filter, vni, account } =
            self.details;
        let known = self.session;
        json!({
            "session": session, "vni": vni, "source": known.map(|known| known.source), "interface": interface,
            "instance": known.and_then(|known| known.instance.as_ref()),
            "name": known.and_then(|known| known.name.as_ref()),
            "vpc": known.and_then(|known| known.vpc.as_ref()),
            "subnet": known.and_then(|known| known.subnet.as_ref()),
            "account": account, "target": target, "filter": filter, "since": attached, "state": state,
            "tags": known.map(|known| &known.tags), "problem": problem,
        })
    }

    fn cells(&self) -> [String; 10] {
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let Details { session, state, attached, problem, interface, target, filter, vni, account } =
            self.details;
        let known = self.session;
        // Minutes are enough.
        let since = attached.as_deref().and_then(|time| time.get(..16));
        [
            session.clone(),
            vni.map_or_else(|| "-".to_owned(), |vni| vni.to_string()),
            known.map_or_else(|| "-".to_owned(), |known| known.source.to_string()),
            interface.clone(),
            text(known.and_then(|known| known.instance.as_deref())),
            text(known.and_then(|known| known.name.as_deref())),
            text(account.as_deref()),
            text(target.as_deref()),
            text(filter.as_deref()),
            match problem {
                Some(problem) => (*problem).to_owned(),
                None => format!("{} since {}", text(state.as_deref()), text(since)),
            },
        ]
    }
}

/// The titles of the columns.
const TITLES: [&str; 10] =
    ["SESSION", "VNI", "SOURCE", "INTERFACE", "INSTANCE", "NAME", "ACCOUNT", "TARGET", "FILTER", "STATE"];

/// Formats the rows, and counts what costs money for nothing.
fn table(rows: &[Row<'_>]) -> String {
    let cells: Vec<_> =
        [TITLES.map(ToOwned::to_owned)].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let mut text = columns(&cells, TITLES.len());
    let idle = rows.iter().filter(|row| {
        matches!(row.details.state.as_deref(), Some("stopped" | "stopping" | "terminated" | "shutting-down"))
    });
    match (rows.len(), idle.count()) {
        (0, _) => text.push_str("no mirror sessions\n"),
        (_, 0) => {}
        (_, idle) => {
            let _ = writeln!(
                text,
                "{idle} of them mirror instances that do not run, and cost money all the same"
            );
        }
    }
    text
}
