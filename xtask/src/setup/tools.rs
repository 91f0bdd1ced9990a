//! Programs that only tests of monitoring need: a browser for the page, and promtool for metrics and alerts.
//! Where the system's packages do not have them, those tests say that they skipped.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages;
use crate::command::{find_program, run, step, workspace};

/// Any of these will do; the last are installed by other means.
const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// Gets what is missing and can be had.
pub(crate) fn get() -> Result<()> {
    if packages::has_apt() && BROWSERS.iter().all(|name| find_program(name).is_none()) {
        // Before the lists are fetched, apt knows of no package at all on a machine that is new.
        packages::update()?;
        if packages::candidate(BROWSERS[0]).is_some() {
            packages::install(&BROWSERS[..1])?;
        }
    }
    promtool()
}

/// Debian's package would also start a server on this machine, so it is only unpacked.
fn promtool() -> Result<()> {
    let tools = workspace().join("target/tools");
    let unpacked = tools.join("usr/bin/promtool").is_file();
    if unpacked || find_program("promtool").is_some() || !packages::has_apt() {
        return Ok(());
    }
    packages::update()?;
    if packages::candidate("prometheus").is_none() {
        return Ok(());
    }
    step("Fetching promtool");
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    run(Command::new("apt-get").args(["download", "--quiet", "prometheus"]).current_dir(&tools))?;
    for entry in fs::read_dir(&tools)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(&tools))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
