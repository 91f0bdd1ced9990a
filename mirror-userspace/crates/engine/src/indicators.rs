//! Indicators: names, addresses and fingerprints of traffic that an operator should examine. A flow that
//! matches one raises an alert ([`Context::alert`]), and where only alerts are kept, its packets are kept.
//!
//! A look-up does not allocate. A new flow takes one look-up per prefix length; a name one per label, at most
//! as many as the longest indicator has; a fingerprint one. A packet takes none.
//!
//! [`Context::alert`]: crate::analyzer::Context

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use mirror_base::{ParseError, file, text};
use mirror_xdp_common::Address;

/// Maximum length of a domain name, as text.
const MAX_DOMAIN: usize = 253;
/// Maximum length of a label.
const MAX_LABEL: usize = 63;
/// Maximum length of a JA4 in bytes: two of its characters may stand for any byte.
const MAX_JA4: usize = 38;

/// Size in bytes of the longest file of indicators that is read.
const LONGEST_FILE: u64 = 256 << 20;
/// Maximum number of wrong lines that are reported of a file.
const MOST_WRONG: usize = 1000;

/// A set of indicators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indicators {
    /// Domains, in lower case.
    domains: HashSet<Box<[u8]>>,
    /// Number of labels of the longest domain.
    labels: usize,
    /// Prefix length and first address of each network; IPv4 networks are mapped into IPv6.
    networks: HashSet<(u8, u128)>,
    /// The prefix lengths of the networks, each once.
    prefixes: Vec<u8>,
    ja3: HashSet<[u8; 16]>,
    ja4: HashSet<Box<[u8]>>,
}

impl Indicators {
    /// Returns whether there are no indicators.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of indicators.
    #[must_use]
    pub fn len(&self) -> usize {
        self.domains.len() + self.networks.len() + self.ja3.len() + self.ja4.len()
    }

    /// Adds an indicator of the kind that its form implies: an address or a network, a JA3 (MD5 in
    /// hexadecimal), a JA4, or a domain with all its subdomains.
    ///
    /// # Errors
    ///
    /// If the text has none of these forms.
    pub fn add(&mut self, text: &str) -> Result<(), ParseError> {
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
        } else if let Some(wrong) = nearly_address(text) {
            return Err(wrong);
        } else if let Some(domain) = domain(text) {
            self.labels = self.labels.max(domain.split('.').count());
            self.domains.insert(domain.into_bytes().into());
        } else {
            return Err(ParseError::new(
                format!("`{text}` is no indicator"),
                "write a domain such as \"evil.example\", an address, a network, a JA3 or a JA4",
            ));
        }
        Ok(())
    }

    /// Adds the indicators of a file, one per line. Empty lines, and text after a `#`, are ignored.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or some of its lines are not indicators; the error lists up to a thousand
    /// of them.
    pub fn add_file(&mut self, path: &Path) -> Result<(), FileError> {
        let text = file::read_text(path, LONGEST_FILE)
            .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
        let lines = (1..).zip(text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()));
        let wrong = lines.filter(|(_, text)| !text.is_empty());
        let wrong = wrong.filter_map(|(line, text)| Some((line, self.add(text).err()?)));
        let wrong: Vec<_> = wrong.take(MOST_WRONG).collect();
        if wrong.is_empty() { Ok(()) } else { Err(FileError::Lines { path: path.to_owned(), wrong }) }
    }

    /// Returns whether an address matches an indicator.
    #[must_use]
    pub fn has_address(&self, address: Address) -> bool {
        let bits = u128::from(address.high) << 64 | u128::from(address.low);
        self.prefixes.iter().any(|&length| self.networks.contains(&(length, bits & mask(length))))
    }

    /// Returns the domain among the indicators that equals a name or is a parent of it.
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

    /// Returns whether any indicator is a JA3.
    #[must_use]
    pub fn has_any_ja3(&self) -> bool {
        !self.ja3.is_empty()
    }

    /// Returns whether this JA3 is an indicator.
    #[must_use]
    pub fn has_ja3(&self, digest: &[u8; 16]) -> bool {
        self.ja3.contains(digest)
    }

    /// Returns whether any indicator is a JA4.
    #[must_use]
    pub fn has_any_ja4(&self) -> bool {
        !self.ja4.is_empty()
    }

    /// Returns whether this JA4 is an indicator.
    #[must_use]
    pub fn has_ja4(&self, ja4: &str) -> bool {
        self.ja4.contains(ja4.as_bytes())
    }
}

/// The reason why a file of indicators is rejected.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the indicators {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// At least one line is wrong.
    #[error("{}", lines(path, wrong))]
    Lines {
        /// The file.
        path: PathBuf,
        /// The number of each wrong line, from 1, and what is wrong with it.
        wrong: Vec<(usize, ParseError)>,
    },
}

/// Formats the first of some wrong lines, and the number of further ones.
fn lines(path: &Path, wrong: &[(usize, ParseError)]) -> String {
    let [(line, first), more @ ..] = wrong else { return String::new() };
    let more = match more.len() {
        0 => String::new(),
        more => format!(" ({more} more lines are wrong)"),
    };
    format!("{}:{line}: {first}{more}", path.display())
}

