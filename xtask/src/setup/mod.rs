//! `cargo xtask setup`: finds out what is missing, lists it and installs it.
//!
//! It has two parts: the programs and headers that the system has to provide ([`packages`]), and the
//! toolchain for the eBPF programs ([`toolchain`]). Nothing is remembered between runs: each run looks at the
//! machine, which takes a fraction of a second.

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
    step(&format!("Everything is installed. The eBPF programs are built with {toolchain}"));
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing to build, run and test; returns the toolchain for the eBPF programs.
pub(crate) fn setup() -> Result<Toolchain> {
    packages::install_missing()?;
    match toolchain::find() {
        Some(toolchain) => Ok(toolchain),
        None => toolchain::install(),
    }
}
