//! The configuration file: what is in it, and everything that is wrong with it.
//!
//! One TOML file configures the appliance. [`load`] takes it as a whole or refuses it as a whole, with a
//! line for each mistake: file, line, key, what is wrong, what is allowed. `document` is the machinery that
//! reads TOML so; `sections` knows the keys. [`check`] finds besides what a start with the file would fail of:
//! `start` looks at the files and addresses that it names.

mod document;
pub mod limits;
pub mod listen;
mod sections;
mod start;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_device::afxdp::{BusyPoll, ZeroCopy};
use mirror_engine::analyzer::Enabled;
use mirror_engine::flow::Timeouts;
use mirror_engine::indicators::{FileError, Indicators};
use mirror_engine::worker::Tuning;
use mirror_records::apm;
use mirror_records::sink::{EventTypes, Modes, Rotation};
use mirror_rules::Policy;
use mirror_store::Settings;

pub use self::document::Mistake;
use self::document::{Document, Table};
use self::listen::Address;
use crate::host::CpuList;

/// How to run the program on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// In the driver, or generic where the driver cannot, with a warning
    #[default]
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the network stack: any interface, slower
    Generic,
}

/// The directory of the records when nobody says otherwise.
pub const DEFAULT_LOG_DIR: &str = "/var/log/mirror-xdp";

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What is captured, and how.
    pub capture: CaptureSettings,
    /// UDP ports of mirror traffic.
    pub ports: Ports,
    /// What may come in and what is captured of it.
    pub policy: Policy,
    /// Which flows are only counted after a while.
    pub shunt: ShuntSettings,
    /// How frames are received.
    pub receive: ReceiveSettings,
    /// What is made of the frames.
    pub analysis: AnalysisSettings,
    /// When flows end that have no packets.
    pub timeouts: Timeouts,
    /// What raises alerts.
    pub alerts: AlertSettings,
    /// Where records go.
    pub eve: EveSettings,
    /// How packets are kept, where they are.
    pub store: StoreSettings,
    /// Where the HTTP API is, and for whom.
    pub api: ApiSettings,
    /// Which messages are written.
    pub log: LogSettings,
}

impl Config {
    /// What of it can be set anew while workers work.
    #[must_use]
    pub const fn tuning(&self) -> Tuning {
        Tuning { analyzers: self.analysis.analyzers, timeouts: self.timeouts, shunt_after: self.shunt.after }
    }
}

/// Which messages are written; what is not said is up to the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, and others for some parts of the program, as `RUST_LOG` has them: `info,hyper=warn`.
    pub level: Option<String>,
}

/// Where records go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EveSettings {
    /// A file, `-`, or a socket, see [`mirror_records::sink::Destination::named`]; `None` is `eve.json`.
    pub output: Option<PathBuf>,
    /// The kinds of events that are written.
    pub types: EventTypes,
    /// When a file is put aside.
    pub rotation: Rotation,
    /// The permissions of files and directories that are made.
    pub modes: Modes,
}

/// What is made of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalysisSettings {
    /// Whether a packet that is mirrored at both ends of its conversation is analysed once only.
    pub dedup: bool,
    /// Which analyzers run.
    pub analyzers: Enabled,
    /// How long services are measured for one `metrics` event.
    pub metrics_interval: Duration,
}

impl Default for AnalysisSettings {
    fn default() -> Self {
        Self { dedup: false, analyzers: Enabled::default(), metrics_interval: apm::INTERVAL }
    }
}

/// What raises alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSettings {
    /// What is looked for.
    pub indicators: Indicators,
    /// A file with more of them.
    pub file: Option<PathBuf>,
}

impl AlertSettings {
    /// All that is looked for, with what the file has now.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or a line of it is no indicator.
    pub fn load(&self) -> Result<Indicators, FileError> {
        let mut indicators = self.indicators.clone();
        self.file.as_deref().map_or(Ok(()), |file| indicators.add_file(file))?;
        Ok(indicators)
    }
}

/// What is captured, and how; what is not said is up to the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureSettings {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// Whether to take off an XDP program that is there already.
    pub replace: Option<bool>,
    /// Where the records' files are.
    pub log_dir: Option<PathBuf>,
    /// Time between two `stats` events.
    pub stats_interval: Option<Duration>,
    /// Flows that each worker keeps at most.
    pub max_flows: Option<usize>,
}

/// How packets are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// How the store is written.
    pub settings: Settings,
    /// The file of the key that it is encrypted with.
    pub key: Option<PathBuf>,
}

/// Where the HTTP API is, and for whom; what is not said is up to the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSettings {
    /// Where all of it is.
    pub listen: Option<Address>,
    /// Where health checks alone are.
    pub health: Option<Address>,
    /// The file with the token that whoever asks has to know.
    pub token_file: Option<PathBuf>,
}

/// UDP ports of mirror traffic, an envelope each. No port is in two of them, none is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// VXLAN (RFC 7348).
    pub vxlan: Vec<u16>,
    /// GENEVE (RFC 8926).
    pub geneve: Vec<u16>,
    /// VXLAN-GPE, the draft's next-protocol field included.
    pub vxlan_gpe: Vec<u16>,
}

impl Default for Ports {
    /// VXLAN and GENEVE as AWS sends them.
    fn default() -> Self {
        Self {
            vxlan: vec![mirror_xdp_common::wire::VXLAN_PORT],
            geneve: vec![mirror_xdp_common::wire::GENEVE_PORT],
            vxlan_gpe: Vec::new(),
        }
    }
}

