//! Frames that are not mirror traffic reach the kernel's network stack unchanged while mirror-xdp runs.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;

use mirror_xdp_tests::appliance::Bed;
use mirror_xdp_tests::frames::{APPLIANCE_V4, APPLIANCE_V6, Flow, mirrored};
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket};

/// Sends a megabyte to an echo server on the appliance and compares the answer.
fn assert_tcp_works(bed: &Bed, address: IpAddr) {
    const SIZE: usize = 1 << 20;
    let listener = bed.appliance.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let server = listener.local_addr().unwrap();
    let echo = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut received = vec![0; SIZE];
        connection.read_exact(&mut received).unwrap();
        connection.write_all(&received).unwrap();
    });
    let mut connection = bed.far.enter(|| TcpStream::connect(server).unwrap()).unwrap();
    let sent: Vec<u8> = (0..SIZE).map(|index| index as u8).collect();
    connection.write_all(&sent).unwrap();
    let mut received = Vec::new();
    connection.read_to_end(&mut received).unwrap();
    echo.join().unwrap();
    assert!(received == sent, "what came back differs");
}

#[test]
fn a_tcp_connection_to_the_appliance_works_while_it_captures() {
    let Some(bed) = Bed::new(2).map(|bed| bed.addressed().unwrap()) else { return };
    let appliance = bed.start(&[]);
    let frame = mirrored(1).carrying(&Flow::default().udp(b"hello"));
    bed.send(std::slice::from_ref(&frame));
    assert_tcp_works(&bed, APPLIANCE_V4.into());
    assert_tcp_works(&bed, APPLIANCE_V6.into());
    bed.send(std::slice::from_ref(&frame));
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), 2);
    let reasons = report.reasons();
    assert!(matches!(&reasons[..], [(name, count)] if name == "not_mirror" && *count > 100), "{reasons:?}");
}

#[test]
fn a_datagram_to_another_port_arrives_as_it_was_sent() {
    let Some(bed) = Bed::new(1).map(|bed| bed.addressed().unwrap()) else { return };
    let appliance = bed.start(&[]);
    for address in [IpAddr::from(APPLIANCE_V4), APPLIANCE_V6.into()] {
        let receiver = bed.appliance.enter(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let sender = bed.far.enter(|| UdpSocket::bind(any).unwrap()).unwrap();
        sender.send_to(b"not mirrored", receiver.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"not mirrored");
    }
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.redirected(), 0);
}

/// Binds a socket that shares its port with others: mirror-xdp holds sockets on the ports of mirror traffic.
fn bind_shared(address: SocketAddrV4) -> UdpSocket {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, ReuseAddr, &true).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::from(address)).unwrap();
    socket.into()
}

#[test]
fn mirror_traffic_does_not_reach_the_kernel() {
    let Some(bed) = Bed::new(1).map(|bed| bed.addressed().unwrap()) else { return };
    let appliance = bed.start(&[]);
    let receiver = bed.appliance.enter(|| bind_shared(SocketAddrV4::new(APPLIANCE_V4, 4789))).unwrap();
    let other = bed.appliance.enter(|| UdpSocket::bind((APPLIANCE_V4, 4790)).unwrap()).unwrap();
    let sender = bed.far.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    sender.send_to(&[0; 64], receiver.local_addr().unwrap()).unwrap();
    // One queue preserves the order: when this datagram has arrived, the first one would have.
    sender.send_to(&[0; 64], other.local_addr().unwrap()).unwrap();
    other.recv_from(&mut [0; 64]).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let error = receiver.recv_from(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    let report = appliance.stop();
    assert!(report.reasons().contains(&("vxlan_no_vni".to_owned(), 1)), "{:?}", report.reasons());
}
