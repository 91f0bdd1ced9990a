//! Writes a tree as text that the engines understand the same way: no flags, no shorthand, bytes by their numbers.

use std::fmt::Write as _;

use super::syntax::{Class, Greed, Node};
use crate::limits;

/// An expression as text.
#[derive(Debug)]
pub(super) struct Emitted {
    pub(super) text: String,
    /// True if the expression needs backtracking: it looks around, refers back, or commits to what it matched.
    pub(super) backtracks: bool,
    /// About as many states as an automaton has.
    pub(super) states: usize,
}

/// Writes a tree. Returns an error if its repetitions, written out, have too many states.
pub(super) fn emit(node: &Node) -> Result<Emitted, String> {
    let states = states(node);
    if states > limits::STATES {
        return Err("its repetitions need too much memory".to_owned());
    }
    let mut emitted = Emitted { text: String::new(), backtracks: false, states };
    emitted.node(node, true);
    Ok(emitted)
}

/// Returns about as many states as an automaton of the tree has.
fn states(node: &Node) -> usize {
    match node {
        Node::Concat(nodes) => nodes.iter().map(states).fold(0, usize::saturating_add),
        Node::Alternate(nodes) => nodes.iter().map(states).fold(1, usize::saturating_add),
        Node::Repeat { node, min, max, .. } => {
            let times = max.unwrap_or(min.saturating_add(1)).max(1) as usize;
            states(node).saturating_add(1).saturating_mul(times)
        }
        Node::Capture(node) | Node::Atomic(node) | Node::Look { node, .. } => states(node).saturating_add(2),
        _ => 1,
    }
}

impl Emitted {
    /// Writes a part. `last` is true if nothing follows the part in any match.
    fn node(&mut self, node: &Node, last: bool) {
        match node {
            Node::Empty => self.text.push_str("(?:)"),
            Node::Class(class) => self.class(*class),
            Node::Concat(nodes) => {
                for (index, node) in nodes.iter().enumerate() {
                    let is_group = matches!(node, Node::Alternate(_));
                    self.text.push_str(if is_group { "(?:" } else { "" });
                    self.node(node, last && index + 1 == nodes.len());
                    self.text.push_str(if is_group { ")" } else { "" });
                }
            }
            Node::Alternate(nodes) => {
                for (index, node) in nodes.iter().enumerate() {
                    self.text.push_str(if index > 0 { "|" } else { "" });
                    self.node(node, last);
                }
            }
            Node::Repeat { node, min, max, greed } => self.repeat(node, *min, *max, *greed),
            Node::Capture(node) => self.group("(", node, last),
            Node::Atomic(node) => {
                self.backtracks = true;
                self.group("(?>", node, last);
            }
            Node::Look { behind, negated, node } => {
                self.backtracks = true;
                let mark = match (behind, negated) {
                    (false, false) => "(?=",
                    (false, true) => "(?!",
                    (true, false) => "(?<=",
                    (true, true) => "(?<!",
                };
                self.group(mark, node, false);
            }
            Node::Backreference { group, nocase } => {
                self.backtracks = true;
                let flag = if *nocase { "i" } else { "" };
                // The group ends the number, which digits may follow.
                let _ = write!(self.text, "(?{flag}:\\{group})");
            }
            Node::Start => self.text.push_str(r"\A"),
            Node::End => self.text.push_str(r"\z"),
            // The newline may be part of the match if nothing follows, since then only the end of the subject does.
            Node::EndOrNewline if last => self.text.push_str(r"(?:\n?\z)"),
            Node::EndOrNewline => {
                self.backtracks = true;
                self.text.push_str(r"(?=\n?\z)");
            }
            Node::LineStart => self.text.push_str("(?m:^)"),
            Node::LineEnd => self.text.push_str("(?m:$)"),
            Node::WordBoundary => self.text.push_str(r"\b"),
            Node::NotWordBoundary => self.text.push_str(r"\B"),
        }
    }

    fn group(&mut self, mark: &str, node: &Node, last: bool) {
        self.text.push_str(mark);
        self.node(node, last);
        self.text.push(')');
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, greed: Greed) {
        if greed == Greed::Possessive {
            self.backtracks = true;
            self.text.push_str("(?>");
        }
        if matches!(node, Node::Class(_) | Node::Capture(_)) {
            self.node(node, false);
        } else {
            self.group("(?:", node, false);
        }
        let _ = match (min, max) {
            (0, None) => write!(self.text, "*"),
            (1, None) => write!(self.text, "+"),
            (0, Some(1)) => write!(self.text, "?"),
            (min, None) => write!(self.text, "{{{min},}}"),
            (min, Some(max)) => write!(self.text, "{{{min},{max}}}"),
        };
        match greed {
            Greed::Greedy => {}
            Greed::Lazy => self.text.push('?'),
            Greed::Possessive => self.text.push(')'),
        }
    }

    fn class(&mut self, class: Class) {
        let ranges = class.ranges();
        match ranges.as_slice() {
            // A class without bytes matches nothing.
            [] => self.text.push_str(r"[^\x00-\xff]"),
            [(0, 255)] => self.text.push_str("(?s:.)"),
            [(low, high)] if low == high => self.byte(*low),
            ranges => {
                self.text.push('[');
                for (low, high) in ranges {
                    self.byte(*low);
                    if high > low {
                        if high - low > 1 {
                            self.text.push('-');
                        }
                        self.byte(*high);
                    }
                }
                self.text.push(']');
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() {
            self.text.push(char::from(byte));
        } else {
            let _ = write!(self.text, "\\x{byte:02x}");
        }
    }
}
