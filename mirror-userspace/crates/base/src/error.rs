//! Formats errors for people: one line each.

use std::error::Error;

/// Returns an error and its causes on one line. A cause that the message already contains is not repeated:
/// some errors, including those of other crates, include their cause in their own text. Of a text of several
/// lines, such as the verifier's log, only the first line is used.
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
    text
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
    fn each_cause_is_told_once() {
        let cause = || std::io::Error::other("no such thing\nlong log");
        assert_eq!(one_line(&Sample::Plain(cause())), "cannot open x: no such thing");
        assert_eq!(one_line(&Sample::Telling(std::io::Error::other("no"))), "cannot open x: no; try y");
    }
}
