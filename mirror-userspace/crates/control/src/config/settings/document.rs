//! Reads a TOML file and reports its mistakes together, each with its line, its key and the accepted values.
//!
//! A [`Document`] collects the mistakes. [`Table`] and [`Value`] walk the document and know their place in
//! it, and the row of each key in the table of settings, which has the type and the range. A reader that finds
//! a wrong value gets `None` and continues with the next. A key without a row is a mistake, too.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_base::{ParseError, text};
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use utoipa::ToSchema;

use super::{Kind, Section, Setting};

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
    pub(in crate::config) fn new(file: &Path, line: usize, key: &str, what: &str, allowed: &str) -> Self {
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
pub(in crate::config) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    /// The byte offset at which each line begins.
    lines: Vec<usize>,
    mistakes: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl<'t> Document<'t> {
    pub(in crate::config) fn new(file: &'t Path, text: &'t str) -> Self {
        let starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { file, text, lines, mistakes: RefCell::default(), warnings: RefCell::default() }
    }

    /// Parses the whole file as TOML; `None` if it is not TOML.
    pub(in crate::config) fn parse(&self) -> Option<Spanned<DeTable<'t>>> {
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
    pub(in crate::config) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    pub(in crate::config) fn mistake(
        &self,
        span: Range<usize>,
        key: &str,
        what: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let line = self.line(span.start);
        self.mistakes.borrow_mut().push(Diagnostic::new(self.file, line, key, &what.into(), &allowed.into()));
    }

    fn wrong_type(&self, node: &Spanned<DeValue<'_>>, key: &str, allowed: &str) {
        let what = match node.get_ref() {
            DeValue::String(text) => format!("is the text \"{text}\""),
            DeValue::Integer(number) => format!("is the number {number}"),
            DeValue::Float(number) => format!("is the number {number}"),
            DeValue::Boolean(value) => format!("is {value}"),
            DeValue::Datetime(_) => "is a date".to_owned(),
            DeValue::Array(_) => "is a list".to_owned(),
            DeValue::Table(_) => "is a table".to_owned(),
        };
        self.mistake(node.span(), key, what, format!("must be {allowed}"));
    }

    /// Returns all mistakes, and all warnings: values that are allowed, but unlikely to be intended.
    pub(in crate::config) fn into_findings(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
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

/// A table of a document.
#[derive(Debug)]
pub(in crate::config) struct Table<'d> {
    document: &'d Document<'d>,
    key: String,
    span: Range<usize>,
    entries: &'d DeTable<'d>,
    settings: &'static [Setting],
}

/// Reads the tables at the top of a document in the order of `sections`, and reports unknown ones.
pub(in crate::config) fn tables<'d>(
    document: &'d Document<'d>,
    root: &'d Spanned<DeTable<'d>>,
    sections: impl Iterator<Item = &'static Section> + Clone,
) -> Vec<(&'static Section, Table<'d>)> {
    let entries = root.get_ref();
    let names: Vec<_> = sections.clone().map(|section| section.name).collect();
    report_unknown(document, "", entries, &names);
    let table = |section: &'static Section| {
        let node = entries.get(section.name)?;
        Some((section, Table::new(document, section.name.to_owned(), node, section)?))
    };
    sections.filter_map(table).collect()
}

