//! Compression and encryption of segments, both chunk by chunk, so that each chunk can be read alone.
//!
//! A chunk that is compressed, encrypted or both has a header in front and padding behind, to the alignment
//! of direct I/O. To zstd, header and padding are skippable frames (RFC 8878, section 3.1.2), so `zstd -d`
//! and every program that reads `.pcapng.zst` can read a compressed segment.
//!
//! ```text
//! magic 0x184d2a5d, u32 56      zstd: skip 56 bytes
//! "MXC1", flags u32             1 compressed, 2 encrypted
//! stored u32, section u32       bytes that follow the header, and of the section that they are
//! total u32, number u32         bytes until the next header; number of the chunk
//! tag 16 bytes, 0 × 16          of AES-GCM
//! ```
//!
//! An encrypted segment begins with a key header, and so does its index: a data key generated for the
//! segment, encrypted with the key of the key file. The nonces of AES-256-GCM are the chunks' numbers, which
//! are unique for a data key; the index uses the highest number.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce, Tag};
use mirror_base::secret::{self, SecretError};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::buffer::{ALIGNMENT, Buffer, CHUNK};
use super::names::SegmentName;
use super::pcapng::{self, u32_at};

/// Bytes of the header in front of a chunk.
const HEADER: usize = 64;
/// Bytes of a chunk, of any form, that are enough to tell its length.
pub(super) const LENGTH_KNOWN: u64 = 28;
/// Magic number of a skippable frame of zstd, one of sixteen.
const SKIPPABLE: u32 = 0x184d_2a5d;
const MAGIC: &[u8; 4] = b"MXC1";
const COMPRESSED: u32 = 1;
const ENCRYPTED: u32 = 2;
/// Magic number of the key header of a segment or an index. Nonce, encrypted key and tag follow it.
const KEY_MAGIC: &[u8; 8] = b"MXKEY001";
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
const KEY_HEADER: usize = KEY_MAGIC.len() + NONCE + KEY + TAG;
/// The number from which the nonce of the index is made.
const INDEX_NUMBER: u32 = u32::MAX;

/// An error of a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read, or others can read it.
    #[error("the store's key")]
    File(#[from] SecretError),
    /// The file contains no key.
    #[error("{} has no key: 32 bytes, or 64 hexadecimal digits; make one with `openssl rand -hex 32`", .0.display())]
    NoKey(PathBuf),
}

/// The key that encrypts the segments' data keys.
#[derive(Clone, Debug)]
pub struct StoreKey(Arc<Cipher>);

/// A cipher with its key, which its debug output omits.
struct Cipher(Aes256Gcm);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    fn new(key: &[u8]) -> Option<Self> {
        Aes256Gcm::new_from_slice(key).ok().map(Self)
    }
}

impl StoreKey {
    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        secret::read(path, |bytes| Self::parse(bytes).ok_or_else(|| KeyError::NoKey(path.to_owned())))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Some(cipher) = Cipher::new(bytes) {
            return Some(Self(Arc::new(cipher)));
        }
        let text = str::from_utf8(bytes).ok()?.trim();
        let digits = (text.len() == 2 * KEY && text.is_ascii()).then_some(text)?;
        let key: Option<Vec<u8>> =
            (0..KEY).map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()).collect();
        Some(Self(Arc::new(Cipher::new(&key?)?)))
    }

    /// Generates a data key. Returns its cipher, and a header with the encrypted key.
    fn make(&self) -> io::Result<(Cipher, [u8; KEY_HEADER])> {
        let mut random = [0; KEY + NONCE];
        fill_randomly(&mut random)?;
        let (key, nonce) = random.split_at_mut(KEY);
        let cipher = Cipher::new(key).ok_or_else(|| io::Error::other("no AES key"))?;
        let tag = self
            .0
            .0
            .encrypt_in_place_detached(Nonce::from_slice(nonce), KEY_MAGIC, key)
            .map_err(|_| io::Error::other("AES-GCM"))?;
        let mut header = [0; KEY_HEADER];
        header[..8].copy_from_slice(KEY_MAGIC);
        header[8..20].copy_from_slice(nonce);
        header[20..52].copy_from_slice(key);
        header[52..].copy_from_slice(&tag);
        Ok((cipher, header))
    }

    /// Returns the cipher of the data key in a header.
    fn open(&self, header: &[u8]) -> Option<Cipher> {
        let header = header.get(..KEY_HEADER).filter(|header| header.starts_with(KEY_MAGIC))?;
        let mut key: [u8; KEY] = header[20..52].try_into().ok()?;
        let (nonce, tag) = (Nonce::from_slice(&header[8..20]), Tag::from_slice(&header[52..]));
        self.0.0.decrypt_in_place_detached(nonce, KEY_MAGIC, &mut key, tag).ok()?;
        Cipher::new(&key)
    }
}

