//! `mirror-xdp top`: a running capture on a terminal.
//!
//! A client of the HTTP API: a thread asks (`client`), what it answers (`answer`) becomes what is known and the
//! rates of it (`state`, `rates`), keys choose what of that is shown (`app`, `query`), as tables (`views`,
//! `table`) that are drawn (`draw`, `terminal`) or printed (`snapshot`). Everything from `state` on is told the
//! time and does no I/O.

mod answer;
mod app;
mod client;
mod draw;
mod query;
mod rates;
mod snapshot;
mod state;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod views;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use mirror_control::api::Token;

use self::app::App;
use self::client::{Address, Client, Failure, Server, Wanted};
use self::draw::Theme;
use self::query::Filter;
use self::state::State;
use super::seconds;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp top
  mirror-xdp top --api http://sensor-1:9470 --api-token-file token
  mirror-xdp top --once
  mirror-xdp top --json | jq '.losses'

Keys: 1-6 or Tab choose what is shown, arrows move, s sorts by the next column and r the other way round,
Enter shows the flows of a VNI or a host, / says which flows (vni=7 address=10.1.2.3 port=443 protocol=tcp
application=dns, or words), p holds everything still, ? explains, q quits.";

/// Watch a running capture: rates, VNIs, hosts, flows, services, losses, load
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where the capture's API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9470")]
    api: Address,

    /// File with the API's token, where it has one
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,

    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Print everything once as text, after one interval; for scripts and mails
    #[arg(long)]
    once: bool,

    /// Print everything once as a JSON object, after one interval
    #[arg(long, conflicts_with = "once")]
    json: bool,
}

/// The longest and the shortest time between two questions.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(60);

fn interval(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    if INTERVALS.contains(&time) { Ok(time) } else { Err("must be from 500ms to 1min".to_owned()) }
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    let token = args.api_token_file.as_deref().map(Token::read).transpose()?;
    let server = Server { address: args.api, token };
    let name = server.address.to_string();
    if args.once || args.json {
        let state = twice(&server, args.interval)?;
        let text = if args.json {
            format!("{}\n", snapshot::json(&name, &state))
        } else {
            snapshot::text(&name, &state)
        };
        // Whoever reads it may have had enough.
        return match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::SUCCESS),
        };
    }
    let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if is_dumb || !io::stdout().is_terminal() {
        eprintln!(
            "mirror-xdp: top draws on a terminal, and there is none: use --once for text, --json for scripts"
        );
        return Ok(ExitCode::from(2));
    }
    let theme = Theme { colours: env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()) };
    let client = Client::start(server, args.interval)?;
    let mut app = App::new(name, args.interval, Instant::now());
    terminal::run(&mut app, &client, theme)?;
    Ok(ExitCode::SUCCESS)
}

/// What is known after two answers, an interval apart: so that there are rates.
fn twice(server: &Server, interval: Duration) -> anyhow::Result<State> {
    let wanted = Wanted::Flows(Filter::default().path("bytes", client::MOST_FLOWS));
    let mut state = State::new(Instant::now());
    for wait in [Duration::ZERO, interval] {
        thread::sleep(wait);
        let update = server.ask_once(&wanted)?;
        let failures = [
            update.summary.as_ref().and_then(|answer| answer.as_ref().err()),
            update.rows.as_ref().and_then(|rows| rows.as_ref().err()),
        ];
        if let Some(failure) = failures.into_iter().flatten().next() {
            let address = &server.address;
            return Err(Failure::new(format_args!(
                "no answer from http://{address}: {failure}; `mirror-xdp run` answers there, or where its --api \
                 says"
            ))
            .into());
        }
        state.apply(update);
    }
    Ok(state)
}
