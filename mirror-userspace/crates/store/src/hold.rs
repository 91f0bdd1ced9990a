//! Legal holds: what retention must not delete. They stand in a file of the store, which the process that
//! writes looks at before each deletion; so one can be placed while a capture runs.

use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::manifest::Segment;
use super::names::FileName;

/// The name of the file of holds.
pub const FILE_NAME: &str = "holds.json";

/// Bytes of the longest file of holds that is read.
const LONGEST: u64 = 16 << 20;
/// The largest number of a hold.
const LARGEST_NUMBER: u64 = u32::MAX as u64;

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

/// The holds of the store in a directory.
pub fn read(directory: &Path) -> io::Result<Vec<Hold>> {
    read_in(&Directory::open_to_read(directory)?)
}

/// The holds of a store.
pub(super) fn read_in(directory: &Directory) -> io::Result<Vec<Hold>> {
    let bytes = match directory.read_whole(&FileName::Holds, LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wrong = |error| io::Error::other(format!("`{FILE_NAME}` is no list of holds: {error}"));
    let holds: Vec<Hold> = serde_json::from_slice(&bytes).map_err(wrong)?;
    // The next one gets a larger number.
    if holds.iter().any(|hold| hold.number > LARGEST_NUMBER) {
        return Err(io::Error::other(format!("{FILE_NAME} has a hold with a number that is too large")));
    }
    Ok(holds)
}

/// Puts other holds in the place of those there are in a store's directory: at once, or not at all.
pub fn write(directory: &Path, holds: &[Hold]) -> io::Result<()> {
    let directory = Directory::open_to_read(directory)?;
    // What it takes the place of is the store's, too.
    directory.size(&FileName::Holds)?;
    let mut file = directory.replace(&FileName::NewHolds)?;
    file.write_all(&serde_json::to_vec_pretty(holds)?)?;
    file.sync_all()?;
    directory.rename_over(&FileName::NewHolds, &FileName::Holds)?;
    directory.sync()
}
