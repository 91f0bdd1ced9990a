//! The identity of a flow as its records carry it.

use mirror_xdp_common::Address;

use crate::{MirrorSession, Vlans};

/// The endpoints of a flow and its other fields that all its records share. Source is the client as far as
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Identifies the flow in all its records; below 2⁵¹, so that JSON readers keep it exact.
    pub flow_id: u64,
    /// Client address.
    pub source: Address,
    /// Server address.
    pub destination: Address,
    /// Client port; for ICMP the type of the first message.
    pub source_port: u16,
    /// Server port; for ICMP the type of the reply.
    pub destination_port: u16,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// True if the addresses are IPv6. An IPv4-mapped IPv6 address is not IPv4.
    pub ipv6: bool,
    /// VLAN tags of the frames.
    pub vlans: Vlans,
    /// The mirror session; `None` for plain frames of a capture file.
    pub mirror: Option<MirrorSession>,
    /// The mirrored interface of the server's packets, if it is another than that of the client's.
    pub other_source: Option<Address>,
}
