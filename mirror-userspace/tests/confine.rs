//! The limits of an attacker's code in a thread of mirror-xdp.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::{fs, thread};

use aya::maps::{Array, MapData, MapError};
use mirror_userspace::base::sandbox::{Confinement, Entered, Files, Kind};
use mirror_xdp_tests::calls::{self, Call, Outcome};
use mirror_xdp_tests::require;

/// Runs `body` on a confined thread of this kind, with a directory that it may write and one that it may
/// read.
fn confined(kind: Kind, body: impl FnOnce(&Path, &Path) + Send) {
    let (write, read) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = Files {
        read: vec![read.path().to_owned()],
        write: vec![write.path().to_owned()],
        ..Files::default()
    };
    fs::write(read.path().join("config"), "text").unwrap();
    let confinement = Confinement::new(kind, &files).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            if confinement.enter().unwrap() == (Entered { files: true, calls: true }) {
                body(write.path(), read.path());
            } else {
                require::not_met("the kernel has no seccomp, or no Landlock that is new enough");
            }
        });
    });
}

/// Makes a raw system call, without a library wrapper.
#[expect(unsafe_code, reason = "nothing else makes any call")]
fn make(call: &Call, outside: &Path) -> Outcome {
    let mut places = Vec::new();
    let values = call.values(outside, |bytes| {
        let place: Box<[u8]> = bytes.into();
        let address = place.as_ptr() as u64;
        places.push(place);
        address
    });
    // SAFETY: the memory to which addresses among the values point lives until the end of this function; the
    // calls do no harm if they are let through, see `calls::Call`.
    let result = unsafe {
        libc::syscall(call.number, values[0], values[1], values[2], values[3], values[4], values[5])
    };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
    Outcome::of(if result == -1 { -i64::from(errno) } else { result })
}

#[test]
fn hostile_calls_end_in_each_kind_of_thread_as_the_threat_model_says() {
    let outside = tempfile::tempdir().unwrap();
    let table = calls::table(&Kind::ALL.map(Kind::name));
    for kind in Kind::ALL {
        // Some kinds may make calls on files; only Landlock keeps the files of others from them.
        fs::write(outside.path().join("file"), "").unwrap();
        confined(kind, |_, _| {
            for row in &table {
                let outcome = make(&row.call, outside.path());
                assert_eq!(outcome, row.expected(kind.name()), "{kind}: {}", row.call.name);
            }
        });
        assert!(outside.path().join("file").exists() && !outside.path().join("new").exists(), "{kind}");
    }
}

#[test]
fn only_its_own_directories_are_left() {
    confined(Kind::Records, |write, read| {
        fs::write(write.join("eve.json"), "{}").unwrap();
        fs::rename(write.join("eve.json"), write.join("eve.json.1")).unwrap();
        fs::remove_file(write.join("eve.json.1")).unwrap();
        assert_eq!(fs::read_to_string(read.join("config")).unwrap(), "text");
        let denied = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::PermissionDenied;
        assert!(denied(fs::write(read.join("config"), "")));
        assert!(denied(fs::read("/etc/passwd").map(|_| ())));
        assert!(denied(fs::read("/etc/shadow").map(|_| ())));
        assert!(denied(fs::read_dir("/").map(|_| ())));
        assert!(denied(fs::write("/tmp/mirror-xdp-confined", "")));
        assert!(denied(fs::create_dir("/run/mirror-xdp-confined")));
    });
}

#[test]
fn hostile_writers_leave_nothing_in_their_directories_but_files_and_directories() {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    confined(Kind::Store, |write, _| {
        let inside = |name: &str| write.join(name);
        fs::write(inside("file"), "").unwrap();
        fs::create_dir(inside("directory")).unwrap();
        let denied = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::PermissionDenied;
        assert!(denied(symlink("/etc/shadow", inside("link"))));
        assert!(denied(fs::hard_link(inside("file"), inside("second"))));
        for mode in [0o4755, 0o2755] {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).mode(mode);
            assert!(denied(options.open(inside("set-id")).map(drop)));
        }
        assert!(denied(fs::DirBuilder::new().mode(0o2755).create(inside("set-gid"))));
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
        assert!(denied(fs::set_permissions(inside("file"), permissions)));
        assert!(denied(UnixListener::bind(inside("socket")).map(drop)));
        let moved = fs::rename(inside("file"), inside("directory/file"));
        assert_eq!(moved.unwrap_err().kind(), ErrorKind::CrossesDevices);
    });
}

#[test]
fn a_thread_that_is_confined_panics_with_its_message() {
    for kind in Kind::ALL {
        confined(kind, |_, _| {
            let panic = std::panic::catch_unwind(|| panic!("said by {}", kind.name())).unwrap_err();
            assert_eq!(*panic.downcast::<String>().unwrap(), format!("said by {}", kind.name()));
            // Allocation still works.
            assert!(vec![1_u8; 8 << 20].iter().all(|&byte| byte == 1));
        });
    }
}

#[test]
fn threads_are_started_by_the_kinds_that_need_them_and_are_as_confined() {
    for kind in [Kind::Control, Kind::Upload, Kind::Read, Kind::ReadRemote] {
        confined(kind, |_, _| {
            let denied = thread::spawn(|| fs::read("/etc/passwd").unwrap_err().kind()).join().unwrap();
            assert_eq!(denied, ErrorKind::PermissionDenied, "{kind}");
        });
    }
    confined(Kind::Worker, |_, _| {
        assert!(thread::Builder::new().spawn(|| ()).is_err());
    });
}

#[test]
fn who_talks_to_other_hosts_does_and_listens_to_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for kind in [Kind::Upload, Kind::ReadRemote] {
        confined(kind, |_, _| {
            TcpStream::connect(address).unwrap();
            assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
        });
    }
    confined(Kind::Main, |_, _| {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn abstract_sockets_of_others_are_out_of_reach() {
    let name = format!("mirror-xdp-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _others = UnixDatagram::bind_addr(&address).unwrap();
    // The socket exists already, as in the thread that writes records.
    let socket = UnixDatagram::unbound().unwrap();
    confined(Kind::Records, |_, _| {
        assert_eq!(socket.connect_addr(&address).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn no_map_is_made_but_those_at_hand_serve() {
    if !require::privileges() {
        return;
    }
    let mut array = new_map().unwrap();
    confined(Kind::Worker, move |_, _| {
        assert!(new_map().is_err());
        array.set(0, 7, 0).unwrap();
        assert_eq!(array.get(&0, 0).unwrap(), 7);
    });
}

/// Creates a map of one number.
fn new_map() -> Result<Array<MapData, u32>, MapError> {
    Array::create(1, 0)
}

/// Returns all source files below a directory, concatenated.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "target" {
                all += &sources(&path);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &fs::read_to_string(&path).unwrap();
        }
    }
    all
}

#[test]
fn each_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let all: String =
        ["mirror-xdp-common", "mirror-userspace", "tests"].map(|part| sources(&root.join(part))).concat();
    // Names of five words and more are names of tests.
    let names: Vec<_> = page
        .split('`')
        .filter(|name| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .filter(|name| name.matches('_').count() >= 4)
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !all.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
