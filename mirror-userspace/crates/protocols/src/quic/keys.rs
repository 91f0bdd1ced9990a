//! Protection of Initial packets (RFC 9001, section 5). Its keys follow from the version and from the
//! connection ID that the client has chosen for the server, so that every observer can remove it.

use std::ops::Range;

use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes128Gcm, Nonce, Tag};
use hkdf::Hkdf;
use mirror_packet::Direction;
use sha2::Sha256;

use super::packet::Packet;
use super::version::Version;

/// Length of the authentication tag at the end of a packet.
const TAG: usize = 16;
/// Distance from the beginning of the packet number to the sample for header protection.
const SAMPLE_AT: usize = 4;

/// The keys of the packets that one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SideKeys {
    pub(super) key: [u8; 16],
    pub(super) iv: [u8; 12],
    pub(super) hp: [u8; 16],
}

impl SideKeys {
    /// Derives the keys of one side from the connection ID that the client chose first. Returns `None` if the
    /// version is unknown. The derivation takes as long as the whole analysis of a short packet.
    pub(super) fn derive(version: Version, destination: &[u8], direction: Direction) -> Option<Self> {
        let protection = version.protection()?;
        let (_, initial) = Hkdf::<Sha256>::extract(Some(&protection.salt), destination);
        let label = match direction {
            Direction::ToServer => b"client in",
            Direction::ToClient => b"server in",
        };
        let secret = expand_label::<32>(&initial, label)?;
        let secret = Hkdf::<Sha256>::from_prk(&secret).ok()?;
        Some(Self {
            key: expand_label(&secret, protection.key)?,
            iv: expand_label(&secret, protection.iv)?,
            hp: expand_label(&secret, protection.hp)?,
        })
    }

    /// Removes the protection of an Initial packet. Returns the position of its frames in `scratch`, or
    /// `None` if the packet was not protected with these keys.
    pub(super) fn open(&self, packet: &Packet<'_>, scratch: &mut Vec<u8>) -> Option<Range<usize>> {
        let mask = self.mask(packet.bytes.get(packet.number_at + SAMPLE_AT..)?)?;
        scratch.clear();
        scratch.extend_from_slice(packet.bytes);
        let (first, _) = scratch.split_first_mut()?;
        *first ^= mask[0] & 0x0f;
        let number_len = usize::from(*first & 3) + 1;
        let number_end = packet.number_at + number_len;
        let mut number = 0_u64;
        for (byte, mask) in scratch.get_mut(packet.number_at..number_end)?.iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let (header, sealed) = scratch.split_at_mut_checked(number_end)?;
        let (payload, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG)?)?;
        let cipher = Aes128Gcm::new(&self.key.into());
        cipher
            .decrypt_in_place_detached(
                &Nonce::from(self.nonce(number)),
                header,
                payload,
                Tag::from_slice(tag),
            )
            .ok()?;
        Some(number_end..number_end + payload.len())
    }

    /// Returns the mask of the header (RFC 9001, section 5.4.3). `sample` may be longer than necessary.
    fn mask(&self, sample: &[u8]) -> Option<[u8; 5]> {
        let mut block = aes::Block::from(*sample.first_chunk::<16>()?);
        aes::Aes128::new(&self.hp.into()).encrypt_block(&mut block);
        block.first_chunk().copied()
    }

    /// Returns the nonce. Initial packets have such small numbers that their encoding is never truncated.
    fn nonce(&self, number: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().skip(4).zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// Protects a packet whose header ends with its number, in `number_len` bytes.
    #[cfg(test)]
    pub(super) fn seal(&self, header: &[u8], number_len: usize, frames: &[u8]) -> Vec<u8> {
        let number_at = header.len() - number_len;
        let number = header[number_at..].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let mut payload = frames.to_vec();
        let cipher = Aes128Gcm::new(&self.key.into());
        let nonce = Nonce::from(self.nonce(number));
        let tag = cipher.encrypt_in_place_detached(&nonce, header, &mut payload).unwrap();
        let mut packet = [header, &payload, &tag].concat();
        let mask = self.mask(&packet[number_at + SAMPLE_AT..]).unwrap();
        packet[0] ^= mask[0] & 0x0f;
        for (byte, mask) in packet[number_at..number_at + number_len].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        packet
    }
}

/// HKDF-Expand-Label (RFC 8446, section 7.1) without a context.
fn expand_label<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> Option<[u8; N]> {
    const PREFIX: &[u8] = b"tls13 ";
    let mut output = [0; N];
    let length = (N as u16).to_be_bytes();
    let label_length = [(PREFIX.len() + label.len()) as u8];
    secret.expand_multi_info(&[&length, &label_length, PREFIX, label, &[0]], &mut output).ok()?;
    Some(output)
}
