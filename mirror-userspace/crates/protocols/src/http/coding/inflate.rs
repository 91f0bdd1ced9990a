//! gzip (RFC 1952) and deflate: as zlib (RFC 1950), or without a header (RFC 1951).

use flate2::{Decompress, FlushDecompress, Status};

use super::{Flow, PIECE, Sink};

/// Bytes that are held until it is known whether they are encoded.
const MAX_HELD: usize = 1024;
/// Memory of a decompressor, most of which is its window.
const DECOMPRESSOR: usize = 44 * 1024;
/// Bytes behind the data of gzip.
const TRAILER: u8 = 8;

/// The decoder of both codings.
#[derive(Debug, Default)]
pub(super) struct Inflate {
    /// Made with the first body.
    decompress: Option<Box<Decompress>>,
    piece: Vec<u8>,
    /// Data without a header is expected.
    is_deflate: bool,
    stage: Stage,
    /// Bytes since the beginning of the data, as long as they have become no output.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is decoded yet. Behind the data of gzip, another member may begin.
    #[default]
    Begin,
    Member,
    /// Within the data, with so many bytes of a trailer behind it.
    Data {
        trailer: u8,
    },
    Trailer {
        left: u8,
    },
    /// The body is not encoded.
    Pass,
    /// Behind the end, or behind an error.
    End,
}

/// The beginning of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// More bytes are needed.
    Short,
    /// So many bytes are in front of the data.
    Gzip(usize),
    Zlib,
    None,
}

impl Inflate {
    pub(super) fn begin(&mut self, is_deflate: bool) {
        self.is_deflate = is_deflate;
        self.stage = Stage::Begin;
        self.held.clear();
    }

    pub(super) fn room(&self) -> usize {
        let decompressor = self.decompress.as_ref().map_or(0, |_| DECOMPRESSOR);
        self.held.capacity() + self.piece.capacity() + decompressor
    }