/// Returns the path of a key of a table.
fn path(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Reports the keys of a table that are not among the known ones.
fn report_unknown(document: &Document<'_>, table: &str, entries: &DeTable<'_>, known: &[&'static str]) {
    for key in entries.keys() {
        let name = key.get_ref().as_ref();
        if known.contains(&name) {
            continue;
        }
        let what = match known.iter().find(|known| is_near(name, known)) {
            Some(near) => format!("unknown key, did you mean `{near}`?"),
            None => "unknown key".to_owned(),
        };
        document.mistake(key.span(), &path(table, name), what, format!("allowed here: {}", known.join(", ")));
    }
}

/// Returns whether two words differ by at most a typing error or two.
fn is_near(word: &str, other: &str) -> bool {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let (word, other) = (plain(word), plain(other));
    let allowed = if other.len() < 5 { 1 } else { 2 };
    // The distance takes as long as the product of the lengths.
    word.len().abs_diff(other.len()) <= allowed && strsim::levenshtein(&word, &other) <= allowed
}

impl<'d> Table<'d> {
    /// Returns the table that a value is, and reports its unknown keys.
    fn new(
        document: &'d Document<'d>,
        key: String,
        node: &'d Spanned<DeValue<'d>>,
        section: &'static Section,
    ) -> Option<Self> {
        let Some(entries) = node.get_ref().as_table() else {
            document.wrong_type(node, &key, "a table");
            return None;
        };
        let known: Vec<_> = section.keys().collect();
        report_unknown(document, &key, entries, &known);
        Some(Self { document, key, span: node.span(), entries, settings: section.settings })
    }

    /// Returns each setting that the table has, and its value.
    pub(in crate::config) fn values(&self) -> impl Iterator<Item = Value<'d>> {
        self.settings.iter().filter_map(|setting| self.value(setting))
    }

    fn value(&self, setting: &'static Setting) -> Option<Value<'d>> {
        let node = self.entries.get(setting.key())?;
        Some(Value { document: self.document, key: path(&self.key, setting.key()), node, setting })
    }

    /// Returns the value of an optional key.
    pub(in crate::config) fn get(&self, key: &'static str) -> Option<Value<'d>> {
        let setting = self.settings.iter().find(|setting| setting.key() == key);
        self.value(setting.expect("the readers ask for keys that have a row"))
    }

    /// Returns the value of a required key; a missing key is reported as a mistake.
    pub(in crate::config) fn require(&self, key: &'static str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            let row = self.settings.iter().find(|setting| setting.key() == key);
            let example = row.map(Setting::example_value).unwrap_or_default();
            let allowed = format!("write {key} = {example}");
            self.document.mistake(self.span.clone(), &path(&self.key, key), "is missing", allowed);
        }
        value
    }

    /// Reports that the table as a whole is wrong.
    pub(in crate::config) fn wrong(&self, what: &str, allowed: &str) {
        self.document.mistake(self.span.clone(), &self.key, what, allowed);
    }
}

/// A value of a document, and its place in it.
#[derive(Clone, Debug)]
pub(in crate::config) struct Value<'d> {
    document: &'d Document<'d>,
    key: String,
    node: &'d Spanned<DeValue<'d>>,
    setting: &'static Setting,
}

impl<'d> Value<'d> {
    /// Returns the row of the setting that this is a value of, or an element of it.
    pub(in crate::config) const fn setting(&self) -> &'static Setting {
        self.setting
    }

    /// Reports that this value is wrong.
    pub(in crate::config) fn wrong(&self, what: impl Into<String>, allowed: impl Into<String>) {
        self.document.mistake(self.node.span(), &self.key, what, allowed);
    }

    /// Reports that this value is allowed, but unlikely to be intended.
    pub(in crate::config) fn warn(&self, what: &str, advice: &str) {
        let line = self.document.line(self.node.span().start);
        let warning = Diagnostic::new(self.document.file, line, &self.key, what, advice);
        self.document.warnings.borrow_mut().push(warning);
    }

    /// Returns the value of a result, or reports its error as a mistake.
    pub(in crate::config) fn checked<T>(&self, result: Result<T, ParseError>) -> Option<T> {
        result.map_err(|ParseError { what, allowed }| self.wrong(what, allowed)).ok()
    }

    fn wrong_type(&self, allowed: &str) {
        self.document.wrong_type(self.node, &self.key, allowed);
    }

    /// Returns the table that this is, with the keys of `section`.
    pub(in crate::config) fn table(&self, section: &'static Section) -> Option<Table<'d>> {
        Table::new(self.document, self.key.clone(), self.node, section)
    }

    /// Returns the names and values of a table whose names are those of the user.
    pub(in crate::config) fn pairs(&self) -> Option<Vec<(&'d str, Self)>> {
        let Some(table) = self.node.get_ref().as_table() else {
            self.wrong_type(&self.setting.kind.accepted());
            return None;
        };
        let pair = |(name, node): (&'d Spanned<_>, &'d Spanned<_>)| {
            let name: &'d str = AsRef::<str>::as_ref(name.get_ref());
            (name, Self { key: path(&self.key, name), node, ..self.clone() })
        };
        Some(table.iter().map(pair).collect())
    }

    /// Returns the elements of a list; reports too long a one.
    pub(in crate::config) fn list(&self) -> Option<Vec<Self>> {
        let Some(array) = self.node.get_ref().as_array() else {
            self.wrong_type(&self.setting.kind.accepted());
            return None;
        };
        if let Kind::List { of, most } = self.setting.kind
            && array.len() > most
        {
            self.wrong(format!("has {} {of}", array.len()), format!("at most {most}"));
        }
        let element = |(index, node)| Self { key: format!("{}[{index}]", self.key), node, ..self.clone() };
        Some(array.iter().enumerate().map(element).collect())
    }

    /// Returns the text, which is any that the setting's kind describes.
    pub(in crate::config) fn text(&self) -> Option<&'d str> {
        self.text_of(&self.setting.kind.accepted())
    }

    /// Returns the text; `allowed` describes it in messages.
    pub(in crate::config) fn text_of(&self, allowed: &str) -> Option<&'d str> {
        let text = self.node.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(allowed);
        }
        text
    }

    /// Returns the text, if the value is text.
    pub(in crate::config) fn as_text(&self) -> Option<&'d str> {
        self.node.get_ref().as_str()
    }

    /// Returns the number if it is in the range of the setting.
    pub(in crate::config) fn number(&self) -> Option<u64> {
        match self.setting.kind {
            Kind::Number { of, least, most } => self.number_of(of, &(least..=most)),
            _ => self.number_of("a number", &(0..=u64::MAX)),
        }
    }

    /// Returns the number if it is within a range; `what` names it in messages.
    pub(in crate::config) fn number_of(&self, what: &str, range: &RangeInclusive<u64>) -> Option<u64> {
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

    /// Returns a switch: "on" or "off".
    pub(in crate::config) fn switch(&self) -> Option<bool> {
        let allowed = self.setting.kind.accepted();
        match self.text()? {
            "on" => Some(true),
            "off" => Some(false),
            word => {
                self.wrong(format!("`{word}` is neither"), allowed);
                None
            }
        }
    }

    /// Returns one of the words that the setting accepts.
    pub(in crate::config) fn word(&self) -> Option<&'d str> {
        let Kind::Word(words) = self.setting.kind else { return self.text() };
        let text = self.text()?;
        if words.contains(&text) {
            return Some(text);
        }
        self.wrong(format!("`{text}` is none of them"), self.setting.kind.accepted());
        None
    }

    /// Returns one of the words that the setting accepts, as the value that the flag has.
    pub(in crate::config) fn choice<T: clap::ValueEnum>(&self) -> Option<T> {
        T::from_str(self.word()?, false).map_err(|error| self.wrong(error, self.setting.kind.accepted())).ok()
    }

    /// Returns a number of bytes, or text such as "1GiB".
    pub(in crate::config) fn bytes(&self) -> Option<u64> {
        let allowed = self.setting.kind.accepted();
        let bytes = match self.as_text() {
            Some(text) => self.checked(text::bytes(text))?,
            None if self.node.get_ref().as_integer().is_some() => self.number_of("bytes", &(0..=u64::MAX))?,
            None => {
                self.wrong_type(&allowed);
                return None;
            }
        };
        if !self.setting.range().contains(&bytes) {
            let limits = self.setting.kind.limits().unwrap_or_default();
            let allowed = format!("{limits}, such as {}", self.setting.example_value());
            self.wrong(format!("{bytes} bytes are out of range"), allowed);
            return None;
        }
        Some(bytes)
    }

    /// Returns a time such as "10min".
    pub(in crate::config) fn time(&self) -> Option<Duration> {
        let allowed = self.setting.kind.accepted();
        let text = self.text()?;
        let Some(time) = humantime::parse_duration(text).ok().filter(|time| !time.is_zero()) else {
            let allowed = format!("write a time such as {}", self.setting.example_value());
            self.wrong(format!("`{text}` is not a time"), allowed);
            return None;
        };
        let Kind::Time { least, most, is_whole } = self.setting.kind else { return Some(time) };
        if time < least || time > most || is_whole && time.subsec_nanos() != 0 {
            let time = humantime::format_duration(time);
            self.wrong(format!("{time} is out of range"), format!("must be {allowed}"));
            return None;
        }
        Some(time)
    }

    /// Returns an absolute path.
    pub(in crate::config) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if !text.starts_with('/') || text.contains('\0') {
            self.wrong(
                format!("`{text}` is not an absolute path"),
                format!("a path from the root, such as {}", self.setting.example_value()),
            );
        }
        Some(text.into())
    }

    /// Returns permissions in octal, as `chmod` takes them.
    pub(in crate::config) fn permissions(&self) -> Option<u32> {
        let Kind::Permissions { least, most } = self.setting.kind else { return None };
        let text = self.text()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let what = match u32::from_str_radix(text, 8) {
            Ok(mode) if digits && mode & least == least && mode & !most == 0 => return Some(mode),
            Ok(mode) if digits && mode & least != least => format!("`{text}` denies the owner access"),
            Ok(mode) if digits && mode <= 0o7777 => {
                format!("`{text}` lets all users write, or has more than the permission bits")
            }
            _ => format!("`{text}` is not valid permissions"),
        };
        self.wrong(
            what,
            format!("from \"{least:04o}\" to \"{most:04o}\", such as {}", self.setting.example_value()),
        );
        None
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
