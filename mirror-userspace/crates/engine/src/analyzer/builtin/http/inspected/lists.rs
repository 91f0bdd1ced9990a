//! The parts of the heads of HTTP/2 that rules inspect, as Suricata makes them of lists of fields: with pseudo-headers.

use mirror_packet::Direction;
use mirror_protocols::http::{Body, normal_host, normal_uri};
use mirror_protocols::http2::FieldList;
use mirror_signatures::buffer::Buffer;

use super::{Handover, InspectedBody, OF_REQUEST, OF_RESPONSE, end_head, put};
use crate::analyzer::Context;

/// The version of the protocol in buffers.
const PROTOCOL: &[u8] = b"HTTP/2";
const CRLF: &[u8] = b"\r\n";

impl Handover {
    /// Hands over the fields of a request. Returns its body, as for HTTP/1.
    pub(in super::super) fn request_list(
        &mut self,
        id: u64,
        list: &FieldList,
        has_body: bool,
        context: &mut Context<'_>,
    ) -> Option<Box<InspectedBody>> {
        let room = &mut self.room;
        let (method, path) = (list.get(b":method"), list.get(b":path"));
        let host = list.get(b":authority").or_else(|| list.get(b"host"));
        put(Buffer::HttpMethod, method, context);
        put(Buffer::HttpUriRaw, path, context);
        put(Buffer::HttpProtocol, Some(PROTOCOL), context);
        put(Buffer::HttpHostRaw, host, context);
        if let Some(path) = path.filter(|_| context.wants(Buffer::HttpUri)) {
            put(Buffer::HttpUri, Some(normal_uri(path, room)), context);
        }
        if let Some(host) = host.filter(|_| context.wants(Buffer::HttpHost)) {
            put(Buffer::HttpHost, Some(normal_host(host, room)), context);
        }
        if context.wants(Buffer::HttpRequestLine) || context.wants(Buffer::HttpStart) {
            let parts = [method.unwrap_or_default(), b" ", path.unwrap_or_default(), b" ", PROTOCOL, CRLF];
            put_line(Buffer::HttpRequestLine, &parts, list, room, context);
        }
        put_cookie(list, b"cookie", room, context);
        put_list(list, &OF_REQUEST, Buffer::HttpRequestHeader, room, context);
        self.end_list(id, Direction::ToServer, list, has_body, context)
    }

    /// Hands over the fields of a response. Returns its body, as for a request.
    pub(in super::super) fn response_list(
        &mut self,
        id: u64,
        list: &FieldList,
        has_body: bool,
        context: &mut Context<'_>,
    ) -> Option<Box<InspectedBody>> {
        let room = &mut self.room;
        let status = list.get(b":status");
        put(Buffer::HttpProtocol, Some(PROTOCOL), context);
        put(Buffer::HttpStatCode, status, context);
        if context.wants(Buffer::HttpStatMsg) {
            // There is none in HTTP/2, and rules may ask for that.
            context.buffer(Buffer::HttpStatMsg, &[]);
        }
        if context.wants(Buffer::HttpResponseLine) || context.wants(Buffer::HttpStart) {
            let parts = [PROTOCOL, b" ", status.unwrap_or_default(), CRLF];
            put_line(Buffer::HttpResponseLine, &parts, list, room, context);
        }
        put_cookie(list, b"set-cookie", room, context);
        put_list(list, &OF_RESPONSE, Buffer::HttpResponseHeader, room, context);
        self.end_list(id, Direction::ToClient, list, has_body, context)
    }

    fn end_list(
        &mut self,
        id: u64,
        direction: Direction,
        list: &FieldList,
        has_body: bool,
        context: &mut Context<'_>,
    ) -> Option<Box<InspectedBody>> {
        let body = if has_body { Body::UntilClose } else { Body::Length(0) };
        let codings = list.get(b"content-encoding").unwrap_or_default();
        end_head(id, direction, body, codings, &mut self.spare, context)
    }
}

/// Adds the first line, and the first line with the fields.
fn put_line(
    buffer: Buffer,
    parts: &[&[u8]],
    list: &FieldList,
    room: &mut Vec<u8>,
    context: &mut Context<'_>,
) {
    room.clear();
    for part in parts {
        room.extend_from_slice(part);
    }
    put(buffer, Some(room), context);
    if context.wants(Buffer::HttpStart) {
        append_header(list, room);
        room.extend_from_slice(CRLF);
        context.buffer(Buffer::HttpStart, room);
    }
}

/// Adds the cookies, joined as one field would have them.
fn put_cookie(list: &FieldList, name: &[u8], room: &mut Vec<u8>, context: &mut Context<'_>) {
    if !context.wants(Buffer::HttpCookie) {
        return;
    }
    room.clear();
    for (_, value) in list.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name)) {
        if !room.is_empty() {
            room.extend_from_slice(b"; ");
        }
        room.extend_from_slice(value);
    }
    put(Buffer::HttpCookie, Some(room), context);
}

/// Adds the buffers that are made from fields; each field alone in `each`.
fn put_list(
    list: &FieldList,
    values: &[(Buffer, &[u8])],
    each: Buffer,
    room: &mut Vec<u8>,
    context: &mut Context<'_>,
) {
    for (buffer, name) in values {
        if context.wants(*buffer) {
            put(*buffer, list.get(name), context);
        }
    }
    if context.wants(Buffer::HttpHeader) || context.wants(Buffer::HttpHeaderRaw) {
        room.clear();
        append_header(list, room);
        put(Buffer::HttpHeader, Some(room), context);
        put(Buffer::HttpHeaderRaw, Some(room), context);
    }
    if context.wants(Buffer::HttpHeaderNames) && !list.is_empty() {
        room.clear();
        room.extend_from_slice(CRLF);
        for (name, _) in list.iter() {
            room.extend_from_slice(name);
            room.extend_from_slice(CRLF);
        }
        room.extend_from_slice(CRLF);
        context.buffer(Buffer::HttpHeaderNames, room);
    }
    for (name, value) in list.iter() {
        if context.wants(Buffer::Http2HeaderName) {
            context.buffer(Buffer::Http2HeaderName, name);
        }
        if context.wants(each) {
            room.clear();
            append(name, value, room);
            context.buffer(each, room);
        }
    }
}

fn append(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

fn append_header(list: &FieldList, out: &mut Vec<u8>) {
    for (name, value) in list.iter() {
        append(name, value, out);
        out.extend_from_slice(CRLF);
    }
}
