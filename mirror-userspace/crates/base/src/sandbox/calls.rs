//! The system calls that a thread may make, by its kind: seccomp filters (`seccomp(2)`).
//!
//! Each kind has a list of allowed calls. All others fail with `EPERM`, so that a call missing here disables
//! the feature that needs it, but not the capture. `clone3` fails with `ENOSYS`: its flags are behind a
//! pointer, which a filter cannot follow, and the C library then creates threads by `clone`, whose flags are
//! checked. Where arguments decide, they are compared: commands of `bpf`, protection of memory, modes of
//! files.
//!
//! A thread inherits the filters of the thread that starts it, and each call has to pass all of them.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Kind;

/// Commands of `bpf(2)`, `enum bpf_cmd`.
mod bpf {
    pub(super) const MAP_LOOKUP_ELEM: u64 = 0x1;
    pub(super) const MAP_UPDATE_ELEM: u64 = 0x2;
    pub(super) const MAP_DELETE_ELEM: u64 = 0x3;
    pub(super) const MAP_GET_NEXT_KEY: u64 = 0x4;
    pub(super) const OBJ_GET_INFO_BY_FD: u64 = 0xf;
    pub(super) const MAP_LOOKUP_BATCH: u64 = 0x18;
    pub(super) const MAP_UPDATE_BATCH: u64 = 0x1a;
    pub(super) const MAP_DELETE_BATCH: u64 = 0x1b;
}

/// The length of a netlink address, which is less than that of an IPv4 or IPv6 address.
const NETLINK_ADDRESS: u64 = size_of::<libc::sockaddr_nl>() as u64;

/// Names of mappings, which the C library sets (`linux/prctl.h`).
const PR_SET_VMA: u64 = 0x5356_4d41;

/// A condition on an argument: its index and its required value.
#[derive(Clone, Copy)]
enum Argument {
    /// None of these bits is set.
    Without(u8, u64),
    /// Of the bits in the first number, exactly those in the second are set.
    Bits(u8, u64, u64),
    /// The argument equals this 32-bit number.
    Is(u8, u64),
    /// The argument is a null pointer.
    Null(u8),
}

impl Argument {
    fn condition(self) -> Result<SeccompCondition, BackendError> {
        let (place, length, operator, value) = match self {
            Self::Without(place, bits) => (place, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0),
            Self::Bits(place, mask, bits) => {
                (place, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), bits)
            }
            Self::Is(place, value) => (place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value),
            Self::Null(place) => (place, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
        };
        SeccompCondition::new(place, length, operator, value)
    }
}

/// The calls that a thread may make.
#[derive(Default)]
struct Calls(BTreeMap<c_long, Vec<SeccompRule>>, Option<BackendError>);

impl Calls {
    /// Allows these calls with any arguments.
    fn all(&mut self, calls: &[c_long]) -> &mut Self {
        for &call in calls {
            self.0.insert(call, Vec::new());
        }
        self
    }

    /// Allows a call with such arguments, in addition to arguments that were allowed before.
    fn with(&mut self, call: c_long, arguments: &[Argument]) -> &mut Self {
        let conditions = arguments.iter().map(|argument| argument.condition()).collect::<Result<Vec<_>, _>>();
        match conditions.and_then(SeccompRule::new) {
            // A call without rules is allowed with any arguments.
            Ok(rule) => match self.0.get_mut(&call) {
                Some(rules) if rules.is_empty() => {}
                Some(rules) => rules.push(rule),
                None => {
                    self.0.insert(call, vec![rule]);
                }
            },
            Err(error) => self.1 = Some(error),
        }
        self
    }

    /// Allows a call if the argument at this index is one of these numbers.
    fn one_of(&mut self, call: c_long, place: u8, values: &[u64]) -> &mut Self {
        for &value in values {
            self.with(call, &[Argument::Is(place, value)]);
        }
        self
    }
}

