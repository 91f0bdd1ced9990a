//! What the process gives up once it captures: all capabilities, new privileges by other programs, and all
//! files but those that it still works with.
//!
//! What is open stays usable: sockets, maps and links are file descriptors, and since Linux 5.19 the kernel
//! asks for no capability to use a map by its descriptor. So rules are replaced, flows shunted, counters
//! read and the program taken off by a process that could not load another one.
//!
//! Capabilities and Landlock's rules belong to threads. Those that are started before [`install`] call
//! [`this_thread`] themselves once they need nothing more; whoever calls [`install`] hands them on to the
//! threads that it starts later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

/// The newest of Landlock's rights that are asked for; where the kernel knows fewer, it gets fewer.
const RIGHTS: ABI = ABI::V6;

/// What the names of hosts and services in a filter expression are looked up in.
const NAMES: [&str; 8] = [
    "/etc/ethers",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
];

/// Why a thread is not confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses the ruleset.
    #[error("cannot confine the process to its directories")]
    Landlock(#[from] landlock::RulesetError),
    /// The ruleset has no second descriptor.
    #[error("cannot confine a thread to its directories")]
    Clone(#[from] io::Error),
    /// The kernel refuses to take the capabilities.
    #[error("cannot give up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
}

/// The files that are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Files and directories to read.
    pub read: Vec<PathBuf>,
    /// Directories to do anything in but to run programs.
    pub write: Vec<PathBuf>,
}

/// A confinement to enter.
#[derive(Debug)]
pub struct Confinement {
    ruleset: RulesetCreated,
}

static INSTALLED: OnceLock<Confinement> = OnceLock::new();

impl Confinement {
    /// To these files. Those that are not there now will not be there later either.
    pub fn new(files: &Files) -> Result<Self, Error> {
        Self::make(files, false)
    }

    /// To these files, and to connections by TCP if `network` says so.
    fn make(files: &Files, network: bool) -> Result<Self, Error> {
        let everything = AccessFs::from_all(RIGHTS);
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let writing = everything & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(everything)?
            .scope(Scope::Signal)?;
        if !network {
            ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
        }
        let mut ruleset = ruleset.create()?;
        let read = files.read.iter().map(PathBuf::as_path).chain(NAMES.map(Path::new));
        let all = read.map(|path| (path, reading)).chain(files.write.iter().map(|p| (p.as_path(), writing)));
        for (path, access) in all {
            let Ok(opened) = PathFd::new(path) else { continue };
            // Rights that are about directories are refused for files.
            let is_file = fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir());
            let access = if is_file { access & AccessFs::from_file(RIGHTS) } else { access };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
        Ok(Self { ruleset })
    }

    /// Confines the calling thread, and those that it starts from now on, for ever. Says whether the kernel
    /// could do all that was asked of it; the capabilities are gone in any case.
    pub fn enter(&self) -> Result<bool, Error> {
        let status = self.ruleset.try_clone()?.restrict_self()?;
        caps::clear(None, CapSet::Ambient)?;
        for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &CapsHashSet::new())?;
        }
        Ok(status.ruleset == RulesetStatus::FullyEnforced)
    }
}

/// Says how the threads of this process are confined from now on. The calling thread is not yet.
pub fn install(files: &Files) -> Result<(), Error> {
    let confinement = Confinement::new(files)?;
    // The first one is in force in threads already.
    let _ = INSTALLED.set(confinement);
    Ok(())
}

/// Confines the calling thread as [`install`] said; does nothing where nothing was installed.
pub fn this_thread() {
    if let Some(confinement) = INSTALLED.get() {
        said(confinement.enter());
    }
}

/// Confines the calling thread, which talks to other hosts by TCP and has to have these files, where
/// [`this_thread`] would confine others. The names of hosts can be looked up.
pub fn this_thread_to_network(files: &Files) {
    if INSTALLED.get().is_some() {
        said(Confinement::make(files, true).and_then(|confinement| confinement.enter()));
    }
}

fn said(result: Result<bool, Error>) {
    match result {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!("this kernel's Landlock cannot confine the process in all that it should");
        }
        Err(error) => tracing::warn!("{}", crate::error::one_line(&error)),
    }
}
