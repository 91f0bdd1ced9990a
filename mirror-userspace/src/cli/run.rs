//! `mirror-xdp run`: turns arguments into a running capture, and shows it to people and scripts.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::ops::RangeInclusive;
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
use mirror_control::config::{self, Diagnostic, Diagnostics};
use mirror_control::observe::control::{self, OpenError, Socket};
use mirror_control::observe::tap::{self, Tap};
use mirror_control::stats::Stats;
use mirror_device::nic::Changes;
use mirror_device::xdp::program::LogLevel;
use mirror_engine::worker::WorkerConfig;
use mirror_records::sink::{Destination, Sink, SinkCounters, SinkSettings, StallPolicy};
use mirror_rules::policy::UnknownVnis;
use mirror_store::remote::Location;
use mirror_store::upload;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::log::{Format, announce};
use super::progress::{self, Progress};
use super::receive::ReceiveArgs;
use super::reload::{Reloader, Running};
use super::service::Service;

/// The default time between two `stats` events.
const DEFAULT_STATS_INTERVAL: Duration = Duration::from_secs(8);

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
    /// Interface that receives mirrored traffic; may be given several times
    #[arg(short, long = "interface", value_name = "IF")]
    interfaces: Vec<String>,

    /// Configuration: ports, admission, filter rules, …; SIGHUP reloads it and reopens the log
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of eve.json, created if missing; the log is appended to; /var/log/mirror-xdp unless
    /// configured otherwise
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// Also keep the packets, in this directory, as [store] of the configuration defines; `mirror-xdp
    /// extract` finds them
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    /// Upload finished segments of the store to this URL, before retention may delete them:
    /// `s3://BUCKET/PREFIX` or `file:///DIRECTORY`; credentials come from the environment or the instance
    #[arg(long, value_name = "URL", requires = "store", value_parser = super::store::location)]
    store_upload: Option<Location>,

    #[command(flatten)]
    eve: super::eve::EveArgs,

    /// Replace an XDP program that is already attached to the interface
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    ports: super::PortArgs,

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

    /// Time between two `stats` events; 8s unless configured otherwise
    #[arg(long, value_name = "TIME", value_parser = super::seconds)]
    stats_interval: Option<Duration>,

    /// Maximum number of flows of each worker; beyond it, the flow that has been idle longest is ended;
    /// 262144 unless configured otherwise
    #[arg(long, value_name = "N", value_parser = super::max_flows)]
    max_flows: Option<usize>,

    /// If both ends of conversations are mirrored: analyse one copy of each packet, and count the other; off
    /// unless configured otherwise
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    dedup: Option<super::Switch>,
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

/// Settings from the arguments, else from the configuration, else the defaults.
#[derive(Debug)]
struct Settled {
    interfaces: Vec<String>,
    replace: bool,
    log_dir: PathBuf,
    max_flows: usize,
}

impl Settled {
    fn new(args: &Args, configured: &config::CaptureSettings) -> Self {
        let argument = (!args.interfaces.is_empty()).then(|| args.interfaces.clone());
        Self {
            interfaces: argument.unwrap_or_else(|| configured.interfaces.clone()),
            replace: args.replace || configured.replace.unwrap_or_default(),
            log_dir: args
                .log_dir
                .clone()
                .or_else(|| configured.log_dir.clone())
                .unwrap_or_else(|| config::DEFAULT_LOG_DIR.into()),
            max_flows: args
                .max_flows
                .or(configured.max_flows)
                .unwrap_or_else(|| WorkerConfig::default().max_flows),
        }
    }
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

    /// Returns the time between two `stats` events.
    pub(super) fn stats_interval(&self, configured: &config::Config) -> Duration {
        self.stats_interval.or(configured.capture.stats_interval).unwrap_or(DEFAULT_STATS_INTERVAL)
    }

    /// Returns the settings of the sink that can change while it runs.
    pub(super) fn sink_settings(&self, configured: &config::Config) -> SinkSettings {
        SinkSettings {
            metrics_interval: configured.analysis.metrics_interval,
            rotation: self.eve.rotation(&configured.eve),
        }
    }

