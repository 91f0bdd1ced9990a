//! Joins a rule with what it refers to, and chooses the pattern by which it is found.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::buffer::{Buffer, Unit};
use crate::config::classification::{Classes, DEFAULT_PRIORITY};
use crate::dataset::Datasets;
use crate::diagnostic::{Place, Refusal};
use crate::frequency;
use crate::rule::{BufferMatches, Condition, Content, DatasetCommand, Match, Rule, Window};
use crate::tenants::{HeaderPart, Headers, Scope, Sides, Tenant, Tenants};
use crate::variables::Variables;

/// Bytes of the shortest pattern that an automaton of all patterns takes: shorter ones are found everywhere.
pub const SHORTEST: usize = 4;
/// Eighths of a bit below which a pattern of an application's buffer is too common to be preferred to one elsewhere.
const RARE: u32 = 32 * 8;
/// Eighths of a bit below which a pattern is so common that a rule is slow.
const COMMON: u32 = 18 * 8;

/// A rule that is ready to be matched.
#[derive(Debug)]
pub struct Signature {
    /// The rule.
    pub rule: Rule,
    /// The addresses and ports of both sides: of all tenants together, each of which has a part of them
    /// ([`Signature::sides_for`]).
    pub sides: Sides,
    /// Where the rule is in force.
    pub scope: Scope,
    /// The priority: its own, that of its class, or the usual one.
    pub priority: u8,
    /// The description of its class, or the name of a class that is not known.
    pub category: Arc<str>,
    /// How the rule is found.
    pub prefilter: Prefilter,
}

/// How a rule is found among all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefilter {
    /// By a pattern.
    Pattern(Pattern),
    /// By its header and conditions only: no content must be there.
    Header,
}

/// The pattern by which a rule is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The index of the buffer in [`Rule::buffers`].
    pub buffer: u16,
    /// The index of the content in its matches.
    pub index: u16,
    /// The first byte of the pattern in the content.
    pub first: u8,
    /// The bytes of the pattern.
    pub len: u8,
}

impl Pattern {
    /// Returns the bytes, in lower case if case does not matter.
    #[must_use]
    pub fn bytes<'r>(&self, rule: &'r Rule) -> &'r [u8] {
        let first = usize::from(self.first);
        let content = self.content(rule);
        content
            .and_then(|content| content.pattern.get(first..first + usize::from(self.len)))
            .unwrap_or_default()
    }

    /// Returns the content that the pattern is a part of.
    #[must_use]
    pub fn content<'r>(&self, rule: &'r Rule) -> Option<&'r Content> {
        match rule.buffers.get(usize::from(self.buffer))?.matches.get(usize::from(self.index))? {
            Match::Content(content) => Some(content),
            _ => None,
        }
    }

    /// Returns the buffer.
    #[must_use]
    pub fn buffer(&self, rule: &Rule) -> Option<Buffer> {
        rule.buffers.get(usize::from(self.buffer)).map(|list| list.buffer)
    }
}

/// A rule that is ready, and the tenants whose variables keep it from being in force there.
pub type Compiled<'a> = (Signature, Vec<(&'a Tenant, Refusal)>);

/// The variables, classes and data sets that rules refer to.
#[derive(Debug)]
pub struct Compiler<'a> {
    headers: Headers<'a>,
    classes: &'a Classes,
    datasets: Datasets,
    /// The descriptions of classes, which rules share.
    categories: HashMap<Arc<str>, Arc<str>>,
}

impl<'a> Compiler<'a> {
    /// Makes a compiler for traffic with these variables, and for that of tenants.
    #[must_use]
    pub fn new(variables: &'a Variables, tenants: &'a [Tenant], classes: &'a Classes) -> Self {
        let headers = Headers::new(variables, tenants);
        Self { headers, classes, datasets: Datasets::default(), categories: HashMap::new() }
    }

    /// Returns what differs by tenant.
    #[must_use]
    pub fn tenants(self) -> Tenants {
        self.headers.tenants()
    }

