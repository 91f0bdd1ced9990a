//! A rule as its text says it: typed, checked, and with the names of its variables not yet resolved.

use std::sync::Arc;

use mirror_packet::Direction;

use crate::buffer::{Application, Buffer};
use crate::dataset::{Dataset, DatasetKind};
use crate::diagnostic::Place;
use crate::facts::Http2Fact;
use crate::number::Compare;
use crate::pcre::Expression;
use crate::transform::Transform;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The line where the rule begins.
    pub line: u32,
    /// A hash of its text, which tells two versions of a rule apart.
    pub digest: u64,
    /// Protocol, addresses, ports.
    pub header: Header,
    /// Its number.
    pub id: RuleId,
    /// `msg`.
    pub message: Box<str>,
    /// `classtype`.
    pub class: Option<Arc<str>>,
    /// `priority`, which overrides that of the class.
    pub priority: Option<u8>,
    /// `reference`: the system and the name there.
    pub references: Box<[(Arc<str>, Box<str>)]>,
    /// `metadata`: keys and values.
    pub metadata: Box<[(Arc<str>, Arc<str>)]>,
    /// `target`: the side that is attacked.
    pub target: Option<Target>,
    /// True for `noalert` and `flowbits:noalert`: the rule changes state and raises no alert.
    pub is_silent: bool,
    /// `flow`.
    pub flow: Flow,
    /// The requirements of packets and flows beside their content.
    pub conditions: Box<[Condition]>,
    /// The requirements of content, by buffer.
    pub buffers: Box<[BufferMatches]>,
    /// The variables of `byte_extract` and `byte_math`.
    pub variables: u8,
    /// `fast_pattern`, if the rule says which pattern finds it.
    pub fast_pattern: Option<FastPattern>,
    /// Tests and changes of state that a flow or host has.
    pub states: Box<[State]>,
    /// `threshold` or `detection_filter`.
    pub threshold: Option<Threshold>,
    /// True for `bypass`: nothing more of the flow is inspected.
    pub bypasses: bool,
}

/// The number of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    /// The group; 1 unless the rule says otherwise.
    pub gid: u32,
    /// The number in the group.
    pub sid: u32,
    /// The revision.
    pub rev: u32,
}

/// The effect of a rule that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Raise an alert.
    Alert,
    /// Raise an alert, and drop the packet if that were possible.
    Drop,
    /// Let the packet pass without alerts of other rules.
    Pass,
    /// Raise an alert, and reject the connection if that were possible: to the source, the destination or both.
    Reject,
    /// `rejectsrc`.
    RejectSource,
    /// `rejectdst`.
    RejectDestination,
    /// `rejectboth`.
    RejectBoth,
}

impl Action {
    /// Returns the action of a word, in any case.
    #[must_use]
    pub fn from_name(word: &[u8]) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_slice() {
            b"alert" => Self::Alert,
            b"drop" => Self::Drop,
            b"pass" => Self::Pass,
            b"reject" => Self::Reject,
            b"rejectsrc" => Self::RejectSource,
            b"rejectdst" => Self::RejectDestination,
            b"rejectboth" => Self::RejectBoth,
            _ => return None,
        })
    }
}

/// The protocol of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// All IP packets.
    Ip,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// TCP, packets and data.
    Tcp,
    /// TCP, packets only.
    TcpPacket,
    /// TCP, ordered data only.
    TcpStream,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP for IPv4 or IPv6.
    Icmp,
    /// ICMP for IPv4.
    Icmpv4,
    /// ICMP for IPv6.
    Icmpv6,
    /// A recognised protocol.
    Application(Application),
}

/// The part of a rule in front of its options.
#[derive(Debug)]
pub struct Header {
    /// The effect of a match.
    pub action: Action,
    /// The protocol.
    pub protocol: Protocol,
    /// The left side.
    pub source: Endpoint,
    /// True for `<>`: either side may be the source.
    pub is_bidirectional: bool,
    /// The right side.
    pub destination: Endpoint,
}

