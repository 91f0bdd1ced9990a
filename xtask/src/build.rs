//! `cargo xtask build`: the eBPF objects, then the binary that embeds them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::command::{cargo, run, step};
use crate::objects;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build with optimisations, as for deployment
    #[arg(long)]
    release: bool,

    /// Compile the eBPF programs and store their objects in the repository; build nothing else
    #[arg(long, conflicts_with = "release")]
    update_objects: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if args.update_objects {
        objects::update()?;
        step("Stored the eBPF objects");
        return Ok(ExitCode::SUCCESS);
    }
    let binary = build(if args.release { Profile::Release } else { Profile::Dev })?;
    step(&format!("Built {}", binary.display()));
    Ok(ExitCode::SUCCESS)
}

/// How the binary is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests, guests and the demonstration: builds soon, with assertions.
    Dev,
    /// For deployment and benchmarks: optimised as a whole, which takes minutes on one CPU.
    Release,
}

/// Sets up, builds everything and returns the path of the binary.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    objects::provide()?;
    build_binary(profile)
}

/// Builds the binary with the eBPF objects that are in `target/ebpf`; returns its path.
pub(crate) fn build_binary(profile: Profile) -> Result<PathBuf> {
    step("Building mirror-xdp");
    let mut command = cargo();
    command.args(["build", "--package", "mirror-userspace"]);
    let directory = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    run(&mut command)?;
    let directory = target_directory()?.join(directory);
    Ok(directory.join("mirror-xdp"))
}

/// Returns cargo's target directory, as the user has configured it: this program was built there too.
fn target_directory() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find the path of this program")?;
    // …/debug/xtask
    this.ancestors().nth(2).map(Path::to_path_buf).context("this program was not built by cargo")
}
