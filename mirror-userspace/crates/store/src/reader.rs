//! Reads a store, also while it is written to: selects the chunks that may contain matching packets, and
//! returns these packets in the order of time.
//!
//! A store is a directory, or a copy of one in an object store. Even of a directory, some segments may exist
//! only in such a copy. The reader sends several requests to a copy at the same time, since each answer takes
//! a while: first for the indexes, then for the chunks, in the order in which it will need them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mirror_packet::FrameInfo;
use mirror_packet::capture_file::MAX_INTERFACES;
use mirror_xdp_common::hash::FlowHash;
use serde::Serialize;

use super::buffer::Buffer;
use super::directory::{Directory, Refused};
use super::index::{self, Builder, ChunkEntry, Index};
use super::manifest::{Contents, FILE_NAME, Segment};
use super::names::{FileName, SegmentName};
use super::pcapng::{self, Interface, Section};
use super::query::{Answer, Query};
use super::recovery::{self, Next};
use super::remote::{AT_ONCE, Location, RemoteError, RemoteReader};
use super::seal::{self, SegmentSeal, StoreKey, Unreadable};
use crate::expression::{Expression, Primitive};

/// An error of reading a store.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory is not a store.
    #[error("{} is no store: it has no {}", path.display(), super::manifest::FILE_NAME)]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store, or a file of it, cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A segment cannot be read.
    #[error("{file} {source}")]
    Segment {
        /// The segment's file.
        file: String,
        /// The reason.
        source: Unreadable,
    },
    /// An object store cannot be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A segment was deleted, and cannot be read at the location that it was uploaded to.
    #[error(
        "{file} was deleted here; it cannot be read where it was uploaded to: {source}; --local leaves such \
         segments out"
    )]
    Elsewhere {
        /// The segment's file.
        file: String,
        /// The reason why it cannot be read.
        source: RemoteError,
    },
    /// The packets that were found cannot be written.
    #[error("cannot write the packets that were found")]
    Write(#[source] io::Error),
}

/// The packets to extract.
#[derive(Debug)]
pub struct Wanted {
    /// Start of the period, in nanoseconds since the epoch.
    pub from: u64,
    /// End of the period, exclusive; the highest number stands for no end.
    pub to: u64,
    /// The expression that packets have to match.
    pub expression: Expression,
}

impl Wanted {
    /// Returns whether packets between these times, both inclusive, may be in the period.
    pub(super) const fn overlaps(&self, first: u64, last: u64) -> bool {
        last >= self.from && (first < self.to || self.to == u64::MAX)
    }
}

/// The amount of work that a search took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Segments of the store.
    pub segments: u64,
    /// Segments whose index was read.
    pub indexes_read: u64,
    /// Bytes of these indexes.
    pub index_bytes: u64,
    /// Bytes of the store's segments.
    pub store_bytes: u64,
    /// Chunks that might have contained matching packets.
    pub chunks_read: u64,
    /// Bytes of these chunks.
    pub bytes_read: u64,
    /// Requests to object stores.
    pub requests: u64,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
}

/// Size in bytes of the longest index that is read.
const LONGEST_INDEX: u64 = 1 << 30;
/// Maximum number of files that are open at a time.
const MOST_OPEN: usize = 256;
/// Maximum number of bytes of chunks that are kept in memory. Chunks whose times overlap are needed at the
/// same time; beyond this bound, those that are needed last are read once more.
const MOST_LOADED: usize = 256 << 20;
/// Maximum number of messages of a kind about missing packets.
const TOLD: usize = 10;

/// A segment that is read.
#[derive(Debug)]
struct Source {
    name: FileName,
    place: Place,
    seal: SegmentSeal,
}

/// The location of a segment.
#[derive(Clone, Debug)]
enum Place {
    Here,
    Remote(Rc<RemoteReader>),
}

/// A chunk that may contain matching packets.
#[derive(Clone, Debug)]
struct Candidate {
    source: Rc<Source>,
    entry: ChunkEntry,
    /// Position of the chunk in the segment.
    number: u32,
    /// The time of the first packet that is still to be written.
    next: u64,
    /// Number of matching packets that are written already.
    written: usize,
}

/// A chunk, with the matching packets in it.
struct Loaded {
    candidate: Candidate,
    /// Bytes of memory.
    size: usize,
    section: Vec<u8>,
    interfaces: Vec<Interface>,
    /// Time, position of the block, and interface of each match; the earliest comes last.
    found: Vec<(u64, (usize, usize), usize)>,
}

