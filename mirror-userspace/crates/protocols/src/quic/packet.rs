//! Long headers (RFC 9000, section 17.2), except for their protected part, and those of Google's versions.

use super::google;
use super::version::Version;
use crate::reader::Reader;

/// The longest connection ID of known versions.
pub(super) const MAX_CONNECTION_ID: usize = 20;

/// The type of a packet with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A packet that carries a hello.
    Initial,
    /// A packet that asks the client to begin again, with a token.
    Retry,
    /// A list of the versions that the server speaks, because it does not speak the client's.
    Negotiation,
    /// Data that is encrypted with keys that only the two sides have, or data of an unknown version.
    Other,
}

/// A packet with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) version: Version,
    pub(super) kind: Kind,
    /// Connection ID that the receiver has chosen.
    pub(super) destination: &'a [u8],
    /// The packet, from its first byte on.
    pub(super) bytes: &'a [u8],
    /// Position of the packet number in `bytes`, where the unprotected header ends. In packets without
    /// protection, the position of the frames.
    pub(super) number_at: usize,
}

/// Returns true if a datagram can be QUIC: it has room for the header that its first byte announces, a long
/// one, a short one or a public one. Suricata checks no more than this on QUIC's ports.
#[must_use]
pub fn probe(datagram: &[u8]) -> bool {
    match datagram.first() {
        Some(0x80..) => long_header(datagram).is_some(),
        Some(0x40..) => true,
        Some(_) => google::public_header(datagram).is_some(),
        None => false,
    }
}

/// Returns true if a datagram has a long header of a known version, or is a Version Negotiation packet.
#[must_use]
pub fn probe_version(datagram: &[u8]) -> bool {
    let version = match datagram {
        [0xc0..=0xff, a, b, c, d, ..] => Version(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => return false,
    };
    (version == Version::NEGOTIATION || version.is_known()) && long_header(datagram).is_some()
}

/// Returns true if a datagram is that of an Initial packet of a known version, as long as one has to be (RFC 9000,
/// section 14.1): on ports other than QUIC's, nothing less is taken for QUIC.
#[must_use]
pub fn probe_initial(datagram: &[u8]) -> bool {
    const MIN_DATAGRAM: usize = 1200;
    /// The shortest ID that a client chooses for the server (RFC 9000, section 7.2).
    const MIN_CONNECTION_ID: usize = 8;
    let [0xc0..=0xff, ..] = datagram else { return false };
    if datagram.len() < MIN_DATAGRAM || !probe_version(datagram) {
        return false;
    }
    let mut reader = Reader::new(datagram.get(5..).unwrap_or_default());
    let (Some(destination), Some(source)) = (reader.vector8(), reader.vector8()) else { return false };
    let lengths = MIN_CONNECTION_ID..=MAX_CONNECTION_ID;
    lengths.contains(&destination.len().max(source.len()))
        && split(datagram)
            .is_some_and(|(packet, _)| packet.kind == Kind::Initial && !packet.version.is_google())
}

/// Parses a long header of any version.
fn long_header(datagram: &[u8]) -> Option<()> {
    let mut reader = Reader::new(datagram);
    let first = reader.u8()?;
    match reader.u32()?.to_be_bytes() {
        [b'Q', b'0', b'4', b'3'..=b'5'] if first < 0xfc => return None,
        [b'Q', b'0', b'4', b'3'..=b'6'] => {
            connection_ids(&mut reader)?;
        }
        _ => {
            reader.vector8()?;
            reader.vector8()?;
            if first & 0x30 == 0 {
                let token = reader.varint()?;
                reader.bytes(usize::try_from(token).ok()?)?;
                let len = reader.varint()?;
                reader.bytes(usize::try_from(len).ok()?)?;
            }
        }
    }
    Some(())
}

/// Parses the connection IDs in one of Google's long headers. Returns the one that the receiver has chosen.
fn connection_ids<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let lengths = reader.u8()?;
    let length = |nibble: u8| if nibble == 0 { 0 } else { usize::from(nibble) + 3 };
    let destination = reader.bytes(length(lengths >> 4))?;
    reader.bytes(length(lengths & 0xf))?;
    Some(destination)
}

/// Splits the first packet off a datagram. Returns `None` if there is none with a readable header. Packets
/// with a short header have no readable content.
pub(super) fn split(datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    if datagram.first().is_some_and(|first| first & 0xc0 == 0) {
        let header = google::public_header(datagram)?;
        let version = header.version.filter(|version| version.is_google())?;
        let number_at = header.len + google::HASH;
        return Some((
            Packet { version, kind: Kind::Initial, destination: &[], bytes: datagram, number_at },
            &[],
        ));
    }
    let mut reader = Reader::new(datagram);
    let first = reader.u8().filter(|first| first & 0x80 != 0)?;
    let version = Version(reader.u32()?);
    let number_at = |reader: &Reader<'_>| datagram.len() - reader.rest().len();
    if version.has_google_header() {
        const NUMBER: usize = 4;
        let destination = connection_ids(&mut reader)?;
        let kind = if matches!(first, 0xff | 0xc0..=0xcf) { Kind::Initial } else { Kind::Other };
        let number_at = number_at(&reader) + NUMBER + google::HASH;
        return Some((Packet { version, kind, destination, bytes: datagram, number_at }, &[]));
    }
    let destination = reader.vector8()?;
    let source = reader.vector8()?;
    let kind = kind(version, first);
    if version.protection().is_none() || destination.len().max(source.len()) > MAX_CONNECTION_ID {
        // The length of the packet is unknown.
        let number_at = number_at(&reader);
        let kind = if version == Version::NEGOTIATION { Kind::Negotiation } else { Kind::Other };
        let packet = Packet { version, kind, destination, bytes: datagram, number_at };
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
    match (version.has_types_of_v2(), first >> 4 & 3) {
        (true, 1) | (false, 0) => Kind::Initial,
        (true, 0) | (false, 3) => Kind::Retry,
        _ => Kind::Other,
    }
}
