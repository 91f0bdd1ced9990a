//! Confines commands that read the data of others: capture files, stores, configurations. They give up their
//! rights before they read anything.

use std::env;
use std::path::{Path, PathBuf};

use mirror_base::sandbox::{self, Files, Kind};
use mirror_store::remote::Location;
use mirror_store::upload;

use super::store::Place;

/// The directories where distributions store the certificates of authorities.
const AUTHORITIES: [&str; 5] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];
/// Environment variables that name other certificates.
const OTHER_AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Confines the process to these files.
pub(super) fn to(kind: Kind, files: Files) -> anyhow::Result<()> {
    sandbox::install(&[(kind, files)].into())?;
    sandbox::this_thread(kind);
    Ok(())
}

/// Confines a command that reads any file, because a configuration names further ones, and writes none.
pub(super) fn to_reading() -> anyhow::Result<()> {
    to(Kind::Read, Files { read: vec!["/".into()], ..Files::default() })
}

/// Confines a command that reads a store and writes only to files that are open already. It may read the
/// store's directory and copies in directories, and use the network if the store, or one of its copies, is
/// remote.
pub(super) fn to_store(place: &Place, copies: &[Location]) -> anyhow::Result<()> {
    match place {
        Place::Directory(directory) => {
            let near = copies.iter().filter_map(Location::directory);
            let read = near.chain([directory.as_path()]).map(Path::to_owned).collect();
            let mut files = Files { read, ..Files::default() };
            let all_near = copies.iter().all(|copy| copy.directory().is_some());
            let kind = if all_near { Kind::Read } else { Kind::ReadRemote };
            if kind == Kind::ReadRemote {
                files.read.extend(upload::credentials().into_iter().chain(authorities()));
            }
            to(kind, files)
        }
        Place::Copy(location) => to_copy(location),
    }
}

fn to_copy(location: &Location) -> anyhow::Result<()> {
    let mut files = upload::credentials();
    files.extend(location.directory().map(Path::to_owned));
    files.extend(authorities());
    let kind = if location.directory().is_some() { Kind::Read } else { Kind::ReadRemote };
    to(kind, Files { read: files, ..Files::default() })
}

fn authorities() -> impl Iterator<Item = PathBuf> {
    let others = OTHER_AUTHORITIES.iter().filter_map(|name| env::var_os(name).map(PathBuf::from));
    AUTHORITIES.into_iter().map(PathBuf::from).chain(others)
}
