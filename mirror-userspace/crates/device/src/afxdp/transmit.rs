//! Sends by an `AF_XDP` socket: frames are written into buffers of a UMEM, whose descriptors circulate: free
//! → transmit ring → kernel → completion ring → free.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::{CHUNK_SIZE, Errno, Error, UNUSED_RING, os_error, ring};

/// Frames that may wait for the driver, and the number of buffers.
const TX_RING: u32 = 2048;
/// The most descriptors that are handed to the kernel at once.
const BATCH: usize = 64;

/// The most bytes of a frame in one buffer.
const MAX_PART: usize = super::MAX_FRAME as usize;
/// The most buffers of a frame.
const MAX_PARTS: usize = 3;
/// The longest frame, which is longer than the largest captured MTU needs.
pub const MAX_TRANSMIT: usize = MAX_PARTS * MAX_PART;

/// Marks a descriptor that is not the last of its frame (`XDP_PKT_CONTD`).
const CONTINUED: u32 = 1;

/// A socket that only sends, by queue 0 of an interface.
#[derive(Debug)]
pub struct Transmitter {
    tx: TxQueue,
    completion: CompQueue,
    umem: Umem,
    /// Descriptors of unused buffers.
    free: Vec<FrameDesc>,
    /// Descriptors of frames that were written and not yet handed to the kernel.
    written: Vec<FrameDesc>,
    completed: Box<[FrameDesc]>,
    zero_copy: bool,
    // Nothing is received, but libxdp unmaps the rings when these are dropped.
    _rx: RxQueue,
    _fill: FillQueue,
}

impl Transmitter {
    /// Opens a socket for frames of at most `longest` bytes: with zero-copy if the driver supports it,
    /// otherwise in copy mode.
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
        // SAFETY: libxdp is configured not to load a program of its own, and the queue is bound to once.
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

    /// Returns whether frames are sent with zero-copy.
    #[must_use]
    pub const fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Writes a frame of at most [`MAX_TRANSMIT`] bytes, and no longer than announced to
    /// [`Transmitter::open`]; `edit` may change the bytes in its first buffer. Returns `false` if no buffer
    /// is free: then call [`Transmitter::flush`] first.
    pub fn write(&mut self, frame: &[u8], edit: impl FnOnce(&mut [u8])) -> bool {
        let parts = frame.len().div_ceil(MAX_PART);
        if self.written.len() + parts > BATCH || self.free.len() < parts {
            return false;
        }
        let mut edit = Some(edit);
        for (number, part) in frame.chunks(MAX_PART).enumerate() {
            let Some(mut descriptor) = self.free.pop() else { return false };
            // SAFETY: the descriptor is of this UMEM, and nothing else refers to its buffer: it was free, and
            // only `flush` hands it to the kernel.
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

    /// Hands the written frames to the kernel, wakes it, and takes back the buffers of frames that it has
    /// sent.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.written.is_empty() {
            // SAFETY: these descriptors are of this UMEM, each is handed over once, and nothing refers to
            // their buffers until they return by the completion ring.
            let handed = unsafe { self.tx.produce(&self.written) };
            self.written.drain(..handed);
        }
        if self.outstanding() > 0 && self.tx.needs_wakeup() {
            self.tx.wakeup()?;
        }
        loop {
            // SAFETY: the descriptors from the completion ring are those handed over above.
            let count = unsafe { self.completion.consume(&mut self.completed) };
            self.free.extend(self.completed.iter().take(count));
            if count < BATCH {
                return Ok(());
            }
        }
    }

    /// Returns the number of frames that were written and not yet sent.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        TX_RING as usize - self.free.len()
    }
}
