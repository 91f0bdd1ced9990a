//! `reference.config`: the prefixes that make an address of a reference.

use std::collections::HashMap;

use crate::diagnostic::Refusal;

/// The prefixes by the name of the system.
#[derive(Clone, Debug)]
pub struct References(HashMap<Box<str>, Box<str>>);

impl Default for References {
    /// Returns the systems that published rule files use.
    fn default() -> Self {
        let known = [
            ("url", "http://"),
            ("cve", "https://cve.mitre.org/cgi-bin/cvename.cgi?name="),
            ("md5", "https://www.virustotal.com/gui/file/"),
            ("bugtraq", "http://www.securityfocus.com/bid/"),
            ("bid", "http://www.securityfocus.com/bid/"),
        ];
        Self(known.into_iter().map(|(system, prefix)| (system.into(), prefix.into())).collect())
    }
}

impl References {
    /// Adds the systems of a file, which replace those of the same name. Names what it refuses.
    pub fn add(&mut self, text: &[u8]) -> Vec<Refusal> {
        let mut refused = Vec::new();
        for (place, line) in super::lines(text) {
            let rest = line.strip_prefix(b"config").map(<[u8]>::trim_ascii_start);
            let fields = rest.and_then(|rest| rest.strip_prefix(b"reference:")).map(<[u8]>::trim_ascii);
            let pair = fields.and_then(|fields| {
                let end = fields.iter().position(u8::is_ascii_whitespace)?;
                Some((fields.get(..end)?, fields.get(end..)?.trim_ascii()))
            });
            if let Some((system, prefix)) = pair {
                let system = String::from_utf8_lossy(system).to_lowercase().into();
                self.0.insert(system, String::from_utf8_lossy(prefix).into());
            } else {
                refused.push(Refusal {
                    line: place.line,
                    column: place.column,
                    sid: None,
                    keyword: "config reference".to_owned(),
                    reason: "write `config reference: system http://prefix`".to_owned(),
                });
            }
        }
        refused
    }

    /// Returns the address of a reference, or `None` if the system is not known.
    #[must_use]
    pub fn address(&self, system: &str, name: &str) -> Option<String> {
        self.0.get(system).map(|prefix| format!("{prefix}{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_becomes_an_address() {
        let mut references = References::default();
        let refused = references.add(b"config reference: Own https://own.example/\nconfig reference: x\n");
        assert_eq!(references.address("own", "1").as_deref(), Some("https://own.example/1"));
        assert_eq!(references.address("url", "www.example").as_deref(), Some("http://www.example"));
        assert_eq!(references.address("none", "1"), None);
        assert_eq!((refused.len(), refused[0].line), (1, 2));
    }
}
