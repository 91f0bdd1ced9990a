//! The table of all settings: each has one row, with its key, type, range, default, flag, documentation and
//! example.
//!
//! The reader of the configuration file, the flags, `config show`, the set of keys that a reload may change,
//! the commented example and `docs/configuration.md` all come from the rows in `table`. To add a setting, add
//! a row and a field in [`Config`], and run `cargo xtask generate`.

pub(super) mod document;
pub mod render;
pub(super) mod sections;
mod signatures;
mod table;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value as Json;

use self::document::Value;
use self::sections::Reader;
use super::Config;

pub use self::table::{MAX_SOCKETS, SECTIONS};

/// A table of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The path of the table, such as `store.ages`.
    pub name: &'static str,
    /// The table may be repeated; its header has two brackets.
    pub is_list: bool,
    /// The purpose of the table.
    pub text: &'static str,
    /// The keys of the table.
    pub settings: &'static [Setting],
    /// TOML that follows the table in the example.
    pub more: &'static str,
}

impl Section {
    /// Returns the setting with this key.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.key() == key)
    }

    /// Returns the keys.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().map(Setting::key)
    }

    /// Returns whether this table is at the top of the file.
    #[must_use]
    pub fn is_top(&self) -> bool {
        !self.name.contains('.')
    }
}

/// A key of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The path of the key, such as `receive.ring`.
    pub path: &'static str,
    /// The accepted values.
    pub kind: Kind,
    /// The value in force if the key is absent.
    pub default: Default,
    /// The flag of `mirror-xdp run` that overrides the key.
    pub flag: Option<&'static str>,
    /// A reload can change the setting.
    pub is_live: bool,
    /// The example names a file that the user has to create first.
    pub needs_file: bool,
    /// The effect, in sentences. Also the help of the flag.
    pub text: &'static str,
    /// More about the values and the limits, in sentences.
    pub more: &'static str,
    example: Example,
    access: Option<Access>,
}

