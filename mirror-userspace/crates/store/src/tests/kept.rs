//! Tests of keeping frames by rule, and of flows that raise an alert.

use etherparse::TcpHeader;
use mirror_engine::analyzer::{Analyzer, Consumed, Context, Event, Filter};
use mirror_engine::indicators::Indicators;
use mirror_engine::worker::WorkerCounters;
use mirror_packet::Direction;
use mirror_protocols::tls::{Carrier, ClientHello, Ja3, ja4};
use mirror_xdp_common::Address;
use mirror_xdp_tests::frames::{dns_answer, dns_query};
use mirror_xdp_tests::tls::client_hello;

use super::*;

/// The smallest memory for frames that precede an alert.
const RING: u64 = 1 << 20;

fn alerts() -> Settings {
    Settings { policy: Policy { pre_trigger: Some(RING), ..Policy::default() }, ..settings() }
}

/// Creates a worker that looks for a name and an address.
fn watching(sink: &Sink, dedup: bool, store: StoreHandle) -> Worker<StoreHandle> {
    let config = WorkerConfig { dedup, ..WorkerConfig::default() };
    let mut indicators = Indicators::default();
    for indicator in ["evil.example", "192.0.2.0/24"] {
        indicators.add(indicator).unwrap();
    }
    Worker::builder(config, sink.producer(Overflow::Wait))
        .recorder(store)
        .indicators(Some(Arc::new(indicators)))
        .build()
}

