//! Reads a TOML file and reports its mistakes together, each with its line, its key and the accepted values.
//!
//! A [`Document`] collects the mistakes. [`Table`] and [`Value`] walk the document and know their place in
//! it; a reader that finds a wrong value gets `None` and continues with the next. A key that no reader asks
//! for is a mistake, too: [`Table::finish`] reports it.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use mirror_rules::text::ParseError;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use utoipa::ToSchema;

/// A mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Diagnostic {
    /// The file.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The key as a path from the top, such as `filter.sets[0].name`.
    pub key: String,
    /// The mistake, in words.
    pub what: String,
    /// The accepted values, or the remedy.
    pub allowed: String,
}

impl Diagnostic {
    /// Makes a mistake; control characters in its texts are escaped, so that it fits on one line.
    pub(super) fn new(file: &Path, line: usize, key: &str, what: &str, allowed: &str) -> Self {
        let (key, what, allowed) = (printable(key), printable(what), printable(allowed));
        Self { file: file.to_owned(), line, key, what, allowed }
    }
}

impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, what, allowed } = self;
        write!(f, "{}:{line}: {key}: {what}; {allowed}", file.display())
    }
}

/// A file that is being read, with the mistakes and warnings found in it so far.
#[derive(Debug)]
pub(super) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    /// The byte offset at which each line begins.
    lines: Vec<usize>,
    mistakes: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        let starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { file, text, lines, mistakes: RefCell::default(), warnings: RefCell::default() }
    }

    /// Parses the whole file as TOML; `None` if it is not TOML.
    pub(super) fn parse(&self) -> Option<Spanned<DeTable<'t>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        // One syntax error often causes several parser errors on its line.
        let mut last = 0;
        for error in &errors {
            let span = error.span().unwrap_or_default();
            let line = self.line(span.start);
            if line != last {
                self.syntax(error.message(), span);
            }
            last = line;
        }
        errors.is_empty().then_some(table)
    }

    fn syntax(&self, message: &str, span: Range<usize>) {
        let line = self.line(span.start);
        let start = self.lines[line - 1];
        let words = self.text[start..].lines().next().unwrap_or_default();
        let key = words.split_once('=').map_or(words, |(key, _)| key).trim();
        let key = if key.is_empty() { "TOML" } else { key };
        let unquoted =
            ["invalid boolean", "invalid float", "invalid integer", "string values must be quoted"];
        let (what, allowed) = if message == "duplicate key" {
            let name = self.text.get(span.clone()).unwrap_or_default();
            (format!("`{name}` is defined twice"), "write each key and table once".to_owned())
        } else if unquoted.iter().any(|start| message.starts_with(start)) {
            let value = words.split_once('=').map_or("", |(_, value)| value).trim();
            let what = if value.is_empty() { "no value".to_owned() } else { format!("not TOML: {value}") };
            (what, "write a number, or text in quotes".to_owned())
        } else {
            let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
            match expected {
                "" | "nothing" => (format!("not TOML: {what}"), "see https://toml.io".to_owned()),
                expected => (format!("not TOML: {what}"), format!("expected {expected}")),
            }
        };
        self.mistake(span, key, what, allowed);
    }

    /// Returns the line number, from 1, of a byte offset in the text.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    pub(super) fn mistake(
        &self,
        span: Range<usize>,
        key: &str,
        what: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let line = self.line(span.start);
        self.mistakes.borrow_mut().push(Diagnostic::new(self.file, line, key, &what.into(), &allowed.into()));
    }

    /// Returns all mistakes, and all warnings: values that are allowed, but unlikely to be intended.
    pub(super) fn into_findings(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        (self.mistakes.into_inner(), self.warnings.into_inner())
    }
}

/// Returns text of a file in a form that fits into a message of one line.
fn printable(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut line = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == LONGEST {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// A table of a document whose keys are taken out one after the other.
#[derive(Debug)]
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    key: String,
    span: Range<usize>,
    entries: &'d DeTable<'d>,
    known: Vec<&'static str>,
}

impl<'d> Table<'d> {
    /// Returns the table that is the whole document.
    pub(super) fn root(document: &'d Document<'d>, table: &'d Spanned<DeTable<'d>>) -> Self {
        let (span, entries) = (table.span(), table.get_ref());
        Self { document, key: String::new(), span, entries, known: Vec::new() }
    }

    fn path(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    /// Returns the value of an optional key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.known.push(key);
        let node = self.entries.get(key)?;
        Some(Value { document: self.document, key: self.path(key), node })
    }

    /// Returns the value of a required key; a missing key is reported as a mistake.
    pub(super) fn require(&mut self, key: &'static str, allowed: impl Display) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            let at = self.span.clone();
            self.document.mistake(at, &self.path(key), "is missing", format!("write {key} = {allowed}"));
        }
        value
    }

    /// Reports that the table as a whole is wrong.
    pub(super) fn wrong(&self, what: &str, allowed: &str) {
        self.document.mistake(self.span.clone(), &self.key, what, allowed);
    }

    /// Reports the keys that no reader has asked for.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let near = self.known.iter().find(|known| is_near(name, known));
            let what = match near {
                Some(near) => format!("unknown key, did you mean `{near}`?"),
                None => "unknown key".to_owned(),
            };
            let allowed = format!("allowed here: {}", self.known.join(", "));
            self.document.mistake(key.span(), &self.path(name), what, allowed);
        }
    }
}

