//! `cargo xtask test`: builds the product, then runs all tests against it.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::{Profile, build, build_binary};
use crate::command::{cargo, cpus, display, find_program, root_prefix, step, workspace};
use crate::dist::package;
use crate::objects;
use crate::setup::{setup, tools};

/// The environment variable for the number of tests that run at the same time.
const THREADS: &str = "RUST_TEST_THREADS";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for `cargo test`; by default, the tests of the whole workspace run
    #[arg(last = true, value_name = "CARGO TEST ARGUMENTS")]
    arguments: Vec<OsString>,

    /// Test the eBPF objects that are compiled here, unless they are the same bytes as the stored ones
    #[arg(long)]
    compiled_objects: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if !args.compiled_objects {
        return run(&args.arguments, &[]);
    }
    if objects::compare(&setup()?)? {
        step("The eBPF objects that are compiled here are the stored ones: there is nothing else to test");
        return Ok(ExitCode::SUCCESS);
    }
    run_with(&build_binary(Profile::Dev)?, &args.arguments, &[])
}

/// Builds, then runs `cargo test` with these arguments and environment variables.
pub(crate) fn run(arguments: &[OsString], variables: &[(&str, String)]) -> Result<ExitCode> {
    run_with(&build(Profile::Dev)?, arguments, variables)
}

/// Runs `cargo test` for this binary.
fn run_with(binary: &Path, arguments: &[OsString], variables: &[(&str, String)]) -> Result<ExitCode> {
    tools::get()?;
    // If Debian's tools are missing, the test of the package reports it.
    let package = match find_program("dpkg-shlibdeps") {
        Some(_) => Some(package(binary, &workspace().join("target/dist"))?),
        None => None,
    };
    step("Running the tests");
    // End-to-end tests wait for most of their time.
    let threads = env::var_os(THREADS).unwrap_or_else(|| (2 * cpus()).to_string().into());
    let mut command = cargo();
    // Report all failures, not only those of the first file.
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("MIRROR_XDP_BIN", binary)
        .env(THREADS, threads)
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
