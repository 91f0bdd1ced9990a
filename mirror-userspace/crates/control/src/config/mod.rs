//! The configuration file: its values, and its mistakes.
//!
//! One TOML file configures the appliance. [`load`] accepts or rejects it as a whole, with one line per
//! mistake: file, line, key, the mistake, the accepted values. `document` is the machinery that reads TOML in
//! this way; [`settings`] is the table of all keys, and `sections` reads those that need more than a row.
//! [`check`] also finds the reasons for which a start with the file
//! would fail: `start` looks at the files and addresses that the configuration names.

pub mod listen;
pub mod settings;
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
use mirror_engine::worker::{Tuning, WorkerConfig};
use mirror_packet::{FlowScope, TunnelPorts};
use mirror_records::apm;
use mirror_records::sink::{EventTypes, FILE_NAME, Modes, Rotation};
use mirror_rules::Policy;
use mirror_signatures::engine::AlertPayload;
use mirror_signatures::sources::Sources;
use mirror_store::Settings;

use self::listen::Address;
pub use self::settings::document::Diagnostic;
use self::settings::document::Document;
use crate::host::CpuList;

/// The XDP mode in which the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// In the driver, or generic with a warning if the driver does not support XDP
    #[default]
    Auto,
    /// In the driver, or no capture
    Native,
    /// In the network stack: any interface, slower
    Generic,
}

/// The values of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Interfaces and the capture as a whole.
    pub capture: CaptureSettings,
    /// UDP ports of mirror traffic.
    pub ports: Ports,
    /// Admission and filter rules.
    pub policy: Policy,
    /// Flows that the driver counts and drops after their first bytes.
    pub shunt: ShuntSettings,
    /// Reception of frames.
    pub receive: ReceiveSettings,
    /// Analysis of the frames.
    pub analysis: AnalysisSettings,
    /// The events of databases, caches and queues.
    pub services: ServiceSettings,
    /// Idle times after which flows end.
    pub timeouts: Timeouts,
    /// Indicators that raise alerts.
    pub alerts: AlertSettings,
    /// Rules that raise alerts.
    pub signatures: SignatureSettings,
    /// Output of the records.
    pub eve: EveSettings,
    /// The packet store, if there is one.
    pub store: StoreSettings,
    /// The HTTP API.
    pub api: ApiSettings,
    /// Log messages.
    pub log: LogSettings,
}

impl Config {
    /// Returns the settings that can be changed while the workers run.
    #[must_use]
    pub const fn tuning(&self) -> Tuning {
        Tuning {
            analyzers: self.analysis.analyzers,
            timeouts: self.timeouts,
            shunt_after: self.shunt.after,
            tunnel_ports: self.analysis.tunnel_ports,
        }
    }
}

/// Log messages; the environment decides on keys that are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, with levels for individual modules, in the syntax of `RUST_LOG`: `info,hyper=warn`.
    pub level: Option<String>,
}

/// Output of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EveSettings {
    /// A file, `-`, or a socket, see [`mirror_records::sink::Destination::named`].
    pub output: PathBuf,
    /// The types of events that are written.
    pub types: EventTypes,
    /// Files with the names of sessions and hosts.
    pub names: Vec<PathBuf>,
    /// The size and age at which a file is rotated.
    pub rotation: Rotation,
    /// The permissions of files and directories that are created.
    pub modes: Modes,
}

impl Default for EveSettings {
    fn default() -> Self {
        Self {
            output: FILE_NAME.into(),
            types: EventTypes::default(),
            names: Vec::new(),
            rotation: Rotation::default(),
            modes: Modes::default(),
        }
    }
}

/// Analysis of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalysisSettings {
    /// Analyses a packet that is mirrored at both ends of its conversation only once.
    pub dedup: bool,
    /// The frames that make up one address space.
    pub flow_scope: FlowScope,
    /// The analyzers that run.
    pub analyzers: Enabled,
    /// The UDP ports of tunnels within the frames.
    pub tunnel_ports: TunnelPorts,
    /// The period that one `metrics` event covers.
    pub metrics_interval: Duration,
}

impl Default for AnalysisSettings {
    fn default() -> Self {
        Self {
            dedup: false,
            flow_scope: FlowScope::default(),
            analyzers: Enabled::default(),
            tunnel_ports: TunnelPorts::DEFAULT,
            metrics_interval: apm::INTERVAL,
        }
    }
}

/// The events of databases, caches and queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Writes the literals of statements.
    pub literals: bool,
}

/// Indicators that raise alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSettings {
    /// The indicators of the configuration file itself.
    pub indicators: Indicators,
    /// A file with more indicators.
    pub file: Option<PathBuf>,
}

impl AlertSettings {
    /// Returns all indicators, including those that the file holds now.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or one of its lines is no indicator.
    pub fn load(&self) -> Result<Indicators, FileError> {
        let mut indicators = self.indicators.clone();
        self.file.as_deref().map_or(Ok(()), |file| indicators.add_file(file))?;
        Ok(indicators)
    }
}

/// Rules of Suricata that raise alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignatureSettings {
    /// The files and variables.
    pub sources: Sources,
    /// The parts of the traffic that alerts contain.
    pub payload: AlertPayload,
}

/// Interfaces and the capture as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSettings {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// Detaches an XDP program that is already attached.
    pub replace: bool,
    /// The directory of the records.
    pub log_dir: PathBuf,
    /// Time between two `stats` events.
    pub stats_interval: Duration,
    /// The most flows that each worker tracks.
    pub max_flows: usize,
}

