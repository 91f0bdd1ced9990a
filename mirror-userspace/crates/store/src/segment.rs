//! Segments: how chunks get to the disk.
//!
//! Each worker's chunks go through two threads. The sealer ends the chunk's section, decides when a segment
//! is full, hashes the segment and builds its index. The writer writes. So one chunk is hashed while another
//! is being written, and a slow disk never blocks the worker: when no empty chunk comes back, the worker
//! counts frames as lost. `io_uring` would need one thread less, but unsafe code: the compiler knows nothing
//! of memory that the kernel reads asynchronously. With writes of a megabyte each, it would save nothing
//! else.
//!
//! A segment is written as `….partial`. When it is full, the writer syncs it, writes its index, appends its
//! line to the manifest, and only then gives it its final name. If any step fails, writing pauses for a
//! second, and [`super::recovery`] finishes what was written so far.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use mirror_packet::text::hex;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use sha2::{Digest as _, Sha256};

use super::chunk::Chunk;
use super::home::Home;
use super::index::Builder;
use super::manifest::{Event, Segment};
use super::names::{FileName, SegmentName};
use super::seal::{Sealing, SegmentSeal};
use super::{Counters, Pause, Shared};

/// Interval between syncs of a segment; a crash of the machine loses at most so much.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Time after a failed write before the next is tried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Size and age at which a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) size: u64,
    pub(super) time: Duration,
}

/// A message from the sealer to the writer.
#[derive(Debug)]
pub(super) enum Job {
    Begin {
        name: SegmentName,
        header: Vec<u8>,
    },
    Chunk {
        number: u64,
        chunk: Box<Chunk>,
    },
    End {
        number: u64,
        segment: Segment,
        index: Vec<u8>,
    },
    /// A chunk for which no segment can be opened.
    Lost {
        chunk: Box<Chunk>,
        error: io::Error,
    },
}

/// An open segment, on the sealer's side.
struct Open {
    name: SegmentName,
    began: Instant,
    len: u64,
    digest: Sha256,
    index: Builder,
    seal: SegmentSeal,
}

/// The sealer thread.
pub(super) struct Sealer {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) worker: usize,
    pub(super) sealing: Sealing,
    /// The number of the latest segment that the writer gave up.
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
            let full = open.len + chunk.buffer.len() as u64 > self.limits.size || open.index.is_full();
            full || open.began.elapsed() >= self.limits.time || self.has_failed(open.name.number())
        }) {
            self.end(open.take());
        }
        let open = match open {
            Some(open) => open,
            None => match self.begin(chunk.summary.first) {
                Ok(begun) => open.insert(begun),
                Err(error) => return self.send(Job::Lost { chunk, error }),
            },
        };
        self.sealing.seal(&mut open.seal, &mut chunk.buffer);
        let len = chunk.buffer.len();
        open.digest.update(chunk.buffer.as_slice());
        open.index.add(&chunk, open.len, len as u32);
        open.len += len as u64;
        let number = open.name.number();
        self.send(Job::Chunk { number, chunk });
    }

    fn begin(&self, time: u64) -> io::Result<Open> {
        let number = self.shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let name = SegmentName::new(number, self.worker, stamp(time), self.sealing.extension());
        let name =
            name.ok_or_else(|| io::Error::other(format!("there can be no segment number {number}")))?;
        let (seal, header) = self.sealing.begin()?;
        let mut digest = Sha256::new();
        digest.update(&header);
        let len = header.len() as u64;
        self.send(Job::Begin { name: name.clone(), header });
        Ok(Open { name, began: Instant::now(), len, digest, index: Builder::default(), seal })
    }

    fn end(&self, open: Option<Open>) {
        let Some(open) = open else { return };
        let number = open.name.number();
        if self.has_failed(number) {
            return;
        }
        let index = open.seal.seal_index(open.index.encode());
        let segment = describe(open.name, open.len, open.digest, &index, &open.index);
        self.send(Job::End { number, segment, index });
    }

    fn has_failed(&self, number: u64) -> bool {
        self.failed.load(Ordering::Acquire) >= number
    }

    fn send(&self, job: Job) {
        // This fails if the writer panicked, which it has already reported; the account shows the missing
        // packets.
        let _ = self.jobs.send(job);
    }
}

