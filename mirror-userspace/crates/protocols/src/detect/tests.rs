//! Real beginnings of conversations, and truncated ones.

use proptest::collection::vec;
use proptest::prelude::*;

use super::Direction::{ToClient, ToServer};
use super::Transport::{Tcp, Udp};
use super::*;

fn endpoints(transport: Transport, server_port: u16) -> Endpoints {
    Endpoints { transport, client_port: 49_152, server_port }
}

/// Returns the detection for one datagram or segment.
fn detect(transport: Transport, port: u16, direction: Direction, bytes: &[u8]) -> Detection {
    Detector::default().feed(endpoints(transport, port), direction, bytes)
}

/// Returns a QUIC header with a version, padded.
fn quic_initial(version: u32) -> Vec<u8> {
    [&[0xc3][..], &version.to_be_bytes(), &[0; 1_195]].concat()
}

const TLS_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
const DNS_QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
const KERBEROS_REQUEST: &[u8] = b"\x6a\x81\xa0\x30\x81\x9d\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a";

#[test]
fn protocols_are_told_by_what_they_say_on_any_port() {
    use AppProto::*;
    for (protocol, transport, direction, bytes) in [
        (Http, Tcp, ToServer, &b"GET / HTTP/1.1\r\n"[..]),
        (Http, Tcp, ToServer, b"propfind\t/dav"),
        (Http, Tcp, ToClient, b"HTTP/1.0 200 OK\r\n"),
        (Http2, Tcp, ToServer, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (Tls, Tcp, ToServer, TLS_HELLO),
        (Tls, Tcp, ToServer, b"\x80\x2e\x01\x00\x02\x00\x15"),
        (Tls, Tcp, ToClient, &[21, 3, 3, 0, 2, 2, 40]),
        (Ssh, Tcp, ToClient, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (Smtp, Tcp, ToServer, b"ehlo client\r\n"),
        (Ftp, Tcp, ToServer, b"USER anonymous\r\n"),
        (Rfb, Tcp, ToClient, b"RFB 003.008\n"),
        (Smb, Tcp, ToServer, b"\x00\x00\x00\x90\xfeSMB\x40\x00"),
        (Dcerpc, Tcp, ToServer, b"\x05\x00\x0b\x03\x10\x00\x00\x00\x48\x00\x00\x00\x01\x00\x00\x00"),
        (BittorrentDht, Udp, ToServer, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping"),
    ] {
        let found = detect(transport, 4_711, direction, bytes);
        assert_eq!(found, Detection::Found(protocol), "{}", bytes.escape_ascii());
    }
}

#[test]
fn protocols_that_could_be_anything_are_told_only_on_their_port() {
    use AppProto::*;
    let ntp = [&[0x23][..], &[0; 47]].concat();
    let dhcp = [&[1][..], &[0; 235], &[99, 130, 83, 99, 53, 1, 1, 255]].concat();
    let ike = [&[0; 16][..], &[0x21, 0x20, 34, 8, 0, 0, 0, 0, 0, 0, 0, 28]].concat();
    let quic = quic_initial(1);
    let krb5 = [&[0, 0, 0, KERBEROS_REQUEST.len() as u8], KERBEROS_REQUEST].concat();
    let nfs =
        b"\x80\x00\x00\x28\x01\x02\x03\x04\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x86\xa3\x00\x00\x00\x03";
    for (protocol, transport, port, direction, bytes) in [
        (Dns, Udp, 53, ToServer, DNS_QUERY),
        (Ntp, Udp, 123, ToServer, &ntp),
        (Dhcp, Udp, 67, ToServer, &dhcp),
        (Krb5, Udp, 88, ToServer, KERBEROS_REQUEST),
        (Krb5, Tcp, 88, ToServer, &krb5),
        (Snmp, Udp, 161, ToServer, b"\x30\x26\x02\x01\x01\x04\x06public"),
        (Quic, Udp, 443, ToServer, &quic),
        (Tftp, Udp, 69, ToServer, b"\x00\x01boot.img\x00octet\x00"),
        (Sip, Udp, 5_060, ToServer, b"REGISTER sip:example.com SIP/2.0\r\n"),
        (Mqtt, Tcp, 1_883, ToServer, b"\x10\x10\x00\x04MQTT"),
        (Rdp, Tcp, 3_389, ToServer, b"\x03\x00\x00\x13\x0e\xe0"),
        (Nfs, Tcp, 2_049, ToServer, nfs),
        (Smtp, Tcp, 25, ToClient, b"220 mail.example.com ESMTP\r\n"),
        (Ftp, Tcp, 21, ToClient, b"220-Welcome\r\n"),
        (Telnet, Tcp, 23, ToClient, b"\xff\xfd\x18"),
        (Ike, Udp, 500, ToServer, &ike),
    ] {
        assert_eq!(detect(transport, port, direction, bytes), Detection::Found(protocol));
        assert_eq!(detect(transport, 4_711, direction, bytes), Detection::Failed, "{protocol:?}");
    }
}

#[test]
fn what_is_said_counts_more_than_the_port() {
    assert_eq!(detect(Tcp, 53, ToServer, b"GET / HTTP/1.1\r\n"), Detection::Found(AppProto::Http));
    assert_eq!(detect(Tcp, 25, ToServer, TLS_HELLO), Detection::Found(AppProto::Tls));
}

#[test]
fn the_port_of_a_flow_seen_the_wrong_way_round_counts_too() {
    let endpoints = Endpoints { transport: Udp, client_port: 53, server_port: 49_152 };
    let mut detector = Detector::default();
    assert_eq!(detector.feed(endpoints, ToServer, DNS_QUERY), Detection::Found(AppProto::Dns));
}

#[test]
fn the_first_bytes_of_a_stream_may_come_one_by_one() {
    let mut detector = Detector::default();
    let endpoints = endpoints(Tcp, 8_080);
    for byte in b"POST" {
        assert_eq!(detector.feed(endpoints, ToServer, &[*byte]), Detection::Unknown);
    }
    assert_eq!(detector.flow(), Detection::Unknown);
    assert_eq!(detector.feed(endpoints, ToServer, b" /form HTTP/1.1\r\n"), Detection::Found(AppProto::Http));
}

#[test]
fn the_length_of_a_dns_message_may_come_alone() {
    let mut detector = Detector::default();
    let endpoints = endpoints(Tcp, 53);
    assert_eq!(detector.feed(endpoints, ToServer, &[0, 29]), Detection::Unknown);
    assert_eq!(detector.feed(endpoints, ToServer, DNS_QUERY), Detection::Found(AppProto::Dns));
}

#[test]
fn a_datagram_is_not_continued_by_the_next() {
    let mut detector = Detector::default();
    assert_eq!(detector.feed(endpoints(Udp, 6_881), ToServer, b"d1:"), Detection::Failed);
    assert_eq!(detector.feed(endpoints(Udp, 6_881), ToServer, b"ad2:id20:"), Detection::Failed);
}

#[test]
fn either_direction_names_the_flow_and_both_are_kept() {
    let mut detector = Detector::default();
    let endpoints = endpoints(Tcp, 80);
    detector.feed(endpoints, ToServer, b"\x00garbage");
    assert_eq!(detector.flow(), Detection::Unknown, "the server has not spoken yet");
    assert!(!detector.is_done());
    detector.feed(endpoints, ToClient, b"HTTP/1.1 200 OK\r\n");
    assert_eq!(detector.flow().name(), Some("http"));
    assert_eq!(detector.direction(ToServer).name(), Some("failed"));
    assert!(detector.is_done());
    detector.reverse();
    assert_eq!(detector.direction(ToClient).name(), Some("failed"));
}

#[test]
fn a_flow_fails_with_both_directions_of_a_stream_or_one_of_datagrams() {
    let mut stream = Detector::default();
    stream.feed(endpoints(Tcp, 4_711), ToServer, b"garbage");
    stream.feed(endpoints(Tcp, 4_711), ToClient, b"garbage");
    assert_eq!(stream.flow().name(), Some("failed"));
    let mut datagrams = Detector::default();
    datagrams.feed(endpoints(Udp, 4_711), ToServer, b"garbage");
    assert_eq!(datagrams.flow().name(), Some("failed"));
}

#[test]
fn a_dns_query_is_not_taken_for_dcerpc() {
    let labels: &[u8] =
        b"\x3faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x03com\x00\x00\x01\x00\x01";
    let query = [b"\x04\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", labels].concat();
    assert_eq!(detect(Udp, 53, ToServer, &query), Detection::Found(AppProto::Dns));
    let mut call = [&[4, 0, 8, 0, 0x10][..], &[0; 75], &[1; 20]].concat();
    call[74] = 20;
    assert_eq!(detect(Udp, 49_200, ToServer, &call), Detection::Found(AppProto::Dcerpc));
}

#[test]
fn without_payload_there_is_nothing_to_tell() {
    let mut detector = Detector::default();
    assert_eq!(detector.feed(endpoints(Tcp, 80), ToServer, &[]), Detection::Unknown);
    assert_eq!(detector.flow().name(), None);
}

#[test]
fn versions_of_quic_are_known_and_others_are_not() {
    for version in [0, 1, 0x6b33_43cf, 0xff00_001d, 0x5130_3530, 0x1a2a_3a4a] {
        assert_eq!(detect(Udp, 443, ToServer, &quic_initial(version)), Detection::Found(AppProto::Quic));
    }
}

#[test]
fn a_datagram_on_the_port_of_quic_is_taken_for_it_where_its_header_fits() {
    let fits = |bytes: &[u8]| detect(Udp, 443, ToServer, bytes) == Detection::Found(AppProto::Quic);
    // Flags, and the number of bytes that must follow them.
    for (first, len) in
        [(0x00, 1), (0x01, 5), (0x04, 33), (0x08, 21), (0x0d, 25), (0x19, 26), (0x40, 0), (0x7f, 0)]
    {
        let datagram = [&[first][..], &[0x11; 60]].concat();
        assert!(fits(&datagram[..=len]), "{first:#x}");
        assert!(len == 0 || !fits(&datagram[..len]), "{first:#x}");
    }
    let initial = |first: u8| [&[first][..], &[0x12, 0x34, 0x56, 0x78, 2, 7, 7, 0, 0, 4], &[9; 4]].concat();
    assert!(fits(&initial(0xc0)) && !fits(&initial(0xc0)[..14]), "it says how long it is");
    assert!(fits(&initial(0xe0)[..9]) && !fits(&initial(0xe0)[..8]), "no further than its connections");
    let google = |first: u8, version: &[u8; 4]| [&[first][..], version, &[0x50], &[7; 8], &[0; 16]].concat();
    assert!(fits(&google(0xff, b"Q043")) && !fits(&google(0xf0, b"Q043")));
    assert!(fits(&google(0xc3, b"Q046")) && !fits(&google(0xc3, b"Q046")[..13]));
}

#[test]
fn a_flow_that_comes_from_the_port_of_quic_must_name_a_known_version() {
    let endpoints = Endpoints { transport: Udp, client_port: 443, server_port: 49_152 };
    for (bytes, found) in [
        (quic_initial(1), Detection::Found(AppProto::Quic)),
        (quic_initial(0x1234_5678), Detection::Failed),
        (vec![0x43; 40], Detection::Failed),
    ] {
        assert_eq!(Detector::default().feed(endpoints, ToServer, &bytes), found);
    }
}

#[test]
fn the_first_answer_of_a_quic_server_is_quic_on_any_port() {
    // A Handshake packet of version 1 with a connection ID of four bytes.
    let answer = [&[0xe3, 0, 0, 0, 1, 0, 4][..], &[7; 4], &[0; 60]].concat();
    assert_eq!(detect(Udp, 4433, ToClient, &answer), Detection::Found(AppProto::Quic));
    assert_eq!(detect(Udp, 4433, ToServer, &answer), Detection::Failed);
    let unknown = [&[0xe3, 9, 9, 9, 9, 0, 4][..], &answer[7..]].concat();
    assert_eq!(detect(Udp, 4433, ToClient, &unknown), Detection::Failed);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_decided_stays(
        segments in vec((any::<bool>(), vec(any::<u8>(), 0..40)), 0..12),
        tcp in any::<bool>(),
        port in prop_oneof![Just(53), Just(88), Just(443), Just(2_049), Just(500), Just(69), any::<u16>()],
    ) {
        let mut detector = Detector::default();
        let endpoints = endpoints(if tcp { Tcp } else { Udp }, port);
        for (to_server, bytes) in segments {
            let direction = if to_server { ToServer } else { ToClient };
            let before = detector.direction(direction);
            let after = detector.feed(endpoints, direction, &bytes);
            prop_assert!(before == Detection::Unknown || before == after);
        }
    }

    #[test]
    fn a_request_is_told_however_its_begin_is_cut(first in 1..4_usize) {
        let mut detector = Detector::default();
        let (head, tail) = b"GET / HTTP/1.1\r\n".split_at(first);
        detector.feed(endpoints(Tcp, 80), ToServer, head);
        prop_assert_eq!(detector.feed(endpoints(Tcp, 80), ToServer, tail), Detection::Found(AppProto::Http));
    }
}
