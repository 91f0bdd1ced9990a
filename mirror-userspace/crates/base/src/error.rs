//! Formats errors for people: one line each.

use std::error::Error;

/// Returns an error and its causes on one line. A cause that the message already contains is not repeated:
/// some errors, including those of other crates, include their cause in their own text. Of a text of several
/// lines, such as the verifier's log, only the first line is used. The text is [`escaped`].
#[must_use]
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        let line = message.lines().next().unwrap_or_default().trim_end();
        if text.is_empty() {
            text.push_str(line);
        } else if !text.contains(line) {
            text.push_str(": ");
            text.push_str(line);
        }
        next = error.source();
    }
    escaped(&text)
}

/// Returns a text in which characters that a terminal obeys rather than shows are escaped: control
/// characters, and those that change the direction of text or are invisible.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_format(character) {
            result.extend(character.escape_default());
        } else {
            result.push(character);
        }
    }
    result
}

/// Returns whether a character is invisible: the general categories Cf, Zl and Zp of Unicode.
const fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("cannot open x")]
        Plain(#[source] std::io::Error),
        #[error("cannot open x: {0}; try y")]
        Telling(#[source] std::io::Error),
    }

    #[test]
    fn hostile_characters_do_not_reach_the_terminal() {
        let error = std::io::Error::other("a\x1b[2Jb\u{9b}c\u{202e}d\u{200b}é");
        assert_eq!(one_line(&error), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\u{200b}é");
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = || std::io::Error::other("no such thing\nlong log");
        assert_eq!(one_line(&Sample::Plain(cause())), "cannot open x: no such thing");
        assert_eq!(one_line(&Sample::Telling(std::io::Error::other("no"))), "cannot open x: no; try y");
    }
}
