//! The syntax of Perl-compatible regular expressions over bytes, as a tree without flags.
//!
//! Options such as `i` and `s` are resolved here: a byte that may be of either case is a class of two bytes, a dot is a
//! class. What depends on a flag at run time has a node of its own.

use crate::diagnostic::shown;
use crate::limits;
use crate::number::digits_of;

use super::Options;

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Class([u64; 4]);

impl Class {
    pub(super) const fn contains(self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] & (1 << (byte & 63)) != 0
    }

    const fn insert(&mut self, byte: u8) {
        self.0[(byte >> 6) as usize] |= 1 << (byte & 63);
    }

    fn of(bytes: impl IntoIterator<Item = u8>) -> Self {
        let mut class = Self::default();
        for byte in bytes {
            class.insert(byte);
        }
        class
    }

    fn matching(test: impl Fn(u8) -> bool) -> Self {
        Self::of((0..=255).filter(|byte| test(*byte)))
    }

    fn union(&mut self, other: Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    fn negated(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    fn folded(self) -> Self {
        Self::matching(|byte| {
            self.contains(byte)
                || self.contains(byte.to_ascii_lowercase())
                || self.contains(byte.to_ascii_uppercase())
        })
    }

    /// Returns the first and last byte of each run of bytes.
    pub(super) fn ranges(self) -> Vec<(u8, u8)> {
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        for byte in (0..=255).filter(|byte| self.contains(*byte)) {
            match ranges.last_mut() {
                Some(last) if last.1.checked_add(1) == Some(byte) => last.1 = byte,
                _ => ranges.push((byte, byte)),
            }
        }
        ranges
    }
}

/// How a repetition chooses its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

/// A part of an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Empty,
    Class(Class),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
        greed: Greed,
    },
    Capture(Box<Node>),
    Atomic(Box<Node>),
    Look {
        behind: bool,
        negated: bool,
        node: Box<Node>,
    },
    Backreference {
        group: u32,
        nocase: bool,
    },
    /// The beginning of the subject.
    Start,
    /// The end of the subject.
    End,
    /// The end, or a newline that ends the subject.
    EndOrNewline,
    /// The beginning of a line.
    LineStart,
    /// The end of a line.
    LineEnd,
    WordBoundary,
    NotWordBoundary,
}

