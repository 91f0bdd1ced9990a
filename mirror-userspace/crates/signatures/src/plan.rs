//! Where and how a rule is inspected: the units of traffic that it is about, the header in a form that is compared
//! quickly, and its tests and changes of state.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;
use mirror_packet::Direction;
use mirror_xdp_common::wire::protocol;

use crate::buffer::{Application, Buffer, Directions, Unit};
use crate::facts::Facts;
use crate::rule::{
    Action, BitOperation, BitTrack, Condition, FlowState, IntOperation, IntValue, Match, Number, Protocol,
    Rule, State, Window,
};
use crate::sets::{AddressSet, PortSet};
use crate::tenants::Sides;

/// The traffic that a payload rule is searched in. Each has searches of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// The ordered data of connections.
    Stream,
    /// TCP segments.
    Segment,
    /// UDP datagrams.
    Datagram,
    /// Packets of all other protocols.
    Other,
    /// TCP segments that belong to no stream that is followed. Rules of streams are tried on them, too: by the searches
    /// of streams.
    Loose,
}

impl Scope {
    /// The scopes that have searches, by number.
    pub const ALL: [Self; 4] = [Self::Stream, Self::Segment, Self::Datagram, Self::Other];

    /// Returns the scope of packets of a transport protocol.
    #[must_use]
    pub const fn of_packet(transport: u8) -> Self {
        match transport {
            protocol::TCP => Self::Segment,
            protocol::UDP => Self::Datagram,
            _ => Self::Other,
        }
    }
}

/// The unit of traffic with which a rule is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first packet of each direction of a flow: addresses and ports say it all.
    Flow,
    /// Packets, streams, or both: a set of [`Scope`], a bit each.
    Payload(u8),
    /// A direction of a transaction.
    Transaction,
}

/// A test of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A bit of the flow is set (or clear): any of these.
    FlowBit {
        /// The bits.
        bits: Box<[u32]>,
        /// True if it must be set.
        is_set: bool,
    },
    /// A bit of a host.
    HostBit {
        /// The bit.
        bit: u32,
        /// The host.
        track: BitTrack,
        /// True if it must be set.
        is_set: bool,
    },
    /// A number of the flow.
    FlowInt {
        /// The number.
        name: u32,
        /// The test.
        operation: IntOperation,
    },
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Of bits of the flow.
    FlowBit {
        /// The bits.
        bits: Box<[u32]>,
        /// The operation.
        operation: BitOperation,
    },
    /// Of a bit of a host.
    HostBit {
        /// The bit.
        bit: u32,
        /// The host.
        track: BitTrack,
        /// The operation.
        operation: BitOperation,
        /// Seconds until it is cleared.
        expire: Option<u32>,
    },
    /// Of a number of the flow.
    FlowInt {
        /// The number.
        name: u32,
        /// The operation.
        operation: IntOperation,
    },
}

/// Returns the number of a name of state. It stays the same when rules are loaded again.
#[must_use]
pub fn name_number(name: &str) -> u32 {
    let mut hasher = FixedState::with_seed(0x0006_d69c).build_hasher();
    hasher.write(name.as_bytes());
    hasher.finish() as u32
}

/// The way in which a rule is inspected.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub struct Plan {
    /// The unit of traffic.
    pub kind: Kind,
    /// The transport protocols.
    transport: Transport,
    /// The protocol of the header, and of the buffers if the header has none.
    pub application: Option<Application>,
    /// The directions of traffic that can match, a bit each.
    pub directions: u8,
    /// The state of the connection.
    state: Option<FlowState>,
    is_bidirectional: bool,
    source: Option<Arc<AddressSet>>,
    source_ports: Option<Arc<PortSet>>,
    destination: Option<Arc<AddressSet>>,
    destination_ports: Option<Arc<PortSet>>,
    /// True for `pass`.
    pub is_pass: bool,
    /// The tests of state.
    pub tests: Box<[Test]>,
    /// The changes of state that a match makes.
    pub changes: Box<[Change]>,
    /// The rule has requirements of payload beside those of a transaction.
    pub is_mixed: bool,
    /// The rule has requirements of a body.
    pub has_body: bool,
    /// The rule has variables, which requirements of one buffer set and those of others use.
    pub has_variables: bool,
    /// The contents of payload are not bound to the beginning of what is inspected.
    pub is_anywhere: bool,
    /// The rule is about a flow, and not about packets alone.
    pub needs_flow: bool,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Any,
    V4,
    V6,
    One(u8),
    Icmp,
}

