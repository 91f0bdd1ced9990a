//! What one worker has of a device: its socket, its part in bringing buffers back to the fill ring, and what
//! it exchanges with the other workers of the device.

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

/// Descriptors that are taken off the ring at once, and put into the fill ring at once.
pub const BATCH: usize = 64;
/// The most buffers that the kernel spreads one frame over: `MAX_SKB_FRAGS`, as large as it can be
/// configured, and the first.
const MAX_PARTS: usize = 46;

/// How a worker's buffers get into the fill ring, which has one writer.
#[derive(Debug)]
pub(super) enum Way {
    /// This worker writes it.
    Filler {
        fill: FillQueue,
        /// Buffers that are about to be put into it.
        waiting: Vec<FrameDesc>,
        /// Buffers of the queue's other workers.
        from_workers: Vec<Consumer<FrameDesc>>,
        // Nothing is sent, but libxdp has the ring unmapped when this goes.
        _completion: CompQueue,
    },
    /// The worker of this number does.
    Worker { home: Home<FrameDesc>, filler: usize },
}

/// What one worker has of a device. Dropping it closes its socket; the UMEMs go with the last.
#[derive(Debug)]
pub struct Port {
    number: usize,
    queue: u32,
    rx: RxQueue,
    /// The UMEM of each queue of the device.
    umems: Vec<Umem>,
    way: Way,
    /// Descriptors of the current batch, from `next` to `count` those that are still to be looked at.
    received: Box<[FrameDesc]>,
    next: usize,
    count: usize,
    /// Descriptors of the frame that is looked at.
    current: Box<[FrameDesc; MAX_PARTS]>,
    /// Its bytes, where they are in several buffers.
    assembled: Vec<u8>,
    /// The device's other workers, by number; `None` for those that nothing is exchanged with.
    peers: Vec<Option<Peer<FrameDesc>>>,
    /// The peer that is asked next.
    turn: usize,
    signals: Arc<[Signal]>,
    busy_poll: bool,
    // Nothing is sent, but libxdp has the ring unmapped when this goes.
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

    /// The worker's number among those of the device.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// The queue that its socket is bound to.
    #[must_use]
    pub const fn queue(&self) -> u32 {
        self.queue
    }

    /// The socket, to be entered into the program's map.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// Whether this worker writes the queue's fill ring.
    #[must_use]
    pub const fn is_filler(&self) -> bool {
        matches!(self.way, Way::Filler { .. })
    }

    /// The next frame that the kernel has received for this socket.
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

    /// Takes descriptors off the ring, whole frames only.
    fn receive(&mut self) {
        let (batch, rest) = self.received.split_at_mut(BATCH);
        // SAFETY: the descriptors that come off the ring are those of the queue's UMEM, which this socket was
        // opened with.
        self.count = unsafe { self.rx.consume(batch) };
        self.next = 0;
        if self.count < BATCH {
            return;
        }
        let mut last = batch[BATCH - 1];
        for descriptor in rest {
            // The kernel publishes a frame's descriptors together, so the rest of it is there.
            // SAFETY: as above.
            if !last.has_more_frames() || unsafe { self.rx.consume_one(descriptor) } == 0 {
                break;
            }
            last = *descriptor;
            self.count += 1;
        }
    }

    /// The next frame that another worker has handed over to this one.
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

    /// The frame whose descriptors are in `current`.
    fn frame(&mut self, parts: usize, lender: Option<usize>) -> Frame<'_> {
        // Workers are numbered queue by queue, again and again.
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

    /// Brings buffers back to the kernel that nobody uses any more, and wakes those who have got something
    /// meanwhile. To be called after each batch.
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
                    // Polling for nothing wakes the driver. What fails here fails again where frames are
                    // waited for, and is told there.
                    let _ = self.rx.poll(0);
                }
            }
        }
    }

    /// Waits until there are frames, at most for `timeout`. Wakes the driver up where it asks for it. With
    /// busy polling, looks for frames itself and returns at once.
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
            // SAFETY: the socket is open for as long as `rx` is there.
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

    /// Wakes the worker of this number where it waits.
    pub fn wake(&self, number: usize) {
        if let Some(signal) = self.signals.get(number) {
            signal.wake();
        }
    }

    /// What the kernel has counted since the socket was opened.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let statistics = self.rx.fd().xdp_statistics()?;
        Ok(Statistics {
            rx_ring_full: statistics.rx_ring_full(),
            rx_dropped: statistics.rx_dropped(),
            // Counted once for the queue, and told by each of its sockets.
            fill_ring_empty: if self.is_filler() { statistics.rx_fill_ring_empty_descs() } else { 0 },
        })
    }
}

impl Way {
    /// Takes a buffer that nobody uses any more.
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
    // SAFETY: the descriptors are of the queue's UMEM. Each was taken off a ring once, and comes here once:
    // when the only `Frame` that had it was dropped. Nothing refers to its buffer.
    let filled = unsafe { fill.produce(waiting) };
    debug_assert_eq!(filled, waiting.len(), "the fill ring has a place for every buffer of the queue");
    waiting.clear();
}

/// A frame that this worker may look at. It is the only one that has its buffers; when it is dropped, they
/// go back to where they belong, and cannot be looked at any more.
#[derive(Debug)]
pub struct Frame<'p> {
    port: &'p mut Port,
    /// Buffers that it is in.
    parts: usize,
    /// The worker that has lent it; `None` where it was received by this one.
    lender: Option<usize>,
    /// The queue that it was received by.
    queue: usize,
}

impl Frame<'_> {
    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        if self.parts > 1 {
            return &self.port.assembled;
        }
        // SAFETY: the kernel wrote the descriptor, so it lies within the UMEM of the queue that received it. The
        // buffer is this frame's until it is dropped, and nobody writes to it.
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

/// A frame that this worker's own socket has received: it can be handed over.
#[derive(Debug)]
pub struct Received<'p>(Frame<'p>);

impl Received<'_> {
    /// Has the worker of this number analyse it. False where that has too many frames to look at already, or
    /// nothing is exchanged with it: then the frame is lost.
    #[must_use]
    pub fn hand_over(self, to: usize) -> bool {
        let Self(mut frame) = self;
        let Port { current, peers, .. } = &mut *frame.port;
        let Some(Some(peer)) = peers.get_mut(to) else { return false };
        let is_lent = peer.lend(&current[..frame.parts]);
        if is_lent {
            // The buffers are the other's now, and have nowhere to go from here.
            frame.parts = 0;
        }
        is_lent
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}
