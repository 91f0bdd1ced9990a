//! DNS messages of which the mirror has cut off the rest.

use super::*;

/// A response with the addresses 192.0.2.1 and 192.0.2.2.
fn answer() -> Vec<u8> {
    let mut answer = ANSWER.to_vec();
    answer[7] = 2;
    answer.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x02");
    answer
}

/// Returns the DNS events of a response that is mirrored alone, without its last bytes.
fn without_last(missing: usize) -> Vec<Value> {
    let mut bench = Bench::new();
    bench.mirror = Some(mirror(7, 1));
    let frame = udp((SERVER, 53), (CLIENT, 4000), &answer());
    bench.cut_frame(&frame[..frame.len() - missing], missing);
    let events = bench.events();
    events.into_iter().filter(|event| event["event_type"] == "dns").collect()
}

#[test]
fn the_whole_records_of_a_cut_response_are_reported() {
    // The bytes that are cut off, and the answers that are left.
    for (missing, whole) in [(0, 2), (1, 1), (16, 1), (17, 0), (32, 0)] {
        let [event] = &without_last(missing)[..] else { panic!("{missing}") };
        assert_eq!(event["src_port"], 4000, "the side that asked is the client");
        let dns = &event["dns"];
        assert_eq!(
            (&dns["type"], &dns["rrname"], &dns["rcode"]),
            (&"answer".into(), &"a.example".into(), &"NOERROR".into())
        );
        let answers: Vec<_> =
            dns["answers"].as_array().into_iter().flatten().map(|it| it["rdata"].clone()).collect();
        assert_eq!(answers, ["192.0.2.1", "192.0.2.2"][..whole], "{missing}");
        let omitted = 2 - whole as u64;
        assert_eq!(dns["answers_omitted"].as_u64().unwrap_or_default(), omitted, "{missing}");
    }
}

#[test]
fn a_cut_name_is_not_reported() {
    for missing in [33, 36, 40] {
        assert!(without_last(missing).is_empty(), "{missing}");
    }
}
