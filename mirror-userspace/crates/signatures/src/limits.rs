//! The bounds of rule files. A file beyond one of them is refused, and so is a rule; the rest of its file loads.

/// Bytes of a rule file, of a configuration file and of a data set.
pub const FILE: u64 = 128 << 20;
/// Bytes of a rule, without continuation marks.
pub const RULE: usize = 64 << 10;
/// Rules of all files together.
pub const RULES: usize = 300_000;
/// Refusals, and skipped rules, that are reported; further ones are only counted.
pub const REFUSALS: usize = 100_000;
/// Options of a rule.
pub const OPTIONS: usize = 512;
/// Bytes of a content pattern.
pub const PATTERN: usize = 8192;
/// Distance, within, offset and depth, as in Suricata.
pub const OFFSET: i64 = 1 << 20;
/// Variables of `byte_extract` and `byte_math` in a rule.
pub const VARIABLES: usize = 64;
/// Transforms of a buffer.
pub const TRANSFORMS: usize = 16;
/// Nested groups and references in an address or port list.
pub const DEPTH: usize = 32;
/// Ranges that a list of addresses or ports may have.
pub const RANGES: usize = 1 << 16;
/// Nested groups in a regular expression.
pub const GROUPS: usize = 64;
/// Bytes of the automaton of a regular expression.
pub const EXPRESSION: usize = 4 << 20;
/// Bytes of the states that matching an expression builds as it goes, for each thread.
pub const LAZY_STATES: usize = 64 << 10;
/// States of a regular expression whose repetitions are written out.
pub const STATES: usize = 100_000;
/// States of all expressions together.
pub const ALL_STATES: usize = 20_000_000;
/// Steps back of an expression that is matched by backtracking.
pub const BACKTRACKS: usize = 20_000;
/// Steps of one inspection of a buffer: Suricata's `inspection-recursion-limit`.
pub const STEPS: u32 = 3000;
/// Bytes that one inspection of a buffer may search.
pub const SEARCHED: usize = 16 << 20;
/// Bytes that a search by backtracking counts as, beside those of its subject.
pub const BACKTRACKING: usize = 16 << 10;
/// Bytes that a transform may produce.
pub const TRANSFORMED: usize = 1 << 20;
/// Members of all data sets together.
pub const MEMBERS: usize = 10_000_000;
/// Bits and numbers that a flow has.
pub const FLOW_BITS: usize = 64;
/// Bits that the hosts of a worker have.
pub const HOST_BITS: usize = 65_536;
/// Bytes of a stream that are inspected, by direction: Suricata's `stream.reassembly.depth`.
pub const STREAM: usize = 1 << 20;
/// Bytes of a stream that are inspected together, unless the sender's turn ends before.
pub const CHUNK: usize = 2560;
/// Bytes of a chunk that are looked at again with the next one, for contents that lie astride. Not more than [`CHUNK`].
pub const TAIL: usize = CHUNK;
/// Bytes in front of new ones that are searched again: a pattern may begin there.
pub const OVERLAP: usize = 256;
/// Rules of a chunk that did not match and are tried again with the next one.
pub const PENDING: usize = 256;
/// Bytes of a body that are inspected.
pub const BODY: usize = 100 << 10;
/// Bytes of a request's body that are there before it is inspected, unless it ends before.
pub const REQUEST_BODY_FIRST: usize = 32 << 10;
/// Bytes of a response's body that are there before it is inspected, unless it ends before.
pub const RESPONSE_BODY_FIRST: usize = 40 << 10;
/// Bytes that come to a body before it is inspected again.
pub const BODY_NEXT: usize = 16 << 10;
/// Bytes of all buffers of a transaction, without bodies.
pub const PARTS: usize = 256 << 10;
/// Buffers of a transaction.
pub const BUFFERS: usize = 1024;
/// Transactions of a flow whose bodies are on their way.
pub const OPEN: usize = 64;
/// Rules that are verified for a packet, a chunk of a stream, or a transaction.
pub const CANDIDATES: usize = 4096;
/// Alerts that a packet, a chunk of a stream, or a transaction raises.
pub const ALERTS: usize = 1000;
/// Bytes of payload that an alert has, where alerts have some.
pub const ALERT_PAYLOAD: usize = 4096;
/// Bytes that alerts of a packet, a chunk or a transaction have of the traffic together. Further ones have none.
pub const DETAILS: usize = 256 << 10;