/// Addresses and ports of one side, as they are written. [`crate::variables`] resolves them.
#[derive(Debug)]
pub struct Endpoint {
    /// The addresses.
    pub addresses: Arc<str>,
    /// The place of the addresses.
    pub addresses_at: Place,
    /// The ports.
    pub ports: Arc<str>,
    /// The place of the ports.
    pub ports_at: Place,
}

/// The side that is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The source of the packet.
    Source,
    /// The destination of the packet.
    Destination,
}

/// `flow`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// `to_server`, `from_client`, `to_client`, `from_server`.
    pub direction: Option<Direction>,
    /// The state of the connection.
    pub state: Option<FlowState>,
    /// `only_stream`: true; `no_stream`: false.
    pub stream: Option<bool>,
    /// `only_frag`: true; `no_frag`: false.
    pub reassembled: Option<bool>,
}

/// The state of a connection that `flow` requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Both sides were seen.
    Established,
    /// Not yet.
    NotEstablished,
    /// Either.
    Stateless,
}

/// A requirement that is not about the bytes of a buffer.
#[derive(Debug, PartialEq)]
pub enum Condition {
    /// `dsize`: bytes of payload of the packet.
    PayloadSize(Compare),
    /// `ttl`, or the hop limit.
    Ttl(Compare),
    /// `tos`.
    Tos(Compare),
    /// `id` of IPv4.
    IpId(Compare),
    /// `ip_proto`.
    IpProtocol(Compare),
    /// `fragbits`.
    FragmentBits(Bits),
    /// `fragoffset`.
    FragmentOffset(Compare),
    /// `ipopts`.
    IpOption(IpOption),
    /// `sameip`.
    SameAddress,
    /// `flags` of TCP.
    TcpFlags(Bits),
    /// `seq`.
    TcpSequence(Compare),
    /// `ack`.
    TcpAcknowledgement(Compare),
    /// `window`.
    TcpWindow(Compare),
    /// `tcp.mss`.
    TcpMss(Compare),
    /// `itype`.
    IcmpType(Compare),
    /// `icode`.
    IcmpCode(Compare),
    /// `icmp_id`.
    IcmpId(Compare),
    /// `icmp_seq`.
    IcmpSequence(Compare),
    /// `stream_size`: bytes that sides have sent, by their sequence numbers.
    StreamSize(Side, Compare),
    /// `flow.age` in seconds.
    FlowAge(Compare),
    /// `flow.pkts`.
    FlowPackets(Side, Compare),
    /// `flow.bytes`.
    FlowBytes(Side, Compare),
    /// `app-layer-protocol`.
    Application {
        /// The protocol; `None` if recognition failed.
        application: Option<Application>,
        /// True if it must be another one.
        negated: bool,
    },
    /// `dns.opcode`.
    DnsOpcode(Compare),
    /// `dns.rcode`.
    DnsRcode(Compare),
    /// `dns.rrtype`.
    DnsType(Compare),
    /// `tls.version` and `ssl_version`: any of these, or none of them.
    TlsVersion {
        /// The versions as the protocol numbers them.
        versions: Box<[u16]>,
        /// True if it must be none of them.
        negated: bool,
    },
    /// The `http2` keywords: a value in a frame.
    Http2(Http2Fact, Compare),
    /// `iprep`: the reputation of an address.
    Reputation {
        /// The address.
        side: Side,
        /// The category.
        category: Box<str>,
        /// The score.
        score: Compare,
    },
    /// `mirror.vni`: ranges of identifiers, sorted.
    Vni {
        /// First and last of each range.
        ranges: Box<[(u32, u32)]>,
        /// True if it must be in none of them.
        negated: bool,
    },
    /// `mirror.session`: the frames of one mirrored interface.
    Session(Session),
}

/// The values of `mirror.session`: a mirror session by the outer addresses and the VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The outer source address.
    pub source: mirror_xdp_common::Address,
    /// The identifier, if it is given.
    pub vni: Option<u32>,
}

