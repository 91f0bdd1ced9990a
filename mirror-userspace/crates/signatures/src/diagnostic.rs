//! Refusals: where in a file, which keyword, and why.

use std::fmt;

use mirror_base::escaped;

/// The reason for which a rule is not loaded.
///
/// Lines and columns count from one. A column counts bytes, and refers to the line of the file even if the rule is
/// continued over several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The line of the keyword.
    pub line: u32,
    /// The column of the keyword, or of the part of the header.
    pub column: u32,
    /// The signature identifier, if the rule has one that is legible.
    pub sid: Option<u32>,
    /// The keyword as it is written, or the part of the header: `action`, `protocol`, `source`, …
    pub keyword: String,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if let Some(sid) = self.sid {
            write!(f, "sid {sid}: ")?;
        }
        write!(f, "{}: {}", self.keyword, self.reason)
    }
}

/// A place in a file: line and column from one, the column in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Returns bytes of a file as text for a message, shortened if they are long.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 60;
    let text = String::from_utf8_lossy(bytes.get(..LONGEST).unwrap_or(bytes));
    let dots = if bytes.len() > LONGEST { "…" } else { "" };
    format!("`{}{dots}`", escaped(&text))
}
