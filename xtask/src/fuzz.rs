//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a while.
//!
//! The compiler that builds everything else builds them too, and need not be a nightly: LLVM's sancov pass
//! inserts the coverage that libFuzzer reads, and debug assertions are on. Each run first replays the target's
//! committed corpus, `fuzz/corpus/TARGET`. Inputs that reach new code stay in `fuzz/target` for the next run;
//! `--update-corpus` merges them into the committed corpus.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{cargo, cpus, display, run, side_by_side, step, workspace};

/// Directory of the targets and their workspace, relative to the root of this one.
const DIRECTORY: &str = "fuzz";
/// Directory of the protocols, relative to the workspace's root: the target of a protocol may be in its folder.
const PROTOCOLS: &str = "mirror-userspace/crates/protocols/src";
/// The environment variable that names the target to a package's program.
const SELECTED: &str = "MIRROR_XDP_FUZZ_TARGET";
/// Size limit of an input in bytes.
const MAX_LEN: u32 = 65_536;
/// Size limit in bytes of an input that is found or committed: larger ones reach little more code.
const MAX_CORPUS_LEN: u32 = 4096;
/// Memory limit of a target, in MB: exceeding it is a finding.
const MAX_MEMORY: u32 = 1024;
/// Time limit for one input, in seconds: exceeding it is a finding.
const MAX_SECONDS: u32 = 10;
/// Lines shown of a failed target's output.
const SHOWN: usize = 40;

