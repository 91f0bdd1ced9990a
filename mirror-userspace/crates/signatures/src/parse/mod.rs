//! Parses rule files.
//!
//! `text` splits a file into rules and a rule into options, `header` reads what is in front of them. The keywords of
//! the options are in a table (`keywords`); their functions put what they read into a `builder`, which knows to which
//! buffer and content a keyword refers and checks the rule as a whole in the end.
//!
//! A keyword that cannot be honoured is refused, and its rule with it. The rest of the file loads.

mod builder;
mod bytes;
mod conditions;
mod content;
mod draft;
mod header;
mod keywords;
mod meta;
mod requires;
pub mod source;
mod states;
mod text;

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::FixedState;

use self::builder::Builder;
use self::text::{Line, Lines, RuleOption, RuleText};
use crate::diagnostic::{Refusal, shown};
use crate::limits;
use crate::number::unsigned;
use crate::pcre::Expression;
use crate::rule::{Header, Rule};

/// The content of a file.
#[derive(Debug, Default)]
pub struct File {
    /// The rules that are loaded.
    pub rules: Vec<Rule>,
    /// The rules that are not, at most [`limits::REFUSALS`].
    pub refused: Vec<Refusal>,
    /// The number of refused rules.
    pub refused_count: usize,
    /// The rules whose `requires` does not hold here, as their authors intend; at most [`limits::REFUSALS`].
    pub skipped: Vec<Refusal>,
    /// The number of such rules.
    pub skipped_count: usize,
    /// The number of disabled rules: those behind a `#`.
    pub disabled: usize,
}

impl File {
    /// Returns the number of rules that are not disabled.
    #[must_use]
    pub fn total(&self) -> usize {
        self.rules.len() + self.refused_count + self.skipped_count
    }
}

/// Parses a file.
#[must_use]
pub fn parse(text: &[u8]) -> File {
    Parser::default().parse(text)
}

/// Parses several files. Rules share equal names, values and expressions.
#[derive(Debug, Default)]
pub struct Parser {
    shared: Shared,
}

/// The names, values and expressions that rules share.
#[derive(Debug, Default)]
struct Shared {
    texts: HashSet<Arc<str>, FixedState>,
    expressions: HashSet<SharedExpression, FixedState>,
    /// The states of all expressions together.
    states: usize,
    /// The number of rules that are loaded.
    rules: usize,
}

#[derive(Debug)]
struct SharedExpression(Arc<Expression>);

impl PartialEq for SharedExpression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text() == other.0.text()
    }
}

impl Eq for SharedExpression {}

impl std::hash::Hash for SharedExpression {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.text().hash(state);
    }
}

impl std::borrow::Borrow<str> for SharedExpression {
    fn borrow(&self) -> &str {
        self.0.text()
    }
}

impl Shared {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// Returns an equal expression, or checks and adds this one.
    fn share(&mut self, expression: Expression) -> Result<Arc<Expression>, String> {
        if let Some(known) = self.expressions.get(expression.text()) {
            return Ok(known.0.clone());
        }
        self.states = self.states.saturating_add(expression.states());
        if self.states > limits::ALL_STATES {
            return Err("the expressions of all rules together need too much memory".to_owned());
        }
        expression.check()?;
        let expression = Arc::new(expression);
        self.expressions.insert(SharedExpression(expression.clone()));
        Ok(expression)
    }
}

/// The reason for which a rule is not loaded, with the position in its text.
#[derive(Debug)]
struct Failure {
    at: usize,
    keyword: String,
    reason: String,
    /// True if `requires` does not hold.
    is_skip: bool,
}

impl Failure {
    fn header(at: usize, part: &str, reason: String) -> Self {
        Self { at, keyword: part.to_owned(), reason, is_skip: false }
    }
}

