//! `mirror-xdp run`: from arguments to a running capture, and what people and scripts see of it.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::log::{Format, announce};
use super::progress::{self, Progress};
use super::service::Service;
use crate::config;
use crate::confine::{self, Files};
use crate::datapath::program::LogLevel;
use crate::error::one_line;
use crate::live::{Capture, Config, ModeChoice, Plan};
use crate::nic::Watch;
use crate::observe::control::{self, OpenError, Socket};
use crate::observe::tap::{self, Tap};
use crate::sink::{Destination, Patience, Sink, SinkCounters};
use crate::stats::Stats;
use crate::worker::WorkerConfig;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp run --interface ens6
  mirror-xdp run --interface ens6 --interface ens7 --log-dir /data/eve --mode native
  mirror-xdp run --interface ens6 --config /etc/mirror-xdp/config.toml     rules; kill -HUP rereads them
  mirror-xdp run --interface ens6 --store /data/packets                    keep the packets, too
  mirror-xdp run --interface ens6 --rotate-interval 1h --rotate-keep 48   two days of records
  mirror-xdp run --interface ens6 --eve-output unix-stream:/run/eve.sock
  mirror-xdp run --interface ens6 --duration 1min --json > account.json
  mirror-xdp run --interface ens6 --tap tap0     and `suricata -i tap0-ids` at the other end of the pair

Needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON. SSH and health checks to the
interface keep working: what is not mirror traffic goes to the kernel untouched.";

