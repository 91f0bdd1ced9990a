//! Verifies the requirements of one buffer.
//!
//! The requirements are tried in their order. A content that was found at one place may have to be another one, if
//! what follows is relative to it: then the search goes on behind the beginning of the last match, as Suricata does.
//! If what fails depends on no position, no other place helps, and the search ends. The number of steps is bounded.

use std::ops::Range;

use crate::base64;
use crate::limits;
use crate::rule::{
    Base64, ByteExtract, ByteJump, ByteMath, ByteSource, ByteTest, Content, DatasetCommand, Encoding,
    Entropy, EntropyCompare, JumpFrom, Match, MathOperator, Number, Pcre, TestOperator, Window,
};

/// The values of the variables of a rule, which the requirements of one buffer set and those of others use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values([u64; limits::VARIABLES]);

impl Default for Values {
    fn default() -> Self {
        Self([0; limits::VARIABLES])
    }
}

impl Values {
    fn get(&self, variable: u8) -> u64 {
        self.0.get(usize::from(variable)).copied().unwrap_or_default()
    }

    fn set(&mut self, variable: u8, value: u64) {
        if let Some(slot) = self.0.get_mut(usize::from(variable)) {
            *slot = value;
        }
    }
}

/// The result of an inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All requirements hold.
    Match,
    /// They do not.
    NoMatch,
    /// The bound of steps was reached first.
    LimitReached,
}

/// Verifies requirements of a buffer.
///
/// ```
/// use mirror_signatures::inspect::{Values, Verdict, verify};
/// use mirror_signatures::parse::parse;
///
/// let text = br#"alert http any any -> any any (http.uri; content:"id="; pcre:"/^\d+$/R"; sid:1;)"#;
/// let file = parse(text);
/// let matches = &file.rules[0].buffers[0].matches;
/// assert_eq!(verify(matches, b"/a?id=x&id=12", &mut Values::default()), Verdict::Match);
/// assert_eq!(verify(matches, b"/a?id=x&id=", &mut Values::default()), Verdict::NoMatch);
/// ```
pub fn verify(matches: &[Match], buffer: &[u8], values: &mut Values) -> Verdict {
    let mut inspection = Inspection { values, steps: limits::STEPS, bytes: limits::SEARCHED, monotone: true };
    match inspection.all(matches, buffer, 0) {
        Outcome::Match => Verdict::Match,
        Outcome::LimitReached => Verdict::LimitReached,
        Outcome::NoMatch | Outcome::Never => Verdict::NoMatch,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Match,
    /// Another place of an earlier match may help.
    NoMatch,
    /// No other place helps.
    Never,
    LimitReached,
}

impl Outcome {
    const fn when(holds: bool) -> Self {
        if holds { Self::Match } else { Self::NoMatch }
    }
}

struct Inspection<'v> {
    values: &'v mut Values,
    /// The steps that are left.
    steps: u32,
    /// The bytes that may still be searched.
    bytes: usize,
    /// True while an earlier match that moves to its next place can only move the position forward. With expressions,
    /// jumps and variables it may move back.
    monotone: bool,
}

