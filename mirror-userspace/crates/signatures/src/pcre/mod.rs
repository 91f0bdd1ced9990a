//! Perl-compatible regular expressions.
//!
//! Rules are written for PCRE, whose syntax and meaning differ from those of the engines here: `\<` is a character,
//! `[[]` is a class, `$` matches in front of a final newline, bytes are bytes. An expression is therefore parsed here
//! and written anew in the common language of both engines. An automaton matches it if it is regular, as most are;
//! otherwise bounded backtracking does.
//!
//! Compiling thousands of expressions takes memory and time that a rule set need not spend: most are never asked.
//! An expression is checked when its rule is loaded and compiled when it is first matched.

mod emit;
mod syntax;

use std::ops::Range;
use std::sync::OnceLock;

use regex_automata::meta;
use regex_automata::util::syntax::Config;

use crate::limits;

/// The flags of an expression in a rule that are those of PCRE.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of PCRE")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `i`: case does not matter.
    pub nocase: bool,
    /// `s`: a dot matches a newline too.
    pub dot_all: bool,
    /// `m`: `^` and `$` match at lines.
    pub lines: bool,
    /// `x`: spaces and comments are ignored.
    pub extended: bool,
    /// `A`: the match begins where the subject does.
    pub anchored: bool,
    /// `E`: `$` does not match in front of a final newline.
    pub dollar_end: bool,
    /// `G`: quantifiers are lazy.
    pub ungreedy: bool,
}

/// An expression.
#[derive(Debug)]
pub struct Expression {
    /// The text in the language of both engines.
    text: Box<str>,
    backtracks: bool,
    states: usize,
    compiled: OnceLock<Option<Compiled>>,
}

#[derive(Debug)]
enum Compiled {
    Automaton(Box<meta::Regex>),
    Backtracking(Box<fancy_regex::Regex>),
}

/// The reason for which an expression gave no answer: backtracking took more steps than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression needs too many steps")]
pub struct LimitReached;

impl Expression {
    /// Parses an expression without slashes and flags. An expression that engines cannot compile is an error of
    /// [`check`](Self::check).
    pub fn parse(text: &[u8], options: Options) -> Result<Self, String> {
        let mut node = syntax::parse(text, options)?;
        if options.anchored {
            node = syntax::Node::Concat(vec![syntax::Node::Start, node]);
        }
        let emit::Emitted { text, backtracks, states } = emit::emit(&node)?;
        Ok(Self { text: text.into(), backtracks, states, compiled: OnceLock::new() })
    }

    /// Makes sure that the expression can be compiled, and forgets what it was compiled to.
    pub fn check(&self) -> Result<(), String> {
        self.compile().map(|_| ())
    }

    /// Returns about as many states as an automaton of the expression has.
    #[must_use]
    pub const fn states(&self) -> usize {
        self.states
    }

    /// Returns true if the expression is matched by backtracking, not by an automaton.
    #[must_use]
    pub const fn backtracks(&self) -> bool {
        self.backtracks
    }

