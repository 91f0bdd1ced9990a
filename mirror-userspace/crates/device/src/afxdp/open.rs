//! Opens a device: the UMEM and the sockets of each queue, and the connections between the workers.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtrb::Consumer;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::busy_poll::{self, BusyPoll};
use super::exchange::{Home, Peer};
use super::port::{BATCH, Port, Way};
use super::signal::Signal;
use super::{CHUNK_SIZE, Error, UNUSED_RING, huge_pages, os_error, ring};

/// The longest wait for a busy queue. A queue stays bound for a moment after its last socket was closed,
/// because the kernel frees it in the background, and another capture needs up to a second to notice that it
/// was replaced.
const REBIND_PATIENCE: Duration = Duration::from_secs(3);
/// The share of a queue's buffers that may be lent to other workers, as its inverse; the rest is for the
/// kernel.
const LENT_SHARE: u32 = 4;
/// The most frames that wait between two workers.
const MOST_LENT: usize = 8192;

/// A queue's fill ring, and the completion ring that comes with it.
type Rings = (FillQueue, CompQueue);

/// The use of zero-copy reception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ZeroCopy {
    /// Zero-copy if the driver supports it, else with a copy and a warning
    #[default]
    Auto,
    /// Zero-copy, or no capture
    Required,
    /// With a copy, which every driver supports
    Off,
}

/// The parameters of opening a device.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its queues.
    pub queues: NonZeroU32,
    /// Sockets of each queue, one for each worker.
    pub sockets_per_queue: NonZeroU32,
    /// Workers hand frames over to each other.
    pub hand_over: bool,
    /// Frames that may wait for a worker, a power of two. A queue has twice as many buffers, so that the ring
    /// is full before the buffers run out.
    pub ring: u32,
    /// The use of zero-copy reception.
    pub zero_copy: ZeroCopy,
    /// Frames may span several buffers; only in copy mode.
    pub multi_buffer: bool,
    /// Settings of busy polling; `None` if the workers wait for interrupts.
    pub busy_poll: Option<BusyPoll>,
}

impl Plan {
    /// Returns the number of buffers of each queue.
    const fn buffers(&self) -> u32 {
        2 * self.ring
    }

    /// Returns the bytes of all buffers.
    fn bytes(&self) -> u64 {
        u64::from(self.queues.get()) * u64::from(self.buffers()) * u64::from(CHUNK_SIZE)
    }

    /// Returns the most frames that each of two workers may lend to the other.
    fn may_be_lent(&self) -> usize {
        let peers = self.queues.get().saturating_sub(1).max(1);
        ((self.buffers() / LENT_SHARE / peers) as usize).clamp(BATCH, MOST_LENT)
    }

    fn bind_flags(&self, zero_copy: bool) -> BindFlags {
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        if self.multi_buffer {
            flags |= BindFlags::XDP_USE_SG;
        }
        flags
    }
}

/// An open device.
#[derive(Debug)]
pub struct Opened {
    /// The ports of the workers, by number: first those of the queues' first sockets, then those of the
    /// second, and so on.
    pub ports: Vec<Port>,
    /// `true` if frames are received with zero-copy.
    pub zero_copy: bool,
    /// The error with which zero-copy failed, if it was tried.
    pub refused: Option<Errno>,
    /// `true` if the buffers are in huge pages.
    pub huge_pages: bool,
}

