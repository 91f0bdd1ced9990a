//! The keeper: the thread that maintains a store. It opens the store, finishes the segments that others left
//! unfinished, deletes expired segments, and notices when the directory is gone.
//!
//! The thread is confined before it touches anything in the directory.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mirror_base::one_line;

use super::directory::Permissions;
use super::home::{self, Home};
use super::losses::Losses;
use super::manifest::{Contents, Event, Manifest};
use super::names::{FileName, SegmentName, has_absurd_number, shown};
use super::recovery::{self, Recovered};
use super::retention::Retention;
use super::seal::StoreKey;
use super::{Shared, StoreError, hold, now, upload};

/// Maximum number of lines of one kind that are reported one by one.
const TOLD: usize = 10;

/// The findings of opening a store.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Segments that were unfinished, and the outcome of each.
    pub(super) recovered: Vec<(SegmentName, Recovered)>,
    /// Foreign entries that were left alone, one line each.
    pub(super) strange: Vec<String>,
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Option<StoreKey>,
    pub(super) permissions: Permissions,
    pub(super) retention: Retention,
    /// The state of the upload, if the store is uploaded.
    pub(super) upload: Option<Arc<upload::State>>,
    losses: Losses,
    /// A warning was already logged: segments beyond the limits are held or not uploaded yet, or the holds
    /// cannot be read.
    warned: bool,
    /// The reasons why segments could not be finished, as they were logged last.
    unfinished: BTreeMap<SegmentName, String>,
    /// The device of the directory, once it was opened.
    device: Option<u64>,
    /// The previous home, as long as a thread still writes to it.
    left: Option<Arc<Home>>,
    /// The reason why the store could not be opened, as it was logged last.
    said: String,
}

impl Keeper {
    /// Interval of the maintenance.
    const INTERVAL: Duration = Duration::from_secs(1);

    pub(super) fn new(
        shared: Arc<Shared>,
        key: Option<StoreKey>,
        permissions: Permissions,
        retention: Retention,
        upload: Option<Arc<upload::State>>,
    ) -> Self {
        Self {
            shared,
            key,
            permissions,
            retention,
            upload,
            losses: Losses::new(now()),
            warned: false,
            unfinished: BTreeMap::new(),
            device: None,
            left: None,
            said: String::new(),
        }
    }

