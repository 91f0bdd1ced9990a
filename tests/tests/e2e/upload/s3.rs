//! A server with the part of S3 that the store's client uses: objects are put whole and in parts, read whole
//! and in ranges, listed and deleted. It verifies each request's signature (AWS Signature Version 4), and
//! stores everything in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mirror_xdp_tests::netns::Namespace;

use crate::signed::{self, Answer, Request};

pub(crate) const BUCKET: &str = "packets";
pub(crate) const KEY_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// The minimum size in bytes of all parts but the last.
const LEAST_PART: usize = 5 << 20;

#[derive(Debug, Default)]
struct Contents {
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts by the upload's identifier.
    parts: HashMap<String, BTreeMap<usize, Vec<u8>>>,
    /// The kinds of requests: the method, and a distinguishing word.
    log: Vec<String>,
    /// Requests of any kind, signed or not.
    requests: usize,
}

/// The server. It lives as long as the test's process.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
}

impl S3 {
    /// Starts the server in a namespace.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let contents: Arc<Mutex<Contents>> = Arc::default();
        let serving = Arc::clone(&contents);
        let address = signed::serve(namespace, move |request| {
            let mut contents = serving.lock().unwrap();
            contents.requests += 1;
            answer(&mut contents, request)
        });
        Self { address, contents }
    }

    /// Returns the URL of a prefix in a bucket.
    pub(crate) fn url(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?region=eu-central-1&endpoint=http://{}", self.address)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.contents.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Returns the number of requests of a kind: `GET range`, `PUT part`, `POST complete`, ….
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.contents.lock().unwrap().log.iter().filter(|logged| *logged == kind).count()
    }

    /// Returns the number of requests, whatever their outcome.
    pub(crate) fn requests(&self) -> usize {
        self.contents.lock().unwrap().requests
    }

    /// Returns the number of uploads in parts that are neither completed nor aborted.
    pub(crate) fn unfinished(&self) -> usize {
        self.contents.lock().unwrap().parts.len()
    }

    /// Changes a byte of an object.
    pub(crate) fn flip(&self, name: &str, at: usize) {
        self.contents.lock().unwrap().objects.get_mut(name).unwrap()[at] ^= 1;
    }
}

fn answer(contents: &mut Contents, request: &Request) -> Answer {
    if !request.is_signed("s3", KEY_ID, SECRET) {
        return error(403, "SignatureDoesNotMatch");
    }
    let path = request.path.trim_start_matches('/');
    let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
    if bucket != BUCKET {
        return error(404, "NoSuchBucket");
    }
    let upload = request.query.get("uploadId").cloned();
    let part = request.query.get("partNumber").and_then(|number| number.parse().ok());
    let (kind, answer) = match (request.method.as_str(), upload, part) {
        ("GET", None, _) if name.is_empty() => {
            let prefix = request.query.get("prefix").map_or("", String::as_str);
            ("GET list", list(contents, prefix))
        }
        ("GET" | "HEAD", None, _) => match contents.objects.get(name) {
            None => ("GET nothing", error(404, "NoSuchKey")),
            Some(object) if request.method == "HEAD" => {
                let mut answer = whole(200, &[]);
                answer.1.push(("content-length", object.len().to_string()));
                ("HEAD", answer)
            }
            Some(object) => match request.headers.get("range").and_then(|range| parse_range(range)) {
                None => ("GET", whole(200, object)),
                Some((first, last)) => {
                    let last = last.min(object.len() - 1);
                    let mut answer = whole(206, &object[first..=last]);
                    let range = format!("bytes {first}-{last}/{}", object.len());
                    answer.1.push(("content-range", range));
                    ("GET range", answer)
                }
            },
        },
        ("PUT", None, _) => {
            contents.objects.insert(name.to_owned(), request.body.clone());
            ("PUT", whole(200, &[]))
        }
        ("POST", None, _) if request.query.contains_key("uploads") => {
            let upload = format!("upload{}", contents.log.len());
            contents.parts.insert(upload.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key>\
                     <UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            );
            ("POST begin", whole(200, xml.as_bytes()))
        }
        ("PUT", Some(upload), Some(number)) => match contents.parts.get_mut(&upload) {
            None => ("PUT part", error(404, "NoSuchUpload")),
            Some(parts) => {
                parts.insert(number, request.body.clone());
                ("PUT part", whole(200, &[]))
            }
        },
        ("POST", Some(upload), _) => match contents.parts.remove(&upload) {
            None => ("POST complete", error(404, "NoSuchUpload")),
            Some(parts) => {
                let named = String::from_utf8_lossy(&request.body).matches("<PartNumber>").count();
                let small = parts.values().rev().skip(1).any(|part| part.len() < LEAST_PART);
                if named != parts.len() || small {
                    ("POST complete", error(400, "EntityTooSmall"))
                } else {
                    let object = parts.into_values().flatten().collect();
                    contents.objects.insert(name.to_owned(), object);
                    let xml = format!(
                        "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key>\
                             <ETag>\"e\"</ETag></CompleteMultipartUploadResult>"
                    );
                    ("POST complete", whole(200, xml.as_bytes()))
                }
            }
        },
        ("DELETE", Some(upload), _) => {
            contents.parts.remove(&upload);
            ("DELETE upload", whole(204, &[]))
        }
        ("DELETE", None, _) => {
            contents.objects.remove(name);
            ("DELETE", whole(204, &[]))
        }
        _ => ("?", error(400, "NotImplemented")),
    };
    contents.log.push(kind.to_owned());
    answer
}

fn whole(status: u16, body: &[u8]) -> Answer {
    let headers =
        vec![("etag", "\"e\"".to_owned()), ("last-modified", "Sun, 01 Mar 2026 08:00:00 GMT".to_owned())];
    Answer(status, headers, body.to_vec())
}

fn error(status: u16, code: &str) -> Answer {
    let xml = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    Answer(status, Vec::new(), xml.into_bytes())
}

fn list(contents: &Contents, prefix: &str) -> Answer {
    let mut xml = "<ListBucketResult>".to_owned();
    for (name, object) in contents.objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let _ = write!(
            xml,
            "<Contents><Key>{name}</Key><Size>{}</Size>\
             <LastModified>2026-03-01T08:00:00.000Z</LastModified><ETag>\"e\"</ETag></Contents>",
            object.len()
        );
    }
    whole(200, (xml + "</ListBucketResult>").as_bytes())
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
