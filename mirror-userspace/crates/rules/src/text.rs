//! The textual form of rules and their parts: parsing of files and command lines, and output for people.

use std::fmt::{self, Display, Write as _};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_base::ParseError;
use mirror_xdp_common::Vni;
use mirror_xdp_common::wire::protocol;

use super::limits;
use super::policy::{Action, MacAddress, Rule, RuleDirection};

/// The names of protocols that are accepted; the first name of a number is the one that is written. The
/// numbers are IANA's; other protocols are written as numbers.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", protocol::ICMP),
    ("igmp", 2),
    ("ipv4", protocol::IPV4),
    ("ipip", protocol::IPV4),
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("ipv6", protocol::IPV6),
    ("gre", protocol::GRE),
    ("esp", protocol::ESP),
    ("ah", protocol::AH),
    ("icmpv6", protocol::ICMPV6),
    ("icmp6", protocol::ICMPV6),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", protocol::SCTP),
];

/// Returns the protocol of this name or number.
pub fn protocol(text: &str) -> Result<u8, ParseError> {
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|&(_, number)| number);
    known.or_else(|| text.parse().ok()).ok_or_else(|| {
        let mut names: Vec<_> = PROTOCOLS.iter().map(|&(name, _)| name).collect();
        names.dedup_by_key(|name| protocol(name).ok());
        ParseError::new(
            format!("`{text}` is not a protocol"),
            format!("a number from 0 to 255, or {}", names.join(", ")),
        )
    })
}

/// Returns the name of a protocol, or `protocol` and its number if it has no name here.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    match PROTOCOLS.iter().find(|&&(_, known)| known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("protocol {number}"),
    }
}

/// Parses the hardware address of an interface.
pub fn mac_address(text: &str) -> Result<MacAddress, ParseError> {
    let mut address = MacAddress::default();
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()));
        let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = value.ok_or_else(|| not_mac(text))?;
    }
    if parts.next().is_some() {
        return Err(not_mac(text));
    }
    Ok(address)
}

fn not_mac(text: &str) -> ParseError {
    ParseError::new(
        format!("`{text}` is not a hardware address"),
        "write six bytes such as 02:00:00:00:00:01",
    )
}

/// Parses the action of a rule.
pub fn action(text: &str) -> Result<Action, ParseError> {
    let unknown = || {
        let allowed = format!(
            "accept, reject, shunt, sample 1/N (N from {} to {}) or truncate N (N from {} to {})",
            limits::SAMPLE.start(),
            limits::SAMPLE.end(),
            limits::TRUNCATE.start(),
            limits::TRUNCATE.end(),
        );
        ParseError::new(format!("`{text}` is not an action"), allowed)
    };
    let number = |text: &str, range: &RangeInclusive<u32>| {
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(unknown)
    };
    let words: Vec<_> = text.split_whitespace().collect();
    match words[..] {
        ["accept"] => Ok(Action::Accept),
        ["reject"] => Ok(Action::Reject),
        ["shunt"] => Ok(Action::Shunt),
        ["sample", share] => {
            let flows = share.strip_prefix("1/").ok_or_else(unknown)?;
            Ok(Action::Sample(number(flows, &limits::SAMPLE)?))
        }
        ["truncate", bytes] => Ok(Action::Truncate(number(bytes, &limits::TRUNCATE)?)),
        _ => Err(unknown()),
    }
}

/// Parses the direction of a rule.
pub fn direction(text: &str) -> Result<RuleDirection, ParseError> {
    [RuleDirection::Ingress, RuleDirection::Egress, RuleDirection::Both]
        .into_iter()
        .find(|direction| direction.name() == text)
        .ok_or_else(|| ParseError::new(format!("`{text}` is not a direction"), "ingress, egress or both"))
}

/// Writes a range; a range of one number is written as that number.
#[must_use]
pub fn range_text<T: PartialEq + Display>(range: &RangeInclusive<T>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Writes ranges as a list: `7, 100-199`.
#[must_use]
pub fn ranges_text<T: PartialEq + Display>(ranges: &[RangeInclusive<T>]) -> String {
    let mut text = String::new();
    for range in ranges {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{}", range_text(range));
    }
    text
}

/// Joins VNIs, which are in ascending order, into ranges.
#[must_use]
pub fn vni_ranges(vnis: impl IntoIterator<Item = Vni>) -> Vec<RangeInclusive<u32>> {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for vni in vnis.into_iter().map(Vni::get) {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == vni => *last = *last.start()..=vni,
            _ => ranges.push(vni..=vni),
        }
    }
    ranges
}

/// Writes a hardware address.
#[must_use]
pub fn mac_text(address: MacAddress) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Writes the conditions of a rule: `ingress tcp 10.0.0.0/8 > any port 443`.
#[must_use]
pub fn condition(rule: &Rule) -> String {
    let mut text = String::new();
    if rule.direction != RuleDirection::Both {
        let _ = write!(text, "{} ", rule.direction.name());
    }
    match rule.protocol {
        Some(number) => text.push_str(&protocol_name(number)),
        None => text.push_str("any protocol"),
    }
    let side = |net: Option<IpNet>, ports: &Option<RangeInclusive<u16>>| {
        let mut side = net.map_or_else(|| "any".to_owned(), |net| net.to_string());
        if let Some(ports) = ports {
            let _ = write!(side, " port {}", range_text(ports));
        }
        side
    };
    let _ = write!(
        text,
        " {} > {}",
        side(rule.source, &rule.source_ports),
        side(rule.destination, &rule.destination_ports)
    );
    text
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.action, condition(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_rules_are_read() {
        assert_eq!(protocol("TCP"), Ok(6));
        assert_eq!(protocol("132"), Ok(132));
        assert_eq!(mac_address("02:aB:00:00:00:01"), Ok([2, 0xab, 0, 0, 0, 1]));
        assert_eq!(action("sample 1/64"), Ok(Action::Sample(64)));
        assert_eq!(action("truncate  96"), Ok(Action::Truncate(96)));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_right() {
        assert!(protocol("smtp").unwrap_err().allowed.contains("tcp"));
        for text in ["02:00:00:00:00", "02:00:00:00:00:01:02", "02-00-00-00-00-01", "02:00:00:00:00:+1"] {
            assert!(mac_address(text).is_err(), "{text}");
        }
        for text in ["drop", "sample", "sample 2/3", "sample 1/0", "truncate 13", "truncate", "accept all"] {
            assert!(action(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_protocol_reads_back_as_it_is_written() {
        for number in 0..=255 {
            let name = protocol_name(number);
            assert_eq!(protocol(name.trim_start_matches("protocol ")), Ok(number));
        }
    }

    #[test]
    fn consecutive_vnis_are_one_range() {
        let vnis = [1, 2, 3, 7, 9, 10].map(|vni| Vni::new(vni).unwrap());
        assert_eq!(ranges_text(&vni_ranges(vnis)), "1-3, 7, 9-10");
    }
}
