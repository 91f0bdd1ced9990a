//! Copies of segments outside the store's directory: in an object store (S3 or a compatible one) or in a
//! directory. The objects have the names of the files, the manifest included, so the copy is itself a store.

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::{fs, io};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mirror_base::{ParseError, one_line};
use mirror_packet::text::hex;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use super::directory::Directory;
use super::manifest::{self, Contents, FILE_NAME};
use super::names::{FileName, shown};

#[cfg(feature = "s3")]
mod s3;
/// Stands in for the client of S3 where it is left out.
#[cfg(not(feature = "s3"))]
mod s3 {
    use std::sync::Arc;

    use object_store::ObjectStore;

    pub(super) fn open(_: &str, _: Option<&str>, _: Option<&str>) -> Result<Arc<dyn ObjectStore>, String> {
        Err("this program is built without S3; build it with the feature `s3`".to_owned())
    }
}

/// Maximum number of requests in flight.
pub(super) const AT_ONCE: usize = 16;
/// Size in bytes of the ranges in which a whole object is read.
const PIECE: u64 = 8 << 20;

/// The accepted forms of a location, for error messages.
const ALLOWED: &str = "write s3://BUCKET/PREFIX or file:///DIRECTORY";

/// The location of copies: `s3://BUCKET/PREFIX`, with optional `?region=…` and `&endpoint=…`, or
/// `file:///DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    url: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    S3 { bucket: String, prefix: String, region: Option<String>, endpoint: Option<String> },
    Directory(PathBuf),
}

impl Location {
    /// Returns whether a text is intended as a URL rather than as a directory's name.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// Returns whether this is in the same bucket as another location, or is the same directory.
    fn is_beside(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (
                Place::S3 { bucket, region, endpoint, .. },
                Place::S3 { bucket: bucket_2, region: region_2, endpoint: endpoint_2, .. },
            ) => (bucket, region, endpoint) == (bucket_2, region_2, endpoint_2),
            (Place::Directory(this), Place::Directory(other)) => this == other,
            _ => false,
        }
    }

    /// Returns the location of a copy from a manifest, provided that it is among those that the user `named`.
    /// A manifest may be from someone else, so it must not choose the server that receives signed requests of
    /// this user (bucket and region are parts of its name), nor a directory of this host.
    pub(super) fn of_manifest(url: &str, named: &[Self]) -> Result<Self, RemoteError> {
        let location: Self = url.parse()?;
        if named.iter().any(|named| location.is_beside(named)) {
            return Ok(location);
        }
        let what = "the manifest alone names this place; if it is yours, add --copy and this URL".to_owned();
        Err(RemoteError { url: location.url, what })
    }

    /// Returns the directory, if the location is one.
    #[must_use]
    pub fn directory(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::S3 { .. } => None,
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Location {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |what: String| ParseError::new(what, ALLOWED);
        let url = Url::parse(text).map_err(|_| wrong(format!("{} is not a URL", shown(text))))?;
        if !url.username().is_empty() || url.password().is_some() {
            // The message does not repeat the text, which contains credentials.
            return Err(ParseError::new(
                "credentials do not belong in a URL",
                "they come from the environment or the instance",
            ));
        }
        let place = match url.scheme() {
            "s3" => {
                let bucket = url.host_str().filter(|host| !host.is_empty());
                let bucket =
                    bucket.ok_or_else(|| wrong(format!("{} names no bucket", shown(text))))?.to_owned();
                // Bucket and region become part of a host name.
                if !is_label(&bucket) {
                    return Err(wrong(format!("{} is not the name of a bucket", shown(&bucket))));
                }
                let prefix = url.path().trim_matches('/').to_owned();
                let (mut region, mut endpoint) = (None, None);
                for (key, value) in url.query_pairs() {
                    match &*key {
                        "region" if is_label(&value) && !value.contains('.') => {
                            region = Some(value.into_owned());
                        }
                        "region" => {
                            let what = format!("{} is not a region", shown(&value));
                            return Err(ParseError::new(what, "write such as region=eu-central-1"));
                        }
                        "endpoint" if value.starts_with("https://") || value.starts_with("http://") => {
                            if is_plain(&value) {
                                let what = format!(
                                    "{} is not encrypted, and requests have credentials",
                                    shown(&value)
                                );
                                return Err(ParseError::new(
                                    what,
                                    "write https://; http:// is for this host alone",
                                ));
                            }
                            endpoint = Some(value.into_owned());
                        }
                        "endpoint" => {
                            let what = format!("{} is not an endpoint", shown(&value));
                            return Err(ParseError::new(what, "write endpoint=https://HOST:PORT"));
                        }
                        _ => {
                            let what = format!("{} is not known in a URL", shown(&key));
                            return Err(ParseError::new(what, "only `region` and `endpoint` are"));
                        }
                    }
                }
                Place::S3 { bucket, prefix, region, endpoint }
            }
            "file" => {
                let directory = url.to_file_path();
                Place::Directory(
                    directory
                        .map_err(|()| wrong(format!("{} is not a directory of this host", shown(text))))?,
                )
            }
            other => return Err(wrong(format!("`{other}:` is no place for a store"))),
        };
        Ok(Self { url: text.trim_end_matches('/').to_owned(), place })
    }
}

