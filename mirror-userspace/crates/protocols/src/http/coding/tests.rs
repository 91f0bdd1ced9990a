//! Bodies in each coding, whole and cut, broken, and of bombs.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 100 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// [`BROTLI_TEXT`], encoded by brotli 1.1 at quality 5.
const BROTLI: &[u8] = &[
    0x1b, 0x72, 0x00, 0x00, 0xa4, 0x41, 0xc2, 0xce, 0xda, 0xf4, 0x20, 0x8a, 0xa8, 0x82, 0x98, 0x0c, 0x38,
    0x8f, 0x72, 0x72, 0xc4, 0x1d, 0xe5, 0x0b,
];
const BROTLI_TEXT: &[u8] = b"alpha beta alpha beta alpha beta alpha beta alpha beta \
    alpha beta alpha beta alpha beta alpha beta alpha beta gamma";

/// Decodes a body that comes in pieces of some length.
fn decode_in(codings: &str, body: &[u8], piece: usize, limit: usize) -> Vec<u8> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.begin(codings.as_bytes());
    for piece in body.chunks(piece) {
        if decoder.push(piece, &mut out, limit) == Decoding::End {
            break;
        }
    }
    decoder.finish(&mut out, limit);
    out
}

fn decode(codings: &str, body: &[u8]) -> Vec<u8> {
    let whole = decode_in(codings, body, usize::MAX, LIMIT);
    assert_eq!(decode_in(codings, body, 1, LIMIT), whole, "a byte at a time");
    whole
}

#[test]
fn each_coding_is_undone_whatever_its_name_looks_like() {
    let text = b"X5O!P%@AP[4 alpha beta alpha beta".repeat(40);
    for (codings, body) in [
        ("", text.clone()),
        ("identity", text.clone()),
        ("gzip", gzip(&text)),
        ("X-GZIP", gzip(&text)),
        (": gzip", gzip(&text)),
        ("identity, gzip;", gzip(&text)),
        ("gzip", zlib(&text)),
        ("deflate", zlib(&text)),
        ("deFLaTe", deflate(&text)),
        ("deflate", gzip(&text)),
        ("zstd", zstd(&text)),
        ("gzip, deflate", deflate(&gzip(&text))),
        ("deflate,gzip", gzip(&deflate(&text))),
        ("zstd, gzip", gzip(&zstd(&text))),
    ] {
        assert_eq!(decode(codings, &body), text, "{codings}");
    }
    assert_eq!(decode("br", BROTLI), BROTLI_TEXT);
    assert_eq!(decode("br, gzip", &gzip(BROTLI)), BROTLI_TEXT);
}

#[test]
fn bodies_that_are_not_encoded_as_they_claim_are_passed_on() {
    let text = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";
    for codings in ["gzip", "deflate", "gzip, gzip", "gzip,deflate", "deflate,gzip", "compress", "foo"] {
        assert_eq!(decode(codings, text), text, "{codings}");
    }
    assert_eq!(decode("deflate, gzip", &deflate(text)), text);
    assert_eq!(decode("gzip", b"\x1f"), b"\x1f");
}

#[test]
fn members_of_gzip_and_frames_of_zstd_follow_each_other() {
    assert_eq!(decode("gzip", &[gzip(b"one "), gzip(b"two")].concat()), b"one two");
    assert_eq!(decode("zstd", &[zstd(b"one "), zstd(b"two")].concat()), b"one two");
    assert_eq!(decode("gzip", &[&gzip(b"one")[..], b"rest"].concat()), b"one");
}

#[test]
fn optional_fields_in_the_header_of_gzip_are_skipped() {
    let body = gzip(b"content");
    let (header, data) = body.split_at(10);
    for (flags, fields) in [
        (1, &b""[..]),
        (2, b"\0\0"),
        (4, b"\x05\0Ap\x01\0\0"),
        (8, b"name\0"),
        (0x10, b" \0"),
        (0x1e, b"\0\0name\0comment\0\0\0"),
        (0xe0, b""),
    ] {
        let mut header = header.to_vec();
        header[3] = flags;
        assert_eq!(decode("gzip", &[&header[..], fields, data].concat()), b"content", "{flags:#x}");
    }
}

#[test]
fn broken_data_ends_the_body_with_what_was_decoded_before() {
    let text: Vec<u8> = (0..20_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for (codings, mut body) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
        let at = body.len() / 2;
        body.iter_mut().skip(at).take(64).for_each(|byte| *byte ^= 0x5a);
        let out = decode_in(codings, &body, 1000, 10 * LIMIT);
        assert!(!out.is_empty() && out.len() < 10 * LIMIT, "{codings}: {}", out.len());
    }
    let cut = gzip(b"alpha beta");
    assert_eq!(decode("gzip", &cut[..cut.len() - 6]), b"alpha beta", "without its trailer");
}

#[test]
fn hostile_bombs_end_at_the_limit() {
    let zeros = vec![0; 3 << 20];
    for (codings, body) in [
        ("gzip", gzip(&zeros)),
        ("zstd", zstd(&zeros)),
        ("gzip, gzip", gzip(&gzip(&zeros))),
        ("deflate", deflate(&zeros)),
    ] {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        decoder.begin(codings.as_bytes());
        assert_eq!(decoder.push(&body, &mut out, LIMIT), Decoding::End, "{codings}");
        assert_eq!(out.len(), LIMIT);
        assert!(decoder.room() < 10 << 20);
    }
    // Much that decodes to nothing.
    let nothing = gzip(&gzip(b"").repeat(1 << 13));
    assert!(decode_in("gzip, gzip", &nothing, usize::MAX, LIMIT).is_empty());
}

#[test]
fn a_decoder_is_used_again() {
    let mut decoder = Decoder::default();
    for (codings, body) in
        [("gzip", gzip(b"one")), ("", b"two".to_vec()), ("gzip", b"plain".to_vec()), ("br", BROTLI.to_vec())]
    {
        let mut out = Vec::new();
        decoder.begin(codings.as_bytes());
        decoder.push(&body, &mut out, LIMIT);
        decoder.finish(&mut out, LIMIT);
        assert!(!out.is_empty(), "{codings}");
    }
}

proptest! {
    #[test]
    fn a_body_decodes_the_same_however_it_is_cut(
        text in vec(0..4_u8, 0..3000), coding in 0..5_usize, piece in 1..200_usize, limit in 1..4000_usize,
    ) {
        let (codings, body) = match coding {
            0 => ("gzip", gzip(&text)),
            1 => ("deflate", deflate(&text)),
            2 => ("deflate", zlib(&text)),
            3 => ("zstd", zstd(&text)),
            _ => ("deflate, gzip", gzip(&deflate(&text))),
        };
        let expected = &text[..text.len().min(limit)];
        prop_assert_eq!(&decode_in(codings, &body, piece, limit)[..], expected);
    }

    #[test]
    fn no_bytes_panic_or_exceed_the_limit(
        bytes in vec(any::<u8>(), 0..600), begin in 0..5_usize, piece in 1..100_usize, limit in 0..2000_usize,
    ) {
        let begin: &[u8] = [&b"\x1f\x8b\x08\0\0\0\0\0\0\0"[..], b"x\x9c", b"\x28\xb5\x2f\xfd", b"\x1b", b""][begin];
        let body = [begin, &bytes].concat();
        for codings in ["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, deflate"] {
            let out = decode_in(codings, &body, piece, limit);
            prop_assert!(out.len() <= limit);
        }
    }
}
