//! Gets QEMU and kernels from Debian.
//!
//! apt runs with a state of its own in `target/vm`, so the machine's sources stay as they are. Kernels are
//! unpacked there and not installed. Only QEMU is installed, if this machine has none that emulates `igb`
//! (QEMU 8 and newer do). The available versions change from week to week, so they are looked up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::directory;
use super::scenarios::KernelChoice;
use crate::command::{find_program, output, run, step};
use crate::setup::packages::{self, has_apt};

const QEMU: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The suite with the newest kernels.
const KERNELS: &str = "trixie-backports";
/// The first version of QEMU that emulates `igb`.
const FIRST_WITH_IGB: u32 = 8;

/// The parts of guests: QEMU, and the kernels that apt provides.
pub(super) struct Packages {
    /// The program.
    pub(super) qemu: PathBuf,
    apt: Apt,
}

/// A kernel, unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its version, in numbers.
    pub(super) version: String,
    /// The image to boot.
    pub(super) image: PathBuf,
    /// Directory of its modules.
    pub(super) modules: PathBuf,
}

/// apt with sources and lists of its own.
struct Apt {
    configuration: PathBuf,
}

/// Finds or downloads the parts of guests; prints the reason and returns `None` if that is impossible.
pub(super) fn get() -> Result<Option<Packages>> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("SKIPPED: the guests are x86-64 machines, and this machine is not");
        return Ok(None);
    }
    if !has_apt() || !Path::new(KEYRING).exists() {
        eprintln!(
            "SKIPPED: QEMU and kernels for the guests are Debian packages, and this system is not Debian"
        );
        return Ok(None);
    }
    let apt = Apt::new()?;
    if let Err(error) = apt.update() {
        eprintln!("SKIPPED: cannot get the packages for the guests: {error:#}");
        return Ok(None);
    }
    let qemu = match emulator() {
        Some(qemu) => qemu,
        None => install_emulator()?,
    };
    Ok(Some(Packages { qemu, apt }))
}

impl Packages {
    /// Returns a kernel; downloads and unpacks it if that was not done before.
    pub(super) fn kernel(&self, choice: KernelChoice) -> Result<Kernel> {
        let packages = match choice {
            KernelChoice::Newest => self.apt.newest_kernel()?,
            KernelChoice::Oldest => self.apt.oldest_kernel()?,
        };
        let name = packages.first().context("a kernel has a package")?;
        let version = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let version = version.split(['+', '-']).next().unwrap_or(version).to_owned();
        let unpacked = directory().join(name);
        if !unpacked.exists() {
            step(&format!("Downloading Linux {version}"));
            // A temporary name until everything is unpacked: a directory found by a later run is complete.
            let partial = directory().join(format!("{name}.partial"));
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            run(self.apt.command("apt-get").args(["-q", "download"]).args(&packages).current_dir(&partial))?;
            for entry in fs::read_dir(&partial)? {
                let file = entry?.path();
                run(Command::new("dpkg").arg("-x").args([&file, &partial]))?;
                fs::remove_file(file)?;
            }
            fs::rename(&partial, &unpacked)?;
        }
        let modules = only_entry(&["usr/lib/modules", "lib/modules"].map(|path| unpacked.join(path)))
            .with_context(|| format!("{name} has no modules"))?;
        let image = [modules.join("vmlinuz")]
            .into_iter()
            .chain(fs::read_dir(unpacked.join("boot")).into_iter().flatten().flatten().map(|e| e.path()))
            .find(|path| {
                path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")) && path.exists()
            })
            .with_context(|| format!("{name} has no image to boot"))?;
        Ok(Kernel { version, image, modules })
    }
}

/// Returns the only entry of the first of these directories that exists.
fn only_entry(directories: &[PathBuf]) -> Option<PathBuf> {
    let directory = directories.iter().find(|directory| directory.is_dir())?;
    Some(fs::read_dir(directory).ok()?.flatten().next()?.path())
}

/// Finds a QEMU on this machine that emulates `igb`.
fn emulator() -> Option<PathBuf> {
    let qemu = find_program(QEMU)?;
    let devices = output(Command::new(&qemu).args(["-device", "help"]))?;
    devices.contains("\"igb\"").then_some(qemu)
}

/// Installs a QEMU that emulates `igb`, from the release of this machine or from its backports.
fn install_emulator() -> Result<PathBuf> {
    step("Installing QEMU, which emulates the NICs of the guests");
    packages::update()?;
    let version = packages::candidate(PACKAGE).unwrap_or_default();
    let version = version.rsplit(':').next().unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= FIRST_WITH_IGB) {
        packages::install(&[PACKAGE])?;
    } else {
        packages::install_from_backports(&[PACKAGE])?;
    }
    emulator().context("QEMU was installed, but emulates no igb")
}

impl Apt {
    fn new() -> Result<Self> {
        let state = directory().join("apt");
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("cache/archives/partial"))?;
        // This machine runs nothing from these packages: kernels need none of its libraries.
        let suites = ["bookworm", KERNELS];
        let sources: Vec<_> =
            suites.iter().map(|suite| format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main")).collect();
        fs::write(state.join("sources.list"), sources.join("\n") + "\n")?;
        let configuration = state.join("apt.conf");
        let state = state.display();
        fs::write(
            &configuration,
            format!(
                "Dir::Etc::sourcelist \"{state}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::State::Lists \"{state}/lists\";\nDir::Cache \"{state}/cache\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n"
            ),
        )?;
        Ok(Self { configuration })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    fn update(&self) -> Result<()> {
        let answer = self
            .command("apt-get")
            .args(["-q", "-o", "APT::Update::Error-Mode=any", "update"])
            .output()
            .context("apt-get cannot be started")?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success(), "{}", said.lines().next().unwrap_or("apt-get update failed"));
        Ok(())
    }

    /// Returns the packages of the newest kernel, with the drivers of real NICs.
    fn newest_kernel(&self) -> Result<Vec<String>> {
        let image = self
            .depends("linux-image-amd64")
            .into_iter()
            .find(|package| package.starts_with("linux-image-"))
            .context("Debian has no package linux-image-amd64")?;
        // A kernel comes in one package, or in one for the image and one for its modules.
        let parts = self.depends(&image);
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|package| package.starts_with("linux-binary-") || package.starts_with("linux-modules-"))
            .collect();
        Ok(if parts.is_empty() { vec![image] } else { parts })
    }

    /// Returns the package of the newest build of the oldest supported kernel, Linux 6.1.
    fn oldest_kernel(&self) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache").args([
            "search",
            "--names-only",
            r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
        ]))
        .unwrap_or_default();
        let build = |name: &str| name.split('-').nth(3).and_then(|build| build.parse::<u32>().ok());
        let newest = names.lines().filter_map(|line| line.split(' ').next()).max_by_key(|name| build(name));
        Ok(vec![newest.context("Debian has no package of Linux 6.1 any more")?.to_owned()])
    }

    fn depends(&self, package: &str) -> Vec<String> {
        let said = output(self.command("apt-cache").args(["-t", KERNELS, "depends", "--important", package]))
            .unwrap_or_default();
        said.lines()
            .filter_map(|line| {
                line.trim().strip_prefix("Depends: ").or_else(|| line.trim().strip_prefix("PreDepends: "))
            })
            .map(str::to_owned)
            .collect()
    }
}
