//! Starts other programs, for all commands.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, stderr};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{available_parallelism, scope};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// Directories of system programs that a user's `PATH` may lack.
const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Returns the root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Announces the next step, and its reason, on standard error.
pub(crate) fn step(what: &str) {
    if stderr().is_terminal() {
        eprintln!("\x1b[1;32m==>\x1b[0m \x1b[1m{what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Returns a command for the cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Returns a command that runs `program` as root: directly, or through sudo, which keeps the environment.
///
/// `why` completes the sentence "… needs root".
pub(crate) fn as_root(program: impl AsRef<OsStr>, why: &str) -> Result<Command> {
    let mut words = root_prefix(why)?;
    words.push(program.as_ref().to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}

/// Returns the words that make a command line run as root when put in front of it; none if this is root.
pub(crate) fn root_prefix(why: &str) -> Result<Vec<std::ffi::OsString>> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Vec::new());
    }
    ensure!(find_program("sudo").is_some(), "{why} needs root, and there is no sudo: run this as root");
    step(&format!("{why} needs root: using sudo"));
    Ok(["sudo", "--preserve-env", "--"].map(Into::into).to_vec())
}

/// Runs a command to its end and shows its output on standard error: the standard output of this program may
/// be read by another program.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.stdout(stderr()).status().with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

/// Returns the standard output of a command; `None` if it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program on `PATH` or in the system's directories for root.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_PATH.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|metadata| metadata.is_file()))
}

/// Returns `PATH` with `directory` in front.
pub(crate) fn path_with(directory: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(directory.to_path_buf()).chain(env::split_paths(&path)))
        .with_context(|| format!("{} cannot be put on PATH", directory.display()))
}

/// Returns the number of CPUs available to this process.
pub(crate) fn cpus() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Calls `each` for each of `items`, on `jobs` threads; returns the results in no particular order.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    each: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let some = || {
        let rest = std::iter::from_fn(|| items.get(next.fetch_add(1, Ordering::Relaxed)));
        rest.map(&each).collect::<Vec<_>>()
    };
    scope(|threads| {
        let running: Vec<_> = (0..jobs).map(|_| threads.spawn(some)).collect();
        let done =
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

/// Returns the command as a user would type it.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
