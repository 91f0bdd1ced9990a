//! The programs that are measured beside mirror-xdp, installed where they are asked for.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command::{as_root, find_program, run, step};
use crate::setup::packages;

/// Installs those that are missing.
pub(super) fn install() -> Result<()> {
    let plain: Vec<_> =
        ["tcpdump", "netsniff-ng"].into_iter().filter(|name| find_program(name).is_none()).collect();
    if !plain.is_empty() {
        packages::install(&plain)?;
    }
    if find_program("suricata").is_none() {
        packages::update()?;
        if packages::candidate("suricata").is_some() {
            packages::install(&["suricata"])?;
        } else {
            install_from_backports("suricata")?;
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