/// Lets a worker process frames, and checks that each frame is accounted for.
fn taken(
    directory: &Path,
    settings: Settings,
    dedup: bool,
    frames: impl IntoIterator<Item = (FrameInfo, Vec<u8>)>,
) -> (WorkerCounters, StoreCounters, Vec<serde_json::Value>) {
    let log = tempfile::tempdir().unwrap();
    let sink = Sink::open(log.path()).unwrap();
    let store = Store::open(directory, settings, None).unwrap();
    let mut worker = watching(&sink, dedup, store.handle(0, Overflow::Wait).unwrap());
    for (info, frame) in frames {
        worker.frame(&info, &frame);
        worker.tick(info.time);
    }
    worker.finish();
    let counters = worker.counters();
    let _ = (sink.finish(), store.finish());
    let stored = worker.recorder().counters();
    let sum = |named: &[(&str, u64)]| named.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(stored.kept + sum(&stored.not_kept) + sum(&stored.lost), counters.delivered);
    assert_eq!(sum(&stored.lost), 0);
    let text = fs::read_to_string(log.path().join(mirror_records::sink::FILE_NAME)).unwrap();
    (counters, stored, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Returns a DNS query of a client.
fn question(client: u16, number: u16, name: &str) -> Vec<u8> {
    Flow::v4(30_000 + client, 53).udp(&dns_query(number, name))
}

/// Returns queries of two clients in turns, of which one asks for a bad name in the midst.
fn conversation() -> Vec<(FrameInfo, Vec<u8>)> {
    (0..40)
        .map(|number| {
            let client = number % 2;
            let name = if number == 21 { "www.evil.example" } else { "good.example" };
            let frame = question(client, number, name);
            (info(7, 1000 + u64::from(number / 8), &frame), frame)
        })
        .collect()
}

#[test]
fn a_flow_that_raises_an_alert_is_kept_from_before_it_and_no_other_is() {
    let directory = tempfile::tempdir().unwrap();
    let frames = conversation();
    let (_, stored, records) = taken(directory.path(), alerts(), false, frames.clone());
    let expected: Vec<_> =
        frames.iter().skip(1).step_by(2).map(|(info, frame)| (info.time, frame.clone())).collect();
    assert_eq!(extract(directory.path(), None, "").0, expected);
    assert_eq!(extract(directory.path(), None, "port 30001 and vni 7").0, expected);
    assert_eq!((stored.kept, stored.not_kept[1]), (20, ("no_alert", 20)));
    // The packets are in the order of time, and the flow's first has the Community ID.
    let file = CaptureFile::open(&files(&directory, ".pcapng")[0]).unwrap();
    let mut times = Vec::new();
    file.for_each(|frame| times.push(frame.time)).unwrap();
    assert!(times.is_sorted() && times.len() == 20, "{times:?}");
    assert_eq!(findings(&directory), []);
    let bytes = fs::read(&files(&directory, ".pcapng")[0]).unwrap();
    assert_eq!(bytes.windows(13).filter(|window| window == b"community_id=").count(), 1);
    // The alert has Suricata's form, and belongs to that flow.
    let [alert] = &records.iter().filter(|it| it["event_type"] == "alert").collect::<Vec<_>>()[..] else {
        panic!("{records:?}")
    };
    assert_eq!((&alert["src_port"], &alert["proto"]), (&30_001.into(), &"UDP".into()));
    let expected = serde_json::json!({
        "action": "allowed", "gid": 1, "signature_id": 1_000_002, "rev": 1,
        "signature": "indicator: evil.example asked for in DNS",
        "category": "Potentially Bad Traffic", "severity": 2,
        "metadata": {"indicator": ["evil.example"], "indicator_type": ["domain"]},
    });
    assert_eq!(alert["alert"], expected);
    let flows = records.iter().filter(|it| it["event_type"] == "flow");
    let alerted: Vec<_> = flows.map(|flow| (&flow["src_port"], &flow["flow"]["alerted"])).collect();
    assert!(alerted.contains(&(&30_001.into(), &true.into())), "{alerted:?}");
    assert!(alerted.contains(&(&30_000.into(), &false.into())), "{alerted:?}");
}

#[test]
fn an_alert_within_a_tunnel_has_the_community_id_of_the_flow_that_raised_it() {
    let directory = tempfile::tempdir().unwrap();
    let frames: Vec<_> = conversation()
        .into_iter()
        .map(|(FrameInfo { time, .. }, frame)| {
            let frame = mirrored(9).carrying(&frame);
            (info(7, time / SECOND, &frame), frame)
        })
        .collect();
    let ids: Vec<_> = expression::community_ids(&frames[1].0, &frames[1].1).collect();
    let [tunnel, flow] = ids[..] else { panic!("{ids:?}") };
    let (_, stored, _) = taken(directory.path(), alerts(), false, frames);
    assert_eq!(stored.kept, 20);
    let bytes = fs::read(&files(&directory, ".pcapng")[0]).unwrap();
    let has = |id| String::from_utf8_lossy(&bytes).contains(&format!("community_id={id}"));
    assert!(has(flow) && !has(tunnel));
    assert_eq!(extract(directory.path(), None, &format!("community-id {flow}")).0.len(), 20);
}

#[test]
fn what_is_no_longer_in_memory_when_the_alert_comes_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let early = question(1, 1, "good.example");
    let mut frames = vec![(info(7, 1000, &early), early)];
    // More frames than there is room for.
    frames.extend(turns(7, 5, 4000, 1001));
    for (number, name) in [(2, "good.example"), (3, "evil.example"), (4, "good.example")] {
        let frame = question(1, number, name);
        frames.push((info(7, 5001, &frame), frame));
    }
    let (_, stored, _) = taken(directory.path(), alerts(), false, frames);
    // After five minutes without packets, the flow is another one.
    assert_eq!((stored.kept, stored.not_kept[1].1), (3, 4001));
    let (found, _) = extract(directory.path(), None, "");
    assert_eq!(found[0].1, question(1, 2, "good.example"));
}

#[test]
fn an_address_raises_an_alert_with_the_first_packet_and_limits_hold_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut frame = frame(1, 2);
    // Changes the source address; the checksum is not verified.
    frame[26..30].copy_from_slice(&[192, 0, 2, 77]);
    let frames = (0..10).map(|second| (info(7, 1000 + second, &frame), frame.clone()));
    let policy = Policy { flow: Some(2001), packet: Kept::First(60), ..alerts().policy };
    let (_, stored, records) = taken(directory.path(), Settings { policy, ..alerts() }, false, frames);
    assert_eq!((stored.kept, stored.not_kept[0]), (3, ("policy", 7)));
    assert!(extract(directory.path(), None, "").0.iter().all(|(_, frame)| frame.len() == 60));
    let alert = records.iter().find(|it| it["event_type"] == "alert").unwrap();
    assert_eq!(alert["alert"]["signature"], "indicator: address 192.0.2.77");
}

