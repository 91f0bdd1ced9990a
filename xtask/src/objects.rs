//! The eBPF objects that the repository carries. They spare a user the eBPF toolchain: it takes longer to set up than
//! everything else.
//!
//! `built-from.txt` beside them names the toolchain and the sources that they were built with. While these are the
//! sources at hand, every command uses the stored objects; otherwise it builds its own. `cargo xtask check` builds
//! them in any case, and compares them byte for byte if it has the same toolchain.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::command::{run, step, workspace};
use crate::setup::toolchain::Toolchain;
use crate::setup::{packages, setup};

/// The names of the objects: `NAME.o`.
const OBJECTS: [&str; 4] = ["bench", "capture", "pktgen", "source"];
/// The packages that they are compiled from.
const PACKAGES: [&str; 2] = ["mirror-xdp-common", "mirror-xdp-ebpf"];
/// The file that says what the stored objects were built from.
const RECORD: &str = "built-from.txt";

/// The directory of the stored objects.
fn stored() -> PathBuf {
    workspace().join("mirror-userspace/crates/device/ebpf")
}

/// The directory from which the device crate and the tests take the objects.
fn used() -> PathBuf {
    workspace().join("target/ebpf")
}

/// Makes the objects of the sources at hand available in `target/ebpf`, and installs what the machine lacks for it.
pub(crate) fn provide() -> Result<()> {
    if is_current() {
        packages::install_missing()?;
        return copy(&stored(), &used());
    }
    step("The sources of the eBPF programs differ from those of the stored objects, which are not used");
    compile(&setup()?, false)
}

/// Compiles the objects and stores them in the repository.
pub(crate) fn update() -> Result<()> {
    let toolchain = setup()?;
    compile(&toolchain, true)?;
    copy(&used(), &stored())?;
    let record = stored().join(RECORD);
    fs::write(&record, format!("toolchain: {}\nsources: {}\n", toolchain.versions()?, digest()?))
        .with_context(|| format!("cannot write {}", record.display()))
}

/// Compiles the objects, which stay in `target/ebpf`, and compares them with the stored ones. Returns true if they are
/// the same bytes.
///
/// # Errors
///
/// Returns an error if the stored objects are stale, or differ although the toolchain is the same.
pub(crate) fn compare(toolchain: &Toolchain) -> Result<bool> {
    const REMEDY: &str = "run `cargo xtask build --update-objects`, and commit the result";
    compile(toolchain, true)?;
    ensure!(is_current(), "the stored eBPF objects are stale: {REMEDY}");
    let mut different = Vec::new();
    for name in OBJECTS {
        let [stored, built] = [stored(), used()].map(|directory| object(&directory, name));
        if read(&stored)? != read(&built)? {
            different.push(name);
        }
    }
    let [recorded, here] = [field("toolchain")?, toolchain.versions()?];
    if recorded == here {
        ensure!(
            different.is_empty(),
            "stored eBPF objects are not what is compiled: {different:?}; {REMEDY}"
        );
    } else if !different.is_empty() {
        step(&format!("Stored eBPF objects were compiled by {recorded}, and differ from those of {here}"));
    }
    Ok(different.is_empty())
}

/// Compiles the eBPF programs into `target/ebpf`, one object each; the `build.rs` of the device crate embeds them.
fn compile(toolchain: &Toolchain, deny_warnings: bool) -> Result<()> {
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

/// Returns true if the stored objects were built from the sources at hand.
fn is_current() -> bool {
    field("sources").is_ok_and(|sources| digest().is_ok_and(|digest| digest == sources))
}

/// Returns a field of the record.
fn field(name: &str) -> Result<String> {
    let record = stored().join(RECORD);
    let text = fs::read_to_string(&record).with_context(|| format!("cannot read {}", record.display()))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map(str::to_owned).with_context(|| format!("{} does not say `{name}`", record.display()))
}

/// Returns the SHA-256 of the names and contents of all sources.
fn digest() -> Result<String> {
    let root = workspace();
    let mut files = Vec::new();
    for package in PACKAGES {
        files.push(root.join(package).join("Cargo.toml"));
        collect(&root.join(package).join("src"), &mut files)?;
    }
    files.sort_unstable();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        let content = read(&file)?;
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Adds the files beneath a directory.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn object(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.o"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Copies all objects.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for name in OBJECTS {
        copy_where_different(&object(from, name), &object(to, name))?;
    }
    Ok(())
}

/// Copies a file only if its content differs: an unchanged object keeps its time and causes no rebuild.
fn copy_where_different(from: &Path, to: &Path) -> Result<()> {
    let bytes = read(from)?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
