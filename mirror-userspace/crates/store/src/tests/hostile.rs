//! Hostile contents of a store: nothing outside its directory changes, nothing blocks for ever, and each
//! entry that is not the store's is refused by its name.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;
use std::time::SystemTime;

use mirror_packet::text::hex;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::buffer::Buffer;
use super::super::chunk::{FlowRef, Summary};
use super::super::index::{self, Builder, Index};
use super::super::manifest::Contents;
use super::super::remote::RemoteReader;
use super::super::seal::{Sealing, SegmentSeal, Unreadable, open_index};
use super::super::timeline::Timeline;
use super::super::verify::verify_copy;
use super::*;

/// A directory that contains a store and, beside it, files that must not change.
struct Scene {
    root: TempDir,
}

/// The result of [`Scene::files`], computed once.
static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();

/// The visible state of a file: size, mode, modification time, bytes.
type Seen = (u64, u32, SystemTime, Vec<u8>);

impl Scene {
    /// Creates a store with three finished segments and one unfinished one.
    fn new() -> Self {
        // In memory, so that nothing waits for a disk.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let scene = Self { root: root.unwrap() };
        fs::create_dir(scene.outside("")).unwrap();
        fs::write(scene.outside("victim"), b"not to be touched").unwrap();
        fs::create_dir(scene.outside("directory")).unwrap();
        fs::write(scene.outside("directory/file"), b"not to be touched either").unwrap();
        fs::create_dir(scene.store("")).unwrap();
        for (name, bytes) in FILES.get_or_init(Self::files) {
            fs::write(scene.store(name), bytes).unwrap();
        }
        scene
    }

    /// Returns the files of the store.
    fn files() -> Vec<(String, Vec<u8>)> {
        let directory = tempfile::tempdir().unwrap();
        for start in 0..3 {
            store(directory.path(), settings(), None, &[turns(7, 5, 50, start * 1000)]);
        }
        let first = directory.path().join(name(1));
        fs::copy(first, directory.path().join(format!("{}.partial", name(9)))).unwrap();
        let read = |path: PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        };
        files(&directory, "").into_iter().map(read).collect()
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.root.path().join("outside").join(name)
    }

    fn store(&self, name: &str) -> PathBuf {
        self.root.path().join("store").join(name)
    }

    /// Returns the state of all files outside the store.
    fn seen(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        let mut left = vec![self.outside("")];
        while let Some(path) = left.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            let bytes = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            seen.insert(path, (found.size(), found.mode(), found.modified().unwrap(), bytes));
        }
        seen
    }

    /// Uses the store in every way there is. Returns all messages about it.
    fn use_it(&self) -> String {
        let (path, mut said) = (self.store(""), Vec::new());
        let retention = Retention { max_size: Some(4096), ..Retention::default() };
        let wanted = || Wanted { from: 0, to: u64::MAX, expression: Expression::parse("udp").unwrap() };
        let mut read = || match Reader::open(&path, None) {
            Err(error) => said.push(one_line(&error)),
            Ok(mut reader) => {
                if let Err(error) = reader.extract(&wanted(), &mut io::sink(), |_, _, _| {}) {
                    said.push(one_line(&error));
                }
                said.extend(reader.strange().to_vec());
            }
        };
        read();
        let settings = Settings { retention, ..settings() };
        for open in [Store::open, Store::open_or_wait] {
            let opened = match open(&path, settings.clone(), None) {
                Ok(opened) => opened,
                Err(error) => {
                    said.push(one_line(&error));
                    continue;
                }
            };
            said.extend(opened.strange().to_vec());
            said.extend(opened.recovered().iter().map(|(name, outcome)| format!("{name} {outcome}")));
            let log = tempfile::tempdir().unwrap();
            let sink = Sink::open(log.path()).unwrap();
            let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
                .recorder(opened.handle(0, Overflow::Wait).unwrap())
                .build();
            for (info, frame) in turns(7, 5, 50, 9000) {
                worker.frame(&info, &frame);
            }
            worker.finish();
            let counters = worker.counters();
            let stored = worker.recorder().counters();
            let lost: u64 = stored.lost.iter().map(|(_, count)| count).sum();
            assert_eq!((counters.analysed, stored.kept + lost), (50, 50), "analysis goes on");
            let _ = opened.finish();
        }
        match verify(&path, None, |_, _| {}) {
            Ok(report) => {
                said.extend(report.findings.iter().map(|found| format!("{} {}", found.file, found.what)));
            }
            Err(error) => said.push(error.to_string()),
        }
        match hold::read(&path).and_then(|holds| hold::write(&path, &holds)) {
            Ok(()) => {}
            Err(error) => said.push(error.to_string()),
        }
        match Contents::read(&path) {
            Ok(contents) => drop(Timeline::new(&contents, &[], SECOND, None)),
            Err(error) => said.push(error.to_string()),
        }
        said.join("\n")
    }
}

