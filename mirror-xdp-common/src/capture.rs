//! The capture header: the XDP program's findings about a frame. They are written directly in front of the
//! inner frame, over the end of the outer headers and, if those are short, the headroom before them.
//!
//! ```text
//!  0        1        2        4        8          12        16        20       24         32
//!  +--------+--------+--------+--------+----------+---------+---------+--------+----------+
//!  | version| length | flags  | vni    | original | hash    | rule    | cookie | time     |
//!  +--------+--------+--------+--------+----------+---------+---------+--------+----------+
//!  | outer source, outer destination: 2 × 16 bytes, IPv4 mapped                 | 32 … 64  |
//!  +----------------------------------------------------------------------------+----------+
//!  | Gateway Load Balancer: endpoint, attachment: 2 × 8 bytes                   | 64 … 80  |
//!  +----------------------------------------------------------------------------+----------+
//!  | inner Ethernet frame …
//! ```
//!
//! Numbers are in the machine's byte order, because the header never leaves the machine. The header has one
//! form for all outer headers: the inner frame is always at the same place, so that neither the verifier nor
//! user space has cases to distinguish. Over IPv4 without options the outer headers leave 50 bytes, so the
//! header uses 30 of the 256 bytes that drivers keep in front of a frame.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use crate::flags;
use crate::hash::FlowHash;
use crate::outer::Gateway;
use crate::{Address, Vni};

/// The version of the layout; a program and a user space of different versions refuse each other.
pub const VERSION: u8 = 2;

/// The header's layout in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Encoded {
    version: u8,
    length: u8,
    flags: u16,
    vni: u32,
    original_len: u32,
    flow_hash: u32,
    rule: u32,
    cookie: u32,
    time: u64,
    source: [u64; 2],
    destination: [u64; 2],
    endpoint: u64,
    attachment: u64,
}

/// Bytes of the header, which is also the offset of the inner frame.
pub const LEN: usize = size_of::<Encoded>();

const _: () = assert!(LEN == 80);

/// The decoded capture header of a mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureHeader {
    /// See [`flags`].
    pub flags: u16,
    /// Network identifier.
    pub vni: Vni,
    /// Outer source address: the mirrored interface.
    pub outer_source: Address,
    /// Outer destination address: the mirror target.
    pub outer_destination: Address,
    /// The metadata of a Gateway Load Balancer.
    pub gateway: Gateway,
    /// Bytes of the inner frame when it was mirrored.
    pub original_len: u32,
    /// Symmetric hash of the inner flow.
    pub flow_hash: FlowHash,
    /// Identifier of the filter rule that accepted the frame; 0 = none.
    pub rule: u32,
    /// The time of the frame, in nanoseconds: of `CLOCK_MONOTONIC` from the program, of the file's clock from
    /// a capture file.
    pub time: u64,
}

/// The reasons why bytes are not a capture header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// There are fewer bytes than the header has.
    Truncated,
    /// A program of another version wrote the header.
    Version(u8),
    /// The length field contradicts the offset of the frame.
    Length(u8),
    /// The VNI has more than 24 bits.
    Vni(u32),
}

impl CaptureHeader {
    /// Returns the header's layout in memory.
    #[inline(always)]
    #[must_use]
    pub const fn encode(&self) -> Encoded {
        Encoded {
            version: VERSION,
            length: LEN as u8,
            flags: self.flags,
            vni: self.vni.get(),
            original_len: self.original_len,
            flow_hash: self.flow_hash.0,
            rule: self.rule,
            cookie: self.gateway.cookie,
            time: self.time,
            source: [self.outer_source.high, self.outer_source.low],
            destination: [self.outer_destination.high, self.outer_destination.low],
            endpoint: self.gateway.endpoint,
            attachment: self.gateway.attachment,
        }
    }

    /// Splits bytes that an `AF_XDP` socket received into the header and the inner frame.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (header, frame) = Encoded::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated)?;
        if header.version != VERSION {
            return Err(DecodeError::Version(header.version));
        }
        if header.length as usize != LEN {
            return Err(DecodeError::Length(header.length));
        }
        let address = |words: [u64; 2]| Address::from_words(words[0], words[1]);
        let header = Self {
            flags: header.flags,
            vni: Vni::new(header.vni).ok_or(DecodeError::Vni(header.vni))?,
            outer_source: address(header.source),
            outer_destination: address(header.destination),
            gateway: Gateway {
                endpoint: header.endpoint,
                attachment: header.attachment,
                cookie: header.cookie,
            },
            original_len: header.original_len,
            flow_hash: FlowHash(header.flow_hash),
            rule: header.rule,
            time: header.time,
        };
        Ok((header, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> CaptureHeader {
        CaptureHeader {
            flags: flags::TRUNCATED | flags::GENEVE,
            vni: Vni::MAX,
            outer_source: Address::from_words(0x2001_0db8 << 32, 1),
            outer_destination: Address::from_v4(0x0a00_0002),
            gateway: Gateway { endpoint: 1 << 63, attachment: 2, cookie: 3 },
            original_len: 1500,
            flow_hash: FlowHash(0xdead_beef),
            rule: 17,
            time: u64::MAX - 1,
        }
    }

    /// Returns the header with a frame of three bytes behind it.
    fn encoded() -> [u8; LEN + 3] {
        let mut buffer = [0; LEN + 3];
        buffer[..LEN].copy_from_slice(header().encode().as_bytes());
        buffer[LEN..].copy_from_slice(b"abc");
        buffer
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(CaptureHeader::decode(&encoded()), Ok((header(), &b"abc"[..])));
        // At any alignment.
        let mut moved = [0; LEN + 4];
        moved[1..].copy_from_slice(&encoded());
        assert_eq!(CaptureHeader::decode(&moved[1..]), Ok((header(), &b"abc"[..])));
    }

    #[test]
    fn every_truncation_of_the_header_is_an_error() {
        for short in 0..LEN {
            assert_eq!(CaptureHeader::decode(&encoded()[..short]), Err(DecodeError::Truncated), "{short}");
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let mut buffer = encoded();
        buffer[0] = VERSION + 1;
        assert_eq!(CaptureHeader::decode(&buffer), Err(DecodeError::Version(VERSION + 1)));
        buffer = encoded();
        buffer[1] = 40;
        assert_eq!(CaptureHeader::decode(&buffer), Err(DecodeError::Length(40)));
        buffer = encoded();
        buffer[7] = 1;
        assert_eq!(CaptureHeader::decode(&buffer), Err(DecodeError::Vni(0x01ff_ffff)));
    }
}
