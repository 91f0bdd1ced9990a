//! A survey of a worker's flows: the largest flows in the table, and their state. A client requests it. The
//! worker scans one stretch of its table with each tick, and answers at the end. There is no cost without a
//! request, and a large table never keeps a worker from its ring for long.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use mirror_packet::Sources;
use mirror_records::{EndReason, FlowRecord};
use mirror_xdp_common::Address;
use tokio::sync::oneshot;

use crate::flow::{Flow, FlowTable};

/// Places of the table that one tick scans: a fraction of a millisecond.
const STRETCH: usize = 4096;

/// The order in which flows are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Bytes of both directions.
    #[default]
    Bytes,
    /// Packets of both directions.
    Packets,
    /// The time of the last packet.
    Recent,
}

/// The selection of flows, and their maximum number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The largest by this order.
    pub order: Order,
    /// Maximum number of flows.
    pub limit: usize,
    /// Flows of this VNI.
    pub vni: Option<u32>,
    /// Flows with this address at either end.
    pub address: Option<Address>,
    /// Flows with this port at either end.
    pub port: Option<u16>,
    /// Flows of this transport protocol (IANA).
    pub protocol: Option<u8>,
    /// Flows of this application protocol, by Suricata's name.
    pub application: Option<String>,
}

impl Wanted {
    fn accepts(&self, flow: &FlowRecord) -> bool {
        let talk = &flow.conversation;
        self.vni.is_none_or(|vni| talk.mirror.is_some_and(|mirror| mirror.vni.get() == vni))
            && self.address.is_none_or(|address| [talk.source, talk.destination].contains(&address))
            && self.port.is_none_or(|port| [talk.source_port, talk.destination_port].contains(&port))
            && self.protocol.is_none_or(|protocol| talk.protocol == protocol)
            && self.application.as_ref().is_none_or(|name| flow.application.protocol == Some(name.as_str()))
    }

    /// Returns the value by which a flow is compared.
    #[must_use]
    pub fn size(&self, flow: &FlowRecord) -> u64 {
        match self.order {
            Order::Bytes => flow.bytes.iter().sum(),
            Order::Packets => flow.packets.iter().sum(),
            Order::Recent => flow.end,
        }
    }
}

/// A flow that is among the largest so far. The order is reversed, so that a heap has the smallest on top.
#[derive(Debug)]
struct Found {
    size: u64,
    flow: FlowRecord,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        other.size.cmp(&self.size)
    }
}

/// A survey in progress. The requester allocates it, so that the worker allocates nothing.
#[derive(Debug)]
pub struct FlowScan {
    wanted: Wanted,
    found: BinaryHeap<Found>,
    /// The next place in the table.
    at: usize,
    answer: oneshot::Sender<Vec<FlowRecord>>,
}

impl FlowScan {
    /// Creates a survey and the receiver of its answer: flows in no particular order.
    #[must_use]
    pub fn new(wanted: Wanted) -> (Self, oneshot::Receiver<Vec<FlowRecord>>) {
        let (answer, receiver) = oneshot::channel();
        let found = BinaryHeap::with_capacity(wanted.limit + 1);
        (Self { wanted, found, at: 0, answer }, receiver)
    }

    /// Scans a stretch of the table. Returns the survey if it is not finished.
    pub(super) fn advance(mut self, flows: &FlowTable, sources: &Sources, now: u64) -> Option<Self> {
        if self.answer.is_closed() {
            return None;
        }
        let end = self.at + STRETCH;
        for flow in flows.stretch(self.at, end) {
            self.look_at(flow, sources, now);
        }
        self.at = end;
        if end < flows.places() {
            return Some(self);
        }
        let flows = self.found.into_iter().map(|found| found.flow).collect();
        // The send fails if the requester has given up.
        let _ = self.answer.send(flows);
        None
    }

    fn look_at(&mut self, flow: &Flow, sources: &Sources, now: u64) {
        let record = flow.record(EndReason::Shutdown, now, sources);
        if !self.wanted.accepts(&record) {
            return;
        }
        let size = self.wanted.size(&record);
        if self.found.len() == self.wanted.limit && self.found.peek().is_none_or(|least| size <= least.size) {
            return;
        }
        self.found.push(Found { size, flow: record });
        if self.found.len() > self.wanted.limit {
            self.found.pop();
        }
    }
}
