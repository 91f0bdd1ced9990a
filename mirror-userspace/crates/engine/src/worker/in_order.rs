//! The order of the records of a capture file, which is the same whatever number of workers reads it.
//!
//! Records that a frame causes follow the order of the file. The flows that a tick ends, or whose waiting data it
//! delivers, follow each other by age: their order in the tables of several workers would be another than in that of
//! one. For the same reason a tick ends all flows that have timed out, however many.

use mirror_packet::fragment::Fragments;
use mirror_packet::{LinkType, Vlans};
use mirror_records::EndReason;
use mirror_records::sink::Order;

use super::duplicates::{Duplicates, Place, Verdict};
use super::{DecodeError, FrameInfo, Layer, Offload, Outcome, Recorder, SECOND, Worker};
use crate::FlowIndex;

/// A flow to end or to settle: its rank, and its place in the table.
type Ranked = ((u64, u64), u32);

/// The state of a worker whose records are in order.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// The position of the current frame or tick in the file.
    position: u64,
    /// The flows of a tick, while it handles them.
    ranked: Vec<Ranked>,
}

/// The outcome of a fragment that another part of the reader has added to its datagram.
#[derive(Debug)]
pub(crate) enum Fragmented<'a> {
    /// The datagram is not complete.
    Waiting,
    /// The fragment was refused.
    Refused(DecodeError),
    /// The fragment completes its datagram.
    Whole {
        place: Place,
        vlans: Vlans,
        datagram: &'a [u8],
        /// The fragments before this one.
        before: Fragments,
    },
}

impl<R: Recorder, O: Offload> Worker<R, O> {
    /// Has the records come in the order that does not depend on the number of workers.
    pub(crate) fn keep_order(&mut self) {
        self.in_order = Some(InOrder::default());
    }

    /// Takes the detection of duplicates from the worker.
    pub(crate) fn take_dedup(&mut self) -> Option<Box<Duplicates>> {
        self.dedup.take()
    }

    /// Advances the time that frames and ticks have, in nanoseconds since the epoch.
    #[inline]
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.streams.advance(now);
    }

    /// Sets the position of the next frame or tick in the file.
    #[inline]
    pub(crate) fn set_position(&mut self, position: u64) {
        if let Some(in_order) = &mut self.in_order {
            in_order.position = position;
        }
        self.records.set_order(Order::at(position));
    }

    /// Hands finished records over, and reports how far the worker is.
    pub(crate) fn report(&mut self) {
        self.records.report();
    }

    /// Processes a frame of which it is known whether it is a copy.
    pub(crate) fn judged_frame(
        &mut self,
        rule: u32,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        verdict: &Verdict,
    ) {
        self.arrives(rule, info, link, frame);
        let outcome = self.analyse_judged(info, link, frame, verdict);
        self.leaves(info, frame, outcome);
    }

    /// Processes a frame with a fragment.
    pub(crate) fn fragment_frame(
        &mut self,
        rule: u32,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        fragmented: &Fragmented<'_>,
    ) {
        self.arrives(rule, info, link, frame);
        let outcome = match *fragmented {
            Fragmented::Waiting => Ok(Outcome::Waiting),
            Fragmented::Refused(refusal) => Err(refusal),
            Fragmented::Whole { place, vlans, datagram, before } => {
                let ports = self.config.tuning.tunnel_ports;
                let layer = Layer::whole(datagram, vlans, 0).with_ports(&ports);
                let outcome = self.layers(info, &place, layer, false);
                self.count_fragments(outcome, before);
                outcome
            }
        };
        self.leaves(info, frame, outcome);
    }

    /// Ends all flows that have timed out.
    pub(super) fn end_timed_out_in_order(&mut self, now: u64) {
        self.swept = now / SECOND;
        let mut ranked = self.take_ranked();
        self.flows.all_expired(now, |index, flow| ranked.push((flow.rank(), index.0)));
        self.each_in_order(ranked, 0, |worker, index| {
            let flow = worker.flows.remove(index);
            worker.end(index, flow, EndReason::Timeout, now);
        });
    }

    /// Delivers data that has waited long enough for what is missing in its flow.
    pub(super) fn settle_in_order(&mut self, now: u64) {
        let mut ranked = self.take_ranked();
        while let Some(index) = self.streams.due(now) {
            ranked.push((self.flows.flow(index).rank(), index.0));
        }
        self.each_in_order(ranked, 1, |worker, index| worker.settle_flow(index, now));
    }

    /// Ends all flows.
    pub(super) fn end_all_in_order(&mut self) {
        let now = self.now;
        let mut ranked = self.take_ranked();
        self.flows.each(|index, flow| ranked.push((flow.rank(), index.0)));
        self.each_in_order(ranked, 0, |worker, index| {
            let flow = worker.flows.remove(index);
            worker.end(index, flow, EndReason::Shutdown, now);
        });
    }

    fn take_ranked(&mut self) -> Vec<Ranked> {
        self.in_order.as_mut().map(|in_order| std::mem::take(&mut in_order.ranked)).unwrap_or_default()
    }

    /// Calls `each` with these flows by rank, in step number `step` of the current tick.
    fn each_in_order(
        &mut self,
        mut ranked: Vec<Ranked>,
        step: u64,
        mut each: impl FnMut(&mut Self, FlowIndex),
    ) {
        let position = self.in_order.as_ref().map_or(0, |in_order| in_order.position + step);
        ranked.sort_unstable();
        ranked.dedup();
        for ((start, flow), index) in ranked.drain(..) {
            self.records.set_order(Order { position, start, flow });
            each(self, FlowIndex(index));
        }
        if let Some(in_order) = &mut self.in_order {
            in_order.ranked = ranked;
        }
    }
}
