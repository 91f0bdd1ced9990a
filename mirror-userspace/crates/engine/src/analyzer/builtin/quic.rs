//! QUIC: each hello becomes an event. Later packets are ignored.

use mirror_packet::Direction;
use mirror_protocols::quic::{self, Connection, Hello, Version};
use mirror_protocols::tls::{Carrier, ClientHello};
use mirror_records::EventType;
use mirror_records::eve::Lines;

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::{Analyzer, Consumed, Context, Event};

/// A hello: the version, its sender, its body.
pub(super) static QUIC: EventType = EventType::new("quic", render);

/// The senders of a hello in packed events.
const OF_CLIENT: u8 = 0;
const OF_SERVER: u8 = 1;
const OF_NOBODY: u8 = 2;

fn render(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    let Some((version, rest)) = bytes.split_first_chunk() else { return Ok(()) };
    let Some((of, body)) = rest.split_first() else { return Ok(()) };
    let version = Version(u32::from_ne_bytes(*version));
    lines.line(&match *of {
        OF_CLIENT => quic::Event::new(version, Direction::ToServer, body),
        OF_SERVER => quic::Event::new(version, Direction::ToClient, body),
        _ => quic::Event::of_version(version),
    })
}

/// Emits events of the hellos of QUIC connections.
#[derive(Debug, Default)]
pub struct Quic {
    pub(in crate::analyzer) watch: Watch,
    /// Connections that no flow uses, held for their memory.
    spare: Vec<Connection>,
    /// Scratch memory for the decryption of packets.
    scratch: Vec<u8>,
}

/// The state of a flow.
#[derive(Debug, Default)]
pub struct Flow {
    connection: Option<Connection>,
}

impl Analyzer for Quic {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        let Event::Data { bytes, .. } = event else { return Consumed::Done };
        let connection = flow.connection.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        if let Some(Hello { version, direction, body }) = connection.push(direction, bytes, &mut self.scratch)
        {
            let of = match direction {
                Direction::ToServer => OF_CLIENT,
                Direction::ToClient => OF_SERVER,
            };
            if self.watch.is_on() && direction == Direction::ToServer {
                if let Some(name) = quic::Event::new(version, direction, body).server_name() {
                    self.watch.name(Cause::ServerName, name, context);
                }
                if let Some(hello) = ClientHello::parse(body).filter(|_| !version.is_google()) {
                    self.watch.fingerprints(&hello, Carrier::Quic, context);
                }
            }
            context.emit(&QUIC, &[&version.0.to_ne_bytes(), &[of], body]);
        }
        if connection.is_done() {
            self.finish(flow, context);
            return Consumed::Done;
        }
        Consumed::Used(bytes.len())
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        self.finish(flow, context);
    }

    fn held(flow: &Flow) -> usize {
        flow.connection.as_ref().map_or(0, Connection::room)
    }
}

impl Quic {
    /// Emits the version alone, if nothing else was emitted.
    fn finish(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        let Some(mut connection) = flow.connection.take() else { return };
        if let Some(version) = connection.version_alone() {
            context.emit(&QUIC, &[&version.0.to_ne_bytes(), &[OF_NOBODY]]);
        }
        connection.clear();
        self.spare.push(connection);
    }
}
