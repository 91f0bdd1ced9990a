//! Uploads finished segments to an object store, with their indexes and the manifest.
//!
//! A single thread with low priority uploads the segments one after the other, the oldest first. It hashes
//! each file while sending it, reads the object back, and compares both digests with the manifest. Only then
//! does it append a line to the manifest that records the upload. The next start relies on this line, and
//! retention deletes no segment without it. The manifest itself is uploaded before and after the segments, so
//! the manifest there lists everything that is there, and everything that it lists as uploaded is there.
//!
//! No object appears before it is complete: small files are sent by a single request, large ones as a
//! multipart upload, which becomes an object with its last request. An interrupted upload starts anew.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mirror_base::one_line;
use mirror_base::sandbox::{self, Files, Kind};
use mirror_packet::text::hex;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use object_store::{MultipartUpload, ObjectStoreExt as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use super::directory::Directory;
use super::home::Home;
use super::manifest::{self, Contents, Event, Manifest, Segment};
use super::names::{FileName, SegmentName};
use super::remote::{Location, Remote, RemoteError};

/// Increment of the thread's nice value.
const NICE: i32 = 10;
/// Interval of the search for new segments.
const INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the first retry after a failure. It doubles with each further failure, up to `MOST_DELAY`.
const FIRST_DELAY: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1000 });
const MOST_DELAY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 60_000 });
/// Delay before an unreadable segment is tried again; other segments are uploaded in the meantime.
const UNREADABLE_DELAY: Duration = Duration::from_secs(60);
/// Maximum interval between uploads of the manifest while many segments wait.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the uploads that remain when the capture ends; the next start does the rest.
const GRACE: Duration = Duration::from_secs(3);
/// Timeout of a request that aborts a multipart upload or deletes an object.
const ABORT: Duration = Duration::from_secs(1);
/// Size of a part in bytes; larger files are sent in parts. S3 accepts 10,000 parts of at least 5 MiB each.
const PART: u64 = if cfg!(test) { 1 << 19 } else { 8 << 20 };
const MOST_PARTS: u64 = 9000;
/// Maximum number of parts in flight.
const PARTS_AT_ONCE: usize = 4;
/// Variables that name the files with tokens for obtaining credentials.
const TOKEN_FILES: [&str; 2] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];

/// The state of the upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UploadCounters {
    /// URL of the destination.
    pub to: String,
    /// Segments that were uploaded and verified there.
    pub segments: u64,
    /// Bytes of these segments and their indexes.
    pub bytes: u64,
    /// Failed attempts.
    pub failures: u64,
    /// The last attempt failed.
    pub failing: bool,
    /// Finished segments that are not uploaded yet.
    pub waiting: u64,
    /// Bytes of these segments and their indexes.
    pub waiting_bytes: u64,
    /// Waiting segments that would be deleted if they were uploaded.
    pub overdue: u64,
}

/// The thread's counters.
#[derive(Debug, Default)]
pub(super) struct State {
    to: String,
    segments: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    failing: AtomicBool,
    waiting: AtomicU64,
    waiting_bytes: AtomicU64,
    pub(super) overdue: AtomicU64,
}

impl State {
    /// Returns the state for a destination to which nothing was uploaded yet.
    pub(super) fn new(remote: &Remote) -> Self {
        Self { to: remote.url().to_owned(), ..Self::default() }
    }

