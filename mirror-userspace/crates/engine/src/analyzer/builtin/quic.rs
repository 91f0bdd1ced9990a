//! QUIC: each hello becomes an event. Later packets are ignored.

use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::quic::{self, Buffer, Connection, Hello, HelloEvent};
use mirror_protocols::tls::{Carrier, ClientHello};

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::{Analyzer, Consumed, Context, Event};
use crate::indicators::Indicators;

/// Emits events of the hellos of QUIC connections.
#[derive(Debug, Default)]
pub struct Quic {
    watch: Watch,
    /// Connections that no flow uses, held for their memory.
    spare: Vec<Connection>,
    /// Memory for hellos that no connection uses.
    buffers: Vec<Buffer>,
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
        if connection.lacks_buffer(direction)
            && let Some(buffer) = self.buffers.pop()
        {
            connection.lend(direction, buffer);
        }
        if let Some(hello) = connection.push(direction, bytes, &mut self.scratch) {
            let Hello { version, direction, body } = hello;
            if self.watch.is_on() && direction == Direction::ToServer {
                if let Some(name) = quic::Event::new(version, direction, body).server_name() {
                    self.watch.name(Cause::ServerName, name, context);
                }
                if let Some(hello) = ClientHello::parse(body).filter(|_| !version.is_google()) {
                    self.watch.fingerprints(&hello, Carrier::Quic, context);
                }
            }
            context.record(&HelloEvent::Hello(hello));
        }
        // Most connections go on for long behind their hello, and many never have one.
        self.buffers.extend(connection.take_unused(direction));
        if connection.is_done() {
            self.finish(flow, context);
            return Consumed::Done;
        }
        Consumed::Used(bytes.len())
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch.set(indicators);
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
            context.record(&HelloEvent::Version(version));
        }
        connection.clear();
        self.spare.push(connection);
    }
}
