//! `MongoDB`: commands in `OP_MSG`, and in the older `OP_QUERY`, with their replies.

mod bson;
#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Open, Request, Requests, Service, Status, Verdict};

/// The analyzer.
pub type Mongodb = Analyzer<Wire>;

/// Bytes of a header: length, identifier, that of the request, operation.
const HEADER: usize = 16;
/// The longest message (`maxMessageSizeBytes`).
const MAX_LEN: u32 = 48_000_000;

const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_GET_MORE: u32 = 2005;
const OP_COMPRESSED: u32 = 2012;
const OP_MSG: u32 = 2013;

/// The wire protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    len: u32,
    id: u32,
    answers: u32,
    operation: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fields, _) = bytes.as_chunks::<4>();
        let [len, id, answers, operation, ..] = fields else { return None };
        let [len, id, answers, operation] =
            [len, id, answers, operation].map(|field| u32::from_le_bytes(*field));
        Some(Self { len, id, answers, operation })
    }

    fn is_plausible(self) -> bool {
        (HEADER as u32..MAX_LEN).contains(&self.len) && name(self.operation).is_some()
    }
}

/// Returns the name of an operation.
const fn name(operation: u32) -> Option<&'static str> {
    Some(match operation {
        OP_REPLY => "Reply",
        2001 => "Update document",
        2002 => "Insert document",
        OP_QUERY => "Query",
        OP_GET_MORE => "Get More",
        2006 => "Delete document",
        2007 => "Kill Cursors",
        2010 => "Command Request",
        2011 => "Command Reply",
        OP_COMPRESSED => "Compressed Data",
        OP_MSG => "Extensible Message Format",
        _ => return None,
    })
}

impl Service for Wire {
    const TYPE: &'static str = "mongodb";
    const ORDERED: bool = false;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Mongodb, Some(ToServer), &[], Test::Content(probe_request)),
        Signature::stream(AppProto::Mongodb, Some(ToClient), &[], Test::Content(probe_reply)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 27017 },
        payloads: &[
            (
                ToServer,
                b"\x38\0\0\0\x05\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x23\0\0\0\x02find\0\x06\0\0\0users\0\x02$db\0\x05\0\0\0shop\0\0",
            ),
            (
                ToClient,
                b"\x26\0\0\0\x09\0\0\0\x05\0\0\0\xdd\x07\0\0\0\0\0\0\0\x11\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\0",
            ),
            (
                ToServer,
                b"\x38\0\0\0\x06\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x23\0\0\0\x02drop\0\x06\0\0\0users\0\x02$db\0\x05\0\0\0shop\0\0",
            ),
            (
                ToClient,
                b"\x30\0\0\0\x0a\0\0\0\x06\0\0\0\xdd\x07\0\0\0\0\0\0\0\x1b\0\0\0\x01ok\0\0\0\0\0\0\0\0\0\x10code\0\x1a\0\0\0\0",
            ),
        ],
    };

    type State = ();

    fn frame((): &(), _direction: Direction, bytes: &[u8]) -> Frame {
        match Header::parse(bytes) {
            Some(header) if header.is_plausible() => Frame::Message(header.len.into()),
            Some(_) => Frame::No,
            None => Frame::More,
        }
    }

    fn message((): &mut (), direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
        let Some(header) = Header::parse(message.bytes) else { return Verdict::Next };
        let body = message.bytes.get(HEADER..).unwrap_or_default();
        match direction {
            ToServer => request(header, body, requests),
            ToClient => {
                if let Some(open) = requests.answer_to(header.answers.into(), message.len) {
                    reply(header, body, open);
                }
            }
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_request(bytes) == Probe::Yes,
            ToClient => probe_reply(bytes) == Probe::Yes,
        }
    }
}

/// The document of an `OP_MSG`, behind its flags, and whether no answer is due.
fn document(body: &[u8]) -> Option<(&[u8], bool)> {
    let [flags, _, _, _, sections @ ..] = body else { return None };
    let (kind, document) = sections.split_first()?;
    (*kind == 0).then_some((document, flags & 2 != 0))
}

