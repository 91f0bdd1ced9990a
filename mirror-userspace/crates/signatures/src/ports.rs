//! Finds rules by the ports of a packet, and rules of addresses by its addresses: those that no pattern finds.

use crate::plan::Plan;
use crate::sets::{AddressSet, Ordinal, PortSet, RangeSet};

/// Rules by ranges of numbers: for each range, the rules of all numbers in it.
#[derive(Debug)]
struct RangeMap<T> {
    /// The first number of each range, ascending, with the first of its rules in `rules`. The rules end where those of
    /// the next range begin.
    ranges: Box<[(T, u32)]>,
    rules: Box<[u32]>,
}

impl<T: Ordinal> RangeMap<T> {
    fn new(sets: &[(&RangeSet<T>, u32)]) -> Self {
        // Each range opens at its first number and closes behind its last.
        let mut events: Vec<(T, bool, u32)> = Vec::new();
        for (set, rule) in sets {
            for (first, last) in set.ranges() {
                events.push((*first, true, *rule));
                if let Some(behind) = last.next() {
                    events.push((behind, false, *rule));
                }
            }
        }
        events.sort_unstable();
        let (mut ranges, mut rules) = (Vec::new(), Vec::new());
        let mut open: Vec<u32> = Vec::new();
        let mut events = events.into_iter().peekable();
        while let Some((at, opens, rule)) = events.next() {
            if opens {
                open.push(rule);
            } else if let Some(place) = open.iter().position(|other| *other == rule) {
                open.swap_remove(place);
            }
            if events.peek().is_none_or(|next| next.0 != at) {
                ranges.push((at, rules.len() as u32));
                rules.extend_from_slice(&open);
            }
        }
        Self { ranges: ranges.into(), rules: rules.into() }
    }

    fn get(&self, number: T) -> &[u32] {
        let Some(place) = self.ranges.partition_point(|range| range.0 <= number).checked_sub(1) else {
            return &[];
        };
        let start = self.ranges.get(place).map_or(0, |range| range.1 as usize);
        let end = self.ranges.get(place + 1).map_or(self.rules.len(), |range| range.1 as usize);
        self.rules.get(start..end).unwrap_or_default()
    }
}

/// Rules by the ports of a packet.
#[derive(Debug)]
pub(crate) struct PortIndex {
    by_receiver: RangeMap<u16>,
    by_sender: RangeMap<u16>,
    /// Rules for any ports.
    any: Box<[u32]>,
}

impl PortIndex {
    /// Sorts rules by their ports.
    #[must_use]
    pub(crate) fn new<'p>(rules: impl Iterator<Item = (u32, &'p Plan)>) -> Self {
        let (mut receiver, mut sender, mut any) = (Vec::<(&PortSet, u32)>::new(), Vec::new(), Vec::new());
        for (rule, plan) in rules {
            match plan.ports() {
                [None, None] => any.push(rule),
                [source, Some(destination)] => {
                    receiver.push((destination, rule));
                    if plan.is_bidirectional() {
                        match source {
                            // Any port of the receiver may be the source's, if the sender has one of these.
                            None => sender.push((destination, rule)),
                            Some(source) => receiver.push((source, rule)),
                        }
                    }
                }
                [Some(source), None] => {
                    sender.push((source, rule));
                    if plan.is_bidirectional() {
                        receiver.push((source, rule));
                    }
                }
            }
        }
        Self { by_receiver: RangeMap::new(&receiver), by_sender: RangeMap::new(&sender), any: any.into() }
    }

    /// Calls `found` with the rules for these ports. A rule may be found twice.
    pub(crate) fn find(&self, sender: u16, receiver: u16, mut found: impl FnMut(u32)) {
        for rules in [self.by_receiver.get(receiver), self.by_sender.get(sender), &self.any] {
            rules.iter().copied().for_each(&mut found);
        }
    }
}

/// Rules by the addresses of a packet.
#[derive(Debug)]
pub(crate) struct AddressIndex {
    by_sender: RangeMap<u128>,
    by_receiver: RangeMap<u128>,
    any: Box<[u32]>,
}

impl AddressIndex {
    /// Sorts rules by their addresses: by those of the side that has fewer.
    #[must_use]
    pub(crate) fn new<'p>(rules: impl Iterator<Item = (u32, &'p Plan)>) -> Self {
        let (mut sender, mut receiver, mut any) = (Vec::<(&AddressSet, u32)>::new(), Vec::new(), Vec::new());
        for (rule, plan) in rules {
            let [source, destination] = plan.addresses();
            let both = plan.is_bidirectional();
            match (source, destination) {
                (None, None) => any.push(rule),
                (Some(set), None) => {
                    sender.push((set, rule));
                    if both {
                        receiver.push((set, rule));
                    }
                }
                (None, Some(set)) => {
                    receiver.push((set, rule));
                    if both {
                        sender.push((set, rule));
                    }
                }
                (Some(source), Some(destination)) => {
                    // A list of single hosts tells more than a network does.
                    let by_source = source.ranges().len() >= destination.ranges().len();
                    let (one, other) =
                        if by_source { (&mut sender, &mut receiver) } else { (&mut receiver, &mut sender) };
                    let set = if by_source { source } else { destination };
                    one.push((set, rule));
                    if both {
                        other.push((set, rule));
                    }
                }
            }
        }
        Self { by_sender: RangeMap::new(&sender), by_receiver: RangeMap::new(&receiver), any: any.into() }
    }

    /// Calls `found` with the rules for these addresses.
    pub(crate) fn find(&self, sender: u128, receiver: u128, mut found: impl FnMut(u32)) {
        for rules in [self.by_sender.get(sender), self.by_receiver.get(receiver), &self.any] {
            rules.iter().copied().for_each(&mut found);
        }
    }
}
