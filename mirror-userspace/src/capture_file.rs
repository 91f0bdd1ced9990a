//! Capture files: pcap (microseconds and nanoseconds, either byte order) and pcapng (several interfaces
//! and sections), as they are or compressed by gzip or zstd. The formats are read by `pcap-parser`; here
//! they become frames with a time, and damage becomes an error that says where.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flate2::read::MultiGzDecoder;
use pcap_parser::pcapng::Block;
use pcap_parser::traits::{PcapNGPacketBlock as _, PcapReaderIterator};
use pcap_parser::{PcapBlockOwned, PcapError, create_reader};

use crate::flow::SECOND;
use crate::hint;
use crate::packet::LinkType;

/// The reader's buffer at the start; grows to the size of the longest record.
const BUFFER: usize = 256 * 1024;
/// A longer record is not one: the longest that tools write have 256 KiB.
const MAX_RECORD: usize = 16 * 1024 * 1024;

/// Why a capture file was not read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFileError {
    /// It cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a directory.
    #[error("{} is a directory; name the capture files in it", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Neither pcap nor pcapng.
    #[error("{} is not a capture file (pcap or pcapng, plain or compressed by gzip or zstd)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It ends within a record, or a record makes no sense.
    #[error(
        "{} is damaged at byte {offset}{}: {reason}; what comes before was analysed",
        path.display(),
        if *compressed { " (uncompressed)" } else { "" }
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins that cannot be read.
        offset: usize,
        /// Whether the offset counts uncompressed bytes.
        compressed: bool,
        /// What is wrong with it.
        reason: String,
    },
}

/// A frame of a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFrame<'a> {
    /// When it was captured, in nanoseconds since the epoch.
    pub time: u64,
    /// Its link layer; `None` is one that is not known.
    pub link: Option<LinkType>,
    /// Bytes that it had on the wire.
    pub original_len: u32,
    /// What was captured of it.
    pub bytes: &'a [u8],
}

/// An interface of a pcapng section.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Option<LinkType>,
    snaplen: u32,
    /// Time units in a second.
    resolution: u64,
    /// Seconds to add to each time.
    offset: i64,
}

/// An open capture file.
pub struct CaptureFile {
    path: PathBuf,
    compressed: bool,
    reader: Box<dyn PcapReaderIterator + Send>,
    failure: Failure,
}

/// What reading failed of: `pcap-parser` does not hand it on.
type Failure = Arc<Mutex<Option<io::Error>>>;

/// Fills the whole buffer that it is given, unless the input ends; keeps what went wrong.
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
                // What came before is handed on first; it ends there, and the failure says why.
                Err(error) => {
                    self.failed = true;
                    *lock(&self.failure) = Some(error);
                }
            }
        }
        Ok(filled)
    }
}

fn lock(failure: &Failure) -> std::sync::MutexGuard<'_, Option<io::Error>> {
    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl CaptureFile {
    /// Opens a capture file and looks at its header.
    pub fn open(path: &Path) -> Result<Self, CaptureFileError> {
        let cannot_open = |source| CaptureFileError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(cannot_open)?;
        if file.metadata().map_err(cannot_open)?.is_dir() {
            return Err(CaptureFileError::Directory { path: path.to_owned() });
        }
        let mut input = BufReader::new(file);
        let (input, compressed): (Box<dyn Read + Send>, bool) = match input.fill_buf().map_err(cannot_open)? {
            [] => return Err(CaptureFileError::Empty { path: path.to_owned() }),
            [0x1f, 0x8b, ..] => (Box::new(MultiGzDecoder::new(input)), true),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                (Box::new(zstd::Decoder::with_buffer(input).map_err(cannot_open)?), true)
            }
            _ => (Box::new(input), false),
        };
        let failure = Failure::default();
        let input = FullReads { input, failure: Arc::clone(&failure), failed: false };
        let reader =
            create_reader(BUFFER, input).map_err(|_| CaptureFileError::Format { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), compressed, reader, failure })
    }

    /// Bytes of the file, uncompressed, that were read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.reader.consumed()
    }

    /// Calls `each` with every frame, in the order of the file.
    ///
    /// # Errors
    ///
    /// Where the file is damaged, after all frames before the damage.
    pub fn for_each(mut self, mut each: impl FnMut(FileFrame<'_>)) -> Result<(), CaptureFileError> {
        let mut blocks = Blocks::default();
        let mut capacity = BUFFER;
        loop {
            if let Some(plain) = &blocks.plain {
                let used = plain.each(self.reader.data(), &mut each);
                self.reader.consume_noshift(used);
            }
            match self.reader.next() {
                Ok((len, block)) => {
                    let frame = blocks.frame(&block);
                    let outcome = frame.map(|frame| frame.map(&mut each));
                    drop(block);
                    if let Err(reason) = outcome {
                        return Err(self.damage(reason));
                    }
                    // What is left moves to the front of the buffer when that is filled again, not before.
                    self.reader.consume_noshift(len);
                    continue;
                }
                Err(PcapError::Eof) => return self.end(),
                Err(PcapError::Incomplete(_)) => {}
                Err(PcapError::BufferTooSmall) if capacity < MAX_RECORD => {
                    capacity *= 2;
                    self.reader.grow(capacity);
                }
                Err(PcapError::BufferTooSmall) => return Err(self.damage("a record of impossible length")),
                Err(PcapError::UnexpectedEof) => return Err(self.damage("the file ends within a record")),
                Err(_) => return Err(self.damage("not a valid record")),
            }
            if self.reader.refill().is_err() {
                return Err(self.damage("the file ends within a record"));
            }
        }
    }

    /// The end of the input: of the file too, or only of what could be read of it.
    fn end(&self) -> Result<(), CaptureFileError> {
        if lock(&self.failure).is_some() { Err(self.damage("")) } else { Ok(()) }
    }

    fn damage(&self, reason: &str) -> CaptureFileError {
        let reason = match lock(&self.failure).take() {
            Some(error) => format!("cannot read on: {error}"),
            None => reason.to_owned(),
        };
        CaptureFileError::Damaged {
            path: self.path.clone(),
            offset: self.reader.consumed(),
            compressed: self.compressed,
            reason,
        }
    }
}

