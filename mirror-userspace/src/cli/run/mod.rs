//! `mirror-xdp run`: turns arguments into a running capture, and shows it to people and scripts.

mod given;
mod reload;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use mirror_base::file::directory_of;
use mirror_base::one_line;
use mirror_base::sandbox::{self, Files, Kind};
use mirror_control::api::{self, Address};
use mirror_control::capture::device_losses::Watch;
use mirror_control::capture::{Config, Plan};
use mirror_control::config::settings::{self, Setting};
use mirror_control::config::{self, Diagnostic, Diagnostics};
use mirror_control::names;
use mirror_control::observe::control::{self, OpenError, Socket};
use mirror_control::observe::tap::{self, Tap};
use mirror_control::rule_loader::RuleLoader;
use mirror_control::stats::{self, Stats};
use mirror_device::nic::Changes;
use mirror_device::xdp::program::LogLevel;
use mirror_engine::worker::{Memory, WorkerConfig};
use mirror_packet::FlowScope;
use mirror_records::sink::{Destination, Sink, SinkCounters, SinkSettings, StallPolicy};
use mirror_store::remote::Location;
use mirror_store::upload;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use self::given::Given;
use self::reload::{Reloader, Running};
use crate::cli::log::{Format, announce};
use crate::cli::progress::{self, Progress};
use crate::cli::receive::ReceiveArgs;
use crate::cli::service::Service;
use crate::cli::{Switch, help, number, set, set_some};

const EXAMPLES: &str = "\
Examples:
  mirror-xdp run --interface ens6
  mirror-xdp run --interface ens6 --interface ens7 --xdp-mode native --zero-copy required
  mirror-xdp run --interface ens6 --config /etc/mirror-xdp/mirror-xdp.toml  kill -HUP reloads it
  mirror-xdp run --interface ens6 --store /data/packets                    keep the packets, too
  mirror-xdp run --interface ens6 --store /data/packets --store-upload s3://bucket/appliance-1
  mirror-xdp run --interface ens6 --rotate-interval 1h --rotate-keep 48   two days of records
  mirror-xdp run --interface ens6 --eve-output unix-stream:/run/eve.sock
  mirror-xdp run --interface ens6 --duration 1min --json > account.json
  mirror-xdp run --interface ens6 --tap tap0     and `suricata -i tap0-ids` at the other end of the pair

Needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON. SSH and health checks to the
interface keep working: all other traffic passes to the kernel unchanged.";

/// Capture mirrored traffic from network interfaces
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    // First: the other fields take their values away.
    #[command(flatten)]
    given: Given,

    /// Interface that receives mirrored traffic; may be given several times
    #[arg(short, long = "interface", value_name = "IF")]
    interfaces: Vec<String>,

    /// Configuration: ports, admission, filter rules, …; SIGHUP reloads it and reopens the log
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[arg(long, help = help("capture.log_dir"), value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// Also keep the packets, in this directory, as [store] of the configuration defines; `mirror-xdp
    /// extract` finds them
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    #[arg(long, help = help("store.upload"), value_name = "URL", requires = "store")]
    #[arg(value_parser = crate::cli::store::location)]
    store_upload: Option<Location>,

    #[command(flatten)]
    eve: crate::cli::eve::EveArgs,

    #[arg(long, help = help("capture.replace"))]
    replace: bool,

    #[command(flatten)]
    ports: crate::cli::PortArgs,

    /// First run `mirror-xdp doctor --fix`; the changes are undone at the end, but not if the process is
    /// killed
    #[arg(long)]
    prepare: bool,

    /// Stop after this time, such as 90s, 10min or 1h
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,

    /// Print the account of all frames as one JSON object on stdout at the end
    #[arg(long)]
    json: bool,

    #[arg(long, help = help("capture.stats_interval"), value_name = "TIME", value_parser = crate::cli::seconds)]
    stats_interval: Option<Duration>,

    #[arg(long, help = help("capture.max_flows"), value_name = "N")]
    #[arg(value_parser = number::<usize>("capture.max_flows"))]
    max_flows: Option<usize>,

    #[arg(long, help = help("analysis.dedup"), value_enum, value_name = "on|off")]
    #[arg(hide_possible_values = true)]
    dedup: Option<Switch>,

    #[arg(long, help = help("analysis.flow_scope"), value_name = "SCOPE", value_parser = crate::cli::flow_scope())]
    flow_scope: Option<FlowScope>,

    #[arg(long, help = help("services.literals"), value_enum, value_name = "on|off")]
    #[arg(hide_possible_values = true)]
    literals: Option<Switch>,

    /// Send the inner frames out of this interface, such as one end of a veth pair, for other programs to see
    #[arg(long, value_name = "IF")]
    tap: Option<String>,

    /// Socket that `mirror-xdp tail` connects to
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH)]
    control: PathBuf,

    #[command(flatten)]
    api: ApiArgs,
    /// Format of messages; `journal` under systemd, else `text`
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,

    /// Let the XDP program report each frame that it drops (debug) or does not capture (trace)
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    bpf_log: LogLevel,

    #[command(flatten)]
    receive: ReceiveArgs,
}