#[test]
fn a_flow_of_two_sessions_is_kept_with_what_came_of_it_by_both() {
    let directory = tempfile::tempdir().unwrap();
    let at = |vni, millisecond: u64, frame: &[u8]| {
        let mut info = info(vni, 1000, frame);
        info.time += millisecond * 1_000_000;
        if let (8, Some(mirror)) = (vni, &mut info.mirror) {
            mirror.outer_source = Address::from_v4(0x0a00_0212);
        }
        (info, frame.to_vec())
    };
    // Each session has a packet of its own before a duplicate shows that the flows are one.
    let flow = Flow::v4(30_001, 53);
    let asked = flow.udp(&dns_query(1, "good.example"));
    let answer = flow.reversed().udp(&dns_answer(1, "good.example", [10, 9, 8, 7].into()));
    let both = flow.udp(&dns_query(2, "good.example"));
    let bad = flow.udp(&dns_query(3, "evil.example"));
    let frames = vec![
        at(7, 1, &asked),
        at(8, 2, &answer),
        at(7, 3, &both),
        at(8, 4, &both),
        at(7, 5, &bad),
        at(8, 6, &bad),
    ];
    let (counters, stored, _) = taken(directory.path(), alerts(), true, frames);
    assert_eq!(counters.duplicates, 2);
    let found: Vec<_> = extract(directory.path(), None, "").0.into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(found, [asked, answer, both, bad]);
    assert_eq!(stored.not_kept[1], ("no_alert", 2));
}

#[test]
fn what_waits_for_an_alert_takes_no_memory_beyond_its_ring_and_costs_no_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let (_, stored, _) = taken(directory.path(), alerts(), false, turns(7, 5, 3000, 0));
    assert_eq!((stored.kept, stored.segments, stored.not_kept[1].1), (0, 0, 3000));
    assert!(files(&directory, ".pcapng").is_empty());
}

#[test]
fn rules_say_what_is_kept_also_after_others_have_taken_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let log = tempfile::tempdir().unwrap();
    let sink = Sink::open(log.path()).unwrap();
    let kept = vec![mirror_rules::RuleRange { set: "office".to_owned(), numbers: 100..=199 }];
    let policy = Policy { rules: Some(kept), ..Policy::default() };
    let store = Store::open(directory.path(), Settings { policy, ..settings() }, None).unwrap();
    let rules = store.rules().unwrap();
    let handle = store.handle(0, Overflow::Wait).unwrap().by_rules(Some(Arc::clone(&rules)));
    let mut worker =
        Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait)).recorder(handle).build();
    rules.learn("office", 100, 1);
    rules.learn("office", 200, 2);
    let mut send = |rule, number| {
        let frame = frame(1, number);
        worker.frame_of(rule, &info(7, 1000 + u64::from(number), &frame), &frame);
    };
    send(1, 0);
    send(2, 1);
    send(0, 2);
    // After a reload, the earlier meaning of number 2 is gone.
    rules.learn("office", 150, 3);
    rules.learn("other", 150, 4);
    rules.learn("office", 199, 2);
    send(3, 3);
    send(4, 4);
    send(2, 5);
    worker.finish();
    let stored = worker.recorder().counters();
    assert_eq!((stored.kept, stored.not_kept[0]), (3, ("policy", 3)));
    let _ = store.finish();
    let found: Vec<_> =
        extract(directory.path(), None, "").0.into_iter().map(|(time, _)| time / SECOND - 1000).collect();
    assert_eq!(found, [0, 3, 5]);
}