/// Sides of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server, or for addresses the destination.
    Server,
    /// The client, or for addresses the source.
    Client,
    /// Both.
    Both,
    /// At least one.
    Either,
}

/// Flags of a header: `(flags & mask)` is compared with `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// How the flags are compared.
    pub mode: BitsMode,
    /// The flags.
    pub value: u8,
    /// Flags that are ignored.
    pub ignored: u8,
}

/// How flags are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitsMode {
    /// These and no others.
    Exactly,
    /// `+`: these, and perhaps others.
    All,
    /// `*`: at least one of these.
    Any,
    /// `!`: not exactly these.
    Not,
}

impl Bits {
    /// Returns true if flags satisfy the requirement.
    #[must_use]
    pub const fn matches(self, flags: u8) -> bool {
        let flags = flags & !self.ignored;
        match self.mode {
            BitsMode::Exactly => flags == self.value,
            BitsMode::All => flags & self.value == self.value,
            BitsMode::Any => flags & self.value != 0,
            BitsMode::Not => flags & self.value != self.value,
        }
    }
}

/// An option of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpOption {
    /// Any option.
    Any,
    /// The option of this type.
    Type(u8),
}

/// Requirements of one buffer, in their order.
#[derive(Debug)]
pub struct BufferMatches {
    /// The buffer.
    pub buffer: Buffer,
    /// The transforms, in their order.
    pub transforms: Box<[Transform]>,
    /// The requirements.
    pub matches: Box<[Match]>,
}

/// A number that is written, or one that an earlier step has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// A number.
    Value(i64),
    /// A variable of `byte_extract` or `byte_math`.
    Variable(u8),
}

/// A requirement of the bytes of a buffer.
#[derive(Debug)]
pub enum Match {
    /// `content`.
    Content(Content),
    /// `pcre`.
    Pcre(Pcre),
    /// `isdataat`.
    DataAt {
        /// The position.
        offset: Number,
        /// True if the position counts from the last match.
        relative: bool,
        /// True if there must be no data.
        negated: bool,
    },
    /// `byte_test`.
    ByteTest(Box<ByteTest>),
    /// `byte_jump`.
    ByteJump(Box<ByteJump>),
    /// `byte_extract`.
    ByteExtract(Box<ByteExtract>),
    /// `byte_math`.
    ByteMath(Box<ByteMath>),
    /// `bsize` and `urilen`: the length of the buffer.
    Size(Compare),
    /// `absent`: there is no such buffer. With `or_else`, or the other requirements hold.
    Absent {
        /// True if a buffer that is there may satisfy the other requirements instead.
        or_else: bool,
    },
    /// `entropy`.
    Entropy(Box<Entropy>),
    /// `base64_decode`, with the requirements of `base64_data`.
    Base64(Box<Base64>),
    /// `dataset`.
    Dataset(Box<DatasetMatch>),
}

impl Match {
    /// Returns true if the requirement depends on the end of the last match.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        match self {
            Self::Content(content) => matches!(content.window, Window::Relative { .. }),
            Self::Pcre(pcre) => pcre.relative,
            Self::DataAt { relative, .. } => *relative,
            Self::ByteTest(test) => test.source.relative,
            Self::ByteJump(jump) => jump.source.relative,
            Self::ByteExtract(extract) => extract.source.relative,
            Self::ByteMath(math) => math.source.relative,
            Self::Base64(base64) => base64.relative,
            Self::Size(_) | Self::Absent { .. } | Self::Entropy(_) | Self::Dataset(_) => false,
        }
    }
}

/// `content`, with its modifiers.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// The bytes; in lower case if case does not matter.
    pub pattern: Box<[u8]>,
    /// True if case does not matter.
    pub nocase: bool,
    /// True if the bytes must not be there.
    pub negated: bool,
    /// True if a match must end with the buffer.
    pub at_end: bool,
    /// The index of the byte by which the pattern is searched, the rarest one.
    pub rarest: u8,
    /// The part of the buffer that is searched.
    pub window: Window,
}

