//! Segments: how chunks get to the disk.
//!
//! Each worker's chunks go through two threads. The sealer ends the chunk's section, decides when a segment
//! is full, hashes it and keeps its index; the writer writes. So hashing one chunk takes place while another
//! is being written, and a slow disk holds up nobody: when no empty chunk comes back, the worker counts
//! frames as lost. `io_uring` would do the same with one thread less, but by unsafe code: of memory that the
//! kernel writes from, the compiler knows nothing. With writes of a megabyte each, there is nothing else
//! that it would save.
//!
//! A segment is written as `….partial`. When it is full, it is synced, its index written, its line appended
//! to the manifest, and only then it gets its name. Where any of that fails, writing pauses for a second;
//! what was written so far is finished by [`super::recovery`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::chunk::Chunk;
use super::index::Builder;
use super::manifest::{Event, Segment, index_name};
use super::seal::{Sealing, SegmentSeal};
use super::{Counters, Shared};
use crate::record::text::hex;

/// What the name of a segment that is not finished ends with.
pub(super) const PARTIAL: &str = ".partial";
/// What was written is synced this often: so much a crash of the machine costs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed write, the next is tried after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// When a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) size: u64,
    pub(super) time: Duration,
}

/// What the sealer tells the writer.
#[derive(Debug)]
pub(super) enum Job {
    Begin { number: u64, name: String, header: Vec<u8> },
    Chunk { number: u64, chunk: Box<Chunk> },
    End { number: u64, segment: Segment, index: Vec<u8> },
}

/// A segment as the sealer knows it.
struct Open {
    number: u64,
    name: String,
    began: Instant,
    len: u64,
    digest: Sha256,
    index: Builder,
    seal: SegmentSeal,
}

/// The sealer's side.
pub(super) struct Sealer {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) worker: usize,
    pub(super) sealing: Sealing,
    /// The latest segment that the writer gave up.
    pub(super) failed: Arc<AtomicU64>,
    pub(super) jobs: SyncSender<Job>,
}

impl Sealer {
    pub(super) fn run(mut self, chunks: &Receiver<Box<Chunk>>) {
        let mut open: Option<Open> = None;
        loop {
            let left = match &open {
                Some(open) => self.limits.time.saturating_sub(open.began.elapsed()),
                None => self.limits.time,
            };
            match chunks.recv_timeout(left) {
                Ok(chunk) => self.chunk(&mut open, chunk),
                Err(RecvTimeoutError::Timeout) => self.end(open.take()),
                Err(RecvTimeoutError::Disconnected) => return self.end(open.take()),
            }
        }
    }

    fn chunk(&mut self, open: &mut Option<Open>, mut chunk: Box<Chunk>) {
        chunk.seal();
        if open.as_ref().is_some_and(|open| {
            let full = open.len + chunk.buffer.len() as u64 > self.limits.size;
            full || open.began.elapsed() >= self.limits.time || self.has_failed(open.number)
        }) {
            self.end(open.take());
        }
        let open = open.get_or_insert_with(|| self.begin(chunk.summary.first));
        self.sealing.seal(&mut open.seal, &mut chunk.buffer);
        let len = chunk.buffer.len();
        open.digest.update(chunk.buffer.as_slice());
        open.index.add(&chunk, open.len, len as u32);
        open.len += len as u64;
        self.send(Job::Chunk { number: open.number, chunk });
    }

    fn begin(&mut self, time: u64) -> Open {
        let number = self.shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number:08}-w{}-{}{}", self.worker, stamp(time), self.sealing.extension());
        let (seal, header) = self.sealing.begin().unwrap_or_else(|error| {
            // The writer does not know of such a segment, and counts its chunk as lost.
            self.shared.failed(&error);
            self.failed.store(number, Ordering::Release);
            (SegmentSeal::none(), Vec::new())
        });
        let mut digest = Sha256::new();
        digest.update(&header);
        let len = header.len() as u64;
        if !self.has_failed(number) {
            self.send(Job::Begin { number, name: name.clone(), header });
        }
        Open { number, name, began: Instant::now(), len, digest, index: Builder::default(), seal }
    }

    fn end(&mut self, open: Option<Open>) {
        let Some(open) = open else { return };
        if self.has_failed(open.number) {
            return;
        }
        let index = open.seal.seal_index(open.index.encode());
        let segment = describe(open.name, open.len, open.digest, &index, &open.index);
        self.send(Job::End { number: open.number, segment, index });
    }

    fn has_failed(&self, number: u64) -> bool {
        self.failed.load(Ordering::Acquire) >= number
    }

    fn send(&self, job: Job) {
        // Fails where the writer panicked, which has said so itself; the account shows what is missing.
        let _ = self.jobs.send(job);
    }
}

/// A segment's line in the manifest.
pub(super) fn describe(file: String, size: u64, digest: Sha256, index: &[u8], of: &Builder) -> Segment {
    let segment = Segment {
        file,
        size,
        sha256: hex(&digest.finalize()),
        index_size: index.len() as u64,
        index_sha256: hex(&Sha256::digest(index)),
        packets: 0,
        bytes: 0,
        first: 0,
        last: 0,
        vnis: Vec::new(),
        flows: 0,
        recovered: false,
    };
    segment.describe(of.summary(), of.vnis(), of.flow_count())
}

