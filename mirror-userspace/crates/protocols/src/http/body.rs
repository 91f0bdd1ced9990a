//! Message bodies, and their ends (RFC 9112, sections 6 and 7).

/// The rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the connection closes.
    UntilClose,
}

/// The result of consuming bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Number of bytes that belong to the body.
    pub used: usize,
    /// Number of those that are data or the lines around chunks, without the trailer fields.
    pub data: usize,
}

impl Taken {
    const fn data(len: usize) -> Self {
        Self { used: len, data: len }
    }
}

/// The state of the chunk parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the digits of a chunk's size.
    Size { size: u64, digits: u8 },
    /// Behind the digits.
    Extension { size: u64 },
    /// Within a chunk's data.
    Data { left: u64 },
    /// Behind a chunk's data, before the end of the line.
    DataEnd,
    /// Behind the last chunk: in the trailer fields, which an empty line ends.
    Trailer { empty: bool },
    /// At the end.
    End,
}

impl Body {
    /// Returns a chunked body.
    #[must_use]
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks(State::Size { size: 0, digits: 0 }))
    }

    /// Returns true if the body is complete.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks(State::End)))
    }

    /// Consumes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Taken {
        self.take_content(bytes, |_| ())
    }

    /// Consumes the next bytes, and passes on the content: without the lines around chunks.
    pub fn take_content(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Taken {
        match self {
            Self::Length(left) => {
                let used = skip(left, bytes.len());
                content(bytes.get(..used).unwrap_or_default());
                Taken::data(used)
            }
            Self::UntilClose => {
                content(bytes);
                Taken::data(bytes.len())
            }
            Self::Chunked(Chunks(state)) => {
                let mut at = 0;
                let mut trailer = 0;
                while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
                    trailer += usize::from(matches!(state, State::Trailer { .. }));
                    let is_data = matches!(state, State::Data { .. });
                    match state.step(rest) {
                        // A body that is not in chunks can only be delimited by the end of the connection.
                        None => {
                            *self = Self::UntilClose;
                            content(rest);
                            return Taken::data(bytes.len());
                        }
                        Some(used) => {
                            if is_data {
                                content(rest.get(..used).unwrap_or_default());
                            }
                            at += used;
                        }
                    }
                    if *state == State::End {
                        break;
                    }
                }
                Taken { used: at, data: at - trailer }
            }
        }
    }

    /// Skips the next `len` bytes, which are missing. Returns the number of those that are behind the body,
    /// or `None` if the end of the body is no longer known.
    #[must_use]
    pub fn miss(&mut self, len: usize) -> Option<usize> {
        match self {
            Self::Length(left) => Some(len - skip(left, len)),
            Self::Chunked(Chunks(State::Data { left })) => (skip(left, len) == len).then_some(0),
            Self::UntilClose => Some(0),
            Self::Chunked(_) => None,
        }
    }
}

/// Subtracts up to `len` from `left`. Returns the number subtracted.
fn skip(left: &mut u64, len: usize) -> usize {
    let used = (*left).min(len as u64);
    *left -= used;
    used as usize
}

impl State {
    /// Consumes some of the next bytes, of which there is at least one. Returns the number consumed, or
    /// `None` if they cannot be chunks.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        let byte = *bytes.first()?;
        *self = match *self {
            Self::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if digits < 15 => {
                    Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }
                // White space before the size is tolerated.
                (None, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c) if digits == 0 => *self,
                (None, b'\n') => Self::of_size(size),
                (None, _) if digits > 0 => Self::Extension { size },
                _ => return None,
            },
            Self::Extension { size } if byte == b'\n' => Self::of_size(size),
            Self::Extension { .. } => *self,
            Self::Data { mut left } => {
                let used = skip(&mut left, bytes.len());
                *self = if left == 0 { Self::DataEnd } else { Self::Data { left } };
                return Some(used);
            }
            Self::DataEnd if byte == b'\n' => Self::Size { size: 0, digits: 0 },
            Self::DataEnd if byte == b'\r' => *self,
            Self::DataEnd | Self::End => return None,
            Self::Trailer { empty: true } if byte == b'\n' => Self::End,
            Self::Trailer { .. } if byte == b'\n' => Self::Trailer { empty: true },
            Self::Trailer { empty } => Self::Trailer { empty: empty && byte == b'\r' },
        };
        Some(1)
    }

    const fn of_size(size: u64) -> Self {
        if size == 0 { Self::Trailer { empty: true } } else { Self::Data { left: size } }
    }
}
