//! Receives frames unchanged from a virtual cable, through an `AF_PACKET` socket on one of its ends.

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

/// The longest frame received, in bytes: more than any interface carries.
const MAX_FRAME: usize = 65_536;

/// The receive buffer, in bytes, for the frames that arrive before a test reads them.
const BUFFER: usize = 64 << 20;

/// Receives the frames of one interface, those that it sends included.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
}

impl Sniffer {
    /// Opens the interface of this name in `namespace`.
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

    /// Waits for the next frame and returns it.
    ///
    /// # Panics
    ///
    /// If none arrives within [`PATIENCE`].
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

    /// Receives frames until `wanted` has returned a value for `count` of them; returns these values.
    #[must_use]
    pub fn take<T>(&self, count: usize, mut wanted: impl FnMut(Vec<u8>) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.extend(wanted(self.receive()));
        }
        taken
    }
}
