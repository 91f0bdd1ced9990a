//! Stores with altered files: they are read, verified, and repaired by the next writer. The first bytes
//! select the store, the file and the kind of change; the rest are the changes.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::{FrameInfo, MirrorSession};
use mirror_records::sink::{Overflow, Sink};
use mirror_store::expression::Expression;
use mirror_store::reader::{Reader, Wanted};
use mirror_store::verify::verify;
use mirror_store::{Settings, Store, StoreKey};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::{Address, Vni};

/// A store: its files, its key if it is encrypted, and its settings.
struct Form {
    files: Vec<(String, Vec<u8>)>,
    key: Option<StoreKey>,
    settings: Settings,
}

/// Makes a temporary directory, in memory if possible.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("the directory takes files")
}

/// Returns a datagram of a client, with `len` bytes of payload.
fn frame(client: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    frame[16..18].copy_from_slice(&(28 + len as u16).to_be_bytes());
    frame.extend([172, 31, 0, client, 172, 31, 1, 1, 0x9c, 0x40, 0x11, 0x5c]);
    frame.extend((8 + len as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(frame.len() + len, client);
    frame
}

fn form(compression: Option<i32>, encrypted: bool) -> Form {
    let (home, log) = (directory(), directory());
    let key = encrypted.then(|| {
        let mut file = tempfile::NamedTempFile::new().expect("the temporary directory takes files");
        file.write_all(&[7; 32]).expect("the temporary directory takes files");
        StoreKey::load(file.path()).expect("it is a key")
    });
    let settings = Settings { compression, memory: 4 << 20, ..Settings::default() };
    let store = Store::open(home.path(), settings.clone(), key.clone()).expect("the directory is new");
    let sink = Sink::open(log.path()).expect("the directory is new");
    let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
        .recorder(store.handle(0, Overflow::Wait).expect("threads can be started"))
        .build();
    for number in 0..30_u8 {
        let frame = frame(number % 4, usize::from(number));
        let mirror = MirrorSession {
            vni: Vni::new(u32::from(number % 3)).expect("it is small"),
            outer_source: Address::from_v4(0x0a00_0001),
            outer_destination: Address::from_v4(0x0a00_0002),
            endpoint: 0,
        };
        let info = FrameInfo {
            time: 1_700_000_000_000_000_000 + u64::from(number) * 1_000_000_000,
            original_len: frame.len() as u32,
            flow_hash: InnerHeaders::parse(&frame[..], 0).flow_hash(&FlowHashKey::new(0)),
            mirror: Some(mirror),
            side: None,
        };
        worker.frame(&info, &frame);
    }
    worker.finish();
    drop(worker);
    let _ = (store.finish(), sink.finish());
    let mut files = Vec::new();
    for entry in fs::read_dir(home.path()).expect("it is there") {
        let name = entry.expect("it has a name").file_name().into_string().expect("the store names it");
        let bytes = fs::read(home.path().join(&name)).expect("it is there");
        files.push((name, bytes));
    }
    files.sort();
    Form { files, key, settings }
}

/// Returns whether a file is a segment, finished or not.
fn is_segment(name: &str) -> bool {
    name.contains(".pcapng") && !name.ends_with(".idx")
}

/// Changes a file's bytes in the way that `how` selects.
fn change(name: &str, how: u8, bytes: &mut Vec<u8>, changes: &[u8]) {
    match how % 3 {
        0 => *bytes = changes.to_vec(),
        1 => {
            for change in changes.chunks_exact(4) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = change[2];
                }
            }
        }
        _ => bytes.truncate(changes.len()),
    }
    // The checksum of a changed index is corrected, because an index with a wrong one is not parsed.
    if name.ends_with(".idx")
        && how & 0x80 != 0
        && let Some(content) = bytes.len().checked_sub(4)
    {
        let checksum = crc32fast::hash(&bytes[..content]);
        bytes[content..].copy_from_slice(&checksum.to_le_bytes());
    }
}

pub(crate) fn fuzz(bytes: &[u8]) {
    static FORMS: OnceLock<Vec<Form>> = OnceLock::new();
    let forms = FORMS.get_or_init(|| {
        [(None, false), (Some(1), false), (None, true), (Some(1), true)]
            .map(|(zstd, key)| form(zstd, key))
            .into()
    });
    let Some(([which, file, how], changes)) = bytes.split_first_chunk() else { return };
    let form = &forms[usize::from(which % 4)];
    // The state left by a writer that was killed.
    let unfinished = which & 0x80 != 0;
    let home = directory();
    for (number, (name, content)) in form.files.iter().enumerate() {
        let mut content = content.clone();
        if number == usize::from(*file) % form.files.len() {
            change(name, *how, &mut content, changes);
        }
        let known = !unfinished || is_segment(name);
        let name = if unfinished && is_segment(name) { format!("{name}.partial") } else { name.clone() };
        if known {
            fs::write(home.path().join(name), content).expect("the directory takes files");
        }
    }
    if unfinished {
        fs::write(home.path().join("manifest.jsonl"), b"").expect("the directory takes files");
    }
    let read = || {
        let expression = Expression::parse("udp and vni 1").expect("it is one");
        let wanted = Wanted { from: 0, to: u64::MAX, expression };
        if let Ok(mut reader) = Reader::open(home.path(), form.key.clone()) {
            let _ = reader.extract(&wanted, &mut io::sink(), |_, _, _| {});
        }
        let _ = verify(home.path(), None, |_, _| {});
    };
    read();
    if let Ok(store) = Store::open(home.path(), form.settings.clone(), form.key.clone()) {
        let _ = store.finish();
    }
    read();
}
