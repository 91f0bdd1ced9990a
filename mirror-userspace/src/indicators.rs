//! Indicators: names, addresses and fingerprints by which traffic is told that somebody should look at. A
//! flow with one of them raises an alert ([`Context::alert`]), and where only alerts are kept, its packets are.
//!
//! A look-up takes no memory: one a prefix length for a new flow, one a label for a name, at most as many as
//! the longest indicator has, and one for a fingerprint. No packet takes any.
//!
//! [`Context::alert`]: crate::analyzer::Context

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use mirror_xdp_common::Address;

use crate::filter::text::{self, Wrong};

/// The longest domain name, as text.
const MAX_DOMAIN: usize = 253;
/// The longest label of one.
const MAX_LABEL: usize = 63;
/// The longest JA4: two of its characters may be any of a byte.
const MAX_JA4: usize = 38;

/// What is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indicators {
    /// In lower case.
    domains: HashSet<Box<[u8]>>,
    /// Labels of the longest of them.
    labels: usize,
    /// Prefix length and first address of networks; those of IPv4 within those of IPv6.
    networks: HashSet<(u8, u128)>,
    /// The prefix lengths that there are.
    prefixes: Vec<u8>,
    ja3: HashSet<[u8; 16]>,
    ja4: HashSet<Box<[u8]>>,
}

impl Indicators {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.domains.len() + self.networks.len() + self.ja3.len() + self.ja4.len()
    }

    /// Adds what a text stands for, which its form tells: an address or a network, a JA3 (MD5 in
    /// hexadecimal), a JA4, or a domain with all that is below it.
    ///
    /// # Errors
    ///
    /// Where it has none of these forms.
    pub fn add(&mut self, text: &str) -> Result<(), Wrong> {
        if let Some(network) = network(text) {
            let (length, first) = network?;
            self.networks.insert((length, first));
            if !self.prefixes.contains(&length) {
                self.prefixes.push(length);
            }
        } else if let Some(digest) = ja3(text) {
            self.ja3.insert(digest);
        } else if is_ja4(text) {
            self.ja4.insert(text.as_bytes().into());
        } else if let Some(domain) = domain(text) {
            self.labels = self.labels.max(domain.split('.').count());
            self.domains.insert(domain.into_bytes().into());
        } else {
            return Err(Wrong::new(
                format!("`{text}` is no indicator"),
                "write a domain such as \"evil.example\", an address, a network, a JA3 or a JA4",
            ));
        }
        Ok(())
    }

    /// Adds the indicators of a file: one a line; empty lines, and what is behind a `#`, say nothing.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or at the first line that is no indicator.
    pub fn add_file(&mut self, path: &Path) -> Result<(), FileError> {
        let text = fs::read_to_string(path)
            .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if !text.is_empty() {
                self.add(text).map_err(|Wrong { what, allowed }| FileError::Line {
                    path: path.to_owned(),
                    line,
                    what,
                    allowed,
                })?;
            }
        }
        Ok(())
    }

    /// Whether an address is one of those that are looked for.
    #[must_use]
    pub fn has_address(&self, address: Address) -> bool {
        let bits = u128::from(address.high) << 64 | u128::from(address.low);
        self.prefixes.iter().any(|&length| self.networks.contains(&(length, bits & mask(length))))
    }

    /// The domain that a name is, or is below.
    #[must_use]
    pub fn domain_of(&self, name: &[u8]) -> Option<&[u8]> {
        if self.domains.is_empty() {
            return None;
        }
        let name = name.strip_suffix(b".").unwrap_or(name);
        let mut lower = [0; MAX_DOMAIN];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let mut end = lower.len();
        for _ in 0..self.labels {
            let dot = lower.get(..end)?.iter().rposition(|&byte| byte == b'.');
            let from = dot.map_or(0, |dot| dot + 1);
            if let Some(domain) = self.domains.get(lower.get(from..)?) {
                return Some(domain);
            }
            end = dot?;
        }
        None
    }

    /// Whether any fingerprint JA3 is looked for.
    #[must_use]
    pub fn has_any_ja3(&self) -> bool {
        !self.ja3.is_empty()
    }

    /// Whether this JA3 is looked for.
    #[must_use]
    pub fn has_ja3(&self, digest: &[u8; 16]) -> bool {
        self.ja3.contains(digest)
    }

    /// Whether any fingerprint JA4 is looked for.
    #[must_use]
    pub fn has_any_ja4(&self) -> bool {
        !self.ja4.is_empty()
    }

    /// Whether this JA4 is looked for.
    #[must_use]
    pub fn has_ja4(&self, ja4: &str) -> bool {
        self.ja4.contains(ja4.as_bytes())
    }
}

