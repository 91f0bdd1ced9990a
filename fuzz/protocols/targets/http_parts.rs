//! The parts of HTTP/1.x heads that rules inspect, and encoded bodies in two pieces.

use mirror_protocols::http::{Decoder, Fields, RequestParts, ResponseParts};

const LIMIT: usize = 16 * 1024;
const CODINGS: [&str; 8] = ["", "gzip", "deflate", "br", "zstd", "gzip, br", "zstd, deflate", "deflate, gzip"];

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    head(bytes);
    let codings = CODINGS[usize::from(choice) % CODINGS.len()];
    let cut = usize::from(choice).min(bytes.len());
    let [whole, pieces] = [bytes.len(), cut].map(|cut| body(codings, bytes, cut));
    // Broken data may end elsewhere if it comes in pieces, so only the lengths are compared with the limit.
    assert!(whole.len() <= LIMIT && pieces.len() <= LIMIT, "a body keeps to its limit");
}

fn head(bytes: &[u8]) {
    let (mut fields, mut room) = (Fields::default(), Vec::new());
    let request = RequestParts::new(bytes, &mut fields);
    let most = 8 * bytes.len() + 8;
    assert!(request.uri(&mut room).len() <= most);
    assert!(request.host(&mut room).is_none_or(|host| !host.iter().any(u8::is_ascii_uppercase)));
    assert!(request.cookie(&mut room).is_none_or(|cookie| cookie.len() <= most));
    assert!(request.fields().header(&mut room).len() <= most);
    assert!(request.fields().names(&mut room).ends_with(b"\r\n\r\n"));
    assert!(request.fields().start(&mut room).ends_with(b"\r\n\r\n"));
    let response = ResponseParts::new(bytes, &mut fields);
    response.fields().each_header(&mut room, |line| assert!(line.len() <= most));
    let _ = (response.status(), response.message(), response.cookie(&mut room));
}

fn body(codings: &str, bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.begin(codings.as_bytes());
    let (first, second) = bytes.split_at(cut);
    decoder.push(first, &mut out, LIMIT);
    decoder.push(second, &mut out, LIMIT);
    decoder.finish(&mut out, LIMIT);
    out
}
