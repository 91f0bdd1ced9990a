//! TLS handshakes, to the extent that an observer reads them (RFC 8446, section 4).

/// Returns bytes preceded by their length in one byte.
#[must_use]
pub fn with_len8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// Returns bytes preceded by their length in two bytes, as for a DNS message over TCP.
#[must_use]
pub fn with_len16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// Returns a TLS record (RFC 8446, section 5.1) with a handshake message.
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0], &with_len16(body)[..]].concat();
    [&[22, 3, 1], &with_len16(&message)[..]].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &with_len16(body)[..]].concat()
}

/// Returns the record of a client that asks for a server of this name, with ALPN for HTTP/2 and HTTP/1.1.
#[must_use]
pub fn client_hello(name: &str) -> Vec<u8> {
    let name = with_len16(&[&[0], &with_len16(name.as_bytes())[..]].concat());
    let alpn = with_len16(&[with_len8(b"h2"), with_len8(b"http/1.1")].concat());
    let extensions = [
        extension(0, &name),
        extension(10, &with_len16(&[0, 29, 0, 23])),
        extension(11, &with_len8(&[0])),
        extension(13, &with_len16(&[4, 3, 8, 4])),
        extension(16, &alpn),
        extension(43, &with_len8(&[3, 4, 3, 3])),
    ]
    .concat();
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &with_len8(&[9; 32]),
        &with_len16(&[0x13, 1, 0x13, 2, 0xc0, 0x2f]),
        &with_len8(&[0]),
        &with_len16(&extensions),
    ];
    handshake(1, &hello.concat())
}

/// Returns the records of a TLS 1.3 server's answer, with a dummy certificate of two bytes.
#[must_use]
pub fn server_hello() -> Vec<u8> {
    let extensions = [extension(16, &with_len16(&with_len8(b"h2"))), extension(43, &[3, 4])].concat();
    let hello =
        [&[3, 3][..], &[8; 32], &with_len8(&[9; 32]), &[0x13, 1, 0], &with_len16(&extensions)].concat();
    let certificate =
        with_len16(&[&[0], &with_len16(&[&[0], &with_len16(&[0x30, 0])[..]].concat())[..]].concat());
    [handshake(2, &hello), handshake(11, certificate.get(1..).unwrap_or_default())].concat()
}