fn request(header: Header, body: &[u8], requests: &mut Requests) {
    let operation = name(header.operation).unwrap_or("Unknown").as_bytes();
    let id = header.id.into();
    let mut text = std::mem::take(&mut requests.draft);
    text.clear();
    let mut object = 0;
    let mut silent = !matches!(header.operation, OP_QUERY | OP_GET_MORE | OP_COMPRESSED | OP_MSG | 2010);
    match header.operation {
        OP_MSG => {
            if let Some((document, is_silent)) = document(body) {
                silent = is_silent;
                object = describe(document, &mut text);
            }
        }
        OP_QUERY => {
            // Flags, the collection, two numbers.
            let collection =
                body.get(4..).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
            let document = body.get(4 + collection.len() + 1 + 8..).unwrap_or_default();
            text.extend_from_slice(collection);
            if collection.ends_with(b".$cmd") {
                text.push(b' ');
                object = describe(document, &mut text);
            } else {
                text.extend_from_slice(collection);
                object = collection.len();
            }
        }
        _ => {}
    }
    let (statement, object) = text.split_at(text.len().saturating_sub(object));
    requests.push(Request { id, operation, object, statement, silent, ..Request::default() });
    text.clear();
    requests.draft = text;
}

/// Appends the command in a document, `find=users`, and behind it its object, `shop.users`. Returns the length of the
/// latter.
fn describe(document: &[u8], text: &mut Vec<u8>) -> usize {
    let mut elements = bson::elements(document);
    let Some(first) = elements.next() else { return 0 };
    text.extend_from_slice(first.name);
    let collection = first.text().filter(|_| !matches!(first.name, b"saslStart" | b"authenticate"));
    if let Some(collection) = collection {
        text.push(b'=');
        text.extend_from_slice(collection);
    } else if let Some(number) = first.number() {
        text.push(b'=');
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
    let start = text.len();
    if let Some(database) = elements.find(|element| element.name == b"$db").and_then(|element| element.text())
    {
        text.extend_from_slice(database);
        if collection.is_some() {
            text.push(b'.');
        }
    }
    text.extend_from_slice(collection.unwrap_or_default());
    text.len() - start
}

fn reply(header: Header, body: &[u8], open: &mut Open) {
    let (document, more) = match header.operation {
        OP_MSG => document(body).unwrap_or_default(),
        OP_REPLY => {
            let [flags, _, _, _, rest @ ..] = body else { return open.finish() };
            let count =
                rest.get(12..16).and_then(<[u8]>::first_chunk).map(|count| u32::from_le_bytes(*count).into());
            open.rows = count;
            if flags & 2 != 0 {
                open.fail(b"");
                return open.finish();
            }
            (rest.get(16..).unwrap_or_default(), false)
        }
        _ => (&[][..], false),
    };
    open.status = Status::Ok;
    let mut code = None;
    let mut is_error = false;
    for element in bson::elements(document) {
        match element.name {
            b"ok" => is_error = element.number() == Some(0),
            b"code" => code = element.number(),
            _ => {}
        }
    }
    if is_error {
        match code {
            Some(code) => open.fail(itoa::Buffer::new().format(code).as_bytes()),
            None => open.fail(b""),
        }
    }
    if !more {
        open.finish();
    }
}

/// Matches a request, which answers nothing, with the beginning of a document.
fn probe_request(bytes: &[u8]) -> Probe {
    if bytes.len() < HEADER + 5 || bytes.get(8..12) != Some(&[0; 4]) {
        return Probe::No;
    }
    let Some(header) = Header::parse(bytes).filter(|header| header.is_plausible()) else { return Probe::No };
    (!matches!(header.operation, OP_REPLY | 2011)).into()
}

/// Matches a reply.
fn probe_reply(bytes: &[u8]) -> Probe {
    let Some(header) = Header::parse(bytes).filter(|header| header.is_plausible()) else { return Probe::No };
    (header.answers != 0 && matches!(header.operation, OP_REPLY | OP_COMPRESSED | OP_MSG)).into()
}
