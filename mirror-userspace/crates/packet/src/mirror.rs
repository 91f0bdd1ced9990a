//! Frames of mirror sessions: what is known of a frame besides its bytes.

use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::{Address, Vni};

/// Where a mirrored frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MirrorSession {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Outer source: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination: the mirror target.
    pub outer_destination: Address,
    /// Identifier of the Gateway Load Balancer endpoint that the frame came by; 0 where it came by none.
    pub endpoint: u64,
}

impl MirrorSession {
    /// A session without a Gateway Load Balancer.
    #[must_use]
    pub const fn new(vni: Vni, outer_source: Address, outer_destination: Address) -> Self {
        Self { vni, outer_source, outer_destination, endpoint: 0 }
    }
}

/// Which way a packet went by the mirrored interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorDirection {
    /// It came in.
    Ingress,
    /// It left.
    Egress,
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
    pub mirror: Option<MirrorSession>,
    /// Which way it went by the mirrored interface, where that is known.
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
