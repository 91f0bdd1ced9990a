use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Instant, SystemTime};

use nix::sys::stat::Mode;

use super::*;

/// Lines of 40 bytes, numbered, and their ends.
fn numbered(numbers: std::ops::Range<usize>) -> (Vec<u8>, Vec<(usize, &'static str)>) {
    let text = numbers.clone().flat_map(|number| format!("{number:039}\n").into_bytes()).collect();
    (text, (1..=numbers.len()).map(|line| (line * 40, "flow")).collect())
}

fn write(output: &mut Output, numbers: std::ops::Range<usize>) -> Written {
    let (text, ends) = numbered(numbers);
    output.write(Lines::new(&text, &ends))
}

fn assert_written(output: &mut Output, numbers: std::ops::Range<usize>) {
    let expected = numbers.len();
    let (whole, error) = write(output, numbers);
    assert!(error.is_none() && whole == expected, "{whole} of {expected}, {error:?}");
}

/// Returns the numbers in a file's lines.
fn numbers(path: &Path) -> Vec<usize> {
    fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

/// Returns a log and its rotated files, the oldest first.
fn files(log: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (stamp, number) = name.rsplit_once('-').unwrap_or((&name, ""));
        (path == log, stamp.len() > "eve.json.20261125".len(), stamp.to_owned(), number.len(), name.clone())
    });
    files
}

fn open(destination: Destination) -> Output {
    Output::open(destination, StallPolicy::Short).unwrap()
}

fn rotated(path: &Path, rotation: Rotation) -> Output {
    open(Destination::File { path: path.to_owned(), rotation, modes: Modes::default() })
}

#[test]
fn names_say_where_the_log_goes() {
    let named = |text: &str| {
        Destination::named(Path::new(text), Path::new("/log"), Rotation::default(), Modes::default())
    };
    assert_eq!(named("-"), Destination::Stdout);
    assert_eq!(named("day.json"), Destination::file("/log/day.json"));
    assert_eq!(named("/data/eve.json"), Destination::file("/data/eve.json"));
    let socket = |datagrams| Destination::Socket { path: "/run/eve".into(), datagrams };
    assert_eq!([named("unix-stream:/run/eve"), named("unix-dgram:/run/eve")], [socket(false), socket(true)]);
}

#[test]
fn names_of_kinds_that_there_are_not_are_refused() {
    for name in ["-", "eve.json", "/data/10:00.json", "./udp:1", "a.b:c", "unix-dgram:eve", "..eve"] {
        Destination::check(name).unwrap();
    }
    let long = format!("unix-stream:/{}", "a".repeat(107));
    for (name, expected) in [
        ("foo://host", "`foo:` is no kind"),
        ("unix_stream:/run/eve", "`unix_stream:` is no kind"),
        ("udp:514", "`udp:` is no kind"),
        (":a", "`:` is no kind"),
        ("unix-stream:", "without a path"),
        (&long, "at most 107 bytes, this one has 108"),
        ("", "is not a file name"),
        ("/data/", "is not a file name"),
        ("/data/..", "is not a file name"),
        ("a\0b", "NUL character"),
    ] {
        let wrong = Destination::check(name).unwrap_err().to_string();
        assert!(wrong.contains(expected) && wrong.contains("unix-dgram:PATH"), "{name}: {wrong}");
    }
}

#[test]
fn a_file_is_put_aside_before_it_is_too_large_and_no_line_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("eve.json");
    fs::write(&log, "0\n").unwrap();
    let mut output = rotated(&log, Rotation { size: Some(120), ..Rotation::default() });
    assert_written(&mut output, 1..6);
    assert_written(&mut output, 6..31);
    let mut found: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(found.len() == 11 && found.iter().all(|path| fs::metadata(path).unwrap().len() <= 120));
    found.sort_by_key(|path| numbers(path)[0]);
    assert_eq!(found.last(), Some(&log));
    let all: Vec<_> = found.iter().flat_map(|path| numbers(path)).collect();
    assert_eq!(all, (0..31).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_longer_than_a_file_may_be_has_one_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("eve.json");
    let mut output = rotated(&log, Rotation { size: Some(10), ..Rotation::default() });
    assert_written(&mut output, 0..3);
    assert_eq!(files(&log).len(), 3);
}

#[test]
fn of_the_files_that_were_put_aside_the_oldest_go_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("eve.json");
    let old = ["eve.json.20250101-000000", "eve.json.20250101-000000-2", "eve.json.20250101-000000-10"];
    let others =
        ["eve.json.bak", "eve.json.20250101", "other.json.20250101-000000", "eve.json.20250101-000000x"];
    for name in old.iter().chain(&others) {
        fs::write(directory.path().join(name), "7\n").unwrap();
    }
    let mut output = rotated(&log, Rotation { size: Some(40), keep: Some(2), ..Rotation::default() });
    assert_written(&mut output, 0..2);
    let left = |name: &&str| directory.path().join(name).exists();
    assert_eq!(old.iter().filter(|name| left(name)).collect::<Vec<_>>(), [&old[2]]);
    assert!(others.iter().all(left));
    assert_written(&mut output, 2..9);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), others.len() + 3);
    assert_eq!(numbers(&log), [8]);
}

