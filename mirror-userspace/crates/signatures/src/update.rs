//! Prepares downloaded rules as `suricata-update` does: `enable.conf` and `disable.conf` choose rules, `modify.conf` edits
//! them. Its files are read as they are; what is not understood is named.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use fancy_regex::{Captures, Regex, RegexBuilder};
use glob::Pattern;

use crate::diagnostic::{Place, Refusal, shown};
use crate::limits;
use crate::number::unsigned;
use crate::parse::source::{SourceRule, rules};
use crate::rule::RuleId;

/// The rules that a line of a file selects.
#[derive(Debug)]
enum Selection {
    /// `*`.
    All,
    /// `2019401`, `1:2019401`, or a list of them: group and number.
    Numbers(HashSet<(u32, u32)>),
    /// `re:`: an expression that the text of the rule contains, whatever the case.
    Text(Box<Regex>),
    /// `group:` and `filename:`: the name of the file, with or without `.rules`, or its path.
    File(Pattern),
    /// `metadata:`: a key and a value.
    Metadata(String, String),
}

/// A change of the text of a rule.
#[derive(Debug)]
enum Edit {
    /// Replaces each match.
    Replace(Box<Regex>, Replacement),
    /// `metadata-add`: a key and a value.
    Metadata(String, String),
}

/// The text in place of a match, with the numbers of groups in it.
#[derive(Debug)]
struct Replacement(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Group(usize),
}

/// The files that choose and edit rules.
#[derive(Debug, Default)]
pub struct Changes {
    disable: Vec<Selection>,
    enable: Vec<Selection>,
    modify: Vec<(Selection, Edit)>,
}

/// The number of rules by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rules of all files, each number once.
    pub rules: usize,
    /// Those that are enabled in the end.
    pub enabled: usize,
    /// Those that `enable.conf` enabled.
    pub newly_enabled: usize,
    /// Those that `disable.conf` disabled.
    pub newly_disabled: usize,
    /// Those that `modify.conf` changed.
    pub modified: usize,
    /// Rules with the number of another one, of which the later revision is kept.
    pub duplicates: usize,
}

impl Changes {
    /// Adds the lines of a `disable.conf`. Names what it refuses.
    pub fn disable(&mut self, text: &[u8]) -> Vec<Refusal> {
        lines(text, "disable.conf", &mut self.disable, selection)
    }

    /// Adds the lines of an `enable.conf`. Names what it refuses.
    pub fn enable(&mut self, text: &[u8]) -> Vec<Refusal> {
        lines(text, "enable.conf", &mut self.enable, selection)
    }

    /// Adds the lines of a `modify.conf`. Names what it refuses.
    pub fn modify(&mut self, text: &[u8]) -> Vec<Refusal> {
        lines(text, "modify.conf", &mut self.modify, modification)
    }

    /// Joins the rules of files into the text of one: of each number the later revision, chosen and edited. Disabled
    /// rules stay, behind a `#`.
    ///
    /// ```
    /// use std::path::PathBuf;
    ///
    /// use mirror_signatures::update::Changes;
    ///
    /// let mut changes = Changes::default();
    /// assert!(changes.disable(b"re:telnet\n").is_empty());
    /// assert!(changes.modify(b"2 \"any 22\" \"any [22,2222]\"\n").is_empty());
    /// let text = b"alert tcp any any -> any 23 (msg:\"Telnet\"; sid:1;)\nalert tcp any any -> any 22 (sid:2;)\n";
    /// let (joined, counts) = changes.apply(&[(PathBuf::from("local.rules"), text.to_vec())]);
    /// let expected = "# alert tcp any any -> any 23 (msg:\"Telnet\"; sid:1;)\n\
    ///                 alert tcp any any -> any [22,2222] (sid:2;)\n";
    /// assert_eq!(String::from_utf8_lossy(&joined), expected);
    /// assert_eq!((counts.enabled, counts.newly_disabled, counts.modified), (1, 1, 1));
    /// ```
    #[must_use]
    pub fn apply(&self, files: &[(PathBuf, Vec<u8>)]) -> (Vec<u8>, Counts) {
        let mut counts = Counts::default();
        let mut out = Vec::new();
        for (path, mut rule) in unique(files, &mut counts) {
            counts.rules += 1;
            let was_enabled = rule.is_enabled;
            if self.disable.iter().any(|selection| selection.matches(&rule, path)) {
                rule.is_enabled = false;
                counts.newly_disabled += usize::from(was_enabled);
            }
            if self.enable.iter().any(|selection| selection.matches(&rule, path)) {
                counts.newly_disabled -= usize::from(was_enabled && !rule.is_enabled);
                rule.is_enabled = true;
                counts.newly_enabled += usize::from(!was_enabled);
            }
            let mut is_modified = false;
            for (selection, edit) in &self.modify {
                if selection.matches(&rule, path)
                    && let Some(text) = edit.apply(&rule)
                {
                    is_modified = true;
                    rule.text = text.into_bytes().into();
                }
            }
            counts.modified += usize::from(is_modified);
            counts.enabled += usize::from(rule.is_enabled);
            if !rule.is_enabled {
                out.extend_from_slice(b"# ");
            }
            out.extend_from_slice(&rule.text);
            out.push(b'\n');
        }
        (out, counts)
    }
}

