//! The packet store of a command that writes or reads packets.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mirror_base::ParseError;
use mirror_base::file::directory_of;
use mirror_control::config::StoreSettings;
use mirror_store::remote::Location;
use mirror_store::{self, Store, StoreError, StoreKey, UploadCounters, manifest};

/// A store to read from, in the notation of an argument.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Directory(PathBuf),
    Copy(Location),
}

impl Place {
    /// Parses the name of a directory, or the URL of a copy.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if Location::is_meant(text) {
            location(text).map(Self::Copy)
        } else {
            Ok(Self::Directory(PathBuf::from(text)))
        }
    }
}

/// Parses the URL of a copy.
pub(super) fn location(text: &str) -> Result<Location, String> {
    text.parse().map_err(|wrong: ParseError| wrong.to_string())
}

/// Returns an error if the directory is not a store.
pub(super) fn is_store(directory: &Path) -> anyhow::Result<()> {
    let (path, file) = (directory.display(), manifest::FILE_NAME);
    let found = mirror_store::is_store(directory).with_context(|| format!("cannot read {path}"))?;
    anyhow::ensure!(found, "{path} is no store: it has no {file}");
    Ok(())
}

/// Creates a file for packets, unless it would be in the directory of a store: there it could replace a segment, or
/// the manifest.
pub(super) fn create_outside(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    // A link leads to where the file would be.
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = directory_of(&place);
    anyhow::ensure!(
        // If it cannot be examined, the file cannot be created in it either.
        !mirror_store::is_store(&directory).unwrap_or(false),
        "{} is in the directory of a packet store; write to another directory",
        path.display()
    );
    options.write(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Opens the store in `directory`, if given, and reports unfinished segments that it found.
pub(super) fn open(directory: Option<&Path>, settings: &StoreSettings) -> anyhow::Result<Option<Store>> {
    open_by(Store::open, directory, settings)
}

/// As [`open`], for a capture: it starts even if the store's disk fails or is full.
pub(super) fn open_to_capture(
    directory: Option<&Path>,
    settings: &StoreSettings,
) -> anyhow::Result<Option<Store>> {
    open_by(Store::open_or_wait, directory, settings)
}

fn open_by(
    open: impl FnOnce(&Path, mirror_store::Settings, Option<StoreKey>) -> Result<Store, StoreError>,
    directory: Option<&Path>,
    settings: &StoreSettings,
) -> anyhow::Result<Option<Store>> {
    let Some(directory) = directory else { return Ok(None) };
    let key = settings.key.as_deref().map(StoreKey::load).transpose()?;
    let store = open(directory, settings.settings.clone(), key)?;
    for (name, outcome) in store.recovered() {
        super::complain(format_args!("{}: {outcome}", directory.join(name).display()));
    }
    for strange in store.strange() {
        super::complain(format_args!("{}: {strange}", directory.display()));
    }
    Ok(Some(store))
}

/// Finishes a store whose workers have ended, and prints the head of its manifest. Returns the counters of
/// the upload, if there is one.
pub(super) fn finish(store: Store, quiet: bool) -> Option<UploadCounters> {
    let (upload, is_open) = (store.upload(), store.is_open());
    let head = store.finish();
    let uploaded = upload.map(|upload| upload.counters());
    if !quiet {
        if is_open {
            eprintln!("store: the manifest's head is {head}");
        }
        if let Some(UploadCounters { to, waiting: waiting @ 1.., .. }) = &uploaded {
            eprintln!(
                "store: {waiting} segments are not uploaded to {to} yet; the next start continues the upload"
            );
        }
    }
    uploaded
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hostile_names_of_output_files_replace_nothing_in_a_store() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        fs::create_dir(&store).unwrap();
        for name in [manifest::FILE_NAME, "00000001-w0-20260301T080000Z.pcapng"] {
            fs::write(store.join(name), "kept").unwrap();
            symlink(store.join(name), root.path().join(name)).unwrap();
        }
        symlink(&store, root.path().join("link")).unwrap();
        let create = |path: &str| {
            create_outside(&root.path().join(path), OpenOptions::new().create(true).truncate(true))
        };
        for path in ["store/new.pcapng", "link/new.pcapng", "link/manifest.jsonl", manifest::FILE_NAME] {
            let error = create(path).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("packet store"), "{error}");
        }
        assert!(!store.join("new.pcapng").exists());
        assert_eq!(fs::read(store.join(manifest::FILE_NAME)).unwrap(), b"kept");
        create("new.pcapng").unwrap();
        assert!(create("missing/new.pcapng").unwrap_err().to_string().contains("cannot write"));
    }
}