impl Inspection<'_> {
    /// Verifies requirements, where the last match ended at `at`.
    fn all(&mut self, matches: &[Match], buffer: &[u8], at: usize) -> Outcome {
        let mut at = at;
        let mut matches = matches;
        // Steps that have one result need no recursion.
        while let [first, rest @ ..] = matches {
            if self.steps == 0 {
                return Outcome::LimitReached;
            }
            self.steps -= 1;
            let outcome = match first {
                Match::Content(content) if !content.negated => {
                    return self.content(content, rest, buffer, at);
                }
                Match::Pcre(pcre) if !pcre.negated => return self.pcre(first, rest, buffer, at),
                Match::Content(content) => {
                    let window = self.window(content.window, buffer.len(), at);
                    if !self.may_search(window.as_ref().map_or(0, Range::len)) {
                        return Outcome::LimitReached;
                    }
                    Outcome::when(window.and_then(|window| find(content, buffer, window)).is_none())
                }
                Match::Pcre(pcre) => {
                    let from = if pcre.relative { at } else { 0 };
                    if !self.may_search(buffer.len() - from + cost(pcre)) {
                        return Outcome::LimitReached;
                    }
                    match pcre.expression.find(buffer.get(from..).unwrap_or_default(), 0) {
                        Ok(found) => Outcome::when(found.is_none()),
                        Err(_) => Outcome::LimitReached,
                    }
                }
                Match::DataAt { offset, relative, negated } => {
                    let offset = self.number(*offset);
                    let len = signed(buffer.len());
                    // Relative positions may be that of the end, as in Suricata.
                    let has_data =
                        if *relative { signed(at).saturating_add(offset) <= len } else { offset < len };
                    Outcome::when(has_data != *negated)
                }
                Match::ByteTest(test) => Outcome::when(self.byte_test(test, buffer, at)),
                Match::ByteJump(jump) => match self.byte_jump(jump, buffer, at) {
                    Some(position) => {
                        self.monotone = false;
                        at = position;
                        Outcome::Match
                    }
                    None => Outcome::NoMatch,
                },
                Match::ByteExtract(extract) => Outcome::when(self.byte_extract(extract, buffer, at)),
                Match::ByteMath(math) => Outcome::when(self.byte_math(math, buffer, at)),
                Match::Size(size) => Outcome::when(size.matches(buffer.len() as u64)),
                Match::Absent { .. } => Outcome::Match,
                Match::Entropy(entropy) => Outcome::when(entropy_matches(entropy, buffer)),
                Match::Base64(decode) => self.base64(decode, buffer, at),
                Match::Dataset(set) => {
                    let is_member = set.members.as_ref().is_some_and(|members| members.contains(buffer));
                    Outcome::when(match set.command {
                        DatasetCommand::IsSet => is_member,
                        DatasetCommand::IsNotSet => !is_member,
                        // Sets do not change during an inspection; rules with these commands are not compiled.
                        DatasetCommand::Set | DatasetCommand::Unset => false,
                    })
                }
            };
            match outcome {
                Outcome::Match => matches = rest,
                Outcome::NoMatch if !first.is_relative() && !uses_variables(first) => return Outcome::Never,
                outcome => return outcome,
            }
        }
        Outcome::Match
    }

    fn content(&mut self, content: &Content, rest: &[Match], buffer: &[u8], at: usize) -> Outcome {
        let has_variables = content_uses_variables(content);
        let is_relative = matches!(content.window, Window::Relative { .. });
        // Wherever earlier matches are, what counts from the beginning is the same.
        let failed = if is_relative || has_variables { Outcome::NoMatch } else { Outcome::Never };
        self.monotone &= !has_variables;
        let Some(mut window) = self.window(content.window, buffer.len(), at) else { return failed };
        if !self.may_search(window.len()) {
            return Outcome::LimitReached;
        }
        // A pattern that is nowhere from here to the end is not there from a later position either.
        let is_open = matches!(content.window, Window::Relative { distance: Number::Value(_), within: None });
        let (is_open, mut found_any) = (is_open && self.monotone, false);
        while let Some(start) = find(content, buffer, window.clone()) {
            found_any = true;
            match self.all(rest, buffer, start + content.pattern.len()) {
                Outcome::NoMatch => {}
                outcome => return outcome,
            }
            window.start = start + 1;
            if self.steps == 0 {
                return Outcome::LimitReached;
            }
            self.steps -= 1;
        }
        if is_open && !found_any {
            return Outcome::Never;
        }
        // The rest may have used variables that another place sets.
        if failed == Outcome::Never && rest.iter().any(uses_variables) { Outcome::NoMatch } else { failed }
    }

    fn pcre(&mut self, first: &Match, rest: &[Match], buffer: &[u8], at: usize) -> Outcome {
        let Match::Pcre(pcre) = first else { return Outcome::Never };
        self.monotone = false;
        let base = if pcre.relative { at } else { 0 };
        let subject = buffer.get(base..).unwrap_or_default();
        let mut from = 0;
        loop {
            if !self.may_search(subject.len().saturating_sub(from) + cost(pcre)) {
                return Outcome::LimitReached;
            }
            match pcre.expression.find(subject, from) {
                Err(_) => return Outcome::LimitReached,
                Ok(None) => break,
                Ok(Some(found)) => {
                    match self.all(rest, buffer, base + found.end) {
                        Outcome::NoMatch => {}
                        outcome => return outcome,
                    }
                    from = found.start + 1;
                }
            }
            if self.steps == 0 {
                return Outcome::LimitReached;
            }
            self.steps -= 1;
        }
        if pcre.relative || rest.iter().any(uses_variables) { Outcome::NoMatch } else { Outcome::Never }
    }

    /// Counts bytes that are searched; returns false if they are too many.
    const fn may_search(&mut self, bytes: usize) -> bool {
        match self.bytes.checked_sub(bytes) {
            Some(left) => {
                self.bytes = left;
                true
            }
            None => false,
        }
    }

    fn number(&self, number: Number) -> i64 {
        match number {
            Number::Value(value) => value,
            Number::Variable(variable) => i64::try_from(self.values.get(variable)).unwrap_or(i64::MAX),
        }
    }

    /// Returns the part of the buffer in which a content must be, or `None` if it is outside.
    fn window(&self, window: Window, len: usize, at: usize) -> Option<Range<usize>> {
        let (start, room) = match window {
            Window::All => return Some(0..len),
            Window::Absolute { offset, depth } => (self.number(offset), depth),
            Window::Relative { distance, within } => {
                (signed(at).saturating_add(self.number(distance)), within)
            }
        };
        let len = signed(len);
        let end = room.map_or(len, |room| start.saturating_add(self.number(room))).min(len);
        let start = start.max(0);
        (start <= end).then_some(start as usize..end as usize)
    }

    /// Reads a number of the buffer, and returns the position behind it as well.
    fn read(&self, source: &ByteSource, buffer: &[u8], at: usize) -> Option<(u64, usize)> {
        let base = if source.relative { signed(at) } else { 0 };
        let start = usize::try_from(base.checked_add(self.number(source.offset))?).ok()?;
        let count = usize::try_from(self.number(source.count)).ok()?;
        let rest = buffer.get(start..)?;
        match source.encoding {
            Encoding::Big | Encoding::Little => {
                let bytes = rest.get(..count).filter(|bytes| bytes.len() <= 8)?;
                let shift = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
                let value = if source.encoding == Encoding::Big {
                    bytes.iter().fold(0, shift)
                } else {
                    bytes.iter().rev().fold(0, shift)
                };
                Some((value, start + count))
            }
            Encoding::Text(radix) => {
                let bytes = if count == 0 { rest.get(..rest.len().min(23))? } else { rest.get(..count)? };
                text_number(bytes, radix).map(|(value, used)| {
                    let used = if count == 0 { used } else { count };
                    (value, start + used)
                })
            }
        }
    }

    fn byte_test(&self, test: &ByteTest, buffer: &[u8], at: usize) -> bool {
        let Some((value, _)) = self.read(&test.source, buffer, at) else { return false };
        let value = masked(value, test.mask);
        let other = match test.value {
            Number::Value(value) => value as u64,
            Number::Variable(variable) => self.values.get(variable),
        };
        let holds = match test.operator {
            TestOperator::Less => value < other,
            TestOperator::Greater => value > other,
            TestOperator::Equal => value == other,
            TestOperator::LessOrEqual => value <= other,
            TestOperator::GreaterOrEqual => value >= other,
            TestOperator::And => value & other != 0,
            TestOperator::Xor => value ^ other != 0,
        };
        holds != test.negated
    }

    /// Returns the position to which a jump leads, if it is in the buffer. A jump to before the buffer leads to its
    /// beginning, one to its end or beyond leads nowhere, as in Suricata.
    fn byte_jump(&self, jump: &ByteJump, buffer: &[u8], at: usize) -> Option<usize> {
        let (value, end) =
            if jump.source.count == Number::Value(0) && !matches!(jump.source.encoding, Encoding::Text(_)) {
                let base = if jump.source.relative { signed(at) } else { 0 };
                let start = base.checked_add(self.number(jump.source.offset))?;
                (0, usize::try_from(start).ok().filter(|start| *start <= buffer.len())?)
            } else {
                self.read(&jump.source, buffer, at)?
            };
        let mut distance = masked(value, jump.mask).checked_mul(u64::from(jump.multiplier))?;
        if jump.align {
            distance = distance.checked_next_multiple_of(4)?;
        }
        let from = match jump.from {
            JumpFrom::Here => end,
            JumpFrom::Beginning => 0,
            JumpFrom::End => buffer.len(),
        };
        let position =
            i64::try_from(distance).ok()?.checked_add(signed(from))?.checked_add(jump.post_offset)?;
        let position = usize::try_from(position.max(0)).ok()?;
        (position < buffer.len()).then_some(position)
    }

    fn byte_extract(&mut self, extract: &ByteExtract, buffer: &[u8], at: usize) -> bool {
        let Some((value, _)) = self.read(&extract.source, buffer, at) else { return false };
        let value = value.wrapping_mul(u64::from(extract.multiplier));
        let value = match extract.align {
            Some(align) => value.checked_next_multiple_of(u64::from(align)).unwrap_or(value),
            None => value,
        };
        self.values.set(extract.variable, value);
        true
    }

    fn byte_math(&mut self, math: &ByteMath, buffer: &[u8], at: usize) -> bool {
        let Some((value, _)) = self.read(&math.source, buffer, at) else { return false };
        let value = masked(value, math.mask);
        let operand = match math.value {
            Number::Value(value) => value as u64,
            Number::Variable(variable) => self.values.get(variable),
        };
        let result = match math.operator {
            MathOperator::Add => value.wrapping_add(operand),
            MathOperator::Subtract => value.wrapping_sub(operand),
            MathOperator::Multiply => value.wrapping_mul(operand),
            MathOperator::Divide => match value.checked_div(operand) {
                Some(result) => result,
                None => return false,
            },
            MathOperator::ShiftLeft => {
                u32::try_from(operand).ok().and_then(|by| value.checked_shl(by)).unwrap_or(0)
            }
            MathOperator::ShiftRight => {
                u32::try_from(operand).ok().and_then(|by| value.checked_shr(by)).unwrap_or(0)
            }
        };
        self.values.set(math.variable, result);
        true
    }

    fn base64(&mut self, decode: &Base64, buffer: &[u8], at: usize) -> Outcome {
        let base = if decode.relative { at } else { 0 };
        let encoded = buffer.get(base.saturating_add(decode.offset as usize)..).unwrap_or_default();
        let encoded = decode.bytes.and_then(|bytes| encoded.get(..bytes as usize)).unwrap_or(encoded);
        let decoded = base64::decode(encoded.get(..limits::TRANSFORMED).unwrap_or(encoded));
        if decoded.is_empty() {
            return Outcome::NoMatch;
        }
        let outcome = self.all(&decode.matches, &decoded, 0);
        // The positions in other bytes say nothing about those in these.
        self.monotone = false;
        match outcome {
            // Another place may yield other bytes.
            Outcome::Never => Outcome::NoMatch,
            outcome => outcome,
        }
    }
}