    /// Compiles a rule of a file in `directory` that is in these sets, a bit each.
    pub fn compile(&mut self, mut rule: Rule, directory: &Path, sets: u64) -> Result<Compiled<'a>, Refusal> {
        let sid = Some(rule.id.sid);
        let refuse = |at: Place, keyword: &str, reason: String| Refusal {
            line: at.line,
            column: at.column,
            sid,
            keyword: keyword.to_owned(),
            reason,
        };
        let place = |rule: &Rule, part: HeaderPart| match part {
            HeaderPart::Source => rule.header.source.addresses_at,
            HeaderPart::SourcePort => rule.header.source.ports_at,
            HeaderPart::Destination => rule.header.destination.addresses_at,
            HeaderPart::DestinationPort => rule.header.destination.ports_at,
        };
        let resolved = self.headers.resolve(&rule.header, sets);
        let unresolved =
            |(part, reason): (HeaderPart, String)| refuse(place(&rule, part), part.name(), reason);
        let sides = resolved.sides.map_err(unresolved)?;
        let without =
            resolved.without.into_iter().map(|(tenant, error)| (tenant, unresolved(error))).collect();
        for condition in &rule.conditions {
            if let Condition::Reputation { category, .. } = condition {
                let at = Place { line: rule.line, column: 1 };
                return Err(refuse(
                    at,
                    "iprep",
                    format!("no list of reputations has the category `{category}`"),
                ));
            }
        }
        for requirement in rule.buffers.iter_mut().flat_map(|list| &mut list.matches) {
            if let Match::Dataset(set) = requirement {
                if matches!(set.command, DatasetCommand::Set | DatasetCommand::Unset) {
                    let reason = "sets that rules change are not supported; use isset or isnotset".to_owned();
                    return Err(refuse(set.at, "dataset", reason));
                }
                let members = self.datasets.get(&set.name, set.kind, set.load.as_deref(), directory);
                set.members = Some(members.map_err(|reason| refuse(set.at, "dataset", reason))?);
            }
        }
        let class = rule.class.as_ref().and_then(|name| self.classes.get(name));
        let priority = rule.priority.or(class.map(|class| class.priority)).unwrap_or(DEFAULT_PRIORITY);
        let category = self.category(rule.class.as_ref());
        let prefilter = prefilter(&rule);
        let scope = Scope { header: resolved.number, sets };
        let signature = Signature { rule, sides, scope, priority, category, prefilter };
        Ok((signature, without))
    }

    /// Returns the description of a class.
    fn category(&mut self, class: Option<&Arc<str>>) -> Arc<str> {
        let Some(name) = class else { return Arc::from("") };
        let classes = self.classes;
        let describe =
            || classes.get(name).map_or_else(|| Arc::clone(name), |class| (&*class.description).into());
        Arc::clone(self.categories.entry(Arc::clone(name)).or_insert_with(describe))
    }
}

/// Chooses the pattern by which a rule is found: the one that the rule names, or the rarest.
fn prefilter(rule: &Rule) -> Prefilter {
    if let Some(fast) = &rule.fast_pattern {
        let whole = Pattern { buffer: fast.buffer, index: fast.index, first: 0, len: 0 };
        let may_be_absent = rule.buffers.get(usize::from(fast.buffer)).is_some_and(may_be_absent);
        if let Some(content) = whole.content(rule).filter(|content| !content.negated && !may_be_absent) {
            let (first, len) = fast.part.unwrap_or((0, content.pattern.len().min(255) as u8));
            return Prefilter::Pattern(Pattern { first, len, ..whole });
        }
    }
    let mut best: Option<((u8, u32), Pattern)> = None;
    for (list, buffer) in rule.buffers.iter().zip(0..).filter(|(list, _)| !may_be_absent(list)) {
        for (requirement, index) in list.matches.iter().zip(0..) {
            let Match::Content(content) = requirement else { continue };
            if content.negated {
                continue;
            }
            let worth = worth(list, content);
            if best.as_ref().is_none_or(|best| worth > best.0) {
                let len = content.pattern.len().min(255) as u8;
                best = Some((worth, Pattern { buffer, index, first: 0, len }));
            }
        }
    }
    best.map_or(Prefilter::Header, |(_, pattern)| Prefilter::Pattern(pattern))
}

