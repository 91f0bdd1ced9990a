//! The selection of stored packets: by rule, also while rules are replaced, and by flows that raise an alert.

use etherparse::TcpHeader;
use mirror_xdp_tests::appliance::of_type;
use mirror_xdp_tests::tls::{client_hello, server_hello};

use super::*;

/// Returns rules of two sets, for VNIs 7 and 8.
fn rules(numbers: [u32; 3]) -> String {
    let [first, second, other] = numbers;
    format!(
        r#"
[store]
rules = ["a/100-199", "b"]

[[filter.sets]]
name = "a"
vnis = [7]

[[filter.sets.rules]]
number = {first}
action = "accept"
protocol = "udp"
source_ports = "20000-20004"

[[filter.sets.rules]]
number = {second}
action = "accept"

[[filter.sets]]
name = "b"
vnis = [8]

[[filter.sets.rules]]
number = {other}
action = "accept"
protocol = "udp"
"#
    )
}

#[test]
fn what_is_kept_by_rule_stays_right_when_rules_are_replaced() {
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    let config = bed.log_dir().join("config.toml");
    let configure = |text: &str| fs::write(&config, text).expect("the directory is there");
    configure(&rules([100, 200, 50]));
    let mut appliance = start(&bed, store.path(), &["--config", text(&config)]);
    // One datagram of each conversation's client, by VNI 7, by VNI 8, and by VNI 9, which has no set.
    let datagram = |vni, conversation| mirrored(vni).carrying(&inner(conversation, 2 * vni));
    let sent: Vec<_> = (0..10).flat_map(|number| [7, 8, 9].map(|vni| datagram(vni, number))).collect();
    bed.send(&sent);
    // Now the other rule of set a has a number from 100 to 199.
    configure(&rules([99, 150, 7]));
    appliance.signal(Signal::SIGHUP);
    appliance.wait_for_line(&format!("mirror-xdp: {}: read again", config.display()));
    bed.send(&sent);
    // A reload with rules that the store's setting does not match is refused, with the line.
    configure(&rules([99, 300, 7]));
    appliance.signal(Signal::SIGHUP);
    let said = appliance.wait_for_line("mirror-xdp: not reloaded");
    assert!(said.contains("config.toml:3: store.rules[0]: there is no such rule in set \"a\""), "{said}");
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(stored(&report), (5 + 10 + 5 + 10, 0));
    assert_eq!(report.sum("/workers", "/store/not_kept/policy"), 30);
    let ports = |expression: &str| extract(&bed, store.path(), expression).len();
    assert_eq!((ports("vni 7 and portrange 20000-20004"), ports("vni 7")), (5, 10));
    assert_eq!((ports("vni 8"), ports("vni 9")), (20, 0));
}

/// Returns the sum of the numbers at a JSON pointer in all workers.
fn sum(report: &Value, pointer: &str) -> u64 {
    let workers = report["workers"].as_array().expect("a list").iter();
    workers.filter_map(|worker| worker.pointer(pointer)?.as_u64()).sum()
}

/// Returns a TLS connection to a server of this name, with `segments` segments of data after the handshake.
fn connection(port: u16, name: &str, segments: u32) -> Vec<Vec<u8>> {
    let flow = Flow::v4(port, 443);
    let mut frames = flow.tcp_handshake();
    let header = |sequence: u32, acknowledgement: u32| TcpHeader {
        sequence_number: sequence,
        acknowledgment_number: acknowledgement,
        ack: true,
        window_size: 64_240,
        ..TcpHeader::default()
    };
    let (hello, answer) = (client_hello(name), server_hello());
    let (client, mut server) = (1001 + hello.len() as u32, 9001);
    frames.push(flow.tcp(header(1001, server), &hello));
    let data = [&[23, 3, 3, 4, 0][..], &[7; 1024]].concat();
    for said in std::iter::once(&answer).chain((0..segments).map(|_| &data)) {
        frames.push(flow.reversed().tcp(header(server, client), said));
        server += said.len() as u32;
        frames.push(flow.tcp(header(client, server), b""));
    }
    frames
}

