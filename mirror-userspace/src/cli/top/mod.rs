//! `mirror-xdp top`: shows a running capture on a terminal.
//!
//! It is a client of the HTTP API. A thread requests data (`client`); the replies (`answer`) update the state
//! and its rates (`state`, `rates`). Keys select the view (`app`, `query`), and the views build tables
//! (`views`, `table`) that are drawn (`draw`, `terminal`) or printed (`snapshot`). All modules from `state`
//! on receive the time as an argument and do no I/O, except `terminal`.

mod answer;
mod app;
pub(super) mod client;
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
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use mirror_control::api::Token;

use self::answer::Loss;
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

Keys: 1-6 or Tab choose the view, arrows move, s sorts by the next column and r reverses the order,
Enter shows the flows of a VNI or a host, / filters flows (vni=7 address=10.1.2.3 port=443 protocol=tcp
application=dns, or words), p pauses, ? shows help, q quits.";

/// Watch a running capture: rates, VNIs, hosts, flows, services, losses, load
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// URL of the capture's API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9470")]
    api: Address,

    /// File with the token of the API, if it needs one
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,

    /// Time between two requests
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Print everything once as text, after one interval; for scripts and mails
    #[arg(long)]
    once: bool,

    /// Print everything once as a JSON object, after one interval
    #[arg(long, conflicts_with = "once")]
    json: bool,
}

/// The shortest and the longest time between two requests.
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
        // The reader may have closed the pipe.
        return match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::SUCCESS),
        };
    }
    let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if is_dumb || !io::stdout().is_terminal() {
        eprintln!(
            "mirror-xdp: top needs a terminal, and there is none: use --once for text, --json for scripts"
        );
        return Ok(ExitCode::from(2));
    }
    let theme = Theme { colours: env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()) };
    let client = Client::start(server, args.interval)?;
    let mut app = App::new(name, args.interval, Instant::now());
    terminal::run(&mut app, &client, theme)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the notices of a running capture, by its API; none if there is no capture, or the token is wrong.
pub(super) fn notices(api: SocketAddr, token: Option<Token>) -> Vec<Notice> {
    let Ok(address) = api.to_string().parse() else { return Vec::new() };
    let update = Server { address, token }.ask_once(&Wanted::Nothing);
    let summary = update.ok().and_then(|update| update.summary?.ok());
    let notices = summary.into_iter().flat_map(|summary| summary.notices);
    notices.map(|Loss { place, reason, count, .. }| Notice { place, reason, count }).collect()
}

/// A count that a running capture reports although nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The worker and the VNI, or the like.
    pub(super) place: String,
    pub(super) reason: String,
    pub(super) count: u64,
}

/// Returns the state after two replies, an interval apart, so that it has rates.
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
                "no answer from http://{address}: {failure}; start `mirror-xdp run`, or name its API with \
                 --api"
            ))
            .into());
        }
        state.apply(update);
    }
    Ok(state)
}
