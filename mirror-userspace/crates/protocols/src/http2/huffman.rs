//! The Huffman code of HPACK (RFC 7541, appendix B). It is canonical, so the lengths of the codes define it.

/// Number of symbols: one for each byte, and the end of the string, which no string contains.
const SYMBOLS: usize = 257;
/// The longest code, in bits.
const LONGEST: usize = 30;
/// Codes of at most this many bits are looked up at once.
const SHORT: u32 = 8;

/// The lengths of the codes, in bits.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// The code, in the form that decoding needs.
struct Code {
    /// The symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// For each length: the first code, the number of codes, and the place of the first in `symbols`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    /// Symbol and length for each [`SHORT`] bits that begin with a short code; length 0 for others.
    short: [(u8, u8); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        symbols: [0; SYMBOLS],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut next, mut at, mut len) = (0, 0, 1);
    while len <= LONGEST {
        next <<= 1;
        code.first[len] = next;
        code.place[len] = at as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == len {
                code.symbols[at] = symbol as u16;
                if len <= SHORT as usize {
                    let free = SHORT - len as u32;
                    let mut rest = 0;
                    while rest < 1 << free {
                        code.short[((next << free) + rest) as usize] = (symbol as u8, len as u8);
                        rest += 1;
                    }
                }
                next += 1;
                at += 1;
                code.count[len] += 1;
            }
            symbol += 1;
        }
        len += 1;
    }
    code
}

/// Decodes a string and appends it to `out`. Returns false if the bytes are no code, or are padded wrongly; what they
/// begin with is appended all the same. The output has at most 8/5 of the input's length.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut input = bytes.iter();
    let (mut bits, mut held) = (0_u64, 0_u32);
    loop {
        while held <= u64::BITS - 8
            && let Some(byte) = input.next()
        {
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        // The bits are padded with ones to look at as many as there must be.
        let peek = |len: u32| match held.checked_sub(len) {
            Some(behind) => bits >> behind & ((1 << len) - 1),
            None => ((bits << (len - held)) | ((1 << (len - held)) - 1)) & ((1 << len) - 1),
        };
        let (symbol, len) = CODE.short.get(peek(SHORT) as usize).copied().unwrap_or_default();
        if len > 0 {
            let Some(left) = held.checked_sub(u32::from(len)) else { return false };
            held = left;
            out.push(symbol);
            continue;
        }
        if held < SHORT {
            return peek(SHORT) == 0xff;
        }
        let mut found = None;
        for len in SHORT + 1..=held.min(LONGEST as u32) {
            let (first, count) = (CODE.first[len as usize], CODE.count[len as usize]);
            let offset = (peek(len) as u32).wrapping_sub(first);
            if offset < count {
                let place = usize::from(CODE.place[len as usize]) + offset as usize;
                found = CODE.symbols.get(place).map(|symbol| (*symbol, len));
                break;
            }
        }
        match found {
            Some((symbol, len)) if symbol < 256 => {
                held -= len;
                out.push(symbol as u8);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a string, from the lengths alone.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut held, mut out) = (0_u64, 0, Vec::new());
        for &byte in text {
            let len = usize::from(LENGTHS[usize::from(byte)]);
            let before = LENGTHS[..usize::from(byte)].iter().filter(|it| usize::from(**it) == len).count();
            bits = bits << len | u64::from(CODE.first[len] + before as u32);
            held += len;
            while held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
        }
        if held > 0 {
            out.push((bits << (8 - held) | ((1 << (8 - held)) - 1)) as u8);
        }
        out
    }

    #[test]
    fn strings_of_the_rfc_are_decoded() {
        for (code, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], "custom-value"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ] {
            let mut out = Vec::new();
            assert!(decode(code, &mut out), "{text}");
            assert_eq!(out, text.as_bytes());
            assert_eq!(encode(text.as_bytes()), code, "{text}");
        }
    }

    #[test]
    fn every_byte_is_decoded_and_wrong_ends_are_refused() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        assert!(decode(&encode(&all), &mut out));
        assert_eq!(out, all);
        out.clear();
        assert!(!decode(&[0xff, 0xff, 0xff, 0xff], &mut out), "the end of the string is no symbol");
        assert!(!decode(&[0x00], &mut out), "padding with zeros");
        assert!(!decode(&[0xff], &mut out), "padding of a whole byte");
    }

    proptest::proptest! {
        #[test]
        fn any_string_comes_back(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            proptest::prop_assert!(decode(&encode(&text), &mut out));
            proptest::prop_assert_eq!(out, text);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            let _ = decode(&bytes, &mut out);
            proptest::prop_assert!(out.len() <= bytes.len() * 8 / 5);
        }
    }
}
