//! `cargo xtask test`: builds the product in release mode, then runs all tests against it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::build;
use crate::command::{cargo, display, find_program, root_prefix, step, workspace};
use crate::dist::package;
use crate::setup::tools;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for `cargo test`; by default, the tests of the whole workspace run
    #[arg(last = true, value_name = "CARGO TEST ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    run(&args.arguments, &[])
}

/// Builds, then runs `cargo test` with these arguments and environment variables.
pub(crate) fn run(arguments: &[OsString], variables: &[(&str, String)]) -> Result<ExitCode> {
    let binary = build(true)?;
    tools::get()?;
    // If Debian's tools are missing, the test of the package reports it.
    let package = match find_program("dpkg-shlibdeps") {
        Some(_) => Some(package(&binary, &workspace().join("target/dist"))?),
        None => None,
    };
    step("Running the tests");
    let mut command = cargo();
    // Report all failures, not only those of the first file.
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("MIRROR_XDP_BIN", binary)
        .envs(package.map(|[package, _]| ("MIRROR_XDP_DEB", package)));
    let runner =
        root_prefix("making network namespaces for the tests, and loading eBPF programs into them,")?;
    if !runner.is_empty() {
        // Rust's string literals quote the characters that occur in paths as TOML does.
        let words: Vec<_> = runner.iter().map(|word| format!("{:?}", word.to_string_lossy())).collect();
        command.arg("--config").arg(format!("target.'cfg(all())'.runner=[{}]", words.join(",")));
    }
    // Nothing is printed after this: the last lines are cargo's, with the number of tests that passed.
    let status = command.status().with_context(|| format!("cannot start `{}`", display(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
