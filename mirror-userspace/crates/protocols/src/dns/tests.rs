//! [`Builder`] makes messages, well-formed or not. The tests check what the parser reads from them.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::message::rrtype;
use super::*;

const RESPONSE: u16 = 0x8180;
const QUERY: u16 = 0x0100;
const HEADER: u16 = 12;
const IN: u16 = 1;

/// Builds a message. Counts follow the calls; everything else is as given.
#[derive(Clone, Default)]
struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    fn new(flags: u16) -> Self {
        Self { bytes: [&[0xab, 0xcd], &flags.to_be_bytes()[..], &[0; 8]].concat() }
    }

    fn count(&mut self, field: usize) {
        let count = u16::from_be_bytes([self.bytes[field], self.bytes[field + 1]]) + 1;
        self.bytes[field..field + 2].copy_from_slice(&count.to_be_bytes());
    }

    fn question(mut self, name: impl AsRef<[u8]>, rrtype: u16) -> Self {
        self.count(4);
        self.bytes.extend([name.as_ref(), &rrtype.to_be_bytes(), &IN.to_be_bytes()].concat());
        self
    }

    fn record(mut self, field: usize, name: &[u8], rrtype: u16, data: &[u8]) -> Self {
        self.count(field);
        let len = u16::try_from(data.len()).unwrap().to_be_bytes();
        self.bytes.extend(
            [name, &rrtype.to_be_bytes(), &IN.to_be_bytes(), &300_u32.to_be_bytes(), &len, data].concat(),
        );
        self
    }

    fn answer(self, name: impl AsRef<[u8]>, rrtype: u16, data: impl AsRef<[u8]>) -> Self {
        self.record(6, name.as_ref(), rrtype, data.as_ref())
    }

    fn authority(self, name: impl AsRef<[u8]>, rrtype: u16, data: impl AsRef<[u8]>) -> Self {
        self.record(8, name.as_ref(), rrtype, data.as_ref())
    }

    fn additional(self, name: impl AsRef<[u8]>, rrtype: u16, data: impl AsRef<[u8]>) -> Self {
        self.record(10, name.as_ref(), rrtype, data.as_ref())
    }
}

/// Returns a name without compression.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = labels(text);
    bytes.push(0);
    bytes
}

/// Returns the labels of a name, without its end.
fn labels(text: &str) -> Vec<u8> {
    text.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect()
}

fn pointer(to: u16) -> [u8; 2] {
    (0xc000 | to).to_be_bytes()
}

/// Returns all events of a message, as JSON.
fn events(message: &Builder) -> Result<Vec<Value>, Malformed> {
    let message = Message::parse(&message.bytes)?;
    Ok(message.events(7).map(|event| serde_json::to_value(event).unwrap()).collect())
}

fn event(message: &Builder) -> Value {
    let events = events(message).unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    events[0].clone()
}

#[test]
fn query_is_rendered_in_suricatas_order() {
    let query = Builder::new(QUERY | 0x0040).question(name("Example.COM"), rrtype::AAAA);
    let message = Message::parse(&query.bytes).unwrap();
    assert_eq!(
        serde_json::to_string(&message.events(3).next().unwrap()).unwrap(),
        r#"{"version":2,"type":"query","id":43981,"rrname":"Example.COM","rrtype":"AAAA","tx_id":3,"z":true,"opcode":0}"#
    );
}

