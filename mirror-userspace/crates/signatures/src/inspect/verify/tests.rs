use proptest::prelude::*;

use super::*;
use crate::parse::parse;
use crate::rule::Rule;

/// Returns the requirements of payload with these options.
fn rule(options: &str) -> Rule {
    let text = format!("alert tcp any any -> any any ({options} sid:1;)");
    let mut file = parse(text.as_bytes());
    let refused: Vec<String> = file.refused.iter().map(ToString::to_string).collect();
    assert!(refused.is_empty(), "{text}: {refused:?}");
    file.rules.remove(0)
}

fn verdict(options: &str, buffer: &[u8]) -> Verdict {
    let rule = rule(options);
    assert_eq!(rule.buffers.len(), 1, "{options}");
    verify(&rule.buffers[0].matches, buffer, &mut Values::default())
}

#[track_caller]
fn check(options: &str, matching: &[&[u8]], others: &[&[u8]]) {
    for buffer in matching {
        assert_eq!(verdict(options, buffer), Verdict::Match, "{options} on {}", buffer.escape_ascii());
    }
    for buffer in others {
        assert_eq!(verdict(options, buffer), Verdict::NoMatch, "{options} on {}", buffer.escape_ascii());
    }
}

#[test]
fn contents_are_found_at_their_positions() {
    check(r#"content:"abc";"#, &[b"abc", b"xxabcx", b"ababc"], &[b"", b"ab", b"ABC"]);
    check(r#"content:"aBc"; nocase;"#, &[b"AbC", b"xABCx"], &[b"ab"]);
    check(r#"content:"|00 ff|a|3b|";"#, &[b"x\x00\xffa;"], &[b"\x00\xff;a"]);
    check(r#"content:!"abc";"#, &[b"", b"ab"], &[b"abc"]);
    check(r#"content:"abc"; depth:3;"#, &[b"abcx"], &[b"xabc"]);
    check(r#"content:"abc"; offset:1; depth:4;"#, &[b"xabc", b"xxabc"], &[b"abc", b"xxxabc"]);
    check(r#"content:"abc"; startswith;"#, &[b"abcx"], &[b"xabc"]);
    check(r#"content:"abc"; endswith;"#, &[b"abc", b"abcabc"], &[b"abcx", b"bc"]);
    check(r#"content:"abc"; startswith; endswith;"#, &[b"abc"], &[b"abcabc"]);
    check(r#"content:!"abc"; offset:2;"#, &[b"abc", b"a"], &[b"xxabc"]);
    check(r#"content:"a"; content:"b"; distance:1;"#, &[b"axb", b"abxb"], &[b"ab", b"bxa"]);
    check(r#"content:"a"; content:"b"; within:2;"#, &[b"ab", b"axb", b"axxaxb"], &[b"axxb"]);
    check(r#"content:"a"; content:"b"; distance:1; within:2;"#, &[b"axb", b"axxb"], &[b"ab", b"axxxb"]);
    check(r#"content:"abc"; content:"bc"; distance:-2; within:2;"#, &[b"abc"], &[b"ab"]);
    check(r#"content:"a"; content:!"b"; within:2;"#, &[b"axx", b"abax", b"a"], &[b"ab", b"axb"]);
    check(r#"content:"a"; content:"b"; distance:-10;"#, &[b"ba", b"ab"], &[b"a"]);
    check(r#"content:"a"; distance:1;"#, &[b"xa"], &[b"a"]);
}

#[test]
fn earlier_contents_are_searched_again_if_later_ones_fail() {
    check(
        r#"content:"a"; content:"b"; within:1; content:"c"; within:1;"#,
        &[b"abxabc", b"aababc"],
        &[b"abxac"],
    );
    check(r#"content:"aa"; content:"b"; within:1;"#, &[b"aaab"], &[b"aaxb"]);
    check(r#"content:"id="; pcre:"/^\d{3}/R";"#, &[b"id=1;id=123"], &[b"id=12"]);
    check(r#"pcre:"/a+/"; content:"b"; within:1;"#, &[b"aaxaab"], &[b"aax"]);
    check(
        r#"content:"|01|"; byte_jump:1,0,relative; content:"x"; within:1;"#,
        &[b"\x01\x01\x01ax"],
        &[b"\x01\x01ab"],
    );
}

#[test]
fn expressions_are_relative_and_negated() {
    check(r#"content:"ab"; pcre:"/^c/R";"#, &[b"abc"], &[b"abxc", b"cab"]);
    check(r#"pcre:!"/a.c/";"#, &[b"abd"], &[b"abc"]);
    check(r#"content:"a"; pcre:!"/^b/R";"#, &[b"ac", b"abac"], &[b"ab"]);
    check(r#"pcre:"/(\w)\1/";"#, &[b"xaab"], &[b"abab"]);
}

#[test]
fn positions_of_data_differ_by_one_if_they_are_relative() {
    let payload: &[u8] = &[0; 32];
    // The table of Suricata's manual.
    for (options, expected) in [
        ("isdataat:31;", true),
        ("isdataat:32;", false),
        ("isdataat:31,relative;", true),
        ("isdataat:32,relative;", true),
        ("isdataat:33,relative;", false),
        ("isdataat:!32;", true),
    ] {
        let expected = if expected { Verdict::Match } else { Verdict::NoMatch };
        assert_eq!(verdict(options, payload), expected, "{options}");
    }
    check(r#"content:"c"; isdataat:5,relative;"#, &[b"abcdefgh"], &[b"abcdefg"]);
    check(r#"content:"c"; isdataat:!1,relative;"#, &[b"abc"], &[b"abcd"]);
}

#[test]
fn numbers_are_tested() {
    check("byte_test:2,=,0x0102,0;", &[b"\x01\x02"], &[b"\x02\x01", b"\x01"]);
    check("byte_test:2,=,0x0102,0,little;", &[b"\x02\x01"], &[b"\x01\x02"]);
    check("byte_test:1,!=,5,1;", &[b"\x05\x04"], &[b"\x04\x05", b"\x04"]);
    check("byte_test:1,&,0x80,0;", &[b"\x81"], &[b"\x01"]);
    check("byte_test:1,!&,0x80,0;", &[b"\x01"], &[b"\x81"]);
    check("byte_test:1,^,1,0;", &[b"\x02"], &[b"\x01"]);
    check("byte_test:1,<,3,0;", &[b"\x02"], &[b"\x03"]);
    check("byte_test:1,>=,3,0;", &[b"\x03"], &[b"\x02"]);
    check("byte_test:1,=,0x0f,0,bitmask 0xf0;", &[b"\xf7"], &[b"\x0f"]);
    check("byte_test:0,>,99,0,string,dec;", &[b"100", b" 100 x"], &[b"99", b"x"]);
    check("byte_test:4,=,0xbeef,0,string,hex;", &[b"beef"], &[b"bee", b"beee"]);
    check(r#"content:"x"; byte_test:1,=,7,-2,relative;"#, &[b"\x07x"], &[b"x\x07", b"x"]);
}

#[test]
fn jumps_move_the_position() {
    let then = r#"content:"x"; within:1;"#;
    check(&format!("byte_jump:1,0; {then}"), &[b"\x02abx", b"\x00x"], &[b"\x02ax", b"\x04abx"]);
    check(&format!("byte_jump:1,0,multiplier 2; {then}"), &[b"\x01abx"], &[b"\x01ax"]);
    check(&format!("byte_jump:1,0,align; {then}"), &[b"\x01abcdx"], &[b"\x01ax"]);
    check(&format!("byte_jump:1,0,from_beginning; {then}"), &[b"\x02ax"], &[b"\x02abx"]);
    check(&format!("byte_jump:0,0,from_end,post_offset -2; {then}"), &[b"abxa"], &[b"abax"]);
    check(&format!("byte_jump:1,0,string,dec; {then}"), &[b"2abx"], &[b"\x02abx"]);
    check(&format!("byte_jump:2,0,bitmask 0x0ff0; {then}"), &[b"\xf0\x1fax"], &[b"\xf0\x1fabx"]);
    // To before the beginning is to the beginning; to the end is to nowhere.
    check(
        r#"content:"b"; byte_jump:0,0,relative,post_offset -9; content:"a"; within:1;"#,
        &[b"ab"],
        &[b"xab"],
    );
    check("byte_jump:1,0;", &[b"\x01ab"], &[b"\x02ab"]);
}

#[test]
fn variables_are_extracted_and_used() {
    check(r#"byte_extract:1,0,len; content:"x"; offset:len; depth:1;"#, &[b"\x02ax"], &[b"\x01ax"]);
    check(
        r#"content:"a"; byte_extract:1,0,len,relative; content:!"x"; within:len;"#,
        &[b"a\x02bx"],
        &[b"a\x03bx"],
    );
    check("byte_extract:1,0,n,multiplier 3; byte_test:1,=,n,1;", &[b"\x02\x06"], &[b"\x02\x02"]);
    check("byte_extract:1,0,n,align 4; byte_test:1,=,n,1;", &[b"\x05\x08"], &[b"\x05\x05"]);
    check("byte_extract:1,0,n; isdataat:!n,relative;", &[b"\x03a"], &[b"\x01a"]);
    check("byte_extract:1,0,n; byte_jump:n,1; isdataat:0,relative;", &[b"\x01\x01ab"], &[b"\x02\x01ab"]);
    check(
        "byte_math:bytes 1, offset 0, oper +, rvalue 2, result n; byte_test:1,=,n,1;",
        &[b"\x05\x07"],
        &[b"\x05\x05"],
    );
    check(
        "byte_math:bytes 1, offset 0, oper /, rvalue 2, result n; byte_test:1,=,n,1;",
        &[b"\x05\x02"],
        &[b"\x05\x03"],
    );
    check(
        "byte_extract:1,1,d; byte_math:bytes 1, offset 0, oper /, rvalue d, result n; byte_test:1,>=,n,2;",
        &[b"\x06\x02\x03"],
        &[b"\x06\x00\x03"],
    );
    check(
        r#"content:"a"; byte_extract:1,0,n,relative; content:"b"; offset:n; depth:1;"#,
        &[b"a\x00a\x05xb"],
        &[b"a\x00a\x04xb"],
    );
}

#[test]
fn base64_is_decoded_and_inspected() {
    let options = r#"content:"d="; base64_decode:bytes 8,offset 1,relative; base64_data; content:"te"; content:"st"; distance:0;"#;
    check(options, &[b"d= dGVzdA==", b"d=x;d=xdGVzdA=="], &[b"d=dGVzdA==", b"d= dGVz"]);
    check("base64_decode;", &[b"dGVz"], &[b"!"]);
}

#[test]
fn sizes_and_entropy_are_compared() {
    let text = br"alert http any any -> any any (http.uri; bsize:3; sid:1;)
alert http any any -> any any (http.uri; entropy:value >= 1.5; sid:2;)
alert http any any -> any any (http.uri; entropy:bytes 2, offset 1, value = 1.0; sid:3;)";
    let file = parse(text);
    let verdict = |rule: usize, buffer: &[u8]| {
        verify(&file.rules[rule].buffers[0].matches, buffer, &mut Values::default()) == Verdict::Match
    };
    assert!(verdict(0, b"abc") && !verdict(0, b"ab"));
    assert!(verdict(1, b"abcd") && !verdict(1, b"aabb") && !verdict(1, b""));
    assert!(verdict(2, b"aaba") && !verdict(2, b"aaab"));
}

#[test]
fn hostile_buffers_stop_at_a_bound() {
    let near = r#"content:"a"; distance:0; within:4000; "#;
    let steps = format!(r#"content:"a"; {}content:"b"; distance:0; within:4000;"#, near.repeat(3));
    assert_eq!(verdict(&steps, &[b'a'; 4000]), Verdict::LimitReached);
    // A pattern that is nowhere to the end of the buffer ends the search at once.
    assert_eq!(verdict(&steps.replace("within:4000;", ""), &[b'a'; 4000]), Verdict::NoMatch);
    // Failing without regard to positions ends the search at once.
    let absolute = r#"content:"a"; content:"a"; distance:0; content:"b";"#;
    assert_eq!(verdict(absolute, &[b'a'; 4000]), Verdict::NoMatch);
    assert_eq!(
        verdict(r#"pcre:"/^(?:(a|aa)+)\1(?=x)y?(?!x)/";"#, &[&[b'a'; 3000][..], b"x"].concat()),
        Verdict::LimitReached
    );
}

/// Verifies requirements the slow way: every place of every content is tried, and nothing is skipped.
fn plain(matches: &[Match], buffer: &[u8], at: usize, values: &mut Values, work: &mut u32) -> bool {
    let [first, rest @ ..] = matches else { return true };
    *work += 1;
    if *work > 200_000 {
        return false;
    }
    let number = |number: Number, values: &Values| match number {
        Number::Value(value) => value,
        Number::Variable(variable) => i64::try_from(values.get(variable)).unwrap_or(i64::MAX),
    };
    let places: Vec<usize> = match first {
        Match::Content(content) => {
            let len = signed(buffer.len());
            let (low, high) = match content.window {
                Window::All => (0, len),
                Window::Absolute { offset, depth } => {
                    let low = number(offset, values);
                    (low, depth.map_or(len, |depth| low + number(depth, values)))
                }
                Window::Relative { distance, within } => {
                    let low = signed(at) + number(distance, values);
                    (low, within.map_or(len, |within| low + number(within, values)))
                }
            };
            let is_place = |start: &usize| {
                let end = start + content.pattern.len();
                let found = buffer.get(*start..end);
                let equal = found.is_some_and(|found| {
                    if content.nocase {
                        found.eq_ignore_ascii_case(&content.pattern)
                    } else {
                        *found == *content.pattern
                    }
                });
                equal
                    && signed(*start) >= low
                    && signed(end) <= high
                    && (!content.at_end || end == buffer.len())
            };
            let starts: Vec<usize> = (0..=buffer.len()).filter(is_place).collect();
            if content.negated {
                return starts.is_empty() && plain(rest, buffer, at, values, work);
            }
            starts.iter().map(|start| start + content.pattern.len()).collect()
        }
        Match::Pcre(Pcre { expression, relative, negated }) => {
            let base = if *relative { at } else { 0 };
            let subject = &buffer[base..];
            let mut ends = Vec::new();
            for from in 0..=subject.len() {
                let found = expression.find(subject, from).unwrap();
                ends.extend(found.filter(|found| found.start == from).map(|found| base + found.end));
            }
            if *negated {
                return ends.is_empty() && plain(rest, buffer, at, values, work);
            }
            ends
        }
        Match::DataAt { offset, relative, negated } => {
            let offset = number(*offset, values);
            let has = if *relative {
                signed(at) + offset <= signed(buffer.len())
            } else {
                offset < signed(buffer.len())
            };
            if has == *negated {
                return false;
            }
            vec![at]
        }
        Match::ByteExtract(extract) => {
            let base = if extract.source.relative { signed(at) } else { 0 };
            let start = base + number(extract.source.offset, values);
            let Some(byte) = usize::try_from(start).ok().and_then(|start| buffer.get(start)) else {
                return false;
            };
            values.set(extract.variable, u64::from(*byte) * u64::from(extract.multiplier));
            vec![at]
        }
        other => unreachable!("{other:?}"),
    };
    places.into_iter().any(|end| plain(rest, buffer, end, &mut values.clone(), work))
}

fn letters(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"abAB\x01\x02".to_vec()), 1..=most)
}

/// Options of a rule whose requirements depend on each other in many ways.
fn options() -> impl Strategy<Value = String> {
    let content = (letters(2), any::<bool>(), 0..8_u8, -2..4_i64, 0..6_i64, 0..6_u8).prop_map(
        |(pattern, nocase, kind, first, more, flags)| {
            let hex: Vec<String> = pattern.iter().map(|byte| format!("{byte:02x}")).collect();
            let room = more + signed(pattern.len());
            let place = match kind {
                0 => String::new(),
                1 => format!("offset:{};", first.max(0)),
                2 => format!("depth:{room};"),
                3 => format!("offset:{};depth:{room};", first.max(0)),
                4 => format!("distance:{first};"),
                5 => format!("within:{room};"),
                6 => format!("distance:{first};within:{room};"),
                _ => "startswith;".to_owned(),
            };
            let negated = if flags == 0 { "!" } else { "" };
            let nocase = if nocase { "nocase;" } else { "" };
            let ends = if flags == 1 { "endswith;" } else { "" };
            format!(r#"content:{negated}"|{}|";{place}{nocase}{ends}"#, hex.join(" "))
        },
    );
    let pcre =
        (prop::sample::select(vec!["a+", "^a", "[ab]b?", "b$", "(a)b?\\\\1", "^"]), any::<bool>(), 0..4_u8)
            .prop_map(|(text, relative, negated)| {
                let text = text.replace("\\\\", "\\");
                let (negated, relative) =
                    (if negated == 0 { "!" } else { "" }, if relative { "R" } else { "" });
                format!(r#"pcre:{negated}"/{text}/{relative}";"#)
            });
    let data = (any::<bool>(), 0..5_u8, any::<bool>()).prop_map(|(negated, offset, relative)| {
        let (negated, relative) = (if negated { "!" } else { "" }, if relative { ",relative" } else { "" });
        format!("isdataat:{negated}{offset}{relative};")
    });
    let extract = (0..3_u8, any::<bool>(), 0..4_u8).prop_map(|(offset, relative, then)| {
        let relative = if relative { ",relative" } else { "" };
        let then = match then {
            0 => r#"content:"a";offset:n;"#,
            1 => r#"content:"b";distance:n;"#,
            2 => r#"content:!"a";within:n;"#,
            _ => "isdataat:n,relative;",
        };
        format!("byte_extract:1,{offset},n{relative};{then}")
    });
    let option = prop_oneof![6 => content, 2 => pcre, 1 => data, 1 => extract];
    prop::collection::vec(option, 1..5).prop_map(|options| options.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verifier_agrees_with_trying_every_place(options in options(), buffer in letters(14)) {
        let rule = rule(&options);
        let matches = &rule.buffers[0].matches;
        let verdict = verify(matches, &buffer, &mut Values::default());
        let mut work = 0;
        let expected = plain(matches, &buffer, 0, &mut Values::default(), &mut work);
        prop_assume!(verdict != Verdict::LimitReached && work <= 200_000);
        prop_assert_eq!(verdict == Verdict::Match, expected, "{} on {}", options, buffer.escape_ascii());
    }
}