/// Returns the name of segment `number`, as the tests write it.
fn name(number: u64) -> String {
    let seconds = if number == 9 { 2000 } else { (number - 1) * 1000 };
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{number:08}-w0-19700101T{hours:02}{minutes:02}{:02}Z.pcapng", seconds % 60)
}

/// Puts an entry that is not a plain file in the place of a store's file. Returns whether that is possible
/// here.
type Plant = fn(&Scene, &Path) -> bool;

const PLANTS: [(&str, Plant); 10] = [
    ("a link to a file", |scene, at| symlink(scene.outside("victim"), at).is_ok()),
    ("a link by a relative path", |_, at| symlink("../outside/victim", at).is_ok()),
    ("a link to nothing", |scene, at| symlink(scene.outside("made"), at).is_ok()),
    ("a link to a directory", |scene, at| symlink(scene.outside("directory"), at).is_ok()),
    ("a link to itself", |_, at| symlink(at, at).is_ok()),
    ("a hard link", |scene, at| fs::hard_link(scene.outside("victim"), at).is_ok()),
    ("a directory", |_, at| fs::create_dir(at).is_ok()),
    ("a FIFO", |_, at| mkfifo(at, Mode::S_IRWXU).is_ok()),
    ("a socket", |_, at| UnixListener::bind(at).is_ok()),
    ("a device", |_, at| mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok()),
];

#[test]
fn hostile_links_and_special_files_change_nothing_outside_and_are_refused_by_name() {
    let names = [
        manifest::FILE_NAME.to_owned(),
        "lock".to_owned(),
        hold::FILE_NAME.to_owned(),
        "holds.json.new".to_owned(),
        name(1),
        format!("{}.idx", name(1)),
        // The unfinished segment itself, its index, its final name.
        format!("{}.partial", name(9)),
        format!("{}.idx", name(9)),
        name(9),
        format!("{}.damaged", name(9)),
        // A segment that nothing else refers to.
        format!("{}.partial", name(7)),
    ];
    for (what, plant) in PLANTS {
        for name in &names {
            let scene = Scene::new();
            let at = scene.store(name);
            let _ = fs::remove_file(&at);
            if !plant(&scene, &at) {
                // Only root can create devices; the temporary directory's path may be too long for a
                // socket's.
                assert!(matches!(what, "a device" | "a socket"), "{what}");
                continue;
            }
            let before = scene.seen();
            let said = scene.use_it();
            assert_eq!(scene.seen(), before, "{what} as {name}: {said}");
            // Reading a file that has another name is harmless, and to be expected in a copied store.
            let finished = *name == self::name(1) || name.starts_with(&self::name(1));
            // Retention has deleted the entry: only the link itself.
            let deleted = finished && fs::symlink_metadata(&at).is_err();
            // Nothing reads a file that was set aside.
            let harmless = what == "a hard link" && name.ends_with(".damaged");
            assert!(said.contains(name.as_str()) || deleted || harmless, "{what} as {name}: {said}");
            let is_left = |of: fs::Metadata| of.file_type().is_fifo() || of.is_dir() || of.is_symlink();
            if fs::symlink_metadata(&at).is_ok_and(is_left) {
                assert!(said.contains("move it away"), "{what} as {name}: {said}");
            }
        }
    }
}

