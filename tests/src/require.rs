//! Decides whether a test can run on this machine; no other place does.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::netns::Namespace;
use crate::turns;

/// Returns whether this machine lets tests make network namespaces and load eBPF programs.
///
/// If it returns false, the test must return. The test is then skipped, with a visible message. Under
/// continuous integration (`CI=true`) this function panics instead, so that no test is skipped unnoticed.
#[must_use]
pub fn privileges() -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    turns::share();
    OBSTACLE.get_or_init(|| Namespace::new().err().map(|error| error.to_string())).as_ref().is_none_or(skip)
}

/// Requires the machine for this test alone: waits until no other test of this program runs, and lets others
/// begin when this test has ended. It comes first in tests that load the machine or measure time. Tests of the
/// binary and tests with privileges run side by side otherwise.
pub fn machine() {
    turns::alone();
}

/// Returns the binary under test, named by `MIRROR_XDP_BIN`, which `cargo xtask test` sets. Without it, tests
/// of the binary are skipped as in [`privileges`].
#[must_use]
pub fn binary() -> Option<PathBuf> {
    turns::share();
    let path = env::var_os("MIRROR_XDP_BIN").map(PathBuf::from);
    if path.is_none() {
        skip("MIRROR_XDP_BIN does not name a binary: run `cargo xtask test`");
    }
    path
}

/// Returns the Debian package under test, named by `MIRROR_XDP_DEB`, which `cargo xtask test` sets. Without
/// it, its test is skipped as in [`privileges`].
#[must_use]
pub fn package() -> Option<PathBuf> {
    let path = env::var_os("MIRROR_XDP_DEB").map(PathBuf::from);
    if path.is_none() {
        skip("MIRROR_XDP_DEB does not name a package: run `cargo xtask test`");
    }
    path
}

/// Returns the corpus of captures: the directory named by `MIRROR_XDP_CORPUS`, or `../shared/pcaps` beside
/// the workspace. The corpus is not part of the repository, so without it tests are skipped everywhere, with
/// a message.
#[must_use]
pub fn corpus() -> Option<PathBuf> {
    shared("MIRROR_XDP_CORPUS", "pcaps")
}

/// Returns the captures of faults that users of such programs have reported: the directory named by
/// `MIRROR_XDP_FIELD`, or `../shared/field` beside the workspace. As for [`corpus`], tests are skipped
/// without it.
#[must_use]
pub fn field() -> Option<PathBuf> {
    shared("MIRROR_XDP_FIELD", "field")
}

/// Returns the directory of published rule files: the directory named by `MIRROR_XDP_RULES`, or `../shared/rules` beside
/// the workspace. As for [`corpus`], tests are skipped without it.
#[must_use]
pub fn rules() -> Option<PathBuf> {
    shared("MIRROR_XDP_RULES", "rules")
}

fn shared(variable: &str, directory: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(directory);
    let path = env::var_os(variable).map_or_else(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    announce(&format!("nothing in {}", path.display()));
    None
}

/// Returns a headless browser, if one is installed. Without it, tests of the page are skipped as in
/// [`privileges`].
#[must_use]
pub fn browser() -> Option<PathBuf> {
    let names = ["chromium-headless-shell", "chromium", "google-chrome"];
    let found = names.iter().find_map(|name| program(name));
    if found.is_none() {
        skip("there is no browser: run `cargo xtask setup`");
    }
    found
}

/// Returns Prometheus' promtool, installed or fetched by `cargo xtask setup`. Without it, tests of metrics
/// are skipped as in [`privileges`].
#[must_use]
pub fn promtool() -> Option<PathBuf> {
    let fetched = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/usr/bin/promtool"));
    let found = program("promtool").or_else(|| fetched.is_file().then_some(fetched));
    if found.is_none() {
        skip("there is no promtool: run `cargo xtask setup`");
    }
    found
}

/// Returns a program that `cargo xtask setup` installs. Without it, tests that need it are skipped as in
/// [`privileges`].
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        skip(format!("there is no {name}: run `cargo xtask setup`"));
    }
    found
}

/// Returns an optional program. Without it, tests that need it are skipped everywhere, with a message.
#[must_use]
pub fn optional(name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        announce(&format!("there is no {name}"));
    }
    found
}

/// Returns the path of an installed program.
fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Skips, as [`privileges`] does, a test that has found an obstacle itself; the test must then return.
pub fn not_met(obstacle: &str) {
    skip(obstacle);
}

/// Skips the test. Always returns false.
fn skip(obstacle: impl AsRef<str>) -> bool {
    let obstacle = obstacle.as_ref();
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "this test must run here, but cannot: {obstacle}"
    );
    announce(obstacle);
    false
}

/// Writes to the process's standard error, because the test harness hides the output of passing tests.
fn announce(obstacle: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {obstacle} ***");
}