/// A setting in force: its key in the configuration, its value, and the flag that sets it, if any.
pub(super) type InForce = (&'static str, Value, Option<&'static str>);

impl Args {
    /// Returns the path of the configuration file.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Returns true if `--json` is given.
    pub(super) const fn json(&self) -> bool {
        self.json
    }

    /// Returns the settings in force: those of the file, except where a flag overrides them.
    pub(super) fn settings(&self, mut file: config::Config) -> config::Config {
        let capture = &mut file.capture;
        if !self.interfaces.is_empty() {
            capture.interfaces.clone_from(&self.interfaces);
        }
        capture.replace |= self.replace;
        set(&mut capture.log_dir, self.log_dir.as_ref());
        set(&mut capture.stats_interval, self.stats_interval.as_ref());
        set(&mut capture.max_flows, self.max_flows.as_ref());
        set(&mut file.analysis.dedup, self.dedup.map(Switch::is_on).as_ref());
        set(&mut file.analysis.flow_scope, self.flow_scope.as_ref());
        set(&mut file.services.literals, self.literals.map(Switch::is_on).as_ref());
        set_some(&mut file.store.settings.upload, self.store_upload.as_ref());
        self.ports.apply(&mut file);
        self.receive.apply(&mut file.receive);
        self.eve.apply(&mut file.eve);
        self.api.apply(&mut file.api);
        file
    }

    /// Returns each of the settings with its origin; of the rules, only how many sets there are.
    pub(super) fn in_force(&self, settings: &config::Config) -> Vec<InForce> {
        let environment = crate::cli::log::environment();
        let setting = |setting: &'static Setting| {
            let in_force = (setting.path, setting.value(settings)?, self.given.flag(setting));
            Some(match &environment {
                Some(level) if setting.path == "log.level" => {
                    (setting.path, json!(level), Some(crate::cli::log::VARIABLE))
                }
                _ => in_force,
            })
        };
        let mut all: Vec<_> = settings::all().filter_map(setting).collect();
        all.sort_by_key(|&(key, ..)| key);
        all
    }
}

/// Returns the settings of the sink that can change while it runs.
pub(super) fn sink_settings(settings: &config::Config) -> SinkSettings {
    SinkSettings {
        metrics_interval: settings.analysis.metrics_interval,
        literals: settings.services.literals,
        rotation: settings.eve.rotation.clone(),
    }
}

/// The addresses of the HTTP API, and its access token.
#[derive(Debug, clap::Args)]
struct ApiArgs {
    #[arg(long = "api", help = help("api.listen"), value_name = "ADDR:PORT")]
    listen: Option<Address>,

    #[arg(long, help = help("api.health"), value_name = "ADDR:PORT")]
    health: Option<Address>,

