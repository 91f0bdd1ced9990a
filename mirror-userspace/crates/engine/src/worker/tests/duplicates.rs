//! Conversations that are mirrored at both ends.

use std::collections::BTreeMap;

use super::*;

/// Returns the sessions of the two ends.
fn ends() -> [MirrorSession; 2] {
    [mirror(7, 0x0a00_0001), mirror(8, 0x0a00_0002)]
}

/// Returns the frame as the other end sees it: other hardware addresses, a router on the way.
fn at_other_end(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].fill(6);
    frame[22] -= 1;
    let sum = u16::from_be_bytes([frame[24], frame[25]]);
    let (sum, carry) = sum.overflowing_add(0x100);
    frame[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    frame
}

impl Bench {
    fn deduplicating() -> Self {
        let mut bench = Self::new();
        let config = WorkerConfig { max_flows: 1000, hash_seed: 7, dedup: true, ..WorkerConfig::default() };
        bench.worker = Worker::new(config, bench.sink.producer(Overflow::Wait));
        bench
    }

    /// Passes a frame of one end's session at a time.
    fn by_end(&mut self, end: usize, time: u64, frame: &[u8]) {
        let bytes = if end == 0 { frame.to_vec() } else { at_other_end(frame) };
        self.mirror = Some(ends()[end]);
        self.now = time - 1_000_000;
        self.frame(&bytes);
    }
}