/// Opens a device's sockets.
pub fn open(interface: &str, plan: &Plan) -> Result<Opened, Error> {
    let name = Interface::new(CString::new(interface).map_err(|error| Error::Umem(error.into()))?);
    let mut opening = Opening::new(&name, plan)?;
    let mut refused = None;
    if plan.zero_copy != ZeroCopy::Off {
        match opening.sockets(true) {
            Ok(ports) => {
                return Ok(Opened { ports, zero_copy: true, refused, huge_pages: opening.huge_pages });
            }
            Err(Error::Bind { queue, source }) if plan.zero_copy == ZeroCopy::Required => {
                return Err(Error::ZeroCopy { queue, source });
            }
            Err(Error::Bind { queue, source }) => {
                refused = Some(Errno::from_raw(source.raw_os_error().unwrap_or_default()));
                if queue > 0 {
                    // A UMEM is bound to the mode of its first socket.
                    drop(opening);
                    opening = Opening::new(&name, plan)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    let ports = opening.sockets(false).map_err(|error| match error {
        Error::Bind { source, .. } if plan.multi_buffer && source.raw_os_error() == Some(libc::EINVAL) => {
            Error::MultiBuffer
        }
        error => error,
    })?;
    Ok(Opened { ports, zero_copy: false, refused, huge_pages: opening.huge_pages })
}

/// The state while the sockets are opened.
struct Opening<'p> {
    interface: &'p Interface,
    plan: &'p Plan,
    /// The UMEM of each queue, and all its descriptors.
    umems: Vec<(Umem, Vec<FrameDesc>)>,
    huge_pages: bool,
}

impl<'p> Opening<'p> {
    /// Allocates the UMEMs, in huge pages if there are enough or the kernel can make some.
    fn new(interface: &'p Interface, plan: &'p Plan) -> Result<Self, Error> {
        let huge = Self::umems(plan, true).or_else(|_| {
            // Each UMEM is rounded up to whole pages.
            let bytes = plan.bytes() + u64::from(plan.queues.get()) * huge_pages::SIZE;
            huge_pages::allowed(bytes, || Self::umems(plan, true))
        });
        let huge_pages = huge.is_ok();
        let umems = huge.or_else(|_| Self::umems(plan, false))?;
        Ok(Self { interface, plan, umems, huge_pages })
    }

    fn umems(plan: &Plan, huge_pages: bool) -> Result<Vec<(Umem, Vec<FrameDesc>)>, Error> {
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_SIZE).expect("a page is more than the smallest chunk"))
            .fill_queue_size(ring(plan.buffers()))
            .comp_queue_size(ring(UNUSED_RING))
            .build()
            .expect("the chunk size is a power of two and larger than the headroom");
        let count = NonZeroU32::MIN.saturating_add(plan.buffers() - 1);
        let bytes = plan.bytes();
        let umem = |_| {
            Umem::new(config, count, huge_pages).map_err(|error| match os_error(&error) {
                Some(Errno::ENOBUFS | Errno::EPERM) => Error::LockedMemory { bytes },
                Some(Errno::ENOMEM) => Error::Memory { bytes },
                Some(Errno::EAFNOSUPPORT) => Error::Unsupported,
                other => Error::Umem(other.unwrap_or(Errno::EIO).into()),
            })
        };
        (0..plan.queues.get()).map(umem).collect()
    }

    /// Opens all sockets and connects them.
    fn sockets(&self, zero_copy: bool) -> Result<Vec<Port>, Error> {
        let config = SocketConfig::builder()
            .rx_queue_size(ring(self.plan.ring))
            .tx_queue_size(ring(UNUSED_RING))
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(self.plan.bind_flags(zero_copy))
            .build();
        let Plan { queues, sockets_per_queue, busy_poll, .. } = *self.plan;
        let workers = (queues.get() * sockets_per_queue.get()) as usize;
        let signals = (0..workers).map(|_| Signal::new()).collect::<io::Result<Arc<[_]>>>();
        let signals = signals.map_err(Error::Signal)?;
        let mut fills = Vec::new();
        let mut sockets = Vec::new();
        for number in 0..sockets_per_queue.get() {
            for (queue, (umem, _)) in (0..queues.get()).zip(&self.umems) {
                let (tx, rx, rings) = self.socket(config, umem, queue)?;
                if let Some(settings) = busy_poll {
                    busy_poll::enable(rx.fd().as_raw_fd(), settings).map_err(Error::BusyPoll)?;
                }
                match (number, rings) {
                    (0, Some(rings)) => fills.push(rings),
                    (0, None) => return Err(Error::InUse { queue }),
                    _ => {}
                }
                sockets.push((queue, (tx, rx)));
            }
        }
        let ways = self.ways(fills);
        let peers = self.peers(workers);
        let umems: Vec<_> = self.umems.iter().map(|(umem, _)| umem.clone()).collect();
        let ports = sockets.into_iter().zip(ways).zip(peers).enumerate();
        Ok(ports
            .map(|(number, (((queue, socket), way), peers))| {
                let wake = (Arc::clone(&signals), busy_poll.is_some());
                Port::new(number, queue, socket, umems.clone(), way, peers, wake)
            })
            .collect())
    }

    fn socket(
        &self,
        config: SocketConfig,
        umem: &Umem,
        queue: u32,
    ) -> Result<(TxQueue, RxQueue, Option<Rings>), Error> {
        let deadline = Instant::now() + REBIND_PATIENCE;
        loop {
            // SAFETY: libxdp is configured not to load a program of its own, as the contract requires if a
            // queue is bound to twice.
            match unsafe { Socket::new(config, umem, self.interface, queue) } {
                Ok(socket) => return Ok(socket),
                Err(error) => match os_error(&error) {
                    Some(Errno::EBUSY) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Some(Errno::EBUSY) => return Err(Error::InUse { queue }),
                    errno => {
                        let source = errno.map_or_else(|| io::Error::other(error), Into::into);
                        return Err(Error::Bind { queue, source });
                    }
                },
            }
        }
    }

    /// Makes the way of each worker's buffers into its queue's fill ring, and puts all buffers into it.
    fn ways(&self, fills: Vec<Rings>) -> Vec<Way> {
        let queues = fills.len();
        let buffers = self.plan.buffers() as usize;
        let mut from_workers: Vec<Vec<Consumer<FrameDesc>>> = fills.iter().map(|_| Vec::new()).collect();
        let mut others = Vec::new();
        for _ in 1..self.plan.sockets_per_queue.get() {
            for (queue, from_workers) in from_workers.iter_mut().enumerate() {
                let (home, from_worker) = Home::new(buffers);
                from_workers.push(from_worker);
                others.push(Way::Worker { home, filler: queue });
            }
        }
        let mut ways = Vec::with_capacity(queues + others.len());
        for (((mut fill, completion), from_workers), (_, descriptors)) in
            fills.into_iter().zip(from_workers).zip(&self.umems)
        {
            // SAFETY: the descriptors are of this queue's UMEM, and nothing refers to their buffers: each is
            // given to the kernel here for the first time.
            let filled = unsafe { fill.produce(descriptors) };
            debug_assert_eq!(filled, buffers, "the fill ring has a place for every buffer");
            let waiting = Vec::with_capacity(buffers);
            ways.push(Way::Filler { fill, waiting, from_workers, _completion: completion });
        }
        ways.extend(others);
        ways
    }

    /// Makes the exchanges of each worker with the others. The program has already chosen among a queue's
    /// sockets, so frames go only to the worker of the socket with the same number at another queue.
    fn peers(&self, workers: usize) -> Vec<Vec<Option<Peer<FrameDesc>>>> {
        let queues = self.plan.queues.get() as usize;
        let none = |_| (0..workers).map(|_| None).collect();
        let mut peers: Vec<Vec<Option<Peer<FrameDesc>>>> = (0..workers).map(none).collect();
        if !self.plan.hand_over {
            return peers;
        }
        let pairs = (0..workers).flat_map(|a| (a + 1..workers).map(move |b| (a, b)));
        for (a, b) in pairs.filter(|(a, b)| a / queues == b / queues) {
            let (of_a, of_b) = Peer::pair(self.plan.may_be_lent());
            peers[a][b] = Some(of_a);
            peers[b][a] = Some(of_b);
        }
        peers
    }
}
