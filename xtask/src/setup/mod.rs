//! `cargo xtask setup`: finds out what is missing, says so, installs it.
//!
//! Two parts: what the system has to provide ([`packages`]), and the toolchain for the eBPF programs
//! ([`toolchain`]). Nothing is remembered between runs: each looks at what is there, which takes a
//! fraction of a second.

pub(crate) mod packages;
pub(crate) mod toolchain;
pub(crate) mod tools;

use std::process::ExitCode;

use anyhow::Result;

use crate::command::step;
use toolchain::Toolchain;

pub(crate) fn main() -> Result<ExitCode> {
    let toolchain = setup()?;
    tools::get()?;
    step(&format!("Everything is there. eBPF programs are built with {toolchain}"));
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that everything is there for building, running and testing.
pub(crate) fn setup() -> Result<Toolchain> {
    packages::install_missing()?;
    match toolchain::find() {
        Some(toolchain) => Ok(toolchain),
        None => toolchain::install(),
    }
}
