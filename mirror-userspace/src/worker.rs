//! A worker: frames in, records out. One a core; live and `read` run the very same code.

use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::{Address, Vni};

use crate::sink::Producer;

/// Where a mirrored frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Outer source: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination: the mirror target.
    pub outer_destination: Address,
}

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// When the frame was seen, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// Bytes that the frame had on the wire; more than there are where it was truncated.
    pub original_len: u32,
    /// The symmetric flow hash of [`mirror_xdp_common::inner`].
    pub flow_hash: FlowHash,
    /// The mirror session's marks; `None` for a plain frame of a capture file.
    pub mirror: Option<Mirror>,
}

/// What a worker counts. `delivered = analysed + Σ refused`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Frames given to [`Worker::frame`].
    pub delivered: u64,
    /// Bytes of those frames, as mirrored.
    pub delivered_bytes: u64,
    /// Frames that went through the whole analysis.
    pub analysed: u64,
    /// Frames that no flow could be made of, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Flows in the table now.
    pub flows_active: u64,
    /// Flows that were ever made.
    pub flows_total: u64,
    /// Records that were lost because the sink's queue was full.
    pub records_lost: u64,
}

/// How a worker is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Flows that the table holds at most; at the bound the flow that was idle the longest goes.
    pub max_flows: usize,
    /// Seed of the flow hash: the one that the frames' [`FrameInfo::flow_hash`] was made with.
    pub hash_seed: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { max_flows: 1 << 18, hash_seed: 0 }
    }
}

/// Keeps the flows of one core and feeds the analyzers.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    counters: WorkerCounters,
    records: Producer,
}

impl Worker {
    /// A worker without flows; its records go to `records`.
    #[must_use]
    pub fn new(config: WorkerConfig, records: Producer) -> Self {
        Self { config, counters: WorkerCounters::default(), records }
    }

    /// Takes one inner frame, from its Ethernet header on.
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        let _ = (info, frame, self.config);
        self.counters.delivered += 1;
        self.counters.analysed += 1;
        self.counters.delivered_bytes += u64::from(info.original_len);
    }

    /// Advances the timers to `now` (nanoseconds since the epoch), ending flows that timed out, and
    /// hands finished records to the sink. Live: called after each batch and at least once a second.
    pub fn tick(&mut self, now: u64) {
        let _ = now;
        self.records.flush();
    }

    /// Ends all flows (reason `shutdown`) and hands over the last records.
    pub fn finish(&mut self) {
        self.records.finish();
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> WorkerCounters {
        WorkerCounters { records_lost: self.records.lost(), ..self.counters.clone() }
    }
}
