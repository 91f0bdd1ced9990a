//! What is asked for behind `/`: which flows.
//!
//! `vni=7 port=443` is put to the appliance, which looks through all of its flows; so is an address alone. Any
//! other word is looked for in what the rows show.

use std::fmt::Write as _;
use std::net::IpAddr;

use mirror_rules::text;

/// The largest VNI.
const MAX_VNI: u32 = (1 << 24) - 1;

/// Which of the flows are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// As it was typed.
    pub(super) text: String,
    /// What the appliance is asked for: parameters of `/api/v1/flows`, by name.
    asked: Vec<(&'static str, String)>,
    /// What each row has to have in it, in lower case.
    words: Vec<String>,
}

impl Filter {
    /// Reads what was typed; the error says what is wrong with it.
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
                return Err(format!("{name} is there twice"));
            }
            filter.asked.push((name, value));
        }
        Ok(filter)
    }

    /// Whether all flows are shown.
    pub(super) const fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.words.is_empty()
    }

    /// Whether a row that shows these texts has all the words.
    pub(super) fn matches(&self, texts: &[&str]) -> bool {
        self.words.iter().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)))
    }

    /// The same flows of the appliance, with these words only.
    pub(super) fn with_words_of(&self, other: &Self) -> Self {
        Self { words: other.words.clone(), ..self.clone() }
    }

    /// The path at which the appliance answers, of so many flows, those that are largest by `sort`.
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

/// The parameter of the API that a name stands for.
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

/// The value, where the API takes it.
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
