use mirror_xdp_tests::frames::{Flow, mirrored};
use proptest::prelude::*;

use super::*;

/// Returns the `FrameInfo` of this frame in this mirror session.
fn info(vni: u32, outer_source: &str, frame: &[u8]) -> FrameInfo {
    FrameInfo::of(frame).at(1).mirrored(crate::tests::session(vni, outer_source))
}

/// Returns whether an expression matches a UDP datagram from 10.1.2.3:4000 to 10.2.0.1:443 in the session of
/// VNI 7 and 10.0.1.17.
fn matches(expression: &str) -> bool {
    let flow = Flow {
        client: "10.1.2.3:4000".parse().unwrap(),
        server: "10.2.0.1:443".parse().unwrap(),
        ..Flow::default()
    };
    let frame = flow.udp(b"hello");
    let expression = Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    expression.matches(&info(7, "10.0.1.17", &frame), &frame)
}

#[test]
fn words_of_tcpdump_and_of_ours_mix() {
    for (expression, expected) in [
        ("", true),
        ("udp", true),
        ("tcp", false),
        ("vni 7", true),
        ("vni 8", false),
        ("host 10.1.2.3 and port 443 and vni 7", true),
        ("host 10.1.2.3 and port 443 and vni 8", false),
        ("vni 1-6 or vni 8-99", false),
        ("vni 0-16777215 && udp port 443", true),
        ("not vni 7", false),
        ("!vni 8", true),
        ("!(vni 8 or tcp)", true),
        ("vni 8 or (udp and (port 443 or vni 9))", true),
        ("outer src 10.0.1.17", true),
        ("outer src 10.0.0.0/16 and not outer src 10.0.1.18", true),
        ("outer source 10.1.0.0/16", false),
        ("udp and vni 7 and ip[8] != 0", true),
        ("tcp[13] & 2 != 0 or vni 7", true),
    ] {
        assert_eq!(matches(expression), expected, "{expression}");
    }
}

#[test]
fn tcpdump_s_precedence_holds_for_our_words() {
    // `and` and `or` have the same precedence, and associate to the left.
    assert!(!matches("vni 7 or udp and vni 8"));
    assert!(matches("vni 7 or (udp and vni 8)"));
}

#[test]
fn words_that_change_what_follows_do_so_across_ours() {
    let flow = Flow::default().vlan(5);
    let frame = flow.udp(b"hello");
    let expression = Expression::parse("vlan 5 and vni 7 and udp").unwrap();
    assert!(expression.matches(&info(7, "10.0.1.17", &frame), &frame));
    assert!(!Expression::parse("udp and vni 7").unwrap().matches(&info(7, "10.0.1.17", &frame), &frame));
}

#[test]
fn a_community_id_matches_both_directions_of_its_flow_and_no_other() {
    let flow = Flow::default();
    let (there, back) = (flow.udp(b"hello"), flow.reversed().udp(b"hello"));
    let id = community_ids(&info(7, "10.0.1.17", &there), &there).next().unwrap();
    let expression = Expression::parse(&format!("vni 7 and community-id {id}")).unwrap();
    for frame in [&there, &back] {
        assert!(expression.matches(&info(7, "10.0.1.17", frame), frame));
    }
    let other = Flow { client: "10.1.2.3:4001".parse().unwrap(), ..flow }.udp(b"hello");
    assert!(!expression.matches(&info(7, "10.0.1.17", &other), &other));
}

#[test]
fn flows_in_vxlan_are_found_whatever_its_port_is() {
    let inner = Flow::default().udp(b"hello");
    let id = community_ids(&info(7, "10.0.1.17", &inner), &inner).next().unwrap();
    for port in [4789, 8472, 9999, 443] {
        let once = mirrored(9).port(port).carrying(&inner);
        let twice = mirrored(9).port(8000).carrying(&once);
        for (frame, ids) in [(&once, 2), (&twice, 3)] {
            let found: Vec<_> = community_ids(&info(7, "10.0.1.17", frame), frame).collect();
            assert_eq!((found.len(), found.last()), (ids, Some(&id)), "{port}");
        }
    }
    // A payload that only has the flag.
    let other = Flow::default().udp(&[8; 64]);
    assert_eq!(community_ids(&info(7, "10.0.1.17", &other), &other).count(), 1);
}