impl Default for CaptureSettings {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            replace: false,
            log_dir: "/var/log/mirror-xdp".into(),
            stats_interval: Duration::from_secs(8),
            max_flows: WorkerConfig::default().max_flows,
        }
    }
}

/// The packet store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// The settings of the store.
    pub settings: Settings,
    /// The file of the key with which the store is encrypted.
    pub key: Option<PathBuf>,
}

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// The address of the whole API.
    pub listen: Address,
    /// The address that serves health checks only.
    pub health: Address,
    /// The file of the token that a client has to present.
    pub token_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { listen: listen::DEFAULT, health: Address::Off, token_file: None }
    }
}

/// UDP ports of mirror traffic, by encapsulation. No port is in two of the lists, and none is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// VXLAN (RFC 7348).
    pub vxlan: Vec<u16>,
    /// GENEVE (RFC 8926).
    pub geneve: Vec<u16>,
    /// VXLAN-GPE, with the next-protocol field of the draft.
    pub vxlan_gpe: Vec<u16>,
}

impl Default for Ports {
    /// The ports to which AWS sends VXLAN and GENEVE.
    fn default() -> Self {
        Self {
            vxlan: vec![mirror_xdp_common::wire::VXLAN_PORT],
            geneve: vec![mirror_xdp_common::wire::GENEVE_PORT],
            vxlan_gpe: Vec::new(),
        }
    }
}

/// Flows that the driver counts and drops after their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuntSettings {
    /// Bytes of a flow that user space sees before the driver only counts the rest; `None`: user space sees
    /// all.
    pub after: Option<u64>,
    /// The most flows that the driver counts at a time. Beyond that, user space sees the flow again that has
    /// been idle the longest.
    pub max_flows: u32,
}

impl Default for ShuntSettings {
    fn default() -> Self {
        Self { after: None, max_flows: 65_536 }
    }
}

/// Reception of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveSettings {
    /// The XDP mode in which the program runs.
    pub xdp_mode: ModeChoice,
    /// Use of zero-copy reception.
    pub zero_copy: ZeroCopy,
    /// CPUs for the workers; `None`: the best of those that the process may use.
    pub cpus: Option<CpuList>,
    /// Sockets per queue; `None`: as many as give each CPU a worker.
    pub sockets_per_queue: Option<u32>,
    /// One worker analyses all packets of a flow.
    pub flow_affinity: bool,
    /// Frames in the receive ring of a worker, a power of two; `None`: chosen by the machine's memory.
    pub ring: Option<u32>,
    /// Settings of busy polling; `None`: the workers wait for interrupts.
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

/// The reason why a configuration file is rejected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Wrong(#[from] Diagnostics),
}

/// All mistakes of a file, in the order of their lines.
///
/// [`Display`](fmt::Display) writes the first mistake and the number of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The most mistakes that are shown at once.
    const SHOWN: usize = 20;

    /// Sorts the mistakes by line; `None` if there are none.
    #[must_use]
    pub fn of(mut mistakes: Vec<Diagnostic>) -> Option<Self> {
        mistakes.sort_by_key(|mistake| mistake.line);
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// Returns all mistakes; there is at least one.
    #[must_use]
    pub fn all(&self) -> &[Diagnostic] {
        &self.0
    }

    /// Returns one line for each of the first twenty mistakes, and one with the number of the others.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = self.0.len().saturating_sub(Self::SHOWN);
        let rest = (more > 0).then(|| format!("{more} more mistakes"));
        self.0.iter().take(Self::SHOWN).map(Diagnostic::to_string).chain(rest)
    }
}

impl fmt::Display for Diagnostics {
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

impl std::error::Error for Diagnostics {}

/// Reads a configuration file; any mistake rejects it.
pub fn load(path: &Path) -> Result<Config, Error> {
    Ok(parse(path, &read(path)?)?)
}

/// Parses a configuration from the bytes of a file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Config, Diagnostics> {
    let Checked { config, mistakes, .. } = parse_all(path, bytes);
    Diagnostics::of(mistakes).map_or(Ok(config), Err)
}

/// A configuration file with all mistakes and warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The values of the file; meaningless if there are mistakes.
    pub config: Config,
    /// The mistakes, in the order of their lines.
    pub mistakes: Vec<Diagnostic>,
    /// Values that are allowed, but unlikely to be intended.
    pub warnings: Vec<Diagnostic>,
    /// The line of each section and key, see [`lines`].
    pub lines: BTreeMap<String, usize>,
}

/// Reads a configuration file and finds all of its mistakes.
///
/// These include the reasons for which a start with it would fail, as far as they do not depend on the
/// interfaces and ports of the machine. Keys for which `is_overridden` returns `true` are excluded from that
/// second check, because a flag replaces their value.
///
/// # Errors
///
/// If the file cannot be read.
pub fn check(path: &Path, is_overridden: impl Fn(&str) -> bool) -> Result<Checked, Error> {
    let text = read(path)?;
    let mut checked = parse_all(path, &text);
    // A file that is not UTF-8 has been rejected above.
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
    let config = root.as_ref().map(|root| settings::sections::config(&document, root));
    let config = config.unwrap_or_default();
    let (mistakes, warnings) = document.into_findings();
    Checked { config, mistakes, warnings, lines: BTreeMap::new() }
}

/// Returns the line of each section, such as `ports`, and of each of its keys, such as `ports.vxlan`. Empty
/// if the file is not TOML.
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

/// Reads the bytes of a file; a file of more than 16 MiB is an error.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    const LONGEST: u64 = 16 << 20;
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(unreadable(io::Error::other("longer than 16 MiB, the limit of a configuration file")));
    }
    Ok(text)
}
