//! The log for people and for log collectors: warnings by default, more if `RUST_LOG` asks for it, and the
//! announcements of a command. The level can change while the program runs. The number of messages of a kind is
//! limited.

mod limit;

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::Instant;
use std::{env, fs};

use mirror_base::sandbox;
use mirror_device::xdp::program::{LogLevel, PROGRAM_NAME};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::limit::Limit;

/// The format of messages.
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

/// The filter of messages and the log level of the XDP program; set by [`init`].
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, LogLevel)> = OnceLock::new();

/// The limit of messages of a kind.
static LIMIT: Limit = Limit::new();
/// The target of warnings about the configuration, which are not limited: their number is that of its lines.
pub(super) const CONFIGURATION: &str = "configuration";
/// The target of messages that tell how many were left out.
const LEFT_OUT: &str = "left_out";

/// The environment variable that selects messages; it takes precedence over the configuration.
pub(super) const VARIABLE: &str = EnvFilter::DEFAULT_ENV;

/// Returns the directives of the environment, if there are any.
pub(super) fn environment() -> Option<String> {
    env::var(VARIABLE).ok().filter(|directives| !directives.is_empty())
}

/// Builds the filter: the directives of the environment, else `level`, else warnings.
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
    // Announcements of commands have a target of their own.
    let own = [format!("{PROGRAM_NAME}={bpf}"), format!("{ANNOUNCEMENTS}=info")];
    own.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive)
}

/// Changes the filter: the directives of the environment, else `level`, else warnings.
pub(super) fn set_level(level: Option<&str>) {
    let Some((handle, bpf)) = FILTER.get() else { return };
    if handle.reload(filter(level, *bpf)).is_ok() {
        // The crate `log` filters its messages before they get here.
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

/// Sets up the logger. `bpf` is the log level of the XDP program. Without a format it writes to the journal
/// if standard error is connected to it, else text.
pub(super) fn init(bpf: LogLevel, format: Option<Format>) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(None, bpf));
    let format = format.unwrap_or_else(|| if stderr_is_journal() { Format::Journal } else { Format::Text });
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        Format::Text => registry
            .with(
                lines
                    .with_ansi(io::stderr().is_terminal())
                    .with_target(false)
                    .without_time()
                    .with_filter(&LIMIT),
            )
            .init(),
        Format::Json => registry.with(lines.json().flatten_event(true).with_filter(&LIMIT)).init(),
        Format::Journal => {
            // No other thread opens files yet, so the journal's socket gets the lowest free descriptor.
            let free = io::stderr().as_fd().try_clone_to_owned()?.as_raw_fd();
            registry.with(tracing_journald::layer()?.with_filter(&LIMIT)).init();
            sandbox::keep_journal(free);
        }
    }
    let _ = FORMAT.set(format);
    let _ = FILTER.set((handle, bpf));
    Ok(())
}

/// Reports the messages that were left out in a minute that is over.
pub(super) fn tell_left_out() {
    tell(LIMIT.left_out(Instant::now()));
}

/// Reports the messages that were left out until the end.
pub(super) fn tell_rest() {
    tell(LIMIT.rest());
}

fn tell(left_out: Vec<(u64, String)>) {
    for (count, example) in left_out {
        tracing::warn!(target: LEFT_OUT, "{count} more messages were left out, such as: {example}");
    }
}

/// The target of [`announce`]d messages.
const ANNOUNCEMENTS: &str = "mirror_xdp";

/// Announces something: as plain text on standard error for people, as a log message where messages are
/// collected.
pub(super) fn announce(text: &str) {
    match FORMAT.get() {
        None | Some(Format::Text) => eprintln!("{text}"),
        Some(Format::Json | Format::Journal) => tracing::info!(target: ANNOUNCEMENTS, "{text}"),
    }
}

/// Returns true if standard error is the stream that systemd connected to the journal (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
