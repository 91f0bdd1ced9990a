//! `cargo xtask test`: builds the product as it is deployed, then runs all tests against it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::build;
use crate::command::{cargo, display, root_prefix, step};
use crate::setup::tools;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for `cargo test`; without, the tests of the whole workspace
    #[arg(last = true, value_name = "CARGO TEST ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    run(&args.arguments, &[])
}

/// Builds, then runs `cargo test` with these arguments, and these variables in the environment.
pub(crate) fn run(arguments: &[OsString], variables: &[(&str, String)]) -> Result<ExitCode> {
    let binary = build(true)?;
    tools::get()?;
    step("Running the tests");
    let mut command = cargo();
    // All that fail are to be known, not only those of the first file.
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("MIRROR_XDP_BIN", binary);
    let runner =
        root_prefix("making network namespaces for the tests, and loading eBPF programs into them,")?;
    if !runner.is_empty() {
        // A TOML string is written as Rust writes one, for what stands in paths.
        let words: Vec<_> = runner.iter().map(|word| format!("{:?}", word.to_string_lossy())).collect();
        command.arg("--config").arg(format!("target.'cfg(all())'.runner=[{}]", words.join(",")));
    }
    // Nothing is printed after this: the last lines are cargo's, which say how many tests passed.
    let status = command.status().with_context(|| format!("cannot start `{}`", display(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
