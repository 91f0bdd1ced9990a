//! Names of the files in a store. No other name is ever opened, created, renamed or deleted, wherever it
//! comes from: a listing of the directory, a line of the manifest, a copy in an object store.

use std::fmt;

use mirror_base::escaped;
use serde::{Deserialize, Serialize};

/// The name of the manifest.
pub(crate) const MANIFEST: &str = "manifest.jsonl";
/// The name of the list of holds.
pub(crate) const HOLDS: &str = "holds.json";

/// The largest number of a segment; the store would take millennia to reach it.
pub(super) const LARGEST_NUMBER: u64 = 999_999_999_999_999;
/// The largest number of a worker in a name.
const LARGEST_WORKER: u64 = 999_999;
/// Suffix of an unfinished segment.
const PARTIAL: &str = ".partial";
const DAMAGED: &str = ".damaged";
const INDEX: &str = ".idx";
/// Extensions of segments.
const EXTENSIONS: [&str; 3] = [".pcapng", ".pcapng.zst", ".pcapng.enc"];
/// Replaces a segment's time where it cannot be written.
const NO_TIME: &str = "unknown";

/// The name of a segment: `00000042-w0-20260301T080000Z.pcapng`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    // The number comes first, so that segments are sorted by it.
    number: u64,
    text: String,
}

/// A text that is not the name of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not the name of a segment", shown(.0))]
pub struct NoSegment(String);

impl SegmentName {
    /// Returns the name of the segment `number` of a worker, with the time `stamp` of its first packet.
    pub(super) fn new(number: u64, worker: usize, stamp: Option<String>, extension: &str) -> Option<Self> {
        let stamp = stamp.unwrap_or_else(|| NO_TIME.to_owned());
        Self::parse(&format!("{number:08}-w{worker}-{stamp}{extension}"))
    }

    /// Parses a name of exactly the form that [`SegmentName::new`] creates.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, rest) = text.split_once("-w")?;
        let (worker, rest) = rest.split_once('-')?;
        let (stamp, extension) = rest.split_at_checked(rest.find('.')?)?;
        let number = canonical(number, 8).filter(|&number| number <= LARGEST_NUMBER)?;
        canonical(worker, 1).filter(|&worker| worker <= LARGEST_WORKER)?;
        let known = EXTENSIONS.contains(&extension) && is_stamp(stamp);
        known.then(|| Self { number, text: text.to_owned() })
    }

    /// Returns the segment's number, which is unique in the store.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Returns whether the segment is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.text.rsplit_once('.').is_some_and(|(_, end)| end == "enc")
    }

    /// Returns the name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Parses a decimal number, provided that it is written as the store writes it.
fn canonical(digits: &str, width: usize) -> Option<u64> {
    let number = digits.parse().ok()?;
    (format!("{number:0width$}") == digits).then_some(number)
}

/// Returns whether a text is a time in the format of names.
fn is_stamp(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    text == NO_TIME || text.len() == 16 && text.bytes().enumerate().all(fits)
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for SegmentName {
    type Error = NoSegment;

    fn try_from(text: String) -> Result<Self, NoSegment> {
        Self::parse(&text).ok_or(NoSegment(text))
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.text
    }
}

/// The name of a file of a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileName {
    /// The manifest: a record of all that was written, uploaded, deleted and lost.
    Manifest,
    /// The lock, which the process that writes holds.
    Lock,
    /// The holds, which exempt segments from deletion.
    Holds,
    /// The holds that are about to replace the present ones.
    NewHolds,
    /// A segment.
    Segment(SegmentName),
    /// A segment's index.
    Index(SegmentName),
    /// An unfinished segment.
    Partial(SegmentName),
    /// A segment that was left unfinished and cannot be read.
    Damaged(SegmentName),
}

impl FileName {
    /// Parses the name of a file that the store may have created; returns `None` for all others.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let fixed = [Self::Manifest, Self::Lock, Self::Holds, Self::NewHolds];
        if let Some(found) = fixed.into_iter().find(|fixed| fixed.fixed() == Some(name)) {
            return Some(found);
        }
        let of = |end| SegmentName::parse(name.strip_suffix(end)?);
        let partial = of(PARTIAL).map(Self::Partial);
        partial
            .or_else(|| of(DAMAGED).map(Self::Damaged))
            .or_else(|| of(INDEX).map(Self::Index))
            .or_else(|| of("").map(Self::Segment))
    }

    const fn fixed(&self) -> Option<&'static str> {
        match self {
            Self::Manifest => Some(MANIFEST),
            Self::Lock => Some("lock"),
            Self::Holds => Some(HOLDS),
            Self::NewHolds => Some("holds.json.new"),
            Self::Segment(_) | Self::Index(_) | Self::Partial(_) | Self::Damaged(_) => None,
        }
    }

    /// Returns the segment to which the file belongs.
    pub(super) const fn segment(&self) -> Option<&SegmentName> {
        match self {
            Self::Segment(name) | Self::Index(name) | Self::Partial(name) | Self::Damaged(name) => Some(name),
            Self::Manifest | Self::Lock | Self::Holds | Self::NewHolds => None,
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self {
            Self::Index(_) => INDEX,
            Self::Partial(_) => PARTIAL,
            Self::Damaged(_) => DAMAGED,
            _ => "",
        };
        let name = self.segment().map(SegmentName::as_str).or(self.fixed()).unwrap_or_default();
        write!(f, "{name}{end}")
    }
}

