//! The manifest: one line of JSON per event of the store (a segment written, uploaded or deleted, packets
//! lost), appended and never changed.
//!
//! Each line contains a digest of itself and that of the preceding line, so that no line can be changed,
//! removed or inserted without rewriting all later ones. The line of a segment also contains the digests of
//! the segment and its index. A segment gets its final name only once its line is on the disk: a file of that
//! name which the manifest does not list is not the store's.
//!
//! The digests do not keep anyone who can write to the directory from writing a line. So a line's contents
//! are data: they are bounded, and a line that names a file which is not a segment's is reported, and
//! otherwise ignored.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use mirror_packet::text::hex;
use mirror_xdp_common::Vni;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chunk::Summary;
use super::directory::Directory;
use super::names::{FileName, LARGEST_NUMBER, SegmentName, shown};

/// The manifest's name in the store.
pub const FILE_NAME: &str = crate::names::MANIFEST;

/// Size in bytes of the longest line that is parsed. A line with a million VNIs is shorter.
const LONGEST_LINE: u64 = 16 << 20;
/// Size in bytes of the longest manifest that is read.
pub(super) const LONGEST: u64 = 8 << 30;
/// Maximum number of bytes, packets and flows of a segment.
const MOST: u64 = 1 << 48;
/// Size in bytes of the longest reason or URL in a line.
const LONGEST_TEXT: usize = 4096;
/// Maximum number of wrong lines that are remembered.
const MOST_WRONG: usize = 1000;
/// Maximum number of wrong lines that are told.
const TOLD: usize = 10;

/// A segment, as the manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Name of the segment's file.
    pub file: SegmentName,
    /// Size of the segment's file in bytes.
    pub size: u64,
    /// SHA-256 of the segment's file.
    pub sha256: String,
    /// Size of the index in bytes.
    pub index_size: u64,
    /// SHA-256 of the index.
    pub index_sha256: String,
    /// Number of packets.
    pub packets: u64,
    /// Bytes of the packets that are kept.
    pub bytes: u64,
    /// Time of the earliest packet, in nanoseconds since the epoch.
    pub first: u64,
    /// Time of the latest packet.
    pub last: u64,
    /// VNIs of the packets.
    pub vnis: Vec<u32>,
    /// Number of flows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flows: u64,
    /// Whether the segment was repaired: its writer was killed or could not go on before the segment was
    /// full.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Segment {
    /// Sets the fields that describe the packets.
    pub(super) fn describe(mut self, summary: &Summary, vnis: Vec<u32>, flows: u64) -> Self {
        self.packets = summary.packets;
        self.bytes = summary.bytes;
        self.first = summary.first;
        self.last = summary.last;
        self.vnis = vnis;
        self.flows = flows;
        self
    }

    /// Returns the name of the index file.
    #[must_use]
    pub fn index_file(&self) -> FileName {
        FileName::Index(self.file.clone())
    }

    /// Returns the size of the segment and its index in bytes.
    pub(super) const fn stored(&self) -> u64 {
        self.size.saturating_add(self.index_size)
    }

    /// Returns what is wrong with a line's description of the segment.
    fn fault(&self) -> Option<&'static str> {
        let numbers = [self.size, self.index_size, self.packets, self.bytes, self.flows];
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if numbers.iter().any(|&number| number > MOST) {
            Some("has a number that no segment can have")
        } else if self.vnis.iter().any(|&vni| vni > Vni::MAX.get()) {
            Some("has a VNI that is too large")
        } else if !self.vnis.is_sorted_by(|one, next| one < next) {
            Some("has VNIs that are not in ascending order")
        } else if !is_digest(&self.sha256) || !is_digest(&self.index_sha256) {
            Some("has a digest that is not a SHA-256")
        } else {
            None
        }
    }
}

/// The event of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A segment was finished.
    Segment(Segment),
    /// A segment was deleted.
    Deleted {
        /// The segment's file.
        file: SegmentName,
        /// The reason for the deletion.
        reason: String,
    },
    /// A segment and its index were uploaded, and verified there.
    Uploaded {
        /// The segment's file.
        file: SegmentName,
        /// The URL of the destination.
        to: String,
    },
    /// Packets were lost: the disk was full or failed, or was too slow.
    Lost {
        /// Start of the period, in nanoseconds since the epoch.
        from: u64,
        /// End of the period.
        to: u64,
        /// Number of lost packets.
        packets: u64,
    },
}

impl Event {
    /// Returns what is wrong with the event.
    fn fault(&self) -> Option<&'static str> {
        let text = match self {
            Self::Segment(segment) => return segment.fault(),
            Self::Deleted { reason, .. } => reason,
            Self::Uploaded { to, .. } => to,
            Self::Lost { packets, .. } => {
                return (*packets > MOST).then_some("has a number that no loss can have");
            }
        };
        let wrong = text.len() > LONGEST_TEXT || text.chars().any(char::is_control);
        wrong.then_some("has a text that is too long, or contains control characters")
    }
}

/// A line of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the line, from 1.
    pub number: u64,
    /// Time of writing, in nanoseconds since the epoch.
    pub time: u64,
    /// Digest of the preceding line; for the first line, SHA-256 of the empty string.
    pub previous: String,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// SHA-256 of the line with an empty digest.
    pub digest: String,
}

