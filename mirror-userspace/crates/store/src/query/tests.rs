use mirror_packet::FrameInfo;
use mirror_xdp_tests::frames::Flow;
use proptest::prelude::*;

use super::*;
use crate::expression::Expression;
use crate::index::{Builder, Index, scan};
use crate::{buffer, pcapng};

/// Returns a section with one frame, of the session with VNI 7.
fn section(frame: &[u8]) -> (Vec<u8>, FrameInfo) {
    let info = FrameInfo::of(frame).at(5).mirrored(crate::tests::session(7, "10.0.1.17"));
    let mut buffer = buffer::Buffer::new(1 << 16);
    pcapng::put_section(&mut buffer);
    pcapng::put_interface(&mut buffer, &Interface { mirror: info.mirror });
    let packet = pcapng::PacketInfo {
        interface: 0,
        time: info.time,
        original_len: info.original_len,
        side: None,
        flow_hash: 0,
        begins: None,
    };
    pcapng::put_packet(&mut buffer, &packet, frame);
    pcapng::end_section(&mut buffer);
    (buffer.as_slice().to_vec(), info)
}

/// Returns the answer of that section's index.
fn asked(expression: &str, section: &[u8]) -> Answer {
    let (summary, interfaces, flows) = scan(section).unwrap();
    let mut builder = Builder::default();
    builder.add_parts(&summary, &interfaces, &flows, 0, section.len() as u32);
    let index = Index::parse(builder.encode(), u64::MAX).unwrap();
    let query = Query::of(expression);
    index.flows().map(|entry| query.ask(&entry, index.interfaces())).max().unwrap_or(Answer::No)
}

#[test]
fn an_index_knows_addresses_ports_protocols_and_sessions() {
    let (section, _) = section(&Flow::v4(4000, 443).udp(b"x"));
    for (expression, may_match) in [
        ("", true),
        ("host 172.31.0.1", true),
        ("host 172.31.0.3", false),
        ("src 172.31.0.1 and dst port 443", true),
        ("port 80", false),
        ("portrange 400-500", true),
        ("tcp", false),
        ("tcp port 443", false),
        ("udp and vni 7", true),
        ("udp and vni 8", false),
        ("not vni 7", false),
        ("not port 443", true),
        ("not port 80", true),
        ("outer src 10.0.1.17", true),
        ("outer src 10.0.2.0/24", false),
        ("ip6", false),
        ("net 172.31.0.0/16", true),
        ("net 172.32.0.0/16", false),
        ("port 80 or port 443", true),
        ("port 80 or port 81", false),
        // Operators associate to the left.
        ("port 443 or port 80 and tcp", false),
        ("port 443 or (port 80 and tcp)", true),
        ("! (port 80 || tcp)", true),
        ("greater 9000", true),
        ("tcp[13] & 2 != 0", true),
        ("port http", true),
    ] {
        assert_eq!(asked(expression, &section) != Answer::No, may_match, "{expression}");
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("host 172.31.0.1"),
        Just("host 172.31.0.9"),
        Just("src 172.31.0.2"),
        Just("port 443"),
        Just("dst port 9"),
        Just("tcp"),
        Just("udp"),
        Just("icmp"),
        Just("udp port 443"),
        Just("ip"),
        Just("ip6"),
        Just("net 172.31.0.0/24"),
        Just("portrange 1-100"),
        Just("vni 7"),
        Just("vni 8-9"),
        Just("outer src 10.0.1.17"),
        Just("greater 60"),
        Just("vlan"),
    ]
    .prop_map(str::to_owned)
}

fn expression() -> impl Strategy<Value = String> {
    word().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or {b}")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Flow::v4(4000, 443).udp(b"x")),
        Just(Flow::v4(9, 9).udp(b"x")),
        Just(Flow::v6(4000, 443).udp(b"x")),
        Just(Flow::v4(50, 443).tcp_handshake().remove(0)),
        Just(Flow::v4(4000, 443).vlan(5).udp(b"x")),
        Just(Flow::v4(1, 1).ping(1, 1)),
        // IP within GRE, and garbage.
        Just(
            Flow::v4(1, 1)
                .packet(47.into(), &[&[0, 0, 8, 0][..], &Flow::v4(9, 443).udp(b"x")[14..]].concat())
        ),
        Just(vec![2; 64]),
    ]
}

proptest! {
    #[test]
    fn no_frame_that_matches_is_missed(expression in expression(), frame in frame()) {
        if let Ok(compiled) = Expression::parse(&expression) {
            let (section, info) = section(&frame);
            if compiled.matches(&info, &frame) {
                prop_assert_ne!(asked(&expression, &section), Answer::No, "{}", expression);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_index_or_section_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(&bytes);
        prop_assert!(Index::parse(bytes, u64::MAX).is_err());
    }

    #[test]
    fn a_damaged_section_does_no_harm(frame in frame(), at in 0_usize..400, value in any::<u8>()) {
        let (mut section, _) = section(&frame);
        let at = at % section.len();
        section[at] = value;
        let _ = scan(&section);
    }

    #[test]
    fn a_damaged_index_is_refused(frame in frame(), at in any::<usize>(), bit in 0_u8..8) {
        let (section, _) = section(&frame);
        let (summary, interfaces, flows) = scan(&section).unwrap();
        let mut builder = Builder::default();
        builder.add_parts(&summary, &interfaces, &flows, 0, section.len() as u32);
        let mut bytes = builder.encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Index::parse(bytes, u64::MAX).is_err());
    }
}
