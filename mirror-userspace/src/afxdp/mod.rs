//! `AF_XDP` sockets: the memory that the kernel writes frames into (the UMEM), and a receive
//! ring and a fill ring for each queue ([`Queue`]). The only module with unsafe code; what it offers is
//! safe.
//!
//! All queues of a device share one UMEM. Each has buffers of its own in it, which go round: fill ring →
//! kernel → receive ring → [`Batch`] → fill ring. A buffer is named by its descriptor, and a descriptor is
//! at one of these places only:
//!
//! * [`Queue::receive`] takes descriptors off the receive ring into a batch that borrows the queue, so
//!   there is one batch of a queue at a time;
//! * the frames are borrowed from the batch, so none can be looked at after it;
//! * the end of the batch gives each descriptor back once.
#![expect(unsafe_code, reason = "the rings and the UMEM are shared with the kernel")]

pub mod transmit;

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use mirror_xdp_common::capture;
use mirror_xdp_common::wire::{ETHERNET_LEN, Ipv4Header, UDP_LEN, VXLAN_LEN};
use nix::errno::Errno;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Bytes of one buffer: a page, the one size that zero-copy drivers and the kernel's copy mode both take.
const CHUNK_SIZE: u32 = 4096;
/// What the kernel keeps free in front of each frame (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: u32 = 256;
/// The longest frame that a buffer holds.
pub const MAX_FRAME: u32 = CHUNK_SIZE - XDP_HEADROOM;
/// Frames that may wait for a worker.
const RX_RING: u32 = 4096;
/// Buffers of a queue, and places in its fill ring: as many as can wait for the worker and as many again,
/// so that the receive ring is full before the buffers run out.
const BUFFERS: u32 = 2 * RX_RING;
/// Rings that are only there because a socket has them.
const UNUSED_RING: u32 = 64;
/// Frames that are taken off the ring at once.
const BATCH: usize = 64;
/// A queue stays bound for a moment after its last socket was closed, since the kernel frees it in the
/// background, and another capture needs up to a second to notice that it was replaced. So long that is
/// waited for.
const REBIND_PATIENCE: Duration = Duration::from_secs(3);

/// The largest MTU with which every mirrored frame fits into one buffer: what the program leaves of a
/// frame over IPv4 is the longest, for the outer headers that it takes off are there the shortest.
pub const MAX_MTU: u32 = MAX_FRAME - (capture::LEN - (Ipv4Header::LEN + UDP_LEN + VXLAN_LEN)) as u32;

const _: () = assert!(ETHERNET_LEN + Ipv4Header::LEN + UDP_LEN + VXLAN_LEN < capture::LEN);

/// Bytes of the buffers of so many queues.
#[must_use]
pub const fn buffer_bytes(queues: u32) -> u64 {
    queues as u64 * BUFFERS as u64 * CHUNK_SIZE as u64
}

/// Why a queue's frames cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another socket is bound to the queue.
    #[error(
        "queue {queue} has an AF_XDP socket already; stop the program that holds it (`ss --xdp` lists them)"
    )]
    InUse {
        /// The queue.
        queue: u32,
    },
    /// The limit on locked memory is too low.
    #[error(
        "the limit on locked memory is below the {} MiB that the buffers need; raise it (`ulimit -l`, \
         LimitMEMLOCK=), or grant CAP_IPC_LOCK",
        bytes >> 20
    )]
    LockedMemory {
        /// What is needed.
        bytes: u64,
    },
    /// There is not enough memory.
    #[error("no memory for {} MiB of buffers", bytes >> 20)]
    Memory {
        /// What is needed.
        bytes: u64,
    },
    /// The kernel has no `AF_XDP`.
    #[error("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")]
    Unsupported,
    /// Anything else.
    #[error("cannot bind an AF_XDP socket to queue {queue}")]
    Bind {
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The buffers were refused.
    #[error("the kernel refuses the buffers for AF_XDP")]
    Umem(#[source] io::Error),
}

/// How a socket gets frames from the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// The kernel copies each frame into a buffer; works with every driver.
    Copy,
}

impl Bind {
    const fn flags(self) -> BindFlags {
        match self {
            Self::Copy => BindFlags::XDP_COPY.union(BindFlags::XDP_USE_NEED_WAKEUP),
        }
    }
}

/// Opens sockets on queues 0 to `queues` − 1 of an interface, with one UMEM for all of them.
pub fn open(interface: &str, queues: NonZeroU32, bind: Bind) -> Result<Vec<Queue>, Error> {
    let bytes = buffer_bytes(queues.get());
    let count = queues.saturating_mul(NonZeroU32::MIN.saturating_add(BUFFERS - 1));
    let (umem, descriptors) =
        Umem::new(umem_config(), count, false).map_err(|error| match os_error(&error) {
            Some(Errno::ENOBUFS | Errno::EPERM) => Error::LockedMemory { bytes },
            Some(Errno::ENOMEM) => Error::Memory { bytes },
            Some(Errno::EAFNOSUPPORT) => Error::Unsupported,
            other => Error::Umem(other.unwrap_or(Errno::EIO).into()),
        })?;
    let config = socket_config(bind);
    let name = Interface::new(CString::new(interface).map_err(|error| Error::Umem(error.into()))?);
    let mut opened = Vec::new();
    for (queue, descriptors) in (0..queues.get()).zip(descriptors.chunks(BUFFERS as usize)) {
        opened.push(Queue::open(&umem, config, &name, queue, descriptors)?);
    }
    Ok(opened)
}

