//! Resolves the addresses and ports of headers: `any`, lists, negation, ranges, and variables such as `$HOME_NET`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::limits;
use crate::number::{digits_of, split_once};
use crate::sets::{AddressSet, Ordinal, PortSet, RangeSet, number};

/// The variables that published rules use, as Suricata ships them but for `EXTERNAL_NET`, which is `any` as well.
const DEFAULTS: [(&str, &str); 26] = [
    ("HOME_NET", "any"),
    ("EXTERNAL_NET", "any"),
    ("HTTP_SERVERS", "$HOME_NET"),
    ("SMTP_SERVERS", "$HOME_NET"),
    ("SQL_SERVERS", "$HOME_NET"),
    ("DNS_SERVERS", "$HOME_NET"),
    ("TELNET_SERVERS", "$HOME_NET"),
    ("AIM_SERVERS", "$EXTERNAL_NET"),
    ("DC_SERVERS", "$HOME_NET"),
    ("DNP3_SERVER", "$HOME_NET"),
    ("DNP3_CLIENT", "$HOME_NET"),
    ("MODBUS_CLIENT", "$HOME_NET"),
    ("MODBUS_SERVER", "$HOME_NET"),
    ("ENIP_CLIENT", "$HOME_NET"),
    ("ENIP_SERVER", "$HOME_NET"),
    ("HTTP_PORTS", "80"),
    ("SHELLCODE_PORTS", "!80"),
    ("ORACLE_PORTS", "1521"),
    ("SSH_PORTS", "22"),
    ("DNP3_PORTS", "20000"),
    ("MODBUS_PORTS", "502"),
    ("FILE_DATA_PORTS", "[$HTTP_PORTS,110,143]"),
    ("FTP_PORTS", "21"),
    ("GENEVE_PORTS", "6081"),
    ("VXLAN_PORTS", "4789"),
    ("TEREDO_PORTS", "3544"),
];

/// The variables by name.
#[derive(Clone, Debug)]
pub struct Variables(BTreeMap<Box<str>, Box<str>>);

impl Default for Variables {
    /// Returns the variables that published rules use. Networks are `any`.
    fn default() -> Self {
        Self(DEFAULTS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }
}

impl Variables {
    /// Sets a variable. The value is checked when it is used.
    ///
    /// ```
    /// use mirror_signatures::variables::{Resolver, Variables};
    ///
    /// let mut variables = Variables::default();
    /// variables.set("HOME_NET", "[10.0.0.0/8,!10.1.0.0/16]").unwrap();
    /// let mut resolver = Resolver::new(&variables);
    /// let home = resolver.addresses("$HOME_NET").unwrap();
    /// assert_eq!(home.ranges().len(), 2);
    /// assert!(resolver.addresses("!any").unwrap_err().contains("nothing"));
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if !is_name(name) {
            return Err(format!("`{name}` is no name of a variable"));
        }
        if value.len() > limits::RULE {
            return Err(format!("the value of `{name}` is too long"));
        }
        self.0.insert(name.into(), value.into());
        Ok(())
    }

    /// Returns the value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }
}

/// Resolves lists of addresses and ports, equal ones once.
#[derive(Debug)]
pub struct Resolver<'a> {
    variables: &'a Variables,
    addresses: HashMap<Box<str>, Result<Arc<AddressSet>, String>>,
    ports: HashMap<Box<str>, Result<Arc<PortSet>, String>>,
}

impl<'a> Resolver<'a> {
    /// Makes a resolver.
    #[must_use]
    pub fn new(variables: &'a Variables) -> Self {
        Self { variables, addresses: HashMap::new(), ports: HashMap::new() }
    }

    /// Resolves a list of addresses. A list that contains no address is an error.
    pub fn addresses(&mut self, text: &str) -> Result<Arc<AddressSet>, String> {
        if let Some(known) = self.addresses.get(text) {
            return known.clone();
        }
        let result = resolve(self.variables, text, address);
        self.addresses.insert(text.into(), result.clone());
        result
    }

    /// Resolves a list of ports. A list that contains no port is an error.
    pub fn ports(&mut self, text: &str) -> Result<Arc<PortSet>, String> {
        if let Some(known) = self.ports.get(text) {
            return known.clone();
        }
        let result = resolve(self.variables, text, port);
        self.ports.insert(text.into(), result.clone());
        result
    }
}

type Literal<T> = fn(&[u8]) -> Option<RangeSet<T>>;

fn resolve<T: Ordinal>(
    variables: &Variables,
    text: &str,
    literal: Literal<T>,
) -> Result<Arc<RangeSet<T>>, String> {
    let mut lists = Lists { variables, literal, open: Vec::new(), known: HashMap::new(), depth: 0 };
    let set = lists.list(text.as_bytes())?;
    if set.is_empty() {
        return Err(format!("`{text}` contains nothing"));
    }
    Ok(Arc::new(set))
}