/// Returns a position as a number to which offsets are added.
fn signed(position: usize) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Returns what a search costs beside the bytes of its subject.
fn cost(pcre: &Pcre) -> usize {
    if pcre.expression.backtracks() { limits::BACKTRACKING } else { 0 }
}

/// Returns true if a requirement depends on variables, which an earlier one may set.
fn uses_variables(requirement: &Match) -> bool {
    let is_variable = |number: &Number| matches!(number, Number::Variable(_));
    let source = |source: &ByteSource| is_variable(&source.count) || is_variable(&source.offset);
    match requirement {
        Match::Content(content) => content_uses_variables(content),
        Match::DataAt { offset, .. } => is_variable(offset),
        Match::ByteTest(test) => source(&test.source) || is_variable(&test.value),
        Match::ByteJump(jump) => source(&jump.source),
        Match::ByteExtract(extract) => source(&extract.source),
        Match::ByteMath(math) => source(&math.source) || is_variable(&math.value),
        Match::Base64(decode) => decode.matches.iter().any(uses_variables),
        Match::Pcre(_) | Match::Size(_) | Match::Absent { .. } | Match::Entropy(_) | Match::Dataset(_) => {
            false
        }
    }
}

fn content_uses_variables(content: &Content) -> bool {
    let (first, room) = match content.window {
        Window::All => return false,
        Window::Absolute { offset, depth } => (offset, depth),
        Window::Relative { distance, within } => (distance, within),
    };
    matches!(first, Number::Variable(_)) || matches!(room, Some(Number::Variable(_)))
}