/// Returns a segment's line in the manifest.
pub(super) fn describe(file: SegmentName, size: u64, digest: Sha256, index: &[u8], of: &Builder) -> Segment {
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

/// Formats a time for file names: UTC, to the second.
fn stamp(time: u64) -> Option<String> {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = time::OffsetDateTime::from_unix_timestamp((time / 1_000_000_000).cast_signed());
    time.ok()?.format(&format).ok()
}

/// An open segment, on the writer's side.
struct Partial {
    name: SegmentName,
    home: Arc<Home>,
    file: File,
    len: u64,
    synced: Instant,
    /// The packets in the file that were counted as kept, and their bytes.
    packets: u64,
    bytes: u64,
}

/// The reason for giving up a segment.
enum Failure {
    /// Writing failed.
    Write(io::Error),
    /// The segment's file has lost its name, or the store's directory has.
    Gone,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// The writer thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) failed: Arc<AtomicU64>,
    /// Returns empty chunks to the worker.
    pub(super) home: SyncSender<Box<Chunk>>,
}

impl Writer {
    pub(super) fn run(self, jobs: &Receiver<Job>) {
        let mut open: Option<Partial> = None;
        let mut failed: Option<Instant> = None;
        // The counter for packets of segments that were given up.
        let mut lost = &self.counters.lost_write;
        loop {
            failed = failed.filter(|failed| failed.elapsed() < RETRY_INTERVAL);
            self.pause(failed.is_some());
            let result = match jobs.recv_timeout(RETRY_INTERVAL / 4) {
                Ok(Job::Begin { name, header }) => {
                    let number = name.number();
                    let result = self.begin(&mut open, name, &header);
                    if result.is_err() {
                        self.failed.store(number, Ordering::Release);
                    }
                    result
                }
                Ok(Job::Chunk { number, chunk }) => {
                    let result = self.chunk(&mut open, number, &chunk, lost);
                    self.give_back(chunk);
                    result
                }
                Ok(Job::End { number, segment, index }) => self.end(&mut open, number, segment, &index),
                Ok(Job::Lost { chunk, error }) => {
                    self.counters.lost_write.fetch_add(chunk.summary.packets, Ordering::Relaxed);
                    self.give_back(chunk);
                    Err(error.into())
                }
                Err(RecvTimeoutError::Timeout) => match &open {
                    Some(partial) if partial.is_gone() => Err(Failure::Gone),
                    _ => Ok(()),
                },
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(failure) = result {
                failed = Some(Instant::now());
                self.pause(true);
                lost = self.give_up(open.take(), &failure);
            }
        }
    }

    /// Pauses the worker, which copies no frames while nothing can be written.
    fn pause(&self, failed: bool) {
        self.counters.set_pause(match self.shared.pause() {
            Pause::No if failed => Pause::Failed,
            pause => pause,
        });
    }

    fn give_back(&self, mut chunk: Box<Chunk>) {
        chunk.clear();
        // This fails if the worker is gone, which needs no more chunks.
        let _ = self.home.try_send(chunk);
    }

    /// Gives up a segment, and leaves what there is of it to the keeper. Returns the counter for the packets
    /// that are still on their way to the segment.
    fn give_up(&self, partial: Option<Partial>, failure: &Failure) -> &AtomicU64 {
        if let Failure::Write(error) = failure {
            self.shared.failed(error);
        }
        let counters = &self.counters;
        let Some(partial) = partial else {
            return if self.shared.pause() == Pause::Gone {
                &counters.lost_gone
            } else {
                &counters.lost_write
            };
        };
        self.failed.store(partial.name.number(), Ordering::Release);
        if !partial.is_lost() {
            self.shared.orphan(partial.name);
            return &counters.lost_write;
        }
        tracing::error!(
            "store {}: {} was removed while it was written, or its directory was: {} packets are lost",
            self.shared.path.display(),
            FileName::Partial(partial.name),
            partial.packets
        );
        counters.lost_gone.fetch_add(partial.packets, Ordering::Relaxed);
        counters.kept.fetch_sub(partial.packets, Ordering::Relaxed);
        counters.kept_bytes.fetch_sub(partial.bytes, Ordering::Relaxed);
        counters.written.fetch_sub(partial.len, Ordering::Relaxed);
        &counters.lost_gone
    }

    fn begin(&self, open: &mut Option<Partial>, name: SegmentName, header: &[u8]) -> Result<(), Failure> {
        let Some(home) = self.shared.home() else { return Err(Failure::Gone) };
        let file = create(&home, &FileName::Partial(name.clone()))?;
        let partial =
            open.insert(Partial { name, home, file, len: 0, synced: Instant::now(), packets: 0, bytes: 0 });
        if !header.is_empty() {
            // Direct I/O requires aligned memory.
            let mut aligned = super::buffer::Buffer::new(header.len());
            aligned.push(header);
            partial.write(aligned.as_slice())?;
        }
        Ok(())
    }

    fn chunk(
        &self,
        open: &mut Option<Partial>,
        number: u64,
        chunk: &Chunk,
        lost: &AtomicU64,
    ) -> Result<(), Failure> {
        let (packets, bytes) = (chunk.summary.packets, chunk.summary.bytes);
        let Some(partial) = open.as_mut().filter(|partial| partial.name.number() == number) else {
            // The segment failed while this chunk was on its way.
            lost.fetch_add(packets, Ordering::Relaxed);
            return Ok(());
        };
        if partial.is_gone() {
            self.counters.lost_gone.fetch_add(packets, Ordering::Relaxed);
            return Err(Failure::Gone);
        }
        if let Err(error) = partial.write(chunk.buffer.as_slice()) {
            self.counters.lost_write.fetch_add(packets, Ordering::Relaxed);
            return Err(error.into());
        }
        partial.packets += packets;
        partial.bytes += bytes;
        self.counters.kept.fetch_add(packets, Ordering::Relaxed);
        self.counters.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.written.fetch_add(chunk.buffer.len() as u64, Ordering::Relaxed);
        self.shared.succeeded();
        if partial.synced.elapsed() >= SYNC_INTERVAL {
            partial.synced = Instant::now();
            partial.file.sync_data()?;
        }
        Ok(())
    }

    fn end(
        &self,
        open: &mut Option<Partial>,
        number: u64,
        segment: Segment,
        index: &[u8],
    ) -> Result<(), Failure> {
        // If no partial matches, the segment has failed.
        let Some(partial) = open.as_ref().filter(|partial| partial.name.number() == number) else {
            return Ok(());
        };
        partial.file.sync_all()?;
        if partial.is_gone() || partial.is_lost() {
            return Err(Failure::Gone);
        }
        finish(&self.shared, &partial.home, segment, index)?;
        self.counters.segments.fetch_add(1, Ordering::Relaxed);
        *open = None;
        Ok(())
    }
}

impl Partial {
    /// Returns whether further writing is pointless. The only system call is `fstat` on the file.
    fn is_gone(&self) -> bool {
        self.home.is_gone() || self.has_no_name()
    }

    fn has_no_name(&self) -> bool {
        // Not every file system maintains the link count.
        self.file.metadata().is_ok_and(|found| found.nlink() == 0)
            && !self.home.directory.has(&FileName::Partial(self.name.clone()), &self.file)
    }

    /// Returns whether the written data can no longer be found by its name.
    fn is_lost(&self) -> bool {
        let directory = &self.home.directory;
        !directory.is_there() || !directory.has(&FileName::Partial(self.name.clone()), &self.file)
    }

    /// Appends bytes. On an error, the file contains none of them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut result = self.file.write_all_at(bytes, self.len);
        if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // The file system accepts `O_DIRECT`, but does not support the write.
            fcntl_setfl(&self.file, fcntl_getfl(&self.file)? - OFlags::DIRECT)?;
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

/// Creates a new file, for direct I/O where the file system supports it.
fn create(home: &Home, name: &FileName) -> io::Result<File> {
    let file = home.directory.create(name)?;
    // Without support, the file is written through the page cache.
    let _ = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT));
    Ok(file)
}

/// Completes a segment that is fully on the disk: writes its index, its manifest line and its final name.
pub(super) fn finish(shared: &Shared, home: &Home, segment: Segment, index: &[u8]) -> io::Result<()> {
    let directory = &home.directory;
    let name = segment.file.clone();
    directory.is_free(&FileName::Segment(name.clone()))?;
    let mut file = directory.replace(&FileName::Index(name.clone()))?;
    file.write_all(index)?;
    file.sync_all()?;
    directory.sync()?;
    shared.manifest().append(Event::Segment(segment))?;
    directory.rename_new(&FileName::Partial(name.clone()), &FileName::Segment(name))?;
    directory.sync()
}
