//! The packet store: writes packets to the disk and finds them again.
//!
//! Each worker has a [`StoreHandle`], which copies frames into chunks of a megabyte. Two threads per worker
//! write the chunks to the disk, as pcapng segments (`segment`), each with an index (`index`) beside it. The
//! manifest ([`manifest`]), whose lines are chained by hashes, lists each segment that was written or
//! deleted. When the disk is too slow, or writing fails, the store loses packets and counts them; the
//! analysis continues.
//!
//! `docs/store.md` describes the format and its guarantees.

mod buffer;
mod chunk;
#[cfg(any(test, feature = "recorder"))]
pub mod copy;
mod directory;
pub mod expression;
mod handle;
pub mod hold;
mod home;
mod index;
mod keeper;
mod losses;
pub mod manifest;
mod names;
pub mod pcapng;
mod policy;
mod query;
pub mod reader;
#[cfg(any(test, feature = "recorder"))]
mod recorder;
mod recovery;
pub mod remote;
mod retention;
mod ring;
mod seal;
mod segment;
pub mod timeline;
pub mod upload;
pub mod verify;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use mirror_base::sandbox::{self, Kind};
use mirror_base::{Slot, one_line};
use mirror_records::sink::Overflow;

use self::chunk::Chunk;
pub use self::directory::Permissions;
use self::directory::{Directory, Refused};
pub use self::handle::StoreHandle;
use self::home::Home;
use self::keeper::{Keeper, Opened};
use self::manifest::Manifest;
pub use self::names::{FileName, NoSegment, SegmentName};
pub use self::policy::{Kept, Policy};
pub use self::recovery::Recovered;
use self::remote::{Location, Remote, RemoteError};
pub use self::retention::Retention;
pub use self::seal::{KeyError, StoreKey, Unreadable};
use self::segment::{Limits, Sealer, Writer};
use self::upload::Uploader;
pub use self::upload::{UploadCounters, Watch as UploadWatch};

/// The settings of a store that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Size in bytes at which a segment is full.
    pub segment_size: u64,
    /// Age at which a segment is full.
    pub segment_time: Duration,
    /// Bytes of memory in which each worker's packets wait for the disk.
    pub memory: u64,
    /// Selects the frames to keep, and how much of each.
    pub policy: Policy,
    /// zstd compression level; `None` turns compression off.
    pub compression: Option<i32>,
    /// Limits beyond which segments are deleted.
    pub retention: Retention,
    /// Destination of finished segments; retention deletes a segment only after its upload.
    pub upload: Option<Location>,
    /// Modes of the store's files and directories.
    pub permissions: Permissions,
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
            permissions: Permissions::default(),
        }
    }
}

/// An error that keeps a store from being opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is missing and cannot be created, or cannot be written to.
    #[error("cannot write to the store {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process writes to the store.
    #[error("the store {} is written to by another process; give each its own directory", .0.display())]
    InUse(PathBuf),
    /// A thread cannot be started.
    #[error("cannot start a thread of the store")]
    Thread(#[source] io::Error),
    /// The destination of the upload cannot be used.
    #[error("cannot upload")]
    Upload(#[from] RemoteError),
}

impl StoreError {
    /// Returns whether a user has to correct the error; other errors may go away by themselves.
    fn is_mistake(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotADirectory, PermissionDenied};
        match self {
            // A foreign entry in the directory must not keep the capture from starting.
            Self::Directory { source, .. } if Refused::is(source) => false,
            Self::Directory { source, .. } => {
                // `FilesystemLoop` and `InvalidFilename` have no stable names.
                let errno = source.raw_os_error();
                matches!(source.kind(), InvalidInput | NotADirectory | PermissionDenied)
                    || matches!(errno, Some(libc::ELOOP | libc::ENAMETOOLONG))
            }
            Self::InUse(_) | Self::Thread(_) | Self::Upload(_) => true,
        }
    }
}

/// The reason why no packets are kept at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Packets are kept.
    No,
    /// Writing failed, or the store could not be opened.
    Failed,
    /// The store's directory is gone.
    Gone,
}

impl Pause {
    fn load(from: &AtomicU8) -> Self {
        match from.load(Ordering::Acquire) {
            0 => Self::No,
            1 => Self::Failed,
            _ => Self::Gone,
        }
    }