    pub(super) fn counters(&self) -> UploadCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UploadCounters {
            to: self.to.clone(),
            segments: load(&self.segments),
            bytes: load(&self.bytes),
            failures: load(&self.failures),
            failing: self.failing.load(Ordering::Relaxed),
            waiting: load(&self.waiting),
            waiting_bytes: load(&self.waiting_bytes),
            overdue: load(&self.overdue),
        }
    }

    /// Counts the segments that wait for the upload.
    pub(super) fn count(&self, manifest: &Manifest) {
        let waiting = manifest.segments.iter().filter(|segment| !manifest.uploaded.contains(&segment.file));
        let (count, bytes) = waiting
            .fold((0, 0_u64), |(count, bytes), segment| (count + 1, bytes.saturating_add(segment.stored())));
        self.waiting.store(count, Ordering::Relaxed);
        self.waiting_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// A view of the thread's counters, which remains valid after the store has ended.
#[derive(Clone, Debug)]
pub struct Watch(pub(super) Arc<State>);

impl Watch {
    /// Returns the counters so far.
    #[must_use]
    pub fn counters(&self) -> UploadCounters {
        self.0.counters()
    }
}

/// The reason why something is not uploaded.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The object is not what was sent.
    #[error("{to}: {file} {what}, after it was uploaded")]
    Differs { to: String, file: FileName, what: String },
    #[error("{0}: holds another store's packets; give each store a place of its own")]
    OtherStore(String),
    /// The local file is not what the manifest describes.
    #[error("{file} {what}")]
    Unreadable { file: FileName, what: String },
    #[error("cannot write to the manifest")]
    Manifest(#[source] io::Error),
    #[error("the capture has ended")]
    Stopped,
    #[error("the store is not open")]
    Closed,
}

impl Failure {
    fn unreadable(file: &FileName, error: &io::Error) -> Self {
        Self::Unreadable { file: file.clone(), what: format!("cannot be read: {error}") }
    }
}

/// Returns the files that contain credentials for other hosts.
#[must_use]
pub fn credentials() -> Vec<PathBuf> {
    TOKEN_FILES.iter().filter_map(|name| std::env::var_os(name).map(PathBuf::from)).collect()
}

/// Returns the files that the upload thread of the store in a directory needs.
pub fn needed_files(store: &Path, location: &Location) -> Files {
    Files {
        read: [store.to_owned()].into_iter().chain(credentials()).collect(),
        write: location.directory().map(Path::to_owned).into_iter().collect(),
        ..Files::default()
    }
}

/// The upload thread.
#[derive(Debug)]
pub(super) struct Uploader {
    pub(super) state: Arc<State>,
    stop: watch::Sender<Option<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl Uploader {
    /// Starts to upload a store's segments.
    pub(super) fn start(
        shared: Arc<Shared>,
        remote: Remote,
        location: Option<&Location>,
        state: Arc<State>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(None);
        state.count(&shared.manifest());
        let target = location.and_then(Location::directory).map(Path::to_owned);
        let run = Run {
            shared,
            remote,
            target,
            state: Arc::clone(&state),
            stop: stopped,
            uploaded_head: None,
            home: None,
            unreadable: HashMap::new(),
            said: String::new(),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().thread_name("upload").build()?;
        // In Linux, the nice value is the thread's own. Without it, the thread merely has normal priority.
        let yielding = || {
            let _ = rustix::process::nice(NICE);
        };
        let thread = sandbox::spawn("upload".to_owned(), Kind::Upload, yielding, move || {
            runtime.block_on(run.run());
            runtime.shutdown_background();
        })?;
        Ok(Self { state, stop, thread: Some(thread) })
    }

    /// Ends the thread after a short grace period.
    pub(super) fn stop(&mut self) {
        // Sending fails if the thread has ended.
        let _ = self.stop.send(Some(Instant::now() + GRACE));
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already reported it.
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Run {
    shared: Arc<Shared>,
    remote: Remote,
    /// The destination, if it is a directory.
    target: Option<PathBuf>,
    state: Arc<State>,
    /// The deadline, once the upload has to end.
    stop: watch::Receiver<Option<Instant>>,
    /// Head of the uploaded manifest; `None` until it was read.
    uploaded_head: Option<String>,
    /// The store's home with this manifest.
    home: Option<Weak<Home>>,
    /// Unreadable local segments, and the time of the next attempt.
    unreadable: HashMap<SegmentName, Instant>,
    /// The last failure as it was logged.
    said: String,
}

impl Run {
    async fn run(mut self) {
        let mut delay = FIRST_DELAY;
        let mut before = 0;
        loop {
            let last = self.stop.borrow().is_some();
            let pause = match self.round().await {
                Ok(()) => {
                    self.succeeded();
                    delay = FIRST_DELAY;
                    INTERVAL
                }
                Err(Failure::Stopped) => return,
                // The keeper logs this.
                Err(Failure::Closed) => INTERVAL,
                Err(failure) => {
                    self.failed(&failure);
                    let segments = self.state.segments.load(Ordering::Relaxed);
                    if std::mem::replace(&mut before, segments) != segments {
                        // Some uploads have succeeded in between.
                        delay = FIRST_DELAY;
                    }
                    let pause = delay;
                    delay = (delay * 2).min(MOST_DELAY);
                    pause
                }
            };
            if last {
                return;
            }
            let mut stop = self.stop.clone();
            tokio::select! {
                () = sleep(pause) => {}
                // This also ends when the sender is gone.
                _ = stop.wait_for(Option::is_some) => {}
            }
        }
    }

    /// Uploads all waiting segments.
    async fn round(&mut self) -> Result<(), Failure> {
        let home = self.shared.home().ok_or(Failure::Closed)?;
        let same = self.home.as_ref().is_some_and(|known| known.as_ptr() == Arc::as_ptr(&home));
        if self.uploaded_head.is_none() || !same {
            // Another home has another manifest, which must not replace the uploaded one.
            self.uploaded_head = None;
            self.get_acquainted(&home.directory).await?;
            self.home = Some(Arc::downgrade(&home));
        }
        drop(home);
        loop {
            // The uploaded manifest always lists the uploaded objects, first as finished, then as uploaded.
            let waiting = self.manifest().await?;
            if waiting.is_empty() {
                return Ok(());
            }
            let told = Instant::now();
            for segment in waiting {
                match self.segment(&segment).await {
                    Err(failure @ Failure::Unreadable { .. }) => self.set_aside(segment.file, &failure),
                    result => result?,
                }
                self.state.count(&self.shared.manifest());
                if told.elapsed() >= MANIFEST_INTERVAL {
                    break;
                }
            }
        }
    }

    /// Checks that the copy at the destination is this store's, or that there is none. Removes incomplete
    /// files from a directory.
    async fn get_acquainted(&mut self, directory: &Directory) -> Result<(), Failure> {
        let get = async { Ok(self.remote.get(&FileName::Manifest, manifest::LONGEST).await?) };
        let there = self.unless_stopped(get).await?;
        let head = match there {
            None => String::new(),
            Some(bytes) => {
                let there = Contents::parse(&bytes);
                let here = Contents::read_in(directory)
                    .map_err(|error| Failure::unreadable(&FileName::Manifest, &error))?;
                if !there.heads.is_empty() && !here.heads.contains(&there.head) {
                    return Err(Failure::OtherStore(self.remote.url().to_owned()));
                }
                there.head
            }
        };
        if let Some(target) = &self.target {
            remove_torsos(target);
        }
        self.uploaded_head = Some(head);
        Ok(())
    }

    /// Returns the segments to upload.
    fn waiting(&self, manifest: &Manifest) -> Vec<Segment> {
        let now = Instant::now();
        let waits = |segment: &&Segment| {
            !manifest.uploaded.contains(&segment.file)
                && self.unreadable.get(&segment.file).is_none_or(|again| *again <= now)
        };
        manifest.segments.iter().filter(waits).cloned().collect()
    }

    async fn segment(&self, segment: &Segment) -> Result<(), Failure> {
        // The index comes first, so that a segment is never there without its index.
        self.file(&segment.index_file(), segment.index_size, &segment.index_sha256).await?;
        let name = FileName::Segment(segment.file.clone());
        self.file(&name, segment.size, &segment.sha256).await?;
        let event = Event::Uploaded { file: segment.file.clone(), to: self.remote.url().to_owned() };
        self.shared.manifest().append(event).map_err(Failure::Manifest)?;
        self.state.segments.fetch_add(1, Ordering::Relaxed);
        self.state.bytes.fetch_add(segment.stored(), Ordering::Relaxed);
        Ok(())
    }

    async fn file(&self, name: &FileName, size: u64, digest: &str) -> Result<(), Failure> {
        let file = Arc::new(self.open(name).map_err(|error| Failure::unreadable(name, &error))?);
        let put = if size <= PART {
            self.unless_stopped(self.put(name, &file, size, digest)).await
        } else {
            self.put_parts(name, &file, size, digest).await
        };
        // This process will not read the file again soon; the page cache should hold what others read.
        let _ = posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        put?;
        let compare = async { Ok(self.remote.compare(name, size, digest, |_| ()).await?) };
        let Some(what) = self.unless_stopped(compare).await? else { return Ok(()) };
        // A wrong object must not be taken for the segment. If deleting fails, no manifest lists the object.
        let _ = timeout(ABORT, self.remote.store().delete(&self.remote.path(name))).await;
        Err(Failure::Differs { to: self.remote.url().to_owned(), file: name.clone(), what })
    }

    fn open(&self, name: &FileName) -> io::Result<File> {
        let Some(home) = self.shared.home() else { return Err(io::Error::other("the store is not open")) };
        let open = |name: &FileName| home.directory.read(name);
        let FileName::Segment(segment) = name else { return open(name) };
        // A segment gets its final name a moment after its line.
        open(name).or_else(|_| open(&FileName::Partial(segment.clone()))).or_else(|_| open(name))
    }

    /// Uploads a small file.
    async fn put(&self, name: &FileName, file: &Arc<File>, size: u64, digest: &str) -> Result<(), Failure> {
        let (bytes, hash) = read(name, file, 0..size, Sha256::new()).await?;
        same(name, hash, digest)?;
        let put = self.remote.store().put(&self.remote.path(name), bytes.into()).await;
        put.map_err(|error| self.remote.error(name, &error))?;
        Ok(())
    }

    /// Uploads a large file in parts.
    async fn put_parts(
        &self,
        name: &FileName,
        file: &Arc<File>,
        size: u64,
        digest: &str,
    ) -> Result<(), Failure> {
        let path = self.remote.path(name);
        let begin = async {
            let upload = self.remote.store().put_multipart(&path).await;
            Ok(upload.map_err(|error| self.remote.error(name, &error))?)
        };
        let mut upload = self.unless_stopped(begin).await?;
        let parts = self.parts(&mut *upload, name, file, size, digest);
        let result = self.unless_stopped(parts).await;
        if result.is_err() {
            // If the abort fails, the lifecycle rules of the bucket have to remove the parts.
            let _ = timeout(ABORT, upload.abort()).await;
        }
        result
    }

    async fn parts(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &FileName,
        file: &Arc<File>,
        size: u64,
        digest: &str,
    ) -> Result<(), Failure> {
        let wrong = |error| self.remote.error(name, &error);
        let part = PART.max(size.div_ceil(MOST_PARTS));
        let mut hash = Sha256::new();
        let mut on_their_way = JoinSet::new();
        let mut at = 0;
        while at < size {
            let end = (at + part).min(size);
            let (bytes, hashed) = read(name, file, at..end, hash).await?;
            hash = hashed;
            while on_their_way.len() >= PARTS_AT_ONCE {
                arrived(on_their_way.join_next().await).map_err(wrong)?;
            }
            on_their_way.spawn(upload.put_part(bytes.into()));
            at = end;
        }
        while !on_their_way.is_empty() {
            arrived(on_their_way.join_next().await).map_err(wrong)?;
        }
        same(name, hash, digest)?;
        upload.complete().await.map_err(wrong)?;
        Ok(())
    }

    /// Uploads the manifest if it has changed. Returns the segments in it that are to be uploaded.
    async fn manifest(&mut self) -> Result<Vec<Segment>, Failure> {
        let (bytes, head, waiting) = {
            // The lock is held, since a line that is being written may yet be removed.
            let manifest = self.shared.manifest();
            let waiting = self.waiting(&manifest);
            if self.uploaded_head.as_deref() == Some(manifest.head()) {
                return Ok(waiting);
            }
            let home = self.shared.home().ok_or(Failure::Closed)?;
            let bytes = home.directory.read_whole(&FileName::Manifest, manifest::LONGEST);
            let bytes = bytes.map_err(|error| Failure::unreadable(&FileName::Manifest, &error))?;
            (bytes, manifest.head().to_owned(), waiting)
        };
        let bytes = Bytes::from(bytes);
        let path = self.remote.path(&FileName::Manifest);
        let put = async {
            let put = self.remote.store().put(&path, bytes.clone().into()).await;
            put.map_err(|error| self.remote.error(&FileName::Manifest, &error))?;
            Ok(self.remote.get(&FileName::Manifest, manifest::LONGEST).await?)
        };
        let there = self.unless_stopped(put).await?;
        if there.as_ref() != Some(&bytes) {
            let what = "is not what was sent".to_owned();
            return Err(Failure::Differs {
                to: self.remote.url().to_owned(),
                file: FileName::Manifest,
                what,
            });
        }
        self.uploaded_head = Some(head);
        Ok(waiting)
    }

    /// Runs a future until the deadline.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut stop = self.stop.clone();
        let over = async move {
            let deadline = stop.wait_for(Option::is_some).await.map_or(None, |deadline| *deadline);
            if let Some(deadline) = deadline {
                sleep_until(deadline).await;
            }
        };
        tokio::select! {
            result = work => result,
            () = over => Err(Failure::Stopped),
        }
    }

    /// Skips a segment that cannot be read for a while.
    fn set_aside(&mut self, file: SegmentName, failure: &Failure) {
        self.state.failures.fetch_add(1, Ordering::Relaxed);
        let again = Instant::now() + UNREADABLE_DELAY;
        if self.unreadable.insert(file, again).is_none() {
            tracing::error!(
                "store {}: {}: not uploaded, and not deleted either",
                self.shared.path.display(),
                one_line(failure)
            );
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.state.failures.fetch_add(1, Ordering::Relaxed);
        self.state.failing.store(true, Ordering::Relaxed);
        let text = one_line(failure);
        if text != self.said {
            tracing::error!(
                "store {}: cannot upload: {text}; the upload is retried, and nothing is deleted before it is uploaded",
                self.shared.path.display()
            );
            self.said = text;
        }
    }

    fn succeeded(&mut self) {
        let manifest = self.shared.manifest();
        self.unreadable.retain(|file, _| {
            !manifest.uploaded.contains(file) && manifest.segments.iter().any(|segment| segment.file == *file)
        });
        drop(manifest);
        self.state.failing.store(!self.unreadable.is_empty(), Ordering::Relaxed);
        if !std::mem::take(&mut self.said).is_empty() {
            tracing::warn!("store {}: segments are uploaded again", self.shared.path.display());
        }
    }
}

/// Reads a part of a file and hashes it.
async fn read(
    name: &FileName,
    file: &Arc<File>,
    range: std::ops::Range<u64>,
    mut hash: Sha256,
) -> Result<(Bytes, Sha256), Failure> {
    let file = Arc::clone(file);
    let read = spawn_blocking(move || {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        hash.update(&bytes);
        Ok((Bytes::from(bytes), hash))
    });
    match read.await {
        Ok(result) => result.map_err(|error: io::Error| Failure::unreadable(name, &error)),
        Err(error) => Err(Failure::unreadable(name, &io::Error::other(error))),
    }
}

/// Checks that a file was read as it was written, before its upload is completed.
fn same(name: &FileName, hash: Sha256, digest: &str) -> Result<(), Failure> {
    if hex(&hash.finalize()) == digest {
        return Ok(());
    }
    let what = "was altered: its digest differs from the one in the manifest".to_owned();
    Err(Failure::Unreadable { file: name.clone(), what })
}

/// Returns the result of uploading a part.
fn arrived(
    joined: Option<Result<object_store::Result<()>, tokio::task::JoinError>>,
) -> object_store::Result<()> {
    match joined {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// Removes the incomplete files that a killed process has left in the destination.
fn remove_torsos(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if let Some((file, part)) = name.split_once('#')
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(
                FileName::parse(file),
                Some(FileName::Manifest | FileName::Segment(_) | FileName::Index(_))
            )
        {
            // A file that stays does no harm. Of a symbolic link, the link itself is removed.
            let _ = std::fs::remove_file(directory.join(&name));
        }
    }
}
