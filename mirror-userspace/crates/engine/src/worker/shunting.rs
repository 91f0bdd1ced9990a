//! Flows that the driver counts from some time on: which are handed over to it, and how its counts come
//! back into the flows' records.

use std::collections::HashMap;

use mirror_packet::Packet;
use mirror_records::EndReason;

use super::FrameInfo;
use crate::FlowIndex;
use crate::flow::{Flow, FlowTable};
use crate::hooks::{Offload, ShuntId, Shunted};

/// A flow that has ended and waits for the driver's last word on it.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) flow: Flow,
    pub(super) reason: EndReason,
    pub(super) time: u64,
}

/// What a worker needs to have flows counted by the driver.
#[derive(Debug)]
pub struct Shunting<O> {
    table: O,
    /// Bytes that a flow has to have; `None`: none is handed over.
    after: Option<u64>,
    /// Flows of the flow table that the driver counts, or has counted.
    flows: HashMap<ShuntId, FlowIndex>,
    ending: HashMap<ShuntId, Ending>,
    /// Flows that were ever handed over.
    total: u64,
}

impl<O: Offload> Shunting<O> {
    /// Hands no flow over before it is said which (`set_after`).
    #[must_use]
    pub fn new(table: O) -> Self {
        Self { table, after: None, flows: HashMap::new(), ending: HashMap::new(), total: 0 }
    }

    /// Has flows handed over that no analyzer wants more of, once they have had so many bytes.
    pub(super) const fn set_after(&mut self, after: Option<u64>) {
        self.after = after;
    }

    /// Sets how far the worker's clock, the time of day, is ahead of the driver's, in nanoseconds.
    pub fn set_clock(&mut self, ahead: u64) {
        self.table.set_clock(ahead);
    }

    /// How many flows the driver counts now, and how many were ever handed over.
    #[must_use]
    pub fn counters(&self) -> (u64, u64) {
        (self.table.active() as u64, self.total)
    }

    /// Hands the flow over that had this packet, if it is time.
    pub(super) fn consider(
        &mut self,
        index: FlowIndex,
        flow: &mut Flow,
        info: &FrameInfo,
        packet: &Packet<'_>,
    ) {
        // The driver knows a flow by the hash of whole packets that are not within others.
        if !packet.direct || self.after.is_none_or(|after| !flow.may_be_shunted(after)) {
            return;
        }
        let Some(keys) = flow.shunt_keys() else { return };
        match self.table.shunt(keys, info.flow_hash, info.time) {
            Ok(Some(id)) => {
                flow.set_shunted(id);
                self.flows.insert(id, index);
                self.total += 1;
            }
            Ok(None) => {}
            Err(error) => Self::complain(&error),
        }
    }

    /// Adds what the driver has seen of an idle flow to what is known of its age. Returns whether that
    /// made it younger.
    pub(super) fn is_alive(&self, flow: &mut Flow) -> bool {
        let Some(id) = flow.shunted() else { return false };
        match self.table.counted(id) {
            Ok(counted) => flow.seen_until(counted.iter().map(|way| way.last).fold(0, u64::max)),
            Err(error) => {
                Self::complain(&error);
                false
            }
        }
    }

    /// Keeps a flow that has ended until the driver's counts are final; returns it if that does not count
    /// it.
    pub(super) fn end(&mut self, ending: Ending) -> Option<Ending> {
        let Some(id) = ending.flow.shunted() else { return Some(ending) };
        if let Err(error) = self.table.release(id, ending.time) {
            Self::complain(&error);
        }
        self.flows.remove(&id);
        self.ending.insert(id, ending);
        None
    }

    /// A flow that has ended, with the driver's counts. Flows that had to make room in the driver's table
    /// get theirs on the way.
    pub(super) fn ended(&mut self, flows: &mut FlowTable, now: u64) -> Option<Ending> {
        loop {
            let (id, counted) = match self.table.cooled(now) {
                Ok(cooled) => cooled?,
                Err(error) => {
                    Self::complain(&error);
                    return None;
                }
            };
            if let Some(ended) = self.close(flows, id, counted) {
                return Some(ended);
            }
        }
    }

    /// All flows that have ended, when the program does not run any more. Those that are in the flow table
    /// still have the driver's counts then.
    pub(super) fn finish(&mut self, flows: &mut FlowTable) -> Vec<Ending> {
        let ids: Vec<ShuntId> = self.flows.keys().chain(self.ending.keys()).copied().collect();
        let mut ended = Vec::new();
        for id in ids {
            match self.table.counted(id) {
                Ok(counted) => ended.extend(self.close(flows, id, counted)),
                Err(error) => Self::complain(&error),
            }
        }
        ended.extend(self.ending.drain().map(|(_, ending)| ending));
        ended
    }

    fn close(&mut self, flows: &mut FlowTable, id: ShuntId, counted: [Shunted; 2]) -> Option<Ending> {
        if let Some(mut ending) = self.ending.remove(&id) {
            ending.flow.add_shunted(counted);
            return Some(ending);
        }
        if let Some(index) = self.flows.remove(&id) {
            flows.flow(index).add_shunted(counted);
        }
        None
    }

    fn complain(error: &O::Error) {
        tracing::warn!("the kernel refuses to keep a flow's counters: {error}");
    }
}
