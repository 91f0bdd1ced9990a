//! The request's target: the authority in it, and the URI in the normal form that rules inspect.
//!
//! The form is that of Suricata with its shipped settings (a profile for all servers alike): escapes are decoded once, in
//! path and query; a backslash is a slash; runs of slashes are one; `.` and `..` are resolved. Escapes that are none, a
//! plus sign and letter case stay. Scheme and authority are left out.

use std::ops::Range;

/// The host and the port that a request is addressed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) port: Option<u16>,
}

/// Returns the place of the host in an authority, in front of a port. Dots at its end are part of it.
pub(super) fn host_of(text: &[u8]) -> Range<usize> {
    let space = text.len() - text.trim_ascii_start().len();
    let rest = text.get(space..).unwrap_or_default();
    let bracket = if rest.starts_with(b"[") { memchr::memchr(b']', rest) } else { None };
    let from = bracket.unwrap_or_default();
    let colon = memchr::memchr(b':', rest.get(from..).unwrap_or_default()).map(|colon| colon + from);
    let host = rest.get(..colon.unwrap_or(rest.len())).unwrap_or_default();
    space..space + host.trim_ascii_end().len()
}

/// Returns the authority of a target in absolute form.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    let authority = behind_scheme(target)?.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()?;
    authority.rsplit(|&byte| byte == b'@').next()
}

/// Returns the part of a target in absolute form behind the scheme.
fn behind_scheme(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|byte| !byte.is_ascii_alphanumeric()).filter(|&len| len > 0)?;
    target.get(scheme..)?.strip_prefix(b"://")
}

impl<'a> Authority<'a> {
    /// Returns the authority in a target.
    pub(super) fn of_target(method: &[u8], target: &'a [u8]) -> Self {
        if method == b"CONNECT" {
            Self::parse(target).unless_odd(target)
        } else {
            absolute(target).map_or_else(Self::default, Self::parse)
        }
    }

    /// Returns nothing if the text behind the host is not a port.
    fn unless_odd(self, text: &[u8]) -> Self {
        let odd = self.port.is_none() && text.contains(&b':') && !text.ends_with(b"]");
        if odd { Self::default() } else { self }
    }

    /// Parses host and port. An IPv6 address is in brackets.
    pub(super) fn parse(text: &'a [u8]) -> Self {
        let text = text.trim_ascii();
        let Range { start, end } = host_of(text);
        let port = text.get(end..).unwrap_or_default().trim_ascii_start();
        let mut host = text.get(start..end).unwrap_or_default();
        while let Some(shorter) = host.strip_suffix(b".") {
            host = shorter;
        }
        let port = port.strip_prefix(b":").and_then(|port| str::from_utf8(port.trim_ascii()).ok());
        Self {
            host: Some(host).filter(|host| !host.is_empty()),
            port: port.and_then(|port| port.parse().ok()).filter(|&port| port > 0),
        }
    }
}

/// Appends the normal form of a target. It is never longer than the target by more than one byte.
pub(super) fn normalize(target: &[u8], out: &mut Vec<u8>) {
    let local = local_part(target);
    let (local, fragment) = split_at(local, memchr::memchr(b'#', local));
    let (path, query) = split_at(local, memchr::memchr(b'?', local));
    let begin = out.len();
    decode(path, true, out);
    resolve_dots(out, begin);
    decode(query, false, out);
    out.extend_from_slice(fragment);
}

/// Returns a target without scheme and authority. Only one that begins with a slash has no scheme.
fn local_part(target: &[u8]) -> &[u8] {
    let colon = if target.starts_with(b"/") { None } else { memchr::memchr(b':', target) };
    let Some(colon) = colon else { return target };
    let rest = target.get(colon + 1..).unwrap_or_default();
    let Some(authority) = rest.strip_prefix(b"//") else { return rest };
    let path = authority.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    authority.get(path.unwrap_or(authority.len())..).unwrap_or_default()
}

fn split_at(bytes: &[u8], at: Option<usize>) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at.unwrap_or(bytes.len())).unwrap_or((bytes, &[]))
}

