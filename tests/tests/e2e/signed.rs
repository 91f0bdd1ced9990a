//! Servers that stand in for AWS: HTTP/1.1 on a local address, and the check of a request's signature (AWS Signature
//! Version 4).
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use mirror_xdp_tests::netns::Namespace;
use sha2::{Digest as _, Sha256};

/// The parts of a request that matter.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// An answer: its status, its headers without the length, and its body.
pub(crate) struct Answer(pub(crate) u16, pub(crate) Vec<(&'static str, String)>, pub(crate) Vec<u8>);

/// Serves requests in a namespace, until the test's process ends. Returns the address.
pub(crate) fn serve(
    namespace: &Namespace,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    let listener = namespace.enter(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve_one(stream, &*answer));
        }
    });
    address
}

fn serve_one(stream: TcpStream, answer: &impl Fn(&Request) -> Answer) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let Answer(status, headers, body) = answer(&request);
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !head.contains("content-length") {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        if writer.write_all((head + "\r\n").as_bytes()).and_then(|()| writer.write_all(&body)).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&len| len > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    });
    let query: BTreeMap<_, _> = query.collect();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query, headers, body })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Returns the HMAC-SHA256 (RFC 2104), for keys no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

impl Request {
    /// Returns whether the request has a valid signature for a service, by the secret of a key.
    pub(crate) fn is_signed(&self, service: &str, key_id: &str, secret: &str) -> bool {
        let header = |name: &str| self.headers.get(name).map_or("", String::as_str);
        let authorization = header("authorization");
        let field = |name: &str| {
            let field = authorization.split([' ', ',']).find_map(|field| field.strip_prefix(name));
            field.unwrap_or_default()
        };
        let credential = field("Credential=");
        let Some((id, scope)) = credential.split_once('/') else { return false };
        let payload = header("x-amz-content-sha256");
        if id != key_id || (payload != "UNSIGNED-PAYLOAD" && payload != hex(&Sha256::digest(&self.body))) {
            return false;
        }
        let query: Vec<_> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let signed = field("SignedHeaders=");
        let headers: Vec<_> = signed.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
        let headers = headers.concat();
        let Request { method, path, .. } = self;
        let canonical = format!("{method}\n{path}\n{}\n{headers}\n{signed}\n{payload}", query.join("&"));
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            header("x-amz-date"),
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let secret = format!("AWS4{secret}").into_bytes();
        let key = scope.split('/').fold(secret, |key, part| hmac(&key, part.as_bytes()));
        scope.contains(&format!("/eu-central-1/{service}/"))
            && hex(&hmac(&key, to_sign.as_bytes())) == field("Signature=")
    }

    /// Returns the identifier of the key that signed the request.
    pub(crate) fn key_id(&self) -> &str {
        let authorization = self.headers.get("authorization").map_or("", String::as_str);
        let id = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
        id.map_or("", |(id, _)| id)
    }

    /// Returns the fields of a form in the body.
    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        let text = String::from_utf8_lossy(&self.body);
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        text.split('&').map(pair).collect()
    }
}

/// Decodes a field of a form (URL Standard, section 5.1).
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}
