//! Capture files: pcap (microseconds and nanoseconds, either byte order) and pcapng (several interfaces and
//! sections), uncompressed or compressed by gzip or zstd. `buffer` holds the input in memory, a piece at a time;
//! `pcap` parses the records of pcap in it, and `pcapng` the blocks of pcapng. They become frames with a time,
//! and damage becomes an error with its offset.

mod buffer;
mod gzip;
mod pcap;
mod pcapng;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use self::buffer::Buffer;
use self::gzip::Gzip;
use self::pcap::Records;
pub use self::pcapng::MAX_INTERFACES;
use self::pcapng::{Block, Section};
use crate::LinkType;

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
    buffer: Buffer,
    format: Format,
}

/// The format of a file, and the properties that its header declares.
enum Format {
    Pcap(Records),
    Pcapng,
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
            [0x1f, 0x8b, ..] => (Box::new(Gzip::new(input)), true),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(cannot_open)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(cannot_open)?;
                (Box::new(decoder), true)
            }
            _ => (Box::new(input), false),
        };
        let mut buffer = Buffer::new(input);
        let Some(format) = Format::of(&mut buffer) else {
            return Err(match buffer.take_failure() {
                Some(error) => cannot_open(advised(error)),
                None => CaptureFileError::Format { path: path.to_owned() },
            });
        };
        Ok(Self { path: path.to_owned(), compressed, buffer, format })
    }

    /// Returns the number of uncompressed bytes that were read so far.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.buffer.consumed()
    }

    /// Calls `each` with every frame, in the order of the file.
    ///
    /// # Errors
    ///
    /// If the file is damaged, after calling `each` with all frames before the damage.
    pub fn for_each(self, each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        match self.format {
            Format::Pcap(records) => self.each_record(&records, each),
            Format::Pcapng => self.each_block(each),
        }
    }

    /// Reads the frames of a pcap file.
    fn each_record(
        mut self,
        records: &Records,
        mut each: impl FnMut(FileFrame<'_>),
    ) -> Result<(), CaptureFileError> {
        loop {
            let used = records.each(self.buffer.data(), &mut each);
            self.buffer.consume(used);
            let needed = records.needed(self.buffer.data());
            if needed > MAX_RECORD {
                return Err(self.damage("a record of impossible length"));
            }
            if self.buffer.is_exhausted() {
                let whole = self.buffer.data().is_empty();
                return if whole { self.end() } else { Err(self.damage("the file ends within a record")) };
            }
            self.buffer.fill(needed);
        }
    }

    /// Reads the frames of a pcapng file.
    fn each_block(mut self, mut each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        let mut section = Section::default();
        loop {
            match section.block(self.buffer.data()) {
                Ok(Block::Whole(len, frame)) => {
                    frame.map(&mut each);
                    self.buffer.consume(len);
                }
                Ok(Block::Unused(len)) => self.pass_over(len, &section)?,
                Ok(Block::Incomplete(_)) if self.buffer.is_exhausted() => {
                    let whole = self.buffer.data().is_empty();
                    return if whole { self.end() } else { Err(self.damage("the file ends within a block")) };
                }
                Ok(Block::Incomplete(len)) => self.buffer.fill(len),
                Err(reason) => return Err(self.damage(reason)),
            }
        }
    }

    /// Skips a block of this length, which may be longer than any buffer.
    fn pass_over(&mut self, len: usize, section: &Section) -> Result<(), CaptureFileError> {
        let begin = self.buffer.consumed();
        let mut left = len;
        loop {
            let there = self.buffer.data();
            if let Some(block) = there.get(..left).filter(|_| left <= there.len()) {
                let ends = section.ends(block.last_chunk::<{ pcapng::TRAILER }>().unwrap_or(&[0; 4]), len);
                if !ends {
                    return Err(self.damage_at(begin, "a block whose two lengths differ"));
                }
                self.buffer.consume(left);
                return Ok(());
            }
            // The last bytes of the block stay together.
            let unused = there.len().min(left - pcapng::TRAILER);
            self.buffer.consume(unused);
            left -= unused;
            if self.buffer.is_exhausted() {
                return Err(self.damage_at(begin, "the file ends within a block"));
            }
            self.buffer.fill(pcapng::TRAILER);
        }
    }

    /// Returns the result at the end of the input, which is the end of the file or a failed read.
    fn end(mut self) -> Result<(), CaptureFileError> {
        if self.buffer.has_failed() { Err(self.damage("")) } else { Ok(()) }
    }

    fn damage(&mut self, reason: &str) -> CaptureFileError {
        self.damage_at(self.buffer.consumed(), reason)
    }

    fn damage_at(&mut self, offset: usize, reason: &str) -> CaptureFileError {
        let reason = match self.buffer.take_failure() {
            Some(error) => format!("cannot read on: {}", advised(error)),
            None => reason.to_owned(),
        };
        CaptureFileError::Damaged { path: self.path.clone(), offset, compressed: self.compressed, reason }
    }
}

impl Format {
    /// Reads as much as shows the format of a file, and consumes the header of pcap. Returns `None` if it is no capture
    /// file.
    fn of(buffer: &mut Buffer) -> Option<Self> {
        buffer.fill(pcap::HEADER);
        if !buffer.data().starts_with(&pcapng::MAGIC) {
            let records = Records::new(buffer.data().first_chunk()?)?;
            buffer.consume(pcap::HEADER);
            return Some(Self::Pcap(records));
        }
        loop {
            match Section::default().block(buffer.data()) {
                Ok(Block::Incomplete(len)) if !buffer.is_exhausted() => buffer.fill(len),
                outcome => return matches!(outcome, Ok(Block::Whole(..))).then_some(Self::Pcapng),
            }
        }
    }
}

#[cfg(test)]
mod tests;