const TO_SERVER: u8 = 1 << Direction::ToServer as u8;
const TO_CLIENT: u8 = 1 << Direction::ToClient as u8;
const BOTH: u8 = TO_SERVER | TO_CLIENT;

impl Plan {
    /// Makes the plan of a rule.
    #[must_use]
    pub fn new(rule: &Rule, sides: &Sides) -> Self {
        let application = application(rule);
        let kind = kind(rule, sides, application);
        let addresses = |set: &Arc<AddressSet>| (!set.is_all()).then(|| Arc::clone(set));
        let ports = |set: &Arc<PortSet>| (!set.is_all()).then(|| Arc::clone(set));
        let has = |unit: Unit| rule.buffers.iter().any(|list| list.buffer.description().unit == unit);
        let (tests, changes) = states(&rule.states);
        let needs_flow = rule.flow.direction.is_some()
            || matches!(rule.flow.state, Some(FlowState::Established | FlowState::NotEstablished))
            || rule.flow.stream.is_some()
            || application.is_some()
            || !tests.is_empty()
            || rule.conditions.iter().any(is_about_flow);
        Self {
            kind,
            transport: transport(rule.header.protocol),
            application,
            directions: directions(rule),
            state: rule.flow.state.filter(|state| *state != FlowState::Stateless),
            is_bidirectional: rule.header.is_bidirectional,
            source: addresses(&sides.source),
            source_ports: ports(&sides.source_ports),
            destination: addresses(&sides.destination),
            destination_ports: ports(&sides.destination_ports),
            is_pass: rule.header.action == Action::Pass,
            tests,
            changes,
            is_mixed: kind == Kind::Transaction && has(Unit::Payload),
            has_body: has(Unit::Body),
            has_variables: rule.variables > 0,
            is_anywhere: is_anywhere(rule),
            needs_flow,
        }
    }

    /// Returns true if the rule is about traffic of the direction.
    #[inline]
    #[must_use]
    pub const fn has_direction(&self, direction: Direction) -> bool {
        self.directions & 1 << direction as u8 != 0
    }

    /// Returns the ports of the sender and of the receiver, each `None` for any.
    #[must_use]
    pub fn ports(&self) -> [Option<&PortSet>; 2] {
        [self.source_ports.as_deref(), self.destination_ports.as_deref()]
    }

    /// Returns the addresses of the sender and of the receiver, each `None` for any.
    #[must_use]
    pub fn addresses(&self) -> [Option<&AddressSet>; 2] {
        [self.source.as_deref(), self.destination.as_deref()]
    }

    /// Returns true for `<>`.
    #[must_use]
    pub const fn is_bidirectional(&self) -> bool {
        self.is_bidirectional
    }

    /// Returns a text that is equal only for plans whose [`Plan::fits`] returns the same for all traffic.
    pub(crate) fn header_key(&self) -> String {
        let Self { transport, application, directions, state, is_bidirectional, needs_flow, .. } = self;
        let addresses = [&self.source, &self.destination].map(|set| set.as_ref().map(Arc::as_ptr));
        let ports = [&self.source_ports, &self.destination_ports].map(|set| set.as_ref().map(Arc::as_ptr));
        let ends = (is_bidirectional, addresses, ports);
        format!("{:?}", (transport, application, directions, state, needs_flow, ends))
    }

