//! The exchange of buffers between two workers: buffers with frames in one direction, the same buffers back
//! in the other, by rings with a single producer and a single consumer. Nothing here waits or locks.
//!
//! A worker lends a buffer to its peer and gets that very buffer back. The capacity of the return ring bounds
//! the number of buffers lent. Giving back therefore never fails, and a slow or dead peer cannot hold more
//! buffers than that: further lending is refused.

use rtrb::{Consumer, Producer, RingBuffer};

/// One worker's side of the exchange with another. `T` names a buffer.
#[derive(Debug)]
pub struct Peer<T> {
    lend: Producer<T>,
    come_back: Consumer<T>,
    /// The number of buffers that are lent.
    lent: usize,
    borrow: Consumer<T>,
    give_back: Producer<T>,
    /// Set if something was lent since the peer was last woken.
    pub(super) is_to_wake: bool,
}

impl<T: Copy> Peer<T> {
    /// Makes the two sides, each of which can lend at most `capacity` buffers.
    #[must_use]
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (lend_a, borrow_a) = RingBuffer::new(capacity);
        let (lend_b, borrow_b) = RingBuffer::new(capacity);
        let (give_a, back_a) = RingBuffer::new(capacity);
        let (give_b, back_b) = RingBuffer::new(capacity);
        let side = |lend, come_back, borrow, give_back| Self {
            lend,
            come_back,
            lent: 0,
            borrow,
            give_back,
            is_to_wake: false,
        };
        (side(lend_a, back_a, borrow_b, give_b), side(lend_b, back_b, borrow_a, give_a))
    }

    /// Lends the buffers of one frame, all or none. Returns `false` if too many are lent already.
    pub fn lend(&mut self, buffers: &[T]) -> bool {
        // The ring has at least as many free places as `lent` permits: buffers that the peer has taken out of
        // it are still lent.
        if self.lent + buffers.len() > self.lend.buffer().capacity() {
            return false;
        }
        // Pushed together, so that the peer never sees half a frame.
        let pushed = self.lend.push_entire_slice(buffers);
        debug_assert!(pushed.is_ok(), "the ring has a place for each buffer that may be lent");
        self.lent += buffers.len();
        self.is_to_wake = true;
        true
    }

    /// Returns a buffer that the peer has given back.
    pub fn come_back(&mut self) -> Option<T> {
        let buffer = self.come_back.pop().ok()?;
        self.lent -= 1;
        Some(buffer)
    }

    /// Returns a buffer that the peer lends; it has to be given back.
    pub fn borrow(&mut self) -> Option<T> {
        self.borrow.pop().ok()
    }

    /// Returns whether the peer lends nothing more at the moment.
    #[must_use]
    pub fn has_lent_nothing(&self) -> bool {
        self.borrow.is_empty()
    }

    /// Gives a borrowed buffer back.
    pub fn give_back(&mut self, buffer: T) {
        let pushed = self.give_back.push(buffer);
        debug_assert!(pushed.is_ok(), "the ring has a place for each buffer that may be borrowed");
    }
}

/// The way back for buffers that are no longer in use: into the fill ring of their queue, which one worker
/// writes.
#[derive(Debug)]
pub(super) struct Home<T> {
    to_filler: Producer<T>,
    /// The most buffers that may wait before the filler is woken.
    patience: usize,
}

impl<T: Copy> Home<T> {
    /// Makes a worker's way to the filler, and the filler's end of it, for `buffers` buffers, which is all of
    /// them.
    pub(super) fn new(buffers: usize) -> (Self, Consumer<T>) {
        let (to_filler, from_worker) = RingBuffer::new(buffers);
        (Self { to_filler, patience: buffers / 16 }, from_worker)
    }

    /// Sends a buffer to the filler.
    pub(super) fn send(&mut self, buffer: T) {
        let pushed = self.to_filler.push(buffer);
        debug_assert!(pushed.is_ok(), "the ring has a place for each buffer of the queue");
    }

