//! Performance of a TCP connection, as an observer between the two sides can measure it: retransmissions,
//! reordering, losses and response times.
//!
//! Every entry of the flow table has this state, so it is small: times are microseconds modulo 2³², and
//! counters saturate. Of the holes in a side's data, only the total of missing bytes and the end of the last
//! hole are stored.

use mirror_packet::{Direction, TcpHeader};
use mirror_records::PerformanceSummary;

use crate::sequence::before;

/// Microseconds within which a segment that fills a hole counts as out of order; later, as a retransmission.
/// Half of the round-trip time applies where that is more.
const OVERTAKEN: u32 = 3_000;

/// The state of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    retransmissions: u32,
    out_of_order: u32,
    duplicate_acks: u32,
    zero_windows: u16,
    /// The window it announced last.
    window: u16,
    /// The highest acknowledgement number that it sent.
    acknowledged: u32,
    /// Bytes that it sent and the other side acknowledged, but that were never seen.
    gap: u32,
    /// Bytes missing in front of `hole_end`.
    hole: u32,
    hole_end: u32,
    hole_time: u32,
    /// The sequence number behind the data that waits for its acknowledgement, and the time it was sent.
    probe: u32,
    probe_time: u32,
    /// Time to acknowledge: the minimum, and a moving average. 0 if unknown.
    rtt_min: u32,
    rtt_average: u32,
}

/// The performance of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Performance {
    sides: [Side; 2],
    /// Time that each side took to answer in the handshake; 0 if unknown.
    handshake: [u32; 2],
    /// Time of the SYN, of its answer or of the client's first data. Once the server has sent data, the time
    /// from the client's first data to the server's, 0 if unknown.
    mark: u32,
    /// Bits of `Performance::…`.
    flags: u8,
    reset_by: Option<Direction>,
}

impl Performance {
    /// A probe in the data of the client, or of the server, is outstanding.
    const PROBES: [u8; 2] = [1, 2];
    /// The SYN, or its answer, was sent more than once. Which copy was answered is unknown.
    const AMBIGUOUS: u8 = 4;
    /// The client has sent data.
    const ASKED: u8 = 8;
    /// The server has sent data.
    const ANSWERED: u8 = 16;

    /// Processes the SYN, or the server's answer to it.
    pub(super) fn syn(&mut self, direction: Direction, header: &TcpHeader, now: u64) {
        let now = micros(now);
        if direction == Direction::ToClient {
            self.answered(direction, now);
        }
        self.mark = now;
        let side = &mut self.sides[direction as usize];
        (side.window, side.acknowledged) = (header.window(), header.acknowledgement());
    }

    /// Begins with a segment that is not the first of its connection.
    pub(super) fn pick_up(&mut self, direction: Direction, header: &TcpHeader) {
        // The duration of the handshake and the time of the client's first data are unknown.
        self.flags |= Self::AMBIGUOUS | Self::ANSWERED;
        let this = &mut self.sides[direction as usize];
        (this.window, this.acknowledged) = (header.window(), header.acknowledgement());
        self.sides[direction.reverse() as usize].acknowledged = header.sequence();
    }

    /// Records that another answer to the SYN counts. `first` is the number of the server's first byte.
    pub(super) const fn answer_anew(&mut self, first: u32) {
        self.sides[Direction::ToServer as usize].acknowledged = first;
    }

    /// Records that the answer to the SYN was not seen. `first` is the number of the client's first byte.
    pub(super) const fn miss_answer(&mut self, first: u32) {
        self.flags |= Self::AMBIGUOUS;
        self.sides[Direction::ToClient as usize].acknowledged = first;
    }

    /// Processes a retransmitted SYN, or a retransmitted answer to one.
    pub(super) const fn syn_again(&mut self, direction: Direction) {
        self.flags |= Self::AMBIGUOUS;
        let side = &mut self.sides[direction as usize];
        side.retransmissions = side.retransmissions.saturating_add(1);
    }

    /// Processes the end of the handshake.
    pub(super) fn complete(&mut self, direction: Direction, header: &TcpHeader, now: u64) {
        self.answered(direction, micros(now));
        let side = &mut self.sides[direction as usize];
        (side.window, side.acknowledged) = (header.window(), header.acknowledgement());
    }

    fn answered(&mut self, direction: Direction, now: u32) {
        if self.flags & Self::AMBIGUOUS == 0 {
            self.handshake[direction as usize] = now.wrapping_sub(self.mark).max(1);
        }
    }

