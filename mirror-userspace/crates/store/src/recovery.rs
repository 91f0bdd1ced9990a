//! What a writer that was killed, or could not go on, has left behind: segments without their final name.
//!
//! Each is cut to the last chunk that is whole, gets the index that it lacks, a line in the manifest and its
//! name. One whose line is in the manifest already only lacks the name. One without a whole chunk is deleted,
//! and one that cannot be read (it is encrypted with another key, or damaged within) is set aside as
//! `….damaged`.

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

/// What became of a segment that had no final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It was whole, and only lacked its name.
    Named,
    /// It was cut to its last whole chunk.
    Repaired {
        /// Packets that are kept.
        packets: u64,
        /// Bytes that were cut off.
        cut: u64,
    },
    /// There was no whole chunk in it.
    Empty,
    /// It cannot be read, and was set aside.
    SetAside,
    /// It cannot be finished now, for this reason.
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
        // A chunk that is there but not readable is evidence, and not an empty file.
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

/// The stored chunk at an offset of a file, if it is wholly there.
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
