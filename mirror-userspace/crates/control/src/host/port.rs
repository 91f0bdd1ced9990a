//! The UDP ports of mirror traffic, held for the time of the capture. Two reasons: a port that is in use
//! on this host would lose its traffic to the XDP program without a word, and mirrored datagrams that
//! reach the network stack by another interface are not answered with ICMP "port unreachable". And a third: what
//! arrives here is mirror traffic that no program has taken, of which there should be none.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, recvmsg,
    setsockopt, socket, sockopt,
};

/// A UDP port that nobody else on this host gets datagrams from.
#[derive(Debug)]
pub struct ReservedPort {
    socket: OwnedFd,
    /// Datagrams that were read.
    read: AtomicU64,
    /// Datagrams that there was no room for, as the kernel said last.
    dropped: AtomicU64,
}

impl ReservedPort {
    /// Takes the port for both IP versions, or for IPv4 alone where there is no IPv6. Captures that run
    /// side by side share it.
    pub fn take(port: u16) -> Result<Self, Errno> {
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
        Ok(Self::of(socket))
    }

    fn take_v4(port: u16) -> Result<Self, Errno> {
        let socket = udp_socket(AddressFamily::Inet)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        Ok(Self::of(socket))
    }

    fn of(socket: OwnedFd) -> Self {
        Self { socket, read: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// Datagrams that have reached the port so far, instead of the capture. What there was no room for is known once
    /// there is the next.
    pub fn reached(&self) -> u64 {
        // What else has come is read the next time.
        const AT_ONCE: usize = 64;
        let mut space = nix::cmsg_space!(u32);
        for _ in 0..AT_ONCE {
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut [], Some(&mut space), flags);
            let Ok(message) = message else { break };
            self.read.fetch_add(1, Ordering::Relaxed);
            for control in message.cmsgs().into_iter().flatten() {
                if let ControlMessageOwned::RxqOvfl(dropped) = control {
                    self.dropped.store(dropped.into(), Ordering::Relaxed);
                }
            }
        }
        self.read.load(Ordering::Relaxed) + self.dropped.load(Ordering::Relaxed)
    }
}

fn udp_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // It is only counted what arrives: as little of it is kept as the kernel lets us.
    setsockopt(&socket, sockopt::RcvBuf, &0)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::getsockname;

    use super::*;

    #[test]
    fn what_reaches_a_port_is_counted_also_where_there_is_no_room_for_it() {
        let reserved = ReservedPort::take(0).unwrap();
        let address: SockaddrIn6 = match getsockname(reserved.socket.as_raw_fd()) {
            Ok(address) => address,
            // Without IPv6 it is one of IPv4, which works alike.
            Err(_) => return,
        };
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(reserved.reached(), 0);
        for _ in 0..50 {
            sender.send_to(&[0; 1000], ("127.0.0.1", address.port())).unwrap();
        }
        let first = reserved.reached();
        assert!((1..=50).contains(&first), "{first}");
        sender.send_to(&[0; 1000], ("127.0.0.1", address.port())).unwrap();
        assert_eq!(reserved.reached(), 51);
    }
}