/// A value of a setting, in TOML.
#[derive(Clone, Copy, Debug)]
enum Example {
    /// Text; empty for arrays of tables, which have a section of their own.
    Text(&'static str),
    /// Texts of this list, which grows elsewhere.
    Names(fn() -> Vec<&'static str>),
}

/// The functions that connect a key with its field in [`Config`].
#[derive(Clone, Copy, Debug)]
struct Access {
    read: for<'d> fn(&mut Reader<'d>, &Value<'d>),
    show: fn(&Config) -> Json,
}

/// The value in force if a key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// A value, in TOML.
    Is(&'static str),
    /// An effect that no value has, in words.
    Absent(&'static str),
    /// None: the key is required.
    Required,
}

/// The accepted values of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `"on"` or `"off"`.
    Switch,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A number in a range.
    Number {
        /// Names the number in messages, such as "a power of two".
        of: &'static str,
        /// The least number.
        least: u64,
        /// The greatest number.
        most: u64,
    },
    /// A number of bytes, or a text with a unit, such as `"1MiB"`.
    Bytes {
        /// The least number.
        least: u64,
        /// The greatest number; `u64::MAX` if there is no limit.
        most: u64,
    },
    /// A time, such as `"10min"`.
    Time {
        /// The shortest time.
        least: Duration,
        /// The longest time; `Duration::MAX` if there is no limit.
        most: Duration,
        /// The time has no fraction of a second.
        is_whole: bool,
    },
    /// Permissions in octal digits, as `chmod` takes them.
    Permissions {
        /// The permissions that are required.
        least: u32,
        /// The permissions that are allowed.
        most: u32,
    },
    /// An absolute path.
    Path,
    /// A list.
    List {
        /// Names the elements in messages.
        of: &'static str,
        /// The greatest number of elements; `usize::MAX` if there is no limit.
        most: usize,
    },
    /// Values that a reader of their own checks, in words.
    Other(&'static str),
}

impl Kind {
    /// A time of any length above zero.
    pub const TIME: Self =
        Self::Time { least: Duration::from_nanos(1), most: Duration::MAX, is_whole: false };

    /// A number of bytes, from `least` on.
    #[must_use]
    pub const fn bytes(least: u64) -> Self {
        Self::Bytes { least, most: u64::MAX }
    }

    /// A time of whole seconds, at most `most` of them.
    #[must_use]
    pub const fn seconds(most: u64) -> Self {
        Self::Time { least: Duration::from_secs(1), most: Duration::from_secs(most), is_whole: true }
    }

    /// Describes the accepted values.
    #[must_use]
    pub fn accepted(&self) -> String {
        match *self {
            Self::Switch => "\"on\" or \"off\"".to_owned(),
            Self::Word(words) => listed(words),
            Self::Number { of, least, most } => format!("{of} from {least} to {most}"),
            Self::Bytes { .. } | Self::Time { .. } => {
                let of = match self {
                    Self::Bytes { .. } => "a number of bytes, or such as \"1MiB\"",
                    Self::Time { is_whole: true, .. } => "a time of whole seconds, such as \"10min\"",
                    _ => "a time such as \"10min\" or \"30days\"",
                };
                self.limits().map_or_else(|| of.to_owned(), |limits| format!("{of}, {limits}"))
            }
            Self::Permissions { .. } => "permissions as octal digits, such as \"0640\"".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::List { of, most: usize::MAX } => format!("a list of {of}"),
            Self::List { of, most } => format!("a list of at most {most} {of}"),
            Self::Other(words) => words.to_owned(),
        }
    }

    /// Describes the limits of the values, if there are any, such as "from 1 to 64".
    #[must_use]
    pub fn limits(&self) -> Option<String> {
        match *self {
            Self::Number { least, most, .. } => Some(format!("from {least} to {most}")),
            Self::Bytes { least: 0, most: u64::MAX } => None,
            Self::Bytes { least, most: u64::MAX } => Some(format!("at least {}", with_unit(least))),
            Self::Bytes { least, most } => Some(format!("from {} to {}", with_unit(least), with_unit(most))),
            Self::Time { least, most, .. } => {
                let time = humantime::format_duration;
                match (least >= Duration::from_secs(1), most < Duration::MAX) {
                    (false, false) => None,
                    (true, false) => Some(format!("at least {}", time(least))),
                    (_, true) => Some(format!("from {} to {}", time(least), time(most))),
                }
            }
            Self::List { of, most } if most < usize::MAX => Some(format!("at most {most} {of}")),
            _ => None,
        }
    }
}

/// Formats words as TOML texts: `"a", "b" or "c"`.
fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match &quoted[..] {
        [] => String::new(),
        [word] => word.clone(),
        [words @ .., last] => format!("{} or {last}", words.join(", ")),
    }
}

/// Formats a number of bytes with the greatest unit that divides it.
fn with_unit(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

impl Setting {
    /// Returns a row without flag, that takes a restart to change.
    const fn new(path: &'static str, kind: Kind, default: Default) -> Self {
        Self {
            path,
            kind,
            default,
            flag: None,
            is_live: false,
            needs_file: false,
            text: "",
            more: "",
            example: Example::Text(""),
            access: None,
        }
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn live(mut self) -> Self {
        self.is_live = true;
        self
    }

    const fn needs_file(mut self) -> Self {
        self.needs_file = true;
        self
    }

    const fn text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    const fn example(mut self, example: &'static str) -> Self {
        self.example = Example::Text(example);
        self
    }

    const fn example_of(mut self, names: fn() -> Vec<&'static str>) -> Self {
        self.example = Example::Names(names);
        self
    }

    const fn access(
        mut self,
        read: for<'d> fn(&mut Reader<'d>, &Value<'d>),
        show: fn(&Config) -> Json,
    ) -> Self {
        self.access = Some(Access { read, show });
        self
    }

    /// Returns the key in its section, such as `ring`.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, key)| key)
    }

    /// Returns a value, in TOML; empty for arrays of tables, which have a section of their own.
    #[must_use]
    pub fn example_value(&self) -> String {
        match self.example {
            Example::Text(text) => text.to_owned(),
            Example::Names(names) => {
                let quoted: Vec<_> = names().iter().map(|name| format!("\"{name}\"")).collect();
                format!("[{}]", quoted.join(", "))
            }
        }
    }

    /// Returns the value in force with a configuration; `None` for keys of repeated tables.
    #[must_use]
    pub fn value(&self, config: &Config) -> Option<Json> {
        self.access.map(|access| (access.show)(config))
    }

    /// Stores a value of the file.
    pub(super) fn read<'d>(&self, reader: &mut Reader<'d>, value: &Value<'d>) {
        if let Some(access) = self.access {
            (access.read)(reader, value);
        }
    }

    /// Returns the help of the flag: the effect and the default.
    #[must_use]
    pub fn help(&self) -> String {
        let text = self.text.trim_end_matches('.');
        match self.default {
            Default::Is("[]") => format!("{text} [default: none]"),
            Default::Is(value) => format!("{text} [default: {}]", value.trim_matches(['"', '[', ']'])),
            Default::Absent(words) => format!("{text} [default: {words}]"),
            Default::Required => text.to_owned(),
        }
    }

    /// Returns the range of a number or of bytes; of another kind, all numbers.
    #[must_use]
    pub const fn range(&self) -> RangeInclusive<u64> {
        match self.kind {
            Kind::Number { least, most, .. } | Kind::Bytes { least, most } => least..=most,
            _ => 0..=u64::MAX,
        }
    }
}

/// Returns all settings of the sections that are not repeated, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings).filter(|setting| setting.access.is_some())
}

/// Returns the setting of this path, such as `receive.ring`.
#[must_use]
pub fn get(path: &str) -> Option<&'static Setting> {
    let (section, key) = path.rsplit_once('.')?;
    self::section(section)?.setting(key)
}

/// Returns the section of this path, such as `store.ages`.
#[must_use]
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// Returns whether a reload can change a setting; all of an array of tables is one setting.
#[must_use]
pub fn is_live(path: &str) -> bool {
    get(path).is_some_and(|setting| setting.is_live)
}
