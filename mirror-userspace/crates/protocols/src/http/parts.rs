//! The parts of heads that rules inspect, in the form of Suricata's buffers of the same names.
//!
//! Each is made when it is asked for. Those that are sent as a whole are slices of the head; `room` is memory for the
//! others, which is overwritten.

use std::ops::Range;

use super::fields::{Field, Fields};
use super::head::Request;
use super::target::{Authority, host_of, normalize};

/// The head of a request, and its parts.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    fields: FieldParts<'a>,
    method: &'a [u8],
    target: &'a [u8],
    protocol: &'a [u8],
}

/// The head of a response, and its parts.
#[derive(Clone, Copy, Debug)]
pub struct ResponseParts<'a> {
    fields: FieldParts<'a>,
    protocol: &'a [u8],
    status: &'a [u8],
    message: &'a [u8],
}

/// The parts that requests and responses have.
#[derive(Clone, Copy, Debug)]
pub struct FieldParts<'a> {
    head: &'a [u8],
    line: &'a [u8],
    fields: &'a Fields,
}

impl<'a> FieldParts<'a> {
    fn read(head: &'a [u8], fields: &'a mut Fields, is_response: bool) -> Self {
        fields.read(head, is_response);
        let (line, _) = super::head::line(head);
        Self { head, line, fields }
    }

    /// Returns the first line.
    #[must_use]
    pub const fn line(&self) -> &'a [u8] {
        self.line
    }

    /// Returns true if there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns the value of a field; fields of the same name are joined.
    pub fn value<'b>(&self, name: &[u8], room: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        Some(self.fields.get(self.head, name)?.value(room))
    }

    /// Returns the fields without cookies: names as sent, and values without white space around them.
    pub fn header<'b>(&self, room: &'b mut Vec<u8>) -> &'b [u8] {
        room.clear();
        self.fields
            .iter(self.head)
            .filter(|field| !is_cookie(field))
            .for_each(|field| put_line(&field, room));
        room
    }

    /// Returns the fields as they were sent, with the empty line behind them.
    #[must_use]
    pub fn raw_header(&self) -> &'a [u8] {
        self.fields.block(self.head)
    }

    /// Passes each field, as `Name: value`, to `each`.
    pub fn each_header(&self, room: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
        for field in self.fields.iter(self.head) {
            room.clear();
            put_field(&field, room);
            each(room);
        }
    }

    /// Returns the names: each behind the end of a line, and an empty line at the end.
    pub fn names<'b>(&self, room: &'b mut Vec<u8>) -> &'b [u8] {
        room.clear();
        room.extend_from_slice(CRLF);
        for field in self.fields.iter(self.head) {
            room.extend_from_slice(field.name());
            room.extend_from_slice(CRLF);
        }
        room.extend_from_slice(CRLF);
        room
    }

    /// Returns the first line and all fields, with the empty line behind them.
    pub fn start<'b>(&self, room: &'b mut Vec<u8>) -> &'b [u8] {
        room.clear();
        room.extend_from_slice(self.line);
        room.extend_from_slice(CRLF);
        self.fields.iter(self.head).for_each(|field| put_line(&field, room));
        room.extend_from_slice(CRLF);
        room
    }
}

impl<'a> RequestParts<'a> {
    /// Reads the head of a request, in memory that is reused.
    #[must_use]
    pub fn new(head: &'a [u8], fields: &'a mut Fields) -> Self {
        let fields = FieldParts::read(head, fields, false);
        let (method, target, protocol) = Request::words(fields.line);
        Self { fields, method, target, protocol }
    }