impl Line {
    /// Computes the digest that the line should have.
    fn right_digest(&self) -> serde_json::Result<String> {
        let without = Self { digest: String::new(), ..self.clone() };
        Ok(hex(&Sha256::digest(serde_json::to_vec(&without)?)))
    }

    /// Parses a line; returns `None` if it is not as it was written.
    fn parse(text: &[u8]) -> Option<Self> {
        let line: Self = serde_json::from_slice(text).ok()?;
        let written = serde_json::to_vec(&line).is_ok_and(|written| written == text);
        (written && line.right_digest().ok()? == line.digest).then_some(line)
    }
}

/// The part of a line that is always there, also if this version does not understand the event.
#[derive(Deserialize)]
struct Link {
    number: u64,
    previous: String,
    digest: String,
    file: Option<serde_json::Value>,
}

impl Link {
    /// Parses a line; returns `None` if it is not as it was written.
    fn parse(text: &[u8]) -> Option<Self> {
        const DIGEST: &[u8] = b"\"digest\":\"";
        const END: &[u8] = b"\"}";
        let link: Self = serde_json::from_slice(text).ok()?;
        let content = text.strip_suffix(END)?.strip_suffix(link.digest.as_bytes())?;
        let content = content.ends_with(DIGEST).then_some(content)?;
        let digest = Sha256::new().chain_update(content).chain_update(END).finalize();
        (hex(&digest) == link.digest).then_some(link)
    }

    /// Returns the reason why the line is ignored.
    fn fault(&self) -> String {
        match &self.file {
            Some(serde_json::Value::String(file)) if SegmentName::parse(file).is_none() => {
                format!("names {}, which is not the name of a segment; it is ignored", shown(file))
            }
            _ => "has no event that this version understands; it is ignored".to_owned(),
        }
    }
}

/// A line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongLine {
    /// Number of the line in the file, from 1.
    pub line: usize,
    /// A description of the fault.
    pub what: String,
    /// The line is as it was written, but no store writes such an event.
    pub refused: bool,
}

/// A parsed manifest.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The valid lines, in their order.
    pub lines: Vec<Line>,
    /// The other lines, and what is wrong with them; of very many, the first.
    pub wrong: Vec<WrongLine>,
    /// Number of faults.
    pub faults: usize,
    /// Digest of the last line. A copy of it that is stored elsewhere proves that no line was cut off.
    pub head: String,
    /// The digests of all lines, the last included.
    pub heads: Vec<String>,
    /// Bytes of an incomplete last line.
    pub torn: u64,
    /// Bytes of the complete lines.
    len: u64,
    /// Number of the last line.
    number: u64,
}

/// Parses lines one after the other.
struct Reading {
    contents: Contents,
    /// Number of the current line in the file.
    line: usize,
    altered: bool,
    /// The segments so far.
    segments: HashSet<SegmentName>,
}

impl Reading {
    fn new() -> Self {
        let contents = Contents { head: hex(&Sha256::digest(b"")), ..Contents::default() };
        Self { contents, line: 0, altered: false, segments: HashSet::new() }
    }

    fn wrong(&mut self, what: impl Into<String>, refused: bool) {
        self.contents.faults += 1;
        if self.contents.wrong.len() < MOST_WRONG {
            self.contents.wrong.push(WrongLine { line: self.line, what: what.into(), refused });
        }
    }

    fn altered(&mut self) {
        self.wrong("was altered", false);
        self.altered = true;
    }

    /// Parses a line without its newline.
    fn take(&mut self, text: &[u8]) {
        self.line += 1;
        match Line::parse(text) {
            Some(line) => {
                self.link(&line.previous, &line.digest, line.number);
                let twice = match &line.event {
                    Event::Segment(segment) => !self.segments.insert(segment.file.clone()),
                    _ => false,
                };
                let twice = twice.then_some("describes a segment that an earlier line describes");
                match line.event.fault().or(twice) {
                    None => self.contents.lines.push(line),
                    Some(fault) => self.wrong(format!("{fault}; it is ignored"), true),
                }
            }
            None => match Link::parse(text) {
                Some(link) => {
                    self.link(&link.previous, &link.digest, link.number);
                    self.wrong(link.fault(), true);
                }
                None => self.altered(),
            },
        }
    }

    /// Appends a line to the chain of digests.
    fn link(&mut self, previous: &str, digest: &str, number: u64) {
        // The chain cannot be checked across an altered line.
        if previous != self.contents.head && !std::mem::take(&mut self.altered) {
            self.wrong("does not follow from the line before it: lines were removed or inserted", false);
        }
        digest.clone_into(&mut self.contents.head);
        self.contents.heads.push(digest.to_owned());
        self.contents.number = number.min(LARGEST_NUMBER);
    }
}

impl Contents {
    /// Reads the manifest of the store in a directory. A missing manifest is empty.
    pub fn read(directory: &Path) -> io::Result<Self> {
        Self::read_in(&Directory::open_to_read(directory)?)
    }

