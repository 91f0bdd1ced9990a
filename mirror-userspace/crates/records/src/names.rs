//! Names of mirrored interfaces and of the hosts they talk to, as records show them. They come from JSON files that
//! `mirror-xdp aws watch` writes, or that anyone else does in the same form ([`NamesFile`]).
//!
//! A session is found by its VNI and the outer source of its frames, a host by its address within the VPC of the session's
//! interface. If several sessions or hosts fit, all are listed and none is chosen.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use mirror_base::file;
use mirror_packet::{Conversation, MirrorSession};
use mirror_xdp_common::Address;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The version of the form that this program reads and writes.
pub const VERSION: u32 = 1;
/// Maximum length of a file in bytes: 100,000 sessions with tags.
pub const MAX_LEN: u64 = 64 << 20;
/// Maximum length of the text that one session or host adds to a record, in bytes.
const MAX_TEXT: usize = 2048;
/// Maximum number of sessions or hosts that are listed where several fit.
const MAX_CANDIDATES: usize = 8;

/// A file of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesFile {
    /// The version of this form, [`VERSION`].
    pub version: u32,
    /// The time at which the names were true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// The number of seconds after `as_of` for which the names are considered new. Older ones have their age in records.
    /// Names never get old without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for: Option<u64>,
    /// The mirror sessions.
    #[serde(default)]
    pub sessions: Vec<Session>,
    /// The hosts by their inner addresses.
    #[serde(default)]
    pub hosts: Vec<Host>,
}

/// A mirror session, and the interface it mirrors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Outer source address of its frames: the primary address of the interface.
    pub source: IpAddr,
    /// Identifier of the session, such as `tms-0123456789abcdef0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Identifier of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Identifier of the instance, or of whatever else has the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Name of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Identifier of the VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Identifier of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Number of the account that owns the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The mirror target. Not in records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The mirror filter. Not in records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Chosen tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The time at which this was true, if it is not that of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
}

/// A host, or a service, with addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The VPC in which the addresses are its own; in the traffic of all sessions without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Name for people.
    pub name: String,
    /// The kind, such as `instance`, `load_balancer` or `rds`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A time in whole seconds since the Unix epoch, in files as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Returns the present time.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = i64::try_from(self.0).ok().and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
        let text = time.and_then(|time| time.format(&Rfc3339).ok());
        serializer
            .serialize_str(&text.ok_or_else(|| serde::ser::Error::custom("a time after the year 9999"))?)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is no time such as 2026-03-01T08:00:00Z"));
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| wrong())?;
        Ok(Self(time.unix_timestamp().try_into().map_err(|_| wrong())?))
    }
}

/// The reason why a file of names cannot be used, in one line with the file's name.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct NamesError {
    path: PathBuf,
    what: String,
}

impl NamesFile {
    /// Reads a file of at most [`MAX_LEN`] bytes.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, can be written by everyone, or has another form or version.
    pub fn read(path: &Path) -> Result<Self, NamesError> {
        let wrong = |what: String| NamesError { path: path.to_owned(), what };
        // Any user could choose the names then.
        if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o002 != 0) {
            return Err(wrong("all users can write to it; chmod o-w".to_owned()));
        }
        let bytes = file::read(path, MAX_LEN).map_err(|error| wrong(error.to_string()))?;
        let names: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if names.version != VERSION {
            return Err(wrong(format!(
                "version {}, but this program reads version {VERSION}",
                names.version
            )));
        }
        Ok(names)
    }
}

/// The members that a record has about a session.
#[derive(Debug)]
struct Named {
    /// The members for the object `mirror`, each with a comma before it.
    members: Box<[u8]>,
    /// The VPC as an index, if it is known for certain.
    vpc: Option<u32>,
    age: Age,
}

/// The age of a name, in seconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Age {
    /// The time after which the name is old.
    old_after: u64,
    /// The time at which it was true.
    as_of: u64,
}