/// Appends text with its escapes decoded. In a path, slashes are made equal and single.
fn decode(text: &[u8], is_path: bool, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match *rest {
            [b'%', high, low, ref behind @ ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, behind),
                _ => (*first, rest.get(1..).unwrap_or_default()),
            },
            _ => (*first, behind),
        };
        rest = behind;
        let byte = if is_path && byte == b'\\' { b'/' } else { byte };
        if !(is_path && byte == b'/' && out.len() > begin && out.last() == Some(&b'/')) {
            out.push(byte);
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Resolves the segments `.` and `..` of the path that begins at `begin` (RFC 3986, section 5.2.4).
fn resolve_dots(out: &mut Vec<u8>, begin: usize) {
    if !out.get(begin..).unwrap_or_default().contains(&b'.') {
        return;
    }
    // Read and write positions; what is written never overtakes what is read.
    let (mut read, mut write) = (begin, begin);
    if out.get(begin) != Some(&b'/') {
        // A path that begins with dots loses them.
        while let Some(len) =
            [&b"../"[..], b"./"].iter().find(|it| out.get(read..).is_some_and(|rest| rest.starts_with(it)))
        {
            read += len.len();
        }
    }
    while read < out.len() {
        let segment_end = segment_end(out, read);
        let segment = out.get(read..segment_end).unwrap_or_default();
        let is_last = segment_end == out.len();
        match segment {
            b"/." | b"/.." => {
                if segment == b"/.." {
                    let written = out.get(begin..write).unwrap_or_default();
                    write = begin + memchr::memrchr(b'/', written).unwrap_or_default();
                }
                if is_last && let Some(byte) = out.get_mut(write) {
                    *byte = b'/';
                    write += 1;
                }
            }
            _ => {
                let len = segment.len();
                out.copy_within(read..segment_end, write);
                write += len;
            }
        }
        read = segment_end;
    }
    out.truncate(write);
}

/// Returns the end of a segment that begins at `at`, with a slash or without.
fn segment_end(path: &[u8], at: usize) -> usize {
    let rest = path.get(at + 1..).unwrap_or_default();
    memchr::memchr(b'/', rest).map_or(path.len(), |len| at + 1 + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(target: &str) -> String {
        let mut out = Vec::new();
        normalize(target.as_bytes(), &mut out);
        out.escape_ascii().to_string()
    }

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            (&b"a.example"[..], Some(&b"a.example"[..]), None),
            (b" a.example.:8080 ", Some(b"a.example"), Some(8080)),
            (b"[2001:db8::1]:81", Some(b"[2001:db8::1]"), Some(81)),
            (b"[2001:db8::1]", Some(b"[2001:db8::1]"), None),
            (b"a:port", Some(b"a"), None),
            (b":80", None, Some(80)),
            (b"", None, None),
        ] {
            assert_eq!(Authority::parse(text), Authority { host, port }, "{}", text.escape_ascii());
        }
        for (target, host) in [
            (&b"a.example:443"[..], Some(&b"a.example"[..])),
            (b"[2001:db8::1]", Some(b"[2001:db8::1]")),
            (b"{\"verbose\":false}", None),
        ] {
            assert_eq!(Authority::parse(target).unless_odd(target).host, host);
        }
        assert_eq!(absolute(b"http://user@a.example:80/b?c"), Some(&b"a.example:80"[..]));
        assert_eq!(absolute(b"/path?u=http://a.example/"), None);
    }
    #[test]
    fn escapes_are_decoded_once_in_path_and_query() {
        for (target, normalized) in [
            ("/abc%2fdef", "/abc/def"),
            ("/abc/def?ghi%2fjkl", "/abc/def?ghi/jkl"),
            ("/abc%252fdef?ghi%252fjkl", "/abc%2fdef?ghi%2fjkl"),
            ("/put.php?ip=1.2.3.4&port=+6000", "/put.php?ip=1.2.3.4&port=+6000"),
            ("/%zz%4?%", "/%zz%4?%"),
            ("/a%00b", "/a\\x00b"),
            ("/A%41", "/AA"),
        ] {
            assert_eq!(normal(target), normalized, "{target}");
        }
    }

    #[test]
    fn slashes_and_dots_of_the_path_are_resolved_and_those_of_the_query_are_not() {
        for (target, normalized) in [
            ("/a//b///c", "/a/b/c"),
            (r"/a\b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/%2e%2e/b", "/b"),
            ("../../x", "x"),
            ("/a.b/..c", "/a.b/..c"),
            ("/p?f=../../x//y", "/p?f=../../x//y"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normal(target), normalized, "{target}");
        }
    }

    #[test]
    fn scheme_and_authority_are_left_out() {
        for (target, normalized) in [
            ("http://suricata.example/blah/?x#y", "/blah/?x#y"),
            ("http://suricata.example", ""),
            ("http://suricata.example?q", "?q"),
            (":@x", "@x"),
            ("/http://suricata.example/", "/http:/suricata.example/"),
        ] {
            assert_eq!(normal(target), normalized, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_normal_form_is_not_longer_than_the_target(target in proptest::collection::vec(
            proptest::sample::select(b"/.\\%2eEf5cC?#a:\0\x80".as_slice()), 0..40,
        )) {
            let mut out = b"before".to_vec();
            normalize(&target, &mut out);
            assert!(out.starts_with(b"before") && out.len() <= target.len() + 7);
        }
    }
}
