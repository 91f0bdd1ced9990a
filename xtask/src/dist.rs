//! `cargo xtask dist`: packs a release as a Debian package and as a tarball.
//!
//! Both contain the same tree of files. Debian's tools do the rest: `dpkg-shlibdeps` finds the packages of
//! the libraries that the binary needs, and `dpkg-deb` packs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::build::{Profile, build};
use crate::command::{display, run, step, workspace};

/// The version of the package, which is the workspace's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the repository: path in the repository, path after installation, and whether it is a program.
const FILES: &[(&str, &str, bool)] = &[
    ("deploy/mirror-xdp.service", "usr/lib/systemd/system/mirror-xdp.service", false),
    ("deploy/mirror-xdp-aws.service", "usr/lib/systemd/system/mirror-xdp-aws.service", false),
    ("deploy/debian/default", "etc/default/mirror-xdp", false),
    ("deploy/debian/mirror-xdp.toml", "etc/mirror-xdp/mirror-xdp.toml", false),
    ("deploy/mirror-xdp.toml", "usr/share/doc/mirror-xdp/examples/mirror-xdp.toml", false),
    ("deploy/extcap/mirror-xdp", "usr/share/mirror-xdp/extcap/mirror-xdp", true),
    ("README.md", "usr/share/doc/mirror-xdp/README.md", false),
    ("CHANGELOG.md", "usr/share/doc/mirror-xdp/CHANGELOG.md", false),
    ("CONTRIBUTING.md", "usr/share/doc/mirror-xdp/CONTRIBUTING.md", false),
    ("SECURITY.md", "usr/share/doc/mirror-xdp/SECURITY.md", false),
    ("LICENSE-MIT", "usr/share/doc/mirror-xdp/LICENSE-MIT", false),
    ("LICENSE-APACHE", "usr/share/doc/mirror-xdp/LICENSE-APACHE", false),
    ("LICENSE-GPL-2.0", "usr/share/doc/mirror-xdp/LICENSE-GPL-2.0", false),
];

/// Configuration files, which belong to the administrator once installed.
const CONFFILES: [&str; 2] = ["/etc/default/mirror-xdp", "/etc/mirror-xdp/mirror-xdp.toml"];

/// The `copyright` file that Debian requires of a package.
const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: mirror-xdp

Files: *
Copyright: the authors of mirror-xdp
License: MIT or Apache-2.0
 LICENSE-MIT and LICENSE-APACHE beside this file. The eBPF programs within the binary are MIT or GPL-2.0.
";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pack this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// Directory for the packages
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    output: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build(Profile::Release)?,
    };
    for package in package(&binary, &workspace().join(&args.output))? {
        step(&format!("Packed {}", package.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Packs `binary` and the files that belong to it. Returns the Debian package and the tarball.
pub(crate) fn package(binary: &Path, output: &Path) -> Result<[PathBuf; 2]> {
    let staging = tempfile::tempdir().context("cannot make a temporary directory to pack")?;
    let architecture = text(Command::new("dpkg").arg("--print-architecture"))?;
    let name = format!("mirror-xdp-{VERSION}-{}", architecture.trim());
    let tree = staging.path().join(&name);
    fill(&tree, binary)?;
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let tarball = output.join(format!("{name}.tar.gz"));
    let owner = ["--owner=root:0", "--group=root:0", "--sort=name"];
    run(Command::new("tar").arg("-C").arg(staging.path()).args(owner).arg("-czf").arg(&tarball).arg(&name))?;
    describe(&tree, architecture.trim())?;
    let package = output.join(format!("mirror-xdp_{VERSION}_{}.deb", architecture.trim()));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    Ok([package, tarball])
}

/// Puts each file where it is installed.
fn fill(tree: &Path, binary: &Path) -> Result<()> {
    let program = tree.join("usr/bin/mirror-xdp");
    install(binary, &program, true)?;
    // The debugging information that remains is as large as the program.
    run(Command::new("strip").arg("--strip-debug").arg(&program))?;
    for &(from, to, is_program) in FILES {
        install(&workspace().join(from), &tree.join(to), is_program)?;
    }
    // The README links to them by this path.
    let docs = tree.join("usr/share/doc/mirror-xdp/docs");
    for entry in fs::read_dir(workspace().join("docs")).context("cannot list the documentation")? {
        let entry = entry?;
        install(&entry.path(), &docs.join(entry.file_name()), false)?;
    }
    write(&tree.join("usr/share/doc/mirror-xdp/copyright"), COPYRIGHT)?;
    // The binary generates its manual and completions.
    let generated = tree.join("usr/share");
    run(Command::new(&program).arg("generate").arg(&generated))?;
    let pages = fs::read_dir(generated.join("man/man1")).context("the binary wrote no manual")?;
    for page in pages {
        run(Command::new("gzip").args(["-9", "-n"]).arg(page?.path()))?;
    }
    Ok(())
}

/// Adds the control files that make a Debian package of the tree.
fn describe(tree: &Path, architecture: &str) -> Result<()> {
    let control = tree.join("DEBIAN");
    let size: u64 =
        files(tree)?.iter().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum();
    let libraries = libraries(&tree.join("usr/bin/mirror-xdp"))?;
    let mut sums = String::new();
    for file in files(tree)? {
        let sum = text(Command::new("md5sum").arg(&file))?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        let path = file.strip_prefix(tree).unwrap_or(&file);
        writeln!(sums, "{sum}  {}", path.display())?;
    }
    write(
        &control.join("control"),
        format!(
            "Package: mirror-xdp\nVersion: {VERSION}\nArchitecture: {architecture}\nSection: net\n\
             Priority: optional\nMaintainer: the authors of mirror-xdp <mirror-xdp@localhost>\n\
             Installed-Size: {}\nDepends: {libraries}, passwd\nSuggests: wireshark, suricata\n\
             Description: capture appliance for AWS VPC Traffic Mirroring\n \
             Takes mirrored frames off the NIC by XDP, keeps their flows and writes EVE JSON.\n",
            size / 1024
        ),
    )?;
    write(&control.join("conffiles"), &(CONFFILES.join("\n") + "\n"))?;
    write(&control.join("md5sums"), &sums)?;
    for script in ["postinst", "prerm", "postrm"] {
        install(&workspace().join("deploy/debian").join(script), &control.join(script), true)?;
    }
    Ok(())
}

/// Returns the packages of the libraries that a program needs, in the form of a package's `Depends` field.
fn libraries(program: &Path) -> Result<String> {
    // dpkg-shlibdeps expects to run in a source package.
    let source = tempfile::tempdir()?;
    write(
        &source.path().join("debian/control"),
        "Source: mirror-xdp\n\nPackage: mirror-xdp\nArchitecture: any\n",
    )?;
    let found = text(Command::new("dpkg-shlibdeps").current_dir(source.path()).arg("-O").arg(program))?;
    let depends = found.trim().strip_prefix("shlibs:Depends=");
    depends.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps printed `{found}`"))
}

/// Returns all files of a tree, sorted.
fn files(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn install(from: &Path, to: &Path, is_program: bool) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, bytes)?;
    let mode = if is_program { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn write(to: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

/// Returns the standard output of a command that has to succeed.
fn text(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", display(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{}` failed: {}", display(command), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