struct Lists<'a, T> {
    variables: &'a Variables,
    literal: Literal<T>,
    /// The variables that are being resolved.
    open: Vec<String>,
    /// Those that are, so that each is resolved once however often it is used.
    known: HashMap<String, RangeSet<T>>,
    depth: usize,
}

impl<T: Ordinal> Lists<'_, T> {
    fn list(&mut self, text: &[u8]) -> Result<RangeSet<T>, String> {
        self.depth += 1;
        if self.depth > limits::DEPTH {
            return Err(format!("more than {} nested lists", limits::DEPTH));
        }
        let set = self.element(text.trim_ascii())?;
        self.depth -= 1;
        if set.is_too_large() {
            return Err(format!("more than {} ranges", limits::RANGES));
        }
        Ok(set)
    }

    fn element(&mut self, text: &[u8]) -> Result<RangeSet<T>, String> {
        let shown = || crate::diagnostic::shown(text);
        if let Some(rest) = text.strip_prefix(b"!") {
            return Ok(self.list(rest)?.complement());
        }
        if text.eq_ignore_ascii_case(b"any") {
            return Ok(RangeSet::all());
        }
        if let Some(name) = text.strip_prefix(b"$") {
            return self.variable(&String::from_utf8_lossy(name));
        }
        if let Some(inner) = text.strip_prefix(b"[") {
            let inner = inner.strip_suffix(b"]").ok_or_else(|| format!("a `]` must end {}", shown()))?;
            return self.elements(inner);
        }
        (self.literal)(text).ok_or_else(|| format!("{} is unknown here", shown()))
    }

    fn variable(&mut self, name: &str) -> Result<RangeSet<T>, String> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        if self.open.iter().any(|open| open == name) {
            let chain: Vec<_> = self.open.iter().map(|open| format!("${open}")).collect();
            return Err(format!("${name} refers to itself: {} → ${name}", chain.join(" → ")));
        }
        let variables = self.variables;
        let value = variables.get(name).ok_or_else(|| format!("${name} is not set"))?;
        self.open.push(name.to_owned());
        // A value may be a list without brackets.
        let set = self.elements(value.as_bytes()).map_err(|reason| {
            // A circle is named as a whole.
            if reason.contains(" → ") { reason } else { format!("${name}: {reason}") }
        })?;
        self.open.pop();
        self.known.insert(name.to_owned(), set.clone());
        Ok(set)
    }

    /// The elements of a list: what is in one of them and in none of the negated ones.
    fn elements(&mut self, text: &[u8]) -> Result<RangeSet<T>, String> {
        let (mut included, mut excluded) = (Vec::new(), Vec::new());
        let mut depth = 0_usize;
        let mut start = 0;
        for end in 0..=text.len() {
            match text.get(end) {
                Some(b'[') => depth += 1,
                Some(b']') => {
                    depth = depth.checked_sub(1).ok_or_else(|| "a `]` closes no list".to_owned())?;
                }
                Some(b',') if depth == 0 => {}
                None => {}
                Some(_) => continue,
            }
            if !matches!(text.get(end), Some(b',') | None) || depth > 0 && end < text.len() {
                continue;
            }
            let element = text.get(start..end).unwrap_or_default().trim_ascii();
            start = end + 1;
            if element.is_empty() {
                return Err(format!("an element of {} is missing", crate::diagnostic::shown(text)));
            }
            match element.strip_prefix(b"!") {
                Some(element) => excluded.push(self.list(element)?),
                None => included.push(self.list(element)?),
            }
        }
        let included = if included.is_empty() { RangeSet::all() } else { RangeSet::union(&included) };
        Ok(if excluded.is_empty() { included } else { included.without(&RangeSet::union(&excluded)) })
    }
}

fn address(text: &[u8]) -> Option<AddressSet> {
    let parse = |text: &[u8]| str::from_utf8(text.trim_ascii()).ok()?.parse::<IpAddr>().ok();
    if let Some((address, prefix)) = split_once(text, b"/") {
        let address = parse(address)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match (digits_of(prefix.trim_ascii(), 10), parse(prefix), address) {
            (Some(bits), _, _) => u32::try_from(bits).ok()?,
            (None, Some(IpAddr::V4(mask)), IpAddr::V4(_)) => {
                let mask = mask.to_bits();
                // The ones of a mask come first.
                (mask.leading_ones() == mask.count_ones()).then_some(mask.count_ones())?
            }
            _ => return None,
        };
        let host_bits = u32::checked_sub(width, bits)?;
        let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        let base = number(address) & !hosts;
        return Some(AddressSet::range(base, base | hosts));
    }
    if let Some((first, last)) = split_once(text, b"-") {
        let (first, last) = (parse(first)?, parse(last)?);
        let ordered = first.is_ipv4() == last.is_ipv4() && first <= last;
        return ordered.then(|| AddressSet::range(number(first), number(last)));
    }
    let address = number(parse(text)?);
    Some(AddressSet::range(address, address))
}

