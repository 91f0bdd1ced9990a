//! Long headers (RFC 9000, section 17.2), as far as they are not protected.

use super::version::Version;
use crate::protocol::reader::Reader;

/// The longest connection ID of known versions.
pub(super) const MAX_CONNECTION_ID: usize = 20;

/// What a packet with a long header is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It carries a hello.
    Initial,
    /// It asks the client to come again, with a token.
    Retry,
    /// Data that is encrypted with keys that only the two sides have, or of an unknown version.
    Other,
}

/// A packet with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) version: Version,
    pub(super) kind: Kind,
    /// Connection ID that the other side has chosen.
    pub(super) destination: &'a [u8],
    /// The packet, from its first byte on.
    pub(super) bytes: &'a [u8],
    /// Where in `bytes` the packet number begins; the unprotected header ends there.
    pub(super) number_at: usize,
}

/// Takes the first packet off a datagram; answers what is behind it. `None` where there is none whose
/// header can be read; packets with a short header carry nothing that could be read.
pub(super) fn split(datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let mut reader = Reader::new(datagram);
    let first = reader.u8().filter(|first| first & 0x80 != 0)?;
    let version = Version(reader.u32()?);
    let number_at = |reader: &Reader<'_>| datagram.len() - reader.rest().len();
    if version.is_google() {
        let lengths = reader.u8()?;
        let length = |nibble: u8| if nibble == 0 { 0 } else { usize::from(nibble) + 3 };
        let destination = reader.bytes(length(lengths >> 4))?;
        reader.bytes(length(lengths & 0xf))?;
        let kind = if matches!(first, 0xff | 0xc0..=0xcf) { Kind::Initial } else { Kind::Other };
        let number_at = number_at(&reader);
        return Some((Packet { version, kind, destination, bytes: datagram, number_at }, &[]));
    }
    let destination = reader.vector8()?;
    let source = reader.vector8()?;
    let kind = kind(version, first);
    if version.protection().is_none() || destination.len().max(source.len()) > MAX_CONNECTION_ID {
        // How long it is, nobody knows.
        let number_at = number_at(&reader);
        let packet = Packet { version, kind: Kind::Other, destination, bytes: datagram, number_at };
        return Some((packet, &[]));
    }
    let mut behind: &[u8] = &[];
    let mut bytes = datagram;
    if kind == Kind::Initial {
        let token = reader.varint()?;
        reader.bytes(usize::try_from(token).ok()?)?;
    }
    if kind != Kind::Retry {
        let len = usize::try_from(reader.varint()?).ok()?;
        let end = number_at(&reader).checked_add(len)?;
        (bytes, behind) = datagram.split_at_checked(end)?;
    }
    let number_at = number_at(&reader);
    Some((Packet { version, kind, destination, bytes, number_at }, behind))
}

fn kind(version: Version, first: u8) -> Kind {
    match (version, first >> 4 & 3) {
        (Version::V2, 1) => Kind::Initial,
        (Version::V2, 0) => Kind::Retry,
        (Version::V2, _) => Kind::Other,
        (_, 0) => Kind::Initial,
        (_, 3) => Kind::Retry,
        _ => Kind::Other,
    }
}
