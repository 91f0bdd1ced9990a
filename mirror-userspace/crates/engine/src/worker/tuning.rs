//! What can be set anew while a worker works.

use crate::analyzer::Enabled;
use crate::flow::Timeouts;

/// What can be set anew while a worker works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Which analyzers run.
    pub analyzers: Enabled,
    /// When flows end that have no packets.
    pub timeouts: Timeouts,
    /// Bytes that a flow has had before the driver only counts the rest; `None`: it counts none. Of those
    /// that it counts already, it goes on to.
    pub shunt_after: Option<u64>,
}