    /// Returns the parts that responses have, too.
    #[must_use]
    pub const fn fields(&self) -> FieldParts<'a> {
        self.fields
    }

    /// Returns the method.
    #[must_use]
    pub const fn method(&self) -> &'a [u8] {
        self.method
    }

    /// Returns the target as it was sent.
    #[must_use]
    pub const fn raw_uri(&self) -> &'a [u8] {
        self.target
    }

    /// Returns the protocol's version; empty in HTTP/0.9.
    #[must_use]
    pub const fn protocol(&self) -> &'a [u8] {
        self.protocol
    }

    /// Returns the target in its normal form.
    pub fn uri<'b>(&self, room: &'b mut Vec<u8>) -> &'b [u8] {
        room.clear();
        if self.method == b"CONNECT" {
            room.extend_from_slice(self.target);
        } else {
            normalize(self.target, room);
        }
        room
    }

    /// Returns the host in lower case and without port: that of the target, or else of the field.
    pub fn host<'b>(&self, room: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        room.clear();
        match Authority::of_target(self.method, self.target).host {
            Some(host) => room.extend_from_slice(host),
            None => self.fields.fields.get(self.fields.head, b"Host")?.append(room),
        }
        trim_host(room);
        Some(room)
    }

    /// Returns the host as it was sent: that of the target, or else the field.
    pub fn raw_host<'b>(&self, room: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        match Authority::of_target(self.method, self.target).host {
            Some(host) => Some(host),
            None => self.fields.value(b"Host", room),
        }
    }

    /// Returns the cookies.
    pub fn cookie<'b>(&self, room: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        self.fields.value(b"Cookie", room)
    }
}

impl<'a> ResponseParts<'a> {
    /// Reads the head of a response, in memory that is reused.
    #[must_use]
    pub fn new(head: &'a [u8], fields: &'a mut Fields) -> Self {
        let fields = FieldParts::read(head, fields, true);
        let (protocol, rest) = super::head::word(fields.line);
        let (status, message) = super::head::word(rest);
        Self { fields, protocol, status, message: message.trim_ascii_end() }
    }

    /// Returns the parts that requests have, too.
    #[must_use]
    pub const fn fields(&self) -> FieldParts<'a> {
        self.fields
    }

    /// Returns the protocol's version.
    #[must_use]
    pub const fn protocol(&self) -> &'a [u8] {
        self.protocol
    }

    /// Returns the status code as it was sent.
    #[must_use]
    pub const fn status(&self) -> &'a [u8] {
        self.status
    }

    /// Returns the text behind the status code.
    #[must_use]
    pub const fn message(&self) -> &'a [u8] {
        self.message
    }

    /// Returns the cookies that the server sets.
    pub fn cookie<'b>(&self, room: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        self.fields.value(b"Set-Cookie", room)
    }
}

/// Returns a target in its normal form, in memory that is overwritten.
pub fn normal_uri<'a>(target: &[u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    room.clear();
    normalize(target, room);
    room
}

/// Returns the host of an authority in lower case and without port, in memory that is overwritten.
pub fn normal_host<'a>(authority: &[u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    room.clear();
    room.extend_from_slice(authority);
    trim_host(room);
    room
}

fn trim_host(room: &mut Vec<u8>) {
    let Range { start, end } = host_of(room);
    room.truncate(end);
    room.drain(..start);
    room.make_ascii_lowercase();
}

const CRLF: &[u8] = b"\r\n";

fn put_field(field: &Field<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(field.name());
    out.extend_from_slice(b": ");
    field.append(out);
}

fn put_line(field: &Field<'_>, out: &mut Vec<u8>) {
    put_field(field, out);
    out.extend_from_slice(CRLF);
}

