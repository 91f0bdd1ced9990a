//! The vectors of RFC 9001 and RFC 9369, and packets sealed by the keys that open them.

use mirror_packet::Direction;
use mirror_packet::Direction::{ToClient, ToServer};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::keys::SideKeys;
use super::{packet, *};

/// The connection ID of the vectors of RFC 9001.
const CONNECTION_ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

/// The client's frames in RFC 9001, A.2, without padding.
const CLIENT_FRAMES: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
    04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
    616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
    04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
    baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
    0d0010000e0403050306030203080408050806002d00020101001c0002400100\
    3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
    75300901100f088394c8f03e51570806048000ffff";

/// The server's packet in RFC 9001, A.3.
const SERVER_PACKET: &str = "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a\
    5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3\
    dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84\
    022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4\
    2158407dd074ee";

/// The packet of RFC 9001, A.4.
const RETRY_PACKET: &str = "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba";

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

/// Returns the client's handshake message in RFC 9001, A.2.
fn client_hello() -> Vec<u8> {
    unhex(CLIENT_FRAMES)[4..].to_vec()
}

/// Returns a varint of two bytes.
fn varint(value: usize) -> [u8; 2] {
    (u16::try_from(value).unwrap() | 0x4000).to_be_bytes()
}

fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(data.len()), data].concat()
}

/// Builds a client's Initial packet.
fn initial(version: Version, keys_of: &[u8], destination: &[u8], number: u8, frames: &[u8]) -> Vec<u8> {
    let keys = SideKeys::derive(version, keys_of, ToServer).unwrap();
    seal(version, &keys, destination, number, frames)
}

fn seal(version: Version, keys: &SideKeys, destination: &[u8], number: u8, frames: &[u8]) -> Vec<u8> {
    const TAG: usize = 16;
    let first = if version.has_types_of_v2() { 0xd0 } else { 0xc0 };
    let header = [
        &[first][..],
        &version.0.to_be_bytes(),
        &[destination.len() as u8],
        destination,
        &[0, 0],
        &varint(1 + frames.len() + TAG),
        &[number],
    ];
    keys.seal(&header.concat(), 1, frames)
}

fn push(connection: &mut Connection, direction: Direction, datagram: &[u8]) -> Option<Value> {
    let mut scratch = Vec::new();
    let hello = connection.push(direction, datagram, &mut scratch)?;
    assert_eq!(hello.direction, direction);
    Some(serde_json::to_value(Event::new(hello.version, hello.direction, hello.body)).unwrap())
}

#[test]
fn keys_are_those_of_rfc_9001_and_rfc_9369() {
    for (version, direction, key, iv, hp) in [
        (
            Version::V1,
            ToServer,
            "1f369613dd76d5467730efcbe3b1a22d",
            "fa044b2f42a3fd3b46fb255c",
            "9f50449e04a0e810283a1e9933adedd2",
        ),
        (
            Version::V1,
            ToClient,
            "cf3a5331653c364c88f0f379b6067e37",
            "0ac1493ca1905853b0bba03e",
            "c206b8d9b9f0f37644430b490eeaa314",
        ),
        (
            Version::V2,
            ToServer,
            "8b1a0bc121284290a29e0971b5cd045d",
            "91f73e2351d8fa91660e909f",
            "45b95e15235d6f45a6b19cbcb0294ba9",
        ),
        (
            Version::V2,
            ToClient,
            "82db637861d55e1d011f19ea71d5d2a7",
            "dd13c276499c0249d3310652",
            "edf6d05c83121201b436e16877593c3a",
        ),
    ] {
        let side = SideKeys::derive(version, &CONNECTION_ID, direction).unwrap();
        assert_eq!((&side.key[..], &side.iv[..], &side.hp[..]), (&*unhex(key), &*unhex(iv), &*unhex(hp)));
    }
}

/// Returns the client's packet of RFC 9001, A.2.
fn client_packet() -> Vec<u8> {
    let mut frames = unhex(CLIENT_FRAMES);
    frames.resize(1162, 0);
    let header = unhex("c300000001088394c8f03e5157080000449e00000002");
    SideKeys::derive(Version::V1, &CONNECTION_ID, ToServer).unwrap().seal(&header, 4, &frames)
}