#[test]
fn response_is_rendered_in_suricatas_order() {
    let response = Builder::new(0x8583)
        .question(name("www.example.com"), rrtype::A)
        .answer(pointer(HEADER), rrtype::CNAME, [&labels("cdn")[..], &pointer(HEADER + 4)].concat())
        .answer(pointer(45), rrtype::A, [192, 0, 2, 1])
        .authority(pointer(HEADER + 4), rrtype::NS, name("ns"));
    let message = Message::parse(&response.bytes).unwrap();
    assert_eq!(
        serde_json::to_string(&message.events(0).next().unwrap()).unwrap(),
        concat!(
            r#"{"version":2,"type":"answer","id":43981,"flags":"8583","qr":true,"aa":true,"rd":true,"ra":true,"#,
            r#""opcode":0,"rrname":"www.example.com","rrtype":"A","rcode":"NXDOMAIN","answers":["#,
            r#"{"rrname":"www.example.com","rrtype":"CNAME","ttl":300,"rdata":"cdn.example.com"},"#,
            r#"{"rrname":"cdn.example.com","rrtype":"A","ttl":300,"rdata":"192.0.2.1"}],"#,
            r#""grouped":{"A":["192.0.2.1"],"CNAME":["cdn.example.com"]},"#,
            r#""authorities":[{"rrname":"example.com","rrtype":"NS","ttl":300,"rdata":"ns"}]}"#
        )
    );
}

#[test]
fn each_question_of_a_query_is_an_event_with_the_same_number() {
    let query = Builder::new(QUERY).question(name("a"), rrtype::A).question(name("b"), rrtype::AAAA);
    let events = events(&query).unwrap();
    assert_eq!(events.iter().map(|event| &event["rrname"]).collect::<Vec<_>>(), ["a", "b"]);
    assert!(events.iter().all(|event| event["tx_id"] == 7));
}

#[test]
fn several_questions_of_a_response_make_one_event() {
    let response = Builder::new(RESPONSE).question(name("a"), rrtype::A).question(name("b"), rrtype::A);
    assert_eq!(event(&response)["rrname"], "a");
}

#[test]
fn messages_without_a_question_make_no_event() {
    assert_eq!(events(&Builder::new(QUERY)), Ok(vec![]));
    let response = Builder::new(RESPONSE).answer(name("a"), rrtype::A, [1, 2, 3, 4]);
    assert_eq!(events(&response), Ok(vec![]));
}

#[test]
fn only_the_questions_of_a_query_need_to_be_well_formed() {
    let query = Builder::new(QUERY).question(name("a"), rrtype::A).additional([0x80], rrtype::A, []);
    assert_eq!(event(&query)["rrname"], "a");
}

#[test]
fn additional_records_of_a_response_are_not_read() {
    let response = Builder::new(RESPONSE).question(name("a"), rrtype::A).additional([0x80], 41, []);
    assert_eq!(event(&response).get("answers"), None);
}

