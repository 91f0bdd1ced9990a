//! The memory of inspection that outlives a call: data of streams that waits for more, and transactions whose bodies
//! are on their way. One bound holds for all flows of a worker, and hosts share it ([`mirror_packet::fair`]).

use mirror_packet::fair::Shares;
use mirror_xdp_common::Address;

use crate::buffer::Buffer;
use crate::facts::TransactionFact;

/// Bytes of memory that all items hold.
const BOUND: usize = 48 << 20;
/// Bytes that an item counts as at least, which bounds their number.
const LEAST: usize = 1024;
/// Bytes that unused items hold for the next ones, in total.
const SPARE: usize = 1 << 20;

/// The buffers and facts of one direction of a transaction.
#[derive(Debug, Default)]
pub(super) struct Parts {
    bytes: Vec<u8>,
    spans: Vec<(Buffer, u32, u32)>,
    pub(super) facts: Vec<TransactionFact>,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.facts.clear();
    }

    pub(super) fn add(&mut self, buffer: Buffer, bytes: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.spans.push((buffer, start, self.bytes.len() as u32));
    }

    /// Bytes of all buffers, and their number.
    pub(super) const fn size(&self) -> (usize, usize) {
        (self.bytes.len(), self.spans.len())
    }

    /// Returns all buffers.
    pub(super) fn all(&self) -> impl Iterator<Item = (Buffer, &[u8])> {
        self.spans.iter().map(|(buffer, start, end)| {
            (*buffer, self.bytes.get(*start as usize..*end as usize).unwrap_or_default())
        })
    }

    fn room(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<(Buffer, u32, u32)>()
    }
}

/// Data that waits.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// The number that tells its users apart; 0 while it is unused.
    stamp: u32,
    pub(super) parts: Parts,
    /// The body of a transaction so far, or the data of a stream.
    pub(super) body: Vec<u8>,
    /// Bytes of the body that were searched.
    pub(super) searched: usize,
    /// Bytes of a stream's data in front that are those of the chunk before.
    pub(super) tail: usize,
    /// The rules that the numbers of those of a stream belong to.
    pub(super) generation: u32,
    /// Rules that wait for the body.
    pub(super) pending: Vec<u32>,
    /// Rules that have matched.
    pub(super) matched: Vec<u32>,
    spare: usize,
}

impl Item {
    fn room(&self) -> usize {
        self.parts.room() + self.body.capacity() + 4 * (self.pending.capacity() + self.matched.capacity())
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.body.clear();
        (self.searched, self.tail) = (0, 0);
        self.pending.clear();
        self.matched.clear();
    }
}

/// A reference to an item, which may have been taken away since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    index: u32,
    stamp: u32,
}

/// All items.
#[derive(Debug)]
pub(super) struct Memory {
    items: Vec<Item>,
    free: Vec<u32>,
    shares: Shares,
    stamp: u32,
    spare: usize,
    /// Items that were taken away for lack of memory.
    lost: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new(), shares: Shares::new(BOUND), stamp: 0, spare: 0, lost: 0 }
    }
}

impl Memory {
    /// Enters an item that this host has sent.
    pub(super) fn enter(&mut self, host: Address) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.items.push(Item::default());
            self.items.len() as u32 - 1
        });
        self.stamp = self.stamp.wrapping_add(1).max(1);
        if let Some(item) = self.items.get_mut(index as usize) {
            item.stamp = self.stamp;
            self.spare -= std::mem::take(&mut item.spare);
        }
        let hash = (host.low ^ host.high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        self.shares.enter(index as usize, hash as u16);
        let slot = Slot { index, stamp: self.stamp };
        self.charge(slot);
        slot
    }

    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Item> {
        self.items.get_mut(slot.index as usize).filter(|item| item.stamp == slot.stamp)
    }

    /// Charges for an item that may have grown, and takes others away if the memory is used up.
    pub(super) fn charge(&mut self, slot: Slot) {
        let Some(room) = self.get(slot).map(|item| item.room()) else { return };
        self.shares.charge(slot.index as usize, room.max(LEAST));
        while let Some(other) = self.shares.to_give_back(slot.index as usize) {
            self.release(other as u32);
            self.lost += 1;
        }
    }

    /// Ends the use of an item.
    pub(super) fn leave(&mut self, slot: Slot) {
        if self.get(slot).is_some() {
            self.release(slot.index);
        }
    }

    fn release(&mut self, index: u32) {
        let Some(item) = self.items.get_mut(index as usize) else { return };
        item.stamp = 0;
        item.clear();
        if self.spare + item.room() > SPARE {
            *item = Item::default();
        } else {
            item.spare = item.room();
            self.spare += item.spare;
        }
        self.shares.leave(index as usize);
        self.free.push(index);
    }

    /// Returns the number of items that were taken away for lack of memory.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }
}
