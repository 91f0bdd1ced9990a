//! Rule files as text, for those who compare and edit them: each rule with its number, enabled or not. Nothing is
//! checked here.

use std::borrow::Cow;

use super::text::{Line, Lines, RuleOption, options};
use crate::number::unsigned;
use crate::rule::RuleId;

/// The text of a rule in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRule<'a> {
    /// The text, on one line, without the `#` of a disabled rule.
    pub text: Cow<'a, [u8]>,
    /// False behind a `#`.
    pub is_enabled: bool,
    /// The line where it begins.
    pub line: u32,
    /// Its number.
    pub id: RuleId,
    /// `msg`, as it is written between the quotes.
    pub message: String,
}

/// Returns the rules of a file. Lines without a legible `sid` are left out.
///
/// ```
/// use mirror_signatures::parse::source::rules;
///
/// let text = b"alert tcp any any -> any 22 (msg:\"ssh\"; sid:1; rev:2;)\n# alert ip any any -> any any (sid:2;)\n";
/// let found: Vec<_> = rules(text).map(|rule| (rule.id.sid, rule.is_enabled, rule.message)).collect();
/// assert_eq!(found, [(1, true, "ssh".to_owned()), (2, false, String::new())]);
/// ```
pub fn rules(text: &[u8]) -> impl Iterator<Item = SourceRule<'_>> {
    Lines::new(text).filter_map(|line| match line {
        Line::Rule(rule) => SourceRule::new(rule.first_line(), rule.bytes, true),
        Line::Disabled(line, text) => SourceRule::new(line, text, false),
        Line::Other => None,
    })
}

impl<'a> SourceRule<'a> {
    /// Reads the text of a rule. Returns `None` without a legible `sid`.
    #[must_use]
    pub fn new(line: u32, text: Cow<'a, [u8]>, is_enabled: bool) -> Option<Self> {
        let (open, close) = (memchr::memchr(b'(', &text)?, memchr::memrchr(b')', &text)?);
        let options = options(&text, open + 1, close).ok()?;
        let value = |name: &[u8]| {
            let is_it = |option: &&RuleOption<'_>| option.keyword.eq_ignore_ascii_case(name);
            options.iter().find(is_it).and_then(|option| option.value)
        };
        let number =
            |name: &[u8]| unsigned(value(name)?, u64::from(u32::MAX)).ok().map(|number| number as u32);
        let id = RuleId {
            gid: number(b"gid").unwrap_or(1),
            sid: number(b"sid")?,
            rev: number(b"rev").unwrap_or(0),
        };
        let message = String::from_utf8_lossy(value(b"msg").unwrap_or_default());
        let message = message.trim_matches('"').to_owned();
        Some(Self { text, is_enabled, line, id, message })
    }

    /// Returns the values of `metadata`: each a key and a value.
    pub fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let text = String::from_utf8_lossy(&self.text);
        let fields: Vec<_> = text
            .match_indices("metadata:")
            .filter_map(|(at, key)| text.get(at + key.len()..)?.split(';').next())
            .flat_map(|value| value.split(','))
            .filter_map(|field| field.trim().split_once(char::is_whitespace))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        fields.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_whatever_else_is_in_the_file() {
        let text = b"# a comment (with parentheses)\n\
            alert tcp any any -> any any (msg:\"one \\; two\"; \\\n  sid:7; gid:3; rev:9;)\n\
            # drop http any any -> any any (nonsense; metadata:affected_product X, created_at 2020; sid:8;)\n\
            alert tcp any any -> any any (msg:\"no number\";)\n\
            alert tcp any any -> any any\n";
        let found: Vec<_> = rules(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id, found[0].line), (RuleId { gid: 3, sid: 7, rev: 9 }, 2));
        assert_eq!(found[0].message, "one \\; two");
        assert!(found[0].is_enabled && !found[1].is_enabled);
        assert!(!found[0].text.contains(&b'\n'));
        let metadata: Vec<_> = found[1].metadata().collect();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(metadata, [pair("affected_product", "X"), pair("created_at", "2020")]);
    }
}
