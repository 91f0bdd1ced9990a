//! The table of protocols is the only place that lists them: documents are generated from it, and nothing outside
//! of the folder of a protocol names it.

use std::fs;
use std::path::{Path, PathBuf};

use mirror_protocols::ANALYZED;

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
    let rows: String = ANALYZED
        .iter()
        .map(|it| {
            format!("| `{}` | {} | {} |\n", it.name, it.content, if it.by_default { "on" } else { "off" })
        })
        .collect();
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

/// Returns the source files of the crates below a directory that contain one of these words.
fn files_with(words: &[&str], directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(words, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut tokens = text.split(|c: char| !c.is_alphanumeric() && c != '_');
            if tokens.any(|token| words.contains(&token)) {
                found.push(path);
            }
        }
    }
}

/// A copy of the template touches its folder and its row: all else is made from the row.
#[test]
fn nothing_but_its_folder_and_its_row_names_the_template() {
    let root = root();
    let mut found = Vec::new();
    for directory in ["mirror-userspace", "xtask/src", "fuzz/targets"] {
        files_with(&["ident", "Ident"], &root.join(directory), &mut found);
    }
    let source = root.join("mirror-userspace/crates/protocols/src");
    found.retain(|path| !path.starts_with(source.join("template")));
    let this = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/table.rs").canonicalize().unwrap();
    found.retain(|path| path.canonicalize().unwrap() != this);
    // `ident` is also the name of a kind of macro parameters; those are not counted as names.
    found.retain(|path| {
        let text = fs::read_to_string(path).unwrap().replace(":ident", "");
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|token| token == "ident" || token == "Ident")
    });
    assert_eq!(found, [source.join("table.rs")]);
}
