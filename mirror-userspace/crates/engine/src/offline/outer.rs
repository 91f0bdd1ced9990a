//! The outer headers of frames in capture files: also behind link layers other than Ethernet, and with lengths that
//! only files show, because a capturing tool has written them so.

use mirror_packet::LinkType;
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::outer::{Mirrored, Ports};
use mirror_xdp_common::wire::ETHERNET_LEN;
use zerocopy::FromBytes;

/// Removes the outer headers of a frame that had `original_len` bytes on the wire. An outer IP packet may be longer
/// than its frame was. Returns `None` if the link layer carries no IP.
pub(super) fn decapsulate(
    link: LinkType,
    bytes: &[u8],
    original_len: usize,
    ports: &Ports,
) -> Option<Result<Mirrored, Counter>> {
    let frame = Captured { bytes, original_len };
    if link == LinkType::Ethernet {
        return Some(any_length(&frame, ports));
    }
    let (kind, header_len) = link.ethertype(bytes)?;
    let outer = any_length(&Cooked::new(frame, kind, header_len), ports);
    Some(
        outer.map(|outer| Mirrored { inner_offset: outer.inner_offset - ETHERNET_LEN + header_len, ..outer }),
    )
}

#[inline]
fn any_length(frame: &impl Frame, ports: &Ports) -> Result<Mirrored, Counter> {
    match mirror_xdp_common::outer::decapsulate(frame, ports) {
        Err(Counter::OuterIpLength) => without_end(frame, ports),
        outer => outer,
    }
}

#[cold]
fn without_end(frame: &impl Frame, ports: &Ports) -> Result<Mirrored, Counter> {
    let outer = mirror_xdp_common::outer::decapsulate(&Endless(frame), ports);
    outer.map_err(|_| Counter::OuterIpLength)
}

/// A frame of which the file may have only the beginning.
#[derive(Clone, Copy)]
struct Captured<'f> {
    bytes: &'f [u8],
    original_len: usize,
}

impl Frame for Captured<'_> {
    fn len(&self) -> usize {
        self.original_len.max(self.bytes.len())
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        self.bytes.header(offset)
    }
}

/// A frame of another link layer, as if it had an Ethernet header without addresses in place of its own.
struct Cooked<'f> {
    frame: Captured<'f>,
    /// Length of the header that the frame has.
    header_len: usize,
    ethernet: [u8; ETHERNET_LEN],
}

impl<'f> Cooked<'f> {
    fn new(frame: Captured<'f>, ethertype: u16, header_len: usize) -> Self {
        let mut ethernet = [0; ETHERNET_LEN];
        if let Some(kind) = ethernet.last_chunk_mut() {
            *kind = ethertype.to_be_bytes();
        }
        Self { frame, header_len, ethernet }
    }
}

impl Frame for Cooked<'_> {
    fn len(&self) -> usize {
        (self.frame.len() + ETHERNET_LEN).saturating_sub(self.header_len)
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        match offset.checked_sub(ETHERNET_LEN) {
            Some(behind) => self.frame.header(self.header_len + behind),
            None => self.ethernet.as_slice().header(offset),
        }
    }
}

/// A frame that has room for every outer IP packet.
struct Endless<'f, F>(&'f F);

impl<F: Frame> Frame for Endless<'_, F> {
    fn len(&self) -> usize {
        /// More than any length in a header, and far from an overflow.
        const ENDLESS: usize = 1 << 24;
        self.0.len().max(ENDLESS)
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        self.0.header(offset)
    }
}
