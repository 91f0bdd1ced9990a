//! All rules together: which may match a buffer, and whether one does.
//!
//! A rule is found by one pattern in one buffer ([`crate::compile`]), then verified in all of its buffers
//! ([`crate::inspect`]). Addresses, ports, conditions and state are not looked at here.

use std::borrow::Cow;

use crate::buffer::{BUFFERS, Buffer};
use crate::compile::{Prefilter, Signature};
use crate::inspect::{Values, Verdict, verify};
use crate::rule::{BufferMatches, Match};
use crate::search::{Builder, Candidates, Search};
use crate::transform::Transform;

/// The patterns of a buffer behind the same transforms.
#[derive(Debug)]
struct Transformed {
    transforms: Box<[Transform]>,
    search: Search,
}

/// All rules.
#[derive(Debug)]
pub struct Engine {
    signatures: Box<[Signature]>,
    /// The searches by the number of their buffer.
    searches: Box<[Vec<Transformed>]>,
    /// Rules that no pattern finds.
    by_header: Box<[u32]>,
}

impl Engine {
    /// Builds the searches. Returns an error if the patterns of a buffer are too many for an automaton.
    ///
    /// ```
    /// use mirror_signatures::buffer::Buffer;
    /// use mirror_signatures::config::classification::Classes;
    /// use mirror_signatures::engine::Engine;
    /// use mirror_signatures::inspect::Verdict;
    /// use mirror_signatures::ruleset::Loader;
    /// use mirror_signatures::search::Candidates;
    /// use mirror_signatures::variables::Variables;
    ///
    /// let (variables, classes) = (Variables::default(), Classes::default());
    /// let mut loader = Loader::new(&variables, &classes);
    /// let text = br#"alert dns any any -> any any (dns.query; dotprefix; content:".evil.example"; endswith; sid:1;)"#;
    /// loader.add("local.rules".as_ref(), text);
    /// let engine = Engine::new(loader.finish().signatures).unwrap();
    ///
    /// let mut candidates = Candidates::default();
    /// engine.candidates(Buffer::DnsQuery, b"www.evil.example", &mut candidates);
    /// assert_eq!(candidates.rules(), [0]);
    /// let names: [&[u8]; 1] = [b"www.evil.example"];
    /// assert_eq!(engine.verify(0, |buffer| if buffer == Buffer::DnsQuery { &names } else { &[] }), Verdict::Match);
    /// ```
    pub fn new(signatures: Vec<Signature>) -> Result<Self, String> {
        let mut builders: Vec<Vec<(Box<[Transform]>, Builder)>> =
            BUFFERS.iter().map(|_| Vec::new()).collect();
        let mut by_header = Vec::new();
        for (signature, rule) in signatures.iter().zip(0_u32..) {
            let pattern = match signature.prefilter {
                Prefilter::Pattern(pattern) => pattern,
                Prefilter::Header => {
                    by_header.push(rule);
                    continue;
                }
            };
            let list = signature.rule.buffers.get(usize::from(pattern.buffer));
            let (Some(list), Some(content)) = (list, pattern.content(&signature.rule)) else {
                by_header.push(rule);
                continue;
            };
            let Some(of_buffer) = builders.get_mut(list.buffer as usize) else { continue };
            let index = of_buffer.iter().position(|(transforms, _)| *transforms == list.transforms);
            let index = index.unwrap_or_else(|| {
                of_buffer.push((list.transforms.clone(), Builder::default()));
                of_buffer.len() - 1
            });
            if let Some((_, builder)) = of_buffer.get_mut(index) {
                builder.add(rule, pattern.bytes(&signature.rule), content, &list.matches);
            }
        }
        let build = |(transforms, builder): (Box<[Transform]>, Builder)| {
            builder.build().map(|search| Transformed { transforms, search })
        };
        let searches: Result<Vec<Vec<Transformed>>, String> =
            builders.into_iter().map(|of_buffer| of_buffer.into_iter().map(build).collect()).collect();
        Ok(Self { signatures: signatures.into(), searches: searches?.into(), by_header: by_header.into() })
    }

    /// Returns the rules. Their indexes are those of candidates.
    #[must_use]
    pub const fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Returns the rules that no pattern finds: their headers and conditions do.
    #[must_use]
    pub const fn by_header(&self) -> &[u32] {
        &self.by_header
    }

    /// Returns true if a pattern of any rule is searched in the buffer. Otherwise the buffer need not be made for
    /// the search.
    #[must_use]
    pub fn is_searched(&self, buffer: Buffer) -> bool {
        self.searches.get(buffer as usize).is_some_and(|searches| !searches.is_empty())
    }

    /// Adds the rules that the content of a buffer may match.
    pub fn candidates(&self, buffer: Buffer, bytes: &[u8], found: &mut Candidates) {
        for Transformed { transforms, search } in self.searches.get(buffer as usize).into_iter().flatten() {
            search.find(&transformed(transforms, bytes), found);
        }
    }

