//! The order of the records of several workers that read one capture file: the order in which one worker would have
//! written them.
//!
//! Each record has a place in that order ([`Order`]). A producer's records come in it, and the producer reports how far
//! it is, so the sink knows which record is the next of all.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;

use super::{Batch, Message};
use crate::Record;

/// The place of a record among those of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// The cause of the record: a frame of the file, or the tick behind it. It grows along the file.
    pub position: u64,
    /// For records that a tick causes: the beginning of the flow, in nanoseconds since the epoch.
    pub start: u64,
    /// For records that a tick causes: the identifier of the flow.
    pub flow: u64,
}

impl Order {
    /// The order behind all records.
    const END: Self = Self { position: u64::MAX, start: u64::MAX, flow: u64::MAX };

    /// Returns the order of the records that the frame or tick at this position causes.
    #[must_use]
    pub const fn at(position: u64) -> Self {
        Self { position, start: 0, flow: 0 }
    }
}

/// Consecutive records of a batch with the same order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) order: Order,
    /// The number of records up to the end of this run.
    pub(super) end: usize,
}

/// A producer's report: none of its records that come later is before `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// The group of producers, and the number of this one in it.
    pub(super) group: u32,
    pub(super) number: usize,
    pub(super) until: Order,
}

/// A producer's membership in a group whose records are merged.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) report: Report,
    pub(super) sink: SyncSender<Message>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // No more records come. Fails if the sink is gone.
        let _ = self.sink.send(Message::Reached(Report { until: Order::END, ..self.report }));
    }
}

/// A batch, or what is left of it.
#[derive(Debug)]
struct Part {
    batch: Batch,
    home: SyncSender<Batch>,
    /// The next run, and its first record.
    run: usize,
    start: usize,
}

impl Part {
    fn order(&self) -> Option<Order> {
        self.batch.runs.get(self.run).map(|run| run.order)
    }

    /// Returns the batch to its producer.
    fn end(self) {
        let Self { mut batch, home, .. } = self;
        batch.clear();
        // Fails if the producer is gone, which needs no batches any more.
        let _ = home.try_send(batch);
    }
}

/// The records of one producer that wait for those of others.
#[derive(Debug, Default)]
struct Lane {
    parts: VecDeque<Part>,
    until: Order,
}

impl Lane {
    fn next(&self) -> Option<Order> {
        self.parts.front().and_then(Part::order)
    }

    /// Passes on the records before `bound`.
    fn pass(&mut self, bound: Order, each: &mut impl FnMut(&[Record], &[u8])) {
        while let Some(part) = self.parts.front_mut() {
            let runs = part.batch.runs.get(part.run..).unwrap_or_default();
            let count = runs.iter().take_while(|run| run.order < bound).count();
            let is_whole = count == runs.len();
            if let Some(last) = count.checked_sub(1).and_then(|last| runs.get(last)) {
                let end = last.end;
                each(part.batch.records.get(part.start..end).unwrap_or_default(), &part.batch.bytes);
                (part.run, part.start) = (part.run + count, end);
            }
            if !is_whole {
                return;
            }
            if let Some(part) = self.parts.pop_front() {
                part.end();
            }
        }
    }
}

/// Merges the records of a group of producers.
#[derive(Debug)]
pub(super) struct Merger {
    group: u32,
    lanes: Vec<Lane>,
}

impl Merger {
    pub(super) fn new(group: u32, producers: usize) -> Self {
        Self { group, lanes: (0..producers).map(|_| Lane::default()).collect() }
    }

    /// Notes how far a producer is. Returns false for a producer of another group.
    pub(super) fn reached(&mut self, report: Report) -> bool {
        let lane = self.lanes.get_mut(report.number).filter(|_| report.group == self.group);
        lane.map(|lane| lane.until = lane.until.max(report.until)).is_some()
    }