    /// Returns true if the header and `flow` fit traffic of a direction.
    #[must_use]
    pub fn fits(&self, facts: &Facts, direction: Direction) -> bool {
        if !self.has_direction(direction) || !self.fits_transport(facts) || facts.is_lone && self.needs_flow {
            return false;
        }
        match self.state {
            Some(FlowState::Established) if !facts.is_established => return false,
            Some(FlowState::NotEstablished) if facts.is_established => return false,
            _ => {}
        }
        if let Some(application) = self.application
            && !fits_application(application, facts)
        {
            return false;
        }
        let (sender, receiver) = (facts.sender(direction), facts.sender(direction.reverse()));
        self.fits_ends(sender, receiver) || self.is_bidirectional && self.fits_ends(receiver, sender)
    }

    /// Returns the first part of the header that does not fit, in words.
    #[must_use]
    pub fn unfit(&self, facts: &Facts, direction: Direction) -> Option<&'static str> {
        if !self.fits_transport(facts) {
            return Some("the transport protocol is another");
        }
        if facts.is_lone && self.needs_flow {
            return Some("the packet belongs to no flow");
        }
        if !self.has_direction(direction) {
            return Some("the direction is the other");
        }
        if let Some(application) = self.application
            && !fits_application(application, facts)
        {
            return Some("the flow is of another protocol");
        }
        match self.state {
            Some(FlowState::Established) if !facts.is_established => return Some("flow:established"),
            Some(FlowState::NotEstablished) if facts.is_established => return Some("flow:not_established"),
            _ => {}
        }
        let (sender, receiver) = (facts.sender(direction), facts.sender(direction.reverse()));
        if self.fits_ends(sender, receiver) || self.is_bidirectional && self.fits_ends(receiver, sender) {
            return None;
        }
        let has = |set: &Option<Arc<AddressSet>>, end: End| {
            set.as_ref().is_none_or(|set| set.contains_address(end.0))
        };
        let has_port =
            |set: &Option<Arc<PortSet>>, end: End| set.as_ref().is_none_or(|set| set.contains(end.1));
        Some(if !has(&self.source, sender) {
            "the source address"
        } else if !has_port(&self.source_ports, sender) {
            "the source port"
        } else if !has(&self.destination, receiver) {
            "the destination address"
        } else {
            "the destination port"
        })
    }

    fn fits_ends(&self, source: End, destination: End) -> bool {
        self.destination_ports.as_ref().is_none_or(|set| set.contains(destination.1))
            && self.source_ports.as_ref().is_none_or(|set| set.contains(source.1))
            && self.source.as_ref().is_none_or(|set| set.contains_address(source.0))
            && self.destination.as_ref().is_none_or(|set| set.contains_address(destination.0))
    }

    const fn fits_transport(&self, facts: &Facts) -> bool {
        match self.transport {
            Transport::Any => true,
            Transport::V4 => !facts.ipv6,
            Transport::V6 => facts.ipv6,
            Transport::One(number) => facts.transport == number,
            Transport::Icmp => matches!(facts.transport, protocol::ICMP | protocol::ICMPV6),
        }
    }
}

type End = (mirror_xdp_common::Address, u16);

/// Returns true if a flow is of a protocol, now or before it switched to another one.
fn fits_application(application: Application, facts: &Facts) -> bool {
    [facts.application, facts.original].into_iter().flatten().any(|found| application.fits(found))
}

const fn transport(of: Protocol) -> Transport {
    match of {
        Protocol::Ip | Protocol::Application(_) => Transport::Any,
        Protocol::Ipv4 => Transport::V4,
        Protocol::Ipv6 => Transport::V6,
        Protocol::Tcp | Protocol::TcpPacket | Protocol::TcpStream => Transport::One(protocol::TCP),
        Protocol::Udp => Transport::One(protocol::UDP),
        Protocol::Sctp => Transport::One(protocol::SCTP),
        Protocol::Icmp => Transport::Icmp,
        Protocol::Icmpv4 => Transport::One(protocol::ICMP),
        Protocol::Icmpv6 => Transport::One(protocol::ICMPV6),
    }
}

fn application(rule: &Rule) -> Option<Application> {
    if let Protocol::Application(application) = rule.header.protocol {
        return Some(application);
    }
    // A buffer that one protocol has implies it; the others are known by their transactions.
    rule.buffers.iter().find_map(|list| match list.buffer.description().applications {
        [application] => Some(*application),
        _ => None,
    })
}

