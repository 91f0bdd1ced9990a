use mirror_packet::Direction;

use super::*;
use crate::buffer::{Application, Buffer};
use crate::diagnostic::Place;
use crate::facts::Http2Fact;
use crate::number::Compare;
use crate::rule::*;
use crate::transform::Transform;

fn text_of(options: &str) -> String {
    let options = options.trim();
    let end = if options.contains("sid:") { "" } else { " sid:1;" };
    format!("alert ip any any -> any any ({options}{end})")
}

/// Returns the rule with these options.
#[track_caller]
fn rule(options: &str) -> Rule {
    let text = text_of(options);
    let mut file = parse(text.as_bytes());
    let refused: Vec<String> = file.refused.iter().chain(&file.skipped).map(ToString::to_string).collect();
    assert!(refused.is_empty(), "{text}: {refused:?}");
    file.rules.remove(0)
}

/// Returns the refusal of these options: the keyword, what the text has at its column, and the reason.
#[track_caller]
fn refusal(options: &str) -> (String, String, String) {
    let text = text_of(options);
    let mut file = parse(text.as_bytes());
    assert!(file.rules.is_empty(), "{text} is loaded");
    let refusal = file.refused.remove(0);
    assert_eq!(refusal.line, 1);
    let at = text.as_bytes().get(refusal.column as usize - 1..).unwrap_or_default();
    (refusal.keyword, String::from_utf8_lossy(at).into_owned(), refusal.reason)
}

/// The options are refused at the keyword, for a reason that contains the words.
#[track_caller]
fn refused(options: &str, keyword: &str, words: &str) {
    let (named, at, reason) = refusal(options);
    assert_eq!(named, keyword, "{options}: {reason}");
    assert!(at.starts_with(keyword), "{options}: the column is at {at:?}");
    assert!(reason.contains(words), "{options}: {reason}");
}

fn conditions(options: &str) -> Vec<Condition> {
    rule(options).conditions.into_vec()
}

fn buffers(options: &str) -> Vec<(Buffer, usize)> {
    rule(options).buffers.iter().map(|list| (list.buffer, list.matches.len())).collect()
}

#[test]
fn headers_are_read_and_their_parts_refused_by_name() {
    let file = parse(
        b"drop tls $HOME_NET [80, 443] <> [10.0.0.0/8,!10.1.0.0/16] any (sid:1;)\n\
          REJECTSRC tcp-pkt any any->any any (sid:2;)\n\
          alert\ttcp-stream  any 1: -> any any(sid:3; )\n\
          config http any any -> any any (sid:4;)\n\
          alert gopher any any -> any any (sid:5;)\n\
          alert tcp any any <- any any (sid:6;)\n\
          alert tcp any any -> any\n\
          alert tcp any any -> any any (sid:8;) # no comment\n\
          alert tcp any any -> any any (sid:9;\n\
          alert pkthdr any any -> any any (sid:10;)\n",
    );
    assert_eq!(file.rules.len(), 2);
    let header = &file.rules[0].header;
    assert_eq!((header.action, header.protocol), (Action::Drop, Protocol::Application(Application::Tls)));
    assert!(header.is_bidirectional);
    assert_eq!(header.source.ports.as_ref(), "[80, 443]");
    assert_eq!(header.destination.addresses.as_ref(), "[10.0.0.0/8,!10.1.0.0/16]");
    assert_eq!(header.destination.addresses_at, Place { line: 1, column: 33 });
    assert_eq!(file.rules[1].header.protocol, Protocol::TcpStream);
    let refused: Vec<_> =
        file.refused.iter().map(|one| (one.line, one.column, one.keyword.as_str())).collect();
    let expected = [
        (2, 32, "direction"),
        (4, 1, "action"),
        (5, 7, "protocol"),
        (6, 19, "direction"),
        (7, 25, "destination port"),
        (8, 38, "options"),
        (9, 37, "options"),
        (10, 7, "protocol"),
    ];
    assert_eq!(refused, expected);
    let sids: Vec<_> = file.refused.iter().map(|refusal| refusal.sid).collect();
    assert_eq!(sids, [2, 4, 5, 6, 0, 8, 9, 10].map(|sid| Some(sid).filter(|sid| *sid > 0)));
    assert_eq!(file.total(), 10);
}