/// Returns a line of a manifest with any event, in the form that a store writes.
fn line(number: usize, previous: &str, event: &Value) -> (String, String) {
    let fields = event.as_object().unwrap();
    let name = &fields["event"];
    let mut text = format!("{{\"number\":{number},\"time\":0,\"previous\":\"{previous}\",\"event\":{name}");
    // The order in which the fields are written.
    let order = [
        "file",
        "from",
        "to",
        "size",
        "sha256",
        "index_size",
        "index_sha256",
        "packets",
        "bytes",
        "first",
        "last",
        "vnis",
        "reason",
    ];
    for key in order.iter().filter(|key| fields.contains_key(**key)) {
        text.push_str(&[",\"", key, "\":", &fields[*key].to_string()].concat());
    }
    let digest = hex(&Sha256::digest(format!("{text},\"digest\":\"\"}}")));
    (format!("{text},\"digest\":\"{digest}\"}}\n"), digest)
}

/// Returns a manifest of these events, in which each line is valid.
fn manifest_of(events: &[Value]) -> String {
    let mut previous = hex(&Sha256::digest(b""));
    let mut text = String::new();
    for (number, event) in (1..).zip(events) {
        let (line, digest) = line(number, &previous, event);
        text += &line;
        previous = digest;
    }
    text
}

fn segment(file: &str) -> Value {
    let none = hex(&Sha256::digest(b""));
    json!({
        "event": "segment", "file": file, "size": 17, "sha256": none, "index_size": 0, "index_sha256": none,
        "packets": 1, "bytes": 1, "first": 1, "last": 2, "vnis": [7],
    })
}

fn deleted(file: &str) -> Value {
    json!({ "event": "deleted", "file": file, "reason": "old" })
}

fn uploaded(file: &str) -> Value {
    json!({ "event": "uploaded", "file": file, "to": "file:///nowhere" })
}

#[test]
fn hostile_names_in_a_manifest_are_ignored_and_reported_by_line_and_name() {
    let scene = Scene::new();
    let victim = scene.outside("victim").to_str().unwrap().to_owned();
    let mut names = vec![
        victim.clone(),
        victim.trim_end_matches("victim").to_owned(),
        format!("/{victim}"),
        "../outside/victim".to_owned(),
        "../outside".to_owned(),
        "./../outside/victim".to_owned(),
        format!("{}/../../outside/victim", name(1)),
        format!("../outside/{}", name(1)),
        format!("{}\0", name(1)),
        format!("{}\n", name(1)),
        "victim\x1b[2J".to_owned(),
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "lock".to_owned(),
        manifest::FILE_NAME.to_owned(),
        hold::FILE_NAME.to_owned(),
        format!("{}.idx", name(1)),
        format!("{}.partial", name(9)),
        "x".repeat(100_000),
        "18446744073709551615-w0-20260301T080000Z.pcapng".to_owned(),
        "1000000000000000-w0-20260301T080000Z.pcapng".to_owned(),
    ];
    // The index beside the named file must survive, too.
    fs::write(scene.outside("victim.idx"), b"nor this").unwrap();
    names.push(format!("{victim}.idx"));
    let before = scene.seen();
    for hostile in &names {
        let events =
            [segment(&name(2)), segment(hostile), deleted(hostile), uploaded(hostile), deleted(&name(2))];
        let text = manifest_of(&events);
        let contents = Contents::parse(text.as_bytes());
        assert_eq!((contents.lines.len(), contents.wrong.len()), (2, 3), "{hostile:?}: {:?}", contents.wrong);
        assert_eq!(contents.head, contents.heads[4], "the chain goes on");
        fs::write(scene.store(manifest::FILE_NAME), &text).unwrap();
        let said = scene.use_it();
        assert_eq!(scene.seen(), before, "{hostile:?}: {said}");
        for line in 2..=4 {
            let shown = format!("line {line} names {}", names::shown(hostile));
            assert!(said.contains(&shown), "{shown}: {said}");
        }
        assert!(!said.contains(['\x1b', '\0']), "{said}");
        // Files with names of the store's own form are still there, since no segment has such a name.
        assert!(scene.store("lock").exists() && scene.store(manifest::FILE_NAME).exists());
    }
}

