//! Heads that follow the rules and heads that do not, and bodies that come in pieces.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn a_request_is_read() {
    let head = b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nReferer: http://b/\r\n\r\n";
    let request = Request::parse(head);
    assert_eq!(
        (request.method, request.target, request.protocol),
        (&b"GET"[..], &b"/a?b"[..], Some(&b"HTTP/1.1"[..]))
    );
    assert_eq!(request.host(), Some(&b"a.example"[..]));
    assert_eq!(request.user_agent(), Some(&b"x"[..]));
    assert_eq!(request.referer(), Some(&b"http://b/"[..]));
    assert!(request.body().is_complete());
}

#[test]
fn a_response_is_read() {
    let response = Response::parse(
        b"HTTP/1.1 302 Found\r\nLocation: /c\r\nContent-Type: text/html; a=b\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(response.status, Some(302));
    assert_eq!(response.location(), Some(&b"/c"[..]));
    assert_eq!(response.content_type(), Some(&b"text/html; a=b"[..]));
    assert_eq!(response.body(), Body::Length(5));
}

#[test]
fn what_breaks_the_rules_is_read_as_far_as_it_makes_sense() {
    let request = Request::parse(b"G\x01T\t/a \x80b HTTP/1.1\nHost : x\n\n");
    assert_eq!(
        (request.method, request.target, request.protocol),
        (&b"G\x01T"[..], &b"/a"[..], Some(&b"\x80b HTTP/1.1"[..]))
    );
    assert_eq!(request.host(), Some(&b"x"[..]));
    let old = Request::parse(b"GET /old\r\n\r\n");
    assert_eq!((old.target, old.protocol), (&b"/old"[..], None));
    let response = Response::parse(b"HTTP/1.1  404 \x00\r\n\x00: x\r\nContent-Length : 7\r\n\r\n");
    assert_eq!((response.status, response.body()), (Some(404), Body::Length(7)));
    assert_eq!(Response::parse(b"HTTP/1.1 none\r\n\r\n").status, None);
}

#[test]
fn a_length_that_is_no_number_has_the_body_go_on_to_the_end() {
    for (length, body) in [("x5", Body::UntilClose), ("", Body::UntilClose), ("5x", Body::Length(5))] {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(Response::parse(response.as_bytes()).body(), body, "{length:?}");
        let request = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(Request::parse(request.as_bytes()).body(), body, "{length:?}");
    }
}

#[test]
fn responses_are_delimited_as_receivers_do_that_tolerate_much() {
    for (fields, body) in [
        (&b"Transfer-Encoding: \r\n \r\n chunked"[..], Body::chunked()),
        (b"Transfer-Encoding: chunkedx", Body::chunked()),
        (
            b"Transfer-Encoding: lalala\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: lalala",
            Body::chunked(),
        ),
        (b"X: y\rTransfer-Encoding: chunked", Body::chunked()),
        (b"X: y\r\n\tTransfer-Encoding: chunked", Body::chunked()),
        (b"Transfer-Encoding\r\n :chunked", Body::chunked()),
        (b"Transfer\0-encoding:chu\0nked", Body::chunked()),
        (b"Transfer-Encoding\x0b:\xa0chunked\0", Body::chunked()),
        (b"Transfer-Encoding: gzip", Body::UntilClose),
        (b"Content-Length: 34\r\n 68", Body::UntilClose),
        (b"Content-Length: 34 68", Body::UntilClose),
        (b"Content-Length: 68 bytes", Body::Length(68)),
    ] {
        let head = [b"HTTP/1.1 200 ok\r\n", fields, b"\r\nY: z\r\n\r\n"].concat();
        assert_eq!(head_end(&head, 0), Some(head.len()), "{}", fields.escape_ascii());
        assert_eq!(Response::parse(&head).body(), body, "{}", fields.escape_ascii());
    }
    let with_length = |status: &str| format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
    for (status, body, is_interim) in [
        ("0204", Body::Length(5), false),
        ("204", Body::Length(0), false),
        ("100", Body::Length(0), true),
        ("101", Body::Length(5), false),
    ] {
        let head = with_length(status);
        let response = Response::parse(head.as_bytes());
        assert_eq!((response.body(), response.is_interim()), (body, is_interim), "{status}");
    }
}

#[test]
fn white_space_in_an_empty_line_does_not_hide_the_end_of_a_head() {
    for (bytes, end) in [
        (&b"A\n \nbody"[..], Some(4)),
        (b"A\r\n\r\r\n\r\nbody", Some(8)),
        (b"A\r\n \r\n\r\nbody", Some(8)),
        (b"A\r\n \r\n folded\r\n\r\nbody", Some(17)),
        (b"A\r\n\r\n\r\nbody", Some(5)),
        (b"A\r\n \r\n folded\r\n", None),
    ] {
        assert_eq!(head_end(bytes, 0), end, "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_end_of_a_head_is_found_however_lines_end() {
    for head in [&b"A\r\nB\r\n\r\n"[..], b"A\nB\n\n", b"A\r\nB\n\r\n"] {
        let whole = [head, b"more"].concat();
        for seen in 0..=head.len() {
            let before = whole.get(..seen).unwrap();
            if head_end(before, 0).is_none() {
                assert_eq!(head_end(&whole, seen), Some(head.len()));
            }
        }
    }
    assert_eq!(head_end(b"A\r\nB\r\n", 0), None);
}

#[test]
fn a_carriage_return_ends_the_status_line() {
    for (head, status) in [
        (&b"HTTP/1.1\r 200 ok\r\nContent-Length: 2\r\n\r\n"[..], None),
        (b"HTTP/1.1 200\r ok\r\nContent-Length: 2\r\n\r\n", Some(200)),
        (b"HTTP/1.1 \t 200 ok\r\nContent-Length: 2\r\n\r\n", Some(200)),
    ] {
        let response = Response::parse(head);
        assert_eq!((response.status, response.body()), (status, Body::Length(2)));
    }
}

#[test]
fn the_status_says_where_there_is_no_body() {
    for status in ["100", "101", "204", "304"] {
        let head = format!("HTTP/1.1 {status} x\r\n\r\n");
        assert!(Response::parse(head.as_bytes()).body().is_complete());
    }
    assert_eq!(Response::parse(b"HTTP/1.0 200 OK\r\n\r\n").body(), Body::UntilClose);
}

const CHUNKS: &[u8] = b"5;x=y\r\nhello\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnext";

#[test]
fn chunks_that_are_none_last_until_the_end() {
    let mut body = Body::chunked();
    assert_eq!(body.take(b"no chunk").used, 8);
    assert_eq!(body, Body::UntilClose);
    let mut body = Body::chunked();
    assert_eq!(body.take(b"2\r\nabc").used, 6);
    assert_eq!(body, Body::UntilClose);
}

#[test]
fn a_gap_within_a_body_is_bridged_and_one_beyond_it_is_not() {
    let mut body = Body::Length(10);
    assert_eq!(body.miss(4), Some(0));
    assert_eq!(body, Body::Length(6));
    assert_eq!(body.miss(7), Some(1));
    let mut chunks = Body::chunked();
    assert_eq!(chunks.miss(1), None);
    chunks.take(b"10\r\nab");
    assert_eq!(chunks.miss(14), Some(0));
    assert_eq!(chunks.take(b"\r\n0\r\n\r\n"), Taken { used: 7, data: 5 });
    assert!(chunks.is_complete());
}

proptest! {
    #[test]
    fn chunks_end_at_the_same_place_however_they_are_cut(cuts in vec(0..CHUNKS.len(), 0..8)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut body = Body::chunked();
        let (mut at, mut used) = (0, 0);
        let mut content = Vec::new();
        for cut in cuts.into_iter().chain([CHUNKS.len()]) {
            if !body.is_complete() {
                let piece = CHUNKS.get(at..cut).unwrap();
                used += body.take_content(piece, |bytes| content.extend_from_slice(bytes)).used;
            }
            at = cut;
        }
        prop_assert!(body.is_complete());
        prop_assert_eq!(&content[..], b"hello0123456789");
        prop_assert_eq!(used, CHUNKS.len() - "next".len());
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300), seen in 0..400_usize) {
        let _ = Request::parse(&bytes);
        let _ = Response::parse(&bytes);
        let _ = head_end(&bytes, seen);
        let _ = begins_request(&bytes);
        let _ = begins_response(&bytes);
        let mut body = Body::chunked();
        let taken = body.take(&bytes);
        prop_assert!(taken.data <= taken.used && taken.used <= bytes.len());
    }

    #[test]
    fn a_head_that_keeps_to_the_rules_is_read_the_same_line_by_line(
        method in "[A-Z]{1,8}", target in "/[a-z?=&]{0,20}", host in "[a-z.]{1,20}", agent in "[a-zA-Z/() ]{0,20}",
    ) {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\r\n");
        let strict = Request::parse(head.as_bytes());
        // A field name that httparse rejects forces parsing line by line.
        let broken = head.replace("\r\n\r\n", "\r\n\0\r\n\r\n").replacen("HTTP/1.1", "HTTP/1.1 ", 1);
        let lenient = Request::parse(broken.as_bytes());
        prop_assert_eq!((strict.method, strict.target, strict.host()), (lenient.method, lenient.target, lenient.host()));
        prop_assert_eq!(strict.user_agent().map(<[u8]>::trim_ascii), lenient.user_agent());
    }
}