/// Allows what every thread needs to live, to fail and to end: memory, locks, clocks, open descriptors.
fn living(calls: &mut Calls) {
    calls.all(&[
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_fstat,
        libc::SYS_futex,
        libc::SYS_getcpu,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_gettimeofday,
        libc::SYS_getuid,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_ppoll,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_write,
        libc::SYS_writev,
    ]);
    #[cfg(target_arch = "x86_64")]
    calls.all(&[libc::SYS_poll, libc::SYS_time]);
    // Signal handlers, which may run in any thread, wake the main thread by a socket; `write` would do as
    // well.
    calls.with(libc::SYS_sendto, &[Argument::Null(4)]);
    calls.one_of(libc::SYS_fcntl, 1, &[libc::F_GETFD as u64, libc::F_GETFL as u64]);
    // No new executable memory.
    let execute = libc::PROT_EXEC as u64;
    calls.with(libc::SYS_mmap, &[Argument::Without(2, execute)]);
    calls.with(libc::SYS_mprotect, &[Argument::Without(2, execute)]);
    calls.one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA]);
    // abort(3), for this process only.
    let process = u64::from(std::process::id());
    calls.with(libc::SYS_tgkill, &[Argument::Is(0, process)]);
    // Refused by a separate filter, with another error.
    calls.all(&[libc::SYS_clone3]);
}

/// Allows operations on connected sockets.
fn connected_sockets(calls: &mut Calls) {
    calls.all(&[libc::SYS_getpeername, libc::SYS_getsockname, libc::SYS_recvfrom, libc::SYS_shutdown]);
}

/// Allows the event loop of tokio.
fn event_loop(calls: &mut Calls) {
    calls.all(&[
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
    ]);
    #[cfg(target_arch = "x86_64")]
    calls.all(&[libc::SYS_epoll_wait]);
    calls.one_of(libc::SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u64]);
}

/// Allows accepting clients, and the options of accepted sockets.
fn accepting(calls: &mut Calls) {
    connected_sockets(calls);
    calls.all(&[libc::SYS_accept4, libc::SYS_getsockopt]);
    calls.one_of(libc::SYS_ioctl, 1, &[libc::FIONBIO]);
    // Timeouts and buffers of a socket, and TCP options.
    let options = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO, libc::SO_RCVBUF, libc::SO_SNDBUF, libc::SO_LINGER];
    for option in options {
        let arguments = [Argument::Is(1, libc::SOL_SOCKET as u64), Argument::Is(2, option as u64)];
        calls.with(libc::SYS_setsockopt, &arguments);
    }
    calls.with(libc::SYS_setsockopt, &[Argument::Is(1, libc::IPPROTO_TCP as u64)]);
}

/// Allows threads, but neither processes nor namespaces.
fn threads(calls: &mut Calls) {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let thread = libc::CLONE_THREAD as u64;
    calls.with(libc::SYS_clone, &[Argument::Bits(0, thread | u64::from(namespaces as u32), thread)]);
}

/// Allows reading files, as far as Landlock permits it, and locks on open files.
fn files_to_read(calls: &mut Calls) {
    calls.all(&[
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_fadvise64,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fstatfs,
        libc::SYS_fsync,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_lseek,
        libc::SYS_newfstatat,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_readlinkat,
        libc::SYS_statfs,
        libc::SYS_statx,
    ]);
    #[cfg(target_arch = "x86_64")]
    calls.all(&[libc::SYS_access, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_stat]);
    calls.with(libc::SYS_openat, &[Argument::Without(2, MAKES_FILES)]);
    calls.one_of(libc::SYS_fcntl, 1, &[libc::F_SETFD as u64, libc::F_SETFL as u64]);
}

/// Flags of `open(2)` that create a file. `O_TMPFILE` also contains the bit of `O_DIRECTORY`.
const MAKES_FILES: u64 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