/// The names of several files, for the writer of records.
#[derive(Debug, Default)]
pub struct Names {
    sessions: HashMap<(u32, Address), Named, foldhash::fast::RandomState>,
    /// The JSON object of each host, or an array of them, by VPC and address.
    hosts: HashMap<(Option<u32>, Address), Box<[u8]>, foldhash::fast::RandomState>,
}

impl Names {
    /// Merges files.
    #[must_use]
    pub fn new(files: &[NamesFile]) -> Self {
        let mut vpcs = Vpcs::default();
        let mut sessions: HashMap<_, Vec<(&Session, Age)>> = HashMap::new();
        let mut hosts: HashMap<_, Vec<&Host>> = HashMap::new();
        for file in files {
            for session in &file.sessions {
                let key = (session.vni, Address::from(session.source));
                let age = Age::new(session.as_of.or(file.as_of), file.valid_for);
                let fitting = sessions.entry(key).or_default();
                if !fitting.iter().any(|(known, _)| *known == session) {
                    fitting.push((session, age));
                }
            }
            for host in &file.hosts {
                let vpc = host.vpc.as_deref().map(|name| vpcs.number(name));
                for &address in &host.addresses {
                    let fitting = hosts.entry((vpc, Address::from(address))).or_default();
                    if !fitting.contains(&host) {
                        fitting.push(host);
                    }
                }
            }
        }
        let sessions = sessions.into_iter().map(|(key, fitting)| (key, Named::new(&fitting, &mut vpcs)));
        let hosts = hosts.into_iter().map(|(key, fitting)| (key, described(&fitting)));
        Self { sessions: sessions.collect(), hosts: hosts.collect() }
    }

    /// Returns the number of sessions with a name.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Appends the members that the object `mirror` of a record has besides the outer addresses, each with a comma before
    /// it. `time` is that of the record, in nanoseconds since the epoch.
    pub(crate) fn write(&self, out: &mut Vec<u8>, session: &MirrorSession, flow: &Conversation, time: u64) {
        let mut vpc = None;
        if let Some(named) = self.sessions.get(&(session.vni.get(), session.outer_source)) {
            vpc = named.vpc;
            out.extend_from_slice(&named.members);
            let seconds = time / 1_000_000_000;
            if seconds > named.age.old_after {
                out.extend_from_slice(b",\"names_age\":");
                out.extend_from_slice(
                    itoa::Buffer::new().format(seconds.saturating_sub(named.age.as_of)).as_bytes(),
                );
            }
        }
        for (member, address) in [(b",\"src\":".as_slice(), flow.source), (b",\"dest\":", flow.destination)] {
            let of = |vpc| self.hosts.get(&(vpc, address));
            if let Some(host) = vpc.and_then(|vpc| of(Some(vpc))).or_else(|| of(None)) {
                out.extend_from_slice(member);
                out.extend_from_slice(host);
            }
        }
    }
}

/// The numbers of VPCs.
#[derive(Default)]
struct Vpcs<'a>(HashMap<&'a str, u32>);

impl<'a> Vpcs<'a> {
    fn number(&mut self, name: &'a str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(name).or_insert(next)
    }
}

impl Age {
    fn new(as_of: Option<Time>, valid_for: Option<u64>) -> Self {
        let old_after = as_of.zip(valid_for).map(|(Time(as_of), valid_for)| as_of.saturating_add(valid_for));
        Self { old_after: old_after.unwrap_or(u64::MAX), as_of: as_of.map_or(0, |Time(as_of)| as_of) }
    }
}

/// Returns a field of a session.
type Field = fn(&Session) -> Option<&str>;