fn ring(size: u32) -> QueueSize {
    QueueSize::new(size).expect("the rings' sizes are powers of two")
}

fn umem_config() -> UmemConfig {
    UmemConfig::builder()
        .frame_size(FrameSize::new(CHUNK_SIZE).expect("a page is more than the smallest chunk"))
        .fill_queue_size(ring(BUFFERS))
        .comp_queue_size(ring(UNUSED_RING))
        .build()
        .expect("the chunk size is a power of two and larger than the headroom")
}

fn socket_config(bind: Bind) -> SocketConfig {
    SocketConfig::builder()
        .rx_queue_size(ring(RX_RING))
        .tx_queue_size(ring(UNUSED_RING))
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind.flags())
        .build()
}

/// The system's error number at the root of an error of xsk-rs.
fn os_error(error: &dyn std::error::Error) -> Option<Errno> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    source.raw_os_error().map(Errno::from_raw)
}

/// What the kernel counts of a socket, see [`Queue::statistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that were lost because the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Frames that were lost because no buffer was free, or because they were longer than
    /// [`MAX_FRAME`].
    pub rx_dropped: u64,
    /// How often the kernel found the fill ring empty. Not a loss of its own: the frames are among
    /// `rx_dropped`.
    pub fill_ring_empty: u64,
}

/// A queue's socket, its rings and its buffers.
///
/// Dropping it gives the queue free; the UMEM goes with its last queue.
#[derive(Debug)]
pub struct Queue {
    id: u32,
    rx: RxQueue,
    fill: FillQueue,
    /// Descriptors of the current batch; what lies beyond its count means nothing.
    received: Box<[FrameDesc]>,
    umem: Umem,
    // Nothing is sent, but libxdp has the rings unmapped when these go.
    _tx: TxQueue,
    _completion: CompQueue,
}

impl Queue {
    fn open(
        umem: &Umem,
        config: SocketConfig,
        interface: &Interface,
        id: u32,
        descriptors: &[FrameDesc],
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + REBIND_PATIENCE;
        let (tx, rx, rings) = loop {
            // SAFETY: libxdp is told not to load a program of its own, which is what the contract asks
            // for where a queue is bound to twice; here each is bound to once.
            match unsafe { Socket::new(config, umem, interface, id) } {
                Ok(socket) => break socket,
                Err(error) => match os_error(&error) {
                    Some(Errno::EBUSY) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Some(Errno::EBUSY) => return Err(Error::InUse { queue: id }),
                    errno => {
                        let source = errno.map_or_else(|| io::Error::other(error), Into::into);
                        return Err(Error::Bind { queue: id, source });
                    }
                },
            }
        };
        let Some((mut fill, completion)) = rings else { return Err(Error::InUse { queue: id }) };
        // SAFETY: the descriptors are of this UMEM, and were given to this queue alone; nothing refers to
        // their buffers.
        let filled = unsafe { fill.produce(descriptors) };
        debug_assert_eq!(filled, descriptors.len(), "the fill ring has a place for every buffer");
        let received = vec![FrameDesc::default(); BATCH].into_boxed_slice();
        Ok(Self { id, rx, fill, received, umem: umem.clone(), _tx: tx, _completion: completion })
    }

    /// The queue's number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The socket, to be entered into the program's map.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// Takes the frames that are there, as far as they go into one batch.
    pub fn receive(&mut self) -> Batch<'_> {
        // SAFETY: the descriptors that come off the receive ring are those of this queue's buffers, and
        // this queue uses the one UMEM that it was opened with.
        let count = unsafe { self.rx.consume(&mut self.received) };
        Batch { queue: self, count }
    }

    /// Waits until there are frames, at most for `timeout`. Wakes the driver up where it asks for it.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        self.rx.poll(milliseconds).map(drop)
    }

    /// What the kernel has counted since the socket was opened.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let statistics = self.rx.fd().xdp_statistics()?;
        Ok(Statistics {
            rx_ring_full: statistics.rx_ring_full(),
            rx_dropped: statistics.rx_dropped(),
            fill_ring_empty: statistics.rx_fill_ring_empty_descs(),
        })
    }

    /// Gives the first `count` descriptors of the batch back to the kernel.
    fn refill(&mut self, count: usize) {
        let Some(descriptors) = self.received.get(..count) else { return };
        // SAFETY: the descriptors came off this queue's receive ring and are given back once, at the end
        // of the batch that held them; the frames borrowed from it cannot be there any more.
        let filled = unsafe { self.fill.produce(descriptors) };
        debug_assert_eq!(filled, count, "the fill ring has a place for every buffer");
        if self.fill.needs_wakeup() {
            // Polling for nothing wakes the driver. What fails here fails again where frames are waited
            // for, and is told there.
            let _ = self.rx.poll(0);
        }
    }
}

/// Frames that were received together. Their buffers go back to the kernel when the batch ends.
#[derive(Debug)]
pub struct Batch<'q> {
    queue: &'q mut Queue,
    count: usize,
}

impl Batch<'_> {
    /// How many frames there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The frames, in the order in which they came.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.received.iter().take(self.count).map(|descriptor| {
            // SAFETY: the kernel wrote the descriptor, so it lies within the UMEM; the buffer is ours
            // until this batch gives it back, and nobody writes to it.
            unsafe { self.queue.umem.data(descriptor) }.contents()
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.queue.refill(self.count);
        }
    }
}