    /// Returns whether enough buffers wait that a sleeping filler has to be woken.
    pub(super) fn is_urgent(&self) -> bool {
        self.to_filler.buffer().capacity() - self.to_filler.slots() > self.patience
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_is_lent_than_can_come_back() {
        let (mut a, mut b) = Peer::pair(4);
        assert!(a.lend(&[1, 2, 3]));
        assert!(!a.lend(&[4, 5]), "a frame is lent as a whole or not at all");
        assert!(a.lend(&[4]));
        // A buffer that was taken out of the ring is not yet given back.
        assert_eq!(b.borrow(), Some(1));
        assert!(!a.lend(&[5]));
        b.give_back(1);
        assert!(!a.lend(&[5]), "only what has come back makes room");
        assert_eq!(a.come_back(), Some(1));
        assert!(a.lend(&[5]));
    }

    #[test]
    fn a_peer_that_is_gone_keeps_what_it_has_and_no_more() {
        let (mut a, b) = Peer::pair(2);
        drop(b);
        assert!(a.lend(&[1, 2]));
        assert!(!a.lend(&[3]));
        assert_eq!(a.come_back(), None);
    }

    #[test]
    fn the_filler_is_woken_before_it_starves() {
        let (mut home, mut filler) = Home::new(64);
        for buffer in 0..4 {
            home.send(buffer);
            assert!(!home.is_urgent());
        }
        home.send(4);
        assert!(home.is_urgent());
        while filler.pop().is_ok() {}
        assert!(!home.is_urgent());
    }

    proptest! {
        /// In whatever order the two act, each buffer is in one place, and returns to its owner.
        #[test]
        fn every_buffer_comes_back_once(steps in prop::collection::vec((0_u8..6, 1_usize..4), 0..400)) {
            let (mut a, mut b) = Peer::pair(8);
            let mut own = [(0..16).collect::<Vec<u32>>(), (100..116).collect()];
            let mut borrowed: [Vec<u32>; 2] = Default::default();
            for (step, count) in steps {
                let side = usize::from(step % 2);
                let (me, own, borrowed) =
                    (if side == 0 { &mut a } else { &mut b }, &mut own[side], &mut borrowed[side]);
                match step / 2 {
                    0 if own.len() >= count => {
                        let at = own.len() - count;
                        if me.lend(&own[at..]) {
                            own.truncate(at);
                        }
                    }
                    1 => borrowed.extend(me.borrow()),
                    2 => match borrowed.pop() {
                        Some(buffer) => me.give_back(buffer),
                        None => own.extend(me.come_back()),
                    },
                    _ => {}
                }
            }
            for (me, borrowed) in [&mut a, &mut b].into_iter().zip(&mut borrowed) {
                borrowed.extend(std::iter::from_fn(|| me.borrow()));
                borrowed.drain(..).for_each(|buffer| me.give_back(buffer));
            }
            for ((me, own), first) in [&mut a, &mut b].into_iter().zip(&mut own).zip([0, 100]) {
                own.extend(std::iter::from_fn(|| me.come_back()));
                own.sort_unstable();
                prop_assert_eq!(&*own, &(first..first + 16).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn two_threads_exchange_everything() {
        const FRAMES: u32 = 100_000;
        let (mut a, mut b) = Peer::pair(64);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut expected = 0;
                while expected < FRAMES {
                    while let Some(buffer) = b.borrow() {
                        assert_eq!(buffer, expected);
                        expected += 1;
                        b.give_back(buffer);
                    }
                    thread::yield_now();
                }
            });
            let (mut next, mut back) = (0, 0);
            while back < FRAMES {
                while next < FRAMES && a.lend(&[next]) {
                    next += 1;
                }
                while let Some(buffer) = a.come_back() {
                    assert_eq!(buffer, back);
                    back += 1;
                }
                thread::yield_now();
            }
        });
    }
}