/// Flags for the coverage that libFuzzer needs.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cdebug-assertions -Coverflow-checks";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Targets to run; all by default
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,

    /// Duration of each target's run, besides the replay of its corpus
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,

    /// Targets to run at a time; one for each CPU by default
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Instead of fuzzing, merge what earlier runs have found into the committed corpora, and minimize them
    #[arg(long)]
    update_corpus: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    let names: Vec<_> =
        if args.targets.is_empty() { all.keys().collect() } else { args.targets.iter().collect() };
    let mut targets = Vec::new();
    for name in names {
        let package = all.get(name).with_context(|| {
            let names: Vec<_> = all.keys().map(String::as_str).collect();
            format!("there is no target `{name}`; the targets are {}", names.join(", "))
        })?;
        targets.push((name, package));
    }
    let home = workspace().join(DIRECTORY).join("target");
    let programs = build(&targets, &home)?;
    let targets: Vec<_> = targets
        .into_iter()
        .map(|(name, package)| Target::new(name, programs.join(package_name(package)), &home))
        .collect::<Result<_>>()?;
    let jobs = args.jobs.unwrap_or_else(cpus).max(1);
    let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
    if args.update_corpus {
        step(&format!("Minimizing the corpora of {}", names.join(", ")));
    } else {
        step(&format!("Fuzzing {} for {} seconds each, {jobs} at a time", names.join(", "), args.seconds));
    }
    let run = |target: &Target| {
        let done = if args.update_corpus { target.update_corpus() } else { target.fuzz(args.seconds) };
        match done {
            Ok(said) => {
                eprintln!("{}: {said}", target.name);
                None
            }
            Err(error) => {
                eprintln!("{}: {error:#}", target.name);
                Some(target.name.clone())
            }
        }
    };
    let failed: Vec<_> = side_by_side(&targets, jobs, run).into_iter().flatten().collect();
    ensure!(failed.is_empty(), "these targets found something: {}", failed.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Builds the packages of targets; returns the directory of their programs.
fn build(targets: &[(&String, &String)], home: &Path) -> Result<PathBuf> {
    let triple = host()?;
    step("Building the fuzz targets");
    let mut packages: Vec<_> = targets.iter().map(|(_, package)| package_name(package)).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut command = cargo();
    // With `--target`, build scripts and macros are built without coverage.
    command.current_dir(workspace().join(DIRECTORY)).args(["build", "--release", "--target", &triple]);
    command.arg("--target-dir").arg(home);
    run(command.args(packages.iter().flat_map(|name| ["--package", name])).env("RUSTFLAGS", COVERAGE))?;
    Ok(home.join(triple).join("release"))
}

/// Returns the name of a package, and of its program, by its directory.
fn package_name(directory: &str) -> String {
    format!("fuzz-{directory}")
}

/// A target that is built.
struct Target {
    name: String,
    program: PathBuf,
    /// The corpus that is committed.
    corpus: PathBuf,
    /// Inputs that earlier runs have found.
    found: PathBuf,
    /// Inputs that made it fail.
    artifacts: PathBuf,
    log: PathBuf,
}

impl Target {
    fn new(name: &str, program: PathBuf, home: &Path) -> Result<Self> {
        let directory = |path: PathBuf| {
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))
                .map(|()| path)
        };
        Ok(Self {
            name: name.to_owned(),
            program,
            corpus: directory(workspace().join(DIRECTORY).join("corpus").join(name))?,
            found: directory(home.join("corpus").join(name))?,
            artifacts: directory(home.join("artifacts").join(name))?,
            log: home.join(format!("{name}.log")),
        })
    }

    /// Replays the corpus, then tries new inputs for some seconds; returns libFuzzer's summary.
    fn fuzz(&self, seconds: u32) -> Result<String> {
        // With no new inputs to try, libFuzzer ends when it has run the corpus.
        let replayed = Instant::now();
        self.run(&[&"-runs=0"], &[&self.corpus])?;
        let replayed = replayed.elapsed();
        let limits = [format!("-max_total_time={seconds}"), format!("-max_len={MAX_LEN}")];
        let said =
            self.run(&[&limits[0], &limits[1], &"-print_final_stats=1"], &[&self.found, &self.corpus])?;
        let done = said.lines().find(|line| line.starts_with("Done ")).unwrap_or("done");
        Ok(format!("replayed its corpus in {:.1} s; {done}", replayed.as_secs_f32()))
    }

    /// Replaces the committed corpus by the smallest part of it and of the found inputs that reaches the same
    /// code.
    fn update_corpus(&self) -> Result<String> {
        let merged = self.found.with_extension("merged");
        let _ = fs::remove_dir_all(&merged);
        fs::create_dir_all(&merged)?;
        let limit = format!("-max_len={MAX_CORPUS_LEN}");
        self.run(&[&"-set_cover_merge=1", &limit], &[&merged, &self.corpus, &self.found])?;
        fs::remove_dir_all(&self.corpus)?;
        fs::create_dir_all(&self.corpus)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&merged)? {
            let file = entry?;
            bytes += fs::copy(file.path(), self.corpus.join(file.file_name()))?;
            files += 1;
        }
        fs::remove_dir_all(&merged)?;
        Ok(format!("{files} inputs, {bytes} bytes"))
    }

    /// Runs the program on directories of inputs; returns its output.
    fn run(&self, arguments: &[&dyn AsRef<OsStr>], inputs: &[&Path]) -> Result<String> {
        let said = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .env(SELECTED, &self.name)
            .args(arguments)
            .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
            .arg(format!("-timeout={MAX_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", self.artifacts.display()))
            .args(inputs)
            .stdout(said.try_clone()?)
            .stderr(said);
        let status = command.status().with_context(|| format!("cannot start `{}`", display(&command)))?;
        let said = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        if !status.success() {
            let lines: Vec<_> = said.lines().collect();
            bail!(
                "failed ({status}); the input is in {}\n{}",
                self.artifacts.display(),
                lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
            );
        }
        Ok(said)
    }
}

/// Returns the targets with the directories of their packages, as `fuzz/build.rs` finds them: by their files.
fn targets() -> Result<BTreeMap<String, String>> {
    let mut targets = BTreeMap::new();
    for package in entries(&workspace().join(DIRECTORY))? {
        if !package.join("Cargo.toml").is_file() {
            continue;
        }
        for file in entries(&package.join("targets"))? {
            targets.insert(stem(&file), stem(&package));
        }
    }
    for protocol in entries(&workspace().join(PROTOCOLS))? {
        if protocol.join("fuzz.rs").is_file() {
            targets.insert(stem(&protocol), "protocols".to_owned());
        }
    }
    Ok(targets)
}

/// Returns the paths of a directory's entries.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(cannot)?;
    entries.map(|entry| Ok(entry.with_context(cannot)?.path())).collect()
}

/// Returns the name of a file without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the target triple that the compiler builds for by default.
fn host() -> Result<String> {
    let version = crate::command::output(Command::new("rustc").arg("-vV")).context("cannot run rustc")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` prints no host")?.to_owned())
}
