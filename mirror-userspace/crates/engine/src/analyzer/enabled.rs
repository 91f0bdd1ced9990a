//! The set of built-in analyzers that run.

use super::registry::{DNS, HTTP, QUIC, SSH, Set, TLS};

/// The built-in analyzers that run, of those that emit events of their own. All others always run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled(Set);

/// The analyzers that can be switched off, by the `event_type` of their events.
const NAMES: [(&str, u32); 5] = [("dns", DNS), ("http", HTTP), ("quic", QUIC), ("ssh", SSH), ("tls", TLS)];

impl Default for Enabled {
    fn default() -> Self {
        Self(Set::MAX)
    }
}

impl Enabled {
    /// Returns the set in which all optional analyzers are off.
    #[must_use]
    pub fn none() -> Self {
        Self(NAMES.iter().fold(Set::MAX, |set, (_, bit)| set & !(1 << bit)))
    }

    /// Returns the names of all optional analyzers.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|&(name, _)| name)
    }

    /// Returns this set with the analyzer of this name added, or `None` if there is none.
    #[must_use]
    pub fn with(self, name: &str) -> Option<Self> {
        let (_, bit) = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(Self(self.0 | 1 << bit))
    }

    /// Returns the names of the optional analyzers that run.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(_, bit)| self.0 & 1 << bit != 0).map(|&(name, _)| name)
    }

    pub(super) const fn set(self) -> Set {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyzer::EVENT_TYPES;

    #[test]
    fn names_are_those_of_the_events_and_switch_one_analyzer_each() {
        assert!(Enabled::all_names().eq(Enabled::default().names()));
        // Every analyzer may raise an alert.
        let mut types: Vec<_> = EVENT_TYPES.into_iter().filter(|name| *name != "alert").collect();
        types.sort_unstable();
        assert!(Enabled::all_names().eq(types));
        assert_eq!(Enabled::none().names().count(), 0);
        let some = Enabled::none().with("tls").and_then(|set| set.with("dns")).unwrap();
        assert!(some.names().eq(["dns", "tls"]));
        assert_eq!(some.with("smtp"), None);
        assert_eq!(Enabled::all_names().try_fold(Enabled::none(), Enabled::with), Some(Enabled::default()));
    }
}
