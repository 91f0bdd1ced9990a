//! Protocols that begin in plain text and may negotiate TLS: how they open, and where TLS begins in them.
//!
//! An opening only permits a search. The hello itself is so unlike anything else that it needs no command in front,
//! which is good for conversations of which one direction is mirrored, and for commands that nobody knew of.

use mirror_packet::Direction;

use crate::detect::{AppProto, Probe};

/// The opening of a protocol that may negotiate TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The protocol, unless several open so.
    pub protocol: Option<AppProto>,
}

/// The first words of a protocol's side, in upper case. The first word that matches decides.
type Words = &'static [(&'static [u8], Option<AppProto>)];

const SERVER: Words = &[
    (b"+OK", Some(AppProto::Pop3)),
    // SMTP, LMTP, FTP.
    (b"220 ", None),
    (b"220-", None),
    (b"200 ", Some(AppProto::Nntp)),
    (b"201 ", Some(AppProto::Nntp)),
    (b"\"IMPLEMENTATION\"", Some(AppProto::Sieve)),
    (b"<?XML ", Some(AppProto::Xmpp)),
    (b"<STREAM:STREAM", Some(AppProto::Xmpp)),
];

const CLIENT: Words = &[
    (b"CAPA\r\n", Some(AppProto::Pop3)),
    (b"STLS\r\n", Some(AppProto::Pop3)),
    (b"AUTH TLS", Some(AppProto::Ftp)),
    (b"AUTH SSL", Some(AppProto::Ftp)),
    (b"FEAT\r\n", Some(AppProto::Ftp)),
    (b"CAPABILITIES", Some(AppProto::Nntp)),
    (b"MODE READER", Some(AppProto::Nntp)),
    (b"STARTTLS", None),
    (b"LHLO ", None),
    (b"<?XML ", Some(AppProto::Xmpp)),
    (b"<STREAM:STREAM", Some(AppProto::Xmpp)),
    // Requests for TLS and for GSSAPI (PostgreSQL's manual, section 54.7).
    (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(AppProto::Pgsql)),
    (b"\0\0\0\x08\x04\xd2\x16\x30", Some(AppProto::Pgsql)),
];

/// Returns a bit for each first byte of the words.
const fn firsts(words: Words) -> u128 {
    let (mut firsts, mut at) = (0, 0);
    while at < words.len() {
        firsts |= 1 << words[at].0[0];
        at += 1;
    }
    firsts
}

/// Checks whether the first bytes of a direction are those of a protocol that may negotiate TLS.
pub(super) fn opening(direction: Direction, bytes: &[u8]) -> (Probe, Option<Opening>) {
    let words = match direction {
        Direction::ToServer => CLIENT,
        Direction::ToClient => SERVER,
    };
    let firsts = match direction {
        Direction::ToServer => const { firsts(CLIENT) },
        Direction::ToClient => const { firsts(SERVER) },
    };
    let mut more = Probe::No;
    let first = bytes.first().map_or(u8::MAX, u8::to_ascii_uppercase);
    // Nearly all flows begin otherwise.
    let words = if first < 128 && firsts >> first & 1 == 1 { words } else { &[] };
    for &(word, protocol) in words {
        let mut pairs = word.iter().zip(bytes);
        if pairs.all(|(word, byte)| *word == byte.to_ascii_uppercase()) {
            if bytes.len() >= word.len() {
                return (Probe::Yes, Some(Opening { protocol }));
            }
            more = Probe::More;
        }
    }
    let (found, protocol) = binary(direction, bytes);
    match found {
        Probe::Yes => (found, Some(Opening { protocol: Some(protocol) })),
        found => (found.max(more), None),
    }
}

/// Checks the protocols that do not begin with a word.
fn binary(direction: Direction, bytes: &[u8]) -> (Probe, AppProto) {
    let client = direction == Direction::ToServer;
    let (found, protocol) = match *bytes {
        [3] | [3, 0, ..] => (rdp(client, bytes), AppProto::Rdp),
        [0x30, ..] => (ldap(client, bytes), AppProto::Ldap),
        [0x20, ..] if client => (mysql_request(bytes), AppProto::Mysql),
        [_, _, 0, 0, 10, b'0'..=b'9', ..] if !client => (Probe::Yes, AppProto::Mysql),
        // The answer to a request for TLS, and the server's hello behind it.
        [b'S'] | [b'S', 0x16, 3, ..] | [b'N', b'S'] | [b'N', b'S', 0x16, 3, ..] if !client => {
            (Probe::Yes, AppProto::Pgsql)
        }
        // A refusal of GSSAPI, behind which TLS may be accepted.
        [b'N'] if !client => (Probe::More, AppProto::Pgsql),
        _ => (Probe::No, AppProto::Imap),
    };
    if found == Probe::No && client { (imap(bytes).into(), AppProto::Imap) } else { (found, protocol) }
}

