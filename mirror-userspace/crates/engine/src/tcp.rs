//! Tracking of a TCP connection: enough to derive its state, to notice that a new connection reuses the same
//! endpoints, and to find the data that comes next. The states are those of RFC 9293 as Suricata maps them
//! onto an observer between the two sides.

use mirror_packet::{Direction, Segment, tcp_flags};
use mirror_records::{FlowState, PerformanceSummary, TcpSummary};

use crate::performance::Performance;
use crate::sequence::before;

/// States of a connection, in the order in which Suricata compares them.
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

/// One side of a connection. Until the server has answered, the server's fields hold the timestamps of the
/// first and the last SYN, 0 if there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Initial sequence number.
    initial: u32,
    /// Sequence number of the next new byte.
    next: u32,
}

impl Side {
    /// Creates a side whose first byte of data has this sequence number, in front of it.
    const fn before(first: u32) -> Self {
        Self { initial: first.wrapping_sub(1), next: first }
    }

    /// Returns the sequence number of the first byte of data.
    const fn first(self) -> u32 {
        self.initial.wrapping_add(1)
    }

    /// Returns true if data of the side was seen.
    const fn has_sent(self) -> bool {
        self.next != self.first()
    }
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    state: State,
    sides: [Side; 2],
    /// Flags that each side sent, OR-ed.
    flags: [u8; 2],
    /// Bits of `Connection::…`.
    marks: u8,
    /// The initial sequence number of another answer of the server, with [`Self::ANSWERED_ANEW`].
    other_answer: u32,
    performance: Performance,
}

/// Most bytes by which plausible sequence numbers differ.
const PLAUSIBLE: u32 = 1 << 20;

/// Returns the timestamp of a SYN, 0 if it has none.
fn time_stamp(segment: &Segment<'_>) -> u32 {
    segment.time_stamps().map_or(0, |(value, _)| value)
}

/// Returns true if an answer echoes the timestamp of a SYN, or has none: clients accept no other (RFC 7323,
/// section 3.2).
fn echoes(segment: &Segment<'_>, stamps: Side) -> bool {
    segment
        .time_stamps()
        .is_none_or(|(_, echo)| echo == 0 || !before(echo, stamps.initial) && !before(stamps.next, echo))
}

impl Connection {
    /// Data of a side was acknowledged but never seen.
    const GAP: [u8; 2] = [1, 2];
    /// The server closed first.
    const CLOSED_BY_SERVER: u8 = 4;
    /// The connection began before it was first seen.
    const MIDSTREAM: u8 = 8;
    /// The server answered again with another initial sequence number, before it sent data.
    const ANSWERED_ANEW: u8 = 16;

    const fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Creates a connection that begins with this segment, if it is a SYN.
    #[must_use]
    pub fn begin(segment: &Segment<'_>, now: u64) -> Option<Self> {
        if !segment.has(tcp_flags::SYN)
            || segment.has(tcp_flags::RST)
            || segment.has(tcp_flags::FIN)
            || segment.has(tcp_flags::ACK)
        {
            return None;
        }
        let client = Side::before(segment.header.sequence().wrapping_add(1));
        let mut performance = Performance::default();
        performance.syn(Direction::ToServer, segment.header, now);
        Some(Self {
            state: State::SynSent,
            sides: [client, Side { initial: time_stamp(segment), next: time_stamp(segment) }],
            flags: [segment.header.flags(), 0],
            marks: 0,
            other_answer: 0,
            performance,
        })
    }

    /// Creates a connection that began before this segment, which is the first seen of it.
    #[must_use]
    pub fn pick_up(direction: Direction, segment: &Segment<'_>, now: u64) -> Option<Self> {
        let answer = segment.has(tcp_flags::SYN);
        let closed = segment.has(tcp_flags::FIN) && segment.payload.is_empty();
        if !segment.has(tcp_flags::ACK) || segment.has(tcp_flags::RST) || closed {
            return None;
        }
        let (sequence, acknowledgement) = (segment.header.sequence(), segment.header.acknowledgement());
        let this = Side::before(sequence.wrapping_add(u32::from(answer)));
        let other = Side::before(acknowledgement);
        let sides = match direction {
            Direction::ToServer => [this, other],
            Direction::ToClient => [other, this],
        };
        let mut performance = Performance::default();
        performance.pick_up(direction, segment.header);
        let mut connection = Self {
            state: if answer { State::SynReceived } else { State::Established },
            sides,
            flags: [0; 2],
            marks: Self::MIDSTREAM,
            other_answer: 0,
            performance,
        };
        connection.follow(direction, segment, now);
        Some(connection)
    }

