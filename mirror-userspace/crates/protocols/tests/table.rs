//! The table of protocols is the only place that lists them: nothing outside of the folder of a protocol names it.

use std::path::{Path, PathBuf};
use std::{fs, io};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns the Rust files below a directory.
fn sources(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Returns true if a text has one of these words, not counting the kind of macro parameters `ident`.
fn has_word(text: &str, words: &[&str]) -> bool {
    let text = text.replace(":ident", "");
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| words.contains(&word))
}

/// A copy of the template touches its folder and its row: all else is made from the row.
#[test]
fn nothing_but_its_folder_and_its_row_names_the_template() {
    let root = root();
    let source = root.join("mirror-userspace/crates/protocols/src");
    let directories = ["mirror-userspace", "xtask/src", "fuzz", "tests"];
    let found: Vec<_> = directories
        .into_iter()
        .flat_map(|directory| sources(&root.join(directory)).unwrap())
        .filter(|path| !path.starts_with(source.join("template")) && !path.ends_with(file!()))
        .filter(|path| !path.components().any(|component| component.as_os_str() == "target"))
        .filter(|path| has_word(&fs::read_to_string(path).unwrap(), &["ident", "Ident"]))
        .collect();
    assert_eq!(found, [source.join("table.rs")]);
}