#[test]
fn hostile_numbers_and_texts_in_a_manifest_are_bounded() {
    let with = |key: &str, value: Value| {
        let mut event = segment(&name(2));
        event[key] = value;
        event
    };
    let most = json!(u64::MAX);
    let events = [
        with("size", most.clone()),
        with("index_size", most.clone()),
        with("packets", most.clone()),
        with("bytes", most.clone()),
        with("vnis", json!([u32::MAX])),
        with("vnis", json!([8, 7])),
        with("vnis", json!([7, 7])),
        with("sha256", json!("../x")),
        json!({ "event": "deleted", "file": name(2), "reason": "\u{1b}[2J" }),
        json!({ "event": "deleted", "file": name(2), "reason": "x".repeat(10_000) }),
        json!({ "event": "uploaded", "file": name(2), "to": "s3://\n" }),
        json!({ "event": "unheard", "file": name(2) }),
    ];
    for event in events {
        let contents = Contents::parse(manifest_of(&[event.clone(), segment(&name(3))]).as_bytes());
        assert_eq!((contents.lines.len(), contents.wrong.len()), (1, 1), "{event}");
        assert!(contents.wrong[0].refused, "{event}: {:?}", contents.wrong);
    }
    let lost = |packets: u64| json!({ "event": "lost", "from": 1, "to": 2, "packets": packets });
    let contents = Contents::parse(manifest_of(&[lost(5), lost(u64::MAX), lost(7)]).as_bytes());
    assert_eq!((contents.lines.len(), contents.faults), (2, 1), "{:?}", contents.wrong);
    // Only the first line of a segment describes it.
    let twice = [with("packets", json!(1)), with("packets", json!(2)), segment(&name(3))];
    let contents = Contents::parse(manifest_of(&twice).as_bytes());
    assert_eq!((contents.lines.len(), contents.faults), (2, 1));
    assert!(contents.wrong[0].what.contains("an earlier line"), "{:?}", contents.wrong);
    // Of very many faults, the first ones are remembered, and the others counted.
    let contents = Contents::parse(&b"\n".repeat(1_000_000));
    assert_eq!((contents.wrong.len(), contents.faults), (1000, 1_000_000));
    assert_eq!(contents.told().len(), 11);
    // An allowed event may occur as often as there is room.
    let scene = Scene::new();
    let large = |number: u64| {
        let mut event = segment(&format!("{number:08}-w0-unknown.pcapng"));
        for key in ["size", "index_size", "packets", "bytes"] {
            event[key] = json!(1_u64 << 48);
        }
        event
    };
    let events: Vec<_> = (1..=70_000).map(large).collect();
    fs::write(scene.store(manifest::FILE_NAME), manifest_of(&events)).unwrap();
    let contents = Contents::read(&scene.store("")).unwrap();
    assert_eq!(contents.wrong, []);
    let timeline = Timeline::new(&contents, &[], SECOND, None);
    assert_eq!(timeline.spans[0].stored_bytes, u64::MAX);
    let retention = Retention { max_size: Some(1), ..Retention::default() };
    let plan = retention.plan(&contents.segments(), &[], None, 0, (0, 0));
    assert_eq!(plan.delete.len(), 70_000);
    // A line without an end takes no more memory than the longest line.
    let mut text = vec![b'x'; 40 << 20];
    text.push(b'\n');
    text.extend(manifest_of(&[segment(&name(3))]).bytes());
    let contents = Contents::parse(&text);
    assert_eq!((contents.lines.len(), contents.wrong.len(), contents.torn), (1, 1, 0));
}

