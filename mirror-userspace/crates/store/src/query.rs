//! Queries to an index: evaluates as much of an expression as an index can answer, i.e. whether a flow may
//! have a packet that matches.
//!
//! The answer has three values. Conditions on data that the index does not contain (flags, lengths, hardware
//! addresses, …) may hold or not. Even where the index lists an address for a flow, tcpdump may not look into
//! the frame (behind a VLAN tag). So a condition that libpcap evaluates is either false or unknown. `not`
//! turns false into true, and leaves unknown as it is. If the answer is false for all flows of a chunk, the
//! chunk need not be read.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_xdp_common::inner::has_ports;
use mirror_xdp_common::wire::protocol;

use super::chunk::{FlowRef, kind};
use super::index::FlowEntry;
use super::pcapng::Interface;
use crate::expression::{Piece, Primitive, pieces};

/// The answer whether a packet of a flow matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    No,
    Perhaps,
    Yes,
}

impl Answer {
    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }

    /// A condition that is false by the index is false; one that is true by the index may be true.
    const fn at_most_perhaps(possible: bool) -> Self {
        if possible { Self::Perhaps } else { Self::No }
    }

    const fn exactly(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// An expression in a form that the index can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Network(IpNet),
    Ports(RangeInclusive<u16>),
    Protocol(u8),
    Ipv6(bool),
    Own(Primitive),
    Unknown,
}

impl Query {
    /// Returns the query of an expression that libpcap has compiled.
    pub(super) fn of(expression: &str) -> Self {
        let Ok(pieces) = pieces(expression) else { return Self::Unknown };
        let mut parser = Parser { text: expression, pieces: &pieces, depth: 0 };
        let query = parser.expression();
        // If anything is left over, the parser has not understood the expression.
        if parser.pieces.is_empty() { query } else { Self::Unknown }
    }

    /// Returns whether a flow may have a packet that matches.
    pub(super) fn ask(&self, entry: &FlowEntry<'_>, interfaces: &[Interface]) -> Answer {
        let flow = &entry.flow;
        match self {
            Self::And(a, b) => match a.ask(entry, interfaces) {
                Answer::No => Answer::No,
                answer => answer.min(b.ask(entry, interfaces)),
            },
            Self::Or(a, b) => match a.ask(entry, interfaces) {
                Answer::Yes => Answer::Yes,
                answer => answer.max(b.ask(entry, interfaces)),
            },
            Self::Not(inner) => inner.ask(entry, interfaces).not(),
            Self::Network(network) => Answer::at_most_perhaps(
                is(flow, kind::UNKNOWN)
                    || flow.addresses.iter().any(|address| network.contains(&address.to_ip())),
            ),
            Self::Ports(ports) => Answer::at_most_perhaps(
                is(flow, kind::OTHER)
                    || has_ports(flow.protocol) && flow.ports.iter().any(|port| ports.contains(port)),
            ),
            Self::Protocol(protocol) => {
                Answer::at_most_perhaps(is(flow, kind::UNKNOWN) || flow.protocol == *protocol)
            }
            Self::Ipv6(ipv6) => {
                Answer::at_most_perhaps(is(flow, kind::UNKNOWN) || is(flow, kind::IPV6) == *ipv6)
            }
            Self::Own(Primitive::CommunityId(id)) => {
                Answer::at_most_perhaps(is(flow, kind::OTHER) || entry.community_id == id.prefix())
            }
            Self::Own(Primitive::Vni(vnis)) => match interface(flow, interfaces) {
                Some(mirror) => Answer::exactly(vnis.contains(&mirror.vni.get())),
                None => Answer::No,
            },
            Self::Own(Primitive::OuterSource(network)) => match interface(flow, interfaces) {
                Some(mirror) => Answer::exactly(network.contains(&mirror.outer_source.to_ip())),
                None => Answer::No,
            },
            Self::Unknown => Answer::Perhaps,
        }
    }
}

const fn is(flow: &FlowRef, kind: u8) -> bool {
    flow.kind & kind != 0
}

fn interface(flow: &FlowRef, interfaces: &[Interface]) -> Option<mirror_packet::MirrorSession> {
    interfaces.get(flow.interface as usize)?.mirror
}

/// Parses expressions as tcpdump does: `and` and `or` have the same precedence, and associate to the left.
struct Parser<'p> {
    text: &'p str,
    pieces: &'p [Piece],
    depth: usize,
}

/// Maximum nesting of parentheses and negations. Deeper expressions are not understood.
const MAX_DEPTH: usize = 64;

