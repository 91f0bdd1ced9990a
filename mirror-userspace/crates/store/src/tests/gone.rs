//! A store whose files or directory others remove while it is written to: packets that can no longer be found
//! are not counted as kept.

use std::time::Instant;

use super::*;

/// A store that is written to, one frame at a time.
struct Live {
    /// The parent of the store's directory.
    root: TempDir,
    store: Store,
    worker: Worker<StoreHandle>,
    _sink: Sink,
    _log: TempDir,
    time: u64,
    sent: u32,
}

impl Live {
    fn start() -> Self {
        let (root, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sink = Sink::open(log.path()).unwrap();
        let store = Store::open_or_wait(&root.path().join("store"), settings(), None).unwrap();
        let worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
            .recorder(store.handle(0, Overflow::Lose).unwrap())
            .build();
        Self { root, store, worker, _sink: sink, _log: log, time: 1000, sent: 0 }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// Sends a frame, and waits until it is written.
    fn send(&mut self) {
        let frame = frame(1, self.sent);
        self.worker.frame(&info(7, self.time, &frame), &frame);
        (self.sent, self.time) = (self.sent + 1, self.time + 2);
        self.worker.tick(self.time * SECOND);
    }

    fn counters(&self) -> StoreCounters {
        self.worker.recorder().counters()
    }

    fn lost(&self, reason: &str) -> u64 {
        self.counters().lost.iter().find(|(name, _)| *name == reason).unwrap().1
    }

    /// Sends frames until a condition holds.
    fn send_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}: {:?}", self.counters());
            self.send();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the store. Each frame is accounted for, and each frame that is kept is found.
    fn finish(mut self) -> StoreCounters {
        self.worker.finish();
        let counters = self.counters();
        let lost: u64 = counters.lost.iter().map(|(_, count)| count).sum();
        assert_eq!(counters.kept + lost, u64::from(self.sent), "{counters:?}");
        let directory = self.directory();
        let _ = self.store.finish();
        let found = extract(&directory, None, "udp").0.len() as u64;
        assert_eq!(found, counters.kept, "{counters:?}");
        counters
    }
}

#[test]
fn what_was_written_to_a_directory_that_was_removed_is_lost_and_it_is_made_anew() {
    let mut live = Live::start();
    live.send_until("packets are kept", |live| live.counters().kept > 5);
    fs::remove_dir_all(live.directory()).unwrap();
    live.send_until("it is noticed", |live| live.lost("directory_gone") > 5);
    live.send_until("packets are kept again", |live| live.counters().kept > 0 && live.store.is_open());
    let found = fs::metadata(live.directory()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777, 0o750);
    let counters = live.finish();
    assert!(counters.kept > 0, "{counters:?}");
}

#[test]
fn what_is_written_to_a_directory_that_was_renamed_is_lost_until_there_is_one_again() {
    let mut live = Live::start();
    live.send_until("packets are kept", |live| live.counters().kept > 5);
    fs::rename(live.directory(), live.root.path().join("elsewhere")).unwrap();
    fs::create_dir(live.directory()).unwrap();
    live.send_until("it is noticed", |live| live.lost("directory_gone") > 5);
    live.send_until("packets are kept again", |live| live.counters().kept > 0 && live.store.is_open());
    live.finish();
}

#[test]
fn a_segment_that_was_removed_while_it_was_written_is_lost_and_another_is_begun() {
    let mut live = Live::start();
    live.send_until("packets are kept", |live| live.counters().kept > 5);
    let directory = live.directory();
    let kept = live.counters().kept;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "partial") {
            fs::remove_file(path).unwrap();
        }
    }
    live.send_until("it is noticed", |live| live.lost("directory_gone") >= kept);
    live.send_until("packets are kept again", |live| live.counters().kept > 0);
    live.finish();
}

#[test]
fn a_store_whose_manifest_or_lock_was_removed_is_opened_again() {
    for name in [manifest::FILE_NAME, "lock"] {
        let mut live = Live::start();
        live.send_until("packets are kept", |live| live.counters().kept > 5);
        let path = live.directory().join(name);
        fs::remove_file(&path).unwrap();
        live.send_until("there is one again", |_| path.exists());
        live.send_until("packets are kept again", |live| live.store.is_open());
        let before = live.counters().kept;
        live.send_until("packets are kept again", |live| live.counters().kept > before);
        live.finish();
    }
}

#[test]
fn a_store_that_cannot_be_opened_at_the_start_is_opened_once_it_can_be() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    fs::create_dir(&directory).unwrap();
    let strange = directory.join(manifest::FILE_NAME);
    std::os::unix::fs::symlink("/nowhere", &strange).unwrap();
    assert!(Store::open(&directory, settings(), None).is_err());
    let log = tempfile::tempdir().unwrap();
    let sink = Sink::open(log.path()).unwrap();
    let store = Store::open_or_wait(&directory, settings(), None).unwrap();
    assert!(!store.is_open());
    let worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
        .recorder(store.handle(0, Overflow::Lose).unwrap())
        .build();
    let mut live = Live { root, store, worker, _sink: sink, _log: log, time: 1000, sent: 0 };
    live.send();
    assert_eq!(live.lost("paused"), 1);
    fs::remove_file(strange).unwrap();
    live.send_until("packets are kept", |live| live.counters().kept > 0);
    live.finish();
}

#[test]
fn files_and_directories_of_a_store_are_for_their_owner_and_group() {
    use std::os::unix::fs::PermissionsExt as _;
    let modes = |permissions: Permissions| {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("made/store");
        store(&directory, Settings { permissions, ..settings() }, None, &[turns(7, 5, 100, 0)]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let mut modes: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| mode(&entry.unwrap().path())).collect();
        modes.dedup();
        (mode(&directory), modes)
    };
    assert_eq!(modes(Permissions::default()), (0o750, vec![0o640]));
    assert_eq!(modes(Permissions { file: 0o666, directory: 0o777 }), (0o777, vec![0o666]));
    assert_eq!(modes(Permissions { file: 0o600, directory: 0o700 }), (0o700, vec![0o600]));
}
