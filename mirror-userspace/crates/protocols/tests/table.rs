//! The table of protocols is the only place that lists them: documents are generated from it, and nothing outside
//! of the folder of a protocol names it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mirror_protocols::{ANALYZED, Analyzed};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

#[test]
fn the_documented_table_is_that_of_the_rows() {
    const HEAD: &str = "| --- | --- | --- |\n";
    const END: &str = "<!-- end -->";
    let path = root().join("docs/records.md");
    let text = fs::read_to_string(&path).unwrap();
    let (start, _) =
        text.match_indices(HEAD).find(|(at, _)| text[..*at].ends_with("| by default |\n")).unwrap();
    let start = start + HEAD.len();
    let end = start + text[start..].find(END).unwrap();
    let row = |protocol: &Analyzed| {
        let default = if protocol.by_default { "on" } else { "off" };
        ["| `", protocol.name, "` | ", protocol.content, " | ", default, " |\n"].concat()
    };
    let rows: String = ANALYZED.iter().map(row).collect();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, [&text[..start], &rows, &text[end..]].concat()).unwrap();
    } else {
        assert_eq!(
            &text[start..end],
            rows,
            "docs/records.md is stale; run UPDATE=1 cargo test -p mirror-protocols"
        );
    }
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