#[test]
fn a_frame_that_was_not_mirrored_has_neither_vni_nor_outer_source() {
    let frame = Flow::default().udp(b"hello");
    let plain = FrameInfo { mirror: None, ..info(7, "10.0.1.17", &frame) };
    assert!(!Expression::parse("vni 0-16777215 or outer src ::/0").unwrap().matches(&plain, &frame));
    assert!(Expression::parse("not vni 7").unwrap().matches(&plain, &frame));
}

#[test]
fn what_every_match_needs_of_ours_is_known() {
    let required =
        |expression: &str| Expression::parse(expression).unwrap().required().cloned().collect::<Vec<_>>();
    assert_eq!(required("vni 7 and port 80"), [Primitive::Vni(7..=7)]);
    assert_eq!(required("(vni 7 and port 80) or (vni 7 and port 81)"), []);
    assert_eq!(required("vni 7 or port 80"), []);
    assert_eq!(required("not vni 7 and outer src ::/0").len(), 1);
    assert!(Expression::parse("tcp and udp").unwrap().matches_nothing());
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (expression, column, what) in [
        ("vni", 4, "nothing follows `vni`"),
        ("port 80 and vni x", 17, "`x` is out of range or no number"),
        ("vni 9-7", 5, "`9-7` is reversed"),
        ("vni 16777216", 5, "`16777216` is out of range or no number"),
        ("outer dst 10.0.0.1", 7, "`outer dst` is not a condition"),
        ("outer src 10.0.0.1/8", 11, "`10.0.0.1/8` has bits set beyond its prefix length"),
        ("community-id 1:xyz", 14, "`1:xyz` is not a Community ID of version 1"),
        ("host 10.1.2.3 and ] 443", 19, "`]`: syntax error"),
        ("(port 53 and (vni 7 and tcp udp))", 29, "`udp`: syntax error"),
        ("port 80 and", 12, "the end: syntax error"),
        ("vni 7 vni 8", 7, "`vni 8`: syntax error"),
        (
            "vni 1 or vni 2 or vni 3 or vni 4 or vni 5 or vni 6 or vni 7",
            60,
            "has 7 conditions on VNI, outer \
          source and Community ID",
        ),
    ] {
        let error = Expression::parse(expression).unwrap_err();
        assert_eq!((error.column, &error.what[..]), (column, what), "{expression}: {error}");
    }
}

/// Returns a list of `count` conditions, each with its number.
fn list(count: usize, between: &str, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect::<Vec<_>>().join(between)
}

/// Returns a list as a user might write it: the control.
fn normal() -> String {
    list(100, " or ", |number| format!("host 10.0.{}.{}", number / 10, number % 10))
}

fn time(expression: &str) -> (Duration, Result<(), ExpressionError>) {
    let begun = Instant::now();
    let outcome = Expression::parse(expression).map(|_| ());
    (begun.elapsed(), outcome)
}