/// Why a file of indicators is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the indicators {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line of it is wrong.
    #[error("{}:{line}: {what}; {allowed}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
        /// What would be right.
        allowed: String,
    },
}

/// The bits of an address that a prefix has.
const fn mask(length: u8) -> u128 {
    match 128_u32.checked_sub(length as u32) {
        Some(rest) if rest < 128 => u128::MAX << rest,
        _ => 0,
    }
}

/// Prefix length and first address of a network, or of an address alone; `None` of what is neither.
fn network(text: &str) -> Option<Result<(u8, u128), Wrong>> {
    let network = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => Ok(IpNet::from(address)),
        (_, Ok(_)) => text::network(text),
        _ => return None,
    };
    Some(network.map(|network| {
        let first = Address::from(network.addr());
        let before = if network.addr().is_ipv4() { 96 } else { 0 };
        (before + network.prefix_len(), u128::from(first.high) << 64 | u128::from(first.low))
    }))
}

fn ja3(text: &str) -> Option<[u8; 16]> {
    let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut digest = [0; 16];
    for (byte, digits) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(digest)
}

/// Whether a text is such as `t13d1516h2_8daaf6152771_b186095e22b6`.
fn is_ja4(text: &str) -> bool {
    let mut parts = text.split('_');
    let (Some(first), Some(ciphers), Some(extensions), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_hash =
        |part: &str| part.len() == 12 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.len() <= MAX_JA4
        && first.chars().count() == 10
        && first.starts_with(['t', 'q'])
        && is_hash(ciphers)
        && is_hash(extensions)
}

/// A domain in lower case, without a dot at its end. One of a single label would be about half of the world.
fn domain(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain)
    };
    (text.len() <= MAX_DOMAIN && text.contains('.') && text.split('.').all(is_label)).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::IpAddr;

    use super::*;

    const JA3: &str = "e7d705a3286e19ea42f587b344ee6865";
    const JA4: &str = "t13d1516h2_8daaf6152771_b186095e22b6";

    fn indicators(texts: &[&str]) -> Indicators {
        let mut indicators = Indicators::default();
        for text in texts {
            indicators.add(text).unwrap();
        }
        indicators
    }

    #[test]
    fn the_form_of_an_indicator_tells_what_it_is() {
        let all = indicators(&["Evil.Example.", "192.0.2.7", "2001:db8::/32", JA3, JA4]);
        assert_eq!((all.domains.len(), all.networks.len(), all.ja3.len(), all.ja4.len()), (1, 2, 1, 1));
        for wrong in ["com", "evil..example", "*.example.com", "a b.example", "192.0.2.7/24", "", &JA3[1..]] {
            let Wrong { what, allowed } = Indicators::default().add(wrong).unwrap_err();
            assert!(!what.is_empty() && allowed.starts_with("write "), "{wrong}: {what}; {allowed}");
        }
    }

    #[test]
    fn a_domain_stands_for_all_that_is_below_it_and_for_nothing_beside_it() {
        let all = indicators(&["evil.example", "a.b.c.example"]);
        for name in [&b"evil.example"[..], b"EVIL.example.", b"x.y.z.a.b.c.d.e.f.evil.example"] {
            assert_eq!(all.domain_of(name), Some(&b"evil.example"[..]));
        }
        assert_eq!(all.domain_of(b"x.a.b.c.example"), Some(&b"a.b.c.example"[..]));
        let long = [&[b'a'; 250][..], b".evil.example"].concat();
        for name in
            [&b"notevil.example"[..], b"evil.example.com", b"b.c.example", b"example", b"", b".", &long]
        {
            assert_eq!(all.domain_of(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn an_address_is_looked_for_alone_or_by_its_network() {
        let all = indicators(&["192.0.2.0/24", "203.0.113.7", "2001:db8::/32", "::1"]);
        let has = |text: &str| all.has_address(text.parse::<IpAddr>().unwrap().into());
        assert!(["192.0.2.255", "203.0.113.7", "2001:db8:1::2", "::1"].into_iter().all(has));
        assert!(!["192.0.3.0", "203.0.113.8", "2001:db9::", "::2", "0.0.0.1"].into_iter().any(has));
        assert!(indicators(&["0.0.0.0/0"]).has_address(Address::from_v4(7)));
    }

    #[test]
    fn a_file_has_one_a_line_and_what_is_wrong_with_it_is_told_by_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "# feed\n\nevil.example  # seen in March\n{JA3}").unwrap();
        let mut all = Indicators::default();
        all.add_file(file.path()).unwrap();
        assert_eq!((all.len(), all.is_empty()), (2, false));
        writeln!(file, "evil").unwrap();
        let error = all.add_file(file.path()).unwrap_err().to_string();
        assert!(error.contains(":5: `evil` is no indicator; write a domain"), "{error}");
    }
}
