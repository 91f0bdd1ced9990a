//! The settings that can change while a worker runs.

use mirror_packet::TunnelPorts;

use crate::analyzer::Enabled;
use crate::flow::Timeouts;

/// The settings that can change while a worker runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The built-in analyzers that run.
    pub analyzers: Enabled,
    /// Timeouts of idle flows.
    pub timeouts: Timeouts,
    /// Bytes that a flow must have had before the driver only counts the rest; `None` to shunt no flow. The
    /// driver continues to count flows that it already counts.
    pub shunt_after: Option<u64>,
    /// The UDP ports of tunnels within the frames.
    pub tunnel_ports: TunnelPorts,
}
