//! QUIC: each hello becomes an event. Later packets are ignored.

use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::quic::{self, Connection, Hello, HelloEvent, Version};
use mirror_protocols::tls::{Carrier, ClientHello, Ja3, ServerHello, ja4};
use mirror_signatures::buffer::Buffer;

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::{Analyzer, Consumed, Context, Event, Progress};
use crate::indicators::Indicators;

/// Emits events of the hellos of QUIC connections.
#[derive(Debug, Default)]
pub struct Quic {
    watch: Watch,
    /// Connections that no flow uses, held for their memory.
    spare: Vec<Connection>,
    /// Scratch memory for the decryption of packets.
    scratch: Vec<u8>,
}

/// The state of a flow.
#[derive(Debug, Default)]
pub struct Flow {
    connection: Option<Connection>,
    /// Hellos of each direction that rules have seen.
    inspected: [u32; 2],
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
            if context.is_inspected() {
                let id = &mut flow.inspected[direction as usize];
                hand_over(u64::from(*id), &hello, context);
                *id = id.wrapping_add(1);
            }
            context.record(&HelloEvent::Hello(hello));
        }
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
            if context.is_inspected() {
                put_version(version, context);
                context.transaction(0, Direction::ToServer, Progress::Done);
            }
            context.record(&HelloEvent::Version(version));
        }
        connection.clear();
        self.spare.push(connection);
    }
}

/// Hands over a hello to the rules, as a direction of a transaction.
#[cold]
fn hand_over(id: u64, hello: &Hello<'_>, context: &mut Context<'_>) {
    let Hello { version, direction, body } = *hello;
    put_version(version, context);
    match direction {
        Direction::ToServer => {
            if let Some(name) = quic::Event::new(version, direction, body).server_name() {
                context.buffer(Buffer::QuicSni, name);
            }
            if let Some(hello) = ClientHello::parse(body).filter(|_| !version.is_google()) {
                put_ja3([Buffer::Ja3Hash, Buffer::Ja3String], || Ja3::client(&hello), context);
                if context.wants(Buffer::Ja4Hash) {
                    context.buffer(Buffer::Ja4Hash, ja4(&hello, Carrier::Quic).as_bytes());
                }
            }
        }
        Direction::ToClient => {
            if let Some(hello) = ServerHello::parse(body).filter(|_| !version.is_google()) {
                put_ja3([Buffer::Ja3sHash, Buffer::Ja3sString], || Ja3::server(&hello), context);
            }
        }
    }
    context.transaction(id, direction, Progress::Done);
}

fn put_version(version: Version, context: &mut Context<'_>) {
    if context.wants(Buffer::QuicVersion) {
        context.buffer(Buffer::QuicVersion, version.to_string().as_bytes());
    }
}

fn put_ja3([of_hash, of_string]: [Buffer; 2], ja3: impl FnOnce() -> Ja3, context: &mut Context<'_>) {
    if context.wants(of_hash) || context.wants(of_string) {
        let Ja3 { hash, string } = ja3();
        context.buffer(of_hash, hash.as_bytes());
        context.buffer(of_string, string.as_bytes());
    }
}