/// A time as it stands in names: to the second, in UTC.
fn stamp(time: u64) -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = time::OffsetDateTime::from_unix_timestamp((time / 1_000_000_000).cast_signed());
    time.ok().and_then(|time| time.format(&format).ok()).unwrap_or_else(|| "unknown".to_owned())
}

/// A file that is being written.
struct Partial {
    number: u64,
    path: PathBuf,
    file: File,
    len: u64,
    synced: Instant,
}

/// The writer's side.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) failed: Arc<AtomicU64>,
    /// Where empty chunks go.
    pub(super) home: SyncSender<Box<Chunk>>,
}

impl Writer {
    pub(super) fn run(self, jobs: &Receiver<Job>) {
        let mut open: Option<Partial> = None;
        let mut paused: Option<Instant> = None;
        loop {
            if paused.is_some_and(|paused| paused.elapsed() >= RETRY_INTERVAL) {
                paused = None;
                self.counters.paused.store(false, Ordering::Release);
            }
            let job = match jobs.recv_timeout(RETRY_INTERVAL / 4) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (number, result) = match job {
                Job::Begin { number, name, header } => {
                    (number, self.begin(&mut open, number, &name, &header))
                }
                Job::Chunk { number, mut chunk } => {
                    let result = self.chunk(&mut open, number, &chunk);
                    chunk.clear();
                    // Fails where the worker is gone, which needs no chunks any more.
                    let _ = self.home.try_send(chunk);
                    (number, result)
                }
                Job::End { number, segment, index } => (number, self.end(&mut open, segment, &index)),
            };
            if let Err(error) = result {
                self.failed.store(number, Ordering::Release);
                self.counters.paused.store(true, Ordering::Release);
                paused = Some(Instant::now());
                self.shared.failed(&error);
                if let Some(partial) = open.take() {
                    self.shared.orphan(partial.path);
                }
            }
        }
    }

    fn begin(&self, open: &mut Option<Partial>, number: u64, name: &str, header: &[u8]) -> io::Result<()> {
        let path = self.shared.directory.join(format!("{name}{PARTIAL}"));
        let file = create(&path)?;
        let partial = open.insert(Partial { number, path, file, len: 0, synced: Instant::now() });
        if !header.is_empty() {
            // As direct I/O wants it.
            let mut aligned = super::buffer::Buffer::new(header.len());
            aligned.push(header);
            partial.write(aligned.as_slice())?;
        }
        Ok(())
    }

    fn chunk(&self, open: &mut Option<Partial>, number: u64, chunk: &Chunk) -> io::Result<()> {
        let Some(partial) = open.as_mut().filter(|partial| partial.number == number) else {
            // The segment failed while this was on its way.
            self.counters.lost_write.fetch_add(chunk.summary.packets, Ordering::Relaxed);
            return Ok(());
        };
        match partial.write(chunk.buffer.as_slice()) {
            Ok(()) => {
                self.counters.kept.fetch_add(chunk.summary.packets, Ordering::Relaxed);
                self.counters.kept_bytes.fetch_add(chunk.summary.bytes, Ordering::Relaxed);
                self.counters.written.fetch_add(chunk.buffer.len() as u64, Ordering::Relaxed);
                self.shared.succeeded();
                if partial.synced.elapsed() >= SYNC_INTERVAL {
                    partial.synced = Instant::now();
                    partial.file.sync_data()?;
                }
                Ok(())
            }
            Err(error) => {
                self.counters.lost_write.fetch_add(chunk.summary.packets, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn end(&self, open: &mut Option<Partial>, segment: Segment, index: &[u8]) -> io::Result<()> {
        // Without one, the segment has failed.
        let Some(partial) = open.as_ref() else { return Ok(()) };
        partial.file.sync_all()?;
        finish(&self.shared, &partial.path, segment, index)?;
        self.counters.segments.fetch_add(1, Ordering::Relaxed);
        *open = None;
        Ok(())
    }
}

impl Partial {
    /// Appends bytes; where that fails, none of them are in the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut result = self.file.write_all_at(bytes, self.len);
        if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // The file system opens files for direct I/O, but does none.
            self.file = OpenOptions::new().read(true).write(true).open(&self.path)?;
            result = self.file.write_all_at(bytes, self.len);
        }
        if let Err(error) = result {
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Makes a new file, for direct I/O where the file system knows it.
fn create(path: &Path) -> io::Result<File> {
    let options = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o640).custom_flags(flags);
        options
    };
    match options(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options(0).open(path),
        result => result,
    }
}

/// Gives a segment that is wholly on the disk its index, its line, and its name.
pub(super) fn finish(shared: &Shared, partial: &Path, segment: Segment, index: &[u8]) -> io::Result<()> {
    let name = shared.directory.join(&segment.file);
    let mut file = File::create(shared.directory.join(index_name(&segment.file)))?;
    file.write_all(index)?;
    file.sync_all()?;
    shared.sync_directory()?;
    shared.manifest().append(Event::Segment(segment))?;
    fs::rename(partial, name)?;
    shared.sync_directory()
}