/// Returns an HTTP conversation and a DNS query.
fn conversations() -> Vec<Vec<u8>> {
    let mut http = Tcp { client: (CLIENT, 4000), server: (SERVER, 80), next: [1000, 5000] };
    let mut frames = vec![
        http.segment(true, "S", &[]),
        http.segment(false, "SA", &[]),
        http.segment(true, "A", &[]),
        udp((CLIENT, 5000), (SERVER, 53), QUERY),
        udp((SERVER, 53), (CLIENT, 5000), ANSWER),
    ];
    for page in 0..4 {
        frames.push(http.segment(
            true,
            "A",
            format!("GET /{page} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes(),
        ));
        frames.push(http.segment(false, "A", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"));
        frames.push(http.segment(false, "A", b"12345"));
        frames.push(http.segment(true, "A", &[]));
    }
    frames.push(http.segment(true, "FA", &[]));
    frames.push(http.segment(false, "FA", &[]));
    frames.push(http.segment(true, "A", &[]));
    frames
}

/// Returns the packets of the flows, in both directions.
fn packets(events: &[Value]) -> Vec<[u64; 2]> {
    let flows = events.iter().filter(|event| event["event_type"] == "flow");
    let count = |flow: &Value, way: &str| flow["flow"][way].as_u64().unwrap();
    let mut packets: Vec<_> =
        flows.map(|flow| [count(flow, "pkts_toserver"), count(flow, "pkts_toclient")]).collect();
    packets.sort_unstable();
    packets
}

#[test]
fn without_it_each_end_has_flows_of_its_own() {
    let mut bench = Bench::new();
    for (frame, step) in conversations().iter().zip(1..) {
        bench.by_end(0, START + step * 1_000_000, frame);
        bench.by_end(1, START + step * 1_000_000, frame);
    }
    assert_eq!(bench.worker.counters().duplicates, 0);
    assert_eq!(bench.flows().len(), 4);
}

#[test]
fn a_late_syn_of_the_other_end_begins_no_flow() {
    let frames = conversations();
    let mut bench = Bench::deduplicating();
    let time = |step: u64| START + step * 1_000_000;
    // The first end loses the SYN; the second is late.
    for (frame, step) in frames[1..8].iter().zip(1..) {
        bench.by_end(0, time(step), frame);
    }
    for (frame, step) in frames[..8].iter().zip(20..) {
        bench.by_end(1, time(step), frame);
    }
    assert_eq!(bench.worker.counters().duplicates, 7);
    let events = bench.events();
    assert_eq!(packets(&events), [[1, 1], [3, 3]]);
    assert_eq!(events.iter().filter(|event| event["event_type"] == "http").count(), 1);
}

#[test]
fn the_same_conversation_in_unrelated_sessions_is_none_that_comes_twice() {
    let mut bench = Bench::deduplicating();
    for (frame, step) in conversations().iter().zip(1..) {
        bench.by_end(0, START + step * 1_000_000, frame);
    }
    // Much later: the window has passed.
    for (frame, step) in conversations().iter().zip(1..) {
        bench.by_end(1, START + SECOND + step * 1_000_000, frame);
    }
    assert_eq!(bench.worker.counters().duplicates, 0);
    assert_eq!(bench.flows().len(), 4);
}

#[test]
fn fragments_of_which_each_end_loses_another_make_a_datagram() {
    let datagram = udp((CLIENT, 5000), (SERVER, 6000), &[7; 3000]);
    let pieces = fragments(&datagram, 1000);
    assert!(pieces.len() > 2);
    let hello = udp((CLIENT, 5000), (SERVER, 6000), b"hello");
    let mut bench = Bench::deduplicating();
    bench.by_end(0, START + 2_000_000, &hello);
    bench.by_end(1, START + 2_000_000, &hello);
    for (index, piece) in pieces.iter().enumerate() {
        bench.by_end(index % 2, START + 3_000_000, piece);
    }
    assert_eq!(packets(&bench.events()), [[2, 0]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Both ends mirror all packets, with the copies a while later: the records are those of the first end
    /// alone.
    #[test]
    fn with_both_ends_mirrored_records_are_those_of_one(
        lag in 0_u64..20,
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut frames = conversations();
        // Sent again, identical in every bit: a TCP retransmission, an impatient DNS client.
        for index in repeated {
            let at = index.index(frames.len());
            let frame = frames[at].clone();
            frames.insert(at + 1, frame);
        }
        let mut alone = Bench::deduplicating();
        let mut both = Bench::deduplicating();
        let mut copies: Vec<(u64, usize, usize)> = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let time = START + (index as u64 + 2) * 1_000_000;
            alone.by_end(0, time, frame);
            copies.extend([(time, 0, index), (time + lag * 1_000_000, 1, index)]);
        }
        copies.sort_unstable();
        for (time, end, index) in copies {
            both.by_end(end, time, &frames[index]);
        }
        both.now = alone.now;
        prop_assert_eq!(alone.worker.counters().duplicates, 0);
        prop_assert_eq!(both.worker.counters().duplicates, frames.len() as u64);
        let without_time = |events: Vec<Value>| -> Vec<Value> {
            let shared = |mut event: Value| {
                if event["event_type"] == "flow" {
                    // The arrival time of the last copy, at the end of the capture.
                    event["timestamp"].take();
                }
                event
            };
            events.into_iter().map(shared).collect()
        };
        prop_assert_eq!(without_time(both.events()), without_time(alone.events()));
    }

    /// Each end loses other packets, before and after the two ends are known to be the same.
    #[test]
    fn what_one_end_loses_is_taken_from_the_other_into_the_same_flow(
        seen in prop::collection::vec(1_u8..4, 24),
        lag in 0_u64..8,
    ) {
        let frames = conversations();
        prop_assert_eq!(frames.len(), seen.len());
        // One packet of each conversation that both ends see.
        let common = [4, 12];
        let seen: Vec<u8> =
            seen.iter().enumerate().map(|(at, &ends)| if common.contains(&at) { 3 } else { ends }).collect();
        let mut copies: Vec<(u64, usize, usize)> = Vec::new();
        for (index, ends) in seen.iter().enumerate() {
            let time = START + (index as u64 + 10) * 1_000_000;
            for (end, time) in [(0, time), (1, time - 4_000_000 + lag * 1_000_000 + 1000)] {
                if ends & 1 << end != 0 {
                    copies.push((time, end, index));
                }
            }
        }
        copies.sort_unstable();
        let mut bench = Bench::deduplicating();
        for (time, end, index) in copies {
            bench.by_end(end, time, &frames[index]);
        }
        let twice = seen.iter().map(|&ends| u64::from(ends == 3)).sum::<u64>();
        prop_assert_eq!(bench.worker.counters().duplicates, twice);
        let sums: Vec<u64> = packets(&bench.events()).iter().map(|ways| ways.iter().sum()).collect();
        prop_assert_eq!(sums, [2, 22]);
    }

    /// Every packet that comes by one session is analysed, however often and however soon it comes again.
    #[test]
    fn nothing_that_one_end_sends_is_a_copy(
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..50), 1..600)
    ) {
        let frames = conversations();
        let mut bench = Bench::deduplicating();
        let mut time = START + 1_000_000;
        for (index, passed) in steps {
            time += passed * 100_000;
            bench.by_end(0, time, &frames[index.index(frames.len())]);
        }
        prop_assert_eq!(bench.worker.counters().duplicates, 0);
    }

    /// Of equal packets, as many are analysed as the end that sent more of them has sent, in any order.
    #[test]
    fn as_many_are_analysed_as_one_end_sent(ends in prop::collection::vec(0_usize..2, 1..700)) {
        let frame = udp((CLIENT, 5000), (SERVER, 6000), b"alive");
        let mut bench = Bench::deduplicating();
        let mut sent: BTreeMap<usize, u64> = BTreeMap::new();
        for &end in &ends {
            bench.by_end(end, START + 1_000_000, &frame);
            *sent.entry(end).or_default() += 1;
        }
        let counters = bench.worker.counters();
        prop_assert_eq!(counters.analysed, *sent.values().max().unwrap());
        prop_assert_eq!(counters.analysed + counters.duplicates, ends.len() as u64);
    }
}
