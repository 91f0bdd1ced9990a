//! Legal holds: what retention must not delete. They stand in a file of the store, which the process that
//! writes looks at before each deletion; so one can be placed while a capture runs.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest::Segment;

/// The name of the file of holds.
pub const FILE_NAME: &str = "holds.json";

/// A hold: on segments with packets of a time, and of VNIs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// By which it is named.
    pub number: u64,
    /// VNIs; `None`: all.
    pub vnis: Option<RangeInclusive<u32>>,
    /// From this time on, in nanoseconds since the epoch.
    pub from: u64,
    /// Before this time.
    pub to: u64,
    /// Why.
    pub reason: String,
}

impl Hold {
    /// Whether a segment has anything that is held.
    #[must_use]
    pub fn covers(&self, segment: &Segment) -> bool {
        let named = |vnis: &RangeInclusive<u32>| segment.vnis.iter().any(|vni| vnis.contains(vni));
        segment.last >= self.from && segment.first < self.to && self.vnis.as_ref().is_none_or(named)
    }
}

/// The holds of a store.
pub fn read(directory: &Path) -> io::Result<Vec<Hold>> {
    match fs::read(directory.join(FILE_NAME)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Puts other holds in the place of those there are: at once, or not at all.
pub fn write(directory: &Path, holds: &[Hold]) -> io::Result<()> {
    let new = directory.join(format!("{FILE_NAME}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(holds)?)?;
    file.sync_all()?;
    fs::rename(new, directory.join(FILE_NAME))?;
    File::open(directory)?.sync_all()
}