/// Capture mirrored traffic from network interfaces
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Interface that mirrored traffic comes in by; several may be given
    #[arg(short, long = "interface", value_name = "IF", required = true)]
    interfaces: Vec<String>,

    /// Configuration: ports, admission, filter rules, …; SIGHUP has it read again, and the log opened again
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of eve.json, made where it is missing; the log is appended to
    #[arg(long, value_name = "DIR", default_value = "/var/log/mirror-xdp")]
    log_dir: PathBuf,

    /// Keep the packets, too, in this directory, as [store] of the configuration says; `mirror-xdp extract`
    /// finds them
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    #[command(flatten)]
    eve: super::eve::EveArgs,

    /// Where the XDP program runs
    #[arg(long, value_enum, default_value_t)]
    mode: ModeChoice,

    /// Take off an XDP program that is attached to the interface already
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    ports: super::PortArgs,

    /// First do what `mirror-xdp doctor --fix` does; taken back at the end, but not where the process is killed
    #[arg(long)]
    prepare: bool,

    /// Stop after this time, such as 90s, 10min or 1h
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,

    /// Print the account of all frames as one JSON object on stdout at the end
    #[arg(long)]
    json: bool,

    /// Time between two `stats` events
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = super::seconds)]
    stats_interval: Duration,

    /// Flows that each worker keeps at most; beyond, the flow that was idle the longest is ended
    #[arg(long, value_name = "N", default_value_t = WorkerConfig::default().max_flows)]
    #[arg(value_parser = super::max_flows)]
    max_flows: usize,

    /// Where both ends of conversations are mirrored: analyse one copy of each packet, and count the other;
    /// off unless the configuration says otherwise
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    dedup: Option<super::Switch>,
    /// Send the inner frames out of this interface, such as one end of a veth pair, for other programs to see
    #[arg(long, value_name = "IF")]
    tap: Option<String>,

    /// Socket that `mirror-xdp tail` connects to
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH)]
    control: PathBuf,

    /// How messages are written; `journal` under systemd, else `text`
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,

    /// Have the XDP program tell of each frame that it drops (debug) or does not capture (trace)
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    bpf_log: LogLevel,
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    super::log::init(args.bpf_log, args.log_format).context("cannot log to the journal")?;
    // The packet path is threads of its own; this one only looks after signals, timers and netlink.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut hang_up = signal(SignalKind::hangup())?;
    let configured = configuration(args.config.as_deref())?;
    let worker = WorkerConfig {
        max_flows: args.max_flows,
        // The standard library's maps are keyed with the system's random numbers.
        hash_seed: RandomState::new().hash_one(0),
        dedup: args.dedup.map_or(configured.analysis.dedup, super::Switch::is_on),
    };
    let ports = args.ports.ports(&configured.ports);
    // Taken back when this function ends, however it does.
    let _changes =
        if args.prepare { super::doctor::prepare(&args.interfaces, &ports).await? } else { Vec::new() };
    let interfaces = args.interfaces.clone();
    let plan = Plan::make(Config {
        interfaces: args.interfaces.clone(),
        mode: args.mode,
        replace: args.replace,
        ports,
        log: args.bpf_log,
        worker,
        policy: configured.policy.clone(),
        shunt: configured.shunt,
    })
    .await?;
    let tap = args.tap.as_deref().map(|interface| Tap::open(interface, &args.interfaces)).transpose()?;
    let destination = args.eve.destination(&args.log_dir, &configured.eve);
    confine::install(&needed_files(&args, &destination))?;
    let sink = super::eve::open(destination, Patience::Short, args.json)?;
    let mut watch = Watch::start(&interfaces).await?;
    let store = super::store::open(args.store.as_deref(), &configured.store)?;
    let control = open_control(&args.control)?;
    let mut capture = plan.start(&sink, store.as_ref()).await?;
    let mut loggers = Vec::new();
    if args.bpf_log != LogLevel::Off {
        for logger in capture.loggers() {
            loggers.push(logger.context("cannot read the messages of the XDP program")?);
        }
    }
    // Nothing below needs more than what is open, but for taking back what was changed.
    if !args.prepare {
        confine::this_thread();
    }
    let tap = tap.map(|tap| tap.start(&capture.workers())).transpose()?;
    let serving =
        control.map(|socket| socket.serve(capture.workers())).transpose().context("cannot start")?;
    for interface in capture.interfaces() {
        announce(&format!("capturing on {interface}"));
    }
    let mut service = Service::ready(&capture);
    let mut progress = std::io::stderr().is_terminal().then(Progress::new);
    let start = Instant::now();
    let end = args.duration.and_then(|duration| start.checked_add(duration.into()));
    let every = |period| {
        let mut ticks = interval_at(start + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let mut second = every(Duration::from_secs(1));
    let mut statistics = every(args.stats_interval);
    let mut messages = every(Duration::from_millis(100));
    let failure = loop {
        tokio::select! {
            _ = interrupt.recv() => break None,
            _ = terminate.recv() => break None,
            () = until(end) => break None,
            _ = hang_up.recv() => {
                if !sink.reopen() {
                    tracing::warn!("the log is too far behind to be opened again");
                }
                reload(&mut capture, args.config.as_deref(), &configured);
            }
            // Stopping finds out why.
            _ = capture.worker_ended() => break None,
            _ = second.tick() => {
                if let Err(error) = capture.check().await {
                    break Some(error);
                }
                service.second(&capture);
                if let Some(progress) = &mut progress {
                    progress.show(&capture.stats()?);
                }
            }
            _ = statistics.tick() => {
                watch.read().await;
                let mut stats = capture.stats()?;
                watch.enter(&mut stats);
                stats.tap = tap.as_ref().map(tap::Running::counts);
                write_stats(&sink, &mut stats, &sink.counters())?;
            }
            _ = messages.tick(), if !loggers.is_empty() => {
                loggers.iter_mut().for_each(aya_log::EbpfLogger::flush);
            }
        }
    };
    drop(progress);
    Service::stopping();
    watch.read().await;
    let mut stats = match capture.stop().await {
        Ok(stats) => stats,
        Err(error) => {
            // What the other workers had to say is not lost with the one that failed.
            let _ = sink.finish();
            return Err(error.into());
        }
    };
    drop(serving);
    stats.tap = tap.map(tap::Running::finish);
    loggers.iter_mut().for_each(aya_log::EbpfLogger::flush);
    watch.enter(&mut stats);
    // The event has no place for thousands of VNIs; what is printed has.
    let policies = std::mem::take(&mut stats.policies);
    write_stats(&sink, &mut stats, &sink.flush())?;
    stats.policies = policies;
    stats.set_records(&sink.finish());
    if let Some(store) = store {
        super::store::finish(store, args.json);
    }
    if args.json {
        println!("{}", serde_json::to_string(&stats)?);
    } else {
        eprint!("{}", progress::totals(&stats));
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What the process works with while it captures: its log, its store, its configuration, which may be
/// replaced or be somewhere else in truth, and the directory that the control socket is removed from.
/// Directories that are written to are made where they are missing.
fn needed_files(args: &Args, destination: &Destination) -> Files {
    let directory = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    };
    let log = match destination {
        Destination::File { path, .. } => Some(directory(path)),
        Destination::Stdout | Destination::Socket { .. } => None,
    };
    let write: Vec<_> = log.into_iter().chain(args.store.clone()).chain([directory(&args.control)]).collect();
    for directory in &write {
        // Where it cannot be made, whoever opens it says so.
        let _ = fs::create_dir_all(directory);
    }
    let configs = args.config.iter().flat_map(|path| [Some(path.clone()), fs::canonicalize(path).ok()]);
    Files { read: configs.flatten().map(|path| directory(&path)).collect(), write }
}

/// The control socket. A capture goes on without one where another has it, or the default place cannot be
/// written to.
fn open_control(path: &Path) -> anyhow::Result<Option<Socket>> {
    match Socket::open(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error @ OpenError::Io { .. }) if path != Path::new(control::DEFAULT_PATH) => Err(error.into()),
        Err(error) => {
            tracing::warn!("`mirror-xdp tail` cannot look on: {}", one_line(&error));
            Ok(None)
        }
    }
}

/// What the configuration file says; the defaults without one.
fn configuration(path: Option<&Path>) -> anyhow::Result<config::Config> {
    Ok(path.map(config::load).transpose()?.unwrap_or_default())
}

/// Reads the configuration again and puts its rules in force. Where something is wrong, the rules that are
/// in force stay.
fn reload(capture: &mut Capture, path: Option<&Path>, started_with: &config::Config) {
    let Some(path) = path else { return };
    let begun = Instant::now();
    match try_reload(capture, path, started_with) {
        Ok(rules) => announce(&format!(
            "mirror-xdp: {}: read again, {rules} rules in force after {} ms",
            path.display(),
            begun.elapsed().as_millis()
        )),
        Err(error) => {
            announce(&format!(
                "mirror-xdp: not reloaded, the rules in force stay: {}",
                one_line(error.as_ref())
            ));
        }
    }
}

fn try_reload(capture: &mut Capture, path: &Path, started_with: &config::Config) -> anyhow::Result<usize> {
    let config::Config { ports, policy, shunt, analysis, eve, store } = config::load(path)?;
    anyhow::ensure!(
        ports == started_with.ports,
        "{}: [ports] has changed, which takes a restart",
        path.display()
    );
    anyhow::ensure!(
        shunt == started_with.shunt,
        "{}: [shunt] has changed, which takes a restart",
        path.display()
    );
    anyhow::ensure!(
        store == started_with.store,
        "{}: [store] has changed, which takes a restart",
        path.display()
    );
    anyhow::ensure!(
        analysis == started_with.analysis,
        "{}: [analysis] has changed, which takes a restart",
        path.display()
    );
    anyhow::ensure!(eve == started_with.eve, "{}: [eve] has changed, which takes a restart", path.display());
    let rules = policy.sets.iter().map(|set| set.rules.len()).sum();
    capture.set_policy(policy)?;
    Ok(rules)
}

/// Waits for the end of the capture, for ever where there is none.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn write_stats(sink: &Sink, stats: &mut Stats, records: &SinkCounters) -> anyhow::Result<()> {
    stats.set_records(records);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
    sink.stats(now, stats).context("cannot write a stats event")
}
