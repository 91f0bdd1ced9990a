//! Calls of gRPC over HTTP/2: the event with the object `service`.

use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};
use crate::http2::{self, Stream, StreamEvent, tag};
use crate::service::{Dialect, ServiceEvent, Status};

/// Bytes of a method, and of a service.
const MAX_METHOD: usize = 48;
const MAX_SERVICE: usize = 256;

/// Returns true if a `content-type` is one of gRPC.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// A call, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct CallEvent<'a>(ServiceEvent<'a, ()>);

impl<'a> CallEvent<'a> {
    /// Creates the event of a stream, which is a call. Its code is that of the field `grpc-status`, which is among the
    /// trailers or, if there is nothing else, in the response. Without one, a reset or a status of HTTP is the error.
    #[must_use]
    pub fn new(stream: &StreamEvent<'a>, code: &'a mut [u8; 16]) -> Self {
        let StreamEvent { stream: Stream { status, length, latency, errors, .. }, values } = *stream;
        let path = http2::field(values, 0, b":path").unwrap_or_default();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let (service, method) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        let of_call = http2::field(values, tag::RESPONSE, b"grpc-status");
        let reset = errors.into_iter().flatten().find(|&error| error != 0);
        let (status, code) = match (of_call, reset) {
            (Some(b"0"), _) => (Status::Ok, &[][..]),
            (Some(code), _) => (Status::Error, code),
            (None, Some(error)) => (Status::Error, text(b"RST ", error, code)),
            (None, None) if status >= 300 => (Status::Error, text(b"HTTP ", u32::from(status), code)),
            (None, None) => (Status::None, &[][..]),
        };
        Self(ServiceEvent {
            operation: method.get(..MAX_METHOD).unwrap_or(method),
            object: service.get(..MAX_SERVICE).unwrap_or(service),
            dialect: Dialect::default(),
            status,
            code: code.get(..16).unwrap_or(code),
            bytes: length,
            latency,
            ..ServiceEvent::default()
        })
    }
}

impl CallEvent<'_> {
    /// Returns the bytes of the texts in the event.
    #[must_use]
    pub const fn text_len(&self) -> usize {
        self.0.operation.len() + self.0.object.len() + self.0.code.len()
    }
}

/// Writes a word and a number.
fn text<'a>(word: &[u8], number: u32, out: &'a mut [u8; 16]) -> &'a [u8] {
    use std::io::Write as _;

    let mut rest = out.as_mut_slice();
    let written = rest.write_all(word).and_then(|()| write!(rest, "{number}"));
    let len = 16 - rest.len();
    if written.is_err() { &[] } else { out.get(..len).unwrap_or_default() }
}

impl EveEvent for CallEvent<'_> {
    const TYPE: &'static str = "grpc";
    type Unpacked<'a> = CallEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        self.0.pack_values(packer);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<CallEvent<'a>> {
        ServiceEvent::unpack_values(unpacker).map(CallEvent)
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.service(None::<&()>, Some(&self.0.object(writer.literals())))
    }

    fn measured(&self) -> Option<Measured> {
        Some(Measured { latency: self.0.latency, error: self.0.status == Status::Error })
    }

    fn operation<'a>(unpacker: &mut Unpacker<'a>) -> Option<&'a [u8]> {
        ServiceEvent::<()>::unpack_operation(unpacker)
    }
}