/// Parses an expression.
pub(super) fn parse(text: &[u8], flags: Options) -> Result<Node, String> {
    let mut parser = Parser { text, at: 0, groups: 0, names: Vec::new(), depth: 0, highest: 0 };
    let node = parser.alternatives(flags)?;
    if parser.at < text.len() {
        return Err("a `)` closes no group".to_owned());
    }
    if parser.highest > parser.groups {
        return Err(format!("there is no group {}", parser.highest));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    groups: u32,
    names: Vec<(&'a [u8], u32)>,
    depth: usize,
    highest: u32,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, text: &[u8]) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn until(&mut self, end: u8) -> Result<&'a [u8], String> {
        let rest = self.rest();
        let len = memchr::memchr(end, rest).ok_or_else(|| format!("`{}` is missing", char::from(end)))?;
        self.at += len + 1;
        Ok(rest.get(..len).unwrap_or_default())
    }

    /// Alternatives up to the end of the group. Options that an alternative sets hold for those behind it.
    fn alternatives(&mut self, mut flags: Options) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > limits::GROUPS {
            return Err(format!("more than {} nested groups", limits::GROUPS));
        }
        let mut alternatives = Vec::new();
        loop {
            alternatives.push(self.sequence(&mut flags)?);
            if !self.take(b"|") {
                break;
            }
        }
        self.depth -= 1;
        Ok(match alternatives.pop() {
            Some(only) if alternatives.is_empty() => only,
            Some(last) => {
                alternatives.push(last);
                Node::Alternate(alternatives)
            }
            None => Node::Empty,
        })
    }

    fn sequence(&mut self, flags: &mut Options) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(byte) = self.peek() {
            if matches!(byte, b'|' | b')') {
                break;
            }
            if flags.extended {
                if byte.is_ascii_whitespace() || byte == 0x0b {
                    self.at += 1;
                    continue;
                }
                if byte == b'#' {
                    let rest = self.rest();
                    self.at += memchr::memchr(b'\n', rest).map_or(rest.len(), |len| len + 1);
                    continue;
                }
            }
            if self.take(b"(?#") {
                self.until(b')')?;
                continue;
            }
            if self.take(b"\\Q") {
                let rest = self.rest();
                let len = memchr::memmem::find(rest, b"\\E").unwrap_or(rest.len());
                let literal = rest.get(..len).unwrap_or_default();
                self.at += (len + 2).min(rest.len());
                nodes.extend(literal.iter().map(|byte| literal_of(*byte, *flags)));
                // A quantifier behind it belongs to the last byte.
                if let Some(last) = nodes.pop() {
                    nodes.push(self.quantified(last, *flags)?);
                }
                continue;
            }
            if self.take(b"\\E") {
                continue;
            }
            if let Some(node) = self.atom(flags)? {
                let node = self.quantified(node, *flags)?;
                nodes.push(node);
            }
        }
        Ok(match nodes.pop() {
            None => Node::Empty,
            Some(only) if nodes.is_empty() => only,
            Some(last) => {
                nodes.push(last);
                Node::Concat(nodes)
            }
        })
    }

    /// Parses one atom; `None` if it only sets flags.
    fn atom(&mut self, flags: &mut Options) -> Result<Option<Node>, String> {
        let Some(byte) = self.next() else { return Ok(None) };
        Ok(Some(match byte {
            b'.' if flags.dot_all => Node::Class(Class::default().negated()),
            b'.' => Node::Class(Class::of([b'\n']).negated()),
            b'^' if flags.lines => Node::LineStart,
            b'^' => Node::Start,
            b'$' if flags.lines => Node::LineEnd,
            b'$' if flags.dollar_end => Node::End,
            b'$' => Node::EndOrNewline,
            b'[' => Node::Class(self.class(*flags)?),
            b'(' => return self.group(flags),
            b'\\' => return self.escape(*flags).map(Some),
            b'*' | b'+' | b'?' => return Err(format!("`{}` repeats nothing", char::from(byte))),
            b'{' if self.quantifier_bounds(self.at).is_some() => return Err("`{` repeats nothing".to_owned()),
            _ => literal_of(byte, *flags),
        }))
    }

    fn group(&mut self, flags: &mut Options) -> Result<Option<Node>, String> {
        if self.take(b"*") {
            return Err("verbs such as `(*SKIP)` are not supported".to_owned());
        }
        if !self.take(b"?") {
            return self.capture(*flags, None).map(Some);
        }
        let looks: [(&[u8], bool, bool); 4] =
            [(b"=", false, false), (b"!", false, true), (b"<=", true, false), (b"<!", true, true)];
        for (mark, behind, negated) in looks {
            if self.take(mark) {
                let node = Box::new(self.body(*flags)?);
                return Ok(Some(Node::Look { behind, negated, node }));
            }
        }
        if self.take(b">") {
            return Ok(Some(Node::Atomic(Box::new(self.body(*flags)?))));
        }
        if self.take(b":") {
            return self.body(*flags).map(Some);
        }
        if self.take(b"P=") {
            let name = self.until(b')')?;
            return self.named(name, *flags).map(Some);
        }
        let named: [(&[u8], u8); 3] = [(b"P<", b'>'), (b"<", b'>'), (b"'", b'\'')];
        for (mark, end) in named {
            if self.take(mark) {
                let name = self.until(end)?;
                return self.capture(*flags, Some(name)).map(Some);
            }
        }
        let mut changed = *flags;
        let mut on = true;
        while let Some(byte) = self.next() {
            match byte {
                b'i' => changed.nocase = on,
                b's' => changed.dot_all = on,
                b'm' => changed.lines = on,
                b'x' => changed.extended = on,
                b'U' => changed.ungreedy = on,
                b'-' if on => on = false,
                b')' => {
                    *flags = changed;
                    return Ok(None);
                }
                b':' => return self.body(changed).map(Some),
                _ => break,
            }
        }
        Err("this kind of group is not supported; recursion, conditions and callouts are not".to_owned())
    }

    fn capture(&mut self, flags: Options, name: Option<&'a [u8]>) -> Result<Node, String> {
        self.groups += 1;
        if let Some(name) = name {
            if name.is_empty() || self.names.iter().any(|known| known.0 == name) {
                return Err(format!("{} is no name of a group, or names two", shown(name)));
            }
            self.names.push((name, self.groups));
        }
        Ok(Node::Capture(Box::new(self.body(flags)?)))
    }

    fn body(&mut self, flags: Options) -> Result<Node, String> {
        let node = self.alternatives(flags)?;
        if self.take(b")") { Ok(node) } else { Err("a group is not closed".to_owned()) }
    }

    fn named(&mut self, name: &[u8], flags: Options) -> Result<Node, String> {
        let known = self.names.iter().find(|known| known.0 == name);
        let group = known.ok_or_else(|| format!("there is no group {}", shown(name)))?.1;
        Ok(Node::Backreference { group, nocase: flags.nocase })
    }

    /// Returns the bounds of `{n}`, `{n,}` or `{n,m}` behind the brace, and the position behind it. Otherwise the
    /// brace stands for itself.
    fn quantifier_bounds(&self, at: usize) -> Option<(u64, Option<u64>, usize)> {
        let rest = self.text.get(at..)?;
        let len = memchr::memchr(b'}', rest)?;
        let inner = rest.get(..len)?;
        let end = at + len + 1;
        match memchr::memchr(b',', inner) {
            None => digits_of(inner, 10).map(|count| (count, Some(count), end)),
            Some(comma) => {
                let min = digits_of(inner.get(..comma)?, 10)?;
                match inner.get(comma + 1..)? {
                    [] => Some((min, None, end)),
                    max => Some((min, Some(digits_of(max, 10)?), end)),
                }
            }
        }
    }

    fn quantified(&mut self, mut node: Node, flags: Options) -> Result<Node, String> {
        loop {
            if flags.extended {
                while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
                    self.at += 1;
                }
            }
            let (min, max) = match self.peek() {
                Some(b'*') => (0, None),
                Some(b'+') => (1, None),
                Some(b'?') => (0, Some(1)),
                Some(b'{') => match self.quantifier_bounds(self.at + 1) {
                    Some((min, max, end)) => {
                        let most = max.unwrap_or(min);
                        if min > 65_535 || most > 65_535 || most < min {
                            return Err("a repetition is out of range".to_owned());
                        }
                        self.at = end - 1;
                        (min as u32, max.map(|max| max as u32))
                    }
                    None => return Ok(node),
                },
                _ => return Ok(node),
            };
            self.at += 1;
            let greed = if self.take(b"+") {
                Greed::Possessive
            } else if self.take(b"?") == flags.ungreedy {
                Greed::Greedy
            } else {
                Greed::Lazy
            };
            node = match node {
                // An assertion holds once or never.
                Node::Look { .. }
                | Node::Start
                | Node::End
                | Node::EndOrNewline
                | Node::LineStart
                | Node::LineEnd
                | Node::WordBoundary
                | Node::NotWordBoundary => {
                    if min == 0 {
                        Node::Empty
                    } else {
                        node
                    }
                }
                node => Node::Repeat { node: Box::new(node), min, max, greed },
            };
        }
    }

    fn escape(&mut self, flags: Options) -> Result<Node, String> {
        let byte = self.next().ok_or("the expression ends with a backslash")?;
        Ok(match byte {
            b'A' => Node::Start,
            b'z' => Node::End,
            b'Z' => Node::EndOrNewline,
            b'b' => Node::WordBoundary,
            b'B' => Node::NotWordBoundary,
            b'R' => {
                let line = Class::of(*b"\n\x0b\x0c\r\x85");
                let crlf =
                    Node::Concat(vec![Node::Class(Class::of([b'\r'])), Node::Class(Class::of([b'\n']))]);
                Node::Atomic(Box::new(Node::Alternate(vec![crlf, Node::Class(line)])))
            }
            b'N' => Node::Class(Class::of([b'\n']).negated()),
            b'1'..=b'9' => {
                let rest = self.text.get(self.at - 1..).unwrap_or_default();
                let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let group = digits_of(rest.get(..len).unwrap_or_default(), 10).unwrap_or(u64::MAX);
                // Beyond nine, a number that is no group so far is octal.
                if group < 10 || group <= u64::from(self.groups) {
                    self.at += len - 1;
                    self.reference(group, flags)?
                } else {
                    self.at -= 1;
                    literal_of(self.octal()?, flags)
                }
            }
            b'g' => {
                let name = if self.take(b"{") {
                    self.until(b'}')?
                } else {
                    let rest = self.rest();
                    let len = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
                    self.at += len;
                    rest.get(..len).unwrap_or_default()
                };
                match (name.strip_prefix(b"-").and_then(|back| digits_of(back, 10)), digits_of(name, 10)) {
                    (Some(back), _) => {
                        let group = u64::from(self.groups + 1).saturating_sub(back);
                        self.reference(group, flags)?
                    }
                    (None, Some(group)) => self.reference(group, flags)?,
                    (None, None) => self.named(name, flags)?,
                }
            }
            b'k' => {
                let end = match self.next() {
                    Some(b'<') => b'>',
                    Some(b'{') => b'}',
                    Some(b'\'') => b'\'',
                    _ => return Err("`\\k` wants the name of a group".to_owned()),
                };
                let name = self.until(end)?;
                self.named(name, flags)?
            }
            _ => {
                self.at -= 1;
                let class = self.class_escape(false)?;
                Node::Class(if flags.nocase { class.folded() } else { class })
            }
        })
    }

    fn reference(&mut self, group: u64, flags: Options) -> Result<Node, String> {
        let group = u32::try_from(group).ok().filter(|group| *group > 0).ok_or("there is no such group")?;
        self.highest = self.highest.max(group);
        Ok(Node::Backreference { group, nocase: flags.nocase })
    }

    fn octal(&mut self) -> Result<u8, String> {
        let rest = self.rest();
        let len = rest.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        self.at += len;
        let value = digits_of(rest.get(..len).unwrap_or_default(), 8);
        value
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| "an octal number is out of range".to_owned())
    }

    /// Parses the escape behind a backslash that stands for bytes.
    fn class_escape(&mut self, in_class: bool) -> Result<Class, String> {
        let byte = self.next().ok_or("the expression ends with a backslash")?;
        let one = |byte| Ok(Class::of([byte]));
        match byte {
            b'd' => Ok(Class::matching(|byte| byte.is_ascii_digit())),
            b'D' => Ok(Class::matching(|byte| !byte.is_ascii_digit())),
            b's' => Ok(Class::matching(is_space)),
            b'S' => Ok(Class::matching(|byte| !is_space(byte))),
            b'w' => Ok(Class::matching(is_word)),
            b'W' => Ok(Class::matching(|byte| !is_word(byte))),
            b'h' => Ok(Class::of(*b"\t \xa0")),
            b'H' => Ok(Class::of(*b"\t \xa0").negated()),
            b'v' => Ok(Class::of(*b"\n\x0b\x0c\r\x85")),
            b'V' => Ok(Class::of(*b"\n\x0b\x0c\r\x85").negated()),
            b'n' => one(b'\n'),
            b'r' => one(b'\r'),
            b't' => one(b'\t'),
            b'f' => one(0x0c),
            b'e' => one(0x1b),
            b'a' => one(7),
            b'b' if in_class => one(8),
            b'0'..=b'7' => {
                self.at -= 1;
                one(self.octal()?)
            }
            b'o' if self.take(b"{") => {
                let value = digits_of(self.until(b'}')?, 8).and_then(|value| u8::try_from(value).ok());
                value.map_or_else(|| Err("an octal number is out of range".to_owned()), one)
            }
            b'x' if self.take(b"{") => {
                let value = digits_of(self.until(b'}')?, 16).and_then(|value| u8::try_from(value).ok());
                value.map_or_else(|| Err("a byte in `\\x{}` is out of range".to_owned()), one)
            }
            b'x' => {
                let rest = self.rest();
                let len = rest.iter().take(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
                self.at += len;
                one(digits_of(rest.get(..len).unwrap_or_default(), 16).unwrap_or(0) as u8)
            }
            b'c' => match self.next() {
                Some(byte @ b' '..=b'~') => one(byte.to_ascii_uppercase() ^ 0x40),
                _ => Err("`\\c` wants a character".to_owned()),
            },
            byte if byte.is_ascii_alphanumeric() => Err(format!("`\\{}` is not supported", char::from(byte))),
            byte => one(byte),
        }
    }

    fn class(&mut self, flags: Options) -> Result<Class, String> {
        let negated = self.take(b"^");
        let mut class = Class::default();
        let mut first = true;
        loop {
            let Some(byte) = self.next() else { return Err("a class `[` is not closed".to_owned()) };
            if byte == b']' && !first {
                break;
            }
            first = false;
            let start = match byte {
                b'[' if matches!(self.peek(), Some(b':' | b'.' | b'=')) => {
                    if let Some(named) = self.posix()? {
                        class.union(named);
                        continue;
                    }
                    Class::of([b'['])
                }
                b'\\' if self.take(b"Q") => {
                    let rest = self.rest();
                    let len = memchr::memmem::find(rest, b"\\E").ok_or("`\\Q` in a class is not closed")?;
                    class.union(Class::of(rest.iter().take(len).copied()));
                    self.at += len + 2;
                    continue;
                }
                b'\\' if self.take(b"E") => continue,
                b'\\' => self.class_escape(true)?,
                byte => Class::of([byte]),
            };
            let low = only(start);
            let is_range =
                self.peek() == Some(b'-') && !matches!(self.text.get(self.at + 1), None | Some(b']'));
            let (true, Some(low)) = (is_range, low) else {
                class.union(start);
                continue;
            };
            let before = self.at;
            self.at += 1;
            let end = match self.next() {
                Some(b'[') if self.peek() == Some(b':') => Class::default(),
                Some(b'\\') => self.class_escape(true)?,
                Some(byte) => Class::of([byte]),
                None => return Err("a class `[` is not closed".to_owned()),
            };
            match only(end) {
                Some(high) if high >= low => class.union(Class::of(low..=high)),
                Some(_) => return Err("a range in a class is out of order".to_owned()),
                // `[a-\d]`: the hyphen stands for itself.
                None => {
                    self.at = before + 1;
                    class.union(Class::of([low, b'-']));
                }
            }
        }
        if flags.nocase {
            class = class.folded();
        }
        Ok(if negated { class.negated() } else { class })
    }

    /// Parses `[:alpha:]` behind its first bracket. Returns `None` if the bracket stands for itself.
    fn posix(&mut self) -> Result<Option<Class>, String> {
        let rest = self.rest();
        let Some(len) = memchr::memmem::find(rest, b":]") else { return Ok(None) };
        let name = rest.get(1..len).unwrap_or_default();
        let (name, negated) = match name.strip_prefix(b"^") {
            Some(name) => (name, true),
            None => (name, false),
        };
        if rest.first() != Some(&b':') || !name.iter().all(u8::is_ascii_alphabetic) {
            return Ok(None);
        }
        let test: fn(&u8) -> bool = match name {
            b"alpha" => u8::is_ascii_alphabetic,
            b"alnum" => u8::is_ascii_alphanumeric,
            b"ascii" => u8::is_ascii,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |byte| matches!(byte, b' '..=b'~'),
            b"punct" => u8::is_ascii_punctuation,
            b"space" => |byte| is_space(*byte),
            b"upper" => u8::is_ascii_uppercase,
            b"word" => |byte| is_word(*byte),
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return Err(format!("there is no class {}", shown(name))),
        };
        self.at += len + 2;
        Ok(Some(Class::matching(|byte| test(&byte) != negated)))
    }
}

fn literal_of(byte: u8, flags: Options) -> Node {
    let class = Class::of([byte]);
    Node::Class(if flags.nocase { class.folded() } else { class })
}

/// Returns the byte of a class that contains one.
fn only(class: Class) -> Option<u8> {
    match class.ranges().as_slice() {
        [(low, high)] if low == high => Some(*low),
        _ => None,
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | b' ')
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