/// Returns whether a text may be part of a host name.
fn is_label(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Returns whether requests to an endpoint can be intercepted: they use HTTP to another host.
fn is_plain(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return true };
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() != "https" && !here
}

/// An error of reading or writing a copy, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {what}")]
pub struct RemoteError {
    url: String,
    what: String,
}

impl From<ParseError> for RemoteError {
    fn from(wrong: ParseError) -> Self {
        Self { url: "the place of a copy".to_owned(), what: wrong.to_string() }
    }
}

impl RemoteError {
    /// Returns the error that the location is not a store.
    fn is_no_store(url: &str) -> Self {
        Self { url: url.to_owned(), what: format!("is no store: it has no {FILE_NAME}") }
    }
}

/// Describes an error for the user who set up the store.
fn meaning(error: &object_store::Error) -> String {
    // A longer text would be a document that the server sent.
    const MOST: usize = 300;
    let text = one_line(error);
    let said = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    let what = if said(&["NoSuchBucket"]) {
        "there is no such bucket"
    } else if said(&["latest/api/token", "meta-data/iam"]) {
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role"
    } else if said(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"])
        || matches!(error, object_store::Error::Unauthenticated { .. })
    {
        "the credentials are not accepted"
    } else if said(&["AccessDenied"]) || matches!(error, object_store::Error::PermissionDenied { .. }) {
        "access is denied; the credentials need s3:ListBucket, s3:GetObject, s3:PutObject and \
         s3:AbortMultipartUpload there"
    } else if said(&["without LOCATION", "AuthorizationHeaderMalformed", "PermanentRedirect"]) {
        "the bucket is in another region; add ?region=… to the URL"
    } else if said(&["timed out"]) {
        "there is no answer in time"
    } else if let Some((_, why)) = text.split_once("(Connect): ") {
        return format!("cannot be reached: {why}").chars().take(MOST).collect();
    } else {
        ""
    };
    if what.is_empty() { text.chars().take(MOST).collect() } else { what.to_owned() }
}

/// A location of copies that is open.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    /// The directory, if the location is one. Its entries are checked before they are read.
    directory: Option<Arc<Directory>>,
}

