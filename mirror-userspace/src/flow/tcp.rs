//! What is followed of a TCP connection: enough to say in which state it is, when a new connection takes
//! over the same endpoints, and which data comes next. The states are those of RFC 9293 as Suricata maps
//! them onto an observer between the two sides.

use crate::packet::{TcpHeader, tcp_flags};
use crate::record::{FlowState, TcpSummary};

use super::Direction;

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its header.
    pub header: TcpHeader,
    /// Its data, as far as it was captured.
    pub payload: &'a [u8],
    /// Bytes of its data that were not captured.
    pub missing: usize,
}

impl Segment<'_> {
    const fn has(&self, flag: u8) -> bool {
        self.header.flags & flag != 0
    }

    /// Whether this is the first segment of a connection.
    #[must_use]
    pub const fn begins_connection(&self) -> bool {
        self.header.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN)
            == tcp_flags::SYN
    }

    /// The sequence number behind the data.
    const fn end(&self) -> u32 {
        self.header.sequence.wrapping_add((self.payload.len() + self.missing) as u32)
    }
}

/// States of a connection, in the order that Suricata compares them in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    TimeWait,
    LastAck,
    CloseWait,
    Closing,
    Closed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_recv",
            Self::Established => "established",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::LastAck => "last_ack",
            Self::CloseWait => "close_wait",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Initial sequence number.
    initial: u32,
    /// Sequence number of the next new byte.
    next: u32,
    /// Flags that it sent, or-ed.
    flags: u8,
    /// Some of its data was acknowledged and never seen.
    gap: bool,
}

/// A connection that was seen to begin.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    state: State,
    sides: [Side; 2],
    /// The side that closed first.
    closer: Direction,
}

/// Whether sequence number `a` is before `b`.
pub(super) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

impl Connection {
    /// A connection that begins with this segment, if it is a SYN.
    #[must_use]
    pub fn begin(segment: &Segment<'_>) -> Option<Self> {
        if !segment.has(tcp_flags::SYN)
            || segment.has(tcp_flags::RST)
            || segment.has(tcp_flags::FIN)
            || segment.has(tcp_flags::ACK)
        {
            return None;
        }
        let client = Side {
            initial: segment.header.sequence,
            next: segment.header.sequence.wrapping_add(1),
            flags: segment.header.flags,
            gap: false,
        };
        Some(Self { state: State::SynSent, sides: [client, Side::default()], closer: Direction::ToServer })
    }

    /// The sequence number of the first byte of data from a side, once that side was heard.
    #[must_use]
    pub fn first_byte(&self, direction: Direction) -> Option<u32> {
        let heard = direction == Direction::ToServer || self.state >= State::SynReceived;
        heard.then(|| self.sides[direction as usize].initial.wrapping_add(1))
    }