#[test]
fn a_flow_that_raised_an_alert_is_kept_whole_and_one_that_did_not_is_counted_by_the_driver() {
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    let config = bed.log_dir().join("config.toml");
    let indicators = bed.log_dir().join("indicators");
    fs::write(&indicators, "evil.example # of names\n").expect("the directory is there");
    let settings = format!(
        "[shunt]\nafter = 1\n[store]\nkeep = \"alerts\"\npre_trigger = \"1MiB\"\n\
         [alerts]\nindicators = [\"192.0.2.1\"]\nfile = \"{}\"\n",
        indicators.display()
    );
    fs::write(&config, settings).expect("the directory is there");
    let arguments = ["--config", text(&config), "--stats-interval", "20ms"];
    let appliance = start(&bed, store.path(), &arguments);
    let good = connection(20_001, "good.example", 300);
    let evil = connection(20_002, "www.evil.example", 300);
    let sent: Vec<_> = good.iter().zip(&evil).flat_map(|(one, other)| [one, other]).collect();
    let sent: Vec<_> = sent.into_iter().map(|frame| mirrored(7).carrying(frame)).collect();
    // The worker has to decide that the flow is of no interest before the rest arrives.
    let (first, rest) = sent.split_at(40);
    bed.send(first);
    wait_until("a flow is shunted", || {
        of_type(&bed.records(), "stats").iter().any(|stats| sum(&stats["stats"], "/flows_shunted") == 1)
    });
    bed.send(rest);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(stored(&report), (evil.len() as u64, 0));
    assert_eq!(extract(&bed, store.path(), ""), evil);
    let shunted = report.json()["interfaces"][0]["program"]["shunted"]["flow"].as_u64().expect("a count");
    // All of the rest that does not belong to the other flow, and perhaps some of the first part.
    assert!((rest.len() as u64 / 2..good.len() as u64).contains(&shunted), "{shunted}");
    assert_eq!(opened_by_others(store.path()), evil.len() as u64);
    let records = bed.records();
    let [alert] = of_type(&records, "alert")[..] else { panic!("{records:?}") };
    assert_eq!(alert["alert"]["signature"], "indicator: evil.example as TLS server name");
    let alerted = of_type(&records, "flow").into_iter().filter(|flow| flow["flow"]["alerted"] == true);
    let ids: Vec<_> = alerted.map(|flow| flow["flow_id"].clone()).collect();
    assert_eq!(ids, [alert["flow_id"].clone()]);
}

#[test]
fn a_rule_for_one_vni_keeps_its_packets_from_before_the_alert_and_none_of_equal_addresses_elsewhere() {
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    let [config, rules] = ["config.toml", "local.rules"].map(|name| bed.log_dir().join(name));
    let rule = "alert tls any any -> any any (msg:\"one\"; mirror.vni:7; tls.sni; content:\"evil.example\"; sid:1;)\n";
    fs::write(&rules, rule).expect("the directory is there");
    let settings = format!(
        "[store]\nkeep = \"alerts\"\npre_trigger = \"1MiB\"\n[signatures]\nfiles = [\"{}\"]\n",
        rules.display()
    );
    fs::write(&config, settings).expect("the directory is there");
    let appliance = start(&bed, store.path(), &["--config", text(&config)]);
    let evil = connection(20_002, "www.evil.example", 10);
    let sent: Vec<_> =
        evil.iter().flat_map(|frame| [7, 8].map(|vni| mirrored(vni).carrying(frame))).collect();
    bed.send(&sent);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(stored(&report), (evil.len() as u64, 0));
    assert_eq!(extract(&bed, store.path(), "vni 7"), evil);
    assert_eq!(extract(&bed, store.path(), "vni 8"), Vec::<Vec<u8>>::new());
    let records = bed.records();
    let [alert] = of_type(&records, "alert")[..] else { panic!("{records:?}") };
    assert_eq!((&alert["alert"]["signature_id"], &alert["mirror"]["vni"]), (&1.into(), &7.into()));
}

#[test]
fn indicators_that_are_none_are_told_by_their_line() {
    let Some(bed) = Bed::new(1) else { return };
    let (config, indicators) = (bed.log_dir().join("config.toml"), bed.log_dir().join("indicators"));
    fs::write(&indicators, "# a feed\nevil.example\nevil\n").expect("the directory is there");
    fs::write(&config, format!("[alerts]\nfile = \"{}\"\n", indicators.display())).expect("it is there");
    let output = bed.run_to_end(bed.run_command(&[INTERFACE], &["--config", text(&config)]));
    assert_eq!(output.status.code(), Some(1));
    let [line] = &output.stderr[..] else { panic!("{output:?}") };
    assert!(line.contains("indicators:3: `evil` is no indicator; write a domain"), "{line}");
}
