//! LDAP: operations with their results (RFC 4511), also behind the signatures of SASL. What is sealed is not read.

mod ber;
#[cfg(test)]
mod tests;

use ber::Value;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Request, Requests, Service, Status, Verdict};

/// The analyzer.
pub type Ldap = Analyzer<Messages>;

/// The ports of the protocol's servers.
const PORTS: &[u16] = &[389, 3268];
/// The longest message.
const MAX_LEN: u64 = 64 << 20;
/// Bytes between the length of a message of SASL and the message that it signs.
const MAX_SIGNATURE: usize = 64;

const SEQUENCE: u8 = 0x30;
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND: u8 = 0x42;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_REFERENCE: u8 = 0x73;
const INTERMEDIATE: u8 = 0x79;
const ABANDON: u8 = 0x50;
const EXTENDED: u8 = 0x77;
const DELETE: u8 = 0x4a;

/// Result codes that are no errors: success, the answers of comparisons, a referral, the next step of a bind.
const SUCCESS: u64 = 0;
const BIND_IN_PROGRESS: u64 = 14;

/// Messages in BER.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages;

impl Service for Messages {
    const TYPE: &'static str = "ldap";
    const ORDERED: bool = false;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Ldap, Some(ToServer), &[], Test::Content(probe_any)),
        Signature::stream(AppProto::Ldap, Some(ToServer), PORTS, Test::Content(probe_request)),
        Signature::stream(AppProto::Ldap, Some(ToClient), PORTS, Test::Content(probe_response)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 389 },
        payloads: &[
            (ToServer, b"\x30\x17\x02\x01\x01\x60\x12\x02\x01\x03\x04\x05cn=me\x80\x06secret"),
            (ToClient, b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\0\x04\0\x04\0"),
            (
                ToServer,
                b"\x30\x20\x02\x01\x02\x63\x1b\x04\x04dc=x\x0a\x01\x02\x0a\x01\0\x02\x01\0\x02\x01\0\x01\x01\0\x87\x02cn\x30\0",
            ),
            (
                ToClient,
                b"\x30\x0b\x02\x01\x02\x64\x06\x04\x02cn\x30\0\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x20\x04\0\x04\0",
            ),
            (ToServer, b"\x30\x05\x02\x01\x03\x42\0"),
        ],
    };

    type State = ();

    fn frame((): &(), _direction: Direction, bytes: &[u8]) -> Frame {
        let len = match bytes {
            // Messages of SASL have a length in front.
            [0, ..] => match bytes.first_chunk() {
                Some(len) => u64::from(u32::from_be_bytes(*len)) + 4,
                None => return Frame::More,
            },
            [SEQUENCE, ..] => match ber::whole_len(bytes) {
                Ok(Some(len)) => len,
                Ok(None) => return Frame::More,
                Err(()) => return Frame::No,
            },
            [] => return Frame::More,
            _ => return Frame::No,
        };
        if (7..=MAX_LEN).contains(&len) { Frame::Message(len) } else { Frame::No }
    }

    fn message((): &mut (), direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
        let mut bytes = message.bytes;
        let is_wrapped = bytes.first() == Some(&0);
        if is_wrapped {
            let Some(start) = signed(direction, bytes) else { return Verdict::Next };
            bytes = bytes.get(start..).unwrap_or_default();
        }
        // There may be several in a message of SASL.
        while let Some(operation) = Operation::parse(bytes) {
            match direction {
                ToServer => operation.request(requests),
                ToClient => operation.response(message.len, requests),
            }
            let next =
                ber::whole_len(bytes).ok().flatten().and_then(|len| bytes.get(usize::try_from(len).ok()?..));
            bytes = next.filter(|_| is_wrapped).unwrap_or_default();
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_request(bytes) == Probe::Yes,
            ToClient => probe_response(bytes) == Probe::Yes,
        }
    }
}

/// Returns the offset of the message that a message of SASL signs, if it does not seal it.
fn signed(direction: Direction, bytes: &[u8]) -> Option<usize> {
    let starts = bytes.iter().enumerate().skip(4).take(MAX_SIGNATURE).filter(|(_, byte)| **byte == SEQUENCE);
    starts.map(|(at, _)| at).find(|&at| {
        let rest = bytes.get(at..).unwrap_or_default();
        Operation::parse(rest).is_some_and(|operation| operation.is_from(direction))
    })
}

/// An operation, or a response to one.
struct Operation<'a> {
    id: u64,
    tag: u8,
    content: &'a [u8],
}