impl<'p> Parser<'p> {
    fn word(&self) -> Option<&'p str> {
        match self.pieces.first()? {
            Piece::Word(range) | Piece::Own(range, _) => self.text.get(range.clone()),
        }
    }

    /// Consumes the next word if it is one of `words`. `&&` and `||` consist of two pieces.
    fn take(&mut self, words: [&str; 2]) -> bool {
        let Some(Piece::Word(range)) = self.pieces.first() else { return false };
        let Some(word) = self.text.get(range.clone()) else { return false };
        if word == words[0] {
            self.pieces = &self.pieces[1..];
            return true;
        }
        let double = words[1].len() == 2 && word == &words[1][..1];
        let next = self.text.get(range.start..range.start + 2) == Some(words[1]);
        if double && next {
            self.pieces = self.pieces.get(2..).unwrap_or_default();
            return true;
        }
        if words[1].len() == 1 && word == words[1] {
            self.pieces = &self.pieces[1..];
            return true;
        }
        false
    }

    fn expression(&mut self) -> Query {
        let mut left = self.unary();
        loop {
            if self.take(["and", "&&"]) {
                left = Query::And(Box::new(left), Box::new(self.unary()));
            } else if self.take(["or", "||"]) {
                left = Query::Or(Box::new(left), Box::new(self.unary()));
            } else {
                return left;
            }
        }
    }

    fn unary(&mut self) -> Query {
        self.depth += 1;
        let query = if self.depth > MAX_DEPTH {
            Query::Unknown
        } else if self.take(["not", "!"]) {
            Query::Not(Box::new(self.unary()))
        } else if self.take(["(", "("]) {
            let inner = self.expression();
            // Without a closing parenthesis, something is left over.
            if self.take([")", ")"]) { inner } else { Query::Unknown }
        } else {
            self.leaf()
        };
        self.depth -= 1;
        query
    }

    /// Parses a condition: the words up to the next connective.
    fn leaf(&mut self) -> Query {
        if let Some(Piece::Own(_, primitive)) = self.pieces.first() {
            self.pieces = &self.pieces[1..];
            return Query::Own(primitive.clone());
        }
        let mut words = Vec::new();
        while let Some(word) = self.word()
            && !matches!(word, "and" | "or" | "not" | "(" | ")" | "!" | "&" | "|")
            && matches!(self.pieces.first(), Some(Piece::Word(_)))
        {
            words.push(word);
            self.pieces = &self.pieces[1..];
        }
        condition(&words)
    }
}

/// Returns the query of a condition of tcpdump's, as far as the index can answer it. A condition that is
/// false here must be false for tcpdump.
fn condition(words: &[&str]) -> Query {
    let (transport, rest) = match words {
        ["tcp", rest @ ..] => (Some(Query::Protocol(protocol::TCP)), rest),
        ["udp", rest @ ..] => (Some(Query::Protocol(protocol::UDP)), rest),
        ["sctp", rest @ ..] => (Some(Query::Protocol(protocol::SCTP)), rest),
        ["icmp"] => return Query::Protocol(protocol::ICMP),
        ["icmp6"] => return Query::Protocol(protocol::ICMPV6),
        ["ip", rest @ ..] => (Some(Query::Ipv6(false)), rest),
        ["ip6", rest @ ..] => (Some(Query::Ipv6(true)), rest),
        rest => (None, rest),
    };
    let named_direction = matches!(rest, ["src" | "dst", ..]);
    let rest = if named_direction { &rest[1..] } else { rest };
    let what = match rest {
        [] if !named_direction => match transport {
            Some(query) => return query,
            None => Query::Unknown,
        },
        ["host", address] => address.parse().map_or(Query::Unknown, host),
        [address] if named_direction => address.parse().map_or(Query::Unknown, host),
        ["net", network] => network.parse().map_or(Query::Unknown, Query::Network),
        ["port", port] => port.parse().map_or(Query::Unknown, |port: u16| Query::Ports(port..=port)),
        ["portrange", range] => {
            mirror_base::text::range(range, "a port", 0..=u16::MAX).map_or(Query::Unknown, Query::Ports)
        }
        // `tcp[13]` and the like begin with a word that does not determine their meaning.
        _ => return Query::Unknown,
    };
    match transport {
        Some(transport) => Query::And(Box::new(transport), Box::new(what)),
        None => what,
    }
}

fn host(address: IpAddr) -> Query {
    Query::Network(IpNet::from(address))
}

#[cfg(test)]
mod tests;