#[test]
fn hostile_expressions_are_refused_before_they_cost_much() {
    let own = |count: usize| list(count, " and ", |number| format!("not vni {number}"));
    let expressions = [
        format!("portrange {}", list(10_000, " or ", |number| format!("{}-{}", number + 1, number + 2))),
        format!("portrange {}", list(600, "||", |number| format!("{}-{}", number + 1, number + 2))),
        format!("portrange {}", list(100, " or ", |number| format!("{}-{}", number + 1, number + 2))),
        format!("port {}", list(700, " or ", |number| (number + 1).to_string())),
        format!("port {}", list(150, " or ", |number| (number + 1).to_string())),
        format!("{} and port {}", own(6), list(100, " or ", |number| (number + 1).to_string())),
        format!("{} and port {}", own(6), list(10, " or ", |number| (number + 1).to_string())),
        list(400, " or ", |number| format!("host 10.0.{}.{}", number / 200, number % 200)),
        list(40, " and ", |number| format!("(port {} or port {})", 2 * number + 1, 2 * number + 2)),
        list(50, " or ", |number| format!("(port {} and host 10.0.0.{})", number + 1, number)),
        list(60, " and ", |number| format!("not portrange {}-{}", number + 1, number + 9)),
        list(500, " and ", |_| "vlan".to_owned()),
        list(500, " or ", |_| "mpls".to_owned()),
        format!("{}tcp{}", "(".repeat(500), ")".repeat(500)),
        format!("{}tcp", "not ".repeat(700)),
        format!("{}tcp", "!".repeat(4000)),
        format!("{}0{} = 1", "ip[".repeat(900), "]".repeat(900)),
        format!("ip[0]{} = 1", " + 1".repeat(900)),
        format!("ip[0]{}=1", "+1".repeat(1900)),
        // The position of the mistake is searched for.
        format!("{} ]", list(100, " or ", |number| format!("port {}", number + 1))),
        format!("] {}", list(100, " or ", |number| format!("port {}", number + 1))),
        "(".repeat(4000),
        "x".repeat(5000),
        "or ".repeat(1300),
    ];
    // The slowest of three, since other tests run in parallel.
    let control = (0..3).map(|_| time(&normal()).0).max().unwrap();
    time(&normal()).1.unwrap();
    for expression in expressions {
        let (taken, outcome) = time(&expression);
        let begin: String = expression.chars().take(60).collect();
        println!("{taken:?} beside {control:?}: {begin}… {:?}", outcome.as_ref().err().map(|it| &it.what));
        assert!(taken < 25 * control + Duration::from_secs(1), "{taken:?} beside {control:?}: {begin}");
        let lines = outcome.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(!lines.contains('\n') && lines.len() < 400, "{lines}");
    }
}

#[test]
fn hostile_expressions_are_told_the_bound() {
    for (expression, what) in [
        ("x".repeat(5000), "has 5000 bytes, more than 4096"),
        (format!("port {}", list(300, " or ", |number| number.to_string())), "is too long: about "),
        (
            format!(
                "{} and port {}",
                list(6, " and ", |number| format!("not vni {number}")),
                list(50, " or ", |number| (number + 1).to_string())
            ),
            "since it is compiled with each combination of its other conditions",
        ),
        ("ip6 protochain 17".to_owned(), "is a loop"),
        (list(70, " or ", |number| format!("host h{number}")), "has 70 names to look up"),
    ] {
        let error = Expression::parse(&expression).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    // Neither names of ports nor values of fields are looked up.
    let flags = list(6, " and ", |number| format!("not vni {number}"));
    let expression = format!("{flags} and port http and tcp[tcpflags] & (tcp-syn|tcp-fin) != 0");
    Expression::parse(&expression).unwrap();
}

/// Generates deeply nested expressions of small parts.
fn nested() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("tcp".to_owned()),
        Just("vlan".to_owned()),
        (0_u16..2000).prop_map(|port| format!("port {port}")),
        (0_u16..2000, 0_u16..2000).prop_map(|(from, more)| format!("portrange {from}-{}", from + more)),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| format!("net 10.{a}.{b}.0/24")),
        (any::<u8>(), any::<u8>()).prop_map(|(at, value)| format!("ip[{at}] & {value} != 0")),
        (0_u32..9).prop_map(|vni| format!("vni {vni}")),
    ];
    leaf.prop_recursive(12, 150, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not ({inner})")),
            (prop::collection::vec(inner.clone(), 1..5), prop_oneof![Just(" and "), Just(" or ")])
                .prop_map(|(inner, between)| format!("({})", inner.join(between))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn hostile_expressions_of_any_form_take_a_bounded_time(expression in nested()) {
        let (taken, _) = time(&expression);
        prop_assert!(taken < Duration::from_secs(20), "{taken:?}: {expression}");
    }
}
