//! Frames of mirror sessions: what is known of a frame besides its bytes.

use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::{Address, Vni};

/// The mirror session of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MirrorSession {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Outer source: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination: the mirror target.
    pub outer_destination: Address,
    /// Identifier of the Gateway Load Balancer endpoint that the frame came from; 0 if none.
    pub endpoint: u64,
}

impl MirrorSession {
    /// A session without a Gateway Load Balancer.
    #[must_use]
    pub const fn new(vni: Vni, outer_source: Address, outer_destination: Address) -> Self {
        Self { vni, outer_source, outer_destination, endpoint: 0 }
    }
}

/// The direction of a packet at the mirrored interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorDirection {
    /// The interface received it.
    Ingress,
    /// The interface sent it.
    Egress,
}

/// The properties of a frame, besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Time of arrival, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// Length of the frame on the wire, in bytes. It exceeds the captured length if the frame was truncated.
    pub original_len: u32,
    /// The symmetric flow hash of [`mirror_xdp_common::inner`].
    pub flow_hash: FlowHash,
    /// The mirror session; `None` for a plain frame of a capture file.
    pub mirror: Option<MirrorSession>,
    /// The direction at the mirrored interface, if known.
    pub side: Option<MirrorDirection>,
}

impl FrameInfo {
    /// A plain frame, complete, seen at the epoch, with the default flow hash.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        Self {
            time: 0,
            original_len: frame.len() as u32,
            flow_hash: FlowHash::default(),
            mirror: None,
            side: None,
        }
    }

    /// The same frame, seen at `time`, in nanoseconds since the epoch.
    #[must_use]
    pub const fn at(self, time: u64) -> Self {
        Self { time, ..self }
    }

    /// The same frame with the hash of its flow, keyed with `seed`.
    #[must_use]
    pub fn hashed(self, frame: &[u8], seed: u64) -> Self {
        Self { flow_hash: InnerHeaders::parse(frame, 0).flow_hash(&FlowHashKey::new(seed)), ..self }
    }

    /// The same frame, mirrored by `session`.
    #[must_use]
    pub const fn mirrored(self, session: MirrorSession) -> Self {
        Self { mirror: Some(session), ..self }
    }
}
