//! The set of built-in analyzers that run.

use mirror_protocols::detect::{AppProto, OptIn};

use super::registry::{BuiltinSet, OPTIONAL};

/// The built-in analyzers that run, of those that emit events of their own. All others always run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled(BuiltinSet);

impl Default for Enabled {
    /// Returns all analyzers but those of protocols that are off by default.
    fn default() -> Self {
        let off = OPTIONAL.iter().filter(|(protocol, _)| protocol.is_opt_in());
        Self(off.fold(BuiltinSet::MAX, |set, (_, bit)| set & !bit))
    }
}

impl Enabled {
    /// Returns the set in which all optional analyzers are off.
    #[must_use]
    pub fn none() -> Self {
        Self(OPTIONAL.iter().fold(BuiltinSet::MAX, |set, (_, bit)| set & !bit))
    }

    /// Returns the names of all optional analyzers, in alphabetical order.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        Self(BuiltinSet::MAX).names()
    }

    /// Returns this set with the analyzer of this name added, or `None` if there is none.
    #[must_use]
    pub fn with(self, name: &str) -> Option<Self> {
        let (_, bit) = OPTIONAL.iter().find(|(protocol, _)| protocol.name() == name)?;
        Some(Self(self.0 | bit))
    }

    /// Returns the names of the optional analyzers that run, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let mut names: Vec<_> = self.protocols().map(AppProto::name).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Returns the protocols that are recognised only because their analyzers run.
    pub(super) fn opt_in(self) -> OptIn {
        self.protocols().filter(|protocol| protocol.is_opt_in()).fold(OptIn::default(), OptIn::with)
    }

    fn protocols(self) -> impl Iterator<Item = AppProto> {
        OPTIONAL.iter().filter(move |(_, bit)| self.0 & bit != 0).map(|&(protocol, _)| protocol)
    }

    pub(super) const fn set(self) -> BuiltinSet {
        self.0
    }

    /// Returns true if the analyzer of this number runs.
    pub(super) const fn has(self, number: u32) -> bool {
        self.0 & 1 << number != 0
    }
}

#[cfg(test)]
mod tests {
    use mirror_protocols::ANALYZED;

    use super::*;

    #[test]
    fn names_are_those_of_the_table_and_switch_one_analyzer_each() {
        let mut names: Vec<_> = ANALYZED.iter().map(|protocol| protocol.name).collect();
        names.sort_unstable();
        assert!(Enabled::all_names().eq(names));
        assert_eq!(Enabled::none().names().count(), 0);
        let some = Enabled::none().with("tls").and_then(|set| set.with("dns")).unwrap();
        assert!(some.names().eq(["dns", "tls"]));
        assert_eq!(some.with("smtp"), None);
        assert_eq!(
            Enabled::default().names().try_fold(Enabled::none(), Enabled::with),
            Some(Enabled::default())
        );
    }

    #[test]
    fn analyzers_that_are_off_by_default_run_only_if_named() {
        for protocol in ANALYZED {
            let by_default = Enabled::default().names().any(|name| name == protocol.name);
            assert_eq!(by_default, protocol.by_default, "{}", protocol.name);
        }
        assert_eq!(Enabled::default().opt_in(), OptIn::default());
        for protocol in ANALYZED.iter().filter(|protocol| !protocol.by_default) {
            assert_ne!(Enabled::none().with(protocol.name).map(Enabled::opt_in), Some(OptIn::default()));
        }
    }
}
