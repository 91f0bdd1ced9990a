//! Conversations that are split: each of two sessions of a VNI has one direction, because each end mirrors only what
//! it receives, or because an overlay is captured at both of its ends.
//!
//! Where flows are told apart by session ([`FlowScope::Interface`]), such a conversation becomes two flows of one side
//! each. When the second of them begins, the first is found among those that have begun lately, and both are marked.
//! A marked flow that is still of one side when it ends is counted by its VNI.
//!
//! [`FlowScope::Interface`]: mirror_packet::FlowScope::Interface

use mirror_xdp_common::Vni;
use mirror_xdp_common::hash::FlowHash;

use crate::FlowIndex;

/// Flows that have begun lately, at most. Of two with the same place, the later is remembered.
const RECENT: usize = 1 << 14;
/// VNIs with counters of their own.
const VNIS: usize = 64;

/// A flow that has begun: its hash without the session, and its place in the flow table.
#[derive(Clone, Copy, Debug)]
struct Begun {
    hash: FlowHash,
    index: Option<FlowIndex>,
}

/// Finds the halves of conversations, and counts those.
#[derive(Debug)]
pub(crate) struct Halves {
    recent: Vec<Begun>,
    counts: Vec<(Vni, u64)>,
    /// Flows of further VNIs.
    others: u64,
}

impl Halves {
    pub(crate) fn new() -> Self {
        let nothing = Begun { hash: FlowHash(0), index: None };
        Self { recent: vec![nothing; RECENT], counts: Vec::with_capacity(VNIS), others: 0 }
    }

    /// Remembers a flow that has begun. Returns the one before with the same hash, which does not cover the
    /// session. Its place may have another flow meanwhile.
    #[inline]
    pub(crate) fn begun(&mut self, hash: FlowHash, index: FlowIndex) -> Option<FlowIndex> {
        let place = self.recent.get_mut(hash.0 as usize % RECENT)?;
        let before = std::mem::replace(place, Begun { hash, index: Some(index) });
        before.index.filter(|_| before.hash == hash)
    }

    /// Counts a half that has ended.
    pub(crate) fn count(&mut self, vni: Vni) {
        if let Some((_, count)) = self.counts.iter_mut().find(|(of, _)| *of == vni) {
            *count += 1;
        } else if self.counts.len() < VNIS {
            self.counts.push((vni, 1));
        } else {
            self.others += 1;
        }
    }

    /// Returns the number of halves by VNI; `None` stands for all VNIs without a counter of their own.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Option<Vni>, u64)> {
        let others = (self.others > 0).then_some((None, self.others));
        self.counts.iter().map(|&(vni, count)| (Some(vni), count)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_before_with_the_same_hash_is_found() {
        let mut halves = Halves::new();
        let mut begun = |hash, index| halves.begun(FlowHash(hash), FlowIndex::of(index)).map(FlowIndex::get);
        assert_eq!(begun(0, 0), None);
        assert_eq!(begun(7, 1), None);
        assert_eq!(begun(7, 2), Some(1));
        assert_eq!(begun(7 + RECENT as u32, 3), None, "another one at the same place");
        assert_eq!(begun(7, 4), None);
        assert_eq!(begun(0, 5), Some(0));
    }

    #[test]
    fn vnis_beyond_the_limit_are_counted_together_and_take_no_memory() {
        let mut halves = Halves::new();
        let memory = |it: &Halves| (it.recent.capacity(), it.counts.capacity());
        let before = memory(&halves);
        for number in 0..10_000 {
            halves.count(Vni::new(number % 100).unwrap());
        }
        let counts: Vec<_> = halves.counts().collect();
        assert_eq!(counts.len(), VNIS + 1);
        assert_eq!(counts[VNIS], (None, 3600));
        assert!(counts[..VNIS].iter().all(|&(vni, count)| vni.is_some() && count == 100));
        assert_eq!(memory(&halves), before);
    }
}
