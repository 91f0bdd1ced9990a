//! Values that operators write in files and on the command line: numbers of bytes, ranges, networks. A text that
//! is refused gives a [`ParseError`], which says what is wrong and what would be right.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

/// The reason why a text is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// A description of the mistake.
    pub what: String,
    /// The accepted forms.
    pub allowed: String,
}

impl ParseError {
    /// Makes an error from its two halves.
    #[must_use]
    pub fn new(what: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { what: what.into(), allowed: allowed.into() }
    }
}

impl Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.allowed)
    }
}

/// Parses a network in CIDR notation.
pub fn network(text: &str) -> Result<IpNet, ParseError> {
    const ALLOWED: &str = "write a network such as 10.0.0.0/8 or fd00::/8";
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => ParseError::new(
            format!("`{text}` has no prefix length"),
            format!("write {} for this address alone", IpNet::from(address)),
        ),
        Err(_) => ParseError::new(format!("`{text}` is not a network"), ALLOWED),
    })?;
    if net.trunc() != net {
        let what = format!("`{text}` has bits set beyond its prefix length");
        return Err(ParseError::new(what, format!("write {}", net.trunc())));
    }
    if let IpNet::V6(v6) = net
        && MAPPED.contains(&v6)
    {
        let what = format!("`{text}` is IPv4 within IPv6, which no packet has");
        return Err(ParseError::new(what, "write it as an IPv4 network"));
    }
    Ok(net)
}

/// IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// Parses a range of numbers such as `1024-65535`, or a single number; `what` names the numbers in messages.
pub fn range<T>(text: &str, what: &str, within: RangeInclusive<T>) -> Result<RangeInclusive<T>, ParseError>
where
    T: FromStr + PartialOrd + Copy + Display,
{
    let (from, to) = (within.start(), within.end());
    let allowed = format!("{what} from {from} to {to}, or a range such as \"100-199\" of them");
    let number = |text: &str| text.trim().parse().ok().filter(|number| within.contains(number));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Err(ParseError::new(format!("`{text}` is out of range or no number"), allowed));
    };
    if first > last {
        return Err(ParseError::new(format!("`{text}` is reversed"), format!("write \"{last}-{first}\"")));
    }
    Ok(first..=last)
}

/// Parses a number of bytes with or without a unit.
pub fn bytes(text: &str) -> Result<u64, ParseError> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let wrong = || {
        ParseError::new(
            format!("`{text}` is not a number of bytes"),
            "write such as 65536, \"64KiB\" or \"1MiB\"",
        )
    };
    let (digits, unit) = UNITS
        .iter()
        .find_map(|&(name, unit)| text.strip_suffix(name).map(|digits| (digits.trim(), unit)))
        .ok_or_else(wrong)?;
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(range("100-199", "a VNI", 0..=1000u32), Ok(100..=199));
        for (text, expected) in
            [("0", 0), ("12B", 12), ("64KiB", 65_536), ("2 MB", 2_000_000), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_reported_with_the_remedy() {
        assert_eq!(network("10.1.0.0/8").unwrap_err().allowed, "write 10.0.0.0/8");
        assert_eq!(network("10.1.0.9").unwrap_err().allowed, "write 10.1.0.9/32 for this address alone");
        assert!(network("::ffff:10.0.0.0/104").is_err());
        assert_eq!(range("9-1", "a VNI", 0..=9u32).unwrap_err().allowed, "write \"1-9\"");
        for text in ["", "-1", "1e3", "KiB", "99999999999999GiB", "1 TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