impl<'a> Operation<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let Value { tag: SEQUENCE, content, .. } = Value::parse(bytes)? else { return None };
        let Value { tag: ber::INTEGER, content: id, rest } = Value::parse(content)? else { return None };
        let Value { tag, content, .. } = Value::parse(rest)?;
        Some(Self { id: ber::integer(id)?, tag, content })
    }

    fn is_from(&self, direction: Direction) -> bool {
        match direction {
            ToServer => name(self.tag).is_some(),
            ToClient => {
                matches!(self.tag, 0x61 | 0x64 | 0x65 | 0x67 | 0x69 | 0x6b | 0x6d | 0x6f | 0x73 | 0x78 | 0x79)
            }
        }
    }

    fn request(&self, requests: &mut Requests) {
        let Some(operation) = name(self.tag) else { return };
        let first = Value::parse(self.content);
        // A bind has its version in front of the name.
        let named = if self.tag == BIND { first.and_then(|first| Value::parse(first.rest)) } else { first };
        let name = match (self.tag, named) {
            (DELETE, _) => self.content,
            (UNBIND | ABANDON, _) | (_, None) => &[],
            (_, Some(named)) => named.content,
        };
        let mut text = std::mem::take(&mut requests.draft);
        text.clear();
        text.extend_from_slice(name);
        if self.tag == SEARCH
            && let Some(scope) = named.and_then(|base| Value::parse(base.rest))
        {
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend_from_slice(match scope.content {
                [0] => b"baseObject",
                [1] => b"singleLevel",
                _ => b"wholeSubtree",
            });
        }
        requests.push(Request {
            id: self.id,
            kind: self.tag,
            operation: operation.as_bytes(),
            object: if self.tag == BIND { &[] } else { name },
            statement: &text,
            silent: matches!(self.tag, UNBIND | ABANDON),
            ..Request::default()
        });
        text.clear();
        requests.draft = text;
    }

    fn response(&self, len: u64, requests: &mut Requests) {
        let Some(open) = requests.answer_to(self.id, len) else { return };
        match self.tag {
            SEARCH_ENTRY | SEARCH_REFERENCE => open.rows = Some(open.rows.unwrap_or(0) + 1),
            INTERMEDIATE => {}
            _ => {
                let code =
                    Value::parse(self.content).and_then(|code| ber::integer(code.content)).unwrap_or(0);
                let mut text = itoa::Buffer::new();
                match code {
                    SUCCESS => open.status = Status::Ok,
                    BIND_IN_PROGRESS if self.tag == BIND_RESPONSE => {
                        open.status = Status::Ok;
                        open.set_code(text.format(code).as_bytes());
                    }
                    _ => open.fail(text.format(code).as_bytes()),
                }
                open.finish();
            }
        }
        if open.status == Status::None {
            open.status = Status::Ok;
        }
    }
}

/// Returns the name of a request.
const fn name(tag: u8) -> Option<&'static str> {
    Some(match tag {
        BIND => "bindRequest",
        UNBIND => "unbindRequest",
        SEARCH => "searchRequest",
        0x66 => "modifyRequest",
        0x68 => "addRequest",
        DELETE => "delRequest",
        0x6c => "modDNRequest",
        0x6e => "compareRequest",
        ABANDON => "abandonRequest",
        EXTENDED => "extendedReq",
        _ => return None,
    })
}

/// Matches a bind and a search, with lengths that fit each other.
fn probe_any(bytes: &[u8]) -> Probe {
    let Some(operation) = (bytes.first() == Some(&SEQUENCE)).then(|| Operation::parse(bytes)).flatten()
    else {
        return Probe::No;
    };
    let first = Value::parse(operation.content);
    match operation.tag {
        BIND => first
            .is_some_and(|version| version.tag == ber::INTEGER && matches!(version.content, [2 | 3]))
            .into(),
        SEARCH => first
            .filter(|base| base.tag == ber::OCTETS)
            .and_then(|base| Value::parse(base.rest))
            .is_some_and(|scope| scope.tag == ber::ENUMERATED && matches!(scope.content, [0..=3]))
            .into(),
        EXTENDED => first.is_some_and(|name| name.tag == 0x80 && name.content.starts_with(b"1.")).into(),
        _ => Probe::No,
    }
}

/// Matches a request.
fn probe_request(bytes: &[u8]) -> Probe {
    probe(ToServer, bytes)
}

/// Matches a response.
fn probe_response(bytes: &[u8]) -> Probe {
    probe(ToClient, bytes)
}

fn probe(direction: Direction, bytes: &[u8]) -> Probe {
    let operation = match bytes.first() {
        Some(0) => return signed(direction, bytes).is_some().into(),
        _ => Operation::parse(bytes),
    };
    operation.is_some_and(|operation| operation.is_from(direction)).into()
}
