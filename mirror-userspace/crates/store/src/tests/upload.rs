//! Uploading: whatever fails on the way, the uploaded files are those that were written, and none is deleted
//! before its upload.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};

use super::super::manifest::{Contents, Event};
use super::super::names::FileName;
use super::super::remote::RemoteReader;
use super::super::verify::verify_copy;
use super::*;

/// Faults, each as a number out of 100 requests.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    /// The request has no effect.
    refused: u64,
    /// The request succeeds, but an error is reported.
    denied: u64,
    /// A byte of the written data is changed.
    altered: u64,
}

#[derive(Debug, Default)]
struct Requests {
    trouble: Trouble,
    random: u64,
    /// Number of requests that wrote each object.
    puts: HashMap<String, u64>,
}

/// An object store in memory, with faults.
#[derive(Clone, Debug, Default)]
struct Troubled {
    inner: Arc<InMemory>,
    requests: Arc<Mutex<Requests>>,
}

impl std::fmt::Display for Troubled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Troubled")
    }
}

fn trouble() -> object_store::Error {
    object_store::Error::Generic { store: "Troubled", source: "trouble".into() }
}

impl Troubled {
    fn with(trouble: Trouble) -> Self {
        let store = Self::default();
        store.set(trouble);
        store
    }

    fn set(&self, trouble: Trouble) {
        self.requests.lock().unwrap().trouble = trouble;
    }

    fn puts(&self, name: &str) -> u64 {
        self.requests.lock().unwrap().puts.get(name).copied().unwrap_or_default()
    }

    fn remote(&self) -> Remote {
        Remote::of(Arc::new(self.clone()), ObjectPath::from("prefix"), "memory://copy".to_owned())
    }

    /// Returns a reader of the objects, without faults.
    fn reader(&self) -> RemoteReader {
        let url = "memory://copy".to_owned();
        RemoteReader::of(Remote::of(self.inner.clone(), ObjectPath::from("prefix"), url)).unwrap()
    }

    fn happens(&self, of_100: impl Fn(&Trouble) -> u64) -> bool {
        let mut requests = self.requests.lock().unwrap();
        requests.random = requests.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        requests.random >> 33 & 127 < of_100(&requests.trouble) * 128 / 100
    }

    fn before(&self) -> object_store::Result<()> {
        if self.happens(|trouble| trouble.refused) { Err(trouble()) } else { Ok(()) }
    }

    fn after<T>(&self, result: object_store::Result<T>) -> object_store::Result<T> {
        if self.happens(|trouble| trouble.denied) { Err(trouble()) } else { result }
    }

    fn payload(&self, payload: PutPayload) -> PutPayload {
        if !self.happens(|trouble| trouble.altered) {
            return payload;
        }
        let mut bytes: Vec<u8> = payload.iter().flatten().copied().collect();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes.into()
    }
}