#[test]
fn hostile_names_of_files_never_have_numbers_begin_anew() {
    let numbers = ["18446744073709551615", "18446744073709551614", "99999999999999999999", "999999999999999"];
    for number in numbers {
        let scene = Scene::new();
        let strange = format!("{number}-w0-20260301T080000Z.pcapng");
        let ends = ["", ".idx", ".partial", ".damaged"];
        for end in ends {
            fs::write(scene.store(&format!("{strange}{end}")), b"").unwrap();
        }
        let opened = Store::open(&scene.store(""), settings(), None).unwrap();
        assert!(opened.strange().iter().any(|line| line.contains(number)), "{:?}", opened.strange());
        let _ = opened.finish();
        store(&scene.store(""), settings(), None, &[turns(7, 5, 50, 9000)]);
        let contents = Contents::read(&scene.store("")).unwrap();
        let numbers: Vec<_> = contents.written().map(|segment| segment.file.number()).collect();
        assert_eq!(numbers, [1, 2, 3, 9, 10]);
        assert_eq!(extract(&scene.store(""), None, "udp").0.len(), 250);
        assert!(findings_in(&scene.store("")).iter().any(|(file, _)| file.contains(number)));
    }
}

fn findings_in(directory: &Path) -> Vec<(String, String)> {
    let report = verify(directory, None, |_, _| {}).unwrap();
    report.findings.into_iter().map(|finding| (finding.file, finding.what)).collect()
}

#[test]
fn hostile_copies_are_read_by_names_of_the_store_alone() {
    let scene = Scene::new();
    let before = scene.seen();
    let url = format!("file://{}", scene.store("").display());
    let copy = || RemoteReader::open(&url.parse().unwrap()).unwrap();
    let victim = "../outside/victim";
    let text = manifest_of(&[segment(victim), uploaded(victim), segment(&name(1)), uploaded(&name(1))]);
    fs::write(scene.store(manifest::FILE_NAME), &text).unwrap();
    let report = verify_copy(&copy(), None, |_, _| {}).unwrap();
    let found = |what: &str| report.findings.iter().any(|finding| finding.what.contains(what));
    assert!(found("line 1 names `../outside/victim`") && found("line 2 names"), "{report:?}");
    for (what, plant) in PLANTS {
        let at = scene.store(&name(1));
        let index = scene.store(&format!("{}.idx", name(1)));
        for at in [&at, &index] {
            let _ = (fs::remove_file(at), fs::remove_dir(at));
            if !plant(&scene, at) {
                fs::write(at, b"").unwrap();
            }
        }
        let wanted = Wanted { from: 0, to: u64::MAX, expression: Expression::parse("udp").unwrap() };
        let read = Reader::open_copy(copy(), None).extract(&wanted, &mut io::sink(), |_, _, _| {});
        assert!(read.unwrap_err().to_string().contains(&name(1)), "{what}");
        let verified = verify_copy(&copy(), None, |_, _| {});
        let report = verified.unwrap();
        assert!(report.findings.iter().any(|found| found.file.contains(&name(1))), "{what}");
    }
    assert_eq!(scene.seen(), before);
}

/// Stores 2,000 packets, makes the first segment an unfinished one, and changes it. Returns the directory and
/// the changed file.
fn unfinished(
    compression: Option<i32>,
    key: Option<StoreKey>,
    change: impl FnOnce(&mut Vec<u8>),
) -> (TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let extension = match (compression, &key) {
        (_, Some(_)) => ".enc",
        (Some(_), None) => ".zst",
        (None, None) => ".pcapng",
    };
    let settings = Settings { compression, segment_size: 64 << 20, ..settings() };
    store(directory.path(), settings, key, &[turns(7, 5, 5000, 0)]);
    let segment = files(&directory, extension).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    change(&mut bytes);
    fs::write(format!("{}.partial", segment.display()), &bytes).unwrap();
    for gone in [segment.clone(), PathBuf::from(format!("{}.idx", segment.display()))] {
        fs::remove_file(gone).unwrap();
    }
    fs::remove_file(directory.path().join(manifest::FILE_NAME)).unwrap();
    (directory, segment, bytes)
}

