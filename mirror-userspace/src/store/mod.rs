//! The packet store: every packet kept, and found again.
//!
//! Each worker has a [`StoreHandle`] that copies frames into chunks of a megabyte; two threads a worker take
//! those to the disk, as segments (`segment`) of pcapng with an index (`index`) beside them. What was
//! written and deleted stands in a manifest whose lines are chained by hashes ([`manifest`]). Where the disk
//! does not keep up, or does not take anything, packets are lost to the store and counted; the analysis goes
//! on.
//!
//! `docs/store.md` is the format and its guarantees.

mod buffer;
mod chunk;
mod handle;
pub mod hold;
mod index;
mod losses;
pub mod manifest;
mod pcapng;
mod policy;
mod query;
pub mod reader;
mod recovery;
pub mod remote;
mod retention;
mod ring;
mod rules;
mod seal;
mod segment;
pub mod timeline;
pub(crate) mod upload;
pub mod verify;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use self::chunk::Chunk;
pub use self::handle::StoreHandle;
use self::losses::Losses;
use self::manifest::Manifest;
pub use self::policy::{Kept, Policy};
pub use self::recovery::Recovered;
use self::remote::{Location, Remote, RemoteError};
pub use self::retention::Retention;
pub use self::rules::{KeptRules, RuleRange};
pub use self::seal::{KeyError, StoreKey, Unreadable};
use self::segment::{Limits, Sealer, Writer};
use self::upload::Uploader;
pub use self::upload::{UploadCounters, Watch as UploadWatch};
use crate::confine::{self, Kind};
use crate::latest::Latest;
use crate::sink::Overflow;

/// How a store is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes at which a segment is full.
    pub segment_size: u64,
    /// Age at which it is.
    pub segment_time: Duration,
    /// Bytes of memory that each worker's packets wait in for the disk.
    pub memory: u64,
    /// What is kept.
    pub policy: Policy,
    /// zstd's level; `None` without compression.
    pub compression: Option<i32>,
    /// How long it is kept.
    pub retention: Retention,
    /// Where finished segments are uploaded to, before retention may delete them.
    pub upload: Option<Location>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_size: 256 << 20,
            segment_time: Duration::from_secs(600),
            memory: 64 << 20,
            policy: Policy::default(),
            compression: None,
            retention: Retention::default(),
            upload: None,
        }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is missing and cannot be made, or cannot be written to.
    #[error("cannot write to the store {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else writes to it.
    #[error("the store {} is written to by another process; give each its own directory", .0.display())]
    InUse(PathBuf),
    /// A thread cannot be started.
    #[error("cannot start a thread of the store")]
    Thread(#[source] io::Error),
    /// Nothing can be uploaded to the place.
    #[error("cannot upload")]
    Upload(#[from] RemoteError),
}

/// What became of a worker's frames in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Packets that are on the disk.
    pub kept: u64,
    /// Bytes of their frames.
    pub kept_bytes: u64,
    /// Bytes of the segments.
    pub written_bytes: u64,
    /// Segments that were finished.
    pub segments: u64,
    /// Nothing can be written just now.
    pub paused: bool,
    /// Packets that were not to be kept, by reason.
    pub not_kept: Vec<(&'static str, u64)>,
    /// Packets that were lost, by reason.
    pub lost: Vec<(&'static str, u64)>,
}

/// What a worker's threads count.
#[derive(Debug, Default)]
struct Counters {
    kept: AtomicU64,
    kept_bytes: AtomicU64,
    written: AtomicU64,
    segments: AtomicU64,
    lost_write: AtomicU64,
    /// Those of a worker that there was no memory or no disk for.
    lost_waiting: AtomicU64,
    paused: AtomicBool,
}

/// What all threads of a store share.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    manifest: Mutex<Manifest>,
    next_segment: AtomicU64,
    /// Segments that were given up, to be finished.
    orphans: Mutex<VecDeque<PathBuf>>,
    /// Those of all workers there were.
    counters: Mutex<Vec<Arc<Counters>>>,
    /// The last write failed.
    failing: AtomicBool,
    /// Where each worker's end finds what is kept from now on, and the keeper for how long.
    policies: Mutex<Vec<Arc<Latest<Arc<Policy>>>>>,
    retention: Latest<Retention>,
}

/// Locks what the threads of a store share.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked had not changed it yet, or had changed it wholly.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        lock(&self.manifest)
    }

    fn orphans(&self) -> MutexGuard<'_, VecDeque<PathBuf>> {
        lock(&self.orphans)
    }

    fn policies(&self) -> MutexGuard<'_, Vec<Arc<Latest<Arc<Policy>>>>> {
        lock(&self.policies)
    }

    fn counters(&self) -> MutexGuard<'_, Vec<Arc<Counters>>> {
        lock(&self.counters)
    }

    /// Packets that were to be kept, and were lost for want of memory or disk.
    fn lost(&self) -> u64 {
        let lost = |counters: &Arc<Counters>| {
            counters.lost_write.load(Ordering::Relaxed) + counters.lost_waiting.load(Ordering::Relaxed)
        };
        self.counters().iter().map(lost).sum()
    }

    fn orphan(&self, path: PathBuf) {
        self.orphans().push_back(path);
    }

    /// Has what was written to the directory last through a crash.
    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Raises the alarm, once.
    fn failed(&self, error: &io::Error) {
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "store {}: cannot write: {error}; packets are not kept until it can again, analysis goes on",
                self.directory.display()
            );
        }
    }

    fn succeeded(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::AcqRel) {
            tracing::warn!("store {}: packets are kept again", self.directory.display());
        }
    }
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// The name of the file whose lock says that a store is written to.
const LOCK: &str = "lock";