    /// Returns the sequence number of a side's first byte of data, once that side was seen.
    #[must_use]
    pub fn first_byte(&self, direction: Direction) -> Option<u32> {
        let heard = direction == Direction::ToServer || self.state >= State::SynReceived;
        heard.then(|| self.sides[direction as usize].first())
    }

    /// Returns true if the connection began before it was first seen.
    #[must_use]
    pub const fn is_midstream(&self) -> bool {
        self.has(Self::MIDSTREAM)
    }

    /// Returns the sequence number behind the data that a side has sent.
    #[must_use]
    pub const fn sent(&self, direction: Direction) -> u32 {
        self.sides[direction as usize].next
    }

    /// Returns the sequence numbers that a side has used: its SYN and its data.
    #[must_use]
    pub fn used(&self, direction: Direction) -> u64 {
        if self.first_byte(direction).is_none() {
            return 0;
        }
        let side = self.sides[direction as usize];
        u64::from(side.next.wrapping_sub(side.initial))
    }

    /// Returns true once the handshake is complete.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state >= State::Established
    }

    /// Returns the highest acknowledgement number of a side.
    #[must_use]
    pub const fn acknowledged(&self, by: Direction) -> u32 {
        self.performance.acknowledged(by)
    }

    /// Returns true if segments of a side were seen.
    #[must_use]
    pub const fn is_heard(&self, direction: Direction) -> bool {
        self.flags[direction as usize] != 0
    }

    /// Returns true if a side has sent a FIN.
    #[must_use]
    pub const fn is_closing(&self, direction: Direction) -> bool {
        self.flags[direction as usize] & tcp_flags::FIN != 0
    }

    /// Returns true if no segment of the server was seen: its direction may not be mirrored.
    #[must_use]
    pub const fn is_one_sided(&self) -> bool {
        !self.is_heard(Direction::ToClient)
    }

    /// Returns true if the server has answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.state != State::SynSent
    }

    /// Follows a segment of either side.
    pub fn follow(&mut self, direction: Direction, segment: &Segment<'_>, now: u64) {
        self.flags[direction as usize] |= segment.header.flags();
        if segment.has(tcp_flags::RST) {
            self.reset(direction, segment);
            return;
        }
        match self.state {
            State::SynSent => self.answer(direction, segment, now),
            State::SynReceived => self.complete(direction, segment, now),
            _ => self.advance(direction, segment, now),
        }
    }

    /// Continues at this segment, after segments that were not seen.
    pub fn resume(&mut self, direction: Direction, segment: &Segment<'_>) {
        if self.state > State::SynReceived {
            let [this, other] = match direction {
                Direction::ToServer => [0, 1],
                Direction::ToClient => [1, 0],
            };
            self.sides[this].next = segment.header.sequence();
            if segment.has(tcp_flags::ACK) {
                self.sides[other].next = segment.header.acknowledgement();
            }
        }
    }

    /// Continues if this segment shows that the SYN was answered, although the answer was not seen.
    pub fn catch_up(&mut self, direction: Direction, segment: &Segment<'_>) {
        let begins = segment.has(tcp_flags::SYN) || segment.has(tcp_flags::RST);
        if self.state != State::SynSent || begins || !segment.has(tcp_flags::ACK) {
            return;
        }
        let (sequence, acknowledgement) = (segment.header.sequence(), segment.header.acknowledgement());
        let [client, server] = &mut self.sides;
        let first = client.first();
        let (of_client, next) = match direction {
            Direction::ToServer => (sequence, acknowledgement),
            Direction::ToClient => (acknowledgement, sequence),
        };
        if of_client.wrapping_sub(first) < PLAUSIBLE {
            *server = Side::before(next);
            self.state = State::SynReceived;
            // The server may not exist, see `flow_state`.
            self.marks |= Self::MIDSTREAM;
            self.performance.miss_answer(first);
        }
    }

    /// Processes the answer to the SYN.
    fn answer(&mut self, direction: Direction, segment: &Segment<'_>, now: u64) {
        let [client, server] = &mut self.sides;
        match (segment.has(tcp_flags::SYN), segment.has(tcp_flags::ACK), direction) {
            // Data in a SYN (RFC 7413) may be acknowledged with it.
            (true, true, Direction::ToClient)
                if !before(segment.header.acknowledgement(), client.first()) && echoes(segment, *server) =>
            {
                *server = Side::before(segment.header.sequence().wrapping_add(1));
                self.state = State::SynReceived;
                self.performance.syn(direction, segment.header, now);
            }
            // A retransmitted SYN, possibly with another sequence number: the last is the likeliest to be
            // answered.
            (true, false, Direction::ToServer) => {
                *client = Side::before(segment.header.sequence().wrapping_add(1));
                server.next = time_stamp(segment);
                self.performance.syn_again(direction);
            }
            _ => {}
        }
    }

    /// Processes the acknowledgement of the answer.
    fn complete(&mut self, direction: Direction, segment: &Segment<'_>, now: u64) {
        if segment.has(tcp_flags::SYN) {
            self.performance.syn_again(direction);
            self.answer_anew(direction, segment);
            return;
        }
        if segment.has(tcp_flags::ACK) || segment.has(tcp_flags::FIN) {
            self.state = State::Established;
            if direction == Direction::ToServer {
                self.performance.complete(direction, segment.header, now);
            }
            self.advance(direction, segment, now);
        }
    }

    /// Notes an answer to the SYN with another sequence number: the server, or a host in front of it, may have
    /// forgotten the first.
    fn answer_anew(&mut self, direction: Direction, segment: &Segment<'_>) {
        let [client, server] = &self.sides;
        if direction == Direction::ToClient
            && segment.has(tcp_flags::ACK)
            && segment.header.sequence() != server.initial
            && segment.header.acknowledgement() == client.first()
            && !server.has_sent()
        {
            self.marks |= Self::ANSWERED_ANEW;
            self.other_answer = segment.header.sequence();
        }
    }

    /// Takes the sequence number of the answer that the client acknowledges. Nothing that the server sends alone
    /// changes it: clients drop data that does not follow the answer they have taken.
    #[cold]
    fn choose_answer(&mut self, direction: Direction, segment: &Segment<'_>) {
        let server = &mut self.sides[Direction::ToClient as usize];
        let sends = direction == Direction::ToClient && !segment.payload.is_empty();
        if server.has_sent() || sends {
            self.marks &= !Self::ANSWERED_ANEW;
            return;
        }
        let other = Side::before(self.other_answer.wrapping_add(1));
        if direction == Direction::ToServer
            && segment.has(tcp_flags::ACK)
            && segment.header.acknowledgement() == other.first()
        {
            self.other_answer = std::mem::replace(server, other).initial;
            self.performance.answer_anew(other.first());
        }
    }

    fn advance(&mut self, direction: Direction, segment: &Segment<'_>, now: u64) {
        if segment.has(tcp_flags::SYN) {
            self.answer_anew(direction, segment);
            return;
        }
        if self.has(Self::ANSWERED_ANEW) {
            self.choose_answer(direction, segment);
        }
        let [this, other] = match direction {
            Direction::ToServer => [0, 1],
            Direction::ToClient => [1, 0],
        };
        let len = segment.payload.len() + segment.missing;
        if len > 0 {
            let next = self.sides[this].next;
            self.performance.data(direction, next, segment.header.sequence(), len, now);
        }
        if segment.has(tcp_flags::ACK) {
            let alone = len == 0 && !segment.has(tcp_flags::FIN);
            let sent = self.sides[other].next;
            self.performance.acknowledge(direction, segment.header, alone, sent, now);
        }
        if before(self.sides[this].next, segment.end()) {
            self.sides[this].next = segment.end();
        }
        // The FIN takes a sequence number of its own, but `next` stays in front of it, as in Suricata.
        let acknowledges_fin = segment.has(tcp_flags::ACK)
            && !before(segment.header.acknowledgement(), self.sides[other].next.wrapping_add(1));
        let by_closer = (direction == Direction::ToClient) == self.has(Self::CLOSED_BY_SERVER);
        let fin = segment.has(tcp_flags::FIN);
        self.state = match self.state {
            State::Established if fin => match direction {
                Direction::ToServer => State::CloseWait,
                Direction::ToClient => {
                    self.marks |= Self::CLOSED_BY_SERVER;
                    State::FinWait1
                }
            },
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

    /// Closes the connection if the reset's sequence number is plausible. Any host can forge others.
    fn reset(&mut self, direction: Direction, segment: &Segment<'_>) {
        let side = &self.sides[direction as usize];
        let valid = match (self.state, direction) {
            (State::SynSent, Direction::ToClient) => {
                (segment.header.acknowledgement() == self.sides[0].next || !segment.has(tcp_flags::ACK))
                    && echoes(segment, self.sides[1])
            }
            // A client has no reason to reset a connection that it has just opened and that is not
            // acknowledged yet.
            (State::SynSent, Direction::ToServer) => false,
            _ => segment.header.sequence().wrapping_sub(side.next).wrapping_add(PLAUSIBLE / 2) < PLAUSIBLE,
        };
        if valid {
            if self.state != State::Closed {
                self.performance.reset(direction);
            }
            self.state = State::Closed;
        }
    }

    /// Returns true if a SYN begins a new connection after this one.
    #[must_use]
    pub fn is_reused_by(&self, direction: Direction, segment: &Segment<'_>) -> bool {
        let sent_again =
            direction == Direction::ToServer && segment.header.sequence() == self.sides[0].initial;
        !sent_again && self.state >= State::LastAck
    }

    /// Records that data of one side is missing.
    pub const fn set_gap(&mut self, direction: Direction) {
        self.marks |= Self::GAP[direction as usize];
    }

    /// Returns the flow state for the connection's state.
    #[must_use]
    pub const fn flow_state(&self) -> FlowState {
        match self.state {
            // Any host can send segments of connections that do not exist.
            State::Established if self.has(Self::MIDSTREAM) && (self.flags[0] == 0 || self.flags[1] == 0) => {
                FlowState::New
            }
            State::SynSent | State::SynReceived => FlowState::New,
            State::Established | State::FinWait1 | State::FinWait2 | State::Closing | State::CloseWait => {
                FlowState::Established
            }
            State::LastAck | State::TimeWait | State::Closed => FlowState::Closed,
        }
    }

    /// Returns true if the other side has acknowledged data of a direction, or if that is unknown because the
    /// other side was not seen.
    #[must_use]
    pub fn is_acknowledged(&self, direction: Direction) -> bool {
        let by = direction.reverse();
        let heard = self.flags[by as usize] != 0;
        let acknowledged = self.performance.acknowledged(by);
        !heard || self.first_byte(direction).is_none_or(|first| before(first, acknowledged))
    }

    /// Returns the connection's performance, or `None` if the handshake was not finished.
    #[must_use]
    pub fn performance(&self) -> Option<PerformanceSummary> {
        (self.state > State::SynReceived).then(|| self.performance.summary())
    }

    /// Returns the TCP fields of the flow's record.
    #[must_use]
    pub const fn summary(&self) -> TcpSummary {
        let [flags_to_server, flags_to_client] = self.flags;
        let [gap_to_server, gap_to_client] = [self.has(Self::GAP[0]), self.has(Self::GAP[1])];
        TcpSummary {
            flags: flags_to_server | flags_to_client,
            flags_to_server,
            flags_to_client,
            state: Some(self.state.name()),
            gap_to_server,
            gap_to_client,
        }
    }
}