/// Returns whether two words differ by at most a typing error or two.
fn is_near(word: &str, other: &str) -> bool {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let (word, other) = (plain(word), plain(other));
    let allowed = if other.len() < 5 { 1 } else { 2 };
    if word.len().abs_diff(other.len()) > allowed {
        return false;
    }
    // Edit distance (Levenshtein), row by row.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in word.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()] <= allowed
}

/// A value of a document, and its place in it.
#[derive(Clone, Debug)]
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    key: String,
    node: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// Reports that this value is wrong.
    pub(super) fn wrong(&self, what: impl Into<String>, allowed: impl Into<String>) {
        self.document.mistake(self.node.span(), &self.key, what, allowed);
    }

    /// Reports that this value is allowed, but unlikely to be intended.
    pub(super) fn warn(&self, what: &str, advice: &str) {
        let line = self.document.line(self.node.span().start);
        let warning = Diagnostic::new(self.document.file, line, &self.key, what, advice);
        self.document.warnings.borrow_mut().push(warning);
    }

    /// Returns the value of a result, or reports its error as a mistake.
    pub(super) fn checked<T>(&self, result: Result<T, ParseError>) -> Option<T> {
        result.map_err(|ParseError { what, allowed }| self.wrong(what, allowed)).ok()
    }

    fn wrong_type(&self, allowed: &str) {
        let what = match self.node.get_ref() {
            DeValue::String(text) => format!("is the text \"{text}\""),
            DeValue::Integer(number) => format!("is the number {number}"),
            DeValue::Float(number) => format!("is the number {number}"),
            DeValue::Boolean(value) => format!("is {value}"),
            DeValue::Datetime(_) => "is a date".to_owned(),
            DeValue::Array(_) => "is a list".to_owned(),
            DeValue::Table(_) => "is a table".to_owned(),
        };
        self.wrong(what, format!("must be {allowed}"));
    }

    pub(super) fn table(&self) -> Option<Table<'d>> {
        let Some(entries) = self.node.get_ref().as_table() else {
            self.wrong_type("a table");
            return None;
        };
        let (document, key, span) = (self.document, self.key.clone(), self.node.span());
        Some(Table { document, key, span, entries, known: Vec::new() })
    }

    /// Returns the elements of a list; `of` names them in messages.
    pub(super) fn list(&self, of: &str) -> Option<Vec<Self>> {
        let Some(array) = self.node.get_ref().as_array() else {
            self.wrong_type(&format!("a list of {of}"));
            return None;
        };
        let element =
            |(index, node)| Self { document: self.document, key: format!("{}[{index}]", self.key), node };
        Some(array.iter().enumerate().map(element).collect())
    }

    pub(super) fn text(&self, allowed: &str) -> Option<&'d str> {
        let text = self.node.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(allowed);
        }
        text
    }

    /// Returns the text, if the value is text.
    pub(super) fn as_text(&self) -> Option<&'d str> {
        self.node.get_ref().as_str()
    }

    /// Returns the number if it is within a range; `what` names it in messages.
    pub(super) fn number(&self, what: &str, range: &RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!("{what} from {} to {}", range.start(), range.end());
        let Some(integer) = self.node.get_ref().as_integer() else {
            self.wrong_type(&allowed);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(format!("{integer} is out of range"), format!("must be {allowed}"));
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_keyboard_are_near_and_other_words_are_not() {
        for (word, other) in
            [("defualt", "default"), ("vni", "vnis"), ("max-flows", "max_flows"), ("Name", "name")]
        {
            assert!(is_near(word, other), "{word} {other}");
        }
        for (word, other) in [("mode", "macs"), ("sources", "vnis"), ("", "name")] {
            assert!(!is_near(word, other), "{word} {other}");
        }
    }
}
