//! The filter behind `/`, which selects flows.
//!
//! The appliance evaluates conditions such as `vni=7 port=443`, and addresses, over all of its flows. All
//! other words are searched for in the rows shown.

use std::fmt::Write as _;
use std::net::IpAddr;

use mirror_rules::text;

/// The largest VNI.
const MAX_VNI: u32 = (1 << 24) - 1;

/// The selection of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// The text as it was typed.
    pub(super) text: String,
    /// The conditions for the appliance: parameters of `/api/v1/flows`, by name.
    asked: Vec<(&'static str, String)>,
    /// The words that each row must contain, in lower case.
    words: Vec<String>,
}

impl Filter {
    /// Parses the typed text; the error describes what is wrong with it.
    pub(super) fn parse(typed: &str) -> Result<Self, String> {
        let mut filter = Self { text: typed.trim().to_owned(), ..Self::default() };
        for word in typed.split_whitespace() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (parameter(name)?, checked(name, value)?),
                None if word.parse::<IpAddr>().is_ok() => ("address", word.to_owned()),
                None => {
                    filter.words.push(word.to_lowercase());
                    continue;
                }
            };
            if filter.asked.iter().any(|(other, _)| *other == name) {
                return Err(format!("{name} is given twice"));
            }
            filter.asked.push((name, value));
        }
        Ok(filter)
    }

    /// Returns true if all flows are selected.
    pub(super) const fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.words.is_empty()
    }

    /// Returns true if a row with these texts contains all the words.
    pub(super) fn matches(&self, texts: &[&str]) -> bool {
        self.words.iter().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)))
    }

    /// Returns a filter with the conditions of `self` and the words of `other`.
    pub(super) fn with_words_of(&self, other: &Self) -> Self {
        Self { words: other.words.clone(), ..self.clone() }
    }

    /// Returns the path of the request for the `limit` largest flows by `sort`.
    pub(super) fn path(&self, sort: &str, limit: usize) -> String {
        let mut path = format!("/api/v1/flows?sort={sort}&limit={limit}");
        for (name, value) in &self.asked {
            let _ = write!(path, "&{name}=");
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
                    path.push(char::from(byte));
                } else {
                    let _ = write!(path, "%{byte:02X}");
                }
            }
        }
        path
    }
}

/// Returns the parameter of the API for a name.
fn parameter(name: &str) -> Result<&'static str, String> {
    match name {
        "vni" => Ok("vni"),
        "address" | "host" | "ip" => Ok("address"),
        "port" => Ok("port"),
        "protocol" | "proto" => Ok("protocol"),
        "application" | "app" => Ok("application"),
        _ => Err(format!("`{name}` is none of vni, address, port, protocol, application")),
    }
}

/// Returns the value if the API accepts it.
fn checked(name: &str, value: &str) -> Result<String, String> {
    let wrong = |what: &str| Err(format!("{name}={value}: {what}"));
    match parameter(name)? {
        "vni" if !value.parse().is_ok_and(|vni: u32| vni <= MAX_VNI) => wrong("a number up to 16777215"),
        "address" if value.parse::<IpAddr>().is_err() => wrong("an address, such as 10.1.2.3"),
        "port" if value.parse::<u16>().is_err() => wrong("a number up to 65535"),
        "protocol" if text::protocol(value).is_err() => wrong("a name, such as tcp, or a number up to 255"),
        "application" if value.is_empty() => wrong("a name, such as dns"),
        _ => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_appliance_and_words_to_the_rows() {
        let filter = Filter::parse(" vni=7 Shop 10.1.2.3 app=dns ").unwrap();
        let path = "/api/v1/flows?sort=bytes&limit=5&vni=7&address=10.1.2.3&application=dns";
        assert_eq!(filter.path("bytes", 5), path);
        assert!(filter.matches(&["a", "www.SHOP.test"]));
        assert!(!filter.matches(&["a", "b"]));
        let filter = Filter::parse("fe80::1 app=ä&x").unwrap();
        assert!(filter.path("recent", 1).ends_with("&address=fe80::1&application=%C3%A4%26x"));
        assert!(Filter::parse("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_say_what_is_allowed() {
        for (typed, said) in [
            ("vni=16777216", "16777215"),
            ("port=x", "65535"),
            ("host=shop", "10.1.2.3"),
            ("protocol=nothing", "tcp"),
            ("size=3", "none of vni, address"),
            ("vni=1 vni=2", "twice"),
            ("app=", "dns"),
        ] {
            let error = Filter::parse(typed).unwrap_err();
            assert!(error.contains(said), "{typed}: {error}");
        }
    }
}