/// A copy, and the segments whose indexes are read there.
type Copied<'s> = (Rc<RemoteReader>, Vec<&'s Segment>);

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    /// The directory; `None` if the store is a copy elsewhere.
    directory: Option<Directory>,
    /// The copy, if the store is one.
    copy: Option<Rc<RemoteReader>>,
    /// Segments that are no longer in the directory are skipped, wherever else they are.
    local: bool,
    /// Locations of copies that the user has named.
    copies: Vec<Location>,
    key: Option<StoreKey>,
    /// Chunks of a copy that were read ahead, for the last candidates; the first is for the very last one.
    ahead: VecDeque<Vec<u8>>,
    /// Foreign entries of the store that are skipped, and what is missing, one line each.
    strange: Vec<String>,
    /// Number of reasons why packets may be missing.
    missing: usize,
    /// Segments that were deleted by the last time that one was missing.
    deleted: HashSet<SegmentName>,
    /// Files that are open, the latest last.
    open: VecDeque<(FileName, Rc<File>)>,
    /// Maximum number of bytes of loaded chunks.
    pub(super) most_loaded: usize,
    /// The work so far.
    pub effort: Effort,
}

impl Reader {
    /// Opens the store in a directory for reading.
    pub fn open(directory: &Path, key: Option<StoreKey>) -> Result<Self, ReadError> {
        let path = directory;
        let no_store = || ReadError::NoStore { path: path.to_owned() };
        let error = |source| ReadError::Io { path: path.to_owned(), source };
        let directory = match Directory::open_to_read(path) {
            Ok(directory) => directory,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Err(no_store()),
            Err(source) => return Err(error(source)),
        };
        if directory.size(&FileName::Manifest).map_err(error)?.is_none() {
            return Err(no_store());
        }
        Ok(Self::new(Some(directory), None, key))
    }

    /// Opens a copy of a store for reading.
    pub fn open_copy(copy: RemoteReader, key: Option<StoreKey>) -> Self {
        Self::new(None, Some(Rc::new(copy)), key)
    }

    fn new(directory: Option<Directory>, copy: Option<Rc<RemoteReader>>, key: Option<StoreKey>) -> Self {
        let (ahead, strange, effort) = (VecDeque::new(), Vec::new(), Effort::default());
        let (local, copies, open, most_loaded) = (false, Vec::new(), VecDeque::new(), MOST_LOADED);
        Self {
            directory,
            copy,
            local,
            copies,
            key,
            ahead,
            strange,
            missing: 0,
            deleted: HashSet::new(),
            open,
            most_loaded,
            effort,
        }
    }

    /// Returns whether packets may be missing in the result: lines of the manifest were altered, a segment is
    /// missing, or a part of an unfinished one cannot be read. [`Reader::strange`] tells which.
    #[must_use]
    pub const fn is_incomplete(&self) -> bool {
        self.missing > 0
    }

    /// Notes a reason why packets may be missing.
    fn missing(&mut self, what: impl FnOnce() -> String) {
        self.missing += 1;
        match self.missing {
            ..=TOLD => self.strange.push(what()),
            _ if self.missing == TOLD + 1 => {
                self.strange.push("more is missing; run `mirror-xdp verify`".to_owned());
            }
            _ => {}
        }
    }

    /// Returns the foreign entries that the reader has skipped so far, and what is missing, one line each.
    #[must_use]
    pub fn strange(&self) -> &[String] {
        &self.strange
    }

    /// Skips segments that were deleted from the directory but are in a copy.
    pub const fn only_local(&mut self) {
        self.local = true;
    }

    /// Also allows reading deleted segments at these locations, if the manifest lists them there.
    pub fn read_copies(&mut self, copies: Vec<Location>) {
        self.copies = copies;
    }

