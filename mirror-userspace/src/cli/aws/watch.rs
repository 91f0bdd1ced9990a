//! `mirror-xdp aws watch`: keeps a file of names up to date.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mirror_aws::fleet::{self, Fleet};
use mirror_control::api::Token;
use mirror_device::xdp::program::LogLevel;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::Accounts;
use crate::cli::log::{Format, announce};
use crate::cli::top::client::{Address, Server};

/// Keep the names of mirror sessions and hosts in a file up to date
///
/// A capture started with `--names FILE` shows them in its records. A VNI or source that the capture sees and that is not
/// known yet is asked for at once. An account that cannot be reached keeps its last names, and records then say how old
/// they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp aws watch
  mirror-xdp aws watch --tags team,stage --interval 5min
  mirror-xdp aws watch --once --output sessions.json")]
pub(super) struct Args {
    #[command(flatten)]
    accounts: Accounts,

    /// File to write; its directory must exist
    #[arg(long, value_name = "FILE", default_value = "/run/mirror-xdp-aws/sessions.json")]
    output: PathBuf,

    /// Time between two refreshes
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = interval)]
    interval: Duration,

    /// URL of the API of the capture that tells which sessions it sees
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9470")]
    api: Address,

    /// File with the token of that API, if it needs one
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,

    /// Write the file once, and exit
    #[arg(long)]
    once: bool,
}

/// The shortest and the longest time between two refreshes.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(24 * 3600);
/// The time between two looks at the sessions of the capture.
const LOOK: Duration = Duration::from_secs(2);
/// The shortest time between two refreshes, whatever the capture sees.
const REST: Duration = Duration::from_secs(5);
/// The time for which an unknown session is not asked for again.
const KNOWN_UNKNOWN: Duration = Duration::from_secs(5 * 60);
/// Maximum number of unknown sessions that are remembered.
const MAX_UNKNOWN: usize = 10_000;
/// The number of intervals after which names are old.
const VALID: u32 = 3;

fn interval(text: &str) -> Result<Duration, String> {
    let time = crate::cli::seconds(text)?;
    if INTERVALS.contains(&time) { Ok(time) } else { Err("must be from 10s to 1day".to_owned()) }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    crate::cli::log::init(LogLevel::Off, Some(Format::Text))?;
    let token = args.api_token_file.as_deref().map(Token::read).transpose()?;
    let server = Server { address: args.api.clone(), token };
    super::runtime()?.block_on(watch(args, &server))
}

async fn watch(args: &Args, server: &Server) -> anyhow::Result<ExitCode> {
    let mut fleet = args.accounts.fleet().await?;
    let (mut end, mut end_by_key) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut unknown = Unknown::default();
    let mut is_first = true;
    loop {
        tokio::select! {
            written = refresh(args, &mut fleet) => written?,
            _ = end.recv() => return Ok(ExitCode::SUCCESS),
            _ = end_by_key.recv() => return Ok(ExitCode::SUCCESS),
        }
        if args.once {
            return Ok(if fleet.is_failing() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        if std::mem::take(&mut is_first) {
            announce(&format!("mirror-xdp: names are in {}; Ctrl-C ends", args.output.display()));
        }
        // Several appliances of an account do not ask in step.
        let next = Instant::now() + args.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::select! {
            () = sleep_until(next) => {}
            () = unknown.wait(server, &fleet) => {}
            _ = end.recv() => return Ok(ExitCode::SUCCESS),
            _ = end_by_key.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Asks all accounts, and writes what is known.
async fn refresh(args: &Args, fleet: &mut Fleet) -> anyhow::Result<()> {
    for failure in fleet.refresh().await {
        tracing::warn!("{failure}");
    }
    // Nothing was ever known: an old file says more than an empty one.
    if fleet.known().next().is_none() {
        return Ok(());
    }
    let names = fleet.names(args.interval * VALID);
    fleet::write(&names, &args.output)
        .with_context(|| format!("cannot write {}; name another file with --output", args.output.display()))
}

/// The mirror sessions that a capture sees and no account has.
#[derive(Debug, Default)]
struct Unknown {
    /// The time at which each was seen first.
    since: HashMap<(u32, Option<IpAddr>), Instant>,
}

#[derive(Debug, Deserialize)]
struct Vnis {
    vnis: Vec<Vni>,
}

#[derive(Debug, Deserialize)]
struct Vni {
    vni: u32,
}

#[derive(Debug, Deserialize)]
struct Flows {
    flows: Vec<Flow>,
}

#[derive(Debug, Deserialize)]
struct Flow {
    mirror: Option<Mirror>,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    vni: u32,
    outer_src: IpAddr,
}

impl Unknown {
    /// Waits until the capture sees a session that is unknown, and was not a moment ago.
    async fn wait(&mut self, server: &Server, fleet: &Fleet) {
        let begun = Instant::now();
        loop {
            sleep_until(Instant::now() + LOOK).await;
            match seen(server).await {
                Ok(seen) => {
                    let now = Instant::now();
                    self.since.retain(|_, since| now.duration_since(*since) < KNOWN_UNKNOWN);
                    let mut is_new = false;
                    for (vni, source) in seen {
                        if self.since.len() < MAX_UNKNOWN && fleet.is_unknown(vni, source) {
                            self.since.entry((vni, source)).or_insert_with(|| {
                                is_new = true;
                                now
                            });
                        }
                    }
                    if is_new {
                        return sleep_until(begun + REST).await;
                    }
                }
                // There may be no capture on this machine, or not yet.
                Err(error) => tracing::debug!("cannot ask the capture at {}: {error}", server.address),
            }
        }
    }
}

/// Returns the VNIs that a capture has seen, and the sessions of its largest flows.
async fn seen(server: &Server) -> Result<Vec<(u32, Option<IpAddr>)>, impl std::fmt::Display> {
    let Vnis { vnis } = server.read("/api/v1/vnis?limit=32768").await?;
    let Flows { flows } = server.read("/api/v1/flows?limit=1000").await?;
    let of_flows = flows.into_iter().filter_map(|flow| flow.mirror);
    let of_flows = of_flows.map(|mirror| (mirror.vni, Some(mirror.outer_src)));
    Ok::<_, crate::cli::top::client::Failure>(
        vnis.into_iter().map(|vni| (vni.vni, None)).chain(of_flows).collect(),
    )
}