/// What the blocks so far say about those to come.
#[derive(Debug, Default)]
struct Blocks {
    interfaces: Vec<Interface>,
    /// For pcap: the link layer, and nanoseconds in the unit of the times' fractions.
    legacy: (Option<LinkType>, u64),
    /// For pcap with records of the usual form: how they are read.
    plain: Option<Plain>,
    /// Time of the frame before, for blocks that have none.
    time: u64,
}

/// The records of a pcap file, as nearly all are. Those that are wholly there are read without more ado; whatever
/// else there may be is left to `pcap-parser`.
#[derive(Clone, Copy, Debug)]
struct Plain {
    link: Option<LinkType>,
    /// Nanoseconds in the unit of the times' fractions.
    unit: u64,
    big_endian: bool,
}

impl Plain {
    /// Calls `each` with the frames that `data` begins with; how many bytes of it they take.
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
            hint::fetch(behind);
            each(FileFrame {
                time: u64::from(seconds) * SECOND + u64::from(fraction) * self.unit,
                link: self.link,
                original_len: original.max(captured),
                bytes,
            });
            rest = behind;
        }
        data.len() - rest.len()
    }
}

impl Blocks {
    /// The frame in a block, if it has one.
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Result<Option<FileFrame<'a>>, &'static str> {
        let frame = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let unit = if header.is_nanosecond_precision() { 1 } else { 1_000 };
                // The upper half is about frame check sequences.
                let link = LinkType::from_number(header.network.0 as u32 & 0xffff);
                self.legacy = (link, unit);
                self.plain = (!header.is_modified_format()).then(|| Plain {
                    link,
                    unit,
                    big_endian: header.is_bigendian(),
                });
                return Ok(None);
            }
            PcapBlockOwned::Legacy(packet) => FileFrame {
                time: u64::from(packet.ts_sec) * SECOND + u64::from(packet.ts_usec) * self.legacy.1,
                link: self.legacy.0,
                original_len: packet.origlen.max(packet.caplen),
                bytes: packet.data,
            },
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.interfaces.push(Interface {
                    link: LinkType::from_number(interface.linktype.0 as u32),
                    snaplen: interface.snaplen,
                    resolution: resolution(interface.if_tsresol).ok_or("an impossible time resolution")?,
                    offset: interface.ts_offset(),
                });
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interface(packet.if_id as usize)?;
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                FileFrame {
                    time: interface.time(units),
                    link: interface.link,
                    original_len: packet.origlen.max(packet.caplen),
                    bytes: packet.packet_data(),
                }
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interface(0)?;
                let snaplen = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
                let captured = packet.origlen.min(snaplen) as usize;
                FileFrame {
                    time: self.time,
                    link: interface.link,
                    original_len: packet.origlen,
                    bytes: packet.data.get(..captured).unwrap_or(packet.data),
                }
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        self.time = frame.time;
        Ok(Some(frame))
    }

    fn interface(&self, index: usize) -> Result<&Interface, &'static str> {
        self.interfaces.get(index).ok_or("a packet of an interface that was not described")
    }
}

/// Time units in a second: a power of two where the option's top bit is set, else of ten; `None` where
/// they are more than a number can say. (`pcap-parser`'s own function refuses all powers of two.)
fn resolution(option: u8) -> Option<u64> {
    let exponent = u32::from(option & 0x7f);
    if option & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 2_u64.checked_pow(exponent) }
}

impl Interface {
    /// A time in this interface's units as nanoseconds since the epoch; times before it become 0.
    fn time(&self, units: u64) -> u64 {
        let nanoseconds = u128::from(units) * u128::from(SECOND) / u128::from(self.resolution);
        let offset = i128::from(self.offset) * i128::from(SECOND);
        u64::try_from(i128::try_from(nanoseconds).unwrap_or(i128::MAX).saturating_add(offset).max(0))
            .unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