    /// Returns the expression in the language of both engines, by which equal expressions are found.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn compile(&self) -> Result<Compiled, String> {
        if self.backtracks {
            let mut builder = fancy_regex::RegexBuilder::new(&self.text);
            builder
                .bytes_mode(fancy_regex::BytesMode::Ascii)
                .backtrack_limit(limits::BACKTRACKS)
                .delegate_size_limit(limits::EXPRESSION)
                .delegate_dfa_size_limit(limits::LAZY_STATES);
            builder.build().map(Box::new).map(Compiled::Backtracking).map_err(|error| error.to_string())
        } else {
            let config = meta::Config::new()
                .utf8_empty(false)
                .nfa_size_limit(Some(limits::EXPRESSION))
                .hybrid_cache_capacity(limits::LAZY_STATES);
            let builder = meta::Builder::new()
                .configure(config)
                .syntax(Config::new().unicode(false).utf8(false))
                .build(&self.text);
            builder.map(Box::new).map(Compiled::Automaton).map_err(|error| error.to_string())
        }
    }

    /// Finds the leftmost match that begins at or behind `from`. The subject is the whole of `bytes`: `^` matches at
    /// its beginning only.
    pub fn find(&self, bytes: &[u8], from: usize) -> Result<Option<Range<usize>>, LimitReached> {
        if from > bytes.len() {
            return Ok(None);
        }
        match self.compiled.get_or_init(|| self.compile().ok()) {
            Some(Compiled::Automaton(regex)) => {
                let input = regex_automata::Input::new(bytes).range(from..);
                Ok(regex.search(&input).map(|found| found.range()))
            }
            Some(Compiled::Backtracking(regex)) => match regex.find_from_pos(bytes, from) {
                Ok(found) => Ok(found.map(|found| found.start()..found.end())),
                Err(_) => Err(LimitReached),
            },
            None => Err(LimitReached),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (&'static str, &'static str, &'static [u8], Option<Range<usize>>);

    fn options(flags: &str) -> Options {
        Options {
            nocase: flags.contains('i'),
            dot_all: flags.contains('s'),
            lines: flags.contains('m'),
            extended: flags.contains('x'),
            anchored: flags.contains('A'),
            dollar_end: flags.contains('E'),
            ungreedy: flags.contains('G'),
        }
    }

    fn find(text: &str, flags: &str, bytes: &[u8]) -> Option<Range<usize>> {
        let expression = Expression::parse(text.as_bytes(), options(flags));
        let expression = expression.unwrap_or_else(|error| panic!("{text}: {error}"));
        expression.check().unwrap_or_else(|error| panic!("{text}: {error}"));
        expression.find(bytes, 0).unwrap()
    }

    #[test]
    fn expressions_mean_what_they_mean_in_pcre() {
        // Expression, flags, subject, match. The expected values are those of PCRE2 by its manual.
        let cases: &[Case] = &[
            (r"\<a\>", "", b"x<a>", Some(1..4)),
            (r"[[]x", "", b"[x", Some(0..2)),
            (r"[]x]+", "", b"a]x]", Some(1..4)),
            (r"[^]]", "", b"]a", Some(1..2)),
            (r"[a&&b]", "", b"&", Some(0..1)),
            (r"[a\-z]", "", b"b-", Some(1..2)),
            (r"[a-\d]", "", b"b-", Some(1..2)),
            (r"[\w.-]+", "", b"a.-_", Some(0..4)),
            (r"a{,3}", "", b"a{,3}", Some(0..5)),
            (r"a{x}", "", b"a{x}", Some(0..4)),
            (r"{", "", b"{", Some(0..1)),
            (r"a{2,}?", "", b"aaaa", Some(0..2)),
            (r"a$", "", b"a\n", Some(0..2)),
            (r"a$", "E", b"a\n", None),
            (r"a$", "m", b"a\nb", Some(0..1)),
            (r"^b", "m", b"a\nb", Some(2..3)),
            (r"^b", "", b"a\nb", None),
            (r"a.b", "", b"a\nb", None),
            (r"a.b", "s", b"a\nb", Some(0..3)),
            (r"\xff\x00", "", b"\xff\x00", Some(0..2)),
            (r"[\x80-\xff]{2}", "", b"a\x80\xfe", Some(1..3)),
            ("\\xA9", "i", b"\xa9", Some(0..1)),
            (r"AbC", "i", b"aBc", Some(0..3)),
            (r"(?i)a(?-i)B", "", b"AB", Some(0..2)),
            (r"(?i:a)b", "", b"Ab", Some(0..2)),
            (r"(?i)[^b]", "", b"Bb", None),
            (r"a b # c", "x", b"ab", Some(0..2)),
            (r"\Qa.b\E+", "", b"a.bb", Some(0..4)),
            (r"\x4a\112\cJ", "", b"JJ\n", Some(0..3)),
            (r"[[:xdigit:]]+[[:^digit:]]", "", b"0fG", Some(0..3)),
            (r"\h\v", "", b"\t\x0b", Some(0..2)),
            (r"a+", "G", b"aaa", Some(0..1)),
            (r"b", "A", b"ab", None),
            (r"\ba\b", "", b"ba a", Some(3..4)),
            (r"x(?#comment)y", "", b"xy", Some(0..2)),
            (r"(a)(b)?", "", b"a", Some(0..1)),
            (r"", "", b"a", Some(0..0)),
            (r"a|", "", b"b", Some(0..0)),
            (r"[\r\n]{1,2}", "", b"a\r\n", Some(1..3)),
            ("\\/\\:\\;\\\"\\'\\_\\@\\=\\!\\%\\#\\&", "", b"/:;\"'_@=!%#&", Some(0..12)),
            // Those that backtrack.
            (r"(\w)\1", "", b"abb", Some(1..3)),
            (r"(\w)\1", "i", b"aBb", Some(1..3)),
            (r"(?P<n>a)x(?P=n)", "", b"axa", Some(0..3)),
            (r"(?<n>a)x\k<n>", "", b"axa", Some(0..3)),
            (r"(a)x\g{-1}", "", b"axa", Some(0..3)),
            (r"a(?!b)", "", b"abac", Some(2..3)),
            (r"a(?=c)", "", b"abac", Some(2..3)),
            (r"(?<!a)b", "", b"abb", Some(2..3)),
            (r"(?<=\xff)b", "", b"b\xffb", Some(2..3)),
            (r"a++a", "", b"aaa", None),
            (r"(?>a*)a", "", b"aaa", None),
            (r"(?!a)[\x80-\xff]", "", b"a\x90", Some(1..2)),
            (r"(?:a$)\n", "", b"a\n", Some(0..2)),
            (r"^(?!.*\xfe).+$", "s", b"ab\xff\n", Some(0..4)),
            (r"(a)\11", "", b"aa1", None),
            (r"(a)\x31", "", b"a1", Some(0..2)),
        ];
        for (text, flags, bytes, expected) in cases {
            assert_eq!(&find(text, flags, bytes), expected, "/{text}/{flags} on {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn later_matches_are_found_in_the_same_subject() {
        for text in ["a.", "(?=a)a."] {
            let expression = Expression::parse(text.as_bytes(), Options::default()).unwrap();
            assert_eq!(expression.find(b"axayaz", 1), Ok(Some(2..4)), "{text}");
            assert_eq!(expression.find(b"axayaz", 6), Ok(None), "{text}");
            assert_eq!(expression.find(b"axayaz", 7), Ok(None), "{text}");
        }
        let anchored = Expression::parse(b"^a", Options::default()).unwrap();
        assert_eq!(anchored.find(b"aa", 1), Ok(None));
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        let deep = "(".repeat(1000) + &")".repeat(1000);
        let wrong = [
            "(",
            ")",
            "a)",
            "[a",
            "*",
            "a**+?(",
            r"\",
            r"\p{L}",
            "(?R)",
            "(?(1)a)",
            "(*SKIP)",
            r"\2(a)",
            "[z-a]",
            "a{70000}",
            "(?P=x)",
            "((((a{1000}){1000}){1000}){1000})",
            r"\k",
            r"\K",
            "[[:none:]]",
            &deep,
        ];
        for text in wrong {
            let expression = Expression::parse(text.as_bytes(), Options::default());
            assert!(expression.and_then(|expression| expression.check()).is_err(), "{text}");
        }
    }

    #[test]
    fn hostile_expressions_stop_at_a_bound() {
        let expression = Expression::parse(br"^(?:(a|aa)+)\1(?=x)y?(?!x)", Options::default()).unwrap();
        assert!(expression.backtracks());
        let subject = vec![b'a'; 3000].into_iter().chain(*b"x").collect::<Vec<_>>();
        assert_eq!(expression.find(&subject, 0), Err(LimitReached));
        let automaton = Expression::parse(br"^(?:(?:a+)+)+$", Options::default()).unwrap();
        assert!(!automaton.backtracks());
        assert_eq!(automaton.find(&subject, 0), Ok(None));
    }
}