/// Allows writing files, as far as Landlock permits it: no set-uid or set-gid files, links or devices.
fn files_to_write(calls: &mut Calls) {
    files_to_read(calls);
    calls.all(&[
        libc::SYS_copy_file_range,
        libc::SYS_fallocate,
        libc::SYS_ftruncate,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_sync_file_range,
        libc::SYS_unlinkat,
    ]);
    #[cfg(target_arch = "x86_64")]
    calls.all(&[libc::SYS_rename, libc::SYS_rmdir, libc::SYS_unlink]);
    let set_id = u64::from(libc::S_ISUID | libc::S_ISGID);
    let unnamed = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
    calls.with(libc::SYS_openat, &[Argument::Without(2, unnamed), Argument::Without(3, set_id)]);
    // Of open files only; Landlock does not check the change of a mode by path.
    calls.with(libc::SYS_fchmod, &[Argument::Without(1, set_id)]);
    calls.with(libc::SYS_mkdirat, &[Argument::Without(2, set_id)]);
    #[cfg(target_arch = "x86_64")]
    calls.with(libc::SYS_mkdir, &[Argument::Without(1, set_id)]);
}

/// Allows a socket of this family and type, with any flags.
fn socket(calls: &mut Calls, family: i32, kind: i32) {
    let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
    let kind = Argument::Bits(1, u64::from(u32::MAX) & !flags, kind as u64);
    calls.with(libc::SYS_socket, &[Argument::Is(0, family as u64), kind]);
}

/// Allows connections to other hosts: streams, and datagrams to resolve their names.
fn network(calls: &mut Calls) {
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            socket(calls, family, kind);
        }
    }
    // To find out which addresses this host has.
    socket(calls, libc::AF_NETLINK, libc::SOCK_RAW);
    connected_sockets(calls);
    calls.all(&[
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_getsockopt,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_uname,
    ]);
    calls.one_of(libc::SYS_ioctl, 1, &[libc::FIONBIO, libc::FIONREAD]);
}

/// Allows finding out whether standard output and error are terminals, and how wide.
fn terminal(calls: &mut Calls) {
    calls.one_of(libc::SYS_ioctl, 1, &[libc::TCGETS, libc::TIOCGWINSZ]);
}

/// Allows the calls of the main thread: configuration, counters, and open maps.
fn main_thread(calls: &mut Calls) {
    event_loop(calls);
    connected_sockets(calls);
    files_to_read(calls);
    terminal(calls);
    // Reads mirror traffic that bypasses the capture from the reserved ports.
    calls.all(&[libc::SYS_recvmsg]);
    // The kernel's answers about interfaces.
    calls.with(libc::SYS_sendto, &[Argument::Is(5, NETLINK_ADDRESS)]);
    calls.one_of(
        libc::SYS_bpf,
        0,
        &[
            bpf::MAP_LOOKUP_ELEM,
            bpf::MAP_UPDATE_ELEM,
            bpf::MAP_DELETE_ELEM,
            bpf::MAP_GET_NEXT_KEY,
            bpf::OBJ_GET_INFO_BY_FD,
            bpf::MAP_LOOKUP_BATCH,
            bpf::MAP_UPDATE_BATCH,
            bpf::MAP_DELETE_BATCH,
        ],
    );
    // The device's own counters; any change requires a capability.
    calls.one_of(libc::SYS_ioctl, 1, &[libc::SIOCETHTOOL]);
    // Waits until no CPU runs the program with the previous rules.
    calls.all(&[libc::SYS_membarrier, libc::SYS_getsockopt]);
}

