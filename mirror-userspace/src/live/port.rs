//! The UDP ports of mirror traffic, held for the time of the capture. Two reasons: a port that is in use
//! on this host would lose its traffic to the XDP program without a word, and mirrored datagrams that
//! reach the network stack by another interface are not answered with ICMP "port unreachable".

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

/// A UDP port that nobody else on this host gets datagrams from.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    _socket: OwnedFd,
}

impl ReservedPort {
    /// Takes the port for both IP versions, or for IPv4 alone where there is no IPv6. Captures that run
    /// side by side share it.
    pub(crate) fn take(port: u16) -> Result<Self, Errno> {
        match Self::take_v6(port) {
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => Self::take_v4(port),
            result => result,
        }
    }

    fn take_v6(port: u16) -> Result<Self, Errno> {
        let socket = udp_socket(AddressFamily::Inet6)?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?;
        Ok(Self { _socket: socket })
    }

    fn take_v4(port: u16) -> Result<Self, Errno> {
        let socket = udp_socket(AddressFamily::Inet)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        Ok(Self { _socket: socket })
    }
}

fn udp_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // Nobody reads what arrives: keep as little of it as the kernel lets us.
    setsockopt(&socket, sockopt::RcvBuf, &0)?;
    Ok(socket)
}
