//! Message heads: a start line and fields.
//!
//! `httparse` parses heads that follow the rules. A monitor must still report heads that break them, as far
//! as the receiver may have understood them: heads that `httparse` rejects are parsed line by line.

use std::mem::MaybeUninit;

use super::Body;
use super::fields::{FieldLine, FieldLines, trim};

/// Maximum number of fields of a head that are parsed.
const MAX_FIELDS: usize = 128;

/// Maximum white space in an empty line.
const MAX_SPACE: usize = 8;

/// Returns true if the head of a response that switches protocols says that HTTP/2 follows (RFC 7540, section 3.2).
#[must_use]
pub fn upgrades_to_http2(head: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').any(|line| {
        let (name, value) = line.split_at(line.iter().position(|&byte| byte == b':').unwrap_or_default());
        name.eq_ignore_ascii_case(b"upgrade")
            && value.strip_prefix(b":").is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    })
}

/// Returns true if a stream that begins like this can be one of requests.
#[must_use]
pub fn begins_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    (3..=20).contains(&method) && bytes.get(method) == Some(&b' ')
}

/// Returns true if the bytes begin, or may begin, with a status line.
#[must_use]
pub fn begins_response(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/";
    let len = bytes.len().min(BEGIN.len());
    bytes.get(..len).is_some_and(|begin| begin.eq_ignore_ascii_case(BEGIN.get(..len).unwrap_or_default()))
}

/// Returns the end of the head at the beginning of `bytes`: the position behind its empty line. The first
/// `seen` bytes were searched before.
#[must_use]
pub fn head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    // The empty line may have begun in the bytes that were searched before.
    let mut at = seen.saturating_sub(MAX_SPACE + 2);
    while let Some(line_feed) = memchr::memchr(b'\n', bytes.get(at..)?) {
        at += line_feed + 1;
        // Receivers tolerate white space in the empty line.
        let space =
            bytes.get(at..)?.iter().take_while(|byte| matches!(byte, b'\r' | b' ' | b'\t')).take(MAX_SPACE);
        let end = at + space.count();
        if bytes.get(end) == Some(&b'\n') {
            match blank_line_behind(bytes, at, end + 1) {
                Some(end) => return Some(end),
                None => at = end,
            }
        }
    }
    None
}

/// Returns the end of a head with a line of white space between `begin` and `end`. If an empty line follows, it belongs
/// to the head, too. A line that begins with white space continues the head: there is no end.
fn blank_line_behind(bytes: &[u8], begin: usize, end: usize) -> Option<usize> {
    let is_empty = matches!(bytes.get(begin..end), Some(b"\n" | b"\r\n"));
    match bytes.get(end..).unwrap_or_default() {
        _ if is_empty => Some(end),
        [b'\n', ..] => Some(end + 1),
        [b'\r', b'\n', ..] => Some(end + 2),
        [b' ' | b'\t', ..] => None,
        _ => Some(end),
    }
}

/// The fields of a head that records contain. Values are as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fields<'a> {
    content_length: Option<u64>,
    /// The length is not a number, or there are several.
    malformed_length: bool,
    /// The last transfer coding is the chunked one; `None` without transfer codings.
    chunked: Option<bool>,
    content_type: Option<&'a [u8]>,
    content_range: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    location: Option<&'a [u8]>,
    referer: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
    forwarded_for: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn add(&mut self, name: &[u8], value: &'a [u8]) {
        // Only a few of a head's fields matter, and those differ in length or first letter.
        let slot = match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => &mut self.host,
            7 if name.eq_ignore_ascii_case(b"referer") => &mut self.referer,
            8 if name.eq_ignore_ascii_case(b"location") => &mut self.location,
            10 if name.eq_ignore_ascii_case(b"user-agent") => &mut self.user_agent,
            12 if name.eq_ignore_ascii_case(b"content-type") => &mut self.content_type,
            13 if name.eq_ignore_ascii_case(b"content-range") => &mut self.content_range,
            15 if name.eq_ignore_ascii_case(b"x-forwarded-for") => &mut self.forwarded_for,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                for value in value.split(|&byte| byte == b',') {
                    let length = length(value.trim_ascii());
                    self.malformed_length |=
                        length.is_none() || self.content_length.is_some_and(|known| Some(known) != length);
                    self.content_length = self.content_length.or(length);
                }
                return;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                // An empty element of a list counts for nothing, as did `identity` once. Receivers that find the coding
                // anywhere take the body for chunks.
                let is_coding = |it: &&[u8]| {
                    !it.trim_ascii().is_empty() && !it.trim_ascii().eq_ignore_ascii_case(b"identity")
                };
                if value.split(|&byte| byte == b',').any(|coding| is_coding(&coding)) {
                    self.chunked = Some(self.chunked == Some(true) || mentions_chunks(value));
                }
                return;
            }
            _ => return,
        };
        slot.get_or_insert(value);
    }

    /// Returns the delimitation of the body behind the head, if the fields define it (RFC 9112, section 6.3).
    const fn body(&self) -> Option<Body> {
        match (self.chunked, self.content_length) {
            // Transfer codings override a length.
            (Some(true), _) => Some(Body::chunked()),
            // The end of the message is unknown.
            (Some(false), _) => Some(Body::UntilClose),
            (None, _) if self.malformed_length => Some(Body::UntilClose),
            (None, Some(len)) => Some(Body::Length(len)),
            (None, None) => None,
        }
    }
}