#[test]
fn hostile_bytes_in_unfinished_segments_cost_no_packet() {
    let forms = [(None, None), (Some(1), None), (None, Some(key()))];
    for (compression, key) in forms {
        let first = if key.is_some() { 4096 } else { 0 };
        let is_plain = compression.is_none() && key.is_none();
        let length = if is_plain { 18 } else { 26 };
        // The header of the first chunk, its length, and the header of the second one.
        for (second, at) in [(false, 0), (false, 8), (false, length), (true, 0), (true, length)] {
            let (directory, segment, bytes) = unfinished(compression, key.clone(), |bytes| {
                let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
                let len = if is_plain { word(16) + 48 } else { word(first + 24) };
                let at = first + at + if second { len } else { 0 };
                bytes[at] ^= 1;
            });
            let opened = Store::open(directory.path(), settings(), key.clone()).unwrap();
            let outcome = opened.recovered()[0].1.clone();
            let _ = opened.finish();
            let damaged = format!("{}.damaged", segment.display());
            assert_eq!(fs::read(damaged).unwrap(), bytes, "{outcome:?}");
            let Recovered::SetAside { packets } = outcome else { panic!("{outcome:?}, {second} {at}") };
            assert_eq!(packets > 0, second, "{packets}");
            assert_eq!(extract(directory.path(), key.clone(), "udp").0.len() as u64, packets);
        }
        // What a killed writer leaves behind is cut off.
        for zeros in [0, 10_000] {
            let (directory, segment, _) = unfinished(compression, key.clone(), |bytes| {
                bytes.truncate(bytes.len() - 4096);
                if zeros > 0 {
                    bytes.truncate(first);
                    bytes.resize(first + zeros, 0);
                }
            });
            let opened = Store::open(directory.path(), settings(), key.clone()).unwrap();
            let outcome = opened.recovered()[0].1.clone();
            let _ = opened.finish();
            assert_eq!(outcome == Recovered::Empty, zeros > 0, "{outcome:?}");
            assert!(!Path::new(&format!("{}.damaged", segment.display())).exists());
        }
    }
    let long = vec![7; 100_000];
    for foreign in [&b"mine"[..], &[0, 0, 1], &long, &[b'x'; 63]] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(format!("{}.partial", name(3))), foreign).unwrap();
        let _ = Store::open(directory.path(), settings(), None).unwrap().finish();
        assert_eq!(fs::read(directory.path().join(format!("{}.damaged", name(3)))).unwrap(), foreign);
    }
}

/// Extracts everything. Returns the number of packets, and what is missing.
fn extract_all(directory: &Path, key: Option<StoreKey>) -> (u64, Option<String>) {
    let mut reader = Reader::open(directory, key).unwrap();
    let wanted = Wanted { from: 0, to: u64::MAX, expression: Expression::parse("").unwrap() };
    reader.extract(&wanted, &mut io::sink(), |_, _, _| {}).unwrap();
    let said = reader.strange().join("\n");
    (reader.effort.packets, reader.is_incomplete().then_some(said))
}

/// Flows of a packet each would fill the memory of whoever builds an index of them.
#[test]
fn hostile_flows_without_number_end_a_segment_and_its_recovery() {
    const FLOWS: u32 = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let frames = (0..FLOWS).map(|number| {
        let frame = Flow::v4(number as u16, 1 + (number >> 16) as u16).udp(&[0; 8]);
        (info(7, 5, &frame), frame)
    });
    let large = Settings { segment_size: 64 << 20, ..settings() };
    store(directory.path(), large, None, &[frames.collect()]);
    let segments = files(&directory, ".pcapng");
    // A chunk holds less than 20,000 flows.
    let most = index::MOST + 20_000 * 64;
    for segment in &segments {
        let len = fs::metadata(format!("{}.idx", segment.display())).unwrap().len();
        assert!(len <= most as u64, "{len}");
    }
    assert!(segments.len() >= 2, "{segments:?}");
    assert_eq!(extract_all(directory.path(), None), (u64::from(FLOWS), None));

    // One after the other they are a segment that no writer leaves behind.
    let other = tempfile::tempdir().unwrap();
    let partial = other.path().join(format!("{}.partial", name(1)));
    let bytes: Vec<u8> = segments.iter().flat_map(|segment| fs::read(segment).unwrap()).collect();
    fs::write(&partial, &bytes).unwrap();
    fs::write(other.path().join(manifest::FILE_NAME), b"").unwrap();
    let (read, said) = extract_all(other.path(), None);
    assert!(0 < read && read < u64::from(FLOWS) && said.unwrap().contains(&name(1)), "{read}");
    let opened = Store::open(other.path(), settings(), None).unwrap();
    let outcome = opened.recovered()[0].1.clone();
    let _ = opened.finish();
    assert_eq!(outcome, Recovered::SetAside { packets: read });
    assert_eq!(fs::read(other.path().join(format!("{}.damaged", name(1)))).unwrap(), bytes);
    assert_eq!(extract_all(other.path(), None), (read, None));
}

