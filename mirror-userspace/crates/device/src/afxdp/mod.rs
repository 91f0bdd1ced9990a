//! `AF_XDP` sockets: the memory into which the kernel writes frames (the UMEM), and a receive ring for each
//! worker ([`Port`]). This is the only module with unsafe code for them; its interface is safe.
//!
//! Each queue has a UMEM, whose buffers circulate: fill ring → kernel → receive ring of one of the queue's
//! sockets → [`Frame`] → fill ring. A fill ring has one producer, the worker of the queue's first socket; the
//! queue's other workers send buffers to it by a ring each. A worker can also lend a frame to a worker of
//! another queue, which returns the buffers (`exchange`). (One UMEM for all queues would do as well, but
//! libxdp gives further sockets only to the queue to which a UMEM was first bound.)
//!
//! A descriptor names a buffer, and each descriptor is in exactly one of these places. A worker holds it as a
//! [`Frame`], which borrows the port, so no one else can have it. When the frame is dropped, its descriptors
//! move on, so that the buffer can neither be read after that nor be returned twice.
#![expect(unsafe_code, reason = "the rings and the UMEM are shared with the kernel")]

mod busy_poll;
pub mod exchange;
mod huge_pages;
mod open;
mod port;
mod signal;
pub mod transmit;

use std::io;

use mirror_xdp_common::capture;
use mirror_xdp_common::wire::{ETHERNET_LEN, Ipv4Header, UDP_LEN, VXLAN_LEN};
use nix::errno::Errno;
use xsk_rs::config::QueueSize;

pub use self::busy_poll::BusyPoll;
pub use self::open::{Opened, Plan, ZeroCopy, open};
pub use self::port::{BATCH, Frame, Port, Received};

/// Bytes of one buffer: a page, the only size that both zero-copy drivers and the kernel's copy mode accept.
pub const CHUNK_SIZE: u32 = 4096;
/// Bytes that the kernel keeps free in front of each frame (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: u32 = 256;
/// Bytes of the longest frame that a buffer holds.
pub const MAX_FRAME: u32 = CHUNK_SIZE - XDP_HEADROOM;
/// The size of rings that a socket must have, but that are not used.
const UNUSED_RING: u32 = 64;
/// The largest MTU with which every mirrored frame fits into one buffer. The longest frames are those over
/// IPv4, because the outer headers that the program removes are shortest there.
pub const MAX_MTU: u32 = MAX_FRAME - (capture::LEN - (Ipv4Header::LEN + UDP_LEN + VXLAN_LEN)) as u32;

/// The largest MTU if frames may span several buffers: that of EC2 and a little more.
pub const MAX_JUMBO_MTU: u32 = 9216;

const _: () = assert!(ETHERNET_LEN + Ipv4Header::LEN + UDP_LEN + VXLAN_LEN < capture::LEN);

/// The reasons why a queue's frames cannot be received.
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
        /// Bytes required.
        bytes: u64,
    },
    /// There is not enough memory.
    #[error("no memory for {} MiB of buffers", bytes >> 20)]
    Memory {
        /// Bytes required.
        bytes: u64,
    },
    /// The kernel has no `AF_XDP` support.
    #[error("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")]
    Unsupported,
    /// Another error of binding.
    #[error("cannot bind an AF_XDP socket to queue {queue}")]
    Bind {
        /// The queue.
        queue: u32,
        /// The error of the kernel.
        source: io::Error,
    },
    /// Zero-copy is required, and the driver does not support it.
    #[error(
        "zero-copy is required, but queue {queue} has none ({source}): use a driver that supports it, for ENA \
         that of amzn-drivers from 2.13.2 on, or `--zero-copy auto`"
    )]
    ZeroCopy {
        /// The queue.
        queue: u32,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The kernel does not support frames in several buffers.
    #[error(
        "frames of this MTU take several buffers each, which needs Linux 6.6 or newer; \
         set an MTU of at most {MAX_MTU}"
    )]
    MultiBuffer,
    /// The kernel refused busy polling.
    #[error("the kernel refuses busy polling, which needs CAP_NET_ADMIN and Linux 5.11: {0}")]
    BusyPoll(#[source] io::Error),
    /// No file descriptor is left.
    #[error("cannot create the eventfd that wakes a worker: {0}")]
    Signal(#[source] io::Error),
    /// The kernel refused the buffers.
    #[error("the kernel refuses the buffers for AF_XDP")]
    Umem(#[source] io::Error),
}

fn ring(size: u32) -> QueueSize {
    QueueSize::new(size).expect("the rings' sizes are powers of two")
}

/// Returns the system's error number at the root of an error of xsk-rs.
fn os_error(error: &dyn std::error::Error) -> Option<Errno> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    source.raw_os_error().map(Errno::from_raw)
}

/// The kernel's counters of a socket, see [`Port::statistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames lost because the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Frames lost because no buffer was free, or because they were longer than a buffer.
    pub rx_dropped: u64,
    /// The number of times that the kernel found the fill ring empty. This is not a loss of its own: the
    /// frames are counted in `rx_dropped`.
    pub fill_ring_empty: u64,
}
