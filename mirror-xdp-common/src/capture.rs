//! The capture header: what the XDP program learned of a frame, written over the end of the outer
//! headers, directly in front of the inner frame.
//!
//! ```text
//!  0        1        2        4        8          12            16        20        24         32
//!  +--------+--------+--------+--------+----------+-------------+---------+---------+----------+
//!  | version| length | flags  | vni    | captured | original    | hash    | rule    | time     |
//!  +--------+--------+--------+--------+----------+-------------+---------+---------+----------+
//!  | outer source, outer destination: 2 × 4 bytes (IPv4, big-endian) or 2 × 16 bytes (IPv6)    |
//!  +-------------------------------------------------------------------------------------------+
//!  | inner Ethernet frame …
//! ```
//!
//! Numbers are in the machine's byte order: the header never leaves it. The header takes 40 bytes over
//! IPv4, where the outer headers left at least 50, and 64 over IPv6, where they left at least 70.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hash::FlowHash;
use crate::{Address, Vni};

/// The layout's version; a program and a user space of different versions refuse each other.
pub const VERSION: u8 = 1;

/// Bits of [`CaptureHeader::flags`].
pub mod flags {
    /// The outer header was IPv6.
    pub const OUTER_IPV6: u16 = 1;
    /// The mirror cut the inner frame short.
    pub const TRUNCATED: u16 = 1 << 1;
    /// The inner packet is a fragment.
    pub const FRAGMENT: u16 = 1 << 2;
}

/// The part of the header that all frames share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Base {
    /// [`VERSION`].
    pub version: u8,
    /// Length of the whole header in bytes: where the inner frame begins.
    pub length: u8,
    /// See [`flags`].
    pub flags: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Bytes of the inner frame that follow this header.
    pub captured_len: u32,
    /// Bytes that the inner frame had when it was mirrored.
    pub original_len: u32,
    /// Symmetric hash of the inner flow.
    pub flow_hash: u32,
    /// Identifier of the filter rule that let the frame through; 0 = none.
    pub rule: u32,
    /// When the program saw the frame: `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
}

/// The header of a frame that came over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeaderV4 {
    /// What all frames share.
    pub base: Base,
    /// Outer source, big-endian.
    pub source: u32,
    /// Outer destination, big-endian.
    pub destination: u32,
}

/// The header of a frame that came over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeaderV6 {
    /// What all frames share.
    pub base: Base,
    /// Outer source, two big-endian words.
    pub source: [u64; 2],
    /// Outer destination, two big-endian words.
    pub destination: [u64; 2],
}

/// Length of the header over IPv4.
pub const V4_LEN: usize = size_of::<HeaderV4>();
/// Length of the header over IPv6: the longest.
pub const V6_LEN: usize = size_of::<HeaderV6>();

const _: () = assert!(size_of::<Base>() == 32 && V4_LEN == 40 && V6_LEN == 64);

/// What is known of a mirrored frame, whatever form it has in front of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureHeader {
    /// See [`flags`].
    pub flags: u16,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Outer source address: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination address: the mirror target.
    pub outer_destination: Address,
    /// Bytes of the inner frame at hand.
    pub captured_len: u32,
    /// Bytes that the inner frame had when it was mirrored.
    pub original_len: u32,
    /// Symmetric hash of the inner flow.
    pub flow_hash: FlowHash,
    /// Identifier of the filter rule that let the frame through; 0 = none.
    pub rule: u32,
    /// When the frame was seen, in nanoseconds. Which clock: `CLOCK_MONOTONIC` from the program, the
    /// file's from a capture file.
    pub time: u64,
}

/// Why bytes are not a capture header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the header or the frame it announces.
    Truncated,
    /// Written by a program of another version.
    Version(u8),
    /// The length field contradicts the flags.
    Length(u8),
    /// More than 24 bits in the VNI.
    Vni(u32),
}

