//! The manifest: what the store ever wrote and deleted, a line of JSON each, appended and never changed.
//!
//! Each line has a digest of itself and that of the line before it, so that none can be changed, taken out or
//! put in between without all later ones being written anew; and each segment's line the digests of the
//! segment and its index. A segment gets its final name only once its line is on the disk: a file of that name
//! which the manifest does not know is not the store's.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chunk::Summary;
use crate::record::text::hex;

/// The manifest's name in the store.
pub const FILE_NAME: &str = "manifest.jsonl";

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Name of its file.
    pub file: String,
    /// Bytes of its file.
    pub size: u64,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Bytes of its index.
    pub index_size: u64,
    /// SHA-256 of its index.
    pub index_sha256: String,
    /// Its packets.
    pub packets: u64,
    /// Bytes of them that are kept.
    pub bytes: u64,
    /// Time of the earliest packet, in nanoseconds since the epoch.
    pub first: u64,
    /// Time of the latest packet.
    pub last: u64,
    /// The VNIs in it.
    pub vnis: Vec<u32>,
    /// Its flows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flows: u64,
    /// Its writer was killed, or could not go on: it ends before it was full, and was repaired since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Segment {
    /// Enters what is known of the packets.
    pub(super) fn describe(mut self, summary: &Summary, vnis: Vec<u32>, flows: u64) -> Self {
        self.packets = summary.packets;
        self.bytes = summary.bytes;
        self.first = summary.first;
        self.last = summary.last;
        self.vnis = vnis;
        self.flows = flows;
        self
    }

    /// Name of the index.
    #[must_use]
    pub fn index_file(&self) -> String {
        index_name(&self.file)
    }
}

/// The name of a segment's index.
pub(super) fn index_name(segment: &str) -> String {
    format!("{segment}.idx")
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A segment was finished.
    Segment(Segment),
    /// A segment was deleted.
    Deleted {
        /// The segment's file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A segment and its index were uploaded, and compared there.
    Uploaded {
        /// The segment's file.
        file: String,
        /// The URL of the place.
        to: String,
    },
    /// Packets were lost: the disk was full or failed, or was too slow.
    Lost {
        /// From this time on, in nanoseconds since the epoch.
        from: u64,
        /// Until this time.
        to: u64,
        /// How many.
        packets: u64,
    },
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// When it was written, in nanoseconds since the epoch.
    pub time: u64,
    /// Digest of the line before it; of the first, SHA-256 of nothing.
    pub previous: String,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
    /// SHA-256 of the line as it is with nothing in this place.
    pub digest: String,
}

impl Line {
    /// The digest that the line ought to have.
    fn right_digest(&self) -> serde_json::Result<String> {
        let without = Self { digest: String::new(), ..self.clone() };
        Ok(hex(&Sha256::digest(serde_json::to_vec(&without)?)))
    }

    /// The line in these bytes, if it is as it was written.
    fn parse(text: &[u8]) -> Option<Self> {
        let line: Self = serde_json::from_slice(text).ok()?;
        let written = serde_json::to_vec(&line).is_ok_and(|written| written == text);
        (written && line.right_digest().ok()? == line.digest).then_some(line)
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongLine {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// A manifest as it was read.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The lines that are whole, in their order.
    pub lines: Vec<Line>,
    /// What is wrong with others.
    pub wrong: Vec<WrongLine>,
    /// Digest of the last line: whoever keeps it elsewhere can tell that none was cut off.
    pub head: String,
    /// All heads there were, the last included.
    pub heads: Vec<String>,
    /// Bytes of a last line that was not written wholly.
    pub torn: usize,
    /// Bytes of the lines.
    len: usize,
}

impl Contents {
    /// Reads a manifest; one that is not there is empty.
    pub fn read(directory: &Path) -> io::Result<Self> {
        match std::fs::read(directory.join(FILE_NAME)) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::parse(b"")),
            Err(error) => Err(error),
        }
    }

    /// Reads the bytes of a manifest.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut contents = Self { head: hex(&Sha256::digest(b"")), ..Self::default() };
        let len = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        contents.torn = bytes.len() - len;
        contents.len = len;
        let mut altered = false;
        for (at, text) in bytes[..len].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let text = &text[..text.len() - 1];
            let mut wrong = |what| contents.wrong.push(WrongLine { line: at + 1, what });
            let Some(line) = Line::parse(text) else {
                wrong("was altered");
                altered = true;
                continue;
            };
            // What follows an altered line cannot be told to do so.
            if line.previous != contents.head && !std::mem::take(&mut altered) {
                wrong("does not follow from the line before it: lines are missing, or were put in");
            }
            contents.head.clone_from(&line.digest);
            contents.heads.push(line.digest.clone());
            contents.lines.push(line);
        }
        contents
    }

    /// The segments that were not deleted, in the order in which they were finished.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let deleted = self.deleted();
        let segments = self.written().filter(|segment| !deleted.contains_key(segment.file.as_str()));
        segments.cloned().collect()
    }

    /// All segments that ever were finished, in that order.
    pub fn written(&self) -> impl Iterator<Item = &Segment> {
        self.lines.iter().filter_map(|line| match &line.event {
            Event::Segment(segment) => Some(segment),
            _ => None,
        })
    }

    /// The files of segments that were uploaded, and where to.
    #[must_use]
    pub fn uploaded(&self) -> HashMap<&str, &str> {
        let files = self.lines.iter().filter_map(|line| match &line.event {
            Event::Uploaded { file, to } => Some((file.as_str(), to.as_str())),
            _ => None,
        });
        files.collect()
    }

    /// The files of segments that were deleted, and why.
    #[must_use]
    pub fn deleted(&self) -> HashMap<&str, &str> {
        let files = self.lines.iter().filter_map(|line| match &line.event {
            Event::Deleted { file, reason } => Some((file.as_str(), reason.as_str())),
            _ => None,
        });
        files.collect()
    }
}