/// Returns true if the name of the chunked coding is somewhere in a value, zero bytes aside.
fn mentions_chunks(value: &[u8]) -> bool {
    const NAME: &[u8] = b"chunked";
    (0..value.len()).any(|at| {
        let bytes = value.get(at..).unwrap_or_default().iter().filter(|byte| **byte != 0);
        bytes.take(NAME.len()).map(u8::to_ascii_lowercase).eq(NAME.iter().copied())
    })
}

/// Parses a length: a number, and text behind it that is no number.
fn length(value: &[u8]) -> Option<u64> {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if value.iter().skip(digits).any(u8::is_ascii_digit) { None } else { number(value) }
}

/// Parses a decimal number. Text behind it is ignored.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

/// The head of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The request target, in any form.
    pub target: &'a [u8],
    /// The protocol's version; `None` in HTTP/0.9.
    pub protocol: Option<&'a [u8]>,
    fields: Fields<'a>,
}

impl<'a> Request<'a> {
    /// Parses a head that ends with its empty line.
    #[must_use]
    pub fn parse(head: &'a [u8]) -> Self {
        Self::strict(head).unwrap_or_else(|| Self::lenient(head))
    }

    fn strict(head: &'a [u8]) -> Option<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.ignore_invalid_headers_in_requests(true);
        let parsed = config.parse_request_with_uninit_headers(&mut request, head, &mut headers);
        parsed.ok().filter(httparse::Status::is_complete)?;
        let mut fields = Fields::default();
        for header in request.headers.iter() {
            fields.add(header.name.as_bytes(), header.value);
        }
        Some(Self {
            method: request.method?.as_bytes(),
            target: request.path?.as_bytes(),
            protocol: Some(if request.version? == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" }),
            fields,
        })
    }

    /// Splits a request line into method, target and protocol version.
    pub(super) fn words(line: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let (method, line) = word(line);
        // A space ends the target; if there is none, other white space does.
        let line = line.trim_ascii();
        let (target, protocol) = match line.iter().position(|&byte| byte == b' ') {
            Some(space) => line.split_at(space),
            None => word(line),
        };
        (method, target, protocol.trim_ascii())
    }

    fn lenient(head: &'a [u8]) -> Self {
        let (method, target, protocol) = Self::words(line(head).0);
        Self {
            method,
            target,
            protocol: Some(protocol).filter(|protocol| !protocol.is_empty()),
            fields: lenient_fields(head, false),
        }
    }

    /// Returns the Host field.
    #[must_use]
    pub const fn host(&self) -> Option<&'a [u8]> {
        self.fields.host
    }

    /// Returns the User-Agent field.
    #[must_use]
    pub const fn user_agent(&self) -> Option<&'a [u8]> {
        self.fields.user_agent
    }

    /// Returns the Referer field.
    #[must_use]
    pub const fn referer(&self) -> Option<&'a [u8]> {
        self.fields.referer
    }

    /// Returns the X-Forwarded-For field.
    #[must_use]
    pub const fn forwarded_for(&self) -> Option<&'a [u8]> {
        self.fields.forwarded_for
    }

    /// Returns the body behind the head.
    #[must_use]
    pub fn body(&self) -> Body {
        match self.protocol {
            // HTTP/0.9 has one request in a connection, and no fields.
            None if self.fields == Fields::default() => Body::UntilClose,
            _ => self.fields.body().unwrap_or(Body::Length(0)),
        }
    }
}

/// The head of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status code; `None` if the status line has none.
    pub status: Option<u16>,
    /// The status code does not have three digits: receivers do not agree on its meaning.
    is_odd: bool,
    fields: Fields<'a>,
}

impl<'a> Response<'a> {
    /// Parses a head that ends with its empty line.
    #[must_use]
    pub fn parse(head: &'a [u8]) -> Self {
        Self::strict(head).unwrap_or_else(|| Self::lenient(head))
    }

