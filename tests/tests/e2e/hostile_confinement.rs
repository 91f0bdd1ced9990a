//! Simulates an attacker who controls threads of a live capture: a debugger makes each thread execute each
//! forbidden call, which must end as documented in `docs/security.md`.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSlice, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use mirror_userspace::base::sandbox::Kind;
use mirror_xdp_tests::appliance::{Appliance, Bed, INTERFACE, PATIENCE, Report, wait_until};
use mirror_xdp_tests::calls::{self, Call, Outcome};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::huge_pages::NoHugePages;
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::errno::Errno;
use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};

/// The x86-64 instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// The red zone below the stack, which the current function may use (System V ABI), in bytes, and the room
/// for paths below it.
const RED_ZONE: u64 = 128;
const ROOM: u64 = 4096;

/// A thread stopped by the debugger, which is this thread.
struct Held {
    thread: Pid,
    registers: user_regs_struct,
    /// The address of a [`SYSCALL`] instruction in its memory.
    gate: u64,
}

impl Held {
    /// Stops a thread, whether or not it is in a call.
    fn take(thread: Pid, gate: u64) -> Self {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self { thread, registers: ptrace::getregs(thread).unwrap(), gate }
    }

    /// Makes the thread execute a call, and returns the outcome.
    fn make(&self, call: &Call, outside: &Path) -> Outcome {
        let mut free = (self.registers.rsp - RED_ZONE - ROOM) & !15;
        let values = call.values(outside, |bytes| {
            let place = free;
            free += bytes.len().next_multiple_of(16) as u64;
            let remote = RemoteIoVec { base: usize::try_from(place).unwrap(), len: bytes.len() };
            assert_eq!(
                process_vm_writev(self.thread, &[IoSlice::new(bytes)], &[remote]).unwrap(),
                bytes.len()
            );
            place
        });
        let mut registers = self.registers;
        registers.rip = self.gate;
        registers.rax = call.number as u64;
        // Prevents the kernel from restarting an interrupted call.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = values;
        ptrace::setregs(self.thread, registers).unwrap();
        ptrace::step(self.thread, None).unwrap();
        let stopped = waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(self.thread, Signal::SIGTRAP), "{}", call.name);
        Outcome::of(ptrace::getregs(self.thread).unwrap().rax.cast_signed())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The thread continues where it was.
        let _ = ptrace::setregs(self.thread, self.registers);
        let _ = ptrace::detach(self.thread, None);
    }
}

/// Returns the address of a [`SYSCALL`] instruction in the C library's code.
fn gate(process: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let found =
        maps.lines().filter(|line| line.contains(" r-xp ") && line.contains("libc")).find_map(|line| {
            let (first, rest) = line.split_once('-')?;
            let (last, _) = rest.split_once(' ')?;
            let [first, last] = [first, last].map(|address| u64::from_str_radix(address, 16).unwrap());
            let mut code = vec![0; usize::try_from(last - first).unwrap()];
            memory.read_exact_at(&mut code, first).ok()?;
            code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL).map(|at| first + at as u64)
        });
    found.expect("the C library makes calls")
}

/// Returns the kind of a thread by its name.
fn kind(name: &str, main: Kind) -> Kind {
    match name.split_once(' ').map_or(name, |(word, _)| word) {
        "worker" => Kind::Worker,
        "eve" => Kind::Records,
        "seal" => Kind::Seal,
        "write" | "store" => Kind::Store,
        "upload" => Kind::Upload,
        "api" => Kind::Api,
        "control" => Kind::Control,
        "tap" => Kind::Tap,
        "rules" => Kind::Main,
        "mirror-xdp" => main,
        other => panic!("nothing is said of a thread `{other}`"),
    }
}

/// Returns the outcome of a call that has to pass the filters of two kinds.
fn both(one: Outcome, other: Outcome) -> Outcome {
    let order = [Errno::ENOSYS, Errno::EPERM, Errno::EACCES].map(Outcome::Refused);
    order.into_iter().find(|outcome| [one, other].contains(outcome)).unwrap_or(Outcome::LetThrough)
}

/// Tries every call in every thread of a process; returns the number of threads of each kind. If the main
/// thread was confined before it started the others, they inherit its confinement.
fn try_all(process: u32, main: Kind, inherited: bool) -> BTreeMap<Kind, usize> {
    let table = calls::table(&Kind::ALL.map(Kind::name));
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "").unwrap();
    let gate = gate(process);
    let mut tried = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let thread = thread.unwrap();
        let name = fs::read_to_string(thread.path().join("comm")).unwrap();
        let kind = kind(name.trim(), main);
        let held = Held::take(Pid::from_raw(thread.file_name().to_str().unwrap().parse().unwrap()), gate);
        for row in &table {
            let outcome = held.make(&row.call, outside.path());
            let expected = row.expected(kind.name());
            let expected = if inherited { both(expected, row.expected(main.name())) } else { expected };
            assert_eq!(outcome, expected, "{name}: {}", row.call.name);
        }
        *tried.entry(kind).or_default() += 1;
    }
    assert!(outside.path().join("file").exists() && !outside.path().join("new").exists());
    tried
}

