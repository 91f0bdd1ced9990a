//! Properties of the frames that tests pass to a worker and to observers.

use std::net::IpAddr;

use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;

use super::{FlowHash, FrameInfo, Mirror, Vni};

impl FrameInfo {
    /// Returns those of a complete plain frame, seen at the epoch, without its hash.
    pub(crate) fn of(frame: &[u8]) -> Self {
        Self {
            time: 0,
            original_len: frame.len() as u32,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        }
    }

    /// Sets the time, in nanoseconds since the epoch.
    pub(crate) fn at(self, time: u64) -> Self {
        Self { time, ..self }
    }

    /// Sets the hash of the frame's flow.
    pub(crate) fn hashed(self, frame: &[u8], seed: u64) -> Self {
        Self { flow_hash: InnerHeaders::parse(frame, 0).flow_hash(&FlowHashKey::new(seed)), ..self }
    }

    /// Sets the mirror session, from `outer_source` to 10.0.9.5.
    pub(crate) fn mirrored(self, vni: u32, outer_source: &str) -> Self {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let mirror = Mirror {
            vni: Vni::new(vni).unwrap(),
            outer_source: address(outer_source),
            outer_destination: address("10.0.9.5"),
            endpoint: 0,
        };
        Self { mirror: Some(mirror), ..self }
    }
}
