//! The manifest: what the store ever wrote and deleted, a line of JSON each, appended and never changed.
//!
//! Each line has a digest of itself and that of the line before it, so that none can be changed, taken out or
//! put in between without all later ones being written anew; and each segment's line the digests of the
//! segment and its index. A segment gets its final name only once its line is on the disk: a file of that name
//! which the manifest does not know is not the store's.
//!
//! The digests keep nobody from writing a line who can write to the directory. So what a line says is data: it
//! is bounded, and a line that names a file which is not a segment's is reported, and otherwise left out.

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
pub const FILE_NAME: &str = "manifest.jsonl";

/// Bytes of the longest line that is looked at: one with a million VNIs is shorter.
const LONGEST_LINE: u64 = 16 << 20;
/// Bytes of the longest manifest that is read.
pub(super) const LONGEST: u64 = 8 << 30;
/// What a segment has at most of bytes, packets and flows.
const MOST: u64 = 1 << 48;
/// Bytes of the longest reason or URL in a line.
const LONGEST_TEXT: usize = 4096;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Name of its file.
    pub file: SegmentName,
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
    pub fn index_file(&self) -> FileName {
        FileName::Index(self.file.clone())
    }

    /// Bytes of the segment and its index.
    pub(super) const fn stored(&self) -> u64 {
        self.size.saturating_add(self.index_size)
    }

    /// What is wrong with what a line says of it.
    fn fault(&self) -> Option<&'static str> {
        let numbers = [self.size, self.index_size, self.packets, self.bytes, self.flows];
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if numbers.iter().any(|&number| number > MOST) {
            Some("has a number that no segment can have")
        } else if self.vnis.iter().any(|&vni| vni > Vni::MAX.get()) {
            Some("has a VNI that there is not")
        } else if !is_digest(&self.sha256) || !is_digest(&self.index_sha256) {
            Some("has a digest that is none")
        } else {
            None
        }
    }
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
        file: SegmentName,
        /// Why.
        reason: String,
    },
    /// A segment and its index were uploaded, and compared there.
    Uploaded {
        /// The segment's file.
        file: SegmentName,
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

impl Event {
    /// What is wrong with what it says.
    fn fault(&self) -> Option<&'static str> {
        let text = match self {
            Self::Segment(segment) => return segment.fault(),
            Self::Deleted { reason, .. } => reason,
            Self::Uploaded { to, .. } => to,
            Self::Lost { .. } => return None,
        };
        let wrong = text.len() > LONGEST_TEXT || text.chars().any(char::is_control);
        wrong.then_some("has a text that is too long, or not for people")
    }
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

/// What there is of a line in any case, also of one that says what this version does not take.
#[derive(Deserialize)]
struct Link {
    number: u64,
    previous: String,
    digest: String,
    file: Option<serde_json::Value>,
}

impl Link {
    /// The line in these bytes, if it is as it was written.
    fn parse(text: &[u8]) -> Option<Self> {
        const DIGEST: &[u8] = b"\"digest\":\"";
        const END: &[u8] = b"\"}";
        let link: Self = serde_json::from_slice(text).ok()?;
        let content = text.strip_suffix(END)?.strip_suffix(link.digest.as_bytes())?;
        let content = content.ends_with(DIGEST).then_some(content)?;
        let digest = Sha256::new().chain_update(content).chain_update(END).finalize();
        (hex(&digest) == link.digest).then_some(link)
    }

    /// Why nothing is made of it.
    fn fault(&self) -> String {
        match &self.file {
            Some(serde_json::Value::String(file)) if SegmentName::parse(file).is_none() => {
                format!("names {}, which is not the name of a segment; it is ignored", shown(file))
            }
            _ => "says nothing that this version understands; it is ignored".to_owned(),
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongLine {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// The line is as it was written, and says what no store does.
    pub refused: bool,
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
    pub torn: u64,
    /// Bytes of the lines.
    len: u64,
    /// Number of the last line.
    number: u64,
}

/// Reads lines one after the other.
struct Reading {
    contents: Contents,
    /// Number of the line in the file.
    line: usize,
    altered: bool,
}

impl Reading {
    fn new() -> Self {
        let contents = Contents { head: hex(&Sha256::digest(b"")), ..Contents::default() };
        Self { contents, line: 0, altered: false }
    }

    fn wrong(&mut self, what: impl Into<String>, refused: bool) {
        self.contents.wrong.push(WrongLine { line: self.line, what: what.into(), refused });
    }

    fn altered(&mut self) {
        self.wrong("was altered", false);
        self.altered = true;
    }

    /// Takes a line without its end.
    fn take(&mut self, text: &[u8]) {
        self.line += 1;
        match Line::parse(text) {
            Some(line) => {
                self.link(&line.previous, &line.digest, line.number);
                match line.event.fault() {
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

    /// Takes a line into the chain.
    fn link(&mut self, previous: &str, digest: &str, number: u64) {
        // What follows an altered line cannot be told to do so.
        if previous != self.contents.head && !std::mem::take(&mut self.altered) {
            self.wrong("does not follow from the line before it: lines are missing, or were put in", false);
        }
        digest.clone_into(&mut self.contents.head);
        self.contents.heads.push(digest.to_owned());
        self.contents.number = number.min(LARGEST_NUMBER);
    }
}

impl Contents {
    /// Reads the manifest of the store in a directory; one that is not there is empty.
    pub fn read(directory: &Path) -> io::Result<Self> {
        Self::read_in(&Directory::open_to_read(directory)?)
    }

    /// Reads a store's manifest; one that is not there is empty.
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

    /// Reads the bytes of a manifest.
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

    /// The lines that are as they were written and say what no store does, for people.
    pub(super) fn refused(&self) -> impl Iterator<Item = String> {
        let refused = self.wrong.iter().filter(|line| line.refused);
        refused.map(|line| format!("{FILE_NAME}: line {} {}", line.line, line.what))
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

/// Goes to the end of a line that is too long; returns how many bytes that are.
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
    /// Those of them that were uploaded.
    pub(super) uploaded: HashSet<SegmentName>,
}

impl Manifest {
    /// Opens the manifest for appending. A torn line is cut off.
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

    /// Whether its file still has its name.
    pub(super) fn is_in(&self, directory: &Directory) -> bool {
        self.file.as_ref().is_some_and(|file| directory.has(&FileName::Manifest, file))
    }

    /// Has no more lines appended.
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
            // What was written of it must not stand in front of the next.
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

    /// Digest of the last line.
    pub(super) fn head(&self) -> &str {
        &self.head
    }
}
