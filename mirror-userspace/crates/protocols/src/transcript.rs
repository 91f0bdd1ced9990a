//! Drives a protocol without an engine: for the tests of its folder, and for fuzzing.

use std::mem;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Direction;
use crate::detect::Transport;
use crate::eve::{EveEvent, EveWriter, Packer, Unpacker};
use crate::protocol::{Consumed, Event, Output, Protocol};

/// A flow of a protocol. Collects its events as JSON: objects with the type as their
/// only key, or with the object `service`.
#[derive(Debug)]
pub struct Transcript<P: Protocol> {
    protocol: P,
    flow: P::Flow,
    sides: [Side; 2],
    collected: Collected,
}

/// One direction.
#[derive(Debug, Default)]
struct Side {
    /// The bytes that are not used yet.
    unused: Vec<u8>,
    closed: bool,
}

impl<P: Protocol> Transcript<P> {
    /// Creates a flow: a stream, or datagrams.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        let is_stream = transport == Transport::Tcp;
        Self {
            protocol: P::default(),
            flow: P::Flow::default(),
            sides: Default::default(),
            collected: Collected { is_stream, time: 1_000_000_000, events: Vec::new() },
        }
    }

    /// Lets time pass.
    pub const fn wait(&mut self, nanoseconds: u64) {
        self.collected.time += nanoseconds;
    }

    /// Passes a datagram, or the next bytes of a stream.
    ///
    /// # Panics
    ///
    /// Panics if the protocol reports more used bytes than it got.
    pub fn data(&mut self, direction: Direction, bytes: &[u8]) {
        let new = self.sides[direction as usize].unused.len();
        self.sides[direction as usize].unused.extend_from_slice(bytes);
        self.pass(direction, |bytes| Event::Data { bytes, new });
        if !self.collected.is_stream {
            self.sides[direction as usize].unused.clear();
        }
    }

    /// Loses bytes of a stream; 0 if their number is unknown.
    ///
    /// # Panics
    ///
    /// Panics if the protocol reports more used bytes than it got.
    pub fn gap(&mut self, direction: Direction, len: usize) {
        if self.collected.is_stream {
            self.pass(direction, |bytes| Event::Gap { bytes, len });
            self.sides[direction as usize].unused.clear();
        }
    }

    /// Ends the flow and returns its events.
    ///
    /// # Panics
    ///
    /// Panics if the protocol reports more used bytes than it got.
    #[must_use]
    pub fn end(mut self) -> Vec<Value> {
        if self.collected.is_stream {
            for direction in [Direction::ToServer, Direction::ToClient] {
                self.pass(direction, |bytes| Event::End { bytes, acknowledged: true });
            }
        }
        self.protocol.end(&mut self.flow, &mut self.collected);
        self.collected.events
    }

    fn pass(&mut self, direction: Direction, event: impl FnOnce(&[u8]) -> Event<'_>) {
        let Self { protocol, flow, sides, collected } = self;
        let side = &mut sides[direction as usize];
        if side.closed {
            return;
        }
        let bytes = mem::take(&mut side.unused);
        let outcome = protocol.data(flow, direction, event(&bytes), collected);
        match outcome {
            Consumed::Used(used) => {
                assert!(used <= bytes.len(), "{used} bytes used of {}", bytes.len());
                side.unused.extend_from_slice(bytes.get(used..).unwrap_or_default());
            }
            Consumed::Close => side.closed = true,
            Consumed::Done | Consumed::Restart(_) => sides.iter_mut().for_each(|side| side.closed = true),
        }
    }
}

/// The circumstances of a flow, and its events.
#[derive(Debug)]
struct Collected {
    is_stream: bool,
    time: u64,
    events: Vec<Value>,
}

impl Output for Collected {
    fn time(&self) -> u64 {
        self.time
    }

    fn is_stream(&self) -> bool {
        self.is_stream
    }

    fn record<E: EveEvent>(&mut self, event: &E) {
        let mut packed = Vec::new();
        event.pack(&mut Packer::new(&mut packed, usize::MAX));
        let unpacked = E::unpack(&mut Unpacker::new(&packed)).expect("what was packed can be unpacked");
        let mut lines = Lines { name: E::TYPE, lines: &mut self.events };
        unpacked.write(&mut lines).expect("an event has a JSON form");
        let _ = unpacked.measured();
    }
}

struct Lines<'a> {
    name: &'static str,
    lines: &'a mut Vec<Value>,
}

impl EveWriter for Lines<'_> {
    fn line(&mut self, object: &impl Serialize) -> serde_json::Result<()> {
        self.lines.push(json!({ self.name: serde_json::to_value(object)? }));
        Ok(())
    }

    fn transaction(&mut self, number: u32, object: &impl Serialize) -> serde_json::Result<()> {
        self.lines.push(json!({ "tx_id": number, self.name: serde_json::to_value(object)? }));
        Ok(())
    }

    fn line_within(&mut self, most: usize, object: &impl Serialize) -> serde_json::Result<bool> {
        let fits = serde_json::to_vec(object)?.len() <= most;
        if fits {
            self.line(object)?;
        }
        Ok(fits)
    }

    fn service(
        &mut self,
        object: Option<&impl Serialize>,
        service: Option<&impl Serialize>,
    ) -> serde_json::Result<()> {
        let mut event = json!({});
        if let Some(object) = object {
            event[self.name] = serde_json::to_value(object)?;
        }
        if let Some(service) = service {
            event["service"] = serde_json::to_value(service)?;
        }
        self.lines.push(event);
        Ok(())
    }

    fn literals(&self) -> bool {
        false
    }
}

/// Passes a conversation to the signatures of a protocol and to the protocol itself: the body of its fuzz target.
///
/// The first byte selects datagrams or a stream. Each of the pieces behind it begins with a byte for its kind and a
/// byte for its length. The kind is a direction (bit 0), and data, a gap (bit 1), or the next payload of the
/// protocol's example (bit 2), changed by the piece. So no first inputs are needed.
///
/// # Panics
///
/// Panics if the protocol is wrong: it reports more used bytes than it got, or its events cannot be unpacked.
pub fn fuzz<P: Protocol>(bytes: &[u8]) {
    let Some((&datagrams, mut rest)) = bytes.split_first() else { return };
    let transport = if datagrams & 1 == 0 { Transport::Tcp } else { Transport::Udp };
    let mut transcript = Transcript::<P>::new(transport);
    let mut example = P::EXAMPLE.payloads.iter();
    while let Some(([kind, len], behind)) = rest.split_first_chunk() {
        let direction = if kind & 1 == 0 { Direction::ToServer } else { Direction::ToClient };
        let (piece, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        transcript.wait(1_000_000);
        if kind & 2 != 0 {
            transcript.gap(direction, piece.len());
        } else if kind & 4 != 0
            && let Some(&(direction, payload)) = example.next()
        {
            let mut payload = payload.to_vec();
            payload.iter_mut().zip(piece).for_each(|(byte, change)| *byte ^= change);
            pass(&mut transcript, direction, &payload);
        } else {
            pass(&mut transcript, direction, piece);
        }
    }
    let _ = transcript.end();
}

fn pass<P: Protocol>(transcript: &mut Transcript<P>, direction: Direction, bytes: &[u8]) {
    for signature in P::SIGNATURES {
        let _ = signature.look(bytes);
    }
    transcript.data(direction, bytes);
}