#[test]
fn packets_of_rfc_9001_are_opened() {
    let client = client_packet();
    assert_eq!(client.len(), 1200);
    // The benchmark reads the same packet.
    let file = include_str!("rfc9001-client-initial.hex");
    assert_eq!(client, unhex(&file.replace('\n', "")));
    assert!(client.starts_with(&unhex("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")));
    assert!(client.ends_with(&unhex("e221af44860018ab0856972e194cd934")));
    let mut connection = Connection::new();
    let hello = push(&mut connection, ToServer, &client).unwrap();
    assert_eq!(hello["version"], "1");
    assert_eq!(hello["sni"], "example.com");
    assert_eq!(hello["ja3"]["string"], "771,4865-4866,0-65281-10-16-5-51-43-13-45-28-57,29-23-24,");
    assert_eq!(&hello["ja4"].as_str().unwrap()[..10], "q13d0211an");
    assert_eq!(
        hello["extensions"][0],
        json!({ "name": "server_name", "type": 0, "values": ["example.com"] })
    );
    assert!(!connection.is_done());
    let answer = push(&mut connection, ToClient, &unhex(SERVER_PACKET)).unwrap();
    assert_eq!(answer["ja3s"]["string"], "771,4865,51-43");
    assert_eq!(
        answer["extensions"][1],
        json!({ "name": "supported_versions", "type": 43, "values": ["Tls13"] })
    );
    assert!(connection.is_done());
    assert_eq!(connection.version_alone(), None);
}

#[test]
fn a_server_alone_gives_its_version() {
    let mut connection = Connection::new();
    assert_eq!(push(&mut connection, ToClient, &unhex(SERVER_PACKET)), None);
    assert_eq!(connection.version_alone(), Some(Version::V1));
    let alone = serde_json::to_value(Event::of_version(Version(0x1001_0000))).unwrap();
    assert_eq!(alone, json!({ "version": "10010000" }));
}

#[test]
fn a_hello_is_put_together_from_frames_in_any_order_and_packets() {
    // Drafts, the names that Facebook and Microsoft give to them, Google's with TLS, and a reserved version.
    let others = [
        0xff00_0022,
        0xff00_001d,
        0xff00_001b,
        0xff00_0016,
        0x709a_50c4,
        0xface_b001,
        0xface_b002,
        0xface_b003,
        0xface_b00e,
        0xface_b010,
        0xabcd_0000,
        0x5430_3530,
        0x5430_3531,
        0x1a2a_3a4a,
    ];
    for version in [Version::V1, Version::V2].into_iter().chain(others.map(Version)) {
        let hello = client_hello();
        let [a, b, c] = [&hello[..50], &hello[40..100], &hello[100..]];
        let first = [&crypto(100, c)[..], &[1, 0, 0]].concat();
        let second = [&[2, 0, 0, 0, 0][..], &crypto(40, b)].concat();
        let mut connection = Connection::new();
        let packet = |number, frames: &[u8]| initial(version, &CONNECTION_ID, &CONNECTION_ID, number, frames);
        assert_eq!(push(&mut connection, ToServer, &packet(0, &first)), None);
        // The second datagram has two packets, followed by other bytes.
        let datagram = [packet(1, &second), packet(2, &crypto(0, a)), vec![0; 30]].concat();
        let logged = push(&mut connection, ToServer, &datagram).unwrap();
        assert_eq!(logged["sni"], "example.com");
        assert_eq!(logged["version"], version.to_string());
        assert_eq!(push(&mut connection, ToServer, &datagram), None, "given out twice");
    }
}

#[test]
fn a_hello_that_is_sent_again_after_a_retry_is_given_out_again() {
    let mut connection = Connection::new();
    let whole = crypto(0, &client_hello());
    let first = initial(Version::V1, &CONNECTION_ID, &CONNECTION_ID, 0, &whole);
    assert!(push(&mut connection, ToServer, &first).is_some());
    assert_eq!(push(&mut connection, ToClient, &unhex(RETRY_PACKET)), None);
    // The server's choice, from which the keys follow now.
    let chosen = [0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5];
    let second = initial(Version::V1, &chosen, &chosen, 1, &whole);
    assert!(push(&mut connection, ToServer, &second).is_some());
    assert_eq!(push(&mut connection, ToClient, &unhex(RETRY_PACKET)), None);
    assert_eq!(push(&mut connection, ToServer, &second), None, "a client comes again once");
}

