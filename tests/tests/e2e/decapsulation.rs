//! Mirrored frames, in every valid form, become records of the inner flow with the fields of their mirror
//! session.

use mirror_xdp_tests::appliance::{Bed, of_type};
use mirror_xdp_tests::frames::{Flow, Mirrored, mirrored};
use serde_json::Value;

/// Captures one frame of each session in one run, each with an inner flow of its own, and asserts that its
/// record has the session's fields.
fn assert_captured(arguments: &[&str], sessions: &[(&str, u32, Mirrored)]) {
    let Some(bed) = Bed::new(1) else { return };
    let flow = |index: usize| Flow::v4(20_000 + index as u16, 9);
    let frames: Vec<_> = sessions
        .iter()
        .enumerate()
        .map(|(index, (_, _, session))| session.carrying(&flow(index).udp(b"hello")))
        .collect();
    let report = bed.capture(&frames, arguments);
    report.assert_conserved();
    let records = bed.records();
    let flows = of_type(&records, "flow");
    for (index, (name, vni, _)) in sessions.iter().enumerate() {
        let port = flow(index).client.port();
        let record = flows.iter().find(|record| record["src_port"] == port);
        let record = record.unwrap_or_else(|| panic!("{name}: no flow in {:?}", report.reasons()));
        assert_eq!(record["mirror"]["vni"], *vni, "{name}: {record}");
        assert_eq!(record["flow"]["pkts_toserver"], 1, "{name}: {record}");
        assert_eq!(record["dest_ip"], "172.31.0.2", "{name}: {record}");
    }
    assert_eq!(flows.len(), sessions.len());
    assert_eq!(report.analysed(), sessions.len() as u64);
}

#[test]
fn the_outer_header_is_ipv4_or_ipv6() {
    let Some(bed) = Bed::new(1) else { return };
    let inner = Flow::v4(20_000, 9).udp(b"hello");
    let frames = [mirrored(7).carrying(&inner), mirrored(7).over_ipv6().carrying(&inner)];
    bed.capture(&frames, &[]).assert_conserved();
    let records = bed.records();
    let mut marks: Vec<&Value> = of_type(&records, "flow").iter().map(|record| &record["mirror"]).collect();
    marks.sort_by_key(ToString::to_string);
    let expected = [
        serde_json::json!({"vni": 7, "outer_src": "10.9.0.1", "outer_dst": "10.9.0.2"}),
        // With all zeros, as EVE writes the addresses of flows.
        serde_json::json!({
            "vni": 7,
            "outer_src": "fd00:0000:0000:0000:0000:0000:0000:0001",
            "outer_dst": "fd00:0000:0000:0000:0000:0000:0000:0002",
        }),
    ];
    assert_eq!(marks, expected.iter().collect::<Vec<_>>());
}

#[test]
fn the_outer_header_may_have_vlan_tags_and_options() {
    assert_captured(
        &[],
        &[
            ("plain", 1, mirrored(1)),
            ("VLAN", 2, mirrored(2).vlan(42)),
            ("QinQ", 3, mirrored(3).vlan(42).vlan(4094)),
            ("one option", 4, mirrored(4).ip_options(&[1, 1, 1, 0])),
            ("options as long as they can be", 5, mirrored(5).ip_options(&[1; 40])),
            ("VLAN over IPv6", 6, mirrored(6).over_ipv6().vlan(42)),
            ("QinQ over IPv6", 7, mirrored(7).over_ipv6().vlan(1).vlan(2)),
            ("IPv6 atomic fragment", 8, mirrored(8).over_ipv6().atomic_fragment()),
            ("padding behind the packet", 9, mirrored(9).trailer(13)),
            ("QinQ and options", 10, mirrored(10).vlan(1).vlan(2).ip_options(&[1; 40])),
        ],
    );
}