/// A store that is written to.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    settings: Settings,
    key: Option<StoreKey>,
    policy: Arc<Policy>,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
    uploader: Option<Uploader>,
    recovered: Vec<(String, Recovered)>,
    _lock: Flock<File>,
}

impl Store {
    /// Opens a store, making its directory where it is missing. What an earlier writer left unfinished is
    /// finished, see [`Store::recovered`]. With a key, the segments are encrypted.
    pub fn open(directory: &Path, settings: Settings, key: Option<StoreKey>) -> Result<Self, StoreError> {
        let remote = settings.upload.as_ref().map(|location| Remote::open(location, true)).transpose()?;
        Self::open_with(directory, settings, key, remote)
    }

    fn open_with(
        directory: &Path,
        settings: Settings,
        key: Option<StoreKey>,
        remote: Option<Remote>,
    ) -> Result<Self, StoreError> {
        let error = |source| StoreError::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(error)?;
        let lock = File::create(directory.join(LOCK)).map_err(error)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::InUse(directory.to_owned()))?;
        let (manifest, contents) = Manifest::open(directory).map_err(error)?;
        let known = contents.lines.iter().filter_map(|line| match &line.event {
            manifest::Event::Segment(segment) => recovery::number(&segment.file),
            _ => None,
        });
        let shared = Shared {
            directory: directory.to_owned(),
            manifest: Mutex::new(manifest),
            next_segment: AtomicU64::new(known.max().unwrap_or_default() + 1),
            orphans: Mutex::default(),
            counters: Mutex::default(),
            failing: AtomicBool::new(false),
            policies: Mutex::default(),
            retention: Latest::default(),
        };
        for line in &contents.lines {
            if let manifest::Event::Deleted { file, .. } = &line.event {
                // Whoever wrote the line may have come no further.
                remove(&shared, file);
            }
        }
        let recovered = recover_all(&shared, key.as_ref()).map_err(error)?;
        let shared = Arc::new(shared);
        let stop = Arc::new(AtomicBool::new(false));
        let start = |remote| Uploader::start(Arc::clone(&shared), remote, settings.upload.as_ref());
        let uploader = remote.map(start).transpose().map_err(StoreError::Thread)?;
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            key: key.clone(),
            retention: settings.retention.clone(),
            upload: uploader.as_ref().map(|uploader| Arc::clone(&uploader.state)),
            losses: Losses::new(now()),
            warned: false,
        };
        let (seen, policy) = (Arc::clone(&stop), Arc::new(settings.policy.clone()));
        let keep = move || keeper.run(&seen);
        let keeper =
            confine::spawn("store".to_owned(), Kind::Store, || (), keep).map_err(StoreError::Thread)?;
        Ok(Self {
            shared,
            settings,
            key,
            policy,
            stop,
            keeper: Some(keeper),
            uploader,
            recovered,
            _lock: lock,
        })
    }

    /// What was found unfinished when the store was opened, and what became of it.
    #[must_use]
    pub fn recovered(&self) -> &[(String, Recovered)] {
        &self.recovered
    }

    /// Goes on with another policy and retention, within a second. Does not wait.
    pub fn set(&self, policy: &Policy, retention: &Retention) {
        let policy = Arc::new(policy.clone());
        for handle in self.shared.policies().iter() {
            handle.leave(Arc::clone(&policy));
        }
        self.shared.retention.leave(retention.clone());
    }

    /// Where it is read what was uploaded, if anything is to be.
    #[must_use]
    pub fn upload(&self) -> Option<UploadWatch> {
        self.uploader.as_ref().map(|uploader| UploadWatch(Arc::clone(&uploader.state)))
    }

    /// The rules whose frames are kept, for the program of one interface to tell their identifiers; `None`
    /// where rules do not matter.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<KeptRules>> {
        self.policy.rules.clone().map(|rules| Arc::new(KeptRules::new(rules)))
    }

    /// A new worker's end, with its threads.
    pub fn handle(&self, worker: usize, overflow: Overflow) -> Result<StoreHandle, StoreError> {
        let Settings { segment_size, segment_time, memory, compression, .. } = &self.settings;
        let chunks = (*memory / chunk::MEMORY as u64).max(4) as usize;
        let (home, empty) = sync_channel(chunks);
        for _ in 0..chunks {
            // There is room for every chunk.
            let _ = home.try_send(Box::new(Chunk::new()));
        }
        let (full, filled) = sync_channel(chunks);
        // Between the two threads there are never more chunks than there are.
        let (jobs, written) = sync_channel(chunks + 2);
        let counters = Arc::new(Counters::default());
        self.shared.counters().push(Arc::clone(&counters));
        let failed = Arc::new(AtomicU64::new(0));
        let sealer = Sealer {
            shared: Arc::clone(&self.shared),
            limits: Limits { size: *segment_size, time: *segment_time },
            worker,
            sealing: seal::Sealing::new(*compression, self.key.clone()).map_err(StoreError::Thread)?,
            failed: Arc::clone(&failed),
            jobs,
        };
        let writer =
            Writer { shared: Arc::clone(&self.shared), counters: Arc::clone(&counters), failed, home };
        let spawn = |name: &str, kind: Kind, run: Box<dyn FnOnce() + Send>| {
            confine::spawn(format!("{name} {worker}"), kind, || (), run).map_err(StoreError::Thread)
        };
        let threads = vec![
            spawn("seal", Kind::Seal, Box::new(move || sealer.run(&filled)))?,
            spawn("write", Kind::Store, Box::new(move || writer.run(&written)))?,
        ];
        let handle = StoreHandle::new(Arc::clone(&self.policy), overflow, (empty, full), counters, threads);
        self.shared.policies().push(Arc::clone(handle.changed()));
        Ok(handle)
    }

    /// Ends what is done beside the workers, whose handles have ended before. Returns the manifest's head:
    /// whoever keeps it elsewhere can tell later that nothing was cut off.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.stop();
        self.shared.manifest().head().to_owned()
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // If it panicked, it has said so itself.
            let _ = keeper.join();
        }
        // After all that there is to upload.
        if let Some(mut uploader) = self.uploader.take() {
            uploader.stop();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Finishes all segments that are not finished. Nobody writes yet.
fn recover_all(shared: &Shared, key: Option<&StoreKey>) -> io::Result<Vec<(String, Recovered)>> {
    let mut recovered = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(&shared.directory)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    for name in names {
        let number = recovery::number(name.trim_end_matches(segment::PARTIAL));
        // Numbers are used once, also those of segments that came to nothing.
        shared.next_segment.fetch_max(number.unwrap_or_default() + 1, Ordering::Relaxed);
        if recovery::is_partial(&name) {
            let outcome = recovery::recover(shared, &shared.directory.join(&name), key)?;
            recovered.push((name, outcome));
        }
    }
    Ok(recovered)
}

/// Deletes a segment of which the manifest says that it is deleted.
fn remove(shared: &Shared, file: &str) {
    for name in [manifest::index_name(file), file.to_owned()] {
        // What is not there need not go; what cannot go now is tried again at the next start.
        let _ = fs::remove_file(shared.directory.join(name));
    }
}

/// What is done beside the workers: segments that were given up are finished, and old ones deleted.
struct Keeper {
    shared: Arc<Shared>,
    key: Option<StoreKey>,
    retention: Retention,
    /// Of what is uploaded, if anything is to be.
    upload: Option<Arc<upload::State>>,
    losses: Losses,
    /// It was said that what is held, or not uploaded yet, is more than there is to be.
    warned: bool,
}

impl Keeper {
    /// Looks around this often.
    const INTERVAL: Duration = Duration::from_secs(1);

    fn run(mut self, stop: &AtomicBool) {
        loop {
            let stopping = stop.load(Ordering::Acquire);
            self.finish_orphans();
            if let Some(retention) = self.shared.retention.collect() {
                self.retention = retention;
            }
            self.delete_old();
            self.tell_losses(stopping);
            if let Some(upload) = &self.upload {
                upload.count(&self.shared.manifest());
            }
            if stopping {
                return;
            }
            std::thread::park_timeout(Self::INTERVAL);
        }
    }

    fn delete_old(&mut self) {
        if self.retention == Retention::default() {
            return;
        }
        let directory = &self.shared.directory;
        let holds = match hold::read(directory) {
            Ok(holds) => holds,
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::error!(
                        "{}: {error}; nothing is deleted before it can be read",
                        directory.join(hold::FILE_NAME).display()
                    );
                }
                return;
            }
        };
        // Where the kernel does not say, nothing goes for want of space.
        let free = nix::sys::statvfs::statvfs(directory)
            .map_or(u64::MAX, |of| of.blocks_available().saturating_mul(of.fragment_size()));
        let (segments, uploaded) = {
            let manifest = self.shared.manifest();
            (manifest.segments.clone(), self.upload.as_ref().map(|_| manifest.uploaded.clone()))
        };
        let plan = self.retention.plan(&segments, &holds, uploaded.as_ref(), now(), free);
        if let Some(upload) = &self.upload {
            upload.overdue.store(plan.waiting as u64, Ordering::Relaxed);
        }
        for (count, why) in [(plan.held, "are held"), (plan.waiting, "are not uploaded yet")] {
            if count > 0 && !self.warned {
                tracing::warn!("store {}: {count} segments would be deleted, but {why}", directory.display());
            }
        }
        self.warned = plan.held + plan.waiting > 0;
        for (file, reason) in plan.delete {
            tracing::info!("store {}: {file} is deleted: {reason}", directory.display());
            let event = manifest::Event::Deleted { file: file.clone(), reason };
            if let Err(error) = self.shared.manifest().append(event) {
                // What the manifest does not say does not happen, but for a full disk: there has to be room
                // for a line before there can be more.
                tracing::error!("store {}: cannot delete: {error}", directory.display());
                return;
            }
            remove(&self.shared, &file);
        }
    }

    fn tell_losses(&mut self, last: bool) {
        let event = self.losses.look(self.shared.lost(), now(), last);
        // Where the disk takes nothing, it is told once it does.
        if event.is_some_and(|event| self.shared.manifest().append(event).is_ok()) {
            self.losses.told();
        }
    }

    fn finish_orphans(&self) {
        let count = self.shared.orphans().len();
        for _ in 0..count {
            let Some(path) = self.shared.orphans().pop_front() else { return };
            match recovery::recover(&self.shared, &path, self.key.as_ref()) {
                Ok(outcome) => tracing::info!("{}: {outcome}", path.display()),
                // The disk is full still, perhaps.
                Err(_) if path.exists() => self.shared.orphan(path),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
