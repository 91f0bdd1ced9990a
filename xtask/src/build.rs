//! `cargo xtask build`: the eBPF objects, then the binary that embeds them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::command::{cargo, run, step, workspace};
use crate::objects::{self, copy_where_different};
use crate::setup::toolchain::Toolchain;

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

/// Compiles the eBPF programs into `target/ebpf`, one object each; the `build.rs` of the device crate embeds them.
pub(crate) fn compile_ebpf(toolchain: &Toolchain, deny_warnings: bool) -> Result<()> {
    step("Compiling the eBPF programs");
    let root = workspace();
    let target = root.join("target/ebpf-build");
    let mut command = toolchain.cargo();
    command
        .args(["build", "--package", "mirror-xdp-ebpf", "--profile", "ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target);
    if deny_warnings {
        command.args(["-Z", "warnings", "--config", "build.warnings='deny'"]);
    }
    run(&mut command)?;
    let objects = root.join("target/ebpf");
    fs::create_dir_all(&objects).with_context(|| format!("cannot create {}", objects.display()))?;
    let built = target.join("bpfel-unknown-none/ebpf");
    for entry in fs::read_dir(&built).with_context(|| format!("cannot read {}", built.display()))? {
        let program = entry?.path();
        // The directory also holds dependency lists (`*.d`), directories and a hidden lock file.
        let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if program.is_file() && !name.contains('.') {
            copy_where_different(&program, &objects.join(format!("{name}.o")))?;
        }
    }
    Ok(())
}

/// Returns cargo's target directory, as the user has configured it: this program was built there too.
fn target_directory() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find the path of this program")?;
    // …/debug/xtask
    this.ancestors().nth(2).map(Path::to_path_buf).context("this program was not built by cargo")
}
