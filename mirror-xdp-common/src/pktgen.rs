//! The definitions that the packet generator's XDP program and user space share: the layout of a sequence of
//! frames in the maps, and the rewriting of a frame so that each lap through the sequence brings new flows.
//!
//! The program writes one frame after the other into the pages that the kernel provides, and sends them.
//! Engines that write their frames in user space rewrite them with the same code.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::Frame;
use crate::source::FIRST_SOURCE_PORT;

/// Frames begin within this many bytes of a block; the last one may extend beyond.
pub const BLOCK_LEN: usize = 1 << 16;
/// More than the longest frame that fits into a page behind the kernel's own data.
pub const MAX_FRAME: usize = 4096 - 1;
/// Bytes of a block in the map.
pub const BLOCK_VALUE_LEN: usize = BLOCK_LEN + MAX_FRAME + 1;

/// The bits of an address that differ from lap to lap: the host part of an IPv4 address in the shortest
/// network prefix, or the end of an IPv6 interface identifier.
const HOST_BITS: u32 = 0x00ff_ffff;
/// An odd number, so that laps differ in as many bits as possible.
const MULTIPLIER: u32 = 0x009e_3779;

/// The places in a frame that are rewritten, as offsets from its start. 0, the offset of the hardware
/// addresses, stands for "nowhere".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rewrite {
    /// The last four bytes of the inner source and destination address.
    pub addresses: [u16; 2],
    /// The last four bytes of the addresses in the packet that an ICMP error quotes.
    pub quoted: [u16; 2],
    /// Checksum of the inner IPv4 header.
    pub ip_checksum: u16,
    /// Checksum of TCP or UDP, which covers the addresses; of `ICMPv6`, which also covers the quoted ones.
    pub transport_checksum: u16,
    /// Checksum of the quoted IPv4 header.
    pub quoted_checksum: u16,
    /// Outer UDP source ports, which the mirror derives from the inner flow.
    pub source_ports: [u16; 2],
    /// The flow cookie of a gateway load balancer.
    pub cookie: u16,
}

/// A frame of the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Index of the block that holds the frame's bytes.
    pub block: u32,
    /// Offset of its bytes in the block, below [`BLOCK_LEN`].
    pub offset: u32,
    /// The number of its bytes, at most [`MAX_FRAME`].
    pub length: u32,
    /// The repetition to which the frame belongs, as the sequence may contain a capture several times.
    pub lap: u32,
    /// Time until the next frame, see [`FRACTION_BITS`]; 0 if frames follow each other as fast as possible.
    pub gap: u64,
    /// The places that are rewritten.
    pub rewrite: Rewrite,
    /// Padding of the structure.
    pub reserved: u32,
}

/// Bytes of an [`Entry`] in the map.
pub const ENTRY_LEN: usize = size_of::<Entry>();

/// Times between frames are in nanoseconds with this many fractional bits: at millions of frames per second,
/// whole nanoseconds would be too coarse.
pub const FRACTION_BITS: u32 = 16;

/// The generator catches up at most this many nanoseconds behind its schedule. It gives up the rest, because
/// such a long burst would not be the requested rate.
pub const CATCH_UP: u64 = 1_000_000;

/// The progress of sending a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// Index of the next frame.
    pub next: u32,
    /// The number of complete rounds through the sequence.
    pub round: u32,
    /// Frames handed to the interface.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that did not fit into the page.
    pub failed: u64,
    /// The number of frames after which sending ends.
    pub limit: u64,
    /// The time at which the next frame is due, in nanoseconds of the monotonic clock.
    pub due: u64,
    /// The fraction of a nanosecond that is missing in `due`.
    pub fraction: u64,
}

impl State {
    /// Returns whether the next frame is due at this time.
    #[inline(always)]
    #[must_use]
    pub fn is_due(&mut self, now: u64) -> bool {
        if now < self.due {
            return false;
        }
        if now - self.due > CATCH_UP {
            self.due = now - CATCH_UP;
        }
        true
    }

    /// Moves on to the next of `count` frames, `gap` after this one.
    #[inline(always)]
    pub const fn advance(&mut self, count: u32, gap: u64) {
        self.next += 1;
        if self.next >= count {
            self.next = 0;
            self.round = self.round.wrapping_add(1);
        }
        let gap = self.fraction + gap;
        self.due += gap >> FRACTION_BITS;
        self.fraction = gap & ((1 << FRACTION_BITS) - 1);
    }

