//! A content that modifiers may still change, and the check of all its modifiers together.

use super::Failure;
use crate::buffer::Buffer;
use crate::frequency;
use crate::rule::{Content, Number, Window};

/// A content while modifiers may still change it.
#[expect(clippy::struct_excessive_bools, reason = "each is a modifier that is there or not")]
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) pattern: Vec<u8>,
    pub(super) negated: bool,
    pub(super) at: usize,
    pub(super) fast: Option<Fast>,
    pub(super) nocase: bool,
    pub(super) offset: Option<Number>,
    pub(super) depth: Option<Number>,
    pub(super) distance: Option<Number>,
    pub(super) within: Option<Number>,
    pub(super) starts: bool,
    pub(super) ends: bool,
}

/// `fast_pattern`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fast {
    pub(super) part: Option<(u8, u8)>,
    pub(super) only: bool,
    pub(super) at: usize,
}

impl Draft {
    pub(super) fn new(pattern: Vec<u8>, negated: bool, at: usize) -> Self {
        Self {
            pattern,
            negated,
            at,
            fast: None,
            nocase: false,
            offset: None,
            depth: None,
            distance: None,
            within: None,
            starts: false,
            ends: false,
        }
    }

    /// Writes hexadecimal digits as the buffer has them: rules have either case.
    pub(super) fn fit_hexadecimal(&mut self, buffer: Buffer) {
        match buffer {
            Buffer::TlsCertSerial => self.pattern.make_ascii_uppercase(),
            Buffer::TlsCertFingerprint
            | Buffer::Ja3Hash
            | Buffer::Ja3sHash
            | Buffer::SshHassh
            | Buffer::SshHasshServer => self.pattern.make_ascii_lowercase(),
            _ => {}
        }
    }

    const fn is_placed(&self) -> bool {
        self.offset.is_some() || self.depth.is_some() || self.distance.is_some() || self.within.is_some()
    }

    /// Checks the modifiers together.
    pub(super) fn finish(self) -> Result<Content, Failure> {
        let failure = |keyword: &str, reason: String| Failure {
            at: self.at,
            keyword: keyword.to_owned(),
            reason,
            is_skip: false,
        };
        let len = i64::try_from(self.pattern.len()).unwrap_or(i64::MAX);
        let is_relative = self.distance.is_some() || self.within.is_some();
        let is_absolute = self.offset.is_some() || self.depth.is_some();
        if is_relative && is_absolute {
            let reason =
                "`offset` and `depth` count from the beginning, `distance` and `within` from the last match";
            return Err(failure("content", reason.to_owned()));
        }
        if self.starts && (is_relative || is_absolute) {
            let reason = "`startswith` cannot be combined with another position";
            return Err(failure("startswith", reason.to_owned()));
        }
        for (keyword, room) in [("depth", self.depth), ("within", self.within)] {
            if let Some(Number::Value(room)) = room
                && room < len
            {
                let reason = format!("a pattern of {len} bytes does not fit into {room}");
                return Err(failure(keyword, reason));
            }
        }
        if let Some(fast) = self.fast {
            let refuse = |reason: String| {
                Err(Failure { at: fast.at, keyword: "fast_pattern".to_owned(), reason, is_skip: false })
            };
            if self.negated && (fast.only || self.is_placed() || self.starts || self.ends) {
                return refuse("a content that must not be there at a position finds nothing".to_owned());
            }
            if fast.only && (self.is_placed() || self.starts || self.ends) {
                return refuse("`only` cannot be combined with a position".to_owned());
            }
            if fast.part.is_some_and(|(first, count)| i64::from(first) + i64::from(count) > len) {
                return refuse(format!("the pattern has only {len} bytes"));
            }
        }
        let zero = Number::Value(0);
        let window = if self.starts {
            Window::Absolute { offset: zero, depth: Some(Number::Value(len)) }
        } else if is_relative {
            Window::Relative { distance: self.distance.unwrap_or(zero), within: self.within }
        } else if is_absolute {
            Window::Absolute { offset: self.offset.unwrap_or(zero), depth: self.depth }
        } else {
            Window::All
        };
        let mut pattern = self.pattern;
        if self.nocase {
            pattern.make_ascii_lowercase();
        }
        let rarest = frequency::rarest(&pattern);
        Ok(Content {
            pattern: pattern.into(),
            nocase: self.nocase,
            negated: self.negated,
            at_end: self.ends,
            rarest,
            window,
        })
    }
}
