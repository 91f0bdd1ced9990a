//! Sending by an `AF_XDP` socket: frames are written into buffers of a UMEM, and their descriptors go
//! round: free → transmit ring → kernel → completion ring → free.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::{CHUNK_SIZE, Errno, Error, UNUSED_RING, os_error, ring};

/// Frames that may wait for the driver, and buffers for them.
const TX_RING: u32 = 2048;
/// Descriptors that are handed over at once.
const BATCH: usize = 64;

/// Bytes of a frame that go into one buffer.
const MAX_PART: usize = super::MAX_FRAME as usize;
/// Buffers of the longest frame.
const MAX_PARTS: usize = 3;
/// The longest frame: more than the largest MTU that is captured needs.
pub const MAX_TRANSMIT: usize = MAX_PARTS * MAX_PART;

/// The descriptor is not a frame's last (`XDP_PKT_CONTD`).
const CONTINUED: u32 = 1;

/// A socket that only sends, by queue 0 of an interface.
#[derive(Debug)]
pub struct Transmitter {
    tx: TxQueue,
    completion: CompQueue,
    umem: Umem,
    /// Descriptors of buffers that nobody uses.
    free: Vec<FrameDesc>,
    /// Descriptors of frames that were written and are not handed over yet.
    written: Vec<FrameDesc>,
    completed: Box<[FrameDesc]>,
    zero_copy: bool,
    // Nothing is received, but libxdp has the rings unmapped when these go.
    _rx: RxQueue,
    _fill: FillQueue,
}

impl Transmitter {
    /// Opens it for frames of so many bytes at most: without copies where the driver can, else with.
    pub fn open(interface: &str, longest: usize) -> Result<Self, Error> {
        let several = longest > MAX_PART;
        let parts = if several { BindFlags::XDP_USE_SG } else { BindFlags::empty() };
        match Self::bind(interface, BindFlags::XDP_ZEROCOPY | parts) {
            Ok(transmitter) => Ok(Self { zero_copy: true, ..transmitter }),
            Err(error @ Error::InUse { .. }) => Err(error),
            Err(_) => Self::bind(interface, BindFlags::XDP_COPY | parts).map_err(|error| match error {
                Error::Bind { source, .. } if several && source.raw_os_error() == Some(libc::EINVAL) => {
                    Error::MultiBuffer
                }
                error => error,
            }),
        }
    }

    fn bind(interface: &str, mode: BindFlags) -> Result<Self, Error> {
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_SIZE).expect("a page is more than the smallest chunk"))
            .fill_queue_size(ring(UNUSED_RING))
            .comp_queue_size(ring(TX_RING))
            .build()
            .expect("the chunk size is a power of two and larger than the headroom");
        let count = NonZeroU32::MIN.saturating_add(TX_RING - 1);
        let (umem, free) = Umem::new(config, count, false)
            .map_err(|error| Error::Umem(os_error(&error).unwrap_or(Errno::EIO).into()))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring(UNUSED_RING))
            .tx_queue_size(ring(TX_RING))
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name = Interface::new(CString::new(interface).map_err(|error| Error::Umem(error.into()))?);
        // SAFETY: libxdp is told not to load a program of its own, and the queue is bound to once.
        let (tx, rx, rings) =
            unsafe { Socket::new(config, &umem, &name, 0) }.map_err(|error| match os_error(&error) {
                Some(Errno::EBUSY) => Error::InUse { queue: 0 },
                errno => {
                    let source = errno.map_or_else(|| io::Error::other(error), Into::into);
                    Error::Bind { queue: 0, source }
                }
            })?;
        let Some((fill, completion)) = rings else { return Err(Error::InUse { queue: 0 }) };
        Ok(Self {
            tx,
            completion,
            umem,
            free,
            written: Vec::with_capacity(BATCH),
            completed: vec![FrameDesc::default(); BATCH].into_boxed_slice(),
            zero_copy: false,
            _rx: rx,
            _fill: fill,
        })
    }

    /// Whether frames are sent from where they were written.
    #[must_use]
    pub const fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Writes a frame, of [`MAX_TRANSMIT`] bytes at most and no longer than was said, and lets `edit` change what
    /// is in its first buffer. False where no buffer is free: then [`Transmitter::flush`] comes first.
    pub fn write(&mut self, frame: &[u8], edit: impl FnOnce(&mut [u8])) -> bool {
        let parts = frame.len().div_ceil(MAX_PART);
        if self.written.len() + parts > BATCH || self.free.len() < parts {
            return false;
        }
        let mut edit = Some(edit);
        for (number, part) in frame.chunks(MAX_PART).enumerate() {
            let Some(mut descriptor) = self.free.pop() else { return false };
            // SAFETY: the descriptor is of this UMEM, and its buffer is in nobody's hands: it was free, and is
            // handed to the kernel only by `flush`.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            let mut cursor = data.cursor();
            cursor.set_pos(0);
            if io::Write::write_all(&mut cursor, part).is_err() {
                debug_assert!(false, "a part is not longer than a buffer");
            }
            if let Some(edit) = edit.take() {
                edit(data.contents_mut());
            }
            descriptor.set_options(if number + 1 < parts { CONTINUED } else { 0 });
            self.written.push(descriptor);
        }
        true
    }

    /// Hands what was written to the kernel, wakes it, and takes back what it has sent.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.written.is_empty() {
            // SAFETY: these descriptors are of this UMEM, each is handed over once, and nothing refers to their
            // buffers until they come back by the completion ring.
            let handed = unsafe { self.tx.produce(&self.written) };
            self.written.drain(..handed);
        }
        if self.outstanding() > 0 && self.tx.needs_wakeup() {
            self.tx.wakeup()?;
        }
        loop {
            // SAFETY: the descriptors that come off the completion ring are those handed over above.
            let count = unsafe { self.completion.consume(&mut self.completed) };
            self.free.extend(self.completed.iter().take(count));
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// Frames that were written and not sent yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        TX_RING as usize - self.free.len()
    }
}
