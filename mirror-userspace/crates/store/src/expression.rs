//! Filter expressions: select frames, in tcpdump's syntax for the inner frame, and with conditions of our own
//! on data that only the mirror provides.
//!
//! In `host 10.1.2.3 and port 443 and vni 7`, the first two conditions are libpcap's, which compiles them to
//! BPF; the last is ours. Ours may stand wherever one of libpcap's may, within parentheses and behind `not`.
//! This needs no grammar here: libpcap compiles an expression with *n* conditions of ours 2ⁿ times, with each
//! combination of true and false in their places. On a frame, the program for the frame's combination runs.
//!
//! | ours | matches |
//! | --- | --- |
//! | `vni 7`, `vni 100-199` | the mirror session's VNI |
//! | `outer src 10.0.1.17`, `outer src 10.0.0.0/16` | the mirrored interface |
//! | `community-id 1:LQU9qZlK+B5F3KDmev6m5PMibrg=` | the flow, in both directions, also within other packets |

mod bounds;
mod program;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mirror_base::text;
use mirror_packet::{CommunityId, Decoded, FlowKey, FrameInfo, Layer, LinkType, SessionKey, TunnelPorts};
use mirror_xdp_common::Vni;
use pcap::{Capture, Linktype};

use self::bounds::TooMuch;
use self::program::Program;

/// Maximum number of our conditions in an expression.
const MAX_PRIMITIVES: usize = 6;
/// Constants that libpcap gets in the place of our conditions: false, and true.
const CONSTANTS: [&str; 2] = ["(1 = 0)", "(1 = 1)"];
/// libpcap's message when its optimizer finds that nothing can match.
const REJECTS_ALL: &str = "expression rejects all packets";
/// The accepted forms, for expressions that libpcap rejects.
const ALLOWED: &str = "use the syntax of tcpdump (`man pcap-filter`), or vni N, outer src A, community-id ID";
/// Time limit for locating a mistake. An attempt that has begun may exceed it.
const LOCATING: Duration = Duration::from_millis(200);
/// Words that connect conditions, and belong to none of them.
const CONNECTIVES: [&str; 6] = ["and", "or", "not", "&&", "||", "!"];

/// The reason why an expression is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ExpressionError {
    /// Position of the mistake, in characters from 1.
    pub column: usize,
    /// A description of the mistake.
    pub what: String,
    /// The accepted forms.
    pub allowed: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, what, allowed } = self;
        write!(f, "expression, column {column}: {what}; {allowed}")
    }
}

/// A condition of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// The VNI is one of these.
    Vni(RangeInclusive<u32>),
    /// The outer source is within this network.
    OuterSource(IpNet),
    /// The frame has a packet of this flow, possibly nested in others.
    CommunityId(CommunityId),
}

impl Primitive {
    fn matches(&self, info: &FrameInfo, frame: &[u8]) -> bool {
        match self {
            Self::Vni(vnis) => info.mirror.is_some_and(|mirror| vnis.contains(&mirror.vni.get())),
            Self::OuterSource(network) => {
                info.mirror.is_some_and(|mirror| network.contains(&mirror.outer_source.to_ip()))
            }
            Self::CommunityId(id) => community_ids(info, frame).any(|of| of == *id),
        }
    }
}

/// Returns the Community IDs of a frame's packets, the outermost first. Fragments have none, since not all of them
/// contain the ports.
pub fn community_ids(info: &FrameInfo, frame: &[u8]) -> impl Iterator<Item = CommunityId> {
    /// More packets are not nested.
    const MOST: usize = 16;
    let original_len = info.original_len as usize;
    let ports = TunnelPorts::guessed(frame, original_len);
    let mut next = Some(Layer::frame(LinkType::Ethernet, frame, original_len).with_ports(&ports));
    let session = SessionKey::from(info.mirror);
    let mut ids = [None; MOST];
    for id in &mut ids {
        let Some(Ok(Decoded::Packet(packet))) = next.take().map(mirror_packet::decode) else { break };
        next = packet.tunnelled;
        let (key, _) = FlowKey::of_packet(&packet, session);
        *id = Some(CommunityId::of_key(&key));
    }
    ids.into_iter().flatten()
}