    /// Returns the lap to which a frame of this round belongs, if a round has `laps` laps.
    #[inline(always)]
    #[must_use]
    pub const fn lap(&self, laps: u32, entry: u32) -> u32 {
        self.round.wrapping_mul(laps).wrapping_add(entry)
    }
}

/// Bytes of a [`State`] in the map.
pub const STATE_LEN: usize = size_of::<State>();

/// A frame whose bytes can be written by offset.
pub trait FrameMut: Frame {
    /// Writes `value` at `offset`; does nothing if it does not lie wholly within the frame.
    fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T);
}

impl FrameMut for [u8] {
    fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) {
        if let Some(place) = self.get_mut(offset..) {
            // This fails if there is no room, as intended.
            let _ = value.write_to_prefix(place);
        }
    }
}

/// Returns the bits in which the addresses of a lap differ from those of lap 0.
#[inline(always)]
#[must_use]
pub const fn lap_mask(lap: u32) -> u32 {
    lap.wrapping_mul(MULTIPLIER) & HOST_BITS
}

/// Moves a frame to another flow, in the same way for all frames of a lap: rewrites addresses, the checksums
/// that cover them, and the fields that the mirror derives from the flow.
#[inline(always)]
pub fn rewrite<F: FrameMut + ?Sized>(frame: &mut F, places: &Rewrite, lap: u32) {
    let mask = lap_mask(lap);
    let addresses = change(frame, places.addresses[0], mask) + change(frame, places.addresses[1], mask);
    adjust(frame, places.ip_checksum, addresses, 0);
    let mut transport = addresses;
    if places.quoted[0] | places.quoted[1] != 0 {
        let quoted = change(frame, places.quoted[0], mask) + change(frame, places.quoted[1], mask);
        adjust(frame, places.quoted_checksum, quoted, 0);
        transport += quoted;
    }
    // In UDP, 0 means that there is no checksum; its other representation is equally valid in all protocols.
    adjust(frame, places.transport_checksum, transport, u16::MAX);
    let port_bits = (mask ^ mask >> 7 ^ mask >> 14) & 0x7f;
    change_port(frame, places.source_ports[0], port_bits);
    change_port(frame, places.source_ports[1], port_bits);
    change(frame, places.cookie, mask);
}

/// Flips the bits of `mask` in the word at `offset`. Returns the resulting change of a one's complement sum:
/// two new words of 16 bits, and the complement of the two old ones (RFC 1624, equation 3).
#[inline(always)]
fn change<F: FrameMut + ?Sized>(frame: &mut F, offset: u16, mask: u32) -> u32 {
    if offset == 0 {
        return 0;
    }
    let Some(old) = frame.header::<u32>(offset as usize) else { return 0 };
    let old = u32::from_be(old);
    let new = old ^ mask;
    frame.store(offset as usize, new.to_be());
    (new >> 16) + (new & 0xffff) + (!old >> 16) + (!old & 0xffff)
}

/// Applies a change of the covered sum to a checksum. A sum of 0 has two representations, of which `zero` is
/// used.
#[inline(always)]
fn adjust<F: FrameMut + ?Sized>(frame: &mut F, offset: u16, by: u32, zero: u16) {
    if offset == 0 {
        return;
    }
    let Some(old) = frame.header::<u16>(offset as usize) else { return };
    // At most 17 words of 16 bits: two foldings take the carry in.
    let sum = u32::from(!u16::from_be(old)) + by;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let new = if sum == 0xffff { zero } else { !(sum as u16) };
    frame.store(offset as usize, new.to_be());
}

#[inline(always)]
fn change_port<F: FrameMut + ?Sized>(frame: &mut F, offset: u16, bits: u32) {
    if offset == 0 {
        return;
    }
    let Some(old) = frame.header::<u16>(offset as usize) else { return };
    // The result is again one of the ports of mirror traffic.
    let new = FIRST_SOURCE_PORT | u16::from_be(old) ^ bits as u16;
    frame.store(offset as usize, new.to_be());
}