    /// Whether the server has answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.state != State::SynSent
    }

    /// Follows a segment of either side.
    pub fn follow(&mut self, direction: Direction, segment: &Segment<'_>) {
        self.sides[direction as usize].flags |= segment.header.flags;
        if segment.has(tcp_flags::RST) {
            self.reset(direction, segment);
            return;
        }
        match self.state {
            State::SynSent => self.answer(direction, segment),
            State::SynReceived => self.complete(direction, segment),
            _ => self.advance(direction, segment),
        }
    }

    /// The answer to the SYN.
    fn answer(&mut self, direction: Direction, segment: &Segment<'_>) {
        let [client, server] = &mut self.sides;
        match (segment.has(tcp_flags::SYN), segment.has(tcp_flags::ACK), direction) {
            // Data in a SYN (RFC 7413) may be acknowledged with it.
            (true, true, Direction::ToClient)
                if !before(segment.header.acknowledgement, client.initial.wrapping_add(1)) =>
            {
                server.initial = segment.header.sequence;
                server.next = segment.header.sequence.wrapping_add(1);
                self.state = State::SynReceived;
            }
            // A SYN sent again, perhaps with another number: the last is the likeliest to be answered.
            (true, false, Direction::ToServer) => {
                client.initial = segment.header.sequence;
                client.next = segment.header.sequence.wrapping_add(1);
            }
            _ => {}
        }
    }

    /// The acknowledgement of the answer.
    fn complete(&mut self, direction: Direction, segment: &Segment<'_>) {
        if segment.has(tcp_flags::SYN) {
            return;
        }
        if segment.has(tcp_flags::ACK) || segment.has(tcp_flags::FIN) {
            self.state = State::Established;
            self.advance(direction, segment);
        }
    }

    fn advance(&mut self, direction: Direction, segment: &Segment<'_>) {
        if segment.has(tcp_flags::SYN) {
            return;
        }
        let [this, other] = match direction {
            Direction::ToServer => [0, 1],
            Direction::ToClient => [1, 0],
        };
        if before(self.sides[this].next, segment.end()) {
            self.sides[this].next = segment.end();
        }
        // The FIN takes a number of its own, but `next` stays in front of it, as in Suricata.
        let acknowledges_fin = segment.has(tcp_flags::ACK)
            && !before(segment.header.acknowledgement, self.sides[other].next.wrapping_add(1));
        let by_closer = direction == self.closer;
        let fin = segment.has(tcp_flags::FIN);
        self.state = match self.state {
            State::Established if fin => {
                self.closer = direction;
                match direction {
                    Direction::ToServer => State::CloseWait,
                    Direction::ToClient => State::FinWait1,
                }
            }
            State::CloseWait if fin && !by_closer => State::LastAck,
            State::LastAck if by_closer && acknowledges_fin => State::Closed,
            State::FinWait1 if fin && !by_closer && acknowledges_fin => State::TimeWait,
            State::FinWait1 if fin && !by_closer => State::Closing,
            State::FinWait1 if !by_closer && acknowledges_fin => State::FinWait2,
            State::FinWait2 if fin && !by_closer => State::TimeWait,
            State::Closing if by_closer && acknowledges_fin => State::TimeWait,
            State::TimeWait if segment.has(tcp_flags::ACK) && !fin => State::Closed,
            state => state,
        };
    }

    /// A reset closes the connection if it is in the right place; anybody can forge others.
    fn reset(&mut self, direction: Direction, segment: &Segment<'_>) {
        const PLAUSIBLE: u32 = 1 << 20;
        let side = &self.sides[direction as usize];
        let valid = match (self.state, direction) {
            (State::SynSent, Direction::ToClient) => {
                segment.header.acknowledgement == self.sides[0].next || !segment.has(tcp_flags::ACK)
            }
            // Who resets what he has just opened, under a number that nobody acknowledged yet?
            (State::SynSent, Direction::ToServer) => false,
            _ => segment.header.sequence.wrapping_sub(side.next).wrapping_add(PLAUSIBLE / 2) < PLAUSIBLE,
        };
        if valid {
            self.state = State::Closed;
        }
    }

    /// Whether a SYN begins a new connection after this one.
    #[must_use]
    pub fn is_reused_by(&self, direction: Direction, segment: &Segment<'_>) -> bool {
        let sent_again = direction == Direction::ToServer && segment.header.sequence == self.sides[0].initial;
        !sent_again && self.state >= State::LastAck
    }

    /// Remembers that data of one side is missing.
    pub const fn set_gap(&mut self, direction: Direction) {
        self.sides[direction as usize].gap = true;
    }

    /// The state of the flow that the connection's state amounts to.
    #[must_use]
    pub const fn flow_state(&self) -> FlowState {
        match self.state {
            State::SynSent | State::SynReceived => FlowState::New,
            State::Established | State::FinWait1 | State::FinWait2 | State::Closing | State::CloseWait => {
                FlowState::Established
            }
            State::LastAck | State::TimeWait | State::Closed => FlowState::Closed,
        }
    }

    /// What the flow's record says of the connection.
    #[must_use]
    pub const fn summary(&self) -> TcpSummary {
        let [client, server] = &self.sides;
        TcpSummary {
            flags: client.flags | server.flags,
            flags_to_server: client.flags,
            flags_to_client: server.flags,
            state: Some(self.state.name()),
            gap_to_server: client.gap,
            gap_to_client: server.gap,
        }
    }
}