/// Which flows are only counted after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuntSettings {
    /// Bytes of a flow that user space sees before the driver only counts the rest; `None`: it sees all.
    pub after: Option<u64>,
    /// Flows that are counted in the driver at a time; beyond, the one longest without a packet comes up again.
    pub max_flows: u32,
}

impl Default for ShuntSettings {
    fn default() -> Self {
        Self { after: None, max_flows: 65_536 }
    }
}

/// How frames are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveSettings {
    /// How to run the program.
    pub xdp_mode: ModeChoice,
    /// Whether to receive without copying.
    pub zero_copy: ZeroCopy,
    /// CPUs for the workers; `None`: the best of those that the process may use.
    pub cpus: Option<CpuList>,
    /// Sockets of each queue; `None`: as many as give each CPU a worker.
    pub sockets_per_queue: Option<u32>,
    /// Whether all packets of a flow are analysed by one worker.
    pub flow_affinity: bool,
    /// Frames that may wait for a worker, a power of two; `None`: by the machine's memory.
    pub ring: Option<u32>,
    /// How workers look for frames themselves; `None`: they wait for interrupts.
    pub busy_poll: Option<BusyPoll>,
}

impl Default for ReceiveSettings {
    fn default() -> Self {
        Self {
            xdp_mode: ModeChoice::Auto,
            zero_copy: ZeroCopy::Auto,
            cpus: None,
            sockets_per_queue: None,
            flow_affinity: true,
            ring: None,
            busy_poll: None,
        }
    }
}

/// Why a configuration file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Wrong(#[from] Mistakes),
}

/// Everything that is wrong with a file, in the order of its lines. As text: the first, and how many more
/// there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Mistakes that are worth showing at once.
    const SHOWN: usize = 20;

    /// These mistakes, in the order of their lines, where there is one.
    #[must_use]
    pub fn of(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort_by_key(|mistake| mistake.line);
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// All of them; at least one.
    #[must_use]
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }

    /// A line for each of the first twenty, and one that says how many more there are.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = self.0.len().saturating_sub(Self::SHOWN);
        let rest = (more > 0).then(|| format!("{more} more mistakes"));
        self.0.iter().take(Self::SHOWN).map(Mistake::to_string).chain(rest)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [first, more @ ..] = &self.0[..] {
            write!(f, "{first}")?;
            if !more.is_empty() {
                write!(f, " ({} more: `mirror-xdp config check` shows them)", more.len())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads a configuration file.
pub fn load(path: &Path) -> Result<Config, Error> {
    Ok(parse(path, &read(path)?)?)
}

/// Reads a configuration from the bytes of a file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Config, Mistakes> {
    let Checked { config, mistakes, .. } = parse_all(path, bytes);
    Mistakes::of(mistakes).map_or(Ok(config), Err)
}

/// A configuration file, and all that is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What the file says; of no use where there are mistakes.
    pub config: Config,
    /// What is wrong, in the order of its lines.
    pub mistakes: Vec<Mistake>,
    /// What is allowed, but hardly what is wanted.
    pub warnings: Vec<Mistake>,
    /// Where the file says what, see [`lines`].
    pub lines: BTreeMap<String, usize>,
}

/// Reads a configuration file, and finds all of its mistakes and all that a start with it would fail of, as far
/// as that does not depend on interfaces and ports of the machine. Keys of which `is_overridden` is so are not
/// looked at for the latter: a flag says something else.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn check(path: &Path, is_overridden: impl Fn(&str) -> bool) -> Result<Checked, Error> {
    let text = read(path)?;
    let mut checked = parse_all(path, &text);
    // What is no text was refused.
    checked.lines = str::from_utf8(&text).map(lines).unwrap_or_default();
    start::check(path, &mut checked, is_overridden);
    checked.mistakes.sort_by_key(|mistake| mistake.line);
    checked.warnings.sort_by_key(|warning| warning.line);
    Ok(checked)
}

fn parse_all(path: &Path, bytes: &[u8]) -> Checked {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let document = Document::new(path, good);
            let end = good.len();
            document.mistake(end..end, "TOML", "not UTF-8", "save the file as UTF-8 text");
            return Checked { mistakes: document.into_findings().0, ..Checked::default() };
        }
    };
    let document = Document::new(path, text);
    let root = document.parse();
    let config = root.as_ref().map(|root| sections::config(Table::root(&document, root)));
    let config = config.unwrap_or_default();
    let (mistakes, warnings) = document.into_findings();
    Checked { config, mistakes, warnings, lines: BTreeMap::new() }
}

/// Where a file says what: the line of each section, such as `ports`, and of each of its keys, such as
/// `ports.vxlan`. Empty where the file is no TOML.
#[must_use]
pub fn lines(text: &str) -> BTreeMap<String, usize> {
    let document = Document::new(Path::new(""), text);
    let mut lines = BTreeMap::new();
    let Some(root) = document.parse() else { return lines };
    for (section, value) in root.get_ref() {
        lines.insert(section.get_ref().to_string(), document.line(section.span().start));
        for (key, _) in value.get_ref().as_table().into_iter().flatten() {
            lines.insert(format!("{}.{}", section.get_ref(), key.get_ref()), document.line(key.span().start));
        }
    }
    lines
}

/// The bytes of a file; of one that is no configuration for its sheer length, an error.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    const LONGEST: u64 = 16 << 20;
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(unreadable(io::Error::other("longer than 16 MiB, which no configuration is")));
    }
    Ok(text)
}