    fn strict(head: &'a [u8]) -> Option<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config
            .allow_spaces_after_header_name_in_responses(true)
            .allow_multiple_spaces_in_response_status_delimiters(true);
        let parsed = config.parse_response_with_uninit_headers(&mut response, head, &mut headers);
        parsed.ok().filter(httparse::Status::is_complete)?;
        let mut fields = Fields::default();
        for header in response.headers.iter() {
            fields.add(header.name.as_bytes(), header.value);
        }
        Some(Self { status: response.code, is_odd: false, fields })
    }

    fn lenient(head: &'a [u8]) -> Self {
        // Receivers do not agree on what is behind a carriage return in the status line.
        let line = line(head).0.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let (_, behind) = word(line);
        let (word, _) = word(behind);
        let status = number(word).and_then(|status| u16::try_from(status).ok());
        let is_usual = word.iter().take_while(|byte| byte.is_ascii_digit()).count() == 3;
        Self { status, is_odd: !is_usual, fields: lenient_fields(head, true) }
    }

    /// Returns the Content-Type field.
    #[must_use]
    pub const fn content_type(&self) -> Option<&'a [u8]> {
        self.fields.content_type
    }

    /// Returns the Content-Range field.
    #[must_use]
    pub const fn content_range(&self) -> Option<&'a [u8]> {
        self.fields.content_range
    }

    /// Returns the Location field.
    #[must_use]
    pub const fn location(&self) -> Option<&'a [u8]> {
        self.fields.location
    }

    /// Returns true if another response to the same request follows (RFC 9110, section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_some_and(|status| (100..200).contains(&status) && status != SWITCHING_PROTOCOLS)
            && !self.is_odd
    }

    /// Returns true if the fields announce a body, whatever the status is.
    fn has_content(&self) -> bool {
        self.fields.body().is_some_and(|body| !body.is_complete())
    }

    /// Returns true if another protocol follows (RFC 9110, section 15.2.2), and no body.
    #[must_use]
    pub fn switches_protocols(&self) -> bool {
        self.status == Some(SWITCHING_PROTOCOLS) && !self.has_content()
    }

    /// Returns true if the status means success.
    #[must_use]
    pub fn is_successful(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Returns the body behind the head (RFC 9112, section 6.3). The request must not have had the method
    /// HEAD.
    #[must_use]
    pub fn body(&self) -> Body {
        match (self.status, self.fields.body()) {
            // A server that announces a body behind it does not switch.
            (Some(SWITCHING_PROTOCOLS), Some(body)) => body,
            // These have no body, whatever length they announce (RFC 9112, section 6.3).
            (Some(100..200 | 204 | 304), _) if !self.is_odd => Body::Length(0),
            (_, Some(body)) => body,
            (_, None) => Body::UntilClose,
        }
    }
}

const SWITCHING_PROTOCOLS: u16 = 101;

/// Splits off the first line, without its end.
pub(super) fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    (line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..).unwrap_or_default())
}

/// Splits at the first white space, and skips that space.
pub(super) fn word(line: &[u8]) -> (&[u8], &[u8]) {
    const VERTICAL_TAB: u8 = 0x0b;
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == VERTICAL_TAB;
    let (word, rest) = line.split_at(line.iter().position(is_space).unwrap_or(line.len()));
    let space = rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
    (word, rest.get(space..).unwrap_or_default())
}

fn lenient_fields(head: &[u8], is_response: bool) -> Fields<'_> {
    let mut fields = Fields::default();
    for FieldLine { range, is_folded } in FieldLines::new(head, is_response).take(MAX_FIELDS) {
        let field = head.get(range).unwrap_or_default();
        let Some(colon) = memchr::memchr(b':', field) else { continue };
        let (name, value) = field.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        let mut clean = [0; LONGEST_NAME];
        let name = without_zeros(name.get(trim(name)).unwrap_or_default(), &mut clean);
        // Only the fields that delimit the body count with all their lines.
        let is_first = is_folded && !matches!(name.len(), 14 | 17);
        let value = if is_first { line(value).0 } else { value };
        fields.add(name, value.trim_ascii());
    }
    fields
}

/// Length of the longest name that matters.
const LONGEST_NAME: usize = b"transfer-encoding".len();

/// Returns a name without the zero bytes in it, which receivers skip.
fn without_zeros<'a>(name: &'a [u8], clean: &'a mut [u8; LONGEST_NAME]) -> &'a [u8] {
    if !name.contains(&0) {
        return name;
    }
    let mut len = 0;
    for (to, from) in clean.iter_mut().zip(name.iter().filter(|byte| **byte != 0)) {
        *to = *from;
        len += 1;
    }
    clean.get(..len).unwrap_or_default()
}