/// The manifest of a store that is written to.
#[derive(Debug)]
pub(super) struct Manifest {
    file: File,
    head: String,
    number: u64,
    /// The segments that were not deleted, in the order in which they were finished.
    pub(super) segments: Vec<Segment>,
    /// Those of them that were uploaded.
    pub(super) uploaded: HashSet<String>,
}

impl Manifest {
    /// Opens the manifest for appending; says how many bytes of a torn line it cut off.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Contents)> {
        let path = directory.join(FILE_NAME);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let contents = Contents::parse(&bytes);
        if contents.torn > 0 {
            file.set_len(contents.len as u64)?;
        }
        file.seek(SeekFrom::End(0))?;
        let number = contents.lines.last().map_or(0, |line| line.number);
        let (head, segments) = (contents.head.clone(), contents.segments());
        let uploaded = contents.uploaded();
        let there = segments.iter().map(|segment| segment.file.clone());
        let uploaded = there.filter(|file| uploaded.contains_key(file.as_str())).collect();
        Ok((Self { file, head, number, segments, uploaded }, contents))
    }

    /// Appends a line and waits until it is on the disk.
    pub(super) fn append(&mut self, event: Event) -> io::Result<()> {
        let mut line = Line {
            number: self.number + 1,
            time: super::now(),
            previous: self.head.clone(),
            event,
            digest: String::new(),
        };
        line.digest = line.right_digest()?;
        let head = line.digest.clone();
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let end = self.file.stream_position()?;
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // What was written of it must not stand in front of the next.
            let _ = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)));
            return Err(error);
        }
        self.head = head;
        self.number += 1;
        match line.event {
            Event::Segment(segment) => self.segments.push(segment),
            Event::Deleted { file, .. } => {
                self.segments.retain(|segment| segment.file != file);
                self.uploaded.remove(&file);
            }
            Event::Uploaded { file, .. } => {
                self.uploaded.insert(file);
            }
            Event::Lost { .. } => {}
        }
        Ok(())
    }

    /// Digest of the last line.
    pub(super) fn head(&self) -> &str {
        &self.head
    }
}