impl Remote {
    /// Opens a location without sending requests. For writing, creates a directory that is missing.
    pub(super) fn open(location: &Location, write: bool) -> Result<Self, RemoteError> {
        let url = location.to_string();
        let error = |what: String| RemoteError { url: url.clone(), what };
        let mut local = None;
        let (store, prefix): (Arc<dyn ObjectStore>, _) = match &location.place {
            Place::Directory(directory) => {
                if write {
                    fs::create_dir_all(directory).map_err(|reason| error(reason.to_string()))?;
                } else if !directory.is_dir() {
                    return Err(RemoteError::is_no_store(&url));
                }
                let store = LocalFileSystem::new_with_prefix(directory);
                let store = store.map_err(|reason| error(meaning(&reason)))?;
                let opened =
                    Directory::open_to_read(directory).map_err(|reason| error(reason.to_string()))?;
                local = Some(Arc::new(opened));
                (Arc::new(store.with_fsync(true)), Path::default())
            }
            Place::S3 { bucket, prefix, region, endpoint } => {
                let store = s3::open(bucket, region.as_deref(), endpoint.as_deref()).map_err(error)?;
                (store, Path::from(prefix.as_str()))
            }
        };
        Ok(Self { directory: local, ..Self::of(store, prefix, url) })
    }

    pub(super) fn of(store: Arc<dyn ObjectStore>, prefix: Path, url: String) -> Self {
        Self { store, prefix, url, directory: None }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn error(&self, name: &FileName, error: &object_store::Error) -> RemoteError {
        RemoteError { url: self.url.clone(), what: format!("{name}: {}", meaning(error)) }
    }

    fn wrong(&self, what: String) -> RemoteError {
        RemoteError { url: self.url.clone(), what }
    }

    pub(super) fn path(&self, name: &FileName) -> Path {
        self.prefix.clone().join(name.to_string())
    }

    /// Refuses an entry of a directory that is not a regular file, such as a link or a FIFO.
    fn check(&self, name: &FileName) -> Result<(), RemoteError> {
        let size = self.directory.as_ref().map(|directory| directory.size(name)).transpose();
        size.map(|_| ()).map_err(|refused| self.wrong(refused.to_string()))
    }

    /// Returns the object store, for writing.
    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// Reads a whole object of at most `most` bytes; returns `None` if it does not exist.
    pub(super) async fn get(&self, name: &FileName, most: u64) -> Result<Option<Bytes>, RemoteError> {
        self.check(name)?;
        let read = async {
            // The body is read piece by piece, since a server may send more than it announced.
            let mut pieces = self.store.get(&self.path(name)).await?.into_stream();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.try_next().await? {
                if (bytes.len() + piece.len()) as u64 > most {
                    return Ok(None);
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(Some(Bytes::from(bytes)))
        };
        match read.await {
            Ok(None) => Err(self.wrong(format!("{name} is longer than {most} bytes"))),
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { source, .. })
                if !source.to_string().contains("NoSuchBucket") =>
            {
                Ok(None)
            }
            Err(error) => Err(self.error(name, &error)),
        }
    }

    async fn range(&self, name: &FileName, range: Range<u64>) -> Result<Bytes, RemoteError> {
        self.check(name)?;
        let wanted = range.end - range.start;
        let bytes = self.store.get_range(&self.path(name), range).await;
        let bytes = bytes.map_err(|error| self.error(name, &error))?;
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(self.wrong(format!("{name} is shorter than it was")))
        }
    }

    /// Returns the size of an object, if it exists.
    async fn size(&self, name: &FileName) -> Result<Option<u64>, RemoteError> {
        self.check(name)?;
        match self.store.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(name, &error)),
        }
    }

    /// Reads all of an object, and returns what is wrong with it, if anything is.
    pub(super) async fn compare(
        &self,
        name: &FileName,
        size: u64,
        digest: &str,
        mut read: impl FnMut(u64),
    ) -> Result<Option<String>, RemoteError> {
        // A foreign entry is a finding, and the other files are compared as well.
        if let Err(RemoteError { what, .. }) = self.check(name) {
            return Ok(Some(format!("cannot be read: {what}")));
        }
        match self.size(name).await? {
            None => return Ok(Some("is missing".to_owned())),
            Some(found) if found != size => {
                return Ok(Some(format!("was altered: it has {found} bytes instead of {size}")));
            }
            Some(_) => {}
        }
        let mut hash = Sha256::new();
        let starts = (0..size).step_by(PIECE as usize);
        let pieces = starts.map(|start| self.range(name, start..(start + PIECE).min(size)));
        let mut pieces = stream::iter(pieces).buffered(4);
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            read(piece.len() as u64);
        }
        let same = hex(&hash.finalize()) == digest;
        Ok((!same).then(|| "was altered: its digest differs from the one in the manifest".to_owned()))
    }

    /// Returns the names of the objects at the location.
    async fn list(&self) -> Result<Vec<String>, RemoteError> {
        // Of a directory, only its own entries: no link is followed, and no entry keeps others from being listed.
        if let Some(directory) = &self.directory {
            return directory.list().map_err(|error| self.wrong(format!("list: {error}")));
        }
        let mut names = Vec::new();
        let mut found = self.store.list(Some(&self.prefix));
        while let Some(object) = found.next().await {
            let object = object.map_err(|error| self.wrong(format!("list: {}", meaning(&error))))?;
            // Objects in subdirectories are not the store's.
            let mut parts = object.location.prefix_match(&self.prefix).into_iter().flatten();
            if let (Some(name), None) = (parts.next(), parts.next()) {
                names.push(name.as_ref().to_owned());
            }
        }
        Ok(names)
    }
}

