//! Content codings of bodies (RFC 9110, section 8.4.1): encoded bytes in, decoded bytes out, as they come.
//!
//! A body that is not encoded as it claims is passed on as it is, since receivers do so, too. Broken data ends the body
//! with the bytes decoded before.

mod inflate;
mod other;

use inflate::Inflate;
use other::{Brotli, Zstd};

/// Codings of a body that are undone; those that were applied before these are not.
const MAX_LAYERS: usize = 2;
/// Bytes that a layer decodes at once.
const PIECE: usize = 8 * 1024;
/// Bytes decoded by an outer layer for each byte that the inner one may return. An archive may well hold much that
/// decodes to little, but not without end.
const MAX_RATIO: usize = 16;

/// The result of pushing bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// More bytes may become more output.
    More,
    /// There will be no more output: the coding has ended, the data is broken, or the limit is reached.
    End,
}

/// Undoes the codings of a body. Its memory is reused for the next body.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The outermost first.
    layers: [Layer; MAX_LAYERS],
    /// Bytes that the outer layers have returned.
    between: usize,
    is_over: bool,
}

/// A coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn from_name(name: &[u8]) -> Option<Self> {
        let name = name.strip_prefix(b"x-").or_else(|| name.strip_prefix(b"X-")).unwrap_or(name);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"gzip") => Some(Self::Gzip),
            7 if name.eq_ignore_ascii_case(b"deflate") => Some(Self::Deflate),
            2 if name.eq_ignore_ascii_case(b"br") => Some(Self::Brotli),
            4 if name.eq_ignore_ascii_case(b"zstd") => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl Decoder {
    /// Begins a body with the value of its field `Content-Encoding`, which is empty for one that is not encoded.
    pub fn begin(&mut self, codings: &[u8]) {
        self.between = 0;
        self.is_over = false;
        let words = codings.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
        // The last coding was applied last.
        let mut found = words.rev().filter_map(Coding::from_name);
        for layer in &mut self.layers {
            layer.begin(found.next());
        }
    }

    /// Returns true if the body is not encoded.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.layers.iter().all(|layer| matches!(layer.active, Active::Pass))
    }

    /// Returns the bytes of memory that the decoder holds.
    #[must_use]
    pub fn room(&self) -> usize {
        self.layers.iter().map(Layer::room).sum()
    }

    /// Decodes the next bytes of the body, and appends what they become to `out`, until that has `limit` bytes.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>, limit: usize) -> Decoding {
        self.run(Some(bytes), out, limit)
    }

    /// Ends the body: bytes that were too few to tell whether they are encoded are passed on.
    pub fn finish(&mut self, out: &mut Vec<u8>, limit: usize) {
        self.run(None, out, limit);
        self.is_over = true;
    }

    fn run(&mut self, bytes: Option<&[u8]>, out: &mut Vec<u8>, limit: usize) -> Decoding {
        if self.is_over || out.len() >= limit {
            return Decoding::End;
        }
        let [outer, inner] = &mut self.layers;
        let most = MAX_RATIO.saturating_mul(limit);
        let between = &mut self.between;
        let mut last = |piece: &[u8]| {
            let room = limit.saturating_sub(out.len());
            out.extend_from_slice(piece.get(..room).unwrap_or(piece));
            out.len() < limit
        };
        let mut flow = outer.push(bytes, &mut |piece| {
            *between += piece.len();
            inner.push(Some(piece), &mut last) == Flow::More && *between <= most
        });
        if bytes.is_none() {
            flow = inner.push(None, &mut last);
        }
        self.is_over = flow == Flow::End;
        if self.is_over { Decoding::End } else { Decoding::More }
    }
}

/// Returns false if no more is wanted.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// Tells if a layer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    More,
    End,
}

/// One coding that is undone, with the memory for it.
#[derive(Debug, Default)]
struct Layer {
    active: Active,
    inflate: Inflate,
}

#[derive(Debug, Default)]
enum Active {
    #[default]
    Pass,
    Inflate,
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
    /// The coding cannot be undone here.
    Never,
}

impl Layer {
    fn begin(&mut self, coding: Option<Coding>) {
        self.active = match coding {
            None => Active::Pass,
            Some(Coding::Gzip) => {
                self.inflate.begin(false);
                Active::Inflate
            }
            Some(Coding::Deflate) => {
                self.inflate.begin(true);
                Active::Inflate
            }
            Some(Coding::Brotli) => Active::Brotli(Box::default()),
            Some(Coding::Zstd) => Zstd::new().map_or(Active::Never, |zstd| Active::Zstd(Box::new(zstd))),
        };
    }

    fn room(&self) -> usize {
        let active = match &self.active {
            Active::Brotli(brotli) => brotli.room(),
            Active::Zstd(zstd) => zstd.room(),
            Active::Pass | Active::Inflate | Active::Never => 0,
        };
        active + self.inflate.room()
    }

    /// Decodes bytes; `None` is the end of the body.
    fn push(&mut self, bytes: Option<&[u8]>, sink: Sink<'_>) -> Flow {
        match (&mut self.active, bytes) {
            (Active::Pass, Some(bytes)) => {
                if sink(bytes) {
                    Flow::More
                } else {
                    Flow::End
                }
            }
            (Active::Inflate, Some(bytes)) => self.inflate.push(bytes, sink),
            (Active::Inflate, None) => self.inflate.finish(sink),
            (Active::Brotli(brotli), Some(bytes)) => brotli.push(bytes, sink),
            (Active::Zstd(zstd), Some(bytes)) => zstd.push(bytes, sink),
            (Active::Never, _) | (_, None) => Flow::End,
        }
    }
}

#[cfg(test)]
mod tests;