#[test]
fn a_file_of_an_interval_that_is_over_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("eve.json");
    fs::write(&log, "1\n").unwrap();
    let hours_ago = SystemTime::now() - Duration::from_secs(7200);
    File::options().append(true).open(&log).unwrap().set_modified(hours_ago).unwrap();
    let rotation = Rotation { interval: Some(Duration::from_secs(3600)), ..Rotation::default() };
    let mut output = rotated(&log, rotation.clone());
    output.tick().unwrap();
    output.tick().unwrap();
    assert_eq!((files(&log).len(), numbers(&log)), (2, vec![]));
    // A file without lines stays.
    File::options().append(true).open(&log).unwrap().set_modified(hours_ago).unwrap();
    let mut output = rotated(&log, rotation);
    assert_written(&mut output, 2..3);
    assert_eq!((files(&log).len(), numbers(&log)), (2, vec![2]));
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew_when_that_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (log, moved) = (directory.path().join("eve.json"), directory.path().join("eve.json.1"));
    let mut output = open(Destination::file(&log));
    assert_written(&mut output, 0..1);
    fs::rename(&log, &moved).unwrap();
    assert_written(&mut output, 1..2);
    output.reopen().unwrap();
    assert_written(&mut output, 2..3);
    assert_eq!((numbers(&moved), numbers(&log)), (vec![0, 1], vec![2]));
}

#[test]
fn a_directory_that_does_not_let_files_be_put_aside_costs_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("eve.json");
    let mut output = rotated(&log, Rotation { size: Some(40), ..Rotation::default() });
    assert_written(&mut output, 0..1);
    let moved = directory.path().join("moved");
    fs::rename(&log, &moved).unwrap();
    let (whole, error) = write(&mut output, 1..4);
    assert!(whole == 3 && error.is_some(), "{whole} {error:?}");
    assert_eq!(numbers(&moved), [0, 1, 2, 3]);
}

#[test]
fn hostile_removal_of_the_log_and_of_its_directory_costs_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("a/b/eve.json");
    let mut output = open(Destination::file(&log));
    assert_written(&mut output, 0..2);
    fs::remove_file(&log).unwrap();
    assert_written(&mut output, 2..4);
    assert_eq!(numbers(&log), [2, 3]);
    fs::remove_dir_all(directory.path().join("a")).unwrap();
    assert_written(&mut output, 4..6);
    assert_eq!(numbers(&log), [4, 5]);
    // A file that another process has created in its place is appended to.
    fs::remove_file(&log).unwrap();
    fs::write(&log, "9\n").unwrap();
    assert_written(&mut output, 6..7);
    assert_eq!(numbers(&log), [9, 6]);
}

#[test]
fn hostile_removal_counts_what_cannot_be_written_as_lost_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("logs/eve.json");
    let mut output = open(Destination::file(&log));
    assert_written(&mut output, 0..2);
    fs::remove_dir_all(directory.path().join("logs")).unwrap();
    // A file in the directory's place prevents its creation.
    fs::write(directory.path().join("logs"), "").unwrap();
    for _ in 0..2 {
        let (whole, error) = write(&mut output, 2..5);
        let error = error.unwrap().to_string();
        assert!(whole == 0 && error.contains("it was removed"), "{whole}, {error}");
    }
    assert!(output.reopen().is_err());
    fs::remove_file(directory.path().join("logs")).unwrap();
    assert_written(&mut output, 5..6);
    assert_eq!(numbers(&log), [5]);
}

#[test]
fn hostile_readers_of_a_log_are_kept_out_of_it_and_of_what_is_made_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("a/eve.json");
    let modes = Modes { file: 0o600, directory: 0o700 };
    for (modes, log) in [(Modes::default(), log), (modes, directory.path().join("b/eve.json"))] {
        let rotation = Rotation { size: Some(40), ..Rotation::default() };
        let mut output = open(Destination::File { path: log.clone(), rotation, modes });
        assert_written(&mut output, 0..3);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // The process's umask may be stricter.
        for path in files(&log) {
            assert_eq!(mode(&path) & !modes.file, 0, "{}", path.display());
        }
        assert_eq!(mode(log.parent().unwrap()) & !modes.directory, 0);
    }
}

/// A log that is another file, or a place where a writer waits, is refused when it is opened, reopened or rotated.
/// Puts something in place of a log: its arguments are a file and the log.
type Make = fn(&Path, &Path);