/// Fills a buffer with random bytes by `getrandom(2)`, since the calling thread cannot open devices.
fn fill_randomly(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(filled) => bytes = &mut bytes[filled..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Compression and encryption of chunks.
pub(super) struct Sealing {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    key: Option<StoreKey>,
    /// A buffer in which a chunk is assembled; it is swapped with the chunk's.
    spare: Buffer,
}

/// The encryption state of a segment.
#[derive(Debug)]
pub(super) struct SegmentSeal {
    cipher: Option<Cipher>,
    key_header: Option<[u8; KEY_HEADER]>,
    number: u32,
}

impl Sealing {
    pub(super) fn new(level: Option<i32>, key: Option<StoreKey>) -> io::Result<Self> {
        let compressor = level.map(zstd::bulk::Compressor::new).transpose()?;
        let spare = if compressor.is_some() || key.is_some() { super::chunk::MEMORY } else { 0 };
        if let Some(key) = &key {
            // Fail now rather than at the first segment.
            key.make()?;
        }
        Ok(Self { compressor, key, spare: Buffer::new(spare) })
    }

    /// Returns the extension of the segments' names.
    pub(super) const fn extension(&self) -> &'static str {
        match (&self.compressor, &self.key) {
            (None, None) => ".pcapng",
            (Some(_), None) => ".pcapng.zst",
            (_, Some(_)) => ".pcapng.enc",
        }
    }

    /// Begins a segment. Also returns the bytes with which the segment begins.
    pub(super) fn begin(&self) -> io::Result<(SegmentSeal, Vec<u8>)> {
        let made = self.key.as_ref().map(StoreKey::make).transpose()?;
        let (cipher, key_header) = made.unzip();
        let header = key_header.map_or_else(Vec::new, |header| {
            let mut header = header.to_vec();
            header.resize(ALIGNMENT, 0);
            header
        });
        Ok((SegmentSeal { cipher, key_header, number: 0 }, header))
    }

    /// Replaces a section by its stored form.
    pub(super) fn seal(&mut self, segment: &mut SegmentSeal, section: &mut Buffer) {
        if self.compressor.is_none() && self.key.is_none() {
            return;
        }
        let spare = &mut self.spare;
        spare.clear();
        spare.push_zeros(HEADER);
        let mut flags = 0;
        if let Some(compressor) = &mut self.compressor {
            spare.push_zeros(spare.room());
            if let Ok(len) =
                compressor.compress_to_buffer(section.as_slice(), &mut spare.as_mut_slice()[HEADER..])
            {
                spare.truncate(HEADER + len);
                flags |= COMPRESSED;
            } else {
                // Compression failed, as the section does not get smaller. It is stored uncompressed.
                spare.truncate(HEADER);
            }
        }
        if flags & COMPRESSED == 0 {
            spare.push(section.as_slice());
        }
        let mut tag = Tag::default();
        if let Some(cipher) = &segment.cipher {
            flags |= ENCRYPTED;
            let stored = &mut spare.as_mut_slice()[HEADER..];
            match cipher.0.encrypt_in_place_detached(&nonce(segment.number), &[], stored) {
                Ok(made) => tag = made,
                // Encryption fails only beyond 64 GiB.
                Err(_) => stored.fill(0),
            }
        }
        let stored = spare.len() - HEADER;
        // A skippable frame has at least eight bytes.
        let total = (spare.len() + 8).next_multiple_of(ALIGNMENT);
        let fill = total - spare.len();
        spare.push(&SKIPPABLE.to_le_bytes());
        spare.push(&((fill - 8) as u32).to_le_bytes());
        spare.push_zeros(fill - 8);
        let words = [
            SKIPPABLE,
            (HEADER - 8) as u32,
            u32::from_le_bytes(*MAGIC),
            flags,
            stored as u32,
            section.len() as u32,
            total as u32,
            segment.number,
        ];
        let header = &mut spare.as_mut_slice()[..HEADER];
        for (place, word) in header.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header[32..48].copy_from_slice(&tag);
        segment.number += 1;
        std::mem::swap(spare, section);
    }
}

impl SegmentSeal {
    /// Returns the seal of a segment without encryption.
    pub(super) const fn none() -> Self {
        Self { cipher: None, key_header: None, number: 0 }
    }

    /// Returns the stored form of an index.
    pub(super) fn seal_index(&self, mut index: Vec<u8>) -> Vec<u8> {
        let (Some(cipher), Some(header)) = (&self.cipher, &self.key_header) else { return index };
        let Ok(tag) = cipher.0.encrypt_in_place_detached(&nonce(INDEX_NUMBER), &[], &mut index) else {
            return Vec::new();
        };
        [&header[..], &tag, &index].concat()
    }

    /// Returns the seal of the segment with this beginning, for reading it or its recovery.
    pub(super) fn of_segment(beginning: &[u8], key: Option<&StoreKey>) -> Result<Self, Unreadable> {
        if !beginning.starts_with(KEY_MAGIC) {
            return Ok(Self::none());
        }
        let cipher = key.ok_or(Unreadable::NoKey)?.open(beginning).ok_or(Unreadable::WrongKey)?;
        let header = beginning[..KEY_HEADER].try_into().map_err(|_| Unreadable::Damaged)?;
        Ok(Self { cipher: Some(cipher), key_header: Some(header), number: 0 })
    }

    /// Fails if only one of name and contents of a segment says that it is encrypted. Otherwise whoever can
    /// write to the directory could replace encrypted packets by others.
    pub(super) fn check_name(self, name: &SegmentName) -> Result<Self, Unreadable> {
        if name.is_encrypted() == self.cipher.is_some() { Ok(self) } else { Err(Unreadable::Damaged) }
    }

    /// Returns the offset of the first chunk.
    pub(super) const fn first_chunk(&self) -> u64 {
        if self.cipher.is_some() { ALIGNMENT as u64 } else { 0 }
    }

    /// Returns the section of a stored chunk, the `number`th of the segment. Each chunk of an encrypted
    /// segment is encrypted, and stays in its place.
    pub(super) fn open(&self, stored: &[u8], number: u32) -> Result<Vec<u8>, Unreadable> {
        if self.cipher.is_none() && pcapng::section_len(stored).is_some() {
            return Ok(stored.to_vec());
        }
        let word = |at| u32_at(stored, at).ok_or(Unreadable::Damaged);
        if stored.get(8..12) != Some(&MAGIC[..]) {
            return Err(Unreadable::Damaged);
        }
        let (flags, len, section) = (word(12)?, word(16)? as usize, word(20)? as usize);
        let end = HEADER.checked_add(len).ok_or(Unreadable::Damaged)?;
        let mut content = stored.get(HEADER..end).ok_or(Unreadable::Damaged)?.to_vec();
        if self.cipher.is_some() && (flags & ENCRYPTED == 0 || word(28)? != number) {
            return Err(Unreadable::Damaged);
        }
        if flags & ENCRYPTED != 0 {
            let cipher = self.cipher.as_ref().ok_or(Unreadable::Damaged)?;
            cipher
                .0
                .decrypt_in_place_detached(
                    &nonce(word(28)?),
                    &[],
                    &mut content,
                    Tag::from_slice(&stored[32..48]),
                )
                .map_err(|_| Unreadable::Damaged)?;
        }
        if flags & COMPRESSED != 0 {
            let capacity = section.min(CHUNK + ALIGNMENT);
            content = zstd::bulk::decompress(&content, capacity).map_err(|_| Unreadable::Damaged)?;
        }
        if content.len() == section { Ok(content) } else { Err(Unreadable::Damaged) }
    }

    /// Returns the length in bytes of the chunk with this beginning, padding included, or `None` if no chunk
    /// begins here.
    pub(super) fn chunk_len(&self, beginning: &[u8]) -> Option<u64> {
        let len = match pcapng::section_len(beginning) {
            Some(len) if self.cipher.is_none() => len,
            None if beginning.starts_with(&mark()) => {
                let total = u64::from(u32_at(beginning, 24)?);
                if total != total_len(u32_at(beginning, 16)?) {
                    return None;
                }
                total
            }
            _ => return None,
        };
        (len > 0 && len <= super::chunk::MEMORY as u64 && len % ALIGNMENT as u64 == 0).then_some(len)
    }

    /// Returns whether these bytes are the beginning of chunk `number`, without its end. One changed byte of
    /// a header does not make a chunk look like a longer one.
    pub(super) fn is_torn(&self, bytes: &[u8], number: u32) -> bool {
        let mark = mark();
        let shared = bytes.len().min(mark.len());
        if bytes[..shared] != mark[..shared] {
            return self.cipher.is_none() && pcapng::is_torn(bytes);
        }
        let (Some(stored), Some(total), Some(this)) =
            (u32_at(bytes, 16), u32_at(bytes, 24), u32_at(bytes, 28))
        else {
            // The header itself is torn.
            return true;
        };
        u64::from(total) == total_len(stored) && (bytes.len() as u64) < u64::from(total) && this == number
    }
}

/// Returns the bytes with which a stored chunk begins.
fn mark() -> Vec<u8> {
    let words = [SKIPPABLE, (HEADER - 8) as u32, u32::from_le_bytes(*MAGIC)];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns the length of a chunk with so many stored bytes, header and padding included.
const fn total_len(stored: u32) -> u64 {
    (HEADER as u64 + stored as u64 + 8).next_multiple_of(ALIGNMENT as u64)
}

/// Returns the index of a segment, decrypted if the segment is encrypted.
pub(super) fn open_index(
    mut stored: Vec<u8>,
    name: &SegmentName,
    key: Option<&StoreKey>,
) -> Result<Vec<u8>, Unreadable> {
    let seal = SegmentSeal::of_segment(&stored, key)?.check_name(name)?;
    let Some(cipher) = seal.cipher else { return Ok(stored) };
    let mut content = stored.split_off((KEY_HEADER + TAG).min(stored.len()));
    let tag = stored.get(KEY_HEADER..).filter(|tag| tag.len() == TAG).ok_or(Unreadable::Damaged)?;
    cipher
        .0
        .decrypt_in_place_detached(&nonce(INDEX_NUMBER), &[], &mut content, Tag::from_slice(tag))
        .map_err(|_| Unreadable::Damaged)?;
    Ok(content)
}

/// The reason why a segment cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The segment is encrypted, and there is no key.
    #[error("is encrypted; name its key file with --key")]
    NoKey,
    /// The segment is encrypted with another key, or was altered.
    #[error("is encrypted with another key")]
    WrongKey,
    /// The segment is not as it was written.
    #[error("is damaged; run `mirror-xdp verify` for details")]
    Damaged,
}

fn nonce(number: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; NONCE];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce.into()
}
