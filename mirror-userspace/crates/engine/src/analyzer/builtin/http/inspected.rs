//! The parts of HTTP that rules inspect: those of heads, and decoded bodies.
//!
//! A part is made only if a rule inspects it. Bodies are decoded to Suricata's limit; what follows is skipped.

mod lists;

use mirror_packet::Direction;
use mirror_protocols::http::{Body, Decoder, Decoding, FieldParts, Fields, RequestParts, ResponseParts};
use mirror_signatures::buffer::Buffer;

use crate::analyzer::{Context, Progress};

/// Decoded bytes of a body that rules see.
const MAX_BODY: usize = 100 * 1024;
/// A decoder with more memory than this is not held for reuse.
const MAX_SPARE: usize = 256 * 1024;

/// The buffers that are the values of fields in requests.
const OF_REQUEST: [(Buffer, &[u8]); 8] = [
    (Buffer::HttpUserAgent, b"User-Agent"),
    (Buffer::HttpReferer, b"Referer"),
    (Buffer::HttpAccept, b"Accept"),
    (Buffer::HttpAcceptEnc, b"Accept-Encoding"),
    (Buffer::HttpAcceptLang, b"Accept-Language"),
    (Buffer::HttpConnection, b"Connection"),
    (Buffer::HttpContentType, b"Content-Type"),
    (Buffer::HttpContentLen, b"Content-Length"),
];

/// The buffers that are the values of fields in responses.
const OF_RESPONSE: [(Buffer, &[u8]); 5] = [
    (Buffer::HttpServer, b"Server"),
    (Buffer::HttpLocation, b"Location"),
    (Buffer::HttpConnection, b"Connection"),
    (Buffer::HttpContentType, b"Content-Type"),
    (Buffer::HttpContentLen, b"Content-Length"),
];

/// Decoders that no body uses. A body takes one with its box.
type Spare = Vec<Box<Decoder>>;

/// A body that is on its way to the rules.
#[derive(Debug)]
pub(super) struct InspectedBody {
    id: u64,
    decoder: Box<Decoder>,
    /// Bytes that rules will see yet.
    left: usize,
}

impl InspectedBody {
    /// Returns the bytes of memory that the body holds.
    pub(super) fn room(&self) -> usize {
        self.decoder.room()
    }
}

/// Hands over heads and bodies to the rules. It owns the memory for that.
#[derive(Debug, Default)]
pub(super) struct Handover {
    fields: Fields,
    room: Vec<u8>,
    decoded: Vec<u8>,
    spare: Spare,
}

impl Handover {
    /// Hands over the head of a request. Returns its body, if there is one and rules inspect it.
    pub(super) fn request(
        &mut self,
        id: u64,
        head: &[u8],
        body: Body,
        context: &mut Context<'_>,
    ) -> Option<Box<InspectedBody>> {
        let (parts, room) = (RequestParts::new(head, &mut self.fields), &mut self.room);
        for (buffer, value) in [
            (Buffer::HttpMethod, parts.method()),
            (Buffer::HttpUriRaw, parts.raw_uri()),
            (Buffer::HttpProtocol, parts.protocol()),
            (Buffer::HttpRequestLine, parts.fields().line()),
        ] {
            put(buffer, Some(value), context);
        }
        if context.wants(Buffer::HttpUri) {
            put(Buffer::HttpUri, Some(parts.uri(room)), context);
        }
        if context.wants(Buffer::HttpHost) {
            put(Buffer::HttpHost, parts.host(room), context);
        }
        if context.wants(Buffer::HttpHostRaw) {
            put(Buffer::HttpHostRaw, parts.raw_host(room), context);
        }
        if context.wants(Buffer::HttpCookie) {
            put(Buffer::HttpCookie, parts.cookie(room), context);
        }
        put_fields(parts.fields(), &OF_REQUEST, Buffer::HttpRequestHeader, room, context);
        let codings = parts.fields().value(b"Content-Encoding", room).unwrap_or_default();
        end_head(id, Direction::ToServer, body, codings, &mut self.spare, context)
    }