/// The part of a buffer that contains a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The whole buffer.
    All,
    /// `offset` and `depth`.
    Absolute {
        /// The first position.
        offset: Number,
        /// The bytes from there.
        depth: Option<Number>,
    },
    /// `distance` and `within`.
    Relative {
        /// The first position, from the end of the last match.
        distance: Number,
        /// The bytes from there.
        within: Option<Number>,
    },
}

/// `fast_pattern`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPattern {
    /// The index of the buffer in [`Rule::buffers`].
    pub buffer: u16,
    /// The index of the content in its matches.
    pub index: u16,
    /// The first byte of the pattern, and their number.
    pub part: Option<(u8, u8)>,
    /// True for `only`: the pattern need not be verified.
    pub only: bool,
}

/// `pcre`.
#[derive(Clone, Debug)]
pub struct Pcre {
    /// The expression, which equal ones share.
    pub expression: Arc<Expression>,
    /// True for `R`: the buffer begins at the end of the last match.
    pub relative: bool,
    /// True if the expression must not match.
    pub negated: bool,
}

/// The bytes that `byte_test` and its like read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSource {
    /// The number of bytes.
    pub count: Number,
    /// The first of them.
    pub offset: Number,
    /// True if the offset counts from the end of the last match.
    pub relative: bool,
    /// How they are a number.
    pub encoding: Encoding,
}

/// How bytes are a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
    /// Digits of a radix: 8, 10 or 16; 0 for digits that say it themselves, such as `0x`.
    Text(u8),
}

/// `byte_test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteTest {
    /// The bytes.
    pub source: ByteSource,
    /// The mask, of which the trailing zeroes are shifted out.
    pub mask: Option<u32>,
    /// The test.
    pub operator: TestOperator,
    /// True if the test must fail.
    pub negated: bool,
    /// The other number.
    pub value: Number,
}

/// A test of `byte_test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestOperator {
    /// `<`.
    Less,
    /// `>`.
    Greater,
    /// `=`.
    Equal,
    /// `<=`.
    LessOrEqual,
    /// `>=`.
    GreaterOrEqual,
    /// `&`: common bits.
    And,
    /// `^`: different bits.
    Xor,
}

/// `byte_jump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteJump {
    /// The bytes.
    pub source: ByteSource,
    /// The mask, of which the trailing zeroes are shifted out.
    pub mask: Option<u32>,
    /// The factor.
    pub multiplier: u32,
    /// True if the distance is rounded up to a multiple of four.
    pub align: bool,
    /// The position from which the jump begins.
    pub from: JumpFrom,
    /// The number that is added to the position in the end.
    pub post_offset: i64,
}

/// The position from which a jump begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JumpFrom {
    /// The end of the bytes that were read.
    Here,
    /// The beginning of the buffer.
    Beginning,
    /// The end of the buffer.
    End,
}

/// `byte_extract`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteExtract {
    /// The bytes.
    pub source: ByteSource,
    /// The factor.
    pub multiplier: u32,
    /// The number to a multiple of which the value is rounded up: 2 or 4.
    pub align: Option<u8>,
    /// The variable.
    pub variable: u8,
}

/// `byte_math`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteMath {
    /// The bytes.
    pub source: ByteSource,
    /// The mask, of which the trailing zeroes are shifted out.
    pub mask: Option<u32>,
    /// The operation.
    pub operator: MathOperator,
    /// The right operand.
    pub value: Number,
    /// The variable.
    pub variable: u8,
}

/// An operation of `byte_math`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MathOperator {
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `<<`.
    ShiftLeft,
    /// `>>`.
    ShiftRight,
}

/// `entropy`: Shannon's, in bits a byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entropy {
    /// The number of bytes; 0 for all.
    pub bytes: u32,
    /// The first of them.
    pub offset: u32,
    /// The comparison.
    pub compare: EntropyCompare,
}

