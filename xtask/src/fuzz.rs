//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a while.
//!
//! The compiler that builds everything else builds them too, and need not be a nightly: LLVM's sancov pass
//! inserts the coverage that libFuzzer reads, and debug assertions are on. The first inputs are frames and
//! messages of the project's own builders (`seeds`). Inputs that reach new code stay in `fuzz/target` for the
//! next run.

mod seeds;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{cargo, cpus, display, run, side_by_side, step, workspace};

/// Directory of the targets and their crate, relative to the workspace's root.
const DIRECTORY: &str = "fuzz";
/// Memory limit of a target, in MB: exceeding it is a finding.
const MAX_MEMORY: u32 = 1024;
/// Time limit for one input, in seconds: exceeding it is a finding.
const MAX_SECONDS: u32 = 10;
/// Lines shown of a failed target's output.
const SHOWN: usize = 40;

/// Flags for the coverage that libFuzzer needs.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Targets to run; all by default
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,

    /// Duration of each target's run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,

    /// Targets to run at a time; one for each CPU by default
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    let targets = if args.targets.is_empty() { &all } else { &args.targets };
    for target in targets {
        ensure!(all.contains(target), "there is no target `{target}`; the targets are {}", all.join(", "));
    }
    let home = workspace().join(DIRECTORY).join("target");
    let seeds = home.join("seeds");
    seeds::write(&seeds).with_context(|| format!("cannot write seeds to {}", seeds.display()))?;
    let programs = build(targets, &home)?;
    let jobs = args.jobs.unwrap_or_else(cpus).max(1);
    step(&format!("Fuzzing {} for {} seconds each, {jobs} at a time", targets.join(", "), args.seconds));
    let fuzz = |target: &String| match fuzz(target, &programs, &home, args.seconds) {
        Ok(said) => {
            eprintln!("{target}: {said}");
            None
        }
        Err(error) => {
            eprintln!("{target}: {error:#}");
            Some(target.clone())
        }
    };
    let failed: Vec<_> = side_by_side(targets, jobs, fuzz).into_iter().flatten().collect();
    ensure!(failed.is_empty(), "these targets found something: {}", failed.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Builds targets; returns the directory of their programs.
fn build(targets: &[String], home: &Path) -> Result<PathBuf> {
    let triple = host()?;
    step("Building the fuzz targets");
    let mut command = cargo();
    // With `--target`, build scripts and macros are built without coverage.
    command.current_dir(workspace().join(DIRECTORY)).args(["build", "--release", "--target", &triple]);
    run(command.args(targets.iter().flat_map(|target| ["--bin", target])).env("RUSTFLAGS", COVERAGE))?;
    Ok(home.join(triple).join("release"))
}

/// Runs a target; returns the last line of its output.
fn fuzz(target: &str, programs: &Path, home: &Path, seconds: u32) -> Result<String> {
    let directory = |of: &str| {
        let path = home.join(of).join(target);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display())).map(|()| path)
    };
    let (corpus, seeds, found) = (directory("corpus")?, directory("seeds")?, directory("artifacts")?);
    let log = home.join(format!("{target}.log"));
    let said = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(programs.join(target));
    command
        .args([corpus, seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
        .arg(format!("-timeout={MAX_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-max_len=65536", "-print_final_stats=1"])
        .stdout(said.try_clone()?)
        .stderr(said);
    let status = command.status().with_context(|| format!("cannot start `{}`", display(&command)))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let lines: Vec<_> = said.lines().collect();
        bail!(
            "failed ({status}); the input is in {}\n{}",
            found.display(),
            lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
        );
    }
    let done = said.lines().find(|line| line.starts_with("Done "));
    Ok(done.unwrap_or("done").to_owned())
}

/// Returns the names of the targets, which are those of their files.
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

/// Returns the target triple that the compiler builds for by default.
fn host() -> Result<String> {
    let version = crate::command::output(Command::new("rustc").arg("-vV")).context("cannot run rustc")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` prints no host")?.to_owned())
}