    /// Returns the settings of the store, including the flags.
    fn store(&self, configured: &config::StoreSettings) -> config::StoreSettings {
        let mut store = configured.clone();
        if self.store_upload.is_some() {
            store.settings.upload.clone_from(&self.store_upload);
        }
        store
    }

    /// Returns all settings that are in force with this configuration, except the rules.
    pub(super) fn in_force(&self, configured: &config::Config) -> Vec<InForce> {
        let settled = Settled::new(self, &configured.capture);
        let ports = self.ports.lists(&configured.ports);
        let rotation = self.eve.rotation(&configured.eve);
        let policy = &configured.policy;
        let nets =
            policy.sources.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let switch = |on: bool| if on { "on" } else { "off" };
        let flag = |given: bool, flag: &'static str| given.then_some(flag);
        let given = self.eve.given();
        let eve = |index: usize| given.get(index).and_then(|&(name, given)| flag(given, name));
        let listen = self.api.listen.or(configured.api.listen).unwrap_or(api::DEFAULT);
        let health = self.api.health.or(configured.api.health).unwrap_or(Address::Off);
        let token = self.api.token_file.as_ref().or(configured.api.token_file.as_ref());
        let dedup = self.dedup.map_or(configured.analysis.dedup, super::Switch::is_on);
        let output = self.eve.output(&configured.eve);
        let environment = super::log::environment();
        let level = environment.as_deref().or(configured.log.level.as_deref()).unwrap_or("warn");
        let seconds = |seconds| json!(time(Duration::from_secs(seconds)));
        let timeouts = &configured.timeouts;
        let unknown = match policy.unknown_vnis {
            UnknownVnis::Learn => "learn",
            UnknownVnis::Drop => "strict",
        };
        let default = policy.default_set.and_then(|set| policy.sets.get(set)).map(|set| set.name.as_str());
        let mut all = vec![
            (
                "capture.interfaces",
                json!(settled.interfaces),
                flag(!self.interfaces.is_empty(), "--interface"),
            ),
            ("capture.replace", json!(switch(settled.replace)), flag(self.replace, "--replace")),
            ("capture.log_dir", json!(settled.log_dir), flag(self.log_dir.is_some(), "--log-dir")),
            (
                "capture.stats_interval",
                json!(time(self.stats_interval(configured))),
                flag(self.stats_interval.is_some(), "--stats-interval"),
            ),
            ("capture.max_flows", json!(settled.max_flows), flag(self.max_flows.is_some(), "--max-flows")),
            ("ports.vxlan", json!(ports.vxlan), flag(self.ports.vxlan.is_some(), "--vxlan-port")),
            ("ports.geneve", json!(ports.geneve), flag(self.ports.geneve.is_some(), "--geneve-port")),
            (
                "ports.vxlan_gpe",
                json!(ports.vxlan_gpe),
                flag(self.ports.vxlan_gpe.is_some(), "--vxlan-gpe-port"),
            ),
            ("admission.sources", json!(nets), None),
            ("admission.mode", json!(unknown), None),
            ("admission.vnis", json!(policy.vnis.iter().map(range).collect::<Vec<_>>()), None),
            ("shunt.after", json!(configured.shunt.after), None),
            ("shunt.max_flows", json!(configured.shunt.max_flows), None),
            ("analysis.analyzers", json!(configured.analysis.analyzers.names().collect::<Vec<_>>()), None),
            ("analysis.metrics_interval", json!(time(configured.analysis.metrics_interval)), None),
            ("analysis.dedup", json!(switch(dedup)), flag(self.dedup.is_some(), "--dedup")),
            ("alerts.indicators", json!(configured.alerts.indicators.len()), None),
            ("alerts.file", json!(configured.alerts.file), None),
            ("eve.output", json!(output), eve(0)),
            ("eve.types", json!(self.eve.types(&configured.eve).chosen()), eve(1)),
            ("eve.rotate_size", json!(rotation.size), eve(2)),
            ("eve.rotate_interval", json!(rotation.interval.map(time)), eve(3)),
            ("eve.rotate_keep", json!(rotation.keep), eve(4)),
            ("eve.file_mode", json!(format!("{:04o}", configured.eve.modes.file)), None),
            ("eve.directory_mode", json!(format!("{:04o}", configured.eve.modes.directory)), None),
            ("api.listen", json!(listen.to_string()), flag(self.api.listen.is_some(), "--api")),
            ("api.health", json!(health.to_string()), flag(self.api.health.is_some(), "--health")),
            ("api.token_file", json!(token), flag(self.api.token_file.is_some(), "--api-token-file")),
            ("log.level", json!(level), flag(environment.is_some(), super::log::VARIABLE)),
            ("timeouts.new", seconds(timeouts.new), None),
            ("timeouts.established", seconds(timeouts.established), None),
            ("timeouts.tcp_new", seconds(timeouts.tcp_new), None),
            ("timeouts.tcp_established", seconds(timeouts.tcp_established), None),
            ("timeouts.tcp_closed", seconds(timeouts.tcp_closed), None),
            ("filter.default", json!(default), None),
            ("filter.macs", json!(policy.macs.len()), None),
            ("filter.sets", json!(policy.sets.len()), None),
        ];
        all.extend(self.receive.in_force(&configured.receive));
        all.extend(super::store::in_force(&self.store(&configured.store), self.store_upload.is_some()));
        all.sort_by_key(|&(key, ..)| key);
        all
    }
}