    pub(super) fn run(mut self, stop: &AtomicBool) {
        loop {
            let stopping = stop.load(Ordering::Acquire);
            if let Some(retention) = self.shared.retention.collect() {
                self.retention = retention;
            }
            self.look_after(stopping);
            // Deleting comes first, since finishing segments needs room.
            self.delete_old();
            for (name, outcome) in self.finish_orphans() {
                self.tell(&name, &outcome);
            }
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

    fn tell(&self, name: &SegmentName, outcome: &Recovered) {
        let path = self.shared.path.join(FileName::Partial(name.clone()).to_string());
        if matches!(outcome, Recovered::NotYet(_)) {
            tracing::error!("{}: {outcome}", path.display());
        } else {
            tracing::warn!("{}: {outcome}", path.display());
        }
    }

    /// Opens the store: deletes expired segments to make room, then finishes unfinished ones.
    pub(super) fn open(&mut self) -> Result<Opened, StoreError> {
        let path = &self.shared.path;
        let error = |source| StoreError::Directory { path: path.clone(), source };
        if let Some(device) = self.device
            && !path.exists()
        {
            home::make_anew(path, self.permissions, device).map_err(error)?;
        }
        let home = Home::open(path, self.permissions)?;
        if self.device.is_some_and(|device| device != home.directory.device()) {
            return Err(error(home::other_device()));
        }
        let (manifest, contents) = Manifest::open(&home.directory).map_err(error)?;
        let names = home.directory.list().map_err(error)?;
        let mut opened = Opened::default();
        let files: HashSet<FileName> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        opened.strange.extend(contents.told());
        if contents.torn > 0 {
            let what = format!("the manifest's last line was not complete: {} bytes cut off", contents.torn);
            opened.strange.push(what);
        }
        let absurd = names.iter().filter(|name| has_absurd_number(name));
        opened.strange.extend(
            absurd.map(|name| format!("{} has a number that no segment has; it is ignored", shown(name))),
        );
        opened.strange.extend(self.count_numbers(&contents, &files));
        for name in deleted(&contents) {
            // The process that wrote the line may have stopped before it deleted the files.
            if [FileName::Index(name.clone()), FileName::Segment(name.clone())]
                .iter()
                .any(|file| files.contains(file))
            {
                remove(&home, name);
            }
        }
        let mut partials: Vec<SegmentName> = files
            .into_iter()
            .filter_map(|file| match file {
                FileName::Partial(name) => Some(name),
                _ => None,
            })
            .collect();
        partials.sort_unstable();
        self.unfinished.clear();
        self.device = Some(home.directory.device());
        self.shared.open(home, manifest, partials);
        self.delete_old();
        opened.recovered = self.finish_orphans();
        Ok(opened)
    }

    /// Records the segment numbers in use. A number is used only once, also where its segment came to
    /// nothing. Returns the numbers that no store can have reached: continuing after one of them would
    /// exhaust the numbers.
    fn count_numbers(&self, contents: &Contents, files: &HashSet<FileName>) -> Vec<String> {
        /// No store deletes so many segments without a line in the manifest.
        const FARTHEST: u64 = 1_000_000_000;
        let mut latest = self.shared.next_segment.load(Ordering::Relaxed).saturating_sub(1);
        let mut strange = Vec::new();
        let mut count = |name: &SegmentName, place: &str| {
            if name.number() > latest + FARTHEST {
                strange.push(format!(
                    "{place}{name} has a number far beyond all others; the next segment gets a smaller one"
                ));
            } else {
                latest = latest.max(name.number());
            }
        };
        for segment in contents.written() {
            count(&segment.file, "the manifest's ");
        }
        let mut files: Vec<&SegmentName> = files.iter().filter_map(FileName::segment).collect();
        files.sort_unstable();
        files.dedup();
        for name in files {
            count(name, "");
        }
        self.shared.next_segment.fetch_max(latest + 1, Ordering::Relaxed);
        strange.truncate(TOLD);
        strange
    }

    /// Logs that the store could not be opened, and that the keeper tries again.
    pub(super) fn not_opened(&mut self, error: &StoreError) {
        let denied = matches!(error, StoreError::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
        let hint = if denied {
            " (the process is confined to the directory that it started with; restart mirror-xdp to use another one)"
        } else {
            ""
        };
        let text = one_line(error) + hint;
        if text != self.said {
            tracing::error!(
                "{text}; packets are not kept until it can be opened, which is retried every second; analysis continues"
            );
            self.said = text;
        }
    }

    /// Notices that the store's home is gone, and looks for that home or another.
    fn look_after(&mut self, stopping: bool) {
        if let Some(home) = self.shared.home() {
            if home.is_there(&self.shared.manifest()) {
                return;
            }
            self.shared.close(&home);
            tracing::error!(
                "store {}: its directory, or the manifest or the lock in it, was removed, renamed or unmounted; \
                 packets are lost until it is back; analysis continues",
                self.shared.path.display()
            );
            self.left = Some(home);
        }
        // Threads that write to the old home give it up within a moment.
        if stopping || self.left.as_ref().is_some_and(|left| Arc::strong_count(left) > 1) {
            return;
        }
        self.left = None;
        match self.open() {
            Ok(opened) => {
                for strange in &opened.strange {
                    tracing::warn!("store {}: {strange}", self.shared.path.display());
                }
                for (name, outcome) in &opened.recovered {
                    self.tell(name, outcome);
                }
                self.said.clear();
                tracing::warn!("store {}: it is open; packets are kept", self.shared.path.display());
            }
            Err(error) => self.not_opened(&error),
        }
    }

    fn delete_old(&mut self) {
        if self.retention == Retention::default() {
            return;
        }
        let Some(home) = self.shared.home() else { return };
        let directory = &home.directory;
        let holds = match hold::read_in(directory) {
            Ok(holds) => holds,
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::error!(
                        "{}: {error}; nothing is deleted before it can be read",
                        directory.named(&FileName::Holds).display()
                    );
                }
                return;
            }
        };
        // If the kernel does not report the free space, nothing is deleted for lack of it.
        let free = directory.free().unwrap_or(u64::MAX);
        let left_over = |name: &SegmentName| directory.size(&FileName::Partial(name.clone())).ok().flatten();
        let unfinished = self.shared.orphans().iter().filter_map(left_over).fold(0, u64::saturating_add);
        let (segments, uploaded) = {
            let manifest = self.shared.manifest();
            (manifest.segments.clone(), self.upload.as_ref().map(|_| manifest.uploaded.clone()))
        };
        let plan = self.retention.plan(&segments, &holds, uploaded.as_ref(), now(), (unfinished, free));
        if let Some(upload) = &self.upload {
            upload.overdue.store(plan.waiting as u64, Ordering::Relaxed);
        }
        let shown = directory.path().display();
        for (count, why) in [(plan.held, "are held"), (plan.waiting, "are not uploaded yet")] {
            if count > 0 && !self.warned {
                tracing::warn!("store {shown}: {count} segments would be deleted, but {why}");
            }
        }
        self.warned = plan.held + plan.waiting > 0;
        for (name, reason) in plan.delete {
            tracing::info!("store {shown}: {name} is deleted: {reason}");
            if let Err(error) = self.delete(&home, &name, reason) {
                // The keeper deletes only what the manifest records.
                tracing::error!("store {shown}: cannot delete: {error}");
                return;
            }
        }
    }

    /// Deletes a segment, after its line is in the manifest.
    fn delete(&self, home: &Home, name: &SegmentName, reason: String) -> io::Result<()> {
        let event = Event::Deleted { file: name.clone(), reason };
        let mut result = self.shared.manifest().append(event.clone());
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            // The disk has no room for the line. The index can be built again from the segment, which stays.
            home.directory.remove(&FileName::Index(name.clone()))?;
            home.directory.sync()?;
            result = self.shared.manifest().append(event);
        }
        result?;
        remove(home, name);
        Ok(())
    }

