//! `cargo xtask run`: shows the product in the lab, or runs it as root with the arguments given.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use mirror_xdp_tests::lab::{self, Outcome};

use crate::build::{Profile, build};
use crate::command::{as_root, display};

/// Build, then show mirror-xdp at work in the lab, or run `mirror-xdp ARGUMENTS` as root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for mirror-xdp; without any, the lab runs: a small network of namespaces in which real
    /// programs talk, mirrored to an appliance
    #[arg(last = true, value_name = "MIRROR-XDP ARGUMENTS")]
    arguments: Vec<OsString>,

    /// Run the lab with this binary; this program starts itself as root with this flag
    #[arg(long, hide = true, value_name = "BINARY", conflicts_with = "arguments")]
    lab: Option<PathBuf>,
}

/// Arguments of `cargo xtask pktgen`.
#[derive(Debug, clap::Args)]
pub(crate) struct PktgenArgs {
    /// Arguments for `mirror-xdp pktgen`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PKTGEN ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Builds, then runs `mirror-xdp pktgen` as root.
pub(crate) fn pktgen(args: PktgenArgs) -> Result<ExitCode> {
    let binary = build(Profile::Dev)?;
    run(as_root(binary, "sending through an XDP program")?.arg("pktgen").args(args.arguments))
}

pub(crate) fn main(args: Args) -> Result<ExitCode> {
    if let Some(binary) = args.lab {
        return run_lab(&binary);
    }
    let binary = build(Profile::Dev)?;
    if !args.arguments.is_empty() {
        return run(as_root(binary, "loading an XDP program")?.args(args.arguments));
    }
    if nix::unistd::geteuid().is_root() {
        return run_lab(&binary);
    }
    let this = env::current_exe().context("cannot find the path of this program")?;
    let mut command = as_root(this, "making network namespaces, and loading eBPF programs into them,")?;
    run(command.args(["run", "--lab"]).arg(binary))
}

/// Runs a command to its end and returns its exit code.
fn run(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start `{}`", display(command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn run_lab(binary: &Path) -> Result<ExitCode> {
    Ok(match lab::run(binary).context("the lab cannot run")? {
        Outcome::Passed => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
        // The exit code that shells report for a program ended by Ctrl-C.
        Outcome::Interrupted => ExitCode::from(130),
    })
}
