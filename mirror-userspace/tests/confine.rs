//! What a worker that somebody else has taken over could no longer do.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use aya::maps::{Array, MapData, MapError};
use mirror_userspace::confine::{Confinement, Files};
use mirror_xdp_tests::require;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Runs `body` on a thread that is confined to a directory to write and one to read.
fn confined(body: impl FnOnce(&Path, &Path) + Send) {
    let (write, read) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = Files { read: vec![read.path().to_owned()], write: vec![write.path().to_owned()] };
    fs::write(read.path().join("config"), "text").unwrap();
    let confinement = Confinement::new(&files).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            if confinement.enter().unwrap() {
                body(write.path(), read.path());
            } else {
                assert!(std::env::var_os("CI").is_none(), "the kernel has no Landlock that is new enough");
            }
        });
    });
}

#[test]
fn only_its_own_directories_are_left() {
    confined(|write, read| {
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
fn no_program_is_run_and_nobody_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    confined(|write, _| {
        assert!(Command::new("/bin/sh").arg("-c").arg("true").status().is_err());
        let copy = write.join("program");
        fs::write(&copy, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(&copy).status().is_err());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn no_raw_socket_is_opened_and_no_map_made_but_those_at_hand_serve() {
    if !require::privileges() {
        return;
    }
    let mut array = new_map().unwrap();
    confined(move |_, _| {
        for family in [AddressFamily::Packet, AddressFamily::Inet] {
            assert!(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).is_err(), "{family:?}");
        }
        assert!(new_map().is_err());
        array.set(0, 7, 0).unwrap();
        assert_eq!(array.get(&0, 0).unwrap(), 7);
    });
}

/// A map of one number.
fn new_map() -> Result<Array<MapData, u32>, MapError> {
    Array::create(1, 0)
}
