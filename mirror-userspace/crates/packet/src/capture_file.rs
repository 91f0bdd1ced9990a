//! Capture files: pcap (microseconds and nanoseconds, either byte order) and pcapng (several interfaces and
//! sections), uncompressed or compressed by gzip or zstd. `pcap-parser` buffers the input and parses unusual
//! pcap records; `Plain` parses the usual ones, and `pcapng` the blocks of pcapng. They become frames with a
//! time, and damage becomes an error with its offset.

mod pcapng;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flate2::read::MultiGzDecoder;
use mirror_base::memory_hints;
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{PcapBlockOwned, PcapError, create_reader};

pub use self::pcapng::MAX_INTERFACES;
use self::pcapng::{Block, Section};
use crate::{LinkType, SECOND};

/// Initial size of the reader's buffer in bytes; it grows to the size of the longest record.
const BUFFER: usize = 256 * 1024;
/// Maximum size of a record in bytes. The longest that tools write have 256 KiB.
const MAX_RECORD: usize = 4 * 1024 * 1024;
/// Binary logarithm of the largest zstd window, which is held in memory: 16 MiB. That is twice the window of
/// `zstd -19`; `--long` and `--ultra` use larger ones.
const MAX_ZSTD_WINDOW_LOG: u32 = 24;

/// The reason why a capture file was not read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFileError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The path is a directory.
    #[error("{} is a directory; name the capture files in it", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is empty.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither pcap nor pcapng.
    #[error("{} is not a capture file (pcap or pcapng, plain or compressed by gzip or zstd)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The file ends within a record, or a record is invalid.
    #[error(
        "{} is damaged at byte {offset}{}: {reason}; the frames before it were analysed",
        path.display(),
        if *compressed { " (uncompressed)" } else { "" }
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the record that cannot be read.
        offset: usize,
        /// Whether the offset counts uncompressed bytes.
        compressed: bool,
        /// A description of the damage.
        reason: String,
    },
}

/// A frame of a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFrame<'a> {
    /// Capture time in nanoseconds since the epoch.
    pub time: u64,
    /// The link layer; `None` if it is not supported.
    pub link: Option<LinkType>,
    /// The number of the link layer, supported or not (`LINKTYPE_…`).
    pub link_number: u32,
    /// Bytes of the frame on the wire.
    pub original_len: u32,
    /// The captured bytes.
    pub bytes: &'a [u8],
}

/// An open capture file.
pub struct CaptureFile {
    path: PathBuf,
    compressed: bool,
    reader: Box<dyn PcapReaderIterator + Send>,
    /// Size of the reader's buffer in bytes.
    capacity: usize,
    failure: Failure,
}

/// The error with which reading failed; `pcap-parser` does not pass it on.
type Failure = Arc<Mutex<Option<io::Error>>>;

/// Fills each buffer completely, unless the input ends, and stores the error of a failed read.
struct FullReads {
    input: Box<dyn Read + Send>,
    failure: Failure,
    failed: bool,
}

impl Read for FullReads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if self.failed {
                break;
            }
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The bytes before the failure are returned first; the input ends there, and the stored error
                // is the reason.
                Err(error) => {
                    self.failed = true;
                    *lock(&self.failure) = Some(advised(error));
                }
            }
        }
        Ok(filled)
    }
}

/// Adds advice to an error, if there is any.
fn advised(error: io::Error) -> io::Error {
    // The library has no other way to distinguish its errors.
    if error.to_string().contains("too much memory") {
        let most = (1 << MAX_ZSTD_WINDOW_LOG) >> 20;
        return io::Error::other(format!(
            "its zstd window is larger than {most} MiB; decompress it first: zstd -d --long=31"
        ));
    }
    error
}