    /// Writes the matching packets as pcapng, in the order of time. `progress` receives the number of chunks
    /// that were read and their total; both are 0 while the reader reads indexes.
    pub fn extract(
        &mut self,
        wanted: &Wanted,
        to: &mut dyn Write,
        mut progress: impl FnMut(usize, usize, &Effort),
    ) -> Result<(), ReadError> {
        self.ahead.clear();
        let mut candidates = self.candidates(wanted, &mut progress)?;
        candidates.sort_by_key(|candidate| Reverse(candidate.next));
        let total = candidates.len();
        let mut output = Output::new(to);
        output.begin().map_err(ReadError::Write)?;
        let mut loaded: Vec<Option<Loaded>> = Vec::new();
        let (mut size, mut done) = (0, 0);
        // Loaded chunks, by the time of their next packet.
        let mut next: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        loop {
            // Load all chunks that may contain an earlier packet than the loaded ones.
            while let Some(candidate) = candidates.last()
                && next.peek().is_none_or(|Reverse((time, _))| candidate.next < *time)
            {
                let stored = self.stored(&candidates)?;
                let chunk = self.load(candidate, &stored, wanted)?;
                candidates.pop();
                done = done.max(total - candidates.len().min(total));
                progress(done, total, &self.effort);
                if let Some(&(time, ..)) = chunk.found.last() {
                    let free = loaded.iter().position(Option::is_none).unwrap_or(loaded.len());
                    if free == loaded.len() {
                        loaded.push(None);
                    }
                    size += chunk.size;
                    loaded[free] = Some(chunk);
                    next.push(Reverse((time, free)));
                }
                while size > self.most_loaded && next.len() > 1 {
                    size -= self.unload(&mut loaded, &mut next, &mut candidates);
                }
            }
            let Some(Reverse((_, at))) = next.pop() else { break };
            let Some(chunk) = &mut loaded[at] else { continue };
            if let Some((_, block, interface)) = chunk.found.pop() {
                let packet = &chunk.section[block.0..block.1];
                output.packet(packet, &chunk.interfaces[interface]).map_err(ReadError::Write)?;
                chunk.candidate.written += 1;
                self.effort.packets += 1;
                self.effort.bytes += u64::from(pcapng::frame_len(packet));
            }
            if let Some(&(time, ..)) = chunk.found.last() {
                next.push(Reverse((time, at)));
            } else {
                size -= chunk.size;
                loaded[at] = None;
            }
        }
        output.end().map_err(ReadError::Write)
    }

    /// Makes the loaded chunk that is needed last a candidate again. Returns the size of the memory that it
    /// took.
    fn unload(
        &mut self,
        loaded: &mut [Option<Loaded>],
        next: &mut BinaryHeap<Reverse<(u64, usize)>>,
        candidates: &mut Vec<Candidate>,
    ) -> usize {
        let Some(&Reverse((time, at))) = next.iter().min() else { return 0 };
        next.retain(|Reverse(other)| *other != (time, at));
        let Some(Loaded { mut candidate, size, .. }) = loaded[at].take() else { return 0 };
        candidate.next = time;
        let place = candidates.partition_point(|other| other.next > time);
        if place + self.ahead.len() > candidates.len() {
            // These chunks belong to the last candidates.
            self.ahead.clear();
        }
        candidates.insert(place, candidate);
        size
    }

    /// Returns the chunks that may contain matching packets.
    fn candidates(
        &mut self,
        wanted: &Wanted,
        progress: &mut dyn FnMut(usize, usize, &Effort),
    ) -> Result<Vec<Candidate>, ReadError> {
        let query = Query::of(wanted.expression.text());
        let required: Vec<&Primitive> = wanted.expression.required().collect();
        let contents = match (&self.copy, &self.directory) {
            (Some(copy), _) => copy.manifest()?,
            (None, Some(directory)) => {
                let read = || {
                    Contents::read_in(directory).map_err(|source| self.io_error(&FileName::Manifest, source))
                };
                match read()? {
                    // A line may just be being written.
                    Contents { torn: 1.., .. } => read()?,
                    contents => contents,
                }
            }
            (None, None) => Contents::parse(b""),
        };
        (self.strange, self.missing) = (contents.told(), contents.faults);
        if contents.torn > 0 {
            self.missing(|| format!("{FILE_NAME}: its last line is not complete"));
        }
        let may_have = |segment: &Segment| {
            let vnis = required.iter().filter_map(|primitive| match primitive {
                Primitive::Vni(vnis) => Some(vnis),
                _ => None,
            });
            let mut has = vnis.map(|range| segment.vnis.iter().any(|vni| range.contains(vni)));
            wanted.overlaps(segment.first, segment.last) && has.all(|has| has)
        };
        let (deleted, uploaded) = (contents.deleted(), contents.uploaded());
        let mut candidates = Vec::new();
        let mut copied: Vec<Copied<'_>> = Vec::new();
        for segment in contents.written() {
            let there = uploaded.get(segment.file.as_str());
            let here = self.copy.is_none() && !deleted.contains_key(segment.file.as_str());
            if !here && (there.is_none() || self.local) {
                continue;
            }
            self.effort.segments += 1;
            self.effort.store_bytes = self.effort.store_bytes.saturating_add(segment.size);
            if !may_have(segment) {
                continue;
            }
            progress(0, 0, &self.effort);
            if here {
                let Some((source, index)) = self.indexed(segment)? else { continue };
                select(&source, &index, wanted, &query, &required, &mut candidates);
            } else if let Some(&url) = there {
                self.copied(&mut copied, segment, url)?;
            }
        }
        for (copy, segments) in copied {
            // Groups of this size bound the memory of the indexes.
            for segments in segments.chunks(4 * AT_ONCE) {
                progress(0, 0, &self.effort);
                for (source, index) in self.copied_indexes(&copy, segments)? {
                    select(&source, &index, wanted, &query, &required, &mut candidates);
                }
            }
        }
        if self.copy.is_some() {
            return Ok(candidates);
        }
        // Segments that got their line in the meantime are skipped here: the loop above has read them as it
        // found them.
        let known: HashSet<&SegmentName> = contents.written().map(|segment| &segment.file).collect();
        for name in self.partials()? {
            if known.contains(&name) {
                continue;
            }
            if let Some((source, index)) = self.scan(&name)? {
                self.effort.segments += 1;
                select(&source, &index, wanted, &query, &required, &mut candidates);
            }
        }
        Ok(candidates)
    }

