//! The contract of a protocol that lives in one folder: bytes in, events out.
//!
//! A [`Protocol`] knows neither flows nor workers nor files. The engine drives it: every `Protocol` is an
//! analyzer there, and is called directly. Tests and fuzz targets drive it with a [`Transcript`](crate::Transcript).

use std::fmt::Debug;

use crate::detect::{Endpoints, Signature};
use crate::eve::EveEvent;
use mirror_packet::Direction;

/// An event in a flow's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// New bytes: the next of a stream, or a datagram.
    Data {
        /// All unused bytes of the stream, with the new ones at the end.
        bytes: &'a [u8],
        /// Offset of the new bytes.
        new: usize,
    },
    /// Bytes are missing in the stream.
    Gap {
        /// The unused bytes in front of the gap. They are not passed again.
        bytes: &'a [u8],
        /// Number of missing bytes; 0 if unknown.
        len: usize,
    },
    /// The flow ends.
    End {
        /// The unused bytes of the stream.
        bytes: &'a [u8],
        /// True if the other side has acknowledged some of the stream. Otherwise it may have received
        /// nothing.
        acknowledged: bool,
    },
}

/// The result of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumed {
    /// This many bytes are used. The rest is passed again with the next event.
    Used(usize),
    /// No more data of this direction is needed.
    Close,
    /// No more data of this flow is needed.
    Done,
    /// This many bytes are used. The data that follows in either direction belongs to another protocol, and
    /// detection starts again.
    Restart(usize),
}

/// A protocol: how its flows are recognised, and the events that their data becomes.
///
/// Its value is one worker's: it can store memory that the flows of the worker reuse. A method must not block,
/// and should not allocate once there was some traffic. `docs/adding-a-protocol.md` shows how to write one.
pub trait Protocol: Debug + Default + Send + 'static {
    /// The state of a flow, created at the first of its events.
    type Flow: Debug + Default + Send + 'static;

    /// The signatures by which its flows are recognised.
    const SIGNATURES: &'static [Signature];

    /// A conversation that this protocol recognises and that becomes at least one event. Tests cut it at every
    /// byte, and fuzzing begins with it.
    const EXAMPLE: Example;

    /// Processes an event in a flow: a datagram, the next bytes of a stream, or a gap in it.
    fn data(
        &mut self,
        flow: &mut Self::Flow,
        direction: Direction,
        event: Event<'_>,
        output: &mut impl Output,
    ) -> Consumed;

    /// Processes the end of a flow that has a state. The state is dropped afterwards.
    fn end(&mut self, _flow: &mut Self::Flow, _output: &mut impl Output) {}

    /// Returns the bytes of memory that a flow's state holds besides itself. They are limited for all flows of
    /// a worker together: beyond the limit, states are replaced by `Flow::default()`.
    fn held(_flow: &Self::Flow) -> usize {
        0
    }
}

/// Takes the events of a flow, and knows the circumstances of its data.
pub trait Output {
    /// Returns the time of the packet, or of the flow's end, in nanoseconds since the epoch.
    fn time(&self) -> u64;

    /// Returns true for a TCP stream, false for datagrams.
    fn is_stream(&self) -> bool;

    /// Emits an event.
    fn record<E: EveEvent>(&mut self, event: &E);

    /// Returns true if a rule inspects the buffer with this keyword, such as `ssh.software`.
    fn wants(&self, _buffer: &'static str) -> bool {
        false
    }

    /// Adds a buffer to the transaction that the next [`Output::transaction`] inspects.
    fn buffer(&mut self, _buffer: &'static str, _bytes: &[u8]) {}

    /// Inspects one direction of a transaction by the rules, with the buffers that were added since the last call.
    fn transaction(&mut self, _id: u64, _direction: Direction) {}
}

/// A conversation as an example.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Transport protocol and ports.
    pub endpoints: Endpoints,
    /// The payloads of both sides, in their order.
    pub payloads: &'static [(Direction, &'static [u8])],
}
