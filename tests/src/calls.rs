//! System calls that threads of mirror-xdp try, and their outcomes as documented in `docs/security.md`. The
//! tests compare with the table in that file, so code and documentation cannot differ.

use std::collections::BTreeMap;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A number, or a descriptor that does not exist.
    Number(u64),
    /// A path; `{outside}` stands for a directory that no thread may use and that contains a `file`.
    Path(&'static str),
    /// An Internet address to send to.
    Address,
}

/// A call to try. No call does harm if it is let through: descriptors are invalid and flags make no sense.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name in the table.
    pub name: &'static str,
    /// Its system call number.
    pub number: libc::c_long,
    /// Its arguments; the remaining ones are 0.
    pub arguments: Vec<Argument>,
}

impl Call {
    /// Returns the values of the arguments. `place` copies bytes into the memory of the thread that calls and
    /// returns their address.
    pub fn values(&self, outside: &Path, mut place: impl FnMut(&[u8]) -> u64) -> [u64; 6] {
        let mut values = [0; 6];
        for (value, argument) in values.iter_mut().zip(&self.arguments) {
            *value = match argument {
                Argument::Number(number) => *number,
                Argument::Path(path) => {
                    let path = path.replace("{outside}", &outside.to_string_lossy());
                    place(&[path.as_bytes(), &[0]].concat())
                }
                // 192.0.2.1:53, padded to 16 bytes, the longest address length that is tried.
                Argument::Address => place(&[2, 0, 0, 53, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            };
        }
        values
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call fails with this error before the kernel looks at its arguments.
    Refused(Errno),
    /// The kernel performs the call, or fails it for another reason.
    LetThrough,
}

impl Outcome {
    /// Classifies a raw result.
    #[must_use]
    pub fn of(result: i64) -> Self {
        let refusals = [Errno::EPERM, Errno::EACCES, Errno::ENOSYS];
        let refusal = refusals.into_iter().find(|errno| -(*errno as i64) == result);
        refusal.map_or(Self::LetThrough, Self::Refused)
    }

    fn parse(text: &str) -> Self {
        match text {
            "EPERM" => Self::Refused(Errno::EPERM),
            "EACCES" => Self::Refused(Errno::EACCES),
            "ENOSYS" => Self::Refused(Errno::ENOSYS),
            "yes" => Self::LetThrough,
            other => panic!("`{other}` is none of EPERM, EACCES, ENOSYS and yes"),
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The call to try.
    pub call: Call,
    everywhere: Outcome,
    /// Kinds of threads for which the outcome differs.
    but: BTreeMap<String, Outcome>,
}

impl Row {
    /// Returns the expected outcome in this kind of thread.
    #[must_use]
    pub fn expected(&self, kind: &str) -> Outcome {
        self.but.get(kind).copied().unwrap_or(self.everywhere)
    }
}

/// Reads the table of `docs/security.md`: rows `| call | outcome | KIND OUTCOME, … |` between two marks.
#[must_use]
pub fn table(kinds: &[&str]) -> Vec<Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let text = std::fs::read_to_string(path).expect("docs/security.md is there");
    let (_, text) = text.split_once("<!-- calls -->").expect("the table begins");
    let (text, _) = text.split_once("<!-- end of calls -->").expect("the table ends");
    let mut known: BTreeMap<_, _> = all().into_iter().map(|call| (call.name, call)).collect();
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, everywhere, but] = cells[..] else { panic!("not three cells: {line}") };
        let name = name.trim_matches('`');
        if name.ends_with("(x86-64)") && !cfg!(target_arch = "x86_64") {
            continue;
        }
        let call = known.remove(name).unwrap_or_else(|| panic!("nothing tries `{name}`, or twice"));
        let mut others = BTreeMap::new();
        for part in but.split(", ").filter(|part| !part.is_empty()) {
            let (kind, outcome) = part.split_once(' ').unwrap_or_else(|| panic!("{line}: `{part}`"));
            assert!(kinds.contains(&kind), "{line}: there is no kind `{kind}`");
            others.insert(kind.to_owned(), Outcome::parse(outcome));
        }
        rows.push(Row { call, everywhere: Outcome::parse(everywhere), but: others });
    }
    assert!(known.is_empty(), "not in the table: {:?}", known.keys());
    rows
}

/// A descriptor that does not exist.
const NONE: Argument = Argument::Number(u64::MAX);
/// The working directory, to which paths are relative.
const CWD: Argument = Argument::Number(libc::AT_FDCWD as u64);

/// Returns all calls to try.
fn all() -> Vec<Call> {
    use Argument::{Address, Number, Path};

    let call = |name, number, arguments: &[Argument]| Call { name, number, arguments: arguments.to_vec() };
    let n = |number: libc::c_int| Number(number as u64);
    let file = Path("{outside}/file");
    let new = Path("{outside}/new");
    let one_page = Number(4096);
    let (readable, executable) = (n(libc::PROT_READ), n(libc::PROT_READ | libc::PROT_EXEC));
    let anonymous = n(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let mut calls = vec![
        // Programs and processes.
        call("execve", libc::SYS_execve, &[Path("/bin/true")]),
        call("execveat", libc::SYS_execveat, &[CWD, Path("/bin/true")]),
        call("clone(SIGCHLD)", libc::SYS_clone, &[n(libc::SIGCHLD)]),
        call("clone3", libc::SYS_clone3, &[Number(0), Number(0)]),
        call("unshare(CLONE_NEWUSER)", libc::SYS_unshare, &[n(libc::CLONE_NEWUSER)]),
        call("setns", libc::SYS_setns, &[NONE]),
        call("ptrace(PTRACE_ATTACH)", libc::SYS_ptrace, &[Number(16), Number(0)]),
        call("process_vm_readv", libc::SYS_process_vm_readv, &[Number(1)]),
        call("process_vm_writev", libc::SYS_process_vm_writev, &[Number(1)]),
        call("kill(1)", libc::SYS_kill, &[Number(1), Number(0)]),
        call("tkill", libc::SYS_tkill, &[Number(1), Number(0)]),
        call("tgkill of others", libc::SYS_tgkill, &[Number(1), Number(1), Number(0)]),
        call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &[Number(1)]),
        call("pidfd_open", libc::SYS_pidfd_open, &[Number(1)]),
        call("pidfd_getfd", libc::SYS_pidfd_getfd, &[NONE]),
        call("pidfd_send_signal", libc::SYS_pidfd_send_signal, &[NONE]),
        call("kcmp", libc::SYS_kcmp, &[Number(1), Number(1)]),
        call("prlimit64", libc::SYS_prlimit64, &[Number(1), NONE]),
        call("sched_setaffinity", libc::SYS_sched_setaffinity, &[Number(1)]),
        call("sched_setscheduler", libc::SYS_sched_setscheduler, &[Number(1), NONE]),
        call("setpriority", libc::SYS_setpriority, &[NONE]),
        // Memory that becomes code.
        call("mmap(PROT_EXEC)", libc::SYS_mmap, &[Number(0), one_page, executable, anonymous, NONE]),
        call("mmap", libc::SYS_mmap, &[Number(0), one_page, readable, anonymous, NONE]),
        call("mprotect(PROT_EXEC)", libc::SYS_mprotect, &[Number(1), one_page, executable]),
        call("pkey_mprotect", libc::SYS_pkey_mprotect, &[Number(1), one_page, executable]),
        call("memfd_create", libc::SYS_memfd_create, &[Path("name"), NONE]),
        call("userfaultfd", libc::SYS_userfaultfd, &[NONE]),
        call("remap_file_pages", libc::SYS_remap_file_pages, &[Number(1)]),
        call("process_madvise", libc::SYS_process_madvise, &[NONE]),
        // Sockets. Those that are let through stay open until the process ends.
        call("socket(AF_INET, SOCK_STREAM)", libc::SYS_socket, &[n(libc::AF_INET), n(libc::SOCK_STREAM)]),
        call("socket(AF_INET, SOCK_DGRAM)", libc::SYS_socket, &[n(libc::AF_INET), n(libc::SOCK_DGRAM)]),
        call("socket(AF_INET6, SOCK_STREAM)", libc::SYS_socket, &[n(libc::AF_INET6), n(libc::SOCK_STREAM)]),
        call("socket(AF_INET6, SOCK_DGRAM)", libc::SYS_socket, &[n(libc::AF_INET6), n(libc::SOCK_DGRAM)]),
        call("socket(AF_INET, SOCK_RAW)", libc::SYS_socket, &[n(libc::AF_INET), n(libc::SOCK_RAW)]),
        call("socket(AF_PACKET)", libc::SYS_socket, &[n(libc::AF_PACKET), n(libc::SOCK_RAW)]),
        call("socket(AF_XDP)", libc::SYS_socket, &[n(libc::AF_XDP), n(libc::SOCK_RAW)]),
        call("socket(AF_UNIX, SOCK_STREAM)", libc::SYS_socket, &[n(libc::AF_UNIX), n(libc::SOCK_STREAM)]),
        call("socket(AF_NETLINK)", libc::SYS_socket, &[n(libc::AF_NETLINK), n(libc::SOCK_RAW)]),
        call("socket(AF_VSOCK)", libc::SYS_socket, &[n(libc::AF_VSOCK), n(libc::SOCK_STREAM)]),
        call("socket(AF_ALG)", libc::SYS_socket, &[n(libc::AF_ALG), n(libc::SOCK_SEQPACKET)]),
        call("socketpair", libc::SYS_socketpair, &[n(libc::AF_UNIX), n(libc::SOCK_STREAM)]),
        call("bind", libc::SYS_bind, &[NONE, Address, Number(16)]),
        call("listen", libc::SYS_listen, &[NONE]),
        call("accept4", libc::SYS_accept4, &[NONE]),
        call("connect", libc::SYS_connect, &[NONE, Address, Number(16)]),
        call(
            "sendto an address",
            libc::SYS_sendto,
            &[NONE, Address, Number(1), Number(0), Address, Number(16)],
        ),
        call("sendmsg", libc::SYS_sendmsg, &[NONE]),
        call("sendmmsg", libc::SYS_sendmmsg, &[NONE]),
        call("recvmsg", libc::SYS_recvmsg, &[NONE]),
        call(
            "setsockopt(SO_ATTACH_BPF)",
            libc::SYS_setsockopt,
            &[NONE, n(libc::SOL_SOCKET), n(libc::SO_ATTACH_BPF)],
        ),
        // Files.
        call("openat to read", libc::SYS_openat, &[CWD, file, n(libc::O_RDONLY)]),
        call("openat to write", libc::SYS_openat, &[CWD, file, n(libc::O_WRONLY)]),
        call(
            "openat(O_CREAT)",
            libc::SYS_openat,
            &[CWD, new, n(libc::O_WRONLY | libc::O_CREAT), Number(0o600)],
        ),
        call(
            "openat(O_CREAT), set-uid",
            libc::SYS_openat,
            &[CWD, new, n(libc::O_WRONLY | libc::O_CREAT), Number(0o4700)],
        ),
        call(
            "openat(O_TMPFILE)",
            libc::SYS_openat,
            &[CWD, Path("{outside}"), n(libc::O_WRONLY | libc::O_TMPFILE), Number(0o600)],
        ),
        call("openat2", libc::SYS_openat2, &[CWD, file]),
        call("open_by_handle_at", libc::SYS_open_by_handle_at, &[NONE]),
        call("name_to_handle_at", libc::SYS_name_to_handle_at, &[CWD, file]),
        call("mkdirat", libc::SYS_mkdirat, &[CWD, new, Number(0o700)]),
        call("mkdirat, set-gid", libc::SYS_mkdirat, &[CWD, new, Number(0o2700)]),
        call("mknodat", libc::SYS_mknodat, &[CWD, new, Number(0o600)]),
        call("linkat", libc::SYS_linkat, &[CWD, file, CWD, new]),
        call("symlinkat", libc::SYS_symlinkat, &[file, CWD, new]),
        call("renameat2", libc::SYS_renameat2, &[CWD, file, CWD, new]),
        call("unlinkat", libc::SYS_unlinkat, &[CWD, file]),
        call("fchmod, set-uid", libc::SYS_fchmod, &[NONE, Number(0o4755)]),
        call("fchmodat", libc::SYS_fchmodat, &[CWD, file, Number(0o4755)]),
        call("fchown", libc::SYS_fchown, &[NONE]),
        call("fchownat", libc::SYS_fchownat, &[CWD, file]),
        call("utimensat", libc::SYS_utimensat, &[CWD, file]),
        call("setxattr", libc::SYS_setxattr, &[file]),
        call("truncate", libc::SYS_truncate, &[file]),
        call("chdir", libc::SYS_chdir, &[Path("{outside}")]),
        call("chroot", libc::SYS_chroot, &[Path("{outside}")]),
        call("inotify_init1", libc::SYS_inotify_init1, &[NONE]),
        call("fanotify_init", libc::SYS_fanotify_init, &[NONE]),
        call("ioctl(TIOCSTI)", libc::SYS_ioctl, &[NONE, Number(libc::TIOCSTI)]),
        call("ioctl(SIOCETHTOOL)", libc::SYS_ioctl, &[NONE, Number(0x8946)]),
        // Other interfaces of the kernel.
        call("bpf(BPF_MAP_CREATE)", libc::SYS_bpf, &[Number(0), Number(0), Number(0)]),
        call("bpf(BPF_MAP_LOOKUP_ELEM)", libc::SYS_bpf, &[Number(1), Number(0), Number(0)]),
        call("bpf(BPF_MAP_UPDATE_ELEM)", libc::SYS_bpf, &[Number(2), Number(0), Number(0)]),
        call("bpf(BPF_PROG_LOAD)", libc::SYS_bpf, &[Number(5), Number(0), Number(0)]),
        call("bpf(BPF_OBJ_PIN)", libc::SYS_bpf, &[Number(6), Number(0), Number(0)]),
        call("bpf(BPF_PROG_ATTACH)", libc::SYS_bpf, &[Number(8), Number(0), Number(0)]),
        call("bpf(BPF_MAP_GET_FD_BY_ID)", libc::SYS_bpf, &[Number(14), Number(0), Number(0)]),
        call("bpf(BPF_LINK_CREATE)", libc::SYS_bpf, &[Number(28), Number(0), Number(0)]),
        call("io_uring_setup", libc::SYS_io_uring_setup, &[Number(0)]),
        call("io_uring_enter", libc::SYS_io_uring_enter, &[NONE]),
        call("io_setup", libc::SYS_io_setup, &[Number(0)]),
        call("perf_event_open", libc::SYS_perf_event_open, &[Number(0)]),
        call("keyctl", libc::SYS_keyctl, &[NONE]),
        call("add_key", libc::SYS_add_key, &[Number(0)]),
        call("request_key", libc::SYS_request_key, &[Number(0)]),
        call("mount", libc::SYS_mount, &[Number(0), Path("{outside}/none")]),
        call("umount2", libc::SYS_umount2, &[Path("{outside}/none"), NONE]),
        call("pivot_root", libc::SYS_pivot_root, &[Path("{outside}/none"), Path("{outside}/none")]),
        call("open_tree", libc::SYS_open_tree, &[NONE, Path("{outside}/none"), NONE]),
        call("move_mount", libc::SYS_move_mount, &[NONE]),
        call("fsopen", libc::SYS_fsopen, &[Path("none"), NONE]),
        call("init_module", libc::SYS_init_module, &[Number(0)]),
        call("finit_module", libc::SYS_finit_module, &[NONE]),
        call("kexec_load", libc::SYS_kexec_load, &[Number(0), NONE]),
        call("reboot", libc::SYS_reboot, &[Number(0), Number(0)]),
        call("swapon", libc::SYS_swapon, &[Path("{outside}/none")]),
        call("sethostname", libc::SYS_sethostname, &[Number(0), NONE]),
        call("clock_settime", libc::SYS_clock_settime, &[NONE]),
        call("settimeofday", libc::SYS_settimeofday, &[Number(1)]),
        call("syslog", libc::SYS_syslog, &[NONE]),
        call("acct", libc::SYS_acct, &[Path("{outside}/none")]),
        call("quotactl", libc::SYS_quotactl, &[NONE]),
        // Identity and credentials of the thread.
        call("setuid", libc::SYS_setuid, &[NONE]),
        call("setgroups", libc::SYS_setgroups, &[NONE]),
        call("capset", libc::SYS_capset, &[Number(0)]),
        call("personality", libc::SYS_personality, &[NONE]),
        call("prctl(PR_SET_DUMPABLE)", libc::SYS_prctl, &[n(libc::PR_SET_DUMPABLE), NONE]),
        call("prctl(PR_SET_SECCOMP)", libc::SYS_prctl, &[n(libc::PR_SET_SECCOMP), NONE]),
        call("seccomp", libc::SYS_seccomp, &[NONE]),
        call("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, &[Number(0), Number(0), NONE]),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        call("open (x86-64)", libc::SYS_open, &[file]),
        call("creat (x86-64)", libc::SYS_creat, &[new]),
        call("fork (x86-64)", libc::SYS_fork, &[]),
        call("chmod (x86-64)", libc::SYS_chmod, &[file, Number(0o4755)]),
        call("link (x86-64)", libc::SYS_link, &[file, new]),
        call("symlink (x86-64)", libc::SYS_symlink, &[file, new]),
        call("mknod (x86-64)", libc::SYS_mknod, &[new]),
        call("iopl (x86-64)", libc::SYS_iopl, &[NONE]),
        call("ioperm (x86-64)", libc::SYS_ioperm, &[NONE, NONE]),
        call("modify_ldt (x86-64)", libc::SYS_modify_ldt, &[NONE]),
        // A 64-bit kernel also accepts the numbers of its 32-bit ABIs: `socket` of x32.
        call(
            "socket of x32 (x86-64)",
            0x4000_0000 + libc::SYS_socket,
            &[n(libc::AF_INET), n(libc::SOCK_DGRAM)],
        ),
    ]);
    calls
}
