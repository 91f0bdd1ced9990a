//! A packet described in words, and the decision of a policy on it: `mirror-xdp filter test`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mirror_base::ParseError;
use mirror_xdp_common::Vni;

use super::policy::{Action, Decision, Direction, Facts, MacAddress, Mismatch, Policy, Rule, has_ports};
use super::text::{mac_address, protocol, protocol_name, range_text};

/// A packet described in words, such as `tcp 10.1.2.3:4000 > 10.9.0.1:443 vni 7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The outer source of the mirrored frame; `None` skips the check of admission.
    pub outer_source: Option<IpAddr>,
    /// The VNI of the mirrored frame.
    pub vni: Vni,
    /// The source of its direction.
    pub side: Side,
    /// Source and destination address; `None` for a packet that is not IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IANA protocol number; meaningless without addresses.
    pub protocol: u8,
    /// Source and destination port, if they are in the packet.
    pub ports: Option<(u16, u16)>,
}

/// The source of a packet's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The direction is given.
    Given(Direction),
    /// The direction follows from the hardware addresses, source and destination.
    Macs(MacAddress, MacAddress),
}

/// The decision of a policy on a packet, with the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `true` if the outer source is admitted; `None` if the probe has no outer source.
    pub admitted: Option<bool>,
    /// The fields that the rules have looked at.
    pub facts: Facts,
    /// The rule that decides.
    pub decision: Decision,
    /// The rules before it that do not match: index in the set, and the condition that is not met.
    pub passed_over: Vec<(usize, Mismatch)>,
}

/// The fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped: its source is not admitted.
    SourceNotAdmitted,
    /// Dropped: its VNI is not known.
    UnknownVni,
    /// The action of a rule, or the equivalent default.
    Action(Action),
}

/// A hint at the syntax of a packet, for messages.
pub const SYNTAX: &str = "write such as 'tcp 10.1.2.3:4000 > 10.9.0.1:443 vni 7'";

impl Probe {
    /// Parses the description of a packet.
    ///
    /// Protocol, source, `>` and destination come first, or `not-ip` in place of all four. The rest follows
    /// in any order: `vni N`, which is required; `ingress`, `egress` or `mac SOURCE > DESTINATION`;
    /// `fragment` for a later fragment, which has no ports; `from OUTER-SOURCE`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.replace("->", ">").replace('>', " > ");
        let mut words = text.split_whitespace();
        let first = words.next().ok_or_else(|| ParseError::new("no packet", SYNTAX))?;
        let is_ip = first != "not-ip";
        let (mut number, mut ends) = (0, None);
        if is_ip {
            number = protocol(first)?;
            let source = address(words.next(), "source")?;
            arrow(words.next(), "source")?;
            ends = Some((source, address(words.next(), "destination")?));
        }
        let (mut vni, mut side, mut fragment, mut outer_source) = (None, None, false, None);
        while let Some(word) = words.next() {
            let repeated = match word {
                "vni" => vni.replace(read_vni(words.next())?).is_some(),
                "ingress" => side.replace(Side::Given(Direction::Ingress)).is_some(),
                "egress" => side.replace(Side::Given(Direction::Egress)).is_some(),
                "mac" => {
                    let source = mac_address(words.next().unwrap_or_default())?;
                    arrow(words.next(), "hardware source")?;
                    let destination = mac_address(words.next().unwrap_or_default())?;
                    side.replace(Side::Macs(source, destination)).is_some()
                }
                "fragment" => std::mem::replace(&mut fragment, true),
                "from" => {
                    let word = words.next().unwrap_or_default();
                    let outer = word.parse().map_err(|_| {
                        ParseError::new(format!("`{word}` is not an address"), "write such as from 10.0.0.1")
                    })?;
                    outer_source.replace(outer).is_some()
                }
                other => {
                    let allowed =
                        "vni N, ingress, egress, mac SOURCE > DESTINATION, fragment or from OUTER-SOURCE";
                    return Err(ParseError::new(
                        format!("`{other}` is not understood"),
                        format!("allowed: {allowed}"),
                    ));
                }
            };
            if repeated {
                return Err(ParseError::new(
                    format!("`{word}` repeats what is given already"),
                    "give it once",
                ));
            }
        }
        let vni = vni.ok_or_else(|| ParseError::new("no VNI", "add such as vni 7"))?;
        if fragment && !is_ip {
            return Err(ParseError::new("only IP packets are fragmented", "leave `fragment` out"));
        }
        let (addresses, ports) = match ends {
            Some((source, destination)) => {
                let addresses = (source.0, destination.0);
                if addresses.0.is_ipv4() != addresses.1.is_ipv4() {
                    let what = format!("{} and {} are of two families", addresses.0, addresses.1);
                    return Err(ParseError::new(what, "both are IPv4, or both IPv6"));
                }
                (Some(addresses), ports(number, (source.1, destination.1), fragment)?)
            }
            None => (None, None),
        };
        let side = side.unwrap_or(Side::Given(Direction::Unknown));
        Ok(Self { outer_source, vni, side, addresses, protocol: number, ports })
    }
}

