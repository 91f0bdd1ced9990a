//! Identification strings.

/// A side's identification string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banner<'a> {
    /// Version of the protocol.
    pub protocol: &'a [u8],
    /// Name and version of the software, without the comments behind it.
    pub software: &'a [u8],
    /// Bytes of the stream up to the end of the line.
    pub len: usize,
}

/// The longest line that can be a banner.
const MAX_LEN: usize = 255;
/// Lines that a server may send before it.
const MAX_LINES: usize = 64;

/// The result of searching the beginning of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<'a> {
    /// The banner.
    Found(Banner<'a>),
    /// More bytes are needed.
    More,
    /// There is none.
    No,
}

/// Searches the beginning of a stream for the banner.
#[must_use]
pub fn banner(bytes: &[u8]) -> Look<'_> {
    let mut rest = bytes;
    for _ in 0..MAX_LINES {
        let Some(end) = rest.iter().take(MAX_LEN).position(|&byte| byte == b'\n') else {
            return if rest.len() < MAX_LEN { Look::More } else { Look::No };
        };
        let (line, behind) = rest.split_at(end);
        if let Some(line) = line.strip_prefix(b"SSH-") {
            let len = bytes.len() - behind.len() + 1;
            return parse(line.strip_suffix(b"\r").unwrap_or(line), len).map_or(Look::No, Look::Found);
        }
        rest = behind.get(1..).unwrap_or_default();
    }
    Look::No
}

fn parse(line: &[u8], len: usize) -> Option<Banner<'_>> {
    let dash = line.iter().position(|&byte| byte == b'-')?;
    let (protocol, software) = line.split_at(dash);
    let software = software.get(1..)?.split(|&byte| byte == b' ').next()?;
    Some(Banner { protocol, software, len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_banner_is_found_behind_other_lines_once_it_is_whole() {
        let text = b"Welcome\r\nSSH-2.0-OpenSSH_9.2p1 Debian-2\r\nrest";
        let end = text.len() - b"\nrest".len();
        let banner_of = Banner { protocol: b"2.0", software: b"OpenSSH_9.2p1", len: end + 1 };
        for len in 0..=text.len() {
            let expected = if len > end { Look::Found(banner_of) } else { Look::More };
            assert_eq!(banner(&text[..len]), expected, "{len}");
        }
    }

    #[test]
    fn what_has_no_version_or_no_end_is_none() {
        assert_eq!(banner(b"SSH-2.0\r\n"), Look::No);
        assert_eq!(banner(&[b'x'; 300]), Look::No);
        assert_eq!(banner(&[b'\n'; 300]), Look::No);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = banner(&bytes);
        }
    }
}
