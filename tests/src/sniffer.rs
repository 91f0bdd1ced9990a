//! Takes frames off a virtual cable exactly as they arrive: an `AF_PACKET` socket on one of its ends.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::appliance::PATIENCE;
use crate::inject::link_address;
use crate::netns::Namespace;

/// The longest frame that is taken, and more than any interface carries.
const MAX_FRAME: usize = 65_536;

/// Room in the socket for what a test lets arrive before it looks, in bytes.
const BUFFER: usize = 64 << 20;

/// Receives the frames of one interface, those that it sends included.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
}

impl Sniffer {
    /// For the interface of this name in `namespace`.
    pub fn new(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        namespace.enter(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, RcvBufForce, &BUFFER)?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE.as_secs().cast_signed()))?;
            bind(socket.as_raw_fd(), &link_address(interface)?)?;
            Ok(Self { socket })
        })?
    }

    /// The next frame; waits for it.
    ///
    /// # Panics
    ///
    /// Where none arrives for very long.
    #[must_use]
    pub fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; MAX_FRAME];
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(error) => panic!("waited in vain for a frame: {error}"),
            }
        };
        frame.truncate(length);
        frame
    }

    /// The next frames for which `wanted` has an answer, as many as asked for.
    #[must_use]
    pub fn take<T>(&self, count: usize, mut wanted: impl FnMut(Vec<u8>) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.extend(wanted(self.receive()));
        }
        taken
    }
}
