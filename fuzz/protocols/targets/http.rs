//! Heads of HTTP/1.x messages, and bodies in two pieces.

use mirror_protocols::http::{Body, Request, Response, head_end};

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let _ = (Request::parse(bytes), Response::parse(bytes));
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    if head_end(first, 0).is_none() {
        assert_eq!(head_end(bytes, first.len()), head_end(bytes, 0), "a head ends where it ends");
    }
    let mut whole = Body::chunked();
    let mut pieces = Body::chunked();
    let used = whole.take(bytes).used;
    let mut used_of_pieces = pieces.take(first).used;
    if !pieces.is_complete() {
        used_of_pieces += pieces.take(second).used;
    }
    assert_eq!((used, whole), (used_of_pieces, pieces), "a body ends where it ends");
}
