mod gone;
mod hostile;
mod kept;
mod upload;

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::FileExt as _;

use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::capture_file::CaptureFile;
use mirror_packet::{FrameInfo, MirrorSession, SECOND};
use mirror_records::sink::Sink;
use mirror_xdp_common::Vni;
use mirror_xdp_tests::frames::{Flow, mirrored};
use tempfile::TempDir;

use super::reader::{Reader, Wanted};
use super::verify::verify;
use super::*;
use crate::expression::Expression;

/// Small segments, so that there are several.
fn settings() -> Settings {
    Settings { segment_size: 2 << 20, memory: 8 << 20, ..Settings::default() }
}

fn key() -> StoreKey {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 32]).unwrap();
    StoreKey::load(file.path()).unwrap()
}

/// The session of a VNI that mirrors this interface.
pub(super) fn session(vni: u32, outer_source: &str) -> MirrorSession {
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    MirrorSession::new(Vni::new(vni).unwrap(), address(outer_source), address("10.0.9.5"))
}

/// Returns the `FrameInfo` of this frame, mirrored with this VNI, `time` seconds after the epoch.
fn info(vni: u32, time: u64, frame: &[u8]) -> FrameInfo {
    FrameInfo::of(frame).at(time * SECOND).hashed(frame, 0).mirrored(session(vni, "10.0.1.17"))
}

/// Returns frame `number` of a conversation. All frames are different, and 1000 bytes long.
fn frame(conversation: u16, number: u32) -> Vec<u8> {
    let flow = Flow::v4(10_000 + conversation, 443);
    let flow = if number.is_multiple_of(2) { flow } else { flow.reversed() };
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(958, conversation as u8);
    flow.udp(&payload)
}

/// Stores frames by as many workers as there are lists of them, and returns the sums of the counters.
fn store(
    directory: &Path,
    settings: Settings,
    key: Option<StoreKey>,
    workers: &[Vec<(FrameInfo, Vec<u8>)>],
) -> Vec<StoreCounters> {
    let log = tempfile::tempdir().unwrap();
    let sink = Sink::open(log.path()).unwrap();
    let store = Store::open(directory, settings, key).unwrap();
    let mut counters = Vec::new();
    for (number, frames) in workers.iter().enumerate() {
        let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
            .recorder(store.handle(number, Overflow::Wait).unwrap())
            .build();
        for (info, frame) in frames {
            worker.frame(info, frame);
        }
        worker.finish();
        let counted = worker.counters();
        let stored = worker.recorder().counters();
        let sum = |named: &[(&str, u64)]| named.iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(stored.kept + sum(&stored.not_kept) + sum(&stored.lost), counted.delivered);
        counters.push(stored);
    }
    let _ = store.finish();
    counters
}

/// Returns frames of this many conversations, which take turns, one a second from `start` on.
fn turns(vni: u32, conversations: u16, frames: u32, start: u64) -> Vec<(FrameInfo, Vec<u8>)> {
    (0..frames)
        .map(|number| {
            let frame = frame(number as u16 % conversations, number);
            (info(vni, start + u64::from(number), &frame), frame)
        })
        .collect()
}

/// Returns the frames of an extract, with their times.
fn extract(
    directory: &Path,
    key: Option<StoreKey>,
    expression: &str,
) -> (Vec<(u64, Vec<u8>)>, reader::Effort) {
    extract_by(Reader::open(directory, key).unwrap(), expression)
}

fn extract_by(mut reader: Reader, expression: &str) -> (Vec<(u64, Vec<u8>)>, reader::Effort) {
    let wanted = Wanted { from: 0, to: u64::MAX, expression: Expression::parse(expression).unwrap() };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    reader.extract(&wanted, file.as_file_mut(), |_, _, _| {}).unwrap();
    let mut frames = Vec::new();
    let capture = CaptureFile::open(file.path()).unwrap();
    capture.for_each(|frame| frames.push((frame.time, frame.bytes.to_vec()))).unwrap();
    (frames, reader.effort)
}

fn files(directory: &TempDir, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(suffix));
    files.sort();
    files
}

fn findings(directory: &TempDir) -> Vec<(String, String)> {
    let report = verify(directory.path(), None, |_, _| {}).unwrap();
    report.findings.into_iter().map(|finding| (finding.file, finding.what)).collect()
}

