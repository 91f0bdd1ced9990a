//! The values of preambles, for the records of the flows that have some. Few flows do, or nearly all: those behind a
//! load balancer. So they are not in the flow table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;

use mirror_protocols::preamble::Relayed;

/// Bytes of memory for all values of a live worker. A PROXY header takes less than a hundred.
pub(super) const LIVE: usize = 32 << 20;
/// The same for the reading of capture files, each of which may be made by an attacker.
pub(super) const FILES: usize = 4 << 20;
/// Bytes of a flow's values.
const MAX_EACH: usize = 512;

/// The packed values, by the identifier of the flow.
#[derive(Debug)]
pub(super) struct Relays {
    /// Bytes of memory that all buffers may take.
    most: usize,
    values: HashMap<u64, Vec<u8>>,
    /// Buffers that no flow uses.
    spare: Vec<Vec<u8>>,
    /// Bytes of memory of all buffers.
    held: usize,
    /// A value that is packed.
    packed: Vec<u8>,
    lost: u64,
}

impl Relays {
    /// Creates the set without values, which take at most this many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, values: HashMap::new(), spare: Vec::new(), held: 0, packed: Vec::new(), lost: 0 }
    }

    /// Divides the memory between this many workers.
    pub(super) const fn share(&mut self, workers: NonZeroUsize) {
        self.most /= workers.get();
    }

    /// Returns the values of a flow.
    #[inline]
    pub(super) fn get(&self, flow_id: u64) -> &[u8] {
        if self.values.is_empty() {
            return &[];
        }
        self.values.get(&flow_id).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Adds a value to those of a flow, unless they take too much memory.
    pub(super) fn add(&mut self, flow_id: u64, value: &Relayed<'_>) {
        let Self { most, values, spare, held, packed, lost } = self;
        packed.clear();
        value.pack(packed);
        let mut entry = match values.entry(flow_id) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(spare.pop().unwrap_or_default()),
        };
        let buffer = entry.get_mut();
        let more = (buffer.len() + packed.len()).saturating_sub(buffer.capacity());
        if buffer.len() + packed.len() <= MAX_EACH && *held + more <= *most {
            let before = buffer.capacity();
            buffer.reserve_exact(packed.len());
            *held += buffer.capacity() - before;
            buffer.extend_from_slice(packed);
            return;
        }
        *lost += 1;
        if buffer.is_empty() {
            spare.push(entry.remove());
        }
    }

    /// Releases the values of a flow. Their memory is for the next one.
    #[inline]
    pub(super) fn release(&mut self, flow_id: u64) {
        if !self.values.is_empty()
            && let Some(mut buffer) = self.values.remove(&flow_id)
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Gives the values of a flow to another, unless that has some.
    pub(super) fn unite(&mut self, gone: u64, kept: u64) {
        if self.get(kept).is_empty()
            && let Some(buffer) = self.values.remove(&gone)
        {
            self.values.insert(kept, buffer);
        }
        self.release(gone);
    }
}

#[cfg(test)]
mod tests {
    use mirror_protocols::preamble::{Request, Target};

    use super::*;

    fn request(name: &[u8]) -> Relayed<'_> {
        Relayed::Socks(Request { version: 5, target: Target::Name(name), port: 443 })
    }

    #[test]
    fn values_stay_until_they_are_released() {
        let mut relays = Relays::new(LIVE);
        relays.add(1, &request(b"one"));
        let len = relays.get(1).len();
        assert_eq!((len > 0, relays.get(2)), (true, &[][..]));
        relays.add(1, &request(b"two"));
        assert_eq!(relays.get(1).len(), 2 * len);
        relays.unite(1, 2);
        assert_eq!((relays.get(1).len(), relays.get(2).len()), (0, 2 * len));
        relays.add(1, &request(b""));
        relays.unite(1, 2);
        assert_eq!((relays.get(1).len(), relays.get(2).len()), (0, 2 * len));
        relays.release(2);
        assert_eq!((relays.get(2).len(), relays.values.len(), relays.spare.len()), (0, 0, 2));
    }

    #[test]
    fn hostile_names_take_bounded_memory_and_are_counted_beyond() {
        let mut relays = Relays::new(LIVE);
        let name = [b'a'; 255];
        (0..3).for_each(|_| relays.add(0, &request(&name)));
        assert_eq!((relays.get(0).len() <= MAX_EACH, relays.lost()), (true, 2));
        let mut flow_id = 0;
        while relays.lost() == 2 {
            flow_id += 1;
            relays.add(flow_id, &request(&name));
        }
        let held =
            |relays: &Relays| relays.values.values().chain(&relays.spare).map(Vec::capacity).sum::<usize>();
        assert!(held(&relays) == relays.held && relays.held <= LIVE);
        assert!(relays.get(flow_id).is_empty());
        // Small values that grow, too.
        let mut relays = Relays::new(LIVE);
        (0..200_000).for_each(|flow_id| relays.add(flow_id, &request(b"")));
        (0..200_000).for_each(|flow_id| relays.add(flow_id, &request(&name)));
        assert!(held(&relays) == relays.held && relays.held <= LIVE && relays.lost() > 0);
    }
}
