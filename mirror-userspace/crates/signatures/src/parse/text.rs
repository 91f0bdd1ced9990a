//! The rules of a file as text: lines joined where they are continued, with the way back to line and column.

use std::borrow::Cow;

use crate::diagnostic::Place;
use crate::rule::Action;

/// The text of a rule.
#[derive(Debug)]
pub(super) struct RuleText<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    /// Where each line of the file begins in the text, and the place of its first byte.
    lines: Vec<(usize, Place)>,
}

impl RuleText<'_> {
    /// Returns the line where the rule begins.
    pub(super) fn first_line(&self) -> u32 {
        self.place(0).line
    }

    /// Returns the place of a byte of the text.
    pub(super) fn place(&self, at: usize) -> Place {
        let index = self.lines.partition_point(|line| line.0 <= at).saturating_sub(1);
        let (start, place) = self.lines.get(index).copied().unwrap_or_default();
        let column = u32::try_from(at.saturating_sub(start)).unwrap_or(u32::MAX);
        Place { line: place.line, column: place.column.saturating_add(column) }
    }
}

/// A line of a file, with those that continue it.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Rule(RuleText<'a>),
    /// A rule behind a `#`, without it: its line, and its text.
    Disabled(u32, Cow<'a, [u8]>),
    /// Any other comment, or nothing.
    Other,
}

/// Splits a file into its lines.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    line: u32,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), line: 0 }
    }

    /// Returns the next line of the file without its end.
    fn physical(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.line = self.line.saturating_add(1);
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let line = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// Returns the line without the backslash that continues it, or `None` if it ends here.
fn continued(line: &[u8]) -> Option<&[u8]> {
    line.trim_ascii_end().strip_suffix(b"\\")
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let first = self.physical()?;
        let start = first.len() - first.trim_ascii_start().len();
        let trimmed = first.get(start..).unwrap_or_default().trim_ascii_end();
        let place = Place { line: self.line, column: u32::try_from(start + 1).unwrap_or(u32::MAX) };
        if trimmed.is_empty() {
            return Some(Line::Other);
        }
        if let Some(comment) = trimmed.strip_prefix(b"#") {
            let comment = comment.trim_ascii_start();
            let action = comment.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            let has_options = memchr::memchr(b'(', comment).is_some() || continued(comment).is_some();
            if Action::from_name(action).is_none() || !has_options {
                return Some(Line::Other);
            }
            // The lines that continue a disabled rule are disabled with it.
            let Some(head) = continued(comment) else {
                return Some(Line::Disabled(place.line, Cow::Borrowed(comment)));
            };
            let mut bytes = head.to_vec();
            while let Some(next) = self.physical() {
                let next = next.trim_ascii_start();
                let next = next.strip_prefix(b"#").unwrap_or(next);
                bytes.extend_from_slice(continued(next).unwrap_or(next));
                if continued(next).is_none() {
                    break;
                }
            }
            bytes.truncate(bytes.trim_ascii_end().len());
            return Some(Line::Disabled(place.line, Cow::Owned(bytes)));
        }
        let mut lines = vec![(0, place)];
        let Some(head) = continued(trimmed) else {
            return Some(Line::Rule(RuleText { bytes: Cow::Borrowed(trimmed), lines }));
        };
        let mut bytes = head.to_vec();
        while let Some(next) = self.physical() {
            lines.push((bytes.len(), Place { line: self.line, column: 1 }));
            if let Some(next) = continued(next) {
                bytes.extend_from_slice(next);
            } else {
                bytes.extend_from_slice(next);
                break;
            }
        }
        bytes.truncate(bytes.trim_ascii_end().len());
        Some(Line::Rule(RuleText { bytes: Cow::Owned(bytes), lines }))
    }
}

/// An option of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleOption<'a> {
    pub(super) keyword: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    /// The position of the keyword in the text of the rule.
    pub(super) at: usize,
}

/// Splits the options of a rule. An option ends at a semicolon without a backslash, whether it is quoted or not.
pub(super) fn options(
    text: &[u8],
    start: usize,
    end: usize,
) -> Result<Vec<RuleOption<'_>>, (usize, &'static str)> {
    let mut options = Vec::with_capacity(24);
    let mut at = start;
    loop {
        while at < end && text.get(at).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
            at += 1;
        }
        if at >= end {
            return Ok(options);
        }
        if options.len() >= crate::limits::OPTIONS {
            return Err((at, "the rule has too many options"));
        }
        let rest = text.get(at..end).unwrap_or_default();
        let len = option_len(rest).ok_or((at, "a `;` must end the option"))?;
        let option = rest.get(..len).unwrap_or_default();
        let (keyword, value) = match memchr::memchr(b':', option) {
            Some(colon) => (option.get(..colon), option.get(colon + 1..).map(<[u8]>::trim_ascii)),
            None => (Some(option), None),
        };
        options.push(RuleOption { keyword: keyword.unwrap_or_default().trim_ascii(), value, at });
        at += len + 1;
    }
}

fn option_len(rest: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let semicolon = from + memchr::memchr(b';', rest.get(from..)?)?;
        // A semicolon behind an odd number of backslashes is escaped.
        let escapes = rest.get(..semicolon)?.iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(semicolon);
        }
        from = semicolon + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_places_found() {
        let text = b"\xef\xbb\xbf# a comment\n\n  alert tcp any any \\\r\n  -> any any (msg:\"x\"; \\\nsid:1;)\r\n\
                     #alert tcp any any -> any any \\\n(sid:2;)\n# alert (me)\n#Alert tcp any any -> any any (sid:3;)\nlast";
        let lines: Vec<_> = Lines::new(text).collect();
        assert!(matches!(
            lines.as_slice(),
            [
                Line::Other,
                Line::Other,
                Line::Rule(_),
                Line::Disabled(6, _),
                Line::Disabled(8, _),
                Line::Disabled(9, _),
                Line::Rule(_)
            ]
        ));
        let Line::Disabled(_, disabled) = &lines[3] else { panic!() };
        assert_eq!(disabled.as_ref(), b"alert tcp any any -> any any (sid:2;)");
        let Line::Rule(rule) = &lines[2] else { panic!() };
        let at = |needle: &[u8]| rule.place(memchr::memmem::find(&rule.bytes, needle).unwrap());
        assert_eq!(at(b"alert"), Place { line: 3, column: 3 });
        assert_eq!(at(b"->"), Place { line: 4, column: 3 });
        assert_eq!(at(b"sid"), Place { line: 5, column: 1 });
        assert!(rule.bytes.ends_with(b")"));
    }

    #[test]
    fn escaped_semicolons_do_not_end_options() {
        let text = br#"a:"x\;y"; b ;c:\\; d:e:f;"#;
        let options = options(text, 0, text.len()).unwrap();
        let shown = |option: &RuleOption<'_>| {
            let value = option.value.map(|value| format!("={}", value.escape_ascii())).unwrap_or_default();
            format!("{}:{}{value}", option.at, option.keyword.escape_ascii())
        };
        let options: Vec<_> = options.iter().map(shown).collect();
        assert_eq!(options, [r#"0:a=\"x\\;y\""#, "10:b", r"13:c=\\\\", "19:d=e:f"]);
        assert_eq!(super::options(b"a; b", 0, 4).unwrap_err().0, 3);
    }
}