#[test]
fn what_was_stored_by_several_workers_comes_out_whole_and_in_the_order_of_time() {
    let forms = [(None, None), (Some(1), None), (None, Some(key())), (Some(1), Some(key()))];
    for (compression, key) in forms {
        let directory = tempfile::tempdir().unwrap();
        let workers = [turns(7, 50, 2000, 1000), turns(8, 50, 2000, 1000)];
        let settings = Settings { compression, ..settings() };
        let counters = store(directory.path(), settings, key.clone(), &workers);
        assert!(counters.iter().all(|counters| counters.kept == 2000), "{counters:?}");
        let (found, _) = extract(directory.path(), key.clone(), "");
        assert_eq!(found.len(), 4000);
        assert!(found.is_sorted_by_key(|(time, _)| *time));
        let (found, effort) = extract(directory.path(), key.clone(), "port 10003 and vni 8");
        let expected: Vec<_> = workers[1]
            .iter()
            .filter(|(_, bytes)| bytes[34..38].windows(2).any(|port| port == 10_003_u16.to_be_bytes()))
            .map(|(info, bytes)| (info.time, bytes.clone()))
            .collect();
        assert_eq!(found, expected);
        assert!(effort.bytes_read <= effort.store_bytes);
        assert_eq!(findings(&directory), []);
    }
}

#[test]
fn only_the_chunks_that_have_a_flow_are_read_for_it() {
    let directory = tempfile::tempdir().unwrap();
    // Conversations one after the other.
    let mut frames = Vec::new();
    for conversation in 0..20 {
        for number in 0..500 {
            let frame = frame(conversation, number);
            frames.push((info(7, frames.len() as u64, &frame), frame));
        }
    }
    store(directory.path(), settings(), None, &[frames]);
    let (all, _) = extract(directory.path(), None, "port 10007");
    let id = expression::community_ids(&info(7, 0, &all[0].1), &all[0].1).next().unwrap();
    let (found, effort) = extract(directory.path(), None, &format!("community-id {id}"));
    assert_eq!(found, all);
    assert_eq!(found.len(), 500);
    assert!(effort.chunks_read <= 2, "{effort:?}");
}

#[test]
fn a_flow_within_a_tunnel_is_found_by_its_community_id() {
    let directory = tempfile::tempdir().unwrap();
    let inner: Vec<_> = (0..10).map(|number| frame(number as u16 % 2, number)).collect();
    let frames = inner.iter().zip(0..).map(|(inner, time)| {
        let frame = mirrored(9).carrying(inner);
        (info(7, time, &frame), frame)
    });
    let frames: Vec<_> = frames.collect();
    store(directory.path(), settings(), None, std::slice::from_ref(&frames));
    let ids: Vec<_> = expression::community_ids(&frames[0].0, &frames[0].1).collect();
    let [tunnel, flow] = ids[..] else { panic!("{ids:?}") };
    assert_eq!(extract(directory.path(), None, &format!("community-id {tunnel}")).0.len(), 10);
    let (found, _) = extract(directory.path(), None, &format!("community-id {flow} and vni 7"));
    let expected: Vec<_> = frames.iter().step_by(2).map(|(info, frame)| (info.time, frame.clone())).collect();
    assert_eq!(found, expected);
    assert!(extract(directory.path(), None, &format!("udp and not community-id {tunnel}")).0.is_empty());
}

#[test]
fn times_and_vnis_choose_segments() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path(), settings(), None, &[turns(7, 5, 5000, 0), turns(8, 5, 5000, 0)]);
    let mut reader = Reader::open(directory.path(), None).unwrap();
    let wanted =
        Wanted { from: 100 * SECOND, to: 110 * SECOND, expression: Expression::parse("vni 8").unwrap() };
    reader.extract(&wanted, &mut io::sink(), |_, _, _| {}).unwrap();
    assert_eq!((reader.effort.packets, reader.effort.indexes_read), (10, 1));
}