fn lock(failure: &Failure) -> std::sync::MutexGuard<'_, Option<io::Error>> {
    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl CaptureFile {
    /// Opens a capture file and reads its header.
    pub fn open(path: &Path) -> Result<Self, CaptureFileError> {
        let cannot_open = |source| CaptureFileError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(cannot_open)?;
        if file.metadata().map_err(cannot_open)?.is_dir() {
            return Err(CaptureFileError::Directory { path: path.to_owned() });
        }
        Self::of(path, file)
    }

    /// Reads a capture from standard input, which errors call by this name.
    pub fn standard_input() -> Result<Self, CaptureFileError> {
        Self::of(Path::new("standard input"), io::stdin())
    }

    fn of(path: &Path, input: impl Read + Send + 'static) -> Result<Self, CaptureFileError> {
        let cannot_open = |source| CaptureFileError::Open { path: path.to_owned(), source };
        let mut input = BufReader::new(input);
        let (input, compressed): (Box<dyn Read + Send>, bool) = match input.fill_buf().map_err(cannot_open)? {
            [] => return Err(CaptureFileError::Empty { path: path.to_owned() }),
            [0x1f, 0x8b, ..] => (Box::new(MultiGzDecoder::new(input)), true),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(cannot_open)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(cannot_open)?;
                (Box::new(decoder), true)
            }
            _ => (Box::new(input), false),
        };
        let failure = Failure::default();
        let input = FullReads { input, failure: Arc::clone(&failure), failed: false };
        let reader = create_reader(BUFFER, input).map_err(|_| match lock(&failure).take() {
            Some(error) => cannot_open(error),
            None => CaptureFileError::Format { path: path.to_owned() },
        })?;
        Ok(Self { path: path.to_owned(), compressed, reader, capacity: BUFFER, failure })
    }

    /// Returns the number of uncompressed bytes that were read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.reader.consumed()
    }

    /// Calls `each` with every frame, in the order of the file.
    ///
    /// # Errors
    ///
    /// If the file is damaged, after calling `each` with all frames before the damage.
    pub fn for_each(self, each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        if self.reader.data().starts_with(&pcapng::MAGIC) {
            self.each_block(each)
        } else {
            self.each_record(each)
        }
    }

    /// Reads the frames of a pcap file.
    fn each_record(mut self, mut each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        let mut records = Records::default();
        loop {
            if let Some(plain) = &records.plain {
                let used = plain.each(self.reader.data(), &mut each);
                self.reader.consume_noshift(used);
            }
            match self.reader.next() {
                Ok((len, block)) => {
                    records.frame(&block).map(&mut each);
                    drop(block);
                    // The rest moves to the front of the buffer when the buffer is refilled, not before.
                    self.reader.consume_noshift(len);
                    continue;
                }
                Err(PcapError::Eof) => return self.end(),
                Err(PcapError::Incomplete(_)) => {}
                Err(PcapError::BufferTooSmall) if self.capacity < MAX_RECORD => self.grow(self.capacity * 2),
                Err(PcapError::BufferTooSmall) => return Err(self.damage("a record of impossible length")),
                Err(PcapError::UnexpectedEof) => return Err(self.damage("the file ends within a record")),
                Err(_) => return Err(self.damage("not a valid record")),
            }
            if self.reader.refill().is_err() {
                return Err(self.damage("the file ends within a record"));
            }
        }
    }

    /// Reads the frames of a pcapng file.
    fn each_block(mut self, mut each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        let mut section = Section::default();
        loop {
            match section.block(self.reader.data()) {
                Ok(Block::Whole(len, frame)) => {
                    frame.map(&mut each);
                    // The rest does not move yet, as in `each_record`.
                    self.reader.consume_noshift(len);
                }
                Ok(Block::Unused(len)) => self.pass_over(len, &section)?,
                Ok(Block::Incomplete(_)) if self.reader.reader_exhausted() => {
                    let whole = self.reader.data().is_empty();
                    return if whole { self.end() } else { Err(self.damage("the file ends within a block")) };
                }
                Ok(Block::Incomplete(len)) => {
                    self.grow(len);
                    self.refill()?;
                }
                Err(reason) => return Err(self.damage(reason)),
            }
        }
    }

    /// Skips a block of this length, which may be longer than any buffer.
    fn pass_over(&mut self, len: usize, section: &Section) -> Result<(), CaptureFileError> {
        let begin = self.reader.consumed();
        let mut left = len;
        loop {
            let there = self.reader.data();
            if let Some(block) = there.get(..left).filter(|_| left <= there.len()) {
                let ends = section.ends(block.last_chunk::<{ pcapng::TRAILER }>().unwrap_or(&[0; 4]), len);
                if !ends {
                    return Err(self.damage_at(begin, "a block whose two lengths differ"));
                }
                self.reader.consume_noshift(left);
                return Ok(());
            }
            // The last bytes of the block stay together.
            let unused = there.len().min(left - pcapng::TRAILER);
            self.reader.consume_noshift(unused);
            left -= unused;
            if self.reader.reader_exhausted() {
                return Err(self.damage_at(begin, "the file ends within a block"));
            }
            self.refill()?;
        }
    }

    /// Refills the buffer. For a pcapng file, the buffer always has room.
    fn refill(&mut self) -> Result<(), CaptureFileError> {
        let outcome = self.reader.refill().is_ok();
        if outcome { Ok(()) } else { Err(self.damage("the file ends within a block")) }
    }

    /// Grows the buffer for records of this length.
    fn grow(&mut self, len: usize) {
        if len > self.capacity {
            self.capacity = len;
            self.reader.grow(len);
        }
    }

    /// Returns the result at the end of the input, which is the end of the file or a failed read.
    fn end(&self) -> Result<(), CaptureFileError> {
        if lock(&self.failure).is_some() { Err(self.damage("")) } else { Ok(()) }
    }

    fn damage(&self, reason: &str) -> CaptureFileError {
        self.damage_at(self.reader.consumed(), reason)
    }

    fn damage_at(&self, offset: usize, reason: &str) -> CaptureFileError {
        let reason = match lock(&self.failure).take() {
            Some(error) => format!("cannot read on: {error}"),
            None => reason.to_owned(),
        };
        CaptureFileError::Damaged { path: self.path.clone(), offset, compressed: self.compressed, reason }
    }
}