#[test]
fn structured_data_is_rendered_as_objects() {
    let soa =
        [&name("ns.a")[..], &name("admin.a"), &[0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 5]];
    let srv = [&[0, 1, 0, 2, 0x1f, 0x90][..], &name("host.a")];
    let mx = [&[0, 10][..], &name("mail.a")];
    let response = Builder::new(RESPONSE)
        .question(name("a"), rrtype::A)
        .answer(name("a"), rrtype::SOA, soa.concat())
        .answer(name("a"), rrtype::SRV, srv.concat())
        .answer(name("a"), rrtype::MX, mx.concat())
        .answer(name("a"), rrtype::SSHFP, [4, 2, 0xde, 0xad])
        .answer(name("a"), rrtype::AAAA, [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let event = event(&response);
    let soa = json!({"mname": "ns.a", "rname": "admin.a", "serial": 9, "refresh": 8, "retry": 7, "expire": 6, "minimum": 5});
    let srv = json!({"priority": 1, "weight": 2, "port": 8080, "name": "host.a"});
    let sshfp = json!({"fingerprint": "de:ad", "algo": 4, "type": 2});
    assert_eq!(event["answers"][0]["soa"], soa);
    assert_eq!(event["answers"][1]["srv"], srv);
    assert_eq!(event["answers"][2]["rdata"], "mail.a");
    assert_eq!(event["answers"][3]["sshfp"], sshfp);
    assert_eq!(event["answers"][4]["rdata"], "2001:0db8:0000:0000:0000:0000:0000:0001");
    assert_eq!(event["grouped"]["SOA"], json!([soa]));
    assert_eq!(event["grouped"]["SRV"], json!([srv]));
    assert_eq!(event["grouped"]["SSHFP"], json!([sshfp]));
}

#[test]
fn each_string_of_a_text_record_is_an_answer() {
    let response = Builder::new(RESPONSE).question(name("a"), rrtype::TXT).answer(
        name("a"),
        rrtype::TXT,
        b"\x03one\x00\x03two",
    );
    let event = event(&response);
    let texts = event["answers"].as_array().unwrap().iter().map(|answer| answer["rdata"].clone());
    assert_eq!(texts.collect::<Vec<_>>(), ["one", "", "two"]);
    assert_eq!(event["grouped"]["TXT"], json!(["one", "", "two"]));
}

#[test]
fn a_text_record_is_read_up_to_a_string_that_is_cut_off() {
    let response = Builder::new(RESPONSE).question(name("a"), rrtype::TXT).answer(
        name("a"),
        rrtype::TXT,
        b"\x03one\x09tw",
    );
    assert_eq!(event(&response)["grouped"]["TXT"], json!(["one"]));
}

#[test]
fn unknown_types_and_codes_are_numbers_in_strings() {
    let response = Builder::new(RESPONSE | 0xd).question(name("a"), 65_534).answer(name("a"), 65_280, [1]);
    let event = event(&response);
    assert_eq!(event["rrtype"], "65534");
    assert_eq!(event["rcode"], "13");
    assert_eq!(event["answers"], json!([{"rrname": "a", "rrtype": "65280", "ttl": 300}]));
    assert_eq!(event["grouped"], json!({}));
}

#[test]
fn an_address_of_odd_length_is_empty() {
    let response =
        Builder::new(RESPONSE).question(name("a"), rrtype::A).answer(name("a"), rrtype::A, [1, 2, 3]);
    assert_eq!(event(&response)["answers"][0]["rdata"], "");
}

#[test]
fn a_record_without_data_is_kept() {
    let response = Builder::new(0xa800)
        .question(name("zone"), rrtype::SOA)
        .answer(name("a"), 255, [])
        .answer(name("b"), rrtype::A, []);
    let event = event(&response);
    assert_eq!(event["opcode"], 5);
    assert_eq!(event["answers"][1], json!({"rrname": "b", "rrtype": "A", "ttl": 300}));
}

#[test]
fn bytes_that_are_not_text_are_escaped() {
    let latin = Builder::new(QUERY).question(b"\x03a\xe9\n\x00", rrtype::A);
    assert_eq!(event(&latin)["rrname"], "a\\xe9\n");
    let utf8 = Builder::new(QUERY).question([&[3][..], "aé".as_bytes(), &[0]].concat(), rrtype::A);
    assert_eq!(event(&utf8)["rrname"], "aé");
}

#[test]
fn the_root_is_an_empty_name() {
    assert_eq!(event(&Builder::new(QUERY).question([0], rrtype::NS))["rrname"], "");
}

#[test]
fn counts_beyond_the_message_are_malformed() {
    let mut query = Builder::new(QUERY).question(name("a"), rrtype::A);
    query.bytes[10] = 0xff;
    assert_eq!(events(&query), Err(Malformed::Header));
    assert!(!probe(&query.bytes));
}

#[test]
fn reserved_label_types_and_pointers_out_of_the_message_are_malformed() {
    for bad in [&[0x40, 0][..], &[0x80, 0], &pointer(0x3fff)] {
        let query = Builder::new(QUERY).question(bad, rrtype::A);
        assert_eq!(events(&query), Err(Malformed::Name), "{bad:?}");
        assert!(!probe(&query.bytes), "{bad:?}");
    }
}

#[test]
fn a_pointer_to_itself_is_malformed() {
    let query = Builder::new(QUERY).question(pointer(HEADER), rrtype::A);
    assert_eq!(events(&query), Err(Malformed::Name));
}

#[test]
fn a_name_ends_where_a_pointer_followed_leads_to_itself() {
    // The owner's pointer leads into the data, which is a pointer to its own position.
    let data = HEADER + 4 + 4 + 4 + 10;
    let response = Builder::new(RESPONSE).question(name("ab"), rrtype::A).answer(
        [&labels("x")[..], &pointer(data)].concat(),
        rrtype::NULL,
        pointer(data),
    );
    assert_eq!(event(&response)["answers"][0]["rrname"], "x");
}

#[test]
fn a_loop_of_pointers_ends_as_a_truncated_name() {
    // A label, and a pointer back to it.
    let query = Builder::new(QUERY).question([&labels("loop")[..], &pointer(HEADER)].concat(), rrtype::A);
    let event = event(&query);
    assert_eq!(event["rrname_truncated"], true);
    assert!(event["rrname"].as_str().unwrap().starts_with("loop.loop."));
    assert!(event["rrname"].as_str().unwrap().len() <= 1025);
}

#[test]
fn an_overlong_name_is_cut_and_what_follows_is_read() {
    let long = vec!["a".repeat(63); 20].join(".");
    let response =
        Builder::new(RESPONSE).question(name(&long), rrtype::A).answer(name("b"), rrtype::A, [192, 0, 2, 7]);
    let event = event(&response);
    assert_eq!(event["rrname"].as_str().unwrap(), &long[..1025]);
    assert_eq!(event["rrname_truncated"], true);
    assert_eq!(event["answers"][0]["rdata"], "192.0.2.7");
}

#[test]
fn more_labels_than_a_name_may_have_are_malformed() {
    let query = Builder::new(QUERY).question(name(&vec!["a"; 256].join(".")), rrtype::A);
    assert_eq!(events(&query), Err(Malformed::Name));
}

#[test]
fn compression_that_multiplies_the_message_is_malformed() {
    let long = vec!["a".repeat(63); 16].join(".");
    let mut bomb = Builder::new(RESPONSE).question(name(&long), rrtype::A);
    for _ in 0..4_000 {
        bomb = bomb.answer(pointer(HEADER), rrtype::NS, pointer(HEADER));
    }
    assert_eq!(events(&bomb), Err(Malformed::Expansion));
    let strings = Builder::new(RESPONSE).question(name("a"), rrtype::TXT).answer(
        pointer(HEADER),
        rrtype::TXT,
        vec![0; 60_000],
    );
    assert_eq!(events(&strings), Err(Malformed::Expansion));
}

#[test]
fn many_answers_for_a_long_name_are_not_taken_for_an_attack() {
    let long = vec!["a".repeat(62); 4].join(".");
    let mut response = Builder::new(RESPONSE).question(name(&long), rrtype::A);
    for host in 0..4_000_u16 {
        response = response.answer(pointer(HEADER), rrtype::A, [&[10, 0], &host.to_be_bytes()[..]].concat());
    }
    assert_eq!(event(&response)["answers"].as_array().unwrap().len(), 4_000);
}

/// Returns a message with every kind of record and of compression, for the tests that damage it.
fn rich() -> Builder {
    let soa = [&name("ns")[..], &pointer(HEADER), &[0; 20]].concat();
    Builder::new(RESPONSE)
        .question(name("www.example.com"), 255)
        .answer(pointer(HEADER), rrtype::CNAME, [&labels("cdn")[..], &pointer(HEADER + 4)].concat())
        .answer(pointer(HEADER), rrtype::A, [192, 0, 2, 1])
        .answer(pointer(HEADER), rrtype::MX, [&[0, 10][..], &name("mail")].concat())
        .answer(pointer(HEADER), rrtype::TXT, b"\x03one\x03two")
        .answer(pointer(HEADER), rrtype::SRV, [&[0; 6][..], &name("host")].concat())
        .answer(pointer(HEADER), rrtype::SSHFP, [1, 1, 2, 3])
        .authority(pointer(HEADER), rrtype::SOA, soa)
}

#[test]
fn a_response_cut_off_anywhere_is_malformed_and_still_looks_like_dns() {
    let whole = rich();
    assert_eq!(events(&whole).unwrap().len(), 1);
    for len in 0..whole.bytes.len() {
        let cut = &whole.bytes[..len];
        let error = Message::parse(cut).unwrap_err();
        assert!(matches!(error, Malformed::Header | Malformed::Truncated), "{len}: {error}");
        assert_eq!(probe(cut), error == Malformed::Truncated, "{len}");
    }
}

#[test]
fn data_shorter_than_its_type_is_malformed() {
    for (rrtype, data) in [
        (rrtype::MX, &[0][..]),
        (rrtype::SOA, &[0, 0, 1, 2, 3]),
        (rrtype::SRV, &[0; 5]),
        (rrtype::SSHFP, &[1]),
        (rrtype::CNAME, &[5, b'a']),
        (rrtype::TXT, &[5, b'a']),
    ] {
        let response = Builder::new(RESPONSE).question(name("a"), rrtype).answer(name("a"), rrtype, data);
        assert_eq!(events(&response), Err(Malformed::Data), "{rrtype}");
    }
}

#[test]
fn messages_of_a_flow_are_numbered_from_zero() {
    let mut transactions = Transactions::default();
    assert_eq!([transactions.number(), transactions.number()], [0, 1]);
}

/// Returns a message with its length, as over TCP.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[test]
fn a_stream_is_recognised_by_the_begin_of_its_first_message() {
    let stream = framed(&Builder::new(QUERY).question(name("example.com"), rrtype::A).bytes);
    assert!(probe_tcp(&stream));
    assert!(probe_tcp(&stream[..14]), "a header will do");
    assert!(!probe_tcp(&stream[..13]));
    assert!(!probe_tcp(b"GET / HTTP/1.1\r\n\r\n"));
}

/// Generates bytes that are close to a message, as hostile senders would send.
fn near_message() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<u16>(), [0..3_u16, 0..40_u16, 0..10_u16, 0..3_u16]);
    let piece = prop_oneof![
        (0..512_u16).prop_map(|to| pointer(to).to_vec()),
        "[a-z]{1,63}".prop_map(|label| labels(&label)),
        Just(vec![0]),
        (0..50_u16, 0..40_u16).prop_map(|(rrtype, len)| {
            [&rrtype.to_be_bytes()[..], &IN.to_be_bytes(), &[0; 4], &len.to_be_bytes()].concat()
        }),
        vec(any::<u8>(), 0..20),
    ];
    (header, vec(piece, 0..200)).prop_map(|((flags, counts), pieces)| {
        let counts = counts.iter().flat_map(|count| count.to_be_bytes());
        [&[0, 1], &flags.to_be_bytes()[..]]
            .concat()
            .into_iter()
            .chain(counts)
            .chain(pieces.concat())
            .collect()
    })
}

