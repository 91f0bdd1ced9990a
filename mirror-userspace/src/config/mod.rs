//! The configuration file: what is in it, and everything that is wrong with it.
//!
//! One TOML file configures the appliance. [`load`] takes it as a whole or refuses it as a whole, with a
//! line for each mistake: file, line, key, what is wrong, what is allowed. `document` is the machinery that
//! reads TOML so; `sections` knows the keys.

mod document;
mod sections;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use self::document::Mistake;
use self::document::{Document, Table};
use crate::filter::Policy;
use crate::sink::Rotation;
use crate::store::Settings;

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// UDP ports of mirror traffic.
    pub ports: Ports,
    /// What may come in and what is captured of it.
    pub policy: Policy,
    /// Which flows are only counted after a while.
    pub shunt: ShuntSettings,
    /// What is made of the frames.
    pub analysis: AnalysisSettings,
    /// Where records go.
    pub eve: EveSettings,
    /// How packets are kept, where they are.
    pub store: StoreSettings,
}

/// Where records go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EveSettings {
    /// A file, `-`, or a socket, see [`crate::sink::Destination::named`]; `None` is `eve.json`.
    pub output: Option<PathBuf>,
    /// When a file is put aside.
    pub rotation: Rotation,
}

/// What is made of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnalysisSettings {
    /// Whether a packet that is mirrored at both ends of its conversation is analysed once only.
    pub dedup: bool,
}

/// How packets are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// How the store is written.
    pub settings: Settings,
    /// The file of the key that it is encrypted with.
    pub key: Option<PathBuf>,
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
                write!(f, " ({} more: `mirror-xdp filter check` shows them)", more.len())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads a configuration file.
pub fn load(path: &Path) -> Result<Config, Error> {
    let text = read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    Ok(parse(path, &text)?)
}

/// Reads a configuration from the bytes of a file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Config, Mistakes> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let document = Document::new(path, good);
            let end = good.len();
            document.mistake(end..end, "TOML", "not UTF-8", "save the file as UTF-8 text");
            return Err(Mistakes(document.into_mistakes()));
        }
    };
    let document = Document::new(path, text);
    let root = document.parse();
    let config = root.as_ref().map(|root| sections::config(Table::root(&document, root)));
    let config = config.unwrap_or_default();
    let mistakes = document.into_mistakes();
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

/// The bytes of a file; of one that is no configuration for its sheer length, an error.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    const LONGEST: u64 = 16 << 20;
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("longer than 16 MiB, which no configuration is"));
    }
    Ok(text)
}