/// Finds the first place of a content in a part of the buffer.
fn find(content: &Content, buffer: &[u8], window: Range<usize>) -> Option<usize> {
    let pattern: &[u8] = &content.pattern;
    let is_at = |start: usize| {
        let found = buffer.get(start..start.checked_add(pattern.len())?)?;
        let equal = if content.nocase { found.eq_ignore_ascii_case(pattern) } else { found == pattern };
        equal.then_some(start)
    };
    let last = window.end.checked_sub(pattern.len()).filter(|last| *last >= window.start)?;
    if content.at_end {
        let start = buffer.len().checked_sub(pattern.len())?;
        return (window.start <= start && start <= last).then(|| is_at(start)).flatten();
    }
    // The rarest byte of the pattern is searched, and the pattern compared where it is.
    let rarest = usize::from(content.rarest);
    let byte = *pattern.get(rarest)?;
    let mut start = window.start;
    while start <= last {
        let rest = buffer.get(start + rarest..=last + rarest)?;
        let next = if content.nocase && byte.is_ascii_lowercase() {
            memchr::memchr2(byte, byte.to_ascii_uppercase(), rest)?
        } else {
            memchr::memchr(byte, rest)?
        };
        start += next;
        if let Some(found) = is_at(start) {
            return Some(found);
        }
        start += 1;
    }
    None
}

