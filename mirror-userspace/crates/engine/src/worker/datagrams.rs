//! Handoff of reassembled datagrams, from the worker that has reassembled them to the owner of their flow.
//!
//! Fragments have no ports, so they are hashed by addresses and protocol: all fragments of a datagram meet at
//! one worker. The reassembled datagram has ports, and may belong to a flow whose other packets go to another
//! worker. It is copied into one of a few buffers that circulate between this worker and the others, and goes
//! through a bounded queue. If no buffer is left, the worker that has the datagram analyses it, and counts
//! it.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use mirror_packet::Vlans;
use mirror_xdp_common::hash::FlowHash;

use super::FrameInfo;
use super::affinity::Affinity;
use super::duplicates::Place;

/// Datagrams of one worker that may be in flight.
const ON_THE_WAY: usize = 64;
/// Datagrams that may wait for a worker.
const QUEUE: usize = 256;
/// A buffer with more capacity than this is shrunk.
const MAX_SPARE: usize = 16 * 1024;

/// A datagram and its properties.
#[derive(Debug)]
pub(super) struct Whole {
    /// The IP packet.
    pub(super) bytes: Vec<u8>,
    pub(super) vlans: Vlans,
    pub(super) info: FrameInfo,
    pub(super) place: Place,
    /// The channel that takes the buffer back.
    home: SyncSender<Vec<u8>>,
}

impl Whole {
    /// Returns the buffer to its owner.
    pub(super) fn end(self) {
        let Self { mut bytes, home, .. } = self;
        bytes.clear();
        bytes.shrink_to(MAX_SPARE);
        // Fails if the owner is gone, which needs no buffers any more.
        let _ = home.try_send(bytes);
    }
}

/// The counters of a worker's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounters {
    /// Datagrams handed to the worker that owns the flow.
    pub given: u64,
    /// Datagrams analysed by the worker that reassembled them, because no buffer was free or the owner could
    /// not take them.
    pub kept: u64,
}

/// One worker's queues to and from all others of its device.
#[derive(Debug)]
pub struct Datagrams {
    number: usize,
    affinity: Affinity,
    inbox: Receiver<Whole>,
    /// The inboxes of all workers.
    to: Vec<SyncSender<Whole>>,
    /// Workers that have received a datagram since they were last woken.
    is_to_wake: Vec<bool>,
    home: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    pub(super) counters: DatagramCounters,
}

impl Datagrams {
    /// Creates the queues between this many workers, by number.
    #[must_use]
    pub fn between(workers: usize, affinity: Affinity) -> Vec<Self> {
        let (to, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| sync_channel(QUEUE)).unzip();
        let ways = inboxes.into_iter().enumerate().map(|(number, inbox)| {
            let (home, empty) = sync_channel(ON_THE_WAY);
            for _ in 0..ON_THE_WAY {
                // The channel has room for every buffer.
                let _ = home.try_send(Vec::new());
            }
            let (to, is_to_wake) = (to.clone(), vec![false; workers]);
            let counters = DatagramCounters::default();
            Self { number, affinity, inbox, to, is_to_wake, home, empty, counters }
        });
        ways.collect()
    }

    /// Hands a datagram to the worker that owns its flow. Returns false if this worker owns it, if no buffer
    /// is free, or if the owner cannot take it.
    pub(super) fn hand_over(
        &mut self,
        hash: FlowHash,
        bytes: &[u8],
        vlans: Vlans,
        info: &FrameInfo,
        place: &Place,
    ) -> bool {
        let owner = self.affinity.owner(hash);
        if owner == self.number {
            return false;
        }
        let Some(inbox) = self.to.get(owner) else { return false };
        let Ok(mut buffer) = self.empty.try_recv() else {
            self.counters.kept += 1;
            return false;
        };
        buffer.extend_from_slice(bytes);
        let whole = Whole { bytes: buffer, vlans, info: *info, place: *place, home: self.home.clone() };
        if let Err(TrySendError::Full(whole) | TrySendError::Disconnected(whole)) = inbox.try_send(whole) {
            whole.end();
            self.counters.kept += 1;
            return false;
        }
        self.counters.given += 1;
        self.is_to_wake[owner] = true;
        true
    }

    /// Returns a datagram that another worker has reassembled.
    pub(super) fn taken(&self) -> Option<Whole> {
        self.inbox.try_recv().ok()
    }

    /// Calls `wake` with the number of each worker that has received a datagram since the last call.
    pub fn wake(&mut self, mut wake: impl FnMut(usize)) {
        for (number, is_to_wake) in self.is_to_wake.iter_mut().enumerate() {
            if std::mem::take(is_to_wake) {
                wake(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> FrameInfo {
        FrameInfo { time: 0, original_len: 0, flow_hash: FlowHash(0), mirror: None, side: None }
    }

    /// A hash whose owner is the second of two workers.
    const OTHERS: FlowHash = FlowHash(u32::MAX);

    fn pair() -> [Datagrams; 2] {
        Datagrams::between(2, Affinity::over(2)).try_into().unwrap()
    }

    fn hand_over(from: &mut Datagrams, hash: FlowHash, bytes: &[u8]) -> bool {
        from.hand_over(hash, bytes, Vlans::new(), &info(), &Place::from(None))
    }

    #[test]
    fn a_datagram_goes_to_the_owner_of_its_flow_and_the_buffer_comes_back() {
        let [mut one, mut other] = pair();
        assert!(!hand_over(&mut one, FlowHash(0), b"mine"));
        for round in 0..10 * ON_THE_WAY {
            let bytes = [round as u8; 100];
            assert!(hand_over(&mut one, OTHERS, &bytes));
            let whole = other.taken().unwrap();
            assert_eq!(whole.bytes, bytes);
            whole.end();
        }
        assert_eq!(one.counters, DatagramCounters { given: 10 * ON_THE_WAY as u64, kept: 0 });
        let mut woken = Vec::new();
        one.wake(|number| woken.push(number));
        other.wake(|number| woken.push(number));
        one.wake(|number| woken.push(number));
        assert_eq!(woken, [1], "once, and only who has got something");
    }

    #[test]
    fn an_owner_that_is_slow_or_gone_gets_no_more_than_there_are_buffers() {
        let [mut one, other] = pair();
        let given = (0..ON_THE_WAY + 5).filter(|_| hand_over(&mut one, OTHERS, b"waits")).count();
        assert_eq!(given, ON_THE_WAY);
        assert_eq!(one.counters, DatagramCounters { given: ON_THE_WAY as u64, kept: 5 });
        while let Some(whole) = other.taken() {
            whole.end();
        }
        assert!(hand_over(&mut one, OTHERS, b"has room again"));
        drop(other);
        assert!(!hand_over(&mut one, OTHERS, b"nobody is there"));
        assert!(!hand_over(&mut one, OTHERS, b"nobody is there"));
    }

    #[test]
    fn large_buffers_are_not_kept() {
        let [mut one, other] = pair();
        for _ in 0..2 * ON_THE_WAY {
            assert!(hand_over(&mut one, OTHERS, &vec![0; 65_535]));
            other.taken().unwrap().end();
        }
        let spare: usize = one.empty.try_iter().map(|buffer| buffer.capacity()).sum();
        assert!(spare <= ON_THE_WAY * MAX_SPARE, "{spare}");
    }
}
