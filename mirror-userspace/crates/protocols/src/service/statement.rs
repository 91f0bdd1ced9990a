//! Statements: how their literals are replaced, and what they are about. The thread that writes records does this,
//! not the workers.

use std::fmt::Write as _;

/// The language of a statement, which decides what its literals are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Dialect {
    /// It has no literals.
    #[default]
    Plain,
    /// Words, of which the first is a key, and the others are values.
    Key,
    /// Words, all of them values.
    Words,
    /// Words that are never written.
    Secret,
    /// SQL with identifiers in double quotes.
    Sql,
    /// SQL with strings in double quotes.
    MySql,
}

impl Dialect {
    /// Returns the dialect of a packed number.
    pub(super) const fn of(number: u8) -> Self {
        match number {
            1 => Self::Key,
            2 => Self::Words,
            3 => Self::Secret,
            4 => Self::Sql,
            5 => Self::MySql,
            _ => Self::Plain,
        }
    }
}

/// Words with which statements begin.
const VERBS: &[&[u8]] = &[
    b"SELECT",
    b"INSERT",
    b"UPDATE",
    b"DELETE",
    b"SET",
    b"SHOW",
    b"CREATE",
    b"ALTER",
    b"DROP",
    b"CALL",
    b"BEGIN",
    b"COMMIT",
    b"ROLLBACK",
    b"REPLACE",
    b"USE",
    b"WITH",
    b"EXPLAIN",
    b"START",
    b"TRUNCATE",
    b"GRANT",
    b"REVOKE",
    b"LOCK",
    b"UNLOCK",
    b"ANALYZE",
    b"DESCRIBE",
    b"DESC",
    b"PREPARE",
    b"EXECUTE",
    b"COPY",
    b"VACUUM",
    b"DECLARE",
    b"FETCH",
    b"SAVEPOINT",
];

/// Returns true if a statement of SQL begins here.
pub(super) fn is_sql(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    let text = bytes.strip_prefix(b"(").unwrap_or(bytes);
    let len = text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (word, rest) = text.split_at(len);
    let ends = rest
        .first()
        .is_none_or(|byte| byte.is_ascii_whitespace() || matches!(byte, b';' | b'(' | b'*' | b'@'));
    (ends && VERBS.iter().any(|verb| verb.eq_ignore_ascii_case(word))) || bytes.starts_with(b"/*")
}

/// Returns the statement as it is written.
pub(super) fn write(dialect: Dialect, statement: &[u8], literals: bool) -> String {
    let text = String::from_utf8_lossy(statement);
    match dialect {
        Dialect::Plain => text.into_owned(),
        Dialect::Key | Dialect::Words if literals => text.into_owned(),
        Dialect::Key => {
            let (key, values) = text.split_once(' ').unwrap_or((&text, ""));
            let mut out = pattern(key.as_bytes());
            out.push_str(if values.is_empty() { "" } else { " ?" });
            out
        }
        Dialect::Words | Dialect::Secret => (if text.is_empty() { "" } else { "?" }).to_owned(),
        Dialect::Sql | Dialect::MySql if literals && !names_secret(&text) => text.into_owned(),
        Dialect::Sql | Dialect::MySql => Normalizer::new(dialect, &text).run(),
    }
}

/// Returns true if a statement has a word that comes in front of passwords.
fn names_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["password", "passwd", "identified", "secret", "credential", "access_key"]
        .iter()
        .any(|word| text.contains(word))
}

/// Returns what a request is about.
pub(super) fn object(dialect: Dialect, object: &[u8], statement: &[u8]) -> String {
    match dialect {
        _ if !object.is_empty() && dialect != Dialect::Key => String::from_utf8_lossy(object).into_owned(),
        Dialect::Sql | Dialect::MySql => table(&String::from_utf8_lossy(statement)),
        Dialect::Key => pattern(object),
        _ => String::new(),
    }
}

/// Returns a key with `?` for each of its parts that has a digit or is long: keys of the same kind become the same
/// pattern.
fn pattern(key: &[u8]) -> String {
    const LONG: usize = 32;
    let key = String::from_utf8_lossy(key);
    let mut out = String::with_capacity(key.len());
    let separators = [':', '/', '.', '-', '|', '_', '{', '}'];
    for part in key.split_inclusive(separators) {
        let text = part.trim_end_matches(separators);
        let is_value = text.len() > LONG || text.contains(|c: char| c.is_ascii_digit() || c.is_control());
        out.push_str(if is_value { "?" } else { text });
        out.push_str(part.get(text.len()..).unwrap_or_default());
    }
    out
}

