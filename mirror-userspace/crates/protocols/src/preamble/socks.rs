//! SOCKS 4, 4a and 5 (RFC 1928, RFC 1929): a dialogue in which a client asks a proxy for a connection. Behind it,
//! both directions belong to the protocol of that connection.
//!
//! The messages of a client are few and short, so they are parsed together, from the first byte on.

use std::net::IpAddr;

use crate::detect::Probe;
use crate::reader::Reader;

/// A version of SOCKS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Four,
    Five,
}

impl Version {
    /// Returns the version that a client's first byte names.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? {
            4 => Some(Self::Four),
            5 => Some(Self::Five),
            _ => None,
        }
    }

    /// Returns the version of a server's first bytes, if they can be an answer. Of version 5, it is the choice of a
    /// method, and an answer behind it; of version 4, only the code of success.
    pub(super) fn of_answer(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [5] | [5, 0 | 2] | [5, 0, 5, ..] | [5, 2, 1, ..] => Some(Self::Five),
            [0] | [0, GRANTED, ..] => Some(Self::Four),
            _ => None,
        }
    }
}

/// The destination that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A name, which the proxy resolves.
    Name(&'a [u8]),
    /// An address.
    Address(IpAddr),
}

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// 4 or 5.
    pub version: u8,
    /// The destination.
    pub target: Target<'a>,
    /// The destination's port.
    pub port: u16,
}

/// The result of [`request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// The bytes are not those of a SOCKS client.
    None,
    More,
    Request {
        len: usize,
        request: Request<'a>,
    },
}

/// The reason why a client's messages have no request.
enum Stop {
    Malformed,
    Incomplete,
}

/// The longest user name and name of a host.
const MAX_TEXT: usize = 255;
const CONNECT: u8 = 1;
/// The code of success in version 4.
const GRANTED: u8 = 90;
const UDP: u8 = 3;

/// Parses a client's messages up to its request.
pub(super) fn request(bytes: &[u8]) -> Parsed<'_> {
    let mut reader = Reader::new(bytes);
    let parsed = match reader.u8() {
        Some(4) => version_4(&mut reader),
        Some(5) => version_5(&mut reader),
        _ => return Parsed::None,
    };
    match parsed {
        Ok(request) => Parsed::Request { len: bytes.len() - reader.rest().len(), request },
        Err(Stop::Incomplete) => Parsed::More,
        Err(Stop::Malformed) => Parsed::None,
    }
}

/// Fails if a condition does not hold.
const fn check(holds: bool) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Malformed) }
}

fn version_4<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, Stop> {
    check(matches!(reader.u8().ok_or(Stop::Incomplete)?, CONNECT..UDP))?;
    let port = reader.u16().ok_or(Stop::Incomplete)?;
    let address: [u8; 4] = reader.array().ok_or(Stop::Incomplete)?;
    check(port > 0)?;
    text(reader)?;
    let target = match address {
        [0, 0, 0, 1..=255] => {
            let name = text(reader)?;
            check(!name.is_empty())?;
            Target::Name(name)
        }
        [0, ..] => return Err(Stop::Malformed),
        _ => Target::Address(address.into()),
    };
    Ok(Request { version: 4, target, port })
}

/// Reads a text that ends with a zero.
fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Stop> {
    let rest = reader.rest();
    let len = rest.iter().take(MAX_TEXT + 1).take_while(|byte| matches!(byte, b' '..=b'~')).count();
    check(len <= MAX_TEXT && matches!(rest.get(len), None | Some(0)))?;
    let text = reader.bytes(len).ok_or(Stop::Incomplete)?;
    reader.u8().ok_or(Stop::Incomplete)?;
    Ok(text)
}

fn version_5<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, Stop> {
    const NO_AUTHENTICATION: u8 = 0;
    const PASSWORD: u8 = 2;
    let methods = usize::from(reader.u8().ok_or(Stop::Incomplete)?);
    check(methods > 0)?;
    let methods = reader.bytes(methods).ok_or(Stop::Incomplete)?;
    // Other methods change what follows.
    check(methods.iter().any(|it| matches!(*it, NO_AUTHENTICATION | PASSWORD)))?;
    let mut next = reader.u8().ok_or(Stop::Incomplete)?;
    if next == 1 {
        check(methods.contains(&PASSWORD))?;
        for _ in 0..2 {
            reader.vector8().ok_or(Stop::Incomplete)?;
        }
        next = reader.u8().ok_or(Stop::Incomplete)?;
    }
    check(next == 5)?;
    check(matches!(reader.u8().ok_or(Stop::Incomplete)?, CONNECT..=UDP))?;
    check(reader.u8().ok_or(Stop::Incomplete)? == 0)?;
    let target = match reader.u8().ok_or(Stop::Incomplete)? {
        1 => Target::Address(reader.array::<4>().ok_or(Stop::Incomplete)?.into()),
        3 => {
            let name = reader.vector8().ok_or(Stop::Incomplete)?;
            check(!name.is_empty())?;
            Target::Name(name)
        }
        4 => Target::Address(reader.array::<16>().ok_or(Stop::Incomplete)?.into()),
        _ => return Err(Stop::Malformed),
    };
    let port = reader.u16().ok_or(Stop::Incomplete)?;
    Ok(Request { version: 5, target, port })
}

/// Checks the answers of a server to a client's messages.
pub(super) fn answer(version: Version, bytes: &[u8]) -> Probe {
    match answers(version, bytes) {
        Ok(_) => Probe::Yes,
        Err(Stop::Incomplete) => Probe::More,
        Err(Stop::Malformed) => Probe::No,
    }
}

/// Returns the length of the complete answers of a server.
pub(super) fn answer_len(version: Version, bytes: &[u8]) -> usize {
    answers(version, bytes).unwrap_or_default()
}

fn answers(version: Version, bytes: &[u8]) -> Result<usize, Stop> {
    let mut reader = Reader::new(bytes);
    let mut next = || reader.u8().ok_or(Stop::Incomplete);
    match version {
        Version::Four => {
            check(next()? == 0)?;
            check(matches!(next()?, GRANTED..=93))?;
            reader.bytes(6).ok_or(Stop::Incomplete)?;
        }
        Version::Five => {
            check(next()? == 5)?;
            next()?;
            let mut first = next()?;
            if first == 1 {
                // The verdict on user name and password.
                next()?;
                first = next()?;
            }
            check(first == 5)?;
            check(next()? <= 8 && next()? == 0)?;
            match next()? {
                1 => reader.bytes(4).ok_or(Stop::Incomplete)?,
                3 => reader.vector8().ok_or(Stop::Incomplete)?,
                4 => reader.bytes(16).ok_or(Stop::Incomplete)?,
                _ => return Err(Stop::Malformed),
            };
            reader.u16().ok_or(Stop::Incomplete)?;
        }
    }
    Ok(bytes.len() - reader.rest().len())
}
