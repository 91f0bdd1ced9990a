//! Preambles as bytes, whole and cut, and conversations that only look like one.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Direction::{ToClient, ToServer};
use super::*;
use crate::detect::Transport;

const ENDPOINTS: Endpoints = Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 4_711 };
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// One direction after the other, as the engine passes them: bytes that were not used come again.
#[derive(Default)]
struct Conversation {
    preamble: Preamble,
    held: [Vec<u8>; 2],
    packed: Vec<u8>,
    openings: Vec<Option<AppProto>>,
    /// The bytes behind the preambles.
    behind: [Vec<u8>; 2],
}

impl Conversation {
    fn push(&mut self, direction: Direction, bytes: &[u8]) {
        let held = &mut self.held[direction as usize];
        held.extend_from_slice(bytes);
        let mut used = 0;
        while used < held.len() {
            match self.preamble.look(ENDPOINTS, direction, &held[used..]) {
                Verdict::More => {
                    assert!(held.len() - used < MAX_PREAMBLE);
                    break;
                }
                Verdict::Preamble { len, relayed, .. } => {
                    assert!((1..=held.len() - used).contains(&len));
                    used += len;
                    if let Some(relayed) = relayed {
                        relayed.pack(&mut self.packed);
                    }
                }
                verdict => {
                    assert!(!self.preamble.is_open(direction));
                    if let Verdict::Opening(opening) = verdict {
                        self.openings.push(opening.protocol);
                    }
                    self.behind[direction as usize].extend_from_slice(&held[used..]);
                    used = held.len();
                }
            }
        }
        held.drain(..used);
    }

    fn objects(&self) -> Value {
        let mut objects = Map::new();
        let written = write_relayed(&self.packed, |name, object| {
            serde_json::to_value(object).map(|object| objects.extend([(name.to_owned(), object)]))
        });
        written.unwrap();
        Value::Object(objects)
    }
}

/// Returns what is recorded of a client's bytes, and those behind the preambles, if they come in pieces.
fn client(bytes: &[u8], piece: usize) -> (Value, Vec<u8>) {
    let mut conversation = Conversation::default();
    for piece in bytes.chunks(piece) {
        conversation.push(ToServer, piece);
    }
    (conversation.objects(), conversation.behind[0].clone())
}

/// Checks what is recorded of a preamble in front of a request, however it is cut.
fn in_front(preamble: &[u8], expected: &Value) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    let bytes = [preamble, REQUEST].concat();
    for piece in [1, 2, 3, 7, preamble.len(), bytes.len()] {
        let (objects, behind) = client(&bytes, piece);
        assert_eq!((&objects, &behind[..]), (expected, REQUEST), "{}", preamble.escape_ascii());
    }
}

fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &len, block].concat()
}

/// Returns an extension of version 2.
fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

const IPV4_BLOCK: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x22, 0x01, 0xbb];

fn ipv4(version: u8) -> Value {
    json!({"version": version, "src_ip": "203.0.113.7", "src_port": 51_234, "dest_ip": "10.0.0.1", "dest_port": 443})
}

