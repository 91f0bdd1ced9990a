//! The scope of flows: which frames make up one address space, and the mirrored interfaces that the two directions of
//! a flow come from where a space has several.

use std::collections::HashMap;
use std::num::NonZeroU16;

use foldhash::fast::RandomState;
use mirror_xdp_common::Address;

use crate::{MirrorSession, SessionKey};

/// The frames that make up one address space: within it, packets with the same 5-tuple are of the same flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlowScope {
    /// Those of one mirrored interface with one VNI. The VNIs of several accounts may be equal.
    #[default]
    Interface,
    /// All with one VNI, whichever interfaces mirror them.
    Vni,
}

impl FlowScope {
    /// All scopes.
    pub const ALL: [Self; 2] = [Self::Interface, Self::Vni];

    /// Returns the name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Vni => "vni",
        }
    }

    /// Returns the scope with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// Returns the session in the keys of flows, for frames of a session.
    #[inline]
    #[must_use]
    pub fn session(self, session: SessionKey) -> SessionKey {
        match self {
            Self::Interface => session,
            Self::Vni => session.of_any_interface(),
        }
    }
}

/// A mirrored interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// Its address: the outer source.
    pub address: Address,
    /// Identifier of the Gateway Load Balancer endpoint that its frames come through; 0 if none.
    pub endpoint: u64,
}

impl From<&MirrorSession> for Source {
    fn from(mirror: &MirrorSession) -> Self {
        Self { address: mirror.outer_source, endpoint: mirror.endpoint }
    }
}

/// A mirrored interface's number among the [`Sources`] of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceNumber(NonZeroU16);

/// The mirrored interfaces of a worker's frames, by number: flows have no room for addresses.
#[derive(Debug, Default)]
pub struct Sources {
    numbers: HashMap<Source, SourceNumber, RandomState>,
    known: Vec<Source>,
}

impl Sources {
    /// Maximum number of interfaces. The flows of further ones do not name them.
    pub const MAX: usize = 1 << 14;

    /// Returns the number of a source, or `None` if there are too many.
    pub fn number(&mut self, source: Source) -> Option<SourceNumber> {
        if let Some(&number) = self.numbers.get(&source) {
            return Some(number);
        }
        if self.known.len() == Self::MAX {
            return None;
        }
        self.known.push(source);
        let number = SourceNumber(NonZeroU16::new(self.known.len() as u16)?);
        self.numbers.insert(source, number);
        Some(number)
    }

    /// Returns the source with this number.
    #[must_use]
    pub fn get(&self, number: SourceNumber) -> Option<Source> {
        self.known.get(usize::from(number.0.get()) - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found_by_their_numbers_up_to_a_limit() {
        let mut sources = Sources::default();
        let source = |number: usize| Source { address: Address::from_v4(number as u32), endpoint: 0 };
        for _ in 0..2 {
            for number in 0..Sources::MAX {
                let known = sources.number(source(number)).unwrap();
                assert_eq!(sources.get(known), Some(source(number)));
            }
        }
        assert_eq!(sources.number(source(Sources::MAX)), None);
    }
}
