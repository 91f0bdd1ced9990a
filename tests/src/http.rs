//! An HTTP/1.1 client for tests: one request for each connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use serde_json::Value;

use crate::netns::Namespace;

/// The time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer of a server.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, without the status line.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Parses the body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Returns the value of a header, whose name is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            (header.to_ascii_lowercase() == name).then_some(value.trim())
        })
    }
}

/// Connects to an address in a namespace.
pub fn connect(namespace: &Namespace, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = namespace.enter(|| TcpStream::connect_timeout(&address, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects to an address in a namespace from another address there; all of 127.0.0.0/8 can be used.
pub fn connect_from(namespace: &Namespace, source: Ipv4Addr, address: SocketAddrV4) -> io::Result<TcpStream> {
    let connect = || -> io::Result<TcpStream> {
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        socket::connect(socket.as_raw_fd(), &SockaddrIn::from(address))?;
        Ok(socket.into())
    };
    let stream = namespace.enter(connect)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends `METHOD PATH` with additional header lines to a server, and returns its answer.
pub fn ask(
    namespace: &Namespace,
    address: SocketAddr,
    request: &str,
    headers: &[&str],
) -> io::Result<Answer> {
    ask_by(connect(namespace, address)?, address, request, headers)
}

/// Sends a request as [`ask`] does, over an existing connection.
pub fn ask_by(
    mut stream: TcpStream,
    address: SocketAddr,
    request: &str,
    headers: &[&str],
) -> io::Result<Answer> {
    let mut head = format!("{request} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|line| line.starts_with("Host:")) {
        head = format!("{head}Host: {address}\r\n");
    }
    for line in headers {
        head += line;
        head += "\r\n";
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::other("not an answer of HTTP"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (status, head) = head.split_once("\r\n")?;
    let status = status.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = dechunk(body)?;
    }
    Some(answer)
}

fn dechunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, chunk) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body += chunk.get(..length)?;
        rest = chunk.get(length..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_chunks() {
        let whole = parse("HTTP/1.1 404 Not Found\r\nContent-Type: x\r\n\r\nbody").unwrap();
        assert_eq!(
            (whole.status, whole.header("content-type"), whole.body.as_str()),
            (404, Some("x"), "body")
        );
        let chunks =
            parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
        assert_eq!(chunks.unwrap().body, "abc");
    }
}