#[test]
fn a_hello_that_is_sent_again_in_a_version_that_the_server_speaks_is_given_out_again() {
    let reserved = Version(0xdaea_fa0a);
    let whole = crypto(0, &client_hello());
    let negotiation = [&[0xea, 0, 0, 0, 0, 0, 8][..], &CONNECTION_ID, &[0, 0, 0, 1]].concat();
    let mut connection = Connection::new();
    let first = initial(reserved, &CONNECTION_ID, &CONNECTION_ID, 0, &whole);
    assert_eq!(push(&mut connection, ToServer, &first).unwrap()["version"], "daeafa0a");
    assert_eq!(push(&mut connection, ToClient, &negotiation), None);
    assert_eq!(push(&mut connection, ToServer, &client_packet()).unwrap()["version"], "1");
    let answer = push(&mut connection, ToClient, &unhex(SERVER_PACKET)).unwrap();
    assert_eq!(answer["ja3s"]["string"], "771,4865,51-43");
}

#[test]
fn only_a_whole_initial_packet_is_taken_for_quic_on_any_port() {
    let packet = client_packet();
    assert!(probe_initial(&packet));
    assert!(!probe_initial(&packet[..1199]), "shorter than a client's datagram");
    let with = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        packet
    };
    assert!(!probe_initial(&with(0, 0x80)), "without the fixed bit");
    assert!(!probe_initial(&with(0, 0xe0)), "a handshake packet");
    assert!(!probe_initial(&with(1, 0x12)), "an unknown version");
    assert!(!probe_initial(&with(5, 4)), "a short connection ID");
    let answer = [&unhex(SERVER_PACKET)[..], &[0; 1100]].concat();
    assert!(probe_initial(&answer), "the server's, with its own ID");
}

#[test]
fn the_clients_keys_stay_when_it_takes_over_the_servers_connection_id() {
    let mut connection = Connection::new();
    let hello = client_hello();
    let first = initial(Version::V1, &CONNECTION_ID, &CONNECTION_ID, 0, &crypto(0, &hello[..100]));
    assert_eq!(push(&mut connection, ToServer, &first), None);
    let second = initial(Version::V1, &CONNECTION_ID, &[9; 20], 1, &crypto(100, &hello[100..]));
    assert!(push(&mut connection, ToServer, &second).is_some());
}

#[test]
fn a_server_may_go_on_in_another_version() {
    let mut connection = Connection::new();
    assert!(push(&mut connection, ToServer, &client_packet()).is_some());
    // The frames of RFC 9001, A.3, behind the acknowledgement. The connection ID is the client's, which is
    // empty.
    let v1 = SideKeys::derive(Version::V1, &CONNECTION_ID, ToClient).unwrap();
    let mut scratch = Vec::new();
    let bytes = unhex(SERVER_PACKET);
    let (packet, _) = packet::split(&bytes).unwrap();
    let frames = v1.open(&packet, &mut scratch).unwrap();
    let v2 = SideKeys::derive(Version::V2, &CONNECTION_ID, ToClient).unwrap();
    let answer = seal(Version::V2, &v2, &[], 0, &scratch[frames]);
    let logged = push(&mut connection, ToClient, &answer).unwrap();
    assert_eq!(
        (&logged["version"], &logged["ja3s"]["string"]),
        (&json!("6b3343cf"), &json!("771,4865,51-43"))
    );
}

/// Returns a client hello of Google's QUIC.
fn google_hello(name: &[u8]) -> Vec<u8> {
    let values = [(*b"PAD\0", &[b'-'; 40][..]), (*b"SNI\0", name), (*b"UAID", b"Chrome/74")];
    let mut end = 0;
    let index = values.iter().flat_map(|(tag, value)| {
        end += value.len() as u32;
        [*tag, end.to_le_bytes()].concat()
    });
    let mut hello = [&b"CHLO"[..], &[3, 0, 0, 0]].concat();
    hello.extend(index);
    hello.extend(values.iter().flat_map(|value| value.1));
    hello
}

/// Returns the event of that hello.
fn google_event(version: Version, name: &str) -> Value {
    json!({ "version": version.to_string(), "sni": name, "ua": "Chrome/74" })
}