/// Formats a range of VNIs in the notation of the configuration.
pub(super) fn range(vnis: &RangeInclusive<u32>) -> Value {
    let (first, last) = (vnis.start(), vnis.end());
    if first == last { json!(first) } else { json!(format!("{first}-{last}")) }
}

/// The addresses of the HTTP API, and its access token.
#[derive(Debug, clap::Args)]
struct ApiArgs {
    /// Address of the HTTP API, its metrics and its page, or `off`; 127.0.0.1:9470 unless configured
    /// otherwise
    #[arg(long = "api", value_name = "ADDR:PORT")]
    listen: Option<Address>,

    /// Additional address that answers only health checks, for load balancers
    #[arg(long, value_name = "ADDR:PORT")]
    health: Option<Address>,

    /// File with the token that clients of the API must send; required if other hosts can reach the API
    #[arg(long = "api-token-file", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ApiArgs {
    /// Merges the arguments with the configuration; the arguments take precedence.
    fn settings(&self, configured: &config::ApiSettings, log_dir: &Path) -> anyhow::Result<api::Settings> {
        let token_file = self.token_file.as_ref().or(configured.token_file.as_ref());
        Ok(api::Settings {
            api: self.listen.or(configured.listen).unwrap_or(api::DEFAULT),
            health: self.health.or(configured.health).unwrap_or(Address::Off),
            token: token_file.map(|path| api::Token::read(path)).transpose()?,
            log_dir: log_dir.to_owned(),
        })
    }
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    super::log::init(args.bpf_log, args.log_format).context("cannot log to the journal")?;
    // The packet path has its own threads; this one only handles signals, timers and netlink.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut hang_up = signal(SignalKind::hangup())?;
    let (configured, warnings) = configuration(&args)?;
    super::log::set_level(configured.log.level.as_deref());
    let settled = Settled::new(&args, &configured.capture);
    if settled.interfaces.is_empty() {
        let what = "no interface is named: use --interface, or [capture] in the configuration\n";
        super::Cli::command().error(ErrorKind::MissingRequiredArgument, what).exit();
    }
    let worker = WorkerConfig {
        max_flows: settled.max_flows,
        // The standard library seeds its maps with random numbers of the system.
        hash_seed: RandomState::new().hash_one(0),
        dedup: args.dedup.map_or(configured.analysis.dedup, super::Switch::is_on),
        tuning: configured.tuning(),
    };
    let ports = args.ports.ports(&configured.ports);
    let receive = args.receive.clone().settings(&configured.receive);
    // Undone when this function returns, in whatever way.
    let mut changes = Vec::new();
    if args.prepare {
        changes = super::doctor::prepare(&settled.interfaces, &ports, receive.cpus.as_ref()).await?;
    }
    if receive.busy_poll.is_some() {
        changes.extend(super::doctor::defer_interrupts(&settled.interfaces).await?);
    }
    let interfaces = settled.interfaces.clone();
    let plan = Plan::make(Config {
        interfaces: settled.interfaces,
        receive,
        replace: settled.replace,
        ports,
        log: args.bpf_log,
        worker,
        policy: configured.policy.clone(),
        shunt: configured.shunt,
        indicators: Arc::new(configured.alerts.load()?),
    })
    .await?;
    let tap = args.tap.as_deref().map(|interface| Tap::open(interface, &interfaces)).transpose()?;
    let listener = api::Listener::bind(args.api.settings(&configured.api, &settled.log_dir)?)?;
    let destination = args.eve.destination(&settled.log_dir, &configured.eve);
    sandbox::install(&needed_files(&args, &configured, &settled.log_dir, &destination))?;
    let types = args.eve.types(&configured.eve);
    let sink = super::eve::open(destination, types, StallPolicy::Short, args.json)?;
    sink.set(args.sink_settings(&configured));
    let store = super::store::open_to_capture(args.store.as_deref(), &args.store(&configured.store))?;
    let mut watch = Watch::start(&interfaces).await?;
    let control = open_control(&args.control)?;
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
    let serving =
        control.map(|socket| socket.serve(capture.workers())).transpose().context("cannot start")?;
    for warning in warnings {
        tracing::warn!("{warning}");
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
    let mut statistics = every(args.stats_interval(&configured));
    let mut messages = every(Duration::from_millis(100));
    let mut reloader = Reloader::new(&args, configured);
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
        stats.upload = super::store::finish(store, args.json);
    }
    if args.json {
        super::print_json(&stats)?;
    } else {
        eprint!("{}", progress::totals(&stats));
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns the files that each kind of thread uses while it captures: the log, the store and its upload
/// target, the directory that the control socket is removed from, and the configuration with the file of
/// indicators, which may be replaced or be symbolic links. Creates missing directories that are written to.
fn needed_files(
    args: &Args,
    configured: &config::Config,
    log_dir: &Path,
    destination: &Destination,
) -> BTreeMap<Kind, Files> {
    let mut all = BTreeMap::new();
    let write = |path: PathBuf| Files { write: vec![path], ..Files::default() };
    all.insert(Kind::Records, destination.needed_files());
    all.insert(Kind::Control, write(directory_of(&args.control)));
    if let Some(store) = &args.store {
        all.insert(Kind::Store, write(store.clone()));
        if let Some(location) = &args.store(&configured.store).settings.upload {
            all.insert(Kind::Upload, upload::needed_files(store, location));
        }
    }
    if let Some(store) = &args.store {
        // As below.
        let _ = mirror_store::make_directory(store, configured.store.settings.permissions);
    }
    for directory in all.values().flat_map(|files| &files.write).chain([&log_dir.to_owned()]) {
        // If it cannot be created, the code that opens it reports the error.
        let _ = configured.eve.modes.make_directory(directory);
    }
    let configs = args.config.iter().chain(&configured.alerts.file);
    let configs = configs.flat_map(|path| [Some(path.clone()), fs::canonicalize(path).ok()]);
    let main =
        Files { read: configs.flatten().map(|path| directory_of(&path)).collect(), ..Files::default() };
    // The kernel settings of interfaces, interrupts and huge pages.
    let settings = ["/proc/sys/vm", "/proc/irq", "/sys/devices"].map(PathBuf::from);
    let read = main.read.iter().cloned().chain(["/proc", "/sys"].map(PathBuf::from)).collect();
    all.insert(Kind::MainToRestore, Files { read, write: settings.into(), ..Files::default() });
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

/// Reads the configuration file, and returns it with its warnings; returns the defaults without a file. Keys
/// that flags override are not checked, and neither is the store if none is written.
fn configuration(args: &Args) -> anyhow::Result<(config::Config, Vec<Diagnostic>)> {
    let Some(path) = &args.config else { return Ok(Default::default()) };
    let by_flag = args.in_force(&config::Config::default());
    let by_flag: Vec<_> = by_flag.into_iter().filter_map(|(key, _, flag)| flag.map(|_| key)).collect();
    let is_unused = |key: &str| args.store.is_none() && key.starts_with("store.");
    let checked = config::check(path, |key| by_flag.contains(&key) || is_unused(key))?;
    match Diagnostics::of(checked.mistakes) {
        Some(mistakes) => Err(config::Error::from(mistakes).into()),
        None => Ok((checked.config, checked.warnings)),
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