    /// Reads a store's manifest. A missing manifest is empty.
    pub(super) fn read_in(directory: &Directory) -> io::Result<Self> {
        match directory.read(&FileName::Manifest) {
            Ok(file) => Self::read_from(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::parse(b"")),
            Err(error) => Err(error),
        }
    }

    /// Reads a manifest's file.
    fn read_from(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() > LONGEST {
            return Err(io::Error::other(format!("`{FILE_NAME}` is longer than {LONGEST} bytes")));
        }
        Self::of(BufReader::new(file.take(LONGEST)))
    }

    /// Parses the bytes of a manifest.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        // Reading from memory does not fail.
        Self::of(bytes).unwrap_or_default()
    }

    fn of(mut from: impl BufRead) -> io::Result<Self> {
        let mut reading = Reading::new();
        let mut text = Vec::new();
        loop {
            text.clear();
            let mut read = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text)? as u64;
            let fits = read < LONGEST_LINE;
            if text.last() != Some(&b'\n') && !fits {
                read += skip_line(&mut from)?;
            }
            if let Some(text) = text.strip_suffix(b"\n") {
                reading.take(text);
            } else if fits {
                reading.contents.torn = read;
                return Ok(reading.contents);
            } else {
                reading.line += 1;
                reading.altered();
            }
            reading.contents.len += read;
        }
    }

    /// Returns messages about the lines that are wrong: the first ones, and the number of the others.
    pub(super) fn told(&self) -> Vec<String> {
        let told = self.wrong.iter().take(TOLD);
        let mut told: Vec<_> =
            told.map(|line| format!("{FILE_NAME}: line {} {}", line.line, line.what)).collect();
        if let more @ 1.. = self.faults - told.len() {
            told.push(format!("{FILE_NAME}: {more} more lines are wrong; run `mirror-xdp verify`"));
        }
        told
    }

    /// Returns the segments that were not deleted, in the order in which they were finished.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let deleted = self.deleted();
        let segments = self.written().filter(|segment| !deleted.contains_key(segment.file.as_str()));
        segments.cloned().collect()
    }

    /// Returns all segments that were ever finished, in that order.
    pub fn written(&self) -> impl Iterator<Item = &Segment> {
        self.lines.iter().filter_map(|line| match &line.event {
            Event::Segment(segment) => Some(segment),
            _ => None,
        })
    }

    /// Returns the files of segments that were uploaded, with their destinations.
    #[must_use]
    pub fn uploaded(&self) -> HashMap<&str, &str> {
        let files = self.lines.iter().filter_map(|line| match &line.event {
            Event::Uploaded { file, to } => Some((file.as_str(), to.as_str())),
            _ => None,
        });
        files.collect()
    }

    /// Returns the files of segments that were deleted, with the reasons.
    #[must_use]
    pub fn deleted(&self) -> HashMap<&str, &str> {
        let files = self.lines.iter().filter_map(|line| match &line.event {
            Event::Deleted { file, reason } => Some((file.as_str(), reason.as_str())),
            _ => None,
        });
        files.collect()
    }
}

/// Skips the rest of a line that is too long; returns the number of bytes skipped.
fn skip_line(from: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = from.fill_buf()?;
        let end = buffer.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let len = end.unwrap_or(buffer.len());
        from.consume(len);
        skipped += len as u64;
        if end.is_some() || len == 0 {
            return Ok(skipped);
        }
    }
}

/// The manifest of a store that is written to.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// `None` while the store is not open.
    file: Option<File>,
    head: String,
    number: u64,
    /// The segments that were not deleted, in the order in which they were finished.
    pub(super) segments: Vec<Segment>,
    /// The segments that were uploaded and not deleted.
    pub(super) uploaded: HashSet<SegmentName>,
}

impl Manifest {
    /// Opens the manifest for appending, and cuts off an incomplete last line.
    pub(super) fn open(directory: &Directory) -> io::Result<(Self, Contents)> {
        let mut file = directory.write_or_create(&FileName::Manifest)?;
        let contents = Contents::read_from(&file)?;
        if contents.torn > 0 {
            file.set_len(contents.len)?;
        }
        file.seek(SeekFrom::End(0))?;
        let (head, segments) = (contents.head.clone(), contents.segments());
        let uploaded = contents.uploaded();
        let there = segments.iter().map(|segment| segment.file.clone());
        let uploaded = there.filter(|file| uploaded.contains_key(file.as_str())).collect();
        Ok((Self { file: Some(file), head, number: contents.number, segments, uploaded }, contents))
    }

    /// Returns whether the manifest's file still has its name.
    pub(super) fn is_in(&self, directory: &Directory) -> bool {
        self.file.as_ref().is_some_and(|file| directory.has(&FileName::Manifest, file))
    }

    /// Closes the file; no more lines are appended.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Appends a line and waits until it is on the disk.
    pub(super) fn append(&mut self, event: Event) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the store is not open"))?;
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
        let end = file.stream_position()?;
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // Remove the incomplete line, so that it does not precede the next.
            let _ = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
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

    /// Returns the digest of the last line.
    pub(super) fn head(&self) -> &str {
        &self.head
    }
}
