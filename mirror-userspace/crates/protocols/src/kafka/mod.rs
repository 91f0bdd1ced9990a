//! Kafka: requests to brokers, with their topics, and the first error of each response.

mod api;
mod fields;
#[cfg(test)]
mod tests;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Request, Requests, Service, Status, Verdict};

/// The analyzer.
pub type Kafka = Analyzer<Protocol>;

/// The port of the protocol's servers.
const PORT: u16 = 9092;
/// The longest message.
const MAX_LEN: u32 = 512 << 20;
/// The newest version of any request.
const MAX_VERSION: u16 = 24;
/// The longest name of a client.
const MAX_CLIENT: usize = 255;

/// The protocol of brokers and their clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protocol;

/// The header of a request.
#[derive(Clone, Copy, Debug)]
struct Header<'a> {
    key: u16,
    version: u16,
    correlation: u32,
    /// The content behind the client's name.
    body: &'a [u8],
    /// The client's name; `None` for null, and for one that is cut.
    client: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [_, _, _, _, key, key_low, version, version_low, a, b, c, d, rest @ ..] = bytes else {
            return None;
        };
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let client = rest.get(..len);
        Some(Self {
            key: u16::from_be_bytes([*key, *key_low]),
            version: u16::from_be_bytes([*version, *version_low]),
            correlation: u32::from_be_bytes([*a, *b, *c, *d]),
            body: rest.get(client.map_or(0, <[u8]>::len)..).unwrap_or_default(),
            client,
        })
    }
}

/// Returns the length of a message, behind the length itself.
fn len(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|len| u32::from_be_bytes(*len))
}

impl Service for Protocol {
    const TYPE: &'static str = "kafka";
    const ORDERED: bool = false;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Kafka, Some(ToServer), &[], Test::Content(probe_request)),
        Signature::stream(AppProto::Kafka, Some(ToServer), &[PORT], Test::Content(probe_header)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: PORT },
        payloads: &[
            (
                ToServer,
                b"\0\0\0\x2c\0\0\0\x07\0\0\0\x01\0\x01c\xff\xff\0\x01\0\0\x05\xdc\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\0\
                  \0\0\0\x01x",
            ),
            (
                ToClient,
                b"\0\0\0\x36\0\0\0\x01\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\
                  \xff\xff\xff\xff\0\0\0\0",
            ),
            (ToServer, b"\0\0\0\x0b\0\x12\0\0\0\0\0\x02\0\x01c"),
            (ToClient, b"\0\0\0\x0a\0\0\0\x02\0\0\0\0\0\0"),
        ],
    };

    type State = ();

    fn frame((): &(), direction: Direction, bytes: &[u8]) -> Frame {
        let Some(len) = len(bytes) else { return Frame::More };
        let least = if direction == ToServer { 8 } else { 4 };
        match Header::parse(bytes) {
            _ if !(least..MAX_LEN).contains(&len) => Frame::No,
            None if direction == ToServer && bytes.len() < 14 => Frame::More,
            Some(header)
                if direction == ToServer
                    && (api::name(header.key).is_none() || header.version > MAX_VERSION) =>
            {
                Frame::No
            }
            _ => Frame::Message(u64::from(len) + 4),
        }
    }

    fn message((): &mut (), direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
        match direction {
            ToServer => request(message, requests),
            ToClient => response(message, requests),
        }
        Verdict::Next
    }

    fn begins(direction: Direction, bytes: &[u8]) -> bool {
        match direction {
            ToServer => probe_header(bytes) == Probe::Yes,
            // The identifiers of responses tell whether these are some.
            ToClient => len(bytes).is_some_and(|len| (4..1 << 20).contains(&len)),
        }
    }
}

fn request(message: Message<'_>, requests: &mut Requests) {
    let Some(header) = Header::parse(message.bytes) else { return };
    let mut text = std::mem::take(&mut requests.draft);
    text.clear();
    let about = api::about(header.key, header.version, header.body);
    text.extend_from_slice(about.topic);
    if !about.topic.is_empty() {
        text.push(b' ');
    }
    text.push(b'v');
    text.extend_from_slice(itoa::Buffer::new().format(header.version).as_bytes());
    requests.push(Request {
        // The version decides how the response is read.
        id: u64::from(header.correlation),
        kind: header.version as u8,
        operation: api::name(header.key).unwrap_or("Unknown").as_bytes(),
        object: about.topic,
        statement: &text,
        silent: about.silent,
        ..Request::default()
    });
    text.clear();
    requests.draft = text;
}

fn response(message: Message<'_>, requests: &mut Requests) {
    let Some(correlation) = message.bytes.get(4..8).and_then(<[u8]>::first_chunk) else { return };
    let body = message.bytes.get(8..).unwrap_or_default();
    let id = u32::from_be_bytes(*correlation).into();
    let Some(open) = requests.answer_to(id, message.len) else { return };
    open.status = Status::Ok;
    let error = api::key(open.operation()).and_then(|key| api::error(key, open.kind.into(), body));
    if let Some(error) = error.filter(|&error| error != 0) {
        open.fail(itoa::Buffer::new().format(error).as_bytes());
    }
    open.finish();
}

/// Matches the header of a request, whose client has a name.
fn probe_request(bytes: &[u8]) -> Probe {
    if !matches!(bytes, [0, _, _, _, 0, _, 0, ..]) {
        return Probe::No;
    }
    let client = Header::parse(bytes).and_then(|header| header.client);
    let is_name = client.is_some_and(|client| {
        !client.is_empty()
            && client.len() <= MAX_CLIENT
            && client.iter().all(|byte| (b' '..0x7f).contains(byte))
    });
    (is_name && probe_header(bytes) == Probe::Yes).into()
}

/// Matches the header of a request.
fn probe_header(bytes: &[u8]) -> Probe {
    let (Some(len), Some(header)) = (len(bytes), Header::parse(bytes)) else { return Probe::No };
    let fits =
        (10..MAX_LEN).contains(&len) && header.version <= MAX_VERSION && api::name(header.key).is_some();
    let has_room = header.client.is_none_or(|client| client.len() + 10 <= len as usize);
    // A request is rarely followed by another within its segment.
    (fits && has_room && len as usize + 4 >= bytes.len() / 4).into()
}
