//! The buffers whose segments wait, in the order of the times at which they are looked at. A buffer leaves the order
//! when its stream gives it back, so the time depends on nothing but the stream.

use super::BufferIndex;

/// Stands for no buffer.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
    /// The time at which the buffer is looked at; `None` if it does not wait.
    due: Option<u64>,
}

/// The waiting buffers, linked by index.
#[derive(Debug)]
pub(super) struct Waiting {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

impl Waiting {
    pub(super) const fn new() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// Adds a buffer, unless it waits already. `due` is not before that of buffers added earlier.
    pub(super) fn add(&mut self, index: BufferIndex, due: u64) {
        let at = index.get();
        if self.links.len() <= at {
            self.links.resize(at + 1, Link { older: NONE, newer: NONE, due: None });
        }
        if self.links[at].due.is_some() {
            return;
        }
        let older = std::mem::replace(&mut self.newest, at as u32);
        match self.links.get_mut(older as usize) {
            Some(older) => older.newer = at as u32,
            None => self.oldest = at as u32,
        }
        self.links[at] = Link { older, newer: NONE, due: Some(due) };
    }

    /// Removes a buffer, if it waits.
    pub(super) fn remove(&mut self, index: BufferIndex) {
        let Some(link) = self.links.get_mut(index.get()) else { return };
        if link.due.take().is_none() {
            return;
        }
        let Link { older, newer, .. } = *link;
        match self.links.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }

    /// Removes the first buffer if it is due at `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<BufferIndex> {
        let due = self.links.get(self.oldest as usize)?.due?;
        let index = BufferIndex::new(self.oldest as usize).filter(|_| due <= now)?;
        self.remove(index);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is added and removed, buffers come out as from a plain list.
        #[test]
        fn buffers_are_due_in_the_order_in_which_they_were_added(
            steps in prop::collection::vec((0_usize..8, 0_u8..3, 0_u64..4), 1..200)
        ) {
            let mut waiting = Waiting::new();
            let mut model: Vec<(usize, u64)> = Vec::new();
            let mut now = 0;
            for (number, action, passed) in steps {
                now += passed;
                let index = BufferIndex::new(number).unwrap();
                match action {
                    0 => {
                        waiting.add(index, now + 5);
                        if model.iter().all(|&(other, _)| other != number) {
                            model.push((number, now + 5));
                        }
                    }
                    1 => {
                        waiting.remove(index);
                        model.retain(|&(other, _)| other != number);
                    }
                    _ => {
                        let expected = model.first().filter(|&&(_, due)| due <= now).map(|&(number, _)| number);
                        prop_assert_eq!(waiting.take_due(now).map(BufferIndex::get), expected);
                        if expected.is_some() {
                            model.remove(0);
                        }
                    }
                }
            }
        }
    }
}
