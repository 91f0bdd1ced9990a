//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a while.
//!
//! They are built by the compiler that builds everything else, with the coverage that libFuzzer looks at
//! and with debug assertions; inputs that led somewhere new are kept in `fuzz/target` for the next time.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::command::{cargo, run, step, workspace};

/// Directory of the targets and their crate, in the workspace's root.
const DIRECTORY: &str = "fuzz";
/// A target that needs more memory than this has found something, in MB.
const MAX_MEMORY: u32 = 1024;
/// One input that takes longer than this is a finding, in seconds.
const MAX_SECONDS: u32 = 10;

/// What libFuzzer asks of the code that it is to find its way through.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Targets to run; without, all
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,

    /// How long each runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    let targets = if args.targets.is_empty() { &all } else { &args.targets };
    for target in targets {
        ensure!(all.contains(target), "there is no target `{target}`; there are {}", all.join(", "));
    }
    let triple = host()?;
    for target in targets {
        step(&format!("Fuzzing {target} for {} seconds", args.seconds));
        let corpus = workspace().join(DIRECTORY).join("target/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        // With `--target`, build scripts and macros are built without coverage.
        run(cargo()
            .current_dir(workspace().join(DIRECTORY))
            .args(["run", "--release", "--target", &triple, "--bin", target, "--"])
            .arg(corpus)
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
            .arg(format!("-timeout={MAX_SECONDS}"))
            .args(["-max_len=65536", "-print_final_stats=1"])
            .env("RUSTFLAGS", COVERAGE))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The targets, by the files that they are in.
fn targets() -> Result<Vec<String>> {
    let directory = workspace().join(DIRECTORY).join("targets");
    let files = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut targets = Vec::new();
    for file in files {
        if let Some(name) = file?.path().file_stem() {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort_unstable();
    Ok(targets)
}

/// The machine that the compiler builds for.
fn host() -> Result<String> {
    let version = crate::command::output(Command::new("rustc").arg("-vV")).context("rustc does not run")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it builds for")?.to_owned())
}