#[test]
fn every_vni_is_a_session() {
    let vnis = [0, 1, 0x0080_0000, 5_569_041, 0x00ff_ffff];
    let sessions = vnis.map(|vni| ("session", vni, mirrored(vni)));
    assert_captured(&[], &sessions);
    let sessions = vnis.map(|vni| ("session over IPv6", vni, mirrored(vni).over_ipv6()));
    assert_captured(&[], &sessions);
}

#[test]
fn several_ports_can_be_vxlan() {
    assert_captured(
        &["--vxlan-port", "4789,8472,65535"],
        &[
            ("the standard port", 1, mirrored(1)),
            ("the second port", 2, mirrored(2).port(8472)),
            ("the last port", 3, mirrored(3).over_ipv6().port(65_535)),
        ],
    );
}

#[test]
fn a_port_that_is_not_named_is_not_vxlan() {
    let Some(bed) = Bed::new(1) else { return };
    let inner = Flow::default().udp(b"hello");
    let frames = [mirrored(1).carrying(&inner), mirrored(1).port(8472).carrying(&inner)];
    let report = bed.capture(&frames, &["--vxlan-port", "8472"]);
    report.assert_conserved();
    assert_eq!(report.redirected(), 1);
    assert_eq!(report.reasons(), [("not_mirror".to_owned(), 1)]);
}

#[test]
fn inner_frames_of_all_kinds_are_recorded() {
    let Some(bed) = Bed::new(1) else { return };
    let mut inner = Vec::new();
    for flow in [Flow::v4(30_000, 80), Flow::v6(30_001, 80), Flow::v4(30_002, 80).vlan(5)] {
        inner.extend(flow.tcp_handshake());
        inner.push(flow.udp(b"x"));
    }
    inner.extend([
        Flow::v4(0, 0).ping(1, 1),
        Flow::v6(0, 0).ping(1, 1),
        Flow::v4(30_003, 9).vlan(5).vlan(6).udp(b"x"),
    ]);
    let frames: Vec<_> = inner.iter().map(|inner| mirrored(7).carrying(inner)).collect();
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    assert_eq!(report.analysed(), frames.len() as u64);

    let records = bed.records();
    let flows = of_type(&records, "flow");
    let find = |proto: &str, port: u16| {
        let found = flows.iter().find(|record| record["proto"] == proto && record["src_port"] == port);
        found.unwrap_or_else(|| panic!("no {proto} flow from port {port} in {flows:?}"))
    };
    for port in 30_000..=30_002 {
        let tcp = find("TCP", port);
        assert_eq!(tcp["flow"]["pkts_toserver"], 2, "{tcp}");
        assert_eq!(tcp["flow"]["pkts_toclient"], 1, "{tcp}");
        assert_eq!(tcp["tcp"]["state"], "established", "{tcp}");
        assert_eq!(find("UDP", port)["flow"]["pkts_toserver"], 1);
    }
    assert_eq!(find("TCP", 30_002)["vlan"], serde_json::json!([5]));
    assert_eq!(find("UDP", 30_003)["vlan"], serde_json::json!([5, 6]));
    for proto in ["ICMP", "IPv6-ICMP"] {
        assert_eq!(flows.iter().filter(|record| record["proto"] == proto).count(), 1, "{proto}");
    }
}

#[test]
fn the_generic_mode_captures_as_the_native_one_does() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&["--xdp-mode", "generic"]);
    assert!(appliance.announced[0].contains("generic,"), "{:?}", appliance.announced);
    let flows = [Flow::v4(20_000, 9), Flow::v6(20_001, 9)];
    let frames: Vec<_> = flows
        .iter()
        .flat_map(|flow| {
            let inner = flow.udp(b"hello");
            [mirrored(1), mirrored(2).over_ipv6().vlan(3), mirrored(4).ip_options(&[1; 40])]
                .map(|session| session.carrying(&inner))
        })
        .collect();
    bed.send(&frames);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), frames.len() as u64);
    assert_eq!(report.reasons(), []);
}
