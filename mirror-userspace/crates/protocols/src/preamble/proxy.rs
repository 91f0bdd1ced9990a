//! The PROXY protocol of `HAProxy`, versions 1 and 2: a header in front of a client's data, in which a load balancer
//! names the connection that it has accepted (`doc/proxy-protocol.txt` of `HAProxy`).

use std::net::IpAddr;

use crate::reader::Reader;

/// The longest header of version 1.
const MAX_LINE: usize = 107;
/// The longest block of addresses and extensions of version 2. NGINX accepts as much.
pub(super) const MAX_BLOCK: usize = 4096;
/// The longest identifier of an endpoint.
const MAX_ENDPOINT: usize = 64;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxy<'a> {
    /// The version of the protocol.
    pub version: u8,
    /// The endpoints of the connection that the proxy has accepted, source first; `None` for connections of its
    /// own, such as health checks, and for Unix sockets.
    pub endpoints: Option<[(IpAddr, u16); 2]>,
    /// The VPC endpoint of AWS through which the client came.
    pub vpc_endpoint: Option<&'a [u8]>,
}

/// The result of [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// The bytes are no header.
    None,
    More,
    Header {
        len: usize,
        proxy: Proxy<'a>,
    },
}

/// Parses the header that bytes begin with.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    match bytes.first() {
        Some(b'P') => parse_line(bytes),
        Some(b'\r') => parse_block(bytes),
        _ => Parsed::None,
    }
}

/// Returns true if one is the beginning of the other.
fn agree(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other)
}

fn parse_line(bytes: &[u8]) -> Parsed<'_> {
    const BEGIN: &[u8] = b"PROXY ";
    if !agree(bytes, BEGIN) {
        return Parsed::None;
    }
    let first = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = first.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_LINE { Parsed::More } else { Parsed::None };
    };
    let line = first.get(BEGIN.len()..end).and_then(|line| str::from_utf8(line).ok());
    match line.and_then(|line| line.strip_suffix('\r')).and_then(addresses) {
        Some(endpoints) => {
            Parsed::Header { len: end + 1, proxy: Proxy { version: 1, endpoints, vpc_endpoint: None } }
        }
        None => Parsed::None,
    }
}

/// Parses the words behind `PROXY`.
#[expect(clippy::option_option, reason = "the outer one stands for words that are not of the protocol")]
fn addresses(words: &str) -> Option<Option<[(IpAddr, u16); 2]>> {
    let mut words = words.split(' ');
    let ipv6 = match words.next()? {
        "TCP4" => false,
        "TCP6" => true,
        "UNKNOWN" => return Some(None),
        _ => return None,
    };
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == ipv6);
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next()?.parse().ok();
    let (from, to) = (port()?, port()?);
    words.next().is_none().then_some(Some([(source, from), (destination, to)]))
}

fn parse_block(bytes: &[u8]) -> Parsed<'_> {
    if !agree(bytes, SIGNATURE) {
        return Parsed::None;
    }
    let mut reader = Reader::new(bytes);
    let header = (reader.bytes(SIGNATURE.len()), reader.u8(), reader.u8(), reader.u16());
    let (_, Some(command @ (0x20 | 0x21)), Some(family), Some(len)) = header else {
        // The header is incomplete, or its version and command are not those of version 2.
        let possible = bytes.get(SIGNATURE.len()).is_none_or(|command| matches!(command, 0x20 | 0x21));
        return if possible { Parsed::More } else { Parsed::None };
    };
    if usize::from(len) > MAX_BLOCK {
        return Parsed::None;
    }
    let Some(block) = reader.bytes(len.into()) else { return Parsed::More };
    let mut block = Reader::new(block);
    let local = command & 1 == 0;
    let endpoints = match family >> 4 {
        // The receiver of a local connection discards the block.
        _ if local => None,
        1 => endpoints(&mut block, |block| block.array::<4>().map(IpAddr::from)),
        2 => endpoints(&mut block, |block| block.array::<16>().map(IpAddr::from)),
        3 => block.bytes(216).and(None),
        _ => None,
    };
    if !local && matches!(family >> 4, 1 | 2) && endpoints.is_none() {
        return Parsed::None;
    }
    let vpc_endpoint = if local { None } else { vpc_endpoint(block) };
    let len = SIGNATURE.len() + 4 + usize::from(len);
    Parsed::Header { len, proxy: Proxy { version: 2, endpoints, vpc_endpoint } }
}

fn endpoints(
    block: &mut Reader<'_>,
    address: impl Fn(&mut Reader<'_>) -> Option<IpAddr>,
) -> Option<[(IpAddr, u16); 2]> {
    let (source, destination) = (address(block)?, address(block)?);
    Some([(source, block.u16()?), (destination, block.u16()?)])
}

/// Returns the identifier of the VPC endpoint in the extensions of a Network Load Balancer.
fn vpc_endpoint(mut extensions: Reader<'_>) -> Option<&[u8]> {
    const AWS: u8 = 0xea;
    const VPC_ENDPOINT: u8 = 1;
    loop {
        let (kind, value) = (extensions.u8()?, extensions.vector16()?);
        if let (AWS, [VPC_ENDPOINT, identifier @ ..]) = (kind, value) {
            return Some(identifier).filter(|it| !it.is_empty() && it.len() <= MAX_ENDPOINT);
        }
    }
}