#[test]
fn hostile_links_and_special_files_in_place_of_a_log_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (log, victim) = (directory.path().join("eve.json"), directory.path().join("victim"));
    fs::write(&victim, "kept").unwrap();
    let make: [(&str, Make); 6] = [
        ("symbolic link", |victim, log| symlink(victim, log).unwrap()),
        ("symbolic link", |_, log| symlink("/dev/null", log).unwrap()),
        ("symbolic link", |_, log| symlink("nowhere", log).unwrap()),
        ("hard link", |victim, log| fs::hard_link(victim, log).unwrap()),
        ("FIFO", |_, log| nix::unistd::mkfifo(log, Mode::S_IRWXU).unwrap()),
        ("socket", |_, log| drop(UnixListener::bind(log).unwrap())),
    ];
    for (what, make) in make {
        make(&victim, &log);
        let refused = Output::open(Destination::file(&log), StallPolicy::Short).unwrap_err().to_string();
        assert!(refused.contains("eve.json") && refused.contains(what), "{what}: {refused}");
        fs::remove_file(&log).unwrap();
        // A log that is open goes on in the file that it has.
        let mut output = open(Destination::file(&log));
        let moved = directory.path().join("moved");
        fs::rename(&log, &moved).unwrap();
        make(&victim, &log);
        assert!(output.reopen().unwrap_err().to_string().contains(what), "{what}");
        assert_written(&mut output, 0..2);
        assert_eq!(numbers(&moved), [0, 1]);
        fs::remove_file(&log).unwrap();
    }
    // With a reader, opening the pipe would succeed.
    nix::unistd::mkfifo(&log, Mode::S_IRWXU).unwrap();
    let _reader = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let refused = Output::open(Destination::file(&log), StallPolicy::Short).unwrap_err().to_string();
    assert!(refused.contains("FIFO"), "{refused}");
    assert_eq!(fs::read(&victim).unwrap(), b"kept");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "nothing was created elsewhere");
    assert_written(&mut open(Destination::file("/dev/null")), 0..2);
}

fn socket(path: &Path, datagrams: bool) -> Destination {
    Destination::Socket { path: path.to_owned(), datagrams }
}

#[test]
fn a_reader_that_goes_away_and_comes_back_gets_whole_lines_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eve.sock");
    // In a live capture, the reader may come after the first record.
    let mut output = open(socket(&path, false));
    assert_eq!(write(&mut output, 0..2).0, 0);
    for number in [10, 20] {
        let listener = UnixListener::bind(&path).unwrap();
        while write(&mut output, number..number + 1).0 == 0 {
            std::thread::yield_now();
        }
        let (reader, _) = listener.accept().unwrap();
        assert_written(&mut output, number..number + 3);
        let lines = BufReader::new(reader).lines().take(4);
        let got: Vec<usize> = lines.map(|line| line.unwrap().parse().unwrap()).collect();
        assert_eq!(got, [number, number, number + 1, number + 2]);
        drop(listener);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(write(&mut output, 0..2).0, 0);
}

#[test]
fn who_reads_a_capture_file_is_told_that_nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eve.sock");
    let error = Output::open(socket(&path, false), StallPolicy::Endless).unwrap_err().to_string();
    assert!(error.contains("eve.sock") && error.contains("start the reader"), "{error}");
}

#[test]
fn a_reader_that_takes_nothing_is_waited_for_once_and_one_line_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eve.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut output = open(socket(&path, false));
    let (mut reader, _) = listener.accept().unwrap();
    let begun = Instant::now();
    let (whole, error) = write(&mut output, 0..100_000);
    assert!(whole < 100_000 && error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut));
    assert!(begun.elapsed() >= StallPolicy::SHORT);
    let begun = Instant::now();
    assert_eq!(write(&mut output, 0..10).0, 0);
    assert!(begun.elapsed() < StallPolicy::SHORT);
    // The reader continues: it makes room, and then reads everything.
    let mut text = vec![0; whole * 40];
    reader.read_exact(&mut text).unwrap();
    assert_written(&mut output, 5..8);
    drop(output);
    reader.read_to_end(&mut text).unwrap();
    let lines = String::from_utf8(text).unwrap();
    let good: Vec<usize> =
        lines.lines().filter(|line| line.len() == 39).map(|line| line.parse().unwrap()).collect();
    assert!(lines.lines().count() - good.len() <= 1);
    assert_eq!(good, (0..whole).chain(5..8).collect::<Vec<_>>());
}

#[test]
fn each_event_is_a_datagram() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eve.sock");
    let reader = UnixDatagram::bind(&path).unwrap();
    let mut output = open(socket(&path, true));
    assert_written(&mut output, 0..3);
    let mut bytes = [0; 100];
    for number in 0..3 {
        let len = reader.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], format!("{number:039}\n").as_bytes());
    }
}