#[test]
fn hostile_gaps_in_a_store_are_told_by_an_extract() {
    let scene = Scene::new();
    fs::remove_file(scene.store(&format!("{}.partial", name(9)))).unwrap();
    let manifest = scene.store(manifest::FILE_NAME);
    let text = fs::read_to_string(&manifest).unwrap();
    let all = || extract_all(&scene.store(""), None);
    assert_eq!(all(), (150, None));
    let told = |expected: u64, what: &str| {
        let (packets, said) = all();
        assert_eq!(packets, expected, "{said:?}");
        assert!(said.as_ref().is_some_and(|said| said.contains(what)), "{what}: {said:?}");
    };
    fs::write(&manifest, text.replacen("\"packets\":50", "\"packets\":51", 1)).unwrap();
    told(100, "line 1 was altered");
    fs::write(&manifest, &text[..text.len() - 3]).unwrap();
    told(100, "its last line is not complete");
    fs::write(&manifest, &text).unwrap();
    let moved = scene.outside("moved");
    fs::rename(scene.store(&name(2)), &moved).unwrap();
    told(100, &name(2));
    fs::rename(&moved, scene.store(&name(2))).unwrap();
    let mut bytes = fs::read(scene.store(&name(1))).unwrap();
    let len = bytes.len();
    bytes.extend_from_within(..);
    bytes[len] ^= 1;
    fs::write(scene.store(&format!("{}.partial", name(9))), bytes).unwrap();
    told(200, "cannot be read");
}

#[test]
fn hostile_indexes_that_no_store_writes_are_refused() {
    let summary = Summary { packets: 1, bytes: 1, first: 0, last: 1 };
    let flow = FlowRef::other(0, &[]);
    let plain = pcapng::Interface { mirror: None };
    let encoded = |chunks: &[(u64, u32)]| {
        let mut builder = Builder::default();
        for &(offset, len) in chunks {
            builder.add_parts(&summary, &[plain], &[flow], offset, len);
        }
        builder.encode()
    };
    assert!(Index::parse(encoded(&[(0, 4096), (4096, 8192)]), 12_288).is_ok());
    for chunks in [
        &[(0, 4096), (0, 4096)][..],
        &[(0, 8192), (4096, 4096)],
        &[(4096, 4096), (0, 4096)],
        &[(8192, 8192)],
        &[(u64::MAX, 4096)],
        &[(1 << 63, 4096)],
    ] {
        assert!(Index::parse(encoded(chunks), 12_288).is_err(), "{chunks:?}");
    }
    // Postings that several flows share, or none has.
    let good = encoded(&[(0, 4096), (4096, 4096)]);
    let postings = good.len() - 4 - 2 * 4;
    for (at, value) in [(postings - 8, 1_u32), (postings - 4, 1), (postings - 4, 3), (postings - 4, u32::MAX)]
    {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        assert!(Index::parse(bytes, 12_288).is_err(), "{value} at {at}");
    }
}

#[test]
fn hostile_overlaps_of_times_cost_time_instead_of_memory() {
    let directory = tempfile::tempdir().unwrap();
    let workers: Vec<_> = (7..10).map(|vni| turns(vni, 5, 40, 0)).collect();
    store(directory.path(), settings(), None, &workers);
    let read = |most: Option<usize>| {
        let mut reader = Reader::open(directory.path(), None).unwrap();
        reader.most_loaded = most.unwrap_or(reader.most_loaded);
        extract_by(reader, "udp")
    };
    let (expected, effort) = read(None);
    assert_eq!((expected.len(), effort.chunks_read), (120, 3));
    let (found, effort) = read(Some(1));
    assert!(effort.chunks_read > 3);
    let sorted = |mut found: Vec<(u64, Vec<u8>)>| {
        assert!(found.is_sorted_by_key(|(time, _)| *time));
        found.sort();
        found
    };
    assert_eq!((effort.packets, sorted(found)), (120, sorted(expected)));
}

