//! Verifies a store against its manifest.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, Read as _};
use std::path::Path;

use mirror_packet::text::hex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::directory::{Directory, Refused};
use super::manifest::{Contents, FILE_NAME, Segment};
use super::names::{FileName, SegmentName, has_absurd_number, shown};
use super::remote::{RemoteError, RemoteReader};

/// A difference between the store and its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// A description of the difference.
    pub what: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Differences between the store and its manifest.
    pub findings: Vec<Finding>,
    /// Segments that are intact.
    pub intact: u64,
    /// Bytes of the intact segments and their indexes.
    pub bytes: u64,
    /// Packets in the intact segments.
    pub packets: u64,
    /// Segments that were deleted, with the reason from the manifest.
    pub deleted: Vec<Finding>,
    /// Segments that are being written, or whose writer was killed.
    pub unfinished: Vec<String>,
    /// In a copy: finished segments that are not uploaded yet, or were deleted before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_uploaded: Vec<String>,
    /// Digest of the manifest's last line.
    pub head: String,
}

/// Compares everything in a store with its manifest. `head` is a digest that the last line of the manifest
/// once had. `progress` receives the number of bytes that were read, and the total.
pub fn verify(
    directory: &Path,
    head: Option<&str>,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<Report> {
    // The list is read before the manifest, so that the manifest includes what is finished in the meantime.
    let directory = Directory::open_to_read(directory)?;
    let names: HashSet<String> = directory.list()?.into_iter().collect();
    let contents = Contents::read_in(&directory)?;
    let mut report = Report::of_manifest(&contents, head);
    let deleted = contents.deleted();
    let mut there = Vec::new();
    for segment in contents.written() {
        match deleted.get(segment.file.as_str()) {
            Some(&reason) => {
                report.deleted.push(Finding { file: segment.file.to_string(), what: reason.to_owned() });
            }
            None => there.push(segment),
        }
    }
    let result = report.compare(&there, &mut progress, |file, size, digest, read| {
        Ok::<_, Infallible>(match compare(&directory, file, size, digest, read) {
            Ok(what) => what,
            Err(error) => Some(format!("cannot be read: {error}")),
        })
    });
    let Ok(()) = result;
    report.others(&contents, names, |file| {
        directory.size(file).map_or_else(|error| Refused::said(&error), |_| None)
    });
    Ok(report)
}

/// Compares everything in a copy of a store with what its manifest lists as uploaded, as [`verify`] does.
pub fn verify_copy(
    copy: &RemoteReader,
    head: Option<&str>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, RemoteError> {
    // The list is read before the manifest. Otherwise files that are uploaded in the meantime would seem
    // foreign.
    let names: HashSet<String> = copy.list()?.into_iter().collect();
    let contents = copy.manifest()?;
    let mut report = Report::of_manifest(&contents, head);
    let (uploaded, deleted) = (contents.uploaded(), contents.deleted());
    let mut there = Vec::new();
    for segment in contents.written() {
        let file = segment.file.as_str();
        match (uploaded.contains_key(file), deleted.get(file)) {
            (true, _) => there.push(segment),
            (false, Some(&reason)) => {
                report.deleted.push(Finding { file: file.to_owned(), what: reason.to_owned() });
            }
            (false, None) => report.not_uploaded.push(file.to_owned()),
        }
    }
    report
        .compare(&there, &mut progress, |file, size, digest, read| copy.compare(file, size, digest, read))?;
    report.others(&contents, names, |file| copy.fault(file));
    Ok(report)
}

impl Report {
    /// Returns a report of what is wrong with the manifest itself.
    fn of_manifest(contents: &Contents, head: Option<&str>) -> Self {
        let mut report = Self { head: contents.head.clone(), ..Self::default() };
        let mut wrong = |what| report.findings.push(Finding { file: FILE_NAME.to_owned(), what });
        for line in &contents.wrong {
            wrong(format!("line {} {}", line.line, line.what));
        }
        if let more @ 1.. = contents.faults - contents.wrong.len() {
            wrong(format!("has {more} more lines that are wrong"));
        }
        if let Some(head) = head
            && !contents.heads.iter().any(|known| known == head)
        {
            wrong(format!("has no line with the digest {head}: its end was cut off, or it was rewritten"));
        }
        report
    }

    /// Compares segments and their indexes with the manifest. `compare` takes a file's name, size and digest,
    /// and returns what is wrong with the file.
    fn compare<E>(
        &mut self,
        segments: &[&Segment],
        progress: &mut dyn FnMut(u64, u64),
        mut compare: impl FnMut(&FileName, u64, &str, &mut dyn FnMut(u64)) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        let total = segments.iter().map(|segment| segment.stored()).fold(0, u64::saturating_add);
        let mut done = 0;
        let mut read = |bytes| {
            done += bytes;
            progress(done, total);
        };
        for segment in segments {
            let mut whole = true;
            for (file, size, digest) in [
                (FileName::Segment(segment.file.clone()), segment.size, &segment.sha256),
                (segment.index_file(), segment.index_size, &segment.index_sha256),
            ] {
                if let Some(what) = compare(&file, size, digest, &mut read)? {
                    whole = false;
                    self.findings.push(Finding { file: file.to_string(), what });
                }
            }
            if whole {
                self.intact += 1;
                self.bytes = self.bytes.saturating_add(segment.stored());
                self.packets = self.packets.saturating_add(segment.packets);
            }
        }
        Ok(())
    }

    /// Examines files that the manifest does not list, and entries that are not plain files, for which
    /// `fault` returns the reason.
    fn others(
        &mut self,
        contents: &Contents,
        names: HashSet<String>,
        fault: impl Fn(&FileName) -> Option<String>,
    ) {
        let known: HashSet<&SegmentName> = contents.written().map(|segment| &segment.file).collect();
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        for text in names {
            let mut find = |what: String| self.findings.push(Finding { file: text.clone(), what });
            let Some(name) = FileName::parse(&text) else {
                if has_absurd_number(&text) {
                    let what = "has a number that no segment has".to_owned();
                    self.findings.push(Finding { file: shown(&text), what });
                }
                continue;
            };
            let is_known = name.segment().is_some_and(|segment| known.contains(segment));
            match &name {
                // The file was compared with its line.
                FileName::Segment(_) | FileName::Index(_) if is_known => {}
                FileName::Segment(_) | FileName::Index(_) => find("is not in the manifest".to_owned()),
                _ => match fault(&name) {
                    Some(fault) => find(fault),
                    None if !is_known && matches!(name, FileName::Partial(_)) => self.unfinished.push(text),
                    None => {}
                },
            }
        }
    }
}

/// Returns what is wrong with a file, if anything is.
fn compare(
    directory: &Directory,
    name: &FileName,
    size: u64,
    digest: &str,
    read: &mut dyn FnMut(u64),
) -> io::Result<Option<String>> {
    let open = |name: &FileName| match directory.read(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let mut file = open(name)?;
    // A segment gets its final name a moment after its line.
    if let (None, FileName::Segment(segment)) = (&file, name) {
        file = open(&FileName::Partial(segment.clone()))?;
        if file.is_none() {
            file = open(name)?;
        }
    }
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
    Ok((!same).then(|| "was altered: its digest differs from the one in the manifest".to_owned()))
}
