//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a while.
//!
//! They are built by the compiler that builds everything else, which need not be a nightly one: the coverage
//! that libFuzzer looks at is a pass of LLVM's, debug assertions are on. They begin with frames and messages of
//! the project's own builders (`seeds`); inputs that led somewhere new are kept in `fuzz/target` for the
//! next time.

mod seeds;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{cargo, cpus, display, run, side_by_side, step, workspace};

/// Directory of the targets and their crate, in the workspace's root.
const DIRECTORY: &str = "fuzz";
/// A target that needs more memory than this has found something, in MB.
const MAX_MEMORY: u32 = 1024;
/// One input that takes longer than this is a finding, in seconds.
const MAX_SECONDS: u32 = 10;
/// Lines of a failed target's output that are shown.
const SHOWN: usize = 40;

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

    /// How many run at a time; as many as there are CPUs unless said otherwise
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    let targets = if args.targets.is_empty() { &all } else { &args.targets };
    for target in targets {
        ensure!(all.contains(target), "there is no target `{target}`; there are {}", all.join(", "));
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
    ensure!(failed.is_empty(), "something was found by {}", failed.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Builds targets; the directory that they are in.
fn build(targets: &[String], home: &Path) -> Result<PathBuf> {
    let triple = host()?;
    step("Building the fuzz targets");
    let mut command = cargo();
    // With `--target`, build scripts and macros are built without coverage.
    command.current_dir(workspace().join(DIRECTORY)).args(["build", "--release", "--target", &triple]);
    run(command.args(targets.iter().flat_map(|target| ["--bin", target])).env("RUSTFLAGS", COVERAGE))?;
    Ok(home.join(triple).join("release"))
}

/// Runs a target; what it says at the end.
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
