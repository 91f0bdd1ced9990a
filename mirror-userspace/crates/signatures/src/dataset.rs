//! Data sets: many values, one a line of a file, that a rule compares a buffer with.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base64;
use crate::file::read;
use crate::limits;
use crate::sets::number;

/// The type of the members of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatasetKind {
    /// Bytes; base64 in a file.
    String,
    /// Sixteen bytes; hexadecimal in a file.
    Md5,
    /// Thirty-two bytes; hexadecimal in a file.
    Sha256,
    /// An IPv4 address.
    Ipv4,
    /// An IPv4 or IPv6 address.
    Ip,
}

type Members = HashSet<Box<[u8]>, foldhash::quality::RandomState>;

/// The members of a set.
#[derive(Debug)]
pub struct Dataset {
    kind: DatasetKind,
    path: PathBuf,
    members: Members,
}

impl Dataset {
    /// Returns true if the content of a buffer is a member. Addresses are four or sixteen bytes.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        match (self.kind, <[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (DatasetKind::Ipv4 | DatasetKind::Ip, Ok(v4), _) => {
                self.members.contains(&number(IpAddr::from(v4)).to_be_bytes()[..])
            }
            (DatasetKind::Ipv4 | DatasetKind::Ip, _, Err(_)) => false,
            _ => self.members.contains(bytes),
        }
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns true if there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// All data sets, each loaded once.
#[derive(Debug, Default)]
pub struct Datasets {
    sets: HashMap<Box<str>, Arc<Dataset>>,
    members: usize,
}

impl Datasets {
    /// Returns a set. A rule that names a file defines it; one that names none refers to a set that another rule in
    /// front has defined. The file's name is relative to the directory of the rule file.
    pub fn get(
        &mut self,
        name: &str,
        kind: Option<DatasetKind>,
        load: Option<&str>,
        directory: &Path,
    ) -> Result<Arc<Dataset>, String> {
        let path = load.map(|load| directory.join(load));
        if let Some(known) = self.sets.get(name) {
            if kind.is_some_and(|kind| kind != known.kind) || path.is_some_and(|path| path != known.path) {
                return Err(format!("another rule defines `{name}` with another type or file"));
            }
            return Ok(known.clone());
        }
        let (Some(kind), Some(path)) = (kind, path) else {
            return Err(format!("no rule in front defines `{name}` by a `type` and a file to `load`"));
        };
        let text = read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let members =
            members(&text, kind).map_err(|(line, reason)| format!("{}:{line}: {reason}", path.display()))?;
        self.members = self.members.saturating_add(members.len());
        if self.members > limits::MEMBERS {
            return Err(format!("the data sets have more than {} members", limits::MEMBERS));
        }
        let set = Arc::new(Dataset { kind, path, members });
        self.sets.insert(name.into(), set.clone());
        Ok(set)
    }
}

fn members(text: &[u8], kind: DatasetKind) -> Result<Members, (usize, &'static str)> {
    let mut members = HashSet::default();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let member = match kind {
            DatasetKind::String => base64::decode_all(line).ok_or((number, "it is not base64"))?,
            DatasetKind::Md5 => hexadecimal(line, 16).ok_or((number, "it is not the MD5 of anything"))?,
            DatasetKind::Sha256 => {
                hexadecimal(line, 32).ok_or((number, "it is not the SHA-256 of anything"))?
            }
            DatasetKind::Ipv4 | DatasetKind::Ip => {
                address(line, kind).ok_or((number, "it is not an address"))?
            }
        };
        members.insert(member.into_boxed_slice());
        if members.len() > limits::MEMBERS {
            return Err((number, "the set has too many members"));
        }
    }
    Ok(members)
}

fn hexadecimal(text: &[u8], len: usize) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes.filter(|bytes| bytes.len() == len)
}

fn address(text: &[u8], kind: DatasetKind) -> Option<Vec<u8>> {
    let address: IpAddr = str::from_utf8(text).ok()?.parse().ok()?;
    if kind == DatasetKind::Ipv4 && address.is_ipv6() {
        return None;
    }
    Some(number(address).to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sets_of_each_type_are_loaded_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("names"), "ZXZpbC5leGFtcGxl\r\n# comment\n\ndGVzdA==\n").unwrap();
        fs::write(path.join("sums"), "d41d8cd98f00b204e9800998ecf8427e\n").unwrap();
        fs::write(path.join("addresses"), "10.0.0.1\nfd00::1\n::ffff:1.2.3.4\n").unwrap();
        let mut sets = Datasets::default();
        let names = sets.get("names", Some(DatasetKind::String), Some("names"), path).unwrap();
        assert!(names.contains(b"evil.example") && names.contains(b"test") && !names.contains(b"Test"));
        let sums = sets.get("sums", Some(DatasetKind::Md5), Some("sums"), path).unwrap();
        assert!(sums.contains(b"\xd4\x1d\x8c\xd9\x8f\x00\xb2\x04\xe9\x80\x09\x98\xec\xf8\x42\x7e"));
        let addresses = sets.get("ips", Some(DatasetKind::Ip), Some("addresses"), path).unwrap();
        assert!(addresses.contains(&[10, 0, 0, 1]) && addresses.contains(&[1, 2, 3, 4]));
        assert!(addresses.contains(&"fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets()));
        assert!(!addresses.contains(&[10, 0, 0, 2]) && !addresses.contains(b"10.0.0.1"));
        assert_eq!((names.len(), addresses.len(), sums.is_empty()), (2, 3, false));
        assert!(Arc::ptr_eq(&names, &sets.get("names", None, None, path).unwrap()));
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("sums"), "d41d8cd98f00b204e9800998ecf8427e\nnonsense\n").unwrap();
        let mut sets = Datasets::default();
        let mut reason = |name: &str, kind, load| sets.get(name, kind, load, path).unwrap_err();
        assert!(
            reason("a", Some(DatasetKind::Md5), Some("sums"))
                .ends_with("sums:2: it is not the MD5 of anything")
        );
        assert!(reason("b", Some(DatasetKind::Md5), Some("none")).starts_with("cannot read"));
        assert!(reason("c", Some(DatasetKind::Md5), Some(".")).ends_with("not a regular file"));
        assert!(reason("d", None, None).starts_with("no rule in front"));
    }
}
