//! What people and log files get to read: warnings by default, other things as `RUST_LOG` asks for them, and
//! what a command has to announce. Which messages are written can change while the program runs.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::{env, fs};

use mirror_base::sandbox;
use mirror_device::xdp::program::{LogLevel, PROGRAM_NAME};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Lines on standard error
    Text,
    /// JSON objects on standard error, a line each
    Json,
    /// Entries of systemd's journal, with their fields
    Journal,
}

/// The format in use; text until [`init`] has chosen.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// Which messages are written, and what the XDP program is to tell; from [`init`] on.
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, LogLevel)> = OnceLock::new();

/// The variable that says which messages are written, whatever the configuration says.
pub(super) const VARIABLE: &str = EnvFilter::DEFAULT_ENV;

/// What the environment says about messages, if anything.
pub(super) fn environment() -> Option<String> {
    env::var(VARIABLE).ok().filter(|directives| !directives.is_empty())
}

/// What is written: what the environment says, else what is said here, else warnings.
fn filter(level: Option<&str>, bpf: LogLevel) -> EnvFilter {
    let environment = environment();
    let directives = environment.as_deref().or(level).unwrap_or_default();
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).parse_lossy(directives);
    let bpf = match bpf {
        LogLevel::Off => "off",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // What commands announce has a target of its own.
    let own = [format!("{PROGRAM_NAME}={bpf}"), format!("{ANNOUNCEMENTS}=info")];
    own.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive)
}

/// Has other messages written from now on: those that the environment asks for, else `level`, else warnings.
pub(super) fn set_level(level: Option<&str>) {
    let Some((handle, bpf)) = FILTER.get() else { return };
    if handle.reload(filter(level, *bpf)).is_ok() {
        // Messages by way of the crate `log` are held back there already.
        ::log::set_max_level(match LevelFilter::current() {
            LevelFilter::OFF => ::log::LevelFilter::Off,
            LevelFilter::ERROR => ::log::LevelFilter::Error,
            LevelFilter::WARN => ::log::LevelFilter::Warn,
            LevelFilter::INFO => ::log::LevelFilter::Info,
            LevelFilter::DEBUG => ::log::LevelFilter::Debug,
            LevelFilter::TRACE => ::log::LevelFilter::Trace,
        });
    }
}

/// Sets the logger up. `bpf` says what the XDP program is going to tell. Without a format it is the journal's
/// where standard error goes there, else text.
pub(super) fn init(bpf: LogLevel, format: Option<Format>) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(None, bpf));
    let format = format.unwrap_or_else(|| if stderr_is_journal() { Format::Journal } else { Format::Text });
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        Format::Text => registry
            .with(lines.with_ansi(io::stderr().is_terminal()).with_target(false).without_time())
            .init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
        Format::Journal => {
            // Nobody else opens anything yet, so the journal's socket gets the lowest number that is free.
            let free = io::stderr().as_fd().try_clone_to_owned()?.as_raw_fd();
            registry.with(tracing_journald::layer()?).init();
            sandbox::keep_journal(free);
        }
    }
    let _ = FORMAT.set(format);
    let _ = FILTER.set((handle, bpf));
    Ok(())
}

/// The target of [`announce`]d messages.
const ANNOUNCEMENTS: &str = "mirror_xdp";

/// Says what everybody is to know: as it is on standard error for people, as a message where those are
/// collected.
pub(super) fn announce(text: &str) {
    match FORMAT.get() {
        None | Some(Format::Text) => eprintln!("{text}"),
        Some(Format::Json | Format::Journal) => tracing::info!(target: ANNOUNCEMENTS, "{text}"),
    }
}

/// Whether standard error is the stream that systemd has connected with the journal (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