#[test]
fn the_line_of_version_1_names_the_client() {
    in_front(b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\r\n", &json!({"proxy": ipv4(1)}));
    let ipv6 = json!({"proxy": {
        "version": 1,
        "src_ip": "2001:0db8:0000:0000:0000:0000:0000:0007",
        "src_port": 1,
        "dest_ip": "2001:0db8:0000:0000:0000:0000:0000:0001",
        "dest_port": 65_535,
    }});
    in_front(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", &ipv6);
    for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"] {
        in_front(line, &json!({"proxy": {"version": 1}}));
    }
}

#[test]
fn the_block_of_version_2_names_the_client_and_the_vpc_endpoint() {
    in_front(&version_2(1, 0x11, IPV4_BLOCK), &json!({"proxy": ipv4(2)}));
    let extensions = [
        IPV4_BLOCK,
        &extension(3, &[1, 2, 3, 4]),
        &extension(4, &[0; 9]),
        &extension(0xea, b"\x01vpce-08d2bf15fac5001c9"),
    ]
    .concat();
    let mut expected = ipv4(2);
    expected["vpce_id"] = json!("vpce-08d2bf15fac5001c9");
    in_front(&version_2(1, 0x11, &extensions), &json!({"proxy": expected}));
    let address = |last| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat();
    let ipv6 = [address(7), address(1), vec![0, 1, 0, 2]].concat();
    let expected = json!({"proxy": {
        "version": 2,
        "src_ip": "2001:0db8:0000:0000:0000:0000:0000:0007",
        "src_port": 1,
        "dest_ip": "2001:0db8:0000:0000:0000:0000:0000:0001",
        "dest_port": 2,
    }});
    in_front(&version_2(1, 0x21, &ipv6), &expected);
}

#[test]
fn a_header_without_addresses_is_passed_over() {
    let nothing = json!({"proxy": {"version": 2}});
    for header in [
        version_2(0, 0, &[]),
        version_2(0, 0x11, IPV4_BLOCK),
        version_2(0, 0, &extension(4, &[0; 64])),
        version_2(1, 0, &[]),
        version_2(1, 0x31, &[b'x'; 216]),
        version_2(1, 0x31, &[0; 216 + 40]),
    ] {
        in_front(&header, &nothing);
    }
}

#[test]
fn of_headers_behind_each_other_the_first_counts_and_their_number_is_bounded() {
    let spoofed = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n";
    let two = [&version_2(1, 0x11, IPV4_BLOCK)[..], spoofed].concat();
    in_front(&two, &json!({"proxy": ipv4(2)}));
    let many = spoofed.repeat(100);
    let (_, behind) = client(&many, many.len());
    assert_eq!(behind.len(), (100 - usize::from(MAX_LAYERS)) * spoofed.len());
}

#[test]
fn other_bytes_are_no_header() {
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let endless = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], &[0; 5000]].concat();
    for bytes in [
        &b"PROXY\r\n"[..],
        b"PROXYING /\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443 1\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 65536\r\n",
        b"PROXY TCP4 2001:db8::7 10.0.0.1 51234 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\n",
        b"POST / HTTP/1.1\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        &[SIGNATURE, &[0x11, 0x11, 0, 0]].concat(),
        &[SIGNATURE, &[0x22, 0x11, 0, 0]].concat(),
        &version_2(1, 0x11, &IPV4_BLOCK[..11]),
        &long,
        &endless,
    ] {
        for piece in [1, bytes.len()] {
            assert_eq!(client(bytes, piece), (json!({}), bytes.to_vec()), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn the_request_of_a_socks_client_is_passed_over_and_names_the_destination() {
    let named =
        |version: u8| json!({"socks": {"version": version, "dest_name": "www.example.com", "dest_port": 80}});
    let ip = |version: u8| json!({"socks": {"version": version, "dest_ip": "192.0.2.1", "dest_port": 80}});
    in_front(b"\x05\x01\0\x05\x01\0\x03\x0fwww.example.com\0\x50", &named(5));
    in_front(b"\x05\x03\0\x01\x02\x01\x04user\x08password\x05\x01\0\x03\x0fwww.example.com\0\x50", &named(5));
    in_front(b"\x05\x02\0\x02\x05\x01\0\x01\xc0\0\x02\x01\0\x50", &ip(5));
    let mut ipv6 = b"\x05\x01\0\x05\x01\0\x04\x20\x01\x0d\xb8".to_vec();
    ipv6.extend([0; 11]);
    ipv6.extend([1, 0, 80]);
    let address = "2001:0db8:0000:0000:0000:0000:0000:0001";
    in_front(&ipv6, &json!({"socks": {"version": 5, "dest_ip": address, "dest_port": 80}}));
    in_front(b"\x04\x01\0\x50\xc0\0\x02\x01user\0", &ip(4));
    in_front(b"\x04\x01\0\x50\xc0\0\x02\x01\0", &ip(4));
    in_front(b"\x04\x01\0\x50\0\0\0\x01\0www.example.com\0", &named(4));
}

#[test]
fn the_answers_of_a_socks_server_are_passed_over() {
    for (messages, answers) in [
        (
            &[&b"\x05\x01\0"[..], b"\x05\x01\0\x03\x01a\0\x50"][..],
            &[&b"\x05\0"[..], b"\x05\0\0\x01\0\0\0\0\0\0"][..],
        ),
        (
            &[&b"\x05\x01\x02"[..], b"\x01\x01u\x01p", b"\x05\x01\0\x03\x01a\0\x50"],
            &[&b"\x05\x02"[..], b"\x01\0", b"\x05\0\0\x03\x01b\0\x50"],
        ),
        (&[&b"\x04\x01\0\x50\xc0\0\x02\x01\0"[..]], &[&b"\0\x5a\0\0\0\0\0\0"[..]]),
    ] {
        for piece in [1, 100] {
            let mut conversation = Conversation::default();
            for (message, answer) in messages.iter().zip(answers) {
                message.chunks(piece).for_each(|bytes| conversation.push(ToServer, bytes));
                answer.chunks(piece).for_each(|bytes| conversation.push(ToClient, bytes));
            }
            conversation.push(ToServer, b"STLS\r\n");
            conversation.push(ToClient, b"+OK\r\n");
            assert_eq!(conversation.behind, [&b"STLS\r\n"[..], b"+OK\r\n"]);
            assert_eq!(conversation.openings, [Some(AppProto::Pop3); 2]);
            assert!(conversation.objects()["socks"].is_object());
        }
    }
}

#[test]
fn what_only_begins_as_socks_is_passed_on_as_a_whole() {
    for bytes in [
        &b"\x05\x01\0hello"[..],
        b"\x05\x01\x01\x05\x01\0\x01\xc0\0\x02\x01\0\x50",
        b"\x05\0\x0b\x03\x10\0\0\0\x48\0\0\0\x01\0\0\0",
        b"\x05\x01\0\x05\x01\x01\x01\xc0\0\x02\x01\0\x50",
        b"\x05\x01\0\x05\x09\0\x01\xc0\0\x02\x01\0\x50",
        b"\x05\x01\0\x05\x01\0\x02\xc0\0\x02\x01\0\x50",
        b"\x04\x01\0\0\xc0\0\x02\x01\0",
        b"\x04\x01\0\x50\xc0\0\x02\x01\xff\0",
        b"\x04\x03\0\x50\xc0\0\x02\x01\0",
    ] {
        for piece in [1, bytes.len()] {
            assert_eq!(client(bytes, piece), (json!({}), bytes.to_vec()), "{}", bytes.escape_ascii());
        }
    }
    // The server is none of SOCKS.
    let mut conversation = Conversation::default();
    conversation.push(ToServer, b"\x05\x01\0");
    assert!(!conversation.preamble.is_rejected(ToServer));
    conversation.push(ToClient, b"HTTP/1.1 400 Bad Request\r\n");
    assert!(conversation.preamble.is_rejected(ToServer));
    conversation.push(ToServer, b"\x05\x01\0\x03\x01a\0\x50");
    assert_eq!(
        conversation.behind,
        [&b"\x05\x01\0\x05\x01\0\x03\x01a\0\x50"[..], b"HTTP/1.1 400 Bad Request\r\n"]
    );
    // The client is none of SOCKS, and the server's first bytes wait for more.
    let mut conversation = Conversation::default();
    conversation.push(ToServer, b"\x05\x01\0");
    conversation.push(ToClient, b"\x05\0");
    assert!(!conversation.preamble.is_rejected(ToClient));
    conversation.push(ToServer, b"x");
    assert!(conversation.preamble.is_rejected(ToClient));
    // The server speaks first.
    let mut conversation = Conversation::default();
    conversation.push(ToClient, b"hello");
    conversation.push(ToServer, b"\x05\x01\0");
    assert_eq!(conversation.behind[0], b"\x05\x01\0");
}

#[test]
fn protocols_that_may_negotiate_tls_are_told_by_how_they_begin() {
    use AppProto::*;
    let mysql = [&[0x20, 0, 0, 1, 5, 0xaa, 0x3e, 0x19, 0, 0, 0, 1, 45][..], &[0; 23]].concat();
    for (direction, bytes, protocol) in [
        (ToClient, &b"+OK ready\r\n"[..], Some(Pop3)),
        (ToServer, b"capa\r\n", Some(Pop3)),
        (ToServer, b"STLS\r\n", Some(Pop3)),
        (ToServer, b"AUTH TLS\r\n", Some(Ftp)),
        (ToServer, b"a1 CAPABILITY\r\n", Some(Imap)),
        (ToServer, b"0001 starttls\r\n", Some(Imap)),
        (ToServer, b". CAPABILITY\r\n", Some(Imap)),
        (ToServer, b"FEAT\r\n", Some(Ftp)),
        (ToClient, b"220 ready\r\n", None),
        (ToServer, b"STARTTLS\r\n", None),
        (ToClient, b"200 news.example ready\r\n", Some(Nntp)),
        (ToClient, b"\"IMPLEMENTATION\" \"Example\"\r\n", Some(Sieve)),
        (ToServer, b"<?xml version='1.0'?><stream:stream>", Some(Xmpp)),
        (ToServer, b"<stream:stream to='example.com'>", Some(Xmpp)),
        (ToServer, b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Pgsql)),
        (ToServer, b"\0\0\0\x08\x04\xd2\x16\x30", Some(Pgsql)),
        (ToClient, b"S\x16\x03\x03\0\x7a\x02", Some(Pgsql)),
        (ToServer, &mysql, Some(Mysql)),
        (ToClient, b"\x4a\0\0\0\x0a8.0.36\0", Some(Mysql)),
        (ToServer, b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037", Some(Ldap)),
        (ToServer, b"\x30\x84\0\0\0\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", Some(Ldap)),
        (ToClient, b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\0\x04\0\x04\0", Some(Ldap)),
        (ToServer, b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0", Some(Rdp)),
        (ToClient, b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02\0\x08\0\x02\0\0\0", Some(Rdp)),
    ] {
        let mut conversation = Conversation::default();
        conversation.push(direction, bytes);
        assert_eq!(conversation.openings, [protocol], "{}", bytes.escape_ascii());
        assert_eq!(conversation.behind[direction as usize], bytes);
    }
    for (direction, bytes) in [
        (ToServer, &b"GET / HTTP/1.1\r\n"[..]),
        (ToServer, b"\x16\x03\x01\0\xf0\x01"),
        (ToServer, b"SSH-2.0-x\r\n"),
        (ToClient, b"SSH-2.0-x\r\n"),
        (ToClient, b"HTTP/1.1 200 OK\r\n"),
        (ToClient, b"2200 "),
        (ToServer, b"\0\0\0\x08\0\x03\0\0"),
        (ToServer, b"\x20\0\0\x01\x05\xa2\0\0\0\0\0\x01\x2d"),
        (ToServer, b"\x03\0\0\x13\x0d\xe0"),
        (ToServer, b"HELP NOOP"),
    ] {
        let mut conversation = Conversation::default();
        conversation.push(direction, bytes);
        let found = (conversation.openings.len(), &conversation.behind[direction as usize][..]);
        let imap = bytes == b"HELP NOOP";
        assert_eq!(found, (usize::from(imap), bytes), "{}", bytes.escape_ascii());
    }
}

#[test]
fn openings_may_come_byte_by_byte() {
    for (direction, bytes) in [
        (ToClient, &b"+OK\r\n"[..]),
        (ToClient, b"220 x"),
        (ToServer, b"STLS\r\n"),
        (ToServer, b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (ToServer, b"<stream:stream"),
    ] {
        let mut conversation = Conversation::default();
        for byte in bytes {
            conversation.push(direction, &[*byte]);
        }
        assert_eq!((conversation.openings.len(), &conversation.behind[direction as usize][..]), (1, bytes));
    }
}

#[test]
fn tls_is_found_behind_plain_text_wherever_segments_end() {
    const CLIENT: &[u8] = b"\x16\x03\x01\0\xf0\x01\0\0\xec\x03\x03";
    const SERVER: &[u8] = b"\x16\x03\x03\0\x7a\x02\0\0\x76\x03\x03";
    for (direction, hello, other) in [(ToServer, CLIENT, SERVER), (ToClient, SERVER, CLIENT)] {
        assert_eq!(tls_begins(direction, hello), TlsBegin::At(0));
        let bytes = [b"STARTTLS\r\n\x16", hello].concat();
        assert_eq!(tls_begins(direction, &bytes), TlsBegin::At(11));
        for len in 12..21 {
            assert_eq!(tls_begins(direction, &bytes[..len]), TlsBegin::Maybe(11));
        }
        assert_eq!(tls_begins(direction, &bytes[..10]), TlsBegin::No);
        assert_eq!(tls_begins(direction, other), TlsBegin::No);
    }
    for other in
        [&b"GET / HTTP/1.1\r\n"[..], b"", &[22, 3, 1, 0, 4, 1, 0, 0, 0, 3], &[22, 3, 5, 0, 9, 1, 0, 0, 0, 3]]
    {
        assert_eq!(tls_begins(ToServer, other), TlsBegin::No);
    }
}

#[test]
fn a_closed_direction_and_datagrams_have_no_preamble() {
    let mut preamble = Preamble::default();
    preamble.close(ToServer);
    assert_eq!(preamble.look(ENDPOINTS, ToServer, b"PROXY UNKNOWN\r\n"), Verdict::Protocol);
    assert!(preamble.is_open(ToClient) && !Preamble::OVER.is_open(ToClient));
    for _ in 0..10 {
        preamble.restart();
    }
    assert_eq!(preamble, Preamble::OVER);
}

#[test]
fn a_name_is_never_longer_than_the_room_for_it() {
    let name = [b'x'; 255];
    let mut packed = Vec::new();
    Relayed::Socks(Request { version: 5, target: Target::Name(&name), port: 1 }).pack(&mut packed);
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    let endpoints = Some([(address, 1), (address, 2)]);
    Relayed::Proxy(Proxy { version: 2, endpoints, vpc_endpoint: Some(&name[..64]) }).pack(&mut packed);
    let conversation = Conversation { packed, ..Conversation::default() };
    let objects = conversation.objects();
    assert_eq!(objects["socks"]["dest_name"].as_str().map(str::len), Some(255));
    assert_eq!(objects["proxy"]["vpce_id"].as_str().map(str::len), Some(64));
}

proptest! {
    #[test]
    fn no_bytes_panic_or_wait_for_ever(
        pieces in vec((any::<bool>(), prop_oneof![
            vec(any::<u8>(), 0..40),
            Just(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec()),
            Just(version_2(1, 0x11, IPV4_BLOCK)),
            Just(b"\x05\x01\0".to_vec()),
            Just(b"\x05\x01\0\x03\x01a\0\x50".to_vec()),
            Just(b"\x05\0\0\x01\0\0\0\0\0\0".to_vec()),
            Just(b"\x04\x01\0\x50\xc0\0\x02\x01\0".to_vec()),
        ]), 0..12),
    ) {
        let mut conversation = Conversation::default();
        for (client, bytes) in pieces {
            conversation.push(if client { ToServer } else { ToClient }, &bytes);
        }
        conversation.objects();
    }

    #[test]
    fn every_byte_behind_a_preamble_is_passed_on(
        header in any::<bool>(),
        behind in vec(any::<u8>(), 1..40),
        piece in 1..50_usize,
    ) {
        let preamble = if header { version_2(1, 0x11, IPV4_BLOCK) } else { b"PROXY UNKNOWN\r\n".to_vec() };
        let behind = [b"G".to_vec(), behind].concat();
        let (_, found) = client(&[preamble, behind.clone()].concat(), piece);
        prop_assert_eq!(found, behind);
    }
}