#[test]
fn the_hello_of_googles_quic_is_read() {
    let hello = google_hello(b"example.com");
    for (first, version) in [(0xff, 0x5130_3434), (0xc3, 0x5130_3436)] {
        let version = Version(version);
        let frame = [&[0xa0, 1][..], &(hello.len() as u16).to_be_bytes(), &hello].concat();
        let header =
            [&[first][..], &version.0.to_be_bytes(), &[0x50], &CONNECTION_ID, &[0, 0, 0, 1], &[7; 12]];
        let datagram = [&header.concat()[..], &frame, &[0; 30]].concat();
        let mut connection = Connection::new();
        let logged = push(&mut connection, ToServer, &datagram).unwrap();
        assert_eq!(logged, google_event(version, "example.com"));
        for len in 0..datagram.len() {
            push(&mut Connection::new(), ToServer, &datagram[..len]);
        }
    }
}

#[test]
fn each_hello_behind_a_public_header_is_read() {
    let version = Version(u32::from_be_bytes(*b"Q039"));
    let mut connection = Connection::new();
    for name in ["a.example", "b.example"] {
        let hello = google_hello(name.as_bytes());
        let frame = [&[0xa0, 1][..], &(hello.len() as u16).to_be_bytes(), &hello].concat();
        let header = [&[0x0d][..], &CONNECTION_ID, &version.0.to_be_bytes(), &[1], &[7; 12]].concat();
        let datagram = [header, frame].concat();
        assert_eq!(push(&mut connection, ToServer, &datagram), Some(google_event(version, name)));
        for len in 0..datagram.len() {
            push(&mut Connection::new(), ToServer, &datagram[..len]);
        }
    }
    assert_eq!(version.to_string(), "Q039");
}

#[test]
fn googles_hello_is_read_in_protected_packets() {
    let version = Version(u32::from_be_bytes(*b"Q050"));
    let hello = google_hello(b"example.com");
    let frames = [&[0, 8, 0][..], &varint(hello.len()), &hello, &[0; 40]].concat();
    let datagram = initial(version, &CONNECTION_ID, &CONNECTION_ID, 1, &frames);
    let mut connection = Connection::new();
    assert_eq!(push(&mut connection, ToServer, &datagram), Some(google_event(version, "example.com")));
}

#[test]
fn versions_that_nobody_speaks_are_not_remembered() {
    let mut connection = Connection::new();
    let datagram = [&[0xe0, 0x12, 0x34, 0x56, 0x78][..], &[0; 40]].concat();
    assert_eq!(push(&mut connection, ToServer, &datagram), None);
    assert_eq!(connection.version_alone(), None);
}

#[test]
fn a_flow_that_gives_no_hello_is_given_up() {
    let mut connection = Connection::new();
    let mut packet = client_packet();
    packet[100] ^= 1;
    for _ in 0..200 {
        assert_eq!(push(&mut connection, ToServer, &packet), None);
    }
    assert!(connection.is_done());
    connection.clear();
    assert!(push(&mut connection, ToServer, &client_packet()).is_some());
}

/// Connections that have returned their hello, or have none, hold no memory for it.
#[test]
fn buffers_pass_from_connection_to_connection() {
    let (packet, mut scratch, direction) = (client_packet(), Vec::new(), ToServer);
    let mut buffer: Option<Buffer> = None;
    for _ in 0..3 {
        let mut connection = Connection::new();
        assert!(connection.lacks_buffer(direction));
        if let Some(buffer) = buffer.take() {
            connection.lend(direction, buffer);
            assert!(connection.room() > 0 && !connection.lacks_buffer(direction));
        }
        assert!(connection.push(direction, &packet[..packet.len() - 1], &mut scratch).is_none());
        let unused = connection.take_unused(direction);
        assert_eq!(connection.room(), 0);
        if let Some(buffer) = unused {
            connection.lend(direction, buffer);
        }
        assert!(connection.push(direction, &packet, &mut scratch).is_some());
        buffer = connection.take_unused(direction);
        assert!(buffer.is_some() && connection.room() == 0 && !connection.lacks_buffer(direction));
        assert!(connection.push(direction, &packet, &mut scratch).is_none());
    }
}

#[test]
fn hostile_offsets_are_left_out() {
    let hello = client_hello();
    let beyond =
        [&[6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..], &[0], &crypto(16_383, &[1; 9])]
            .concat();
    let mut connection = Connection::new();
    let frames = [beyond, crypto(0, &hello)].concat();
    let packet = initial(Version::V1, &CONNECTION_ID, &CONNECTION_ID, 0, &frames);
    assert!(push(&mut connection, ToServer, &packet).is_some());
}