/// A copy of a store, read synchronously by the calling thread.
#[derive(Debug)]
pub struct RemoteReader {
    remote: Remote,
    runtime: tokio::runtime::Runtime,
}

impl RemoteReader {
    /// Opens a copy for reading, without sending requests.
    pub fn open(location: &Location) -> Result<Self, RemoteError> {
        Self::of(Remote::open(location, false)?)
    }

    pub(super) fn of(remote: Remote) -> Result<Self, RemoteError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let error = |reason: io::Error| RemoteError { url: remote.url.clone(), what: reason.to_string() };
        Ok(Self { runtime: runtime.map_err(error)?, remote })
    }

    /// Reads the manifest.
    pub fn manifest(&self) -> Result<Contents, RemoteError> {
        let bytes = self.runtime.block_on(self.remote.get(&FileName::Manifest, manifest::LONGEST))?;
        let bytes = bytes.ok_or_else(|| RemoteError::is_no_store(&self.remote.url))?;
        Ok(Contents::parse(&bytes))
    }

    /// Returns the error that an object is missing.
    pub(super) fn missing(&self, name: &FileName) -> RemoteError {
        self.remote.wrong(format!("{name} is missing"))
    }

    pub(super) fn url(&self) -> &str {
        self.remote.url()
    }

    /// Reads whole objects of at most `most` bytes, several at the same time; returns `None` for those that
    /// do not exist.
    pub(super) fn get_all(&self, names: &[FileName], most: u64) -> Result<Vec<Option<Bytes>>, RemoteError> {
        self.at_once(names.iter().map(|name| self.remote.get(name, most)))
    }

    /// Reads ranges of objects, several at the same time.
    pub(super) fn ranges<'n>(
        &self,
        wanted: impl Iterator<Item = (&'n FileName, Range<u64>)>,
    ) -> Result<Vec<Bytes>, RemoteError> {
        self.at_once(wanted.map(|(name, range)| self.remote.range(name, range)))
    }

    fn at_once<T>(
        &self,
        requests: impl Iterator<Item = impl Future<Output = Result<T, RemoteError>>>,
    ) -> Result<Vec<T>, RemoteError> {
        self.runtime.block_on(stream::iter(requests).buffered(AT_ONCE).try_collect())
    }

    /// Compares an object, see [`Remote::compare`].
    pub(super) fn compare(
        &self,
        name: &FileName,
        size: u64,
        digest: &str,
        read: impl FnMut(u64),
    ) -> Result<Option<String>, RemoteError> {
        self.runtime.block_on(self.remote.compare(name, size, digest, read))
    }

    /// Returns what is wrong with an entry of a directory, if it is not a regular file.
    pub(super) fn fault(&self, name: &FileName) -> Option<String> {
        self.remote.check(name).err().map(|error| error.what)
    }

    /// Returns the names of the objects at the location.
    pub(super) fn list(&self) -> Result<Vec<String>, RemoteError> {
        self.runtime.block_on(self.remote.list())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood_and_others_refused_in_one_line() {
        let place = |text: &str| text.parse::<Location>().map(|location| location.place);
        let s3 = |bucket: &str, prefix: &str, region: Option<&str>, endpoint: Option<&str>| Place::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: region.map(str::to_owned),
            endpoint: endpoint.map(str::to_owned),
        };
        assert_eq!(place("s3://packets"), Ok(s3("packets", "", None, None)));
        assert_eq!(place("s3://packets/a/b/"), Ok(s3("packets", "a/b", None, None)));
        assert_eq!(
            place("s3://packets/a?region=eu-central-1&endpoint=https://minio.example:9000"),
            Ok(s3("packets", "a", Some("eu-central-1"), Some("https://minio.example:9000")))
        );
        assert_eq!(place("file:///data/copy"), Ok(Place::Directory("/data/copy".into())));
        for (text, expected) in [
            ("packets", "is not a URL"),
            ("gs://packets", "`gs:` is no place for a store"),
            ("s3://", "names no bucket"),
            ("s3://me:secret@packets/a", "credentials do not belong in a URL"),
            ("s3://packets/a?secret=1", "`secret` is not known"),
            ("s3://packets?endpoint=minio", "is not an endpoint"),
            ("s3://packets?endpoint=http://minio.example:9000", "is not encrypted"),
            ("s3://packets?endpoint=http://127.0.0.1.example:9000", "is not encrypted"),
            ("s3://packets?endpoint=http://me@10.0.0.1", "is not encrypted"),
            ("s3://packets?region=x.example/%23", "is not a region"),
            ("s3://packets?region=x.example", "is not a region"),
            ("s3://a%2fb/c", "is not the name of a bucket"),
            ("file://host/data", "is not a directory of this host"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("me:secret"), "{text}: {error}");
        }
    }

    #[test]
    fn hostile_manifests_name_no_server_and_no_directory_that_the_user_has_not_named() {
        let named = |urls: &[&str]| urls.iter().map(|url| url.parse().unwrap()).collect::<Vec<Location>>();
        let mine = named(&[
            "s3://packets/a?endpoint=https://minio.example:9000",
            "s3://mine?region=eu-central-1",
            "file:///copies/a",
        ]);
        for (url, allowed) in [
            ("s3://packets/a", false),
            ("s3://packets/b?endpoint=https://minio.example:9000", true),
            ("s3://other/b?endpoint=https://minio.example:9000", false),
            ("s3://packets/b?endpoint=https://minio.example:9000&region=eu-central-1", false),
            ("s3://mine/b?region=eu-central-1", true),
            ("s3://mine/b?region=us-east-1", false),
            ("s3://mine/b", false),
            ("s3://mine/b?region=evil.example", false),
            ("s3://packets/a?endpoint=https://evil.example", false),
            ("s3://packets/a?endpoint=https://minio.example", false),
            ("s3://packets/a?endpoint=http://127.0.0.1:9000", false),
            ("file:///copies/a", true),
            ("file:///copies", false),
            ("file:///etc", false),
        ] {
            let outcome = Location::of_manifest(url, &mine);
            assert_eq!(outcome.is_ok(), allowed, "{url}");
            assert!(Location::of_manifest(url, &[]).is_err(), "{url}");
            if let Err(error) = outcome {
                let error = error.to_string();
                assert!(error.contains("--copy") || error.contains("is not a region"), "{error}");
            }
        }
        for (endpoint, plain) in [
            ("http://localhost:9000", false),
            ("http://127.0.0.1", false),
            ("http://[::1]:9000", false),
            ("https://10.0.0.1", false),
            ("http://10.0.0.1", true),
            ("http://[::ffff:10.0.0.1]", true),
            ("http://localhost.example", true),
            ("http://localhost@10.0.0.1", true),
            ("http://", true),
        ] {
            assert_eq!(is_plain(endpoint), plain, "{endpoint}");
        }
    }
}
