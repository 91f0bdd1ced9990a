//! One worker's part of a device: its socket, its part in returning buffers to the fill ring, and its
//! exchanges with the other workers of the device.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rtrb::Consumer;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::Statistics;
use super::exchange::{Home, Peer};
use super::signal::Signal;

/// The most descriptors that are taken off the ring, or put into the fill ring, at once.
pub const BATCH: usize = 64;
/// The most buffers over which the kernel spreads one frame: the largest configurable `MAX_SKB_FRAGS`, and
/// the first buffer.
const MAX_PARTS: usize = 46;

/// The way of a worker's buffers into the fill ring, which has one producer.
#[derive(Debug)]
pub(super) enum Way {
    /// This worker writes the fill ring.
    Filler {
        fill: FillQueue,
        /// Buffers that are about to be put into the fill ring. There is room for all of the queue.
        waiting: Vec<FrameDesc>,
        /// Buffers of the queue's other workers.
        from_workers: Vec<Consumer<FrameDesc>>,
        // Nothing is sent, but libxdp unmaps the ring when this is dropped.
        _completion: CompQueue,
    },
    /// The worker of number `filler` writes the fill ring.
    Worker { home: Home<FrameDesc>, filler: usize },
}

/// One worker's part of a device. Dropping it closes its socket; the UMEMs are freed with the last port.
#[derive(Debug)]
pub struct Port {
    number: usize,
    queue: u32,
    rx: RxQueue,
    /// The UMEM of each queue of the device.
    umems: Vec<Umem>,
    way: Way,
    /// Descriptors of the current batch; those from `next` to `count` are not yet processed.
    received: Box<[FrameDesc]>,
    next: usize,
    count: usize,
    /// Descriptors of the current frame.
    current: Box<[FrameDesc; MAX_PARTS]>,
    /// The bytes of the current frame, if they are in several buffers.
    assembled: Vec<u8>,
    /// The device's other workers, by number; `None` for those with which there is no exchange.
    peers: Vec<Option<Peer<FrameDesc>>>,
    /// The peer that is asked next.
    turn: usize,
    signals: Arc<[Signal]>,
    busy_poll: bool,
    // Nothing is sent, but libxdp unmaps the ring when this is dropped.
    _tx: TxQueue,
}

impl Port {
    pub(super) fn new(
        number: usize,
        queue: u32,
        (tx, rx): (TxQueue, RxQueue),
        umems: Vec<Umem>,
        way: Way,
        peers: Vec<Option<Peer<FrameDesc>>>,
        (signals, busy_poll): (Arc<[Signal]>, bool),
    ) -> Self {
        Self {
            number,
            queue,
            rx,
            umems,
            way,
            received: vec![FrameDesc::default(); BATCH + MAX_PARTS].into_boxed_slice(),
            next: 0,
            count: 0,
            current: Box::new([FrameDesc::default(); MAX_PARTS]),
            assembled: Vec::new(),
            peers,
            turn: 0,
            signals,
            busy_poll,
            _tx: tx,
        }
    }

    /// Returns the worker's number among those of the device.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Returns the queue to which its socket is bound.
    #[must_use]
    pub const fn queue(&self) -> u32 {
        self.queue
    }

    /// Returns the socket, for the program's map.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// Returns whether this worker writes the queue's fill ring.
    #[must_use]
    pub const fn is_filler(&self) -> bool {
        matches!(self.way, Way::Filler { .. })
    }

