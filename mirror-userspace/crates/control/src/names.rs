//! Follows the files that name mirror sessions and hosts: a thread of low priority reads those that change, so that the
//! writer of records never waits for a file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mirror_base::Slot;
use mirror_records::names::{Names, Watched};

use crate::host::spawn_beside;

/// The interval at which the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Leaves the names of `files` in `slot` now, and again whenever a file changes, until the process ends. A file that cannot
/// be used is reported once, and its last names stay.
///
/// # Errors
///
/// Fails if the thread cannot be started.
pub fn follow(files: &[PathBuf], slot: Arc<Slot<Option<Arc<Names>>>>) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut watched = Watched::new(files);
    let run = move || {
        loop {
            let (names, errors) = watched.read();
            for error in errors {
                tracing::warn!("{error}; the names that were read before stay");
            }
            if let Some(names) = names {
                tracing::info!("names of {} mirror sessions are in force", names.sessions());
                slot.leave(Some(Arc::new(names)));
            }
            thread::sleep(INTERVAL);
        }
    };
    spawn_beside("names", run)
}