/// Returns the first table of a statement of SQL.
fn table(statement: &str) -> String {
    let mut words =
        statement.split(|c: char| c.is_whitespace() || c == ',' || c == ';').filter(|word| !word.is_empty());
    let is = |word: &str, of: &[&str]| of.iter().any(|it| it.eq_ignore_ascii_case(word));
    while let Some(word) = words.next() {
        if !is(word, &["from", "into", "update", "table", "join", "truncate"]) {
            continue;
        }
        let skipped = ["if", "not", "exists", "only", "ignore", "low_priority", "table", "lateral"];
        let Some(name) = words.by_ref().find(|word| !is(word, &skipped)) else { break };
        let name = name.split('(').next().unwrap_or_default();
        let name: String = name.chars().filter(|c| !matches!(c, '`' | '"' | '[' | ']' | ')')).collect();
        if !name.is_empty() && !name.contains('\'') && !is(&name, &["select", "set"]) {
            return name;
        }
    }
    String::new()
}

/// Replaces the literals of a statement of SQL by `?`, and white space and comments by single spaces.
struct Normalizer<'a> {
    dialect: Dialect,
    rest: &'a str,
    out: String,
}

impl<'a> Normalizer<'a> {
    fn new(dialect: Dialect, text: &'a str) -> Self {
        Self { dialect, rest: text, out: String::with_capacity(text.len()) }
    }

    fn run(mut self) -> String {
        while let Some(c) = self.rest.chars().next() {
            self.step(c);
        }
        self.out.truncate(self.out.trim_end().len());
        self.out
    }

    fn step(&mut self, c: char) {
        match c {
            _ if c.is_whitespace() => {
                self.skip(c.len_utf8());
                self.space();
            }
            '\'' => self.string('\'', self.dialect == Dialect::MySql),
            '"' if self.dialect == Dialect::MySql => self.string('"', true),
            '"' | '`' => self.quoted(c),
            '-' if self.rest.starts_with("--") => self.comment(2, "\n"),
            '#' if self.dialect == Dialect::MySql => self.comment(1, "\n"),
            '/' if self.rest.starts_with("/*") => self.comment(2, "*/"),
            '$' => self.dollar(),
            _ if c.is_ascii_digit() => self.number(),
            '.' if self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
                && !self.out.ends_with(is_word) =>
            {
                self.number();
            }
            _ if is_word(c) => self.word(),
            _ => {
                let _ = self.out.write_char(c);
                self.skip(c.len_utf8());
            }
        }
    }

    fn skip(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or_default();
    }

    fn space(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with(' ') {
            self.out.push(' ');
        }
    }

    /// Writes a literal. Literals in a list are one.
    fn literal(&mut self) {
        let list = self.out.trim_end().strip_suffix(',').map(str::trim_end);
        if let Some(list) = list.filter(|list| list.ends_with('?')) {
            self.out.truncate(list.len());
        } else {
            self.out.push('?');
        }
    }

