//! Holds a store against its manifest.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::manifest::{Contents, Event, FILE_NAME, hex};
use super::recovery;
use super::segment::PARTIAL;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is not as it was written.
    pub findings: Vec<Finding>,
    /// Segments that are as they were written.
    pub intact: u64,
    /// Bytes of them and their indexes.
    pub bytes: u64,
    /// Packets in them.
    pub packets: u64,
    /// Segments that were deleted, and the manifest says why.
    pub deleted: Vec<Finding>,
    /// Segments that are being written, or whose writer was killed.
    pub unfinished: Vec<String>,
    /// Digest of the manifest's last line.
    pub head: String,
}

/// Compares everything in a store with what its manifest says. `head` is a digest that the manifest's end
/// once had. `progress` is told how many of how many bytes were looked at.
pub fn verify(
    directory: &Path,
    head: Option<&str>,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<Report> {
    // Before the manifest: what is finished in the meantime is in it then.
    let names: HashSet<String> =
        fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let contents = Contents::read(directory)?;
    let mut report = Report { head: contents.head.clone(), ..Report::default() };
    for wrong in &contents.wrong {
        report.findings.push(Finding {
            file: FILE_NAME.to_owned(),
            what: format!("line {} {}", wrong.line, wrong.what),
        });
    }
    if let Some(head) = head
        && !contents.heads.iter().any(|known| known == head)
    {
        report.findings.push(Finding {
            file: FILE_NAME.to_owned(),
            what: format!("has no line of digest {head}: its end was cut off, or it was written anew"),
        });
    }
    let mut known = HashSet::new();
    let segments = || {
        contents.lines.iter().filter_map(|line| match &line.event {
            Event::Segment(segment) => Some(segment),
            _ => None,
        })
    };
    let total = segments()
        .filter(|segment| contents.deleted(&segment.file).is_none())
        .map(|segment| segment.size + segment.index_size)
        .sum();
    let mut done = 0;
    for segment in segments() {
        known.insert(segment.file.clone());
        if let Some(reason) = contents.deleted(&segment.file) {
            report.deleted.push(Finding { file: segment.file.clone(), what: reason.to_owned() });
            continue;
        }
        let mut wrong = Vec::new();
        for (file, size, digest) in [
            (segment.file.clone(), segment.size, &segment.sha256),
            (segment.index_file(), segment.index_size, &segment.index_sha256),
        ] {
            match compare(directory, &file, size, digest, |bytes| {
                done += bytes;
                progress(done, total);
            }) {
                Ok(None) => {}
                Ok(Some(what)) => wrong.push(Finding { file, what }),
                Err(error) => wrong.push(Finding { file, what: format!("cannot be read: {error}") }),
            }
        }
        if wrong.is_empty() {
            report.intact += 1;
            report.bytes += segment.size + segment.index_size;
            report.packets += segment.packets;
        }
        report.findings.append(&mut wrong);
    }
    let mut others: Vec<_> = names.into_iter().collect();
    others.sort_unstable();
    for name in others {
        if recovery::is_partial(&name) {
            if !known.contains(name.trim_end_matches(PARTIAL)) {
                report.unfinished.push(name);
            }
        } else if recovery::number(&name).is_some() && !known.contains(name.trim_end_matches(".idx")) {
            report.findings.push(Finding { file: name, what: "is not in the manifest".to_owned() });
        }
    }
    Ok(report)
}

/// What is wrong with a file, if anything is.
fn compare(
    directory: &Path,
    name: &str,
    size: u64,
    digest: &str,
    mut read: impl FnMut(u64),
) -> io::Result<Option<String>> {
    let open = |name: &str| match File::open(directory.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    // It gets its name a moment after its line.
    let file = match open(name)? {
        Some(file) => Some(file),
        None => match open(&format!("{name}{PARTIAL}"))? {
            Some(file) => Some(file),
            None => open(name)?,
        },
    };
    let Some(mut file) = file else { return Ok(Some("is missing".to_owned())) };
    let found = file.metadata()?.len();
    if found != size {
        return Ok(Some(format!("was altered: it has {found} bytes instead of {size}")));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        hash.update(&buffer[..len]);
        read(len as u64);
    }
    let same = hex(&hash.finalize()) == digest;
    Ok((!same).then(|| "was altered: its digest is not what the manifest says".to_owned()))
}