/// Properties of a pcap file's records, from the file's header.
#[derive(Debug, Default)]
struct Records {
    link: Option<LinkType>,
    link_number: u32,
    /// Nanoseconds per unit of the times' fractions.
    unit: u64,
    /// The parser of the usual records, if the file has them.
    plain: Option<Plain>,
}

/// A fast parser for the records of nearly all pcap files. It parses those that are completely in the buffer;
/// `pcap-parser` parses everything else.
#[derive(Clone, Copy, Debug)]
struct Plain {
    link: Option<LinkType>,
    link_number: u32,
    /// Nanoseconds per unit of the times' fractions.
    unit: u64,
    big_endian: bool,
}

impl Plain {
    /// Calls `each` with the frames at the beginning of `data`; returns the number of bytes that they take.
    fn each(&self, data: &[u8], mut each: impl FnMut(FileFrame<'_>)) -> usize {
        let mut rest = data;
        while let Some((header, behind)) = rest.split_first_chunk::<16>() {
            let (words, _) = header.as_chunks();
            let word = |index: usize| {
                let word = words.get(index).copied().unwrap_or_default();
                if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
            };
            let [seconds, fraction, captured, original] = [0, 1, 2, 3].map(word);
            let Some((bytes, behind)) = behind.split_at_checked(captured as usize) else { break };
            memory_hints::fetch(behind);
            each(FileFrame {
                time: u64::from(seconds) * SECOND + u64::from(fraction) * self.unit,
                link: self.link,
                link_number: self.link_number,
                original_len: original.max(captured),
                bytes,
            });
            rest = behind;
        }
        data.len() - rest.len()
    }
}

impl Records {
    /// Returns the frame of a record; the file's header has none.
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<FileFrame<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                // The upper half describes frame check sequences.
                let link_number = header.network.0 as u32 & 0xffff;
                let link = LinkType::from_number(link_number);
                let unit = if header.is_nanosecond_precision() { 1 } else { 1_000 };
                let plain = Plain { link, link_number, unit, big_endian: header.is_bigendian() };
                let plain = (!header.is_modified_format()).then_some(plain);
                *self = Self { link, link_number, unit, plain };
                None
            }
            PcapBlockOwned::Legacy(packet) => Some(FileFrame {
                time: u64::from(packet.ts_sec) * SECOND + u64::from(packet.ts_usec) * self.unit,
                link: self.link,
                link_number: self.link_number,
                original_len: packet.origlen.max(packet.caplen),
                bytes: packet.data,
            }),
            PcapBlockOwned::NG(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
