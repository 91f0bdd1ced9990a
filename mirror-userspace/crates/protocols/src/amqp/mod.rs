//! AMQP 0.9.1: methods of clients with their answers, messages published and delivered. Publishing has no answer of its
//! own.

mod method;
#[cfg(test)]
mod tests;

use method::Method;

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Probe, Signature, Test, Transport};
use crate::protocol::Example;
use crate::service::{Analyzer, Frame, Message, Open, Request, Requests, Service, Status, Verdict};

/// The analyzer.
pub type Amqp = Analyzer<Frames>;

/// The first bytes of a client: the version that it asks for.
const HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Bytes in front of a frame's payload, and behind it.
const FRAME: usize = 7;
const END: u8 = 0xce;
/// The longest frame.
const MAX_FRAME: u32 = 64 << 20;
/// The type of frames with methods.
const METHOD: u8 = 1;

/// Frames of channels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames;

impl Service for Frames {
    const TYPE: &'static str = "amqp";
    /// Each channel has an order of its own.
    const ORDERED: bool = false;

    const SIGNATURES: &'static [Signature] = &[
        Signature::stream(AppProto::Amqp, Some(ToServer), &[], Test::Begins(&[HEADER])),
        Signature::stream(AppProto::Amqp, None, &[], Test::Content(probe_method)),
    ];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 5672 },
        payloads: &[
            (ToServer, HEADER),
            (ToServer, b"\x01\0\x01\0\0\0\x11\0\x32\0\x0a\0\0\x05tasks\0\0\0\0\0\xce"),
            (ToClient, b"\x01\0\x01\0\0\0\x12\0\x32\0\x0b\x05tasks\0\0\0\0\0\0\0\0\xce"),
            (ToServer, b"\x01\0\x01\0\0\0\x0e\0\x3c\0\x28\0\0\0\x05tasks\0\xce\x03\0\x01\0\0\0\x02hi\xce"),
            (ToServer, b"\x01\0\x01\0\0\0\x11\0\x32\0\x0a\0\0\x05other\x01\0\0\0\0\xce"),
            (ToClient, b"\x01\0\x01\0\0\0\x12\0\x14\0\x28\x01\x94\x07missing\0\x32\0\x0a\xce"),
        ],
    };

    type State = ();

    fn frame((): &(), _direction: Direction, bytes: &[u8]) -> Frame {
        match *bytes {
            [b'A', ..] if bytes.len() < HEADER.len() => Frame::More,
            [b'A', b'M', b'Q', b'P', ..] => Frame::Message(HEADER.len() as u64),
            [kind, _, _, a, b, c, d, ..] => {
                let len = u32::from_be_bytes([a, b, c, d]);
                let is_frame = matches!(kind, METHOD..=3 | 8) && len <= MAX_FRAME;
                if is_frame { Frame::Message(u64::from(len) + FRAME as u64 + 1) } else { Frame::No }
            }
            _ => Frame::More,
        }
    }

    fn message((): &mut (), direction: Direction, message: Message<'_>, requests: &mut Requests) -> Verdict {
        let Some(method) = Method::parse(message.bytes) else { return Verdict::Next };
        match direction {
            ToServer => request(method, requests),
            ToClient => from_server(method, message.len, requests),
        }
        Verdict::Next
    }

    fn begins(_direction: Direction, bytes: &[u8]) -> bool {
        probe_method(bytes) == Probe::Yes
    }
}

fn request(method: Method<'_>, requests: &mut Requests) {
    let Some(name) = method.name() else { return };
    if method.is_answer() {
        return;
    }
    push(method, name, !method.has_answer(), requests);
}

fn push(method: Method<'_>, operation: &str, silent: bool, requests: &mut Requests) {
    let mut text = std::mem::take(&mut requests.draft);
    text.clear();
    method.describe(&mut text);
    requests.push(Request {
        id: method.channel.into(),
        operation: operation.as_bytes(),
        object: &text,
        silent,
        ..Request::default()
    });
    text.clear();
    requests.draft = text;
}

fn from_server(method: Method<'_>, len: u64, requests: &mut Requests) {
    if let Some(code) = method.close_code() {
        // The method that failed may have been one without an answer.
        if requests.find(method.channel.into()).is_none() {
            push(method, method.name().unwrap_or("Close"), false, requests);
        }
        if let Some(open) = requests.answer_to(method.channel.into(), len) {
            open.fail(itoa::Buffer::new().format(code).as_bytes());
            open.finish();
        }
    } else if method.is_answer() {
        if let Some(open) = requests.answer_to(method.channel.into(), len) {
            succeed(open);
        }
    } else if method.is_delivery()
        && let Some(name) = method.name()
    {
        push(method, name, true, requests);
    }
}

fn succeed(open: &mut Open) {
    open.status = Status::Ok;
    open.finish();
}

/// Matches a whole frame with a method.
fn probe_method(bytes: &[u8]) -> Probe {
    let [METHOD, _, _, 0, ..] = bytes else { return Probe::No };
    let Frame::Message(len) = Frames::frame(&(), ToServer, bytes) else { return Probe::No };
    let is_whole = usize::try_from(len).ok().and_then(|len| bytes.get(len - 1)) == Some(&END);
    (is_whole && Method::parse(bytes).is_some_and(|method| method.name().is_some())).into()
}