/// Formats a name from elsewhere for messages: short, with control characters escaped.
pub(super) fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let mut text = "`".to_owned();
    let end = if name.chars().nth(MOST).is_some() { "…`" } else { "`" };
    text += &escaped(&name.chars().take(MOST).collect::<String>());
    text + end
}

/// Returns whether a name has the form of a segment's name, but a number larger than any segment's.
pub(super) fn has_absurd_number(name: &str) -> bool {
    let Some((number, rest)) = name.split_once('-') else { return false };
    let is_number = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number
        && rest.starts_with('w')
        && rest.contains(".pcapng")
        // Digits that do not parse as `u64` are a number that is too large.
        && !number.parse().is_ok_and(|number: u64| number <= LARGEST_NUMBER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "00000042-w0-20260301T080000Z.pcapng";

    #[test]
    fn names_are_taken_as_they_are_made() {
        for extension in EXTENSIONS {
            for (number, worker) in [(0, 0), (42, 3), (99_999_999, 17), (123_456_789, 1), (LARGEST_NUMBER, 9)]
            {
                for stamp in [None, Some("20260301T080000Z".to_owned())] {
                    let made = SegmentName::new(number, worker, stamp, extension).unwrap();
                    assert_eq!(
                        (made.number(), SegmentName::parse(made.as_str())),
                        (number, Some(made.clone()))
                    );
                    for of in [FileName::Segment, FileName::Index, FileName::Partial, FileName::Damaged] {
                        let name = of(made.clone());
                        assert_eq!(FileName::parse(&name.to_string()), Some(name));
                    }
                }
            }
        }
        for name in [FileName::Manifest, FileName::Lock, FileName::Holds, FileName::NewHolds] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(SegmentName::new(LARGEST_NUMBER + 1, 0, None, ".pcapng"), None);
    }

    #[test]
    fn hostile_names_are_not_taken() {
        let names = [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../outside",
            "a/../../outside",
            "lock/",
            "./lock",
            "lock\0",
            "Lock",
            "manifest.jsonl.idx",
            "manifest.jsonl/../../x",
            "holds.json.partial",
            "notes",
            // Segments with a wrong number, worker, time or end.
            "42-w0-20260301T080000Z.pcapng",
            "000000042-w0-20260301T080000Z.pcapng",
            "+0000042-w0-20260301T080000Z.pcapng",
            "-0000042-w0-20260301T080000Z.pcapng",
            "0000004a-w0-20260301T080000Z.pcapng",
            "-w0-20260301T080000Z.pcapng",
            "18446744073709551615-w0-20260301T080000Z.pcapng",
            "18446744073709551616-w0-20260301T080000Z.pcapng",
            "1000000000000000-w0-20260301T080000Z.pcapng",
            "00000042-w-20260301T080000Z.pcapng",
            "00000042-w00-20260301T080000Z.pcapng",
            "00000042-w+1-20260301T080000Z.pcapng",
            "00000042-w1000000-20260301T080000Z.pcapng",
            "00000042-w0-20260301T080000.pcapng",
            "00000042-w0-2026-301T080000Z.pcapng",
            "00000042-w0-../../../../x.pcapng",
            "00000042-w0-.pcapng",
            "00000042-w0-20260301T080000Z",
            "00000042-w0-20260301T080000Z.pcap",
            "00000042-w0-20260301T080000Z.pcapng.gz",
            "00000042-w0-20260301T080000Z.pcapng/..",
            "00000042-w0-20260301T080000Z.pcapng\n",
            "00000042-w0-20260301T080000Z.pcapng.partial.partial",
            "00000042-w0-20260301T080000Z.pcapng.idx.idx",
            "00000042-w0-20260301T080000Z.pcapng.idx.partial",
            "x/00000042-w0-20260301T080000Z.pcapng",
            "00000042-w0-20260301T080000Z.pcapng.partial ",
        ];
        for name in names {
            assert_eq!(FileName::parse(name), None, "{name:?}");
        }
        assert_eq!(FileName::parse(&format!("{NAME}{}", "x".repeat(1000))), None);
        for end in ["lock", NAME] {
            for prefix in ["/", "../", "./", "x/", "\0", " "] {
                assert_eq!(FileName::parse(&format!("{prefix}{end}")), None);
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_texts_are_names_only_where_the_store_writes_them_so(
            text in "[0-9./\\PC]{0,20}|[0-9+]{7,20}-w[0-9+]{1,3}-[0-9TZunkow]{14,17}[.a-z/]{0,20}"
        ) {
            if let Some(name) = FileName::parse(&text) {
                prop_assert_eq!(name.to_string(), &text[..]);
                prop_assert!(!text.contains(['/', '\0']) && !text.starts_with('.'));
            }
        }
    }

    #[test]
    fn hostile_numbers_are_told_from_names_that_are_not_of_the_store() {
        for number in ["18446744073709551615", "99999999999999999999999", "1000000000000000"] {
            assert!(has_absurd_number(&format!("{number}-w0-20260301T080000Z.pcapng")), "{number}");
        }
        assert!(!has_absurd_number(NAME) && !has_absurd_number("notes") && !has_absurd_number("00000042-x"));
    }

    #[test]
    fn hostile_names_are_shown_short_and_without_control_characters() {
        assert_eq!(shown("a\x1b[2Jb\n"), "`a\\u{1b}[2Jb\\n`");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 83);
    }
}
