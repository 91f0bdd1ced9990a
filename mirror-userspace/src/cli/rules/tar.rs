//! Reads the files of a tar archive (POSIX.1-2017, pax): names, sizes and contents. Those of GNU tar with long names, too.

use std::io::{self, Read};
use std::path::PathBuf;

const BLOCK: usize = 512;
/// Bytes of the longest name in front of a file.
const LONGEST_NAME: u64 = 64 << 10;

/// The entries of an archive, one after the other.
pub(super) struct Entries<R> {
    archive: R,
    /// Bytes up to the next header.
    rest: u64,
}

impl<R: Read> Entries<R> {
    pub(super) const fn new(archive: R) -> Self {
        Self { archive, rest: 0 }
    }

    /// Returns the next regular file: its name and its content, which has to be read to its end.
    pub(super) fn next_file(&mut self) -> io::Result<Option<(PathBuf, io::Take<&mut R>)>> {
        let mut long_name = None;
        loop {
            let skipped = io::copy(&mut self.archive.by_ref().take(self.rest), &mut io::sink())?;
            if skipped < self.rest {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut header = [0; BLOCK];
            self.archive.read_exact(&mut header)?;
            if header == [0; BLOCK] {
                return Ok(None);
            }
            let header = Header(header);
            let size = header.size()?;
            self.rest = size.next_multiple_of(BLOCK as u64);
            match header.kind() {
                // A long name for the next entry: that of GNU, and the records of pax.
                kind @ (b'L' | b'x') if size <= LONGEST_NAME => {
                    let mut text = vec![0; size as usize];
                    self.archive.read_exact(&mut text)?;
                    self.rest -= size;
                    long_name = if kind == b'L' {
                        text.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
                    } else {
                        pax_path(&text).or(long_name)
                    };
                }
                b'0' | 0 => {
                    let name = long_name.unwrap_or_else(|| header.name());
                    let name = PathBuf::from(String::from_utf8_lossy(&name).into_owned());
                    // The content is taken off here, so that the next call skips the padding only.
                    self.rest -= size;
                    return Ok(Some((name, self.archive.by_ref().take(size))));
                }
                _ => long_name = None,
            }
        }
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn field(&self, at: usize, len: usize) -> &[u8] {
        let field = self.0.get(at..at + len).unwrap_or_default();
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn name(&self) -> Vec<u8> {
        let is_posix = self.field(257, 5) == b"ustar";
        match self.field(345, 155) {
            prefix if is_posix && !prefix.is_empty() => [prefix, b"/", self.field(0, 100)].concat(),
            _ => self.field(0, 100).to_vec(),
        }
    }

    fn kind(&self) -> u8 {
        self.0.get(156).copied().unwrap_or_default()
    }

    fn size(&self) -> io::Result<u64> {
        let text = String::from_utf8_lossy(self.field(124, 12));
        u64::from_str_radix(text.trim(), 8)
            .ok()
            .filter(|size| *size < 1 << 40)
            .ok_or_else(|| io::Error::other("this is not a tar archive"))
    }
}

/// Returns the `path` among the records of pax: `LENGTH KEY=VALUE`, a line each.
fn pax_path(records: &[u8]) -> Option<Vec<u8>> {
    records.split(|byte| *byte == b'\n').find_map(|record| {
        let space = record.iter().position(|byte| *byte == b' ')?;
        record.get(space + 1..)?.strip_prefix(b"path=").map(<[u8]>::to_vec)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[257..262].copy_from_slice(b"ustar");
        let mut entry = [&header[..], content].concat();
        entry.resize(entry.len().next_multiple_of(BLOCK), 0);
        entry
    }

    fn files(archive: &[u8]) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut entries = Entries::new(archive);
        let mut files = Vec::new();
        while let Some((name, mut content)) = entries.next_file()? {
            let mut text = Vec::new();
            content.read_to_end(&mut text)?;
            files.push((name, text));
        }
        Ok(files)
    }

    #[test]
    fn files_are_found_between_other_entries() {
        let long = "d/".repeat(80) + "long.rules";
        let archive = [
            entry("rules/", b'5', b""),
            entry("rules/a.rules", b'0', &[b'a'; 513]),
            entry("././@LongLink", b'L', &[long.as_bytes(), b"\0"].concat()),
            entry("cut", b'0', b"b"),
            entry("pax", b'x', b"21 mtime=1600000000.5\n19 path=p/pax.rules\n"),
            entry("cut", 0, b""),
            entry("link", b'2', b""),
            vec![0; 2 * BLOCK],
        ]
        .concat();
        let found = files(&archive).unwrap();
        let expected = [
            ("rules/a.rules".to_owned(), vec![b'a'; 513]),
            (long, b"b".to_vec()),
            ("p/pax.rules".to_owned(), Vec::new()),
        ];
        assert_eq!(found.len(), 3);
        for ((path, content), (name, text)) in found.iter().zip(&expected) {
            assert_eq!((path.as_path(), content), (Path::new(name), text));
        }
        // Wherever it ends, it is an error and no panic.
        for end in 1..archive.len() - BLOCK {
            let _ = files(&archive[..end]);
        }
        assert!(files(&[b'x'; 2 * BLOCK]).is_err());
    }
}