/// Returns the rules of files, of each number the later revision; of equal revisions, the first that is enabled.
fn unique<'f>(files: &'f [(PathBuf, Vec<u8>)], counts: &mut Counts) -> Vec<(&'f Path, SourceRule<'f>)> {
    let mut all: Vec<(&Path, SourceRule<'_>)> = Vec::new();
    let mut places: HashMap<(u32, u32), usize> = HashMap::new();
    for (path, text) in files {
        for rule in rules(text) {
            let key = (rule.id.gid, rule.id.sid);
            let Some(known) = places.get(&key).and_then(|place| all.get_mut(*place)) else {
                places.insert(key, all.len());
                all.push((path, rule));
                continue;
            };
            counts.duplicates += 1;
            if (rule.id.rev, rule.is_enabled) > (known.1.id.rev, known.1.is_enabled) {
                *known = (path, rule);
            }
        }
    }
    all
}

/// Reads lines, without comments and empty ones.
fn lines<T>(
    text: &[u8],
    file: &str,
    all: &mut Vec<T>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<Refusal> {
    let mut refused = Vec::new();
    for (place, line) in crate::config::lines(text) {
        let Place { line: number, column } = place;
        let text = String::from_utf8_lossy(&line);
        match read(text.trim()) {
            Ok(value) => all.push(value),
            Err(reason) => {
                refused.push(Refusal { line: number, column, sid: None, keyword: file.to_owned(), reason });
            }
        }
    }
    refused
}

fn selection(text: &str) -> Result<Selection, String> {
    let after = |prefix: &str| text.strip_prefix(prefix).map(|rest| rest.trim().trim_matches('"'));
    if text == "*" {
        return Ok(Selection::All);
    }
    if let Some(expression) = after("re:") {
        return regex(expression, true).map(Selection::Text);
    }
    if let Some(name) = after("group:").or_else(|| after("filename:")) {
        return Pattern::new(name).map(Selection::File).map_err(|error| format!("`{name}`: {error}"));
    }
    if let Some(pair) = after("metadata:") {
        let (key, value) =
            pair.split_once(char::is_whitespace).ok_or_else(|| "write `metadata: key value`".to_owned())?;
        return Ok(Selection::Metadata(key.to_lowercase(), value.trim().to_lowercase()));
    }
    let number = |text: &str| {
        let number = unsigned(text.as_bytes(), u64::from(u32::MAX));
        number.map(|number| number as u32).map_err(|_| {
            format!(
                "{} selects no rules; use a number, re:, group:, filename: or metadata:",
                shown(text.as_bytes())
            )
        })
    };
    let numbers = text.split(',').map(|id| match id.trim().split_once(':') {
        Some((gid, sid)) => Ok((number(gid)?, number(sid)?)),
        None => Ok((1, number(id)?)),
    });
    numbers.collect::<Result<_, String>>().map(Selection::Numbers)
}

/// Reads a line of `modify.conf`: a selection, and what is replaced by what; or `metadata-add`, a selection, a key and a
/// value. The lines of Oinkmaster (`modifysid 1 "a" | "b"`) have the same meaning.
fn modification(text: &str) -> Result<(Selection, Edit), String> {
    const FORM: &str = "write `SELECTION \"from\" \"to\"`";
    let (is_metadata, rest) = match text.strip_prefix("metadata-add") {
        Some(rest) => (true, rest.trim()),
        None => (false, text.strip_prefix("modifysid").unwrap_or(text).trim()),
    };
    let (head, to) = last_quoted(rest).ok_or(FORM)?;
    let head = head.trim_end().trim_end_matches('|');
    let (selected, from) = last_quoted(head).ok_or(FORM)?;
    let selection = selection(selected.trim())?;
    let edit = if is_metadata {
        Edit::Metadata(from.to_owned(), to.to_owned())
    } else {
        Edit::Replace(regex(from, false)?, Replacement::parse(to))
    };
    Ok((selection, edit))
}

/// Returns the quoted text at the end, and what is in front of it.
fn last_quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_end().strip_suffix('"')?;
    // A quote behind a backslash does not begin the text.
    let open = inner.match_indices('"').rev().map(|(at, _)| at).find(|at| !inner[..*at].ends_with('\\'))?;
    Some((&inner[..open], &inner[open + 1..]))
}

fn regex(text: &str, any_case: bool) -> Result<Box<Regex>, String> {
    let built = RegexBuilder::new(text)
        .case_insensitive(any_case)
        .backtrack_limit(limits::BACKTRACKS)
        .delegate_size_limit(limits::EXPRESSION)
        .build();
    built.map(Box::new).map_err(|error| format!("{}: {error}", shown(text.as_bytes())))
}

impl Selection {
    fn matches(&self, rule: &SourceRule<'_>, path: &Path) -> bool {
        match self {
            Self::All => true,
            Self::Numbers(numbers) => numbers.contains(&(rule.id.gid, rule.id.sid)),
            // An expression that takes too many steps selects nothing.
            Self::Text(regex) => regex.is_match(&*String::from_utf8_lossy(&rule.text)).unwrap_or(false),
            Self::File(pattern) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                pattern.matches_path(path)
                    || pattern.matches(&name)
                    || pattern.matches(name.trim_end_matches(".rules"))
            }
            Self::Metadata(key, value) => {
                rule.metadata().any(|(k, v)| k.eq_ignore_ascii_case(key) && v.eq_ignore_ascii_case(value))
            }
        }
    }
}