/// Returns the mask of the address bits that a prefix of this length covers.
const fn mask(length: u8) -> u128 {
    match 128_u32.checked_sub(length as u32) {
        Some(rest) if rest < 128 => u128::MAX << rest,
        _ => 0,
    }
}

/// The shortest prefix of a network: a network of more than a sixteenth of all addresses is not an indicator.
const SHORTEST_PREFIX: u8 = 4;

/// Parses a network or an address into prefix length and first address; returns `None` for any other text.
fn network(text: &str) -> Option<Result<(u8, u128), ParseError>> {
    let network = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => Ok(IpNet::from(address)),
        (_, Ok(_)) => text::network(text),
        _ => return None,
    };
    Some(network.and_then(is_of_some).map(|network| {
        let first = Address::from(network.addr());
        let before = if network.addr().is_ipv4() { 96 } else { 0 };
        (before + network.prefix_len(), u128::from(first.high) << 64 | u128::from(first.low))
    }))
}

/// Returns the network, unless it has so many hosts that nearly every flow would raise an alert.
fn is_of_some(network: IpNet) -> Result<IpNet, ParseError> {
    if network.prefix_len() >= SHORTEST_PREFIX {
        return Ok(network);
    }
    let of = if network.prefix_len() == 0 { "all" } else { "too many" };
    let family = if network.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    Err(ParseError::new(
        format!("`{network}` is {of} of {family}: nearly every flow would raise an alert"),
        format!("write networks of /{SHORTEST_PREFIX} or smaller"),
    ))
}

/// Returns what is wrong with a text that resembles an address or a network but is not one. Otherwise it
/// would be taken for a name, if at all, and never be found.
fn nearly_address(text: &str) -> Option<ParseError> {
    const ALLOWED: &str =
        "write an address such as 192.0.2.7 or 2001:db8::7, or a network such as 192.0.2.0/24";
    let wrong = |what: &str| Some(ParseError::new(format!("`{text}` is {what}"), ALLOWED));
    if text.contains("://") {
        return Some(ParseError::new(format!("`{text}` is a URL"), "write the name of its host alone"));
    }
    if let Some((address, _)) = text.split_once('/') {
        let is_address = address.parse::<IpAddr>().is_ok() || nearly_address(address).is_some();
        return is_address.then(|| wrong("no network")).flatten();
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if is_port && !host.contains(':') || host.ends_with(']') {
            return Some(ParseError::new(
                format!("`{text}` has a port"),
                "write the address or the name alone",
            ));
        }
        return wrong("no address");
    }
    // No name ends in such a label: top-level domains are letters (RFC 3696, section 2), or begin with
    // `xn--`.
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
    let is_name = last.len() > 1 && !last.starts_with(|first: char| first.is_ascii_digit());
    if text.contains('.') && !last.is_empty() && !is_name {
        wrong("neither an address nor a name")
    } else {
        None
    }
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

/// Returns whether a text has the form of a JA4, such as `t13d1516h2_8daaf6152771_b186095e22b6`.
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

/// Returns a domain in lower case, without a trailing dot; `None` for a single label, which would match about
/// half of the world.
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
            let ParseError { what, allowed } = Indicators::default().add(wrong).unwrap_err();
            assert!(!what.is_empty() && allowed.starts_with("write "), "{wrong}: {what}; {allowed}");
        }
    }

    #[test]
    fn what_is_nearly_an_address_is_no_name() {
        let wrong = |text: &str| Indicators::default().add(text).unwrap_err().to_string();
        for text in [
            "10.1.2.300",
            "10.1.2",
            "1.2.3.4.5",
            "1.2.3.4.",
            "010.1.2.3",
            "10.1.2.3a",
            "10.1.2.x",
            "10.1.2.0x7f",
            "1.2.3.4/33",
            "10.1.2.300/24",
            "10.1.2/24",
            "1.2.3.4/",
            "fe80::xyz",
            "fe80::1%eth0",
            "2001:db8::/129",
            "2001:db8:::1",
        ] {
            assert!(wrong(text).contains("write an address such as"), "{}", wrong(text));
        }
        for text in ["1.2.3.4:443", "evil.example:443", "[2001:db8::1]:443"] {
            assert!(wrong(text).contains("has a port"), "{}", wrong(text));
        }
        assert!(wrong("https://evil.example/a").contains("is a URL"));
        for text in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3"] {
            assert!(wrong(text).contains("nearly every flow would raise an alert"), "{}", wrong(text));
        }
        indicators(&[
            "1.2.3.com",
            "4.3.2.1.in-addr.arpa",
            "evil.xn--p1ai",
            "ff00::/8",
            "_x.k8s",
            "224.0.0.0/4",
        ]);
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
        assert!(indicators(&["240.0.0.0/4"]).has_address(Address::from_v4(0xf000_0007)));
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
        assert!(error.ends_with("or a JA4"), "{error}");
        writeln!(file, "192.0.2.8\n10.1.2.300").unwrap();
        let error = all.add_file(file.path()).unwrap_err().to_string();
        assert!(error.contains(":5: `evil` is no indicator; write a domain"), "{error}");
        assert!(error.ends_with("(1 more lines are wrong)"), "{error}");
    }
}