    /// Hands over the head of a response. Returns its body, as for a request.
    pub(super) fn response(
        &mut self,
        id: u64,
        head: &[u8],
        body: Body,
        context: &mut Context<'_>,
    ) -> Option<Box<InspectedBody>> {
        let (parts, room) = (ResponseParts::new(head, &mut self.fields), &mut self.room);
        for (buffer, value) in [
            (Buffer::HttpProtocol, parts.protocol()),
            (Buffer::HttpStatCode, parts.status()),
            (Buffer::HttpStatMsg, parts.message()),
            (Buffer::HttpResponseLine, parts.fields().line()),
        ] {
            put(buffer, Some(value), context);
        }
        if context.wants(Buffer::HttpCookie) {
            put(Buffer::HttpCookie, parts.cookie(room), context);
        }
        put_fields(parts.fields(), &OF_RESPONSE, Buffer::HttpResponseHeader, room, context);
        let codings = parts.fields().value(b"Content-Encoding", room).unwrap_or_default();
        end_head(id, Direction::ToClient, body, codings, &mut self.spare, context)
    }

    /// Hands over the next bytes of a body. It is gone once rules have seen all that they see of it.
    pub(super) fn content(
        &mut self,
        slot: &mut Option<Box<InspectedBody>>,
        direction: Direction,
        bytes: &[u8],
        context: &mut Context<'_>,
    ) {
        let Some(body) = slot else { return };
        let progress = if body.decoder.is_identity() {
            let seen = bytes.get(..body.left).unwrap_or(bytes);
            body.left -= seen.len();
            context.body(body.id, direction, seen, false);
            if body.left == 0 { Decoding::End } else { Decoding::More }
        } else {
            self.decoded.clear();
            let progress = body.decoder.push(bytes, &mut self.decoded, body.left);
            body.left -= self.decoded.len();
            if !self.decoded.is_empty() {
                context.body(body.id, direction, &self.decoded, false);
            }
            progress
        };
        if progress == Decoding::End {
            self.end(slot, direction, context);
        }
    }

    /// Ends a body.
    pub(super) fn end(
        &mut self,
        slot: &mut Option<Box<InspectedBody>>,
        direction: Direction,
        context: &mut Context<'_>,
    ) {
        let Some(mut body) = slot.take() else { return };
        self.decoded.clear();
        body.decoder.finish(&mut self.decoded, body.left);
        context.body(body.id, direction, &self.decoded, true);
        if body.decoder.room() <= MAX_SPARE {
            self.spare.push(body.decoder);
        }
    }
}

/// Hands over the end of a head. Returns its body, if there is one and rules inspect it.
fn end_head(
    id: u64,
    direction: Direction,
    body: Body,
    codings: &[u8],
    spare: &mut Spare,
    context: &mut Context<'_>,
) -> Option<Box<InspectedBody>> {
    let own = match direction {
        Direction::ToServer => Buffer::HttpRequestBody,
        Direction::ToClient => Buffer::HttpResponseBody,
    };
    let is_wanted = context.wants(own) || context.wants(Buffer::FileData);
    let body = (is_wanted && !body.is_complete()).then(|| {
        let mut decoder = spare.pop().unwrap_or_default();
        decoder.begin(codings);
        Box::new(InspectedBody { id, decoder, left: MAX_BODY })
    });
    let progress = if body.is_some() { Progress::Body } else { Progress::Done };
    context.transaction(id, direction, progress);
    body
}

/// Adds a buffer that is there and not empty.
fn put(buffer: Buffer, bytes: Option<&[u8]>, context: &mut Context<'_>) {
    if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty() && context.wants(buffer)) {
        context.buffer(buffer, bytes);
    }
}

/// Adds the buffers that are made from fields; each field alone in `each`.
fn put_fields(
    parts: FieldParts<'_>,
    values: &[(Buffer, &[u8])],
    each: Buffer,
    room: &mut Vec<u8>,
    context: &mut Context<'_>,
) {
    for (buffer, name) in values {
        if context.wants(*buffer)
            && let Some(value) = parts.value(name, room)
        {
            context.buffer(*buffer, value);
        }
    }
    put(Buffer::HttpHeaderRaw, Some(parts.raw_header()), context);
    if parts.is_empty() {
        return;
    }
    if context.wants(Buffer::HttpHeader) {
        put(Buffer::HttpHeader, Some(parts.header(room)), context);
    }
    if context.wants(Buffer::HttpHeaderNames) {
        put(Buffer::HttpHeaderNames, Some(parts.names(room)), context);
    }
    if context.wants(Buffer::HttpStart) {
        put(Buffer::HttpStart, Some(parts.start(room)), context);
    }
    if context.wants(each) {
        parts.each_header(room, |line| context.buffer(each, line));
    }
}