impl Edit {
    /// Returns the new text, if it differs.
    fn apply(&self, rule: &SourceRule<'_>) -> Option<String> {
        let text = String::from_utf8_lossy(&rule.text);
        let new = match self {
            Self::Replace(regex, replacement) => {
                // As above: an expression that takes too many steps changes nothing.
                let replaced =
                    regex.try_replacen(&text, 0, |captures: &Captures<'_, str>| replacement.expand(captures));
                replaced.ok()?.into_owned()
            }
            Self::Metadata(key, value) => {
                let end = text.trim_end().strip_suffix(')')?;
                format!("{end} metadata:{key} {value};)")
            }
        };
        (new != text).then_some(new)
    }
}

impl Replacement {
    /// Parses a replacement: `\1`, `\\1` and `${1}` are groups.
    fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
            let reference = if let Some(inner) = rest.strip_prefix("${") {
                let count = digits(inner);
                inner.get(count..).is_some_and(|end| end.starts_with('}')).then_some((2, count, 1))
            } else {
                let slashes = rest.chars().take(2).take_while(|c| *c == '\\').count();
                (slashes > 0).then(|| (slashes, digits(&rest[slashes..]).min(2), 0))
            };
            if let Some((before, count, after)) = reference.filter(|(_, count, _)| *count > 0) {
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Group(rest[before..before + count].parse().unwrap_or(usize::MAX)));
                rest = &rest[before + count + after..];
            } else {
                // A backslash keeps a quote from ending the text.
                if !(first == '\\' && rest[1..].starts_with('"')) {
                    plain.push(first);
                }
                rest = &rest[first.len_utf8()..];
            }
        }
        parts.push(Part::Text(plain));
        Self(parts)
    }

    fn expand(&self, captures: &Captures<'_, str>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Group(number) => {
                captures.get(*number).map_or_else(String::new, |group| group.as_str().to_owned())
            }
        };
        self.0.iter().map(part).collect()
    }
}