fn directions(rule: &Rule) -> u8 {
    let mut directions = match rule.flow.direction {
        Some(direction) => 1 << direction as u8,
        None => BOTH,
    };
    for list in &rule.buffers {
        directions &= match list.buffer.description().directions {
            Directions::ToServer => TO_SERVER,
            Directions::ToClient => TO_CLIENT,
            Directions::Both => BOTH,
        };
    }
    directions
}

/// Protocols whose analyzers hand over transactions.
const fn has_transactions(application: Application) -> bool {
    matches!(
        application,
        Application::Http
            | Application::Http1
            | Application::Http2
            | Application::Dns
            | Application::Tls
            | Application::Ssh
            | Application::Quic
    )
}

fn kind(rule: &Rule, sides: &Sides, application: Option<Application>) -> Kind {
    let is_of_transaction =
        |buffer: Buffer| matches!(buffer.description().unit, Unit::Transaction | Unit::Body);
    let by_buffers = rule.buffers.iter().any(|list| is_of_transaction(list.buffer));
    let by_conditions = rule.conditions.iter().any(|condition| {
        matches!(
            condition,
            Condition::DnsOpcode(_)
                | Condition::DnsRcode(_)
                | Condition::DnsType(_)
                | Condition::TlsVersion { .. }
                | Condition::Http2(..)
        )
    });
    let is_of_application = rule.buffers.is_empty() && application.is_some_and(has_transactions);
    if by_buffers || by_conditions || is_of_application {
        return Kind::Transaction;
    }
    let has_payload = rule.buffers.iter().any(|list| list.buffer == Buffer::Payload);
    let is_packet_only = rule.conditions.iter().any(is_of_packet)
        || rule.buffers.iter().any(|list| list.buffer.description().unit == Unit::Packet)
        || rule.flow.stream == Some(false)
        || rule.header.protocol == Protocol::TcpPacket
        || !has_payload;
    let addresses_only = rule.buffers.is_empty()
        && rule.conditions.iter().all(is_of_flow)
        && application.is_none()
        && rule.flow.state.is_none()
        && sides.source_ports.is_all()
        && sides.destination_ports.is_all();
    if addresses_only {
        return Kind::Flow;
    }
    let bit = |scope: Scope| 1 << scope as u8;
    let packets = bit(Scope::Segment) | bit(Scope::Datagram) | bit(Scope::Other);
    let possible = match transport(rule.header.protocol) {
        Transport::Any | Transport::V4 | Transport::V6 => u8::MAX,
        Transport::One(protocol::TCP) => bit(Scope::Stream) | bit(Scope::Segment) | bit(Scope::Loose),
        Transport::One(protocol::UDP) => bit(Scope::Datagram),
        Transport::One(_) | Transport::Icmp => bit(Scope::Other),
    };
    if is_packet_only {
        return Kind::Payload(packets & possible);
    }
    let only_stream = rule.flow.stream == Some(true) || rule.header.protocol == Protocol::TcpStream;
    if only_stream {
        return Kind::Payload(bit(Scope::Stream) & possible);
    }
    // A content at a place from the beginning is looked for in packets as well.
    let is_anchored =
        rule.buffers.iter().filter(|list| list.buffer == Buffer::Payload).any(|list| {
            list.matches.iter().any(|requirement| match requirement {
                Match::Content(content) => match content.window {
                    Window::Absolute { depth: Some(_), .. } => true,
                    Window::Absolute { offset, depth: None } => offset != Number::Value(0),
                    _ => false,
                },
                _ => false,
            })
        }) || rule.conditions.iter().any(|condition| matches!(condition, Condition::StreamSize(..)));
    let segments = if is_anchored { bit(Scope::Segment) } else { bit(Scope::Loose) };
    Kind::Payload((bit(Scope::Stream) | segments | bit(Scope::Datagram) | bit(Scope::Other)) & possible)
}

