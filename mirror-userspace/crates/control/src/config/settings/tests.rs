use std::collections::BTreeSet;
use std::path::Path;

use super::render::example_with;
use super::*;
use crate::config::tests::with_all_keys;
use crate::config::{Diagnostic, parse};

fn rows() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// Returns the example in which one key has another value.
fn with(setting: &Setting, value: &str) -> String {
    with_all_keys(&example_with(|row| {
        if row.path == setting.path { value.to_owned() } else { row.example_value() }
    }))
}

fn read(text: &str) -> Result<Config, Vec<Diagnostic>> {
    parse(Path::new("table.toml"), text.as_bytes()).map_err(|mistakes| mistakes.all().to_vec())
}

/// Returns whether a mistake is about a setting, or about an element of it.
fn is_about(mistake: &Diagnostic, setting: &Setting) -> bool {
    let parts = mistake.key.split('.').map(|part| part.split('[').next().unwrap_or_default());
    parts.collect::<Vec<_>>().join(".") == setting.path
}

/// Returns values, in TOML, that are just outside of the range of a setting.
fn outside(setting: &Setting) -> Vec<String> {
    match setting.kind {
        Kind::Switch | Kind::Word(_) => vec!["\"maybe\"".to_owned(), "true".to_owned()],
        Kind::Number { least, most, .. } => {
            let below = least.checked_sub(1).map_or("-1".to_owned(), |number| number.to_string());
            vec![below, (most + 1).to_string()]
        }
        Kind::Bytes { least, most } => {
            let around = [least.checked_sub(1), most.checked_add(1)];
            around
                .into_iter()
                .flatten()
                .map(|bytes| bytes.to_string())
                .chain(["\"1 mile\"".to_owned()])
                .collect()
        }
        Kind::Time { most, is_whole, .. } => {
            let mut wrong = vec!["\"0s\"".to_owned(), "\"soon\"".to_owned(), "8".to_owned()];
            if let Some(more) = most.checked_add(Duration::from_secs(1)) {
                wrong.push(format!("\"{}s\"", more.as_secs()));
            }
            wrong.extend(is_whole.then(|| "\"1500ms\"".to_owned()));
            wrong
        }
        Kind::Permissions { most, .. } => {
            vec!["\"0000\"".to_owned(), format!("\"{:o}\"", most + 1), "\"rw\"".to_owned()]
        }
        Kind::Path => vec!["\"relative\"".to_owned()],
        Kind::List { most, .. } if most < 100 => {
            let elements: Vec<_> = (1000..=1000 + most).map(|number| number.to_string()).collect();
            vec![format!("[{}]", elements.join(", "))]
        }
        Kind::List { .. } => vec!["\"none\"".to_owned(), "[1.5]".to_owned()],
        Kind::Other(_) => vec!["\"\\u0000\"".to_owned()],
    }
}

#[test]
fn the_example_has_all_keys_and_is_accepted() {
    let example = with_all_keys(&render::example());
    read(&example).unwrap();
    for row in rows() {
        let is_nested = SECTIONS.iter().any(|section| section.name == row.path);
        assert_eq!(row.example_value().is_empty(), is_nested, "{}", row.path);
        assert!(example.lines().any(|line| line.starts_with(&format!("{} = ", row.key()))) || is_nested);
    }
}

#[test]
fn each_path_is_that_of_its_section_and_unique() {
    let mut paths = BTreeSet::new();
    for section in SECTIONS {
        for row in section.settings {
            assert_eq!(row.path, format!("{}.{}", section.name, row.key()));
            assert!(paths.insert(row.path), "{}", row.path);
            assert!(
                row.text.ends_with('.') && (row.more.is_empty() || row.more.ends_with('.')),
                "{}",
                row.path
            );
            assert_eq!(row.access.is_none(), section.is_list, "{}", row.path);
            assert_eq!(get(row.path).map(|row| row.path), Some(row.path));
        }
    }
}

#[test]
fn values_of_a_wrong_type_or_out_of_range_are_mistakes_of_their_key() {
    for row in rows().filter(|row| !row.example_value().is_empty()) {
        // No setting is a date.
        for value in outside(row).into_iter().chain(["1979-05-27".to_owned()]) {
            // Names of files may be any text.
            if row.path == "store.key" && value.starts_with('"') {
                continue;
            }
            let mistakes = read(&with(row, &value)).expect_err(row.path);
            assert!(
                mistakes.iter().any(|mistake| is_about(mistake, row)),
                "{} = {value}: {mistakes:?}",
                row.path
            );
            assert!(mistakes.iter().all(|mistake| !mistake.allowed.is_empty()), "{mistakes:?}");
        }
    }
}

#[test]
fn the_ends_of_ranges_are_accepted() {
    for row in rows() {
        let ends = match row.kind {
            // Only powers of two are accepted, and both ends are.
            Kind::Number { least, most, .. } => vec![least.to_string(), most.to_string()],
            // TOML has signed numbers.
            Kind::Bytes { least, most } => vec![least.to_string(), most.min(i64::MAX as u64).to_string()],
            Kind::Time { most, is_whole: true, .. } => {
                vec!["\"1s\"".to_owned(), format!("\"{}s\"", most.as_secs())]
            }
            Kind::Word(words) => words.iter().map(|word| format!("\"{word}\"")).collect(),
            Kind::Permissions { least, most } => vec![format!("\"{least:o}\""), format!("\"{most:04o}\"")],
            Kind::Switch => vec!["\"on\"".to_owned(), "\"off\"".to_owned()],
            _ => continue,
        };
        for value in ends {
            // Other keys may depend on this one.
            let mistakes = read(&with(row, &value)).err().unwrap_or_default();
            let own: Vec<_> = mistakes.iter().filter(|mistake| is_about(mistake, row)).collect();
            assert!(own.is_empty(), "{} = {value}: {own:?}", row.path);
        }
    }
}

#[test]
fn writing_a_default_changes_nothing() {
    for row in all() {
        let Default::Is(value) = row.default else { continue };
        let (section, key) = row.path.rsplit_once('.').unwrap();
        let base = if row.path == "store.pre_trigger" { "[store]\nkeep = \"alerts\"\n" } else { "" };
        let header = if base.is_empty() { format!("[{section}]\n") } else { String::new() };
        let written = read(&format!("{base}{header}{key} = {value}\n")).unwrap();
        let absent = read(base).unwrap();
        assert_eq!(row.value(&written), row.value(&absent), "{}", row.path);
        if row.path != "log.level" {
            assert_eq!(written, absent, "{}", row.path);
        }
    }
}

#[test]
fn each_example_is_shown_as_in_force() {
    let config = read(&with_all_keys(&render::example())).unwrap();
    for row in all() {
        let value = row.value(&config).unwrap();
        if let Default::Absent(_) = row.default {
            assert!(!value.is_null() && value != serde_json::json!([]), "{}: {value}", row.path);
        }
    }
}