/// A rule that two sets have in different texts, or that only one of them has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The rule in the old set.
    pub before: Option<(RuleId, String)>,
    /// The rule in the new one.
    pub after: Option<(RuleId, String)>,
}

/// Compares the enabled rules of two sets by their numbers. Spaces do not count. Sorted by number.
#[must_use]
pub fn difference(old: &[(PathBuf, Vec<u8>)], new: &[(PathBuf, Vec<u8>)]) -> Vec<Difference> {
    let enabled = |files| {
        let rules = unique(files, &mut Counts::default());
        let enabled = rules.into_iter().filter(|(_, rule)| rule.is_enabled);
        enabled.map(|(_, rule)| ((rule.id.gid, rule.id.sid), rule)).collect::<HashMap<_, _>>()
    };
    let (old, new) = (enabled(old), enabled(new));
    let named = |rule: Option<&SourceRule<'_>>| rule.map(|rule| (rule.id, rule.message.clone()));
    let mut numbers: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let plain = |rule: &SourceRule<'_>| -> Vec<u8> {
        rule.text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect()
    };
    numbers
        .into_iter()
        .filter_map(|number| {
            let (before, after) = (old.get(&number), new.get(&number));
            let is_same = before.zip(after).is_some_and(|(before, after)| plain(before) == plain(after));
            (!is_same).then(|| Difference { before: named(before), after: named(after) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, text: &str) -> (PathBuf, Vec<u8>) {
        (name.into(), text.as_bytes().to_vec())
    }

    fn rule(sid: u32, rev: u32, more: &str) -> String {
        format!("alert tcp any any -> any any (msg:\"number {sid}\"; {more} sid:{sid}; rev:{rev};)\n")
    }

    fn applied(changes: &Changes, files: &[(PathBuf, Vec<u8>)]) -> (String, Counts) {
        let (text, counts) = changes.apply(files);
        (String::from_utf8(text).unwrap(), counts)
    }

    #[test]
    fn rules_are_chosen_by_number_text_file_and_metadata() {
        let files = [
            file("rules/emerging-dos.rules", &(rule(1, 1, "") + &rule(2, 1, ""))),
            file(
                "rules/other.rules",
                &(rule(3, 1, "metadata:deployment Perimeter;") + &rule(4, 1, "content:\"Evil\";")),
            ),
            file("rules/gid.rules", &rule(5, 1, "gid:3;")),
        ];
        let disabled = |line: &str| {
            let mut changes = Changes::default();
            assert_eq!(changes.disable(line.as_bytes()), [], "{line}");
            let (text, counts) = applied(&changes, &files);
            assert_eq!(counts.enabled + counts.newly_disabled, 5);
            let numbers = rules(text.as_bytes()).filter(|rule| !rule.is_enabled).map(|rule| rule.id.sid);
            numbers.collect::<Vec<_>>()
        };
        for (line, expected) in [
            ("1\n# 2\n1:3", &[1, 3][..]),
            ("1, 2, 3:5", &[1, 2, 5]),
            ("5", &[]),
            ("re:content.*evil", &[4]),
            ("group:emerging-dos", &[1, 2]),
            ("group:emerging-dos.rules", &[1, 2]),
            ("group:*dos*", &[1, 2]),
            ("filename:*/other.rules", &[3, 4]),
            ("metadata: deployment perimeter", &[3]),
            ("*", &[1, 2, 3, 4, 5]),
        ] {
            assert_eq!(disabled(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_enabled_stays_so_although_it_is_disabled_too() {
        let mut changes = Changes::default();
        changes.disable(b"*\n");
        changes.enable(b"1\n2\n");
        let files = [file("a.rules", &(rule(1, 1, "") + "#" + &rule(2, 1, "") + &rule(3, 1, "")))];
        let (text, counts) = applied(&changes, &files);
        let enabled: Vec<_> = rules(text.as_bytes()).map(|rule| rule.is_enabled).collect();
        assert_eq!(enabled, [true, true, false]);
        assert_eq!((counts.newly_enabled, counts.newly_disabled), (1, 1));
    }

    #[test]
    fn rules_are_edited() {
        let edited = |line: &str| {
            let mut changes = Changes::default();
            assert_eq!(changes.modify(line.as_bytes()), [], "{line}");
            let files = [file("a.rules", &rule(1, 1, "threshold:type limit, seconds 60;"))];
            applied(&changes, &files).0
        };
        for (line, expected) in [
            (r#"1 "seconds \d+" "seconds 3600""#, "seconds 3600;"),
            (r#"re:LIMIT "^alert" "drop""#, "drop tcp"),
            (r#"re:limit "(alert)(.*)" "drop\\2""#, "drop tcp any any -> any any (msg"),
            (
                r#"modifysid * "^alert(.*)limit(.*)" | "pass${1}both${2}""#,
                "pass tcp any any -> any any (msg:\"number 1\"; threshold:type both, seconds 60;",
            ),
            (r#"* "msg:\"number" "msg:\"the number""#, "(msg:\"the number 1\";"),
            (r#"metadata-add re:"number 1" "own" "yes""#, "rev:1; metadata:own yes;)"),
            (r#"2 "tcp" "udp""#, "alert tcp"),
        ] {
            let text = edited(line);
            assert!(text.contains(expected), "{line}: {text}");
        }
    }

    #[test]
    fn lines_that_are_not_understood_are_named() {
        let mut changes = Changes::default();
        let refused = changes.disable(b"1\nnonsense\nre:(\ngroup:[\nmetadata:x\n");
        assert_eq!(refused.iter().map(|refusal| refusal.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        let refused = changes.modify(b"1 \"a\"\n1 a b\n1 \"(\" \"b\"\n");
        assert_eq!(refused.iter().map(|refusal| refusal.line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn the_later_revision_of_a_rule_is_kept() {
        let files = [
            file("a.rules", &(rule(1, 2, "") + "#" + &rule(2, 1, ""))),
            file("b.rules", &(rule(1, 1, "") + &rule(2, 1, ""))),
        ];
        let (text, counts) = applied(&Changes::default(), &files);
        assert_eq!(text, rule(1, 2, "") + &rule(2, 1, ""));
        assert_eq!((counts.rules, counts.duplicates), (2, 2));
    }

    #[test]
    fn differences_are_found_by_number() {
        let old = [file("a", &(rule(1, 1, "") + &rule(2, 1, "") + &rule(3, 1, "") + "#" + &rule(5, 1, "")))];
        let new =
            [file("b", &(rule(2, 1, "\t") + &rule(3, 2, "flags:S;") + &rule(4, 1, "") + &rule(5, 1, "")))];
        let found = difference(&old, &new);
        let numbers: Vec<_> = found
            .iter()
            .map(|one| [&one.before, &one.after].map(|side| side.as_ref().map(|(id, _)| (id.sid, id.rev))))
            .collect();
        let expected =
            [[Some((1, 1)), None], [Some((3, 1)), Some((3, 2))], [None, Some((4, 1))], [None, Some((5, 1))]];
        assert_eq!(numbers, expected);
        assert_eq!(difference(&new, &new), []);
    }

    proptest! {
        #[test]
        fn hostile_lines_do_not_panic(text in "[\\\\\"$*{}0-9a|: é(\n-]{0,40}", rule_text in "[ -~é]{0,60}") {
            let mut changes = Changes::default();
            changes.modify(text.as_bytes());
            changes.modify(format!("* \"{text}\" \"{text}\"").as_bytes());
            changes.disable(text.as_bytes());
            let _ = changes.apply(&[file("a", &format!("{rule_text}\n{}", rule(1, 1, &rule_text)))]);
        }
    }
}