/// A compiled expression.
pub struct Expression {
    text: String,
    primitives: Vec<Primitive>,
    /// Programs by the set of our conditions that hold, one bit each; `None` if no frame matches then.
    programs: Vec<Option<Program>>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Expression {
    /// Compiles an expression; an empty one matches everything. Host names are resolved, as tcpdump does.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let too_much = |TooMuch { what, allowed }| error(text, 0, what, allowed);
        bounds::weigh(text, &[], 1).map_err(too_much)?;
        let pieces = pieces(text)?;
        let primitives: Vec<_> = pieces.iter().filter_map(Piece::primitive).cloned().collect();
        if primitives.len() > MAX_PRIMITIVES {
            return Err(error(
                text,
                text.len(),
                format!("has {} conditions on VNI, outer source and Community ID", primitives.len()),
                format!("use at most {MAX_PRIMITIVES}; a range of VNIs counts as one"),
            ));
        }
        let times = 1_usize << primitives.len();
        let words: Vec<_> =
            pieces.iter().filter(|piece| piece.primitive().is_none()).map(Piece::range).collect();
        bounds::weigh(text, &words, times).map_err(too_much)?;
        let compiler = Compiler::new(text)?;
        let mut programs = Vec::new();
        for held in 0..times {
            match compiler.compile(&substituted(text, &pieces, held, text.len()), times) {
                Ok(program) => programs.push(program),
                Err(Refused::TooMuch(reason)) => return Err(too_much(reason)),
                Err(Refused::Wrong(message)) => return Err(compiler.locate(text, &pieces, &message)),
            }
        }
        Ok(Self { text: text.to_owned(), primitives, programs })
    }

    /// Returns the text of the expression.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether the expression matches no frame at all, such as `tcp and udp`.
    #[must_use]
    pub fn matches_nothing(&self) -> bool {
        self.programs.iter().all(Option::is_none)
    }

    /// Returns whether a frame matches. Lengths in the expression refer to the captured bytes of the frame.
    #[must_use]
    pub fn matches(&self, info: &FrameInfo, frame: &[u8]) -> bool {
        let held = self
            .primitives
            .iter()
            .enumerate()
            .fold(0, |held, (bit, primitive)| held | usize::from(primitive.matches(info, frame)) << bit);
        self.programs[held].as_ref().is_some_and(|program| program.filter(frame))
    }

    /// Returns those of our conditions that hold for every frame that matches. An index can be queried for
    /// them.
    pub fn required(&self) -> impl Iterator<Item = &Primitive> {
        let needed = |bit: usize| {
            self.programs.iter().enumerate().all(|(held, program)| held >> bit & 1 == 1 || program.is_none())
        };
        self.primitives
            .iter()
            .enumerate()
            .filter(move |&(bit, _)| needed(bit))
            .map(|(_, primitive)| primitive)
    }
}

/// A piece of an expression.
#[derive(Clone, Debug)]
pub enum Piece {
    /// A word of tcpdump's, by its position in the text.
    Word(std::ops::Range<usize>),
    /// A condition of ours, and its position in the text.
    Own(std::ops::Range<usize>, Primitive),
}

impl Piece {
    const fn range(&self) -> &std::ops::Range<usize> {
        match self {
            Self::Word(range) | Self::Own(range, _) => range,
        }
    }

    const fn primitive(&self) -> Option<&Primitive> {
        match self {
            Self::Word(_) => None,
            Self::Own(_, primitive) => Some(primitive),
        }
    }
}

/// Splits an expression into its pieces.
pub fn pieces(text: &str) -> Result<Vec<Piece>, ExpressionError> {
    let mut words = words(text).into_iter();
    let mut pieces = Vec::new();
    while let Some(word) = words.next() {
        let start = word.start;
        let mut value = |after: &str, of: &str| {
            let missing = || error(text, text.len(), format!("nothing follows `{after}`"), of);
            words.next().ok_or_else(missing)
        };
        match &text[word.clone()] {
            "vni" => {
                let range = value("vni", "write a VNI, or a range such as 100-199")?;
                let vnis = text::range(&text[range.clone()], "a VNI", 0..=Vni::MAX.get())
                    .map_err(|wrong| error(text, range.start, wrong.what, wrong.allowed))?;
                pieces.push(Piece::Own(start..range.end, Primitive::Vni(vnis)));
            }
            "outer" => {
                const ALLOWED: &str = "write `outer src` and an address, or a network such as 10.0.0.0/16";
                let source = value("outer", ALLOWED)?;
                if !matches!(&text[source.clone()], "src" | "source") {
                    let what = format!("`outer {}` is not a condition", &text[source.clone()]);
                    return Err(error(text, source.start, what, ALLOWED));
                }
                let range = value("outer src", ALLOWED)?;
                let word = &text[range.clone()];
                let network = match word.parse::<IpAddr>() {
                    Ok(address) => Ok(IpNet::from(address)),
                    Err(_) => text::network(word),
                };
                let network = network.map_err(|wrong| error(text, range.start, wrong.what, wrong.allowed))?;
                pieces.push(Piece::Own(start..range.end, Primitive::OuterSource(network)));
            }
            "community-id" => {
                const ALLOWED: &str = "write one such as 1:LQU9qZlK+B5F3KDmev6m5PMibrg=";
                let range = value("community-id", ALLOWED)?;
                let id = text[range.clone()].parse().map_err(|_| {
                    let what = format!("`{}` is not a Community ID of version 1", &text[range.clone()]);
                    error(text, range.start, what, ALLOWED)
                })?;
                pieces.push(Piece::Own(start..range.end, Primitive::CommunityId(id)));
            }
            _ => pieces.push(Piece::Word(word)),
        }
    }
    Ok(pieces)
}