#[async_trait]
impl ObjectStore for Troubled {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.before()?;
        let name = location.filename().unwrap().to_owned();
        *self.requests.lock().unwrap().puts.entry(name).or_default() += 1;
        let payload = self.payload(payload);
        self.after(self.inner.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.before()?;
        let name = location.filename().unwrap().to_owned();
        *self.requests.lock().unwrap().puts.entry(name).or_default() += 1;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(TroubledUpload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.before()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct TroubledUpload {
    inner: Box<dyn MultipartUpload>,
    store: Troubled,
}

#[async_trait]
impl MultipartUpload for TroubledUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.inner.put_part(self.store.payload(data));
        let store = self.store.clone();
        Box::pin(async move {
            store.before()?;
            store.after(part.await)
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.store.before()?;
        self.store.after(self.inner.complete().await)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}

/// A store that is written to and uploaded.
struct Uploading {
    store: Store,
    sink: Sink,
    _log: TempDir,
}

impl Uploading {
    fn start(directory: &TempDir, settings: Settings, key: Option<StoreKey>, remote: Remote) -> Self {
        let log = tempfile::tempdir().unwrap();
        let sink = Sink::open(log.path()).unwrap();
        let store =
            Store::begin_with(directory.path(), settings, key, Some(remote), Unopened::Fails).unwrap();
        Self { store, sink, _log: log }
    }

    fn write(&self, frames: &[(FrameInfo, Vec<u8>)]) {
        let mut worker = Worker::builder(WorkerConfig::default(), self.sink.producer(Overflow::Wait))
            .recorder(self.store.handle(0, Overflow::Wait).unwrap())
            .build();
        for (info, frame) in frames {
            worker.frame(info, frame);
        }
        worker.finish();
    }

    fn counters(&self) -> UploadCounters {
        self.store.upload().unwrap().counters()
    }

    fn wait_until(&self, what: impl Fn(&UploadCounters) -> bool) {
        let begun = std::time::Instant::now();
        while !what(&self.counters()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.counters());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(self) -> UploadCounters {
        let watch = self.store.upload().unwrap();
        let _ = self.store.finish();
        watch.counters()
    }
}

fn copy_findings(reader: &RemoteReader) -> Vec<(String, String)> {
    let report = verify_copy(reader, None, |_, _| {}).unwrap();
    report.findings.into_iter().map(|finding| (finding.file, finding.what)).collect()
}

/// Returns the frames of an extract from a copy, with their times.
fn extract_copy(
    copy: RemoteReader,
    key: Option<StoreKey>,
    expression: &str,
) -> (Vec<(u64, Vec<u8>)>, reader::Effort) {
    extract_by(Reader::open_copy(copy, key), expression)
}

fn uploaded(directory: &TempDir) -> Vec<SegmentName> {
    let contents = Contents::read(directory.path()).unwrap();
    let lines = contents.lines.into_iter();
    lines
        .filter_map(|line| match line.event {
            Event::Uploaded { file, .. } => Some(file),
            _ => None,
        })
        .collect()
}

#[test]
fn whatever_fails_on_the_way_what_was_written_is_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let copy = Troubled::with(Trouble { refused: 10, denied: 10, altered: 5 });
    let uploading = Uploading::start(&directory, settings(), None, copy.remote());
    let frames = turns(7, 50, 9000, 1000);
    uploading.write(&frames);
    uploading.wait_until(|counters| counters.waiting == 0);
    copy.set(Trouble::default());
    let counters = uploading.finish();
    assert!(counters.segments >= 4 && counters.failures > 0, "{counters:?}");
    assert!(!counters.failing, "{counters:?}");
    let report = verify_copy(&copy.reader(), None, |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.intact, report.packets), (counters.segments, 9000));
    let local = verify(directory.path(), Some(&report.head), |_, _| {}).unwrap();
    assert_eq!((local.findings, local.head), (vec![], report.head));
    assert_eq!(extract_copy(copy.reader(), None, "").0.len(), 9000);
}

#[test]
fn a_start_goes_on_where_the_one_before_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let copy = Troubled::default();
    let uploading = Uploading::start(&directory, settings(), None, copy.remote());
    uploading.write(&turns(7, 5, 3000, 0));
    uploading.wait_until(|counters| counters.waiting == 0 && counters.segments > 0);
    copy.set(Trouble { refused: 100, ..Trouble::default() });
    uploading.write(&turns(7, 5, 5000, 5000));
    uploading.wait_until(|counters| counters.failing);
    let counters = uploading.finish();
    assert!(counters.waiting >= 2, "{counters:?}");
    let before = uploaded(&directory);
    assert_eq!(before.len() as u64, counters.segments);
    copy.set(Trouble::default());
    let uploading = Uploading::start(&directory, settings(), None, copy.remote());
    uploading.wait_until(|counters| counters.waiting == 0);
    assert_eq!(uploading.finish().segments, counters.waiting);
    for file in before {
        let index = FileName::Index(file.clone()).to_string();
        assert_eq!((copy.puts(file.as_str()), copy.puts(&index)), (1, 1));
    }
    assert_eq!(copy_findings(&copy.reader()), []);
    assert_eq!(extract_copy(copy.reader(), None, "").0.len(), 8000);
}

#[test]
fn nothing_is_deleted_before_it_is_uploaded() {
    let (directory, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let retention = Retention { max_size: Some(3 << 20), ..Retention::default() };
    let settings = Settings { retention, ..settings() };
    let down = Troubled::with(Trouble { refused: 100, ..Trouble::default() });
    let uploading = Uploading::start(&directory, settings.clone(), None, down.remote());
    let frames = turns(7, 5, 9000, 0);
    uploading.write(&frames);
    uploading.wait_until(|counters| counters.overdue > 1);
    uploading.finish();
    assert_eq!(extract(directory.path(), None, "").0.len(), 9000);
    let upload: Location = format!("file://{}", target.path().display()).parse().unwrap();
    let settings = Settings { upload: Some(upload.clone()), ..settings };
    let up = Store::open(directory.path(), settings, None).unwrap();
    let watch = up.upload().unwrap();
    while watch.counters().waiting > 0 || watch.counters().overdue > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = up.finish();
    let report = verify(directory.path(), None, |_, _| {}).unwrap();
    assert!(report.bytes <= 3 << 20 && report.deleted.len() > 1, "{report:?}");
    // Segments that are no longer here are found in the copy.
    let mut reader = Reader::open(directory.path(), None).unwrap();
    reader.read_copies(vec![upload.clone()]);
    let (all, effort) = extract_by(reader, "port 10003");
    let expected: Vec<_> = frames
        .iter()
        .filter(|(_, bytes)| bytes[34..38].windows(2).any(|port| port == 10_003_u16.to_be_bytes()))
        .map(|(info, bytes)| (info.time, bytes.clone()))
        .collect();
    assert_eq!(all, expected);
    assert!(effort.requests > 0, "{effort:?}");
    reader = Reader::open(directory.path(), None).unwrap();
    reader.only_local();
    assert!(extract_by(reader, "").0.len() < 9000);
    let copy = RemoteReader::open(&upload).unwrap();
    assert_eq!(copy_findings(&copy), []);
    assert_eq!(extract_copy(copy, None, "").0.len(), 9000);
}

#[test]
fn a_copy_has_the_same_packets_in_every_form_and_only_what_is_needed_is_read() {
    let forms = [(None, None), (Some(1), None), (None, Some(key())), (Some(1), Some(key()))];
    for (compression, key) in forms {
        let directory = tempfile::tempdir().unwrap();
        let copy = Troubled::default();
        let settings = Settings { compression, ..settings() };
        let uploading = Uploading::start(&directory, settings, key.clone(), copy.remote());
        // Conversations one after the other.
        let mut frames = Vec::new();
        for number in 0..2500 {
            let frame = frame((number / 250) as u16, number);
            frames.push((info(7, u64::from(number), &frame), frame));
        }
        uploading.write(&frames);
        uploading.finish();
        for expression in ["", "vni 8", "udp and not port 10001"] {
            let (local, _) = extract(directory.path(), key.clone(), expression);
            let (there, _) = extract_copy(copy.reader(), key.clone(), expression);
            assert_eq!(there, local, "{expression}");
        }
        let (found, effort) = extract_copy(copy.reader(), key, "port 10007");
        assert_eq!(found.len(), 250);
        assert!(effort.chunks_read <= 2, "{effort:?}");
        assert_eq!(effort.requests, effort.indexes_read + effort.chunks_read);
    }
}

#[test]
fn what_is_altered_missing_or_strange_in_a_copy_is_named() {
    let (directory, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let upload: Location = format!("file://{}", target.path().display()).parse().unwrap();
    store(
        directory.path(),
        Settings { upload: Some(upload.clone()), ..settings() },
        None,
        &[turns(7, 5, 6000, 0)],
    );
    let copy = || RemoteReader::open(&upload).unwrap();
    assert_eq!(copy_findings(&copy()), []);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let segments = files(&target, ".pcapng");
    let file = fs::OpenOptions::new().read(true).write(true).open(&segments[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    let strange = target.path().join("00000000-w0-20260101T000000Z.pcapng");
    fs::write(&strange, b"strange").unwrap();
    assert_eq!(
        copy_findings(&copy()),
        [
            (name(&segments[0]), "was altered: its digest differs from the one in the manifest".to_owned()),
            (name(&segments[1]), "is missing".to_owned()),
            (name(&strange), "is not in the manifest".to_owned()),
        ]
    );
}

#[test]
fn two_stores_are_not_mixed_in_one_place() {
    let copy = Troubled::default();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let uploading = Uploading::start(&first, settings(), None, copy.remote());
    uploading.write(&turns(7, 5, 100, 0));
    assert_eq!(uploading.finish().segments, 1);
    let uploading = Uploading::start(&second, settings(), None, copy.remote());
    uploading.write(&turns(8, 5, 100, 0));
    uploading.wait_until(|counters| counters.failing);
    assert_eq!(uploading.finish().segments, 0);
    assert_eq!(extract_copy(copy.reader(), None, "vni 7").0.len(), 100);
    assert_eq!(copy_findings(&copy.reader()), []);
}

#[test]
fn a_segment_that_was_altered_here_is_neither_uploaded_nor_in_the_way_of_others() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path(), settings(), None, &[turns(7, 5, 6000, 0)]);
    let segment = files(&directory, ".pcapng").remove(0);
    fs::OpenOptions::new().write(true).open(&segment).unwrap().write_all_at(b"x", 9000).unwrap();
    let copy = Troubled::default();
    let uploading = Uploading::start(&directory, settings(), None, copy.remote());
    uploading.wait_until(|counters| counters.waiting == 1);
    let counters = uploading.finish();
    assert!(counters.segments >= 2 && counters.failing && counters.failures == 1, "{counters:?}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(!uploaded(&directory).iter().any(|file| file.as_str() == name));
    let there = async |name: &str| copy.inner.head(&ObjectPath::from(format!("prefix/{name}"))).await;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(there(name)).is_err());
    assert!(runtime.block_on(there(uploaded(&directory)[0].as_str())).is_ok());
}

#[test]
fn what_a_killed_process_has_left_of_a_copy_in_a_directory_goes() {
    let (directory, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let torso = target.path().join("00000001-w0-20260101T000000Z.pcapng#1");
    let mine = target.path().join("notes#1");
    fs::write(&torso, b"half").unwrap();
    fs::write(&mine, b"mine").unwrap();
    let upload = format!("file://{}", target.path().display()).parse().unwrap();
    store(directory.path(), Settings { upload: Some(upload), ..settings() }, None, &[turns(7, 5, 100, 0)]);
    assert!(!torso.exists() && mine.exists());
}