    /// Replaces a string. A quote within it is doubled, or follows a backslash if that `escapes`.
    fn string(&mut self, quote: char, escapes: bool) {
        let mut chars = self.rest.char_indices().skip(1).peekable();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            if c == '\\' && escapes {
                chars.next();
            } else if c == quote && chars.next_if(|&(_, next)| next == quote).is_none() {
                end = at + 1;
                break;
            }
        }
        self.skip(end);
        self.literal();
    }

    /// Copies an identifier in quotes.
    fn quoted(&mut self, quote: char) {
        let end = self.rest.get(1..).and_then(|rest| rest.find(quote)).map_or(self.rest.len(), |end| end + 2);
        self.copy(end);
    }

    fn copy(&mut self, len: usize) {
        self.out.push_str(self.rest.get(..len).unwrap_or_default());
        self.skip(len);
    }

    fn comment(&mut self, begin: usize, end: &str) {
        let len = self.rest.get(begin..).and_then(|rest| rest.find(end));
        self.skip(len.map_or(self.rest.len(), |len| begin + len + end.len()));
        self.space();
    }

    /// Replaces a string between `$tag$` and `$tag$`. Copies a parameter, `$1`.
    fn dollar(&mut self) {
        let tag = self.rest.get(1..).and_then(|rest| rest.find('$')).and_then(|end| self.rest.get(..end + 2));
        let tag = tag.filter(|tag| {
            let name = tag.trim_matches('$');
            !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_word)
        });
        let Some(tag) = tag else {
            let len = 1 + self.rest.chars().skip(1).take_while(char::is_ascii_digit).count();
            return self.copy(len);
        };
        let end = self.rest.get(tag.len()..).and_then(|rest| rest.find(tag));
        self.skip(end.map_or(self.rest.len(), |end| end + 2 * tag.len()));
        self.literal();
    }

    fn number(&mut self) {
        let mut before = ' ';
        let mut len = 0;
        for c in self.rest.chars() {
            let in_number = c.is_ascii_alphanumeric()
                || c == '.'
                || (matches!(c, '+' | '-') && matches!(before, 'e' | 'E'));
            if !in_number {
                break;
            }
            before = c;
            len += 1;
        }
        self.skip(len);
        self.literal();
    }

    /// Copies a word, or replaces the string that it is the prefix of: `X'00'`.
    fn word(&mut self) {
        let len = self.rest.find(|c: char| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(len);
        let prefix =
            rest.starts_with('\'') && ["x", "b", "n", "e"].iter().any(|it| it.eq_ignore_ascii_case(word));
        if prefix {
            self.skip(len);
            let escapes = self.dialect == Dialect::MySql || word.eq_ignore_ascii_case("e");
            self.string('\'', escapes);
        } else {
            self.copy(len);
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sql(text: &str) -> String {
        write(Dialect::Sql, text.as_bytes(), false)
    }

    #[test]
    fn literals_are_replaced() {
        for (statement, expected) in [
            ("SELECT * FROM t WHERE a = 'x' AND b=12.5e-3", "SELECT * FROM t WHERE a = ? AND b=?"),
            (
                "INSERT INTO t1 VALUES (1, 'it''s', X'00'), (2,E'\\'', -3)",
                "INSERT INTO t1 VALUES (?), (?, -?)",
            ),
            (
                "select\n  \"A b\".c2,  `d`  from t -- 'secret'\nwhere x in (1,2 , 3)",
                "select \"A b\".c2, `d` from t where x in (?)",
            ),
            ("select $1, $$it's$$, $q$a$q$ /* 5 */", "select $1, ?"),
            ("select 'not closed", "select ?"),
            ("SET @@x1=0x1F", "SET @@x1=?"),
        ] {
            assert_eq!(sql(statement), expected);
        }
        let mysql = write(Dialect::MySql, b"insert into foo values (\"dog\", 'x') # 7", false);
        assert_eq!(mysql, "insert into foo values (?)");
    }

    #[test]
    fn literals_are_written_on_request_but_never_those_of_passwords() {
        let statement = b"SELECT 'x'";
        assert_eq!(write(Dialect::Sql, statement, true), "SELECT 'x'");
        assert_eq!(
            write(Dialect::MySql, b"ALTER USER a IDENTIFIED BY 'pw'", true),
            "ALTER USER a IDENTIFIED BY ?"
        );
        assert_eq!(write(Dialect::Secret, b"user pw", true), "?");
        assert_eq!(write(Dialect::Key, b"user:17 value", true), "user:17 value");
        assert_eq!(write(Dialect::Key, b"user:17 value 5", false), "user:? ?");
    }

    #[test]
    fn the_object_is_the_table_or_the_pattern_of_the_key() {
        for (statement, expected) in [
            ("SELECT a FROM `db`.`t` WHERE 1", "db.t"),
            ("insert into foo(a) values (1)", "foo"),
            ("DROP TABLE IF EXISTS x;", "x"),
            ("SELECT * FROM (SELECT 1 FROM inner_t)", "inner_t"),
            ("select 1", ""),
        ] {
            assert_eq!(table(statement), expected, "{statement}");
        }
        assert_eq!(object(Dialect::Key, b"session:0af3-77:name", b""), "session:?-?:name");
    }

    #[test]
    fn statements_begin_with_a_verb() {
        assert!(is_sql(b"select 1") && is_sql(b" (SELECT 1)") && is_sql(b"COMMIT") && is_sql(b"/* x */ x"));
        assert!(!is_sql(b"selection") && !is_sql(b"") && !is_sql(b"hello there"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_digit_of_a_literal_is_left(text in ".{0,60}") {
            let _ = (sql(&text), table(&text), pattern(text.as_bytes()));
            let literal: String = text.chars().filter(|c| !matches!(c, '\'' | '\\')).collect();
            prop_assert_eq!(sql(&format!("select '{literal}'")), "select ?");
        }
    }
}