/// Returns true if a rule can match without the buffer, whose contents then find nothing.
pub(crate) fn may_be_absent(list: &BufferMatches) -> bool {
    list.matches.iter().any(|requirement| matches!(requirement, Match::Absent { .. }))
}

/// Returns how well a pattern finds a rule. Patterns of short buffers come first if they are rare enough: these are
/// cheaper to search than payload and bodies.
fn worth(list: &BufferMatches, content: &Content) -> (u8, u32) {
    let rarity = frequency::rarity(&content.pattern);
    let is_short_buffer = list.buffer.description().unit == Unit::Transaction
        && !matches!(list.buffer, Buffer::HttpMethod | Buffer::HttpStatCode | Buffer::HttpProtocol);
    let tier = match (content.pattern.len() >= SHORTEST, is_short_buffer, rarity >= RARE) {
        (false, ..) => 0,
        (true, true, true) => 2,
        (true, ..) => 1,
    };
    (tier, rarity)
}

/// The reason for which a rule costs more than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// It has no content that must be there, so each packet or transaction of its header is verified.
    NoPattern,
    /// Its pattern has fewer bytes than an automaton takes.
    ShortPattern,
    /// Its pattern is in much of the traffic.
    CommonPattern,
    /// An expression backtracks over a body or payload, and no content in front bounds where it begins.
    Backtracking,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPattern => "no content must be there, so all traffic of its header is verified",
            Self::ShortPattern => "its pattern is shorter than 4 bytes",
            Self::CommonPattern => "its pattern is in much of the traffic",
            Self::Backtracking => "a pcre that backtracks searches a whole body or payload",
        })
    }
}

impl Signature {
    /// Returns the addresses and ports of both sides in traffic of this VNI; `None` if the rule is not in force there.
    #[inline]
    #[must_use]
    pub fn sides_for<'s>(&'s self, tenants: &'s Tenants, vni: Option<u32>) -> Option<&'s Sides> {
        if tenants.is_empty() { Some(&self.sides) } else { tenants.sides(self.scope, vni) }
    }

    /// Returns why the rule costs more than others, if it does.
    #[must_use]
    pub fn slow(&self) -> Option<Slow> {
        let is_long = |buffer: Buffer| matches!(buffer.description().unit, Unit::Payload | Unit::Body);
        let backtracks = self.rule.buffers.iter().filter(|list| is_long(list.buffer)).any(|list| {
            let unbounded = |requirement: &Match| {
                matches!(requirement, Match::Pcre(pcre)
                    if pcre.expression.backtracks() && !pcre.relative && !pcre.expression.text().starts_with(r"\A"))
            };
            list.matches.iter().any(unbounded)
        });
        if backtracks {
            return Some(Slow::Backtracking);
        }
        match &self.prefilter {
            // Addresses, ports and flags find a rule as well as a pattern does.
            Prefilter::Header => self.searches().then_some(Slow::NoPattern),
            Prefilter::Pattern(pattern) => {
                let buffer = pattern.buffer(&self.rule)?;
                let bytes = pattern.bytes(&self.rule);
                let is_placed = pattern.content(&self.rule).is_some_and(|content| {
                    content.at_end || matches!(content.window, Window::Absolute { depth: Some(_), .. })
                });
                if !is_long(buffer) || is_placed {
                    None
                } else if bytes.len() < SHORTEST {
                    Some(Slow::ShortPattern)
                } else if frequency::rarity(bytes) < COMMON {
                    Some(Slow::CommonPattern)
                } else {
                    None
                }
            }
        }
    }

    /// Returns true if the rule searches payload or bodies.
    fn searches(&self) -> bool {
        let is_search = |requirement: &Match| {
            matches!(requirement, Match::Pcre(_) | Match::Content(_) | Match::Entropy(_) | Match::Base64(_))
        };
        let long =
            |list: &&BufferMatches| matches!(list.buffer.description().unit, Unit::Payload | Unit::Body);
        self.rule.buffers.iter().filter(long).any(|list| list.matches.iter().any(is_search))
    }
}