    /// Processes data of a side that had sent everything before `next`.
    pub(super) fn data(&mut self, direction: Direction, next: u32, sequence: u32, len: usize, now: u64) {
        let now = micros(now);
        let len = len as u32;
        self.first_byte(direction, now);
        let rtt = self.sides[direction.reverse() as usize].rtt_average;
        let probe = Self::PROBES[direction as usize];
        let side = &mut self.sides[direction as usize];
        if before(sequence, next) {
            let keep_alive = len == 1 && sequence.wrapping_add(1) == next;
            if keep_alive {
                return;
            }
            // Which of the copies is acknowledged is unknown.
            self.flags &= !probe;
            let fills = side.hole > 0 && !before(side.hole_end, sequence.wrapping_add(len));
            if fills {
                side.hole = side.hole.saturating_sub(len);
            }
            if fills && now.wrapping_sub(side.hole_time) < OVERTAKEN.max(rtt / 2) {
                side.out_of_order = side.out_of_order.saturating_add(1);
            } else {
                side.retransmissions = side.retransmissions.saturating_add(1);
            }
            return;
        }
        let missing = sequence.wrapping_sub(next);
        if missing > 0 {
            side.hole = side.hole.saturating_add(missing);
            (side.hole_end, side.hole_time) = (sequence, now);
        }
        if self.flags & probe == 0 {
            self.flags |= probe;
            (side.probe, side.probe_time) = (sequence.wrapping_add(len), now);
        }
    }

    fn first_byte(&mut self, direction: Direction, now: u32) {
        if self.flags & Self::ANSWERED != 0 {
            return;
        }
        match direction {
            Direction::ToServer if self.flags & Self::ASKED == 0 => {
                self.flags |= Self::ASKED;
                self.mark = now;
            }
            Direction::ToClient => {
                let asked = self.flags & Self::ASKED != 0;
                self.mark = if asked { now.wrapping_sub(self.mark).max(1) } else { 0 };
                self.flags |= Self::ANSWERED;
            }
            Direction::ToServer => {}
        }
    }

    /// Processes an acknowledgement by one side. All data of the other side before `sent` was seen or missed.
    /// `alone` marks an acknowledgement without data.
    pub(super) fn acknowledge(
        &mut self,
        direction: Direction,
        header: &TcpHeader,
        alone: bool,
        sent: u32,
        now: u64,
    ) {
        let now = micros(now);
        let probe = Self::PROBES[direction.reverse() as usize];
        let [client, server] = &mut self.sides;
        let (this, other) = match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        };
        let number = header.acknowledgement();
        if header.window() == 0 && this.window != 0 {
            this.zero_windows = this.zero_windows.saturating_add(1);
        }
        if alone && number == this.acknowledged && header.window() == this.window && before(number, sent) {
            this.duplicate_acks = this.duplicate_acks.saturating_add(1);
        }
        this.window = header.window();
        if !before(this.acknowledged, number) {
            return;
        }
        this.acknowledged = number;
        if other.hole > 0 && !before(number, other.hole_end) {
            other.gap = other.gap.saturating_add(other.hole);
            other.hole = 0;
        }
        if self.flags & probe != 0 && !before(number, other.probe) {
            self.flags &= !probe;
            let sample = now.wrapping_sub(other.probe_time).max(1);
            if this.rtt_average == 0 {
                (this.rtt_min, this.rtt_average) = (sample, sample);
            } else {
                this.rtt_min = this.rtt_min.min(sample);
                // The weights of RFC 6298, section 2.
                let average = (u64::from(this.rtt_average) * 7 + u64::from(sample)) / 8;
                this.rtt_average = (average as u32).max(1);
            }
        }
    }

    /// Processes a reset that closed the connection.
    pub(super) const fn reset(&mut self, by: Direction) {
        self.reset_by = Some(by);
    }

    /// Returns the highest acknowledgement number of a side.
    pub(super) const fn acknowledged(&self, by: Direction) -> u32 {
        self.sides[by as usize].acknowledged
    }

    /// Returns the current measurements.
    pub(super) fn summary(&self) -> PerformanceSummary {
        let known = |time: u32| (time > 0).then_some(time);
        PerformanceSummary {
            retransmissions: self.sides.map(|side| side.retransmissions),
            out_of_order: self.sides.map(|side| side.out_of_order),
            duplicate_acks: self.sides.map(|side| side.duplicate_acks),
            zero_windows: self.sides.map(|side| side.zero_windows.into()),
            gap_bytes: self.sides.map(|side| side.gap),
            handshake: self.handshake.map(known),
            rtt_min: self.sides.map(|side| known(side.rtt_min)),
            rtt_average: self.sides.map(|side| known(side.rtt_average)),
            time_to_first_byte: known(self.mark).filter(|_| self.flags & Self::ANSWERED != 0),
            reset_by: self.reset_by,
        }
    }
}

const fn micros(nanos: u64) -> u32 {
    (nanos / 1_000) as u32
}
