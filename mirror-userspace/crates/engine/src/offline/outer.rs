//! The outer headers of frames in capture files: also behind link layers other than Ethernet, and with lengths that
//! only files show, because segmentation offload or a capturing tool has left them so.

use mirror_packet::LinkType;
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::outer::{Mirrored, Ports};
use mirror_xdp_common::wire::{ETHERNET_LEN, Ipv4Header, Ipv6Header, VLAN_LEN, ethertype};
use zerocopy::FromBytes;

/// Removes the outer headers of a frame that had `original_len` bytes on the wire. An outer IP packet without a
/// length ends with its frame, and so does one that is longer than its frame was. Returns `None` if the link layer
/// carries no IP.
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
        Err(Counter::OuterIpLength) => with_other_length(frame, ports),
        outer => outer,
    }
}

#[cold]
fn with_other_length(frame: &impl Frame, ports: &Ports) -> Result<Mirrored, Counter> {
    let outer = mirror_xdp_common::outer::decapsulate(&Relengthed::new(frame), ports);
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

/// A frame whose outer IP packet is never too long, and has the length of its frame if it has none of its own.
struct Relengthed<'f, F> {
    frame: &'f F,
    /// Offset of the IP header.
    ip: usize,
    /// The IP header and what follows, with a length.
    head: Vec<u8>,
}

impl<'f, F: Frame> Relengthed<'f, F> {
    fn new(frame: &'f F) -> Self {
        /// The longest IP header with options, and a UDP header.
        const MAX: usize = 60 + 8;
        let kind_at = |offset: usize| frame.header::<[u8; 2]>(offset - 2).map(u16::from_be_bytes);
        let is_tag = |kind| matches!(kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD);
        let mut ip = ETHERNET_LEN;
        let mut kind = kind_at(ip);
        for _ in 0..2 {
            if kind.is_some_and(is_tag) {
                ip += VLAN_LEN;
                kind = kind_at(ip);
            }
        }
        let mut head: Vec<u8> =
            (ip..ip + MAX).map_while(|at| frame.header::<[u8; 1]>(at)).map(|[byte]| byte).collect();
        let rest = frame.len().saturating_sub(ip);
        match kind {
            Some(ethertype::IPV4) => {
                let header_len = usize::from(head.first().copied().unwrap_or_default() & 0x0f) * 4;
                if header_len >= Ipv4Header::LEN && fill(&mut head, 2, rest) {
                    fill(&mut head, header_len + 4, rest - header_len.min(rest));
                }
            }
            Some(ethertype::IPV6) => {
                let rest = rest.saturating_sub(Ipv6Header::LEN);
                if fill(&mut head, 4, rest) {
                    fill(&mut head, Ipv6Header::LEN + 4, rest);
                }
            }
            _ => {}
        }
        Self { frame, ip, head }
    }
}

impl<F: Frame> Frame for Relengthed<'_, F> {
    fn len(&self) -> usize {
        /// More than any length in a header, and far from an overflow.
        const ENDLESS: usize = 1 << 24;
        self.frame.len().max(ENDLESS)
    }

    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        let of_head = offset.checked_sub(self.ip).and_then(|at| self.head.as_slice().header(at));
        of_head.or_else(|| self.frame.header(offset))
    }
}

/// Writes a length at `at` if the one there is 0. Returns true if so.
fn fill(head: &mut [u8], at: usize, len: usize) -> bool {
    let Some(place) = head.get_mut(at..at + 2).filter(|place| *place == [0, 0]) else { return false };
    place.copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    true
}
