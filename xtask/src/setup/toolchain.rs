//! The toolchain for the eBPF programs: a Rust compiler that accepts unstable features, with the sources of
//! `core`, and a bpf-linker whose LLVM reads that compiler's bitcode.
//!
//! There are two ways, tried in this order. If both servers answer: rustup's nightly, with the linker that
//! its authors publish. Otherwise: the compiler, its sources and LLVM from Debian, all built from one source,
//! and the linker compiled with that LLVM. The linker goes into `target/tools`, under a name that contains
//! the version of its LLVM; a linker that the user has elsewhere is neither used nor changed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::command::{cargo, display, find_program, output, path_with, run, step, workspace};

/// The version of the linker that is compiled here.
const BPF_LINKER: &str = "0.13.0";
/// The versions of LLVM that this linker can be compiled with.
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A toolchain that is installed and complete.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

enum Compiler {
    /// rustup's toolchain `nightly`.
    Nightly,
    /// A compiler of the system.
    System(PathBuf),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.compiler {
            Compiler::Nightly => write!(f, "rustup's nightly")?,
            Compiler::System(rustc) => write!(f, "{}", rustc.display())?,
        }
        write!(f, " and {}", self.linker.display())
    }
}

impl Toolchain {
    /// Returns the versions of the compiler and the linker, which decide the bytes of the objects.
    pub(crate) fn versions(&self) -> Result<String> {
        let mut compiler = match &self.compiler {
            Compiler::Nightly => {
                let mut command = rustup();
                command.args(["run", NIGHTLY, "rustc"]);
                command
            }
            Compiler::System(rustc) => Command::new(rustc),
        };
        let version = |command: &mut Command, argument: &str| {
            let said =
                output(command.arg(argument)).with_context(|| format!("`{}` fails", display(command)))?;
            anyhow::Ok(said)
        };
        let compiler = version(&mut compiler, "-vV")?;
        let field =
            |name: &str| compiler.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
        let linker = version(&mut Command::new(&self.linker), "--version")?;
        let [release, llvm] = ["release: ", "LLVM version: "].map(field);
        Ok(format!("rustc {release}, LLVM {llvm}, {}", linker.lines().next().unwrap_or("an unknown linker")))
    }

    /// Returns a cargo that builds for the eBPF target with this toolchain.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match &self.compiler {
            Compiler::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", NIGHTLY, "cargo"]).current_dir(workspace());
                // The toolchain that runs this program sets these.
                for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
                    command.env_remove(variable);
                }
                command
            }
            Compiler::System(rustc) => {
                let mut command = cargo();
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        // A user sets these for the machine's own target; they are wrong for this one.
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(variable);
        }
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }
}

/// Finds an installed toolchain.
pub(crate) fn find() -> Option<Toolchain> {
    find_nightly().or_else(|| system_compilers().iter().find_map(find_system))
}

/// Installs a toolchain in the way that this machine allows.
pub(crate) fn install() -> Result<Toolchain> {
    step("The eBPF programs need a Rust compiler with the sources of `core`, and bpf-linker");
    let obstacle = match nightly_obstacle() {
        Some(obstacle) => obstacle,
        None => match install_nightly() {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => format!("{error:#}"),
        },
    };
    eprintln!("    rustup's nightly cannot be used here: {obstacle}");
    install_system().context(
        "cannot install the eBPF toolchain. To install it by hand, run \
         `rustup toolchain install nightly --component rust-src`, \
         and unpack https://github.com/aya-rs/bpf-linker/releases into target/tools/bpf-linker-release/bin",
    )
}

// --- rustup's nightly, and the published linker

const NIGHTLY: &str = "nightly";

fn release_linker() -> PathBuf {
    tools().join("bpf-linker-release/bin/bpf-linker")
}

fn release_url() -> String {
    // The latest release: a nightly compiler moves on, and so does the LLVM that its linker needs.
    let machine = std::env::consts::ARCH;
    format!(
        "https://github.com/aya-rs/bpf-linker/releases/latest/download/bpf-linker-{machine}-unknown-linux-musl.tar.zst"
    )
}