    fn store(self, to: &AtomicU8) {
        to.store(self as u8, Ordering::Release);
    }
}

/// The outcome of a worker's frames in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Packets on the disk.
    pub kept: u64,
    /// Bytes of these packets' frames.
    pub kept_bytes: u64,
    /// Bytes written to segments.
    pub written_bytes: u64,
    /// Finished segments.
    pub segments: u64,
    /// Nothing can be written at present.
    pub paused: bool,
    /// Packets that the settings exclude, by reason.
    pub not_kept: Vec<(&'static str, u64)>,
    /// Lost packets, by reason.
    pub lost: Vec<(&'static str, u64)>,
}

/// The counters that a worker's threads share.
#[derive(Debug, Default)]
struct Counters {
    kept: AtomicU64,
    kept_bytes: AtomicU64,
    written: AtomicU64,
    segments: AtomicU64,
    lost_write: AtomicU64,
    /// Packets written to a file, or a directory, that was removed afterwards.
    lost_gone: AtomicU64,
    /// Packets that the worker itself lost, for lack of memory or disk.
    lost_waiting: AtomicU64,
    /// See [`Pause`].
    pause: AtomicU8,
}

impl Counters {
    fn pause(&self) -> Pause {
        Pause::load(&self.pause)
    }

    fn set_pause(&self, pause: Pause) {
        pause.store(&self.pause);
    }
}

/// The state that all threads of a store share.
#[derive(Debug)]
struct Shared {
    /// The path at which the store's directory belongs.
    path: PathBuf,
    /// `None` while the store is not open.
    home: Mutex<Option<Arc<Home>>>,
    /// The reason why the store is not open, see [`Pause`].
    pause: AtomicU8,
    manifest: Mutex<Manifest>,
    next_segment: AtomicU64,
    /// Unfinished segments that their writers gave up; the keeper finishes them.
    orphans: Mutex<VecDeque<SegmentName>>,
    /// The counters of all workers, past ones included.
    counters: Mutex<Vec<Arc<Counters>>>,
    /// The last write failed.
    failing: AtomicBool,
    /// Slots for a new policy, one per worker, and for a new retention, which the keeper collects.
    policies: Mutex<Vec<Arc<Slot<Arc<Policy>>>>>,
    retention: Slot<Retention>,
}

/// Locks state that the threads of a store share.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked either had not begun its change or had completed it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns the state of a store that is not open yet.
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            home: Mutex::default(),
            pause: AtomicU8::new(Pause::Failed as u8),
            manifest: Mutex::default(),
            next_segment: AtomicU64::new(1),
            orphans: Mutex::default(),
            counters: Mutex::default(),
            failing: AtomicBool::new(false),
            policies: Mutex::default(),
            retention: Slot::default(),
        }
    }

    /// Returns the home that files are written to, while the store is open.
    fn home(&self) -> Option<Arc<Home>> {
        lock(&self.home).clone()
    }

    /// Returns the reason why no worker can write at present.
    fn pause(&self) -> Pause {
        Pause::load(&self.pause)
    }

    /// Opens the store in a home. The home contains the unfinished segments `left_over`.
    fn open(&self, home: Home, manifest: Manifest, left_over: Vec<SegmentName>) {
        *self.orphans() = left_over.into();
        *self.manifest() = manifest;
        *lock(&self.home) = Some(Arc::new(home));
        Pause::No.store(&self.pause);
    }

    /// Closes the store, since its home is gone.
    fn close(&self, home: &Home) {
        Pause::Gone.store(&self.pause);
        for counters in self.counters().iter() {
            counters.set_pause(Pause::Gone);
        }
        home.leave();
        *lock(&self.home) = None;
        self.manifest().close();
        self.orphans().clear();
    }

    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        lock(&self.manifest)
    }

    fn orphans(&self) -> MutexGuard<'_, VecDeque<SegmentName>> {
        lock(&self.orphans)
    }

    fn policies(&self) -> MutexGuard<'_, Vec<Arc<Slot<Arc<Policy>>>>> {
        lock(&self.policies)
    }

    fn counters(&self) -> MutexGuard<'_, Vec<Arc<Counters>>> {
        lock(&self.counters)
    }

    /// Returns the number of packets that were to be kept but were lost for lack of memory or disk.
    fn lost(&self) -> u64 {
        let lost = |counters: &Arc<Counters>| {
            let lost = [&counters.lost_write, &counters.lost_gone, &counters.lost_waiting];
            lost.iter().map(|lost| lost.load(Ordering::Relaxed)).sum::<u64>()
        };
        self.counters().iter().map(lost).sum()
    }

    fn orphan(&self, name: SegmentName) {
        self.orphans().push_back(name);
    }

    /// Logs the first of a series of write errors.
    fn failed(&self, error: &io::Error) {
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "store {}: cannot write: {error}; packets are not kept until writing succeeds; analysis continues",
                self.path.display()
            );
        }
    }

    fn succeeded(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::AcqRel) {
            tracing::warn!("store {}: packets are kept again", self.path.display());
        }
    }
}

