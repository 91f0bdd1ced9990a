//! The packet store of a command that keeps packets.

use std::path::Path;

use crate::config::StoreSettings;
use crate::store::{Store, StoreKey};

/// Opens the store in `directory`, if there is to be one, and says what was found unfinished in it.
pub(super) fn open(directory: Option<&Path>, settings: &StoreSettings) -> anyhow::Result<Option<Store>> {
    let Some(directory) = directory else { return Ok(None) };
    let key = settings.key.as_deref().map(StoreKey::load).transpose()?;
    let store = Store::open(directory, settings.settings.clone(), key)?;
    for (name, outcome) in store.recovered() {
        eprintln!("mirror-xdp: {}: {outcome}", directory.join(name).display());
    }
    Ok(Some(store))
}

/// Ends a store whose workers have ended, and says by what its end is known.
pub(super) fn finish(store: Store, quiet: bool) {
    let head = store.finish();
    if !quiet {
        eprintln!("store: the manifest's head is {head}");
    }
}
