//! Questions and answers (RFC 1413, section 4): lines of text.

use crate::detect::Probe;

/// The ports of the connection that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The port on the host that is asked: that of the user.
    pub user: u16,
    /// The port on the host that asks.
    pub service: u16,
}

impl Ports {
    /// Parses a question: two numbers and a comma between them.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let (user, service) = split(line, b',')?;
        Some(Self { user: port(user)?, service: port(service)? })
    }
}

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The user that owns the connection.
    User {
        /// The operating system, which may be followed by a character set.
        system: &'a [u8],
        /// The name.
        name: &'a [u8],
    },
    /// The reason why there is no name.
    Error(&'a [u8]),
    /// No answer came.
    None,
}

/// Parses an answer with the ports that it repeats.
pub(super) fn parse_answer(line: &[u8]) -> Option<(Ports, Answer<'_>)> {
    let (ports, rest) = split(line, b':')?;
    let (kind, rest) = split(rest, b':')?;
    let answer = if kind.eq_ignore_ascii_case(b"ERROR") {
        Answer::Error(rest)
    } else if kind.eq_ignore_ascii_case(b"USERID") {
        let (system, name) = split(rest, b':')?;
        Answer::User { system, name }
    } else {
        return None;
    };
    Some((Ports::parse(ports)?, answer))
}

/// The longest question, white space included, that is recognised.
const MAX_QUESTION: usize = 32;

/// Matches a question.
pub(super) fn probe_question(bytes: &[u8]) -> Probe {
    probe(bytes, b'\n')
}

/// Matches an answer, which begins with the question and a colon.
pub(super) fn probe_answer(bytes: &[u8]) -> Probe {
    probe(bytes, b':')
}

fn probe(bytes: &[u8], end: u8) -> Probe {
    match bytes.iter().position(|&byte| byte == end) {
        Some(end) => Ports::parse(bytes.get(..end).unwrap_or_default()).is_some().into(),
        None if bytes.len() <= MAX_QUESTION
            && bytes.iter().all(|byte| b"0123456789, \t\r".contains(byte)) =>
        {
            Probe::More
        }
        None => Probe::No,
    }
}

/// Splits a text at the first `separator`, without the white space around both parts.
fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    let (first, second) = text.split_at(at);
    Some((first.trim_ascii(), second.get(1..)?.trim_ascii()))
}

/// Parses a port number, which is not 0.
fn port(text: &[u8]) -> Option<u16> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    str::from_utf8(digits).ok()?.parse().ok().filter(|&port| port > 0)
}