fn find_nightly() -> Option<Toolchain> {
    let linker = working_linker(release_linker())?;
    let mut rustc = rustup();
    rustc.args(["run", NIGHTLY, "rustc"]);
    has_core_sources(rustc).then_some(Toolchain { compiler: Compiler::Nightly, linker })
}

/// Returns the reason why rustup's nightly and the published linker cannot be downloaded; `None` if they can.
fn nightly_obstacle() -> Option<String> {
    if find_program("rustup").is_none() {
        return Some("there is no rustup".to_owned());
    }
    let server =
        std::env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| "https://static.rust-lang.org".to_owned());
    [format!("{server}/dist/channel-rust-{NIGHTLY}.toml.sha256"), release_url()].into_iter().find_map(|url| {
        let mut curl = Command::new("curl");
        // Short timeouts, in seconds: behind a firewall the answer must not take long.
        curl.args([
            "--head",
            "--location",
            "--fail",
            "--silent",
            "--connect-timeout",
            "4",
            "--max-time",
            "12",
            &url,
        ]);
        output(&mut curl).is_none().then(|| format!("{url} does not answer"))
    })
}

fn install_nightly() -> Result<Toolchain> {
    step("Installing rustup's nightly with the sources of `core`");
    let installed = output(rustup().args(["run", NIGHTLY, "rustc", "--version"])).is_some();
    if installed {
        // Adds the component without an update: the toolchain belongs to the user.
        run(rustup().args(["component", "add", "rust-src", "--toolchain", NIGHTLY]))?;
    } else {
        let arguments = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];
        run(rustup().args(arguments).arg("--no-self-update"))?;
    }
    if find_program("zstd").is_none() {
        packages::install(&["zstd"])?;
    }
    let directory = release_linker().parent().map(Path::to_path_buf).unwrap_or_default();
    step(&format!("Downloading bpf-linker into {}", directory.display()));
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let archive = directory.join("bpf-linker.tar.zst");
    run(Command::new("curl")
        .args(["--location", "--fail", "--silent", "--show-error", "--output"])
        .arg(&archive)
        .arg(release_url()))?;
    run(Command::new("tar")
        .args(["--zstd", "--extract", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&directory))?;
    fs::remove_file(&archive)?;
    find_nightly().context("rustup's nightly and bpf-linker were installed, but do not work together")
}

/// Returns a rustup that installs nothing on its own.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0").current_dir(workspace());
    command
}

// --- Debian's compiler, and a linker compiled with the same LLVM

fn compiled_linker(llvm: u32) -> PathBuf {
    tools().join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}/bin/bpf-linker"))
}

/// Returns the system's compilers, newest first. Ubuntu has several, with names such as `rustc-1.88`.
fn system_compilers() -> Vec<SystemCompiler> {
    let Ok(directory) = fs::read_dir("/usr/bin") else { return Vec::new() };
    let is_rustc = |name: &str| name == "rustc" || name.starts_with("rustc-1.");
    let mut compilers: Vec<_> = directory
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_rustc))
        .filter_map(|entry| SystemCompiler::examine(entry.path()))
        .filter(|compiler| compiler.version >= oldest_rustc())
        .collect();
    compilers.sort_by_key(|compiler| std::cmp::Reverse(compiler.version));
    compilers
}

/// A compiler of the system that has the sources of `core`.
struct SystemCompiler {
    rustc: PathBuf,
    version: (u32, u32),
    /// Major version of its LLVM.
    llvm: u32,
}

