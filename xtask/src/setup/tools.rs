//! Programs that only the tests of monitoring need: a browser for the page, and promtool for metrics and
//! alerts. If the system has no packages of them, those tests report that they skipped.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages;
use crate::command::{find_program, run, step, workspace};

/// Names of browsers, of which one is enough; the last ones are installed by other means.
const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// Installs the missing programs that the system has packages of.
pub(crate) fn get() -> Result<()> {
    if packages::has_apt() && BROWSERS.iter().all(|name| find_program(name).is_none()) {
        // On a new machine apt knows of no package before the lists are fetched.
        packages::update()?;
        if packages::candidate(BROWSERS[0]).is_some() {
            packages::install(&BROWSERS[..1])?;
        }
    }
    promtool()
}

/// Unpacks promtool from Debian's package without installing it: the package would also start a server.
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