/// Returns the calls that threads of this kind may make.
fn allowed(kind: Kind, journal: Option<RawFd>) -> Calls {
    let mut calls = Calls::default();
    let it = &mut calls;
    living(it);
    if let Some(journal) = journal {
        // Messages go to the journal's address, by this socket only.
        it.with(libc::SYS_sendto, &[Argument::Is(0, journal as u64)]);
    }
    match kind {
        Kind::Worker => {
            let shunting = [bpf::MAP_LOOKUP_ELEM, bpf::MAP_UPDATE_ELEM, bpf::MAP_DELETE_ELEM];
            it.one_of(libc::SYS_bpf, 0, &shunting);
            // The kernel's counters of the socket; for busy polling, a receive of 0 bytes.
            it.one_of(libc::SYS_getsockopt, 1, &[libc::SOL_XDP as u64]);
            it.with(libc::SYS_recvfrom, &[Argument::Is(2, 0), Argument::Null(4)]);
        }
        Kind::Records => {
            files_to_write(it);
            connected_sockets(it);
            socket(it, libc::AF_UNIX, libc::SOCK_STREAM);
            socket(it, libc::AF_UNIX, libc::SOCK_DGRAM);
            it.all(&[libc::SYS_connect]);
        }
        Kind::Seal => {}
        Kind::Store => files_to_write(it),
        Kind::Upload => {
            event_loop(it);
            files_to_write(it);
            network(it);
            threads(it);
        }
        Kind::Api => {
            event_loop(it);
            accepting(it);
            it.all(&[libc::SYS_statfs, libc::SYS_getpriority, libc::SYS_setpriority]);
        }
        Kind::Control => {
            accepting(it);
            threads(it);
            // Names in expressions; and the socket is removed at the end.
            files_to_read(it);
            it.all(&[libc::SYS_unlinkat]);
            #[cfg(target_arch = "x86_64")]
            it.all(&[libc::SYS_unlink]);
        }
        Kind::Tap => {
            it.all(&[libc::SYS_sendmmsg]);
        }
        Kind::Main => main_thread(it),
        Kind::MainToRestore => {
            main_thread(it);
            files_to_write(it);
            threads(it);
            // The kernel's settings of interfaces.
            socket(it, libc::AF_NETLINK, libc::SOCK_RAW);
            socket(it, libc::AF_NETLINK, libc::SOCK_DGRAM);
            socket(it, libc::AF_INET, libc::SOCK_DGRAM);
            it.all(&[libc::SYS_bind, libc::SYS_setsockopt]);
            it.one_of(libc::SYS_ioctl, 1, &[libc::FIONBIO]);
        }
        Kind::Read | Kind::ReadRemote => {
            files_to_write(it);
            terminal(it);
            threads(it);
            it.all(&[libc::SYS_getsockopt]);
            connected_sockets(it);
            // An event loop reads the copy of a store; it has a pair of sockets for signals.
            event_loop(it);
            it.one_of(libc::SYS_socketpair, 0, &[libc::AF_UNIX as u64]);
            it.one_of(libc::SYS_ioctl, 1, &[libc::FIONBIO]);
            if kind == Kind::ReadRemote {
                network(it);
            }
        }
    }
    // Their threads start with these filters, and then enter their own in addition.
    if matches!(kind, Kind::Read | Kind::ReadRemote) {
        enter_others(it);
    }
    calls
}

/// Allows a thread to confine itself further.
fn enter_others(calls: &mut Calls) {
    calls.all(&[libc::SYS_capget, libc::SYS_capset, libc::SYS_landlock_restrict_self, libc::SYS_seccomp]);
    calls.one_of(
        libc::SYS_prctl,
        0,
        &[libc::PR_SET_NO_NEW_PRIVS as u64, libc::PR_CAP_AMBIENT as u64, libc::PR_CAPBSET_READ as u64],
    );
    calls.one_of(libc::SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u64]);
}

/// Returns the filters of a kind of thread, in the order in which they have to be installed.
pub(super) fn filters(kind: Kind, journal: Option<RawFd>) -> Result<[BpfProgram; 2], BackendError> {
    let program = |calls, unmatched, matched| {
        SeccompFilter::new(calls, unmatched, matched, std::env::consts::ARCH.try_into()?)?.try_into()
    };
    let Calls(allowed, error) = allowed(kind, journal);
    if let Some(error) = error {
        return Err(error);
    }
    let unknown = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    Ok([
        program(unknown, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        program(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_filter_that_the_kernel_takes() {
        for kind in Kind::ALL {
            for program in filters(kind, Some(7)).unwrap() {
                // BPF_MAXINSNS.
                assert!(program.len() <= 4096, "{kind}: {}", program.len());
            }
        }
    }

    #[test]
    fn nobody_may_make_links_devices_or_programs() {
        let never = [
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_mknodat,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_memfd_create,
            libc::SYS_io_uring_setup,
            libc::SYS_fchmodat,
        ];
        for kind in Kind::ALL {
            let Calls(allowed, _) = allowed(kind, None);
            assert!(never.iter().all(|call| !allowed.contains_key(call)), "{kind}");
        }
    }
}