    fn tell_losses(&mut self, last: bool) {
        let event = self.losses.look(self.shared.lost(), now(), last);
        // If writing fails, the losses are recorded once it succeeds.
        if event.is_some_and(|event| self.shared.manifest().append(event).is_ok()) {
            self.losses.told();
        }
    }

    /// Finishes segments that are left over. Returns the outcomes that are new.
    fn finish_orphans(&mut self) -> Vec<(SegmentName, Recovered)> {
        let Some(home) = self.shared.home() else { return Vec::new() };
        let count = self.shared.orphans().len();
        let mut news = Vec::new();
        for _ in 0..count {
            let Some(name) = self.shared.orphans().pop_front() else { break };
            let outcome = match recovery::recover(&self.shared, &home, &name, self.key.as_ref()) {
                Ok(outcome) => {
                    self.unfinished.remove(&name);
                    outcome
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    // The disk may still be full, and a foreign entry may go away.
                    self.shared.orphan(name.clone());
                    let why = error.to_string();
                    if self.unfinished.insert(name.clone(), why.clone()).as_ref() == Some(&why) {
                        continue;
                    }
                    Recovered::NotYet(why)
                }
            };
            news.push((name, outcome));
        }
        news
    }
}

/// Returns the segments that the manifest lists as deleted.
fn deleted(contents: &Contents) -> impl Iterator<Item = &SegmentName> {
    contents.lines.iter().filter_map(|line| match &line.event {
        Event::Deleted { file, .. } => Some(file),
        _ => None,
    })
}

/// Deletes the files of a segment that the manifest lists as deleted.
fn remove(home: &Home, name: &SegmentName) {
    for file in [FileName::Index(name.clone()), FileName::Segment(name.clone())] {
        // Files that cannot be deleted now are tried again at the next start.
        let _ = home.directory.remove(&file);
    }
}