impl SystemCompiler {
    fn examine(rustc: PathBuf) -> Option<Self> {
        let version = output(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
        let compiler = Self {
            version: major_minor(field("release: ")?)?,
            llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
            rustc,
        };
        has_core_sources(Command::new(&compiler.rustc)).then_some(compiler)
    }
}

fn find_system(compiler: &SystemCompiler) -> Option<Toolchain> {
    // An LLVM reads the bitcode of older ones.
    let linker =
        (compiler.llvm..=*BPF_LINKER_LLVM.end()).find_map(|llvm| working_linker(compiled_linker(llvm)))?;
    Some(Toolchain { compiler: Compiler::System(compiler.rustc.clone()), linker })
}

fn install_system() -> Result<Toolchain> {
    let compiler = match system_compilers().into_iter().next() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    let llvm = install_llvm(compiler.llvm)?;
    let linker = compiled_linker(llvm);
    let root = linker.ancestors().nth(2).unwrap_or(Path::new("/"));
    step(&format!(
        "Compiling bpf-linker {BPF_LINKER} with LLVM {llvm} into {} (a minute or two)",
        root.display()
    ));
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    run(cargo()
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(root)
        .env("LLVM_PREFIX", &prefix)
        // Otherwise cargo advises adding this directory to `PATH`, which is not needed.
        .env("PATH", path_with(&root.join("bin"))?))?;
    find_system(&compiler).context("compiler and bpf-linker were installed, but do not work together")
}

/// Installs the newest compiler whose sources apt has too.
fn install_compiler() -> Result<SystemCompiler> {
    if !packages::has_apt() {
        bail!("there is no apt on this machine");
    }
    packages::update()?;
    // Besides its own `rustc`, Debian has newer ones for its browsers; Ubuntu has one package for each
    // version.
    let newest = packages::search("^rustc(-[a-z0-9.]+)?$")
        .into_iter()
        .filter_map(|package| {
            let version = packages::candidate(&package)?;
            let sources = format!("{}-src", package.replacen("rustc", "rust", 1));
            let matching = packages::candidate(&sources)? == version;
            Some((major_minor(&version)?, package, sources))
                .filter(|found| matching && found.0 >= oldest_rustc())
        })
        .max();
    let (major, minor) = oldest_rustc();
    let (_, package, sources) = newest.with_context(|| {
        format!("apt has no Rust compiler of version {major}.{minor} or newer with its sources")
    })?;
    packages::install(&[&package, &sources])?;
    system_compilers()
        .into_iter()
        .next()
        .with_context(|| format!("{package} was installed, but provides no suitable compiler"))
}

/// Installs an LLVM to compile the linker with: the version of the compiler's, or the next that apt has.
fn install_llvm(compiler: u32) -> Result<u32> {
    let known = || (compiler..=*BPF_LINKER_LLVM.end()).filter(|llvm| BPF_LINKER_LLVM.contains(llvm));
    let is_there = |llvm: &u32| Path::new(&format!("/usr/lib/llvm-{llvm}/include/llvm-c/Core.h")).is_file();
    if let Some(llvm) = known().find(is_there) {
        return Ok(llvm);
    }
    packages::update()?;
    let llvm = known().find(|llvm| packages::candidate(&format!("llvm-{llvm}-dev")).is_some()).with_context(
        || format!("apt has no LLVM that fits the compiler's version {compiler} and bpf-linker {BPF_LINKER}"),
    )?;
    packages::install(&[&format!("llvm-{llvm}-dev"), &format!("libpolly-{llvm}-dev")])?;
    Ok(llvm)
}

// --- both

/// Returns the directory of programs that only this workspace uses.
fn tools() -> PathBuf {
    workspace().join("target/tools")
}

/// Returns `path` if a linker is there and starts; it does not if its LLVM was removed.
fn working_linker(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then(|| output(Command::new(&path).arg("--version")))??;
    Some(path)
}

/// Returns whether a compiler has the sources of `core`, which each build of the eBPF programs compiles.
fn has_core_sources(mut rustc: Command) -> bool {
    output(rustc.args(["--print", "sysroot"]))
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

/// Returns the oldest compiler that builds the workspace, as major and minor version.
fn oldest_rustc() -> (u32, u32) {
    major_minor(env!("CARGO_PKG_RUST_VERSION")).expect("the manifest names a version")
}

/// Parses a version: "1.96.0+dfsg1-1" → (1, 96).
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_compilers_and_packages_are_understood() {
        assert_eq!(major_minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(major_minor("1.101.0-nightly"), Some((1, 101)));
        assert_eq!(major_minor("(none)"), None);
    }
}