    /// Adds the next batch of a producer of this group.
    pub(super) fn add(&mut self, number: usize, batch: Batch, home: SyncSender<Batch>) {
        let part = Part { batch, home, run: 0, start: 0 };
        match self.lanes.get_mut(number) {
            Some(lane) if part.order().is_some() => lane.parts.push_back(part),
            _ => part.end(),
        }
    }

    /// Passes on the records that are the next of all, with the bytes of their batches.
    pub(super) fn pass(&mut self, mut each: impl FnMut(&[Record], &[u8])) {
        loop {
            let next =
                self.lanes.iter().enumerate().filter_map(|(number, lane)| Some((lane.next()?, number)));
            let Some((order, number)) = next.min() else { return };
            let others = self.lanes.iter().enumerate().filter(|&(other, _)| other != number);
            let bound = others.map(|(_, lane)| lane.next().unwrap_or(lane.until)).min().unwrap_or(Order::END);
            if order >= bound {
                return;
            }
            if let Some(lane) = self.lanes.get_mut(number) {
                lane.pass(bound, &mut each);
            }
        }
    }

    /// Passes on all records, although producers may not have reported.
    pub(super) fn finish(&mut self, each: impl FnMut(&[Record], &[u8])) {
        self.lanes.iter_mut().for_each(|lane| lane.until = Order::END);
        self.pass(each);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;

    use mirror_packet::Vlans;
    use mirror_xdp_common::Address;

    use super::super::{Producer, Sink};
    use super::*;
    use crate::{Conversation, EventType};

    /// An event that reports the number that is packed for it.
    static NUMBER: EventType = EventType::new("number", |bytes, lines| {
        lines.line(&[bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))])
    });

    fn push(producer: &mut Producer, number: u64) {
        let conversation = Conversation {
            flow_id: 1,
            source: Address::from_v4(1),
            destination: Address::from_v4(2),
            source_port: 1,
            destination_port: 2,
            protocol: 17,
            ipv6: false,
            vlans: Vlans::new(),
            mirror: None,
            other_source: None,
        };
        producer.push_event(0, conversation, &NUMBER, &[&number.to_le_bytes()]);
    }

    /// Runs three producers, whose records have these positions, and returns the numbers in the log.
    fn merged(owner: impl Fn(u64) -> usize + Sync, count: u64, reports: u64) -> Vec<u64> {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(directory.path()).unwrap();
        let producers = sink.producers(NonZeroUsize::new(3).unwrap());
        std::thread::scope(|scope| {
            for (number, mut producer) in producers.into_iter().enumerate() {
                let owner = &owner;
                scope.spawn(move || {
                    for position in 0..count {
                        if owner(position) == number {
                            producer.set_order(Order::at(position));
                            push(&mut producer, position);
                        }
                        if position % reports == 0 {
                            producer.set_order(Order::at(position + 1));
                            producer.report();
                        }
                    }
                    producer.flush();
                });
            }
        });
        let _ = sink.finish();
        let text = fs::read_to_string(directory.path().join("eve.json")).unwrap();
        let number =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"][0].as_u64();
        text.lines().filter_map(number).collect()
    }

    #[test]
    fn records_of_several_producers_are_written_in_order() {
        const COUNT: u64 = 20_000;
        let all: Vec<_> = (0..COUNT).collect();
        // In turn, in long runs, and nearly all of one: a producer waits for reports of the others.
        assert_eq!(merged(|position| (position % 3) as usize, COUNT, 512), all);
        assert_eq!(merged(|position| (position / 5000 % 3) as usize, COUNT, 512), all);
        assert_eq!(merged(|position| usize::from(position % 5000 == 7), COUNT, 512), all);
    }

    #[test]
    fn records_wait_for_nobody_who_is_gone() {
        // Without reports, the end of each producer stands for one.
        assert_eq!(merged(|_| 2, 5000, u64::MAX), (0..5000).collect::<Vec<_>>());
    }
}
