//! Shunting: some flows are handed to the driver, which counts the rest of them. The counts are added to the
//! flows' records.

use std::collections::HashMap;

use mirror_packet::{FlowScope, Packet, Sources};
use mirror_records::EndReason;

use super::FrameInfo;
use crate::FlowIndex;
use crate::flow::{Flow, FlowTable};
use crate::hooks::{Offload, ShuntId, Shunted};

/// A flow that has ended and waits for the driver's final counts.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) flow: Flow,
    pub(super) reason: EndReason,
    pub(super) time: u64,
}

/// The state of a worker's shunting.
#[derive(Debug)]
pub struct Shunting<O> {
    table: O,
    /// Bytes that a flow must have had before it is shunted; `None` if no flow is.
    after: Option<u64>,
    /// Flows of the flow table that the driver counts, or has counted.
    flows: HashMap<ShuntId, FlowIndex>,
    ending: HashMap<ShuntId, Ending>,
    /// Number of flows shunted so far.
    total: u64,
}

impl<O: Offload> Shunting<O> {
    /// Creates the state. No flow is shunted before `set_after`.
    #[must_use]
    pub fn new(table: O) -> Self {
        Self { table, after: None, flows: HashMap::new(), ending: HashMap::new(), total: 0 }
    }

    /// Shunts flows of which no analyzer wants more, once they have had this many bytes.
    pub(super) const fn set_after(&mut self, after: Option<u64>) {
        self.after = after;
    }

    /// Sets the offset of the worker's clock, which is the time of day, to the driver's, in nanoseconds.
    pub fn set_clock(&mut self, ahead: u64) {
        self.table.set_clock(ahead);
    }

    /// Returns the number of flows that the driver counts now, and the number shunted so far.
    #[must_use]
    pub fn counters(&self) -> (u64, u64) {
        (self.table.active() as u64, self.total)
    }

    #[cfg(test)]
    pub(super) const fn table(&self) -> &O {
        &self.table
    }

    /// Shunts the flow that had this packet, if it qualifies.
    pub(super) fn consider(
        &mut self,
        index: FlowIndex,
        flow: &mut Flow,
        info: &FrameInfo,
        packet: &Packet<'_>,
        (scope, sources): (FlowScope, &Sources),
    ) {
        // The driver finds a flow by the hash of packets that are neither fragments nor nested.
        if !packet.direct || self.after.is_none_or(|after| !flow.may_be_shunted(after)) {
            return;
        }
        let Some(keys) = flow.shunt_keys(scope, sources) else { return };
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

    /// Extends an idle flow's last-seen time by the driver's counts. Returns true if that made it later.
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

    /// Holds a flow that has ended until the driver's counts are final. Returns the flow if the driver does
    /// not count it.
    pub(super) fn end(&mut self, ending: Ending) -> Option<Ending> {
        let Some(id) = ending.flow.shunted() else { return Some(ending) };
        if let Err(error) = self.table.release(id, ending.time) {
            Self::complain(&error);
        }
        self.flows.remove(&id);
        self.ending.insert(id, ending);
        None
    }

    /// Returns a flow that has ended, with the driver's counts. Flows that were evicted from the driver's
    /// table also get their counts here.
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

    /// Returns all flows that have ended, once the program does not run any more. Flows still in the flow
    /// table get the driver's counts, too.
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
        tracing::warn!("cannot access a flow's counters in the kernel: {error}");
    }
}
