//! Brotli (RFC 7932) and Zstandard (RFC 8878).

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DCtx;

use super::{Flow, PIECE, Sink};

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// The decoder of Brotli.
pub(super) struct Brotli {
    state: State,
    piece: Vec<u8>,
    is_over: bool,
    /// Bytes decoded; of the window, no more are in use.
    decoded: usize,
}

impl std::fmt::Debug for Brotli {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brotli").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self {
            state: State::new(alloc(), alloc(), alloc()),
            piece: vec![0; PIECE],
            is_over: false,
            decoded: 0,
        }
    }
}

/// The greatest window (RFC 7932, section 9.1).
const MAX_BROTLI_WINDOW: usize = 1 << 24;

impl Brotli {
    pub(super) fn room(&self) -> usize {
        size_of::<Self>() + self.piece.capacity() + self.decoded.min(MAX_BROTLI_WINDOW)
    }

    pub(super) fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Flow {
        let (mut left, mut at, mut total) = (bytes.len(), 0, 0);
        while !self.is_over {
            let (mut room, mut made) = (self.piece.len(), 0);
            let state = &mut self.state;
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                bytes,
                &mut room,
                &mut made,
                &mut self.piece,
                &mut total,
                state,
            );
            self.decoded = self.decoded.saturating_add(made);
            let more = made == 0 || sink(self.piece.get(..made).unwrap_or_default());
            self.is_over =
                !more || matches!(result, BrotliResult::ResultSuccess | BrotliResult::ResultFailure);
            if matches!(result, BrotliResult::NeedsMoreInput) {
                break;
            }
        }
        if self.is_over { Flow::End } else { Flow::More }
    }
}

/// The greatest window that a sender may use: 8 MiB (RFC 9659, section 3).
const MAX_WINDOW_LOG: u32 = 23;

/// The decoder of Zstandard.
pub(super) struct Zstd {
    decoder: Decoder<'static>,
    piece: Vec<u8>,
    is_over: bool,
    /// Bytes decoded; of the window, no more are in use.
    decoded: usize,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Zstd {
    /// Returns `None` if there is no memory.
    pub(super) fn new() -> Option<Self> {
        let mut decoder = Decoder::new().ok()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).ok()?;
        Some(Self { decoder, piece: vec![0; PIECE], is_over: false, decoded: 0 })
    }

    pub(super) fn room(&self) -> usize {
        // The decoder has a block of input and of output besides its window.
        2 * DCtx::out_size() + self.piece.capacity() + self.decoded.min(1 << MAX_WINDOW_LOG)
    }

    pub(super) fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Flow {
        let mut input = InBuffer::around(bytes);
        while !self.is_over {
            let before = input.pos();
            let mut output = OutBuffer::around(self.piece.as_mut_slice());
            let result = self.decoder.run(&mut input, &mut output);
            let made = output.pos();
            self.decoded = self.decoded.saturating_add(made);
            let more = made == 0 || sink(self.piece.get(..made).unwrap_or_default());
            self.is_over = !more || result.is_err();
            // Output is complete if it did not fill the piece; another frame may follow.
            if made < self.piece.len() && (input.pos() == bytes.len() || input.pos() == before) {
                break;
            }
        }
        if self.is_over { Flow::End } else { Flow::More }
    }
}
