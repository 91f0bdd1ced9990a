//! The Community ID of a flow, version 1: a hash of the 5-tuple that many tools share
//! (<https://github.com/corelight/community-id-spec>).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_xdp_common::wire::protocol;
use mirror_xdp_common::{Address, inner};
use sha1::{Digest as _, Sha1};

use crate::{Conversation, FlowKey};

/// A Community ID. Its text form is `1:` followed by the hash in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommunityId([u8; 20]);

/// The text is not a Community ID of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `1:` followed by 20 bytes in base64")]
pub struct NoCommunityId;

impl FromStr for CommunityId {
    type Err = NoCommunityId;

    fn from_str(text: &str) -> Result<Self, NoCommunityId> {
        let hash = text.strip_prefix("1:").ok_or(NoCommunityId)?;
        let bytes = STANDARD.decode(hash).map_err(|_| NoCommunityId)?;
        bytes.try_into().map(Self).map_err(|_| NoCommunityId)
    }
}

impl CommunityId {
    /// Returns the Community ID with seed 0.
    #[must_use]
    pub fn of(flow: &Conversation) -> Self {
        let source = (flow.source, flow.source_port);
        let destination = (flow.destination, flow.destination_port);
        Self::hash([source, destination], flow.protocol, flow.ipv6)
    }

    /// Returns the Community ID of the flow with this key.
    #[must_use]
    pub fn of_key(key: &FlowKey) -> Self {
        Self::of_ends([key.low(), key.high()], key.protocol(), key.ipv6())
    }

    /// Returns the Community ID of the flow whose key has these ends, see [`FlowKey`].
    #[must_use]
    pub fn of_ends([mut low, mut high]: [(Address, u16); 2], protocol: u8, ipv6: bool) -> Self {
        // The key has the code in the high byte.
        if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
            (low.1, high.1) = (low.1 & 0xff, high.1 & 0xff);
        }
        Self::hash([low, high], protocol, ipv6)
    }

    /// Returns the first eight bytes: enough to find a flow by.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.0[..8].iter().fold(0, |prefix, &byte| prefix << 8 | u64::from(byte))
    }

    fn hash(ends: [(Address, u16); 2], protocol: u8, ipv6: bool) -> Self {
        // The protocols for which the specification hashes ports, or types of ICMP. The key of others may use the
        // ports for something else.
        let has_ports = inner::has_ports(protocol) || matches!(protocol, protocol::ICMP | protocol::ICMPV6);
        let [source, destination] = ends.map(|(address, port)| (address, if has_ports { port } else { 0 }));
        // Between ports of one address, Suricata compares their bytes in the wrong order on little-endian
        // machines, where the specification wants the lower port first. Our records must match Suricata's.
        // Such flows do not leave a host, so that no other tool sees them.
        let order = |(address, port): (Address, u16)| (address, port.swap_bytes());
        let (low, high) =
            if order(source) < order(destination) { (source, destination) } else { (destination, source) };
        // Seed, addresses, protocol, padding and ports, in one contiguous buffer.
        let mut input = [0; 40];
        let mut len = 2;
        let mut add = |bytes: &[u8]| {
            if let Some(place) = input.get_mut(len..len + bytes.len()) {
                place.copy_from_slice(bytes);
                len += bytes.len();
            }
        };
        for (address, _) in [low, high] {
            if ipv6 {
                add(&address.high.to_be_bytes());
                add(&address.low.to_be_bytes());
            } else {
                add(&(address.low as u32).to_be_bytes());
            }
        }
        add(&[protocol, 0]);
        if has_ports {
            add(&low.1.to_be_bytes());
            add(&high.1.to_be_bytes());
        }
        Self(Sha1::digest(input.get(..len).unwrap_or_default()).into())
    }
}

impl CommunityId {
    /// Returns the text form.
    #[must_use]
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        let mut text = *b"1:                            ";
        let [_, _, hash @ ..] = &mut text;
        let written = STANDARD.encode_slice(self.0, hash);
        debug_assert_eq!(written, Ok(hash.len()));
        text
    }

    /// Length of the text: twenty bytes are 28 characters in base64.
    pub const TEXT_LEN: usize = 30;
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vlans;

    fn conversation(source: (&str, u16), destination: (&str, u16), protocol: u8) -> Conversation {
        let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        Conversation {
            flow_id: 1,
            source: address(source.0).into(),
            destination: address(destination.0).into(),
            source_port: source.1,
            destination_port: destination.1,
            protocol,
            ipv6: address(source.0).is_ipv6(),
            vlans: Vlans::new(),
            mirror: None,
            other_source: None,
        }
    }

    /// The examples of the specification's repository (`baseline/`), from captures that are also in the
    /// corpus.
    #[test]
    fn community_ids_are_those_of_the_specification() {
        for (source, destination, protocol, expected) in [
            (("128.232.110.120", 34855), ("66.35.250.204", 80), 6, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (("192.168.1.52", 54585), ("8.8.8.8", 53), 17, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (("192.168.0.89", 8), ("192.168.0.1", 0), 1, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        ] {
            assert_eq!(CommunityId::of(&conversation(source, destination, protocol)).to_string(), expected);
            assert_eq!(CommunityId::of(&conversation(destination, source, protocol)).to_string(), expected);
            assert_eq!(expected.parse(), Ok(CommunityId::of(&conversation(source, destination, protocol))));
        }
    }

    /// SHA-1 of seed, lower address, higher address, protocol and padding, as the reference implementation
    /// (`pycommunityid`) computes it for protocols without ports.
    #[test]
    fn protocols_without_ports_have_none_in_the_community_id() {
        for (protocol, expected) in [
            (protocol::ESP, "1:g3JhCUzkZlozpFxf8KXyr9SDbo4="),
            (protocol::IPV4, "1:c/H1xJJ87uu1Z0Xu4342FL/K4KA="),
        ] {
            for ports in [[0, 0], [0xabcd, 0x1234]] {
                let [low, high] = [("10.0.0.1", ports[0]), ("192.168.0.1", ports[1])];
                let id = CommunityId::of(&conversation(low, high, protocol));
                assert_eq!(id.to_string(), expected);
                let reversed = CommunityId::of(&conversation(high, low, protocol));
                assert_eq!(reversed, id);
                let ends =
                    [low, high].map(|(text, port)| (text.parse::<std::net::IpAddr>().unwrap().into(), port));
                assert_eq!(CommunityId::of_ends(ends, protocol, false), id);
            }
        }
    }
}
