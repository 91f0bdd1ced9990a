//! The identity of a flow: what does not change with its packets, and its place in the table.

use mirror_packet::{Conversation, FlowKey, FlowKeyHasher, MirrorSession, Source, SourceNumber, Sources};
use mirror_protocols::detect::{Endpoints, Transport};
use mirror_xdp_common::Address;
use mirror_xdp_common::wire::protocol;

/// A handle of a flow in the table; valid until the flow is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowIndex(pub(crate) u32);

impl FlowIndex {
    /// Returns the handle of the flow at this place.
    #[cfg(test)]
    pub(crate) const fn of(place: u32) -> Self {
        Self(place)
    }

    /// Returns the flow's place in the table. It is below the largest number of flows that the table has held
    /// at once.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The properties of a flow that its packets do not change.
#[derive(Clone, Copy, Debug)]
pub struct FlowMeta {
    pub(crate) key: FlowKey,
    /// True if the client is the key's lower endpoint.
    pub(crate) client_is_low: bool,
    pub(crate) outer_destination: Address,
    /// The interfaces that mirrored the client's and the server's packets, if the key names none.
    pub(crate) sources: [Option<SourceNumber>; 2],
    /// Time of the first packet, in nanoseconds since the epoch.
    pub(crate) start: u64,
}

impl FlowMeta {
    pub(crate) const fn client(&self) -> (Address, u16) {
        if self.client_is_low { self.key.low() } else { self.key.high() }
    }

    pub(crate) const fn server(&self) -> (Address, u16) {
        if self.client_is_low { self.key.high() } else { self.key.low() }
    }

    /// Returns true for a TCP flow.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.key.protocol() == protocol::TCP
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        endpoints(self.key.protocol(), self.client().1, self.server().1)
    }

    /// Returns the flow's identifier in records.
    pub(crate) fn flow_id(&self) -> u64 {
        flow_id(&self.key, self.start)
    }

    /// Returns the fields that all records of this flow share.
    #[must_use]
    pub fn conversation(&self, sources: &Sources) -> Conversation {
        let session = &self.key.session;
        let of_key = Source { address: session.outer_source, endpoint: session.endpoint };
        let [of_client, of_server] = self.sources.map(|number| sources.get(number?));
        let mirror_source = of_client.or(of_server).unwrap_or(of_key);
        let (source, mut source_port) = self.client();
        let (destination, mut destination_port) = self.server();
        match self.key.protocol() {
            // The key of ESP has the security parameters index in the place of ports.
            protocol::ESP => (source_port, destination_port) = (0, 0),
            // The key of ICMPv6 has the code in the high byte.
            protocol::ICMP | protocol::ICMPV6 => {
                (source_port, destination_port) = (source_port & 0xff, destination_port & 0xff);
            }
            _ => {}
        }
        Conversation {
            flow_id: self.flow_id(),
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.key.protocol(),
            ipv6: self.key.ipv6(),
            vlans: self.key.vlans,
            mirror: session.vni().map(|vni| MirrorSession {
                vni,
                outer_source: mirror_source.address,
                outer_destination: self.outer_destination,
                endpoint: mirror_source.endpoint,
            }),
            other_source: of_server
                .map(|other| other.address)
                .filter(|&other| other != mirror_source.address),
        }
    }
}

/// Returns the transport and the ports of a flow, for detection.
fn endpoints(protocol: u8, client_port: u16, server_port: u16) -> Endpoints {
    let transport = if protocol == protocol::TCP { Transport::Tcp } else { Transport::Udp };
    Endpoints { transport, client_port, server_port }
}

/// Returns a 51-bit identifier, the same for the same flow in every run.
fn flow_id(key: &FlowKey, start: u64) -> u64 {
    const HASHER: FlowKeyHasher = FlowKeyHasher::new(0);
    HASHER.identifier(key, start) & ((1 << 51) - 1)
}