fn is_cookie(field: &Field<'_>) -> bool {
    match field.name().len() {
        6 => field.name().eq_ignore_ascii_case(b"Cookie"),
        10 => field.name().eq_ignore_ascii_case(b"Set-Cookie"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_its_parts() {
        let head = b"GET /a%20b?c HTTP/1.1\r\nhost: A.Example.:8080 \r\nX-Fold:  one\r\n\t two\r\nCookie : k=v\r\nx-fold:three\r\n\r\n";
        let (mut fields, mut room) = (Fields::default(), Vec::new());
        let parts = RequestParts::new(head, &mut fields);
        assert_eq!(parts.fields().line(), b"GET /a%20b?c HTTP/1.1");
        assert_eq!(
            (parts.method(), parts.raw_uri(), parts.protocol()),
            (&b"GET"[..], &b"/a%20b?c"[..], &b"HTTP/1.1"[..])
        );
        assert_eq!(parts.uri(&mut room), b"/a b?c");
        assert_eq!(parts.host(&mut room), Some(&b"a.example."[..]));
        assert_eq!(parts.raw_host(&mut room), Some(&b"A.Example.:8080"[..]));
        assert_eq!(parts.cookie(&mut room), Some(&b"k=v"[..]));
        assert_eq!(parts.fields().header(&mut room), b"host: A.Example.:8080\r\nX-Fold: one two, three\r\n");
        assert_eq!(parts.fields().names(&mut room), b"\r\nhost\r\nX-Fold\r\nCookie\r\n\r\n");
        assert_eq!(parts.fields().value(b"x-FOLD", &mut room), Some(&b"one two, three"[..]));
        assert_eq!(parts.fields().value(b"Referer", &mut room), None);
        assert!(parts.fields().raw_header().starts_with(b"host: A.Example.:8080 \r\n"));
        assert!(parts.fields().raw_header().ends_with(b"three\r\n\r\n"));
        assert_eq!(
            parts.fields().start(&mut room),
            b"GET /a%20b?c HTTP/1.1\r\nhost: A.Example.:8080\r\nX-Fold: one two, three\r\nCookie: k=v\r\n\r\n"
        );
        let mut lines = Vec::new();
        parts.fields().each_header(&mut room, |line| lines.push(line.to_vec()));
        assert_eq!(lines, [&b"host: A.Example.:8080"[..], b"X-Fold: one two, three", b"Cookie: k=v"]);
    }

    #[test]
    fn a_response_has_its_parts() {
        let head = b"HTTP/1.1 404 Not  Found\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n";
        let (mut fields, mut room) = (Fields::default(), Vec::new());
        let parts = ResponseParts::new(head, &mut fields);
        assert_eq!(
            (parts.protocol(), parts.status(), parts.message()),
            (&b"HTTP/1.1"[..], &b"404"[..], &b"Not  Found"[..])
        );
        assert_eq!(parts.cookie(&mut room), Some(&b"a=1, b=2"[..]));
        assert_eq!(parts.fields().header(&mut room), b"Server: x\r\n");
        assert_eq!(parts.fields().line(), b"HTTP/1.1 404 Not  Found");
    }

    #[test]
    fn the_host_of_the_target_goes_before_the_field() {
        let (mut fields, mut room) = (Fields::default(), Vec::new());
        let head = b"GET http://B.example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let parts = RequestParts::new(head, &mut fields);
        assert_eq!(parts.host(&mut room), Some(&b"b.example"[..]));
        assert_eq!(parts.uri(&mut room), b"/x");
        let parts = RequestParts::new(b"GET / HTTP/1.1\r\n\r\n", &mut fields);
        assert_eq!((parts.host(&mut room), parts.raw_host(&mut Vec::new())), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_part_outgrows_its_head(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"\r\n\t :ab,%./".as_slice())], 0..300,
        )) {
            let (mut fields, mut room) = (Fields::default(), Vec::new());
            // A line of a field has at least one byte and an end; `: ` and the end are added, or `, `.
            let most = 6 * bytes.len() + 8;
            let parts = RequestParts::new(&bytes, &mut fields);
            assert!(parts.uri(&mut room).len() <= most);
            assert!(parts.host(&mut room).is_none_or(|it| it.len() <= most));
            let _ = (parts.raw_host(&mut room), parts.fields().raw_header());
            assert!(parts.fields().header(&mut room).len() <= most);
            assert!(parts.fields().names(&mut room).len() <= most);
            assert!(parts.fields().start(&mut room).len() <= most);
            assert!(parts.cookie(&mut room).is_none_or(|it| it.len() <= most));
            let parts = ResponseParts::new(&bytes, &mut fields);
            assert!(parts.cookie(&mut room).is_none_or(|it| it.len() <= most));
            parts.fields().each_header(&mut room, |line| assert!(line.len() <= most));
        }
    }
}