#[test]
fn a_segment_that_was_not_finished_is_cut_to_its_last_whole_chunk() {
    for key in [None, Some(key())] {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), settings(), key.clone(), &[turns(7, 5, 1500, 0)]);
        // A killed writer leaves this behind: no line, no index, no name, and a torn end.
        let segment = files(&directory, if key.is_some() { ".enc" } else { ".pcapng" }).remove(0);
        let partial = PathBuf::from(format!("{}.partial", segment.display()));
        fs::rename(&segment, &partial).unwrap();
        fs::remove_file(format!("{}.idx", segment.display())).unwrap();
        fs::remove_file(directory.path().join(manifest::FILE_NAME)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&partial).unwrap();
        file.set_len(file.metadata().unwrap().len() - 5000).unwrap();
        let opened = Store::open(directory.path(), settings(), key.clone()).unwrap();
        let recovered: Vec<_> = opened.recovered().iter().map(|(_, outcome)| outcome.clone()).collect();
        let [Recovered::Repaired { packets, .. }] = recovered[..] else { panic!("{recovered:?}") };
        let _ = opened.finish();
        assert!((500..1500).contains(&packets), "{packets}");
        assert_eq!(extract(directory.path(), key, "port 10001").0.len() as u64, packets.div_ceil(5));
        assert_eq!(findings(&directory), []);
        assert!(segment.exists());
    }
}

#[test]
fn an_unfinished_segment_without_packets_goes_and_a_strange_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let named = |name: &str| directory.path().join(name);
    fs::write(named("00000003-w0-20260101T000000Z.pcapng.partial"), b"").unwrap();
    fs::write(named("notes.partial"), b"mine").unwrap();
    let opened = Store::open(directory.path(), settings(), None).unwrap();
    assert_eq!(
        opened.recovered().iter().map(|(_, outcome)| outcome).collect::<Vec<_>>(),
        [&Recovered::Empty]
    );
    assert!(named("notes.partial").exists());
    assert!(!named("00000003-w0-20260101T000000Z.pcapng.partial").exists());
}

#[test]
fn packets_are_found_before_their_segment_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let log = tempfile::tempdir().unwrap();
    let sink = Sink::open(log.path()).unwrap();
    let store = Store::open(directory.path(), Settings::default(), None).unwrap();
    let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
        .recorder(store.handle(0, Overflow::Lose).unwrap())
        .build();
    let frame = frame(1, 1);
    worker.frame(&info(7, 1000, &frame), &frame);
    // A second later, the chunk goes to the disk although it is not full.
    worker.tick(1002 * SECOND);
    while worker.recorder().counters().kept == 0 {
        std::thread::yield_now();
    }
    assert_eq!(extract(directory.path(), None, "port 10001").0, [(1000 * SECOND, frame)]);
    let report = verify(directory.path(), None, |_, _| {}).unwrap();
    assert_eq!((report.findings.len(), report.unfinished.len()), (0, 1));
}

#[test]
fn a_clock_that_steps_back_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut frames = turns(7, 5, 1500, 5000);
    frames.extend(turns(7, 5, 1500, 3000));
    let counters = store(directory.path(), settings(), None, &[frames]);
    assert_eq!(counters[0].kept, 3000);
    let (found, _) = extract(directory.path(), None, "udp");
    assert_eq!(found.len(), 3000);
    assert!(found.is_sorted_by_key(|(time, _)| *time));
}

#[test]
fn each_flipped_byte_names_its_file() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path(), settings(), None, &[turns(7, 5, 4000, 0)]);
    assert_eq!(findings(&directory), []);
    let segment = files(&directory, ".pcapng").remove(0);
    let index = PathBuf::from(format!("{}.idx", segment.display()));
    let manifest = directory.path().join(manifest::FILE_NAME);
    for path in [segment, index, manifest] {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        for at in [0, len / 2, len - 20] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let found = findings(&directory);
            assert!(
                found.iter().any(|(file, what)| *file == name && what.contains("altered")),
                "{name}: {found:?}"
            );
            file.write_all_at(&byte, at).unwrap();
        }
    }
    assert_eq!(findings(&directory), []);
}

