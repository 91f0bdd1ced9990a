//! `classification.config`: the classes of rules, with descriptions and priorities.

use std::collections::HashMap;

use crate::diagnostic::{Refusal, shown};
use crate::number::unsigned;

/// A class of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name in alerts.
    pub description: Box<str>,
    /// Its priority; 1 is the highest.
    pub priority: u8,
}

/// The priority of a rule without class, and of a class that is not known.
pub const DEFAULT_PRIORITY: u8 = 3;

/// The classes by name.
#[derive(Clone, Debug)]
pub struct Classes(HashMap<Box<str>, Class>);

impl Default for Classes {
    /// Returns the classes that published rule files use.
    fn default() -> Self {
        let class = |(name, description, priority): &(&str, &str, u8)| {
            ((*name).into(), Class { description: (*description).into(), priority: *priority })
        };
        Self(KNOWN.iter().map(class).collect())
    }
}

impl Classes {
    /// Adds the classes of a file, which replace those of the same name. Names what it refuses.
    pub fn add(&mut self, text: &[u8]) -> Vec<Refusal> {
        let mut refused = Vec::new();
        for (place, line) in super::lines(text) {
            let reason = match class(&line) {
                Ok((name, class)) => {
                    self.0.insert(name, class);
                    continue;
                }
                Err(reason) => reason,
            };
            let keyword = "config classification".to_owned();
            refused.push(Refusal { line: place.line, column: place.column, sid: None, keyword, reason });
        }
        refused
    }

    /// Returns a class.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Class> {
        self.0.get(name)
    }
}

fn class(line: &[u8]) -> Result<(Box<str>, Class), String> {
    let form = || "write `config classification: name,description,priority`".to_owned();
    let rest = line
        .strip_prefix(b"config")
        .and_then(|rest| rest.trim_ascii_start().strip_prefix(b"classification:"));
    let fields: Vec<&[u8]> =
        rest.ok_or_else(form)?.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    // A description may contain commas.
    let [name, description @ .., priority] = fields.as_slice() else { return Err(form()) };
    if name.is_empty() || description.is_empty() {
        return Err(form());
    }
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(format!("{} is no name of a class", shown(name)));
    }
    let priority = u8::try_from(unsigned(priority, 255)?).unwrap_or(DEFAULT_PRIORITY);
    let description = String::from_utf8_lossy(&description.join(&b", "[..])).into();
    Ok((String::from_utf8_lossy(name).to_lowercase().into(), Class { description, priority }))
}

/// The classes of published rule files: name, description, priority.
const KNOWN: [(&str, &str, u8); 43] = [
    ("not-suspicious", "Not Suspicious Traffic", 3),
    ("unknown", "Unknown Traffic", 3),
    ("bad-unknown", "Potentially Bad Traffic", 2),
    ("attempted-recon", "Attempted Information Leak", 2),
    ("successful-recon-limited", "Information Leak", 2),
    ("successful-recon-largescale", "Large Scale Information Leak", 2),
    ("attempted-dos", "Attempted Denial of Service", 2),
    ("successful-dos", "Denial of Service", 2),
    ("attempted-user", "Attempted User Privilege Gain", 1),
    ("unsuccessful-user", "Unsuccessful User Privilege Gain", 1),
    ("successful-user", "Successful User Privilege Gain", 1),
    ("attempted-admin", "Attempted Administrator Privilege Gain", 1),
    ("successful-admin", "Successful Administrator Privilege Gain", 1),
    ("rpc-portmap-decode", "Decode of an RPC Query", 2),
    ("shellcode-detect", "Executable code was detected", 1),
    ("string-detect", "A suspicious string was detected", 3),
    ("suspicious-filename-detect", "A suspicious filename was detected", 2),
    ("suspicious-login", "An attempted login using a suspicious username was detected", 2),
    ("system-call-detect", "A system call was detected", 2),
    ("tcp-connection", "A TCP connection was detected", 4),
    ("trojan-activity", "A Network Trojan was detected", 1),
    ("unusual-client-port-connection", "A client was using an unusual port", 2),
    ("network-scan", "Detection of a Network Scan", 3),
    ("denial-of-service", "Detection of a Denial of Service Attack", 2),
    ("non-standard-protocol", "Detection of a non-standard protocol or event", 2),
    ("protocol-command-decode", "Generic Protocol Command Decode", 3),
    ("web-application-activity", "access to a potentially vulnerable web application", 2),
    ("web-application-attack", "Web Application Attack", 1),
    ("misc-activity", "Misc activity", 3),
    ("misc-attack", "Misc Attack", 2),
    ("icmp-event", "Generic ICMP event", 3),
    ("inappropriate-content", "Inappropriate Content was Detected", 1),
    ("policy-violation", "Potential Corporate Privacy Violation", 1),
    ("default-login-attempt", "Attempt to login by a default username and password", 2),
    ("targeted-activity", "Targeted Malicious Activity was Detected", 1),
    ("exploit-kit", "Exploit Kit Activity Detected", 1),
    ("external-ip-check", "Device Retrieving External IP Address Detected", 2),
    ("domain-c2", "Domain Observed Used for C2 Detected", 1),
    ("pup-activity", "Possibly Unwanted Program Detected", 2),
    ("credential-theft", "Successful Credential Theft Detected", 1),
    ("social-engineering", "Possible Social Engineering Attempted", 2),
    ("coin-mining", "Crypto Currency Mining Activity Detected", 2),
    ("command-and-control", "Malware Command and Control Activity Detected", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_classes_and_names_what_it_refuses() {
        let mut classes = Classes::default();
        let refused = classes.add(
            b"# comment\r\nconfig classification: own-class,One, with a comma,2\n\
              config classification: misc-attack,Other,1\r\n config nonsense\nconfig classification: a,b,x\n",
        );
        assert_eq!(classes.get("own-class").unwrap().description.as_ref(), "One, with a comma");
        assert_eq!(classes.get("misc-attack").unwrap().priority, 1);
        assert_eq!(classes.get("exploit-kit").unwrap().description.as_ref(), "Exploit Kit Activity Detected");
        assert_eq!(
            refused.iter().map(|refusal| (refusal.line, refusal.column)).collect::<Vec<_>>(),
            [(4, 2), (5, 1)]
        );
        assert!(refused[1].reason.contains("`x` is not a number"), "{}", refused[1]);
    }
}
