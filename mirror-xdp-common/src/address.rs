//! Newtypes for values that must not be confused.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A VXLAN network identifier: 24 bits (RFC 7348, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier, 2²⁴ − 1.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Makes an identifier of the low 24 bits of `value`; `None` if higher bits are set.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// Makes an identifier of the last word of a VXLAN header, whose low 8 bits are reserved.
    #[must_use]
    #[inline(always)]
    pub const fn from_vxlan_word(word: u32) -> Self {
        Self(word >> 8)
    }

    /// Returns the identifier as a number.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IPv4 or IPv6 address as two 64-bit words in host order; IPv4 addresses are mapped into `::ffff:0:0/96`
/// (RFC 4291, section 2.5.5.2). A BPF program compares and hashes two words cheaply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The first eight bytes.
    pub high: u64,
    /// The last eight bytes.
    pub low: u64,
}

/// The bits of the low word of an IPv4-mapped address above the address itself.
const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// Makes an address of an IPv4 address in host order.
    #[must_use]
    #[inline(always)]
    pub const fn from_v4(address: u32) -> Self {
        Self { high: 0, low: MAPPED | address as u64 }
    }

    /// Makes an address of the 16 bytes of an IPv6 header, read as two big-endian words.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    /// Returns the IPv4 address in host order, if this is one.
    #[must_use]
    #[inline(always)]
    pub const fn as_v4(self) -> Option<u32> {
        if self.high == 0 && self.low & !0xffff_ffff == MAPPED { Some(self.low as u32) } else { None }
    }

    /// Returns the address as the standard library's type.
    #[must_use]
    pub const fn to_ip(self) -> IpAddr {
        match self.as_v4() {
            Some(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4)),
            None => IpAddr::V6(Ipv6Addr::from_bits((self.high as u128) << 64 | self.low as u128)),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.to_bits()),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                Self { high: (bits >> 64) as u64, low: bits as u64 }
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}
