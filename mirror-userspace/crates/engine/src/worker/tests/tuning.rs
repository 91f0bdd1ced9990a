//! Settings that change while a worker runs.

use super::*;
use crate::analyzer::Enabled;
use crate::flow::Timeouts;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn without(name: &str) -> Tuning {
    let analyzers =
        Enabled::all_names().filter(|&other| other != name).try_fold(Enabled::none(), Enabled::with).unwrap();
    Tuning { analyzers, ..Tuning::default() }
}

fn lookup(bench: &mut Bench, port: u16) {
    bench.frame(&udp((CLIENT, port), (SERVER, 53), QUERY));
    bench.frame(&udp((SERVER, 53), (CLIENT, port), ANSWER));
}

#[test]
fn an_analyzer_that_is_switched_off_says_no_more_and_flows_go_on() {
    let mut bench = Bench::new();
    lookup(&mut bench, 4000);
    bench.worker.tune(without("dns"));
    // One flow that it already follows, and a new one.
    lookup(&mut bench, 4000);
    lookup(&mut bench, 4001);
    bench.worker.tune(Tuning::default());
    lookup(&mut bench, 4002);
    let events = bench.events();
    let of = |kind: &str, port: u16| {
        let is = |event: &&Value| {
            event["event_type"] == kind && [&event["src_port"], &event["dest_port"]].contains(&&port.into())
        };
        events.iter().filter(is).count()
    };
    assert_eq!([4000, 4001, 4002].map(|port| of("dns", port)), [2, 0, 2]);
    assert_eq!([4000, 4001, 4002].map(|port| of("flow", port)), [1; 3]);
    assert!(events.iter().filter(|e| e["event_type"] == "flow").all(|flow| flow["app_proto"] == "dns"));
}

#[test]
fn what_an_analyzer_has_begun_with_is_not_told_after_it_was_switched_off() {
    for (off, told) in [(false, 1), (true, 0)] {
        let mut bench = Bench::new();
        let mut connection = Tcp::new(4000);
        connection.open(&mut bench);
        bench.frame(&connection.segment(true, "A", REQUEST));
        bench.frame(&connection.segment(false, "A", b""));
        if off {
            bench.worker.tune(without("http"));
            // It is switched on again, for other flows.
            bench.frame(&connection.segment(true, "A", REQUEST));
            bench.frame(&connection.segment(false, "A", b""));
            bench.worker.tune(without("dns"));
        }
        let events = bench.events();
        let http = events.iter().filter(|event| event["event_type"] == "http").count();
        assert_eq!((off, http), (off, told), "{events:#?}");
    }
}

#[test]
fn timeouts_are_those_of_the_last_change_also_for_flows_that_are_there() {
    let mut bench = Bench::new();
    bench.frame(&udp((CLIENT, 4000), (SERVER, 4000), b"hello"));
    bench.wait(10);
    bench.worker.tick(bench.now);
    assert_eq!(bench.worker.counters().flows_active, 1);
    let timeouts = Timeouts { new: 5, ..Timeouts::default() };
    bench.worker.tune(Tuning { timeouts, ..Tuning::default() });
    bench.worker.tick(bench.now);
    assert_eq!(bench.worker.counters().flows_active, 0);
    assert_eq!(bench.flows()[0]["flow"]["reason"], "timeout");
}
