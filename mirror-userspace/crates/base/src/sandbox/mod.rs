//! The rights that threads give up once they need no more than what is open: capabilities, new privileges by
//! other programs, files and connections (Landlock), and system calls (seccomp).
//!
//! What is open stays usable: sockets, maps and links are file descriptors, and since Linux 5.19 the kernel
//! asks for no capability to use a map by its descriptor. So rules are replaced, flows shunted, counters
//! read and the program taken off by a process that could not load another one.
//!
//! All of that belongs to threads, and a thread that starts another one hands its own restrictions on. Each
//! thread enters what its [`Kind`] has by [`this_thread`]; [`install`] says before what there is for each kind.
//! Threads of one process share its memory and its descriptors: what is given up here bounds what code in a
//! thread can ask of the kernel. `docs/security.md` has the tables of what that is, and tests hold them.

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

/// The newest of Landlock's rights that are asked for; where the kernel knows fewer, it gets fewer. UDP is
/// among the last, from Linux 7.2 on: before, the filters of system calls alone keep threads from it.
const RIGHTS: ABI = ABI::V10;

/// The rights without which a thread is not confined as it is meant to be: files, TCP, abstract Unix sockets,
/// signals.
const NEEDED: ABI = ABI::V6;

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

/// The type of the file system that pipes without a name are in (`linux/magic.h`).
const PIPEFS_MAGIC: libc::c_long = 0x5049_5045;

/// Where messages go to the journal.
const JOURNAL: &str = "/run/systemd/journal/socket";

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
    /// There is no filter for this machine.
    #[error("cannot make the filter of system calls")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refuses the filter.
    #[error("cannot confine a thread to its system calls")]
    Seccomp(#[source] seccompiler::Error),
}

/// The files that are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Files and directories to read.
    pub read: Vec<PathBuf>,
    /// Files to write, and directories to make, write, rename and remove files and directories in.
    pub write: Vec<PathBuf>,
    /// Unix sockets to connect to, or directories of such.
    pub connect: Vec<PathBuf>,
}

/// A confinement to enter.
#[derive(Debug)]
pub struct Confinement {
    kind: Kind,
    ruleset: RulesetCreated,
    filters: [BpfProgram; 2],
}

/// How far a thread is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// To files and connections, by a Landlock that is new enough.
    pub files: bool,
    /// To system calls: the kernel has seccomp.
    pub calls: bool,
}

static INSTALLED: OnceLock<BTreeMap<Kind, Confinement>> = OnceLock::new();
static JOURNAL_SOCKET: OnceLock<RawFd> = OnceLock::new();

impl Confinement {
    /// Of a kind of thread, to these files. Those that are not there now will not be there later either.
    pub fn new(kind: Kind, files: &Files) -> Result<Self, Error> {
        let everything = AccessFs::from_all(RIGHTS);
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        // Nobody makes devices, links or pipes, moves files to other directories, or runs programs; sockets
        // are made before.
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
            // The kernel has no rules for pipes without a name, and lets them be opened by /proc/self/fd.
            if fstatfs(&opened).is_ok_and(|of| of.filesystem_type().0 == PIPEFS_MAGIC) {
                continue;
            }
            // Rights that are about directories are refused for files.
            let is_file = fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir());
            let access = if is_file { access & AccessFs::from_file(RIGHTS) } else { access };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
        Ok(Self { kind, ruleset, filters: calls::filters(kind, socket)? })
    }

    /// Confines the calling thread, and those that it starts from now on, for ever. The capabilities are gone
    /// in any case, but for those of [`Kind::MainToRestore`].
    pub fn enter(&self) -> Result<Entered, Error> {
        let status = self.ruleset.try_clone()?.restrict_self()?;
        if !self.kind.is_privileged() {
            caps::clear(None, CapSet::Ambient)?;
            for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
                caps::set(None, set, &CapsHashSet::new())?;
            }
        }
        // The last: they forbid all of the above.
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

/// Whether the kernel's Landlock can do all that has to be.
fn is_new_enough(status: &RestrictionStatus) -> bool {
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else { return false };
    effective_abi >= NEEDED && status.ruleset != RulesetStatus::NotEnforced
}

/// Says how the threads of this process are confined from now on, by kind; kinds that are not named have no
/// files. The calling thread is not yet.
pub fn install(files: &BTreeMap<Kind, Files>) -> Result<(), Error> {
    let none = Files::default();
    let of = |kind| Ok((kind, Confinement::new(kind, files.get(&kind).unwrap_or(&none))?));
    let all = Kind::ALL.into_iter().map(of).collect::<Result<_, Error>>()?;
    // The first one is in force in threads already.
    let _ = INSTALLED.set(all);
    Ok(())
}

/// Confines the calling thread as [`install`] said; does nothing where nothing was installed.
pub fn this_thread(kind: Kind) {
    if let Some(confinement) = INSTALLED.get().and_then(|all| all.get(&kind)) {
        said(confinement.enter());
    }
}

/// Starts a thread of this name, which does first what takes rights, then confines itself, and then runs the
/// rest. Returns once it is confined.
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
        // There is room, and who waits does so until then.
        let _ = confined.send(());
        run()
    })?;
    // Where the thread panicked it has said so itself.
    let _ = is_confined.recv();
    Ok(thread)
}

/// Says by which socket messages go to the journal: threads that are confined may send by it still.
pub fn keep_journal(socket: RawFd) {
    // There is one.
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
                    tracing::debug!(
                        "this kernel has no {what}: the process is not confined in all that it should"
                    );
                }
            }
        }
        Err(error) => tracing::warn!("{}", crate::one_line(&error)),
    }
}
