//! Rights that threads give up once they need only what is already open: capabilities, new privileges by
//! executing other programs, files and connections (Landlock), and system calls (seccomp).
//!
//! Open file descriptors stay usable, and sockets, maps and links are file descriptors. Since Linux 5.19 the
//! kernel requires no capability for the use of a map by its descriptor. A process that could not load
//! another program can therefore still replace rules, shunt flows, read counters and detach the program.
//!
//! All of these restrictions belong to threads, and a thread passes its own on to each thread that it starts.
//! [`install`] defines the restrictions of each [`Kind`], and each thread enters those of its kind by
//! [`this_thread`]. Threads of one process share its memory and its descriptors: the restrictions bound what
//! code in a thread can request from the kernel. `docs/security.md` has tables of the remaining rights, and
//! tests verify them.

mod calls;
mod kind;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use nix::sys::statfs::fstatfs;
use seccompiler::BpfProgram;

pub use self::kind::Kind;

/// The newest of Landlock's rights that are requested; a kernel that knows fewer applies fewer. UDP is among
/// the last, from Linux 7.2 on: on older kernels, only the system call filters keep threads from using it.
const RIGHTS: ABI = ABI::V10;

/// The rights without which a thread is not confined as intended: files, TCP, abstract Unix sockets, signals.
const NEEDED: ABI = ABI::V6;

/// The files in which the names of hosts and services in a filter expression are looked up.
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

/// The type of the file system of anonymous pipes (`linux/magic.h`).
const PIPEFS_MAGIC: libc::c_long = 0x5049_5045;

/// The socket to which messages for the journal go.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The reasons why a thread is not confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses the ruleset.
    #[error("cannot confine the process to its directories")]
    Landlock(#[from] landlock::RulesetError),
    /// The descriptor of the ruleset cannot be duplicated.
    #[error("cannot confine a thread to its directories")]
    Clone(#[from] io::Error),
    /// The kernel refuses to drop the capabilities.
    #[error("cannot give up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// There is no filter for this architecture.
    #[error("cannot make the filter of system calls")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refuses the filter.
    #[error("cannot confine a thread to its system calls")]
    Seccomp(#[source] seccompiler::Error),
}

/// The files that stay accessible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Readable files and directories.
    pub read: Vec<PathBuf>,
    /// Writable files, and directories in which files and directories may be created, written, renamed and
    /// removed.
    pub write: Vec<PathBuf>,
    /// Unix sockets, or directories of sockets, to which connections are allowed.
    pub connect: Vec<PathBuf>,
}

/// A confinement, ready to be entered.
#[derive(Debug)]
pub struct Confinement {
    kind: Kind,
    ruleset: RulesetCreated,
    filters: [BpfProgram; 2],
}

/// The extent to which a thread is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// `true` if files and connections are restricted, by a Landlock that is new enough.
    pub files: bool,
    /// `true` if system calls are restricted: the kernel has seccomp.
    pub calls: bool,
}

static INSTALLED: OnceLock<BTreeMap<Kind, Confinement>> = OnceLock::new();
static JOURNAL_SOCKET: OnceLock<RawFd> = OnceLock::new();

impl Confinement {
    /// Makes the confinement of a kind of thread to these files. A file that does not exist now stays
    /// inaccessible.
    pub fn new(kind: Kind, files: &Files) -> Result<Self, Error> {
        let everything = AccessFs::from_all(RIGHTS);
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        // No thread makes devices, links or pipes, moves files to other directories, or executes programs;
        // sockets are made before.
        let writing = reading
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir;
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(everything)?
            .scope(Scope::from_all(RIGHTS))?;
        if !kind.has_network() {
            ruleset = ruleset.handle_access(AccessNet::from_all(RIGHTS))?;
        }
        let mut ruleset = ruleset.create()?;
        let socket = journal();
        let journal = socket.map(|_| Path::new(JOURNAL));
        let names = NAMES.iter().filter(|_| kind.looks_up_names()).map(Path::new);
        let rules = [
            (reading, files.read.iter().map(PathBuf::as_path).chain(names).collect::<Vec<_>>()),
            (writing, files.write.iter().map(PathBuf::as_path).collect()),
            (
                BitFlags::from(AccessFs::ResolveUnix),
                files.connect.iter().map(PathBuf::as_path).chain(journal).collect(),
            ),
        ];
        for (access, path) in
            rules.iter().flat_map(|(access, paths)| paths.iter().map(move |path| (*access, *path)))
        {
            let Ok(opened) = PathFd::new(path) else { continue };
            // The kernel has no rules for anonymous pipes, and allows opening them by /proc/self/fd.
            if fstatfs(&opened).is_ok_and(|of| of.filesystem_type().0 == PIPEFS_MAGIC) {
                continue;
            }
            // Rights about directories are refused for files.
            let is_file = fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir());
            let access = if is_file { access & AccessFs::from_file(RIGHTS) } else { access };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
        Ok(Self { kind, ruleset, filters: calls::filters(kind, socket)? })
    }