/// Parses an address with an optional port.
fn address(word: Option<&str>, side: &str) -> Result<(IpAddr, Option<u16>), ParseError> {
    let word = word.ok_or_else(|| ParseError::new(format!("no {side}"), SYNTAX))?;
    if let Ok(both) = word.parse::<SocketAddr>() {
        return Ok((both.ip(), Some(both.port())));
    }
    let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    let address = bare.parse().map_err(|_| {
        ParseError::new(
            format!("{side} `{word}` is not an address"),
            "write such as 10.1.2.3:4000, [fd00::1]:443, or an address alone where there are no ports",
        )
    })?;
    Ok((address, None))
}

fn arrow(word: Option<&str>, before: &str) -> Result<(), ParseError> {
    if word == Some(">") { Ok(()) } else { Err(ParseError::new(format!("no > behind the {before}"), SYNTAX)) }
}

fn read_vni(word: Option<&str>) -> Result<Vni, ParseError> {
    let word = word.unwrap_or_default();
    let vni = word.parse().ok().and_then(Vni::new);
    vni.ok_or_else(|| {
        ParseError::new(format!("`{word}` is not a VNI"), format!("a number from 0 to {}", Vni::MAX))
    })
}

fn ports(
    protocol: u8,
    ports: (Option<u16>, Option<u16>),
    fragment: bool,
) -> Result<Option<(u16, u16)>, ParseError> {
    let name = protocol_name(protocol);
    match ports {
        (None, None) if fragment || !has_ports(protocol) => Ok(None),
        _ if !has_ports(protocol) => {
            Err(ParseError::new(format!("{name} has no ports"), "write the addresses alone, without :PORT"))
        }
        _ if fragment => {
            Err(ParseError::new("a later fragment has no ports", "write the addresses alone, without :PORT"))
        }
        (Some(source), Some(destination)) => Ok(Some((source, destination))),
        _ => Err(ParseError::new(
            format!("{name} has a port on each side"),
            "write such as 10.1.2.3:4000; or add `fragment` for a later fragment, which has none",
        )),
    }
}

impl Policy {
    /// Decides on a packet, with the reasons.
    #[must_use]
    pub fn explain(&self, probe: &Probe) -> Explanation {
        let direction = match probe.side {
            Side::Given(direction) => direction,
            Side::Macs(source, destination) => self.direction(source, destination),
        };
        let &Probe { vni, addresses, protocol, ports, .. } = probe;
        let facts = Facts { vni, direction, addresses, protocol, ports };
        let decision = self.decide(&facts);
        let before: &[Rule] = match decision {
            Decision::Rule { set, rule } => &self.sets[set].rules[..rule],
            Decision::NoRule { set } => &self.sets[set].rules,
            Decision::UnknownVni | Decision::NoSet => &[],
        };
        let passed_over = before.iter().enumerate();
        let passed_over =
            passed_over.filter_map(|(index, rule)| Some((index, rule.mismatch(&facts)?))).collect();
        let admitted = probe.outer_source.map(|source| self.admits(source));
        Explanation { admitted, facts, decision, passed_over }
    }

    /// Returns the fate of the packet of an explanation.
    #[must_use]
    pub fn verdict(&self, explanation: &Explanation) -> Verdict {
        if explanation.admitted == Some(false) {
            return Verdict::SourceNotAdmitted;
        }
        match explanation.decision {
            Decision::UnknownVni => Verdict::UnknownVni,
            Decision::NoSet => Verdict::Action(Action::Accept),
            Decision::NoRule { .. } => Verdict::Action(Action::Reject),
            Decision::Rule { set, rule } => Verdict::Action(self.sets[set].rules[rule].action),
        }
    }
}

