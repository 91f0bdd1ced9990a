//! The programs that are measured beside mirror-xdp, installed where they are asked for.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command::{as_root, find_program, run, step};
use crate::setup::packages;

/// Those that are plain packages everywhere.
const PLAIN: [&str; 2] = ["tcpdump", "netsniff-ng"];
const SURICATA: &str = "suricata";

fn is_missing(program: &&str) -> bool {
    find_program(program).is_none()
}

/// Those that are not installed.
pub(super) fn missing() -> Vec<String> {
    PLAIN.into_iter().chain([SURICATA]).filter(is_missing).map(str::to_owned).collect()
}

/// Installs those that are missing.
pub(super) fn install() -> Result<()> {
    let plain: Vec<_> = PLAIN.into_iter().filter(is_missing).collect();
    if !plain.is_empty() {
        packages::install(&plain)?;
    }
    if is_missing(&SURICATA) {
        packages::update()?;
        if packages::candidate(SURICATA).is_some() {
            packages::install(&[SURICATA])?;
        } else {
            install_from_backports(SURICATA)?;
        }
    }
    step("The programs to measure beside mirror-xdp are there");
    Ok(())
}

/// Debian's stable releases do not always have it, but its backports do.
fn install_from_backports(package: &str) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename =
        codename.with_context(|| format!("apt has no {package}, and this is no release of Debian"))?;
    let suite = format!("{codename}-backports");
    let list = format!("/etc/apt/sources.list.d/{suite}.list");
    step(&format!("apt has no {package}: adding Debian's {suite} in {list}"));
    let source = format!("deb http://deb.debian.org/debian {suite} main");
    let mut write = as_root("sh", "adding a source of packages")?;
    run(write.args(["-c", "printf '%s\\n' \"$1\" > \"$2\"", "sh", &source, &list]))?;
    packages::install_from(&suite, &[package])
}