/// Returns the positions of the words of a text. Parentheses and operators are words, too.
fn words(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, character) in text.char_indices() {
        let single = matches!(character, '(' | ')' | '!' | '&' | '|');
        if single || character.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
        }
        if single {
            words.push(at..at + 1);
        } else if !character.is_whitespace() {
            start.get_or_insert(at);
        }
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

/// Returns the first `len` bytes of an expression with constants in the places of our conditions, true where
/// `held` has the condition's bit.
fn substituted(text: &str, pieces: &[Piece], held: usize, len: usize) -> String {
    let mut result = String::new();
    let (mut at, mut bit) = (0, 0);
    for piece in pieces {
        if let Piece::Own(range, _) = piece
            && range.end <= len
        {
            result.push_str(&text[at..range.start]);
            result.push_str(CONSTANTS[held >> bit & 1]);
            at = range.end;
            bit += 1;
        }
    }
    result.push_str(&text[at..len]);
    result
}

fn error(text: &str, at: usize, what: impl Into<String>, allowed: impl Into<String>) -> ExpressionError {
    let column = text.get(..at).unwrap_or(text).chars().count() + 1;
    ExpressionError { column, what: what.into(), allowed: allowed.into() }
}

/// The reason why there is no program.
enum Refused {
    /// libpcap's error message.
    Wrong(String),
    /// The program would cost too much.
    TooMuch(TooMuch),
}

impl From<TooMuch> for Refused {
    fn from(reason: TooMuch) -> Self {
        Self::TooMuch(reason)
    }
}

/// Returns no program if libpcap reports that nothing can match, and any other error as it is.
fn refused_unless_empty(cause: &pcap::Error) -> Result<Option<Program>, Refused> {
    let message = message(cause);
    if message == REJECTS_ALL { Ok(None) } else { Err(Refused::Wrong(message)) }
}

/// libpcap's compiler, for Ethernet.
struct Compiler(Capture<pcap::Dead>);

impl Compiler {
    fn new(text: &str) -> Result<Self, ExpressionError> {
        let opened = Capture::dead(Linktype::ETHERNET);
        opened
            .map(Self)
            .map_err(|cause| error(text, 0, message(&cause), "nothing is wrong with the expression"))
    }

    /// Compiles an expression, one of `times`; returns `None` if nothing matches it.
    fn compile(&self, expression: &str, times: usize) -> Result<Option<Program>, Refused> {
        let plain = match self.0.compile(expression, false) {
            Ok(program) => program.get_instructions().len(),
            Err(cause) => return refused_unless_empty(&cause),
        };
        bounds::weigh_plain(plain, times)?;
        match self.0.compile(expression, true) {
            Ok(program) => {
                bounds::weigh_program(program.get_instructions().len())?;
                Ok(Some(Program::new(program)))
            }
            Err(cause) => refused_unless_empty(&cause),
        }
    }

    /// Returns whether libpcap accepts an expression.
    fn takes(&self, expression: &str) -> bool {
        match self.0.compile(expression, false) {
            Ok(_) => true,
            Err(cause) => message(&cause) == REJECTS_ALL,
        }
    }

    /// Locates the mistake in an expression. libpcap does not report its position, so it is assumed to be the
    /// first word behind the longest part that libpcap accepts. The search is limited by [`LOCATING`].
    fn locate(&self, text: &str, pieces: &[Piece], message: &str) -> ExpressionError {
        let taken = |count: usize| {
            let Some(last) = count.checked_sub(1) else { return true };
            let mut part = substituted(text, pieces, 0, pieces[last].range().end);
            let count = |parenthesis| part.matches(parenthesis).count();
            let open = count('(').saturating_sub(count(')'));
            part.push_str(&")".repeat(open));
            self.takes(&part)
        };
        let begun = Instant::now();
        let found = (0..pieces.len()).rev().find(|&count| begun.elapsed() > LOCATING || taken(count));
        if begun.elapsed() > LOCATING {
            return error(text, 0, message, ALLOWED);
        }
        let mut wrong = found.unwrap_or_default();
        let connective =
            |piece: &Piece| CONNECTIVES.iter().any(|word| text[piece.range().clone()].starts_with(word));
        while wrong < pieces.len() && connective(&pieces[wrong]) {
            wrong += 1;
        }
        let at = pieces.get(wrong).map_or(text.len(), |piece| piece.range().start);
        let word = pieces.get(wrong).map(|piece| format!("`{}`", &text[piece.range().clone()]));
        error(text, at, format!("{}: {message}", word.as_deref().unwrap_or("the end")), ALLOWED)
    }
}

/// Returns libpcap's message, without the prefix of its Rust interface.
fn message(cause: &pcap::Error) -> String {
    match cause {
        pcap::Error::PcapError(message) => {
            message.strip_prefix("can't parse filter expression: ").unwrap_or(message).to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
