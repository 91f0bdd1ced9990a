//! Programs and headers that the system has to provide, and apt, which installs them.
//!
//! The checks look at the file system and do not ask the package manager: a machine may have a program from
//! any source.

use std::fs;
use std::io::{IsTerminal as _, Write as _, stderr, stdin};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::command::{as_root, find_program, output, run, step};

/// The evidence that a requirement is met.
enum Fact {
    /// A program of this name.
    Program(&'static str),
    /// A C header of this name.
    Header(&'static str),
}

/// A program or header that the machine needs.
struct Requirement {
    fact: Fact,
    /// Debian's package.
    package: &'static str,
    why: &'static str,
}

const fn program(name: &'static str, package: &'static str, why: &'static str) -> Requirement {
    Requirement { fact: Fact::Program(name), package, why }
}

const fn header(name: &'static str, package: &'static str, why: &'static str) -> Requirement {
    Requirement { fact: Fact::Header(name), package, why }
}

const REQUIREMENTS: &[Requirement] = &[
    program("cc", "gcc", "C compiler and linker"),
    program("c++", "g++", "compiles libFuzzer"),
    program("make", "make", "builds libbpf, which libxdp is built on"),
    program("pkg-config", "pkg-config", "finds the libraries that libbpf needs"),
    program("m4", "m4", "generates parts of libxdp"),
    program("clang", "clang", "compiles libxdp and reads its headers"),
    header("libelf.h", "libelf-dev", "libbpf reads object files with it"),
    header("zlib.h", "zlib1g-dev", "libelf decompresses with it"),
    header("pcap.h", "libpcap-dev", "compiles filter expressions"),
    program("curl", "curl", "downloads; a client of the lab"),
    program("dnsmasq", "dnsmasq-base", "the lab's resolver"),
    program("busybox", "busybox", "the lab's HTTP server"),
    program("openssl", "openssl", "the lab's TLS server"),
    program("tshark", "tshark", "reads the files of the packet store and `tail`, in tests"),
    program("tcpdump", "tcpdump", "sits behind the tap, in tests"),
    program("xz", "xz-utils", "unpacks the modules of the guests' kernels"),
    program("valgrind", "valgrind", "counts the instructions of benchmarks"),
    program("dpkg-shlibdeps", "dpkg-dev", "finds what the package depends on"),
    program("ip", "iproute2", "network namespaces and virtual interfaces of tests and the lab"),
    program("ethtool", "ethtool", "offloads and queues of virtual interfaces"),
    program("mkfs.ext4", "e2fsprogs", "file systems that tests freeze and lock"),
    program("nsenter", "util-linux", "runs programs in network namespaces"),
    program("setpriv", "util-linux", "ends programs with the test that started them"),
    program("mount", "mount", "gives the lab's client a resolver of its own"),
];

/// Directories of C headers.
const INCLUDE: [&str; 4] =
    ["/usr/include", "/usr/local/include", "/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"];

impl Requirement {
    fn is_met(&self) -> bool {
        match self.fact {
            Fact::Program(name) => find_program(name).is_some(),
            Fact::Header(name) => INCLUDE.iter().any(|directory| Path::new(directory).join(name).is_file()),
        }
    }
}

/// Installs the requirements that are not met.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<_> = REQUIREMENTS.iter().filter(|requirement| !requirement.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("Missing on this machine:");
    for Requirement { package, why, .. } in &missing {
        eprintln!("    {package:<14} {why}");
    }
    let mut packages: Vec<_> = missing.iter().map(|requirement| requirement.package).collect();
    packages.dedup();
    install(&packages)?;
    if let Some(missing) = REQUIREMENTS.iter().find(|requirement| !requirement.is_met()) {
        bail!("{} was installed, but does not provide what is needed: {}", missing.package, missing.why);
    }
    Ok(())
}

/// Installs Debian packages, after asking if a person is there to answer.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("install by hand, by the names of this system: {}", packages.join(" "));
    if !has_apt() {
        bail!("there is no apt on this machine; {by_hand}");
    }
    if !confirmed(packages)? {
        bail!("nothing was installed; {by_hand}");
    }
    update()?;
    let mut command = apt("installing packages")?;
    // No package of the user's may be removed.
    command.args(["install", "--yes", "--quiet", "--no-install-recommends", "--no-remove"]).args(packages);
    run(&mut command).with_context(|| by_hand)
}

/// Installs packages from the backports of this release of Debian. The release itself may lack them, or have
/// older versions.
pub(crate) fn install_from_backports(packages: &[&str]) -> Result<()> {
    let names = packages.join(", ");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename
        .with_context(|| format!("apt has no {names}, and this system is not a release of Debian"))?;
    let suite = format!("{codename}-backports");
    let list = format!("/etc/apt/sources.list.d/{suite}.list");
    step(&format!("This release has no {names}, or an older one: adding Debian's {suite} in {list}"));
    let source = format!("deb http://deb.debian.org/debian {suite} main");
    let mut write = as_root("sh", "adding a source of packages")?;
    run(write.args(["-c", "printf '%s\\n' \"$1\" > \"$2\"", "sh", &source, &list]))?;
    install_from(&suite, packages)
}

/// Installs Debian packages from a suite that was just added; asks as [`install`] does.
fn install_from(suite: &str, packages: &[&str]) -> Result<()> {
    if !confirmed(packages)? {
        bail!("nothing was installed");
    }
    run(apt("fetching apt's lists of packages")?.args(["update", "--quiet"]))?;
    let mut command = apt("installing packages")?;
    command.args(["install", "--yes", "--quiet", "--no-install-recommends", "--no-remove"]);
    run(command.args(["--target-release", suite]).args(packages))
}

/// Returns whether this system installs packages with apt.
pub(crate) fn has_apt() -> bool {
    find_program("apt-get").is_some()
}

/// Returns the version of `package` that apt would install.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = output(Command::new("apt-cache").args(["policy", package]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Returns the packages whose names match a regular expression.
pub(crate) fn search(pattern: &str) -> Vec<String> {
    let found =
        output(Command::new("apt-cache").args(["search", "--names-only", pattern])).unwrap_or_default();
    found.lines().filter_map(|line| Some(line.split_once(" - ")?.0.to_owned())).collect()
}

/// Fetches the lists of packages, once a run.
pub(crate) fn update() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        step("Fetching apt's lists of packages");
        run(apt("fetching apt's lists of packages")?.args(["update", "--quiet"]))?;
        let _ = DONE.set(());
    }
    Ok(())
}

fn apt(why: &str) -> Result<Command> {
    let mut command = as_root("env", why)?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "Dpkg::Use-Pty=0"]);
    Ok(command)
}

/// Asks once a run whether packages may be installed; returns true without asking if nobody can answer.
fn confirmed(packages: &[&str]) -> Result<bool> {
    static YES: OnceLock<()> = OnceLock::new();
    step(&format!("Installing with apt: {}", packages.join(" ")));
    if YES.get().is_some() || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(true);
    }
    eprint!("    Go on? [Y/n] ");
    stderr().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes");
    if yes {
        let _ = YES.set(());
    }
    Ok(yes)
}
