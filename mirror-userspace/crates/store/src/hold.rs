//! Legal holds: segments that retention must not delete. They are stored in a file of the store. The process
//! that writes reads this file before each deletion, so a hold can be placed while a capture runs.

use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::manifest::Segment;
use super::names::FileName;

/// The name of the file of holds.
pub const FILE_NAME: &str = crate::names::HOLDS;

/// Size in bytes of the longest file of holds that is read.
const LONGEST: u64 = 16 << 20;
/// The largest number of a hold.
const LARGEST_NUMBER: u64 = u32::MAX as u64;

/// A hold on the segments that contain packets of a period and of some VNIs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The number that identifies the hold.
    pub number: u64,
    /// The VNIs; `None` holds all.
    pub vnis: Option<RangeInclusive<u32>>,
    /// Start of the period, in nanoseconds since the epoch.
    pub from: u64,
    /// End of the period, exclusive.
    pub to: u64,
    /// The reason for the hold.
    pub reason: String,
}

impl Hold {
    /// Returns whether a segment contains anything that is held.
    #[must_use]
    pub fn covers(&self, segment: &Segment) -> bool {
        let named = |vnis: &RangeInclusive<u32>| segment.vnis.iter().any(|vni| vnis.contains(vni));
        segment.last >= self.from && segment.first < self.to && self.vnis.as_ref().is_none_or(named)
    }
}

/// Reads the holds of the store in a directory.
pub fn read(directory: &Path) -> io::Result<Vec<Hold>> {
    read_in(&Directory::open_to_read(directory)?)
}

/// Reads the holds of a store.
pub(super) fn read_in(directory: &Directory) -> io::Result<Vec<Hold>> {
    let bytes = match directory.read_whole(&FileName::Holds, LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wrong = |error| io::Error::other(format!("`{FILE_NAME}` is not a list of holds: {error}"));
    let holds: Vec<Hold> = serde_json::from_slice(&bytes).map_err(wrong)?;
    // The next hold gets a larger number.
    if holds.iter().any(|hold| hold.number > LARGEST_NUMBER) {
        return Err(io::Error::other(format!("{FILE_NAME} has a hold with a number that is too large")));
    }
    Ok(holds)
}

/// Replaces the holds in a store's directory atomically.
pub fn write(directory: &Path, holds: &[Hold]) -> io::Result<()> {
    let directory = Directory::open_to_read(directory)?;
    // The file that is replaced must be the store's, too.
    directory.size(&FileName::Holds)?;
    let mut file = directory.replace(&FileName::NewHolds)?;
    file.write_all(&serde_json::to_vec_pretty(holds)?)?;
    file.sync_all()?;
    directory.rename_over(&FileName::NewHolds, &FileName::Holds)?;
    directory.sync()
}
