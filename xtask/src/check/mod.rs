//! `cargo xtask check`: the checks that a change has to pass besides its tests.

mod licences;
mod modules;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::command::{cargo, run, step, workspace};
use crate::generate::generate;
use crate::objects;
use crate::setup::setup;

/// The directory of the crates of user space, relative to the workspace's root.
const CRATES: &str = "mirror-userspace/crates";

pub(crate) fn main() -> Result<ExitCode> {
    let toolchain = setup()?;
    step("Formatting");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(Command::new("rustfmt").args(["--edition", "2024", "--check"]).args(protocols()?))?;
    step("Circles between modules");
    modules::check(&sources()?)?;
    step("Licences of dependencies");
    licences::check()?;
    step("Lints");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    step("Generated files");
    generate(true)?;
    step("Documentation");
    run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))?;
    objects::compare(&toolchain)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the directories with the sources of all crates.
fn sources() -> Result<Vec<PathBuf>> {
    let root = workspace();
    let mut sources = ["mirror-xdp-common/src", "mirror-userspace/src", "xtask/src", "tests/src"]
        .map(|source| root.join(source))
        .to_vec();
    let crates = root.join(CRATES);
    let entries = fs::read_dir(&crates).with_context(|| format!("cannot read {}", crates.display()))?;
    for entry in entries {
        sources.push(entry?.path().join("src"));
    }
    sources.sort();
    Ok(sources)
}

/// Returns the modules of the protocols. A macro declares them, by the rows of its table, so `cargo fmt` does not
/// find them.
fn protocols() -> Result<Vec<PathBuf>> {
    let directory = workspace().join(CRATES).join("protocols/src");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut modules = Vec::new();
    for entry in entries {
        modules.push(entry?.path().join("mod.rs"));
    }
    modules.retain(|module| module.is_file());
    modules.sort_unstable();
    Ok(modules)
}
