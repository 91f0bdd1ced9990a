//! The programs that are measured beside mirror-xdp, which are installed on request.

use anyhow::Result;

use crate::command::{find_program, step};
use crate::setup::packages;

/// Programs that every release has packages of.
const PLAIN: [&str; 2] = ["tcpdump", "netsniff-ng"];
const SURICATA: &str = "suricata";

fn is_missing(program: &&str) -> bool {
    find_program(program).is_none()
}

/// Returns the programs that are not installed.
pub(super) fn missing() -> Vec<String> {
    PLAIN.into_iter().chain([SURICATA]).filter(is_missing).map(str::to_owned).collect()
}

/// Installs the missing programs.
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
            packages::install_from_backports(&[SURICATA])?;
        }
    }
    step("The programs to measure beside mirror-xdp are installed");
    Ok(())
}