#[test]
fn a_missing_segment_a_foreign_one_and_a_cut_manifest_are_found() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path(), settings(), None, &[turns(7, 5, 4000, 0)]);
    let head = verify(directory.path(), None, |_, _| {}).unwrap().head;
    let segments = files(&directory, ".pcapng");
    let foreign = directory.path().join("00009999-w0-20260101T000000Z.pcapng");
    fs::copy(&segments[0], &foreign).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        findings(&directory),
        [
            (name(&segments[1]), "is missing".to_owned()),
            (name(&foreign), "is not in the manifest".to_owned()),
        ]
    );
    let manifest = directory.path().join(manifest::FILE_NAME);
    let text = fs::read_to_string(&manifest).unwrap();
    let cut = text.split_inclusive('\n').next().unwrap();
    fs::write(&manifest, cut).unwrap();
    let report = verify(directory.path(), Some(&head), |_, _| {}).unwrap();
    assert!(report.findings.iter().any(|finding| finding.what.starts_with("has no line with the digest")));
}

#[test]
fn a_store_is_written_by_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = Store::open(directory.path(), settings(), None).unwrap();
    assert!(matches!(Store::open(directory.path(), settings(), None), Err(StoreError::InUse(_))));
    drop(first);
    Store::open(directory.path(), settings(), None).unwrap();
}

#[test]
fn policies_keep_what_they_say_and_count_the_rest() {
    let keep = |policy: Policy| {
        let directory = tempfile::tempdir().unwrap();
        let frames = [turns(7, 2, 20, 0), turns(8, 2, 20, 100)].concat();
        let counters = store(directory.path(), Settings { policy, ..settings() }, None, &[frames]);
        let (found, _) = extract(directory.path(), None, "");
        assert_eq!(found.len() as u64, counters[0].kept);
        (counters[0].kept, counters[0].not_kept[0].1, found[0].1.len())
    };
    assert_eq!(keep(Policy::default()), (40, 0, 1000));
    assert_eq!(keep(Policy { vnis: Some(vec![8..=9]), ..Policy::default() }), (20, 20, 1000));
    assert_eq!(keep(Policy { packet: Kept::First(100), ..Policy::default() }), (40, 0, 100));
    assert_eq!(keep(Policy { packet: Kept::Headers, ..Policy::default() }), (40, 0, 42));
    // Two packets each of four flows.
    assert_eq!(keep(Policy { flow: Some(1001), ..Policy::default() }), (8, 32, 1000));
}

#[test]
fn an_encrypted_store_shows_nothing_without_its_key() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path(), settings(), Some(key()), &[turns(7, 2, 10, 0)]);
    let bytes = fs::read(&files(&directory, ".enc")[0]).unwrap();
    let payload = &frame(1, 1)[46..100];
    assert!(!bytes.windows(payload.len()).any(|window| window == payload));
    let mut reader = Reader::open(directory.path(), None).unwrap();
    let wanted = Wanted { from: 0, to: u64::MAX, expression: Expression::parse("").unwrap() };
    let error = reader.extract(&wanted, &mut io::sink(), |_, _, _| {}).unwrap_err();
    assert!(matches!(error, reader::ReadError::Segment { source: Unreadable::NoKey, .. }), "{error}");
}

#[test]
fn what_retention_deletes_is_told_by_the_manifest_and_held_segments_stay() {
    let directory = tempfile::tempdir().unwrap();
    let strange = directory.path().join("00000001-w9-20250101T000000Z.pcapng");
    fs::write(&strange, b"not ours").unwrap();
    let _ = Store::open(directory.path(), settings(), None).unwrap().finish();
    hold::write(
        directory.path(),
        &[hold::Hold { number: 1, vnis: None, from: 0, to: 10 * SECOND, reason: "case".to_owned() }],
    )
    .unwrap();
    let retention = Retention { max_size: Some(4 << 20), ..Retention::default() };
    store(directory.path(), Settings { retention, ..settings() }, None, &[turns(7, 5, 9000, 0)]);
    let report = verify(directory.path(), None, |_, _| {}).unwrap();
    assert!(!report.deleted.is_empty() && report.bytes <= 4 << 20, "{report:?}");
    // The foreign entry is reported, and neither touched nor taken for a segment.
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(strange.exists());
    // The first packets are still there, although they are the oldest.
    let (found, _) = extract(directory.path(), None, "udp");
    assert_eq!(found[0].0, 0);
    assert!(found.len() < 9000);
}
