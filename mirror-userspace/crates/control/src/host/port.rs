//! The UDP ports of mirror traffic, reserved during the capture, for three reasons. A port in use on this
//! host would silently lose its traffic to the XDP program. Mirrored datagrams that reach the network stack
//! by another interface would be answered with ICMP "port unreachable". And each datagram that arrives here
//! is mirror traffic that no program has captured, which the capture counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, recvmsg,
    setsockopt, socket, sockopt,
};

/// A UDP port that no other socket on this host receives from.
#[derive(Debug)]
pub struct ReservedPort {
    socket: OwnedFd,
    /// Datagrams that were read.
    read: AtomicU64,
    /// Datagrams that did not fit into the buffer, by the kernel's last report.
    dropped: AtomicU64,
}

impl ReservedPort {
    /// Binds the port for both IP versions, or for IPv4 alone on a host without IPv6. Captures that run side
    /// by side share it.
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

    /// Returns the number of datagrams that have reached the port instead of the capture. The kernel reports
    /// dropped datagrams with the next one that arrives.
    pub fn reached(&self) -> u64 {
        // The rest is read the next time.
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
    // Arriving datagrams are only counted, so the buffer is as small as the kernel allows.
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
            // Without IPv6 it is an IPv4 socket, which works in the same way.
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