    pub(super) fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Flow {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.stage {
                Stage::Begin | Stage::Member => self.start(rest, sink),
                Stage::Data { trailer } => self.data(rest, trailer, sink),
                Stage::Trailer { left } => {
                    let used = usize::from(left).min(rest.len());
                    let left = left - used as u8;
                    self.stage = if left > 0 { Stage::Trailer { left } } else { Stage::Member };
                    Some(used)
                }
                Stage::Pass => sink(rest).then_some(rest.len()),
                Stage::End => None,
            };
            let Some(used) = used else {
                self.stage = Stage::End;
                return Flow::End;
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Flow::More
    }

    /// Passes on what is held: it was too little to tell.
    pub(super) fn finish(&mut self, sink: Sink<'_>) -> Flow {
        if self.stage == Stage::Begin {
            sink(&self.held);
        }
        self.stage = Stage::End;
        Flow::End
    }

    /// Tries to decode the bytes from the beginning. Returns the number of bytes that are used, or `None` at the end.
    fn start(&mut self, bytes: &[u8], sink: Sink<'_>) -> Option<usize> {
        let room = MAX_HELD - self.held.len().min(MAX_HELD);
        let new = bytes.get(..room).unwrap_or(bytes);
        self.held.extend_from_slice(new);
        let is_full = self.held.len() >= MAX_HELD;
        let (begin, trailer, has_header) = match Header::read(&self.held) {
            Header::Short if !is_full => return Some(new.len()),
            Header::Gzip(len) => (len, TRAILER, false),
            _ if self.stage == Stage::Member => return None,
            Header::Zlib => (0, 0, true),
            Header::None if self.is_deflate => (0, 0, false),
            Header::Short | Header::None => return self.pass(new.len(), sink),
        };
        let decompress = self.decompress.get_or_insert_with(|| Box::new(Decompress::new(has_header)));
        decompress.reset(has_header);
        let held = std::mem::take(&mut self.held);
        let data = held.get(begin..).unwrap_or_default();
        let is_broken = self.is_broken(data);
        match is_broken {
            // Whether these bytes become output is not known yet: try again with the next ones.
            None if !is_full => {
                self.held = held;
                Some(new.len())
            }
            Some(true) if self.stage == Stage::Begin => {
                self.held = held;
                self.pass(new.len(), sink)
            }
            Some(true) => None,
            None | Some(false) => {
                self.stage = Stage::Data { trailer };
                if let Some(decompress) = &mut self.decompress {
                    decompress.reset(has_header);
                }
                let flow = self.push(data, sink);
                self.keep(held);
                (flow == Flow::More).then_some(new.len())
            }
        }
    }

    /// Tells if data breaks before it becomes output; `None` if it becomes none and may go on.
    fn is_broken(&mut self, data: &[u8]) -> Option<bool> {
        let decompress = self.decompress.as_mut()?;
        let mut room = [0; 64];
        match decompress.decompress(data, &mut room, FlushDecompress::None) {
            _ if decompress.total_out() > 0 => Some(false),
            Ok(Status::StreamEnd) => Some(false),
            Ok(Status::Ok | Status::BufError) => None,
            Err(_) => Some(true),
        }
    }

    fn pass(&mut self, new: usize, sink: Sink<'_>) -> Option<usize> {
        self.stage = Stage::Pass;
        let held = std::mem::take(&mut self.held);
        let more = sink(&held);
        self.keep(held);
        more.then_some(new)
    }

    /// Holds memory for the next body, unless it is in use.
    fn keep(&mut self, mut held: Vec<u8>) {
        if self.held.is_empty() {
            held.clear();
            self.held = held;
        }
    }

    /// Decodes bytes until the data or they end. Returns the number of bytes that are used, or `None` at the end.
    fn data(&mut self, bytes: &[u8], trailer: u8, sink: Sink<'_>) -> Option<usize> {
        self.piece.resize(PIECE, 0);
        let decompress = self.decompress.as_mut()?;
        let mut rest = bytes;
        loop {
            let (was_in, was_out) = (decompress.total_in(), decompress.total_out());
            let status = decompress.decompress(rest, &mut self.piece, FlushDecompress::None);
            let used = (decompress.total_in() - was_in) as usize;
            let made = (decompress.total_out() - was_out) as usize;
            rest = rest.get(used..).unwrap_or_default();
            if made > 0 && !sink(self.piece.get(..made)?) {
                return None;
            }
            match status.ok()? {
                Status::StreamEnd if trailer > 0 => {
                    self.stage = Stage::Trailer { left: trailer };
                    return Some(bytes.len() - rest.len());
                }
                Status::StreamEnd => return None,
                // Output may be left over if it filled the piece.
                _ if rest.is_empty() && made < PIECE => return Some(bytes.len()),
                _ if used == 0 && made == 0 => return None,
                _ => {}
            }
        }
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Self {
        match *bytes {
            [0x1f] | [0x1f, 0x8b] => Self::Short,
            [0x1f, 0x8b, 8, ..] => gzip_header(bytes).map_or(Self::Short, Self::Gzip),
            [method, flags, ..] if method & 0xf == 8 && u16::from_be_bytes([method, flags]) % 31 == 0 => {
                Self::Zlib
            }
            [] => Self::Short,
            [method] if method & 0xf == 8 => Self::Short,
            _ => Self::None,
        }
    }
}

/// Returns the length of the header of gzip, or `None` if it has not ended (RFC 1952, section 2.3). Reserved flags are
/// ignored.
fn gzip_header(bytes: &[u8]) -> Option<usize> {
    const FIXED: usize = 10;
    let flags = *bytes.get(3)?;
    let mut at = FIXED;
    if flags & 4 != 0 {
        let len = bytes.get(at..)?.first_chunk()?;
        at += 2 + usize::from(u16::from_le_bytes(*len));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            at += memchr::memchr(0, bytes.get(at..)?)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    (bytes.len() >= at).then_some(at)
}
