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
mod pcapng;
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
    /// Who may do what with the files of the store.
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

impl StoreError {
    /// Whether it is for a user to correct, and not for the disk to get well again.
    fn is_mistake(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotADirectory, PermissionDenied};
        match self {
            // What somebody has put there shall not keep the capture from starting.
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

/// Why nothing is kept just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// It is.
    No,
    /// The disk takes nothing.
    Failed,
    /// The store's directory is not there any more.
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
    /// Written to where they are not found any more.
    lost_gone: AtomicU64,
    /// Those of a worker that there was no memory or no disk for.
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

/// What all threads of a store share.
#[derive(Debug)]
struct Shared {
    /// Where its directory is to be.
    path: PathBuf,
    /// `None` while the store is not open.
    home: Mutex<Option<Arc<Home>>>,
    /// Why the store is not open, see [`Pause`].
    pause: AtomicU8,
    manifest: Mutex<Manifest>,
    next_segment: AtomicU64,
    /// Segments that were given up, to be finished.
    orphans: Mutex<VecDeque<SegmentName>>,
    /// Those of all workers there were.
    counters: Mutex<Vec<Arc<Counters>>>,
    /// The last write failed.
    failing: AtomicBool,
    /// Where each worker's end finds what is kept from now on, and the keeper for how long.
    policies: Mutex<Vec<Arc<Slot<Arc<Policy>>>>>,
    retention: Slot<Retention>,
}

/// Locks what the threads of a store share.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked had not changed it yet, or had changed it wholly.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Of a store that is not open yet.
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

    /// Where files are written, while the store is open.
    fn home(&self) -> Option<Arc<Home>> {
        lock(&self.home).clone()
    }

    /// Why nothing can be written, whoever tries.
    fn pause(&self) -> Pause {
        Pause::load(&self.pause)
    }

    /// Has files written to a home, in which these segments are left over.
    fn open(&self, home: Home, manifest: Manifest, left_over: Vec<SegmentName>) {
        *self.orphans() = left_over.into();
        *self.manifest() = manifest;
        *lock(&self.home) = Some(Arc::new(home));
        Pause::No.store(&self.pause);
    }

    /// Has nothing written any more, since the home is gone.
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

    /// Packets that were to be kept, and were lost for want of memory or disk.
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

    /// Raises the alarm, once.
    fn failed(&self, error: &io::Error) {
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "store {}: cannot write: {error}; packets are not kept until it can again, analysis goes on",
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

/// Nanoseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Makes the directory of a store where it is missing, with those above it.
pub fn make_directory(path: &Path, permissions: Permissions) -> Result<(), StoreError> {
    directory::make(path, permissions)
        .map_err(|source| StoreError::Directory { path: path.to_owned(), source })
}

/// Makes sure that a directory is a store: it has a manifest.
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

/// What a store that cannot be opened at the start is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unopened {
    /// Nothing.
    Fails,
    /// It is opened later, where that is not up to a user.
    Waits,
}

impl Store {
    /// Opens a store, making its directory where it is missing. What an earlier writer left unfinished is
    /// finished, see [`Store::recovered`]. With a key, the segments are encrypted.
    pub fn open(directory: &Path, settings: Settings, key: Option<StoreKey>) -> Result<Self, StoreError> {
        Self::begin(directory, settings, key, Unopened::Fails)
    }

    /// As [`Store::open`], for a capture: where the disk is full or fails, or something in the directory is not
    /// the store's, it is tried again every second. Packets are lost to the store until then, and counted.
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
        // Confined before anything in the directory is looked at.
        let keeper =
            sandbox::spawn("store".to_owned(), Kind::Store, || (), keep).map_err(StoreError::Thread)?;
        let opened =
            told.recv().unwrap_or_else(|_| Err(StoreError::Thread(io::Error::other("it has panicked"))));
        let Opened { recovered, strange } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // With it, the lock goes.
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

    /// What was found unfinished when the store was opened, and what became of it.
    #[must_use]
    pub fn recovered(&self) -> &[(String, Recovered)] {
        &self.recovered
    }

    /// What was found when the store was opened that no store has written, and that was left alone; a line each.
    #[must_use]
    pub fn strange(&self) -> &[String] {
        &self.strange
    }

    /// Whether it can be written to: its directory is there, and is the store's.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.pause() == Pause::No
    }

    /// Goes on with another policy and retention, within a second. Does not wait.
    pub fn set(&self, policy: &Policy, retention: &Retention) {
        let policy = Arc::new(policy.clone());
        for handle in self.shared.policies().iter() {
            handle.leave(Arc::clone(&policy));
        }
        self.shared.retention.leave(retention.clone());
        if let Some(keeper) = &self.keeper {
            // Also where it waits to look again for a directory that is gone.
            keeper.thread().unpark();
        }
    }

    /// Where it is read what was uploaded, if anything is to be.
    #[must_use]
    pub fn upload(&self) -> Option<UploadWatch> {
        self.uploader.as_ref().map(|uploader| UploadWatch(Arc::clone(&uploader.state)))
    }

    /// The rules whose frames are kept, for the program of one interface to tell their identifiers; `None`
    /// where rules do not matter.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<mirror_rules::KeptRules>> {
        self.policy.rules.clone().map(|rules| Arc::new(mirror_rules::KeptRules::new(rules)))
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

#[cfg(test)]
mod tests;