impl Parser {
    /// Parses a file.
    #[must_use]
    pub fn parse(&mut self, text: &[u8]) -> File {
        let mut file = File::default();
        for line in Lines::new(text) {
            match line {
                Line::Other => {}
                Line::Disabled(..) => file.disabled += 1,
                Line::Rule(text) => match self.rule(&text) {
                    Ok(rule) => file.rules.push(rule),
                    Err(failure) => {
                        let place = text.place(failure.at);
                        let refusal = Refusal {
                            line: place.line,
                            column: place.column,
                            sid: sid(&text.bytes),
                            keyword: failure.keyword,
                            reason: failure.reason,
                        };
                        if failure.is_skip {
                            file.skipped_count += 1;
                            if file.skipped.len() < limits::REFUSALS {
                                file.skipped.push(refusal);
                            }
                        } else {
                            file.refused_count += 1;
                            if file.refused.len() < limits::REFUSALS {
                                file.refused.push(refusal);
                            }
                        }
                    }
                },
            }
        }
        file
    }

    fn rule(&mut self, text: &RuleText<'_>) -> Result<Rule, Failure> {
        let bytes: &[u8] = &text.bytes;
        if bytes.len() > limits::RULE {
            let reason = format!("a rule has at most {} KiB", limits::RULE >> 10);
            return Err(Failure::header(0, "rule", reason));
        }
        // Files that contain no rules at all are named at once.
        if let Some(at) = memchr::memchr(0, bytes) {
            return Err(Failure::header(at, "rule", "a NUL byte; is this a rule file?".to_owned()));
        }
        if self.shared.rules >= limits::RULES {
            let reason = format!("there are more than {} rules", limits::RULES);
            return Err(Failure::header(0, "rule", reason));
        }
        let (header, open) = header::parse(text, &mut self.shared)?;
        let Some(close) = memchr::memrchr(b')', bytes).filter(|close| *close > open) else {
            let reason = "a `)` must end the options".to_owned();
            return Err(Failure::header(bytes.len(), "options", reason));
        };
        if let Some(rest) = bytes.get(close + 1..).filter(|rest| !rest.trim_ascii().is_empty()) {
            let reason = format!("{} follows the options", shown(rest.trim_ascii()));
            return Err(Failure::header(close + 1, "options", reason));
        }
        let options = text::options(bytes, open + 1, close)
            .map_err(|(at, reason)| Failure::header(at, "options", reason.to_owned()))?;
        let rule = self.options(text, header, &options)?;
        self.shared.rules += 1;
        Ok(rule)
    }

    fn options(
        &mut self,
        text: &RuleText<'_>,
        header: Header,
        options: &[RuleOption<'_>],
    ) -> Result<Rule, Failure> {
        let failure = |option: &RuleOption<'_>, reason| Failure {
            at: option.at,
            keyword: String::from_utf8_lossy(option.keyword).into_owned(),
            reason,
            is_skip: false,
        };
        // The other keywords of a rule may be those of another version.
        for option in options.iter().filter(|option| option.keyword.eq_ignore_ascii_case(b"requires")) {
            match requires::unmet(option.value.unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(unmet)) => return Err(Failure { is_skip: true, ..failure(option, unmet) }),
                Err(reason) => return Err(failure(option, reason)),
            }
        }
        let mut builder = Builder::new(text, &mut self.shared);
        for option in options {
            builder.begin(option.at);
            let applied = keywords::apply(&mut builder, option.keyword, option.value);
            applied.map_err(|reason| failure(option, reason))?;
        }
        builder.finish(header)
    }
}

/// Returns the number of a rule, as far as it is legible, whatever else is wrong.
fn sid(text: &[u8]) -> Option<u32> {
    let text = text.get(..limits::RULE).unwrap_or(text);
    memchr::memmem::find_iter(text, b"sid").find_map(|at| {
        let is_begin = at.checked_sub(1).and_then(|before| text.get(before));
        is_begin.filter(|before| matches!(before, b' ' | b';' | b'(' | b'\t'))?;
        let value = text.get(at + 3..)?.trim_ascii_start().strip_prefix(b":")?;
        let end = memchr::memchr(b';', value)?;
        unsigned(value.get(..end)?, u64::from(u32::MAX)).ok().and_then(|sid| u32::try_from(sid).ok())
    })
}

#[cfg(test)]
mod tests;
