//! Conversations are built message by message and pushed in pieces of any size.

use mirror_packet::Direction;
use mirror_packet::Direction::{ToClient, ToServer};
use mirror_packet::text::hex;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::eve::{EveEvent, Packer, Unpacker};

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

fn vector8(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[u8::try_from(bytes.as_ref().len()).unwrap()], bytes.as_ref()].concat()
}

fn vector16(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&u16::try_from(bytes.as_ref().len()).unwrap().to_be_bytes()[..], bytes.as_ref()].concat()
}

fn vector24(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&(bytes.as_ref().len() as u32).to_be_bytes()[1..], bytes.as_ref()].concat()
}

fn numbers(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// A hello of either side.
#[derive(Clone)]
struct Hello {
    version: u16,
    session_id: Vec<u8>,
    ciphers: Vec<u16>,
    extensions: Option<Vec<u8>>,
}

impl Hello {
    fn new(version: u16, ciphers: &[u16]) -> Self {
        Self { version, session_id: Vec::new(), ciphers: ciphers.to_vec(), extensions: None }
    }

    fn session(self, id: &[u8]) -> Self {
        Self { session_id: id.to_vec(), ..self }
    }

    fn extension(mut self, kind: u16, data: impl AsRef<[u8]>) -> Self {
        let extensions = self.extensions.get_or_insert_default();
        extensions.extend([&kind.to_be_bytes()[..], &vector16(data)].concat());
        self
    }

    fn name(self, name: &str) -> Self {
        self.extension(0, vector16([&[0], &vector16(name)[..]].concat()))
    }

    fn protocols(self, names: &[&str]) -> Self {
        self.extension(16, vector16(names.iter().flat_map(vector8).collect::<Vec<_>>()))
    }

    fn list(self, kind: u16, values: &[u16]) -> Self {
        self.extension(kind, vector16(numbers(values)))
    }

    fn body(&self, ciphers: &[u8]) -> Vec<u8> {
        let extensions = self.extensions.as_ref().map(vector16).unwrap_or_default();
        [&self.version.to_be_bytes()[..], &[7; 32], &vector8(&self.session_id), ciphers, &extensions].concat()
    }

    fn client(&self) -> Vec<u8> {
        self.body(&[vector16(numbers(&self.ciphers)), vector8([0])].concat())
    }

    fn server(&self) -> Vec<u8> {
        self.body(&[numbers(&self.ciphers), vec![0]].concat())
    }
}

fn message(kind: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    [&[kind], &vector24(body)[..]].concat()
}

fn client_hello(hello: &Hello) -> Vec<u8> {
    message(1, hello.client())
}

fn server_hello(hello: &Hello) -> Vec<u8> {
    message(2, hello.server())
}

fn certificates(list: &[&[u8]]) -> Vec<u8> {
    message(11, vector24(list.iter().flat_map(vector24).collect::<Vec<_>>()))
}

fn record(content: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    [&[content, 3, 3], &vector16(body)[..]].concat()
}

fn finished(cipher_change: bool) -> Vec<u8> {
    let change = if cipher_change { record(CHANGE_CIPHER_SPEC, [1]) } else { Vec::new() };
    [change, record(HANDSHAKE, [0xee; 40])].concat()
}

/// Returns one value in DER.
fn der(tag: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = match content.len() {
        short @ 0..=127 => vec![short as u8],
        long => [&[0x82], &u16::try_from(long).unwrap().to_be_bytes()[..]].concat(),
    };
    [&[tag][..], &length, content].concat()
}

/// Returns a certificate of this organisation and name.
fn certificate(organisation: &str, name: &str) -> Vec<u8> {
    certificate_with(organisation, name, &[])
}

/// Returns a certificate with extensions.
fn certificate_with(organisation: &str, name: &str, extensions: &[u8]) -> Vec<u8> {
    let attribute = |kind: u8, value: &str| {
        let oid = der(6, [0x55, 4, kind]);
        der(0x31, der(0x30, [oid, der(0x0c, value)].concat()))
    };
    let whom = der(0x30, [attribute(10, organisation), attribute(3, name)].concat());
    let algorithm = der(0x30, der(6, [0x2b, 0x65, 0x70]));
    let validity = der(0x30, [der(0x17, "691231000000Z"), der(0x18, "20500102030405Z")].concat());
    let key = der(0x30, [algorithm.clone(), der(3, [0; 33])].concat());
    let body = [
        der(0xa0, der(2, [2])),
        der(2, [0, 0xab, 0x01]),
        algorithm.clone(),
        whom.clone(),
        validity,
        whom,
        key,
        extensions.to_vec(),
    ];
    der(0x30, [der(0x30, body.concat()), algorithm, der(3, [0; 65])].concat())
}

/// The messages of each side, in turns.
type Talk = Vec<(Direction, Vec<u8>)>;

/// Returns a complete TLS 1.2 handshake.
fn talk_12() -> Talk {
    let client =
        Hello::new(0x0303, &[0x0a0a, 0xc02f, 0x002f]).name("example.net").list(10, &[0x1a1a, 29, 23]);
    let client =
        client.extension(11, vector8([0])).protocols(&["h2", "http/1.1"]).list(13, &[0x0403, 0x0804]);
    let server = Hello::new(0x0303, &[0xc02f]).session(&[5; 32]).extension(0, []).protocols(&["h2"]);
    let flight = [
        server_hello(&server),
        certificates(&[&certificate("Example, Inc.", "example.net"), &[1; 300]]),
        message(12, [9; 200]),
        message(14, []),
    ];
    vec![
        (ToServer, record(HANDSHAKE, client_hello(&client))),
        (ToClient, record(HANDSHAKE, flight.concat())),
        (ToServer, [record(HANDSHAKE, message(16, [3; 33])), finished(true)].concat()),
        (ToClient, finished(true)),
        (ToServer, record(APPLICATION_DATA, [1; 100])),
    ]
}

/// Returns a TLS 1.3 handshake with a retry, early data and dummy changes of ciphers.
fn talk_13() -> Talk {
    let client = Hello::new(0x0303, &[0x1301, 0x1302]).session(&[6; 32]).name("example.org");
    let client = client.extension(43, vector8(numbers(&[0xdada, 0x0304, 0x0303]))).extension(35, []);
    let retry = Hello::new(0x0303, &[0x1302]).session(&[6; 32]).extension(43, [3, 4]).extension(51, [0, 23]);
    let server = Hello::new(0x0303, &[0x1302]).session(&[6; 32]).extension(51, [4; 69]).extension(43, [3, 4]);
    let change = || record(CHANGE_CIPHER_SPEC, [1]);
    let hidden = |len| record(APPLICATION_DATA, vec![0x55; len]);
    vec![
        (ToServer, [record(HANDSHAKE, client_hello(&client)), change(), hidden(80)].concat()),
        (ToClient, [record(HANDSHAKE, server_hello(&retry)), change()].concat()),
        (ToServer, record(HANDSHAKE, client_hello(&client.name("second")))),
        (ToClient, [record(HANDSHAKE, server_hello(&server)), hidden(2000)].concat()),
        (ToServer, [hidden(60), hidden(300)].concat()),
    ]
}

fn event(handshake: &Handshake) -> Value {
    let messages = handshake.messages();
    let bytes = messages.parts().concat();
    assert_eq!(messages.outline().messages(&bytes), messages);
    serde_json::to_value(Event::new(&messages)).unwrap()
}

fn push(handshake: &mut Handshake, talk: &Talk) -> Result<Progress, Malformed> {
    let pushed = talk.iter().map(|(direction, bytes)| handshake.push(*direction, bytes));
    pushed.last().unwrap_or(Ok(Progress::Reading))
}

/// Returns the event of a talk that is tracked without an error.
fn followed(talk: &Talk) -> Value {
    let mut handshake = Handshake::new();
    push(&mut handshake, talk).unwrap();
    event(&handshake)
}

#[test]
fn a_handshake_of_tls_1_2_is_logged_with_its_certificate() {
    let logged = followed(&talk_12());
    assert_eq!(
        logged,
        json!({
            "subject": "O=Example, Inc., CN=example.net",
            "issuerdn": "O=Example, Inc., CN=example.net",
            "serial": "00:AB:01",
            "fingerprint": logged["fingerprint"],
            "sni": "example.net",
            "version": "TLS 1.2",
            "notbefore": "1969-12-31T00:00:00",
            "notafter": "2050-01-02T03:04:05",
            "ja3": {
                "hash": logged["ja3"]["hash"],
                "string": "771,49199-47,0-10-11-16-13,29-23,0",
            },
            "ja3s": { "hash": logged["ja3s"]["hash"], "string": "771,49199,0-16" },
            "ja4": logged["ja4"],
            "cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "client_alpns": ["h2", "http/1.1"],
            "server_alpns": ["h2"],
        })
    );
    assert_eq!(logged["fingerprint"].as_str().map(str::len), Some(59));
    assert_eq!(&logged["ja4"].as_str().unwrap()[..10], "t12d0205h2");
}

#[test]
fn the_first_hellos_of_tls_1_3_count_where_the_server_asks_for_others() {
    let logged = followed(&talk_13());
    assert_eq!(logged["sni"], "example.org");
    assert_eq!(logged["version"], "TLS 1.3");
    assert_eq!(logged["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(logged["ja3s"]["string"], "771,4866,43-51");
    assert_eq!(logged["session_resumed"], Value::Null);
    assert_eq!(&logged["ja4"].as_str().unwrap()[..10], "t13d020300");
}

#[test]
fn a_handshake_is_complete_when_both_sides_have_finished_and_not_before() {
    for (talk, turn) in [(talk_12(), 3), (talk_13(), 4)] {
        let mut handshake = Handshake::new();
        for (at, (direction, bytes)) in talk.iter().enumerate() {
            let progress = handshake.push(*direction, bytes).unwrap();
            assert_eq!(progress == Progress::Complete, at >= turn, "turn {at}");
        }
    }
}

#[test]
fn early_data_does_not_complete_a_handshake() {
    let mut handshake = Handshake::new();
    let mut talk = talk_13();
    talk.truncate(3);
    talk.push((ToServer, record(APPLICATION_DATA, [0; 1000])));
    assert_eq!(push(&mut handshake, &talk), Ok(Progress::Reading));
}

#[test]
fn all_certificates_are_stored_if_they_are_wanted_however_they_come() {
    let (first, second) = (certificate("Example, Inc.", "example.net"), vec![1; 300]);
    let talk = talk_12();
    for wanted in [false, true] {
        for piece in [1, 7, usize::MAX] {
            let mut handshake = Handshake::new();
            if wanted {
                handshake.keep_chain();
            }
            for (direction, bytes) in &talk {
                bytes.chunks(piece).for_each(|bytes| _ = handshake.push(*direction, bytes));
            }
            let expected: &[&[u8]] = if wanted { &[&first, &second] } else { &[&first] };
            assert_eq!(handshake.chain().collect::<Vec<_>>(), expected);
            assert_eq!(handshake.messages().server_certificate, Some(&first[..]));
            handshake.clear();
            assert_eq!(handshake.chain().count(), 0);
        }
    }
}

#[test]
fn hostile_chains_are_stored_to_a_bound() {
    let chain = vec![&[7; 30_000][..]; 5];
    let mut handshake = Handshake::new();
    handshake.keep_chain();
    for part in certificates(&chain).chunks(16_000) {
        handshake.push(ToClient, &record(HANDSHAKE, part)).unwrap();
    }
    assert_eq!(handshake.chain().count(), 2);
    handshake.clear();
    handshake.keep_chain();
    handshake.push(ToClient, &record(HANDSHAKE, certificates(&[&[7; 3][..]; 100]))).unwrap();
    assert_eq!(handshake.chain().count(), 9);
}

#[test]
fn alternative_names_are_texts() {
    let name = |kind: u8, value: &[u8]| der(0x80 | kind, value);
    let names =
        [name(2, b"a.example"), name(2, b"*.b.example"), name(7, &[192, 0, 2, 1]), name(6, b"http://c/")];
    let extension = der(0x30, [der(6, [0x55, 0x1d, 17]), der(4, der(0x30, names.concat()))].concat());
    let plain = certificate("o", "n");
    let with = certificate_with("o", "n", &der(0xa3, der(0x30, extension)));
    assert_eq!(alternative_names(&with), ["a.example", "*.b.example", "192.0.2.1", "http://c/"]);
    assert!(alternative_names(&plain).is_empty() && alternative_names(b"none").is_empty());
}

#[test]
fn a_session_is_resumed_where_the_server_goes_on_with_it_and_shows_no_certificate() {
    let client = Hello::new(0x0301, &[5]).session(&[1; 32]);
    let server = Hello::new(0x0301, &[5]);
    let talk = |id: &[u8]| {
        let server = server_hello(&server.clone().session(id));
        vec![
            (ToServer, record(HANDSHAKE, client_hello(&client))),
            (ToClient, [record(HANDSHAKE, server), finished(true)].concat()),
            (ToServer, finished(true)),
        ]
    };
    assert_eq!(followed(&talk(&[1; 32]))["session_resumed"], true);
    assert_eq!(followed(&talk(&[2; 32]))["session_resumed"], Value::Null);
}

#[test]
fn a_hello_of_ssl_2_may_be_answered_in_either_form() {
    let client = [&[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[0; 37]].concat();
    let server = Hello::new(0x0301, &[5]).session(&[1; 32]);
    let tls = record(HANDSHAKE, [server_hello(&server), certificates(&[&certificate("o", "n")])].concat());
    let logged = followed(&vec![(ToServer, client.clone()), (ToClient, tls)]);
    assert_eq!((&logged["version"], &logged["subject"]), (&json!("TLSv1"), &json!("O=o, CN=n")));
    assert_eq!((&logged["ja3"], &logged["ja4"]), (&Value::Null, &Value::Null));

    let mut handshake = Handshake::new();
    let ssl = [&[0x80, 60, 4, 0, 1, 0, 2][..], &[0; 55]].concat();
    assert_eq!(push(&mut handshake, &vec![(ToServer, client), (ToClient, ssl)]), Ok(Progress::Complete));
    assert_eq!(event(&handshake)["version"], "SSLv2");
}

#[test]
fn certificates_of_both_sides_are_logged() {
    let mut talk = talk_12();
    let bytes = record(HANDSHAKE, certificates(&[&certificate("people", "me")]));
    talk.insert(2, (ToServer, bytes));
    let logged = followed(&talk);
    assert_eq!(logged["subject"], "O=Example, Inc., CN=example.net");
    assert_eq!(logged["client"]["subject"], "O=people, CN=me");
}

#[test]
fn a_hello_alone_is_recorded_and_so_is_the_alert_that_answers_it() {
    let hello = (ToServer, record(HANDSHAKE, client_hello(&Hello::new(0x0303, &[0xc02f]).name("a"))));
    let failed = |talk: Talk| {
        let mut handshake = Handshake::new();
        assert!(!handshake.messages().is_recorded());
        let progress = push(&mut handshake, &talk);
        assert!(handshake.messages().is_recorded());
        let event = event(&handshake);
        assert_eq!(event["sni"], "a");
        (progress, event["version"].clone(), handshake.alert())
    };
    let reading = Ok(Progress::Reading);
    assert_eq!(failed(vec![hello.clone()]), (reading, json!("UNDETERMINED"), None));
    let alert = |content: &[u8]| (ToClient, record(ALERT, content));
    for (content, found) in [
        (&[2, 40][..], Some(Alert(40))),
        (&[1, 112, 2, 70], Some(Alert(70))),
        (&[1, 0], Some(Alert(0))),
        (&[1, 112], None),
    ] {
        assert_eq!(failed(vec![hello.clone(), alert(content)]), (reading, json!("TLS 1.2"), found));
    }
    let mut split = vec![hello.clone()];
    split.extend(alert(&[2, 40]).1.into_iter().map(|byte| (ToClient, vec![byte])));
    assert_eq!(failed(split).2, Some(Alert(40)));
    let encrypted = (ToClient, [record(20, [1]), record(ALERT, [2, 40])].concat());
    assert_eq!(failed(vec![hello, encrypted]).2, None);
}

#[test]
fn suricata_logs_what_failed_without_a_certificate_only_where_none_was_due() {
    let hello = Hello::new(0x0303, &[0xc02f]).name("a");
    let logs = |hello: &Hello| {
        let mut handshake = Handshake::new();
        let talk =
            vec![(ToServer, record(HANDSHAKE, client_hello(hello))), (ToClient, record(ALERT, [2, 40]))];
        push(&mut handshake, &talk).unwrap();
        handshake.messages().are_suricatas()
    };
    assert_eq!([logs(&hello), logs(&hello.extension(35, []))], [false, true]);
    for talk in [talk_12(), talk_13()] {
        let mut handshake = Handshake::new();
        push(&mut handshake, &talk).unwrap();
        assert!(handshake.messages().are_suricatas());
    }
}

#[test]
fn the_servers_half_of_a_handshake_is_recorded() {
    for talk in [talk_12(), talk_13()] {
        let servers: Talk = talk.into_iter().filter(|(direction, _)| *direction == ToClient).collect();
        let mut handshake = Handshake::new();
        push(&mut handshake, &servers).unwrap();
        assert!(handshake.messages().is_recorded());
        assert!(event(&handshake)["ja3s"].is_object());
    }
}

#[test]
fn the_event_of_a_handshake_names_its_alert_and_is_no_error_where_answers_are_not_mirrored() {
    let body = Hello::new(0x0303, &[0xc02f]).client();
    let messages = Messages {
        client_hello_cut: false,
        client_hello: Some(&body),
        server_hello: None,
        server_certificate: None,
        client_certificate: None,
        server_record: Version::UNDETERMINED,
    };
    for (alert, answer_unknown) in [(None, true), (Some(Alert(0)), false), (Some(Alert(255)), false)] {
        let event = HandshakeEvent { latency: None, original: "smtp", alert, answer_unknown, messages };
        let mut bytes = Vec::new();
        event.pack(&mut Packer::new(&mut bytes, usize::MAX));
        let unpacked = HandshakeEvent::unpack(&mut Unpacker::new(&bytes)).unwrap();
        assert_eq!(
            (unpacked.alert, unpacked.original, unpacked.answer_unknown, unpacked.messages),
            (alert, "smtp", answer_unknown, messages)
        );
        assert_eq!(unpacked.measured().map(|measured| measured.error), Some(!answer_unknown));
    }
}

#[test]
fn versions_are_named_as_suricata_names_them() {
    for (version, named) in [
        (0, "UNDETERMINED"),
        (2, "SSLv2"),
        (0x0300, "SSLv3"),
        (0x0301, "TLSv1"),
        (0x0302, "TLS 1.1"),
        (0x0304, "TLS 1.3"),
        (0x7f12, "TLS 1.3 draft-18"),
        (0xfb17, "TLS 1.3 draft-23-fb"),
        (0x7e01, "0x7e01"),
    ] {
        assert_eq!(Version(version).to_string(), named);
    }
    let body = [&[3, 4][..], &[0; 32], &[0x13, 1]].concat();
    assert_eq!(ServerHello::parse(&body).unwrap().chosen().to_string(), "TLS 1.3 draft-<16");
}

#[test]
fn ja3_is_that_of_its_authors_example() {
    let ciphers = [47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4];
    let hello = Hello::new(769, &ciphers).name("x").list(10, &[23, 24, 25]).extension(11, vector8([0]));
    let body = hello.client();
    let ja3 = Ja3::client(&ClientHello::parse(&body).unwrap());
    assert_eq!(ja3.string, "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0");
    assert_eq!(ja3.hash, "ada70206e40642a3e4461f35503241d5");
}

#[test]
fn ja4_is_that_of_its_authors_example() {
    let ciphers = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x9c, 0x9d,
        0x2f, 0x35,
    ];
    let mut hello = Hello::new(0x0303, &ciphers).name("x").protocols(&["h2", "http/1.1"]);
    for kind in [0x1b, 0x33, 0x4469, 0x17, 0x2d, 5, 0x23, 0x12, 0xff01, 0x0b, 0x0a, 0x15, 0x2a2a] {
        hello = hello.extension(kind, []);
    }
    let hello = hello.extension(43, vector8(numbers(&[0x0304, 0x0303])));
    let hello = hello.list(13, &[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]);
    let body = hello.client();
    let hello = ClientHello::parse(&body).unwrap();
    assert_eq!(ja4(&hello, Carrier::Tcp), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    assert_eq!(ja4(&hello, Carrier::Quic), "q13d1516h2_8daaf6152771_e5627efa2ab1");
}

/// Returns the JA4 of a hello over TCP.
fn ja4_of(hello: &Hello) -> String {
    ja4(&ClientHello::parse(&hello.client()).unwrap(), Carrier::Tcp)
}

#[test]
fn ja4_has_the_ends_of_the_first_protocol_or_those_of_its_digits() {
    let of = |names: &[&[u8]]| {
        let list: Vec<u8> = names.iter().flat_map(|name| vector8(*name)).collect();
        let list = [&(list.len() as u16).to_be_bytes()[..], &list].concat();
        ja4_of(&Hello::new(0x0303, &[0xc02f]).extension(16, list))[8..10].to_owned()
    };
    // The examples of the specification.
    assert_eq!(of(&[b"h2", b"http/1.1"]), "h2");
    assert_eq!(of(&[b"http/1.1"]), "h1");
    assert_eq!(of(&[&[0xab]]), "ab");
    assert_eq!(of(&[&[0xab, 0xcd]]), "ad");
    assert_eq!(of(&[&[0x30, 0xab]]), "3b");
    assert_eq!(of(&[&[0x30, 0x31, 0xab, 0xcd]]), "3d");
    assert_eq!(of(&[&[0x30, 0xab, 0xcd, 0x31]]), "01");
    assert_eq!(of(&[b"x"]), "xx");
    assert_eq!(of(&[b"-"]), "2d");
    // None, an empty one, and a reserved one.
    assert_eq!(of(&[]), "00");
    assert_eq!(of(&[b""]), "00");
    assert_eq!(of(&[&[0x2a, 0x2a]]), "00");
    assert_eq!(of(&[&[0x2a, 0x2a], b"h3"]), "h3");
}

#[test]
fn ja4_of_empty_lists_has_zeros_or_no_underscore() {
    let third = |hello: Hello| ja4_of(&hello).rsplit_once('_').unwrap().1.to_owned();
    let hashed = |text: &str| hex(&Sha256::digest(text))[..12].to_owned();
    assert_eq!(third(Hello::new(0x0303, &[0xc02f])), "000000000000");
    // Name and protocols are not hashed.
    assert_eq!(third(Hello::new(0x0303, &[0xc02f]).name("x").protocols(&["h2"])), "000000000000");
    assert_eq!(third(Hello::new(0x0303, &[0xc02f]).extension(10, [])), hashed("000a"));
    assert_eq!(third(Hello::new(0x0303, &[0xc02f]).list(13, &[])), hashed("000d"));
    assert_eq!(third(Hello::new(0x0303, &[0xc02f]).list(13, &[0x0403])), hashed("000d_0403"));
    let no_ciphers = ja4_of(&Hello::new(0x0303, &[0x2a2a]).name("x"));
    assert_eq!(no_ciphers, "t12d000100_000000000000_000000000000");
}

#[test]
fn ja4_names_the_newest_version_of_the_extension_and_the_field_only_without_one() {
    let version = |field: u16, offered: &[u16]| {
        let hello = Hello::new(field, &[0xc02f]);
        let hello = if offered.is_empty() { hello } else { hello.extension(43, vector8(numbers(offered))) };
        ja4_of(&hello)[1..3].to_owned()
    };
    assert_eq!(version(0x0303, &[]), "12");
    assert_eq!(version(0x0303, &[0x0304, 0x0303]), "13");
    assert_eq!(version(0x0303, &[0xfafa, 0x0302]), "11", "the field is not looked at");
    assert_eq!(version(0x0303, &[0xfafa]), "12", "nothing but a reserved one");
    assert_eq!(version(0x0303, &[0x7f1c, 0x0304]), "00", "a draft");
    assert_eq!(version(0x0300, &[]), "s3");
    assert_eq!(version(0x0002, &[]), "s2");
}

#[test]
fn what_is_wrong_has_a_name_and_what_came_before_is_kept() {
    let hello = record(HANDSHAKE, client_hello(&Hello::new(0x0303, &[0xc02f]).name("kept")));
    let cut = Hello::new(0x0303, &[0xc02f]).server();
    let too_long = |kind: u8| record(HANDSHAKE, [kind, 0xff, 0xff, 0xff]);
    let certificate =
        |list: [u8; 3], one: [u8; 3]| record(HANDSHAKE, message(11, [&list[..], &one, &[0; 100]].concat()));
    for (answer, wrong) in [
        (b"HTTP/1.1 400 Bad Request".to_vec(), Malformed::Record),
        (record(19, [0; 5]), Malformed::Record),
        (vec![HANDSHAKE, 3, 3, 0xff, 0xff], Malformed::RecordLength),
        (too_long(2), Malformed::HelloLength),
        (record(HANDSHAKE, message(2, &cut[..36])), Malformed::Hello),
        (certificate([0, 0, 103], [0, 0, 101]), Malformed::CertificateLength),
        (certificate([0, 0, 103], [0xff, 0xff, 0xff]), Malformed::CertificateLength),
    ] {
        let mut handshake = Handshake::new();
        handshake.push(ToServer, &hello).unwrap();
        assert_eq!(handshake.push(ToClient, &answer), Err(wrong));
        assert_eq!(handshake.push(ToServer, &hello), Err(wrong));
        assert_eq!(event(&handshake)["sni"], "kept");
    }
}

#[test]
fn what_is_kept_is_bounded_and_used_again() {
    let long = vec![0; MAX_CERTIFICATE + 1];
    let mut handshake = Handshake::new();
    for _ in 0..2 {
        let mut longest = 0;
        let message = certificates(&[&long]);
        for part in message.chunks(16_000) {
            let _ = handshake.push(ToClient, &record(HANDSHAKE, part));
            longest = longest.max(handshake.messages().parts().concat().len());
        }
        assert_eq!(longest, 0);
        handshake.clear();
        push(&mut handshake, &talk_12()).unwrap();
        assert_eq!(event(&handshake), followed(&talk_12()));
        handshake.clear();
        assert!(handshake.messages().parts().concat().is_empty());
    }
}

#[test]
fn a_connection_of_which_one_direction_is_seen_is_not_followed_for_ever() {
    for direction in [ToServer, ToClient] {
        let mut handshake = Handshake::new();
        let mut talk = talk_12();
        talk.retain(|turn| turn.0 == direction);
        push(&mut handshake, &talk).unwrap();
        let data = record(APPLICATION_DATA, [0; 16_000]);
        let last = (0..20).map(|_| handshake.push(direction, &data)).last().unwrap();
        assert_eq!(last, Err(Malformed::Endless));
        assert_eq!(event(&handshake)["sni"].is_string(), direction == ToServer);
        assert_eq!(event(&handshake)["subject"].is_string(), direction == ToClient);
    }
}

/// Returns the talk with its handshake messages split into records of these sizes, over and over.
fn recut(talk: &Talk, sizes: &[usize]) -> Talk {
    let mut sizes = sizes.iter().cycle();
    let mut recut = Talk::new();
    let mut changed = [false; 2];
    for (direction, bytes) in talk {
        let mut out = Vec::new();
        let mut rest = &bytes[..];
        while let [content, _, _, high, low, behind @ ..] = rest {
            let (body, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            changed[*direction as usize] |= *content == CHANGE_CIPHER_SPEC;
            if *content == HANDSHAKE && !changed[*direction as usize] {
                let mut body = body;
                while !body.is_empty() {
                    let (part, left) = body.split_at((*sizes.next().unwrap()).min(body.len()));
                    out.extend(record(HANDSHAKE, part));
                    body = left;
                }
            } else {
                out.extend(record(*content, body));
            }
            rest = next;
        }
        recut.push((*direction, out));
    }
    recut
}

/// Returns the talk in segments of these sizes, over and over.
fn segments(talk: &Talk, sizes: &[usize]) -> Talk {
    let mut sizes = sizes.iter().cycle();
    let mut cut = Talk::new();
    for (direction, bytes) in talk {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (segment, left) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            cut.push((*direction, segment.to_vec()));
            rest = left;
        }
    }
    cut
}

proptest! {
    #[test]
    fn records_and_segments_of_any_size_give_the_same(
        records in vec(1_usize..700, 1..8),
        pieces in vec(1_usize..700, 1..8),
    ) {
        for talk in [talk_12(), talk_13()] {
            prop_assert_eq!(followed(&segments(&recut(&talk, &records), &pieces)), followed(&talk));
        }
    }

    #[test]
    fn one_byte_changed_does_no_harm(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for mut talk in [talk_12(), talk_13()] {
            let len: usize = talk.iter().map(|turn| turn.1.len()).sum();
            let byte = talk.iter_mut().flat_map(|turn| &mut turn.1).nth(at.index(len)).unwrap();
            *byte = value;
            let mut handshake = Handshake::new();
            let whole = push(&mut handshake, &talk);
            let mut bytewise = Handshake::new();
            prop_assert_eq!(push(&mut bytewise, &segments(&talk, &[1])), whole);
            prop_assert_eq!(event(&bytewise), event(&handshake));
        }
    }

    #[test]
    fn any_bytes_do_no_harm(pushes in vec((any::<bool>(), vec(any::<u8>(), 0..300)), 0..10)) {
        let mut handshake = Handshake::new();
        for (up, bytes) in pushes {
            let _ = handshake.push(if up { ToServer } else { ToClient }, &bytes);
            let _ = handshake.push(ToServer, &record(HANDSHAKE, &bytes));
        }
        event(&handshake);
    }

    #[test]
    fn any_certificate_does_no_harm(mut der in Just(certificate("o", "n")), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let at = at.index(der.len());
        der[at] = value;
        let _ = Certificate::parse(&der);
        let _ = Certificate::parse(&der[..at]);
    }
}

#[test]
fn every_prefix_of_a_conversation_does_no_harm() {
    for talk in [talk_12(), talk_13()] {
        let whole = followed(&talk);
        let mut handshake = Handshake::new();
        for (direction, segment) in segments(&talk, &[1]) {
            handshake.push(direction, &segment).unwrap();
            let so_far = event(&handshake);
            // No value is reported that turns out to be wrong.
            for key in ["sni", "subject", "ja3", "ja3s", "ja4"] {
                assert!(so_far[key].is_null() || so_far[key] == whole[key], "{key}");
            }
        }
        for part in [&talk[0].1, &talk[1].1] {
            for len in 0..part.len() {
                let _ = (ClientHello::parse(&part[..len]), ServerHello::parse(&part[..len]));
            }
        }
    }
}
