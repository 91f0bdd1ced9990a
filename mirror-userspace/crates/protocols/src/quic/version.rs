//! QUIC versions: their names in records, and their parameters for the protection of Initial packets.

use std::fmt;

/// A version, as in a long header. Displays as in Suricata's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u32);

/// The parameters by which a version protects its Initial packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) salt: Salt,
    pub(super) key: &'static [u8],
    pub(super) iv: &'static [u8],
    pub(super) hp: &'static [u8],
}

/// The key that extracts secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Salt {
    V1,
    V2,
    Drafts29To32,
    Drafts23To28,
    Q050,
    V2Drafts,
    Draft22,
    T050,
    T051,
}

impl Salt {
    /// In the order of the variants.
    pub(super) const ALL: [[u8; 20]; 9] = [
        // RFC 9001, section 5.2; drafts 33 and 34 are the same.
        [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
            0xcc, 0xbb, 0x7f, 0x0a,
        ],
        // RFC 9369, section 3.3.1.
        [
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
            0xf9, 0xbd, 0x2e, 0xd9,
        ],
        // Drafts 29 to 32 of RFC 9001.
        [
            0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0,
            0x43, 0x90, 0xa8, 0x99,
        ],
        // Drafts 23 to 28.
        [
            0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65,
            0xbe, 0xf9, 0xf5, 0x02,
        ],
        // Google's, for Q050.
        [
            0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3, 0xa7, 0xf0,
            0xd3, 0xb5, 0x6b, 0x45,
        ],
        // Drafts 1 to 4 of RFC 9369.
        [
            0xa7, 0x07, 0xc2, 0x03, 0xa5, 0x9b, 0x47, 0x18, 0x4a, 0x1d, 0x62, 0xca, 0x57, 0x04, 0x06, 0xea,
            0x7a, 0xe3, 0xe5, 0xd3,
        ],
        // Draft 22.
        [
            0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd,
            0x7a, 0x02, 0x64, 0x4a,
        ],
        // Google's, for T050 and T051, which have a TLS handshake.
        [
            0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2, 0x36, 0x7c,
            0x60, 0x48, 0x83, 0x10,
        ],
        [
            0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f, 0xc8, 0xcc,
            0xda, 0x6e, 0x03, 0x3d,
        ],
    ];
}

impl Version {
    /// Not a version: the packet is one of version negotiation (RFC 9000, section 17.2.1).
    pub(super) const NEGOTIATION: Self = Self(0);
    /// RFC 9000.
    pub const V1: Self = Self(1);
    /// RFC 9369.
    pub const V2: Self = Self(0x6b33_43cf);
    /// The drafts of RFC 9369 from the first on.
    const V2_DRAFTS: Self = Self(0x709a_50c4);

    /// Returns true for Google's versions from before the IETF took over QUIC, whose hello consists of tags
    /// with values: up to Q050.
    #[must_use]
    pub const fn is_google(self) -> bool {
        matches!(self.0.to_be_bytes(), [b'Q', b'0', b'0'..=b'9', b'0'..=b'9'])
    }

    /// Returns true for Google's versions with long headers of their own: Q044 to Q046. Earlier versions have
    /// public headers, which the first bit does not distinguish.
    pub(super) const fn has_google_header(self) -> bool {
        matches!(self.0, 0x5130_3434..=0x5130_3436)
    }

    /// Returns true for versions whose long headers have the types of version 2 (RFC 9369, section 3.2).
    pub(super) const fn has_types_of_v2(self) -> bool {
        matches!(self, Self::V2 | Self::V2_DRAFTS)
    }

    /// Returns true for those that are reserved to force version negotiation (RFC 9000, section 15).
    const fn is_reserved(self) -> bool {
        self.0 & 0x0f0f_0f0f == 0x0a0a_0a0a
    }

    /// Returns true for versions in use: versions 1 and 2, drafts, Google's, Facebook's, Microsoft's, and reserved
    /// ones.
    #[must_use]
    pub const fn is_known(self) -> bool {
        let spoken = matches!(
            self.0.to_be_bytes(),
            [0, 0, 0, 1]
                | [0x6b, 0x33, 0x43, 0xcf]
                | [0x70, 0x9a, 0x50, 0xc4]
                | [0xab, 0xcd, 0, _]
                | [0xff, 0, 0, _]
                | [0xfa, 0xce, 0xb0, _]
                | [b'Q' | b'T', b'0'..=b'9', _, _]
        );
        spoken || self.is_reserved()
    }

    /// Returns the parameters, or `None` for unknown versions.
    pub(super) const fn protection(self) -> Option<Protection> {
        let salt = match self.0 {
            // Facebook has two other names for it.
            1 | 0xff00_0021..=0xff00_0022 | 0xface_b003..=0xface_b004 => Salt::V1,
            0x6b33_43cf => Salt::V2,
            0x709a_50c4 => Salt::V2Drafts,
            // Microsoft's is draft 29 under another name.
            0xff00_001d..=0xff00_0020 | 0xabcd_0000 => Salt::Drafts29To32,
            // Facebook's is draft 27 under other names.
            0xff00_0017..=0xff00_001c | 0xface_b002 | 0xface_b00e | 0xface_b010..=0xface_b01f => {
                Salt::Drafts23To28
            }
            0xff00_0016 | 0xface_b001 => Salt::Draft22,
            0x5130_3530 => Salt::Q050,
            0x5430_3530 => Salt::T050,
            0x5430_3531 => Salt::T051,
            // A client forms such a packet as one of the version that it speaks.
            _ if self.is_reserved() => Salt::V1,
            _ => return None,
        };
        if self.has_types_of_v2() {
            return Some(Protection { salt, key: b"quicv2 key", iv: b"quicv2 iv", hp: b"quicv2 hp" });
        }
        Some(Protection { salt, key: b"quic key", iv: b"quic iv", hp: b"quic hp" })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_be_bytes() {
            [b'Q', b'0', b'3', b'9'] => write!(f, "Q039"),
            [b'Q', b'0', b'4', last @ b'3'..=b'6'] => write!(f, "Q04{}", char::from(last)),
            _ => write!(f, "{:x}", self.0),
        }
    }
}
