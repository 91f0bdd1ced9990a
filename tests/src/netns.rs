//! Network namespaces that leave nothing behind.
//!
//! A [`Namespace`] has no name: only an open file descriptor of this process refers to it. The kernel removes
//! it, with every interface in it, as soon as the descriptor and the processes in it are gone, even after
//! `kill -9`. Two runs at once do not disturb each other.
//!
//! Programs run in a namespace by `nsenter` of util-linux ([`Namespace::command`]) and die with the thread
//! that started them. Code of this process runs in it on a thread of its own ([`Namespace::enter`]).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::{io, panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

use crate::process::run;

/// An anonymous network namespace, for as long as this value lives.
///
/// IPv6 is off on its interfaces until one of them gets an IPv6 address: the link carries only what a test
/// sends. The loopback interface is up.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a namespace. Needs root, as everything here does.
    pub fn new() -> io::Result<Self> {
        // A namespace belongs to a thread. This thread is made for that, and ends at once.
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| annotate(&error.into(), "cannot make a network namespace"))?;
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
            File::open("/proc/thread-self/ns/net")
        })?;
        let namespace = Self { file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Returns a path by which other processes reach the namespace while this process holds it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Returns a command that runs `program` in the namespace; arguments can be added as usual.
    ///
    /// The kernel kills the process when the thread that spawned it ends, so it must not be spawned inside
    /// [`Namespace::enter`] if it is used afterwards. `/sys/class/net` still shows the interfaces of the
    /// machine, not those of the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(["setpriv", "--pdeathsig", "KILL", program]);
        command
    }

    /// Runs `body` inside the namespace, on a thread of its own. A socket made there belongs to the namespace
    /// and can be used from any thread.
    pub fn enter<R: Send>(&self, body: impl FnOnce() -> R + Send) -> io::Result<R> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(body())
        })
    }

    /// Runs the `ip` command in the namespace, with arguments separated by blanks.
    pub fn ip(&self, arguments: &str) -> io::Result<String> {
        run(self.command("ip").args(arguments.split_whitespace()))
    }

    /// Makes a virtual cable between a new interface `name` of this namespace and a new interface `peer_name`
    /// of `peer`. Each end has `queues` receive and as many transmit queues. The ends are down.
    pub fn veth(&self, name: &str, peer: &Self, peer_name: &str, queues: usize) -> io::Result<()> {
        let mut arguments = format!("link add {name}");
        // Options before `type` belong to the first end, options after `peer` to the other.
        let _ = write!(arguments, " numrxqueues {queues} numtxqueues {queues} type veth peer {peer_name}");
        let _ = write!(arguments, " numrxqueues {queues} numtxqueues {queues} netns {}", peer.path());
        self.ip(&arguments).map(|_| ())
    }

    /// Gives `interface` an address, with the length of its network prefix.
    pub fn address(&self, interface: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        if address.is_ipv6() {
            self.enter(|| {
                let conf = |key: &str| format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
                // 1 = none: no link-local address, hence no router solicitation.
                fs::write(conf("addr_gen_mode"), "1")?;
                fs::write(conf("disable_ipv6"), "0")
            })??;
        }
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        self.ip(&format!("address add {address}/{prefix} dev {interface}{nodad}")).map(|_| ())
    }

    /// Sets `interface` up. A cable carries frames once both of its ends are up.
    pub fn up(&self, interface: &str) -> io::Result<()> {
        self.ip(&format!("link set {interface} up")).map(|_| ())
    }

    /// Returns the hardware address of `interface`.
    pub fn mac(&self, interface: &str) -> io::Result<[u8; 6]> {
        let line = self.ip(&format!("-brief link show dev {interface}"))?;
        // "NAME@PEER  STATE  MAC  <FLAGS>"
        let text = line.split_whitespace().nth(2).unwrap_or_default();
        let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes.try_into().map_err(|_| io::Error::other(format!("{interface} has no hardware address: {line}")))
    }
}

/// Runs `body` on a new thread and waits for it; propagates a panic to the caller.
fn on_thread<R: Send>(body: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|payload| panic::resume_unwind(payload))
}

fn annotate(error: &io::Error, what: &str) -> io::Error {
    let root = if error.kind() == io::ErrorKind::PermissionDenied { " (this needs root)" } else { "" };
    io::Error::new(error.kind(), format!("{what}: {error}{root}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require::privileges;
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

    #[test]
    fn a_cable_carries_datagrams_between_namespaces() {
        if !privileges() {
            return;
        }
        let (left, right) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        left.veth("veth0", &right, "veth0", 2).unwrap();
        let addresses = |host| {
            let v6 = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(host));
            [(IpAddr::V4(Ipv4Addr::new(10, 9, 0, host)), 24), (IpAddr::V6(v6), 64)]
        };
        for (namespace, host) in [(&left, 1), (&right, 2)] {
            for (address, prefix) in addresses(host) {
                namespace.address("veth0", address, prefix).unwrap();
            }
            namespace.up("veth0").unwrap();
        }
        assert_ne!(left.mac("veth0").unwrap(), right.mac("veth0").unwrap());
        for ((from, _), (to, _)) in addresses(1).into_iter().zip(addresses(2)) {
            let receiver = right.enter(|| UdpSocket::bind((to, 0)).unwrap()).unwrap();
            let sender = left.enter(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
            sender.send_to(b"hello", receiver.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 8];
            assert_eq!(receiver.recv_from(&mut buffer).unwrap().1, sender.local_addr().unwrap());
        }
    }

    #[test]
    fn interfaces_are_invisible_outside() {
        if !privileges() {
            return;
        }
        let namespace = Namespace::new().unwrap();
        namespace.veth("inside0", &namespace, "inside1", 1).unwrap();
        assert!(namespace.mac("inside0").is_ok());
        assert!(run(Command::new("ip").args(["link", "show", "inside0"])).is_err());
    }
}
