//! Protection of Initial packets (RFC 9001, section 5). Its keys follow from the version and from the
//! connection ID that the client has chosen for the server, so that every observer can remove it.

use std::ops::Range;
use std::sync::LazyLock;

use mirror_packet::Direction;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};

use super::hkdf::{DIGEST, Key};
use super::packet::Packet;
use super::version::{Protection, Salt, Version};

/// Length of the authentication tag at the end of a packet.
const TAG: usize = 16;
/// Distance from the beginning of the packet number to the sample for header protection.
const SAMPLE_AT: usize = 4;
/// The longest packet number.
const MAX_NUMBER: usize = 4;
/// Bits of the first byte that are zero in every packet, beneath the header's protection (RFC 9000, 17.2).
const RESERVED: u8 = 0x0c;

/// The salts of all versions, as keys.
static SALTS: LazyLock<[Key; Salt::ALL.len()]> = LazyLock::new(|| Salt::ALL.map(|salt| Key::new(&salt)));

/// The keys of the packets that one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SideKeys {
    pub(super) key: [u8; 16],
    pub(super) iv: [u8; 12],
    pub(super) hp: [u8; 16],
}

/// The secret that all keys of a side are derived from.
struct Secret {
    key: Key,
    protection: Protection,
}

impl Secret {
    /// The secret of what a side sends, as it follows from the client's first choice of a connection ID; `None` where
    /// the version is not known.
    fn new(version: Version, destination: &[u8], direction: Direction) -> Option<Self> {
        let protection = version.protection()?;
        let initial = Key::new(&SALTS.get(protection.salt as usize)?.sign(&[destination])?);
        let label = match direction {
            Direction::ToServer => b"client in",
            Direction::ToClient => b"server in",
        };
        Some(Self { key: Key::new(&initial.expand_label::<DIGEST>(label)?), protection })
    }

    fn header_key(&self) -> Option<[u8; 16]> {
        self.key.expand_label(self.protection.hp)
    }

    /// All keys, of which that of the header is known.
    fn keys(&self, hp: [u8; 16]) -> Option<SideKeys> {
        let Self { key, protection } = self;
        Some(SideKeys { key: key.expand_label(protection.key)?, iv: key.expand_label(protection.iv)?, hp })
    }
}

/// The fields of a header beneath its protection.
struct Header {
    first: u8,
    number: [u8; MAX_NUMBER],
    number_len: usize,
}

impl Header {
    /// Removes the protection of a packet's header (RFC 9001, 5.4); `None` where that shows that it was not protected
    /// with this key, as it does for three of four.
    fn read(packet: &Packet<'_>, hp: &[u8; 16]) -> Option<Self> {
        let number = packet.bytes.get(packet.number_at..)?;
        let sample = number.get(SAMPLE_AT..)?.first_chunk::<{ TAG }>()?;
        let mask = mask(hp, sample)?;
        let first = packet.bytes.first()? ^ (mask[0] & 0x0f);
        let number_len = usize::from(first & 3) + 1;
        let mut plain = *number.first_chunk::<MAX_NUMBER>()?;
        for (byte, mask) in plain.iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        (first & RESERVED == 0).then_some(Self { first, number: plain, number_len })
    }

    fn number_bytes(&self) -> &[u8] {
        self.number.get(..self.number_len).unwrap_or_default()
    }
}

impl SideKeys {
    /// The keys of what a side sends.
    #[cfg(test)]
    pub(super) fn derive(version: Version, destination: &[u8], direction: Direction) -> Option<Self> {
        let secret = Secret::new(version, destination, direction)?;
        secret.keys(secret.header_key()?)
    }

    /// Derives the keys of a side, as far as this packet of it shows that they are those it was protected with, and
    /// opens it, as [`SideKeys::open`] does.
    pub(super) fn derive_and_open(
        version: Version,
        destination: &[u8],
        direction: Direction,
        packet: &Packet<'_>,
        scratch: &mut Vec<u8>,
    ) -> Option<(Self, Range<usize>)> {
        let secret = Secret::new(version, destination, direction)?;
        let hp = secret.header_key()?;
        let header = Header::read(packet, &hp)?;
        let keys = secret.keys(hp)?;
        let frames = keys.open_behind(&header, packet, scratch)?;
        Some((keys, frames))
    }

    /// Removes the protection of an Initial packet. Returns the position of its frames in `scratch`, or
    /// `None` if the packet was not protected with these keys.
    pub(super) fn open(&self, packet: &Packet<'_>, scratch: &mut Vec<u8>) -> Option<Range<usize>> {
        self.open_behind(&Header::read(packet, &self.hp)?, packet, scratch)
    }

    fn open_behind(
        &self,
        header: &Header,
        packet: &Packet<'_>,
        scratch: &mut Vec<u8>,
    ) -> Option<Range<usize>> {
        scratch.clear();
        scratch.extend_from_slice(packet.bytes);
        *scratch.first_mut()? = header.first;
        let number_end = packet.number_at + header.number_len;
        scratch.get_mut(packet.number_at..number_end)?.copy_from_slice(header.number_bytes());
        let (associated, sealed) = scratch.split_at_mut_checked(number_end)?;
        let nonce = self.nonce(header.number_bytes());
        let frames = self.cipher()?.open_in_place(nonce, Aad::from(associated), sealed).ok()?.len();
        Some(number_end..number_end + frames)
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        Some(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &self.key).ok()?))
    }

    /// Returns the nonce. Initial packets have such small numbers that their encoding is never truncated.
    fn nonce(&self, number: &[u8]) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Protects a packet whose header ends with its number, in `number_len` bytes.
    #[cfg(test)]
    pub(super) fn seal(&self, header: &[u8], number_len: usize, frames: &[u8]) -> Vec<u8> {
        let number_at = header.len() - number_len;
        let mut payload = frames.to_vec();
        let nonce = self.nonce(&header[number_at..]);
        let sealed = self.cipher().unwrap().seal_in_place_append_tag(nonce, Aad::from(header), &mut payload);
        sealed.unwrap();
        let mut packet = [header, &payload].concat();
        let mask = mask(&self.hp, packet[number_at + SAMPLE_AT..].first_chunk().unwrap()).unwrap();
        packet[0] ^= mask[0] & 0x0f;
        for (byte, mask) in packet[number_at..number_at + number_len].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        packet
    }
}

/// The mask of the header (RFC 9001, 5.4.3).
fn mask(hp: &[u8; 16], sample: &[u8; 16]) -> Option<[u8; 5]> {
    quic::HeaderProtectionKey::new(&quic::AES_128, hp).ok()?.new_mask(sample).ok()
}
