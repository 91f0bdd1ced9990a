//! Why a rule does or does not match: for each flow, the attempt that came farthest, and the requirement that failed.
//!
//! Explanations are for `mirror-xdp rules explain`, which reads a capture file with an engine that explains one rule. They
//! allocate and lock, so live captures have none.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use mirror_packet::Direction;
use mirror_xdp_common::Address;

use crate::facts::Facts;
use crate::rule::{Content, Match, Number, Window};

/// Bytes of a buffer that an explanation shows.
const SHOWN: usize = 48;
/// The most flows that are explained.
const FLOWS: usize = 1_000_000;

/// A flow, as explanations name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExplainedFlow {
    /// The beginning, in nanoseconds since the epoch.
    pub start: u64,
    /// Address and port of the client and of the server.
    pub ends: [(Address, u16); 2],
    /// Number of the transport protocol.
    pub transport: u8,
    /// True for IPv6.
    pub ipv6: bool,
    /// The VNI of the mirror session.
    pub vni: Option<u32>,
}

/// An attempt to match the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Grows with the requirements that held.
    pub rank: u32,
    /// The direction.
    pub direction: Direction,
    /// The unit of traffic: a packet, data of a stream, or a transaction.
    pub unit: String,
    /// The requirement that failed; `None` if the rule matched.
    pub failed: Option<Failure>,
}

/// A requirement that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The requirement, as a rule has it.
    pub requirement: String,
    /// The keyword of the buffer, if it is about one.
    pub buffer: Option<&'static str>,
    /// Bytes of the buffer; `None` if the traffic has no such buffer.
    pub len: Option<usize>,
    /// Where the requirements that held ended.
    pub offset: usize,
    /// The first bytes from there.
    pub bytes: Vec<u8>,
}

impl Failure {
    /// A requirement that is about no buffer.
    pub(crate) fn of(requirement: impl Into<String>) -> Self {
        Self { requirement: requirement.into(), ..Self::default() }
    }

    /// A requirement of a buffer that the traffic does not have.
    pub(crate) fn absent(buffer: &'static str) -> Self {
        Self {
            requirement: "the traffic has no such buffer".to_owned(),
            buffer: Some(buffer),
            ..Self::default()
        }
    }

    /// A requirement of a buffer, behind those that held.
    pub(crate) fn within(buffer: &'static str, requirement: &Match, bytes: &[u8], offset: usize) -> Self {
        let rest = bytes.get(offset..).unwrap_or_default();
        Self {
            requirement: described(requirement),
            buffer: Some(buffer),
            len: Some(bytes.len()),
            offset,
            bytes: rest.get(..SHOWN).unwrap_or(rest).to_vec(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requirement, buffer, len, offset, bytes } = self;
        match (buffer, len) {
            (Some(buffer), Some(len)) => {
                let shown = bytes.escape_ascii();
                write!(f, "{buffer}: {requirement} fails at offset {offset} of {len} bytes: \"{shown}\"")
            }
            (Some(buffer), None) => write!(f, "{buffer}: {requirement}"),
            (None, _) => write!(f, "{requirement}"),
        }
    }
}

/// The explanations of one rule.
#[derive(Debug)]
pub struct Explanations {
    /// The index of the rule.
    pub(crate) rule: u32,
    flows: Mutex<BTreeMap<ExplainedFlow, Attempt>>,
}

impl Explanations {
    pub(crate) fn new(rule: u32) -> Self {
        Self { rule, flows: Mutex::default() }
    }

    /// Notes an attempt, unless an earlier one of the flow came farther.
    pub(crate) fn note(&self, facts: &Facts, attempt: Attempt) {
        let Facts { start, ends, transport, ipv6, vni, .. } = *facts;
        let flow = ExplainedFlow { start, ends, transport, ipv6, vni };
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = flows.len() >= FLOWS;
        match flows.get_mut(&flow) {
            Some(best) if best.rank >= attempt.rank => {}
            Some(best) => *best = attempt,
            None if is_full => {}
            None => {
                flows.insert(flow, attempt);
            }
        }
    }

    /// Returns the flows in the order of their beginnings, each with the attempt that came farthest.
    #[must_use]
    pub fn flows(&self) -> Vec<(ExplainedFlow, Attempt)> {
        let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.iter().map(|(flow, attempt)| (*flow, attempt.clone())).collect()
    }
}

/// Describes a requirement about as a rule has it.
fn described(requirement: &Match) -> String {
    match requirement {
        Match::Content(content) => content_text(content),
        Match::Pcre(pcre) => {
            let not = if pcre.negated { "!" } else { "" };
            format!("pcre:{not}\"/{}/\"", pcre.expression.text())
        }
        Match::DataAt { negated, .. } => format!("isdataat{}", if *negated { " (negated)" } else { "" }),
        Match::ByteTest(_) => "byte_test".to_owned(),
        Match::ByteJump(_) => "byte_jump".to_owned(),
        Match::ByteExtract(_) => "byte_extract".to_owned(),
        Match::ByteMath(_) => "byte_math".to_owned(),
        Match::Size(_) => "bsize".to_owned(),
        Match::Absent { .. } => "absent".to_owned(),
        Match::Entropy(_) => "entropy".to_owned(),
        Match::Base64(_) => "base64_decode".to_owned(),
        Match::Dataset(_) => "dataset".to_owned(),
    }
}

fn content_text(content: &Content) -> String {
    let mut text =
        format!("content:{}\"{}\"", if content.negated { "!" } else { "" }, content.pattern.escape_ascii());
    let mut add = |name: &str, number: Number| match number {
        // Writing to a string cannot fail.
        Number::Value(value) => drop(write!(text, "; {name}:{value}")),
        Number::Variable(_) => drop(write!(text, "; {name} from a variable")),
    };
    match content.window {
        Window::All => {}
        Window::Absolute { offset, depth } => {
            add("offset", offset);
            if let Some(depth) = depth {
                add("depth", depth);
            }
        }
        Window::Relative { distance, within } => {
            add("distance", distance);
            if let Some(within) = within {
                add("within", within);
            }
        }
    }
    for (is_set, name) in [(content.nocase, "nocase"), (content.at_end, "endswith")] {
        if is_set {
            text = text + "; " + name;
        }
    }
    text
}