/// Returns the alerts that this traffic raises, and the number of packets that are kept.
fn alerts_of(
    indicators: &[&str],
    frames: &[Vec<u8>],
    prepare: impl FnOnce(&mut Worker<StoreHandle>),
) -> (Vec<String>, u64) {
    let (directory, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sink = Sink::open(log.path()).unwrap();
    let store = Store::open(directory.path(), alerts(), None).unwrap();
    let mut all = Indicators::default();
    for indicator in indicators {
        all.add(indicator).unwrap();
    }
    let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Wait))
        .recorder(store.handle(0, Overflow::Wait).unwrap())
        .indicators(Some(Arc::new(all)))
        .build();
    prepare(&mut worker);
    for frame in frames {
        worker.frame(&info(7, 1000, frame), frame);
    }
    worker.finish();
    let kept = worker.recorder().counters().kept;
    let _ = (sink.finish(), store.finish());
    let text = fs::read_to_string(log.path().join(mirror_records::sink::FILE_NAME)).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let signatures = records.filter_map(|it| Some(it["alert"]["signature"].as_str()?.to_owned())).collect();
    (signatures, kept)
}

/// Returns a whole connection, in which the client sends `said`.
fn connection(flow: &Flow, said: &[u8]) -> Vec<Vec<u8>> {
    let segment = |sequence_number, acknowledgment_number| TcpHeader {
        sequence_number,
        acknowledgment_number,
        ack: true,
        window_size: 64_240,
        ..TcpHeader::default()
    };
    let mut frames = flow.tcp_handshake();
    frames.push(flow.tcp(segment(1001, 9001), said));
    frames.push(flow.reversed().tcp(segment(9001, 1001 + said.len() as u32), b""));
    frames
}

#[test]
fn names_and_fingerprints_are_looked_for_where_clients_say_them() {
    let hello = client_hello("www.evil.example");
    // The handshake begins after the headers of record and message.
    let parsed = ClientHello::parse(&hello[9..]).unwrap();
    let (ja3, ja4) = (Ja3::client(&parsed).hash, ja4(&parsed, Carrier::Tcp));
    let tls = connection(&Flow::v4(40_000, 443), &hello);
    let all = alerts_of(&["evil.example", &ja3, &ja4], &tls, |_| {});
    let expected = [
        "indicator: evil.example as TLS server name".to_owned(),
        format!("indicator: JA3 {ja3}"),
        format!("indicator: JA4 {ja4}"),
    ];
    assert_eq!(all, (expected.to_vec(), 5));
    assert_eq!(alerts_of(&["www2.evil.example", &ja3.replace('a', "b")], &tls, |_| {}), (vec![], 0));

    let request = b"GET / HTTP/1.1\r\nHost: cdn.Evil.example:8080\r\n\r\n";
    let http = connection(&Flow::v4(40_000, 80), request);
    let alert = "indicator: evil.example as HTTP host".to_owned();
    assert_eq!(alerts_of(&["evil.example"], &http, |_| {}), (vec![alert], 5));
}

/// Raises an alert for a client that asks for help.
struct Cries;

impl Analyzer for Cries {
    type Flow = ();

    fn data(&mut self, (): &mut (), _: Direction, event: Event<'_>, context: &mut Context<'_>) -> Consumed {
        if let Event::Data { bytes: b"help", .. } = event {
            context.keep("somebody asked for help");
        }
        Consumed::Used(4)
    }
}

#[test]
fn an_analyzer_of_ones_own_has_its_flow_kept() {
    let (calm, afraid) = (Flow::v4(40_000, 9), Flow::v4(40_001, 9));
    let frames: Vec<_> =
        [(&calm, "fine"), (&afraid, "fine"), (&afraid, "help"), (&calm, "fine"), (&afraid, "fine")]
            .map(|(flow, text)| flow.udp(text.as_bytes()))
            .into();
    let all = alerts_of(&[], &frames, |worker| {
        worker.analyzers().register(Cries, Filter::all().port(9)).unwrap();
    });
    assert_eq!(all, (vec!["somebody asked for help".to_owned()], 3));
}
