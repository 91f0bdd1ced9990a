//! The rule files of a directory or an archive.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;
use mirror_signatures::{file, limits};

use super::tar::Entries;

/// The most rule files of a directory or an archive.
const MOST: usize = 10_000;

/// Reads a rule file, the `*.rules` of a directory and of those below it, or the `*.rules` of a `.tar` or `.tar.gz`.
pub(super) fn rule_files(path: &Path) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let cannot = || format!("cannot read {}", path.display());
    if fs::metadata(path).with_context(cannot)?.is_dir() {
        let mut files = Vec::new();
        directory(path, 0, &mut files).with_context(cannot)?;
        anyhow::ensure!(!files.is_empty(), "{} has no *.rules", path.display());
        return Ok(files);
    }
    let name = path.to_string_lossy();
    let archive: Option<Box<dyn Read>> = if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        Some(Box::new(MultiGzDecoder::new(File::open(path).with_context(cannot)?)))
    } else if name.ends_with(".tar") {
        Some(Box::new(File::open(path).with_context(cannot)?))
    } else {
        None
    };
    let Some(archive) = archive else {
        return Ok(vec![(path.to_owned(), file::read(path).with_context(cannot)?)]);
    };
    // An archive of little may unpack to more than a disk has.
    let mut files = unpack(archive.take(limits::FILE * 4)).with_context(cannot)?;
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} has no *.rules", path.display());
    Ok(files)
}

fn is_rules(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rules")
}

/// Adds the files of a directory in the order of their names.
fn directory(path: &Path, depth: usize, files: &mut Vec<(PathBuf, Vec<u8>)>) -> io::Result<()> {
    const DEEPEST: usize = 8;
    let mut entries: Vec<_> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        // Symbolic links to directories could lead back.
        if depth < DEEPEST && fs::symlink_metadata(&entry)?.is_dir() {
            directory(&entry, depth + 1, files)?;
        } else if is_rules(&entry) {
            if files.len() == MOST {
                return Err(io::Error::other(format!("more than {MOST} rule files")));
            }
            let text = file::read(&entry)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", entry.display())))?;
            files.push((entry, text));
        }
    }
    Ok(())
}

/// Returns the rule files of a tar archive.
fn unpack(archive: impl Read) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut entries = Entries::new(archive);
    while let Some((path, content)) = entries.next_file()? {
        // The rest of the entry has to be skipped, whatever it is.
        let mut text = Vec::new();
        let longest = limits::FILE;
        content.take(longest + 1).read_to_end(&mut text)?;
        if text.len() as u64 > longest {
            return Err(io::Error::other(format!("{} is too long", path.display())));
        }
        if is_rules(&path) {
            if files.len() == MOST {
                return Err(io::Error::other(format!("more than {MOST} rule files")));
            }
            files.push((path, text));
        }
    }
    Ok(files)
}
