//! Whether a test can run here. The one place that decides.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::netns::Namespace;

/// Whether this machine lets tests make network namespaces and load eBPF programs.
///
/// Where it does not, the test that asks is to return. It has then been skipped, which is said loudly;
/// under continuous integration (`CI=true`) it fails, so that nothing is skipped there unseen.
#[must_use]
pub fn privileges() -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    OBSTACLE.get_or_init(|| Namespace::new().err().map(|error| error.to_string())).as_ref().is_none_or(skip)
}

/// The binary under test: what `MIRROR_XDP_BIN` names, which `cargo xtask test` sets. Without it, tests of
/// the binary are skipped as in [`privileges`].
#[must_use]
pub fn binary() -> Option<PathBuf> {
    let path = env::var_os("MIRROR_XDP_BIN").map(PathBuf::from);
    if path.is_none() {
        skip("MIRROR_XDP_BIN does not name a binary: run `cargo xtask test`");
    }
    path
}

/// The Debian package under test: what `MIRROR_XDP_DEB` names, which `cargo xtask test` sets. Without it, its
/// test is skipped as in [`privileges`].
#[must_use]
pub fn package() -> Option<PathBuf> {
    let path = env::var_os("MIRROR_XDP_DEB").map(PathBuf::from);
    if path.is_none() {
        skip("MIRROR_XDP_DEB does not name a package: run `cargo xtask test`");
    }
    path
}

/// The corpus of captures: what `MIRROR_XDP_CORPUS` names, or `../shared/pcaps` beside the workspace. It is
/// not part of the repository, so tests without it are skipped everywhere, and say so.
#[must_use]
pub fn corpus() -> Option<PathBuf> {
    let path = env::var_os("MIRROR_XDP_CORPUS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps"), PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    announce(&format!("no captures in {}", path.display()));
    None
}

/// A browser that needs no screen, where one is installed; without it, tests of the page are skipped as in
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

/// Prometheus' tool, be it installed or fetched by `cargo xtask setup`; without it, tests of metrics are
/// skipped as in [`privileges`].
#[must_use]
pub fn promtool() -> Option<PathBuf> {
    let fetched = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/usr/bin/promtool"));
    let found = program("promtool").or_else(|| fetched.is_file().then_some(fetched));
    if found.is_none() {
        skip("there is no promtool: run `cargo xtask setup`");
    }
    found
}

/// A program that `cargo xtask setup` installs; without it, tests that need it are skipped as in [`privileges`].
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        skip(format!("there is no {name}: run `cargo xtask setup`"));
    }
    found
}

/// A program that nobody has to have; without it, tests that need it are skipped everywhere, and say so.
#[must_use]
pub fn optional(name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        announce(&format!("there is no {name}"));
    }
    found
}

/// The path of a program that is installed.
fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Skips, as [`privileges`] does, a test that found out by itself what it cannot do here, and returns.
pub fn not_met(obstacle: &str) {
    skip(obstacle);
}

/// Always false: the test does not run.
fn skip(obstacle: impl AsRef<str>) -> bool {
    let obstacle = obstacle.as_ref();
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "this test must run here, but cannot: {obstacle}"
    );
    announce(obstacle);
    false
}

/// Written past the test harness, which hides what a passing test prints.
fn announce(obstacle: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {obstacle} ***");
}