fn masked(value: u64, mask: Option<u32>) -> u64 {
    mask.map_or(value, |mask| (value & u64::from(mask)) >> mask.trailing_zeros().min(31))
}

/// Reads digits behind white space, as `strtoull(3)` does, and returns how many bytes they and the space take.
fn text_number(bytes: &[u8], radix: u8) -> Option<(u64, usize)> {
    let space = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let text = bytes.get(space..)?;
    let has_prefix = matches!(text, [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit());
    let (radix, skipped) = match radix {
        0 | 16 if has_prefix => (16, 2),
        0 if text.first() == Some(&b'0') => (8, 0),
        0 => (10, 0),
        radix => (u32::from(radix), 0),
    };
    let digits = text.get(skipped..)?;
    let len = digits.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let value = crate::number::digits_of(digits.get(..len)?, radix)?;
    Some((value, space + skipped + len))
}

fn entropy_matches(entropy: &Entropy, buffer: &[u8]) -> bool {
    let rest = buffer.get(entropy.offset as usize..).unwrap_or_default();
    let bytes = if entropy.bytes == 0 { rest } else { rest.get(..entropy.bytes as usize).unwrap_or(rest) };
    if bytes.is_empty() {
        return false;
    }
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    let bits = |count: &u32| {
        let share = f64::from(*count) / total;
        -share * share.log2()
    };
    let value: f64 = counts.iter().filter(|count| **count > 0).map(bits).sum();
    // Equal means equal as far as people write digits.
    let equal = |other: f64| (value - other).abs() < 1e-9;
    match entropy.compare {
        EntropyCompare::Equal(other) => equal(other),
        EntropyCompare::NotEqual(other) => !equal(other),
        EntropyCompare::Less(other) => value < other,
        EntropyCompare::LessOrEqual(other) => value <= other,
        EntropyCompare::Greater(other) => value > other,
        EntropyCompare::GreaterOrEqual(other) => value >= other,
        EntropyCompare::Between(low, high) => low < value && value < high,
        EntropyCompare::Outside(low, high) => !(low < value && value < high),
    }
}

#[cfg(test)]
mod tests;