#[test]
fn keywords_about_the_rule_are_read() {
    let rule = rule(
        "msg:\"a \\\"b\\\"\\; \\\\ c\"; gid:2; sid:7; rev:3; classtype:Misc-Attack; priority:1; reference:URL,a.example/x\\;y; \
         reference:cve,2020-1; metadata:created_at 2020_01_01, tag a b, flag; target:dest_ip; \
         noalert; bypass;",
    );
    assert_eq!(rule.message.as_ref(), r#"a "b"; \ c"#);
    assert_eq!(rule.id, RuleId { gid: 2, sid: 7, rev: 3 });
    assert_eq!((rule.class.as_deref(), rule.priority), (Some("misc-attack"), Some(1)));
    let references: Vec<_> = rule.references.iter().map(|(system, name)| (&**system, &**name)).collect();
    assert_eq!(references, [("url", "a.example/x;y"), ("cve", "2020-1")]);
    let metadata: Vec<_> = rule.metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(metadata, [("created_at", "2020_01_01"), ("tag", "a b"), ("flag", "")]);
    assert_eq!(rule.target, Some(Target::Destination));
    assert!(rule.is_silent && rule.bypasses);
    refused("sid:0;", "sid", "at least 1");
    refused("sid:1; sid:2;", "sid", "twice");
    refused("sid:4294967296;", "sid", "too large");
    refused("rev:x; sid:1;", "rev", "not a number");
    refused("target:src_ip; target:dest_ip;", "target", "two sides");
    refused("priority:0;", "priority", "highest");
    refused("priority:256;", "priority", "too large");
    refused("target:both;", "target", "src_ip");
    refused("reference:url;", "reference", "system,name");
    refused("msg:\"a;", "msg", "not closed");
    refused("msg;", "msg", "value is missing");
    refused("noalert:1;", "noalert", "no value");
    refused("tag:session,5,apples;", "tag", "packets");
    refused("tag:session,x,packets;", "tag", "not a number");
    refused("tag:host,5,packets,src;", "tag", "other flows");
    refused("tag:session,5,packets; noalert; sid:1;", "tag", "does not raise");
    let (keyword, _, reason) = {
        let mut file = parse(b"alert ip any any -> any any (msg:\"x\";)");
        let refusal = file.refused.remove(0);
        (refusal.keyword, refusal.column, refusal.reason)
    };
    assert!(keyword == "sid" && reason.contains("add `sid"), "{reason}");
}

#[test]
fn requirements_of_versions_skip_rules() {
    for met in [
        "version >= 7.0.3",
        "version >= 7.0.3 < 8 | >= 8.0.3",
        "version >=7",
        "keyword dns.query",
        "version < 9, keyword bsize",
    ] {
        rule(&format!("requires:{met};"));
    }
    for unmet in
        ["version >= 8", "version >= 7.0.11 < 8 | >= 8.0.3", "feature geoip", "keyword lua", "moon full"]
    {
        let text = text_of(&format!("lua:x; requires:{unmet};"));
        let file = parse(text.as_bytes());
        assert_eq!((file.rules.len(), file.refused.len(), file.skipped.len()), (0, 0, 1), "{unmet}");
    }
    refused("requires:version 7;", "requires", "comparison");
    refused("requires:version >= 7, version < 9;", "requires", "two versions");
    refused("requires:version >= x;", "requires", "no version");
}

#[test]
fn contents_are_decoded() {
    let content =
        |options: &str| match rule(options).buffers.into_vec().remove(0).matches.into_vec().remove(0) {
            Match::Content(content) => content,
            other => panic!("{other:?}"),
        };
    assert_eq!(content(r#"content:"a|0D 0a|b|3b|";"#).pattern.as_ref(), b"a\r\nb;");
    assert_eq!(content(r#"content:"|0d0A|";"#).pattern.as_ref(), b"\r\n");
    assert_eq!(content(r#"content:"a\;b\"c\\d\:e";"#).pattern.as_ref(), br#"a;b"c\d:e"#);
    assert_eq!(content("content:\"\u{e4}\";").pattern.as_ref(), "\u{e4}".as_bytes());
    let negated = content(r#"content: ! "Ab"; nocase; rawbytes;"#);
    assert!(negated.negated && negated.nocase && negated.pattern.as_ref() == b"ab");
    let placed = content(r#"content:"ab"; offset:3; depth:10;"#);
    assert_eq!(placed.window, Window::Absolute { offset: Number::Value(3), depth: Some(Number::Value(10)) });
    let relative = content(r#"content:"ab"; distance:-3; within: 10 ;"#);
    assert_eq!(
        relative.window,
        Window::Relative { distance: Number::Value(-3), within: Some(Number::Value(10)) }
    );
    let start = content(r#"content:"ab"; startswith; endswith;"#);
    assert!(start.at_end);
    assert_eq!(start.window, Window::Absolute { offset: Number::Value(0), depth: Some(Number::Value(2)) });

    refused("content:abc;", "content", "double quotes");
    refused(r#"content:"";"#, "content", "empty");
    refused(r#"content:"|0|";"#, "content", "odd number");
    refused(r#"content:"|0g|";"#, "content", "`g`");
    refused(r#"content:"|00";"#, "content", "missing");
    refused(r#"content:"||";"#, "content", "no bytes");
    refused(r#"content:"a\n";"#, "content", "no escape");
    refused(r#"content:"a"b";"#, "content", "must be written");
    refused(&format!(r#"content:"{}";"#, "a".repeat(8193)), "content", "at most 8192");
    refused("nocase;", "nocase", "no `content` in front");
    refused(r#"content:"a"; nocase; nocase;"#, "nocase", "twice");
}

#[test]
fn positions_that_contradict_each_other_are_refused() {
    let reason = |options: &str| refusal(options).2;
    assert!(reason(r#"content:"abc"; within:2;"#).contains("does not fit into 2"));
    assert!(reason(r#"content:"abc"; depth:9; distance:1;"#).contains("count from the beginning"));
    assert!(reason(r#"content:"abc"; startswith; offset:1;"#).contains("startswith"));
    refused(r#"content:"abc"; offset:-1;"#, "offset", "negative");
    refused(r#"content:"abc"; within:0;"#, "within", "greater than 0");
    refused(r#"content:"abc"; depth:4; depth:5;"#, "depth", "twice");
    refused(r#"content:"abc"; distance:1048577;"#, "distance", "too large");
    refused(r#"content:"abc"; offset:len;"#, "offset", "`len`");
}

#[test]
fn fast_patterns_are_read() {
    let fast = |options: &str| rule(options).fast_pattern.unwrap();
    assert_eq!(fast(r#"content:"a"; content:"bcd"; fast_pattern;"#).index, 1);
    let part = fast(r#"content:"a"; http.uri; content:"bcd"; fast_pattern:1,2;"#);
    assert_eq!((part.buffer, part.index, part.part, part.only), (1, 0, Some((1, 2)), false));
    assert!(fast(r#"content:"abcd"; fast_pattern:only;"#).only);
    // A content that moves to a buffer takes the mark along, and an empty list of payload goes away.
    let moved = fast(r#"content:"abcd"; fast_pattern; http_uri;"#);
    assert_eq!((moved.buffer, moved.index), (0, 0));
    refused(r#"content:"a"; fast_pattern; content:"b"; fast_pattern;"#, "fast_pattern", "another");
    refused(r#"content:"abc"; fast_pattern:2,2;"#, "fast_pattern", "only 3 bytes");
    refused(r#"content:"abc"; depth:3; fast_pattern:only;"#, "fast_pattern", "position");
    refused(r#"content:!"abc"; depth:3; fast_pattern;"#, "fast_pattern", "finds nothing");
    refused(r#"content:"abc"; fast_pattern:0,0;"#, "fast_pattern", "greater than 0");
    refused(r#"content:"abc"; fast_pattern:often;"#, "fast_pattern", "OFFSET");
}

#[test]
fn buffers_have_a_new_and_an_old_spelling() {
    use Buffer::*;
    assert_eq!(
        buffers(r#"http.uri; content:"a"; content:"b"; http.method; content:"GET";"#),
        [(HttpUri, 2), (HttpMethod, 1)]
    );
    assert_eq!(
        buffers(r#"content:"a"; http_uri; content:"b"; http_header; content:"c"; http_uri;"#),
        [(HttpUri, 2), (HttpHeader, 1)]
    );
    assert_eq!(buffers(r#"uricontent:"a"; content:"b"; pcre:"/c/Ui";"#), [(HttpUri, 2), (Payload, 1)]);
    assert_eq!(buffers(r#"dns_query; content:"a"; pkt_data; content:"b";"#), [(DnsQuery, 1), (Payload, 1)]);
    assert_eq!(buffers(r#"file_data; content:"a";"#), [(FileData, 1)]);
    assert_eq!(
        buffers(r#"tls.subject:"CN=x"; tls.fingerprint:!"ab";"#),
        [(TlsCertSubject, 1), (TlsCertFingerprint, 1)]
    );
    // A single buffer that is named twice is one; of several names, another one may match.
    assert_eq!(
        buffers(r#"http.uri; content:"a"; http.host; content:"b"; http.uri; content:"c";"#),
        [(HttpUri, 2), (HttpHost, 1)]
    );
    assert_eq!(buffers(r#"dns.query; content:"a"; dns.query; content:"b";"#), [(DnsQuery, 1), (DnsQuery, 1)]);
    for (letter, buffer) in [
        ('U', HttpUri),
        ('I', HttpUriRaw),
        ('P', HttpRequestBody),
        ('Q', HttpResponseBody),
        ('H', HttpHeader),
        ('D', HttpHeaderRaw),
        ('M', HttpMethod),
        ('C', HttpCookie),
        ('S', HttpStatCode),
        ('Y', HttpStatMsg),
        ('V', HttpUserAgent),
        ('W', HttpHost),
        ('Z', HttpHostRaw),
    ] {
        assert_eq!(buffers(&format!(r#"pcre:"/a/R{letter}";"#)), [(buffer, 1)]);
    }
    refused("http_uri;", "http_uri", "no `content`");
    refused(r#"http.host; content:"a"; http_uri;"#, "http_uri", "behind the keyword of a buffer");
    refused(r#"content:"a"; http_uri; http_header;"#, "http_header", "another buffer already");
    refused(r#"http.host; pcre:"/a/U";"#, "pcre", "another buffer than `http.host`");
    assert_eq!(buffers(r#"file.data; content:"a"; pcre:"/b/QR";"#), [(FileData, 2)]);
    refused("http.uri; http.host; content:\"a\";", "http.host", "nothing is required of `http.uri`");
    let (_, _, reason) = refusal("http.uri;");
    assert!(reason.contains("nothing is required of `http.uri`"), "{reason}");
}

#[test]
fn buffers_must_fit_protocol_and_direction() {
    let reason = |header: &str, options: &str| {
        let text = format!("alert {header} any any -> any any ({options} sid:1;)");
        let mut file = parse(text.as_bytes());
        if file.refused.is_empty() { String::new() } else { file.refused.remove(0).reason }
    };
    assert_eq!(reason("tcp", r#"http.uri; content:"a";"#), "");
    assert_eq!(reason("http2", r#"http.uri; content:"a";"#), "");
    assert_eq!(reason("quic", r#"ja3.hash; content:"a";"#), "");
    assert_eq!(reason("smtp", r#"file.data; content:"a";"#), "");
    assert!(reason("dns", r#"http.uri; content:"a";"#).contains("exists in http only"));
    assert!(reason("tcp", r#"http.uri; content:"a"; tls.sni; content:"b";"#).contains("exists in tls only"));
    assert!(reason("http", r#"flow:to_client; http.uri; content:"a";"#).contains("other direction"));
    assert!(reason("http", r#"http.uri; content:"a"; http.stat_code; content:"200";"#).contains("mixed"));
    assert!(reason("http", r#"dsize:10; http.uri; content:"a";"#).contains("`dsize`"));
}

#[test]
fn transforms_follow_their_buffer() {
    let list =
        rule(r#"dns.query; to_lowercase; dotprefix; xor:"0aff"; content:"a";"#).buffers.into_vec().remove(0);
    let expected = [Transform::Lowercase, Transform::DotPrefix, Transform::Xor([0x0a, 0xff].into())];
    assert_eq!(*list.transforms, expected);
    for name in [
        "to_uppercase",
        "header_lowercase",
        "strip_pseudo_headers",
        "strip_whitespace",
        "compress_whitespace",
        "url_decode",
        "to_md5",
        "to_sha1",
        "to_sha256",
        "md5",
        "sha1",
        "sha256",
    ] {
        assert_eq!(
            rule(&format!(r#"http.uri; {name}; content:"a";"#)).buffers[0].transforms.len(),
            1,
            "{name}"
        );
    }
    assert_eq!(buffers(r#"http.uri; content:"a"; http.uri; to_md5; content:"b";"#).len(), 2);
    refused(r#"to_md5; content:"a";"#, "to_md5", "follows the keyword of a buffer");
    let rule = rule(r#"http.host; content:"a"; dotprefix; content:".b"; endswith;"#);
    let transforms: Vec<_> = rule.buffers.iter().map(|list| list.transforms.len()).collect();
    assert_eq!(transforms, [0, 1]);
    let (keyword, _, reason) = refusal(r#"http.uri; content:"a"; to_md5;"#);
    assert!(keyword == "options" && reason.contains("nothing is required"), "{reason}");
    refused(r#"http.uri; xor:"0"; content:"a";"#, "xor", "no key");
}

#[test]
fn expressions_are_checked() {
    let pcre = |options: &str| match rule(options).buffers.into_vec().remove(0).matches.into_vec().remove(0) {
        Match::Pcre(pcre) => pcre,
        other => panic!("{other:?}"),
    };
    assert!(pcre(r#"pcre:!"/a\/b\;\"c/Rsmi";"#).negated);
    assert!(pcre(r#"pcre:"/a/R";"#).relative && !pcre(r#"pcre:"/a/i";"#).relative);
    assert!(pcre(r#"pcre:"/(a)\1/";"#).expression.backtracks());
    refused(r#"pcre:"a";"#, "pcre", "begin with `/`");
    refused(r#"pcre:"/a";"#, "pcre", "end with `/`");
    refused(r#"pcre:"/a/Q,flow:x";"#, "pcre", "captures");
    refused(r#"pcre:"/a/j";"#, "pcre", "`j` is no flag");
    refused(r#"pcre:"/a/UH";"#, "pcre", "two buffers");
    refused(r#"pcre:"/(a/";"#, "pcre", "not closed");
    // Equal expressions are shared.
    let file = parse(b"alert ip any any -> any any (pcre:\"/ab/i\"; sid:1;)\nalert ip any any -> any any (pcre:\"/aB/i\"; sid:2;)");
    let shared = |index: usize| match &file.rules[index].buffers[0].matches[0] {
        Match::Pcre(pcre) => pcre.expression.clone(),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&shared(0), &shared(1)));
}

#[test]
fn requirements_of_bytes_are_read() {
    let first = |options: &str| rule(options).buffers.into_vec().remove(0).matches.into_vec().remove(0);
    let Match::ByteTest(test) = first("byte_test: 4, !&, 0x80, -2, relative, little, bitmask 0xff;") else {
        panic!()
    };
    assert_eq!(
        (test.operator, test.negated, test.value, test.mask),
        (TestOperator::And, true, Number::Value(0x80), Some(0xff))
    );
    assert_eq!(test.source.encoding, Encoding::Little);
    let Match::ByteJump(jump) = first("byte_jump:4,-10,relative,little,from_beginning, post_offset -1;")
    else {
        panic!()
    };
    assert_eq!(
        (jump.from, jump.post_offset, jump.source.offset),
        (JumpFrom::Beginning, -1, Number::Value(-10))
    );
    let Match::ByteExtract(extract) = first("byte_extract:2,0,a.b,relative,big,multiplier 3,align 4;") else {
        panic!()
    };
    assert_eq!((extract.multiplier, extract.align, extract.variable), (3, Some(4), 0));
    let Match::ByteMath(math) =
        first("byte_math:bytes 2, offset 1, oper <<, rvalue 3, result x, endian little, string hex;")
    else {
        panic!()
    };
    assert_eq!(math.operator, MathOperator::ShiftLeft);
}

#[test]
fn mistakes_in_requirements_of_bytes_are_refused() {
    refused("byte_test:4,=,1;", "byte_test", "offset is missing");
    refused("byte_test:9,=,1,0;", "byte_test", "9 bytes");
    refused("byte_test:0,=,1,0;", "byte_test", "0 bytes");
    refused("byte_test:4,~,1,0;", "byte_test", "`~` is no operator");
    refused("byte_test:4,=,x,0;", "byte_test", "no `byte_extract`");
    refused("byte_test:4,=,1,0,dce;", "byte_test", "DCE/RPC");
    refused("byte_test:4,=,1,0,big,little;", "byte_test", "two byte orders");
    refused("byte_test:4,=,1,0,bitmask 0;", "byte_test", "without bits");
    refused("byte_jump:4;", "byte_jump", "offset is missing");
    refused("byte_jump:4,0,sideways;", "byte_jump", "`sideways`");
    refused("byte_jump:4,0,from_end,from_beginning;", "byte_jump", "unknown here");
    refused("byte_extract:4,0;", "byte_extract", "name of the variable");
    refused("byte_extract:4,0,1x;", "byte_extract", "no name");
    refused("byte_math:bytes 4, offset 0, oper %, rvalue 1, result x;", "byte_math", "`%` is no operator");
    refused("byte_math:bytes 4, offset 0, oper /, rvalue 0, result x;", "byte_math", "divides by 0");
    refused("byte_math:bytes 4, offset 0, oper +, rvalue 1;", "byte_math", "`result` is missing");
    refused("isdataat:x;", "isdataat", "no `byte_extract`");
    refused("isdataat:1,absolute;", "isdataat", "`absolute`");
    refused("bsize:3;", "bsize", "keyword must be in front");
    refused(r#"http.uri; content:"abcd"; bsize:3;"#, "content", "do not fit");
    refused("http.uri; bsize:9<>10;", "bsize", "no number");
    refused("urilen:5,odd;", "urilen", "`odd`");
    refused("absent;", "absent", "keyword must be in front");
    refused("entropy:value > 9;", "entropy", "between 0.0 and 8.0");
    refused("base64_data; content:\"a\";", "base64_data", "no `base64_decode`");
    refused("base64_decode:bytes 0;", "base64_decode", "greater than 0");
}

#[test]
fn sizes_absence_and_sets_are_read() {
    let list = rule("urilen:5<>10; http.referer; absent; http.uri.raw; bsize:>3;").buffers;
    let kinds: Vec<_> = list.iter().map(|list| (list.buffer, &list.matches[0])).collect();
    assert!(matches!(kinds[0], (Buffer::HttpUri, Match::Size(Compare::Between(5, 10)))));
    assert!(matches!(kinds[1], (Buffer::HttpReferer, Match::Absent { or_else: false })));
    assert!(matches!(kinds[2], (Buffer::HttpUriRaw, Match::Size(Compare::Greater(3)))));
    rule(r#"http.referer; absent:or_else; content:!"a";"#);
    let (keyword, _, _) = refusal(r#"http.referer; absent; content:!"a";"#);
    assert_eq!(keyword, "absent");
    let set = rule("dns.query; dataset:isset,bad names, type string, load names.lst, memcap 10mb;");
    let Match::Dataset(set) = &set.buffers[0].matches[0] else { panic!() };
    assert_eq!(
        (set.command, set.name.as_ref(), set.load.as_deref()),
        (DatasetCommand::IsSet, "bad names", Some("names.lst"))
    );
    refused("dataset:isset,a,type string,load b;", "dataset", "keyword must be in front");
    refused("dns.query; dataset:has,a;", "dataset", "no command");
    refused("dns.query; dataset:isset,a,type number,load b;", "dataset", "no type");
    refused("dns.query; dataset:set,a,type string,state b;", "dataset", "not written");
}

#[test]
fn base64_data_belongs_to_the_decoding_in_front() {
    let rule = rule(
        r#"content:"d="; base64_decode:offset 1,relative; base64_data; content:"a"; fast_pattern; content:"b"; distance:0; pkt_data; content:"c";"#,
    );
    assert_eq!(rule.buffers.len(), 1);
    let matches = &rule.buffers[0].matches;
    assert!(rule.fast_pattern.is_none());
    let Match::Base64(base64) = &matches[1] else { panic!() };
    assert_eq!((base64.offset, base64.relative, base64.matches.len(), matches.len()), (1, true, 2, 3));
}

#[test]
fn conditions_of_packets_are_read() {
    use Condition::*;
    let bits = |mode, value, ignored| Bits { mode, value, ignored };
    let cases = [
        ("dsize:>10;", PayloadSize(Compare::Greater(10))),
        ("ttl:64;", Ttl(Compare::Equal(64))),
        ("tos:!8;", Tos(Compare::NotEqual(8))),
        ("id:1;", IpId(Compare::Equal(1))),
        ("ip_proto:!GRE;", IpProtocol(Compare::NotEqual(47))),
        ("ip_proto:132;", IpProtocol(Compare::Equal(132))),
        ("fragbits:+MD;", FragmentBits(bits(BitsMode::All, 3, 0))),
        ("fragoffset:>0;", FragmentOffset(Compare::Greater(0))),
        ("ipopts:lsrr;", IpOption(crate::rule::IpOption::Type(131))),
        ("sameip;", SameAddress),
        ("flags:S,12;", TcpFlags(bits(BitsMode::Exactly, 2, 0xc0))),
        ("flags:!RA;", TcpFlags(bits(BitsMode::Not, 0x14, 0))),
        ("tcp.flags:*FS;", TcpFlags(bits(BitsMode::Any, 3, 0))),
        ("seq:4294967295;", TcpSequence(Compare::Equal(4_294_967_295))),
        ("ack:0;", TcpAcknowledgement(Compare::Equal(0))),
        ("window:!55808;", TcpWindow(Compare::NotEqual(55_808))),
        ("tcp.mss:100-200;", TcpMss(Compare::Between(100, 200))),
        ("itype:>10;", IcmpType(Compare::Greater(10))),
        ("icode:0;", IcmpCode(Compare::Equal(0))),
        ("icmp_id:512;", IcmpId(Compare::Equal(512))),
        ("icmp_seq:1;", IcmpSequence(Compare::Equal(1))),
        ("stream_size:server, =, 1;", StreamSize(Side::Server, Compare::Equal(1))),
        ("flow.age:>=2;", FlowAge(Compare::GreaterOrEqual(2))),
        ("flow.pkts:toclient,3;", FlowPackets(Side::Server, Compare::Equal(3))),
        ("flow.bytes_toserver:>9;", FlowBytes(Side::Client, Compare::Greater(9))),
        ("dns.opcode:!0;", DnsOpcode(Compare::NotEqual(0))),
        ("dns.rcode:3;", DnsRcode(Compare::Equal(3))),
        ("dns.rrtype:16;", DnsType(Compare::Equal(16))),
        (
            "app-layer-protocol:!http;",
            Application { application: Some(crate::buffer::Application::Http), negated: true },
        ),
        ("app-layer-protocol:failed;", Application { application: None, negated: false }),
        ("tls.version:1.2;", TlsVersion { versions: [0x0303].into(), negated: false }),
        ("ssl_version:!sslv3,!tls1.0;", TlsVersion { versions: [0x0300, 0x0301].into(), negated: true }),
        ("http2.frametype:GOAWAY;", Http2(Http2Fact::FrameType, Compare::Equal(7))),
        ("http2.frametype:9;", Http2(Http2Fact::FrameType, Compare::Equal(9))),
        ("http2.errorcode:NO_ERROR;", Http2(Http2Fact::Error, Compare::Equal(0))),
        ("http2.priority:>250;", Http2(Http2Fact::Priority, Compare::Greater(250))),
        ("http2.window:34634;", Http2(Http2Fact::Window, Compare::Equal(34_634))),
        ("http2.size_update:0;", Http2(Http2Fact::TableSize, Compare::Equal(0))),
        (
            "http2.settings:SETTINGS_HEADER_TABLE_SIZE>1000;",
            Http2(Http2Fact::Setting(1), Compare::Greater(1000)),
        ),
        ("http2.settings:SETTINGS_ENABLE_PUSH;", Http2(Http2Fact::Setting(2), Compare::GreaterOrEqual(0))),
        (
            "iprep:src,Bad,>,30;",
            Reputation { side: Side::Client, category: "Bad".into(), score: Compare::Greater(30) },
        ),
        ("mirror.vni:10-20,7,21;", Vni { ranges: [(7, 7), (10, 21)].into(), negated: false }),
        ("mirror.vni:!7;", Vni { ranges: [(7, 7)].into(), negated: true }),
    ];
    for (options, expected) in cases {
        assert_eq!(conditions(options), [expected], "{options}");
    }
    let source = mirror_xdp_common::Address::from_v4(0x0a00_0001);
    let session = crate::rule::Session { source, vni: Some(7) };
    assert_eq!(conditions("mirror.session:10.0.0.1,7;"), [Session(session)]);
    refused("ttl:256;", "ttl", "too large");
    refused("flags:X;", "flags", "`X` is no flag");
    refused("fragbits:;", "fragbits", "missing");
    refused("ipopts:none;", "ipopts", "no option");
    refused("stream_size:server,1;", "stream_size", "OPERATOR");
    refused("app-layer-protocol:gopher;", "app-layer-protocol", "recognised");
    refused("tls.version:1.4;", "tls.version", "no version");
    refused("mirror.vni:16777216;", "mirror.vni", "too large");
    refused("mirror.vni:9-7;", "mirror.vni", "out of order");
    refused("mirror.session:x;", "mirror.session", "no address");
}

#[test]
fn flows_are_read() {
    let flow = rule("flow:established, from_server,only_stream,no_frag;").flow;
    assert_eq!(flow.direction, Some(Direction::ToClient));
    assert_eq!(
        (flow.state, flow.stream, flow.reassembled),
        (Some(FlowState::Established), Some(true), Some(false))
    );
    refused("flow:to_server,to_client;", "flow", "contradicts");
    refused("flow:sideways;", "flow", "`sideways`");
    refused("flow:to_server; flow:established;", "flow", "twice");
}

#[test]
fn states_are_read() {
    let states = rule(
        "flowbits:set,a; flowbits:isset,b|c; flowbits:noalert; xbits:set,x,track ip_pair, expire 10; hostbits:isset,y,dst; \
         flowint:n,+,1; flowint:n,isset; flowint:n,>=,m;",
    );
    assert!(states.is_silent);
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Box<[Arc<str>]>>();
    let expected = [
        State::FlowBit { operation: BitOperation::Set, names: names(&["a"]) },
        State::FlowBit { operation: BitOperation::IsSet, names: names(&["b", "c"]) },
        State::HostBit {
            operation: BitOperation::Set,
            name: "x".into(),
            track: BitTrack::Pair,
            expire: Some(10),
        },
        State::HostBit {
            operation: BitOperation::IsSet,
            name: "y".into(),
            track: BitTrack::Destination,
            expire: None,
        },
        State::FlowInt { name: "n".into(), operation: IntOperation::Add(IntValue::Number(1)) },
        State::FlowInt { name: "n".into(), operation: IntOperation::IsSet },
        State::FlowInt {
            name: "n".into(),
            operation: IntOperation::Compare(IntCompare::GreaterOrEqual, IntValue::Name("m".into())),
        },
    ];
    assert_eq!(*states.states, expected);
    let threshold = rule("threshold: type limit, track  by_src, count 1 , seconds 60;").threshold;
    let expected = Threshold { kind: ThresholdKind::Limit, track: Track::Source, count: 1, seconds: 60 };
    assert_eq!(threshold, Some(expected));
    let filter = rule("detection_filter:track by_dst, count 4, seconds 20;").threshold.unwrap();
    assert_eq!(filter.kind, ThresholdKind::DetectionFilter);
    refused("flowbits:set;", "flowbits", "OPERATION,NAME");
    refused("flowbits:set,a|b;", "flowbits", "alternatives");
    refused("flowbits:clear,a;", "flowbits", "`clear`");
    refused("xbits:set,x;", "xbits", "`track` is missing");
    refused("flowint:n,++,1;", "flowint", "`++`");
    refused("threshold:type limit, track by_src, count 1;", "threshold", "`seconds` is missing");
    refused("threshold:type limit, track by_src, count 1, seconds 60 reference:x;", "threshold", "reference");
    refused(
        "detection_filter:type limit, track by_src, count 1, seconds 1;",
        "detection_filter",
        "`type limit`",
    );
    refused(
        "threshold:type limit, track by_src, count 1, seconds 6; detection_filter:track by_src, count 1, seconds 1;",
        "detection_filter",
        "another",
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (options, words) in [
        ("lua:script.lua;", "scripts"),
        ("app-layer-event:http.x;", "Suricata's inside"),
        ("decode-event:ipv4.x;", "Suricata's inside"),
        ("stream-event:x;", "Suricata's inside"),
        ("frame:http1.request;", "frames"),
        ("filestore;", "files are not extracted"),
        ("replace:\"x\";", "not changed"),
        ("mqtt.type:CONNECT;", "not parsed"),
        ("smb.share; content:\"x\";", "not parsed"),
        ("krb5_msg_type:10;", "not parsed"),
        ("contents:\"x\";", "no such keyword"),
        (":x;", "a keyword is missing"),
    ] {
        let (keyword, _, reason) = refusal(options);
        assert!(options.starts_with(&keyword) && reason.contains(words), "{options}: {reason}");
    }
}

#[test]
fn hostile_files_are_refused_in_pieces() {
    let mut binary = vec![0_u8; 10_000];
    binary[5000] = b'\n';
    let file = parse(&binary);
    assert_eq!((file.rules.len(), file.refused_count), (0, 2));
    assert!(file.refused[0].reason.contains("NUL"));
    let file =
        parse(b"\xff\xfe alert\nalert tcp any any -> any any (msg:\"\xff\"; content:\"\xff\xfe\"; sid:1;)");
    assert_eq!((file.rules.len(), file.refused_count), (1, 1));
    assert_eq!(file.rules[0].message.as_ref(), "\u{fffd}");
    let long = format!("alert tcp any any -> any any (msg:\"{}\"; sid:1;)\n", "x".repeat(limits::RULE));
    let many = text_of(&"sameip; ".repeat(limits::OPTIONS + 1));
    let continued = "alert \\\n".repeat(100_000);
    for (text, words) in [(long, "at most 64 KiB"), (many, "too many options"), (continued, "at most 64 KiB")]
    {
        let file = parse(text.as_bytes());
        assert_eq!((file.rules.len(), file.refused_count), (0, 1), "{words}");
        assert!(file.refused[0].reason.contains(words), "{}", file.refused[0]);
    }
    // Every prefix of a rule, and every rule with a byte replaced, is loaded or refused.
    let whole = br#"alert http $HOME_NET any -> any [80,!81] (msg:"a\;b"; http.uri; dotprefix; content:!"|00|a"; distance:-1; pcre:"/a[b]{2}(?=c)/Ri"; byte_test:1,=,0x1,0,relative; threshold:type limit,track by_src,count 1,seconds 1; sid:1;)"#;
    for len in 0..whole.len() {
        let _ = parse(&whole[..len]);
        for byte in [0, b'"', b';', b'\\', b'(', b',', b':', b'|', 0xff] {
            let mut changed = whole.to_vec();
            changed[len] = byte;
            let file = parse(&changed);
            assert!(file.total() <= 1);
        }
    }
    assert_eq!(parse(whole).rules.len(), 1);
}

#[test]
fn digits_of_a_serial_number_and_of_fingerprints_are_read_in_either_case() {
    let pattern = |options: &str| {
        let list = rule(options).buffers.into_vec().remove(0);
        let [Match::Content(content)] = &*list.matches else { panic!("{list:?}") };
        content.pattern.to_vec()
    };
    assert_eq!(pattern(r#"tls.cert_serial; content:"0a:bC";"#), b"0A:BC");
    assert_eq!(pattern(r#"tls.cert_fingerprint; content:"0A:bc";"#), b"0a:bc");
    assert_eq!(pattern(r#"ja3.hash; content:"AB12";"#), b"ab12");
    assert_eq!(pattern(r#"tls.cert_subject; content:"cN";"#), b"cN");
}