/// Reads everything in a message, and checks its size against the message's.
fn exhaust(bytes: &[u8]) {
    let _ = (probe(bytes), probe_tcp(bytes));
    if let Ok(message) = Message::parse(bytes) {
        assert_eq!(message.questions().count(), usize::from(message.header().questions));
        assert!(
            message.answers().count()
                >= usize::from(message.header().answers) * usize::from(message.header().is_response())
        );
        for event in message.events(0) {
            let len = serde_json::to_vec(&event).unwrap().len();
            // Each byte of a name may become six of JSON, and answers are written twice.
            assert!(len <= (4_096 + bytes.len() * 32) * 6 * 2, "{len} from {}", bytes.len());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_or_grow_without_bounds(bytes in vec(any::<u8>(), 0..600)) {
        exhaust(&bytes);
    }

    #[test]
    fn nothing_near_a_message_panics_or_grows_without_bounds(bytes in near_message()) {
        exhaust(&bytes);
    }

    #[test]
    fn a_damaged_message_does_not_panic(damage in vec((0..180_usize, any::<u8>()), 1..8)) {
        let mut message = rich();
        for (at, byte) in damage {
            if let Some(place) = message.bytes.get_mut(at) {
                *place = byte;
            }
        }
        exhaust(&message.bytes);
    }
}
