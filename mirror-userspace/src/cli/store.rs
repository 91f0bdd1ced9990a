//! The packet store of a command that writes or reads packets.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mirror_control::config::StoreSettings;
use mirror_rules::text::ParseError;
use mirror_store::remote::Location;
use mirror_store::{self, Kept, Store, StoreError, StoreKey, UploadCounters, manifest};
use serde_json::json;

use super::run::{InForce, range};

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
        eprintln!("mirror-xdp: {}: {outcome}", directory.join(name).display());
    }
    for strange in store.strange() {
        eprintln!("mirror-xdp: {}: {strange}", directory.display());
    }
    Ok(Some(store))
}

/// Returns the settings in force, see [`InForce`].
pub(super) fn in_force(configured: &StoreSettings, upload_by_flag: bool) -> Vec<InForce> {
    let settings = &configured.settings;
    let (policy, retention) = (&settings.policy, &settings.retention);
    let time = |time: Duration| humantime::format_duration(time).to_string();
    let vnis = policy.vnis.as_ref().map(|vnis| vnis.iter().map(range).collect::<Vec<_>>());
    let age = |(vnis, age): &(Vec<RangeInclusive<u32>>, Duration)| json!({ "vnis": vnis.iter().map(range).collect::<Vec<_>>(), "max_age": time(*age) });
    let ages: Vec<_> = retention.ages.iter().map(age).collect();
    let rules = policy.rules.as_ref().map(|rules| rules.iter().map(ToString::to_string).collect::<Vec<_>>());
    let packet = match policy.packet {
        Kept::Whole => json!("whole"),
        Kept::Headers => json!("headers"),
        Kept::First(bytes) => json!(bytes),
    };
    let all = [
        ("store.segment_size", json!(settings.segment_size)),
        ("store.segment_time", json!(time(settings.segment_time))),
        ("store.memory", json!(settings.memory)),
        ("store.vnis", json!(vnis)),
        ("store.rules", json!(rules)),
        ("store.keep", json!(if policy.pre_trigger.is_some() { "alerts" } else { "all" })),
        ("store.pre_trigger", json!(policy.pre_trigger)),
        ("store.packet", packet),
        ("store.flow_bytes", json!(policy.flow)),
        ("store.compression", json!(settings.compression)),
        ("store.key", json!(configured.key)),
        ("store.max_size", json!(retention.max_size)),
        ("store.min_free", json!(retention.min_free)),
        ("store.max_age", json!(retention.max_age.map(time))),
        ("store.ages", json!(ages)),
        ("store.file_mode", json!(format!("{:04o}", settings.permissions.file))),
        ("store.directory_mode", json!(format!("{:04o}", settings.permissions.directory))),
    ];
    let mut all: Vec<InForce> = all.into_iter().map(|(key, value)| (key, value, None)).collect();
    let upload = settings.upload.as_ref().map(ToString::to_string);
    all.push(("store.upload", json!(upload), upload_by_flag.then_some("--store-upload")));
    all
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