/// Returns the current time in nanoseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Creates the directory of a store where it is missing, and its parents.
pub fn make_directory(path: &Path, permissions: Permissions) -> Result<(), StoreError> {
    directory::make(path, permissions)
        .map_err(|source| StoreError::Directory { path: path.to_owned(), source })
}

/// Returns whether a directory is a store, i.e. contains a manifest.
pub fn is_store(path: &Path) -> io::Result<bool> {
    match Directory::open_to_read(path).and_then(|directory| directory.size(&FileName::Manifest)) {
        Ok(size) => Ok(size.is_some()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

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
    strange: Vec<String>,
}

/// The treatment of a store that cannot be opened at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unopened {
    /// [`Store::begin`] fails.
    Fails,
    /// The keeper opens the store later, unless a user has to correct the error.
    Waits,
}

impl Store {
    /// Opens a store, and creates its directory where it is missing. Finishes the segments that an earlier
    /// writer left unfinished, see [`Store::recovered`]. With a key, segments are encrypted.
    pub fn open(directory: &Path, settings: Settings, key: Option<StoreKey>) -> Result<Self, StoreError> {
        Self::begin(directory, settings, key, Unopened::Fails)
    }

    /// Opens a store for a capture, as [`Store::open`] does, but tolerates errors that a user need not
    /// correct. When the disk is full or fails, or the directory contains a foreign entry, the keeper tries
    /// again every second. Until then the store loses packets and counts them.
    pub fn open_or_wait(
        directory: &Path,
        settings: Settings,
        key: Option<StoreKey>,
    ) -> Result<Self, StoreError> {
        Self::begin(directory, settings, key, Unopened::Waits)
    }

    fn begin(
        directory: &Path,
        settings: Settings,
        key: Option<StoreKey>,
        unopened: Unopened,
    ) -> Result<Self, StoreError> {
        let remote = settings.upload.as_ref().map(|location| Remote::open(location, true)).transpose()?;
        Self::begin_with(directory, settings, key, remote, unopened)
    }

    fn begin_with(
        directory: &Path,
        settings: Settings,
        key: Option<StoreKey>,
        remote: Option<Remote>,
        unopened: Unopened,
    ) -> Result<Self, StoreError> {
        let goes_on = move |error: &StoreError| unopened == Unopened::Waits && !error.is_mistake();
        match make_directory(directory, settings.permissions) {
            Ok(()) => {}
            Err(error) if goes_on(&error) => tracing::warn!("{}", one_line(&error)),
            Err(error) => return Err(error),
        }
        let shared = Arc::new(Shared::new(directory));
        let stop = Arc::new(AtomicBool::new(false));
        let upload = remote.as_ref().map(|remote| Arc::new(upload::State::new(remote)));
        let mut keeper = Keeper::new(
            Arc::clone(&shared),
            key.clone(),
            settings.permissions,
            settings.retention.clone(),
            upload.clone(),
        );
        let (seen, policy) = (Arc::clone(&stop), Arc::new(settings.policy.clone()));
        let (tell, told) = sync_channel(1);
        let keep = move || {
            let result = match keeper.open() {
                Err(error) if goes_on(&error) => {
                    keeper.not_opened(&error);
                    Ok(Opened::default())
                }
                result => result,
            };
            let opened = result.is_ok();
            if tell.send(result).is_ok() && opened {
                keeper.run(&seen);
            }
        };
        // The thread is confined before it looks at anything in the directory.
        let keeper =
            sandbox::spawn("store".to_owned(), Kind::Store, || (), keep).map_err(StoreError::Thread)?;
        let opened =
            told.recv().unwrap_or_else(|_| Err(StoreError::Thread(io::Error::other("it has panicked"))));
        let Opened { recovered, strange } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // The end of the thread releases the lock.
                let _ = keeper.join();
                return Err(error);
            }
        };
        let recovered = recovered
            .into_iter()
            .map(|(name, outcome)| (FileName::Partial(name).to_string(), outcome))
            .collect();
        let mut store = Self {
            shared,
            settings,
            key,
            policy,
            stop,
            keeper: Some(keeper),
            uploader: None,
            recovered,
            strange,
        };
        if let (Some(remote), Some(state)) = (remote, upload) {
            let location = store.settings.upload.as_ref();
            let uploader = Uploader::start(Arc::clone(&store.shared), remote, location, state);
            store.uploader = Some(uploader.map_err(StoreError::Thread)?);
        }
        Ok(store)
    }

    /// Returns the segments that were unfinished when the store was opened, and the outcome of each.
    #[must_use]
    pub fn recovered(&self) -> &[(String, Recovered)] {
        &self.recovered
    }

    /// Returns the foreign entries that were found and left alone when the store was opened, one line each.
    #[must_use]
    pub fn strange(&self) -> &[String] {
        &self.strange
    }

    /// Returns whether the store can be written to, i.e. its directory exists and belongs to the store.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.pause() == Pause::No
    }

    /// Replaces policy and retention. The change takes effect within a second; the call does not block.
    pub fn set(&self, policy: &Policy, retention: &Retention) {
        let policy = Arc::new(policy.clone());
        for handle in self.shared.policies().iter() {
            handle.leave(Arc::clone(&policy));
        }
        self.shared.retention.leave(retention.clone());
        if let Some(keeper) = &self.keeper {
            // This also wakes the keeper while it waits to look again for a directory that is gone.
            keeper.thread().unpark();
        }
    }

    /// Returns a view of the upload's progress, if the store is uploaded.
    #[must_use]
    pub fn upload(&self) -> Option<UploadWatch> {
        self.uploader.as_ref().map(|uploader| UploadWatch(Arc::clone(&uploader.state)))
    }

    /// Returns the rules whose frames are kept. The XDP program of one interface adds its identifiers of
    /// them. Returns `None` if the policy does not depend on rules.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<mirror_rules::KeptRules>> {
        self.policy.rules.clone().map(|rules| Arc::new(mirror_rules::KeptRules::new(rules)))
    }

    /// Returns the handle of a new worker, and starts the worker's threads.
    pub fn handle(&self, worker: usize, overflow: Overflow) -> Result<StoreHandle, StoreError> {
        let Settings { segment_size, segment_time, memory, compression, .. } = &self.settings;
        let chunks = (*memory / chunk::MEMORY as u64).max(4) as usize;
        let (home, empty) = sync_channel(chunks);
        for _ in 0..chunks {
            // The channel has room for every chunk.
            let _ = home.try_send(Box::new(Chunk::new()));
        }
        let (full, filled) = sync_channel(chunks);
        // The two threads never have more than all chunks between them.
        let (jobs, written) = sync_channel(chunks + 2);
        let counters = Arc::new(Counters::default());
        counters.set_pause(self.shared.pause());
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
            sandbox::spawn(format!("{name} {worker}"), kind, || (), run).map_err(StoreError::Thread)
        };
        let threads = vec![
            spawn("seal", Kind::Seal, Box::new(move || sealer.run(&filled)))?,
            spawn("write", Kind::Store, Box::new(move || writer.run(&written)))?,
        ];
        let handle = StoreHandle::new(Arc::clone(&self.policy), overflow, (empty, full), counters, threads);
        self.shared.policies().push(Arc::clone(handle.changed()));
        Ok(handle)
    }

    /// Ends the store's own threads; the workers' handles must have ended before. Returns the head of the
    /// manifest. A copy of the head that is stored elsewhere proves later that no line was cut off.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.stop();
        self.shared.manifest().head().to_owned()
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // A keeper that panicked has already reported it.
            let _ = keeper.join();
        }
        // The uploader ends last, after every segment that it can upload.
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

#[cfg(test)]
mod tests;