/// Matches the request of a client for a connection, or its confirmation, with a negotiation of security behind it
/// (MS-RDPBCGR, section 2.2.1).
fn rdp(client: bool, bytes: &[u8]) -> Probe {
    match *bytes {
        [3, 0, high, low, indicator, kind, ..] => {
            let fits = u16::from_be_bytes([high, low]) == u16::from(indicator) + 5;
            (fits && kind == if client { 0xe0 } else { 0xd0 }).into()
        }
        _ => Probe::More,
    }
}

/// Matches the first 36 bytes of a client that asks for TLS (`MySQL`'s manual of the client/server protocol):
/// capabilities with the flags for TLS and for the protocol since 4.1, and for the rest zeros.
fn mysql_request(bytes: &[u8]) -> Probe {
    const LEN: usize = 36;
    let begin = [0x20, 0, 0, 1].iter().zip(bytes).all(|(word, byte)| word == byte);
    let flags = bytes.get(5).is_none_or(|flags| flags & 0x0a == 0x0a);
    // MariaDB has capabilities of its own in the last four bytes.
    let zeros = bytes.iter().take(LEN - 4).skip(13).all(|byte| *byte == 0);
    match begin && flags && zeros {
        true if bytes.len() < LEN => Probe::More,
        holds => holds.into(),
    }
}

/// Matches a client's message that is a bind, a search or an extended request, or a server's extended response
/// (RFC 4511, section 4.2). Requests for TLS come first, at most behind a question for what the server supports.
fn ldap(client: bool, bytes: &[u8]) -> Probe {
    // Behind the tag of the message: its length, then an integer, then the operation.
    let identifier = match bytes.get(1) {
        None => return Probe::More,
        Some(len @ 0x81..=0x84) => 2 + usize::from(len & 0x7f),
        Some(0x80..) => return Probe::No,
        Some(_) => 2,
    };
    let operation = match (bytes.get(identifier), bytes.get(identifier + 1)) {
        (None, _) | (Some(2), None) => return Probe::More,
        (Some(2), Some(len @ 1..=4)) => identifier + 2 + usize::from(*len),
        _ => return Probe::No,
    };
    match bytes.get(operation) {
        None => Probe::More,
        Some(0x60 | 0x63 | 0x77) => client.into(),
        Some(0x78) => (!client).into(),
        Some(_) => Probe::No,
    }
}

/// Matches the command of a client before its login. The tag in front of it can be anything.
fn imap(bytes: &[u8]) -> bool {
    const COMMANDS: [&[u8]; 4] = [b"CAPABILITY", b"STARTTLS", b"ID ", b"NOOP"];
    const MAX_TAG: usize = 16;
    let tag = bytes.iter().take(MAX_TAG).take_while(|byte| byte.is_ascii_graphic()).count();
    if tag == 0 {
        return false;
    }
    let command = bytes.get(tag..).and_then(|rest| rest.strip_prefix(b" ")).unwrap_or_default();
    let begins = |word: &&[u8]| command.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word));
    COMMANDS.iter().any(begins)
}

/// The place of a hello in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsBegin {
    /// There is none.
    No,
    /// It may begin at this byte.
    Maybe(usize),
    /// It begins at this byte.
    At(usize),
}

/// Searches for the first bytes of TLS: a record that begins with the hello of the direction's side.
#[must_use]
pub fn tls_begins(direction: Direction, bytes: &[u8]) -> TlsBegin {
    const HANDSHAKE: u8 = 22;
    let mut from = 0;
    while let Some(rest) = bytes.get(from..)
        && let Some(at) = rest.iter().position(|&byte| byte == HANDSHAKE)
    {
        match hello(direction, rest.get(at..).unwrap_or_default()) {
            Probe::Yes => return TlsBegin::At(from + at),
            Probe::More => return TlsBegin::Maybe(from + at),
            Probe::No => from += at + 1,
        }
    }
    TlsBegin::No
}

/// Checks content type, version and length of a record, type and length of a message, and its version.
fn hello(direction: Direction, bytes: &[u8]) -> Probe {
    const LEN: usize = 10;
    let kind = match direction {
        Direction::ToServer => 1,
        Direction::ToClient => 2,
    };
    let fits = bytes.iter().take(LEN).enumerate().all(|(at, &byte)| match at {
        1 | 9 => byte == 3,
        2 => byte <= 4,
        3 => byte <= 0x40,
        5 => byte == kind,
        6 => byte == 0,
        _ => true,
    });
    let long = !matches!(bytes, [_, _, _, 0, 0..=4, ..]);
    match fits && long {
        true if bytes.len() < LEN => Probe::More,
        holds => holds.into(),
    }
}