    /// Confines the calling thread, and all threads that it starts from now on, irrevocably. The capabilities
    /// are dropped in any case, except those of [`Kind::MainToRestore`].
    pub fn enter(&self) -> Result<Entered, Error> {
        let status = self.ruleset.try_clone()?.restrict_self()?;
        if !self.kind.is_privileged() {
            caps::clear(None, CapSet::Ambient)?;
            for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
                caps::set(None, set, &CapsHashSet::new())?;
            }
        }
        // The filters come last, because they forbid all of the above.
        let mut calls = true;
        for filter in &self.filters {
            match seccompiler::apply_filter(filter) {
                Ok(()) => {}
                // The kernel has no seccomp.
                Err(seccompiler::Error::Seccomp(error))
                    if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
                {
                    calls = false;
                }
                Err(error) => return Err(Error::Seccomp(error)),
            }
        }
        Ok(Entered { files: is_new_enough(&status), calls })
    }
}

/// Returns whether the kernel's Landlock supports all required rights.
fn is_new_enough(status: &RestrictionStatus) -> bool {
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else { return false };
    effective_abi >= NEEDED && status.ruleset != RulesetStatus::NotEnforced
}

/// Defines how the threads of this process are confined, by kind; kinds that are not named have no files. The
/// calling thread is not confined yet.
pub fn install(files: &BTreeMap<Kind, Files>) -> Result<(), Error> {
    let none = Files::default();
    let of = |kind| Ok((kind, Confinement::new(kind, files.get(&kind).unwrap_or(&none))?));
    let all = Kind::ALL.into_iter().map(of).collect::<Result<_, Error>>()?;
    // The first one is already in force in threads.
    let _ = INSTALLED.set(all);
    Ok(())
}

/// Confines the calling thread as [`install`] has defined; does nothing without a previous [`install`].
pub fn this_thread(kind: Kind) {
    if let Some(confinement) = INSTALLED.get().and_then(|all| all.get(&kind)) {
        said(confinement.enter());
    }
}

/// Starts a thread of this name, which first does what requires rights, then confines itself, and then runs
/// the rest. Returns once the thread is confined.
pub fn spawn<T: Send + 'static>(
    name: String,
    kind: Kind,
    first: impl FnOnce() + Send + 'static,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (confined, is_confined) = sync_channel(1);
    let thread = thread::Builder::new().name(name).spawn(move || {
        first();
        this_thread(kind);
        // There is room in the channel, and the receiver waits until then.
        let _ = confined.send(());
        run()
    })?;
    // If the thread panicked, the panic has already been reported.
    let _ = is_confined.recv();
    Ok(thread)
}

/// Sets the socket by which messages go to the journal: confined threads may still send by it.
pub fn keep_journal(socket: RawFd) {
    // The journal has only one socket.
    let _ = JOURNAL_SOCKET.set(socket);
}

fn journal() -> Option<RawFd> {
    JOURNAL_SOCKET.get().copied()
}

fn said(result: Result<Entered, Error>) {
    match result {
        Ok(Entered { files: true, calls: true }) => {}
        Ok(Entered { files, calls }) => {
            for (done, what) in [(files, "Landlock that is new enough"), (calls, "seccomp")] {
                if !done {
                    tracing::debug!("this kernel has no {what}: the process is not fully confined");
                }
            }
        }
        Err(error) => tracing::warn!("{}", crate::one_line(&error)),
    }
}