impl Named {
    /// Describes the sessions that fit, by what they have in common.
    fn new<'a>(fitting: &[(&'a Session, Age)], vpcs: &mut Vpcs<'a>) -> Self {
        let common = |field: Field| {
            let first = fitting.first().and_then(|(session, _)| field(session));
            first.filter(|first| fitting.iter().all(|(session, _)| field(session) == Some(first)))
        };
        let mut members = Vec::new();
        if let [_, _, ..] = fitting {
            let name = |(session, _): &(&'a Session, Age)| session.session.as_deref().unwrap_or("unnamed");
            let names: Vec<_> = fitting.iter().take(MAX_CANDIDATES).map(name).collect();
            member(&mut members, "candidates", &names);
        }
        let fields: [(&str, Field); 7] = [
            ("session", |session| session.session.as_deref()),
            ("interface", |session| session.interface.as_deref()),
            ("instance", |session| session.instance.as_deref()),
            ("name", |session| session.name.as_deref()),
            ("vpc", |session| session.vpc.as_deref()),
            ("subnet", |session| session.subnet.as_deref()),
            ("account", |session| session.account.as_deref()),
        ];
        for (name, field) in fields {
            if let Some(value) = common(field) {
                member(&mut members, name, value);
            }
        }
        if let [(session, _)] = fitting
            && !session.tags.is_empty()
        {
            let before = members.len();
            member(&mut members, "tags", &session.tags);
            if members.len() > MAX_TEXT {
                members.truncate(before);
            }
        }
        // A session's own name is short. A file of someone else may have anything.
        if members.len() > MAX_TEXT {
            members.clear();
        }
        let vpc = fitting.first().and_then(|(session, _)| session.vpc.as_deref());
        let vpc = vpc.filter(|vpc| fitting.iter().all(|(session, _)| session.vpc.as_deref() == Some(vpc)));
        let oldest = fitting.iter().map(|&(_, age)| age).min_by_key(|age| age.old_after);
        Self {
            members: members.into(),
            vpc: vpc.map(|vpc| vpcs.number(vpc)),
            age: oldest.unwrap_or(Age { old_after: u64::MAX, as_of: 0 }),
        }
    }
}

/// Appends a member of an object, with a comma before it.
fn member(out: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // Writing text into a vector does not fail.
    let _ = serde_json::to_writer(out, value);
}

/// Returns the JSON of the hosts at an address: an object if there is one, an array if there are several.
fn described(fitting: &[&Host]) -> Box<[u8]> {
    #[derive(Serialize)]
    struct Shown<'a> {
        name: &'a str,
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let shown = fitting.iter().take(MAX_CANDIDATES).map(|host| Shown {
        name: &host.name,
        kind: host.kind.as_deref(),
        id: host.id.as_deref(),
    });
    let shown: Vec<_> = shown.collect();
    // Texts have a JSON form.
    let json = match shown.as_slice() {
        [one] => serde_json::to_vec(one),
        several => serde_json::to_vec(several),
    };
    json.ok().filter(|json| json.len() <= MAX_TEXT).unwrap_or_else(|| b"null".to_vec()).into()
}

/// The files of names of a running program, which are read again when they change.
#[derive(Debug)]
pub struct Watched {
    files: Vec<(PathBuf, Option<Seen>)>,
    /// The newest contents of each file that could be read.
    contents: Vec<NamesFile>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    changed: (i64, i64),
    len: u64,
}

impl Seen {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
            len: metadata.len(),
        })
    }
}

impl Watched {
    /// Watches files that need not exist yet.
    #[must_use]
    pub fn new(files: &[PathBuf]) -> Self {
        let contents = files.iter().map(|_| NamesFile::default()).collect();
        Self { files: files.iter().map(|path| (path.clone(), None)).collect(), contents }
    }

    /// Reads the files that have changed since the last call. Returns the names of all files if any has changed, and an
    /// error for each file that has changed and cannot be used: its last names stay.
    pub fn read(&mut self) -> (Option<Names>, Vec<NamesError>) {
        let (mut errors, mut has_changed) = (Vec::new(), false);
        for ((path, seen), contents) in self.files.iter_mut().zip(&mut self.contents) {
            // A file that is removed may be about to be replaced: its names stay.
            let Ok(now) = Seen::of(path) else { continue };
            if *seen == Some(now) {
                continue;
            }
            *seen = Some(now);
            match NamesFile::read(path) {
                Ok(read) => (*contents, has_changed) = (read, true),
                Err(error) => errors.push(error),
            }
        }
        (has_changed.then(|| Names::new(&self.contents)), errors)
    }
}

#[cfg(test)]
mod tests;