impl CaptureHeader {
    /// Length of this header in front of a frame.
    #[inline(always)]
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        if self.flags & flags::OUTER_IPV6 != 0 { V6_LEN } else { V4_LEN }
    }

    #[inline(always)]
    const fn base(&self, length: usize) -> Base {
        Base {
            version: VERSION,
            length: length as u8,
            flags: self.flags,
            vni: self.vni.get(),
            captured_len: self.captured_len,
            original_len: self.original_len,
            flow_hash: self.flow_hash.0,
            rule: self.rule,
            time: self.time,
        }
    }

    /// The form for frames over IPv4; meaningful where [`flags::OUTER_IPV6`] is not set.
    #[inline(always)]
    #[must_use]
    pub const fn to_v4(&self) -> HeaderV4 {
        HeaderV4 {
            base: self.base(V4_LEN),
            source: (self.outer_source.low as u32).to_be(),
            destination: (self.outer_destination.low as u32).to_be(),
        }
    }

    /// The form for frames over IPv6; meaningful where [`flags::OUTER_IPV6`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn to_v6(&self) -> HeaderV6 {
        HeaderV6 {
            base: self.base(V6_LEN),
            source: [self.outer_source.high.to_be(), self.outer_source.low.to_be()],
            destination: [self.outer_destination.high.to_be(), self.outer_destination.low.to_be()],
        }
    }

    /// Splits what an `AF_XDP` socket received into its header and the captured inner frame.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (base, _) = Base::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated)?;
        if base.version != VERSION {
            return Err(DecodeError::Version(base.version));
        }
        let ipv6 = base.flags & flags::OUTER_IPV6 != 0;
        let length = if ipv6 { V6_LEN } else { V4_LEN };
        if base.length as usize != length {
            return Err(DecodeError::Length(base.length));
        }
        let (outer_source, outer_destination) = if ipv6 {
            let (header, _) = HeaderV6::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated)?;
            let address =
                |words: [u64; 2]| Address::from_words(u64::from_be(words[0]), u64::from_be(words[1]));
            (address(header.source), address(header.destination))
        } else {
            let (header, _) = HeaderV4::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated)?;
            let address = |word: u32| Address::from_v4(u32::from_be(word));
            (address(header.source), address(header.destination))
        };
        let frame = bytes[length..].get(..base.captured_len as usize).ok_or(DecodeError::Truncated)?;
        let header = Self {
            flags: base.flags,
            vni: Vni::new(base.vni).ok_or(DecodeError::Vni(base.vni))?,
            outer_source,
            outer_destination,
            captured_len: base.captured_len,
            original_len: base.original_len,
            flow_hash: FlowHash(base.flow_hash),
            rule: base.rule,
            time: base.time,
        };
        Ok((header, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ipv6: bool) -> CaptureHeader {
        let address = |low: u32| {
            if ipv6 { Address::from_words(0x2001_0db8 << 32, u64::from(low)) } else { Address::from_v4(low) }
        };
        CaptureHeader {
            flags: if ipv6 { flags::OUTER_IPV6 } else { 0 } | flags::TRUNCATED,
            vni: Vni::MAX,
            outer_source: address(0x0a00_0001),
            outer_destination: address(0x0a00_0002),
            captured_len: 3,
            original_len: 1500,
            flow_hash: FlowHash(0xdead_beef),
            rule: 17,
            time: u64::MAX - 1,
        }
    }

    /// The header of either family as bytes, with a frame of three bytes behind it, in `buffer`.
    fn encoded(header: &CaptureHeader, buffer: &mut [u8; V6_LEN + 3]) -> usize {
        let length = header.encoded_len();
        if length == V6_LEN {
            buffer[..length].copy_from_slice(header.to_v6().as_bytes());
        } else {
            buffer[..length].copy_from_slice(header.to_v4().as_bytes());
        }
        buffer[length..length + 3].copy_from_slice(b"abc");
        length + 3
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for ipv6 in [false, true] {
            let header = header(ipv6);
            let mut buffer = [0; V6_LEN + 3];
            let length = encoded(&header, &mut buffer);
            assert_eq!(CaptureHeader::decode(&buffer[..length]), Ok((header, &b"abc"[..])));
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for ipv6 in [false, true] {
            let header = header(ipv6);
            let mut buffer = [0; V6_LEN + 3];
            let length = encoded(&header, &mut buffer);
            for short in 0..length {
                assert_eq!(CaptureHeader::decode(&buffer[..short]), Err(DecodeError::Truncated), "{short}");
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut buffer = [0; V6_LEN + 3];
        let length = encoded(&header(false), &mut buffer);
        buffer[0] = VERSION + 1;
        assert_eq!(CaptureHeader::decode(&buffer[..length]), Err(DecodeError::Version(VERSION + 1)));
    }
}