/// Returns whether a process has a thread of this name.
fn has_thread(process: u32, name: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread may end meanwhile.
    let names = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("comm")));
    names.flatten().any(|found| found.trim() == name)
}

/// Sends frames of 200 flows, which appear in the records.
fn send(bed: &Bed, first: u16) {
    let frame = |port| mirrored(7).source_port(port).carrying(&Flow::v4(port, 9).udp(b"hello"));
    bed.send(&(first..first + 200).map(frame).collect::<Vec<_>>());
}

/// Starts all optional threads and tries all calls in each thread, with traffic before and after.
fn attack(bed: &Bed, arguments: &[&str], main: Kind) -> (BTreeMap<Kind, usize>, Report) {
    let appliance: Appliance = bed.start(arguments);
    let mut tail = bed.command(&["tail", "--json", "--control"]);
    let tail = Process::spawn(tail.arg(bed.control()).arg("udp port 9")).unwrap();
    wait_until("tail is served", || has_thread(appliance.id(), "control client"));
    send(bed, 20_000);
    let tried = try_all(appliance.id(), main, false);
    send(bed, 30_000);
    drop(tail);
    let report = appliance.stop();
    report.assert_conserved();
    (tried, report)
}

#[test]
fn hostile_calls_fail_in_each_thread_of_a_live_capture_which_goes_on() {
    const TAP: &str = "tap0";
    let Some(bed) = Bed::new(2) else { return };
    bed.appliance.veth(TAP, &bed.appliance, "ids0", 1).unwrap();
    bed.appliance.up(TAP).unwrap();
    let (store, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let upload = format!("file://{}", copy.path().display());
    let store = ["--store", store.path().to_str().unwrap(), "--store-upload", &upload];
    let (tried, report) = attack(&bed, &[&store[..], &["--tap", TAP]].concat(), Kind::Main);
    for kind in Kind::ALL {
        let elsewhere = matches!(kind, Kind::MainToRestore | Kind::Read | Kind::ReadRemote);
        assert_eq!(tried.contains_key(&kind), !elsewhere, "{kind}: {tried:?}");
    }
    assert_eq!(report.sum("/workers", "/store/kept"), 400, "{}", report.json());
    assert_eq!(bed.records().iter().filter(|record| record["event_type"] == "flow").count(), 400);
}

#[test]
fn hostile_calls_fail_where_an_interface_is_to_be_restored_and_it_is() {
    let Some(bed) = Bed::new(1) else { return };
    let mtu = || bed.appliance.ip(&format!("-o link show dev {INTERFACE}")).unwrap().contains(" mtu 9000 ");
    bed.far.ip("link set dev source0 mtu 9000").unwrap();
    bed.appliance.ip(&format!("link set dev {INTERFACE} mtu 9000")).unwrap();
    let _pages = NoHugePages::take();
    let (tried, _) = attack(&bed, &["--prepare"], Kind::MainToRestore);
    assert!(tried.contains_key(&Kind::MainToRestore), "{tried:?}");
    assert!(mtu());
}

#[test]
fn hostile_calls_fail_while_a_file_is_read() {
    // A file header, and packets with their headers: more than one read takes.
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    let packet = [&[1, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0][..], &[0; 14]].concat();
    file.extend(packet.repeat(200_000));
    if !require::privileges() {
        return;
    }
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    let inside = |name: &str| directory.path().join(name);
    mkfifo(&inside("fifo"), Mode::S_IRWXU).unwrap();
    let mut command = Command::new(binary);
    command
        .arg("read")
        .arg("--log-dir")
        .arg(inside("log"))
        .arg("--store")
        .arg(inside("store"))
        .arg(inside("fifo"));
    let process = Process::spawn(&mut command).unwrap();
    // This waits until the process opens the file.
    let mut writer = File::options().write(true).open(inside("fifo")).unwrap();
    writer.write_all(&file).unwrap();
    wait_until("a file is read", || has_thread(process.id(), "write 0"));
    let tried = try_all(process.id(), Kind::Read, true);
    assert_eq!(
        tried.keys().copied().collect::<Vec<_>>(),
        [Kind::Records, Kind::Seal, Kind::Store, Kind::Read]
    );
    drop(writer);
    let output = process.wait(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    assert!(inside("log/eve.json").exists() && inside("store/manifest.jsonl").exists());
}
