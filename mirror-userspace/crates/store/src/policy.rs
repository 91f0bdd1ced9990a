//! The policy: selects the frames to keep, and how much of each.

use std::ops::RangeInclusive;

use mirror_packet::MirrorSession;
use mirror_rules::RuleRange;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::wire::protocol;

/// The part of a packet that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// The packet as it was captured.
    #[default]
    Whole,
    /// The first bytes.
    First(usize),
    /// The headers, without the payload of TCP, UDP or any other protocol.
    Headers,
}

/// Selects the frames to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// VNIs whose frames are kept; `None` keeps those of all.
    pub vnis: Option<Vec<RangeInclusive<u32>>>,
    /// The part of each packet that is kept.
    pub packet: Kept,
    /// Bytes of each flow that are kept, from its beginning.
    pub flow: Option<u64>,
    /// Rules of the filter whose frames are kept; `None` keeps those of all.
    pub rules: Option<Vec<RuleRange>>,
    /// Size in bytes of the memory in which each worker's frames wait for an alert. Only flows that raise an
    /// alert are kept, with their earlier frames that are still in this memory. `None` keeps all flows.
    pub pre_trigger: Option<u64>,
}

impl Policy {
    pub(super) fn wants_session(&self, mirror: Option<&MirrorSession>) -> bool {
        match (&self.vnis, mirror) {
            (None, _) => true,
            (Some(vnis), Some(mirror)) => vnis.iter().any(|range| range.contains(&mirror.vni.get())),
            (Some(_), None) => false,
        }
    }

    /// Returns true if more frames are kept of a flow with this many bytes kept so far.
    pub(super) fn wants_flow(&self, kept: u32) -> bool {
        self.flow.is_none_or(|limit| u64::from(kept) < limit)
    }

    /// Returns the part of a frame that is kept.
    pub(super) fn cut<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        let len = match self.packet {
            Kept::Whole => frame.len(),
            Kept::First(len) => len,
            Kept::Headers => headers(frame),
        };
        frame.get(..len).unwrap_or(frame)
    }
}

/// Returns the length of a frame's headers, not including those within tunnels. For frames that are not IP,
/// returns the length that an ARP packet would have.
fn headers(frame: &[u8]) -> usize {
    const ARP: usize = 28;
    let headers = InnerHeaders::parse(frame, 0);
    if !matches!(headers.network, Network::Ipv4 | Network::Ipv6) {
        return headers.network_offset + ARP;
    }
    if matches!(headers.fragment, Fragment::Later) {
        return headers.transport_offset;
    }
    let transport = match headers.protocol {
        protocol::TCP => {
            let offset = frame.get(headers.transport_offset + 12).map_or(0, |byte| byte >> 4);
            usize::from(offset).max(5) * 4
        }
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 | protocol::ESP => 8,
        protocol::SCTP => 12,
        _ => 0,
    };
    headers.transport_offset + transport
}
