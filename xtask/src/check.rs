//! `cargo xtask check`: the checks that a change has to pass besides its tests.

use std::process::ExitCode;

use anyhow::Result;

use crate::build::build_ebpf;
use crate::command::{cargo, run, step};
use crate::generate::generate;
use crate::setup::setup;

pub(crate) fn main() -> Result<ExitCode> {
    let toolchain = setup()?;
    step("Formatting");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    step("Lints");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    step("Documentation");
    run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))?;
    step("Generated files");
    generate(true)?;
    build_ebpf(&toolchain, true)?;
    Ok(ExitCode::SUCCESS)
}