impl Facts {
    /// Returns in words why a rule does not match this packet.
    #[must_use]
    pub fn reason(&self, rule: &Rule, mismatch: Mismatch) -> String {
        let address = |side: &str, address: Option<IpAddr>, net: Option<IpNet>| match (address, net) {
            (Some(address), Some(net)) => format!("{side} {address} is not in {net}"),
            _ => "the packet is not IP".to_owned(),
        };
        let port = |side: &str, port: Option<u16>, range: &Option<_>| match (port, range) {
            (Some(port), Some(range)) => format!("{side} port {port} is not {}", range_text(range)),
            _ => "the packet has no ports".to_owned(),
        };
        match mismatch {
            Mismatch::Direction => format!("direction is {}", self.direction.name()),
            Mismatch::Protocol if self.addresses.is_none() => "the packet is not IP".to_owned(),
            Mismatch::Protocol => format!("protocol is {}", protocol_name(self.protocol)),
            Mismatch::Source => address("source", self.addresses.map(|both| both.0), rule.source),
            Mismatch::Destination => {
                address("destination", self.addresses.map(|both| both.1), rule.destination)
            }
            Mismatch::SourcePort => port("source", self.ports.map(|both| both.0), &rule.source_ports),
            Mismatch::DestinationPort => {
                port("destination", self.ports.map(|both| both.1), &rule.destination_ports)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_in_every_form() {
        let probe = Probe::parse("tcp 10.1.2.3:4000 > 10.9.0.1:443 vni 7").unwrap();
        assert_eq!((probe.vni.get(), probe.protocol, probe.ports), (7, 6, Some((4000, 443))));
        assert_eq!(probe.side, Side::Given(Direction::Unknown));
        assert_eq!(probe, Probe::parse("6 10.1.2.3:4000->10.9.0.1:443   vni 7").unwrap());

        let probe = Probe::parse("udp [fd00::1]:53 > [fd00::2]:4000 egress vni 0 from 10.0.0.1").unwrap();
        assert_eq!(probe.addresses.unwrap().0, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(probe.side, Side::Given(Direction::Egress));
        assert_eq!(probe.outer_source, Some("10.0.0.1".parse().unwrap()));

        let probe =
            Probe::parse("icmp 10.0.0.1 > 10.0.0.2 vni 7 mac 02:00:00:00:00:01 > 02:00:00:00:00:02").unwrap();
        assert_eq!(probe.ports, None);
        assert_eq!(probe.side, Side::Macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
        assert_eq!(Probe::parse("tcp [fd00::1] > fd00::2 vni 7 fragment").unwrap().ports, None);
        assert_eq!(Probe::parse("not-ip vni 7").unwrap().addresses, None);
    }

    #[test]
    fn what_is_no_packet_is_refused_with_what_to_write() {
        for (text, what) in [
            ("", "no packet"),
            ("smtp 10.0.0.1 > 10.0.0.2 vni 7", "protocol"),
            ("tcp", "no source"),
            ("tcp 10.0.0.1:1 10.0.0.2:2 vni 7", "no >"),
            ("tcp 10.0.0.1:1 >", "no destination"),
            ("tcp 10.0.0.1:x > 10.0.0.2:2 vni 7", "not an address"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2", "no VNI"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 vni 16777216", "not a VNI"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 vni", "not a VNI"),
            ("tcp 10.0.0.1 > 10.0.0.2 vni 7", "port on each side"),
            ("tcp 10.0.0.1:1 > 10.0.0.2 vni 7", "port on each side"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 vni 7 fragment", "no ports"),
            ("icmp 10.0.0.1:1 > 10.0.0.2:2 vni 7", "no ports"),
            ("tcp 10.0.0.1:1 > [fd00::1]:2 vni 7", "two families"),
            ("icmp 10.0.0.1 > 10.0.0.2 vni 7 vni 8", "already"),
            ("icmp 10.0.0.1 > 10.0.0.2 vni 7 ingress egress", "already"),
            ("icmp 10.0.0.1 > 10.0.0.2 vni 7 from here", "not an address"),
            ("icmp 10.0.0.1 > 10.0.0.2 vni 7 mac 02:00:00:00:00:01", "no >"),
            ("icmp 10.0.0.1 > 10.0.0.2 vni 7 sideways", "not understood"),
            ("not-ip vni 7 fragment", "fragmented"),
        ] {
            let wrong = Probe::parse(text).unwrap_err();
            assert!(wrong.what.contains(what), "{text}: {wrong}");
            assert!(!wrong.allowed.is_empty());
        }
    }
}