    /// Verifies the content of a rule. `contents` returns the contents of a buffer: none if the traffic has no such
    /// buffer, several if a transaction has several.
    #[must_use]
    pub fn verify<'b>(&self, rule: u32, contents: impl Fn(Buffer) -> &'b [&'b [u8]]) -> Verdict {
        let Some(signature) = self.signatures.get(rule as usize) else { return Verdict::NoMatch };
        let mut values = Values::default();
        for list in &signature.rule.buffers {
            match verify_list(list, contents(list.buffer), &mut values) {
                Verdict::Match => {}
                verdict => return verdict,
            }
        }
        Verdict::Match
    }

    /// Returns the memory that the searches take, without the rules.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.searches.iter().flatten().map(|one| one.search.heap_bytes()).sum()
    }
}

fn transformed<'a>(transforms: &[Transform], bytes: &'a [u8]) -> Cow<'a, [u8]> {
    if transforms.is_empty() { Cow::Borrowed(bytes) } else { Transform::apply_all(transforms, bytes) }
}

/// Verifies the requirements of one buffer: one of its contents must satisfy all.
fn verify_list(list: &BufferMatches, contents: &[&[u8]], values: &mut Values) -> Verdict {
    let absent = list.matches.iter().find_map(|requirement| match requirement {
        Match::Absent { or_else } => Some(*or_else),
        _ => None,
    });
    match absent {
        Some(_) if contents.is_empty() => return Verdict::Match,
        Some(false) => return Verdict::NoMatch,
        Some(true) | None => {}
    }
    let mut result = Verdict::NoMatch;
    for content in contents {
        let mut attempt = values.clone();
        match verify(&list.matches, &transformed(&list.transforms, content), &mut attempt) {
            Verdict::Match => {
                *values = attempt;
                return Verdict::Match;
            }
            Verdict::LimitReached => result = Verdict::LimitReached,
            Verdict::NoMatch => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::classification::Classes;
    use crate::ruleset::Loader;
    use crate::variables::Variables;

    fn engine(text: &str) -> Engine {
        let (variables, classes) = (Variables::default(), Classes::default());
        let mut loader = Loader::new(&variables, &classes);
        loader.add(Path::new("test.rules"), text.as_bytes());
        let set = loader.finish();
        assert!(set.report.refused.is_empty(), "{:?}", set.report.refused);
        Engine::new(set.signatures).unwrap()
    }

    /// Returns the numbers of the rules that match these contents, found by patterns and verified.
    fn matching(engine: &Engine, buffers: &[(Buffer, &[&[u8]])]) -> Vec<u32> {
        let contents =
            |buffer: Buffer| buffers.iter().find(|one| one.0 == buffer).map_or(&[][..], |one| one.1);
        let mut candidates = Candidates::default();
        for (buffer, contents) in buffers {
            for content in *contents {
                engine.candidates(*buffer, content, &mut candidates);
            }
        }
        let rules = candidates.rules().iter().chain(engine.by_header());
        let matching = rules.filter(|rule| engine.verify(**rule, contents) == Verdict::Match);
        let mut sids: Vec<u32> =
            matching.map(|rule| engine.signatures()[*rule as usize].rule.id.sid).collect();
        sids.sort_unstable();
        sids
    }

    const RULES: &str = r#"
alert dns any any -> any any (dns.query; content:"evil.example"; nocase; bsize:12; sid:1;)
alert dns any any -> any any (dns.query; dotprefix; content:".evil.example"; nocase; endswith; sid:2;)
alert dns any any -> any any (dns.query; content:"evil.example"; nocase; endswith; sid:3;)
alert dns any any -> any any (dns.query; content:"evil"; content:"example"; distance:1; sid:4;)
alert http any any -> any any (http.method; content:"POST"; http.uri; content:"/Gate.php"; endswith; http.header_names; content:!"Referer"; sid:5;)
alert http any any -> any any (http.uri; content:"id="; pcre:"/^\d{4}$/R"; sid:6;)
alert http any any -> any any (http.referer; absent; http.uri; content:"/secret"; sid:7;)
alert http any any -> any any (http.referer; absent:or_else; content:!"good"; http.uri; content:"/either"; sid:8;)
alert http any any -> any any (http.uri; bsize:3; sid:9;)
alert dns any any -> any any (dns.query; content:"a.example"; dns.query; content:"b.example"; sid:10;)
alert http any any -> any any (http.location; absent:or_else; content:"location"; http.server; content:"nginx"; sid:12;)
alert http any any -> any any (http.header; byte_extract:1,0,n; http.uri; content:"x"; offset:n; depth:1; sid:11;)
"#;

    #[test]
    fn names_are_found_exactly_and_by_their_ends() {
        let engine = engine(RULES);
        let names = |name: &str| matching(&engine, &[(Buffer::DnsQuery, &[name.as_bytes()])]);
        assert_eq!(names("evil.example"), [1, 2, 3, 4]);
        assert_eq!(names("www.EVIL.example"), [2, 3]);
        assert_eq!(names("notevil.example"), [3, 4]);
        assert_eq!(names("evil.example.org"), [4]);
        assert_eq!(names("example"), []);
        // Two mentions of the buffer may match different names.
        assert_eq!(matching(&engine, &[(Buffer::DnsQuery, &[b"a.example", b"b.example"])]), [10]);
        assert_eq!(names("a.example"), []);
    }

    #[test]
    fn rules_match_over_several_buffers() {
        let engine = engine(RULES);
        let request = |method: &str, uri: &str, names: &str, referer: Option<&str>| {
            let referer: Vec<&[u8]> = referer.iter().map(|referer| referer.as_bytes()).collect();
            matching(
                &engine,
                &[
                    (Buffer::HttpMethod, &[method.as_bytes()]),
                    (Buffer::HttpUri, &[uri.as_bytes()]),
                    (Buffer::HttpHeaderNames, &[names.as_bytes()]),
                    (Buffer::HttpReferer, &referer),
                ],
            )
        };
        assert_eq!(request("POST", "/a/Gate.php", "\r\nHost\r\n\r\n", Some("x")), [5]);
        assert_eq!(request("POST", "/a/gate.php", "\r\nHost\r\n\r\n", Some("x")), []);
        assert_eq!(request("POST", "/a/Gate.php", "\r\nReferer\r\n\r\n", Some("x")), []);
        assert_eq!(request("GET", "/a/Gate.php", "\r\nHost\r\n\r\n", Some("x")), []);
        assert_eq!(request("GET", "/?id=x&id=1234", "", Some("x")), [6]);
        assert_eq!(request("GET", "/secret", "", None), [7]);
        assert_eq!(request("GET", "/secret", "", Some("x")), []);
        assert_eq!(request("GET", "/either", "", None), [8]);
        assert_eq!(request("GET", "/either", "", Some("good")), []);
        assert_eq!(request("GET", "/either", "", Some("bad")), [8]);
        assert_eq!(request("GET", "/ab", "", Some("x")), [9]);
        // A buffer that may be absent does not find its rule.
        assert_eq!(matching(&engine, &[(Buffer::HttpServer, &[b"nginx"])]), [12]);
        assert_eq!(
            matching(&engine, &[(Buffer::HttpServer, &[b"nginx"]), (Buffer::HttpLocation, &[b"x"])]),
            []
        );
        let uri: [&[u8]; 1] = [b"/a/x"];
        assert_eq!(matching(&engine, &[(Buffer::HttpHeader, &[b"\x03"]), (Buffer::HttpUri, &uri)]), [11]);
        assert_eq!(matching(&engine, &[(Buffer::HttpHeader, &[b"\x02"]), (Buffer::HttpUri, &uri)]), []);
    }

    #[test]
    fn buffers_without_patterns_are_not_searched() {
        let engine = engine(RULES);
        assert!(engine.is_searched(Buffer::DnsQuery) && engine.is_searched(Buffer::HttpUri));
        assert!(!engine.is_searched(Buffer::TlsSni) && !engine.is_searched(Buffer::HttpHeaderNames));
        assert_eq!(engine.by_header().len(), 1);
        let mut candidates = Candidates::default();
        engine.candidates(Buffer::TlsSni, b"evil.example", &mut candidates);
        assert!(candidates.rules().is_empty());
        engine.candidates(Buffer::DnsQuery, b"evil.example", &mut candidates);
        assert!(!candidates.rules().is_empty());
        candidates.clear();
        engine.candidates(Buffer::DnsQuery, b"other.test", &mut candidates);
        assert!(candidates.rules().is_empty());
    }

    fn content() -> impl Strategy<Value = String> {
        let place = prop::sample::select(vec![
            "",
            "nocase;",
            "endswith;",
            "startswith;",
            "offset:1;",
            "nocase;endswith;",
            "bsize:5;",
        ]);
        ("[abAB]{1,5}", place, any::<bool>(), any::<bool>()).prop_map(|(pattern, place, negated, dot)| {
            let pattern = if place.contains("bsize") { format!("{pattern:a<5}") } else { pattern };
            let negated = if negated && !place.contains("bsize") { "!" } else { "" };
            let dot = if dot { "to_lowercase;" } else { "" };
            format!(r#"http.host;{dot}content:{negated}"{pattern}";{place}"#)
        })
    }

    proptest! {
        #[test]
        fn every_rule_that_matches_is_a_candidate(
            rules in prop::collection::vec(prop::collection::vec(content(), 1..3), 1..12),
            host in "[abAB]{0,10}",
        ) {
            let line = |(contents, sid): (&Vec<String>, u32)| {
                format!("alert http any any -> any any ({} sid:{sid};)\n", contents.concat())
            };
            let text = rules.iter().zip(1..).map(line).collect::<Vec<_>>().concat();
            let engine = engine(&text);
            let contents: [&[u8]; 1] = [host.as_bytes()];
            let found = matching(&engine, &[(Buffer::HttpHost, &contents)]);
            let all: Vec<u32> = (0..engine.signatures().len() as u32)
                .filter(|rule| {
                    let of = |buffer| if buffer == Buffer::HttpHost { &contents[..] } else { &[] };
                    engine.verify(*rule, of) == Verdict::Match
                })
                .map(|rule| engine.signatures()[rule as usize].rule.id.sid)
                .collect();
            prop_assert_eq!(found, all);
        }
    }
}
