//! Recovery of segments without their final name, left behind by a writer that was killed or could not go on.
//!
//! Recovery cuts each segment to its last whole chunk, builds the missing index, appends a line to the
//! manifest and gives the segment its name. A segment whose line is in the manifest already only lacks the
//! name.
//!
//! Only what a killed writer leaves behind is cut off or deleted: the beginning of a chunk that it had no time
//! to complete, or zeros. Anything else (a changed byte, another key, a foreign file) is evidence, so the file
//! is set aside as `….damaged`, and the chunks in front of the damage become a segment of their own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::Shared;
use super::buffer::{ALIGNMENT, CHUNK};
use super::home::Home;
use super::index::{self, Builder};
use super::names::{FileName, SegmentName};
use super::seal::{self, SegmentSeal, StoreKey};
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
    /// The segment is damaged, or cannot be read, and was set aside.
    SetAside {
        /// Packets in front of the damage. They were copied, and are kept.
        packets: u64,
    },
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
            Self::SetAside { packets: 0 } => {
                f.write_str("was not finished and cannot be read: set aside as .damaged")
            }
            Self::SetAside { packets } => {
                write!(
                    f,
                    "was not finished and is damaged: {packets} packets kept, the file set aside as .damaged"
                )
            }
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
    let seal = SegmentSeal::of_segment(&beginning, key).and_then(|seal| seal.check_name(name));
    let Ok(seal) = seal else { return set_aside(home, name) };
    // The manifest describes another file of this name, and no line describes two.
    if shared.manifest().segments.iter().any(|known| known.file == *name) {
        return set_aside(home, name);
    }
    let (mut builder, mut digest) = (Builder::default(), Sha256::new());
    let mut at = seal.first_chunk();
    if at > 0 {
        digest.update(&beginning);
    }
    let mut number = 0;
    let is_torn = loop {
        let stored = match next_chunk(&file, &seal, number, at, size)? {
            Next::Chunk(stored) => stored,
            Next::End | Next::Torn => break true,
            Next::Damaged => break false,
        };
        // A writer ends a segment before it has so many flows.
        if builder.is_full() {
            break false;
        }
        let Ok(section) = seal.open(&stored, number) else { break false };
        let Ok((summary, interfaces, flows)) = index::scan(&section) else { break false };
        builder.add_parts(&summary, &interfaces, &flows, at, stored.len() as u32);
        digest.update(&stored);
        at += stored.len() as u64;
        number += 1;
    };
    if number == 0 {
        if !is_torn {
            return set_aside(home, name);
        }
        directory.remove(&partial)?;
        return Ok(Recovered::Empty);
    }
    let file = if is_torn { file } else { copy_aside(home, name, &file, at)? };
    let cut = size - at;
    file.set_len(at)?;
    file.sync_all()?;
    let index = seal.seal_index(builder.encode());
    let mut segment = segment::describe(name.clone(), at, digest, &index, &builder);
    segment.recovered = true;
    segment::finish(shared, home, segment, &index)?;
    let packets = builder.summary().packets;
    Ok(if is_torn { Recovered::Repaired { packets, cut } } else { Recovered::SetAside { packets } })
}

fn set_aside(home: &Home, name: &SegmentName) -> io::Result<Recovered> {
    home.directory.rename_new(&FileName::Partial(name.clone()), &FileName::Damaged(name.clone()))?;
    home.directory.sync()?;
    Ok(Recovered::SetAside { packets: 0 })
}

/// Sets a segment aside, and copies its first `len` bytes to a new unfinished segment of the same name.
fn copy_aside(home: &Home, name: &SegmentName, file: &File, len: u64) -> io::Result<File> {
    let directory = &home.directory;
    let (partial, damaged) = (FileName::Partial(name.clone()), FileName::Damaged(name.clone()));
    directory.rename_new(&partial, &damaged)?;
    let copy = || {
        let copy = directory.create(&partial)?;
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < len {
            let piece = &mut buffer[..(len - at).min(CHUNK as u64) as usize];
            file.read_exact_at(piece, at)?;
            copy.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        copy.sync_all()?;
        directory.sync()?;
        Ok(copy)
    };
    copy().inspect_err(|_| {
        // The disk may be full. The segment is tried again as it was.
        let _ = directory.remove(&partial).and_then(|()| directory.rename_new(&damaged, &partial));
    })
}

/// The bytes at an offset of an unfinished segment.
#[derive(Debug)]
pub(super) enum Next {
    /// A whole chunk.
    Chunk(Vec<u8>),
    /// The end of the file.
    End,
    /// The beginning of a chunk, or zeros, up to the end of the file: a write that was not completed.
    Torn,
    /// Bytes that no writer leaves behind.
    Damaged,
}

/// Returns what is at an offset of a file, where chunk `number` is expected.
pub(super) fn next_chunk(
    file: &File,
    seal: &SegmentSeal,
    number: u32,
    at: u64,
    size: u64,
) -> io::Result<Next> {
    // The header of an encrypted segment is followed by zeros up to the first chunk.
    let Some(rest) = size.checked_sub(at).filter(|rest| *rest > 0) else { return Ok(Next::End) };
    let mut beginning = vec![0; rest.min(ALIGNMENT as u64) as usize];
    file.read_exact_at(&mut beginning, at)?;
    if beginning.iter().all(|&byte| byte == 0) {
        return Ok(if is_zero(file, at, size)? { Next::Torn } else { Next::Damaged });
    }
    let Some(len) = seal.chunk_len(&beginning) else {
        let is_torn = rest < seal::LENGTH_KNOWN && seal.is_torn(&beginning, number);
        return Ok(if is_torn { Next::Torn } else { Next::Damaged });
    };
    let mut stored = vec![0; len.min(rest) as usize];
    file.read_exact_at(&mut stored, at)?;
    Ok(if len <= rest {
        Next::Chunk(stored)
    } else if seal.is_torn(&stored, number) {
        Next::Torn
    } else {
        Next::Damaged
    })
}

/// Returns whether a file has only zeros from an offset on.
fn is_zero(file: &File, mut at: u64, size: u64) -> io::Result<bool> {
    /// No writer leaves more zeros behind; a sparse file may seem to have any number.
    const MOST: u64 = 1 << 30;
    if size - at > MOST {
        return Ok(false);
    }
    let mut buffer = vec![0; CHUNK];
    while at < size {
        let piece = &mut buffer[..(size - at).min(CHUNK as u64) as usize];
        file.read_exact_at(piece, at)?;
        if piece.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
