//! Which of the built-in analyzers run.

use super::registry::{DNS, HTTP, QUIC, SSH, Set, TLS};

/// Which of the built-in analyzers that make events of their own run. All others always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled(Set);

/// Those that can be switched off, by the `event_type` of what they emit.
const NAMES: [(&str, u32); 5] = [("dns", DNS), ("http", HTTP), ("quic", QUIC), ("ssh", SSH), ("tls", TLS)];

impl Default for Enabled {
    fn default() -> Self {
        Self(Set::MAX)
    }
}

impl Enabled {
    /// None of those that can be switched off.
    #[must_use]
    pub fn none() -> Self {
        Self(NAMES.iter().fold(Set::MAX, |set, (_, bit)| set & !(1 << bit)))
    }

    /// The names of all that can be switched off.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|&(name, _)| name)
    }

    /// These and the one of this name, if there is one.
    #[must_use]
    pub fn with(self, name: &str) -> Option<Self> {
        let (_, bit) = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(Self(self.0 | 1 << bit))
    }

    /// The names of those that run, of those that could be switched off.
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
        // Whatever runs may raise an alert.
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