    /// Returns the next frame that the kernel has received for this socket.
    pub fn received(&mut self) -> Option<Received<'_>> {
        if self.next == self.count {
            self.receive();
        }
        let first = self.received.get(self.next..self.count)?.first()?;
        self.current[0] = *first;
        let mut parts = 1;
        self.next += 1;
        while self.current[parts - 1].has_more_frames() && parts < MAX_PARTS && self.next < self.count {
            self.current[parts] = self.received[self.next];
            self.next += 1;
            parts += 1;
        }
        Some(Received(self.frame(parts, None)))
    }

    /// Takes descriptors off the ring, for whole frames only.
    fn receive(&mut self) {
        let (batch, rest) = self.received.split_at_mut(BATCH);
        // SAFETY: the descriptors from the ring belong to the queue's UMEM, with which this socket was
        // opened.
        self.count = unsafe { self.rx.consume(batch) };
        self.next = 0;
        if self.count < BATCH {
            return;
        }
        let mut last = batch[BATCH - 1];
        for descriptor in rest {
            // The kernel publishes the descriptors of a frame together, so the rest of the frame is there.
            // SAFETY: as above.
            if !last.has_more_frames() || unsafe { self.rx.consume_one(descriptor) } == 0 {
                break;
            }
            last = *descriptor;
            self.count += 1;
        }
    }

    /// Returns the next frame that another worker has handed over to this one.
    pub fn handed_over(&mut self) -> Option<Frame<'_>> {
        for _ in 0..self.peers.len() {
            let turn = self.turn;
            if let Some(peer) = &mut self.peers[turn]
                && let Some(first) = peer.borrow()
            {
                self.current[0] = first;
                let mut parts = 1;
                while self.current[parts - 1].has_more_frames()
                    && parts < MAX_PARTS
                    && let Some(next) = peer.borrow()
                {
                    self.current[parts] = next;
                    parts += 1;
                }
                return Some(self.frame(parts, Some(turn)));
            }
            self.turn = if turn + 1 < self.peers.len() { turn + 1 } else { 0 };
        }
        None
    }

    /// Makes the frame whose descriptors are in `current`.
    fn frame(&mut self, parts: usize, lender: Option<usize>) -> Frame<'_> {
        // Workers are numbered round-robin over the queues.
        let queue = lender.map_or(self.queue as usize, |lender| lender % self.umems.len());
        if parts > 1 {
            self.assembled.clear();
            for descriptor in &self.current[..parts] {
                // SAFETY: as in `Frame::bytes`.
                self.assembled.extend_from_slice(unsafe { self.umems[queue].data(descriptor) }.contents());
            }
        }
        Frame { port: self, parts, lender, queue }
    }

    /// Returns unused buffers to the kernel, and wakes the workers that have received something meanwhile. To
    /// be called after each batch.
    pub fn flush(&mut self) {
        for (number, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            while let Some(buffer) = peer.come_back() {
                self.way.go_home(buffer);
            }
            if std::mem::take(&mut peer.is_to_wake) {
                self.signals[number].wake();
            }
        }
        match &mut self.way {
            Way::Worker { home, filler } => {
                if home.is_urgent() {
                    self.signals[*filler].wake();
                }
            }
            Way::Filler { fill, waiting, from_workers, .. } => {
                for worker in from_workers {
                    while let Ok(buffer) = worker.pop() {
                        refill(fill, waiting, buffer);
                    }
                }
                produce(fill, waiting);
                if fill.needs_wakeup() {
                    // Polling without a timeout wakes the driver. An error here occurs again in
                    // [`Port::wait`], which reports it.
                    let _ = self.rx.poll(0);
                }
            }
        }
    }

    /// Waits for frames, at most for `timeout`. Wakes the driver if it asks for that. With busy polling,
    /// makes the driver look for frames and returns at once.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if self.busy_poll {
            return match recv(self.socket(), &mut [], MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::EBUSY | Errno::ENETDOWN) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        let signal = &self.signals[self.number];
        signal.will_sleep();
        let is_idle = self.peers.iter().flatten().all(Peer::has_lent_nothing)
            && match &self.way {
                Way::Filler { from_workers, .. } => from_workers.iter().all(Consumer::is_empty),
                Way::Worker { .. } => true,
            };
        let waited = if is_idle {
            // SAFETY: the socket stays open as long as `rx` exists.
            let socket = unsafe { BorrowedFd::borrow_raw(self.socket()) };
            let mut fds =
                [socket, signal.as_fd()].map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => Ok(()),
                Err(error) => Err(error.into()),
            }
        } else {
            Ok(())
        };
        signal.is_awake();
        waited
    }

    /// Wakes the worker of this number if it sleeps.
    pub fn wake(&self, number: usize) {
        if let Some(signal) = self.signals.get(number) {
            signal.wake();
        }
    }

    /// Returns the kernel's counters since the socket was opened.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let statistics = self.rx.fd().xdp_statistics()?;
        Ok(Statistics {
            rx_ring_full: statistics.rx_ring_full(),
            rx_dropped: statistics.rx_dropped(),
            // Counted once per queue, but reported by each of its sockets.
            fill_ring_empty: if self.is_filler() { statistics.rx_fill_ring_empty_descs() } else { 0 },
        })
    }
}