    /// Adds a segment to the copy that contains it.
    fn copied<'s>(
        &self,
        copied: &mut Vec<Copied<'s>>,
        segment: &'s Segment,
        url: &str,
    ) -> Result<(), ReadError> {
        let found = copied.iter().position(|(copy, _)| self.copy.is_some() || copy.url() == url);
        let place = match (found, &self.copy) {
            (Some(place), _) => place,
            (None, Some(copy)) => {
                copied.push((Rc::clone(copy), Vec::new()));
                copied.len() - 1
            }
            (None, None) => {
                let elsewhere = |source| ReadError::Elsewhere { file: segment.file.to_string(), source };
                let location = Location::of_manifest(url, &self.copies).map_err(elsewhere)?;
                let copy = RemoteReader::open(&location).map_err(elsewhere)?;
                copied.push((Rc::new(copy), Vec::new()));
                copied.len() - 1
            }
        };
        copied[place].1.push(segment);
        Ok(())
    }

    /// Reads the indexes of some segments of a copy.
    fn copied_indexes(
        &mut self,
        copy: &Rc<RemoteReader>,
        segments: &[&Segment],
    ) -> Result<Vec<(Rc<Source>, Index)>, ReadError> {
        let names: Vec<FileName> = segments.iter().map(|segment| segment.index_file()).collect();
        let longest = segments.iter().map(|segment| segment.index_size).max();
        let longest = longest.unwrap_or_default().min(LONGEST_INDEX);
        let indexes =
            copy.get_all(&names, longest).map_err(|source| match (&self.copy, segments.first()) {
                (None, Some(segment)) => ReadError::Elsewhere { file: segment.file.to_string(), source },
                _ => ReadError::Remote(source),
            })?;
        self.effort.requests += names.len() as u64;
        let mut found = Vec::with_capacity(names.len());
        for ((segment, name), bytes) in segments.iter().zip(&names).zip(indexes) {
            let wrong = |source| ReadError::Segment { file: name.to_string(), source };
            let bytes = bytes.ok_or_else(|| copy.missing(name))?;
            self.effort.indexes_read += 1;
            self.effort.index_bytes += bytes.len() as u64;
            // An index begins with the same key header as its segment.
            let seal = SegmentSeal::of_segment(&bytes, self.key.as_ref()).map_err(wrong)?;
            let bytes = seal::open_index(bytes.into(), &segment.file, self.key.as_ref()).map_err(wrong)?;
            let index = Index::parse(bytes, segment.size).map_err(|_| wrong(Unreadable::Damaged))?;
            let place = Place::Remote(Rc::clone(copy));
            let name = FileName::Segment(segment.file.clone());
            found.push((Rc::new(Source { name, place, seal }), index));
        }
        Ok(found)
    }

    fn io_error(&self, name: &FileName, source: io::Error) -> ReadError {
        let path = self.directory.as_ref().map_or_else(|| name.to_string().into(), |home| home.named(name));
        ReadError::Io { path, source }
    }

    /// Opens a file of the directory, unless it is open already; returns `None` if it does not exist.
    fn open_file(&mut self, name: &FileName) -> Result<Option<Rc<File>>, ReadError> {
        if let Some((_, file)) = self.open.iter().find(|(open, _)| open == name) {
            return Ok(Some(Rc::clone(file)));
        }
        let Some(directory) = &self.directory else { return Ok(None) };
        match directory.read(name) {
            Ok(file) => {
                let file = Rc::new(file);
                if self.open.len() >= MOST_OPEN {
                    self.open.pop_front();
                }
                self.open.push_back((name.clone(), Rc::clone(&file)));
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io_error(name, error)),
        }
    }

    /// Reads the index of a segment; returns `None` if the segment has just been deleted, or is missing.
    fn indexed(&mut self, segment: &Segment) -> Result<Option<(Rc<Source>, Index)>, ReadError> {
        let is_missing = |error: &ReadError| matches!(error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let found = match self.segment_file(&segment.file)? {
            Some(file) => {
                let name = FileName::Segment(segment.file.clone());
                let source = self.open_source(name, &segment.file, &file)?;
                Some(self.index(segment).map(|index| (source, index)))
            }
            None => None,
        };
        match found {
            Some(Err(error)) if is_missing(&error) && self.is_deleted(&segment.file)? => Ok(None),
            Some(result) => result.map(Some),
            None if self.is_deleted(&segment.file)? => Ok(None),
            None => {
                self.missing(|| format!("{} is in the manifest, but is missing", segment.file));
                Ok(None)
            }
        }
    }

    /// Opens a segment's file, whether it has its final name or not.
    fn segment_file(&mut self, segment: &SegmentName) -> Result<Option<Rc<File>>, ReadError> {
        let (name, partial) = (FileName::Segment(segment.clone()), FileName::Partial(segment.clone()));
        // A segment's line is written a moment before the segment gets its name.
        for file in [&name, &partial, &name] {
            if let Some(file) = self.open_file(file)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Returns whether the manifest lists a segment as deleted by now. The line is written before the file
    /// goes.
    fn is_deleted(&mut self, segment: &SegmentName) -> Result<bool, ReadError> {
        let Some(directory) = &self.directory else { return Ok(false) };
        if !self.deleted.contains(segment) && self.missing <= TOLD {
            let contents =
                Contents::read_in(directory).map_err(|source| self.io_error(&FileName::Manifest, source))?;
            self.deleted = contents.deleted().into_keys().filter_map(SegmentName::parse).collect();
        }
        Ok(self.deleted.contains(segment))
    }

    fn open_source(
        &self,
        name: FileName,
        segment: &SegmentName,
        file: &File,
    ) -> Result<Rc<Source>, ReadError> {
        let mut beginning = [0; 128];
        let error = |source| self.io_error(&name, source);
        let size = file.metadata().map_err(error)?.len();
        let len = beginning.len().min(size as usize);
        file.read_exact_at(&mut beginning[..len], 0).map_err(error)?;
        let seal = SegmentSeal::of_segment(&beginning[..len], self.key.as_ref())
            .and_then(|seal| seal.check_name(segment))
            .map_err(|source| ReadError::Segment { file: name.to_string(), source })?;
        Ok(Rc::new(Source { name, place: Place::Here, seal }))
    }

    fn index(&mut self, segment: &Segment) -> Result<Index, ReadError> {
        let name = segment.index_file();
        let damaged = |source| ReadError::Segment { file: name.to_string(), source };
        // An index that is not as long as the manifest says need not be read.
        let size = self.directory.as_ref().map(|directory| directory.size(&name)).transpose();
        let size = size.map_err(|source| self.io_error(&name, source))?.flatten();
        if size.is_some_and(|size| size != segment.index_size) {
            return Err(damaged(Unreadable::Damaged));
        }
        let read = self.directory.as_ref().map(|directory| directory.read_whole(&name, LONGEST_INDEX));
        let bytes = read.unwrap_or_else(|| Ok(Vec::new())).map_err(|source| self.io_error(&name, source))?;
        self.effort.indexes_read += 1;
        self.effort.index_bytes += bytes.len() as u64;
        let bytes = seal::open_index(bytes, &segment.file, self.key.as_ref()).map_err(damaged)?;
        Index::parse(bytes, segment.size).map_err(|_| damaged(Unreadable::Damaged))
    }

    /// Returns the names of the segments that are being written. Entries that are not plain files are
    /// skipped.
    fn partials(&mut self) -> Result<Vec<SegmentName>, ReadError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let error = |source| ReadError::Io { path: directory.path().to_owned(), source };
        let mut partials = Vec::new();
        for file in directory.files().map_err(error)? {
            let FileName::Partial(name) = &file else { continue };
            match directory.size(&file) {
                Err(refused) if Refused::is(&refused) => self.strange.push(refused.to_string()),
                _ => partials.push(name.clone()),
            }
        }
        Ok(partials)
    }

    /// Builds an index of the whole chunks of a segment that is being written.
    fn scan(&mut self, segment: &SegmentName) -> Result<Option<(Rc<Source>, Index)>, ReadError> {
        let (name, named) = (&FileName::Partial(segment.clone()), FileName::Segment(segment.clone()));
        let file = match self.open_file(name)? {
            Some(file) => file,
            // The segment has got its name in the meantime.
            None => match self.open_file(&named) {
                Ok(Some(file)) => file,
                _ => return Ok(None),
            },
        };
        let size = file.metadata().map_err(|source| self.io_error(name, source))?.len();
        if size == 0 {
            return Ok(None);
        }
        self.effort.store_bytes = self.effort.store_bytes.saturating_add(size);
        let source = self.open_source(name.clone(), segment, &file)?;
        let mut builder = Builder::default();
        let (mut at, mut number) = (source.seal.first_chunk(), 0);
        let is_whole = loop {
            let next = recovery::next_chunk(&file, &source.seal, number, at, size);
            let stored = match next.map_err(|source| self.io_error(name, source))? {
                Next::Chunk(stored) => stored,
                // The rest is being written.
                Next::End | Next::Torn => break true,
                Next::Damaged => break false,
            };
            if builder.is_full() {
                break false;
            }
            let Ok(section) = source.seal.open(&stored, number) else { break false };
            let Ok((summary, interfaces, flows)) = index::scan(&section) else { break false };
            builder.add_parts(&summary, &interfaces, &flows, at, stored.len() as u32);
            at += stored.len() as u64;
            number += 1;
        };
        if !is_whole {
            self.missing(|| format!("{name} is damaged; its last {} bytes cannot be read", size - at));
        }
        self.effort.bytes_read += at;
        let index = Index::parse(builder.encode(), size);
        let damaged = |_| ReadError::Segment { file: name.to_string(), source: Unreadable::Damaged };
        index.map_err(damaged).map(|index| Some((source, index)))
    }

    /// Reads the chunk of the last candidate. From a copy, also reads the chunks of the next candidates.
    fn stored(&mut self, candidates: &[Candidate]) -> Result<Vec<u8>, ReadError> {
        if let Some(stored) = self.ahead.pop_front() {
            return Ok(stored);
        }
        let Some(Candidate { source, entry, .. }) = candidates.last() else { return Ok(Vec::new()) };
        let copy = match &source.place {
            Place::Here => {
                let file = match source.name.segment() {
                    Some(segment) => self.segment_file(segment)?,
                    None => None,
                };
                let missing = || self.io_error(&source.name, io::ErrorKind::NotFound.into());
                let file = file.ok_or_else(missing)?;
                let mut stored = vec![0; entry.len as usize];
                file.read_exact_at(&mut stored, entry.offset)
                    .map_err(|error| self.io_error(&source.name, error))?;
                return Ok(stored);
            }
            Place::Remote(copy) => Rc::clone(copy),
        };
        let next = candidates.iter().rev().take(AT_ONCE);
        let next =
            next.take_while(|next| matches!(&next.source.place, Place::Remote(of) if Rc::ptr_eq(of, &copy)));
        let parts = next.map(|Candidate { source, entry, .. }| {
            (&source.name, entry.offset..entry.offset.saturating_add(entry.len.into()))
        });
        let read = copy.ranges(parts)?;
        self.effort.requests += read.len() as u64;
        self.ahead.extend(read.into_iter().map(Vec::from));
        Ok(self.ahead.pop_front().unwrap_or_default())
    }

    /// Finds the matching packets in a chunk.
    fn load(&mut self, candidate: &Candidate, stored: &[u8], wanted: &Wanted) -> Result<Loaded, ReadError> {
        let Candidate { source, entry, number, written, .. } = candidate;
        self.effort.chunks_read += 1;
        self.effort.bytes_read += u64::from(entry.len);
        let damaged = |error| ReadError::Segment { file: source.name.to_string(), source: error };
        let section = source.seal.open(stored, *number).map_err(damaged)?;
        let mut found = Vec::new();
        let mut reader = Section::new(&section);
        while let Some(packet) = reader.next().map_err(|_| damaged(Unreadable::Damaged))? {
            // The chunk is read when its first time has come.
            if packet.time < entry.first || packet.time > entry.last {
                return Err(damaged(Unreadable::Damaged));
            }
            if !wanted.overlaps(packet.time, packet.time) {
                continue;
            }
            let info = FrameInfo {
                time: packet.time,
                original_len: packet.original_len,
                flow_hash: FlowHash(packet.flow_hash),
                mirror: reader.interfaces.get(packet.interface).and_then(|interface| interface.mirror),
                side: packet.side,
            };
            if wanted.expression.matches(&info, packet.frame) {
                found.push((packet.time, packet.block, packet.interface));
            }
        }
        let interfaces = reader.interfaces;
        // The order is stable: of packets with the same time, the one that came first comes out first.
        found.sort_by_key(|&(time, block, _)| Reverse((time, block)));
        found.truncate(found.len().saturating_sub(*written));
        let size = section.len() + found.capacity() * size_of::<(u64, (usize, usize), usize)>();
        Ok(Loaded { candidate: candidate.clone(), size, section, interfaces, found })
    }
}

/// Adds the chunks of a segment that may contain matching packets.
fn select(
    source: &Rc<Source>,
    index: &Index,
    wanted: &Wanted,
    query: &Query,
    required: &[&Primitive],
    candidates: &mut Vec<Candidate>,
) {
    let chunks: Vec<ChunkEntry> = index.chunks().collect();
    let id = required.iter().find_map(|primitive| match primitive {
        Primitive::CommunityId(id) => Some(id.prefix()),
        _ => None,
    });
    let mut possible = vec![false; chunks.len()];
    // If the expression requires a Community ID, the chunk must contain that flow.
    let mut has_id = vec![id.is_none(); chunks.len()];
    for entry in index.flows() {
        let named = id.is_some_and(|id| id == entry.community_id);
        if query.ask(&entry, index.interfaces()) == Answer::No {
            continue;
        }
        for chunk in entry.chunks() {
            if let (Some(possible), Some(has_id)) = (possible.get_mut(chunk), has_id.get_mut(chunk)) {
                *possible = true;
                *has_id |= named;
            }
        }
    }
    for (((entry, number), possible), has_id) in chunks.into_iter().zip(0..).zip(possible).zip(has_id) {
        if possible && has_id && wanted.overlaps(entry.first, entry.last) {
            let source = Rc::clone(source);
            candidates.push(Candidate { source, entry, number, next: entry.first, written: 0 });
        }
    }
}

/// The pcapng output.
struct Output<'w> {
    to: &'w mut dyn Write,
    /// The section's interfaces, with their positions.
    interfaces: HashMap<Interface, u32>,
    header: Buffer,
    block: Vec<u8>,
}

impl<'w> Output<'w> {
    fn new(to: &'w mut dyn Write) -> Self {
        Self { to, interfaces: HashMap::new(), header: Buffer::new(4096), block: Vec::new() }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.header.clear();
        self.interfaces.clear();
        pcapng::put_section(&mut self.header);
        self.to.write_all(self.header.as_slice())
    }

    fn packet(&mut self, block: &[u8], interface: &Interface) -> io::Result<()> {
        let known = self.interfaces.get(interface).copied();
        if known.is_none() {
            // Readers store the interfaces of a section, so their number is limited.
            if self.interfaces.len() == MAX_INTERFACES {
                self.begin()?;
            }
            self.header.clear();
            pcapng::put_interface(&mut self.header, interface);
            self.to.write_all(self.header.as_slice())?;
        }
        let position = known.unwrap_or(self.interfaces.len() as u32);
        self.interfaces.insert(*interface, position);
        self.block.clear();
        pcapng::copy_packet(block, position, &mut self.block);
        self.to.write_all(&self.block)
    }

    fn end(self) -> io::Result<()> {
        self.to.flush()
    }
}