    #[arg(long = "api-token-file", help = help("api.token_file"), value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ApiArgs {
    /// Replaces the settings whose flags are given.
    fn apply(&self, settings: &mut config::ApiSettings) {
        set(&mut settings.listen, self.listen.as_ref());
        set(&mut settings.health, self.health.as_ref());
        set_some(&mut settings.token_file, self.token_file.as_ref());
    }
}

/// Reads the token, and returns the settings as the API takes them.
fn api_settings(settings: &config::Config) -> anyhow::Result<api::Settings> {
    Ok(api::Settings {
        api: settings.api.listen,
        health: settings.api.health,
        token: settings.api.token_file.as_deref().map(api::Token::read).transpose()?,
        log_dir: settings.capture.log_dir.clone(),
    })
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    crate::cli::log::init(args.bpf_log, args.log_format).context("cannot log to the journal")?;
    // The packet path has its own threads; this one only handles signals, timers and netlink.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut hang_up = signal(SignalKind::hangup())?;
    let (settings, warnings) = configuration(&args)?;
    crate::cli::log::set_level(settings.log.level.as_deref());
    let interfaces = settings.capture.interfaces.clone();
    if interfaces.is_empty() {
        let what = "no interface is named: use --interface, or [capture] in the configuration\n";
        crate::cli::Cli::command().error(ErrorKind::MissingRequiredArgument, what).exit();
    }
    let worker = WorkerConfig {
        midstream: false,
        max_flows: settings.capture.max_flows,
        // The standard library seeds its maps with random numbers of the system.
        hash_seed: RandomState::new().hash_one(0),
        dedup: settings.analysis.dedup,
        flow_scope: settings.analysis.flow_scope,
        memory: Memory::LIVE,
        tuning: settings.tuning(),
    };
    let ports = crate::cli::parser_ports(&settings.ports);
    let receive = settings.receive.clone();
    let (rules, digest) = crate::cli::inspect::load(&settings.signatures)?.unzip();
    // Undone when this function returns, in whatever way.
    let mut changes = Vec::new();
    if args.prepare {
        changes = crate::cli::doctor::prepare(&interfaces, &ports, receive.cpus.as_ref()).await?;
    }
    if receive.busy_poll.is_some() {
        changes.extend(crate::cli::doctor::defer_interrupts(&interfaces).await?);
    }
    let plan = Plan::make(Config {
        interfaces: interfaces.clone(),
        receive,
        replace: settings.capture.replace,
        ports,
        log: args.bpf_log,
        worker,
        policy: settings.policy.clone(),
        shunt: settings.shunt,
        indicators: Arc::new(settings.alerts.load()?),
        rules,
    })
    .await?;
    let tap = args.tap.as_deref().map(|interface| Tap::open(interface, &interfaces)).transpose()?;
    let listener = api::Listener::bind(api_settings(&settings)?)?;
    let destination = crate::cli::eve::destination(&settings.eve, &settings.capture.log_dir);
    sandbox::install(&needed_files(&args, &settings, &destination))?;
    let sink = crate::cli::eve::open(destination, settings.eve.types.clone(), StallPolicy::Short, args.json)?;
    sink.set(sink_settings(&settings));
    let store = crate::cli::store::open_to_capture(args.store.as_deref(), &settings.store)?;
    let mut watch = Watch::start(&interfaces).await?;
    let control = open_control(&args.control)?;
    let loader = RuleLoader::start().context("cannot start the thread that loads rules")?;
    names::follow(&settings.eve.names, sink.names()).context("cannot start the thread that reads names")?;
    let mut server = listener.serve()?;
    let mut capture = plan.start(&sink, store.as_ref()).await?;
    server.started(&capture, &sink);
    let mut loggers = Vec::new();
    if args.bpf_log != LogLevel::Off {
        for logger in capture.loggers() {
            loggers.push(logger.context("cannot read the messages of the XDP program")?);
        }
    }
    let tap = tap.map(|tap| tap.start(&capture.workers())).transpose()?;
    let serving = control
        .map(|socket| socket.with_rules(capture.rules().clone()).serve(capture.workers()))
        .transpose()
        .context("cannot start")?;
    for warning in warnings {
        tracing::warn!(target: crate::cli::log::CONFIGURATION, "{warning}");
    }
    let service = Service::connect();
    // All threads run now. Except for undoing changes, the code below uses only what is open.
    let unchanged = changes.iter().all(Changes::is_empty);
    sandbox::this_thread(if unchanged { Kind::Main } else { Kind::MainToRestore });
    for interface in capture.interfaces() {
        announce(&format!("capturing on {interface}"));
    }
    service.ready(&capture);
    let mut progress = std::io::stderr().is_terminal().then(Progress::new);
    let start = Instant::now();
    let end = args.duration.and_then(|duration| start.checked_add(duration.into()));
    let mut second = every(Duration::from_secs(1));
    let mut statistics = every(settings.capture.stats_interval);
    let mut messages = every(Duration::from_millis(100));
    let mut split_noticed = false;
    let mut reloader = Reloader::new(&args, settings, loader, digest);
    let failure = loop {
        tokio::select! {
            _ = interrupt.recv() => break None,
            _ = terminate.recv() => break None,
            () = until(end) => break None,
            _ = hang_up.recv() => {
                if !sink.reopen() {
                    tracing::warn!("the log is too far behind to be reopened");
                }
                // The reloader has reported the result on standard error.
                let running = Running { capture: &mut capture, sink: &sink, store: store.as_ref() };
                let _ = reloader.reload(running).await;
                keep_pace(&mut statistics, reloader.stats_interval());
            }
            request = server.request() => {
                if let Some(answer) = request.answer(&capture, &sink, &mut watch, tap.as_ref()).await {
                    let running = Running { capture: &mut capture, sink: &sink, store: store.as_ref() };
                    // Sending fails if the client is gone; the reload happens all the same.
                    let _ = answer.send(reloader.reload(running).await);
                    keep_pace(&mut statistics, reloader.stats_interval());
                }
            }
            // `stop` finds out the reason.
            _ = capture.worker_ended() => break None,
            _ = second.tick() => {
                if let Err(error) = capture.check().await {
                    break Some(error);
                }
                service.second(&capture);
                crate::cli::log::tell_left_out();
                if let Some(progress) = &mut progress {
                    let mut stats = capture.stats()?;
                    stats.set_records(&sink.counters());
                    watch.enter(&mut stats);
                    stats.tap = tap.as_ref().map(tap::Running::counts);
                    progress.show(&stats);
                }
            }
            _ = statistics.tick() => {
                watch.read().await;
                let mut stats = capture.stats()?;
                watch.enter(&mut stats);
                stats.tap = tap.as_ref().map(tap::Running::counts);
                if !split_noticed && let Some(advice) = stats::split_advice(&stats.workers) {
                    split_noticed = true;
                    tracing::warn!("{advice}");
                }
                write_stats(&sink, &mut stats, &sink.counters())?;
            }
            _ = messages.tick(), if !loggers.is_empty() => {
                loggers.iter_mut().for_each(aya_log::EbpfLogger::flush);
            }
        }
    };
    drop(progress);
    server.stopping();
    service.stopping();
    watch.read().await;
    let mut stats = match capture.stop().await {
        Ok(stats) => stats,
        Err(error) => {
            // The records of the other workers are not lost with the worker that failed.
            let _ = sink.finish();
            return Err(error.into());
        }
    };
    drop(serving);
    stats.tap = tap.map(tap::Running::finish);
    loggers.iter_mut().for_each(aya_log::EbpfLogger::flush);
    watch.enter(&mut stats);
    // The event has no room for thousands of VNIs, but the printed account does.
    let policies = std::mem::take(&mut stats.policies);
    write_stats(&sink, &mut stats, &sink.flush())?;
    stats.policies = policies;
    stats.set_records(&sink.finish());
    if let Some(store) = store {
        stats.upload = crate::cli::store::finish(store, args.json);
    }
    if args.json {
        crate::cli::print_json(&stats)?;
    } else {
        eprint!("{}", progress::totals(&stats));
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns the files that each kind of thread uses while it captures: the log, the store and its upload
/// target, the directory that the control socket is removed from, and the configuration with the files of
/// indicators and rules, which may be replaced or be symbolic links. Creates missing directories that are written to.
fn needed_files(args: &Args, settings: &config::Config, destination: &Destination) -> BTreeMap<Kind, Files> {
    let mut all = BTreeMap::new();
    let write = |path: PathBuf| Files { write: vec![path], ..Files::default() };
    all.insert(Kind::Records, destination.needed_files());
    all.insert(Kind::Control, write(directory_of(&args.control)));
    if let Some(store) = &args.store {
        all.insert(Kind::Store, write(store.clone()));
        if let Some(location) = &settings.store.settings.upload {
            all.insert(Kind::Upload, upload::needed_files(store, location));
        }
    }
    if let Some(store) = &args.store {
        // As below.
        let _ = mirror_store::make_directory(store, settings.store.settings.permissions);
    }
    for directory in all.values().flat_map(|files| &files.write).chain([&settings.capture.log_dir]) {
        // If it cannot be created, the code that opens it reports the error.
        let _ = settings.eve.modes.make_directory(directory);
    }
    let configs = args.config.iter().chain(&settings.alerts.file).chain(&settings.eve.names);
    let configs = configs.flat_map(|path| [Some(path.clone()), fs::canonicalize(path).ok()]);
    let rules = settings.signatures.sources.places();
    let read = configs.flatten().map(|path| directory_of(&path)).chain(rules).collect();
    let main = Files { read, ..Files::default() };
    // The kernel settings of interfaces, interrupts and huge pages.
    let kernel = ["/proc/sys/vm", "/proc/irq", "/sys/devices"].map(PathBuf::from);
    let read = main.read.iter().cloned().chain(["/proc", "/sys"].map(PathBuf::from)).collect();
    all.insert(Kind::MainToRestore, Files { read, write: kernel.into(), ..Files::default() });
    all.insert(Kind::Main, main);
    all
}

/// Opens the control socket. The capture runs without one if another process owns it, or if the default path
/// cannot be written to.
fn open_control(path: &Path) -> anyhow::Result<Option<Socket>> {
    match Socket::open(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error @ OpenError::Io { .. }) if path != Path::new(control::DEFAULT_PATH) => Err(error.into()),
        Err(error) => {
            tracing::warn!("`mirror-xdp tail` cannot connect: {}", one_line(&error));
            Ok(None)
        }
    }
}

/// Returns the settings in force, and the warnings about the configuration file. Keys that flags override are
/// not checked, and neither is the store if none is written.
fn configuration(args: &Args) -> anyhow::Result<(config::Config, Vec<Diagnostic>)> {
    let Some(path) = &args.config else { return Ok((args.settings(config::Config::default()), Vec::new())) };
    let is_overridden = |key: &str| settings::get(key).is_some_and(|row| args.given.flag(row).is_some());
    // Rules are loaded, and what is wrong with them reported, whatever the check finds.
    let is_unused =
        |key: &str| args.store.is_none() && key.starts_with("store.") || key.starts_with("signatures.");
    let checked = config::check(path, |key| is_overridden(key) || is_unused(key))?;
    match Diagnostics::of(checked.mistakes) {
        Some(mistakes) => Err(config::Error::from(mistakes).into()),
        None => Ok((args.settings(checked.config), checked.warnings)),
    }
}

/// Creates an interval whose first tick comes after one period.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Changes the period of an interval, if it differs.
fn keep_pace(ticks: &mut Interval, period: Duration) {
    if ticks.period() != period {
        *ticks = every(period);
    }
}

/// Waits for the end of the capture, or forever if there is none.
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