proptest! {
    #[test]
    fn frames_of_any_cut_and_order_give_the_same(
        cuts in vec(1_usize..240, 0..20),
        order in any::<prop::sample::Index>(),
    ) {
        let hello = client_hello();
        let mut cuts = [cuts, vec![0, hello.len()]].concat();
        cuts.sort_unstable();
        let mut frames: Vec<_> = cuts.windows(2).map(|cut| crypto(cut[0], &hello[cut[0]..cut[1]])).collect();
        let len = frames.len();
        frames.rotate_left(order.index(len));
        frames.swap(0, len - 1);
        let mut connection = Connection::new();
        let packets = frames.concat();
        let packet = initial(Version::V1, &CONNECTION_ID, &CONNECTION_ID, 0, &packets);
        prop_assert_eq!(push(&mut connection, ToServer, &packet).unwrap()["sni"].clone(), "example.com");
    }

    #[test]
    fn one_byte_changed_does_no_harm(at in 0_usize..1200, value in any::<u8>()) {
        let mut packet = client_packet();
        let same = packet[at] == value;
        packet[at] = value;
        // The whole packet is authenticated.
        prop_assert_eq!(push(&mut Connection::new(), ToServer, &packet).is_some(), same);
    }

    #[test]
    fn any_frames_do_no_harm(frames in vec(any::<u8>(), 20..1200)) {
        let packet = initial(Version::V1, &CONNECTION_ID, &CONNECTION_ID, 0, &frames);
        push(&mut Connection::new(), ToServer, &packet);
    }

    #[test]
    fn any_datagrams_do_no_harm(datagrams in vec((any::<bool>(), vec(any::<u8>(), 0..100)), 0..20)) {
        let mut connection = Connection::new();
        for (up, mut datagram) in datagrams {
            if let Some(first) = datagram.first_mut() {
                *first |= 0xc0;
            }
            if let Some(version) = datagram.get_mut(1..5) {
                version.copy_from_slice(&[0, 0, 0, 1]);
            }
            push(&mut connection, if up { ToServer } else { ToClient }, &datagram);
        }
    }
}

#[test]
fn every_prefix_of_a_packet_does_no_harm() {
    let client = client_packet();
    for len in 0..client.len() {
        assert_eq!(push(&mut Connection::new(), ToServer, &client[..len]), None);
    }
    let server = unhex(SERVER_PACKET);
    for len in 0..server.len() {
        let mut connection = Connection::new();
        push(&mut connection, ToServer, &client);
        assert_eq!(push(&mut connection, ToClient, &server[..len]), None);
    }
}

/// Deriving keys costs as much as the analysis of a packet, so it happens once for a datagram.
#[test]
fn hostile_packets_in_one_datagram_have_keys_derived_once() {
    let mut connection = Connection::new();
    let forged: Vec<_> =
        (0..30).flat_map(|number| initial(Version::V1, &[number; 8], &[9; 8], 0, &[0; 30])).collect();
    assert_eq!(push(&mut connection, ToServer, &forged), None);
    // The other packets were skipped: 64 packets are allowed, and each of this many datagrams has one.
    for number in 0..60 {
        assert_eq!(
            push(&mut connection, ToServer, &initial(Version::V1, &[number; 8], &[9; 8], 0, &[0; 30])),
            None
        );
    }
    assert!(push(&mut connection, ToServer, &client_packet()).is_some());
}

/// An extension takes four bytes, and each repetition would have the values of the first.
#[test]
fn hostile_extensions_that_are_repeated_have_their_values_once() {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
    let list = |body: &[u8]| [&(body.len() as u16).to_be_bytes()[..], body].concat();
    let mut extensions = extension(13, &list(&[4, 3].repeat(1000)));
    extensions.extend(extension(16, &list(&[1, 1].repeat(1000))));
    extensions.extend(extension(13, &[]).repeat(1000));
    extensions.extend(extension(16, &[]).repeat(1000));
    let body = [&[3, 3][..], &[7; 32], &[0], &list(&[0x13, 1]), &[1, 0], &list(&extensions)].concat();
    let event = Event::new(Version::V1, ToServer, &body);
    let text = serde_json::to_string(&event).unwrap();
    assert!(text.len() <= 16 * body.len(), "{} for {}", text.len(), body.len());
    assert_eq!(text.matches("\"values\"").count(), 2);
}
