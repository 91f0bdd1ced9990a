//! Sends frames unchanged onto a virtual cable, through an `AF_PACKET` socket on its far end.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};

use crate::netns::Namespace;

/// Sends frames out of one interface.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
}

impl Injector {
    /// Opens the interface of this name in `namespace`.
    pub fn new(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        namespace.enter(|| {
            // Protocol 0: the socket receives nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &link_address(interface)?)?;
            Ok(Self { socket })
        })?
    }

    /// Sends one frame; retries while the cable is full, so that no frame is lost before it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EINTR) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns the address of an interface in the calling thread's namespace, to bind an `AF_PACKET` socket to.
pub(crate) fn link_address(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::other(format!("there is no interface {interface}")))
}
