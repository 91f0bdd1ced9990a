//! What the packet generator's XDP program and user space agree on: how a sequence of frames lies in the
//! maps, and how a frame is rewritten so that each lap through the sequence brings new flows.
//!
//! The program writes one frame after the other into the pages that the kernel hands it, and sends them.
//! The same rewriting serves the engines that write their frames in user space.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::Frame;
use crate::source::FIRST_SOURCE_PORT;

/// Frames begin within so many bytes of a block; the last one may go beyond.
pub const BLOCK_LEN: usize = 1 << 16;
/// More than the longest frame that fits into a page behind what the kernel keeps there.
pub const MAX_FRAME: usize = 4096 - 1;
/// Bytes of a block in the map.
pub const BLOCK_VALUE_LEN: usize = BLOCK_LEN + MAX_FRAME + 1;

/// The bits of an address that differ from lap to lap: of IPv4 the host's part as far as a network has
/// one, of IPv6 the interface identifier's end.
const HOST_BITS: u32 = 0x00ff_ffff;
/// Odd, so that laps differ in as many bits as there are.
const MULTIPLIER: u32 = 0x009e_3779;

/// Where a frame has what is rewritten, as offsets from its start. 0, where the hardware addresses are,
/// stands for "nowhere".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rewrite {
    /// The last four bytes of the inner source and destination address.
    pub addresses: [u16; 2],
    /// The same of the packet that an ICMP error quotes.
    pub quoted: [u16; 2],
    /// Checksum of the inner IPv4 header.
    pub ip_checksum: u16,
    /// Checksum of TCP or UDP, which covers the addresses; of `ICMPv6`, which covers those quoted as well.
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
    /// Where in the block they begin, below [`BLOCK_LEN`].
    pub offset: u32,
    /// How many there are, at most [`MAX_FRAME`].
    pub length: u32,
    /// The sequence may hold a capture several times over: which time this is.
    pub lap: u32,
    /// Time to the next frame, see [`FRACTION_BITS`]; 0 where frames follow each other as fast as it goes.
    pub gap: u64,
    /// What is rewritten.
    pub rewrite: Rewrite,
    /// Fills the structure up.
    pub reserved: u32,
}

/// Bytes of an [`Entry`] in the map.
pub const ENTRY_LEN: usize = size_of::<Entry>();

/// Times between frames are nanoseconds with so many bits behind the point: at millions of frames a second,
/// whole nanoseconds would be too coarse.
pub const FRACTION_BITS: u32 = 16;

/// So many nanoseconds behind its schedule the generator hurries to catch up; what is beyond is given up, for
/// a burst as long as that would not be the rate that was asked for.
pub const CATCH_UP: u64 = 1_000_000;

/// How far the sequence was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// Index of the next frame.
    pub next: u32,
    /// How often the sequence was sent to its end.
    pub round: u32,
    /// Frames handed to the interface.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that did not fit into the page.
    pub failed: u64,
    /// No frame is sent beyond so many.
    pub limit: u64,
    /// When the next frame is due, in nanoseconds of the monotonic clock.
    pub due: u64,
    /// The fraction of a nanosecond that `due` leaves out.
    pub fraction: u64,
}

impl State {
    /// Whether the next frame is due at this time.
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

    /// Which lap a frame of this round belongs to, where a round is `laps`.
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
    /// Writes `value` at `offset`; does nothing where it does not lie wholly within the frame.
    fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T);
}

impl FrameMut for [u8] {
    fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) {
        if let Some(place) = self.get_mut(offset..) {
            // Fails where there is no room, as it should.
            let _ = value.write_to_prefix(place);
        }
    }
}

/// The bits in which a lap's addresses differ from those of lap 0.
#[inline(always)]
#[must_use]
pub const fn lap_mask(lap: u32) -> u32 {
    lap.wrapping_mul(MULTIPLIER) & HOST_BITS
}

/// Makes other flows of a frame's, the same for all frames of a lap: addresses, the checksums over them,
/// and what the mirror derives from the flow.
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
    // In UDP, 0 says that there is no checksum; its other form is as good for all protocols.
    adjust(frame, places.transport_checksum, transport, u16::MAX);
    let port_bits = (mask ^ mask >> 7 ^ mask >> 14) & 0x7f;
    change_port(frame, places.source_ports[0], port_bits);
    change_port(frame, places.source_ports[1], port_bits);
    change(frame, places.cookie, mask);
}

/// Flips the bits of `mask` in the word at `offset`. Returns by how much that changes a one's complement
/// sum: two words of 16 bits more, and the two that they replace, complemented (RFC 1624, equation 3).
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

/// Takes a change of the sum that a checksum is over into the checksum, which has two forms where the sum
/// is 0: `zero` is one of them.
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
    // Stays one of the ports that mirror traffic has.
    let new = FIRST_SOURCE_PORT | u16::from_be(old) ^ bits as u16;
    frame.store(offset as usize, new.to_be());
}
