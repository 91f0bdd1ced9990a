//! HKDF with SHA-256 (RFC 5869), for keys that expand to a block of the hash at most.
//!
//! Each flow derives five keys from messages of a few bytes, in 14 compressions. A library for messages of any length
//! takes several times as long for it, and anybody can send such flows.

use sha2::compress256;
use sha2::digest::generic_array::GenericArray;

/// Bytes that SHA-256 compresses at once, and those of a digest.
const BLOCK: usize = 64;
pub(super) const DIGEST: usize = 32;
/// Bytes at the end of the last block: a mark, and the length of the message.
const PADDING: usize = 9;

/// The state of SHA-256 at the beginning of a message (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A key of HMAC (RFC 2104): the states behind the blocks that it fills.
#[derive(Clone, Copy)]
pub(super) struct Key {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Key {
    /// The key of HKDF-Extract, or a secret that was derived.
    pub(super) fn new<const N: usize>(bytes: &[u8; N]) -> Self {
        const { assert!(N <= BLOCK, "longer keys are hashed") };
        let state = |pad: u8| {
            let mut block = [pad; BLOCK];
            for (byte, of_key) in block.iter_mut().zip(bytes) {
                *byte ^= of_key;
            }
            let mut state = INITIAL;
            compress(&mut state, block);
            state
        };
        Self { inner: state(0x36), outer: state(0x5c) }
    }

    /// Returns the HMAC of these parts, one behind the other: HKDF-Extract of a key. `None` if they are too long for
    /// one block.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Option<[u8; DIGEST]> {
        let inner = last_block(self.inner, parts)?;
        last_block(self.outer, &[&inner])
    }

    /// HKDF-Expand-Label (RFC 8446, section 7.1) without a context.
    pub(super) fn expand_label<const N: usize>(&self, label: &[u8]) -> Option<[u8; N]> {
        const PREFIX: &[u8] = b"tls13 ";
        const { assert!(N <= DIGEST, "one block of output is enough") };
        let length = (N as u16).to_be_bytes();
        let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
        // The number of the output's block follows the empty context.
        let output = self.sign(&[&length, &label_length, PREFIX, label, &[0, 1]])?;
        output.first_chunk().copied()
    }
}

/// Hashes the last block of a message that one block precedes. Returns the digest, or `None` if there is more than a
/// block.
fn last_block(mut state: [u32; 8], parts: &[&[u8]]) -> Option<[u8; DIGEST]> {
    let mut block = [0; BLOCK];
    let mut len = 0;
    for part in parts {
        block.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    if len > BLOCK - PADDING {
        return None;
    }
    *block.get_mut(len)? = 0x80;
    *block.last_chunk_mut()? = (8 * (BLOCK + len) as u64).to_be_bytes();
    compress(&mut state, block);
    let mut digest = [0; DIGEST];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    Some(digest)
}

fn compress(state: &mut [u32; 8], block: [u8; BLOCK]) {
    compress256(state, &[GenericArray::from(block)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::{hkdf, hmac};

    use super::*;

    /// The number of bytes that a derivation returns.
    struct Length(usize);

    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    proptest! {
        #[test]
        fn signatures_are_those_of_a_library(key in any::<[u8; 20]>(), message in prop::collection::vec(any::<u8>(), 0..80)) {
            let signed = Key::new(&key).sign(&[&message]);
            prop_assert_eq!(signed.is_some(), message.len() <= BLOCK - PADDING);
            if let Some(signed) = signed {
                let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &message);
                prop_assert_eq!(&signed[..], expected.as_ref());
            }
        }

        #[test]
        fn keys_are_those_of_a_library(secret in any::<[u8; 32]>(), label in prop::collection::vec(any::<u8>(), 0..12)) {
            let secret_of = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret);
            let derived: [u8; 16] = Key::new(&secret).expand_label(&label).unwrap();
            let info = [&[0, 16, 6 + label.len() as u8][..], b"tls13 ", &label, &[0]];
            let mut expected = [0; 16];
            secret_of.expand(&info, Length(16)).unwrap().fill(&mut expected).unwrap();
            prop_assert_eq!(derived, expected);
        }
    }
}