fn port(text: &[u8]) -> Option<PortSet> {
    let parse = |text: &[u8], or: u16| match text.trim_ascii() {
        b"" => Some(or),
        digits => digits_of(digits, 10).and_then(|port| u16::try_from(port).ok()),
    };
    if text.is_empty() {
        return None;
    }
    let (first, last) = match split_once(text, b":") {
        Some((first, last)) if first.trim_ascii().is_empty() && last.trim_ascii().is_empty() => return None,
        Some((first, last)) => (parse(first, 0)?, parse(last, u16::MAX)?),
        None => {
            let port = parse(text, 0)?;
            (port, port)
        }
    };
    (first <= last).then(|| PortSet::range(first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Result<Vec<(u16, u16)>, String> {
        let mut variables = Variables::default();
        variables.set("A", "[$B,!$C]").unwrap();
        variables.set("B", "10:20,30").unwrap();
        variables.set("C", "15").unwrap();
        variables.set("LOOP", "[1,$POOL]").unwrap();
        variables.set("POOL", "!$LOOP").unwrap();
        Resolver::new(&variables).ports(text).map(|set| set.ranges().to_vec())
    }

    #[test]
    fn ports_are_resolved() {
        let cases: &[(&str, &[(u16, u16)])] = &[
            ("any", &[(0, 65535)]),
            ("80", &[(80, 80)]),
            (":1023", &[(0, 1023)]),
            ("1024:", &[(1024, 65535)]),
            ("!80", &[(0, 79), (81, 65535)]),
            ("[80, 443,81]", &[(80, 81), (443, 443)]),
            ("[1:100,!50]", &[(1, 49), (51, 100)]),
            ("[!1:65535]", &[(0, 0)]),
            ("[1:10,![2:9,!5]]", &[(1, 1), (5, 5), (10, 10)]),
            ("$A", &[(10, 14), (16, 20), (30, 30)]),
            ("![$A,0:9,21:]", &[(15, 15)]),
            ("$FILE_DATA_PORTS", &[(80, 80), (110, 110), (143, 143)]),
        ];
        for (text, expected) in cases {
            assert_eq!(ports(text).as_deref(), Ok(*expected), "{text}");
        }
        let wrong = [
            ("", "unknown"),
            ("[80", "`]`"),
            ("80]", "unknown"),
            ("[80,]", "missing"),
            ("[[80]", "`]`"),
            ("65536", "unknown"),
            ("20:10", "unknown"),
            (":", "unknown"),
            ("$NONE", "$NONE is not set"),
            ("!any", "contains nothing"),
            ("[80,!80]", "contains nothing"),
            ("$LOOP", "$LOOP refers to itself: $LOOP → $POOL → $LOOP"),
        ];
        for (text, reason) in wrong {
            let error = ports(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_resolved() {
        let mut variables = Variables::default();
        variables.set("HOME_NET", "[10.0.0.0/8,fd00::/8]").unwrap();
        variables.set("EXTERNAL_NET", "!$HOME_NET").unwrap();
        let mut resolver = Resolver::new(&variables);
        let mut contains = |list: &str, address: &str| {
            resolver.addresses(list).unwrap().contains(number(address.parse().unwrap()))
        };
        for (list, address, expected) in [
            ("any", "10.0.0.1", true),
            ("$HOME_NET", "10.255.0.1", true),
            ("$HOME_NET", "fd12::1", true),
            ("$HOME_NET", "11.0.0.1", false),
            ("$EXTERNAL_NET", "11.0.0.1", true),
            ("$EXTERNAL_NET", "fd12::1", false),
            ("[$HOME_NET,!10.1.0.0/16]", "10.1.2.3", false),
            ("[$HOME_NET,!10.1.0.0/16]", "10.2.2.3", true),
            ("192.168.0.0/255.255.0.0", "192.168.9.9", true),
            ("1.2.3.4-1.2.3.8", "1.2.3.8", true),
            ("1.2.3.4-1.2.3.8", "1.2.3.9", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("$HTTP_SERVERS", "10.0.0.1", true),
        ] {
            assert_eq!(contains(list, address), expected, "{list} {address}");
        }
        for wrong in
            ["10.0.0.0/33", "10.0.0", "10.0.0.0/255.0.255.0", "1.2.3.4-::1", "1.2.3.8-1.2.3.4", "![any]"]
        {
            assert!(resolver.addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hostile_variables_are_bounded() {
        let mut variables = Variables::default();
        // Each refers to the next twice: written out, 2^100 elements.
        for index in 0..100 {
            variables.set(&format!("V{index}"), &format!("[$V{0},$V{0}]", index + 1)).unwrap();
        }
        variables.set("V100", "1").unwrap();
        variables.set("W", "[$V90,$V90]").unwrap();
        let mut resolver = Resolver::new(&variables);
        assert!(resolver.ports("$V0").unwrap_err().contains("nested"));
        assert_eq!(resolver.ports("$W").unwrap().ranges(), [(1, 1)]);
        assert!(resolver.ports(&"[".repeat(10_000)).is_err());
        assert!(variables.set("", "1").is_err() && variables.set("A B", "1").is_err());
    }
}