/// Returns true for a condition that a single packet satisfies or not.
const fn is_of_packet(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::PayloadSize(_)
            | Condition::Ttl(_)
            | Condition::Tos(_)
            | Condition::IpId(_)
            | Condition::FragmentBits(_)
            | Condition::FragmentOffset(_)
            | Condition::IpOption(_)
            | Condition::TcpFlags(_)
            | Condition::TcpSequence(_)
            | Condition::TcpAcknowledgement(_)
            | Condition::TcpWindow(_)
            | Condition::TcpMss(_)
            | Condition::IcmpType(_)
            | Condition::IcmpCode(_)
            | Condition::IcmpId(_)
            | Condition::IcmpSequence(_)
    )
}

/// Returns true if the requirements of payload do not depend on where the inspected bytes begin.
fn is_anywhere(rule: &Rule) -> bool {
    let is_bound = |requirement: &Match| match requirement {
        Match::Content(content) => match content.window {
            Window::Absolute { depth: Some(_), .. } => true,
            Window::Absolute { offset, depth: None } => offset != Number::Value(0),
            Window::Relative { .. } | Window::All => false,
        },
        Match::Pcre(_) => false,
        Match::Size(_) | Match::Entropy(_) | Match::Dataset(_) | Match::Absent { .. } => true,
        other => !other.is_relative(),
    };
    let mut lists = rule.buffers.iter().filter(|list| list.buffer == Buffer::Payload);
    lists.all(|list| list.transforms.is_empty() && !list.matches.iter().any(is_bound))
}

/// Returns true for a condition about a flow.
const fn is_about_flow(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::StreamSize(..)
            | Condition::FlowAge(_)
            | Condition::FlowPackets(..)
            | Condition::FlowBytes(..)
            | Condition::Application { .. }
    )
}

/// Returns true for a condition that is the same for all packets of a flow.
const fn is_of_flow(condition: &Condition) -> bool {
    matches!(condition, Condition::Vni { .. } | Condition::Session(_) | Condition::SameAddress)
}

fn states(states: &[State]) -> (Box<[Test]>, Box<[Change]>) {
    let (mut tests, mut changes) = (Vec::new(), Vec::new());
    for state in states {
        match state {
            State::FlowBit { operation, names } => {
                let bits = names.iter().map(|name| name_number(name)).collect();
                match operation {
                    BitOperation::IsSet => tests.push(Test::FlowBit { bits, is_set: true }),
                    BitOperation::IsNotSet => tests.push(Test::FlowBit { bits, is_set: false }),
                    operation => changes.push(Change::FlowBit { bits, operation: *operation }),
                }
            }
            State::HostBit { operation, name, track, expire } => {
                let (bit, track) = (name_number(name), *track);
                match operation {
                    BitOperation::IsSet => tests.push(Test::HostBit { bit, track, is_set: true }),
                    BitOperation::IsNotSet => tests.push(Test::HostBit { bit, track, is_set: false }),
                    operation => {
                        changes.push(Change::HostBit { bit, track, operation: *operation, expire: *expire });
                    }
                }
            }
            State::FlowInt { name, operation } => {
                let name = name_number(name);
                match operation {
                    IntOperation::IsSet | IntOperation::IsNotSet | IntOperation::Compare(..) => {
                        tests.push(Test::FlowInt { name, operation: operation.clone() });
                    }
                    IntOperation::Assign(_) | IntOperation::Add(_) | IntOperation::Subtract(_) => {
                        changes.push(Change::FlowInt { name, operation: operation.clone() });
                    }
                }
            }
        }
    }
    (tests.into(), changes.into())
}

/// Returns the place of a rule in the order of inspection: `pass` first, and rules that set bits before those that
/// test them.
#[must_use]
pub fn rank(rule: &Rule) -> impl Ord + use<> {
    let (tests, changes) = states(&rule.states);
    let bits = match (tests.is_empty(), changes.is_empty()) {
        (true, false) => 0,
        (false, false) => 1,
        (false, true) => 2,
        (true, true) => 3,
    };
    (rule.header.action != Action::Pass, bits)
}

/// Returns the number that a name of a flow's number has, or the number that is written.
#[must_use]
pub fn int_value(value: &IntValue, of: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    match value {
        IntValue::Number(number) => Some(*number),
        IntValue::Name(name) => of(name_number(name)),
    }
}