/// A comparison of an entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EntropyCompare {
    /// `=`.
    Equal(f64),
    /// `!=`.
    NotEqual(f64),
    /// `<`.
    Less(f64),
    /// `<=`.
    LessOrEqual(f64),
    /// `>`.
    Greater(f64),
    /// `>=`.
    GreaterOrEqual(f64),
    /// Between both, without them.
    Between(f64, f64),
    /// Not between both.
    Outside(f64, f64),
}

/// `base64_decode`.
#[derive(Debug)]
pub struct Base64 {
    /// The encoded bytes that are decoded; `None` for all.
    pub bytes: Option<u32>,
    /// The first of them.
    pub offset: u32,
    /// True if the offset counts from the end of the last match.
    pub relative: bool,
    /// The requirements behind `base64_data`.
    pub matches: Box<[Match]>,
}

/// `dataset`.
#[derive(Debug)]
pub struct DatasetMatch {
    /// The operation.
    pub command: DatasetCommand,
    /// The name of the set.
    pub name: Box<str>,
    /// The type of its members; `None` if another rule defines the set.
    pub kind: Option<DatasetKind>,
    /// The file of its members.
    pub load: Option<Box<str>>,
    /// The members, once the rule is compiled.
    pub members: Option<Arc<Dataset>>,
    /// The place of the keyword.
    pub at: Place,
}

/// An operation of `dataset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetCommand {
    /// Require a member.
    IsSet,
    /// Require that it is no member.
    IsNotSet,
    /// Add it; matches if it is new.
    Set,
    /// Remove it; matches if it was there.
    Unset,
}

/// A test or change of state.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// `flowbits`.
    FlowBit {
        /// The operation.
        operation: BitOperation,
        /// The names; several are alternatives.
        names: Box<[Arc<str>]>,
    },
    /// `xbits` and `hostbits`.
    HostBit {
        /// The operation.
        operation: BitOperation,
        /// The name.
        name: Arc<str>,
        /// The host that has the bit.
        track: BitTrack,
        /// Seconds until it is cleared.
        expire: Option<u32>,
    },
    /// `flowint`.
    FlowInt {
        /// The name.
        name: Arc<str>,
        /// The operation.
        operation: IntOperation,
    },
}

/// An operation with a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitOperation {
    /// Set it.
    Set,
    /// Clear it.
    Unset,
    /// Invert it.
    Toggle,
    /// Require it.
    IsSet,
    /// Require that it is clear.
    IsNotSet,
}

/// The owner of a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitTrack {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// Both addresses together.
    Pair,
    /// Each of both addresses.
    Both,
}

/// An operation with a number of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOperation {
    /// Require a value.
    IsSet,
    /// Require that there is none.
    IsNotSet,
    /// Assign.
    Assign(IntValue),
    /// Add.
    Add(IntValue),
    /// Subtract.
    Subtract(IntValue),
    /// Compare.
    Compare(IntCompare, IntValue),
}

/// How numbers of a flow are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntCompare {
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// `==`.
    Equal,
    /// `!=`.
    NotEqual,
}

/// The right side of an operation with a number of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntValue {
    /// A number.
    Number(u32),
    /// Another number of the flow.
    Name(Arc<str>),
}

/// A limit on alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// The meaning of the numbers.
    pub kind: ThresholdKind,
    /// The key by which matches are counted apart.
    pub track: Track,
    /// The number of matches.
    pub count: u32,
    /// The time.
    pub seconds: u32,
}

/// The meaning of the numbers of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdKind {
    /// `limit`: at most `count` alerts in the time.
    Limit,
    /// `threshold`: an alert each `count` matches in the time.
    Threshold,
    /// `both`: one alert in the time, after `count` matches.
    Both,
    /// `detection_filter`: alerts from the match after the first `count` in the time.
    DetectionFilter,
}

/// The key by which matches are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Track {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// Both addresses.
    Both,
    /// The rule.
    Rule,
    /// The flow.
    Flow,
}
