//! Recovery of segments without their final name, left behind by a writer that was killed or could not go on.
//!
//! Recovery cuts each segment to its last whole chunk, builds the missing index, appends a line to the
//! manifest and gives the segment its name. A segment whose line is in the manifest already only lacks the
//! name. A segment without a whole chunk is deleted. A segment that cannot be read (it is encrypted with
//! another key, or damaged within) is set aside as `….damaged`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::Shared;
use super::home::Home;
use super::index::{self, Builder};
use super::names::{FileName, SegmentName};
use super::seal::{SegmentSeal, StoreKey, chunk_len};
use super::segment;

/// The outcome for a segment that had no final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// The segment was complete, and only lacked its name.
    Named,
    /// The segment was cut to its last whole chunk.
    Repaired {
        /// Packets that are kept.
        packets: u64,
        /// Bytes that were cut off.
        cut: u64,
    },
    /// The segment contained no whole chunk, and was deleted.
    Empty,
    /// The segment cannot be read, and was set aside.
    SetAside,
    /// The segment cannot be finished now, for this reason.
    NotYet(String),
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named => f.write_str("was complete, and has its name now"),
            Self::Repaired { packets, cut } => {
                write!(f, "was not finished: repaired, {packets} packets kept, {cut} bytes cut off")
            }
            Self::Empty => f.write_str("was not finished and had no packets: deleted"),
            Self::SetAside => f.write_str("was not finished and cannot be read: set aside as .damaged"),
            Self::NotYet(why) => write!(f, "is not finished: {why}; it is tried again"),
        }
    }
}

/// Finishes an unfinished segment.
pub(super) fn recover(
    shared: &Shared,
    home: &Home,
    name: &SegmentName,
    key: Option<&StoreKey>,
) -> io::Result<Recovered> {
    let directory = &home.directory;
    let partial = FileName::Partial(name.clone());
    let file = directory.write(&partial)?;
    let size = file.metadata()?.len();
    if shared.manifest().segments.iter().any(|known| known.file == *name && known.size == size) {
        directory.rename_new(&partial, &FileName::Segment(name.clone()))?;
        directory.sync()?;
        return Ok(Recovered::Named);
    }
    directory.is_free(&FileName::Segment(name.clone()))?;
    let mut beginning = vec![0; 4096.min(size as usize)];
    file.read_exact_at(&mut beginning, 0)?;
    let Ok(seal) = SegmentSeal::of_segment(&beginning, key) else { return set_aside(home, name) };
    let (mut builder, mut digest) = (Builder::default(), Sha256::new());
    let mut at = seal.first_chunk();
    if at > 0 {
        digest.update(&beginning);
    }
    let mut number = 0;
    while let Some(stored) = whole_chunk(&file, at, size)? {
        let Ok(section) = seal.open(&stored) else { break };
        let Ok((summary, interfaces, flows)) = index::scan(&section) else { break };
        builder.add_parts(&summary, &interfaces, &flows, at, stored.len() as u32);
        digest.update(&stored);
        at += stored.len() as u64;
        number += 1;
    }
    if number == 0 {
        // A whole chunk that is not readable is evidence, so the file is not deleted.
        if whole_chunk(&file, at, size)?.is_some() {
            return set_aside(home, name);
        }
        directory.remove(&partial)?;
        return Ok(Recovered::Empty);
    }
    let cut = size - at;
    file.set_len(at)?;
    file.sync_all()?;
    let index = seal.seal_index(builder.encode());
    let mut segment = segment::describe(name.clone(), at, digest, &index, &builder);
    segment.recovered = true;
    segment::finish(shared, home, segment, &index)?;
    Ok(Recovered::Repaired { packets: builder.summary().packets, cut })
}

fn set_aside(home: &Home, name: &SegmentName) -> io::Result<Recovered> {
    home.directory.rename_new(&FileName::Partial(name.clone()), &FileName::Damaged(name.clone()))?;
    home.directory.sync()?;
    Ok(Recovered::SetAside)
}

/// Returns the stored chunk at an offset of a file, if the file contains all of it.
pub(super) fn whole_chunk(file: &File, at: u64, size: u64) -> io::Result<Option<Vec<u8>>> {
    let mut beginning = [0; 64];
    if at + beginning.len() as u64 > size {
        return Ok(None);
    }
    file.read_exact_at(&mut beginning, at)?;
    let Some(len) = chunk_len(&beginning).filter(|len| at + len <= size) else { return Ok(None) };
    let mut stored = vec![0; len as usize];
    file.read_exact_at(&mut stored, at)?;
    Ok(Some(stored))
}