#[test]
fn hostile_numbers_of_segments_do_not_use_up_the_open_files() {
    let scene = Scene::new();
    let (bytes, index) =
        (fs::read(scene.store(&name(1))), fs::read(scene.store(&format!("{}.idx", name(1)))));
    let (bytes, index) = (bytes.unwrap(), index.unwrap());
    let mut events = Vec::new();
    for number in 1..=300 {
        let name = format!("{:08}-w0-unknown.pcapng", 100 + number);
        fs::write(scene.store(&name), &bytes).unwrap();
        fs::write(scene.store(&format!("{name}.idx")), &index).unwrap();
        let mut event = segment(&name);
        (event["size"], event["index_size"]) = (json!(bytes.len()), json!(index.len()));
        event["last"] = json!(u64::MAX);
        events.push(event);
    }
    fs::write(scene.store(manifest::FILE_NAME), manifest_of(&events)).unwrap();
    let mut reader = Reader::open(&scene.store(""), None).unwrap();
    let wanted = Wanted { from: 0, to: u64::MAX, expression: Expression::parse("").unwrap() };
    let mut most = 0;
    let count = |_: usize, _: usize, _: &reader::Effort| {
        let open = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let target = fs::read_link(entry.as_ref().unwrap().path());
            target.is_ok_and(|target| target.starts_with(scene.root.path()))
        });
        most = most.max(open.count());
    };
    reader.extract(&wanted, &mut io::sink(), count).unwrap();
    // The unfinished segment has 50 packets, too.
    assert_eq!(reader.effort.packets, 301 * 50);
    assert!((200..=258).contains(&most), "{most}");
}

#[test]
fn hostile_chunks_and_indexes_do_not_replace_encrypted_ones() {
    let mut sealing = Sealing::new(None, Some(key())).unwrap();
    let (mut seal, _) = sealing.begin().unwrap();
    let stored: Vec<Vec<u8>> = (0..2)
        .map(|number| {
            let mut section = Buffer::new(1 << 20);
            section.push(&[number; 100]);
            sealing.seal(&mut seal, &mut section);
            section.as_slice().to_vec()
        })
        .collect();
    assert_eq!((seal.open(&stored[0], 0), seal.open(&stored[1], 1)), (Ok(vec![0; 100]), Ok(vec![1; 100])));
    let damaged = Err(Unreadable::Damaged);
    assert_eq!((seal.open(&stored[0], 1), seal.open(&stored[1], 0)), (damaged.clone(), damaged.clone()));
    let mut plain = stored[0].clone();
    plain[12] &= !2;
    assert_eq!(seal.open(&plain, 0), damaged);
    let scene = Scene::new();
    let section = fs::read(scene.store(&name(1))).unwrap();
    assert_eq!(SegmentSeal::none().open(&section, 0), Ok(section.clone()));
    assert_eq!(seal.open(&section, 0), damaged);
    let index = seal.seal_index(vec![7; 50]);
    let named = |extension: &str| SegmentName::parse(&name(1).replace(".pcapng", extension)).unwrap();
    assert_eq!(open_index(index.clone(), &named(".pcapng.enc"), Some(&key())), Ok(vec![7; 50]));
    assert_eq!(open_index(index, &named(".pcapng"), Some(&key())), damaged);
    assert_eq!(open_index(vec![7; 50], &named(".pcapng.enc"), Some(&key())), damaged);
}

#[test]
fn hostile_times_are_neither_wrapped_nor_left_out() {
    let wanted = |from, to| Wanted { from, to, expression: Expression::parse("").unwrap() };
    assert!(wanted(0, u64::MAX).overlaps(u64::MAX, u64::MAX));
    assert!(!wanted(0, u64::MAX - 1).overlaps(u64::MAX - 1, u64::MAX));
    assert!(wanted(5, 10).overlaps(0, 5) && wanted(5, 10).overlaps(9, 20));
    assert!(!wanted(5, 10).overlaps(0, 4) && !wanted(5, 10).overlaps(10, 20));
}