impl Way {
    /// Takes a buffer that is no longer in use.
    fn go_home(&mut self, buffer: FrameDesc) {
        match self {
            Self::Filler { fill, waiting, .. } => refill(fill, waiting, buffer),
            Self::Worker { home, .. } => home.send(buffer),
        }
    }
}

fn refill(fill: &mut FillQueue, waiting: &mut Vec<FrameDesc>, buffer: FrameDesc) {
    waiting.push(buffer);
    if waiting.len() >= BATCH {
        produce(fill, waiting);
    }
}

fn produce(fill: &mut FillQueue, waiting: &mut Vec<FrameDesc>) {
    // SAFETY: the descriptors are of the queue's UMEM. Each was taken off a ring once and comes here once:
    // when the only `Frame` that held it was dropped. Nothing refers to its buffer.
    put(waiting, |buffers| unsafe { fill.produce(buffers) });
}

/// Puts buffers into a ring; `produce` returns the number that it took, the first ones. The others wait for the next
/// call: the ring has a place for every buffer of the queue, but the kernel shows a frame before it releases the
/// places of the buffers that it took (`xsk_flush` in `net/xdp/xsk.c`), so a buffer can return before its place is
/// free.
fn put<T>(waiting: &mut Vec<T>, produce: impl FnOnce(&[T]) -> usize) {
    let taken = produce(waiting).min(waiting.len());
    waiting.drain(..taken);
}

/// A frame that this worker may read. It is the only owner of its buffers; when it is dropped, they return to
/// where they belong, and can no longer be read.
#[derive(Debug)]
pub struct Frame<'p> {
    port: &'p mut Port,
    /// The number of its buffers.
    parts: usize,
    /// The worker that has lent it; `None` if this worker has received it.
    lender: Option<usize>,
    /// The queue that received it.
    queue: usize,
}

impl Frame<'_> {
    /// Returns the bytes of the frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        if self.parts > 1 {
            return &self.port.assembled;
        }
        // SAFETY: the kernel wrote the descriptor, so it lies within the UMEM of the queue that received it.
        // The frame owns the buffer until it is dropped, and no one writes to it.
        unsafe { self.port.umems[self.queue].data(&self.port.current[0]) }.contents()
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        let Port { current, peers, way, .. } = &mut *self.port;
        for &buffer in &current[..self.parts] {
            match self.lender {
                Some(lender) => {
                    if let Some(peer) = &mut peers[lender] {
                        peer.give_back(buffer);
                    }
                }
                None => way.go_home(buffer),
            }
        }
    }
}

/// A frame that this worker's own socket has received, and that can be handed over.
#[derive(Debug)]
pub struct Received<'p>(Frame<'p>);

impl Received<'_> {
    /// Hands the frame to the worker of this number. Returns `false`, and loses the frame, if that worker has
    /// too many frames waiting, or there is no exchange with it.
    #[must_use]
    pub fn hand_over(self, to: usize) -> bool {
        let Self(mut frame) = self;
        let Port { current, peers, .. } = &mut *frame.port;
        let Some(Some(peer)) = peers.get_mut(to) else { return false };
        let is_lent = peer.lend(&current[..frame.parts]);
        if is_lent {
            // The buffers belong to the other worker now, and must not be returned from here.
            frame.parts = 0;
        }
        is_lent
    }

    /// Returns the bytes of the frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::put;

    #[test]
    fn buffers_that_a_ring_does_not_take_wait_for_the_next_time() {
        let mut waiting = vec![1, 2, 3];
        put(&mut waiting, |_| 0);
        assert_eq!(waiting, [1, 2, 3]);
        put(&mut waiting, |_| 2);
        assert_eq!(waiting, [3]);
        waiting.push(4);
        put(&mut waiting, <[_]>::len);
        assert_eq!(waiting, [0; 0]);
    }
}
