//! Filters that select an analyzer's flows.

use mirror_protocols::detect::AppProto;
use mirror_records::Conversation;

/// Selects the flows that an analyzer follows. A criterion that is not set matches every flow; of several
/// values of the same kind, one has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    transports: Vec<u8>,
    ports: Vec<u16>,
    applications: Vec<AppProto>,
    packets: bool,
}

impl Filter {
    /// Selects every flow.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Selects flows of this transport protocol (IANA).
    #[must_use]
    pub fn transport(mut self, protocol: u8) -> Self {
        self.transports.push(protocol);
        self
    }

    /// Selects flows with this port at either end.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// Selects flows recognised as this application protocol, from their first byte on.
    #[must_use]
    pub fn application(mut self, application: AppProto) -> Self {
        self.applications.push(application);
        self
    }

    /// Requests packets, in addition to data.
    #[must_use]
    pub const fn packets(mut self) -> Self {
        self.packets = true;
        self
    }

    pub(super) const fn wants_packets(&self) -> bool {
        self.packets
    }

    /// Returns true if the filter matches the flow. `application` is `None` until it is recognised.
    pub(super) fn wants(&self, conversation: &Conversation, application: Option<AppProto>) -> bool {
        let Conversation { protocol, source_port, destination_port, .. } = conversation;
        let any = |ports: &[u16]| ports.contains(source_port) || ports.contains(destination_port);
        (self.transports.is_empty() || self.transports.contains(protocol))
            && (self.ports.is_empty() || any(&self.ports))
            && (self.applications.is_empty()
                || application.is_some_and(|application| self.applications.contains(&application)))
    }

    /// Returns true if the filter depends on the flow's application.
    pub(super) fn asks_for_application(&self) -> bool {
        !self.applications.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use mirror_packet::Vlans;
    use mirror_xdp_common::Address;
    use mirror_xdp_common::wire::protocol::{TCP, UDP};

    use super::*;

    fn conversation(protocol: u8, ports: [u16; 2]) -> Conversation {
        Conversation {
            flow_id: 0,
            source: Address::default(),
            destination: Address::default(),
            source_port: ports[0],
            destination_port: ports[1],
            protocol,
            ipv6: false,
            vlans: Vlans::new(),
            mirror: None,
            other_source: None,
        }
    }

    #[test]
    fn kinds_are_all_to_fit_and_of_each_kind_one_value() {
        let filter = Filter::all().transport(TCP).port(25).port(587).application(AppProto::Smtp);
        let smtp = Some(AppProto::Smtp);
        assert!(filter.wants(&conversation(TCP, [4000, 587]), smtp));
        assert!(filter.wants(&conversation(TCP, [25, 4000]), smtp));
        assert!(!filter.wants(&conversation(UDP, [4000, 25]), smtp));
        assert!(!filter.wants(&conversation(TCP, [4000, 26]), smtp));
        assert!(!filter.wants(&conversation(TCP, [4000, 25]), Some(AppProto::Http)));
        assert!(!filter.wants(&conversation(TCP, [4000, 25]), None));
        assert!(Filter::all().wants(&conversation(UDP, [1, 2]), None));
    }
}
